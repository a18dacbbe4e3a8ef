//! A Debian Linux guest with the small virtio devices: entropy, balloon, console and ports, keyboard, mouse and tablet.

use crate::linux::{self, shell};
use crate::report::Report;
use crate::rig::{Running, limit, member};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::time::{Duration, Instant};
use xtask::board::Board;
use xtask::qmp::Client;
use xtask::{paths, pull};

/// What the rig has besides what every Linux guest has here.
const OPTIONS: [&str; 30] = [
    "-object",
    "rng-random,id=r0,filename=/dev/urandom",
    "-device",
    "virtio-rng-pci,rng=r0,max-bytes=4096,period=1000",
    "-device",
    "virtio-balloon-pci,id=bal0,deflate-on-oom=off",
    "-chardev",
    "ringbuf,id=hvc,size=4k",
    "-chardev",
    "ringbuf,id=ring",
    "-chardev",
    "file,id=file,path=/tmp/heard,input-path=said.txt",
    "-device",
    "virtio-serial-pci,id=vs0",
    "-device",
    "virtconsole,chardev=hvc,id=con0",
    "-device",
    "virtserialport,name=org.monovisor.ring,chardev=ring,id=port0,bus=vs0.0",
    "-device",
    "virtserialport,name=org.monovisor.file,chardev=file,id=port1",
    "-device",
    "virtio-keyboard-pci,serial=k1",
    "-device",
    "virtio-mouse",
    "-device",
    "virtio-tablet-pci",
    "-chardev",
    "null,id=unused",
    "-chardev",
    "mux,id=many,chardev=unused",
];

/// What the file has that a port's input comes from.
const SAID: &str = "so it is said\n";

const MIB: i64 = 1 << 20;

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let said = paths::cache("boot-tests")?.join("said.txt");
    std::fs::write(&said, SAID)?;
    let mut rig = linux::describe(board, "peripherals", 1)?;
    rig.options.extend(OPTIONS.map(String::from));
    rig.members.push(member("said.txt", &said));
    let mut rig = Running::start(&rig)?;
    let booted = report.check(board, "peripherals::boots to userspace", || {
        rig.console.expect("guest: ready", limit(board, 60)).with_context(|| rig.tail())?;
        rig.console.expect("# ", limit(board, 10))?;
        Ok(())
    });
    if !booted {
        return Ok(());
    }
    report.check(board, "peripherals::random bytes", || entropy(&mut rig));
    report.check(board, "peripherals::console", || console(&mut rig));
    report.check(board, "peripherals::ports", || ports(&mut rig));
    report.check(board, "peripherals::balloon", || balloon(&mut rig));
    report.check(board, "peripherals::keyboard", || keyboard(&mut rig));
    report.check(board, "peripherals::pointing devices", || pointers(&mut rig));
    report.check(board, "peripherals::warnings of the kernel", || warnings(&mut rig));
    report.check(board, "peripherals::quit", || rig.quit());
    Ok(())
}

fn entropy(rig: &mut Running) -> Result<()> {
    let current = shell(rig, "cat /sys/class/misc/hw_random/rng_current")?;
    ensure!(current.starts_with("virtio_rng"), "{current:?}");
    let sum = "dd if=/dev/hwrng bs=64 count=4 2>/dev/null | sha256sum";
    let (first, second) = (shell(rig, sum)?, shell(rig, sum)?);
    ensure!(first.len() > 64 && second.len() > 64 && first != second, "{first:?} {second:?}");
    let length = shell(rig, "dd if=/dev/hwrng bs=64 count=4 2>/dev/null | wc -c")?;
    ensure!(length == "256", "{length:?} bytes");
    // More than a period has: it takes until the next one.
    let times = "a=$(cut -d' ' -f1 /proc/uptime); dd if=/dev/hwrng of=/dev/null bs=4096 count=3 iflag=fullblock \
        2>/dev/null; b=$(cut -d' ' -f1 /proc/uptime); echo $a $b";
    let text = shell(rig, times)?;
    let times: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [from, to] = times[..] else { anyhow::bail!("{text:?}") };
    ensure!(to - from > 0.9, "12 KiB came in {} s at 4 KiB a second", to - from);
    Ok(())
}

fn read(client: &mut Client, device: &str) -> Result<String> {
    let text = client.execute("ringbuf-read", json!({ "device": device, "size": 4096 }))?;
    Ok(text.as_str().context("no text")?.to_owned())
}

fn console(rig: &mut Running) -> Result<()> {
    let mut client = rig.qmp()?;
    read(&mut client, "hvc")?;
    shell(rig, "echo to the console > /dev/hvc0")?;
    let heard = read(&mut client, "hvc")?;
    ensure!(heard == "to the console\r\n", "{heard:?}");
    let lines = "for i in $(seq 1 200); do echo line $i; done > /dev/hvc0";
    shell(rig, lines)?;
    let heard = read(&mut client, "hvc")?;
    let want: String = (1..=200).map(|line| format!("line {line}\r\n")).collect();
    ensure!(heard == want, "{} bytes came, not {}", heard.len(), want.len());
    Ok(())
}

/// The guest's file for a port of that name.
fn port(rig: &mut Running, name: &str) -> Result<String> {
    let find = format!(
        "for p in /sys/class/virtio-ports/*; do [ \"$(cat $p/name 2>/dev/null)\" = {name} ] && echo /dev/${{p##*/}}; done"
    );
    let path = shell(rig, &find)?;
    ensure!(path.starts_with("/dev/vport"), "{name}: {path:?}");
    Ok(path)
}

fn ports(rig: &mut Running) -> Result<()> {
    let mut client = rig.qmp()?;
    let ring = port(rig, "org.monovisor.ring")?;
    shell(rig, &format!("echo through the port > {ring}"))?;
    for open in [true, false] {
        let event = client.wait_event("VSERPORT_CHANGE", limit(rig.board, 5))?;
        ensure!(event["data"] == json!({ "id": "port0", "open": open }), "{event}");
    }
    let heard = read(&mut client, "ring")?;
    ensure!(heard == "through the port\n", "{heard:?}");
    // More than fits into the queue at a time.
    shell(rig, &format!("seq 1 6000 > {ring}"))?;
    let mut heard = String::new();
    loop {
        let piece = read(&mut client, "ring")?;
        if piece.is_empty() {
            break;
        }
        heard.push_str(&piece);
    }
    let want: String = (1..=6000).map(|number| format!("{number}\n")).collect();
    ensure!(heard == want, "{} bytes came, not {}", heard.len(), want.len());

    let file = port(rig, "org.monovisor.file")?;
    let said = shell(rig, &format!("head -n 1 {file}"))?;
    ensure!(said == SAID.trim(), "{said:?}");
    shell(rig, &format!("echo heard > {file}"))?;
    let data = pull::fetch(&mut client, "/tmp/heard")?;
    ensure!(data == b"heard\n", "{:?}", String::from_utf8_lossy(&data));
    Ok(())
}

fn kib(rig: &mut Running, name: &str) -> Result<i64> {
    let text = shell(rig, &format!("sed -n 's/^{name}: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"))?;
    text.parse().with_context(|| text.clone())
}

/// Asks for an amount of memory and waits until the guest has it.
fn inflate(rig: &mut Running, client: &mut Client, bytes: i64) -> Result<()> {
    client.execute("balloon", json!({ "value": bytes }))?;
    let end = Instant::now() + limit(rig.board, 30);
    loop {
        let actual = client.execute("query-balloon", json!({}))?;
        if actual == json!({ "actual": bytes }) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "asked for {bytes}, there are {actual}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn balloon(rig: &mut Running) -> Result<()> {
    let mut client = rig.qmp()?;
    // Bochs takes minutes for what QEMU does in seconds, and has less to do: 16 mappings of 2 MiB go and come back there, too.
    let (taken, written) = if rig.board == Board::Bochs { (32, 24) } else { (128, 90) };
    let all = kib(rig, "MemTotal")?;
    inflate(rig, &mut client, (256 - taken) * MIB)?;
    let event = client.wait_event("BALLOON_CHANGE", limit(rig.board, 5))?;
    ensure!(event["data"]["actual"].as_i64().is_some_and(|actual| actual < 256 * MIB), "{event}");
    let few = kib(rig, "MemTotal")?;
    ensure!((all - few) == taken * 1024, "{all} KiB have become {few}");
    inflate(rig, &mut client, 256 * MIB)?;
    ensure!(kib(rig, "MemTotal")? == all, "not all came back");
    // It is used again: half of RAM is as much as a file there can have.
    rig.console.send(&format!(
        "dd if=/dev/zero of=/tmp/zeros bs=1M count={written} 2>/dev/null; echo ZE''ROS $(wc -c < /tmp/zeros)\n",
    ))?;
    rig.console.expect(&format!("ZEROS {}", written * MIB), limit(rig.board, 90))?;
    let others = shell(rig, "tail -c 1000000 /tmp/zeros | tr -d '\\0' | wc -c; rm /tmp/zeros")?;
    ensure!(others == "0", "{others:?} bytes are not 0");
    Ok(())
}

/// The guest's file for events of an input device.
fn events(rig: &mut Running, name: &str) -> Result<String> {
    let find = format!(
        "for e in /sys/class/input/event*; do [ \"$(cat $e/device/name)\" = \"{name}\" ] && echo /dev/input/${{e##*/}}; done"
    );
    let path = shell(rig, &find)?;
    ensure!(path.starts_with("/dev/input/event"), "{name}: {path:?}");
    Ok(path)
}

/// Reads `count` events from a device, and has the operator do something as soon as the reader is there. Type, code and
/// value of each.
fn happens(
    rig: &mut Running,
    name: &str,
    count: u32,
    act: impl FnOnce(&mut Client) -> Result<()>,
) -> Result<Vec<(u16, u16, i32)>> {
    let path = events(rig, name)?;
    let mut client = rig.qmp()?;
    rig.console.send(&format!(
        "(echo REA''DY; dd bs=24 count={count} 2>/dev/null) < {path} | od -An -v -tx1; echo E''ND\n"
    ))?;
    std::thread::sleep(limit(rig.board, 1));
    act(&mut client)?;
    let text = rig.console.expect("END", limit(rig.board, 10))?;
    // The echo of the word that says that the device is open is in front.
    let bytes: Vec<u8> = text
        .lines()
        .map(str::trim)
        .filter(|line| line.split(' ').all(|word| word.len() == 2))
        .flat_map(|line| line.split(' ').filter_map(|word| u8::from_str_radix(word, 16).ok()))
        .collect();
    let bytes = bytes.strip_prefix(b"READY\n").with_context(|| text.clone())?;
    Ok(bytes
        .chunks_exact(24)
        .map(|event| {
            let word = |at: usize| u16::from_le_bytes([event[at], event[at + 1]]);
            let value = i32::from_le_bytes([event[20], event[21], event[22], event[23]]);
            (word(16), word(18), value)
        })
        .collect())
}

fn keyboard(rig: &mut Running) -> Result<()> {
    let keys = happens(rig, "QEMU Virtio Keyboard", 4, |client| {
        client.execute("send-key", json!({ "keys": [{ "type": "qcode", "data": "a" }] }))?;
        Ok(())
    })?;
    ensure!(keys == [(1, 30, 1), (0, 0, 0), (1, 30, 0), (0, 0, 0)], "{keys:?}");
    let keys = happens(rig, "QEMU Virtio Keyboard", 2, |client| {
        let key =
            json!({ "type": "key", "data": { "down": true, "key": { "type": "number", "data": 0xc8 } } });
        client.execute("input-send-event", json!({ "events": [key] }))?;
        Ok(())
    })?;
    ensure!(keys == [(1, 103, 1), (0, 0, 0)], "{keys:?}");
    Ok(())
}

fn pointers(rig: &mut Running) -> Result<()> {
    let mice = rig.qmp()?.execute("query-mice", json!({}))?;
    let names: Vec<&str> =
        mice.as_array().into_iter().flatten().filter_map(|mouse| mouse["name"].as_str()).collect();
    ensure!(names.len() == 3 && mice[0]["current"] == true && mice[1]["current"] == false, "{mice}");
    ensure!(names.ends_with(&["QEMU PS/2 Mouse"]), "{mice}");
    let moved = happens(rig, "QEMU Virtio Mouse", 3, |client| {
        let by = |axis: &str, by: i32| json!({ "type": "rel", "data": { "axis": axis, "value": by } });
        client.execute("input-send-event", json!({ "events": [by("x", 5), by("y", -3)] }))?;
        Ok(())
    })?;
    ensure!(moved == [(2, 0, 5), (2, 1, -3), (0, 0, 0)], "{moved:?}");
    let placed = happens(rig, "QEMU Virtio Tablet", 2, |client| {
        let at = json!({ "type": "abs", "data": { "axis": "x", "value": 20000 } });
        client.execute("input-send-event", json!({ "events": [at] }))?;
        Ok(())
    })?;
    ensure!(placed == [(3, 0, 20000), (0, 0, 0)], "{placed:?}");
    Ok(())
}

/// The kernel has nothing to say about the devices at warning or worse.
fn warnings(rig: &mut Running) -> Result<()> {
    let text = shell(rig, "dmesg -r | grep -E '^<[0-4]>' | grep -E 'virtio|hwrng|input:' | head -5")?;
    ensure!(text.is_empty(), "{text}");
    Ok(())
}

//! A script in a Debian Linux guest that reads and writes every device: under Monovisor, and on plain QEMU to show that what
//! it asks for is what the devices of QEMU do.

use crate::console::Console;
use crate::linux;
use crate::report::Report;
use crate::rig::{Running, limit, member};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use xtask::board::Board;
use xtask::guest::{self, Guest};
use xtask::line::Socket;
use xtask::process::{self, Supervised};
use xtask::qmp::Client;
use xtask::{paths, pull};

/// Devices, as QEMU and Monovisor both take them.
const DEVICES: [&str; 40] = [
    "-device",
    "virtio-blk-pci,drive=d0,serial=image-fixed",
    "-device",
    "virtio-blk-pci,drive=d1,serial=image-snapshot",
    "-device",
    "virtio-blk-pci,drive=d2,serial=store,num-queues=2",
    "-object",
    "rng-random,id=r0,filename=/dev/urandom",
    "-device",
    "virtio-rng-pci,rng=r0",
    "-device",
    "virtio-balloon-pci",
    "-device",
    "virtio-serial-pci",
    "-device",
    "virtconsole,chardev=c0",
    "-device",
    "virtserialport,name=org.monovisor.port,chardev=c1",
    "-device",
    "virtio-keyboard-pci",
    "-device",
    "virtio-mouse-pci",
    "-device",
    "virtio-tablet-pci",
    "-netdev",
    "hubport,id=n0,hubid=0",
    "-netdev",
    "hubport,id=n1,hubid=0",
    "-netdev",
    "hubport,id=n2,hubid=1",
    "-netdev",
    "hubport,id=n3,hubid=1",
    // Two that leave checksums and large segments to each other, and two of which one does neither.
    "-device",
    "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:00",
    "-device",
    "virtio-net-pci,netdev=n1,mac=52:54:00:00:00:01",
    "-device",
    "virtio-net-pci,netdev=n2,mac=52:54:00:00:01:00",
    "-device",
    "virtio-net-pci,netdev=n3,mac=52:54:00:00:01:01,mrg_rxbuf=off,csum=off,guest_csum=off,\
     host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,\
     guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off",
];

/// What the script has to find and to pass.
const NAMES: [&str; 17] = [
    "blk-image-fixed",
    "blk-image-snapshot",
    "blk-store",
    "rng",
    "console",
    "port-org.monovisor.port",
    "balloon",
    "keyboard",
    "mouse",
    "tablet",
    "ps2",
    "rtc",
    "clock-hpet",
    "clock-acpi_pm",
    "net-0",
    "net-1",
    "kernel",
];

/// The longest that the script may take for one device: what goes over a network link takes a busy machine minutes.
const LINE_LIMIT: Duration = Duration::from_secs(600);

/// What is said to the console and to the port.
const SAID: &str = "do you hear me\n";
/// Bytes of each disk. Bochs runs a tenth of QEMU's instructions.
const fn disk_size(board: Board) -> usize {
    if matches!(board, Board::Bochs) { 1 << 18 } else { 1 << 20 }
}

/// MiB that go over each network link in each direction; twice that is written to memory that a balloon has given back.
const fn megabytes(board: Board) -> u32 {
    if matches!(board, Board::Bochs) { 1 } else { 8 }
}

/// The guest's RAM in MiB.
const MEMORY: i64 = 256;

/// Several queues need several processors.
const PROCESSORS: u32 = 2;

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let directory = paths::cache("boot-tests")?.join(format!("{}-devices-files", board.name()));
    std::fs::create_dir_all(&directory)?;
    let image = directory.join("disk.img");
    std::fs::write(&image, labelled(&directory, disk_size(board))?)?;
    let ours = [&NAMES[..], &["clock-kvm-clock"]].concat();
    under_monovisor(board, report, &directory, &image, &ours)?;
    if board == Board::Qemu {
        // With one processor, for QEMU's devices are slow when its processors share a thread with each other. Linux keeps time by the
        // TSC then, too: with several it asks for a CPUID that says that it never stops or changes.
        let theirs = [&NAMES[..], &["clock-tsc"]].concat();
        report.check(board, "devices::the script, without Monovisor", || plain(&directory, &image, &theirs));
    }
    Ok(())
}

fn under_monovisor(
    board: Board,
    report: &Report,
    directory: &Path,
    image: &Path,
    names: &[&str],
) -> Result<()> {
    let said = directory.join("said.txt");
    std::fs::write(&said, SAID)?;
    let store = format!("file=/tmp/disk,x-size={},format=raw,if=none,id=d2", disk_size(board));
    let mut rig = linux::describe(board, "devices", PROCESSORS)?;
    rig.options.extend(DEVICES.map(String::from));
    for (option, value) in [
        ("-drive", "file=disk.img,format=raw,if=none,id=d0,readonly=on"),
        ("-drive", "file=disk.img,format=raw,if=none,id=d1,snapshot=on"),
        ("-drive", &store),
        ("-chardev", "file,id=c0,path=/tmp/c0,input-path=said.txt"),
        ("-chardev", "file,id=c1,path=/tmp/c1,input-path=said.txt"),
    ] {
        rig.options.extend([option, value].map(String::from));
    }
    rig.members.extend([member("disk.img", image), member("said.txt", &said)]);
    let mut rig = Running::start(&rig)?;
    let mut client = rig.qmp()?;
    let mut answer = |question: &[&str]| match question {
        // It comes out of a file.
        ["say", _] => Ok(()),
        ["hear", name] => {
            let file = if *name == "console" { "/tmp/c0" } else { "/tmp/c1" };
            heard(&String::from_utf8_lossy(&pull::fetch(&mut client, file)?))
        }
        _ => act(&mut client, question),
    };
    let mut lines = Vec::new();
    let ran = report.check(board, "devices::the script", || {
        lines = script(board, &mut rig.console, names, &mut answer).with_context(|| rig.tail())?;
        Ok(())
    });
    for line in &lines {
        let (name, result) = verdict(line);
        report.check(board, &format!("devices::{name}"), || result);
    }
    drop(client);
    if ran {
        report.check(board, "devices::quit", || rig.quit());
    }
    Ok(())
}

/// The script on QEMU's own PC.
fn plain(directory: &Path, image: &Path, names: &[&str]) -> Result<()> {
    let files = guest::files(Guest::Linux)?;
    let disk = directory.join("disk.raw");
    std::fs::write(&disk, vec![0; disk_size(Board::Qemu)])?;
    let qmp = directory.join("qmp");
    let _ = std::fs::remove_file(&qmp);
    let line = |name| Socket::unix(&directory.join(name));
    let (serial, c0, c1) = (line("serial")?, line("c0")?, line("c1")?);
    let mut command = xtask::emulator::qemu();
    command.args(["-cpu", "max", "-m", &MEMORY.to_string(), "-append", &files.append]);
    command.arg("-kernel").arg(&files.kernel);
    command.arg("-initrd").arg(files.initrd.context("no initramfs")?);
    command.args(["-serial", &format!("unix:{}", serial.address()?)]).args(DEVICES);
    let image = image.display();
    for (option, value) in [
        ("-drive", format!("file={image},format=raw,if=none,id=d0,readonly=on")),
        ("-drive", format!("file={image},format=raw,if=none,id=d1,snapshot=on,discard=unmap")),
        ("-drive", format!("file={},format=raw,if=none,id=d2,discard=unmap", disk.display())),
        ("-qmp", format!("unix:{},server=on,wait=off", qmp.display())),
        ("-chardev", format!("socket,id=c0,path={}", c0.address()?)),
        ("-chardev", format!("socket,id=c1,path={}", c1.address()?)),
    ] {
        command.args([option, &value]);
    }
    let errors = std::fs::File::create(directory.join("plain.err"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    let mut qemu = Supervised::spawn(&mut command, "plain QEMU")?;
    let mut accept = |socket: Socket| -> Result<Console> {
        Console::new(socket.accept(Duration::from_secs(60), || Ok(qemu.try_wait()?.is_none()))?)
    };
    // What QEMU's console port cannot get rid of at once is lost: somebody listens all the time.
    let (mut serial, mut c0, mut c1) = (accept(serial)?, accept(c0)?, accept(c1)?);
    let mut client = Client::connect(&qmp)?;
    client.negotiate()?;
    let mut answer = |question: &[&str]| match question {
        ["say", "console"] => c0.send(SAID),
        ["say", _] => c1.send(SAID),
        ["hear", name] => {
            let end = "\n1500\n";
            let text =
                if *name == "console" { &mut c0 } else { &mut c1 }.expect(end, limit(Board::Qemu, 10))?;
            heard(&(text + end))
        }
        _ => act(&mut client, question),
    };
    let lines = script(Board::Qemu, &mut serial, names, &mut answer)?;
    let failed: Vec<&str> =
        lines.iter().filter(|line| line.starts_with("FAIL")).map(String::as_str).collect();
    ensure!(failed.is_empty() && lines.len() >= names.len(), "{}", failed.join("\n"));
    Ok(())
}

/// Boots to the shell and runs the script; gives its lines about devices. The operator answers its questions.
fn script(
    board: Board,
    console: &mut Console,
    names: &[&str],
    answer: &mut dyn FnMut(&[&str]) -> Result<()>,
) -> Result<Vec<String>> {
    console.expect("guest: ready", limit(board, 240))?;
    console.expect("# ", limit(board, 60))?;
    console.send(&format!("devices -m {} {}\n", megabytes(board), names.join(" ")))?;
    console.expect("\n", limit(board, 60))?;
    let mut lines = Vec::new();
    loop {
        let line = console.expect("\n", LINE_LIMIT)?;
        let line = line.trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["ASK", ref question @ ..] => answer(question).with_context(|| line.to_owned())?,
            ["PASS" | "FAIL", ..] => lines.push(line.to_owned()),
            ["ALL", _, "PASSED"] | [_, "FAILED"] => return Ok(lines),
            // Lines of the kernel.
            _ => {}
        }
    }
}

/// A line of the script: which device, and what came of it.
fn verdict(line: &str) -> (&str, Result<()>) {
    let mut words = line.splitn(3, ' ');
    let (verdict, name, why) = (words.next(), words.next().unwrap_or_default(), words.next());
    let result = match verdict {
        Some("PASS") => Ok(()),
        _ => Err(anyhow::anyhow!(why.unwrap_or_default().to_owned())),
    };
    (name, result)
}

/// What the operator does when asked to.
fn act(client: &mut Client, question: &[&str]) -> Result<()> {
    let event = |kind: &str, data| json!({ "type": kind, "data": data });
    let (command, arguments) = match question {
        ["balloon", taken] => {
            let taken: i64 = taken.parse()?;
            ("balloon", json!({ "value": (MEMORY - taken) << 20 }))
        }
        ["keyboard"] => ("send-key", json!({ "keys": [{ "type": "qcode", "data": "a" }] })),
        ["mouse"] => {
            let by = |axis: &str, by: i32| event("rel", json!({ "axis": axis, "value": by }));
            ("input-send-event", json!({ "events": [by("x", 5), by("y", -3)] }))
        }
        ["tablet"] => {
            let at = event("abs", json!({ "axis": "x", "value": 20000 }));
            ("input-send-event", json!({ "events": [at] }))
        }
        _ => bail!("nobody here knows how"),
    };
    client.execute(command, arguments)?;
    Ok(())
}

/// What the guest says to a console or a port: all of it, and only this.
fn wanted() -> String {
    let numbers: String = (1..=1500).map(|number| format!("{number}\n")).collect();
    format!("heard {SAID}{numbers}")
}

fn heard(text: &str) -> Result<()> {
    // A terminal may have echoed what came before the script told it not to.
    let echo =
        text.strip_suffix(&wanted()).with_context(|| format!("{} bytes came: {text:.80}", text.len()))?;
    ensure!(echo.is_empty() || echo.trim() == SAID.trim(), "{echo}");
    Ok(())
}

/// An image whose last sector holds the checksum of the others.
fn labelled(directory: &Path, size: usize) -> Result<Vec<u8>> {
    let mut state = 7u64;
    let mut image: Vec<u8> = (0..size - 512)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect();
    let path = directory.join("labelled.img");
    std::fs::write(&path, &image)?;
    let sum = process::capture(process::command("md5sum").arg(&path), "md5sum", Duration::from_secs(20))?;
    image.extend_from_slice(sum.get(..32).context("md5sum gave no sum")?.as_bytes());
    image.resize(size, 0);
    Ok(image)
}

//! A Debian Linux guest: boots to userspace, is managed over QMP, ends.

use crate::report::Report;
use crate::rig::{self, Running, limit, member};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;
use xtask::board::Board;
use xtask::emulator::{HOST_EXTRA_MIB, Rig};
use xtask::guest::{self, Guest};
use xtask::pull;

const UUID: &str = "12345678-9abc-def0-1234-56789abcdef0";

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let mut rig = Running::start(&with_vectors(board)?)?;
    let booted = report.check(board, "linux::boots to userspace", || {
        rig.console.expect("guest: ready", limit(board, 60)).with_context(|| rig.tail())?;
        rig.console.expect("# ", limit(board, 10))?;
        Ok(())
    });
    if !booted {
        return Ok(());
    }
    report.check(board, "linux::console script", || console_script(&mut rig));
    report.check(board, "linux::vector registers", || vectors(&mut rig));
    report.check(board, "linux::stop and cont", || stop_and_cont(&mut rig));
    report.check(board, "linux::queries", || queries(&rig));
    report.check(board, "linux::human monitor", || human_monitor(&rig));
    report.check(board, "linux::memory", || memory(&rig));
    report.check(board, "linux::inject-nmi", || nmi(&mut rig));
    report.check(board, "linux::late attach", || late_attach(&rig));
    if board == Board::Qemu {
        report.check(board, "linux::system_reset", || reset(&mut rig));
    }
    report.check(board, "linux::system_powerdown", || powerdown(&mut rig));
    report.check(board, "linux::quit", || rig.quit());
    Ok(())
}

/// A rig with Linux in it, and as many processors for both.
pub fn start_with(board: Board, name: &str, processors: u32) -> Result<Running> {
    Running::start(&describe(board, name, processors)?)
}

/// The rig of this group: the program `vectors` is in its guest.
fn with_vectors(board: Board) -> Result<Rig> {
    let mut rig = describe(board, "linux", 1)?;
    std::fs::create_dir_all(&rig.directory)?;
    let (program, more) = (rig.directory.join("vectors"), rig.directory.join("initrd.img"));
    guest::program("vectors", &program)?;
    let initrd = rig.members.iter_mut().find(|member| member.name == "initrd.img").context("no initramfs")?;
    guest::with_program(&initrd.path, "vectors", &program, &more)?;
    initrd.path = more;
    Ok(rig)
}

/// What a rig with Linux in it is made of.
pub fn describe(board: Board, name: &str, processors: u32) -> Result<Rig> {
    describe_kernel(board, name, Guest::Linux, processors)
}

/// The same, with one of Debian's kernels.
pub fn describe_kernel(board: Board, name: &str, kernel: Guest, processors: u32) -> Result<Rig> {
    let files = guest::files(kernel)?;
    let options = [
        "-m",
        "256",
        "-name",
        "vm1",
        "-uuid",
        UUID,
        "-no-shutdown",
        "-kernel",
        "vmlinuz",
        "-initrd",
        "initrd.img",
    ];
    let mut options: Vec<String> = options.map(String::from).to_vec();
    options.extend(["-append".into(), files.append]);
    if processors > 1 {
        options.extend(["-smp".into(), processors.to_string()]);
    }
    let mut members = vec![member("vmlinuz", files.kernel)];
    members.extend(files.initrd.map(|path| member("initrd.img", path)));
    let mut rig = rig::describe(board, name, options, members)?;
    rig.memory_mib = 256 + HOST_EXTRA_MIB;
    rig.processors = processors;
    Ok(rig)
}

/// The guest runs that kernel, on as many processors.
pub fn is(rig: &mut Running, kernel: Guest, processors: u32) -> Result<()> {
    let said = shell(rig, "uname -r; nproc")?;
    let mut words = said.split_whitespace();
    let release = words.next().unwrap_or_default();
    ensure!(release.ends_with("-amd64") && release.contains("cloud") == (kernel == Guest::Linux), "{said}");
    ensure!(words.eq([processors.to_string().as_str()]), "{said}");
    Ok(())
}

/// Types a command at the guest's shell and gives what it printed.
pub fn shell(rig: &mut Running, command: &str) -> Result<String> {
    // The quotes keep the echo of what is typed from being taken for the answer.
    rig.console.send(&format!("echo BE''GIN; {command}; echo E''ND\n"))?;
    rig.console.expect("BEGIN", limit(rig.board, 10))?;
    let text = rig.console.expect("END", limit(rig.board, 20))?;
    Ok(text.trim().to_owned())
}

fn console_script(rig: &mut Running) -> Result<()> {
    let sum = shell(rig, "echo $((6 * 7)) a")?;
    ensure!(sum == "42 a", "{sum:?}");
    let cpus = shell(rig, "nproc")?;
    ensure!(cpus == "1", "{cpus:?}");
    let memory = shell(rig, "sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")?;
    let kib: u32 = memory.trim().parse().with_context(|| memory.clone())?;
    ensure!((180_000..262_144).contains(&kib), "{kib} KiB of RAM");
    let clock = shell(rig, "cat /sys/devices/system/clocksource/clocksource0/current_clocksource")?;
    ensure!(["kvm-clock", "tsc"].contains(&clock.as_str()), "clock source {clock:?}");
    // Many lines, none lost.
    let lines = shell(rig, "seq 1 500")?;
    let want: Vec<String> = (1..=500).map(|number| number.to_string()).collect();
    let got: Vec<&str> = lines.lines().map(str::trim).collect();
    ensure!(got == want, "seq 1 500 came as {} lines", got.len());
    let slept =
        shell(rig, "a=$(cut -d' ' -f1 /proc/uptime); sleep 1; b=$(cut -d' ' -f1 /proc/uptime); echo $a $b")?;
    let times: Vec<f64> = slept.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [from, to] = times[..] else { anyhow::bail!("{slept:?}") };
    ensure!((0.95..2.5).contains(&(to - from)), "sleep 1 took {} s of the guest's time", to - from);
    Ok(())
}

/// The registers of a program that has lost the processor to another, and got it back, are what they were. (Of a thousand
/// offers to another the scheduler takes a few only, where the processor is fast.)
fn vectors(rig: &mut Running) -> Result<()> {
    let said = shell(rig, "vectors; dmesg | grep -e segfault -e 'Bad FPU'")?;
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    let good = |line: &&str| {
        let switches = line.strip_prefix("VECTORS wrong=0 switches=").and_then(|number| number.parse().ok());
        switches.is_some_and(|switches: u32| switches > 10)
    };
    ensure!(lines.len() == 2 && lines.iter().all(good), "{said}");
    Ok(())
}

pub(crate) fn stop_and_cont(rig: &mut Running) -> Result<()> {
    let mut client = rig.qmp()?;
    client.execute("stop", json!({}))?;
    client.wait_event("STOP", Duration::ZERO).context("STOP comes before the reply")?;
    let status = client.execute("query-status", json!({}))?;
    ensure!(status == json!({ "status": "paused", "singlestep": false, "running": false }), "{status}");
    client.execute("stop", json!({}))?;
    ensure!(client.events.is_empty(), "stop of a stopped machine makes no event");
    let before = rig.console.skip();
    rig.console.send("echo awa''ke\n")?;
    std::thread::sleep(limit(rig.board, 1));
    ensure!(rig.console.skip() == before, "the guest spoke while it was stopped");
    client.execute("cont", json!({}))?;
    client.wait_event("RESUME", Duration::ZERO).context("RESUME comes before the reply")?;
    rig.console.expect("awake", limit(rig.board, 10))?;
    let status = client.execute("query-status", json!({}))?;
    ensure!(status["status"] == "running" && status["running"] == true, "{status}");
    Ok(())
}

fn queries(rig: &Running) -> Result<()> {
    let mut client = rig.qmp()?;
    let mut ask = |command: &str| client.execute(command, json!({}));
    let version = ask("query-version")?;
    ensure!(version["qemu"] == json!({ "micro": 0, "minor": 8, "major": 2 }), "{version}");
    ensure!(version["package"].as_str().is_some_and(|text| text.starts_with(" (Monovisor ")), "{version}");
    ensure!(ask("query-name")? == json!({ "name": "vm1" }), "query-name");
    ensure!(ask("query-uuid")? == json!({ "UUID": UUID }), "query-uuid");
    ensure!(ask("query-kvm")?["enabled"].is_boolean(), "query-kvm");
    let cpus = ask("query-cpus")?;
    ensure!(cpus.as_array().is_some_and(|cpus| cpus.len() == 1 && cpus[0]["CPU"] == 0), "{cpus}");
    let commands = ask("query-commands")?;
    let named = |name: &str| commands.as_array().into_iter().flatten().any(|entry| entry["name"] == name);
    for name in ["quit", "stop", "cont", "system_reset", "inject-nmi", "memsave", "pmemsave", "cpu"] {
        ensure!(named(name), "query-commands does not name {name}");
    }
    ensure!(ask("cpu").is_err(), "cpu without its argument");
    client.execute("cpu", json!({ "index": 0 }))?;
    let error = client.execute("cpu", json!({ "index": 7 })).err().context("there is no CPU 7")?;
    ensure!(format!("{error:#}").contains("Parameter 'index' expects a CPU number"), "{error:#}");
    // A long reply, whole and in order.
    if named("query-qmp-schema") {
        let schema = client.execute("query-qmp-schema", json!({}))?;
        let entries = schema.as_array().context("no list")?;
        ensure!(entries.iter().any(|entry| entry["name"] == "query-status"), "{} entries", entries.len());
        ensure!(entries.iter().all(|entry| entry["meta-type"].is_string()), "an entry without its kind");
    }
    Ok(())
}

fn hmp(rig: &Running, line: &str) -> Result<String> {
    let reply = rig.qmp()?.execute("human-monitor-command", json!({ "command-line": line }))?;
    Ok(reply.as_str().context("no text")?.to_owned())
}

fn human_monitor(rig: &Running) -> Result<()> {
    let status = hmp(rig, "info status")?;
    ensure!(status.trim() == "VM status: running", "{status:?}");
    let version = hmp(rig, "info version")?;
    ensure!(version.starts_with("2.8.0"), "{version:?}");
    let registers = hmp(rig, "info registers")?;
    ensure!(registers.contains("RIP=") && registers.contains("CR3="), "{registers}");
    let unknown = hmp(rig, "nonsense")?;
    ensure!(unknown.contains("unknown command"), "{unknown:?}");
    Ok(())
}

/// `xp` and `pmemsave` see the same bytes of a guest that is stopped, twice.
fn memory(rig: &Running) -> Result<()> {
    let mut client = rig.qmp()?;
    client.execute("stop", json!({}))?;
    let save = |client: &mut xtask::qmp::Client, file: &str| -> Result<Vec<u8>> {
        client.execute("pmemsave", json!({ "val": 0x9_0000, "size": 0x4000, "filename": file }))?;
        pull::fetch(client, file)
    };
    let first = save(&mut client, "/tmp/first")?;
    let second = save(&mut client, "/tmp/second")?;
    ensure!(first == second && first.len() == 0x4000, "a stopped guest's memory changed");
    let shown = client.execute("human-monitor-command", json!({ "command-line": "xp /16xb 0x90000" }))?;
    let shown = shown.as_str().unwrap_or_default().to_owned();
    let bytes: Vec<u8> = shown
        .split_whitespace()
        .filter_map(|word| u8::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect();
    ensure!(bytes == first[..16], "xp shows {shown:?}, pmemsave {:x?}", &first[..16]);
    let beyond =
        client.execute("pmemsave", json!({ "val": 1u64 << 40, "size": 16, "filename": "/tmp/none" }));
    ensure!(beyond.is_err() || pull::fetch(&mut client, "/tmp/none")? == vec![0; 16], "memory beyond RAM");
    client.execute("cont", json!({}))?;
    Ok(())
}

pub(crate) fn nmi(rig: &mut Running) -> Result<()> {
    rig.console.skip();
    rig.qmp()?.execute("inject-nmi", json!({}))?;
    rig.console.expect("NMI", limit(rig.board, 10))?;
    let answer = shell(rig, "echo still here")?;
    ensure!(answer.ends_with("still here"), "{answer:?}");
    Ok(())
}

/// Clients that go away in the middle of a message leave nothing behind for the next.
fn late_attach(rig: &Running) -> Result<()> {
    for rest in ["", "{\"execute\": \"query-st", "{\"execute\": \"query-status\"}", "[[[[", "{\"a\": \"text"]
    {
        let mut client = rig.qmp()?;
        client.send(rest.as_bytes())?;
    }
    let mut client = rig.qmp()?;
    let status = client.execute("query-status", json!({}))?;
    ensure!(status["status"] == "running", "{status}");
    // Negotiation mode again: nothing else is taken before qmp_capabilities.
    drop(client);
    let mut fresh = xtask::qmp::Client::connect(rig.socket())?;
    let error = fresh.execute("query-status", json!({})).err().context("a command before negotiation")?;
    ensure!(format!("{error:#}").contains("Expecting capabilities negotiation"), "{error:#}");
    let id = {
        fresh.negotiate()?;
        fresh.raw(r#"{"execute": "query-status", "id": 7}"#)?
    };
    ensure!(matches!(id, Value::Object(_)), "{id}");
    Ok(())
}

pub(crate) fn reset(rig: &mut Running) -> Result<()> {
    let mut client = rig.qmp()?;
    rig.console.skip();
    client.execute("system_reset", json!({}))?;
    ensure!(client.events.is_empty(), "the reply comes before RESET");
    client.wait_event("RESET", limit(rig.board, 10))?;
    rig.console.expect("guest: ready", limit(rig.board, 60)).with_context(|| rig.tail())?;
    rig.console.expect("# ", limit(rig.board, 10))?;
    Ok(())
}

pub(crate) fn powerdown(rig: &mut Running) -> Result<()> {
    let mut client = rig.qmp()?;
    client.execute("system_powerdown", json!({}))?;
    client.wait_event("POWERDOWN", limit(rig.board, 10))?;
    rig.console.expect("guest: power button", limit(rig.board, 10))?;
    client.wait_event("SHUTDOWN", limit(rig.board, 30))?;
    client.wait_event("STOP", limit(rig.board, 5))?;
    let status = client.execute("query-status", json!({}))?;
    ensure!(status["status"] == "shutdown", "{status}");
    Ok(())
}

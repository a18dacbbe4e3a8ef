//! Our own guest kernels: each exit reason and instruction form, ways to end, what a hostile guest tries.

use crate::report::Report;
use crate::rig::{self, Running, limit, member, words};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;
use xtask::board::Board;
use xtask::{process, pull};

/// Suites of the `cases` guest.
const SUITES: [&str; 11] = [
    "cpu",
    "clocks",
    "debug",
    "exceptions",
    "interrupts",
    "modes",
    "paging",
    "ports",
    "mmio",
    "time",
    "user",
];

/// Those that look at what a processor has and has not.
const MODEL_SUITES: [&str; 3] = ["cpu", "paging", "user"];

/// CPU models that differ from the host's in what is enforced: control bits, MSRs, instructions.
const MODELS: [(&str, &str); 2] = [
    ("base", "base,+vmx"),
    ("less", "host,-smap,-umip,-pku,-fsgsbase,-rdtscp,-rdpid,-invpcid,-x2apic,-tsc-deadline,+vmx"),
];

/// What Bochs's CPU itself gets wrong: no case may fail there but these.
const BOCHS_WRONG: [&str; 1] = ["vol. 1, 13.10: xsavec is undone by xrstor"];

/// How a case that ends the guest ends it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A reset: RESET, and the guest starts again by itself.
    Reset,
    /// Power off: SHUTDOWN and STOP, status `shutdown`.
    Off,
    /// Whatever becomes of the guest, the monitor answers and a reset brings the guest back.
    Survive,
    /// The guest goes on and reports.
    Report,
}

/// Cases of `cases::last`.
const LAST: [(&str, End); 17] = [
    ("cf9", End::Reset),
    ("keyboard", End::Reset),
    ("port92", End::Reset),
    ("triple", End::Reset),
    ("s5", End::Off),
    ("halt", End::Survive),
    ("spin", End::Survive),
    ("idle", End::Survive),
    ("every-port", End::Report),
    ("many-msrs", End::Survive),
    ("beyond-ram", End::Report),
    ("fetch-hole", End::Survive),
    ("fetch-mmio", End::Survive),
    ("tables-in-hole", End::Survive),
    ("tables-in-mmio", End::Survive),
    ("tables-beyond-ram", End::Survive),
    ("idt-in-mmio", End::Survive),
];

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let kernel = rig::guest("cases")?;
    let options = rig::with_x2apic(
        board,
        words("-m 64 -no-shutdown -name cases -kernel cases -device virtio-balloon-pci"),
    );
    let mut rig = Running::start(&rig::describe(board, "guests", options, vec![member("cases", &kernel)])?)?;
    rig.console.expect("READY", limit(board, 20)).with_context(|| rig.tail())?;
    for suite in SUITES {
        let good = report.check(board, &format!("guests::{suite}"), || run_suite(&mut rig, &kernel, suite));
        if !good && !recover(&mut rig) {
            bail!("no guest after suite {suite}; {}", rig.tail());
        }
    }
    report.check(board, "guests::memory saved is the kernel's image", || saved_memory(&rig, &kernel));
    for (name, end) in LAST {
        let good = report.check(board, &format!("guests::{name}"), || run_last(&mut rig, name, end));
        if !good && !recover(&mut rig) {
            bail!("no guest after case {name}; {}", rig.tail());
        }
    }
    report.check(board, "guests::stack in a hole", || run_last(&mut rig, "stack-in-hole", End::Survive));
    report.check(board, "guests::quit", || rig.quit());
    for (name, model) in MODELS {
        report.check(board, &format!("guests::cpu model {name}"), || try_model(board, &kernel, model));
    }
    Ok(())
}

/// The suites that look at the processor, on another model than the host's. What it has not is warned of.
fn try_model(board: Board, kernel: &std::path::Path, model: &str) -> Result<()> {
    let options = words(&format!("-m 64 -no-shutdown -name cases -cpu {model} -kernel cases"));
    let mut rig = Running::start(&rig::describe(board, "models", options, vec![member("cases", kernel)])?)?;
    rig.console.expect("READY", limit(board, 20)).with_context(|| rig.tail())?;
    rig.expect_log("doesn't support requested feature: CPUID.01H:ECX.vmx [bit 5]", limit(board, 5))?;
    for suite in MODEL_SUITES {
        run_suite(&mut rig, kernel, suite)?;
    }
    rig.quit()
}

/// Names of the cases that failed.
pub(crate) fn failures(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("FAIL "));
    lines.map(|line| line.split(" | ").next().unwrap_or(line).to_owned()).collect()
}

fn run_suite(rig: &mut Running, kernel: &std::path::Path, suite: &str) -> Result<()> {
    rig.console.skip();
    rig.console.send(&format!("{suite}\n"))?;
    let text = rig.console.expect("DONE", limit(rig.board, 30)).with_context(|| rig.tail())?;
    rig.console.expect("READY", limit(rig.board, 5))?;
    let passed = text.lines().filter(|line| line.starts_with("PASS ")).count();
    ensure!(passed > 5, "only {passed} cases passed:\n{text}");
    ensure!(!text.contains("there is no balloon"), "the guest has not found its balloon");
    if suite == "clocks" {
        is_today(&text)?;
    }
    let failed = failures(&text);
    if failed.is_empty() {
        return Ok(());
    }
    // What the emulator gets wrong without us, too, is not ours to answer for.
    let excused = match rig.board {
        Board::Bochs => BOCHS_WRONG.map(str::to_owned).into(),
        _ => without_monovisor(kernel, suite)?,
    };
    let ours: Vec<&str> =
        text.lines().filter(|line| failures(line).iter().any(|name| !excused.contains(name))).collect();
    ensure!(ours.is_empty(), "{passed} cases passed, these did not:\n{}", ours.join("\n"));
    Ok(())
}

/// The guest's RTC was set by the rig's, which goes by this machine's clock: give or take a day for a midnight and a time zone.
fn is_today(text: &str) -> Result<()> {
    let said = text.lines().find_map(|line| line.strip_prefix("date ")).context("the guest says no date")?;
    let numbers: Vec<i64> = said.trim().split('-').map(str::parse).collect::<Result<_, _>>()?;
    let [year, month, day] = numbers[..] else { bail!("{said:?} is no date") };
    // Days since 1970, of years that begin in March, so that a leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    let today = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() / 86_400;
    ensure!(
        days.abs_diff(today.cast_signed()) <= 1,
        "the guest's RTC says {said}, which is {days}, not {today}"
    );
    Ok(())
}

/// The cases that fail when QEMU starts the same kernel itself.
fn without_monovisor(kernel: &std::path::Path, suite: &str) -> Result<BTreeSet<String>> {
    let mut command = xtask::emulator::qemu();
    command.args(["-cpu", "max", "-m", "64"]);
    command.args(["-serial", "stdio", "-append", &format!("run={suite}"), "-kernel"]);
    command.arg(kernel).stderr(Stdio::null());
    let text = process::capture(&mut command, "plain QEMU", Duration::from_secs(60))?;
    ensure!(text.contains("DONE"), "the guest did not end on plain QEMU:\n{text}");
    Ok(failures(&text))
}

/// The guest is mapped one to one at the address that its ELF file names: what is saved must be what is in the file.
fn saved_memory(rig: &Running, kernel: &std::path::Path) -> Result<()> {
    use std::io::{Read, Seek};
    const PAGES: usize = 8192;
    let mut file = std::fs::File::open(kernel)?;
    file.seek(std::io::SeekFrom::Start(0x1000))?;
    let mut want = vec![0; PAGES];
    file.read_exact(&mut want)?;
    let mut client = rig.qmp()?;
    // The guest reads its console in a loop; stopped, it leaves Bochs all its time for the line.
    client.execute("stop", json!({}))?;
    for (command, path) in [("pmemsave", "/tmp/physical"), ("memsave", "/tmp/linear")] {
        client.execute(command, json!({ "val": 0x100_0000, "size": PAGES, "filename": path }))?;
        let got = pull::fetch(&mut client, path)?;
        ensure!(got.len() == PAGES, "{command}: {} bytes of {PAGES}", got.len());
        let differ = got.iter().zip(&want).position(|(got, want)| got != want);
        ensure!(differ.is_none(), "{command}: the bytes differ from the file at {differ:?}");
    }
    client.execute("cont", json!({}))?;
    Ok(())
}

pub(crate) fn run_last(rig: &mut Running, name: &str, end: End) -> Result<()> {
    let board = rig.board;
    let mut client = rig.qmp()?;
    rig.console.skip();
    rig.console.send(&format!("{name}\n"))?;
    rig.console.expect(&format!("LAST {name}"), limit(board, 5))?;
    match end {
        End::Reset => {
            client.wait_event("RESET", limit(board, 10))?;
            rig.console.expect("READY", limit(board, 20))?;
            let status = client.execute("query-status", json!({}))?;
            ensure!(status["status"] == "running", "{status}");
            return Ok(());
        }
        End::Off => {
            client.wait_event("SHUTDOWN", limit(board, 10))?;
            client.wait_event("STOP", limit(board, 10))?;
            let status = client.execute("query-status", json!({}))?;
            ensure!(status["status"] == "shutdown" && status["running"] == false, "{status}");
            let error = client.execute("cont", json!({})).err().context("cont was not refused")?;
            ensure!(format!("{error:#}").contains("Resetting the Virtual Machine is required"), "{error:#}");
        }
        End::Report => {
            let text = rig.console.expect("DONE", limit(board, 120))?;
            rig.console.expect("READY", limit(board, 5))?;
            let failed = failures(&text);
            ensure!(failed.is_empty(), "{text}");
            return Ok(());
        }
        End::Survive => {
            // Time for the worst.
            std::thread::sleep(limit(board, 1) / 4);
            client.execute("query-status", json!({}))?;
        }
    }
    client.execute("system_reset", json!({}))?;
    client.wait_event("RESET", limit(board, 10))?;
    let status = client.execute("query-status", json!({}))?;
    if status["running"] == false {
        client.execute("cont", json!({}))?;
    }
    rig.console.expect("READY", limit(board, 20))?;
    Ok(())
}

/// After a failed case: a reset, so that the next one can be tried.
fn recover(rig: &mut Running) -> bool {
    let mut again = || -> Result<()> {
        rig.console.skip();
        let mut client = rig.qmp()?;
        client.execute("system_reset", json!({}))?;
        let _ = client.execute("cont", json!({}));
        rig.console.expect("READY", limit(rig.board, 20))?;
        Ok(())
    };
    again().is_ok()
}

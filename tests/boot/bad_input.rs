//! What an operator gets wrong: one clear line on the log and over QMP, and the monitor stays up.

use crate::report::Report;
use crate::rig::{self, Running, limit, member};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::path::PathBuf;
use xtask::board::Board;
use xtask::emulator::Member;
use xtask::paths;

/// A mistake, and the words that must stand in one line about it.
struct Mistake {
    name: &'static str,
    options: &'static [&'static str],
    kernel: Kernel,
    rig_mib: u32,
    says: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum Kernel {
    None,
    Good,
    Text,
    Short,
    Empty,
}

const fn mistake(
    name: &'static str,
    options: &'static [&'static str],
    kernel: Kernel,
    says: &'static [&'static str],
) -> Mistake {
    Mistake { name, options, kernel, rig_mib: 192, says }
}

const MISTAKES: [Mistake; 16] = [
    mistake("no options at all", &[], Kernel::None, &["-kernel"]),
    mistake("no bundle", &["-m", "64", "-kernel", "vmlinuz"], Kernel::None, &["-kernel", "vmlinuz"]),
    mistake(
        "kernel not in the bundle",
        &["-m", "64", "-kernel", "other"],
        Kernel::Good,
        &["-kernel", "other"],
    ),
    mistake("kernel is a text", &["-m", "64", "-kernel", "kernel"], Kernel::Text, &["kernel"]),
    mistake("kernel is cut short", &["-m", "64", "-kernel", "kernel"], Kernel::Short, &["kernel"]),
    mistake("kernel is empty", &["-m", "64", "-kernel", "kernel"], Kernel::Empty, &["kernel"]),
    mistake(
        "initrd not there",
        &["-m", "64", "-kernel", "kernel", "-initrd", "gone"],
        Kernel::Good,
        &["-initrd", "gone"],
    ),
    mistake("memory is no number", &["-m", "lots", "-kernel", "kernel"], Kernel::Good, &["-m", "lots"]),
    mistake("memory of nothing", &["-m", "0", "-kernel", "kernel"], Kernel::Good, &["-m"]),
    mistake(
        "unknown option",
        &["-m", "64", "-frobnicate", "-kernel", "kernel"],
        Kernel::Good,
        &["-frobnicate"],
    ),
    mistake("option without its value", &["-m", "64", "-kernel"], Kernel::Good, &["-kernel"]),
    mistake("bad uuid", &["-m", "64", "-uuid", "12", "-kernel", "kernel"], Kernel::Good, &["-uuid"]),
    mistake("too many processors", &["-m", "64", "-smp", "99", "-kernel", "kernel"], Kernel::Good, &["-smp"]),
    mistake(
        "unknown CPU feature",
        &["-m", "64", "-cpu", "host,+frob", "-kernel", "kernel"],
        Kernel::Good,
        &["-cpu", "frob"],
    ),
    mistake(
        "CPU feature that a guest needs",
        &["-m", "64", "-cpu", "base,-lm", "-kernel", "kernel"],
        Kernel::Good,
        &["-cpu", "'lm'"],
    ),
    Mistake {
        name: "more memory than the rig has",
        options: &["-m", "4096", "-kernel", "kernel"],
        kernel: Kernel::Good,
        rig_mib: 192,
        says: &["-m"],
    },
];

/// Bochs takes seconds to start: a few mistakes are enough there, the code is the same.
const ON_BOCHS: [&str; 2] = ["kernel not in the bundle", "more memory than the rig has"];

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    for mistake in &MISTAKES {
        if board != Board::Bochs || ON_BOCHS.contains(&mistake.name) {
            report.check(board, &format!("bad-input::{}", mistake.name), || try_one(board, mistake));
        }
    }
    Ok(())
}

fn kernel(kind: Kernel) -> Result<Vec<Member>> {
    let good = rig::guest("demo")?;
    let directory = paths::cache("boot-tests")?;
    let made = |name: &str, content: &[u8]| -> Result<PathBuf> {
        let path = directory.join(name);
        paths::write_if_changed(&path, content)?;
        Ok(path)
    };
    let path = match kind {
        Kernel::None => return Ok(Vec::new()),
        Kernel::Good => good,
        Kernel::Text => made("kernel.text", "this is no kernel\n".repeat(500).as_bytes())?,
        Kernel::Short => made("kernel.short", &std::fs::read(good)?[..5000])?,
        Kernel::Empty => made("kernel.empty", b"")?,
    };
    Ok(vec![member("kernel", path)])
}

fn try_one(board: Board, mistake: &Mistake) -> Result<()> {
    let options = mistake.options.iter().map(|word| (*word).to_owned()).collect();
    let mut rig = rig::describe(board, "bad-input", options, kernel(mistake.kernel)?)?;
    rig.memory_mib = mistake.rig_mib;
    let mut rig = Running::start(&rig)?;
    let mut client = rig.qmp()?;
    let status = client.execute("query-status", json!({}))?;
    ensure!(status["running"] == false, "{status}");
    // The log over QMP, and the log itself.
    let log = client.execute("x-query-log", json!({}))?;
    let over_qmp = log["text"].as_str().context("x-query-log gave no text")?.to_owned();
    let says = |text: &str| text.lines().any(|line| mistake.says.iter().all(|word| line.contains(word)));
    rig.expect_log(mistake.says[0], limit(board, 5))?;
    ensure!(says(&rig.log()), "no line with {:?}; {}", mistake.says, rig.tail());
    ensure!(says(&over_qmp), "no line with {:?} over QMP: {over_qmp}", mistake.says);
    ensure!(!rig.log().contains("panic"), "{}", rig.tail());
    drop(client);
    rig.quit()
}

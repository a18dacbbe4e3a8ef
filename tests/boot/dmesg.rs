//! What the guest's kernel complains of: nothing that it does not complain of on the same emulator without us.

use crate::console::Console;
use crate::linux::{shell, start_with};
use crate::report::Report;
use crate::rig::limit;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;
use xtask::board::Board;
use xtask::guest::{self, Guest};
use xtask::line::Socket;
use xtask::process::Supervised;

/// Messages of this level and the graver ones below it count (KERN_WARNING).
const WARNING: u32 = 4;

/// Messages that only say that the emulator was slow just then, with Monovisor or without.
const SLOW: [&str; 1] = ["hrtimer: interrupt took"];

/// The emulator opens its serial line within this time.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    for processors in [1, 2] {
        let name = format!("dmesg::as without Monovisor ({processors})");
        report.check(board, &name, || compare(board, processors));
    }
    Ok(())
}

fn compare(board: Board, processors: u32) -> Result<()> {
    let plain = without_monovisor(board, processors)?;
    let mut rig = start_with(board, &format!("dmesg-{processors}"), processors)?;
    rig.console.expect("guest: ready", limit(board, 90)).with_context(|| rig.tail())?;
    rig.console.expect("# ", limit(board, 10))?;
    let ours = complaints(&shell(&mut rig, "dmesg -r")?)?;
    let known: BTreeSet<String> = plain.iter().map(|line| normal(line)).collect();
    let fresh: Vec<&str> =
        ours.iter().filter(|line| !known.contains(&normal(line))).map(String::as_str).collect();
    ensure!(
        fresh.is_empty(),
        "under Monovisor alone:\n{}\nwithout it:\n{}",
        fresh.join("\n"),
        plain.join("\n")
    );
    rig.quit()
}

/// The complaints of the same kernel where QEMU starts it itself.
fn without_monovisor(board: Board, processors: u32) -> Result<Vec<String>> {
    let files = guest::files(Guest::Linux)?;
    let socket = Socket::unix(&xtask::paths::cache("boot-tests")?.join(format!("dmesg-plain-{processors}")))?;
    let mut command = xtask::emulator::qemu();
    command.args(["-cpu", "max"]);
    command.args(["-m", "256", "-smp", &processors.to_string(), "-append", &files.append]);
    command.arg("-kernel").arg(&files.kernel);
    if let Some(initrd) = &files.initrd {
        command.arg("-initrd").arg(initrd);
    }
    command.args(["-serial", &format!("unix:{}", socket.address()?)]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut qemu = Supervised::spawn(&mut command, "plain QEMU")?;
    let mut console = Console::new(socket.accept(START_LIMIT, || Ok(qemu.try_wait()?.is_none()))?)?;
    console.expect("guest: ready", limit(board, 90))?;
    console.expect("# ", limit(board, 10))?;
    console.send("echo BE''GIN; dmesg -r; echo E''ND\n")?;
    console.expect("BEGIN", limit(board, 10))?;
    complaints(&console.expect("END", limit(board, 20))?)
}

/// The lines of `dmesg -r` that are warnings or worse.
fn complaints(text: &str) -> Result<Vec<String>> {
    let mut lines = 0;
    let mut graver = Vec::new();
    for line in text.lines() {
        let Some((level, rest)) = line.trim().strip_prefix('<').and_then(|line| line.split_once('>')) else {
            continue;
        };
        // The number holds the facility above the level's three bits.
        let level: u32 = level.parse().with_context(|| line.to_owned())?;
        lines += 1;
        if level & 7 <= WARNING && !SLOW.iter().any(|slow| rest.contains(slow)) {
            graver.push(rest.to_owned());
        }
    }
    ensure!(lines > 100, "dmesg has {lines} lines only:\n{text}");
    Ok(graver)
}

/// A message without its time, and with a `#` for each number, decimal or hexadecimal.
fn normal(line: &str) -> String {
    let text = line.split_once(']').map_or(line, |(_, text)| text);
    let mut normal = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let (body, end) = match word.char_indices().last() {
            Some((at, last)) if !last.is_ascii_alphanumeric() => word.split_at(at),
            _ => (word, ""),
        };
        let digits = body.strip_prefix("0x").unwrap_or(body);
        let number =
            digits.contains(|c: char| c.is_ascii_digit()) && digits.chars().all(|c| c.is_ascii_hexdigit());
        normal.push_str(if number { "#" } else { body });
        normal.push_str(end);
    }
    normal.trim().to_owned()
}

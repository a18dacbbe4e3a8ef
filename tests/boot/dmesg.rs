//! What the guest's kernel complains of: nothing that it does not complain of on the same emulator without us.

use crate::console::Console;
use crate::linux::{shell, start_with};
use crate::report::Report;
use crate::rig::{Running, limit};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use xtask::board::Board;
use xtask::emulator::{self, BochsPc};
use xtask::guest::{self, Files, Guest};
use xtask::iso;
use xtask::line::Socket;
use xtask::process::Supervised;

/// RAM of the machine without Monovisor in MiB: as much as the guest has.
const MEMORY_MIB: u32 = 256;

/// Messages of this level and the graver ones below it count (KERN_WARNING).
const WARNING: u32 = 4;

/// Messages that only say that the emulator was slow just then, with Monovisor or without.
const SLOW: [&str; 1] = ["hrtimer: interrupt took"];

/// The emulator opens its serial line within this time.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let kinds: &[u32] = if board == Board::Bochs { &[1, 2] } else { &[1, 2, 4] };
    for &processors in kinds {
        let name = format!("dmesg::as without Monovisor ({processors})");
        report.check(board, &name, || compare(board, processors));
    }
    Ok(())
}

fn compare(board: Board, processors: u32) -> Result<()> {
    let mut rig = start_with(board, &format!("dmesg-{processors}"), processors)?;
    rig.console.expect("guest: ready", limit(board, 180)).with_context(|| rig.tail())?;
    rig.console.expect("# ", limit(board, 10))?;
    let ours = said(&mut rig)?;
    rig.quit()?;
    as_without(board, Guest::Linux, processors, &ours)
}

/// The complaints of the kernel of a guest that has just started.
pub fn said(rig: &mut Running) -> Result<Vec<String>> {
    complaints(&shell(rig, "dmesg -r")?)
}

/// The same kernel has all of these complaints without Monovisor, too.
pub fn as_without(board: Board, kernel: Guest, processors: u32, ours: &[String]) -> Result<()> {
    let plain = without_monovisor(board, kernel, processors)?;
    let known: BTreeSet<String> = plain.iter().map(|line| normal(line)).collect();
    let fresh: Vec<&str> =
        ours.iter().filter(|line| !known.contains(&normal(line))).map(String::as_str).collect();
    ensure!(
        fresh.is_empty(),
        "under Monovisor alone:\n{}\nwithout it:\n{}",
        fresh.join("\n"),
        plain.join("\n")
    );
    Ok(())
}

/// The complaints of the same kernel where the emulator has nothing else in it.
fn without_monovisor(board: Board, kernel: Guest, processors: u32) -> Result<Vec<String>> {
    let kind = if kernel == Guest::LinuxGeneric { "generic" } else { "cloud" };
    let name = format!("{}-{kind}-plain-{processors}", board.name());
    let directory = xtask::paths::cache("boot-tests")?.join(name);
    std::fs::create_dir_all(&directory)?;
    let files = guest::files(kernel)?;
    let (socket, mut command) = match board {
        Board::Bochs => bochs(&files, processors, &directory)?,
        _ => qemu(&files, processors, &directory)?,
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut emulator = Supervised::spawn(&mut command, "the emulator without Monovisor")?;
    let mut console = Console::new(socket.accept(START_LIMIT, || Ok(emulator.try_wait()?.is_none()))?)?;
    console.expect("guest: ready", limit(board, 240))?;
    console.expect("# ", limit(board, 10))?;
    console.send("echo BE''GIN; dmesg -r; echo E''ND\n")?;
    console.expect("BEGIN", limit(board, 10))?;
    complaints(&console.expect("END", limit(board, 20))?)
}

/// QEMU, which starts a kernel itself.
fn qemu(files: &Files, processors: u32, directory: &Path) -> Result<(Socket, Command)> {
    let socket = Socket::unix(&directory.join("console"))?;
    let mut command = emulator::qemu();
    command.args(["-cpu", "max"]);
    command.args(["-m", &MEMORY_MIB.to_string(), "-smp", &processors.to_string(), "-append", &files.append]);
    command.arg("-kernel").arg(&files.kernel);
    if let Some(initrd) = &files.initrd {
        command.arg("-initrd").arg(initrd);
    }
    command.args(["-serial", &format!("unix:{}", socket.address()?)]);
    Ok((socket, command))
}

/// Bochs, where GRUB starts the kernel from a CD.
fn bochs(files: &Files, processors: u32, directory: &Path) -> Result<(Socket, Command)> {
    let socket = Socket::tcp()?;
    let disc = directory.join("boot.iso");
    iso::linux(files, directory, &disc)?;
    let lines = [("com1", socket.address()?)];
    let pc = BochsPc { processors, memory_mib: MEMORY_MIB, disc: &disc, lines: &lines };
    let command = pc.command(directory)?;
    Ok((socket, command))
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

//! Runs whose guests say what they measured.

use crate::board::Board;
use crate::emulator::{HOST_EXTRA_MIB, Member, Rig};
use crate::guest;
use crate::line::Line;
use crate::process::Supervised;
use crate::progress::Progress;
use crate::{build, paths};
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// RAM of the measured guests in MiB.
const MEMORY: u32 = 256;
/// The longest that one run may take.
const LIMIT: Duration = Duration::from_secs(300);

/// What the `figures` guest and Monovisor's log say.
pub struct Exits {
    /// Instructions from Monovisor's entry point to the guest's first.
    pub entry: f64,
    /// Instructions of a CPUID.
    pub cpuid: f64,
    /// Instructions of a read of the PM timer.
    pub pm_timer: f64,
    /// Instructions from the deadline of the guest's local APIC timer to its handler.
    pub timer: f64,
    /// Bytes of RAM that are neither the guest's nor the store's.
    pub host_ram: Result<f64>,
}

/// A rig with time counted in instructions.
pub fn rig(image: &Path, name: &str, options: &[&str], members: Vec<Member>) -> Result<Rig> {
    let mut rig = Rig::new(Board::Qemu, image.to_owned(), paths::cache("bench")?.join(name));
    rig.options = options.iter().map(|word| (*word).to_owned()).collect();
    rig.members = members;
    rig.memory_mib = MEMORY + HOST_EXTRA_MIB;
    rig.deterministic = true;
    Ok(rig)
}

/// Measures exits with our own guest.
pub fn exits(image: &Path) -> Result<Exits> {
    let kernel = build::freestanding("monovisor-guests", "figures", &[])?;
    let _progress = Progress::start("measuring exits");
    let member = Member { name: "figures".into(), path: kernel };
    let rig = rig(image, "exits", &["-m", "256", "-no-shutdown", "-kernel", "figures"], vec![member])?;
    let mut machine = rig.start()?;
    let text = read_until(&mut machine.console, "FIGURE done").with_context(|| machine.log_text())?;
    // The monitor's log is complete up to the guest's start by now.
    let log = machine.log_text();
    machine.process.kill();
    let first = figure(&text, "first-tsc")?;
    let before =
        word_before(&log, " TSC ticks after entry").context("the log does not say when the guest starts")?;
    Ok(Exits {
        entry: before + first,
        cpuid: figure(&text, "cpuid")?,
        pm_timer: figure(&text, "pm-timer")?,
        timer: figure(&text, "timer")?,
        host_ram: word_before(&log, " bytes of RAM for Monovisor itself")
            .context("the log does not say how much RAM Monovisor takes"),
    })
}

/// Blocks of the measured disk, 4 KiB each.
const DISK_BLOCKS: u64 = 2048;

/// Measures reads of 4 KiB from an image in RAM with a driver of our own: instructions of one, alone and with 31 others.
pub fn disk(image: &Path) -> Result<(f64, f64)> {
    let kernel = build::freestanding("monovisor-guests", "disk", &[])?;
    let _progress = Progress::start("measuring a disk");
    let mut content = vec![0; DISK_BLOCKS as usize * 4096];
    for (number, block) in (0..DISK_BLOCKS).zip(content.chunks_mut(4096)) {
        block[..8].copy_from_slice(&number.to_le_bytes());
    }
    let path = paths::cache("bench")?.join("disk.img");
    std::fs::write(&path, content)?;
    let members =
        vec![Member { name: "disk".into(), path: kernel }, Member { name: "disk.img".into(), path }];
    let options = ["-m", "256", "-no-shutdown", "-kernel", "disk", "-drive", "file=disk.img,readonly=on"];
    let mut machine = rig(image, "disk", &options, members)?.start()?;
    let text = read_until(&mut machine.console, "FIGURE done").with_context(|| machine.log_text())?;
    machine.process.kill();
    Ok((figure(&text, "blk-1")?, figure(&text, "blk-32")?))
}

/// Measures frames from one network card to another with a driver of our own: bytes of data for each 1,000 instructions, in
/// frames as long as TCP makes them where a card cuts them into segments, and in segments.
pub fn network(image: &Path) -> Result<(f64, f64)> {
    let kernel = build::freestanding("monovisor-guests", "net", &[])?;
    let _progress = Progress::start("measuring network cards");
    let member = Member { name: "net".into(), path: kernel };
    let mut options: Vec<&str> = "-m 256 -no-shutdown -kernel net".split(' ').collect();
    for word in [
        "-netdev hubport,id=n0,hubid=0 -device virtio-net-pci,netdev=n0",
        "-netdev hubport,id=n1,hubid=0 -device virtio-net-pci,netdev=n1",
    ] {
        options.extend(word.split(' '));
    }
    let mut machine = rig(image, "net", &options, vec![member])?.start()?;
    let text = read_until(&mut machine.console, "FIGURE done").with_context(|| machine.log_text())?;
    machine.process.kill();
    Ok((figure(&text, "net-long")?, figure(&text, "net-short")?))
}

/// Measures interrupts between two processors: to one that runs, and to one that halts.
pub fn between_processors(image: &Path) -> Result<(f64, f64)> {
    let kernel = build::freestanding("monovisor-guests", "figures", &[])?;
    let _progress = Progress::start("measuring interrupts between processors");
    let member = Member { name: "figures".into(), path: kernel };
    let options = ["-m", "256", "-smp", "2", "-no-shutdown", "-kernel", "figures"];
    let mut rig = rig(image, "processors", &options, vec![member])?;
    rig.processors = 2;
    let mut machine = rig.start()?;
    let text = read_until(&mut machine.console, "FIGURE done").with_context(|| machine.log_text())?;
    machine.process.kill();
    Ok((figure(&text, "ipi-running")?, figure(&text, "ipi-halted")?))
}

/// Boots the same kernel and initramfs with Monovisor and without, from power-on to /init's first act.
pub fn boot_ratio(image: &Path) -> Result<f64> {
    let tree = guest::linux_tree()?;
    let (kernel, initrd) = (tree.join("vmlinuz"), initramfs()?);
    let _progress = Progress::start("measuring the boot of Linux");
    let plain = without(&kernel, &initrd)?;
    let members =
        vec![Member { name: "vmlinuz".into(), path: kernel }, Member { name: "initrd".into(), path: initrd }];
    let options = ["-m", "256", "-kernel", "vmlinuz", "-initrd", "initrd", "-append", "console=ttyS0"];
    let rig = rig(image, "linux", &options, members)?;
    let mut machine = rig.start()?;
    let text = read_until(&mut machine.console, "FIGURE init-tsc ").with_context(|| machine.log_text())?;
    let text = text + &read_until(&mut machine.console, "\n")?;
    let log = machine.log_text();
    machine.process.kill();
    let entered =
        word_after(&log, "entered at TSC ").context("the log does not say at which TSC it was entered")?;
    let started =
        word_before(&log, " TSC ticks after entry").context("the log does not say when the guest starts")?;
    // The guest's TSC starts at 0 with the guest.
    Ok((entered + started + figure(&text, "init-tsc")?) / plain)
}

/// TSC at /init when QEMU starts the kernel itself; there it counts from power-on.
fn without(kernel: &Path, initrd: &Path) -> Result<f64> {
    let socket = crate::line::Socket::unix(&paths::cache("bench")?.join("plain"))?;
    let mut command = crate::emulator::qemu();
    command.args(["-cpu", "max"]);
    command.args(["-icount", "shift=0,sleep=off", "-m", &MEMORY.to_string()]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", "console=ttyS0"]);
    command.args(["-serial", &format!("unix:{}", socket.address()?)]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut qemu = Supervised::spawn(&mut command, "plain QEMU")?;
    let mut console = socket.accept(Duration::from_secs(30), || Ok(qemu.try_wait()?.is_none()))?;
    let text = read_until(&mut console, "FIGURE init-tsc ")? + &read_until(&mut console, "\n")?;
    figure(&text, "init-tsc")
}

/// An initramfs whose /init tells the TSC.
fn initramfs() -> Result<PathBuf> {
    let directory = paths::cache("bench")?;
    let init = directory.join("init");
    guest::program("init", &init)?;
    let mut archive = crate::cpio::Archive::new();
    archive.directory("dev").device("dev/console", 5, 1);
    archive.file("init", 0o755, &std::fs::read(&init)?);
    let path = directory.join("initrd.cpio");
    paths::write_if_changed(&path, &archive.finish())?;
    Ok(path)
}

/// Reads a console until `text` has come; what came, `text` included.
pub fn read_until(line: &mut Line, text: &str) -> Result<String> {
    let end = Instant::now() + LIMIT;
    let mut heard = Vec::new();
    line.set_read_timeout(Some(Duration::from_secs(1)))?;
    loop {
        if heard.ends_with(text.as_bytes()) {
            return Ok(String::from_utf8_lossy(&heard).into_owned());
        }
        if Instant::now() >= end {
            let shown = String::from_utf8_lossy(&heard);
            let from = shown.len().saturating_sub(800);
            bail!("no {text:?} on the console; it ends with:\n{}", shown.get(from..).unwrap_or(&shown));
        }
        // A byte at a time: what comes after `text` is left for the next call.
        let mut byte = [0];
        match line.read(&mut byte) {
            Ok(0) => bail!("the console ended before {text:?}: {}", String::from_utf8_lossy(&heard)),
            Ok(_) => heard.push(byte[0]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The value of a `FIGURE name value` line.
fn figure(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.split_once(&format!("FIGURE {name} ")));
    let value = line.and_then(|(_, value)| value.trim().parse().ok());
    value.with_context(|| format!("the guest gave no figure {name}"))
}

fn word_before(text: &str, mark: &str) -> Option<f64> {
    text.split_once(mark)?.0.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn word_after(text: &str, mark: &str) -> Option<f64> {
    text.split_once(mark)?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found() {
        assert_eq!(figure("x\r\nFIGURE cpuid 512\r\n", "cpuid").unwrap(), 512.0);
        assert!(figure("FIGURE other 1", "cpuid").is_err());
        assert_eq!(word_before("starts 1234 TSC ticks after entry", " TSC ticks after entry"), Some(1234.0));
        assert_eq!(word_after("entered at TSC 77, so", "entered at TSC "), Some(77.0));
    }
}

//! Debian's generic kernel, which has a driver for everything and so probes everything, with each number of processors.

use crate::report::Report;
use crate::rig::{Running, limit};
use crate::{dmesg, linux};
use anyhow::{Context, Result, ensure};
use xtask::board::Board;
use xtask::guest::Guest;

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let kinds: &[u32] = if board == Board::Bochs { &[1, 2] } else { &[1, 2, 4] };
    for &processors in kinds {
        boot(board, report, processors)?;
    }
    Ok(())
}

fn boot(board: Board, report: &Report, processors: u32) -> Result<()> {
    let name = |what: &str| format!("linux-generic::{what} ({processors})");
    let name_of_rig = format!("linux-generic-{processors}");
    let mut rig =
        Running::start(&linux::describe_kernel(board, &name_of_rig, Guest::LinuxGeneric, processors)?)?;
    let booted = report.check(board, &name("boots to userspace"), || {
        rig.console.expect("guest: ready", limit(board, 240)).with_context(|| rig.tail())?;
        rig.console.expect("# ", limit(board, 10))?;
        Ok(())
    });
    if !booted {
        return Ok(());
    }
    report.check(board, &name("processors"), || linux::is(&mut rig, Guest::LinuxGeneric, processors));
    report.check(board, &name("nothing broken in the kernel's log"), || {
        // What WARN() says. In Bochs "RETBleed: WARNING:" is a word about the processor, with Monovisor or without.
        let words = "BUG:|WARNING: CPU|Oops|Call Trace|soft lockup|unchecked MSR|Firmware Bug|nobody cared";
        let said = linux::shell(&mut rig, &format!("dmesg | grep -E '{words}'"))?;
        ensure!(said.is_empty(), "{said}");
        Ok(())
    });
    let ours = dmesg::said(&mut rig);
    report.check(board, &name("switches itself off"), || {
        rig.console.send("poweroff -f\n")?;
        rig.expect_log("the guest has ended", limit(board, 20))
    });
    report.check(board, &name("quit"), || rig.quit());
    report.check(board, &name("complaints as without Monovisor"), || {
        dmesg::as_without(board, Guest::LinuxGeneric, processors, &ours?)
    });
    Ok(())
}

//! Debian's generic kernel, which has a driver for everything and so probes everything, with each number of processors.

use crate::linux;
use crate::report::Report;
use crate::rig::{Running, limit, member};
use anyhow::{Context, Result, ensure};
use xtask::board::Board;
use xtask::guest::{self, Guest};

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    for processors in if board == Board::Bochs { vec![1, 2] } else { vec![1, 2, 4] } {
        boot(board, report, processors)?;
    }
    Ok(())
}

fn boot(board: Board, report: &Report, processors: u32) -> Result<()> {
    let name = |what: &str| format!("linux-generic::{what} ({processors})");
    let files = guest::files(Guest::LinuxGeneric)?;
    let mut rig = linux::describe(board, &format!("linux-generic-{processors}"), processors)?;
    rig.members = vec![member("vmlinuz", files.kernel)];
    rig.members.extend(files.initrd.map(|path| member("initrd.img", path)));
    let mut rig = Running::start(&rig)?;
    let booted = report.check(board, &name("boots to userspace"), || {
        rig.console.expect("guest: ready", limit(board, 240)).with_context(|| rig.tail())?;
        rig.console.expect("# ", limit(board, 10))?;
        Ok(())
    });
    if !booted {
        return Ok(());
    }
    report.check(board, &name("processors"), || {
        let online = linux::shell(&mut rig, "nproc")?;
        ensure!(online == processors.to_string(), "{online}");
        Ok(())
    });
    report.check(board, &name("nothing broken in the kernel's log"), || {
        let words = "BUG:|WARNING:|Oops|Call Trace|soft lockup|unchecked MSR|Firmware Bug|nobody cared";
        let said = linux::shell(&mut rig, &format!("dmesg | grep -E '{words}'"))?;
        ensure!(said.is_empty(), "{said}");
        Ok(())
    });
    report.check(board, &name("switches itself off"), || {
        rig.console.send("poweroff -f\n")?;
        rig.expect_log("the guest has ended", limit(board, 20))
    });
    report.check(board, &name("quit"), || rig.quit());
    Ok(())
}

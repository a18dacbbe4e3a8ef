//! Guests with several processors.

use crate::guests::{End, failures, run_last};
use crate::linux::{nmi, powerdown, reset, shell, start_with, stop_and_cont};
use crate::report::Report;
use crate::rig::{self, Running, limit, member, words};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use xtask::board::Board;

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    report.check(board, "smp::more than the rig has", || too_many(board));
    if board == Board::Qemu {
        report.check(board, "smp::one processor at a time", || in_turn(board));
    }
    cases(board, report)?;
    for processors in if board == Board::Bochs { vec![2] } else { vec![2, 4, 8] } {
        let mut rig = start_with(board, &format!("smp-{processors}"), processors)?;
        let name = |what: &str| format!("smp::{what} ({processors})");
        let booted = report.check(board, &name("Linux boots"), || {
            rig.console.expect("guest: ready", limit(board, 90)).with_context(|| rig.tail())?;
            rig.console.expect("# ", limit(board, 10))?;
            Ok(())
        });
        if !booted {
            continue;
        }
        report.check(board, &name("all processors work"), || all_work(&mut rig, processors));
        report.check(board, &name("queries"), || queries(&rig, processors));
        report.check(board, &name("stop and cont"), || stop_and_cont(&mut rig));
        report.check(board, &name("all stand still"), || all_stand(&mut rig, processors));
        report.check(board, &name("inject-nmi"), || nmi(&mut rig));
        if board == Board::Qemu {
            report.check(board, &name("system_reset"), || reset(&mut rig));
            report.check(board, &name("all processors work again"), || all_work(&mut rig, processors));
        }
        report.check(board, &name("system_powerdown"), || powerdown(&mut rig));
        report.check(board, &name("quit"), || rig.quit());
    }
    Ok(())
}

fn too_many(board: Board) -> Result<()> {
    let options = words("-m 32 -smp 3 -kernel demo");
    let mut rig = rig::describe(board, "smp-too-many", options, vec![member("demo", rig::guest("demo")?)])?;
    rig.processors = 2;
    let mut rig = Running::start(&rig)?;
    rig.expect_log("-smp 3: this machine has only 2 processors", limit(board, 20))?;
    let status = rig.qmp()?.execute("query-status", json!({}))?;
    ensure!(status["status"] == "internal-error", "{status}");
    rig.quit()
}

/// Emulated by one thread, the rig's processors have to leave off again and again, and not only where an interrupt waits.
/// QEMU then delivers an interrupt that was injected once more.
fn in_turn(board: Board) -> Result<()> {
    let options = words("-m 64 -no-shutdown -smp 2 -kernel cases");
    let mut rig = rig::describe(board, "smp-in-turn", options, vec![member("cases", rig::guest("cases")?)])?;
    rig.processors = 2;
    rig.deterministic = true;
    let mut rig = Running::start(&rig)?;
    rig.console.expect("READY", limit(board, 20)).with_context(|| rig.tail())?;
    rig.console.send("time\n")?;
    let text = rig.console.expect("DONE", limit(board, 60)).with_context(|| rig.tail())?;
    ensure!(failures(&text).is_empty() && text.matches("PASS ").count() > 20, "{text}");
    rig.quit()
}

/// Our own guest: INIT, start-up and interrupts between processors, and processors that end the guest.
fn cases(board: Board, report: &Report) -> Result<()> {
    let processors = if board == Board::Bochs { 2 } else { 4 };
    let options =
        words(&format!("-m 64 -no-shutdown -smp {processors} -kernel cases -device virtio-balloon-pci"));
    let options = rig::with_x2apic(board, options);
    let mut rig = rig::describe(board, "smp-cases", options, vec![member("cases", rig::guest("cases")?)])?;
    rig.processors = processors;
    rig.parallel = rig::parallel();
    let mut rig = Running::start(&rig)?;
    rig.console.expect("READY", limit(board, 20)).with_context(|| rig.tail())?;
    report.check(board, "smp::cases", || {
        rig.console.skip();
        rig.console.send("smp\n")?;
        // QEMU's one thread takes a minute for four processors that wait for each other in loops.
        let text = rig.console.expect("DONE", limit(board, 200)).with_context(|| rig.tail())?;
        let failed = failures(&text);
        ensure!(failed.is_empty() && text.matches("PASS ").count() > 20, "{text}");
        ensure!(!text.contains("there is no balloon"), "the guest has not found its balloon");
        rig.console.expect("READY", limit(board, 5))?;
        Ok(())
    });
    for name in ["triple-other", "triple-other-alone"] {
        report.check(board, &format!("smp::{name}"), || run_last(&mut rig, name, End::Reset));
    }
    report.check(board, "smp::quit", || rig.quit());
    Ok(())
}

/// The counts of a row of /proc/interrupts, one a processor.
fn interrupts(rig: &mut Running, row: &str) -> Result<Vec<u64>> {
    let line = shell(rig, &format!("grep '{row}:' /proc/interrupts"))?;
    Ok(line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect())
}

fn all_work(rig: &mut Running, processors: u32) -> Result<()> {
    let count = shell(rig, "nproc")?;
    ensure!(count == processors.to_string(), "{count:?} processors");
    let online = shell(rig, "cat /sys/devices/system/cpu/online")?;
    ensure!(online == format!("0-{}", processors - 1), "{online:?} are online");
    let packages = shell(rig, "sort -u /sys/devices/system/cpu/cpu*/topology/core_id | wc -l")?;
    ensure!(packages == processors.to_string(), "{packages:?} cores");
    // As many busy loops as there are processors end in about the time of one: and every processor's clock ticks.
    let before = interrupts(rig, "LOC")?;
    let busy = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done";
    let jobs = format!("({busy}) & ").repeat(processors as usize);
    shell(rig, &format!("{jobs} wait"))?;
    let after = interrupts(rig, "LOC")?;
    ensure!(
        before.len() == processors as usize
            && before.iter().zip(&after).all(|(before, after)| after > before),
        "local timer interrupts {before:?}, then {after:?}"
    );
    // Function calls by interrupt reach all.
    let calls = interrupts(rig, "CAL")?;
    ensure!(calls.iter().all(|count| *count > 0), "function call interrupts {calls:?}");
    Ok(())
}

fn queries(rig: &Running, processors: u32) -> Result<()> {
    let mut client = rig.qmp()?;
    for command in ["stop", "cont"] {
        let cpus = client.execute("query-cpus", json!({}))?;
        let list = cpus.as_array().context("no list")?;
        ensure!(list.len() == processors as usize, "{cpus}");
        for (number, cpu) in (0u64..).zip(list) {
            ensure!(cpu["CPU"] == number && cpu["thread_id"] == number + 1, "{cpu}");
            ensure!(cpu["current"] == (number == 0), "{cpu}");
            // Linux, or its user, in the upper or the lower half.
            ensure!(cpu["pc"].as_i64().is_some_and(|pc| !(0..=0x1000).contains(&pc)), "{cpu}");
        }
        client.execute(command, json!({}))?;
    }
    let last = processors - 1;
    client.execute("cpu", json!({ "index": last }))?;
    let error = client.execute("cpu", json!({ "index": processors })).err().context("no such processor")?;
    ensure!(format!("{error:#}").contains("Parameter 'index' expects a CPU number"), "{error:#}");
    let registers = client
        .execute("human-monitor-command", json!({ "command-line": "info registers", "cpu-index": last }))?;
    ensure!(registers.as_str().is_some_and(|text| text.contains("CR3=")), "{registers}");
    let cpus = client.execute("human-monitor-command", json!({ "command-line": "info cpus" }))?;
    ensure!(cpus.as_str().is_some_and(|text| text.contains(&format!("CPU #{last}:"))), "{cpus}");
    // Memory by that processor's addresses: the instruction that it is at.
    client.execute("stop", json!({}))?;
    let all = client.execute("query-cpus", json!({}))?;
    let save =
        json!({ "val": all[last as usize]["pc"], "size": 1, "filename": "/tmp/text", "cpu-index": last });
    client.execute("memsave", save)?;
    client.execute("cont", json!({}))?;
    Ok(())
}

/// A guest that is stopped does not change, whichever processor ran what.
fn all_stand(rig: &mut Running, processors: u32) -> Result<()> {
    let busy = "(while true; do true; done) & ".repeat(processors as usize);
    rig.console.send(&format!("{busy} echo bu''sy\n"))?;
    rig.console.expect("busy", limit(rig.board, 20))?;
    let mut client = rig.qmp()?;
    client.execute("stop", json!({}))?;
    let cpus = |client: &mut xtask::qmp::Client| -> Result<Value> { client.execute("query-cpus", json!({})) };
    let first = cpus(&mut client)?;
    std::thread::sleep(limit(rig.board, 1) / 4);
    let second = cpus(&mut client)?;
    if first != second {
        bail!("a stopped guest's processors went on: {first}, then {second}");
    }
    client.execute("cont", json!({}))?;
    shell(rig, "kill $(jobs -p)")?;
    Ok(())
}

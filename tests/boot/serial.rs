//! The serial line at its limits: full speed while the guest never rests, and speeds that cannot be.
//!
//! Bochs hands its UART a character from a terminal as often as the line's speed says, which at 115200 baud is once in 4340
//! instructions of its processor, and has it overrun if nobody fetches it: what is lost there would be lost on a rig with
//! 921600 baud whose processor makes 400 million instructions a second. QEMU waits until the FIFO has room, so it shows
//! that nothing is lost or doubled on the way, at any speed. It can give its UART breaks, and so many that the FIFO overruns.

use crate::report::Report;
use crate::rig::{self, Running, limit, member, words};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use xtask::board::Board;
use xtask::qmp::Client;

/// What the `storm` guest can do without rest.
const STORMS: [&str; 4] = ["cpuid", "port", "mmio", "cpu"];

/// Characters that are sent in each storm.
const fn volume(board: Board) -> usize {
    if matches!(board, Board::Bochs) { 16 << 10 } else { 64 << 10 }
}

/// Characters that are on their way at a time: what the monitor reads ahead is more.
const AHEAD: usize = 3 << 10;

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    for storm in STORMS {
        report.check(board, &format!("serial::not one byte lost, {storm}"), || {
            not_one_lost(board, storm, false)
        });
    }
    report.check(board, "serial::a rate that cannot be", || bad_rate(board));
    if board == Board::Qemu {
        report.check(board, "serial::breaks and overruns", disturbed);
        report.check(board, "serial::no interrupt arrives", || not_one_lost(board, "cpuid", true));
    }
    Ok(())
}

/// What `x-query-serial` says about COM1.
fn com1(client: &mut Client) -> Result<Value> {
    let ports = client.execute("x-query-serial", json!({}))?;
    let com1 = ports.as_array().into_iter().flatten().find(|port| port["port"] == "com1");
    com1.cloned().with_context(|| format!("no com1 in {ports}"))
}

/// A long command and what it is answered with. No two of the same text follow each other.
fn exchange(number: usize) -> (String, Value) {
    let text: String =
        (0..64 + number % 192).map(|at| char::from(b' ' + ((at * 7 + number) % 95) as u8)).collect();
    let id = json!({ "number": number, "text": text });
    let command = json!({ "execute": "query-name", "id": id }).to_string();
    (format!("{command}\r\n"), json!({ "return": { "name": "storm" }, "id": id }))
}

/// `silent`: on a board that has wired the lines to another interrupt than the tables say.
fn not_one_lost(board: Board, storm: &str, silent: bool) -> Result<()> {
    let kernel = rig::guest("storm")?;
    let mut options = words("-m 64 -name storm -no-shutdown -kernel storm -append");
    options.push(format!("run={storm}"));
    let (mut speed, mut extra) = ("com1:115200", Vec::new());
    if board == Board::Qemu {
        speed = "com1:921600,baudbase=921600";
        extra = ["-global", "serial.baudbase=921600"].map(Into::into).to_vec();
    }
    if silent {
        extra.extend(["-global", "isa-serial.irq=10"].map(Into::into));
    }
    options.extend(["-serial", speed].map(String::from));
    let mut description =
        rig::describe(board, &format!("serial-{storm}-{silent}"), options, vec![member("storm", kernel)])?;
    description.extra = extra;
    description.merciless = true;
    let mut rig = Running::start(&description)?;
    rig.console.expect("STORM", limit(board, 20)).with_context(|| rig.tail())?;
    let mut client = rig.qmp()?;
    let before = com1(&mut client)?;
    let sent = pour(&mut client, volume(board), limit(board, 60))?;
    let after = com1(&mut client)?;
    let grown = |what: &str| after[what].as_u64().unwrap_or(0) - before[what].as_u64().unwrap_or(0);
    // The second query is in the count, and the end of either's line may be.
    let query = br#"{"execute":"x-query-serial"}"#.len();
    let expected = (sent + query) as u64..=(sent + query + 4) as u64;
    ensure!(expected.contains(&grown("received")), "{sent} sent, {} received", grown("received"));
    for what in ["overruns", "framing", "parity", "breaks"] {
        ensure!(after[what] == 0, "{after}");
    }
    let status = client.execute("query-status", json!({}))?;
    ensure!(status["running"] == true, "{status}");
    drop(client);
    rig.quit()
}

/// Sends commands without a pause and compares each answer. Returns how many characters were sent.
fn pour(client: &mut Client, volume: usize, limit: Duration) -> Result<usize> {
    let end = Instant::now() + limit;
    let (mut sent, mut answered, mut number) = (0, 0, 0);
    let mut expected: VecDeque<(usize, Value)> = VecDeque::new();
    while answered < volume {
        while sent - answered < AHEAD && sent < volume {
            let (command, answer) = exchange(number);
            client.send(command.as_bytes())?;
            expected.push_back((command.len(), answer));
            sent += command.len();
            number += 1;
        }
        let Some((length, wanted)) = expected.pop_front() else { break };
        let answer = client.message(end.saturating_duration_since(Instant::now()));
        let answer = answer.with_context(|| format!("after {answered} of {volume} characters"))?;
        ensure!(answer == wanted, "answer {answer} instead of {wanted}");
        answered += length;
    }
    Ok(sent)
}

/// Breaks in the middle of a message, so many that the chip has no room for them, never make a command of what is left of it;
/// each time there is an error, and the next message is understood.
fn disturbed() -> Result<()> {
    const BREAK: &[u8] = b"\x01b";
    let storm = member("storm", rig::guest("storm")?);
    let options = words("-m 64 -no-shutdown -kernel storm -append run=cpuid");
    let mut description = rig::describe(Board::Qemu, "serial-breaks", options, vec![storm])?;
    description.breaks = true;
    let mut rig = Running::start(&description)?;
    let mut client = rig.qmp()?;
    let before = com1(&mut client)?;
    for count in [1, 5, 100, 1] {
        let halves = [br#"{"execute":"query-na"#.as_slice(), b"me\"}\r\n"];
        client.send(&halves.join(&BREAK.repeat(count)[..]))?;
        let lost = client.message(limit(Board::Qemu, 10))?;
        // What the chip tells of breaks depends on how much room its FIFO has just then.
        let text = lost["error"]["desc"].as_str().unwrap_or_default();
        ensure!(
            ["break", "overrun"]
                .iter()
                .any(|cause| text == format!("Input lost on the serial line ({cause})")),
            "{count} breaks: {lost}"
        );
        // Silence begins afresh. What came before it may have been an error once more, but no command.
        client.collect_events(Duration::from_millis(200))?;
        let answers = client.events.drain(..).filter(|message| message.get("return").is_some());
        ensure!(answers.count() == 0, "after {count} breaks a command was carried out");
        client.execute("query-status", json!({})).with_context(|| format!("after {count} breaks"))?;
    }
    let after = com1(&mut client)?;
    let grown = |what: &str| after[what].as_u64().unwrap_or(0) - before[what].as_u64().unwrap_or(0);
    // The chip tells breaks that follow each other at once as one.
    ensure!(grown("breaks") + grown("overruns") >= 4, "{after}");
    drop(client);
    rig.quit()
}

/// A speed that the clock does not give is an error that names the option, and the line has the usual one.
fn bad_rate(board: Board) -> Result<()> {
    let options = words("-m 64 -serial com1:921600 -qmp com4 -kernel demo");
    let demo = member("demo", rig::guest("demo")?);
    let mut rig = Running::start(&rig::describe(board, "serial-rate", options, vec![demo])?)?;
    let said = "-serial com1:921600: a clock of baudbase=115200 cannot do this; the fastest is 115200";
    rig.expect_log(said, limit(board, 10))?;
    rig.expect_log("-qmp com4: there is no serial port at 0x2e8", limit(board, 10))?;
    let mut client = rig.qmp()?;
    ensure!(com1(&mut client)?["baud"] == 115_200, "the speed of com1");
    let status = client.execute("query-status", json!({}))?;
    ensure!(status["status"] == "internal-error", "{status}");
    match client.execute("cont", json!({})) {
        Ok(result) => anyhow::bail!("cont was not refused: {result}"),
        Err(error) => {
            ensure!(error.to_string().contains("cont") && format!("{error:#}").contains(said), "{error:#}")
        }
    }
    drop(client);
    rig.quit()
}

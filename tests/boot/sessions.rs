//! Two monitors at once, on two serial lines that share an interrupt.

use crate::report::Report;
use crate::rig::{self, Running, limit, member, words};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use xtask::board::Board;
use xtask::qmp::Client;

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let demo = rig::guest("demo")?;
    let options = words("-m 64 -name sessions -no-shutdown -kernel demo");
    let mut description = rig::describe(board, "sessions", options, vec![member("demo", demo)])?;
    description.second = true;
    let mut rig = Running::start(&description)?;
    rig.console.expect("tick 1", limit(board, 20)).with_context(|| rig.tail())?;
    report.check(board, "sessions::each has its own state", || own_state(&rig));
    report.check(board, "sessions::events go to both", || events(board, &rig));
    report.check(board, "sessions::a long reply holds up nobody", || long_reply(board, &rig));
    report.check(board, "sessions::both at once", || both_at_once(&rig));
    if board == Board::Qemu {
        // Elsewhere a line is a TCP connection, which takes more than a test may wait for.
        report.check(board, "sessions::a client that does not read holds up nobody", || {
            unread(board, &mut rig)
        });
    }
    report.check(board, "sessions::a client that goes disturbs nobody", || vanish(&rig));
    report.check(board, "sessions::the lines are character devices", || lines(&rig));
    report.check(board, "sessions::quit says good-bye on both", || {
        let mut second = rig.second()?;
        rig.quit()?;
        second.wait_event("SHUTDOWN", limit(board, 10)).map(drop)
    });
    Ok(())
}

/// What a message is answered with, whole.
fn ask(client: &mut Client, message: &Value) -> Result<Value> {
    client.send(format!("{message}\r\n").as_bytes())?;
    client.message(client.limit)
}

fn own_state(rig: &Running) -> Result<()> {
    let (mut first, mut second) = (rig.qmp()?, rig.second()?);
    // Negotiation is the session's own: a new client on one line leaves the other in command mode.
    drop(second);
    second = rig.second()?;
    for (client, id) in [(&mut first, json!("one")), (&mut second, json!({ "two": [2] }))] {
        let answer = ask(client, &json!({ "execute": "query-name", "id": id }))?;
        ensure!(answer == json!({ "return": { "name": "sessions" }, "id": id }), "{answer}");
    }
    // Half a message on one line is nothing to the other.
    first.send(b"{\"execute\": ")?;
    let answer = second.execute("query-status", json!({}))?;
    ensure!(answer["running"] == true, "{answer}");
    let answer = first.raw("\"query-name\"}")?;
    ensure!(answer["name"] == "sessions", "{answer}");
    Ok(())
}

fn events(board: Board, rig: &Running) -> Result<()> {
    let (mut first, mut second) = (rig.qmp()?, rig.second()?);
    first.execute("stop", json!({}))?;
    second.execute("cont", json!({}))?;
    for client in [&mut first, &mut second] {
        for name in ["STOP", "RESUME"] {
            client.wait_event(name, limit(board, 10))?;
        }
    }
    Ok(())
}

/// While one session sends the schema, which is 90 KB, the other is answered many times.
fn long_reply(board: Board, rig: &Running) -> Result<()> {
    let (mut first, mut second) = (rig.qmp()?, rig.second()?);
    first.send(b"{\"execute\": \"query-qmp-schema\", \"id\": 1}\r\n")?;
    let end = Instant::now() + limit(board, 30);
    let mut answers = 0;
    let schema = loop {
        let status = second.execute("query-status", json!({}))?;
        ensure!(status["running"] == true, "{status}");
        answers += 1;
        if let Some(line) = first.line(Duration::from_millis(1))? {
            break line;
        }
        ensure!(Instant::now() < end, "no schema; {answers} answers on the other line");
    };
    let schema: Value = serde_json::from_str(&schema)?;
    ensure!(
        schema["id"] == 1 && schema["return"].as_array().is_some_and(|list| list.len() > 100),
        "the schema"
    );
    ensure!(answers > 1, "{answers} answers meanwhile");
    Ok(())
}

/// Both lines carry commands without a pause; every answer has its own `id`.
fn both_at_once(rig: &Running) -> Result<()> {
    const COMMANDS: u32 = 100;
    let talk = |mut client: Client, name: &'static str| -> Result<()> {
        for number in 0..COMMANDS {
            let id = json!({ name: number });
            let answer = ask(&mut client, &json!({ "execute": "query-status", "id": id }))?;
            ensure!(answer["id"] == id && answer["return"]["running"] == true, "{answer}");
        }
        Ok(())
    };
    let (first, second) = (rig.qmp()?, rig.second()?);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| talk(second, "second"));
        talk(first, "first").context("first line")?;
        other.join().map_err(|_| anyhow::anyhow!("a panic"))?.context("second line")
    })
}

/// Its line takes no more in either direction; the other one's interrupts and the guest's timer are taken all the same.
fn unread(board: Board, rig: &mut Running) -> Result<()> {
    const COMMANDS: usize = 10_000;
    let (mut first, mut second) = (rig.qmp()?, rig.second()?);
    let commands: String =
        (0..COMMANDS).map(|id| json!({"execute": "query-version", "id": id}).to_string()).collect();
    first.send(commands.as_bytes())?;
    // Until then all that there is between the client and the chip is full.
    let (end, mut before) = (Instant::now() + limit(board, 30), None);
    loop {
        let lines = second.execute("x-query-serial", json!({}))?;
        let received = lines.as_array().and_then(|lines| lines.first()).map(|line| line["received"].clone());
        if received == before {
            break;
        }
        ensure!(Instant::now() < end, "the line takes more and more: {lines}");
        before = received;
        std::thread::sleep(Duration::from_secs(1));
    }
    for _ in 0..10 {
        second.execute("query-status", json!({}))?;
        drop(second);
        second = rig.second()?;
    }
    rig.console.skip();
    rig.console.expect("tick", limit(board, 10))?;
    for id in 0..COMMANDS {
        let answer = first.message(limit(board, 30))?;
        ensure!(answer["id"] == id, "{answer}");
    }
    Ok(())
}

fn vanish(rig: &Running) -> Result<()> {
    let mut second = rig.second()?;
    for _ in 0..5 {
        let mut first = rig.qmp()?;
        first.send(b"{\"execute\": \"query-qmp-schema\"}{\"exec")?;
        drop(first);
        let status = second.execute("query-status", json!({}))?;
        ensure!(status["running"] == true, "{status}");
    }
    rig.qmp()?.execute("query-status", json!({})).map(drop)
}

fn lines(rig: &Running) -> Result<()> {
    let there = rig.second()?.execute("query-chardev", json!({}))?;
    let name = |label: &str| {
        let device = there.as_array().into_iter().flatten().find(|device| device["label"] == label);
        device.map_or("", |device| device["filename"].as_str().unwrap_or_default())
    };
    let names = ["compat_monitor0", "compat_monitor1", "serial0"].map(name);
    ensure!(names == ["serial:com1", "serial:com3", "serial:com2"], "{there}");
    Ok(())
}

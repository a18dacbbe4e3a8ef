//! Sessions over a line in memory.

use std::{boxed::Box, collections::VecDeque, string::String, vec::Vec};

use super::*;
use crate::{
    LineError, Text,
    handlers::*,
    schema::{
        Command, Event,
        misc::*,
        run_state::{self, *},
    },
};

static OFFERED: Offered = Offered::new(
    &[
        Command::QMP_CAPABILITIES,
        Command::QUERY_VERSION,
        Command::QUERY_COMMANDS,
        Command::QUERY_QMP_SCHEMA,
        Command::QUERY_STATUS,
        Command::QUERY_NAME,
        Command::STOP,
        Command::CONT,
        Command::HUMAN_MONITOR_COMMAND,
        Command::X_QUERY_EVENTS_LOST,
        Command::X_STORE_READ,
    ],
    &[Event::STOP, Event::RESUME, Event::RTC_CHANGE],
);

const PRODUCT: Product = Product { package: "", offered: &OFFERED };

#[derive(Default)]
struct Guest {
    running: bool,
    /// Calls of `stop` that are not ready yet.
    slow: usize,
}

impl RunControl for Guest {
    fn query_status(&mut self, _: &mut Context<'_>) -> Poll<StatusInfo> {
        let status = if self.running { RunState::Running } else { RunState::Paused };
        Ok(StatusInfo { running: self.running, singlestep: false, status })
    }

    fn stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        assert_eq!(cx.first, cx.progress == 0);
        cx.progress += 1;
        if cx.progress <= self.slow as u64 {
            return Err(nb::Error::WouldBlock);
        }
        if self.running {
            self.running = false;
            cx.event(&run_state::Stop {});
        }
        Ok(())
    }
}

impl Human for Guest {
    fn human_monitor_command(
        &mut self,
        arguments: HumanMonitorCommandArgs<'_>,
        text: &mut Text<'_, '_>,
        _: &mut Context<'_>,
    ) -> Poll<()> {
        for line in 0..arguments.command_line.len() {
            text.write(format_args!("line {line}\n"))?;
        }
        Ok(())
    }
}

impl StoreFiles for Guest {
    fn store_size(&mut self, path: &str) -> crate::error::Result<u64> {
        if path == "/file" { Ok(100_000) } else { Err(Error::cannot_open(path, "No such file or directory")) }
    }

    fn store_read(&mut self, _: &str, offset: u64, bytes: &mut [u8]) -> crate::error::Result<()> {
        for (byte, at) in bytes.iter_mut().zip(offset..) {
            *byte = at as u8;
        }
        Ok(())
    }
}

impl Base for Guest {
    const OFFERED: &'static Offered = &OFFERED;
}

impl Machine for Guest {}
impl Cpus for Guest {}
impl Memory for Guest {}
impl Trace for Guest {}
impl Store for Guest {}
impl Chardevs for Guest {}
impl Objects for Guest {}
impl Block for Guest {}
impl Media for Guest {}
impl BlockJobs for Guest {}
impl Network for Guest {}
impl Migration for Guest {}
impl Display for Guest {}
impl Extras for Guest {}

#[derive(Default)]
struct Line {
    input: VecDeque<Result<u8, LineError>>,
    output: Vec<u8>,
    /// Bytes that the line takes at a time; 0 for any number.
    pace: usize,
    stuck: bool,
}

impl Port for Line {
    fn read(&mut self) -> nb::Result<u8, LineError> {
        match self.input.pop_front() {
            Some(Ok(byte)) => Ok(byte),
            Some(Err(error)) => Err(nb::Error::Other(error)),
            None => Err(nb::Error::WouldBlock),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> nb::Result<usize, core::convert::Infallible> {
        if self.stuck {
            return Err(nb::Error::WouldBlock);
        }
        let count = if self.pace == 0 { bytes.len() } else { self.pace.min(bytes.len()) };
        self.output.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

struct Rig {
    monitor: Box<Monitor<2>>,
    guest: Guest,
    lines: [Line; 2],
    now: u64,
}

impl Rig {
    fn new() -> Self {
        let mut rig =
            Self { monitor: Box::default(), guest: Guest::default(), lines: Default::default(), now: 0 };
        rig.monitor.start(PRODUCT);
        for session in 0..2 {
            assert_eq!(rig.say(session, ""), GREETING);
        }
        rig
    }

    fn negotiated() -> Self {
        let mut rig = Self::new();
        for session in 0..2 {
            assert_eq!(rig.say(session, r#"{"execute":"qmp_capabilities"}"#), "{\"return\": {}}\r\n");
        }
        rig
    }

    fn now(&self) -> Now {
        Now { monotonic: self.now, wall: Some(self.now / 1000) }
    }

    fn run(&mut self, session: usize) -> String {
        let now = self.now();
        while self.monitor.poll(session, &mut self.lines[session], &mut self.guest, now) {}
        String::from_utf8(std::mem::take(&mut self.lines[session].output)).unwrap()
    }

    fn say(&mut self, session: usize, text: impl AsRef<[u8]>) -> String {
        self.lines[session].input.extend(text.as_ref().iter().map(|byte| Ok(*byte)));
        self.run(session)
    }
}

const GREETING: &str = "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 8, \"major\": 2}, \"package\": \"\"}, \
                        \"capabilities\": []}}\r\n";

#[test]
fn a_session() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.say(0, r#"{"execute":"query-status","id":7}"#),
        "{\"id\": 7, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Expecting capabilities negotiation with \
         'qmp_capabilities' before command 'query-status'\"}}\r\n"
    );
    assert_eq!(rig.say(0, r#"{"execute":"qmp_capabilities"}"#), "{\"return\": {}}\r\n");
    assert_eq!(
        rig.say(0, r#"{"execute":"query-status","id":{"b":[1,1e400],"a":"\u00e9"}}"#),
        "{\"return\": {\"status\": \"paused\", \"singlestep\": false, \"running\": false}, \"id\": {\"a\": \
         \"\\u00E9\", \"b\": [1, 1e400]}}\r\n"
    );
    assert_eq!(
        rig.say(0, r#"{"execute":"cont"}"#),
        "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command cont has not been found\"}}\r\n"
    );
}

#[test]
fn events_come_before_the_reply_and_reach_every_session() {
    let mut rig = Rig::negotiated();
    rig.guest.running = true;
    rig.guest.slow = 10;
    rig.now = 1_500_000_000;
    let event = "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 500000}, \"event\": \"STOP\"}\r\n";
    let mut said = rig.say(0, r#"{"execute":"stop"}{"execute":"query-status"}"#);
    assert_eq!(said, "");
    for _ in 0..20 {
        assert_eq!(rig.monitor.is_busy(0), said.is_empty());
        said.push_str(&rig.run(0));
    }
    assert!(
        said.starts_with(&std::format!("{event}{{\"return\": {{}}}}\r\n{{\"return\": {{\"status\"")),
        "{said}"
    );
    assert_eq!(rig.run(1), event);
    // Nothing changes, nothing is reported.
    rig.guest.slow = 0;
    assert_eq!(rig.say(0, r#"{"execute":"stop"}"#), "{\"return\": {}}\r\n");
}

#[test]
fn a_new_client() {
    let mut rig = Rig::negotiated();
    assert_eq!(rig.say(0, b"{\"execute\": [1,\xFF\xFF\xFF"), GREETING);
    assert!(rig.say(0, r#"{"execute":"query-name"}"#).contains("Expecting capabilities"));
    // In a string it ends the string only.
    assert_eq!(
        rig.say(0, b"{\"exec\xFF\xFF\xFF{\"execute\":\"qmp_capabilities\"}"),
        std::format!("{}{GREETING}{{\"return\": {{}}}}\r\n", INVALID)
    );
    // The other session goes on.
    assert!(rig.say(1, r#"{"execute":"query-status"}"#).starts_with("{\"return\""));
}

const INVALID: &str = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Invalid JSON syntax\"}}\r\n";

#[test]
fn what_is_lost_is_never_a_command() {
    let mut rig = Rig::negotiated();
    rig.lines[0].input.extend(br#"{"execute":"human-monitor-command","arguments":{"#.iter().map(|b| Ok(*b)));
    rig.lines[0].input.push_back(Err(LineError::Overrun));
    // The rest looks like a message of its own.
    assert_eq!(rig.say(0, r#"{"execute":"stop"}}}"#), "");
    rig.now += 40_000_000;
    assert_eq!(
        rig.run(0),
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Input lost on the serial line (overrun)\"}}\r\n"
    );
    assert!(rig.say(0, r#"{"execute":"query-status"}"#).starts_with("{\"return\""));
    // An end of line is as good as silence.
    rig.lines[0].input.push_back(Err(LineError::Framing));
    let said = rig.say(0, "\"stop\"}\r\n{\"execute\":\"query-status\"}\r\n");
    assert!(said.starts_with("{\"error\"") && said.contains("framing error"), "{said}");
    assert!(said.contains("{\"return\": {\"status\""), "{said}");
}

const LOST: &str = "Input lost on the serial line";

#[test]
fn every_kind_of_loss_is_named_once() {
    for (error, name) in [
        (LineError::Overrun, "(overrun)"),
        (LineError::Framing, "(framing error)"),
        (LineError::Break, "(break)"),
    ] {
        let mut rig = Rig::negotiated();
        // A burst: several errors with bytes between them are one loss.
        rig.lines[0].input.extend(br#"{"execute":"#.iter().map(|byte| Ok(*byte)));
        for byte in *b"x{\"execute\":\"stop\"}" {
            rig.lines[0].input.extend([Err(error), Ok(byte)]);
        }
        let said = rig.say(0, "\"stop\"}\n");
        assert!(said.matches(LOST).count() == 1 && said.contains(name), "{said}");
        assert_eq!(said.matches("\r\n").count(), 1, "{said}");
        assert!(rig.say(0, r#"{"execute":"query-status"}"#).starts_with("{\"return\""));
        // On an idle line it is reported just so, and only after a silence that is long enough.
        rig.lines[0].input.push_back(Err(error));
        assert_eq!(rig.say(0, r#"{"execute":"query-status"}"#), "");
        rig.now += 29_000_000;
        assert_eq!(rig.say(0, r#"{"execute":"query-status"}"#), "");
        rig.now += 29_000_000;
        assert_eq!(rig.run(0), "");
        rig.now += 1_000_000;
        let said = rig.run(0);
        assert!(said.matches(LOST).count() == 1 && said.matches("\r\n").count() == 1, "{said}");
        assert!(rig.say(0, r#"{"execute":"query-status"}"#).starts_with("{\"return\""));
    }
}

#[test]
fn what_came_before_a_loss_is_answered_first() {
    let mut rig = Rig::negotiated();
    rig.guest.running = true;
    rig.guest.slow = 10;
    rig.lines[0]
        .input
        .extend(br#"{"execute":"stop"}{"execute":"query-status"}{"exec"#.iter().map(|b| Ok(*b)));
    rig.lines[0].input.push_back(Err(LineError::Overrun));
    let mut said = rig.say(0, "\"}\n{\"execute\":\"query-status\",\"id\":2}");
    for _ in 0..20 {
        said.push_str(&rig.run(0));
    }
    let kinds: Vec<&str> = said
        .lines()
        .map(|line| ["\"id\": 2", "event", LOST, "status", "return"].into_iter().find(|w| line.contains(w)))
        .map(|kind| kind.unwrap_or(""))
        .collect();
    assert_eq!(kinds, ["event", "return", "status", LOST, "\"id\": 2"], "{said}");
}

#[test]
fn a_loss_is_forgotten_by_a_new_client() {
    let mut rig = Rig::negotiated();
    rig.say(0, r#"{"execute":"#);
    rig.lines[0].input.push_back(Err(LineError::Break));
    let said = rig.say(0, b"noise\xFF\xFF");
    assert!(said.ends_with(GREETING), "{said}");
    assert!(said.matches(LOST).count() <= 1, "{said}");
    assert_eq!(rig.say(0, r#"{"execute":"qmp_capabilities"}"#), "{\"return\": {}}\r\n");
}

/// To find the next of an object's members in their order, all are looked at: an `id` with many would hold the guest up.
#[test]
fn an_id_with_many_members_is_printed_in_short_steps() {
    const MEMBERS: usize = 2000;
    for distinct in [true, false] {
        let mut rig = Rig::negotiated();
        let members: Vec<_> = (0..MEMBERS)
            .map(|number| std::format!("\"k{}\":{number}", if distinct { number } else { 7 }))
            .collect();
        let message = std::format!("{{\"execute\":\"query-status\",\"id\":{{{}}}}}", members.join(","));
        rig.lines[0].input.extend(message.bytes().map(Ok));
        let (now, mut steps) = (rig.now(), 0);
        while !rig.lines[0].output.ends_with(b"\n") {
            rig.monitor.poll(0, &mut rig.lines[0], &mut rig.guest, now);
            steps += 1;
            assert!(steps < MEMBERS, "no end");
        }
        assert!(!distinct || steps > MEMBERS / 10, "{steps} steps");
        let said = String::from_utf8(std::mem::take(&mut rig.lines[0].output)).unwrap();
        let id = said.split_once("\"id\": {").and_then(|(_, rest)| rest.strip_suffix("}}\r\n")).unwrap();
        let mut got: Vec<_> = id.split(", ").map(|member| member.replace(": ", ":")).collect();
        got.sort();
        let mut wanted = if distinct { members } else { std::vec![std::format!("\"k7\":{}", MEMBERS - 1)] };
        wanted.sort();
        assert_eq!(got, wanted);
    }
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    // In the middle of a string, of a number, of an escape, of a character, and after all of a message but its end.
    let halves: [&[u8]; 5] = [
        b"{\"execute\":\"st",
        b"{\"id\":12",
        b"{\"id\":\"\\u00",
        b"{\"id\":\"\xE2\x82",
        b"{\"execute\":\"stop\"",
    ];
    for half in halves {
        let mut rig = Rig::negotiated();
        rig.guest.running = true;
        assert_eq!(rig.say(0, half), "");
        rig.now += 60_000_000_000;
        assert_eq!(rig.run(0), "");
        // The next one cannot know, and says 0xFF twice.
        let said = rig.say(0, b"\xFF\xFF");
        assert!(said.ends_with(GREETING), "{said}");
        assert_eq!(rig.say(0, r#"{"execute":"qmp_capabilities"}"#), "{\"return\": {}}\r\n");
        assert!(rig.say(0, r#"{"execute":"query-status"}"#).contains("\"running\": true"));
        // Where the port shows that it is gone, the session is begun again for it.
        assert_eq!(rig.say(1, half), "");
        rig.monitor.restart(1);
        assert_eq!(rig.run(1), GREETING);
        assert_eq!(rig.say(1, r#"{"execute":"qmp_capabilities"}"#), "{\"return\": {}}\r\n");
    }
}

#[test]
fn a_greeting_has_a_line_of_its_own() {
    let mut rig = Rig::negotiated();
    // The reply is longer than what one step gives to the line.
    rig.lines[0].input.extend(br#"{"execute":"query-qmp-schema"}"#.map(Ok));
    let now = rig.now();
    while rig.lines[0].output.is_empty() {
        rig.monitor.poll(0, &mut rig.lines[0], &mut rig.guest, now);
    }
    let half = std::mem::take(&mut rig.lines[0].output);
    assert!(!half.ends_with(b"\n"), "{}", half.len());
    rig.now += 10_000_000;
    let said = rig.say(0, b"\xFF");
    assert!(said.ends_with(&std::format!("\r\n{GREETING}")), "{said}");
    assert_eq!(said.matches("QMP\"").count(), 1, "{said}");
    // Where no line was cut, nothing comes before it.
    rig.now += 10_000_000;
    assert_eq!(rig.say(0, b"\xFF"), GREETING);
}

#[test]
fn long_replies_do_not_hold_up_the_other_session() {
    let mut rig = Rig::negotiated();
    rig.lines[0].pace = 7;
    let schema = rig.say(0, r#"{"execute":"query-qmp-schema","id":"end"}"#);
    assert!(
        schema.len() > SEND_BYTES && schema.ends_with("], \"id\": \"end\"}\r\n"),
        "{}",
        &schema[schema.len() - 100..]
    );
    let text = rig.say(
        0,
        std::format!(
            r#"{{"execute":"human-monitor-command","arguments":{{"command-line":"{}"}}}}"#,
            "x".repeat(2000)
        ),
    );
    let mut expected = String::from("{\"return\": \"");
    for line in 0..2000 {
        expected.push_str(&std::format!("line {line}\\r\\n"));
    }
    expected.push_str("\"}\r\n");
    assert_eq!(text, expected);
    rig.lines[0].stuck = true;
    rig.say(0, r#"{"execute":"query-qmp-schema"}"#);
    assert!(rig.say(1, r#"{"execute":"query-status"}"#).starts_with("{\"return\""));
}

#[test]
fn files() {
    let mut rig = Rig::negotiated();
    let mut all = Vec::new();
    loop {
        let reply = rig.say(
            0,
            std::format!(
                r#"{{"execute":"x-store-read","arguments":{{"path":"/file","offset":{}}}}}"#,
                all.len()
            ),
        );
        let data = reply.split('"').nth(5).unwrap();
        assert!(crate::base64::decode(data.as_bytes(), |byte| all.push(byte)), "{reply}");
        assert!(reply.contains("\"size\": 100000"));
        if reply.contains("\"eof\": true") {
            break;
        }
    }
    assert_eq!(all.len(), 100_000);
    assert!(all.iter().enumerate().all(|(at, byte)| *byte == at as u8));
    assert!(
        rig.say(0, r#"{"execute":"x-store-read","arguments":{"path":"/none"}}"#)
            .contains("Could not open '/none'")
    );
}

#[test]
fn events_are_limited() {
    let mut rig = Rig::negotiated();
    let event = |offset| crate::schema::machine::RtcChange { offset };
    let count = |said: &str| said.matches("RTC_CHANGE").count();
    for offset in 0..5 {
        let now = rig.now();
        rig.monitor.event(&event(offset), now);
        rig.now += 1000;
    }
    let said = rig.run(0);
    assert!(count(&said) == 1 && said.contains("\"offset\": 0"), "{said}");
    assert_eq!(rig.monitor.deadline(), Some(1_000_000_000));
    rig.now = 1_000_000_000;
    let said = rig.run(0);
    assert!(
        count(&said) == 1 && said.contains("\"offset\": 4") && said.contains("\"microseconds\": 4}"),
        "{said}"
    );
    assert_eq!(rig.monitor.deadline(), Some(2_000_000_000));
    rig.now = 2_000_000_000;
    assert_eq!(rig.run(0), "");
    assert_eq!(rig.monitor.deadline(), None);
}

#[test]
fn a_full_line_loses_events_and_says_so() {
    let mut rig = Rig::negotiated();
    rig.lines[1].stuck = true;
    for _ in 0..200 {
        let now = rig.now();
        rig.monitor.event(&run_state::Stop {}, now);
        rig.run(1);
        assert_eq!(rig.run(0).matches("STOP").count(), 1);
    }
    rig.lines[1].stuck = false;
    let got = rig.run(1).matches("STOP").count();
    assert!(got < 200);
    assert_eq!(
        rig.say(1, r#"{"execute":"x-query-events-lost"}"#),
        std::format!("{{\"return\": {{\"lost\": {}}}}}\r\n", 200 - got)
    );
    assert_eq!(rig.say(0, r#"{"execute":"x-query-events-lost"}"#), "{\"return\": {\"lost\": 0}}\r\n");
}

#[test]
fn deep_and_long_ids() {
    let mut rig = Rig::negotiated();
    let deep = std::format!("{}{}", "[".repeat(1023), "]".repeat(1023));
    assert_eq!(
        rig.say(0, std::format!("{{\"execute\":\"query-name\",\"id\":{deep}}}")),
        std::format!(
            "{{\"id\": {deep}, \"error\": {{\"class\": \"CommandNotFound\", \"desc\": \"The command query-name has not \
             been found\"}}}}\r\n"
        )
    );
    let long = std::format!("\"{}\"", "é\\n".repeat(10_000));
    let said = rig.say(0, std::format!("{{\"execute\":\"query-status\",\"id\":{long}}}"));
    assert!(said.ends_with(&std::format!(", \"id\": \"{}\"}}\r\n", "\\u00E9\\n".repeat(10_000))));
}

#[test]
fn sessions_are_as_small_as_promised() {
    let one = core::mem::size_of::<Monitor<2>>() - core::mem::size_of::<Monitor<1>>();
    assert!(one <= 160 * 1024, "{one} bytes a session");
}

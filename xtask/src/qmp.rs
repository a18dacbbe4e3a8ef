//! A QMP client: `cargo xtask qmp`, and the library that the other subcommands and the boot tests use.

use crate::paths;
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use rustix::termios::{self, OptionalActions};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long one answer may take before a client gives up, unless told otherwise.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Where the monitor is.
#[derive(Args, Clone, Debug, Default)]
pub struct Place {
    /// The QMP socket of a run [default: the one of the latest `cargo xtask run`]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// A serial port that a rig is connected to, e.g. /dev/ttyUSB0
    #[arg(long, value_name = "DEV", conflicts_with = "socket")]
    pub tty: Option<PathBuf>,
    /// Line speed of --tty in bits a second
    #[arg(long, default_value_t = 115_200, value_name = "RATE", requires = "tty")]
    pub baud: u32,
}

/// `cargo xtask qmp`.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    /// Seconds to wait for each answer
    #[arg(long, default_value_t = ANSWER_LIMIT.as_secs(), value_name = "SECONDS")]
    timeout: u64,
    /// A command; without one an interactive prompt starts
    command: Option<String>,
    /// Its arguments: one JSON object, or NAME=VALUE words
    arguments: Vec<String>,
}

/// Runs the subcommand.
pub fn main(options: Options) -> Result<()> {
    let mut client = Client::open(&options.place)?;
    client.limit = Duration::from_secs(options.timeout);
    client.negotiate()?;
    let Some(command) = options.command else {
        return prompt(&mut client);
    };
    let reply = client.execute(&command, parse_arguments(&options.arguments)?)?;
    for event in client.events.drain(..) {
        eprintln!("{event}");
    }
    println!("{}", pretty(&reply));
    Ok(())
}

/// Text for people: a string as it is (the human monitor's answers), the rest as indented JSON.
fn pretty(value: &Value) -> String {
    match value {
        Value::String(text) => text.trim_end().to_owned(),
        other => format!("{other:#}"),
    }
}

/// Reads `{…}` as it stands, and `name=value` words as members; a value that is no JSON is a string.
fn parse_arguments(words: &[String]) -> Result<Value> {
    if let [one] = words
        && one.trim_start().starts_with('{')
    {
        return serde_json::from_str(one).context("the arguments are no JSON object");
    }
    let mut members = Map::new();
    for word in words {
        let (name, value) =
            word.split_once('=').with_context(|| format!("`{word}` is neither JSON nor NAME=VALUE"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        members.insert(name.to_owned(), value);
    }
    Ok(Value::Object(members))
}

/// The interactive prompt: history, completion of command names.
fn prompt(client: &mut Client) -> Result<()> {
    use rustyline::error::ReadlineError;
    let names = client.execute("query-commands", json!({})).ok();
    let names = names.as_ref().and_then(Value::as_array).into_iter().flatten();
    let names = names.filter_map(|entry| Some(entry["name"].as_str()?.to_owned())).collect();
    let mut editor = rustyline::Editor::<Completer, rustyline::history::DefaultHistory>::new()?;
    editor.set_helper(Some(Completer { names }));
    let history = paths::cache("run")?.join("qmp-history");
    let _ = editor.load_history(&history);
    println!(
        "COMMAND [NAME=VALUE …], COMMAND {{JSON}}, or a whole {{\"execute\": …}}; Tab completes, Ctrl-D ends."
    );
    loop {
        let line = match editor.readline("qmp> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        let line = line.trim();
        if !line.is_empty() {
            let _ = editor.add_history_entry(line);
            match interpret(client, line) {
                Ok(value) => println!("{}", pretty(&value)),
                Err(error) => println!("{error:#}"),
            }
        }
        client.collect_events(Duration::from_millis(50))?;
        for event in client.events.drain(..) {
            println!("{event}");
        }
    }
    let _ = editor.save_history(&history);
    Ok(())
}

fn interpret(client: &mut Client, line: &str) -> Result<Value> {
    if line.starts_with('{') {
        return client.raw(line);
    }
    let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let words = match rest.trim() {
        rest if rest.starts_with('{') => vec![rest.to_owned()],
        rest => rest.split_whitespace().map(str::to_owned).collect(),
    };
    client.execute(command, parse_arguments(&words)?)
}

/// Completes the first word of a line with the monitor's own list of commands.
struct Completer {
    names: Vec<String>,
}

impl rustyline::completion::Completer for Completer {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..at).unwrap_or("");
        if typed.contains(char::is_whitespace) {
            return Ok((at, Vec::new()));
        }
        Ok((0, self.names.iter().filter(|name| name.starts_with(typed)).cloned().collect()))
    }
}

impl rustyline::hint::Hinter for Completer {
    type Hint = String;
}
impl rustyline::highlight::Highlighter for Completer {}
impl rustyline::validate::Validator for Completer {}
impl rustyline::Helper for Completer {}

/// An error that the monitor answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QmpError {
    /// The class, e.g. `GenericError`.
    pub class: String,
    /// The description.
    pub desc: String,
}

impl std::fmt::Display for QmpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.class, self.desc)
    }
}

impl std::error::Error for QmpError {}

enum Port {
    Socket(UnixStream),
    Serial(File),
}

/// A session with a monitor.
pub struct Client {
    port: Port,
    pending: Vec<u8>,
    /// Events that came and were not looked at yet.
    pub events: VecDeque<Value>,
    /// How long to wait for one answer.
    pub limit: Duration,
    /// The greeting.
    pub greeting: Value,
}

impl Client {
    /// Connects to where `place` says and reads the greeting.
    pub fn open(place: &Place) -> Result<Self> {
        match &place.tty {
            Some(device) => Self::serial(device, place.baud),
            None => match &place.socket {
                Some(path) => Self::connect(path),
                None => Self::connect(&paths::default_qmp_socket()?),
            },
        }
    }

    /// Connects to a QMP socket and reads the greeting.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| {
            format!(
                "no monitor at {}: is `cargo xtask run` going, or does --socket name another?",
                path.display()
            )
        })?;
        let mut client = Self::over(Port::Socket(stream));
        client.greeting = client.message(client.limit)?;
        client.check_greeting()
    }

    /// Opens a serial port, asks for a new session and reads the greeting.
    pub fn serial(device: &Path, baud: u32) -> Result<Self> {
        // O_NOCTTY: the port must not become our controlling terminal; O_NONBLOCK: no wait for a carrier.
        let flags = (rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK).bits();
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(flags.cast_signed())
            .open(device)
            .with_context(|| format!("cannot open {}", device.display()))?;
        let mut modes =
            termios::tcgetattr(&file).with_context(|| format!("{} is no serial port", device.display()))?;
        modes.make_raw();
        modes.set_speed(baud).with_context(|| format!("{} cannot do {baud} baud", device.display()))?;
        modes.control_modes |= termios::ControlModes::CREAD | termios::ControlModes::CLOCAL;
        modes.control_modes |= termios::ControlModes::CRTSCTS;
        termios::tcsetattr(&file, OptionalActions::Flush, &modes)?;
        let mut client = Self::over(Port::Serial(file));
        // Whatever the rig was saying is not for us: what counts is the greeting that answers 0xFF.
        let end = Instant::now() + client.limit;
        while Instant::now() < end {
            client.send(&[0xff])?;
            while let Some(line) = client.line(Duration::from_secs(2))? {
                if let Some(at) = line.find("{\"QMP\": {")
                    && let Ok(greeting) = serde_json::from_str(&line[at..])
                {
                    client.greeting = greeting;
                    return client.check_greeting();
                }
            }
        }
        bail!("no greeting from {}: is the speed right, and Monovisor running?", device.display())
    }

    fn over(port: Port) -> Self {
        let greeting = Value::Null;
        Self { port, pending: Vec::new(), events: VecDeque::new(), limit: ANSWER_LIMIT, greeting }
    }

    fn check_greeting(self) -> Result<Self> {
        if self.greeting.get("QMP").is_none() {
            bail!("this is no QMP monitor: it said {}", self.greeting);
        }
        Ok(self)
    }

    /// Leaves negotiation mode.
    pub fn negotiate(&mut self) -> Result<()> {
        self.execute("qmp_capabilities", json!({})).map(drop)
    }

    /// Runs one command; an error that the monitor answers is a [`QmpError`]. Events are kept.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut message = json!({ "execute": command });
        if arguments.as_object().is_some_and(|members| !members.is_empty()) {
            message["arguments"] = arguments;
        }
        self.raw(&message.to_string()).with_context(|| command.to_owned())
    }

    /// Sends a message as it is and waits for its answer.
    pub fn raw(&mut self, message: &str) -> Result<Value> {
        self.send(format!("{message}\r\n").as_bytes())?;
        self.reply(self.limit)
    }

    /// Waits for an answer; events on the way are kept.
    pub fn reply(&mut self, limit: Duration) -> Result<Value> {
        let end = Instant::now() + limit;
        loop {
            let message = self.message(end.saturating_duration_since(Instant::now()))?;
            if message.get("event").is_some() {
                self.events.push_back(message);
            } else if let Some(error) = message.get("error") {
                let part = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
                return Err(anyhow!(QmpError { class: part("class"), desc: part("desc") }));
            } else if let Some(value) = message.get("return") {
                return Ok(value.clone());
            } else {
                bail!("neither an answer nor an event: {message}");
            }
        }
    }

    /// Waits until an event of that name has come, and takes it and those before it.
    pub fn wait_event(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let end = Instant::now() + limit;
        let mut others = Vec::new();
        loop {
            while let Some(event) = self.events.pop_front() {
                if event["event"] == name {
                    return Ok(event);
                }
                others.push(event["event"].to_string());
            }
            let left = end.saturating_duration_since(Instant::now());
            let message =
                self.message(left).with_context(|| format!("no event {name}; others: {others:?}"))?;
            if message.get("event").is_none() {
                bail!("an answer that nobody asked for: {message}");
            }
            self.events.push_back(message);
        }
    }

    /// Takes in the events that come within `limit`.
    pub fn collect_events(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while let Some(line) = self.line(end.saturating_duration_since(Instant::now()))? {
            let message: Value = serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))?;
            self.events.push_back(message);
        }
        Ok(())
    }

    /// The next message, whatever it is.
    pub fn message(&mut self, limit: Duration) -> Result<Value> {
        let line =
            self.line(limit)?.with_context(|| format!("no answer within {:.1} s", limit.as_secs_f64()))?;
        serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let written = match &mut self.port {
                Port::Socket(stream) => stream.write(bytes),
                Port::Serial(file) => file.write(bytes),
            };
            match written {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error).context("the monitor's line is gone"),
            }
        }
        Ok(())
    }

    /// The next whole line, without its end; `None` when none comes within `limit`.
    pub fn line(&mut self, limit: Duration) -> Result<Option<String>> {
        let end = Instant::now() + limit;
        let mut searched = 0;
        loop {
            if let Some(at) = self.pending[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(searched + at + 1);
                let line = std::mem::replace(&mut self.pending, rest);
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if !text.is_empty() {
                    return Ok(Some(text));
                }
                searched = 0;
                continue;
            }
            searched = self.pending.len();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.fill(left)? {
                return Ok(None);
            }
        }
    }

    /// Reads what there is; false when nothing came within `limit`.
    fn fill(&mut self, limit: Duration) -> Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let limit = Timespec::try_from(limit)?;
        let mut buffer = [0; 65536];
        let count = match &mut self.port {
            Port::Socket(stream) => {
                if poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&limit))? == 0 {
                    return Ok(false);
                }
                stream.read(&mut buffer)?
            }
            Port::Serial(file) => {
                if poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&limit))? == 0 {
                    return Ok(false);
                }
                file.read(&mut buffer)?
            }
        };
        if count == 0 {
            bail!("the monitor's line has ended");
        }
        self.pending.extend_from_slice(&buffer[..count]);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_json_or_words() {
        let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        let parsed = parse_arguments(&words("val=0 size=16 filename=/tmp/x up=true")).unwrap();
        assert_eq!(parsed, json!({"val": 0, "size": 16, "filename": "/tmp/x", "up": true}));
        assert_eq!(parse_arguments(&[r#"{"a": [1]}"#.into()]).unwrap(), json!({"a": [1]}));
        assert!(parse_arguments(&words("nonsense")).is_err());
    }

    #[test]
    fn answers_and_events_are_told_apart() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client::over(Port::Socket(ours));
        theirs.write_all(b"{\"event\": \"STOP\"}\r\n{\"return\": 7}\r\n").unwrap();
        assert_eq!(client.reply(Duration::from_secs(5)).unwrap(), json!(7));
        assert_eq!(client.wait_event("STOP", Duration::ZERO).unwrap()["event"], "STOP");
        theirs.write_all(b"{\"error\": {\"class\": \"C\", \"desc\": \"D\"}}\n").unwrap();
        let error = client.reply(Duration::from_secs(5)).unwrap_err();
        assert_eq!(error.downcast_ref::<QmpError>().unwrap().to_string(), "C: D");
    }
}

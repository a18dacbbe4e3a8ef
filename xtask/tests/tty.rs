//! `cargo xtask qmp --tty` on one end of a pseudo-terminal, the model machine with its monitor on the other.

use monovisor_tests::model;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{self, ControlModes, OptionalActions};
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Everything here is done by then, or it never will be.
const LIMIT: Duration = Duration::from_secs(60);

/// A pseudo-terminal. The other end stays open, so that none sees an end of file.
struct Pty {
    master: File,
    slave: File,
    path: PathBuf,
}

impl Pty {
    fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = PathBuf::from(ptsname(&master, Vec::new()).unwrap().into_string().unwrap());
        let slave = File::options().read(true).write(true).open(&path).unwrap();
        // A serial port that nobody has opened does not echo.
        let mut modes = termios::tcgetattr(&slave).unwrap();
        modes.make_raw();
        termios::tcsetattr(&slave, OptionalActions::Now, &modes).unwrap();
        Self { master: File::from(master), slave, path }
    }
}

/// Whether something can be read within a short time.
fn readable(file: &File) -> bool {
    let wait = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&wait)).unwrap() > 0
}

/// A rig at the other end of a serial cable.
struct Rig {
    pty: Pty,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Rig {
    /// Begins in the middle of what it was saying to somebody else, and with half a message from him.
    fn new() -> Self {
        let pty = Pty::new();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (mut line, log) = (pty.master.try_clone().unwrap(), heard.clone());
        line.write_all(b"\"timestamp\": {\"seconds\": 1}}\r\n{\"return\": ").unwrap();
        std::thread::spawn(move || {
            let options = model::Options { name: Some("far".into()), ..model::Options::default() };
            let mut rig = model::Rig::new(options);
            rig.output(0);
            rig.feed(0, b"{\"execute\": \"query-na");
            let mut buffer = [0; 4096];
            let end = Instant::now() + LIMIT;
            while Instant::now() < end {
                if readable(&line) {
                    let Ok(count) = line.read(&mut buffer) else { return };
                    log.lock().unwrap().extend_from_slice(&buffer[..count]);
                    rig.feed(0, &buffer[..count]);
                }
                if line.write_all(&rig.output(0)).is_err() {
                    return;
                }
            }
        });
        Self { pty, heard }
    }

    /// `cargo xtask qmp` on this line.
    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["qmp", "--timeout", "30", "--tty"]).arg(&self.pty.path).args(arguments);
        // The history goes there.
        command
            .env("CARGO_TARGET_DIR", std::env::temp_dir().join(format!("xtask-tty-{}", std::process::id())));
        command.env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Running(Some(self.client(arguments).spawn().unwrap())).finish()
    }
}

/// A process that does not outlive its test.
struct Running(Option<Child>);

impl Running {
    /// Waits for its end.
    fn finish(mut self) -> Output {
        let end = Instant::now() + LIMIT;
        while self.0.as_mut().unwrap().try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "it did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn one_command_on_a_line_that_was_in_use() {
    let rig = Rig::new();
    let output = rig.run(&["query-name"]);
    assert!(output.status.success(), "{output:?}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer, serde_json::json!({ "name": "far" }));
    // The client begins by asking for a greeting.
    assert_eq!(rig.heard.lock().unwrap().first(), Some(&0xff));
    // The next one begins afresh, too.
    let output = rig.run(&["no-such-command"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("CommandNotFound"), "{said}");
}

#[test]
fn the_line_is_set_as_asked() {
    let rig = Rig::new();
    for (arguments, speed) in
        [(&["query-status"][..], 115_200), (&["--baud", "921600", "query-status"], 921_600)]
    {
        assert!(rig.run(arguments).status.success());
        let modes = termios::tcgetattr(&rig.pty.slave).unwrap();
        assert_eq!((modes.input_speed(), modes.output_speed()), (speed, speed));
        assert!(
            modes.control_modes.contains(ControlModes::CRTSCTS | ControlModes::CLOCAL | ControlModes::CREAD)
        );
        let size = modes.control_modes & ControlModes::CSIZE;
        assert!(size == ControlModes::CS8 && !modes.control_modes.contains(ControlModes::PARENB));
    }
    let output = rig.run(&["--baud", "fast", "query-status"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn what_is_no_serial_port_is_said_to_be_none() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = command.args(["qmp", "--tty", "/dev/null", "query-status"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("/dev/null is no serial port"), "{said}");
}

/// A terminal with a person at it.
struct Terminal {
    pty: Pty,
    seen: String,
}

impl Terminal {
    fn expect(&mut self, text: &str) {
        let end = Instant::now() + LIMIT;
        let mut buffer = [0; 4096];
        while !self.seen.contains(text) {
            assert!(Instant::now() < end, "no {text:?} in {:?}", self.seen);
            if readable(&self.pty.master) {
                let count = self.pty.master.read(&mut buffer).unwrap();
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        }
        let at = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..at);
    }

    fn send(&mut self, keys: &str) {
        self.pty.master.write_all(keys.as_bytes()).unwrap();
    }
}

#[test]
fn the_prompt_has_a_history_and_completes() {
    let rig = Rig::new();
    let mut terminal = Terminal { pty: Pty::new(), seen: String::new() };
    let ends = [(); 3].map(|()| Stdio::from(terminal.pty.slave.try_clone().unwrap()));
    let [stdin, stdout, stderr] = ends;
    let child = rig.client(&[]).stdin(stdin).stdout(stdout).stderr(stderr).spawn().unwrap();
    let shell = Running(Some(child));
    terminal.expect("qmp> ");
    terminal.send("query-name\r");
    terminal.expect("\"name\": \"far\"");
    terminal.expect("qmp> ");
    terminal.send("{\"execute\": \"query-uuid\"}\r");
    terminal.expect("00000000-0000-0000-0000-000000000000");
    terminal.expect("qmp> ");
    // Two lines back.
    terminal.send("\x1b[A\x1b[A\r");
    terminal.expect("\"name\": \"far\"");
    terminal.expect("qmp> ");
    terminal.send("query-stat\t\r");
    terminal.expect("\"status\": \"prelaunch\"");
    terminal.expect("qmp> ");
    // What is refused does not end it, and an event that follows is shown.
    terminal.send("nonsense\r");
    terminal.expect("CommandNotFound");
    terminal.expect("qmp> ");
    terminal.send("cont\r");
    terminal.expect("RESUME");
    terminal.expect("qmp> ");
    terminal.send("\x04");
    assert!(shell.finish().status.success());
}

//! A rig that is running: emulator, QMP bridge, console, log.

use crate::console::Console;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xtask::board::Board;
use xtask::bridge::{Bridge, Protocol};
use xtask::emulator::{HOST_EXTRA_MIB, Machine, Member, Rig};
use xtask::process::Supervised;
use xtask::qmp::Client;
use xtask::{build, paths};

/// Bochs is this much slower than QEMU; limits are given for QEMU.
const BOCHS_FACTOR: u32 = 10;

/// A limit, longer where the board's emulator is slow.
pub fn limit(board: Board, seconds: u64) -> Duration {
    Duration::from_secs(seconds) * if board == Board::Bochs { BOCHS_FACTOR } else { 1 }
}

/// Builds a binary once; the two threads do not get into each other's way.
fn built(build: impl FnOnce() -> Result<PathBuf>) -> Result<PathBuf> {
    static LOCK: Mutex<()> = Mutex::new(());
    let _guard = LOCK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    build()
}

/// The image of a board.
pub fn image(board: Board) -> Result<PathBuf> {
    built(|| build::board(board))
}

/// One of our guest kernels.
pub fn guest(name: &str) -> Result<PathBuf> {
    built(|| build::freestanding("monovisor-guests", name, &[]))
}

/// A bundle member.
pub fn member(name: &str, path: impl Into<PathBuf>) -> Member {
    Member { name: name.into(), path: path.into() }
}

/// The words of a command line.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Options for one of our kernels that has a use for x2APIC mode, which guests in Bochs have not for what Bochs gets wrong
/// there: it needs a guest that the line interrupts while another interrupt waits, and ours are quiet.
pub fn with_x2apic(board: Board, mut options: Vec<String>) -> Vec<String> {
    if board == Board::Bochs {
        options.extend(words("-cpu host,-xsavec"));
    }
    options
}

/// What to start.
pub fn describe(board: Board, name: &str, options: Vec<String>, members: Vec<Member>) -> Result<Rig> {
    let directory = paths::cache("boot-tests")?.join(format!("{}-{name}", board.name()));
    let mut rig = Rig::new(board, image(board)?, directory);
    rig.memory_mib = 64 + HOST_EXTRA_MIB;
    rig.options = options;
    rig.members = members;
    Ok(rig)
}

static PARALLEL: AtomicBool = AtomicBool::new(false);

/// Whether rigs of our own guests get a thread of QEMU's for each processor; see [`Rig::parallel`] for what may come of it.
pub fn set_parallel(parallel: bool) {
    PARALLEL.store(parallel, Ordering::Relaxed);
}

/// As [`set_parallel`] was told.
pub fn parallel() -> bool {
    PARALLEL.load(Ordering::Relaxed)
}

/// A rig that is running.
pub struct Running {
    /// Which board.
    pub board: Board,
    /// The emulator.
    pub emulator: Supervised,
    /// The guest's console.
    pub console: Console,
    bridge: Bridge,
    second: Option<Bridge>,
    log: PathBuf,
}

impl Running {
    /// Starts a rig.
    pub fn start(rig: &Rig) -> Result<Self> {
        let Machine { process, qmp, console, second, log } = rig.start()?;
        let bridge = Bridge::start(qmp, &rig.directory.join("qmp.sock"), Protocol::Qmp)?;
        let bridge_second = |line| Bridge::start(line, &rig.directory.join("qmp2.sock"), Protocol::Qmp);
        let second = second.map(bridge_second).transpose()?;
        Ok(Self { board: rig.board, emulator: process, console: Console::new(console)?, bridge, second, log })
    }

    /// Where clients connect to.
    pub fn socket(&self) -> &std::path::Path {
        self.bridge.path()
    }

    /// A new session, negotiated.
    pub fn qmp(&self) -> Result<Client> {
        let mut client = Client::connect(self.bridge.path()).with_context(|| self.tail())?;
        client.negotiate()?;
        Ok(client)
    }

    /// A new session on the second line, negotiated.
    pub fn second(&self) -> Result<Client> {
        let bridge = self.second.as_ref().context("the rig has no second line")?;
        let mut client = Client::connect(bridge.path()).with_context(|| self.tail())?;
        client.negotiate()?;
        Ok(client)
    }

    /// Monovisor's log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until the log holds `text`.
    pub fn expect_log(&self, text: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while !self.log().contains(text) {
            if Instant::now() >= end {
                bail!("no {text:?} on the log; {}", self.tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The end of the log, for messages.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("the log ends with:\n{}", lines[lines.len().saturating_sub(8)..].join("\n"))
    }

    /// `quit`, and the emulator must end with status 0.
    pub fn quit(&mut self) -> Result<()> {
        let mut client = self.qmp()?;
        client.execute("quit", serde_json::json!({}))?;
        client.wait_event("SHUTDOWN", limit(self.board, 10))?;
        self.expect_end()
    }

    /// The emulator must end by itself, with status 0.
    pub fn expect_end(&mut self) -> Result<()> {
        match self.emulator.wait_for(limit(self.board, 15))? {
            // The debugger build of Bochs ends with status 1 when the machine is switched off.
            Some(status) if status.success() || self.board == Board::Bochs => Ok(()),
            Some(status) => bail!("{} ended with {status}", self.emulator.name()),
            None => bail!("the rig did not go off; {}", self.tail()),
        }
    }
}

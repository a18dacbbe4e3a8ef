//! `cargo xtask run`: builds, packs and boots a rig, with its console on the terminal and QMP on a socket.

use crate::board::Board;
use crate::bridge::{Bridge, Protocol};
use crate::emulator::{HOST_EXTRA_MIB, Machine, Rig};
use crate::ending::{Ending, FAILED, TIMED_OUT};
use crate::line::Line;
use crate::payload::Payload;
use crate::process::Supervised;
use crate::stdio::Stdio;
use crate::{build, ending, paths, setup, terminal};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use std::fs::{File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// How often the log of a run without a monitor is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// What a guest printed at its end has come when nothing more has come for so long; Bochs takes its time.
const QUIET: Duration = Duration::from_millis(300);
/// The longest that is waited for it.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// MiB of the bundle that every rig has RAM for.
const BUNDLE_MIB: u32 = 32;

/// What `--console` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Console {
    /// Standard input and output, and nothing else: no socket, and the run ends with the guest.
    Stdio,
}

/// `cargo xtask run`.
#[derive(Args, Debug)]
pub struct Options {
    /// Where to run
    #[arg(long, default_value = "qemu")]
    board: Board,
    #[command(flatten)]
    payload: Payload,
    /// Serve QMP here [default: target/xtask/run/qmp.sock]; given twice, the rig has a second monitor, on COM3
    #[arg(long, value_name = "PATH")]
    qmp_socket: Vec<PathBuf>,
    /// `stdio`: the guest's console on standard input and output, QMP only where --qmp-socket says so, and without
    /// that the run ends with the guest
    #[arg(long, value_name = "WHERE", conflicts_with = "console_socket")]
    console: Option<Console>,
    /// Serve the guest's console here instead of on the terminal
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// End the run after so many seconds, with status 124
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Show Monovisor's log on standard error when the run ends
    #[arg(long)]
    show_log: bool,
}

impl Options {
    /// Nobody manages the guest: what comes of it is what the run is for.
    fn unattended(&self) -> bool {
        self.console == Some(Console::Stdio) && self.qmp_socket.is_empty()
    }
}

/// Runs the subcommand; the exit status is the guest's where it wrote one to its isa-debug-exit, else the emulator's.
pub fn main(options: Options) -> Result<u8> {
    if !options.unattended() {
        return run(&options);
    }
    // A script has to tell our own mistakes from what a guest says.
    let directory = paths::cache("run")?.join(format!("{}-{}", options.board.name(), std::process::id()));
    let result = run_in(&options, &directory);
    let _ = std::fs::remove_dir_all(&directory);
    result.or_else(|error| {
        terminal::restore();
        eprintln!("xtask: {error:#}");
        Ok(FAILED)
    })
}

fn run(options: &Options) -> Result<u8> {
    let directory = paths::cache("run")?.join(options.board.name());
    let _lock = lock(&directory)?;
    run_in(options, &directory)
}

/// Keeps a folder for one run: another would take the files away that this one's emulator is about to read.
fn lock(directory: &Path) -> Result<File> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let lock = File::create(directory.join("lock"))?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => {
            bail!("another run is at work in {}; end it first", directory.display())
        }
        Err(TryLockError::Error(error)) => Err(error.into()),
        Ok(()) => Ok(lock),
    }
}

/// Runs a rig whose files are in `directory`.
fn run_in(options: &Options, directory: &Path) -> Result<u8> {
    if options.board == Board::Pc {
        bail!("the pc board is for real machines: `cargo xtask image` makes its disc image");
    }
    if options.qmp_socket.len() > 2 {
        bail!("--qmp-socket: two at most");
    }
    setup::ensure()?;
    let rig = prepare(options, directory)?;
    let end = options.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let Machine { process: mut emulator, qmp, console, second, log } = {
        let _progress = crate::progress::Progress::start("starting the emulator");
        rig.start()?
    };
    let bridge = if options.unattended() {
        discard(qmp);
        None
    } else {
        let socket = match options.qmp_socket.first() {
            Some(path) => path.clone(),
            None => paths::default_qmp_socket()?,
        };
        let bridge = Bridge::start(qmp, &socket, Protocol::Qmp)?;
        eprintln!("xtask: QMP on {}; log in {}", bridge.path().display(), log.display());
        Some(bridge)
    };
    let second = match (second, options.qmp_socket.get(1)) {
        (Some(line), Some(path)) => {
            let bridge = Bridge::start(line, path, Protocol::Qmp)?;
            eprintln!("xtask: second QMP on {}", bridge.path().display());
            Some(bridge)
        }
        _ => None,
    };
    let (mut stdio, mut console_bridge) = (None, None);
    match &options.console_socket {
        Some(path) => {
            let bridge = Bridge::start(console, path, Protocol::Raw)?;
            eprintln!("xtask: console on {}; Ctrl-C ends the run", bridge.path().display());
            console_bridge = Some(bridge);
        }
        None => stdio = Some(Stdio::attach(console)?),
    }
    let stays = !options.unattended() || options.payload.more.iter().any(|word| word == "-no-shutdown");
    let ended = wait(&mut emulator, &log, end, stays)?;
    if let Some(stdio) = stdio {
        stdio.drain(QUIET, LAST_WORDS);
    }
    emulator.kill();
    terminal::restore();
    drop((bridge, second, console_bridge));
    let log = read(&log);
    if options.show_log {
        eprint!("{log}");
    }
    let status = match ended {
        Ended::Time => {
            eprintln!("xtask: ended after {} s", options.timeout.unwrap_or_default());
            return Ok(TIMED_OUT);
        }
        Ended::Emulator(status) => Some(status),
        Ended::Guest => None,
    };
    match (Ending::of(&log), status) {
        (Some(ending @ (Ending::DebugExit(_) | Ending::Quit)), _) => Ok(ending.status()),
        (_, Some(status)) => exit_code(status),
        (Some(ending), None) => {
            if let Ending::Failed(reason) = &ending {
                eprintln!("xtask: {reason}");
            }
            Ok(ending.status())
        }
        (None, None) => bail!("the guest ended, and the log does not say how"),
    }
}

/// Builds the image and the guest, and lays out the rig.
fn prepare(options: &Options, directory: &Path) -> Result<Rig> {
    let (mut words, members) = options.payload.prepare()?;
    // How QEMU is asked for the same.
    let already = |pair: &[String]| options.console == Some(Console::Stdio) && pair == ["-serial", "stdio"];
    if let Some(at) = words.windows(2).position(already) {
        words.drain(at..at + 2);
    }
    let image = build::board(options.board)?;
    let mut rig = Rig::new(options.board, image, directory.to_owned());
    rig.second = options.qmp_socket.len() > 1;
    // What the bundle takes, and as much again for what is written above it.
    let bundle: u64 =
        members.iter().filter_map(|member| Some(std::fs::metadata(&member.path).ok()?.len())).sum();
    let disks = u32::try_from(bundle >> 20).context("the files are too large")?.saturating_sub(BUNDLE_MIB);
    rig.memory_mib = options.payload.memory + HOST_EXTRA_MIB + 2 * disks;
    rig.processors = options.payload.smp.max(1);
    (rig.options, rig.members) = (words, members);
    Ok(rig)
}

/// What ended first.
enum Ended {
    /// The emulator.
    Emulator(ExitStatus),
    /// The guest, as the log says.
    Guest,
    /// The time that the run had.
    Time,
}

/// Waits for the end of the emulator, of the time, and, unless the monitor `stays`, of the guest.
fn wait(emulator: &mut Supervised, log: &Path, end: Option<Instant>, stays: bool) -> Result<Ended> {
    let (mut seen, mut told) = (0, 0);
    loop {
        if let Some(status) = emulator.wait_for(LOOK)? {
            return Ok(Ended::Emulator(status));
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(Ended::Time);
        }
        let length = std::fs::metadata(log).map_or(0, |file| file.len());
        if length == std::mem::replace(&mut seen, length) {
            continue;
        }
        if stays {
            // The monitor stays to be asked, but nobody would ask it why the console is silent.
            let log = read(log);
            for complaint in ending::complaints(&log).skip(told) {
                eprintln!("xtask: the rig says: {complaint}");
                told += 1;
            }
        } else {
            // With isa-debug-exit and `quit` the emulator is about to end by itself.
            if let Some(Ending::Off | Ending::Failed(_)) = Ending::of(&read(log)) {
                return Ok(Ended::Guest);
            }
        }
    }
}

fn read(log: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
}

/// Takes what comes on a line that nobody listens to.
fn discard(mut line: Line) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while matches!(line.read(&mut buffer), Ok(1..)) {}
    });
}

/// The status to end with: the emulator's own, or 128 and the signal that ended it.
fn exit_code(status: ExitStatus) -> Result<u8> {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    let code = code.context("the emulator's exit status is unknown")?;
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

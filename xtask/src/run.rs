//! `cargo xtask run`: builds, packs and boots a rig, with its console on the terminal and QMP on a socket.

use crate::board::Board;
use crate::bridge::{Bridge, Protocol};
use crate::emulator::{HOST_EXTRA_MIB, Machine, Rig};
use crate::line::Line;
use crate::payload::Payload;
use crate::{build, paths, process, setup, terminal};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Ctrl-A, as in QEMU: the key that starts a command to us.
const ESCAPE: u8 = 0x01;

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
    /// Serve the guest's console here instead of on the terminal
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// Show Monovisor's log on standard error when the run ends
    #[arg(long)]
    show_log: bool,
}

/// Runs the subcommand; the exit status is the emulator's.
pub fn main(options: Options) -> Result<u8> {
    if options.board == Board::Pc {
        bail!("the pc board is for real machines: `cargo xtask image` makes its disc image");
    }
    if options.qmp_socket.len() > 2 {
        bail!("--qmp-socket: two at most");
    }
    setup::ensure()?;
    let rig = prepare(&options)?;
    let Machine { process: mut emulator, qmp, console, second, log } = {
        let _progress = crate::progress::Progress::start("starting the emulator");
        rig.start()?
    };
    let socket = match options.qmp_socket.first() {
        Some(path) => path.clone(),
        None => paths::default_qmp_socket()?,
    };
    let bridge = Bridge::start(qmp, &socket, Protocol::Qmp)?;
    eprintln!("xtask: QMP on {}; log in {}", bridge.path().display(), log.display());
    let second = match (second, options.qmp_socket.get(1)) {
        (Some(line), Some(path)) => {
            let bridge = Bridge::start(line, path, Protocol::Qmp)?;
            eprintln!("xtask: second QMP on {}", bridge.path().display());
            Some(bridge)
        }
        _ => None,
    };
    let console_bridge = match &options.console_socket {
        Some(path) => {
            let bridge = Bridge::start(console, path, Protocol::Raw)?;
            eprintln!("xtask: console on {}; Ctrl-C ends the run", bridge.path().display());
            Some(bridge)
        }
        None => {
            attach(console)?;
            None
        }
    };
    let status = loop {
        if let Some(status) = emulator.wait_for(Duration::from_secs(3600))? {
            break status;
        }
    };
    terminal::restore();
    drop((bridge, second, console_bridge));
    if options.show_log {
        eprint!("{}", String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()));
    }
    exit_code(status)
}

/// Builds the image and the guest, and lays out the rig.
fn prepare(options: &Options) -> Result<Rig> {
    let image = build::board(options.board)?;
    let mut rig = Rig::new(options.board, image, paths::cache("run")?.join(options.board.name()));
    rig.second = options.qmp_socket.len() > 1;
    rig.memory_mib = options.payload.memory + HOST_EXTRA_MIB;
    rig.processors = options.payload.smp.max(1);
    (rig.options, rig.members) = options.payload.prepare()?;
    Ok(rig)
}

/// Joins the terminal and the guest's console.
fn attach(console: Line) -> Result<()> {
    let mut from = console.try_clone()?;
    let mut to = console;
    if std::io::stdin().is_terminal() {
        eprintln!("xtask: console of the guest follows; Ctrl-A x ends the run, Ctrl-A Ctrl-A sends Ctrl-A");
    }
    terminal::make_raw()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        let mut out = std::io::stdout();
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if out.write_all(&buffer[..count]).and_then(|()| out.flush()).is_err() {
                break;
            }
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        let mut escaped = false;
        while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
            for &byte in &buffer[..count] {
                match (escaped, byte) {
                    (true, b'x' | b'X') => {
                        terminal::restore();
                        process::kill_all();
                        eprintln!("\nxtask: ended");
                        std::process::exit(0);
                    }
                    (false, ESCAPE) => {
                        escaped = true;
                        continue;
                    }
                    _ => escaped = false,
                }
                if to.write_all(&[byte]).is_err() {
                    return;
                }
            }
        }
    });
    Ok(())
}

/// The status to end with: the emulator's own, or 128 and the signal that ended it.
fn exit_code(status: ExitStatus) -> Result<u8> {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    let code = code.context("the emulator's exit status is unknown")?;
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

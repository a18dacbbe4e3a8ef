//! The terminal, or whatever standard input and output are, as a guest's console.

use crate::line::Line;
use crate::{process, terminal};
use anyhow::Result;
use std::io::{IsTerminal, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Ctrl-A, as in QEMU: the key that starts a command to us.
const ESCAPE: u8 = 0x01;

/// A console that is joined with standard input and output.
pub struct Stdio {
    /// A message for each piece of output that has been shown; closed when the line ends.
    shown: Receiver<()>,
}

impl Stdio {
    /// Joins them. A terminal is switched to raw mode, and has a key for ending the run; what is no terminal is handed
    /// on byte by byte.
    pub fn attach(console: Line) -> Result<Self> {
        let (from, to) = (console.try_clone()?, console);
        let keys = std::io::stdin().is_terminal();
        if keys {
            eprintln!(
                "xtask: console of the guest follows; Ctrl-A x ends the run, Ctrl-A Ctrl-A sends Ctrl-A"
            );
        }
        terminal::make_raw()?;
        let (tell, shown) = channel();
        std::thread::spawn(move || {
            show(from, || {
                // Nobody may be interested.
                let _ = tell.send(());
            });
        });
        std::thread::spawn(move || type_in(to, keys));
        Ok(Self { shown })
    }

    /// Waits until the guest has said nothing for `quiet`, its line has ended, or `limit` has passed.
    pub fn drain(&self, quiet: Duration, limit: Duration) {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            match self.shown.recv_timeout(quiet) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

fn show(mut from: Line, mut told: impl FnMut()) {
    let mut buffer = [0; 4096];
    let mut out = std::io::stdout();
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if out.write_all(&buffer[..count]).and_then(|()| out.flush()).is_err() {
            break;
        }
        told();
    }
}

/// Hands on what is typed; `keys` says whether Ctrl-A means us.
fn type_in(mut to: Line, keys: bool) {
    let mut buffer = [0; 256];
    let mut escaped = false;
    while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
        if !keys {
            if to.write_all(&buffer[..count]).is_err() {
                return;
            }
            continue;
        }
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
}

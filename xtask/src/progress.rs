//! A line of progress for what takes longer than two seconds.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing is shown before this much time has passed.
const QUIET: Duration = Duration::from_secs(2);
/// Between two lines where standard error is no terminal and nothing can be overwritten.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// Shows what is being waited for, from two seconds on, until it is dropped.
#[derive(Debug)]
pub struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts the clock; `what` reads like "packing the boot image".
    pub fn start(what: impl Into<String>) -> Self {
        let (what, start) = (what.into(), Instant::now());
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let terminal = std::io::stderr().is_terminal();
            let mut wait = QUIET;
            let mut shown = false;
            while stopped.recv_timeout(wait) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let line = format!("xtask: {what} … {} s", start.elapsed().as_secs());
                if terminal {
                    eprint!("\r{line}\x1b[K");
                } else {
                    eprintln!("{line}");
                }
                let _ = std::io::stderr().flush();
                (shown, wait) = (true, if terminal { Duration::from_secs(1) } else { LOG_EVERY });
            }
            if shown && terminal {
                eprint!("\r\x1b[K");
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

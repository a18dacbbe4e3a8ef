//! The guest's console, as a script sees it.

use anyhow::{Result, bail};
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use xtask::line::Line;

/// What has come, and whether the line has ended.
#[derive(Default)]
struct Heard {
    text: Vec<u8>,
    ended: bool,
}

/// Reads all that the guest prints; a script looks for text behind what it has seen.
pub struct Console {
    line: Line,
    heard: Arc<(Mutex<Heard>, Condvar)>,
    seen: usize,
}

impl Console {
    /// Listens from now on.
    pub fn new(line: Line) -> Result<Self> {
        let heard = Arc::new((Mutex::new(Heard::default()), Condvar::new()));
        let (mut from, to) = (line.try_clone()?, heard.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = from.read(&mut buffer).unwrap_or(0);
                let mut heard = to.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                heard.text.extend_from_slice(&buffer[..count]);
                heard.ended = count == 0;
                to.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Ok(Self { line, heard, seen: 0 })
    }

    /// Types text.
    pub fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.line.write_all(text.as_bytes())?)
    }

    /// Waits for `text`; gives what came before it since the last call.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let mut heard = self.heard.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        loop {
            let fresh = &heard.text[self.seen..];
            if let Some(at) = fresh.windows(text.len()).position(|window| window == text.as_bytes()) {
                let before = String::from_utf8_lossy(&fresh[..at]).into_owned();
                self.seen += at + text.len();
                return Ok(before);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || heard.ended {
                let why = if heard.ended { "the line ended" } else { "time is up" };
                let tail = String::from_utf8_lossy(&heard.text);
                let tail: Vec<&str> = tail.lines().rev().take(12).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                bail!("{why}, no {text:?} on the console; its last lines:\n{}", tail.join("\n"));
            }
            heard = match self.heard.1.wait_timeout(heard, left) {
                Ok((heard, _)) => heard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// What has come since the last call; waits for something to come, for as long as `limit`.
    pub fn read(&mut self, limit: Duration) -> String {
        let end = Instant::now() + limit;
        let mut heard = self.heard.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if heard.text.len() > self.seen || heard.ended || left.is_zero() {
                let fresh = String::from_utf8_lossy(&heard.text[self.seen..]).into_owned();
                self.seen = heard.text.len();
                return fresh;
            }
            heard = match self.heard.1.wait_timeout(heard, left) {
                Ok((heard, _)) => heard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Forgets what has come so far; gives how many bytes have come in all.
    pub fn skip(&mut self) -> usize {
        self.seen = self.heard.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).text.len();
        self.seen
    }
}

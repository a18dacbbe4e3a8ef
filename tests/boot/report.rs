//! One line for each check, as it is done.

use anyhow::Result;
use std::sync::Mutex;
use std::time::Instant;
use xtask::board::Board;

/// Counts and prints; shared by the threads.
#[derive(Default)]
pub struct Report {
    counts: Mutex<(u32, u32)>,
}

impl Report {
    /// Runs one check and prints what came of it; true when it passed.
    pub fn check(&self, board: Board, name: &str, check: impl FnOnce() -> Result<()>) -> bool {
        let start = Instant::now();
        let result = check();
        let took = start.elapsed().as_secs_f64();
        let mut counts = self.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &result {
            Ok(()) => {
                counts.0 += 1;
                println!("test {}::{name} ... ok ({took:.1} s)", board.name());
            }
            Err(error) => {
                counts.1 += 1;
                println!("test {}::{name} ... FAILED ({took:.1} s)\n    {}", board.name(), indent(error));
            }
        }
        result.is_ok()
    }

    /// Runs a group: an error of its own, such as a rig that does not start, is one failed check.
    pub fn group(&self, board: Board, name: &str, run: impl FnOnce() -> Result<()>) {
        if let Err(error) = run() {
            self.check(board, &format!("{name}::group"), || Err(error));
        }
    }

    /// Passed, failed.
    pub fn counts(&self) -> (u32, u32) {
        *self.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn indent(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', "\n    ")
}

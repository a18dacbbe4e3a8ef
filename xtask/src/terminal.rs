//! The terminal as a guest's console.

use anyhow::Result;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::IsTerminal;
use std::sync::Mutex;

/// The settings to go back to, while the terminal is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

fn saved() -> std::sync::MutexGuard<'static, Option<Termios>> {
    SAVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Hands every key to the guest, Ctrl-C included. Does nothing where standard input is no terminal.
pub fn make_raw() -> Result<()> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(());
    }
    let old = tcgetattr(&stdin)?;
    let mut raw = old.clone();
    raw.make_raw();
    // Output processing stays: our own messages end their lines with LF alone.
    raw.output_modes = old.output_modes;
    tcsetattr(&stdin, OptionalActions::Now, &raw)?;
    saved().get_or_insert(old);
    Ok(())
}

/// Puts the terminal back as it was found.
pub fn restore() {
    if let Some(old) = saved().take() {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &old);
    }
}

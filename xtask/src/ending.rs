//! How a run ended, by the words of Monovisor's log: not every emulator has a way to end with a status of one's own.

/// An end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest wrote this to its isa-debug-exit.
    DebugExit(u32),
    /// The guest is off, and there is nobody to start it again.
    Off,
    /// `quit`.
    Quit,
    /// The guest cannot run, or no more: why.
    Failed(String),
}

/// Exit status for a guest that cannot run. Those of isa-debug-exit are odd.
pub const FAILED: u8 = 2;
/// Exit status for a run that has taken too long: that of `timeout`.
pub const TIMED_OUT: u8 = 124;

impl Ending {
    /// The exit status that tells of it; for isa-debug-exit QEMU's.
    pub fn status(&self) -> u8 {
        match self {
            Self::DebugExit(value) => (value << 1 | 1) as u8,
            Self::Off | Self::Quit => 0,
            Self::Failed(_) => FAILED,
        }
    }

    /// The end that a log tells of, if it tells of one: of isa-debug-exit before everything else, and of a failure
    /// only the first, which is the one to mend.
    pub fn of(log: &str) -> Option<Self> {
        let mut ending = None;
        for text in log.lines().filter_map(message) {
            let found = if let Some(value) = text.strip_prefix("the guest ends the run with ") {
                match value.parse() {
                    Ok(value) => return Some(Self::DebugExit(value)),
                    Err(_) => continue,
                }
            } else if let Some(reason) = text.strip_prefix("error: ") {
                Self::Failed(reason.to_owned())
            } else if text == "the guest has ended" {
                Self::Off
            } else if text == "switching off" {
                Self::Quit
            } else {
                continue;
            };
            if !matches!(ending, Some(Self::Failed(_))) || found == Self::Quit {
                ending = Some(found);
            }
        }
        ending
    }
}

/// The errors and warnings of a log, as far as their lines are whole.
pub fn complaints(log: &str) -> impl Iterator<Item = &str> {
    log.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .filter_map(|line| message(line.trim_end()))
        .filter(|text| text.starts_with("error: ") || text.starts_with("warning: "))
}

/// The text of a line of the log, behind its time. On Bochs other words may stand before it.
fn message(line: &str) -> Option<&str> {
    let (time, text) = line.get(line.find('[')? + 1..)?.split_once("] ")?;
    let is_time = !time.is_empty() && time.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b' '));
    is_time.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_told_once_they_are_whole() {
        let log = "[ 0.1] error: -rtc x: no\n[ 0.2] guest started\n[ 0.3] warning: late\n[ 0.4] error: ha";
        assert_eq!(complaints(log).collect::<Vec<_>>(), ["error: -rtc x: no", "warning: late"]);
    }

    #[test]
    fn the_log_tells() {
        let of = |log: &str| Ending::of(log);
        assert_eq!(of("[    0.000001] guest started\n"), None);
        assert_eq!(
            of("[    1.2] x\n<bochs:1> [    1.3] the guest ends the run with 33\n"),
            Some(Ending::DebugExit(33))
        );
        assert_eq!(of("[    1.2] the guest has ended\n[    2.0] switching off"), Some(Ending::Quit));
        assert_eq!(of("[    1.2] the guest has ended\n"), Some(Ending::Off));
        let failed = "[    0.1] error: -kernel k: no\n[    0.2] error: more\n";
        assert_eq!(of(failed), Some(Ending::Failed("-kernel k: no".into())));
        for not in
            ["the guest has ended", "[0x1] the guest has ended", "[    1.2] said: the guest has ended", "["]
        {
            assert_eq!(of(not), None, "{not}");
        }
    }

    #[test]
    fn statuses_are_qemus() {
        for (value, status) in [(0, 1), (1, 3), (0x10, 0x21), (0x7f, 0xff), (0x80, 1), (u32::MAX, 0xff)] {
            assert_eq!(Ending::DebugExit(value).status(), status);
        }
        assert_eq!((Ending::Off.status(), Ending::Failed(String::new()).status()), (0, FAILED));
    }
}

//! What a board says about itself.

use crate::uart::{LINES, UartConfig};

/// A way to switch the machine off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerOff {
    /// The soft-off state that ACPI tables describe.
    Acpi,
    /// A 16-bit word to a port.
    Word {
        /// The port.
        port: u16,
        /// The word.
        value: u16,
    },
    /// Characters to a port, one by one.
    Text {
        /// The port.
        port: u16,
        /// The characters.
        text: &'static str,
    },
}

/// The parts of a machine that cannot be found out, or need not be.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// Name, as on the log.
    pub name: &'static str,
    /// The serial ports that may be there, COM1 first; each is looked for before it is used.
    pub com: [UartConfig; LINES],
    /// Which of them QMP is on: 0 is COM1.
    pub qmp: usize,
    /// Which of them is the guest's console, where there may be one.
    pub console: Option<usize>,
    /// Debug port that the log goes to.
    pub log_port: Option<u16>,
    /// UART that the log has for itself.
    pub log_uart: Option<UartConfig>,
    /// Ways to switch the machine off, tried in order.
    pub power_off: &'static [PowerOff],
    /// Port of QEMU's isa-debug-exit device, where a test may have added it: a byte `n` ends QEMU with exit status
    /// `2n + 1`.
    pub exit_port: Option<u16>,
    /// After a defect of ours, switch off (so that a test ends) instead of halting (so that the log can be looked at).
    pub off_on_failure: bool,
}

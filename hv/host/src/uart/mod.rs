//! 16550 serial lines (National PC16550D data sheet) and their ancestors without FIFO.
//!
//! A line's interrupt handler empties the receive FIFO into a ring, so that no byte is lost as long as interrupts are
//! taken once in 12 characters (1 ms at 115200 baud, 130 us at 921600): a running guest is interrupted by them. Sending
//! goes out in bursts of what the FIFO holds, each begun only when the chip says that it is empty.
//!
//! How late that may be in instructions is measured in Bochs, whose UART overruns as a real one does: under guests that exit
//! without rest, none is lost with 2170 instructions to a character, which are 26,000 from the interrupt at the fourth to a
//! loss; at half of that some are. At 921600 baud that is a processor that makes 200 million instructions a second.
//!
//! A board may not bring a line's interrupt: its wiring is not as the tables say, or the chip raises none when its transmitter
//! is empty. So one is provoked when a line is opened, and a line whose interrupt stays away is looked after by [`poll`].
//!
//! COM1 and COM3 share an interrupt, and so do COM2 and COM4. It is edge-triggered: it comes again only when all of its
//! UARTs have been silent at once, so the handler goes on until it finds them so.

mod baud;
mod line;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use baud::Nearest;
pub use line::{Chip, Counters, RECEIVE_RING};
use line::{LINE, Line, SHARING_PASSES};

use core::sync::atomic::{AtomicBool, Ordering};

use crate::interrupts::{self, Sources};
#[cfg(not(test))]
use crate::port;
use crate::timer;
#[cfg(test)]
use model as port;

/// Lines that can be open: COM1 to COM4.
pub const LINES: usize = 4;

/// How often a line without interrupt is to be looked after, in nanoseconds: 6 characters at 115200 baud, of 16 that a FIFO
/// holds.
pub const POLL_NS: u64 = 500_000;
/// How long a provoked interrupt may take, in microseconds: it is a matter of one.
const PROVOKED_US: u64 = 2_000;

/// There are lines without interrupt.
static SILENT: AtomicBool = AtomicBool::new(false);

/// A 16550 and how it is wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UartConfig {
    /// First of its eight ports.
    pub base: u16,
    /// Its ISA interrupt.
    pub irq: u8,
    /// Baud rate at divisor 1: 115200 with the PC's 1.8432 MHz crystal.
    pub base_baud: u32,
}

impl UartConfig {
    /// COM1 of a PC.
    pub const COM1: Self = Self { base: 0x3f8, irq: 4, base_baud: 115_200 };
    /// COM2 of a PC.
    pub const COM2: Self = Self { base: 0x2f8, irq: 3, base_baud: 115_200 };
    /// COM3 of a PC, on the interrupt of COM1.
    pub const COM3: Self = Self { base: 0x3e8, irq: 4, base_baud: 115_200 };
    /// COM4 of a PC, on the interrupt of COM2.
    pub const COM4: Self = Self { base: 0x2e8, irq: 3, base_baud: 115_200 };
    /// The serial ports of a PC, by long convention. Each may be there or not.
    pub const PC: [Self; LINES] = [Self::COM1, Self::COM2, Self::COM3, Self::COM4];
}

/// What went wrong on the line while receiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// Characters were lost near this point.
    Overrun,
    /// A character without stop bit: noise, or another baud rate.
    Framing,
    /// A character with wrong parity.
    Parity,
    /// The other side held the line in the break state.
    Break,
}

/// State of the modem lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modem {
    /// Clear to send.
    pub cts: bool,
    /// Data set ready: something is connected and switched on.
    pub dsr: bool,
    /// Data carrier detect.
    pub dcd: bool,
}

/// An open line.
#[derive(Debug)]
pub struct Uart {
    index: usize,
}

impl Uart {
    /// Finds out whether the chip is there, and sets it up: 8 data bits, no parity, FIFO on, interrupts on. `index` is
    /// the line's place in `Sources`; a baud rate that the clock does not give makes it as fast as it can be. `None`
    /// where there is no UART, or the place is taken.
    pub fn open(index: usize, config: UartConfig, baud: u32) -> Option<Self> {
        LINE.get(index)?.lock().open(Sources::uart(index)?, config, baud)?;
        let uart = Self { index };
        if cfg!(not(test)) {
            interrupts::enable_isa(config.irq);
            if !uart.is_heard() {
                crate::warn!(
                    "com{}: interrupt {} does not arrive, the line is polled",
                    index + 1,
                    config.irq
                );
                SILENT.store(true, Ordering::Relaxed);
            }
        }
        Some(uart)
    }

    /// Provokes an interrupt, and tells whether it arrives.
    fn is_heard(&self) -> bool {
        self.with((), |line| line.provoke(true));
        let start = timer::since_entry_us();
        while timer::since_entry_us().wrapping_sub(start) < PROVOKED_US {
            interrupts::window();
            if self.with(true, |line| line.heard) {
                return true;
            }
        }
        self.with((), |line| line.provoke(false));
        false
    }

    fn with<T>(&self, absent: T, action: impl FnOnce(&mut Line) -> T) -> T {
        match LINE.get(self.index).map(|line| line.lock()) {
            Some(mut line) if line.open => action(&mut line),
            _ => absent,
        }
    }

    /// The next received byte, or what came in its place.
    pub fn read(&mut self) -> nb::Result<u8, LineError> {
        self.with(Err(nb::Error::WouldBlock), |line| line.read())
    }

    /// Reads bytes until the buffer is full, nothing is there or an error is next; returns how many.
    pub fn read_slice(&mut self, buffer: &mut [u8]) -> usize {
        self.with(0, |line| line.read_slice(buffer))
    }

    /// Bytes and errors that wait to be read.
    pub fn available(&self) -> usize {
        self.with(0, |line| line.available())
    }

    /// Sends one byte, or says that the chip has no room; then its source is noted when it has.
    pub fn write(&mut self, byte: u8) -> nb::Result<(), core::convert::Infallible> {
        if self.write_slice(&[byte]) == 1 { Ok(()) } else { Err(nb::Error::WouldBlock) }
    }

    /// Sends as much as the chip takes without waiting; returns how much. Where that is not all, its source is noted
    /// when there is room again.
    pub fn write_slice(&mut self, bytes: &[u8]) -> usize {
        self.with(0, |line| line.write_slice(bytes))
    }

    /// Everything sent has left the chip.
    pub fn is_idle(&self) -> bool {
        self.with(true, |line| line.is_idle())
    }

    /// State of the modem lines.
    pub fn modem(&mut self) -> Modem {
        self.with(Modem::default(), |line| line.modem())
    }

    /// Whether DSR or DCD has risen since this was last asked: a client may have come. Looks at what the interrupt has
    /// seen, not at the chip.
    pub fn connected(&mut self) -> bool {
        self.with(false, |line| line.connected())
    }

    /// How the line is wired.
    pub fn config(&self) -> Option<UartConfig> {
        self.with(None, |line| Some(line.config))
    }

    /// What it has counted.
    pub fn counters(&self) -> Option<Counters> {
        counters(self.index)
    }
}

/// What a line has counted; `None` where it is not open.
pub fn counters(index: usize) -> Option<Counters> {
    LINE.get(index).map(|line| line.lock()).filter(|line| line.open).map(|line| line.counters())
}

/// Sets a UART up for polled sending only, for the log. False where there is none.
pub(crate) fn open_for_log(config: UartConfig, baud: u32) -> bool {
    line::open_for_log(config, baud)
}

/// Looks after the lines whose interrupt does not arrive; false where there are none. To be called every [`POLL_NS`], on the
/// first processor.
#[inline]
pub fn poll() -> bool {
    let silent = SILENT.load(Ordering::Relaxed);
    if silent {
        serve_silent();
    }
    silent
}

#[cold]
fn serve_silent() {
    for slot in &LINE {
        let mut line = slot.lock();
        if line.open && !line.heard {
            line.interrupt();
        }
    }
}

/// Serves the lines on ISA interrupt `irq` until none of them has anything, and says which had.
pub(crate) fn interrupt(irq: u8) -> Sources {
    let mut sources = Sources::empty();
    for _ in 0..SHARING_PASSES {
        let (mut lines, mut served) = (0, false);
        for slot in &LINE {
            // Interrupts are taken in windows only, where no lock is held.
            let mut line = slot.lock();
            if line.open && line.config.irq == irq {
                lines += 1;
                if line.interrupt() {
                    line.heard = true;
                    served = true;
                    sources |= line.source;
                }
            }
        }
        // While one was served, another that was looked at before may have raised the line again.
        if lines < 2 || !served {
            return sources;
        }
    }
    LINE.iter()
        .map(|slot| slot.lock())
        .filter(|line| line.open && line.config.irq == irq)
        .for_each(|line| line.let_fall());
    sources
}

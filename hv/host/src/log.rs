//! The log: for people, never on the line that carries QMP.
//!
//! Every line goes to a ring in RAM, which can be read back ([`read`]), and to the sinks that the board names: a debug
//! port (QEMU `-debugcon`, Bochs `port_e9_hack`) or a UART that nothing else uses.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU16, Ordering};

use spin::Mutex;

use crate::{port, timer};

/// Bytes kept in RAM: some 800 lines, which is a whole start-up and the trouble after it.
pub const RING: usize = 64 * 1024;

/// Where a message stands in the order of alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What happened.
    Info,
    /// What is not as it should be, but can be lived with.
    Warning,
    /// What failed.
    Error,
}

struct Ring {
    bytes: [u8; RING],
    /// Bytes ever written; the ring holds the last `RING` of them.
    written: u64,
}

static LOG: Mutex<Ring> = Mutex::new(Ring { bytes: [0; RING], written: 0 });

/// Debug port, 0 for none.
static DEBUG_PORT: AtomicU16 = AtomicU16::new(0);
/// Base port of the log's own UART, 0 for none.
static UART: AtomicU16 = AtomicU16::new(0);

/// Polls of the line status register before a log UART is taken for dead: far more than one character lasts at 9600
/// baud (1 ms, some 1000 port reads).
const UART_POLLS: u32 = 20_000;

/// Names the sinks: a debug port, and the base port of a UART that is set up already. `None` is no such sink.
pub fn set_sinks(debug_port: Option<u16>, uart: Option<u16>) {
    DEBUG_PORT.store(debug_port.unwrap_or(0), Ordering::Relaxed);
    UART.store(uart.unwrap_or(0), Ordering::Relaxed);
}

impl Write for Ring {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let debug_port = DEBUG_PORT.load(Ordering::Relaxed);
        let uart = UART.load(Ordering::Relaxed);
        for &byte in text.as_bytes() {
            let at = (self.written % RING as u64) as usize;
            if let Some(slot) = self.bytes.get_mut(at) {
                *slot = byte;
            }
            self.written = self.written.wrapping_add(1);
            if debug_port != 0 {
                port::out8(debug_port, byte);
            }
            if uart != 0 {
                if byte == b'\n' {
                    uart_byte(uart, b'\r');
                }
                uart_byte(uart, byte);
            }
        }
        Ok(())
    }
}

fn uart_byte(base: u16, byte: u8) {
    for _ in 0..UART_POLLS {
        if port::in8(base + 5) & 0x20 != 0 {
            port::out8(base, byte);
            return;
        }
    }
    UART.store(0, Ordering::Relaxed);
}

/// Writes one line with the time since entry in front. Use the macros.
pub fn line(level: Level, message: fmt::Arguments<'_>) {
    let time = timer::since_entry_us();
    let label = match level {
        Level::Info => "",
        Level::Warning => "warning: ",
        Level::Error => "error: ",
    };
    let mut log = LOG.lock();
    // Writing to the ring cannot fail; a `Display` that fails cuts the line short.
    let _ = write!(log, "[{:5}.{:06}] {label}", time / 1_000_000, time % 1_000_000);
    let _ = log.write_fmt(message);
    let _ = log.write_str("\n");
}

/// Opens the log for the report of a processor that stops: whoever held the lock will not go on.
pub fn break_lock() {
    // SAFETY: called only on the way to a stop, from an exception or a panic. The holder of the lock is either this
    // processor, interrupted for good, or another whose line may be mixed with the report: text only, no invariant.
    unsafe { LOG.force_unlock() };
}

/// Copies log text from byte `offset` of all that was ever written. Returns the offset of the first byte copied, which
/// is later than `offset` where the ring has been overwritten, and how many bytes were copied.
pub fn read(offset: u64, buffer: &mut [u8]) -> (u64, usize) {
    let log = LOG.lock();
    let oldest = log.written.saturating_sub(RING as u64);
    let from = offset.clamp(oldest, log.written);
    let count = ((log.written - from) as usize).min(buffer.len());
    for (index, byte) in buffer.iter_mut().take(count).enumerate() {
        let at = ((from + index as u64) % RING as u64) as usize;
        *byte = log.bytes.get(at).copied().unwrap_or(0);
    }
    (from, count)
}

/// Sends the newest `len` bytes of the log to the UART at `base`: the last words of a board whose log has no line.
pub(crate) fn last_words(base: u16, len: u64) {
    let mut offset = written().saturating_sub(len);
    let mut chunk = [0; 64];
    UART.store(base, Ordering::Relaxed);
    loop {
        let (from, count) = read(offset, &mut chunk);
        // A dead UART takes itself out of the sinks.
        if count == 0 || UART.load(Ordering::Relaxed) == 0 {
            return;
        }
        for &byte in chunk.iter().take(count) {
            if byte == b'\n' {
                uart_byte(base, b'\r');
            }
            uart_byte(base, byte);
        }
        offset = from + count as u64;
    }
}

/// Bytes ever written: the offset behind the newest.
pub fn written() -> u64 {
    LOG.lock().written
}

/// Logs what happened.
#[macro_export]
macro_rules! info {
    ($($argument:tt)*) => { $crate::log::line($crate::log::Level::Info, ::core::format_args!($($argument)*)) };
}

/// Logs what is not as it should be, but can be lived with.
#[macro_export]
macro_rules! warn {
    ($($argument:tt)*) => { $crate::log::line($crate::log::Level::Warning, ::core::format_args!($($argument)*)) };
}

/// Logs what failed.
#[macro_export]
macro_rules! error {
    ($($argument:tt)*) => { $crate::log::line($crate::log::Level::Error, ::core::format_args!($($argument)*)) };
}

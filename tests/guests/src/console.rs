//! The console: COM1, polled.

use crate::cpu::{inp, outp};
use core::fmt::{self, Write};

/// First port of COM1.
pub const PORT: u16 = 0x3f8;

/// 115,200 baud, 8 bits, no parity, FIFO on, no interrupts.
pub fn init() {
    for (register, value) in [(1, 0x00), (3, 0x80), (0, 1), (1, 0), (3, 0x03), (2, 0x07), (4, 0x0b)] {
        outp(PORT + register, value as u8);
    }
}

/// Sends one byte when there is room.
pub fn put(byte: u8) {
    drain();
    outp(PORT, byte);
}

/// Waits until there is room.
pub fn drain() {
    while inp::<u8>(PORT + 5) & 0x20 == 0 {
        core::hint::spin_loop();
    }
}

/// A byte that has come.
pub fn get() -> Option<u8> {
    (inp::<u8>(PORT + 5) & 1 != 0).then(|| inp(PORT))
}

/// Reads a line into `buffer`; what does not fit is dropped.
pub fn read_line(buffer: &mut [u8]) -> &str {
    let mut length = 0;
    loop {
        match get() {
            None => core::hint::spin_loop(),
            Some(b'\r' | b'\n') if length == 0 => {}
            Some(b'\r' | b'\n') => return core::str::from_utf8(&buffer[..length]).unwrap_or(""),
            Some(byte) => {
                if let Some(slot) = buffer.get_mut(length) {
                    *slot = byte;
                    length += 1;
                }
            }
        }
    }
}

/// Where `print!` goes.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        let _ = write!($crate::console::Console, $($argument)*);
    }};
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::console::Console, $($argument)*);
    }};
}

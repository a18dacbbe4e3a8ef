//! Port I/O by number.
//!
//! Thin on purpose: the callers are drivers that know their ports, and this is the one place where a port access is
//! declared sound.

use x86_64::instructions::port::Port;

/// Reads a byte.
pub fn in8(port: u16) -> u8 {
    // SAFETY: port I/O does not touch memory that Rust knows of; the drivers here give DMA engines no addresses.
    unsafe { Port::<u8>::new(port).read() }
}

/// Writes a byte.
pub fn out8(port: u16, value: u8) {
    // SAFETY: as for `in8`.
    unsafe { Port::<u8>::new(port).write(value) }
}

/// Reads a 16-bit word.
pub fn in16(port: u16) -> u16 {
    // SAFETY: as for `in8`.
    unsafe { Port::<u16>::new(port).read() }
}

/// Writes a 16-bit word.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as for `in8`.
    unsafe { Port::<u16>::new(port).write(value) }
}

/// Reads a 32-bit word.
pub fn in32(port: u16) -> u32 {
    // SAFETY: as for `in8`.
    unsafe { Port::<u32>::new(port).read() }
}

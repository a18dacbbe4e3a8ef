//! QEMU's pc-testdev: what guest test programs drive interrupt lines and instruction emulation with.
//!
//! | where | what |
//! |---|---|
//! | ports 0xe0 to 0xe3, and again 0xe8 to 0xeb | four bytes that read back what was written, by accesses of any width |
//! | ports 0xe4 to 0xe7 | a page address, whose translations are to be flushed |
//! | ports 0x2000 to 0x2017 | interrupt lines 0 to 23: a byte other than 0 raises one, 0 lowers it |
//! | memory 0xff000000 to 0xff00ffff | 64 KiB that are reached by emulation only |
//!
//! A flush has nothing to do: translations change here only together with what they are made of.

use core::sync::atomic::{AtomicU8, Ordering};

/// First address of the memory window.
pub const MEMORY: u64 = 0xff00_0000;
/// Length of the memory window in bytes.
pub const MEMORY_LENGTH: usize = 0x1_0000;

const DATA: u16 = 0xe0;
const DATA_AGAIN: u16 = 0xe8;
const LINES: u16 = 0x2000;
const LINE_COUNT: u16 = 24;

/// The device.
#[derive(Clone, Debug)]
pub struct TestDevice {
    memory: &'static [AtomicU8],
    data: [u8; 4],
}

/// Which of the four bytes a port is.
fn byte_of(port: u16) -> Option<usize> {
    let byte = [DATA, DATA_AGAIN].map(|first| port.wrapping_sub(first)).into_iter().find(|byte| *byte < 4)?;
    Some(usize::from(byte))
}

impl TestDevice {
    /// A device whose window is `memory`, as far as that reaches.
    pub const fn new(memory: &'static [AtomicU8]) -> Self {
        Self { memory, data: [0; 4] }
    }

    /// IN of a byte. `None`: it does not answer there.
    pub fn read_port(&self, port: u16) -> Option<u8> {
        self.data.get(byte_of(port)?).copied()
    }

    /// OUT of a byte. The interrupt line that it sets, and the level, where it is the port of one.
    pub fn write_port(&mut self, port: u16, value: u8) -> Option<(u8, bool)> {
        if let Some(byte) = byte_of(port).and_then(|byte| self.data.get_mut(byte)) {
            *byte = value;
        }
        let line = port.wrapping_sub(LINES);
        (line < LINE_COUNT).then_some((line as u8, value != 0))
    }

    /// The bytes of the window that an access of `size` bytes reaches.
    fn window(&self, address: u64, size: u8) -> Option<&'static [AtomicU8]> {
        let offset = usize::try_from(address.checked_sub(MEMORY)?).ok()?;
        self.memory.get(offset..offset.checked_add(size.into())?)
    }

    /// A read of the window of 1 to 8 bytes. `None`: some of them are not in it.
    pub fn read_memory(&self, address: u64, size: u8) -> Option<u64> {
        let bytes = self.window(address, size)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(byte.load(Ordering::Relaxed))))
    }

    /// A write of the window of 1 to 8 bytes. False: some of them are not in it.
    pub fn write_memory(&self, address: u64, size: u8, value: u64) -> bool {
        let Some(bytes) = self.window(address, size) else { return false };
        for (byte, value) in bytes.iter().zip(value.to_le_bytes()) {
            byte.store(value, Ordering::Relaxed);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static WINDOW: [AtomicU8; MEMORY_LENGTH] = [const { AtomicU8::new(0) }; MEMORY_LENGTH];

    #[test]
    fn bytes_read_back_at_both_places() {
        let mut device = TestDevice::new(&[]);
        for (port, value) in (DATA..).zip([1, 2, 3, 4]) {
            assert_eq!(device.write_port(port, value), None);
        }
        device.write_port(0xe9, 0x22);
        let read = |ports: [u16; 4]| ports.map(|port| device.read_port(port).unwrap());
        assert_eq!(read([0xe0, 0xe1, 0xe2, 0xe3]), [1, 0x22, 3, 4]);
        assert_eq!(read([0xe8, 0xe9, 0xea, 0xeb]), [1, 0x22, 3, 4]);
        for port in [0xdf, 0xe4, 0xe7, 0xec, 0x2000, 0xffff] {
            assert_eq!(device.read_port(port), None);
        }
    }

    #[test]
    fn ports_set_lines() {
        let mut device = TestDevice::new(&[]);
        assert_eq!(device.write_port(0x2000, 1), Some((0, true)));
        assert_eq!(device.write_port(0x2017, 0xff), Some((23, true)));
        assert_eq!(device.write_port(0x200e, 0), Some((14, false)));
        assert_eq!(device.write_port(0x2018, 1), None);
        assert_eq!(device.write_port(0xe4, 1), None);
    }

    #[test]
    fn the_window_takes_any_width_and_ends() {
        let device = TestDevice::new(&WINDOW);
        assert!(device.write_memory(MEMORY + 0x10, 8, 0x0807_0605_0403_0201));
        for (offset, size, value) in
            [(0x10, 1, 1), (0x11, 2, 0x0302), (0x12, 4, 0x0605_0403), (0x13, 8, 0x08_0706_0504)]
        {
            assert_eq!(device.read_memory(MEMORY + offset, size), Some(value));
        }
        assert!(device.write_memory(MEMORY + 0xffff, 1, 0x5a) && !device.write_memory(MEMORY + 0xffff, 2, 0));
        assert_eq!(device.read_memory(MEMORY + 0xffff, 1), Some(0x5a));
        assert_eq!(device.read_memory(MEMORY + 0xfffd, 4), None);
        for address in [MEMORY - 1, MEMORY + 0x1_0000, 0, u64::MAX] {
            assert_eq!((device.read_memory(address, 1), device.write_memory(address, 1, 0)), (None, false));
        }
    }
}

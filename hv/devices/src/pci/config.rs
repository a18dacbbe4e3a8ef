//! The configuration space of one PCI function: 256 bytes, each bit read-only, writable, or cleared by a one
//! (PCI Local Bus 3.0, chapter 6).

/// Bytes of a configuration space.
pub const SIZE: usize = 256;

/// Offsets of the standard header.
pub mod header {
    #![allow(missing_docs)]
    pub const VENDOR: u8 = 0x00;
    pub const DEVICE: u8 = 0x02;
    pub const COMMAND: u8 = 0x04;
    pub const STATUS: u8 = 0x06;
    pub const REVISION: u8 = 0x08;
    pub const CLASS: u8 = 0x09;
    pub const HEADER_TYPE: u8 = 0x0e;
    pub const BAR0: u8 = 0x10;
    pub const SUBSYSTEM_VENDOR: u8 = 0x2c;
    pub const SUBSYSTEM: u8 = 0x2e;
    pub const CAPABILITIES: u8 = 0x34;
    pub const INTERRUPT_LINE: u8 = 0x3c;
    pub const INTERRUPT_PIN: u8 = 0x3d;
}

/// Command register: I/O space.
pub const COMMAND_IO: u16 = 1;
/// Command register: memory space.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command register: bus master.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command register: INTx off.
pub const COMMAND_INTX_OFF: u16 = 1 << 10;

/// Who a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, sub-class, programming interface, as in `0x060000`.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// What a base address register asks for, and what it has been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Ports, not memory.
    pub io: bool,
    /// Where it is; `None` while it decodes nothing.
    pub address: Option<u64>,
    /// Ports or bytes.
    pub size: u32,
}

/// A configuration space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    clears: [u8; SIZE],
}

impl ConfigSpace {
    /// All zero, nothing writable.
    pub const fn empty() -> Self {
        Self { bytes: [0; SIZE], writable: [0; SIZE], clears: [0; SIZE] }
    }

    /// A type 0 header with that identity; command and interrupt line are writable as PCI 3.0, 6.2.2 says.
    pub const fn new(identity: Identity) -> Self {
        let mut space = Self::empty();
        space.set_u16(header::VENDOR, identity.vendor);
        space.set_u16(header::DEVICE, identity.device);
        space.set(header::REVISION, identity.revision);
        space.set(header::CLASS, identity.class as u8);
        space.set(header::CLASS + 1, (identity.class >> 8) as u8);
        space.set(header::CLASS + 2, (identity.class >> 16) as u8);
        space.set_u16(header::SUBSYSTEM_VENDOR, identity.subsystem_vendor);
        space.set_u16(header::SUBSYSTEM, identity.subsystem);
        space.writable[header::COMMAND as usize] = 0x47;
        space.writable[header::COMMAND as usize + 1] = 0x05;
        space.clears[header::STATUS as usize + 1] = 0xf9;
        space.writable[header::INTERRUPT_LINE as usize] = 0xff;
        space
    }

    /// Sets a byte, whatever the guest may write there.
    pub const fn set(&mut self, offset: u8, value: u8) {
        self.bytes[offset as usize] = value;
    }

    /// Sets two bytes; a second one beyond the end is dropped.
    pub const fn set_u16(&mut self, offset: u8, value: u16) {
        self.set(offset, value as u8);
        if offset < u8::MAX {
            self.set(offset + 1, (value >> 8) as u8);
        }
    }

    /// Lets the guest write the bits of `mask` in a byte.
    pub const fn allow(&mut self, offset: u8, mask: u8) {
        self.writable[offset as usize] = mask;
    }

    /// A byte.
    pub const fn get(&self, offset: u8) -> u8 {
        self.bytes[offset as usize]
    }

    /// Two bytes.
    pub const fn get_u16(&self, offset: u8) -> u16 {
        u16::from_le_bytes([self.get(offset), self.get(offset.saturating_add(1))])
    }

    /// Four bytes.
    pub fn get_u32(&self, offset: u8) -> u32 {
        self.read(offset, 4)
    }

    /// The guest reads 1, 2 or 4 bytes; what lies beyond the end reads as ones.
    pub fn read(&self, offset: u8, size: u8) -> u32 {
        let mut value = 0;
        for index in (0..size.min(4)).rev() {
            let byte = self.bytes.get(usize::from(offset) + usize::from(index)).copied().unwrap_or(0xff);
            value = value << 8 | u32::from(byte);
        }
        value
    }

    /// The guest writes 1, 2 or 4 bytes.
    pub fn write(&mut self, offset: u8, size: u8, value: u32) {
        for (index, new) in value.to_le_bytes().into_iter().enumerate().take(usize::from(size)) {
            let at = usize::from(offset) + index;
            if let (Some(byte), Some(writable), Some(clears)) =
                (self.bytes.get_mut(at), self.writable.get(at), self.clears.get(at))
            {
                *byte = (*byte & !writable | new & writable) & !(new & clears);
            }
        }
    }

    /// The command register.
    pub const fn command(&self) -> u16 {
        self.get_u16(header::COMMAND)
    }

    /// Declares a memory BAR of `size` bytes (a power of two from 16 on), 32 bits, not prefetchable.
    pub const fn memory_bar(&mut self, index: u8, size: u32) {
        let at = header::BAR0 + 4 * (index % 6);
        self.allow_u32(at, !(size.next_power_of_two().wrapping_sub(1)) & !0xf);
    }

    /// Declares an I/O BAR of `size` ports (a power of two from 4 on).
    pub const fn io_bar(&mut self, index: u8, size: u32) {
        let at = header::BAR0 + 4 * (index % 6);
        self.set(at, 1);
        self.allow_u32(at, !(size.next_power_of_two().wrapping_sub(1)) & !0x3);
    }

    const fn allow_u32(&mut self, offset: u8, mask: u32) {
        let bytes = mask.to_le_bytes();
        let mut index = 0;
        while index < 4 {
            self.allow(offset + index, bytes[index as usize]);
            index += 1;
        }
    }

    /// The region of a BAR that has been declared.
    pub fn region(&self, index: u8) -> Option<Region> {
        let at = usize::from(header::BAR0 + 4 * (index % 6));
        let mask = self.writable.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))?;
        if mask == 0 {
            return None;
        }
        let io = self.get_u32(at as u8) & 1 != 0;
        let address = if io { self.io_address(index).map(u64::from) } else { self.memory_address(index) };
        // The lowest writable bit is the size (PCI 3.0, 6.2.5.1).
        Some(Region { io, address, size: mask & mask.wrapping_neg() })
    }

    /// Address that a memory BAR decodes, if memory space is on and it has one.
    pub fn memory_address(&self, index: u8) -> Option<u64> {
        let address = self.get_u32(header::BAR0 + 4 * (index % 6)) & !0xf;
        (self.command() & COMMAND_MEMORY != 0 && address != 0).then_some(u64::from(address))
    }

    /// First port that an I/O BAR decodes, if I/O space is on and it has one.
    pub fn io_address(&self, index: u8) -> Option<u16> {
        let address = self.get_u32(header::BAR0 + 4 * (index % 6)) & !0x3;
        let port = u16::try_from(address).ok()?;
        (self.command() & COMMAND_IO != 0 && port != 0).then_some(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: 0x01_0000,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
    };

    #[test]
    fn identity_is_read_only() {
        let mut space = ConfigSpace::new(IDENTITY);
        space.write(0, 4, 0);
        assert_eq!(space.read(0, 4), 0x1042_1af4);
        assert_eq!(space.read(8, 4), 0x0100_0001);
        assert_eq!(space.read(0x2c, 4), 0x1100_1af4);
        assert_eq!(space.read(0x0b, 1), 0x01);
    }

    #[test]
    fn command_bits_and_status_bits() {
        let mut space = ConfigSpace::new(IDENTITY);
        space.set(7, 0xff);
        space.write(4, 4, 0x0100_ffff);
        assert_eq!(space.read(4, 4), 0xfe00_0547);
    }

    #[test]
    fn bars_are_sized_by_writing_ones() {
        let mut space = ConfigSpace::new(IDENTITY);
        space.memory_bar(1, 0x4000);
        space.io_bar(0, 0x40);
        space.write(0x14, 4, 0xffff_ffff);
        space.write(0x10, 4, 0xffff_ffff);
        assert_eq!((space.read(0x14, 4), space.read(0x10, 4)), (0xffff_c000, 0xffff_ffc1));
        space.write(0x14, 4, 0xe000_4000);
        space.write(0x10, 4, 0xc040);
        assert_eq!((space.memory_address(1), space.io_address(0)), (None, None));
        assert_eq!(space.region(0), Some(Region { io: true, address: None, size: 0x40 }));
        assert_eq!(space.region(2), None);
        space.write(4, 2, 3);
        assert_eq!((space.memory_address(1), space.io_address(0)), (Some(0xe000_4000), Some(0xc040)));
        assert_eq!(space.region(1), Some(Region { io: false, address: Some(0xe000_4000), size: 0x4000 }));
    }

    #[test]
    fn nothing_lies_beyond_the_end() {
        let mut space = ConfigSpace::new(IDENTITY);
        space.allow(0xff, 0xff);
        space.write(0xff, 4, 0x1234_5678);
        assert_eq!(space.read(0xff, 4), 0xffff_ff78);
        assert_eq!(space.read(0xfe, 255), 0xffff_7800);
        space.set_u16(0xff, 0xaaaa);
        assert_eq!(space.get_u16(0xff), 0xaaaa);
    }
}

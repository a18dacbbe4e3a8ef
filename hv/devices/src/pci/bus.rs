//! Configuration mechanism #1: the address register and what an access to the data port means
//! (PCI Local Bus 3.0, 3.2.2.3.2).

/// A function and the offset in its configuration space that an access goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Bus.
    pub bus: u8,
    /// Slot (device), 0 to 31.
    pub slot: u8,
    /// Function, 0 to 7.
    pub function: u8,
    /// Offset of the first byte.
    pub offset: u8,
}

/// The ports 0xcf8 to 0xcff.
#[derive(Clone, Debug, Default)]
pub struct ConfigPort {
    address: u32,
}

impl ConfigPort {
    /// Configuration cycles off.
    pub const fn new() -> Self {
        Self { address: 0 }
    }

    /// The address register; it takes 32-bit accesses only.
    pub const fn address(&self) -> u32 {
        self.address
    }

    /// Writes the address register.
    pub fn set_address(&mut self, value: u32) {
        self.address = value & 0x80ff_fffc;
    }

    /// What an access to byte `byte` (0 to 3) of the data port goes to; nothing while the enable bit is clear.
    pub const fn target(&self, byte: u16) -> Option<Address> {
        if self.address & 1 << 31 == 0 {
            return None;
        }
        Some(Address {
            bus: (self.address >> 16) as u8,
            slot: (self.address >> 11) as u8 & 31,
            function: (self.address >> 8) as u8 & 7,
            offset: self.address as u8 & 0xfc | byte as u8 & 3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_the_address_register() {
        let mut port = ConfigPort::new();
        port.set_address(0x0001_0b44);
        assert_eq!(port.target(0), None);
        port.set_address(0xff02_fb47);
        assert_eq!(port.address(), 0x8002_fb44);
        assert_eq!(port.target(2), Some(Address { bus: 2, slot: 31, function: 3, offset: 0x46 }));
    }
}

//! The interrupt controllers of the APIC architecture: local APICs, I/O APIC and the messages between them.

#[cfg(test)]
#[path = "tests.rs"]
mod behaviour;
pub mod ioapic;
pub mod local;
pub mod system;

pub use ioapic::IoApic;
pub use local::{CpuRequest, LocalApic};
pub use system::LocalApics;

/// A write or read that the architecture answers with #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// Delivery mode of an interrupt message (SDM vol. 3, 11.5.1 and 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To all destinations, by vector.
    Fixed,
    /// To the destination of lowest priority, by vector.
    LowestPriority,
    /// System management interrupt; there is no SMM here, so it goes nowhere.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up IPI; the vector names the page to start at.
    StartUp,
    /// As from an 8259: the vector comes from there.
    External,
    /// The reserved encoding.
    Reserved,
}

impl Delivery {
    /// Decodes the three bits that every register has for it.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::External,
            _ => Self::Reserved,
        }
    }
}

/// An interrupt message on its way to local APICs: from an ICR, an I/O APIC or an MSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Delivery mode.
    pub delivery: Delivery,
    /// Vector.
    pub vector: u8,
    /// Level-triggered: the end of interrupt is broadcast.
    pub level: bool,
    /// The destination is a logical one.
    pub logical: bool,
    /// Destination: 8 bits wide unless it comes from an ICR in x2APIC mode.
    pub destination: u32,
}

impl Message {
    /// Decodes an MSI or MSI-X write (SDM vol. 3, 11.11). `None` when the address is not one of an MSI.
    pub const fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != 0xfee {
            return None;
        }
        Some(Self {
            delivery: Delivery::from_bits((data >> 8) as u8),
            vector: data as u8,
            level: data & 1 << 15 != 0,
            logical: address & 1 << 2 != 0,
            destination: (address >> 12) as u32 & 0xff,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_addresses_and_data() {
        let message = Message::from_msi(0xfee0_300c, 0x4041).unwrap();
        assert_eq!(message.destination, 3);
        assert!(message.logical && !message.level);
        assert_eq!((message.delivery, message.vector), (Delivery::Fixed, 0x41));
        assert_eq!(Message::from_msi(0xfec0_0000, 0), None);
        assert_eq!(Message::from_msi(0x1_fee0_0000, 0), None);
    }
}

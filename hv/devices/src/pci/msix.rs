//! MSI-X: table, pending bits and message control of one function (PCI Local Bus 3.0, 6.8.2).

use crate::apic::Message;

/// Most vectors of a function: one for each of sixteen queues and one for what else a device has to say.
pub const MAX_VECTORS: usize = 17;

/// Bytes of the capability.
pub const CAPABILITY: u8 = 12;

/// Bytes of a table entry.
pub const ENTRY: u32 = 16;

/// Where the pending bits are in the table's BAR.
pub const PENDING: u32 = 0x800;

/// Message control, high byte: function mask and enable.
const CONTROL_MASK: u8 = 1 << 6;
const CONTROL_ENABLE: u8 = 1 << 7;

#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
}

impl Entry {
    const RESET: Self = Self { address: 0, data: 0, masked: true };
}

/// The MSI-X vectors of a function.
#[derive(Clone, Debug)]
pub struct MsiX {
    entries: [Entry; MAX_VECTORS],
    vectors: u8,
    enabled: bool,
    masked: bool,
    /// Vectors that are held back by a mask.
    pending: u32,
    /// Vectors whose message is to be sent.
    outgoing: u32,
}

impl MsiX {
    /// As after a reset: off, all vectors masked.
    pub const fn new(vectors: u8) -> Self {
        let most = MAX_VECTORS as u8;
        let vectors = if vectors > most { most } else { vectors };
        Self {
            entries: [Entry::RESET; MAX_VECTORS],
            vectors,
            enabled: false,
            masked: false,
            pending: 0,
            outgoing: 0,
        }
    }

    /// How many vectors there are.
    pub const fn vectors(&self) -> u8 {
        self.vectors
    }

    /// It is on, and there are no INTx interrupts.
    #[inline]
    pub const fn enabled(&self) -> bool {
        self.enabled
    }

    /// The guest has written the high byte of message control.
    pub fn set_control(&mut self, high: u8) {
        self.enabled = high & CONTROL_ENABLE != 0;
        self.masked = high & CONTROL_MASK != 0;
        self.release();
    }

    /// Raises a vector; one that does not exist says nothing.
    #[inline]
    pub fn raise(&mut self, vector: u16) {
        if vector >= u16::from(self.vectors) || !self.enabled {
            return;
        }
        let bit = 1 << (vector & 31);
        if self.held(usize::from(vector)) {
            self.pending |= bit;
        } else {
            self.outgoing |= bit;
        }
    }

    fn held(&self, vector: usize) -> bool {
        self.masked || self.entries.get(vector).is_none_or(|entry| entry.masked)
    }

    /// Sends what has waited for a mask to go.
    fn release(&mut self) {
        if !self.enabled {
            return;
        }
        for vector in 0..usize::from(self.vectors) {
            let bit = 1 << (vector & 31);
            if self.pending & bit != 0 && !self.held(vector) {
                self.pending &= !bit;
                self.outgoing |= bit;
            }
        }
    }

    /// Some message is to be sent.
    #[inline]
    pub const fn has_message(&self) -> bool {
        self.outgoing != 0
    }

    /// The next message to send; one whose address is not an interrupt's goes nowhere.
    pub fn take(&mut self) -> Option<Message> {
        while self.outgoing != 0 {
            let vector = self.outgoing.trailing_zeros();
            self.outgoing &= self.outgoing - 1;
            let entry = self.entries.get(vector as usize)?;
            if let Some(message) = Message::from_msi(entry.address, entry.data) {
                return Some(message);
            }
        }
        None
    }

    /// Reads 4 bytes (`offset` is a multiple of 4) of the BAR with table and pending bits.
    fn read_u32(&self, offset: u32) -> u32 {
        if offset == PENDING {
            return self.pending;
        }
        let Some(entry) = self.entry(offset) else { return 0 };
        match offset % ENTRY {
            0 => entry.address as u32,
            4 => (entry.address >> 32) as u32,
            8 => entry.data,
            _ => u32::from(entry.masked),
        }
    }

    fn entry(&self, offset: u32) -> Option<&Entry> {
        let index = usize::try_from(offset / ENTRY).ok()?;
        self.entries.get(..usize::from(self.vectors))?.get(index)
    }

    fn write_u32(&mut self, offset: u32, value: u32) {
        let vectors = usize::from(self.vectors);
        let Some(entry) = self.entries.get_mut(..vectors).and_then(|e| e.get_mut((offset / ENTRY) as usize))
        else {
            return;
        };
        match offset % ENTRY {
            0 => entry.address = entry.address & !0xffff_ffff | u64::from(value & !3),
            4 => entry.address = entry.address & 0xffff_ffff | u64::from(value) << 32,
            8 => entry.data = value,
            _ => entry.masked = value & 1 != 0,
        }
        self.release();
    }

    /// A read of the BAR. Accesses have 4 or 8 bytes, aligned (6.8.2); smaller ones are given the part they ask for.
    pub fn read(&self, offset: u32, size: u8) -> u64 {
        let low = self.read_u32(offset & !3) >> (8 * (offset & 3));
        match size {
            8 => u64::from(low) | u64::from(self.read_u32((offset & !3).wrapping_add(4))) << 32,
            _ => u64::from(low),
        }
    }

    /// A write of the BAR; what is not 4 or 8 bytes, aligned, is dropped.
    pub fn write(&mut self, offset: u32, size: u8, value: u64) {
        if !offset.is_multiple_of(4) || size < 4 {
            return;
        }
        self.write_u32(offset, value as u32);
        if size == 8 {
            self.write_u32(offset.wrapping_add(4), (value >> 32) as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> MsiX {
        let mut msix = MsiX::new(3);
        msix.write(16, 8, 0xfee0_1000);
        msix.write(24, 8, 0x41);
        msix.set_control(0x80);
        msix
    }

    #[test]
    fn a_message_goes_out_as_the_table_says() {
        let mut msix = open();
        msix.raise(1);
        assert!(msix.has_message());
        let message = msix.take().unwrap();
        assert_eq!((message.vector, message.destination), (0x41, 1));
        assert!(msix.take().is_none());
    }

    #[test]
    fn masks_hold_back_and_release_once() {
        let mut msix = open();
        msix.set_control(0xc0);
        msix.raise(1);
        msix.raise(1);
        assert!(!msix.has_message());
        assert_eq!(msix.read(PENDING, 4), 2);
        msix.write(28, 4, 1);
        msix.set_control(0x80);
        assert!(!msix.has_message(), "the vector's own mask holds");
        msix.write(28, 4, 0);
        assert!(msix.take().is_some() && msix.take().is_none());
        assert_eq!(msix.read(PENDING, 4), 0);
    }

    #[test]
    fn what_is_not_there_is_quiet() {
        let mut msix = open();
        for vector in [0, 2, 3, 17, 31, 32, 0xffff] {
            msix.raise(vector);
        }
        assert!(msix.take().is_none(), "masked or absent");
        msix.write(48, 4, 0xffff_ffff);
        assert_eq!(msix.read(48, 4), 0);
        msix.write(17, 1, 0xff);
        assert_eq!(msix.read(16, 4), 0xfee0_1000);
        // An address that is no interrupt's.
        msix.write(16, 8, 0x1000);
        msix.raise(1);
        assert!(msix.take().is_none());
        for offset in (0..0x1000).step_by(3) {
            msix.write(offset, 8, u64::MAX);
            msix.read(offset, 8);
        }
    }
}

//! The I/O APIC (Intel 82093AA data sheet, 290566), with the EOI register of version 0x20.
//!
//! It does not deliver: what becomes due is handed out by [`IoApic::take`], so that the bus between it and the
//! local APICs lives in one place.

use super::{Delivery, Message};
use monovisor_arch::layout::{IOAPIC_ID, IOAPIC_PINS};

const REGISTER_SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

/// Version 0x20 with the highest redirection entry.
const VERSION: u32 = 0x20 | (IOAPIC_PINS as u32 - 1) << 16;

const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Bits of a redirection entry that exist and that software can write.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// The I/O APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    select: u8,
    id: u8,
    /// Input levels, one bit a pin.
    inputs: u32,
    /// Pins whose interrupt waits to be taken.
    due: u32,
    entries: [u64; IOAPIC_PINS],
}

impl IoApic {
    /// State after power-up: all pins masked.
    pub const fn new() -> Self {
        Self { select: 0, id: IOAPIC_ID, inputs: 0, due: 0, entries: [MASKED; IOAPIC_PINS] }
    }

    /// Back to power-up; the inputs keep their levels.
    pub fn reset(&mut self) {
        *self = Self { inputs: self.inputs, ..Self::new() };
    }

    /// Sets the level of an input pin. Edges that find their pin masked are ignored, as the data sheet says.
    #[inline]
    pub fn set_pin(&mut self, pin: u8, high: bool) {
        let Some(entry) = self.entries.get(usize::from(pin)) else { return };
        let bit = 1u32 << pin;
        let rose = high && self.inputs & bit == 0;
        if high {
            self.inputs |= bit;
        } else {
            self.inputs &= !bit;
        }
        if *entry & LEVEL != 0 {
            self.update_level(pin);
        } else if rose && *entry & MASKED == 0 {
            self.due |= bit;
        }
    }

    /// A level-triggered pin is due while its input is high, unmasked, and no earlier interrupt waits for its EOI.
    fn update_level(&mut self, pin: u8) {
        let Some(entry) = self.entries.get(usize::from(pin)) else { return };
        let bit = 1u32 << pin;
        if *entry & (LEVEL | MASKED | REMOTE_IRR) == LEVEL && self.inputs & bit != 0 {
            self.due |= bit;
        } else if *entry & LEVEL != 0 {
            self.due &= !bit;
        }
    }

    /// An interrupt waits to be taken.
    #[inline]
    pub fn has_due(&self) -> bool {
        self.due != 0
    }

    /// The next interrupt message; sets remote IRR of a level-triggered one.
    pub fn take(&mut self) -> Option<Message> {
        while self.due != 0 {
            let pin = self.due.trailing_zeros();
            self.due &= self.due - 1;
            let Some(entry) = self.entries.get_mut(pin as usize) else { continue };
            let delivery = Delivery::from_bits((*entry >> 8) as u8);
            let by_vector = matches!(delivery, Delivery::Fixed | Delivery::LowestPriority);
            // SMI, NMI, INIT and ExtINT are edges whatever the trigger mode says.
            let level = *entry & LEVEL != 0 && by_vector;
            if level {
                *entry |= REMOTE_IRR;
            }
            // ExtINT is not sent: the CPU asks the 8259 while its output stays high (see `external`).
            if delivery != Delivery::External {
                return Some(message(*entry, level));
            }
        }
        None
    }

    /// Where the 8259's interrupts go: pin 0 is wired to its output.
    pub fn external(&self) -> Option<Message> {
        let entry = self.entries[0];
        let message = message(entry, false);
        (message.delivery == Delivery::External && entry & MASKED == 0).then_some(message)
    }

    /// End of interrupt of a level-triggered vector, from a local APIC's broadcast or the EOI register.
    pub fn end(&mut self, vector: u8) {
        for pin in 0..IOAPIC_PINS as u8 {
            if let Some(entry) = self.entries.get_mut(usize::from(pin))
                && *entry as u8 == vector
                && *entry & LEVEL != 0
            {
                *entry &= !REMOTE_IRR;
                self.update_level(pin);
            }
        }
    }

    /// Reads 32 bits at an offset into the page.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            REGISTER_SELECT => u32::from(self.select),
            WINDOW => match self.select {
                0 | 2 => u32::from(self.id) << 24,
                1 => VERSION,
                index => match self.entries.get(usize::from(index.wrapping_sub(0x10) / 2)) {
                    Some(entry) if index >= 0x10 => (*entry >> (32 * (index & 1))) as u32,
                    _ => 0,
                },
            },
            _ => 0,
        }
    }

    /// Writes 32 bits at an offset into the page.
    pub fn write(&mut self, offset: u64, value: u32) {
        match offset {
            REGISTER_SELECT => self.select = value as u8,
            EOI => self.end(value as u8),
            WINDOW if self.select == 0 => self.id = (value >> 24) as u8 & 0x0f,
            WINDOW if self.select >= 0x10 => {
                let pin = (self.select - 0x10) / 2;
                self.write_entry(pin, 32 * (self.select & 1), value);
            }
            _ => {}
        }
    }

    fn write_entry(&mut self, pin: u8, shift: u8, value: u32) {
        let Some(entry) = self.entries.get_mut(usize::from(pin)) else { return };
        let mask = 0xffff_ffff_u64 << shift & WRITABLE;
        *entry = *entry & !mask | u64::from(value) << shift & mask;
        *entry &= !DELIVERY_STATUS;
        if *entry & LEVEL == 0 {
            // An edge-triggered entry has no remote IRR: software clears a stuck one this way.
            *entry &= !REMOTE_IRR;
            if *entry & MASKED != 0 {
                self.due &= !(1u32 << pin);
            }
        } else {
            self.update_level(pin);
        }
    }
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

fn message(entry: u64, level: bool) -> Message {
    Message {
        delivery: Delivery::from_bits((entry >> 8) as u8),
        vector: entry as u8,
        level,
        logical: entry & 1 << 11 != 0,
        destination: (entry >> 56) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(apic: &mut IoApic, index: u8, value: u32) {
        apic.write(REGISTER_SELECT, u32::from(index));
        apic.write(WINDOW, value);
    }

    fn read(apic: &mut IoApic, index: u8) -> u32 {
        apic.write(REGISTER_SELECT, u32::from(index));
        apic.read(WINDOW)
    }

    #[test]
    fn identification() {
        let mut apic = IoApic::new();
        assert_eq!(read(&mut apic, 1), 0x0017_0020);
        write(&mut apic, 0, 0xffff_ffff);
        assert_eq!(read(&mut apic, 0), 0x0f00_0000);
        assert_eq!(read(&mut apic, 2), 0x0f00_0000);
        assert_eq!(read(&mut apic, 0x10), 0x0001_0000, "masked after reset");
        assert_eq!(read(&mut apic, 0x40), 0);
        assert_eq!(read(&mut apic, 0x0f), 0);
    }

    #[test]
    fn an_edge_is_sent_once_and_lost_while_masked() {
        let mut apic = IoApic::new();
        apic.set_pin(4, true);
        assert!(!apic.has_due());
        apic.set_pin(4, false);
        write(&mut apic, 0x19, 0x0300_0000);
        write(&mut apic, 0x18, 0x0000_0841);
        assert!(!apic.has_due(), "unmasking shows no old edge");
        apic.set_pin(4, true);
        apic.set_pin(4, true);
        let message = apic.take().unwrap();
        assert_eq!(
            (message.vector, message.destination, message.logical, message.level),
            (0x41, 3, true, false)
        );
        assert_eq!(apic.take(), None);
    }

    #[test]
    fn a_level_waits_for_its_end_of_interrupt() {
        let mut apic = IoApic::new();
        write(&mut apic, 0x24, 0x0000_8050);
        apic.set_pin(10, true);
        assert!(apic.take().unwrap().level);
        assert_eq!(read(&mut apic, 0x24), 0x0000_c050);
        apic.set_pin(10, false);
        apic.set_pin(10, true);
        assert_eq!(apic.take(), None, "remote IRR holds it back");
        apic.end(0x51);
        assert_eq!(apic.take(), None);
        apic.end(0x50);
        assert!(apic.take().is_some());
        apic.set_pin(10, false);
        apic.write(EOI, 0x50);
        assert_eq!(apic.take(), None);
        assert_eq!(read(&mut apic, 0x24), 0x0000_8050);
    }

    #[test]
    fn a_masked_level_is_sent_when_it_is_unmasked() {
        let mut apic = IoApic::new();
        write(&mut apic, 0x24, 0x0001_8050);
        apic.set_pin(10, true);
        assert_eq!(apic.take(), None);
        write(&mut apic, 0x24, 0x0000_8050);
        assert!(apic.take().is_some());
    }

    #[test]
    fn status_bits_are_read_only_and_edge_mode_clears_remote_irr() {
        let mut apic = IoApic::new();
        write(&mut apic, 0x24, 0x0000_d050);
        assert_eq!(read(&mut apic, 0x24), 0x0000_8050);
        apic.set_pin(10, true);
        apic.take();
        write(&mut apic, 0x24, 0x0001_0050);
        assert_eq!(read(&mut apic, 0x24), 0x0001_0050);
        write(&mut apic, 0x24, 0x0000_8050);
        assert!(apic.take().is_some(), "the old way to end a level-triggered interrupt");
    }

    #[test]
    fn the_8259_comes_in_on_pin_0() {
        let mut apic = IoApic::new();
        assert_eq!(apic.external(), None);
        write(&mut apic, 0x10, 0x0000_0700);
        assert_eq!(apic.external().unwrap().destination, 0);
        apic.set_pin(0, true);
        assert_eq!(apic.take(), None);
    }

    #[test]
    fn pins_that_do_not_exist() {
        let mut apic = IoApic::new();
        apic.set_pin(24, true);
        apic.set_pin(255, true);
        write(&mut apic, 0xff, 0);
        assert!(!apic.has_due());
    }
}

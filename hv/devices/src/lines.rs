//! Interrupt lines: level and edge in one place.
//!
//! A line is the wired OR of its drivers. Devices say what level they drive; who listens (8259, I/O APIC) is told
//! only of changes and decides alone whether an edge or a level counts.

use monovisor_arch::layout::IOAPIC_PINS;

/// What can drive a line; each has a bit of its own, so that drivers of a shared line do not disturb each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Driver {
    Pit,
    Keyboard,
    Mouse,
    Com1,
    Rtc,
    PowerManagement,
    Hpet,
    Pci,
    Test,
}

/// What setting a line did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: another driver holds it, or it had that level before.
    None,
    /// It went from low to high.
    Rose,
    /// It went from high to low.
    Fell,
}

/// All interrupt lines of the machine, by GSI; 0..16 are the ISA interrupts too.
#[derive(Clone, Debug)]
pub struct Lines {
    drivers: [u16; IOAPIC_PINS],
}

impl Lines {
    /// All lines low.
    pub const fn new() -> Self {
        Self { drivers: [0; IOAPIC_PINS] }
    }

    /// Sets what `driver` drives on `line`; a line that does not exist does not change.
    #[inline]
    pub fn set(&mut self, line: u8, driver: Driver, high: bool) -> Change {
        let Some(drivers) = self.drivers.get_mut(usize::from(line)) else { return Change::None };
        let before = *drivers;
        let bit = 1u16 << driver as u8;
        *drivers = if high { before | bit } else { before & !bit };
        match (before != 0, *drivers != 0) {
            (false, true) => Change::Rose,
            (true, false) => Change::Fell,
            _ => Change::None,
        }
    }

    /// How many lines there are.
    pub const fn count(&self) -> u8 {
        IOAPIC_PINS as u8
    }

    /// Level of a line.
    pub fn is_high(&self, line: u8) -> bool {
        self.drivers.get(usize::from(line)).is_some_and(|drivers| *drivers != 0)
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_line_is_the_or_of_its_drivers() {
        let mut lines = Lines::new();
        assert_eq!(lines.set(10, Driver::Pci, true), Change::Rose);
        assert_eq!(lines.set(10, Driver::Hpet, true), Change::None);
        assert_eq!(lines.set(10, Driver::Pci, false), Change::None);
        assert!(lines.is_high(10));
        assert_eq!(lines.set(10, Driver::Hpet, false), Change::Fell);
        assert_eq!(lines.set(10, Driver::Hpet, false), Change::None);
    }

    #[test]
    fn a_line_that_does_not_exist_stays_low() {
        let mut lines = Lines::new();
        assert_eq!(lines.set(24, Driver::Pci, true), Change::None);
        assert!(!lines.is_high(24));
    }
}

//! ACPI power management: PM1a event and control blocks, PM timer, general-purpose events, SMI command port
//! (ACPI 6.5, 4.8; the registers are those of a PIIX4).

use crate::clock;
use monovisor_arch::layout::{ACPI_DISABLE, ACPI_ENABLE, PM_TIMER_32_BIT, PM_TIMER_HZ};

/// Bits of the PM1 status and enable registers.
pub mod pm1 {
    /// The timer's top bit has changed.
    pub const TIMER: u16 = 1;
    /// Bus master status.
    pub const BUS_MASTER: u16 = 1 << 4;
    /// The firmware has released the global lock.
    pub const GLOBAL: u16 = 1 << 5;
    /// Power button.
    pub const POWER_BUTTON: u16 = 1 << 8;
    /// Sleep button.
    pub const SLEEP_BUTTON: u16 = 1 << 9;
    /// RTC alarm.
    pub const RTC: u16 = 1 << 10;
    /// Woken from a sleep state.
    pub const WAKE: u16 = 1 << 15;

    /// Status bits that exist; writing a one clears.
    pub const STATUS: u16 = TIMER | BUS_MASTER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC | WAKE;
    /// Enable bits that exist.
    pub const ENABLE: u16 = TIMER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC;

    /// Control: events raise SCI, not SMI.
    pub const SCI_ENABLE: u16 = 1;
    /// Control: sleep now, with the type in bits 12:10. Reads as 0.
    pub const SLEEP_ENABLE: u16 = 1 << 13;
    /// Control bits that keep what is written: BM_RLD and SLP_TYPx. SCI_EN is the firmware's.
    pub const CONTROL: u16 = 1 << 1 | 7 << 10;
}

/// Top bit of the PM timer, whose change sets the timer status.
const TOP: u32 = if PM_TIMER_32_BIT { 31 } else { 23 };

/// The power management block.
#[derive(Clone, Debug)]
pub struct Acpi {
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u16,
    gpe_enable: u16,
    smi_status: u8,
    smi_command: u8,
    /// Number of changes of the timer's top bit that have been turned into status.
    tops: u64,
    sleep: Option<u8>,
}

impl Acpi {
    /// State after power-up: legacy mode, no event.
    pub const fn new() -> Self {
        Self {
            status: 0,
            enable: 0,
            control: 0,
            gpe_status: 0,
            gpe_enable: 0,
            smi_status: 0,
            smi_command: 0,
            tops: 0,
            sleep: None,
        }
    }

    /// Back to power-up; the timer is not reset by anything.
    pub fn reset(&mut self) {
        *self = Self { tops: self.tops, ..Self::new() };
    }

    /// The timer: 3.579545 MHz, 32 bits.
    #[inline]
    pub fn timer(now: u64) -> u32 {
        let ticks = clock::ticks(now, PM_TIMER_HZ) as u32;
        if PM_TIMER_32_BIT { ticks } else { ticks & 0x00ff_ffff }
    }

    /// Level of the system control interrupt.
    pub fn interrupt(&self) -> bool {
        self.control & pm1::SCI_ENABLE != 0
            && (self.status & self.enable & pm1::ENABLE != 0 || self.gpe_status & self.gpe_enable != 0)
    }

    /// When the timer's top bit changes next; only where that would interrupt.
    pub fn deadline(&self) -> Option<u64> {
        let wanted = self.enable & pm1::TIMER != 0 && self.status & pm1::TIMER == 0;
        wanted.then(|| clock::nanoseconds((self.tops + 1) << TOP, PM_TIMER_HZ))
    }

    /// Brings the timer status up to `now`.
    pub fn advance(&mut self, now: u64) {
        let tops = clock::ticks(now, PM_TIMER_HZ) >> TOP;
        if tops != self.tops {
            self.tops = tops;
            self.status |= pm1::TIMER;
        }
    }

    /// Somebody pressed the power button.
    pub fn power_button(&mut self) {
        self.status |= pm1::POWER_BUTTON;
    }

    /// The machine wakes from a sleep state that [`Acpi::take_sleep`] had announced.
    pub fn wake(&mut self, cause: u16) {
        self.status |= pm1::WAKE | cause & pm1::STATUS;
    }

    /// Sets a general-purpose event's status bit (0 to 15).
    pub fn raise_event(&mut self, event: u8) {
        self.gpe_status |= 1u16.checked_shl(u32::from(event)).unwrap_or(0);
    }

    /// The guest has written SLP_EN: the SLP_TYPx that it wants.
    pub fn take_sleep(&mut self) -> Option<u8> {
        self.sleep.take()
    }

    /// [`Self::take_sleep`] has something.
    #[inline]
    pub const fn has_sleep(&self) -> bool {
        self.sleep.is_some()
    }

    /// Guest software has switched to ACPI mode.
    pub fn enabled(&self) -> bool {
        self.control & pm1::SCI_ENABLE != 0
    }

    /// Reads a byte of the event block (0 to 3).
    pub fn read_event(&mut self, offset: u16, now: u64) -> u8 {
        self.advance(now);
        let [s0, s1] = self.status.to_le_bytes();
        let [e0, e1] = self.enable.to_le_bytes();
        [s0, s1, e0, e1][usize::from(offset & 3)]
    }

    /// Writes a byte of the event block: ones clear status bits.
    pub fn write_event(&mut self, offset: u16, value: u8, now: u64) {
        self.advance(now);
        let shift = 8 * (offset & 1);
        let value = u16::from(value) << shift;
        if offset & 2 == 0 {
            self.status &= !value;
        } else {
            self.enable = (self.enable & !(0xff << shift) | value) & pm1::ENABLE;
        }
    }

    /// Reads a byte of the control block (0 or 1).
    pub fn read_control(&self, offset: u16) -> u8 {
        self.control.to_le_bytes()[usize::from(offset & 1)]
    }

    /// Writes a byte of the control block.
    pub fn write_control(&mut self, offset: u16, value: u8) {
        let shift = 8 * (offset & 1);
        let value = u16::from(value) << shift;
        let mask = pm1::CONTROL & 0xff << shift;
        self.control = self.control & !mask | value & mask;
        if value & pm1::SLEEP_ENABLE != 0 {
            self.sleep = Some((self.control >> 10 & 7) as u8);
        }
    }

    /// Reads a byte of the general-purpose event block (0 to 3).
    pub fn read_gpe(&self, offset: u16) -> u8 {
        let [s0, s1] = self.gpe_status.to_le_bytes();
        let [e0, e1] = self.gpe_enable.to_le_bytes();
        [s0, s1, e0, e1][usize::from(offset & 3)]
    }

    /// Writes a byte of that block: ones clear status bits.
    pub fn write_gpe(&mut self, offset: u16, value: u8) {
        let shift = 8 * (offset & 1);
        let value = u16::from(value) << shift;
        if offset & 2 == 0 {
            self.gpe_status &= !value;
        } else {
            self.gpe_enable = self.gpe_enable & !(0xff << shift) | value;
        }
    }

    /// Reads the SMI command (0) or status (1) port.
    pub fn read_smi(&self, offset: u16) -> u8 {
        if offset & 1 == 0 { self.smi_command } else { self.smi_status }
    }

    /// Writes the SMI command (0) or status (1) port. The two commands of the FADT are done here: there is no SMM.
    pub fn write_smi(&mut self, offset: u16, value: u8) {
        if offset & 1 != 0 {
            self.smi_status = value;
            return;
        }
        self.smi_command = value;
        match value {
            ACPI_ENABLE => self.control |= pm1::SCI_ENABLE,
            ACPI_DISABLE => self.control &= !pm1::SCI_ENABLE,
            _ => {}
        }
    }
}

impl Default for Acpi {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_counts_at_its_rate() {
        assert_eq!(Acpi::timer(0), 0);
        assert_eq!(Acpi::timer(1_000_000_000), 3_579_545);
        assert_eq!(Acpi::timer(1_200_000_000_000), (1200 * PM_TIMER_HZ) as u32, "wraps at 32 bits");
    }

    #[test]
    fn the_power_button_raises_sci_in_acpi_mode() {
        let mut acpi = Acpi::new();
        acpi.write_event(3, 0x01, 0);
        acpi.power_button();
        assert!(!acpi.interrupt(), "legacy mode");
        acpi.write_smi(0, ACPI_ENABLE);
        assert_eq!(acpi.read_control(0), 1);
        assert!(acpi.interrupt());
        assert_eq!(acpi.read_event(1, 0), 0x01);
        acpi.write_event(1, 0x01, 0);
        assert!(!acpi.interrupt());
        acpi.write_smi(0, ACPI_DISABLE);
        assert_eq!(acpi.read_control(0), 0);
        assert_eq!(acpi.read_smi(0), ACPI_DISABLE);
    }

    #[test]
    fn sleep_type_and_enable() {
        let mut acpi = Acpi::new();
        acpi.write_control(0, 0xff);
        assert_eq!(acpi.read_control(0), 0x02, "SCI_EN is not the guest's to write");
        acpi.write_control(1, 0x14);
        assert_eq!(acpi.take_sleep(), None);
        acpi.write_control(1, 0x34);
        assert_eq!(acpi.take_sleep(), Some(5));
        assert_eq!(acpi.take_sleep(), None);
        assert_eq!(acpi.read_control(1), 0x14, "SLP_EN reads as 0");
    }

    #[test]
    fn the_timer_status_follows_the_top_bit() {
        let mut acpi = Acpi::new();
        assert_eq!(acpi.deadline(), None);
        acpi.write_event(2, 0x01, 0);
        let due = acpi.deadline().unwrap();
        assert_eq!(Acpi::timer(due) >> 31, 1);
        assert_eq!(Acpi::timer(due - 1) >> 31, 0);
        acpi.write_smi(0, ACPI_ENABLE);
        acpi.advance(due);
        assert!(acpi.interrupt());
        acpi.write_event(0, 0x01, due);
        assert!(!acpi.interrupt());
        assert!(acpi.deadline().unwrap() > due);
    }

    #[test]
    fn general_purpose_events() {
        let mut acpi = Acpi::new();
        acpi.write_smi(0, ACPI_ENABLE);
        acpi.write_gpe(3, 0x02);
        acpi.raise_event(9);
        acpi.raise_event(200);
        assert!(acpi.interrupt());
        assert_eq!([0, 1, 2, 3].map(|offset| acpi.read_gpe(offset)), [0, 2, 0, 2]);
        acpi.write_gpe(1, 0xff);
        assert!(!acpi.interrupt());
    }

    #[test]
    fn bits_that_do_not_exist() {
        let mut acpi = Acpi::new();
        acpi.write_event(2, 0xff, 0);
        acpi.write_event(3, 0xff, 0);
        assert_eq!((acpi.read_event(2, 0), acpi.read_event(3, 0)), (0x21, 0x07));
        acpi.wake(pm1::POWER_BUTTON);
        assert_eq!(acpi.read_event(1, 0), 0x81);
    }
}

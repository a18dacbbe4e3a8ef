//! Reset, and the state in which firmware hands the machine to a kernel.

use super::{LEVEL_IRQS, Pc};
use crate::lines::Lines;

impl Pc {
    /// Resets every device and leaves the machine as firmware would: 8259s with everything masked, virtual wire
    /// mode, the timer ticking, interrupts routed, memory sizes in CMOS. Console bytes on their way stay.
    pub fn reset(&mut self, now: u64) {
        self.pic.reset();
        self.ioapic.reset();
        self.pit = crate::pit::Pit::new();
        self.rtc.reset();
        self.hpet = crate::hpet::Hpet::new();
        self.hpet_lines = 0;
        self.uart.reset();
        self.acpi.reset();
        self.acpi.advance(now);
        self.keyboard_controller = crate::ps2::Controller::new();
        self.ports = crate::ports::Ports::new();
        self.fw_cfg = crate::fwcfg::FwCfg::new();
        self.pci_port = crate::pci::ConfigPort::new();
        self.chipset = crate::pci::chipset::Chipset::new();
        for function in &mut self.functions {
            function.reset();
        }
        self.pci_lines = 0;
        self.reset_request = None;
        self.debug_exit = None;
        self.operator.reset();
        let _ = self.acpi.take_sleep();

        // All lines fall; then those that are driven rise again.
        for line in 0..self.lines.count() {
            self.pic.set_line(line, false);
            self.ioapic.set_pin(line, false);
        }
        self.lines = Lines::new();
        self.pic_output = false;
        self.pic.firmware(LEVEL_IRQS);
        for apic in self.apics.iter_mut() {
            apic.reset();
            apic.set_lint(0, false);
            apic.firmware();
        }
        self.pit.firmware(now);
        self.fill_cmos();
        self.fire(now);
    }

    /// The bytes that old software reads its memory size and processor count from.
    fn fill_cmos(&mut self) {
        let kib = |bytes: u64, from: u64| (bytes.saturating_sub(from) / 1024).min(0xffff) as u16;
        let base = kib(self.config.low_ram.min(640 * 1024), 0).to_le_bytes();
        let extended = kib(self.config.low_ram, 1 << 20).to_le_bytes();
        let above_16m = (self.config.low_ram.saturating_sub(16 << 20) >> 16).min(0xffff) as u16;
        let above_16m = above_16m.to_le_bytes();
        let above_4g = (self.config.high_ram >> 16).min(0xff_ffff).to_le_bytes();
        for (index, value) in [
            // Equipment: mathematics coprocessor.
            (0x14, 0x02),
            (0x15, base[0]),
            (0x16, base[1]),
            (0x17, extended[0]),
            (0x18, extended[1]),
            (0x30, extended[0]),
            (0x31, extended[1]),
            (0x34, above_16m[0]),
            (0x35, above_16m[1]),
            (0x5b, above_4g[0]),
            (0x5c, above_4g[1]),
            (0x5d, above_4g[2]),
            (0x5f, (self.apics.count() - 1) as u8),
        ] {
            self.rtc.set_memory(index, value);
        }
    }
}

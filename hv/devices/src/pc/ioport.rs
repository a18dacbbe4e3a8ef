//! Port I/O. Accesses wider than a device are split into bytes at consecutive ports, as the ISA bus does it.

use super::slots::FIRST_BAR_PORT;
use super::*;

/// A port that nobody answers at reads as ones.
const FLOATING: u8 = 0xff;

impl Pc {
    /// IN of `size` (1, 2 or 4) bytes. Bits above the size are 0.
    #[inline]
    pub fn io_read<B: Backend + ?Sized>(&mut self, port: u16, size: u8, now: u64, backend: &mut B) -> u32 {
        // The clock source of many guests goes first.
        if port == PM_TIMER && size == 4 {
            return Acpi::timer(now);
        }
        self.io_read_other(port, size, now, backend)
    }

    fn io_read_other<B: Backend + ?Sized>(&mut self, port: u16, size: u8, now: u64, backend: &mut B) -> u32 {
        if port == PCI_CONFIG && size == 4 {
            return self.pci_port.address();
        }
        if let Some(byte) = pci_data(port, size) {
            let value = self.pci_port.target(byte).and_then(|address| self.read_function(address, size));
            return value.unwrap_or(u32::MAX) & mask(size);
        }
        if self.is_debug_exit(port) {
            return 0;
        }
        let mut value = 0;
        for index in (0..size.min(4)).rev() {
            let byte = match port.checked_add(u16::from(index)) {
                Some(port) => self.read_byte(port, now, backend),
                None => FLOATING,
            };
            value = value << 8 | u32::from(byte);
        }
        value
    }

    /// OUT of `size` (1, 2 or 4) bytes.
    pub fn io_write<B: Backend + ?Sized>(
        &mut self,
        port: u16,
        size: u8,
        value: u32,
        now: u64,
        backend: &mut B,
    ) {
        // A notification of a driver is the access that has to be fast.
        if port >= FIRST_BAR_PORT && self.notify_function(port, value as u16, now) {
            return;
        }
        if port == PCI_CONFIG && size == 4 {
            return self.pci_port.set_address(value);
        }
        if let Some(byte) = pci_data(port, size) {
            if let Some(address) = self.pci_port.target(byte) {
                self.write_function(address, size, value, now);
            }
            return;
        }
        if self.is_debug_exit(port) {
            self.debug_exit = Some(value & mask(size));
            return;
        }
        for (index, byte) in (0..u16::from(size)).zip(value.to_le_bytes()) {
            if let Some(port) = port.checked_add(index) {
                self.write_byte(port, byte, now, backend);
            }
        }
    }

    /// The port is one of the isa-debug-exit's, which read as 0.
    fn is_debug_exit(&self, port: u16) -> bool {
        self.config.debug_exit.is_some_and(|exit| port.wrapping_sub(exit.iobase) < u16::from(exit.iosize))
    }

    fn read_byte<B: Backend + ?Sized>(&mut self, port: u16, now: u64, backend: &mut B) -> u8 {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => {
                let value = self.pic.read(port);
                self.settle();
                value
            }
            pit::PORT..=0x43 => {
                self.advance_pit(now);
                self.pit.read(port, now)
            }
            I8042_DATA => {
                let value = self.keyboard_controller.read_data();
                self.settle_keyboard();
                value
            }
            I8042_COMMAND => self.keyboard_controller.read_status(),
            pit::CONTROL_B => self.pit.read_control_b(now),
            // The index register cannot be read.
            RTC_PORT => FLOATING,
            0x71 => {
                let value = self.rtc.read(now);
                self.settle_rtc();
                self.stale = true;
                value
            }
            DMA_PAGE..=0x8f => self.ports.read_page(port),
            CONTROL_A => self.ports.read_control_a(),
            SMI_COMMAND | 0xb3 => self.acpi.read_smi(port - SMI_COMMAND),
            COM1..=0x3ff => {
                let value = self.uart.read(port - COM1, &mut Console(backend), now);
                self.set_line(COM1_IRQ, Driver::Com1, self.uart.interrupt());
                self.stale = true;
                value
            }
            fwcfg::DATA => {
                let ram = self.config.low_ram.saturating_add(self.config.high_ram);
                self.fw_cfg.read(self.apics.count(), ram)
            }
            PM1A_EVENT..=0x603 => {
                let value = self.acpi.read_event(port - PM1A_EVENT, now);
                self.set_line(SCI_IRQ, Driver::PowerManagement, self.acpi.interrupt());
                value
            }
            PM1A_CONTROL | 0x605 => self.acpi.read_control(port - PM1A_CONTROL),
            PM_TIMER..=0x60b => Acpi::timer(now).to_le_bytes()[usize::from(port - PM_TIMER)],
            RESET_REGISTER => self.ports.read_reset(),
            GPE0..=0xafe3 => self.acpi.read_gpe(port - GPE0),
            _ => self.test_device.as_ref().and_then(|device| device.read_port(port)).unwrap_or(FLOATING),
        }
    }

    fn write_byte<B: Backend + ?Sized>(&mut self, port: u16, value: u8, now: u64, backend: &mut B) {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => {
                self.pic.write(port, value);
                self.settle();
            }
            pit::PORT..=0x43 => {
                self.advance_pit(now);
                self.pit.write(port, value, now);
                self.advance_pit(now);
                self.stale = true;
            }
            pit::CONTROL_B => {
                self.advance_pit(now);
                self.pit.write_control_b(value, now);
            }
            I8042_DATA => {
                self.keyboard_controller.write_data(value);
                self.settle_keyboard();
            }
            I8042_COMMAND => {
                self.keyboard_controller.write_command(value);
                self.settle_keyboard();
            }
            RTC_PORT => self.rtc.select(value),
            0x71 => {
                self.rtc.write(value, now);
                self.settle_rtc();
                self.stale = true;
            }
            DMA_PAGE..=0x8f => self.ports.write_page(port, value),
            CONTROL_A => {
                let reset = self.ports.write_control_a(value);
                self.request_reset(reset, ResetCause::ControlPortA);
            }
            SMI_COMMAND | 0xb3 => {
                self.acpi.write_smi(port - SMI_COMMAND, value);
                self.settle_acpi();
            }
            COM1..=0x3ff => {
                self.uart.write(port - COM1, value, &mut Console(backend), now);
                self.set_line(COM1_IRQ, Driver::Com1, self.uart.interrupt());
                self.stale = true;
            }
            fwcfg::SELECTOR..=fwcfg::DATA => self.fw_cfg.select(port, value),
            PM1A_EVENT..=0x603 => {
                self.acpi.write_event(port - PM1A_EVENT, value, now);
                self.settle_acpi();
            }
            PM1A_CONTROL | 0x605 => {
                self.acpi.write_control(port - PM1A_CONTROL, value);
                self.settle_acpi();
            }
            RESET_REGISTER => {
                let reset = self.ports.write_reset(value);
                self.request_reset(reset, ResetCause::ResetRegister);
            }
            GPE0..=0xafe3 => {
                self.acpi.write_gpe(port - GPE0, value);
                self.settle_acpi();
            }
            _ => {
                if let Some((line, high)) = self.test_device.as_mut().and_then(|d| d.write_port(port, value))
                {
                    self.set_line(line, Driver::Test, high);
                }
            }
        }
    }

    fn settle_acpi(&mut self) {
        self.set_line(SCI_IRQ, Driver::PowerManagement, self.acpi.interrupt());
        self.stale = true;
    }
}

/// Byte of the PCI data register that an access begins at, if it lies within the register.
fn pci_data(port: u16, size: u8) -> Option<u16> {
    let byte = port.wrapping_sub(PCI_CONFIG + 4);
    (byte < 4 && byte + u16::from(size) <= 4).then_some(byte)
}

/// The bits of an access of `size` bytes.
fn mask(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

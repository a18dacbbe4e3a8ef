//! Memory-mapped devices.

use super::*;
use monovisor_arch::layout::HPET_BASE;

const PAGE: u64 = 0x1000;

impl Pc {
    /// A read of 1, 2, 4 or 8 bytes by `vcpu` from a guest-physical address that is not RAM. `None`: nothing
    /// answers there, which reads as ones.
    pub fn mmio_read(&mut self, vcpu: usize, address: u64, size: u8, now: u64) -> Option<u64> {
        let page = address & !(PAGE - 1);
        if let Some(apic) = self.apics.get_mut(vcpu)
            && apic.page() == Some(page)
        {
            return Some(apic.read_page(address & (PAGE - 1), size, now));
        }
        if page == IOAPIC_BASE {
            // The registers are 32 bits wide; their window ignores what else an access asks for.
            return Some(u64::from(self.ioapic.read(address & (PAGE - 1))));
        }
        if page == HPET_BASE {
            return Some(self.hpet.read(address & (PAGE - 1), size, now));
        }
        if let Some(device) = &self.test_device
            && let Some(value) = device.read_memory(address, size)
        {
            return Some(value);
        }
        self.read_bar(address, size)
    }

    /// A write. False: nothing answers there.
    pub fn mmio_write(&mut self, vcpu: usize, address: u64, size: u8, value: u64, now: u64) -> bool {
        let page = address & !(PAGE - 1);
        if let Some(apic) = self.apics.get_mut(vcpu)
            && apic.page() == Some(page)
        {
            apic.write_page(address & (PAGE - 1), size, value, now);
            self.settle_apic(vcpu);
            return true;
        }
        if page == IOAPIC_BASE {
            self.ioapic.write(address & (PAGE - 1), value as u32);
            self.settle();
            self.call_external();
            return true;
        }
        if page == HPET_BASE {
            self.advance_hpet(now);
            self.advance_pit(now);
            self.hpet.write(address & (PAGE - 1), size, value, now);
            self.settle_hpet(0);
            self.advance_pit(now);
            self.settle_rtc();
            self.stale = true;
            return true;
        }
        // An MSI that a processor writes itself reaches the APICs as well.
        if let (4, Some(message)) = (size, Message::from_msi(address, value as u32)) {
            self.apics.deliver(message);
            return true;
        }
        if self.test_device.as_ref().is_some_and(|device| device.write_memory(address, size, value)) {
            return true;
        }
        self.write_bar(address, size, value, now)
    }
}

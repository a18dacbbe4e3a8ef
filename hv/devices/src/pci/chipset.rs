//! The functions of the chip set: an i440FX host bridge, a PIIX3 ISA bridge, the PIIX4's power management.
//!
//! Their configuration spaces are what the data sheets (290549, 290550, 290562) say, as far as software on a PC
//! looks at it; what firmware would program is programmed.

use super::config::{ConfigSpace, Identity, header};
use monovisor_arch::layout::{PIRQ_IRQ, PM_BASE, SCI_IRQ};

/// Vendor and device of the subsystem that QEMU's machines show.
const SUBSYSTEM_VENDOR: u16 = 0x1af4;
const SUBSYSTEM: u16 = 0x1100;
const INTEL: u16 = 0x8086;

/// PIRQ route control registers of the ISA bridge.
const PIRQ_ROUTE: u8 = 0x60;
/// Interrupts that they can name, one bit each: 3 to 7, 9 to 12, 14 and 15; the others, which the bridge needs itself, are
/// reserved (82371SB data sheet, 2.2.8), and route to nothing here.
const ROUTABLE: u16 = 0xdef8;

const fn identity(device: u16, revision: u8, class: u32) -> Identity {
    Identity {
        vendor: INTEL,
        device,
        revision,
        class,
        subsystem_vendor: SUBSYSTEM_VENDOR,
        subsystem: SUBSYSTEM,
    }
}

/// The chip set.
#[derive(Clone, Debug)]
pub struct Chipset {
    /// 82441FX host bridge, slot 0.
    pub host_bridge: ConfigSpace,
    /// 82371SB ISA bridge, slot 1 function 0.
    pub isa_bridge: ConfigSpace,
    /// 82371AB power management, slot 1 function 3.
    pub power: ConfigSpace,
}

impl Chipset {
    /// As firmware leaves it.
    pub const fn new() -> Self {
        Self { host_bridge: host_bridge(), isa_bridge: isa_bridge(), power: power() }
    }

    /// The ISA interrupt that a PIRQ (0 to 3) is routed to.
    pub fn pirq_route(&self, pirq: usize) -> Option<u8> {
        let value = self.isa_bridge.get(PIRQ_ROUTE + (pirq as u8 & 3));
        (value & 0x80 == 0 && ROUTABLE >> (value & 15) & 1 == 1).then_some(value & 15)
    }
}

impl Default for Chipset {
    fn default() -> Self {
        Self::new()
    }
}

const fn host_bridge() -> ConfigSpace {
    let mut space = ConfigSpace::new(identity(0x1237, 0x02, 0x06_0000));
    space.set_u16(header::COMMAND, 0x0007);
    space.allow(header::COMMAND, 0x40);
    space.allow(header::COMMAND + 1, 0x01);
    // PAM: all of C0000-FFFFF is RAM.
    space.set(0x59, 0x30);
    let mut register = 0x5a;
    while register <= 0x5f {
        space.set(register, 0x33);
        space.allow(register, 0x77);
        register += 1;
    }
    space.allow(0x59, 0x70);
    // SMRAM: closed.
    space.set(0x72, 0x02);
    space.allow(0x72, 0x70);
    space
}

const fn isa_bridge() -> ConfigSpace {
    let mut space = ConfigSpace::new(identity(0x7000, 0x00, 0x06_0100));
    space.set_u16(header::COMMAND, 0x0007);
    space.allow(header::COMMAND, 0x08);
    space.allow(header::COMMAND + 1, 0x01);
    space.set_u16(header::STATUS, 0x0200);
    space.set(header::HEADER_TYPE, 0x80);
    space.set(0x4c, 0x4d);
    space.allow(0x4c, 0xff);
    space.set_u16(0x4e, 0x0003);
    space.allow(0x4e, 0xff);
    space.allow(0x4f, 0x01);
    let mut pirq = 0;
    while pirq < 4 {
        space.set(PIRQ_ROUTE + pirq, PIRQ_IRQ[pirq as usize]);
        space.allow(PIRQ_ROUTE + pirq, 0x8f);
        pirq += 1;
    }
    // Top of memory, and passive release with delayed transactions, as firmware switches them on.
    space.set(0x69, 0x02);
    space.allow(0x69, 0xfe);
    space.set(0x82, 0x03);
    space.allow(0x82, 0x0f);
    space
}

const fn power() -> ConfigSpace {
    let mut space = ConfigSpace::new(identity(0x7113, 0x03, 0x06_8000));
    space.allow(header::COMMAND, 0x01);
    space.allow(header::COMMAND + 1, 0x01);
    space.set_u16(header::COMMAND, 0x0001);
    space.set_u16(header::STATUS, 0x0280);
    space.set(header::INTERRUPT_LINE, SCI_IRQ);
    space.set(header::INTERRUPT_PIN, 1);
    // Power management base, and its enable in PMREGMISC. The block is where the FADT says and stays there.
    space.set_u16(0x40, PM_BASE | 1);
    space.set(0x80, 1);
    space
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_finds() {
        let chipset = Chipset::new();
        assert_eq!(chipset.host_bridge.read(0, 4), 0x1237_8086);
        assert_eq!(chipset.host_bridge.read(0x0a, 2), 0x0600);
        assert_eq!(chipset.isa_bridge.read(0, 4), 0x7000_8086);
        assert_eq!(chipset.isa_bridge.read(0x0e, 1), 0x80, "more functions");
        assert_eq!(chipset.power.read(0, 4), 0x7113_8086);
        assert_eq!(chipset.power.read(0x40, 4), 0x0601);
    }

    #[test]
    fn interrupt_routing() {
        let mut chipset = Chipset::new();
        assert_eq!([0, 1, 2, 3].map(|pirq| chipset.pirq_route(pirq)), PIRQ_IRQ.map(Some));
        chipset.isa_bridge.write(0x61, 1, 0x85);
        assert_eq!(chipset.pirq_route(1), None);
        chipset.isa_bridge.write(0x61, 1, 0x05);
        assert_eq!(chipset.pirq_route(1), Some(5));
        // Else a card could hold the timer's interrupt, or the second 8259's, high for good.
        for reserved in [0, 1, 2, 8, 13] {
            chipset.isa_bridge.write(0x61, 1, reserved);
            assert_eq!(chipset.pirq_route(1), None);
        }
    }
}

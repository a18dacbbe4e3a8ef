//! Where everything is on the guest's PC: ports, addresses and interrupt numbers.
//!
//! The device models answer at these places and the ACPI tables, made by the loader, announce them; both take
//! the numbers from here so that they cannot disagree. They are those of QEMU's `-M pc` wherever it has one.

/// Guest RAM below 4 GiB ends here at the latest; the rest of it starts again at 4 GiB. 1 GiB-aligned.
pub const LOW_RAM_LIMIT: u64 = 0xc000_0000;
/// First address of guest RAM above the hole.
pub const HIGH_RAM_BASE: u64 = 1 << 32;

/// First address of the window in which PCI memory BARs live.
pub const PCI_MEMORY_BASE: u64 = 0xe000_0000;
/// Last address of that window.
pub const PCI_MEMORY_LAST: u64 = 0xfebf_ffff;
/// First port of the window in which PCI I/O BARs live.
pub const PCI_IO_BASE: u16 = 0xc000;
/// Last port of that window.
pub const PCI_IO_LAST: u16 = 0xcfff;
/// PCI configuration mechanism #1: address register (32 bits); the data register is the next 4 ports.
pub const PCI_CONFIG: u16 = 0xcf8;

/// Slot of the host bridge on bus 0.
pub const PCI_SLOT_HOST_BRIDGE: u8 = 0;
/// Slot of the ISA bridge (function 0) and of the power management function ([`PCI_FUNCTION_POWER`]).
pub const PCI_SLOT_ISA_BRIDGE: u8 = 1;
/// Function number of the power management function in [`PCI_SLOT_ISA_BRIDGE`].
pub const PCI_FUNCTION_POWER: u8 = 3;
/// First slot for other devices.
pub const PCI_SLOT_FIRST_FREE: u8 = 2;

/// ISA interrupt (and GSI) that each of PIRQA..PIRQD is routed to at power-up, level-triggered.
pub const PIRQ_IRQ: [u8; 4] = [10, 10, 11, 11];

/// Which PIRQ (0..=3, an index of [`PIRQ_IRQ`]) an interrupt pin of a slot on bus 0 is wired to. `pin` is 0 for INTA#.
pub const fn pirq(slot: u8, pin: u8) -> usize {
    (slot as usize + pin as usize + 3) & 3
}

/// I/O APIC: first address of its 4 KiB page.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// I/O APIC: identification.
pub const IOAPIC_ID: u8 = 0;
/// I/O APIC: input pins; its GSIs are 0..24.
pub const IOAPIC_PINS: usize = 24;
/// HPET: first address of its block of 1 KiB.
pub const HPET_BASE: u64 = 0xfed0_0000;
/// Local APICs: address of the 4 KiB page after reset.
pub const LAPIC_BASE: u64 = 0xfee0_0000;
/// Local APIC ID of virtual processor `index`, which is also its ACPI processor UID.
pub const fn apic_id(index: u8) -> u8 {
    index
}

/// An ISA interrupt whose GSI or trigger mode is not the bus's own (MADT interrupt source override).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptOverride {
    /// ISA interrupt line.
    pub irq: u8,
    /// I/O APIC pin.
    pub gsi: u32,
    /// MPS INTI flags (ACPI 6.5, table 5.26): polarity 1:0, trigger mode 3:2; 0 = as the bus has it.
    pub flags: u16,
}

/// INTI flags: active high, level-triggered.
pub const INTI_LEVEL_HIGH: u16 = 0xd;

/// The timer is on pin 2; the SCI and the interrupts that PCI may use are level-triggered.
pub const INTERRUPT_OVERRIDES: [InterruptOverride; 5] = [
    InterruptOverride { irq: 0, gsi: 2, flags: 0 },
    InterruptOverride { irq: 5, gsi: 5, flags: INTI_LEVEL_HIGH },
    InterruptOverride { irq: SCI_IRQ, gsi: SCI_IRQ as u32, flags: INTI_LEVEL_HIGH },
    InterruptOverride { irq: 10, gsi: 10, flags: INTI_LEVEL_HIGH },
    InterruptOverride { irq: 11, gsi: 11, flags: INTI_LEVEL_HIGH },
];

/// GSI of an ISA interrupt.
pub const fn isa_gsi(irq: u8) -> u32 {
    if irq == 0 { 2 } else { irq as u32 }
}

/// ISA interrupts that are level-triggered at power-up, one bit each (what firmware leaves in the ELCRs).
pub const LEVEL_IRQS: u16 = 1 << 5 | 1 << SCI_IRQ | 1 << 10 | 1 << 11;

/// System control interrupt.
pub const SCI_IRQ: u8 = 9;
/// First of the ports of the power management block.
pub const PM_BASE: u16 = 0x600;
/// PM1a event block: status (16 bits), enable (16 bits).
pub const PM1A_EVENT: u16 = PM_BASE;
/// Length of the PM1a event block in bytes.
pub const PM1A_EVENT_LENGTH: u8 = 4;
/// PM1a control block (16 bits).
pub const PM1A_CONTROL: u16 = PM_BASE + 4;
/// Length of the PM1a control block in bytes.
pub const PM1A_CONTROL_LENGTH: u8 = 2;
/// Power management timer (32 bits).
pub const PM_TIMER: u16 = PM_BASE + 8;
/// Length of the power management timer block in bytes.
pub const PM_TIMER_LENGTH: u8 = 4;
/// The power management timer counts at this rate (ACPI 6.5, 4.8.3.3).
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// The power management timer has 32 bits (FADT flag TMR_VAL_EXT is to be set), not 24.
pub const PM_TIMER_32_BIT: bool = true;
/// General-purpose event block 0: 16 status bits, then 16 enable bits.
pub const GPE0: u16 = 0xafe0;
/// Length of that block in bytes.
pub const GPE0_LENGTH: u8 = 4;
/// SMI command port.
pub const SMI_COMMAND: u16 = 0xb2;
/// Value written to [`SMI_COMMAND`] that switches to ACPI mode (FADT ACPI_ENABLE).
pub const ACPI_ENABLE: u8 = 0xf1;
/// Value written to [`SMI_COMMAND`] that leaves ACPI mode (FADT ACPI_DISABLE).
pub const ACPI_DISABLE: u8 = 0xf0;
/// Value of SLP_TYPx for S5 (soft off), the only sleep state that the DSDT may announce with a package of its own.
pub const SLEEP_TYPE_S5: u8 = 0;
/// Reset control register (FADT RESET_REG, in system I/O space).
pub const RESET_REGISTER: u16 = 0xcf9;
/// Value that resets the machine when written there (FADT RESET_VALUE): hard reset, now.
pub const RESET_VALUE: u8 = 0x06;

/// Index register of the RTC; its data register is the next port.
pub const RTC_PORT: u16 = 0x70;
/// RTC interrupt line.
pub const RTC_IRQ: u8 = 8;
/// CMOS byte with the century (FADT CENTURY).
pub const RTC_CENTURY: u8 = 0x32;

/// COM1: first of 8 ports.
pub const COM1: u16 = 0x3f8;
/// COM1 interrupt line.
pub const COM1_IRQ: u8 = 4;
/// Keyboard controller: data port; command and status are at port 0x64.
pub const I8042_DATA: u16 = 0x60;
/// Keyboard controller: command and status port.
pub const I8042_COMMAND: u16 = 0x64;
/// Keyboard interrupt line.
pub const KEYBOARD_IRQ: u8 = 1;
/// Mouse interrupt line.
pub const MOUSE_IRQ: u8 = 12;

/// Most virtual processors a machine can have.
pub const MAX_VCPUS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intx_pins_rotate_over_the_slots() {
        assert_eq!(pirq(1, 0), 0);
        assert_eq!(pirq(1, 3), 3);
        assert_eq!(pirq(2, 0), 1);
        assert_eq!(pirq(5, 0), 0);
        assert_eq!(pirq(0, 0), 3);
        assert_eq!(pirq(31, 3), 1);
    }

    #[test]
    fn what_pci_may_use_is_level_triggered_for_both_controllers() {
        for irq in PIRQ_IRQ.into_iter().chain([SCI_IRQ]) {
            assert_ne!(LEVEL_IRQS & 1 << irq, 0);
            assert!(INTERRUPT_OVERRIDES.iter().any(|o| o.irq == irq && o.flags == INTI_LEVEL_HIGH));
        }
        assert!(INTERRUPT_OVERRIDES.iter().all(|o| isa_gsi(o.irq) == o.gsi));
    }
}

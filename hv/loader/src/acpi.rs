//! The ACPI tables of the guest's PC (ACPI 6.5, chapter 5): RSDP, XSDT, FADT, FACS, MADT, HPET, DSDT.
//!
//! They lie in the 128 KiB below 1 MiB, where firmware has them; [`crate::e820`] reserves these. All addresses and
//! interrupts come from [`monovisor_arch::layout`], which the device models obey too.

use monovisor_arch::layout::{self, INTERRUPT_OVERRIDES, PIRQ_IRQ};
use monovisor_arch::{GuestMemory, MemoryError};

use crate::aml::Writer;
use crate::e820;

/// Where the RSDP is; the address for [`crate::LinuxGuest::rsdp`].
pub const RSDP: u64 = e820::FIRMWARE;
/// The other tables start here, each on a boundary of 64 bytes (the FACS needs it; 5.2.10).
const TABLES: u64 = e820::FIRMWARE + 0x40;

/// Longest table in bytes: the DSDT is by far the longest, and most of it is the interrupt routing.
const MAX_TABLE: usize = 4096;

/// What the guest's PC has beside the fixed parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Virtual processors, 1 to [`layout::MAX_VCPUS`].
    pub cpus: u8,
    /// A keyboard controller with keyboard and mouse.
    pub i8042: bool,
    /// An HPET.
    pub hpet: bool,
}

/// Why there are no tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// A table is longer than its buffer.
    Overflow,
    /// No guest RAM at this address.
    Memory(MemoryError),
}

impl core::fmt::Display for AcpiError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Overflow => f.write_str("an ACPI table is longer than its buffer"),
            Self::Memory(error) => write!(f, "no guest RAM for ACPI tables at {:#x}", error.address),
        }
    }
}

type Table = Writer<MAX_TABLE>;

/// Writes all tables to guest memory; the RSDP comes to lie at [`RSDP`].
pub fn build(memory: &impl GuestMemory, machine: &Machine) -> Result<(), AcpiError> {
    let mut next = TABLES;
    let facs = place(memory, &mut next, &facs())?;
    let dsdt = place(memory, &mut next, &dsdt(machine))?;
    let fadt = place(memory, &mut next, &fadt(machine, facs, dsdt))?;
    let madt = place(memory, &mut next, &madt(machine))?;
    let mut roots = Table::new();
    header(&mut roots, b"XSDT", 1);
    roots.raw(&fadt.to_le_bytes());
    roots.raw(&madt.to_le_bytes());
    if machine.hpet {
        let hpet = place(memory, &mut next, &hpet())?;
        roots.raw(&hpet.to_le_bytes());
    }
    finish(&mut roots);
    let xsdt = place(memory, &mut next, &roots)?;

    // Root system description pointer, revision 2 (5.2.5.3).
    let mut rsdp = Writer::<36>::new();
    rsdp.raw(b"RSD PTR \0");
    rsdp.raw(OEM_ID);
    rsdp.raw(&[2]);
    rsdp.raw(&0u32.to_le_bytes());
    rsdp.raw(&36u32.to_le_bytes());
    rsdp.raw(&xsdt.to_le_bytes());
    rsdp.raw(&[0; 4]);
    let checksum = checksum(rsdp.as_slice().get(..20).unwrap_or_default());
    rsdp.patch(8, &[checksum]);
    let checksum = self::checksum(rsdp.as_slice());
    rsdp.patch(32, &[checksum]);
    memory.write(RSDP, rsdp.as_slice()).map_err(AcpiError::Memory)
}

const OEM_ID: &[u8; 6] = b"MONOVS";

fn place(memory: &impl GuestMemory, next: &mut u64, table: &Table) -> Result<u64, AcpiError> {
    let address = *next;
    let end = address.saturating_add(table.as_slice().len() as u64);
    if table.overflowed() || end > e820::MIB {
        return Err(AcpiError::Overflow);
    }
    memory.write(address, table.as_slice()).map_err(AcpiError::Memory)?;
    *next = end.next_multiple_of(64);
    Ok(address)
}

/// The byte that makes the sum of all of them 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

/// System description table header (5.2.6); length and checksum are filled in by [`finish`].
fn header(table: &mut Table, signature: &[u8; 4], revision: u8) {
    table.raw(signature);
    table.raw(&[0, 0, 0, 0, revision, 0]);
    table.raw(OEM_ID);
    table.raw(b"MONOVISR");
    table.raw(&1u32.to_le_bytes());
    table.raw(b"MONO");
    table.raw(&1u32.to_le_bytes());
}

fn finish(table: &mut Table) {
    let length = table.as_slice().len() as u32;
    table.patch(4, &length.to_le_bytes());
    let checksum = checksum(table.as_slice());
    table.patch(9, &[checksum]);
}

/// Firmware ACPI control structure (5.2.10): no checksum, all zero but the header.
fn facs() -> Table {
    let mut table = Table::new();
    table.raw(b"FACS");
    table.raw(&64u32.to_le_bytes());
    table.raw(&[0; 24]);
    // Version 2, then reserved bytes up to 64.
    table.raw(&[2]);
    table.raw(&[0; 31]);
    table
}

/// A generic address structure of system I/O space (5.2.3.2). `access` is 1 for bytes, 2 words, 3 double words.
fn gas(table: &mut Table, port: u16, bytes: u8, access: u8) {
    table.raw(&[1, bytes * 8, 0, access]);
    table.raw(&u64::from(port).to_le_bytes());
}

/// Fixed ACPI description table (5.2.9), revision 3: 244 bytes.
fn fadt(machine: &Machine, facs: u64, dsdt: u64) -> Table {
    // WBINVD works; C1 on all processors; no sleep button; the RTC cannot wake through a fixed register; the timer has
    // 32 bits; there is a reset register. The power button is a fixed one: its flag is 0.
    let mut flags = 1u32 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10;
    if layout::PM_TIMER_32_BIT {
        flags |= 1 << 8;
    }
    // Boot architecture: there are devices on an ISA bus; an 8042 or not; no VGA.
    let boot = 1u16 | u16::from(machine.i8042) << 1 | 1 << 2;
    let mut table = Table::new();
    header(&mut table, b"FACP", 3);
    table.raw(&(facs as u32).to_le_bytes());
    table.raw(&(dsdt as u32).to_le_bytes());
    // Reserved; preferred profile: desktop.
    table.raw(&[0, 1]);
    table.raw(&u16::from(layout::SCI_IRQ).to_le_bytes());
    table.raw(&u32::from(layout::SMI_COMMAND).to_le_bytes());
    // ACPI_ENABLE, ACPI_DISABLE, S4BIOS_REQ, PSTATE_CNT.
    table.raw(&[layout::ACPI_ENABLE, layout::ACPI_DISABLE, 0, 0]);
    let blocks = [layout::PM1A_EVENT, 0, layout::PM1A_CONTROL, 0, 0, layout::PM_TIMER, layout::GPE0, 0];
    for port in blocks {
        table.raw(&u32::from(port).to_le_bytes());
    }
    table.raw(&[
        layout::PM1A_EVENT_LENGTH,
        layout::PM1A_CONTROL_LENGTH,
        0,
        layout::PM_TIMER_LENGTH,
        layout::GPE0_LENGTH,
        // GPE1 length and base, CST_CNT.
        0,
        0,
        0,
    ]);
    // C2 and C3 latencies above the limits (100 and 1000 us): neither is there. No cache flush parameters.
    for value in [0xfffu16, 0xfff, 0, 0] {
        table.raw(&value.to_le_bytes());
    }
    // DUTY_OFFSET, DUTY_WIDTH, DAY_ALRM, MON_ALRM, CENTURY.
    table.raw(&[0, 0, 0, 0, layout::RTC_CENTURY]);
    table.raw(&boot.to_le_bytes());
    table.raw(&[0]);
    table.raw(&flags.to_le_bytes());
    gas(&mut table, layout::RESET_REGISTER, 1, 1);
    // RESET_VALUE, ARM boot architecture, minor version.
    table.raw(&[layout::RESET_VALUE, 0, 0, 0]);
    // X_FIRMWARE_CTRL stays 0 where FIRMWARE_CTRL is used.
    table.raw(&0u64.to_le_bytes());
    table.raw(&dsdt.to_le_bytes());
    gas(&mut table, layout::PM1A_EVENT, layout::PM1A_EVENT_LENGTH, 2);
    table.raw(&[0; 12]);
    gas(&mut table, layout::PM1A_CONTROL, layout::PM1A_CONTROL_LENGTH, 2);
    table.raw(&[0; 24]);
    gas(&mut table, layout::PM_TIMER, layout::PM_TIMER_LENGTH, 3);
    gas(&mut table, layout::GPE0, layout::GPE0_LENGTH, 1);
    table.raw(&[0; 12]);
    finish(&mut table);
    table
}

/// Multiple APIC description table (5.2.12).
fn madt(machine: &Machine) -> Table {
    let mut table = Table::new();
    header(&mut table, b"APIC", 3);
    table.raw(&(layout::LAPIC_BASE as u32).to_le_bytes());
    // PCAT_COMPAT: there are 8259s too.
    table.raw(&1u32.to_le_bytes());
    for index in 0..machine.cpus {
        let id = layout::apic_id(index);
        // Local APIC, enabled.
        table.raw(&[0, 8, id, id, 1, 0, 0, 0]);
    }
    table.raw(&[1, 12, layout::IOAPIC_ID, 0]);
    table.raw(&(layout::IOAPIC_BASE as u32).to_le_bytes());
    table.raw(&0u32.to_le_bytes());
    for interrupt in INTERRUPT_OVERRIDES {
        table.raw(&[2, 10, 0, interrupt.irq]);
        table.raw(&interrupt.gsi.to_le_bytes());
        table.raw(&interrupt.flags.to_le_bytes());
    }
    // NMI on LINT1 of all processors.
    table.raw(&[4, 6, 0xff, 0, 0, 1]);
    finish(&mut table);
    table
}

/// HPET description table (IA-PC HPET specification 1.0a, 3.2.4).
fn hpet() -> Table {
    let mut table = Table::new();
    header(&mut table, b"HPET", 1);
    // Event timer block: revision 1, three comparators, 64-bit counter, legacy replacement, vendor 8086.
    table.raw(&0x8086_a201u32.to_le_bytes());
    // Base address in system memory space, 64 bits wide.
    table.raw(&[0, 64, 0, 0]);
    table.raw(&layout::HPET_BASE.to_le_bytes());
    // Number 0; minimum tick in periodic mode 100 (1 us at 100 MHz); no page protection.
    table.raw(&[0, 100, 0, 0]);
    finish(&mut table);
    table
}

/// Differentiated system description table (5.2.11.1): the devices that cannot be probed for.
fn dsdt(machine: &Machine) -> Table {
    let mut aml = Table::new();
    header(&mut aml, b"DSDT", 2);
    let scope = aml.scope(b"_SB_");
    for index in 0..machine.cpus {
        let [tens, ones] = [b'0' + index / 10 % 10, b'0' + index % 10];
        let device = aml.device(&[b'C', b'P', tens, ones]);
        aml.name(b"_HID");
        aml.string("ACPI0007");
        aml.name(b"_UID");
        aml.integer(u64::from(layout::apic_id(index)));
        aml.close(device);
    }
    pci_root(&mut aml, machine);
    aml.close(scope);

    // Soft off: SLP_TYPa, SLP_TYPb and two reserved values (7.4.2).
    aml.name(b"_S5_");
    let package = aml.package(4);
    for value in [layout::SLEEP_TYPE_S5, layout::SLEEP_TYPE_S5, 0, 0] {
        aml.integer(u64::from(value));
    }
    aml.close(package);
    finish(&mut aml);
    aml
}

fn pci_root(aml: &mut Table, machine: &Machine) {
    let root = aml.device(b"PCI0");
    aml.name(b"_HID");
    aml.eisa_id(b"PNP0A03");
    aml.name(b"_UID");
    aml.integer(0);
    aml.name(b"_BBN");
    aml.integer(0);

    aml.name(b"_CRS");
    let resources = aml.resources();
    aml.bus_numbers(0, 0xff);
    aml.io(layout::PCI_CONFIG, 8);
    aml.io_window(0, layout::PCI_CONFIG - 1);
    aml.io_window(layout::PCI_CONFIG + 8, 0xffff);
    aml.memory_window(0xa_0000, 0xb_ffff);
    aml.memory_window(layout::PCI_MEMORY_BASE as u32, layout::PCI_MEMORY_LAST as u32);
    aml.close_resources(resources);

    // Interrupt routing (6.2.13): fixed, and the same numbers with the 8259s and with the I/O APIC.
    aml.name(b"_PRT");
    let slots = layout::PCI_SLOT_ISA_BRIDGE..=31;
    let routing = aml.package(31 * 4);
    for slot in slots {
        for pin in 0..4u8 {
            let irq = PIRQ_IRQ.get(layout::pirq(slot, pin)).copied().unwrap_or(PIRQ_IRQ[0]);
            let entry = aml.package(4);
            aml.integer(u64::from(slot) << 16 | 0xffff);
            aml.integer(u64::from(pin));
            aml.integer(0);
            aml.integer(u64::from(layout::isa_gsi(irq)));
            aml.close(entry);
        }
    }
    aml.close(routing);

    let isa = aml.device(b"ISA_");
    aml.name(b"_ADR");
    aml.integer(u64::from(layout::PCI_SLOT_ISA_BRIDGE) << 16);
    isa_device(aml, b"COM1", b"PNP0501", 1, &[(layout::COM1, 8)], Some(layout::COM1_IRQ));
    isa_device(aml, b"RTC_", b"PNP0B00", 0, &[(layout::RTC_PORT, 2)], Some(layout::RTC_IRQ));
    if machine.i8042 {
        let ports = [(layout::I8042_DATA, 1), (layout::I8042_COMMAND, 1)];
        isa_device(aml, b"KBD_", b"PNP0303", 0, &ports, Some(layout::KEYBOARD_IRQ));
        isa_device(aml, b"MOU_", b"PNP0F13", 0, &[], Some(layout::MOUSE_IRQ));
    }
    aml.close(isa);
    aml.close(root);

    if machine.hpet {
        let hpet = aml.device(b"HPET");
        aml.name(b"_HID");
        aml.eisa_id(b"PNP0103");
        aml.name(b"_CRS");
        let resources = aml.resources();
        aml.memory32(layout::HPET_BASE as u32, 0x400);
        aml.close_resources(resources);
        aml.close(hpet);
    }
}

fn isa_device(aml: &mut Table, name: &[u8; 4], id: &[u8; 7], uid: u64, ports: &[(u16, u8)], irq: Option<u8>) {
    let device = aml.device(name);
    aml.name(b"_HID");
    aml.eisa_id(id);
    aml.name(b"_UID");
    aml.integer(uid);
    aml.name(b"_CRS");
    let resources = aml.resources();
    for (port, length) in ports {
        aml.io(*port, *length);
    }
    if let Some(irq) = irq {
        aml.irq(irq);
    }
    aml.close_resources(resources);
    aml.close(device);
}

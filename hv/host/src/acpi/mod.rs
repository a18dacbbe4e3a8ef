//! What the host needs from ACPI: interrupt controllers, processors, the PM timer, power-off and reset.
//!
//! Read once at start-up, over bounds-checked looks at memory. No AML is run: the one object needed, `\_S5`, is found by
//! its bytes. Section numbers are those of ACPI 6.5.

mod fadt;
mod madt;

use crate::bytes::{u8_at, u32_at, u64_at};
use crate::physical::PhysicalMemory;

pub use fadt::{Fadt, GenericAddress, SleepState, find_s5};
pub use madt::{IoApic, IsaOverride, MAX_CPUS, MAX_IOAPICS, Madt};

/// Longest table read, in bytes. DSDTs of servers reach some 500 KiB.
const MAX_TABLE: u32 = 4 << 20;
/// More tables than any firmware has; a bound on the loop.
const MAX_TABLES: usize = 256;
/// Bytes of the header that all tables share (5.2.6).
const HEADER: usize = 36;

/// What was found. Everything can be absent.
#[derive(Clone, Debug, Default)]
pub struct Acpi {
    /// Multiple APIC description table.
    pub madt: Option<Madt>,
    /// Fixed ACPI description table.
    pub fadt: Option<Fadt>,
    /// Values that PM1 control takes for soft-off.
    pub s5: Option<SleepState>,
}

/// Looks for the root pointer where BIOSes put it (5.2.5.1): the first KiB of the extended BIOS data area, and
/// 0xE0000-0xFFFFF.
pub fn find_rsdp(memory: &impl PhysicalMemory) -> Option<u64> {
    let ebda = memory
        .bytes(0x40e, 2)
        .and_then(|b| crate::bytes::u16_at(b, 0))
        .map(|segment| u64::from(segment) << 4);
    let areas = [(ebda.filter(|&area| area >= 0x400), 1024u64), (Some(0xe0000), 0x20000)];
    for (start, len) in areas {
        let Some(start) = start else { continue };
        let found = (start..start + len).step_by(16).find(|&address| rsdp(address, memory).is_some());
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The root table's address, and whether its entries are 64 bits wide.
fn rsdp(address: u64, memory: &impl PhysicalMemory) -> Option<(u64, bool)> {
    let old = memory.bytes(address, 20)?;
    if !old.starts_with(b"RSD PTR ") || checksum(old) != 0 {
        return None;
    }
    let rsdt = u64::from(u32_at(old, 16)?);
    if u8_at(old, 15)? >= 2
        && let Some(new) = memory.bytes(address, 36)
        && checksum(new) == 0
        && let Some(xsdt) = u64_at(new, 24)
        && xsdt != 0
    {
        return Some((xsdt, true));
    }
    Some((rsdt, false))
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

/// The whole table at `address`, its length and checksum being right.
fn table(address: u64, memory: &impl PhysicalMemory) -> Option<&'static [u8]> {
    let len = u32_at(memory.bytes(address, HEADER)?, 4)?;
    if !(HEADER as u32..=MAX_TABLE).contains(&len) {
        return None;
    }
    let table = memory.bytes(address, len as usize)?;
    (checksum(table) == 0).then_some(table)
}

impl Acpi {
    /// Reads the tables that the root pointer at `address` leads to.
    pub fn read(address: u64, memory: &impl PhysicalMemory) -> Option<Self> {
        let (root, wide) = rsdp(address, memory)?;
        let entries = table(root, memory)?.get(HEADER..)?;
        let size = if wide { 8 } else { 4 };
        let mut acpi = Self::default();
        for entry in entries.chunks_exact(size).take(MAX_TABLES) {
            let address = if wide { u64_at(entry, 0)? } else { u64::from(u32_at(entry, 0)?) };
            // The signature first: checksums over every table would take long.
            match memory.bytes(address, 4) {
                Some(b"APIC") => acpi.madt = table(address, memory).map(Madt::parse),
                Some(b"FACP") => acpi.fadt = table(address, memory).and_then(Fadt::parse),
                // Where the firmware has \_S5 depend on its set-up, it is in a table beside the DSDT.
                Some(b"SSDT") if acpi.s5.is_none() => acpi.s5 = soft_off(address, memory),
                _ => {}
            }
        }
        if let Some(fadt) = &acpi.fadt {
            acpi.s5 = soft_off(fadt.dsdt, memory).or(acpi.s5);
        }
        Some(acpi)
    }
}

/// What the DSDT or SSDT at `address` says of soft-off. It is not summed up: it is large, and what is looked for tells
/// itself by 8 bytes.
#[inline(never)]
fn soft_off(address: u64, memory: &impl PhysicalMemory) -> Option<SleepState> {
    let len = u32_at(memory.bytes(address, HEADER)?, 4).filter(|len| *len <= MAX_TABLE)?;
    find_s5(memory.bytes(address, len as usize)?)
}

#[cfg(test)]
mod tests;

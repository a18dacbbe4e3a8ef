//! The multiple APIC description table (5.2.12).

use heapless::Vec;

use super::HEADER;
use crate::bytes::{u8_at, u16_at, u32_at, u64_at};

/// Processors noted. Guests get at most 8; more are counted but not listed.
pub const MAX_CPUS: usize = 64;
/// I/O APICs noted. Servers have one a socket or PCIe root; the ISA interrupts are on the first.
pub const MAX_IOAPICS: usize = 16;
/// ISA interrupts, and so their overrides.
const ISA_IRQS: usize = 16;

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Physical address of its registers.
    pub address: u64,
    /// First global system interrupt.
    pub gsi_base: u32,
}

/// Where an ISA interrupt arrives, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsaOverride {
    /// ISA interrupt number.
    pub irq: u8,
    /// Global system interrupt.
    pub gsi: u32,
    /// Asserted low.
    pub active_low: bool,
    /// Level-triggered.
    pub level: bool,
}

/// What the table says.
#[derive(Clone, Debug, Default)]
pub struct Madt {
    /// Physical address of the local APICs in xAPIC mode.
    pub lapic_address: u64,
    /// Local APIC identifiers of the processors that can be used, the boot processor mostly first.
    pub cpus: Vec<u32, MAX_CPUS>,
    /// I/O APICs.
    pub ioapics: Vec<IoApic, MAX_IOAPICS>,
    /// ISA interrupts that are not wired one to one, edge-triggered and active high.
    pub overrides: Vec<IsaOverride, ISA_IRQS>,
}

impl Madt {
    /// Reads the table. A broken entry ends the list.
    pub(super) fn parse(table: &'static [u8]) -> Self {
        let mut madt = Self { lapic_address: u32_at(table, HEADER).unwrap_or(0).into(), ..Self::default() };
        let mut rest = table.get(HEADER + 8..).unwrap_or(&[]);
        while let (Some(kind), Some(len)) = (u8_at(rest, 0), u8_at(rest, 1)) {
            let len = usize::from(len);
            let Some(entry) = rest.get(..len).filter(|_| len >= 2) else { break };
            // A list that is full keeps its first members; `None` is an entry that is too short for its kind.
            let _ = madt.entry(kind, entry);
            rest = rest.get(len..).unwrap_or(&[]);
        }
        madt
    }

    fn entry(&mut self, kind: u8, entry: &[u8]) -> Option<()> {
        /// Flags bit 0: enabled (5.2.12.2).
        const ENABLED: u32 = 1;
        match kind {
            0 if u32_at(entry, 4)? & ENABLED != 0 => self.add_cpu(u8_at(entry, 3)?.into()),
            1 => {
                let ioapic = IoApic { address: u32_at(entry, 4)?.into(), gsi_base: u32_at(entry, 8)? };
                self.ioapics.push(ioapic).ok()
            }
            2 => {
                // 5.2.12.5: polarity in bits 1:0 (3 is low), trigger in bits 3:2 (3 is level); 0 is as the bus, and
                // the ISA bus is high and edge.
                let flags = u16_at(entry, 8)?;
                let one = IsaOverride {
                    irq: u8_at(entry, 3)?,
                    gsi: u32_at(entry, 4)?,
                    active_low: flags & 3 == 3,
                    level: (flags >> 2) & 3 == 3,
                };
                self.overrides.push(one).ok()
            }
            5 => {
                self.lapic_address = u64_at(entry, 4)?;
                Some(())
            }
            9 if u32_at(entry, 8)? & ENABLED != 0 => self.add_cpu(u32_at(entry, 4)?),
            _ => Some(()),
        }
    }

    /// Some firmware lists a processor twice, by an entry of each kind: started twice, it would lose what it runs.
    fn add_cpu(&mut self, id: u32) -> Option<()> {
        if self.cpus.contains(&id) {
            return None;
        }
        self.cpus.push(id).ok()
    }

    /// Where an ISA interrupt arrives.
    pub fn isa(&self, irq: u8) -> IsaOverride {
        let plain = IsaOverride { irq, gsi: irq.into(), active_low: false, level: false };
        self.overrides.iter().find(|one| one.irq == irq).copied().unwrap_or(plain)
    }
}

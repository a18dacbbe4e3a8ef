//! The fixed ACPI description table (5.2.9) and the soft-off state (7.4.2).

use crate::bytes::{u8_at, u16_at, u32_at, u64_at};

/// A register in I/O or memory space (5.2.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenericAddress {
    /// 0 memory, 1 I/O ports, 2 PCI configuration space of bus 0.
    pub space: u8,
    /// Address in that space.
    pub address: u64,
}

/// What the table says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fadt {
    /// Physical address of the DSDT.
    pub dsdt: u64,
    /// Port that takes `acpi_enable`; 0 where ACPI mode is always on.
    pub smi_command: u16,
    /// Value that switches to ACPI mode.
    pub acpi_enable: u8,
    /// Ports of PM1a and PM1b control; 0 where there is none.
    pub pm1a_control: u16,
    /// See `pm1a_control`.
    pub pm1b_control: u16,
    /// Port of the 3.579545 MHz PM timer.
    pub pm_timer: Option<u16>,
    /// The PM timer counts 32 bits, not 24.
    pub pm_timer_32: bool,
    /// CMOS index of the century, 0 where there is none.
    pub century: u8,
    /// The firmware says that there is no CMOS clock (IAPC_BOOT_ARCH bit 5).
    pub no_cmos_clock: bool,
    /// Reset register and the value that it takes.
    pub reset: Option<(GenericAddress, u8)>,
}

impl Fadt {
    pub(super) fn parse(table: &'static [u8]) -> Option<Self> {
        const TIMER_32: u32 = 1 << 8;
        const RESET_SUPPORTED: u32 = 1 << 10;
        // An extended field wins where it is there, not zero, and a port.
        let port = |old: usize, extended: usize| -> u16 {
            let wide = gas(table, extended).filter(|r| r.space == 1 && r.address != 0);
            let value = wide.map_or_else(|| u64::from(u32_at(table, old).unwrap_or(0)), |r| r.address);
            u16::try_from(value).unwrap_or(0)
        };
        let flags = u32_at(table, 112).unwrap_or(0);
        let dsdt = u64_at(table, 140).filter(|&address| address != 0).or(u32_at(table, 40).map(u64::from))?;
        let timer = port(76, 208);
        let reset = gas(table, 116).zip(u8_at(table, 128)).filter(|_| flags & RESET_SUPPORTED != 0);
        Some(Self {
            dsdt,
            smi_command: u32_at(table, 48).and_then(|p| u16::try_from(p).ok()).unwrap_or(0),
            acpi_enable: u8_at(table, 52).unwrap_or(0),
            pm1a_control: port(64, 172),
            pm1b_control: port(68, 184),
            pm_timer: (timer != 0).then_some(timer),
            pm_timer_32: flags & TIMER_32 != 0,
            century: u8_at(table, 108).unwrap_or(0),
            no_cmos_clock: u16_at(table, 109).unwrap_or(0) & (1 << 5) != 0,
            reset,
        })
    }
}

fn gas(table: &[u8], offset: usize) -> Option<GenericAddress> {
    Some(GenericAddress { space: u8_at(table, offset)?, address: u64_at(table, offset + 4)? })
}

/// What PM1a and PM1b control take as sleep type (4.8.3.2.1, bits 12:10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepState {
    /// Sleep type for PM1a.
    pub pm1a: u8,
    /// Sleep type for PM1b.
    pub pm1b: u8,
}

/// Finds `Name (_S5, Package () {a, b, …})` in AML (20.2.5.1, 20.2.5.4).
pub fn find_s5(aml: &[u8]) -> Option<SleepState> {
    const PACKAGE_OP: u8 = 0x12;
    let mut rest = aml;
    loop {
        let at = rest.windows(4).position(|name| name == b"_S5_")?;
        rest = rest.get(at + 4..)?;
        if let Some(package) = rest.strip_prefix(&[PACKAGE_OP])
            // The two high bits of the lead byte count the bytes of the length that follow (20.2.4).
            && let Some(&lead) = package.first()
            && let Some(elements) = package.get(1 + usize::from(lead >> 6)..)
            && let Some((&count, elements)) = elements.split_first()
            && count >= 2
            && let Some((pm1a, elements)) = integer(elements)
            && let Some((pm1b, _)) = integer(elements)
        {
            return Some(SleepState { pm1a: pm1a & 7, pm1b: pm1b & 7 });
        }
    }
}

/// A small integer constant (20.2.3), and what follows it.
fn integer(aml: &[u8]) -> Option<(u8, &[u8])> {
    let (&op, rest) = aml.split_first()?;
    match op {
        0 | 1 => Some((op, rest)),
        0x0a => rest.split_first().map(|(&value, rest)| (value, rest)),
        0x0b => Some((u8_at(rest, 0)?, rest.get(2..)?)),
        0x0c => Some((u8_at(rest, 0)?, rest.get(4..)?)),
        _ => None,
    }
}

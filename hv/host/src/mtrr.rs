//! Memory type range registers, which have to be the same on all processors (SDM vol. 3, 12.11).
//!
//! Firmware sets them on each, but INIT may take them away again: some emulators do so. A processor that the host starts
//! gets those of the first.

use x86_64::registers::control::{Cr0, Cr0Flags, Cr3};
use x86_64::registers::model_specific::Msr;

use crate::traps;

const IA32_MTRRCAP: u32 = 0xfe;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
/// First of the pairs of base and mask.
const PHYS_BASE_0: u32 = 0x200;
/// Of 64 KiB, of 16 KiB and of 4 KiB.
const FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
/// Variable ranges that are copied: processors have 8 to 10.
const MAX_VARIABLE: usize = 16;
/// MTRRcap bit 8: there are fixed ranges.
const HAS_FIXED: u64 = 1 << 8;
/// Default type bit 11: MTRRs on.
const ENABLE: u64 = 1 << 11;

/// The MTRRs of one processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryTypes {
    default: u64,
    fixed: Option<[u64; FIXED.len()]>,
    variable: heapless::Vec<u64, { 2 * MAX_VARIABLE }>,
}

impl MemoryTypes {
    /// Reads those of the processor that runs this; nothing where it has none.
    pub fn read() -> Self {
        let Some(capabilities) = traps::read_msr(IA32_MTRRCAP) else { return Self::default() };
        let value = |index| traps::read_msr(index).unwrap_or(0);
        let count = 2 * (capabilities as u32 & 0xff).min(MAX_VARIABLE as u32);
        Self {
            default: value(IA32_MTRR_DEF_TYPE),
            fixed: (capabilities & HAS_FIXED != 0).then(|| FIXED.map(value)),
            variable: (PHYS_BASE_0..PHYS_BASE_0 + count).map(value).collect(),
        }
    }

    /// Gives them to the processor that runs this, in the steps of SDM vol. 3, 12.11.8.
    ///
    /// # Safety
    /// They are those of another processor of this machine, and interrupts are off.
    pub unsafe fn write(&self) {
        let cr0 = Cr0::read();
        // SAFETY: values of a like processor (contract), written with caches off and empty, so that no line is cached by
        // two types; afterwards memory is as all other processors see it. CR4.PGE is off in the host: reloading CR3 drops
        // all translations.
        unsafe {
            Cr0::write((cr0 | Cr0Flags::CACHE_DISABLE) - Cr0Flags::NOT_WRITE_THROUGH);
            empty();
            Msr::new(IA32_MTRR_DEF_TYPE).write(self.default & !ENABLE);
            if let Some(fixed) = &self.fixed {
                for (index, value) in FIXED.into_iter().zip(fixed) {
                    Msr::new(index).write(*value);
                }
            }
            for (index, value) in (PHYS_BASE_0..).zip(&self.variable) {
                Msr::new(index).write(*value);
            }
            Msr::new(IA32_MTRR_DEF_TYPE).write(self.default);
            empty();
            Cr0::write(cr0);
        }
    }
}

/// Writes caches back, and drops them and the translations.
///
/// # Safety
/// At CPL 0; memory has the same contents before and after.
unsafe fn empty() {
    let (root, flags) = Cr3::read();
    // SAFETY: WBINVD loses nothing, and CR3 keeps its value.
    unsafe {
        core::arch::asm!("wbinvd", options(nostack, preserves_flags));
        Cr3::write(root, flags);
    }
}

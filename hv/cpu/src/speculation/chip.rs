//! What a chip says about itself.

use core::arch::x86_64::{__cpuid, __cpuid_count};

use super::ARCH_CAPABILITIES;
use crate::vmx::rdmsr;

/// Where a register is: leaf, subleaf, and which of EAX, EBX, ECX, EDX.
const REGISTERS: [(u32, u8, u8); 9] = [
    (1, 0, 0),
    (7, 0, 1),
    (7, 0, 3),
    (7, 2, 3),
    (0xb, 0, 1),
    (0x8000_0008, 0, 1),
    (0x8000_000a, 0, 3),
    (0x8000_0021, 0, 0),
    (0x8000_0021, 0, 2),
];

/// Whose chip it is, as far as the leaks differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Maker {
    /// Intel.
    Intel,
    /// AMD, and Hygon after it.
    Amd,
    /// Others. Their chips are taken by their word.
    #[default]
    Other,
}

/// A bit of what a chip says: 32 times the word, plus the bit.
pub mod bit {
    #![allow(missing_docs)]

    const fn capability(bit: u32) -> u32 {
        9 * 32 + bit
    }

    /// CPUID.07H:EBX: TSX.
    pub const RTM: u32 = 32 + 11;
    /// CPUID.07H:EDX. VERW clears buffers.
    pub const MD_CLEAR: u32 = 2 * 32 + 10;
    /// IBRS and IBPB.
    pub const SPEC_CTRL: u32 = 2 * 32 + 26;
    pub const FLUSH_L1D: u32 = 2 * 32 + 28;
    pub const ARCH_CAPABILITIES: u32 = 2 * 32 + 29;
    /// CPUID.07H.2:EDX: SPEC_CTRL has BHI_DIS_S.
    pub const BHI_CTRL: u32 = 3 * 32 + 4;
    /// CPUID.8000_0008H:EBX.
    pub const AMD_IBPB: u32 = 5 * 32 + 12;
    pub const AMD_IBRS: u32 = 5 * 32 + 14;
    /// IBRS stays in force across exits.
    pub const AMD_IBRS_ALWAYS_ON: u32 = 5 * 32 + 16;
    /// CPUID.8000_000AH:EDX: SPEC_CTRL is virtual.
    pub const SVM_SPEC_CTRL: u32 = 6 * 32 + 20;
    /// CPUID.8000_0021H:EAX. VERW clears what TSA reveals.
    pub const VERW_CLEAR: u32 = 7 * 32 + 5;
    pub const AUTO_IBRS: u32 = 7 * 32 + 8;
    /// Not affected by SRSO.
    pub const SRSO_NO: u32 = 7 * 32 + 29;
    /// BP_CFG has BpSpecReduce.
    pub const SRSO_MSR_FIX: u32 = 7 * 32 + 31;
    /// CPUID.8000_0021H:ECX: not affected by TSA of either kind.
    pub const TSA_SQ_NO: u32 = 8 * 32 + 1;
    pub const TSA_L1_NO: u32 = 8 * 32 + 2;
    /// IA32_ARCH_CAPABILITIES (SDM vol. 4, table 2-2). Not affected by L1TF.
    pub const RDCL_NO: u32 = capability(0);
    /// IBRS stays in force across exits.
    pub const IBRS_ALL: u32 = capability(1);
    /// No flush is needed on entry.
    pub const SKIP_L1DFL_VMENTRY: u32 = capability(3);
    pub const MDS_NO: u32 = capability(5);
    /// There is IA32_TSX_CTRL.
    pub const TSX_CTRL: u32 = capability(7);
    pub const TAA_NO: u32 = capability(8);
    pub const BHI_NO: u32 = capability(20);
    pub const RFDS_NO: u32 = capability(27);
    /// VERW clears what RFDS reveals.
    pub const RFDS_CLEAR: u32 = capability(28);
}

/// What a chip says of what it leaks and what it has against it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chip {
    /// Whose it is.
    pub maker: Maker,
    /// The registers of CPUID, 0 where there is no such leaf, and both halves of IA32_ARCH_CAPABILITIES.
    pub words: [u32; 11],
}

impl Chip {
    /// Asks this processor.
    ///
    /// # Safety
    /// At CPL 0.
    #[cold]
    pub unsafe fn read() -> Self {
        let (first, last) = (__cpuid(0), __cpuid(0x8000_0000).eax);
        let subleaves = if first.eax >= 7 { __cpuid(7).eax } else { 0 };
        // "Genu", "Auth", "Hygo": EBX tells them apart.
        let maker = match &first.ebx.to_le_bytes() {
            b"Genu" => Maker::Intel,
            b"Auth" | b"Hygo" => Maker::Amd,
            _ => Maker::Other,
        };
        let mut chip = Self { maker, words: [0; 11] };
        for (word, (number, subleaf, register)) in chip.words.iter_mut().zip(REGISTERS) {
            let limit = if number >> 31 == 0 { first.eax } else { last };
            if number <= limit && u32::from(subleaf) <= subleaves {
                let leaf = __cpuid_count(number, subleaf.into());
                *word = match register {
                    0 => leaf.eax,
                    1 => leaf.ebx,
                    2 => leaf.ecx,
                    _ => leaf.edx,
                };
            }
        }
        if chip.has(bit::ARCH_CAPABILITIES) {
            // SAFETY: CPL 0 by the caller; CPUID says that the MSR is there.
            let capabilities = unsafe { rdmsr(ARCH_CAPABILITIES) };
            chip.words[9] = capabilities as u32;
            chip.words[10] = (capabilities >> 32) as u32;
        }
        chip
    }

    /// One of [`bit`].
    #[inline]
    pub const fn has(&self, bit: u32) -> bool {
        self.words[bit as usize / 32] >> (bit % 32) & 1 != 0
    }

    /// Family, the extended one included (SDM vol. 2, CPUID, leaf 1).
    pub const fn family(&self) -> u32 {
        let family = self.words[0] >> 8 & 0xf;
        if family == 0xf { family + (self.words[0] >> 20 & 0xff) } else { family }
    }

    /// Its cores have more than one thread.
    pub const fn has_threads(&self) -> bool {
        self.words[4] & 0xffff > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_beyond_15_are_told_apart() {
        // Skylake, Zen 1, Zen 3, Zen 5.
        for (signature, expected) in [(0x506e3, 6), (0x80_0f11, 0x17), (0xa2_0f10, 0x19), (0xb4_0f40, 0x1a)] {
            let mut chip = Chip::default();
            chip.words[0] = signature;
            assert_eq!(chip.family(), expected);
        }
    }

    #[test]
    fn words_are_those_of_the_bits() {
        // What each bit is in: leaf, subleaf, register, bit.
        for (bit, place) in [
            (bit::RTM, (7, 0, 1, 11)),
            (bit::MD_CLEAR, (7, 0, 3, 10)),
            (bit::ARCH_CAPABILITIES, (7, 0, 3, 29)),
            (bit::BHI_CTRL, (7, 2, 3, 4)),
            (bit::AMD_IBRS, (0x8000_0008, 0, 1, 14)),
            (bit::SVM_SPEC_CTRL, (0x8000_000a, 0, 3, 20)),
            (bit::AUTO_IBRS, (0x8000_0021, 0, 0, 8)),
            (bit::TSA_L1_NO, (0x8000_0021, 0, 2, 2)),
        ] {
            let (leaf, subleaf, register) = REGISTERS[bit as usize / 32];
            assert_eq!((leaf, subleaf, register, bit % 32), place);
        }
        assert_eq!(bit::RDCL_NO as usize / 32, REGISTERS.len());
    }
}

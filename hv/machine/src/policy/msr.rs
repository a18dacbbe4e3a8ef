//! Model-specific registers that are neither switched by the CPU nor part of an emulated device.
//!
//! Three answers only: a value, #GP as hardware gives for an MSR it does not have, or a write that hardware accepts
//! without an effect that a guest could see. SDM vol. 4; APM vol. 2, appendix A.

/// The MSR does not exist, or the value breaks a rule: #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Variable-range MTRR pairs (MTRRcap.VCNT).
const VARIABLE_RANGES: usize = 8;
/// Fixed-range MTRRs: one of 64 KiB pieces, two of 16 KiB, eight of 4 KiB.
const FIXED_RANGES: usize = 11;

const IA32_PLATFORM_ID: u32 = 0x17;
const IA32_BIOS_SIGN_ID: u32 = 0x8b;
const IA32_MTRRCAP: u32 = 0xfe;
const IA32_MCG_CAP: u32 = 0x179;
const IA32_MCG_STATUS: u32 = 0x17a;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_DEBUGCTL: u32 = 0x1d9;
const MTRR_PHYS_BASE_0: u32 = 0x200;
const MTRR_FIX_64K: u32 = 0x250;
const MTRR_FIX_16K: u32 = 0x258;
const MTRR_FIX_4K: u32 = 0x268;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
/// AMD: SYSCFG, HWCR, NB_CFG, INT_PENDING, VM_CR, DE_CFG.
const SYSCFG: u32 = 0xc001_0010;
const HWCR: u32 = 0xc001_0015;
const NB_CFG: u32 = 0xc001_001f;
const INT_PENDING: u32 = 0xc001_0055;
const VM_CR: u32 = 0xc001_0114;
const DE_CFG: u32 = 0xc001_1029;

/// VM_CR: SVM is off and locked so.
const VM_CR_SVMDIS_LOCK: u64 = 1 << 3 | 1 << 4;
/// HWCR: the TSC counts at a fixed rate, as the invariant TSC of CPUID says.
const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;
/// DE_CFG: LFENCE serialises.
const DE_CFG_LFENCE: u64 = 1 << 1;
/// MCG_STATUS: what was interrupted can go on; a machine check is in progress.
const MCG_STATUS_RIPV: u64 = 1;
const MCG_STATUS_MCIP: u64 = 1 << 2;
/// MISC_ENABLE: fast strings, BTS and PEBS not there.
const MISC_ENABLE: u64 = 1 | 1 << 11 | 1 << 12;
/// MTRRcap: VCNT, fixed ranges, write-combining.
const MTRR_CAP: u64 = VARIABLE_RANGES as u64 | 1 << 8 | 1 << 10;
/// MTRRdefType after a PC's firmware: enabled, fixed ranges enabled, write-back.
const MTRR_DEF_TYPE: u64 = 1 << 11 | 1 << 10 | 6;
/// Bits of an MTRR's address and mask that exist: 51:12.
const MTRR_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// One processor's MSRs of this kind.
#[derive(Clone, Debug)]
pub struct Msrs {
    intel: bool,
    mtrr_def_type: u64,
    mtrr_variable: [u64; VARIABLE_RANGES * 2],
    mtrr_fixed: [u64; FIXED_RANGES],
    mcg_status: u64,
}

const fn memory_type(value: u64) -> bool {
    matches!(value & 0xff, 0 | 1 | 4 | 5 | 6)
}

impl Msrs {
    /// After firmware: all RAM write-back. `intel` says whose processor the host has.
    pub const fn new(intel: bool) -> Self {
        Self {
            intel,
            mtrr_def_type: MTRR_DEF_TYPE,
            mtrr_variable: [0; VARIABLE_RANGES * 2],
            mtrr_fixed: [0x0606_0606_0606_0606; FIXED_RANGES],
            mcg_status: 0,
        }
    }

    fn fixed(index: u32) -> Option<usize> {
        match index {
            MTRR_FIX_64K => Some(0),
            MTRR_FIX_16K..=0x259 => Some((index - MTRR_FIX_16K) as usize + 1),
            MTRR_FIX_4K..=0x26f => Some((index - MTRR_FIX_4K) as usize + 3),
            _ => None,
        }
    }

    /// A machine check is reported: the guest can go on behind it. False where the one before has not ended, which shuts a
    /// processor down (SDM vol. 3, 17.3.1.2).
    pub fn begin_machine_check(&mut self) -> bool {
        let first = self.mcg_status & MCG_STATUS_MCIP == 0;
        self.mcg_status = MCG_STATUS_MCIP | MCG_STATUS_RIPV;
        first
    }

    /// RDMSR.
    pub fn read(&self, index: u32) -> Result<u64, Refused> {
        if let Some(value) = Self::fixed(index).and_then(|slot| self.mtrr_fixed.get(slot)) {
            return Ok(*value);
        }
        let variable =
            index.checked_sub(MTRR_PHYS_BASE_0).and_then(|slot| self.mtrr_variable.get(slot as usize));
        if let Some(value) = variable {
            return Ok(*value);
        }
        match index {
            IA32_MTRRCAP => Ok(MTRR_CAP),
            IA32_MTRR_DEF_TYPE => Ok(self.mtrr_def_type),
            // No machine-check banks.
            IA32_MCG_CAP | IA32_DEBUGCTL => Ok(0),
            IA32_MCG_STATUS => Ok(self.mcg_status),
            // A microcode revision above every one that an erratum check asks for.
            IA32_BIOS_SIGN_ID => Ok(0xffff_ffff << if self.intel { 32 } else { 0 }),
            IA32_PLATFORM_ID if self.intel => Ok(0),
            IA32_MISC_ENABLE if self.intel => Ok(MISC_ENABLE),
            SYSCFG | NB_CFG | INT_PENDING if !self.intel => Ok(0),
            HWCR if !self.intel => Ok(HWCR_TSC_FREQ_SEL),
            VM_CR if !self.intel => Ok(VM_CR_SVMDIS_LOCK),
            DE_CFG if !self.intel => Ok(DE_CFG_LFENCE),
            _ => Err(Refused),
        }
    }

    /// WRMSR.
    pub fn write(&mut self, index: u32, value: u64) -> Result<(), Refused> {
        if let Some(slot) = Self::fixed(index).and_then(|slot| self.mtrr_fixed.get_mut(slot)) {
            return if value.to_le_bytes().iter().all(|&byte| memory_type(byte.into())) {
                *slot = value;
                Ok(())
            } else {
                Err(Refused)
            };
        }
        if let Some(offset) = index.checked_sub(MTRR_PHYS_BASE_0)
            && let Some(slot) = self.mtrr_variable.get_mut(offset as usize)
        {
            let valid = if offset & 1 == 0 {
                value & !(MTRR_ADDRESS | 0xff) == 0 && memory_type(value)
            } else {
                value & !(MTRR_ADDRESS | 1 << 11) == 0
            };
            return if valid {
                *slot = value;
                Ok(())
            } else {
                Err(Refused)
            };
        }
        match index {
            IA32_MTRR_DEF_TYPE if value & !0xcff == 0 && memory_type(value) => {
                self.mtrr_def_type = value;
                Ok(())
            }
            // Starting a microcode update.
            IA32_BIOS_SIGN_ID => Ok(()),
            // Nothing but 0 may be written (SDM vol. 3, 17.3.1.2).
            IA32_MCG_STATUS if value == 0 => {
                self.mcg_status = 0;
                Ok(())
            }
            IA32_DEBUGCTL if value == 0 => Ok(()),
            IA32_MISC_ENABLE if self.intel && value == MISC_ENABLE => Ok(()),
            // Linux sets HWCR's and NB_CFG's errata bits on old families, and LFENCE's where it is clear.
            HWCR | NB_CFG if !self.intel => Ok(()),
            DE_CFG if !self.intel => Ok(()),
            _ => Err(Refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtrrs_keep_what_is_legal() {
        let mut msrs = Msrs::new(true);
        assert!(msrs.begin_machine_check() && !msrs.begin_machine_check());
        assert_eq!((msrs.read(0x17a), msrs.write(0x17a, 1)), (Ok(5), Err(Refused)));
        assert_eq!((msrs.write(0x17a, 0), msrs.read(0x17a)), (Ok(()), Ok(0)));
        assert!(msrs.begin_machine_check());
        assert_eq!(msrs.write(0x200, 0x8000_0006), Ok(()));
        assert_eq!(msrs.read(0x200), Ok(0x8000_0006));
        assert_eq!(msrs.write(0x200, 2), Err(Refused), "type 2 is reserved");
        assert_eq!(msrs.write(0x201, 1 << 52), Err(Refused));
        assert_eq!(msrs.write(0x20f, 0xffff_f800), Ok(()));
        assert_eq!(msrs.write(0x210, 0), Err(Refused));
        assert_eq!(msrs.write(0x268, 0x0606_0606_0606_0602), Err(Refused));
        assert_eq!(msrs.write(0x26f, 0), Ok(()));
        assert_eq!(msrs.read(0x26f), Ok(0));
        assert_eq!(msrs.write(0x2ff, 0xc01), Ok(()));
        assert_eq!(msrs.read(0x2ff), Ok(0xc01));
        assert_eq!(msrs.write(0x2ff, 0x1000), Err(Refused));
    }

    #[test]
    fn a_vendor_has_its_own_and_not_the_other_ones() {
        let (mut intel, mut amd) = (Msrs::new(true), Msrs::new(false));
        assert_eq!(intel.read(VM_CR), Err(Refused));
        assert_eq!(amd.read(INT_PENDING), Ok(0), "Linux reads it on every AMD processor");
        assert_eq!(amd.read(VM_CR), Ok(VM_CR_SVMDIS_LOCK));
        assert_eq!(amd.write(VM_CR, 0), Err(Refused));
        assert_eq!(amd.read(IA32_MISC_ENABLE), Err(Refused));
        assert_eq!(intel.write(HWCR, 0), Err(Refused));
        for unknown in [0x3a, 0x480, 0x48f, 0x4000_0000, 0xc000_0103 + 1, u32::MAX] {
            assert_eq!(intel.read(unknown), Err(Refused));
            assert_eq!(amd.write(unknown, 0), Err(Refused));
        }
    }
}

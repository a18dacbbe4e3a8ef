//! What a guest may write into its control registers and EFER, PAT and XCR0. Pure rules: a function takes the old
//! state and the new value and gives the state to set, or [`GeneralProtection`].
//!
//! SVM lets the processor check MOV to CRs itself and needs only [`efer_write`], [`pat_write`] and [`xcr0_write`];
//! VMX and the instruction emulator use all of it.

use monovisor_arch::Control;
use monovisor_arch::state::bits::*;

/// The write is refused: #GP(0) for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// CR4.CET.
pub const CR4_CET: u64 = 1 << 23;
/// CR4.PKS: protection keys for supervisor pages.
pub const CR4_PKS: u64 = 1 << 24;
/// CR4.UINTR: user interrupts.
pub const CR4_UINTR: u64 = 1 << 25;
/// EFER.FFXSR (AMD): FXSAVE leaves out XMM in 64-bit mode at CPL 0.
pub const EFER_FFXSR: u64 = 1 << 14;
/// EFER.TCE (AMD): translation cache extension.
pub const EFER_TCE: u64 = 1 << 15;

/// Bits that the guest's virtual processor has, as its CPUID says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// EFER bits that may be 1, LMA left out.
    pub efer: u64,
    /// CR4 bits that may be 1.
    pub cr4: u64,
    /// The host's processor would let others be 1.
    pub cr4_checked: bool,
    /// XCR0 bits that may be 1; 0 without XSAVE.
    pub xcr0: u64,
    /// INVPCID is there.
    pub invpcid: bool,
    /// RDTSCP is there.
    pub rdtscp: bool,
    /// RDPID is there.
    pub rdpid: bool,
    /// RDPRU is there.
    pub rdpru: bool,
    /// Bits of IA32_SPEC_CTRL that may be 1; 0 where there is no such MSR.
    pub spec_ctrl: u32,
    /// IA32_PRED_CMD is there.
    pub predictor_commands: bool,
    /// IA32_FLUSH_CMD is there.
    pub flush_command: bool,
}

impl Allowed {
    /// IA32_TSC_AUX is there.
    pub const fn tsc_aux(&self) -> bool {
        self.rdtscp || self.rdpid
    }
}

/// CR0 bits that exist (SDM vol. 3, 2.5). Writes to the other bits of the low half are ignored.
const CR0_DEFINED: u64 =
    CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;

/// WRMSR to EFER (SDM vol. 3, 2.2.1 and 10.8.5; APM vol. 2, 3.1.7): the value to set. LMA is the processor's own and keeps
/// its value; LME cannot change while paging is on.
pub const fn efer_write(old: &Control, new: u64, allowed: &Allowed) -> Result<u64, GeneralProtection> {
    let new = (new & !EFER_LMA) | (old.efer & EFER_LMA);
    if new & !(allowed.efer | EFER_LMA) != 0 {
        return Err(GeneralProtection);
    }
    if (new ^ old.efer) & EFER_LME != 0 && old.cr0 & CR0_PG != 0 {
        return Err(GeneralProtection);
    }
    Ok(new)
}

/// MOV to CR0 by code with CS.L `cs_long` (SDM vol. 3, 2.5 and 10.8.5; vol. 2, MOV to control registers): CR0 and EFER.LMA
/// to set. LMSW is this with PE never cleared and only the low four bits new; CLTS is this with TS clear.
pub const fn cr0_write(old: &Control, new: u64, cs_long: bool) -> Result<Control, GeneralProtection> {
    if new >> 32 != 0 {
        return Err(GeneralProtection);
    }
    let new = (new & CR0_DEFINED) | CR0_ET;
    if new & CR0_PG != 0 && new & CR0_PE == 0 || new & CR0_NW != 0 && new & CR0_CD == 0 {
        return Err(GeneralProtection);
    }
    if new & CR0_WP == 0 && old.cr4 & CR4_CET != 0 {
        return Err(GeneralProtection);
    }
    let mut efer = old.efer;
    if (new ^ old.cr0) & CR0_PG != 0 {
        if new & CR0_PG != 0 {
            if efer & EFER_LME != 0 {
                if old.cr4 & CR4_PAE == 0 || cs_long {
                    return Err(GeneralProtection);
                }
                efer |= EFER_LMA;
            }
        } else {
            // From 64-bit code, or with PCIDs on, paging cannot be switched off.
            if efer & EFER_LMA != 0 && cs_long || old.cr4 & CR4_PCIDE != 0 {
                return Err(GeneralProtection);
            }
            efer &= !EFER_LMA;
        }
    }
    Ok(Control { cr0: new, efer, ..*old })
}

/// MOV to CR4 (SDM vol. 3, 2.5; vol. 2, MOV to control registers): CR4 to set.
pub const fn cr4_write(old: &Control, new: u64, allowed: &Allowed) -> Result<u64, GeneralProtection> {
    if new & !allowed.cr4 != 0 {
        return Err(GeneralProtection);
    }
    let long = old.efer & EFER_LMA != 0;
    let changed = new ^ old.cr4;
    if long && (new & CR4_PAE == 0 || changed & CR4_LA57 != 0) {
        return Err(GeneralProtection);
    }
    // PCIDs are switched on in IA-32e mode only, and with PCID 0 in force (SDM vol. 3, 4.10.1).
    if changed & new & CR4_PCIDE != 0 && (!long || old.cr3 & 0xfff != 0) {
        return Err(GeneralProtection);
    }
    if new & CR4_CET != 0 && old.cr0 & CR0_WP == 0 {
        return Err(GeneralProtection);
    }
    Ok(new)
}

/// A write to CR4 that changes one of these bits drops every translation of the processor (SDM vol. 3, 4.10.4.1).
pub const CR4_FLUSHES: u64 =
    CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_LA57;

/// WRMSR to IA32_PAT (SDM vol. 3, 12.12.2): eight entries, each 0, 1, 4, 5, 6 or 7.
pub const fn pat_write(new: u64) -> Result<u64, GeneralProtection> {
    const LOW_BITS: u64 = 0x0101_0101_0101_0101;
    // No bit above 2 in any byte; where bit 1 is set, so is bit 2 (2 and 3 are reserved).
    if new & (LOW_BITS * 0xf8) != 0 || (new >> 1) & !(new >> 2) & LOW_BITS != 0 {
        return Err(GeneralProtection);
    }
    Ok(new)
}

/// XSETBV at privilege level `cpl` (SDM vol. 1, 13.3; vol. 2, XSETBV): the XCR0 to set.
pub const fn xcr0_write(cpl: u8, index: u32, new: u64, allowed: &Allowed) -> Result<u64, GeneralProtection> {
    if cpl != 0 || index != 0 || !xcr0_valid(new) || new & !allowed.xcr0 != 0 {
        return Err(GeneralProtection);
    }
    Ok(new)
}

/// A combination of state components that XCR0 can hold (SDM vol. 1, 13.3).
pub(crate) const fn xcr0_valid(value: u64) -> bool {
    const X87: u64 = 1;
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const BND: u64 = 3 << 3;
    const AVX512: u64 = 7 << 5;
    const AMX: u64 = 3 << 17;
    let bnd = value & BND;
    let avx512 = value & AVX512;
    let amx = value & AMX;
    value & X87 != 0
        && (value & AVX == 0 || value & SSE != 0)
        && (bnd == 0 || bnd == BND)
        && (avx512 == 0 || avx512 == AVX512 && value & AVX != 0)
        && (amx == 0 || amx == AMX)
}

/// `address` is canonical with 48 (or, with `la57`, 57) bits of linear address (SDM vol. 1, 3.3.7.1).
pub const fn canonical(address: u64, la57: bool) -> bool {
    let shift = if la57 { 64 - 57 } else { 64 - 48 };
    ((address << shift) as i64 >> shift) as u64 == address
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Allowed = Allowed {
        efer: EFER_SCE | EFER_LME | EFER_NXE,
        cr4: CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_LA57 | CR4_OSXSAVE | CR4_CET,
        cr4_checked: true,
        xcr0: 0xe7,
        invpcid: true,
        rdtscp: true,
        rdpid: true,
        rdpru: true,
        spec_ctrl: 0,
        predictor_commands: false,
        flush_command: false,
    };
    const LONG: Control = Control {
        cr0: CR0_PE | CR0_PG | CR0_ET | CR0_WP,
        cr2: 0,
        cr3: 0x1000,
        cr4: CR4_PAE,
        efer: EFER_LME | EFER_LMA,
    };
    const GP: GeneralProtection = GeneralProtection;

    #[test]
    fn efer() {
        let legacy = Control { efer: 0, ..LONG };
        assert_eq!(efer_write(&LONG, EFER_LME | EFER_NXE, &ALLOWED), Ok(EFER_LME | EFER_LMA | EFER_NXE));
        assert_eq!(efer_write(&LONG, EFER_NXE, &ALLOWED), Err(GP));
        assert_eq!(efer_write(&legacy, EFER_LME, &ALLOWED), Err(GP));
        let unpaged = Control { cr0: CR0_PE, ..legacy };
        assert_eq!(efer_write(&unpaged, EFER_LME | EFER_LMA, &ALLOWED), Ok(EFER_LME));
        assert_eq!(efer_write(&unpaged, EFER_SVME, &ALLOWED), Err(GP));
        assert_eq!(efer_write(&unpaged, 1 << 63, &ALLOWED), Err(GP));
    }

    #[test]
    fn cr0() {
        let set = |old: &Control, new, long| cr0_write(old, new, long).map(|c| (c.cr0, c.efer));
        let ready = Control { cr0: CR0_PE | CR0_ET, efer: EFER_LME, ..LONG };
        let paged = CR0_PE | CR0_PG | CR0_ET;
        assert_eq!(set(&ready, paged, false), Ok((paged, EFER_LME | EFER_LMA)));
        assert_eq!(set(&ready, paged, true), Err(GP));
        assert_eq!(set(&Control { cr4: 0, ..ready }, paged, false), Err(GP));
        assert_eq!(set(&Control { cr4: 0, efer: 0, ..ready }, paged, false), Ok((paged, 0)));
        assert_eq!(set(&ready, CR0_PG, false), Err(GP));
        assert_eq!(set(&ready, CR0_PE | CR0_NW, false), Err(GP));
        assert_eq!(set(&ready, CR0_PE | 1 << 32, false), Err(GP));
        // Bits that do not exist are ignored, ET is always 1.
        assert_eq!(set(&ready, CR0_PE | 1 << 7, false), Ok((CR0_PE | CR0_ET, EFER_LME)));
        // Out of IA-32e mode: from compatibility mode, without PCIDs.
        assert_eq!(set(&LONG, CR0_PE, true), Err(GP));
        assert_eq!(set(&LONG, CR0_PE, false), Ok((CR0_PE | CR0_ET, EFER_LME)));
        assert_eq!(set(&Control { cr4: CR4_PAE | CR4_PCIDE, ..LONG }, CR0_PE, false), Err(GP));
        assert_eq!(set(&Control { cr4: CR4_PAE | CR4_CET, ..LONG }, paged, true), Err(GP));
    }

    #[test]
    fn cr4() {
        assert_eq!(cr4_write(&LONG, CR4_PAE | CR4_PGE, &ALLOWED), Ok(CR4_PAE | CR4_PGE));
        assert_eq!(cr4_write(&LONG, CR4_PGE, &ALLOWED), Err(GP));
        assert_eq!(cr4_write(&LONG, CR4_PAE | CR4_VMXE, &ALLOWED), Err(GP));
        assert_eq!(cr4_write(&LONG, CR4_PAE | CR4_LA57, &ALLOWED), Err(GP));
        assert_eq!(cr4_write(&LONG, CR4_PAE | CR4_PCIDE, &ALLOWED), Ok(CR4_PAE | CR4_PCIDE));
        assert_eq!(cr4_write(&Control { cr3: 1, ..LONG }, CR4_PAE | CR4_PCIDE, &ALLOWED), Err(GP));
        // A PCID in force does no harm once they are on.
        let with = Control { cr3: 1, cr4: CR4_PAE | CR4_PCIDE, ..LONG };
        assert_eq!(
            cr4_write(&with, CR4_PAE | CR4_PCIDE | CR4_PGE, &ALLOWED),
            Ok(CR4_PAE | CR4_PCIDE | CR4_PGE)
        );
        assert_eq!(cr4_write(&Control { efer: 0, ..LONG }, CR4_PCIDE, &ALLOWED), Err(GP));
        assert_eq!(cr4_write(&Control { cr0: CR0_PE, ..LONG }, CR4_PAE | CR4_CET, &ALLOWED), Err(GP));
    }

    #[test]
    fn pat_and_xcr0() {
        assert_eq!(pat_write(0x0007_0406_0007_0406), Ok(0x0007_0406_0007_0406));
        for bad in [2, 3, 8, 0x80 << 56, 0x0200] {
            assert_eq!(pat_write(bad), Err(GP));
        }
        for good in [1, 3, 7, 0xe7] {
            assert_eq!(xcr0_write(0, 0, good, &ALLOWED), Ok(good));
        }
        for bad in [0, 2, 5, 0x27, 0xe3, 0x0f, 0x1f, 1 << 17 | 1, 1 << 9 | 1] {
            assert_eq!(xcr0_write(0, 0, bad, &ALLOWED), Err(GP), "{bad:#x}");
        }
        assert_eq!(xcr0_write(3, 0, 1, &ALLOWED), Err(GP));
        assert_eq!(xcr0_write(0, 1, 1, &ALLOWED), Err(GP));
    }

    #[test]
    fn canonical_addresses() {
        assert!(canonical(0x7fff_ffff_ffff, false) && canonical(0xffff_8000_0000_0000, false));
        assert!(!canonical(0x8000_0000_0000, false) && canonical(0x8000_0000_0000, true));
        assert!(!canonical(1 << 56, true) && canonical(!0 << 56, true));
    }
}

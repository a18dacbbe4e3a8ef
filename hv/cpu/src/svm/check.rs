//! The consistency checks of VMRUN (APM vol. 2, 15.5.1), done beforehand so that a refused entry has a reason in words:
//! the processor only says VMEXIT_INVALID.

use monovisor_arch::state::bits::*;

use super::vmcb::{Vmcb, intercept_2};
use crate::control::{CR4_CET, pat_write};
use crate::rules::first;

/// Bits of CR4 that exist (APM vol. 2, 3.1.3). VMXE and SMXE are Intel's.
const CR4_DEFINED: u64 = 0x0ff
    | 1 << 8
    | CR4_OSFXSR
    | 1 << 10
    | CR4_UMIP
    | CR4_LA57
    | CR4_FSGSBASE
    | CR4_PCIDE
    | CR4_OSXSAVE
    | CR4_SMEP
    | CR4_SMAP
    | CR4_PKE
    | CR4_CET;
/// Bits of EFER that exist (APM vol. 2, 3.1.7): SCE, LME, LMA, NXE, SVME, LMSLE, FFXSR, TCE, MCOMMIT, INTWB, UAIE, AIBRSE.
const EFER_DEFINED: u64 = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME | 0b11_0110_1110 << 12;
/// VMCB segment attributes: L and D.
const ATTRIBUTE_L: u16 = 1 << 9;
const ATTRIBUTE_D: u16 = 1 << 10;

/// Says which rule the guest state in `vmcb` breaks, if any, for a processor with `physical_bits` of address.
pub fn check(vmcb: &Vmcb, physical_bits: u8) -> Option<&'static str> {
    let save = &vmcb.save;
    let control = &vmcb.control;
    let beyond = |address: u64, low: u64| address & low != 0 || address >> physical_bits.min(52) != 0;
    let long = save.efer & EFER_LME != 0 && save.cr0 & CR0_PG != 0;
    first![
        (save.efer & EFER_SVME == 0, "EFER.SVME is clear"),
        (save.cr0 & CR0_CD == 0 && save.cr0 & CR0_NW != 0, "CR0.NW is set and CR0.CD clear"),
        (save.cr0 >> 32 != 0, "CR0 bits 63:32 are not zero"),
        (save.cr3 >> physical_bits.min(52) != 0 && save.efer & EFER_LMA != 0, "CR3 has reserved bits set"),
        (save.cr4 & !CR4_DEFINED != 0, "CR4 has reserved bits set"),
        (save.dr6 >> 32 != 0, "DR6 bits 63:32 are not zero"),
        (save.dr7 >> 32 != 0, "DR7 bits 63:32 are not zero"),
        (save.efer & !EFER_DEFINED != 0, "EFER has reserved bits set"),
        (long && save.cr4 & CR4_PAE == 0, "EFER.LME and CR0.PG are set and CR4.PAE clear"),
        (save.cr0 & CR0_PG != 0 && save.cr0 & CR0_PE == 0, "CR0.PG is set and CR0.PE clear"),
        (
            long && save.cr4 & CR4_PAE != 0
                && save.cs.attributes & (ATTRIBUTE_L | ATTRIBUTE_D) == ATTRIBUTE_L | ATTRIBUTE_D,
            "CS.L and CS.D are set in long mode",
        ),
        (save.cr4 & CR4_CET != 0 && save.cr0 & CR0_WP == 0, "CR4.CET is set and CR0.WP clear"),
        (control.intercepts_2 & intercept_2::VMRUN == 0, "VMRUN is not intercepted"),
        (beyond(control.iopm_base, 0xfff), "the I/O permission map lies beyond physical memory"),
        (beyond(control.msrpm_base, 0xfff), "the MSR permission map lies beyond physical memory"),
        (control.asid == 0, "the ASID is zero"),
        (beyond(control.nested_cr3, 0xfff), "nCR3 has reserved bits set"),
        (pat_write(save.pat).is_err(), "G_PAT holds a reserved memory type"),
        (!injection_valid(control.event_injection), "illegal event injection"),
    ]
}

/// EVENTINJ holds nothing, or an event that can be (APM vol. 2, 15.20): a known type, and for exceptions a vector that is one
/// and is not NMI's.
pub const fn injection_valid(event: u64) -> bool {
    let vector = event as u8;
    event & 1 << 31 == 0
        || match event >> 8 & 7 {
            0 | 2 | 4 => true,
            3 => vector < 32 && vector != 2,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Box<Vmcb> {
        let mut vmcb = Box::new(Vmcb::new());
        vmcb.save.efer = EFER_SVME;
        vmcb.save.cr0 = CR0_ET | CR0_CD | CR0_NW;
        vmcb.save.pat = 0x0007_0406_0007_0406;
        vmcb.control.asid = 1;
        vmcb.control.intercepts_2 = intercept_2::VMRUN;
        vmcb
    }

    fn reason(change: impl FnOnce(&mut Vmcb)) -> Option<&'static str> {
        let mut vmcb = good();
        change(&mut vmcb);
        check(&vmcb, 40)
    }

    #[test]
    fn good_states_pass() {
        assert_eq!(reason(|_| ()), None);
        assert_eq!(
            reason(|v| {
                v.save.efer |= EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
                v.save.cr0 = CR0_PE | CR0_PG;
                v.save.cr4 = CR4_PAE | CR4_PGE | CR4_OSXSAVE;
                v.save.cs.attributes = 0x29b;
                v.control.event_injection = 0x8000_0b0e;
            }),
            None
        );
    }

    #[test]
    fn each_rule_is_named() {
        assert_eq!(reason(|v| v.save.efer = 0), Some("EFER.SVME is clear"));
        assert_eq!(reason(|v| v.save.cr0 = CR0_NW), Some("CR0.NW is set and CR0.CD clear"));
        assert_eq!(reason(|v| v.save.cr0 |= 1 << 32), Some("CR0 bits 63:32 are not zero"));
        assert_eq!(reason(|v| v.save.cr4 = CR4_VMXE), Some("CR4 has reserved bits set"));
        assert_eq!(reason(|v| v.save.cr4 = 1 << 63), Some("CR4 has reserved bits set"));
        assert_eq!(reason(|v| v.save.dr6 = 1 << 32), Some("DR6 bits 63:32 are not zero"));
        assert_eq!(reason(|v| v.save.dr7 = 1 << 63), Some("DR7 bits 63:32 are not zero"));
        assert_eq!(reason(|v| v.save.efer |= 1 << 1), Some("EFER has reserved bits set"));
        assert_eq!(reason(|v| v.save.efer |= 1 << 63), Some("EFER has reserved bits set"));
        assert_eq!(reason(|v| v.save.cr0 = CR0_PG), Some("CR0.PG is set and CR0.PE clear"));
        let long = |v: &mut Vmcb| {
            v.save.efer |= EFER_LME | EFER_LMA;
            v.save.cr0 = CR0_PE | CR0_PG;
            v.save.cr4 = CR4_PAE;
        };
        assert_eq!(reason(long), None);
        assert_eq!(
            reason(|v| {
                long(v);
                v.save.cr4 = 0;
            }),
            Some("EFER.LME and CR0.PG are set and CR4.PAE clear")
        );
        assert_eq!(
            reason(|v| {
                long(v);
                v.save.cs.attributes = 0x69b;
            }),
            Some("CS.L and CS.D are set in long mode")
        );
        assert_eq!(
            reason(|v| {
                long(v);
                v.save.cr3 = 1 << 40;
            }),
            Some("CR3 has reserved bits set")
        );
        assert_eq!(reason(|v| v.save.cr4 = CR4_CET), Some("CR4.CET is set and CR0.WP clear"));
        assert_eq!(reason(|v| v.control.intercepts_2 = 0), Some("VMRUN is not intercepted"));
        assert_eq!(reason(|v| v.control.asid = 0), Some("the ASID is zero"));
        assert_eq!(reason(|v| v.control.nested_cr3 = 1), Some("nCR3 has reserved bits set"));
        assert_eq!(reason(|v| v.control.nested_cr3 = 1 << 40), Some("nCR3 has reserved bits set"));
        assert_eq!(reason(|v| v.save.pat = 2), Some("G_PAT holds a reserved memory type"));
        for bad in [0x8000_0100, 0x8000_0302, 0x8000_0320, 0x8000_0700] {
            assert_eq!(reason(|v| v.control.event_injection = bad), Some("illegal event injection"));
        }
    }
}

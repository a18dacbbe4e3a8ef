//! What this processor's SVM can do, and switching it on.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

use x86_64::registers::model_specific::Msr;

use super::SvmError;
use crate::paging::PageSize;

/// MSR numbers (APM vol. 2, appendix A).
mod msr {
    pub const EFER: u32 = 0xc000_0080;
    pub const VM_CR: u32 = 0xc001_0114;
    pub const VM_HSAVE_PA: u32 = 0xc001_0117;
}

/// EFER.SVME.
const EFER_SVME: u64 = 1 << 12;
/// VM_CR.SVMDIS: EFER.SVME cannot be set (APM vol. 2, 15.30.1).
const VM_CR_SVMDIS: u64 = 1 << 4;
/// VM_CR.LOCK: SVMDIS cannot be changed.
const VM_CR_LOCK: u64 = 1 << 3;

/// What CPUID says about SVM (CPUID 8000_000A) and the leaves around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The CPU has SVM (CPUID 8000_0001 ECX bit 2).
    pub svm: bool,
    /// Number of address-space identifiers, ASID 0 (the host) included (EBX).
    pub asids: u32,
    /// Nested paging (EDX bit 0).
    pub nested_paging: bool,
    /// SVM can be locked off by firmware (EDX bit 2).
    pub lock: bool,
    /// The VMCB tells the next instruction's RIP (EDX bit 3).
    pub next_rip: bool,
    /// Clean bits (EDX bit 5).
    pub clean_bits: bool,
    /// TLB entries of one ASID can be flushed (EDX bit 6).
    pub flush_by_asid: bool,
    /// Decode assists: instruction bytes and the segment of OUTS (EDX bit 7).
    pub decode_assists: bool,
    /// AVIC, and AVIC for guests in x2APIC mode (EDX bits 13 and 18).
    pub x2avic: bool,
    /// Virtual NMIs (EDX bit 25).
    pub virtual_nmi: bool,
    /// RDTSCP and with it the MSR TSC_AUX (CPUID 8000_0001 EDX bit 27).
    pub tsc_aux: bool,
    /// INVPCID, and so an intercept for it (CPUID 7 EBX bit 10).
    pub invpcid: bool,
    /// It is QEMU's TCG (CPUID 4000_0000), which keeps an interrupt that was injected to deliver it once more: when one of its
    /// threads asks another to look up before the guest has left by itself. An exit right behind the injection, before the
    /// guest's first instruction, makes it forget.
    pub injects_twice: bool,
    /// Bits of a physical address (CPUID 8000_0008 EAX bits 7:0).
    pub physical_bits: u8,
    /// Largest page (CPUID 8000_0001 EDX bit 26).
    pub largest_page: PageSize,
}

impl Features {
    /// Asks this processor.
    pub fn read() -> Self {
        let highest = __cpuid(0x8000_0000).eax;
        let leaf = |number: u32| (highest >= number).then(|| __cpuid(number));
        let (extended_ecx, extended_edx) = leaf(0x8000_0001).map_or((0, 0), |leaf| (leaf.ecx, leaf.edx));
        let physical = leaf(0x8000_0008).map_or(36, |leaf| leaf.eax as u8);
        let (asids, features) = leaf(0x8000_000a).map_or((0, 0), |leaf| (leaf.ebx, leaf.edx));
        let invpcid = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & 1 << 10 != 0;
        let injects_twice = is_tcg();
        Self { invpcid, injects_twice, ..Self::decode(extended_ecx, extended_edx, physical, asids, features) }
    }

    const fn decode(
        extended_ecx: u32,
        extended_edx: u32,
        physical_bits: u8,
        asids: u32,
        features: u32,
    ) -> Self {
        const fn bit(value: u32, bit: u32) -> bool {
            value & 1 << bit != 0
        }
        Self {
            svm: bit(extended_ecx, 2),
            asids,
            nested_paging: bit(features, 0),
            lock: bit(features, 2),
            next_rip: bit(features, 3),
            clean_bits: bit(features, 5),
            flush_by_asid: bit(features, 6),
            decode_assists: bit(features, 7),
            x2avic: bit(features, 13) && bit(features, 18),
            virtual_nmi: bit(features, 25),
            tsc_aux: bit(extended_edx, 27),
            invpcid: false,
            injects_twice: false,
            physical_bits,
            largest_page: if bit(extended_edx, 26) { PageSize::Size1G } else { PageSize::Size2M },
        }
    }
}

/// The processor is QEMU's TCG, which says so where hypervisors do.
fn is_tcg() -> bool {
    const HYPERVISOR: u32 = 1 << 31;
    if __cpuid(1).ecx & HYPERVISOR == 0 {
        return false;
    }
    let leaf = __cpuid(0x4000_0000);
    [leaf.ebx, leaf.ecx, leaf.edx]
        == [u32::from_le_bytes(*b"TCGT"), u32::from_le_bytes(*b"CGTC"), u32::from_le_bytes(*b"GTCG")]
}

/// Switches SVM on for this processor, with `host_save` as its host save area (APM vol. 2, 15.4 and 15.30.4).
pub fn enable(features: &Features, host_save: u64) -> Result<(), SvmError> {
    if !features.svm {
        return Err(SvmError::NotThere);
    }
    if !features.nested_paging {
        return Err(SvmError::NoNestedPaging);
    }
    // ASID 0 is the host's.
    if features.asids < 2 {
        return Err(SvmError::NoAsids);
    }
    // SAFETY: VM_CR exists on every CPU with SVM; SVMDIS may be cleared while it is not locked (APM vol. 2, 15.30.1).
    unsafe {
        let mut control = Msr::new(msr::VM_CR);
        let value = control.read();
        if value & VM_CR_SVMDIS != 0 {
            if value & VM_CR_LOCK != 0 {
                return Err(SvmError::LockedOff);
            }
            control.write(value & !VM_CR_SVMDIS);
            if control.read() & VM_CR_SVMDIS != 0 {
                return Err(SvmError::SwitchedOff);
            }
        }
    }
    // SAFETY: SVM is there and not disabled, so EFER.SVME may be set; it changes nothing until VMRUN. The save area is
    // a page that only the CPU touches.
    unsafe {
        let mut efer = Msr::new(msr::EFER);
        let value = efer.read();
        efer.write(value | EFER_SVME);
        Msr::new(msr::VM_HSAVE_PA).write(host_save);
    }
    Ok(())
}

/// Switches SVM off for this processor, so that whatever is booted next finds it as after power-up.
pub fn disable() {
    // SAFETY: no guest runs on this processor (this code does). STGI first: after SVME is clear GIF could not be set
    // any more (APM vol. 2, 15.4).
    unsafe {
        asm!("stgi", options(nostack, nomem));
        Msr::new(msr::VM_HSAVE_PA).write(0);
        let mut efer = Msr::new(msr::EFER);
        let value = efer.read();
        efer.write(value & !EFER_SVME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_where_the_manual_has_them() {
        // QEMU 7.2 TCG, -cpu max.
        let tcg = Features::decode(1 << 2, 1 << 27 | 1 << 26, 40, 16, 0x1001_0001);
        assert!(tcg.svm && tcg.nested_paging && tcg.tsc_aux);
        assert!(
            !tcg.next_rip && !tcg.clean_bits && !tcg.flush_by_asid && !tcg.decode_assists && !tcg.virtual_nmi
        );
        assert_eq!((tcg.asids, tcg.largest_page), (16, PageSize::Size1G));
        // Zen 3.
        let zen = Features::decode(1 << 2, 1 << 27 | 1 << 26, 48, 0x8000, 0x1ebf_bcff);
        assert!(zen.lock && zen.next_rip && zen.clean_bits && zen.flush_by_asid && zen.decode_assists);
        // AVIC alone is for guests in xAPIC mode.
        let avic = |features| Features::decode(1 << 2, 0, 48, 0x8000, features).x2avic;
        assert!(avic(1 << 18 | 1 << 13) && !avic(1 << 13) && !avic(1 << 18));
        assert!(!Features::decode(0, 0, 36, 0, 0).svm);
    }
}

//! Can this CPU run guests? If not: what is missing, in words that the operator of a rig understands.
//!
//! The decisions are functions of register values; [`check`] reads the registers.

use core::arch::x86_64::__cpuid;

use heapless::Vec;

use crate::vmx::{Capabilities, Facts};

/// Most lacks that are kept: a CPU that misses more than this many things is told well enough by the first ones.
const LACKS: usize = 16;

/// What is missing, one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacks(Vec<&'static str, LACKS>);

impl Lacks {
    /// Adds a line; those beyond the capacity are dropped.
    pub(crate) fn push(&mut self, line: &'static str) {
        // A full list has said enough.
        let _ = self.0.push(line);
    }

    /// The lines.
    pub fn as_slice(&self) -> &[&'static str] {
        &self.0
    }
}

/// The virtualisation extension to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel VT-x.
    Vmx,
    /// AMD-V.
    Svm,
}

/// What CPUID says about virtualisation.
#[derive(Clone, Copy, Debug, Default)]
struct Identity {
    /// Vendor string: CPUID.00H EBX, EDX, ECX.
    vendor: [u8; 12],
    /// CPUID.01H:ECX bit 5.
    vmx: bool,
    /// CPUID.8000_0001H:ECX bit 2.
    svm: bool,
    /// CPUID.8000_000AH:EDX.
    svm_features: u32,
}

impl Identity {
    fn read() -> Self {
        let leaf = __cpuid(0);
        let mut vendor = [0; 12];
        for (target, register) in vendor.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
            target.copy_from_slice(&register.to_le_bytes());
        }
        let extended = __cpuid(0x8000_0000).eax;
        let svm = extended >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & 1 << 2 != 0;
        Self {
            vendor,
            vmx: leaf.eax >= 1 && __cpuid(1).ecx & 1 << 5 != 0,
            svm,
            svm_features: if svm && extended >= 0x8000_000a { __cpuid(0x8000_000a).edx } else { 0 },
        }
    }

    /// Which extension there is.
    fn extension(&self) -> Result<Vendor, &'static str> {
        match (self.vmx, self.svm, &self.vendor) {
            (true, ..) => Ok(Vendor::Vmx),
            (_, true, _) => Ok(Vendor::Svm),
            (_, _, b"GenuineIntel") => Err(
                "no VT-x: this Intel CPU has none, or the firmware hides it (enable it in the BIOS set-up)",
            ),
            (_, _, b"AuthenticAMD" | b"HygonGenuine") => {
                Err("no AMD-V: this CPU has none, or the firmware hides it (enable SVM in the BIOS set-up)")
            }
            _ => Err("this CPU has neither Intel VT-x nor AMD-V"),
        }
    }
}

/// VM_CR: SVM is disabled (APM vol. 2, 15.30.1).
const VM_CR_SVMDIS: u64 = 1 << 4;
/// VM_CR: SVMDIS cannot be written.
const VM_CR_LOCK: u64 = 1 << 3;
/// CPUID.8000_000AH:EDX: nested paging.
const SVM_NESTED_PAGING: u32 = 1;

/// What SVM lacks (APM vol. 2, 15.4).
fn check_svm(vm_cr: u64, features: u32, lacks: &mut Lacks) {
    if vm_cr & VM_CR_SVMDIS != 0 && vm_cr & VM_CR_LOCK != 0 {
        lacks.push("AMD-V is switched off and locked by the firmware: enable SVM in the BIOS set-up");
    }
    if features & SVM_NESTED_PAGING == 0 {
        lacks.push("AMD-V has no nested paging (a first-generation AMD-V CPU)");
    }
}

/// Says which extension to use, or everything that keeps this CPU from running guests.
///
/// Nothing is switched on: `Root::enable` and the SVM counterpart do that.
///
/// # Safety
/// At CPL 0: it reads MSRs.
pub unsafe fn check() -> Result<Vendor, Lacks> {
    let identity = Identity::read();
    let mut lacks = Lacks::default();
    let vendor = match identity.extension() {
        Ok(vendor) => vendor,
        Err(line) => {
            lacks.push(line);
            return Err(lacks);
        }
    };
    match vendor {
        Vendor::Vmx => {
            // SAFETY: CPL 0 by the caller, VMX by CPUID.
            let facts = unsafe { Facts::read() };
            Capabilities::evaluate(&facts, &mut lacks);
        }
        Vendor::Svm => {
            const VM_CR: u32 = 0xc001_0114;
            // SAFETY: CPL 0 by the caller; every CPU with SVM has VM_CR.
            let vm_cr = unsafe { crate::vmx::rdmsr(VM_CR) };
            check_svm(vm_cr, identity.svm_features, &mut lacks);
        }
    }
    if lacks.as_slice().is_empty() { Ok(vendor) } else { Err(lacks) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(vendor: &[u8; 12], vmx: bool, svm: bool) -> Identity {
        Identity { vendor: *vendor, vmx, svm, svm_features: SVM_NESTED_PAGING }
    }

    #[test]
    fn the_extension_decides_and_the_vendor_only_words_the_lack() {
        assert_eq!(cpu(b"GenuineIntel", true, false).extension(), Ok(Vendor::Vmx));
        assert_eq!(cpu(b"  Shanghai  ", true, false).extension(), Ok(Vendor::Vmx));
        assert_eq!(cpu(b"AuthenticAMD", false, true).extension(), Ok(Vendor::Svm));
        assert!(cpu(b"GenuineIntel", false, false).extension().unwrap_err().contains("VT-x"));
        assert!(cpu(b"HygonGenuine", false, false).extension().unwrap_err().contains("AMD-V"));
        assert!(cpu(b"CyrixInstead", false, false).extension().unwrap_err().contains("neither"));
    }

    #[test]
    fn svm_lacks() {
        for (vm_cr, features, expected) in [
            (0, SVM_NESTED_PAGING, 0),
            (VM_CR_LOCK, SVM_NESTED_PAGING, 0),
            (VM_CR_SVMDIS, SVM_NESTED_PAGING, 0),
            (VM_CR_SVMDIS | VM_CR_LOCK, SVM_NESTED_PAGING, 1),
            (VM_CR_SVMDIS | VM_CR_LOCK, 0, 2),
        ] {
            let mut lacks = Lacks::default();
            check_svm(vm_cr, features, &mut lacks);
            assert_eq!(lacks.as_slice().len(), expected, "VM_CR {vm_cr:#x}");
        }
    }

    #[test]
    fn a_full_list_keeps_its_first_lines() {
        let mut lacks = Lacks::default();
        lacks.push("first");
        for _ in 0..2 * LACKS {
            lacks.push("more");
        }
        assert_eq!(lacks.as_slice().len(), LACKS);
        assert_eq!(lacks.as_slice()[0], "first");
    }
}

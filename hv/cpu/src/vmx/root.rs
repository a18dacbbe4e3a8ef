//! Switching VMX on and off on one physical CPU (SDM vol. 3, 24.6 to 24.8).

use core::arch::x86_64::__cpuid;
use core::marker::PhantomData;

use x86_64::registers::control::{Cr0, Cr4};

use super::capability::{
    Capabilities, FEATURE_CONTROL_LOCK, FEATURE_CONTROL_VMX, Facts, IA32_FEATURE_CONTROL,
};
use super::instruction;
use crate::preflight::Lacks;

/// CPUID.01H:ECX: VMX.
const CPUID_VMX: u32 = 1 << 5;
/// CR4.VMXE.
const CR4_VMXE: u64 = 1 << 13;

/// A 4 KiB page that the CPU reads or writes by its physical address: VMXON region, VMCS, bitmaps, virtual-APIC page.
#[repr(C, align(4096))]
pub struct Page(pub(super) [u8; 4096]);

impl Page {
    /// All zero. `const`, so that pages can be zeroed statics.
    pub const fn new() -> Self {
        Self([0; 4096])
    }

    /// Its physical address: the host maps all RAM identity.
    pub(super) fn address(&self) -> u64 {
        core::ptr::from_ref(self) as u64
    }

    /// Writes the VMCS revision identifier, bit 31 clear (SDM vol. 3, 25.2).
    pub(super) fn set_revision(&mut self, revision: u32) {
        if let Some(word) = self.0.first_chunk_mut::<4>() {
            *word = (revision & 0x7fff_ffff).to_le_bytes();
        }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

/// Why VMX could not be switched on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnableError {
    /// CPUID has no VMX.
    NoVmx,
    /// What preflight says is missing.
    Lacks(Lacks),
    /// A region of memory lies above 4 GiB, which this CPU does not take.
    RegionTooHigh,
    /// VMXON, or an instruction right after it, failed, in the manual's words.
    Failed(&'static str),
}

impl core::fmt::Display for EnableError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoVmx => f.write_str("this CPU has no VMX"),
            Self::Lacks(lacks) => {
                f.write_str(lacks.as_slice().first().copied().unwrap_or("VMX lacks something"))
            }
            Self::RegionTooHigh => f.write_str("this CPU wants its VMX structures below 4 GiB"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

/// This CPU is in VMX root operation. Not `Send`: it is a statement about the CPU that made it.
pub struct Root {
    pub(super) capabilities: Capabilities,
    this_cpu: PhantomData<*mut ()>,
}

impl Root {
    /// Puts this CPU in VMX root operation, with `region` as its VMXON region for as long as that lasts.
    ///
    /// # Safety
    /// At CPL 0, in 64-bit mode, with RAM mapped identity and write-back; this CPU is not in VMX operation.
    pub unsafe fn enable(region: &'static mut Page) -> Result<Self, EnableError> {
        if __cpuid(1).ecx & CPUID_VMX == 0 {
            return Err(EnableError::NoVmx);
        }
        // SAFETY: CPL 0 by the caller, VMX by CPUID.
        let facts = unsafe { Facts::read() };
        let mut lacks = Lacks::default();
        let capabilities = Capabilities::evaluate(&facts, &mut lacks);
        if !lacks.as_slice().is_empty() {
            return Err(EnableError::Lacks(lacks));
        }
        if capabilities.regions_32_bit && region.address() >> 32 != 0 {
            return Err(EnableError::RegionTooHigh);
        }
        region.set_revision(capabilities.revision);
        // SAFETY: CPL 0 by the caller. The feature control register is written only while it is not locked, with the bit
        // that `evaluate` insists on where it is. CR0 and CR4 get the bits that VMX operation asks for and keep all that
        // may stay; PE and PG, which the host needs, are among the former. The region is this CPU's from now on.
        let entered = unsafe {
            if facts.feature_control & FEATURE_CONTROL_LOCK == 0 {
                let open = facts.feature_control | FEATURE_CONTROL_VMX | FEATURE_CONTROL_LOCK;
                instruction::wrmsr(IA32_FEATURE_CONTROL, open);
            }
            Cr0::write_raw((Cr0::read_raw() | facts.cr0_fixed0) & facts.cr0_fixed1);
            Cr4::write_raw((Cr4::read_raw() | CR4_VMXE | facts.cr4_fixed0) & facts.cr4_fixed1);
            instruction::vmxon(region.address())
        };
        if let Err(error) = entered {
            // SAFETY: VMX operation was not entered, so VMXE may be cleared.
            unsafe { Cr4::write_raw(Cr4::read_raw() & !CR4_VMXE) };
            return Err(EnableError::Failed(error.reason()));
        }
        let root = Self { capabilities, this_cpu: PhantomData };
        // What an earlier owner of VMX left in the TLBs (SDM vol. 3, 29.4.3.3).
        let mut flushed = Ok(());
        if root.capabilities.invept_all {
            // SAFETY: in VMX root operation; the CPU has INVEPT and this type.
            flushed = unsafe { instruction::invept(2, 0) };
        }
        if root.capabilities.vpid() && root.capabilities.invvpid_all {
            // SAFETY: as before; the CPU has INVVPID and this type.
            flushed = flushed.and(unsafe { instruction::invvpid(2, 0) });
        }
        match flushed {
            Ok(()) => Ok(root),
            Err(error) => {
                root.disable();
                Err(EnableError::Failed(error.reason()))
            }
        }
    }

    /// What this CPU's VMX can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Leaves VMX operation: before power-off, reset, INIT or handing the CPU to other software.
    pub fn disable(self) {
        // SAFETY: `self` says that this CPU is in VMX root operation; a vCPU would own `self`, so every VMCS has been
        // cleared. If VMXOFF fails (SMM transfer monitor), VMXE must stay set, so it is cleared only after success.
        unsafe {
            if instruction::vmxoff().is_ok() {
                Cr4::write_raw(Cr4::read_raw() & !CR4_VMXE);
            }
        }
    }
}

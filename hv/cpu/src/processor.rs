//! How a virtual processor is made, alike for both vendors.

use monovisor_arch::Vcpu;

use crate::control::Allowed;
use crate::paging::{Format, PageSize};
use crate::preflight::Lacks;
use crate::svm::{Svm, SvmError, SvmMemory};
use crate::vmx::{self, EnableError, Vmx};

/// What a virtual processor is made for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Root of the second-level page tables ([`crate::paging::Tables::root`]).
    pub root: u64,
    /// Control bits and instructions that the guest's CPU model has.
    pub allowed: Allowed,
    /// Let the processor take posted interrupts without an exit, where it can (VMX).
    pub posted: bool,
    /// Have the processor deliver interrupts by AVIC, where it can (SVM).
    pub avic: bool,
}

/// Why a processor cannot run guests, in plain words.
#[derive(Debug)]
pub enum ProcessorError {
    /// One with SVM.
    Svm(SvmError),
    /// One with VMX.
    Vmx(EnableError),
}

impl core::fmt::Display for ProcessorError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Svm(error) => error.fmt(f),
            Self::Vmx(error) => error.fmt(f),
        }
    }
}

/// A virtual processor as the machine makes and uses it, by static dispatch.
///
/// A value is pinned to the physical processor that it was made on: it is used, reset and given up there only. There is
/// one of them for each physical processor.
pub trait Processor: Vcpu + Sized {
    /// All memory that one virtual processor needs besides the page tables: zeroed, aligned by its type, at an address
    /// that is its physical address. All zeros is a value of the type.
    type Memory: 'static;

    /// Entry format of the second-level page tables.
    const FORMAT: Format;

    /// Largest page that second-level tables may use on this processor.
    fn largest_page() -> PageSize;

    /// The guest may run INVPCID where CPUID has it, and RDTSCP and RDPID likewise.
    fn invpcid_and_rdtscp() -> (bool, bool);

    /// Switches virtualisation on for the physical processor this runs on and makes a virtual processor in its state
    /// after power-up.
    ///
    /// # Safety
    /// - At CPL 0, in 64-bit mode, interrupts off; RAM is mapped identity and write-back. GDT, IDT, TSS, FS, GS and CR3 of
    ///   this processor are final, and its IDT has an NMI handler that returns.
    /// - Nothing on this processor uses DR0 to DR3, DR6, the SYSCALL and SYSENTER MSRs, KERNEL_GS_BASE or TSC_AUX, nor CR2
    ///   but in the handler of a fault that is fatal anyway.
    /// - The pages that the tables at `settings.root` map, now and later, are RAM that no host code takes a Rust
    ///   reference to, and devices that are the guest's alone.
    unsafe fn new(memory: &'static mut Self::Memory, settings: &Settings) -> Result<Self, ProcessorError>;

    /// Gives the virtual processor up and switches virtualisation off for the physical processor, before a reset or
    /// power-off.
    fn disable(self);
}

impl Processor for Svm {
    type Memory = SvmMemory;

    const FORMAT: Format = Format::Npt;

    fn largest_page() -> PageSize {
        crate::svm::Features::read().largest_page
    }

    fn invpcid_and_rdtscp() -> (bool, bool) {
        // SVM intercepts them only on request.
        (true, true)
    }

    unsafe fn new(memory: &'static mut SvmMemory, settings: &Settings) -> Result<Self, ProcessorError> {
        // SAFETY: the caller's promise is the same.
        unsafe { Self::new(memory, settings.root, &settings.allowed, settings.avic) }
            .map_err(ProcessorError::Svm)
    }

    fn disable(self) {
        self.give_up();
    }
}

/// Memory of one virtual processor on VMX, the VMXON region included.
#[repr(C)]
pub struct VmxMemory {
    region: vmx::Page,
    vcpu: vmx::Memory,
}

impl VmxMemory {
    /// Zeroed, for a `static`.
    pub const fn new() -> Self {
        Self { region: vmx::Page::new(), vcpu: vmx::Memory::new() }
    }
}

impl Default for VmxMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl Processor for Vmx {
    type Memory = VmxMemory;

    const FORMAT: Format = Format::Ept;

    fn largest_page() -> PageSize {
        // SAFETY: the machine asks at CPL 0, on a processor that preflight has found VMX on.
        let facts = unsafe { vmx::Facts::read() };
        let capabilities = vmx::Capabilities::evaluate(&facts, &mut Lacks::default());
        match (capabilities.ept_1g, capabilities.ept_2m) {
            (true, _) => PageSize::Size1G,
            (_, true) => PageSize::Size2M,
            _ => PageSize::Size4K,
        }
    }

    fn invpcid_and_rdtscp() -> (bool, bool) {
        /// Secondary controls, allowed to be 1 in the upper half of their MSR.
        const RDTSCP: u64 = 1 << (32 + 3);
        const INVPCID: u64 = 1 << (32 + 12);
        // SAFETY: as in `largest_page`.
        let facts = unsafe { vmx::Facts::read() };
        (facts.secondary & INVPCID != 0, facts.secondary & RDTSCP != 0)
    }

    unsafe fn new(memory: &'static mut VmxMemory, settings: &Settings) -> Result<Self, ProcessorError> {
        /// One virtual processor on a physical one: any tag but 0 will do.
        const VPID: u16 = 1;
        let Settings { root: ept_root, allowed, posted, .. } = *settings;
        let settings = vmx::Settings { ept_root, vpid: VPID, allowed, posted };
        // SAFETY: the caller's promise; there is one value for a processor, so VMX is off.
        let root = unsafe { vmx::Root::enable(&mut memory.region) }.map_err(ProcessorError::Vmx)?;
        // SAFETY: the caller's promise.
        unsafe { Self::new(root, &mut memory.vcpu, &settings) }.map_err(|(root, error)| {
            root.disable();
            ProcessorError::Vmx(error)
        })
    }

    fn disable(self) {
        self.give_up().disable();
    }
}

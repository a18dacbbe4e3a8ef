//! The physical processor: what it has, and the control registers that the host runs with.

use core::arch::x86_64::{__cpuid, __cpuid_count};

use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::xcontrol::{XCr0, XCr0Flags};

/// Features that the host set-up depends on (SDM vol. 2, CPUID; APM vol. 3, appendix E).
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// 1 GiB pages.
    pub pages_1g: bool,
    /// No-execute pages.
    pub no_execute: bool,
    /// Width of a physical address in bits.
    pub physical_bits: u8,
    /// Supervisor-mode execution prevention.
    pub smep: bool,
    /// Supervisor-mode access prevention.
    pub smap: bool,
    /// XSAVE.
    pub xsave: bool,
    /// AVX.
    pub avx: bool,
    /// A local APIC.
    pub apic: bool,
    /// x2APIC.
    pub x2apic: bool,
    /// The local APIC timer can wait for a TSC value.
    pub tsc_deadline: bool,
    /// The TSC runs at one rate in all power states.
    pub invariant_tsc: bool,
    /// Machine-check exceptions.
    pub machine_check: bool,
    /// Initial local APIC identifier.
    pub apic_id: u32,
}

impl Features {
    /// Asks the processor that runs this.
    pub fn detect() -> Self {
        let basic = __cpuid(1);
        let max = __cpuid(0).eax;
        let structured = if max >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
        let max_extended = __cpuid(0x8000_0000).eax;
        let extended = if max_extended >= 0x8000_0001 { __cpuid(0x8000_0001).edx } else { 0 };
        let power = if max_extended >= 0x8000_0007 { __cpuid(0x8000_0007).edx } else { 0 };
        // 36 bits where the leaf is missing (SDM vol. 3, 4.1.4).
        let bits = if max_extended >= 0x8000_0008 { __cpuid(0x8000_0008).eax as u8 } else { 36 };
        let has = |word: u32, bit: u32| word >> bit & 1 != 0;
        Self {
            pages_1g: has(extended, 26),
            no_execute: has(extended, 20),
            physical_bits: bits.clamp(32, 52),
            smep: has(structured, 7),
            smap: has(structured, 20),
            xsave: has(basic.ecx, 26),
            avx: has(basic.ecx, 26) && has(basic.ecx, 28),
            apic: has(basic.edx, 9),
            x2apic: has(basic.ecx, 21),
            tsc_deadline: has(basic.ecx, 24),
            invariant_tsc: has(power, 8),
            machine_check: has(basic.edx, 7),
            apic_id: basic.ebx >> 24,
        }
    }
}

/// Sets the control registers of the processor that runs this, for the host.
///
/// XCR0 gets every user component that the processor has and that needs no further set-up (x87, SSE, AVX, AVX-512,
/// protection keys), so that a guest's state can be saved whichever of them it uses.
pub(crate) fn init(features: &Features) {
    let mut cr4 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
        | Cr4Flags::OSFXSR
        | Cr4Flags::OSXMMEXCPT_ENABLE
        | Cr4Flags::DEBUGGING_EXTENSIONS;
    cr4.set(Cr4Flags::MACHINE_CHECK_EXCEPTION, features.machine_check);
    cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, features.smep);
    cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, features.smap);
    cr4.set(Cr4Flags::OSXSAVE, features.xsave);
    let cr0 = Cr0Flags::PROTECTED_MODE_ENABLE
        | Cr0Flags::MONITOR_COPROCESSOR
        | Cr0Flags::EXTENSION_TYPE
        | Cr0Flags::NUMERIC_ERROR
        | Cr0Flags::WRITE_PROTECT
        | Cr0Flags::PAGING;
    // SAFETY: long mode stays on (PE, PG, PAE); every page is a supervisor page, so SMEP and SMAP change nothing for
    // the host's own accesses; each other bit is set only where CPUID has it.
    unsafe {
        Cr4::write_raw(cr4.bits());
        Cr0::write_raw(cr0.bits());
    }
    if features.xsave {
        /// AVX-512 (three bits) and protection keys; MPX, CET and AMX need more than a bit here.
        const MORE: u64 = 0xe0 | 1 << 9;
        let leaf = __cpuid_count(0xd, 0);
        let supported = u64::from(leaf.edx) << 32 | u64::from(leaf.eax);
        let mut value = 3 | supported & XCr0Flags::AVX.bits();
        if value & XCr0Flags::AVX.bits() != 0 {
            value |= supported & MORE;
        }
        // SAFETY: OSXSAVE is on; only components that CPUID lists, AVX-512 only with AVX and all three bits at once.
        unsafe { XCr0::write_raw(value) };
    }
    // SAFETY: x87 and SSE are on (CR0, CR4 above); the values are those after FNINIT and power-up.
    unsafe { core::arch::asm!("fninit", "ldmxcsr [{}]", in(reg) &0x1f80u32, options(nostack)) };
    crate::mem::set_avx(features.avx);
}

/// Processors that a guest can have, and so the ones the host sets up at most.
pub const MAX_CPUS: usize = 8;

/// Stops this processor for good. NMIs and SMIs are still taken.
pub fn stop() -> ! {
    loop {
        // SAFETY: with interrupts off, HLT only waits.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

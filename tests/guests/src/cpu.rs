//! Single instructions as functions.

use core::arch::asm;

/// A value that fits the data operand of IN and OUT.
pub trait PortValue: Copy {
    /// IN.
    fn read(port: u16) -> Self;
    /// OUT.
    fn write(self, port: u16);
}

macro_rules! port_value {
    ($type:ty, $register:tt) => {
        impl PortValue for $type {
            fn read(port: u16) -> Self {
                let value: $type;
                // SAFETY: port access touches no memory of ours.
                unsafe {
                    asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value, options(nomem, nostack));
                }
                value
            }

            fn write(self, port: u16) {
                // SAFETY: port access touches no memory of ours.
                unsafe {
                    asm!(concat!("out dx, ", $register), in("dx") port, in($register) self, options(nomem, nostack));
                }
            }
        }
    };
}
port_value!(u8, "al");
port_value!(u16, "ax");
port_value!(u32, "eax");

/// Reads a port.
pub fn inp<T: PortValue>(port: u16) -> T {
    T::read(port)
}

/// Writes a port.
pub fn outp<T: PortValue>(port: u16, value: T) {
    value.write(port);
}

/// CPUID: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// RDTSC, after all that came before it.
pub fn tsc() -> u64 {
    // SAFETY: reads two registers.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        core::arch::x86_64::_rdtsc()
    }
}

/// RDMSR of an MSR that is there.
pub fn rdmsr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading an MSR changes no memory of ours.
    unsafe { asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR with a value that is allowed.
///
/// # Safety
/// The MSR must not change what Rust code relies on: mappings, stacks, segments.
pub unsafe fn wrmsr(index: u32, value: u64) {
    // SAFETY: by the contract of this function.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    }
}

/// Reads a control register.
#[macro_export]
macro_rules! read_cr {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading a control register changes nothing.
        unsafe { core::arch::asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

/// Sets the interrupt flag.
pub fn enable_interrupts() {
    // SAFETY: handlers run on a stack of their own and touch only atomics.
    unsafe { asm!("sti", options(nomem, nostack)) };
}

/// Clears the interrupt flag.
pub fn disable_interrupts() {
    // SAFETY: only holds interrupts back.
    unsafe { asm!("cli", options(nomem, nostack)) };
}

/// Takes the interrupts that are pending.
pub fn window() {
    // SAFETY: as for `enable_interrupts`. The first NOP is in the shadow of STI.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nomem, nostack)) };
}

/// Waits for an interrupt with interrupts on, then turns them off again. None is lost between STI and HLT.
pub fn wait() {
    // SAFETY: handlers run on a stack of their own and touch only atomics.
    unsafe { asm!("sti", "hlt", "cli", options(nomem, nostack)) };
}

/// True when a hypervisor that is not QEMU's own TCG says that it is there.
pub fn virtualised() -> bool {
    cpuid(1, 0)[2] >> 31 == 1 && cpuid(0x4000_0000, 0)[1] != u32::from_le_bytes(*b"TCGT")
}

/// True on a machine under an AMD hypervisor interface or CPU.
pub fn is_amd() -> bool {
    cpuid(0, 0)[1] == u32::from_le_bytes(*b"Auth")
}

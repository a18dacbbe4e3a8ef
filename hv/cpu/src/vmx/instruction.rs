//! The VMX instructions, and the few privileged ones that go with them.
//!
//! Thin: each function is one instruction and its result. All need CPL 0; those of VMX need VMX root operation, else they
//! raise #UD, which the host takes as a fault of its own.

use core::arch::asm;

use super::error::VmxError;
use super::field::Field;

/// Reads an MSR.
///
/// # Safety
/// At CPL 0, and the MSR exists.
pub unsafe fn rdmsr(index: u32) -> u64 {
    let (high, low): (u32, u32);
    // SAFETY: the caller says that the MSR exists; reading one has no effect on memory.
    unsafe {
        asm!("rdmsr", in("ecx") index, out("edx") high, out("eax") low, options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR.
///
/// # Safety
/// At CPL 0; the MSR exists, takes this value, and the value changes nothing that the host relies on.
pub unsafe fn wrmsr(index: u32, value: u64) {
    // SAFETY: the caller's promise; `nomem` is left out since an MSR may change how memory is seen.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("edx") (value >> 32) as u32, in("eax") value as u32,
            options(nostack, preserves_flags));
    }
}

/// CF and ZF after a VMX instruction: which of them the conventions of SDM vol. 3, 31.2 set.
fn result(carry: u8, zero: u8) -> Result<(), VmxError> {
    match (carry, zero) {
        (0, 0) => Ok(()),
        // Only VMfailValid leaves a number, and only it promises a current VMCS to read it from.
        // SAFETY: a VMX instruction has just run here, so this is VMX root operation.
        (0, _) => Err(VmxError::Valid(unsafe { vmread(Field::INSTRUCTION_ERROR) }.unwrap_or(0) as u32)),
        _ => Err(VmxError::Invalid),
    }
}

macro_rules! with_address {
    ($(#[$meta:meta])* $name:ident, $instruction:literal) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// At CPL 0 with VMX enabled as the instruction asks (SDM vol. 3, 24.7, 31.3); `physical` is the address of a
        /// 4 KiB region that is the CPU's own from now on.
        pub(super) unsafe fn $name(physical: u64) -> Result<(), VmxError> {
            let (carry, zero): (u8, u8);
            // SAFETY: the caller's promise; the operand lives through the instruction.
            unsafe {
                asm!(concat!($instruction, " qword ptr [{address}]"), "setc {carry}", "setz {zero}",
                    address = in(reg) &physical, carry = out(reg_byte) carry, zero = out(reg_byte) zero,
                    options(nostack));
            }
            result(carry, zero)
        }
    };
}

with_address! {
    /// Enters VMX root operation.
    vmxon, "vmxon"
}
with_address! {
    /// Initialises a VMCS, or writes it back to memory, and makes its launch state clear.
    vmclear, "vmclear"
}
with_address! {
    /// Makes a VMCS current and active.
    vmptrld, "vmptrld"
}

/// Leaves VMX operation.
///
/// # Safety
/// In VMX root operation; every VMCS has been cleared.
pub(super) unsafe fn vmxoff() -> Result<(), VmxError> {
    let (carry, zero): (u8, u8);
    // SAFETY: the caller's promise.
    unsafe {
        asm!("vmxoff", "setc {}", "setz {}", out(reg_byte) carry, out(reg_byte) zero, options(nostack))
    };
    result(carry, zero)
}

/// Reads a component of the current VMCS. The error number is not looked up: the result says failed or not.
///
/// # Safety
/// In VMX root operation.
#[inline(always)]
pub(super) unsafe fn vmread(field: Field) -> Option<u64> {
    let value: u64;
    let failed: u8;
    // SAFETY: VMREAD touches registers and the current VMCS only.
    unsafe {
        asm!("vmread {value}, {field}", "setbe {failed}", value = out(reg) value,
            field = in(reg) u64::from(field.encoding()), failed = lateout(reg_byte) failed, options(nomem, nostack));
    }
    if failed == 0 { Some(value) } else { None }
}

/// Writes a component of the current VMCS. The result says whether it worked.
///
/// # Safety
/// In VMX root operation; the value keeps the host safe where the component is of the controls or the host state.
#[inline(always)]
pub(super) unsafe fn vmwrite(field: Field, value: u64) -> bool {
    let failed: u8;
    // SAFETY: VMWRITE touches the current VMCS only; the caller answers for the value.
    unsafe {
        asm!("vmwrite {field}, {value}", "setbe {failed}", value = in(reg) value,
            field = in(reg) u64::from(field.encoding()), failed = lateout(reg_byte) failed, options(nomem, nostack));
    }
    failed == 0
}

/// The descriptor that INVEPT and INVVPID take (SDM vol. 3, 31.3).
#[repr(C, align(16))]
struct Descriptor([u64; 2]);

/// Drops translations cached for an EPT pointer (type 1), or for all (type 2).
///
/// # Safety
/// In VMX root operation; the type is one that the CPU has.
pub(super) unsafe fn invept(kind: u64, ept_pointer: u64) -> Result<(), VmxError> {
    let descriptor = Descriptor([ept_pointer, 0]);
    let (carry, zero): (u8, u8);
    // SAFETY: dropping translations is always sound; the operand lives through the instruction.
    unsafe {
        asm!("invept {kind}, xmmword ptr [{descriptor}]", "setc {carry}", "setz {zero}", kind = in(reg) kind,
            descriptor = in(reg) &descriptor, carry = out(reg_byte) carry, zero = out(reg_byte) zero, options(nostack));
    }
    result(carry, zero)
}

/// Drops translations cached for a VPID (type 1), or for all but 0 (type 2).
///
/// # Safety
/// In VMX root operation; the type is one that the CPU has.
pub(super) unsafe fn invvpid(kind: u64, vpid: u16) -> Result<(), VmxError> {
    let descriptor = Descriptor([u64::from(vpid), 0]);
    let (carry, zero): (u8, u8);
    // SAFETY: dropping translations is always sound; the operand lives through the instruction.
    unsafe {
        asm!("invvpid {kind}, xmmword ptr [{descriptor}]", "setc {carry}", "setz {zero}", kind = in(reg) kind,
            descriptor = in(reg) &descriptor, carry = out(reg_byte) carry, zero = out(reg_byte) zero, options(nostack));
    }
    result(carry, zero)
}

/// The selector of the task register.
///
/// # Safety
/// At CPL 0.
pub(super) unsafe fn task_register() -> u16 {
    let selector: u16;
    // SAFETY: STR only reads.
    unsafe { asm!("str {0:x}", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector
}

/// Takes a physical NMI that a VM exit has reported: runs the host's own handler, whose IRET also ends the blocking of
/// further NMIs that the exit left (SDM vol. 3, 28.5.7).
///
/// # Safety
/// The host's IDT has an NMI handler that returns.
pub(super) unsafe fn take_nmi() {
    // SAFETY: as an NMI at this very point would be; the handler keeps all registers. Not `nostack`: the CPU pushes a frame
    // here if the handler has no stack of its own.
    unsafe { asm!("int 2") };
}

macro_rules! register {
    ($($name:ident, $set:ident, $register:literal;)*) => {
        $(
            #[doc = concat!("Reads ", $register, ".")]
            ///
            /// # Safety
            /// At CPL 0.
            pub(super) unsafe fn $name() -> u64 {
                let value: u64;
                // SAFETY: reading it has no side effect: the host keeps no debug register access trap (DR7.GD) on.
                unsafe { asm!(concat!("mov {}, ", $register), out(reg) value,
                    options(nomem, nostack, preserves_flags)) };
                value
            }

            #[doc = concat!("Writes ", $register, ".")]
            ///
            /// # Safety
            /// At CPL 0; the host makes no use of the register and the value raises no fault.
            pub(super) unsafe fn $set(value: u64) {
                // SAFETY: the caller's promise.
                unsafe { asm!(concat!("mov ", $register, ", {}"), in(reg) value,
                    options(nomem, nostack, preserves_flags)) };
            }
        )*
    };
}

register! {
    cr2, set_cr2, "cr2";
    dr0, set_dr0, "dr0";
    dr1, set_dr1, "dr1";
    dr2, set_dr2, "dr2";
    dr3, set_dr3, "dr3";
    dr6, set_dr6, "dr6";
}

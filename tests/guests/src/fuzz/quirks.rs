//! What is left out on QEMU's TCG, because the emulator itself breaks. Nothing is left out elsewhere.
//!
//! - MOV to CR8 aborts QEMU 7.2 when a virtual interrupt is pending (V_IRQ).
//! - MOV to and from debug registers: QEMU aborts on some values when the guest is one of SVM's.
//! - LTR takes a null selector, where a processor raises #GP; QEMU aborts (`invalid tss`) when an interrupt or exception then wants
//!   a stack.
//! - XSETBV is not intercepted by it: the guest would set the host's XCR0.
//! - MOV to CR0 and CR3 take reserved bits, and CR0 takes NW without CD and PG without PE, CR4 takes VMXE
//!   and clears PAE in long mode, where a processor raises #GP (APM vol. 2, 3.1 and 5.3.2); VMRUN then refuses what the guest has made of itself (15.5.1).

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

static TCG: AtomicBool = AtomicBool::new(false);

/// Says that this is QEMU's TCG.
pub fn set_tcg(tcg: bool) {
    TCG.store(tcg, Relaxed);
}

/// This is QEMU's TCG.
pub fn tcg() -> bool {
    TCG.load(Relaxed)
}

/// These bytes of code, of which the second is the first of an opcode, must not be executed here.
pub fn forbidden(before: u8, opcode: [u8; 3]) -> bool {
    if !tcg() || opcode[0] != 0x0f {
        return false;
    }
    match opcode[1] {
        // MOV from and to a debug register.
        0x21 | 0x23 => true,
        // MOV to CR0, CR3 and CR4, but for those that begin with the NOP by which this program marks a value as good. With a
        // prefix (REX.R, or LOCK on AMD's processors) the former is CR8.
        0x22 => matches!(opcode[2] >> 3 & 7, 0 | 3 | 4) && before != GOOD,
        // LTR, the same way.
        0x00 => opcode[2] >> 3 & 7 == 3 && before != GOOD,
        // XSETBV.
        0x01 => opcode[2] == 0xd1,
        _ => false,
    }
}

/// TCG stands this selector in LTR.
pub fn task_register(selector: u32) -> bool {
    const NULL: u32 = 0xfffc;
    !tcg() || selector & NULL != 0
}

/// NOP: stands before a MOV to a control register or an LTR whose value has been looked at.
pub const GOOD: u8 = 0x90;

/// A value for CR0 that TCG stands as well.
pub fn cr0(value: u64) -> u64 {
    const NW: u64 = 1 << 29;
    const HIGH: u64 = 0xffff_ffff_0000_0000;
    const PAGING: u64 = 1 << 31 | 1;
    if tcg() { (value | PAGING) & !(NW | HIGH) } else { value }
}

/// A value for CR4 that TCG stands as well.
pub fn cr4(value: u64) -> u64 {
    const PAE: u64 = 1 << 5;
    /// The low ones up to UMIP, FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP, PKE.
    const KNOWN: u64 = 0xfff | 7 << 16 | 7 << 20;
    if tcg() { value & KNOWN | PAE } else { value }
}

/// A value for CR3 that TCG stands as well.
pub fn cr3(value: u64) -> u64 {
    const HIGH: u64 = 0xffff_ff00_0000_0000;
    if tcg() { value & !HIGH } else { value }
}

//! The local APIC (xAPIC page), the I/O APIC and the 8259 pair.

use crate::cpu::{cpuid, outp, rdmsr};

/// Address of the local APIC's registers.
pub const LOCAL: u64 = 0xfee0_0000;
/// Address of the I/O APIC's registers.
pub const IO: u64 = 0xfec0_0000;

/// Pins of the I/O APIC.
const IO_PINS: u32 = 24;

/// Registers of the local APIC (SDM vol. 3 table 10-1).
pub mod register {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const ID: u64 = 0x20;
    pub const VERSION: u64 = 0x30;
    pub const TPR: u64 = 0x80;
    pub const PPR: u64 = 0xa0;
    pub const EOI: u64 = 0xb0;
    pub const LDR: u64 = 0xd0;
    pub const DFR: u64 = 0xe0;
    pub const SVR: u64 = 0xf0;
    pub const ISR: u64 = 0x100;
    pub const IRR: u64 = 0x200;
    pub const ESR: u64 = 0x280;
    pub const ICR_LOW: u64 = 0x300;
    pub const ICR_HIGH: u64 = 0x310;
    pub const LVT_TIMER: u64 = 0x320;
    pub const LVT_LINT0: u64 = 0x350;
    pub const LVT_LINT1: u64 = 0x360;
    pub const LVT_ERROR: u64 = 0x370;
    pub const TIMER_INITIAL: u64 = 0x380;
    pub const TIMER_CURRENT: u64 = 0x390;
    pub const TIMER_DIVIDE: u64 = 0x3e0;
}

/// Reads a register of the local APIC.
pub fn read(register: u64) -> u32 {
    // SAFETY: the page is mapped and holds device registers only.
    unsafe { ((LOCAL + register) as *const u32).read_volatile() }
}

/// Writes a register of the local APIC.
pub fn write(register: u64, value: u32) {
    // SAFETY: the page is mapped and holds device registers only.
    unsafe { ((LOCAL + register) as *mut u32).write_volatile(value) };
}

/// Software-enables the local APIC, all else masked: spurious vector 0xff.
pub fn enable() {
    write(register::SVR, 0x1ff);
    write(register::LVT_TIMER, 1 << 16);
    write(register::TPR, 0);
}

/// Software-enables the local APIC, in the mode that it is in.
pub fn software_enable() {
    if rdmsr(0x1b) & 1 << 10 != 0 {
        // SAFETY: the spurious-interrupt register touches no memory.
        unsafe { crate::cpu::wrmsr(0x80f, 0x1ff) };
    } else {
        enable();
    }
}

/// x2APIC mode, software-enabled, task priority 0: an end of interrupt is a WRMSR, as it is for the kernels of today.
pub fn enable_x2apic() {
    let base = rdmsr(0x1b);
    // SAFETY: only the way to the local APIC changes; spurious vector 0xff.
    unsafe {
        crate::cpu::wrmsr(0x1b, base | 1 << 11 | 1 << 10);
        crate::cpu::wrmsr(0x80f, 0x1ff);
        crate::cpu::wrmsr(0x808, 0);
    }
}

/// Back to xAPIC mode, by way of a local APIC that is off (SDM vol. 3, 11.12.5), and software-enabled.
pub fn leave_x2apic() {
    let base = rdmsr(0x1b) & !(1 << 10);
    // SAFETY: only the way to the local APIC changes.
    unsafe {
        crate::cpu::wrmsr(0x1b, base & !(1 << 11));
        crate::cpu::wrmsr(0x1b, base | 1 << 11);
    }
    enable();
}

/// EOI, in the mode that the APIC is in.
pub fn end_of_interrupt() {
    if rdmsr(0x1b) & 1 << 10 != 0 {
        // SAFETY: EOI of x2APIC takes 0 and touches no memory.
        unsafe { crate::cpu::wrmsr(0x80b, 0) };
    } else {
        write(register::EOI, 0);
    }
}

/// True when the CPU has x2APIC.
pub fn has_x2apic() -> bool {
    cpuid(1, 0)[2] >> 21 & 1 == 1
}

/// Reads a register of the I/O APIC.
pub fn io_read(index: u32) -> u32 {
    // SAFETY: the page is mapped and holds device registers only.
    unsafe {
        (IO as *mut u32).write_volatile(index);
        ((IO + 0x10) as *const u32).read_volatile()
    }
}

/// Writes a register of the I/O APIC.
pub fn io_write(index: u32, value: u32) {
    // SAFETY: the page is mapped and holds device registers only.
    unsafe {
        (IO as *mut u32).write_volatile(index);
        ((IO + 0x10) as *mut u32).write_volatile(value);
    }
}

/// Programs a redirection entry of the I/O APIC.
pub fn io_redirect(pin: u32, value: u64) {
    io_write(0x10 + 2 * pin, 1 << 16);
    io_write(0x11 + 2 * pin, (value >> 32) as u32);
    io_write(0x10 + 2 * pin, value as u32);
}

/// Masks all pins of the I/O APIC.
pub fn io_mask_all() {
    for pin in 0..IO_PINS {
        io_write(0x10 + 2 * pin, 1 << 16);
    }
}

/// Initialises the 8259 pair: vectors 0x20 to 0x2f, `mask` holds one bit an input that stays masked.
pub fn init_pic(mask: u16) {
    for (port, value) in
        [(0x20, 0x11), (0xa0, 0x11), (0x21, 0x20), (0xa1, 0x28), (0x21, 4), (0xa1, 2), (0x21, 1), (0xa1, 1)]
    {
        outp(port, value as u8);
    }
    outp(0x21, mask as u8);
    outp(0xa1, (mask >> 8) as u8);
}

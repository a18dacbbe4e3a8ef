//! Ways to end.

use crate::cpu::outp;
use core::arch::asm;

/// ACPI S5 through the PM1a control register.
pub fn off() -> ! {
    outp(0x604, 0x2000u16);
    halt()
}

/// Ends the run with a value, by QEMU's isa-debug-exit at port 0xf4; by power-off where that is not there.
pub fn exit(value: u32) -> ! {
    outp(0xf4, value);
    off()
}

/// Stops for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: stops until an NMI or a reset.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Reset by the reset control register.
pub fn reset_cf9() -> ! {
    outp(0xcf9, 0x02u8);
    outp(0xcf9, 0x06u8);
    halt()
}

/// Reset by the keyboard controller.
pub fn reset_keyboard() -> ! {
    outp(0x64, 0xfeu8);
    halt()
}

/// Triple fault: an exception with no IDT at all.
pub fn triple_fault() -> ! {
    let empty = [0u16; 5];
    // SAFETY: never returns.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) &empty, options(noreturn)) }
}

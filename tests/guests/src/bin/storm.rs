//! A guest that never rests: `run=KIND` on the command line says what it does for ever.
//!
//! It would take interrupts, as a guest does that works: Bochs 2.7 holds the host's interrupts back from a guest whose RFLAGS.IF
//! is clear, which no processor does (SDM vol. 3, 25.6.1, external-interrupt exiting), so that the monitor would be
//! served at other exits only.
#![no_std]
#![no_main]

use core::arch::asm;
use core::hint::black_box;
use monovisor_guests::cpu::{cpuid, enable_interrupts};
use monovisor_guests::{apic, boot, entry, power, println};

entry!(main);

/// The ACPI PM timer.
const PM_TIMER: u16 = 0x608;
/// The I/O APIC's register window.
const IOAPIC_WINDOW: u64 = 0xfec0_0010;

fn main() -> ! {
    let line = boot::command_line();
    let kind = line.split_whitespace().find_map(|word| word.strip_prefix("run=")).unwrap_or_default();
    let body: fn() = match kind {
        "cpuid" => || _ = black_box(cpuid(0, 0)),
        // SAFETY: reading a timer changes nothing.
        "port" => || unsafe { asm!("in eax, dx", in("dx") PM_TIMER, out("eax") _, options(nomem, nostack)) },
        // SAFETY: the window is mapped, and reading it changes nothing.
        "mmio" => || unsafe {
            asm!("mov eax, [{at}]", at = in(reg) IOAPIC_WINDOW, out("eax") _, options(readonly, nostack));
        },
        "cpu" => || _ = black_box(0u64),
        _ => {
            println!("FAIL no such storm: {kind:?}");
            power::off()
        }
    };
    println!("STORM {kind}");
    // None is to come.
    apic::init_pic(!0);
    enable_interrupts();
    loop {
        body();
    }
}

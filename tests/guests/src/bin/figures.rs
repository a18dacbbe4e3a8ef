//! Measures what exits cost, in ticks of the TSC, and prints `FIGURE name value` lines.
#![no_std]
#![no_main]

use core::arch::asm;
use monovisor_guests::cpu::tsc;
use monovisor_guests::{boot, entry, power, println};

entry!(main);

/// Rounds of each loop: enough to make the loop's own instructions and the clock's grain vanish.
const ROUNDS: u64 = 10_000;

fn main() -> ! {
    println!("FIGURE first-tsc {}", boot::first_tsc());
    // The same loop without the exit is taken off.
    let empty = measure(|| {
        // SAFETY: nothing at all.
        unsafe { asm!("", options(nomem, nostack)) };
    });
    let figure = |name: &str, ticks: u64| println!("FIGURE {name} {}", ticks.saturating_sub(empty) / ROUNDS);
    figure(
        "cpuid",
        measure(|| {
            // SAFETY: RBX is put back; the rest is declared.
            unsafe {
                asm!("mov {keep}, rbx", "cpuid", "mov rbx, {keep}", keep = out(reg) _,
                     inout("eax") 0 => _, inout("ecx") 0 => _, out("edx") _, options(nomem, nostack));
            }
        }),
    );
    figure(
        "pm-timer",
        measure(|| {
            // SAFETY: reading a timer changes nothing.
            unsafe { asm!("in eax, dx", in("dx") 0x608u16, out("eax") _, options(nomem, nostack)) };
        }),
    );
    figure(
        "port-80",
        measure(|| {
            // SAFETY: the diagnostic port holds nothing of ours.
            unsafe { asm!("out 0x80, al", options(nomem, nostack)) };
        }),
    );
    println!("FIGURE done 0");
    power::off()
}

fn measure(mut body: impl FnMut()) -> u64 {
    // Once outside the count: caches and translations warm.
    body();
    let start = tsc();
    for _ in 0..ROUNDS {
        body();
    }
    tsc() - start
}

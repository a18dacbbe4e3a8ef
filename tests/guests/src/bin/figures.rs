//! Measures what exits cost, in ticks of the TSC, and prints `FIGURE name value` lines.
#![no_std]
#![no_main]

use core::arch::asm;
use monovisor_guests::cpu::{disable_interrupts, enable_interrupts, tsc, wrmsr};
use monovisor_guests::{apic, boot, cpu, entry, power, println, smp, trap};

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
    println!("FIGURE timer {}", timer());
    between_processors();
    println!("FIGURE done 0");
    power::off()
}

/// From the deadline of the local APIC's timer to its handler in a guest that is busy: the mean of some rounds.
fn timer() -> u64 {
    const VECTOR: u8 = 0x60;
    const TSC_DEADLINE: u32 = 0x6e0;
    /// Far enough that the timer is set before it is due, in ticks.
    const AHEAD: u64 = 50_000;
    const TIMES: u64 = 100;
    apic::enable();
    apic::write(apic::register::LVT_TIMER, u32::from(VECTOR) | 2 << 17);
    let mut late = 0;
    for _ in 0..TIMES {
        let taken = trap::count(VECTOR);
        let deadline = tsc() + AHEAD;
        // SAFETY: arms a timer whose vector is handled.
        unsafe { wrmsr(TSC_DEADLINE, deadline) };
        enable_interrupts();
        while trap::count(VECTOR) == taken {
            core::hint::spin_loop();
        }
        disable_interrupts();
        late += trap::last_tsc().saturating_sub(deadline);
    }
    late / TIMES
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

/// Rounds of interrupts between processors.
const MESSAGES: u64 = 200;
/// Their vector.
const VECTOR: u8 = 0x60;

/// From the instruction that sends an interrupt to the handler on another processor, which runs and which halts.
fn between_processors() {
    if smp::count() < 2 {
        return;
    }
    cpu::disable_interrupts();
    apic::init_pic(0xffff);
    apic::enable();
    // As Linux has it under a hypervisor: x2APIC mode.
    // SAFETY: the local APIC stays at its place, and this kernel uses no other way to it from here on.
    unsafe { cpu::wrmsr(0x1b, cpu::rdmsr(0x1b) | 1 << 10) };
    apic::software_enable();
    for (name, main) in [("ipi-running", run_on as fn(usize) -> !), ("ipi-halted", halt_on)] {
        if !smp::start(1, main) {
            println!("FIGURE {name} failed");
            continue;
        }
        let mut ticks = 0;
        for _ in 0..MESSAGES {
            // It is to be where it waits.
            smp::pause_ticks(20_000);
            let before = trap::count(VECTOR);
            let start = tsc();
            smp::send(1, 1 << 14 | u32::from(VECTOR));
            smp::wait_until(|| trap::count(VECTOR) != before);
            smp::pause_ticks(1_000);
            ticks += trap::last_tsc() - start;
        }
        println!("FIGURE {name} {}", ticks / MESSAGES);
    }
}

/// A processor that runs, interrupts on.
fn run_on(_: usize) -> ! {
    cpu::enable_interrupts();
    loop {
        core::hint::spin_loop();
    }
}

/// A processor that halts between interrupts.
fn halt_on(_: usize) -> ! {
    loop {
        cpu::wait();
    }
}

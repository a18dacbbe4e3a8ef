//! Clocks and interrupts: 8254, 8259, RTC, PM timer, local APIC timer, HLT.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::apic::{self, register};
use crate::cpu::{cpuid, disable_interrupts, enable_interrupts, inp, outp, rdmsr, tsc, wait, wrmsr};
use crate::report::{check, equal, skip, under};
use crate::trap::{self, PIC_FIRST};

/// Input clock of the 8254.
const PIT_HZ: u64 = 1_193_182;
/// Rate of the PM timer.
const PM_HZ: u64 = 3_579_545;
/// An interrupt vector of the local APIC that the cases use.
const VECTOR: u8 = 0x60;

/// Runs the suite.
pub fn run() {
    disable_interrupts();
    apic::enable();
    let mut hz = 0;
    under(&"ACPI 4.8.3.3", || hz = pm_timer());
    under(&"8254", || pit(hz));
    under(&"8259", pic);
    under(&"MC146818", rtc);
    under(&"11.5.4", || local_timer(hz));
    under(&"11.6.1", interprocessor);
    under(&"82093", io_apic);
    under(&"6.8.1", shadow);
}

fn pm() -> u32 {
    inp::<u32>(0x608)
}

/// Measures the TSC against the PM timer, 10 ms at a time, and returns its rate.
fn pm_timer() -> u64 {
    let start = pm();
    check("pm timer grows", (0..1000).any(|_| pm() != start), start);
    // The middle one of five: an emulator that others keep from its work spoils one or the other.
    let mut rates = [0; 5].map(|_: u64| {
        let (start, from) = (pm(), tsc());
        while pm().wrapping_sub(start) & 0xff_ffff < (PM_HZ / 100) as u32 {}
        (tsc() - from) * 100
    });
    rates.sort_unstable();
    let hz = rates[2];
    check("tsc rate", hz > 10_000_000, hz);
    hz
}

/// Within a tenth: emulated clocks have grain.
fn near(got: u64, want: u64) -> bool {
    got.abs_diff(want) <= want / 10
}

fn pit(hz: u64) {
    // Channel 2, mode 0, gate by port 0x61: 10 ms.
    let count = (PIT_HZ / 100) as u16;
    let mut took = 0;
    // An emulator that others keep from its work looks late: once it must not.
    let good = (0..3).any(|_| {
        outp(0x61, inp::<u8>(0x61) & !3);
        outp(0x43, 0xb0u8);
        outp(0x42, count as u8);
        outp(0x42, (count >> 8) as u8);
        equal("output low at first", inp::<u8>(0x61) & 0x20, 0);
        let start = tsc();
        outp(0x61, inp::<u8>(0x61) | 1);
        while inp::<u8>(0x61) & 0x20 == 0 && tsc() - start < hz {}
        took = tsc() - start;
        near(took, hz / 100)
    });
    check("channel 2 takes 10 ms", good, format_args!("{took} of {}", hz / 100));
    // Read-back of status and count.
    outp(0x43, 0x36u8);
    outp(0x40, 0u8);
    outp(0x40, 0x40u8);
    outp(0x43, 0xc2u8);
    let status: u8 = inp(0x40);
    let value = u16::from(inp::<u8>(0x40)) | u16::from(inp::<u8>(0x40)) << 8;
    check("read-back", status & 0x3f == 0x36 && value <= 0x4000, format_args!("{status:#x} {value:#x}"));
}

fn pit_periodic(hz: u64) {
    let count = (PIT_HZ / hz) as u16;
    outp(0x43, 0x34u8);
    outp(0x40, count as u8);
    outp(0x40, (count >> 8) as u8);
}

fn pic() {
    pit_periodic(1000);
    apic::init_pic(!1);
    let before = trap::count(PIC_FIRST);
    for _ in 0..5 {
        wait();
    }
    let taken = trap::count(PIC_FIRST) - before;
    check("timer and hlt", taken >= 5, taken);
    // Masked: requested, not delivered.
    apic::init_pic(!0);
    let before = trap::count(PIC_FIRST);
    let start = pm();
    enable_interrupts();
    while pm().wrapping_sub(start) & 0xff_ffff < (PM_HZ / 200) as u32 {}
    disable_interrupts();
    outp(0x20, 0x0au8);
    let requested: u8 = inp(0x20);
    equal("masked", (trap::count(PIC_FIRST) - before, requested & 1), (0, 1));
    equal("mask reads back", (inp::<u8>(0x21), inp::<u8>(0xa1)), (0xff, 0xff));
    apic::init_pic(!0);
}

fn cmos(index: u8) -> u8 {
    outp(0x70, index);
    inp(0x71)
}

fn cmos_write(index: u8, value: u8) {
    outp(0x70, index);
    outp(0x71, value);
}

fn rtc() {
    let status = cmos(0xb);
    let month = cmos(8);
    check("month", (1..=0x12).contains(&month), month);
    let year = cmos(9);
    check("year", year >= 0x24 || status & 4 != 0 && year >= 24, format_args!("{year:#x}"));
    // Periodic interrupt at 1,024 Hz on input 8.
    apic::init_pic(!(1 << 2 | 1 << 8));
    cmos_write(0xa, 0x26);
    cmos_write(0xb, status | 0x40);
    let before = trap::count(PIC_FIRST + 8);
    let _ = cmos(0xc);
    for _ in 0..3 {
        wait();
        equal("flags", cmos(0xc) & 0xc0, 0xc0);
    }
    cmos_write(0xb, status);
    let _ = cmos(0xc);
    equal("periodic interrupts", trap::count(PIC_FIRST + 8) - before, 3);
    apic::init_pic(!0);
}

fn local_timer(hz: u64) {
    apic::write(register::TIMER_DIVIDE, 0xb);
    apic::write(register::LVT_TIMER, u32::from(VECTOR) | 1 << 16);
    apic::write(register::TIMER_INITIAL, !0);
    let start = pm();
    while pm().wrapping_sub(start) & 0xff_ffff < (PM_HZ / 100) as u32 {}
    let ticks = !0 - apic::read(register::TIMER_CURRENT);
    check("apic timer counts", ticks > 1000, ticks);
    // One-shot, 1 ms.
    let before = trap::count(VECTOR);
    apic::write(register::LVT_TIMER, VECTOR.into());
    let start = tsc();
    apic::write(register::TIMER_INITIAL, ticks / 10);
    wait();
    let took = trap::last_tsc() - start;
    equal("apic timer one-shot", trap::count(VECTOR) - before, 1);
    check("apic timer one-shot on time", took >= hz / 1000 * 9 / 10, format_args!("{took} of {}", hz / 1000));
    equal("apic timer one-shot stays at 0", apic::read(register::TIMER_CURRENT), 0);
    // Periodic, 1 ms.
    let before = trap::count(VECTOR);
    apic::write(register::LVT_TIMER, u32::from(VECTOR) | 1 << 17);
    apic::write(register::TIMER_INITIAL, ticks / 10);
    while trap::count(VECTOR) - before < 5 {
        wait();
    }
    apic::write(register::LVT_TIMER, 1 << 16);
    apic::write(register::TIMER_INITIAL, 0);
    check("apic timer periodic", true, "");
    if cpuid(1, 0)[2] >> 24 & 1 == 1 {
        let before = trap::count(VECTOR);
        apic::write(register::LVT_TIMER, u32::from(VECTOR) | 2 << 17);
        let deadline = tsc() + hz / 1000;
        // SAFETY: arms a timer whose vector is handled.
        unsafe { wrmsr(0x6e0, deadline) };
        let armed = rdmsr(0x6e0);
        wait();
        equal("tsc deadline", (armed, trap::count(VECTOR) - before, rdmsr(0x6e0)), (deadline, 1, 0));
        check(
            "tsc deadline not early",
            trap::last_tsc() >= deadline,
            trap::last_tsc().wrapping_sub(deadline),
        );
        // In the past: at once.
        let before = trap::count(VECTOR);
        // SAFETY: as above.
        unsafe { wrmsr(0x6e0, 1) };
        wait();
        equal("tsc deadline in the past", trap::count(VECTOR) - before, 1);
        // The initial count has no meaning in this mode, and the deadline none in another.
        apic::write(register::TIMER_INITIAL, ticks);
        equal("no count in tsc deadline mode", apic::read(register::TIMER_CURRENT), 0);
        let deadline = tsc() + hz;
        // SAFETY: as above.
        unsafe { wrmsr(0x6e0, deadline) };
        apic::write(register::LVT_TIMER, u32::from(VECTOR) | 1 << 16);
        equal("one-shot mode disarms the deadline", rdmsr(0x6e0), 0);
        // SAFETY: as above.
        unsafe { wrmsr(0x6e0, deadline) };
        equal("no deadline in one-shot mode", rdmsr(0x6e0), 0);
        apic::write(register::LVT_TIMER, 1 << 16);
    } else {
        skip("tsc deadline", "CPUID has none");
    }
    slow_handler(hz);
}

/// A quarter of a second from an interrupt to its end, in which the guest gives its host no reason to look after it.
fn slow_handler(hz: u64) {
    static TICKS: AtomicU64 = AtomicU64::new(0);
    fn linger(_: u8) {
        let start = tsc();
        while tsc() - start < TICKS.load(Relaxed) {}
    }
    TICKS.store(hz / 4, Relaxed);
    trap::set_hook(Some(linger as trap::Hook), VECTOR);
    let before = trap::count(VECTOR);
    send_self(VECTOR);
    wait_some();
    trap::set_hook(None, VECTOR);
    equal("interrupt comes once, however slow its handler", trap::count(VECTOR) - before, 1);
}

fn send_self(vector: u8) {
    apic::write(register::ICR_HIGH, 0);
    apic::write(register::ICR_LOW, 0x4_4000 | u32::from(vector));
}

fn interprocessor() {
    let before = trap::count(VECTOR);
    send_self(VECTOR);
    let pending = apic::read(register::IRR + 0x10 * u64::from(VECTOR / 32)) >> (VECTOR % 32) & 1;
    equal("self-ipi waits in irr", (pending, trap::count(VECTOR) - before), (1, 0));
    wait_some();
    equal("self-ipi delivered", trap::count(VECTOR) - before, 1);
    under(&"11.8.3.1", task_priority);
    under(&"6.7", nmi);
    under(&"11.5.3", illegal_vector);
    under(&"11.12.11", self_ipi);
}

/// Task priority holds an interrupt back.
fn task_priority() {
    let before = trap::count(VECTOR);
    apic::write(register::TPR, 0x70);
    send_self(VECTOR);
    wait_some();
    equal("tpr holds back", trap::count(VECTOR) - before, 0);
    apic::write(register::TPR, 0);
    wait_some();
    equal("tpr lets go", trap::count(VECTOR) - before, 1);
    let cr8 = |value: u64| {
        // SAFETY: the task priority.
        unsafe { core::arch::asm!("mov cr8, {}", in(reg) value) };
    };
    cr8(7);
    send_self(VECTOR);
    wait_some();
    equal("cr8 holds back", trap::count(VECTOR) - before, 1);
    cr8(0);
    wait_some();
    equal("cr8 lets go", trap::count(VECTOR) - before, 2);
}

/// NMI to oneself.
fn nmi() {
    let before = trap::count(2);
    apic::write(register::ICR_LOW, 0x4_4400);
    wait_some();
    equal("nmi to oneself", trap::count(2) - before, 1);
}

/// An illegal vector is an error, not an interrupt. QEMU's own APIC delivers it.
fn illegal_vector() {
    if crate::cpu::virtualised() {
        apic::write(register::ESR, 0);
        apic::write(register::ICR_LOW, 0x4_4005);
        apic::write(register::ESR, 0);
        equal("esr illegal vector sent", apic::read(register::ESR) & 0x20, 0x20);
    } else {
        skip("esr illegal vector sent", "this is no guest of ours");
    }
}

fn self_ipi() {
    if apic::has_x2apic() && crate::cpu::virtualised() {
        let base = rdmsr(0x1b);
        // SAFETY: the page is not used until the mode is back.
        unsafe { wrmsr(0x1b, base | 1 << 10) };
        let before = trap::count(VECTOR);
        // SAFETY: self-IPI register.
        unsafe { wrmsr(0x83f, VECTOR.into()) };
        wait_some();
        let id = rdmsr(0x802);
        // x2APIC goes back to xAPIC through "disabled" only (SDM vol. 3 section 11.12.5).
        // SAFETY: as above; then the APIC is enabled anew.
        unsafe {
            wrmsr(0x1b, base & !(1 << 11 | 1 << 10));
            wrmsr(0x1b, base);
        }
        apic::enable();
        equal("x2apic self-ipi", (trap::count(VECTOR) - before, id), (1, 0));
    } else {
        skip("x2apic", "not here");
    }
}

/// Interrupts on for a few instructions.
fn wait_some() {
    enable_interrupts();
    for _ in 0..50 {
        core::hint::spin_loop();
    }
    disable_interrupts();
}

fn io_apic() {
    // The 8254 on pin 2 (its ISA override), edge.
    pit_periodic(1000);
    apic::io_redirect(2, (VECTOR + 1).into());
    let before = trap::count(VECTOR + 1);
    for _ in 0..3 {
        wait();
    }
    apic::io_redirect(2, 1 << 16);
    let taken = trap::count(VECTOR + 1) - before;
    check("timer on pin 2", taken >= 3, taken);
    // The UART's transmitter on pin 4.
    apic::io_redirect(4, (VECTOR + 2).into());
    let before = trap::count(VECTOR + 2);
    outp(crate::console::PORT + 1, 2u8);
    wait_some();
    let taken = trap::count(VECTOR + 2) - before;
    outp(crate::console::PORT + 1, 0u8);
    apic::io_redirect(4, 1 << 16);
    check("uart on pin 4", taken >= 1, taken);
}

/// STI holds interrupts back for one more instruction.
fn shadow() {
    let before = trap::count(VECTOR);
    send_self(VECTOR);
    // SAFETY: the interrupt may come only after CLI's neighbour, and CLI comes first: it stays pending.
    unsafe { core::arch::asm!("sti", "cli") };
    let during = trap::count(VECTOR) - before;
    wait_some();
    equal("sti shadow", (during, trap::count(VECTOR) - before), (0, 1));
    let before = trap::count(VECTOR);
    send_self(VECTOR);
    let mut inside = 0u32;
    // SAFETY: CPUID is an exit inside the shadow; RBX is put back.
    unsafe {
        core::arch::asm!("mov {k}, rbx", "sti", "cpuid", "cli", "mov rbx, {k}", k = out(reg) _,
             inout("eax") 0 => _, inout("ecx") 0 => _, out("edx") _);
    }
    inside += trap::count(VECTOR) - before;
    equal("interrupt after an exit in the sti shadow", inside, 1);
}

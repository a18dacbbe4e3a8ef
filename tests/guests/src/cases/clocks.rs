//! The registers of the PC's clocks (data sheets of 8254, MC146818 and PIIX4; IA-PC HPET specification 1.0a).

use crate::apic::{self, register};
use crate::cpu::{inp, outp};
use crate::println;
use crate::report::{check, equal, skip};
use crate::trap::{self, PIC_FIRST};

/// Rate of the PM timer.
const PM_HZ: u32 = 3_579_545;
/// Address of the HPET's registers.
const HPET: u64 = 0xfed0_0000;
/// A vector of the cases.
const VECTOR: u8 = 0x62;

/// Runs the suite.
pub fn run() {
    crate::cpu::disable_interrupts();
    apic::enable();
    apic::init_pic(!0);
    pit();
    rtc();
    pm();
    hpet();
    fastest();
}

fn pm_timer() -> u32 {
    inp::<u32>(0x608) & 0xff_ffff
}

/// Waits for some part of a second, or until `done`; false when the time has passed.
fn within(part: u32, mut done: impl FnMut() -> bool) -> bool {
    let start = pm_timer();
    loop {
        if done() {
            return true;
        }
        if pm_timer().wrapping_sub(start) & 0xff_ffff >= PM_HZ / part {
            // An emulator may have stood still since the last look.
            return done();
        }
    }
}

/// Reads channel 2, low byte first.
fn count() -> u16 {
    u16::from(inp::<u8>(0x42)) | u16::from(inp::<u8>(0x42)) << 8
}

fn load(control: u8, value: u16) {
    outp(0x43, control);
    outp(0x42, value as u8);
    outp(0x42, (value >> 8) as u8);
}

/// Output of channel 2.
fn output() -> u8 {
    inp::<u8>(0x61) >> 5 & 1
}

fn gate(on: bool) {
    let rest = inp::<u8>(0x61) & 0x0c;
    outp(0x61, rest | u8::from(on));
}

/// Status of channel 2 by read-back.
fn status() -> u8 {
    outp(0x43, 0xe8u8);
    inp(0x42)
}

fn pit() {
    // Mode 0, gate low: nothing is counted, the output is low.
    gate(false);
    load(0xb0, 20_000);
    let (first, second) = (count(), count());
    equal("8254: gate low stops mode 0", (first, second, output()), (20_000, 20_000, 0));
    equal("8254: status tells mode, access and output", status() & 0xbf, 0x30);
    // The latch holds one value, the count goes on.
    gate(true);
    outp(0x43, 0x80u8);
    within(1000, || false);
    let latched = count();
    let later = count();
    check("8254: latch", latched != later, format_args!("{latched} {later}"));
    check("8254: mode 0 ends high", within(20, || output() == 1), "the output stays low");
    let below = count();
    check("8254: mode 0 counts on", within(100, || count() != below), below);
    // Mode 1: the gate's rising edge starts it, and again.
    gate(false);
    load(0xb2, 50_000);
    let before = output();
    gate(true);
    let started = output();
    check(
        "8254: mode 1 is a one-shot by the gate",
        before == 1 && started == 0 && within(10, || output() == 1),
        format_args!("{before} {started}"),
    );
    gate(false);
    gate(true);
    equal("8254: mode 1 again", output(), 0);
    // Mode 2 reloads; mode 3 halves.
    load(0xb4, 1000);
    let reloaded = {
        let mut last = count();
        within(20, || {
            let now = count();
            let up = now > last;
            last = now;
            up
        })
    };
    check("8254: mode 2 reloads", reloaded, "never");
    load(0xb6, 2000);
    let levels = within(20, || output() == 1) && within(20, || output() == 0);
    check("8254: mode 3 has both levels", levels, "one only");
    check("8254: mode 3 counts by two", (0..20).all(|_| count() & 1 == 0), "an odd count");
    strobes();
    // BCD.
    gate(false);
    load(0xb1, 0x1234);
    equal("8254: bcd", count(), 0x1234);
    // One byte only.
    outp(0x43, 0x90u8);
    outp(0x42, 0x55u8);
    equal("8254: low byte only", inp::<u8>(0x42), 0x55);
    // A count that is not whole yet is a null count.
    outp(0x43, 0xb0u8);
    equal("8254: null count until it is written", status() >> 6 & 1, 1);
    load(0xb0, 0);
}

/// 8254 modes 4 and 5, whose output is low for one clock only; and the bits of port 0x61 that are no counter's.
fn strobes() {
    gate(false);
    load(0xb8, 20_000);
    equal("8254: gate low stops mode 4", (count(), output(), status() & 0x3f), (20_000, 1, 0x38));
    gate(true);
    check("8254: mode 4 counts", within(20, || count() < 19_000), count());
    // Through the end, where it goes on from the top.
    check("8254: mode 4 counts on", within(10, || count() > 20_000), count());
    gate(false);
    load(0xba, 20_000);
    // What it counts before the trigger is nobody's business.
    equal("8254: mode 5 waits for the gate", (output(), status() & 0x3f), (1, 0x3a));
    gate(true);
    check("8254: mode 5 counts", within(20, || (15_000..19_900).contains(&count())), count());
    gate(false);
    gate(true);
    let again = count();
    check("8254: mode 5 again by the gate", (15_000..=20_000).contains(&again), again);
    let refresh = |level: u8| within(20, || inp::<u8>(0x61) >> 4 & 1 == level);
    check("port 0x61: refresh toggles", refresh(0) && refresh(1) && refresh(0), "it does not");
    let port = inp::<u8>(0x61) & 0x0f;
    outp(0x61, port | 2);
    let speaker = inp::<u8>(0x61) >> 1 & 1;
    outp(0x61, port & !2);
    equal("port 0x61: speaker", (speaker, inp::<u8>(0x61) >> 1 & 1), (1, 0));
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
    let (a, b) = (cmos(0xa) & 0x7f, cmos(0xb));
    // For whoever knows better what day it is.
    println!("date {:02x}{:02x}-{:02x}-{:02x}", cmos(0x32), cmos(9), cmos(8), cmos(7));
    equal(
        "MC146818: ram keeps bytes",
        {
            let old = cmos(0x50);
            cmos_write(0x50, 0xa5);
            let seen = cmos(0x50);
            cmos_write(0x50, old);
            seen
        },
        0xa5,
    );
    equal("MC146818: register d says that ram is valid", cmos(0xd), 0x80);
    // SET: the time stands, and no update is in progress.
    cmos_write(0xb, b | 0x80);
    let still = cmos(0);
    let moved = within(1, || cmos(0) != still || cmos(0xa) & 0x80 != 0);
    check("MC146818: SET stops the time", !moved, "it goes on");
    // Formats; the date as well, which would be far away by the other one.
    cmos_write(0xb, b & !6 | 0x80 | 6);
    cmos_write(4, 23);
    cmos_write(2, 58);
    cmos_write(0, 30);
    for (index, value) in [(6, 2), (7, 1), (8, 1), (9, 26), (0x32, 20)] {
        cmos_write(index, value);
    }
    cmos_write(0xb, b & !6 | 6);
    equal("MC146818: binary, 24 hours", (cmos(4), cmos(2)), (23, 58));
    cmos_write(0xb, b & !6 | 0x80);
    cmos_write(4, 0x91);
    cmos_write(2, 0x45);
    cmos_write(0, 0x10);
    for (index, value) in [(6, 2), (7, 1), (8, 1), (9, 0x26), (0x32, 0x20)] {
        cmos_write(index, value);
    }
    cmos_write(0xb, b & !6);
    equal("MC146818: bcd, 12 hours", (cmos(4), cmos(2)), (0x91, 0x45));
    // The update's flag, and an alarm each second by wildcards.
    let _ = cmos(0xc);
    for index in [1, 3, 5] {
        cmos_write(index, 0xc0);
    }
    let mut flags = 0;
    let updated = within(1, || {
        flags |= cmos(0xc);
        flags & 0x30 == 0x30
    }) || within(1, || {
        flags |= cmos(0xc);
        flags & 0x30 == 0x30
    });
    check("MC146818: update and alarm flags", updated, format_args!("{flags:#x}"));
    check("MC146818: flags without enables raise no line", flags & 0x80 == 0, format_args!("{flags:#x}"));
    // Both as interrupts, on line 8: the alarm is still one for each second.
    for (name, enable) in [("MC146818: update-ended interrupt", 0x10u8), ("MC146818: alarm interrupt", 0x20)]
    {
        let _ = cmos(0xc);
        apic::init_pic(!(1 << 2 | 1 << 8));
        let before = trap::count(PIC_FIRST + 8);
        cmos_write(0xb, b & !6 | enable);
        crate::cpu::wait();
        let held = trap::count(PIC_FIRST + 8) - before;
        let flags = cmos(0xc);
        cmos_write(0xb, b & !6);
        equal(name, (held, flags & (0x80 | enable), cmos(0xc) & 0x80), (1, 0x80 | enable, 0));
    }
    apic::init_pic(!0);
    cmos_write(0xb, b);
    cmos_write(0xa, a);
    let _ = cmos(0xc);
}

fn pm() {
    let status: u16 = inp(0x600);
    let enable: u16 = inp(0x602);
    outp(0x602, 0x0121u16);
    let kept: u16 = inp(0x602);
    outp(0x602, 0xffffu16);
    let all: u16 = inp(0x602);
    outp(0x602, enable);
    equal("PIIX4: pm1 enables", (kept, all & !0x0721), (0x0121, 0));
    outp(0x600, 0u16);
    equal("PIIX4: pm1 status takes ones only", inp::<u16>(0x600) & !1, status & !1);
    if crate::cpu::virtualised() {
        let gpe: u8 = inp(0xafe2);
        outp(0xafe2, 0x04u8);
        let kept: u8 = inp(0xafe2);
        outp(0xafe2, gpe);
        equal("ACPI 4.8.4: gpe enables", kept, 4);
    } else {
        skip("ACPI 4.8.4: gpe enables", "they are elsewhere");
    }
}

fn hpet_read(register: u64) -> u64 {
    // SAFETY: the page is mapped and holds device registers only.
    unsafe { ((HPET + register) as *const u64).read_volatile() }
}

fn hpet_write(register: u64, value: u64) {
    // SAFETY: as above; the interrupts that it may raise have a handler.
    unsafe { ((HPET + register) as *mut u64).write_volatile(value) };
}

fn hpet() {
    let capabilities = hpet_read(0);
    let period = capabilities >> 32;
    if capabilities == 0 || capabilities == !0 {
        return skip("HPET", "there is none");
    }
    check(
        "HPET 2.3.4: capabilities",
        (1..=0x05f5_e100).contains(&period) && capabilities >> 8 & 0x1f >= 2 && capabilities & 0xff != 0,
        format_args!("{capabilities:#x}"),
    );
    let config = hpet_read(0x10);
    hpet_write(0x10, config & !3);
    hpet_write(0xf0, 0x1_0000_0000);
    equal(
        "HPET 2.3.7: the counter stands and takes a value",
        (hpet_read(0xf0), hpet_read(0xf0)),
        (0x1_0000_0000, 0x1_0000_0000),
    );
    // Rate, by the PM timer.
    hpet_write(0x10, config & !3 | 1);
    let (from, start) = (hpet_read(0xf0), pm_timer());
    within(50, || false);
    let (to, end) = (hpet_read(0xf0), pm_timer());
    let nanoseconds = (to - from).saturating_mul(period) / 1_000_000;
    let want = u64::from(end.wrapping_sub(start) & 0xff_ffff) * 1_000_000_000 / u64::from(PM_HZ);
    check(
        "HPET: runs at its rate",
        nanoseconds.abs_diff(want) <= want / 5,
        format_args!("{nanoseconds} of {want} ns"),
    );
    // Timer 0, one-shot, edge, to a pin that it can use.
    let timer = hpet_read(0x100);
    let routes = timer >> 32;
    let Some(pin) =
        (16..24u32).find(|pin| routes >> pin & 1 == 1).or((0..24).find(|pin| routes >> pin & 1 == 1))
    else {
        return check("HPET 2.3.8: routes", false, format_args!("{routes:#x}"));
    };
    apic::io_redirect(pin, VECTOR.into());
    // Far enough for a rig that stands still now and then: a value that the counter has passed is not met for years.
    let ahead = 50_000_000_000_000 / period;
    let before = trap::count(VECTOR);
    hpet_write(0x100, u64::from(pin) << 9 | 4);
    hpet_write(0x108, hpet_read(0xf0) + ahead);
    crate::cpu::wait();
    equal("HPET 2.3.9: one-shot", trap::count(VECTOR) - before, 1);
    // Periodic, level: the status bit holds the line.
    hpet_write(0x100, 0);
    apic::io_redirect(pin, 0x8000 | u64::from(VECTOR));
    fn acknowledge(_: u8) {
        hpet_write(0x20, 1);
    }
    trap::set_hook(Some(acknowledge as trap::Hook), VECTOR);
    let before = trap::count(VECTOR);
    let step = 1_000_000_000_000 / period;
    hpet_write(0x100, u64::from(pin) << 9 | 0x4e);
    hpet_write(0x108, hpet_read(0xf0) + ahead);
    hpet_write(0x108, step);
    for _ in 0..3 {
        crate::cpu::wait();
    }
    hpet_write(0x100, 0);
    hpet_write(0x20, 1);
    trap::set_hook(None, VECTOR);
    apic::io_redirect(pin, 1 << 16);
    check("HPET 2.3.9: periodic, level", trap::count(VECTOR) - before >= 3, trap::count(VECTOR) - before);
    equal("HPET 2.3.6: status is clear", hpet_read(0x20), 0);
    legacy_replacement(config, ahead);
    hpet_write(0x10, config);
}

/// Timers as fast as their registers let them be, none of which is delivered: whoever has to serve them, the program goes on.
fn fastest() {
    let before = trap::count(VECTOR);
    apic::write(register::TPR, 0xf0);
    crate::cpu::enable_interrupts();
    apic::write(register::TIMER_DIVIDE, 0xb);
    apic::write(register::LVT_TIMER, u32::from(VECTOR) | 1 << 17);
    apic::write(register::TIMER_INITIAL, 1);
    // 8254, counter 0, mode 2, two ticks.
    outp(0x43, 0x34u8);
    outp(0x40, 2u8);
    outp(0x40, 0u8);
    // All of the HPET's: periodic, level.
    let config = hpet_read(0x10);
    hpet_write(0x10, 0);
    for timer in [0x100, 0x120, 0x140] {
        hpet_write(timer, 0x4e);
        hpet_write(timer + 8, 1);
        hpet_write(timer + 8, 1);
    }
    hpet_write(0x10, 1);
    for _ in 0..300_000u32 {
        core::hint::black_box(crate::cpu::tsc());
    }
    for timer in [0x100, 0x120, 0x140] {
        hpet_write(timer, 0);
    }
    hpet_write(0x10, config);
    apic::write(register::LVT_TIMER, u32::from(VECTOR) | 1 << 16);
    apic::write(register::TIMER_INITIAL, 0);
    outp(0x43, 0x30u8);
    check("SDM vol. 3, 11.5.4: the fastest timers leave time for the program", true, "");
    equal("SDM vol. 3, 11.8.3: their interrupt waits for the task priority", trap::count(VECTOR) - before, 0);
    apic::write(register::TPR, 0);
    crate::cpu::window();
    crate::cpu::disable_interrupts();
    equal("SDM vol. 3, 11.8.3: and is there then", trap::count(VECTOR) - before, 1);
}

/// HPET 2.4.3.1: timers 0 and 1 in the places of 8254 and RTC, which have no interrupts then.
fn legacy_replacement(config: u64, ahead: u64) {
    const ENABLE: u64 = 1;
    const LEGACY: u64 = 2;
    if hpet_read(0) >> 15 & 1 == 0 {
        return skip("HPET 2.4.3.1: legacy replacement", "it has none");
    }
    // A thousand ticks a second by the 8254.
    for (port, value) in [(0x43, 0x34u8), (0x40, 0xa9), (0x40, 4)] {
        outp(port, value);
    }
    hpet_write(0x10, config & !3 | ENABLE | LEGACY);
    apic::init_pic(!(1 << 2 | 1 << 8 | 1));
    // What waits still is not what this waits for.
    crate::cpu::window();
    let before = [0, 8].map(|line| trap::count(PIC_FIRST + line));
    let counts = || [0, 8].map(|line: u8| trap::count(PIC_FIRST + line) - before[usize::from(line / 8)]);
    hpet_write(0x100, 4);
    hpet_write(0x108, hpet_read(0xf0) + ahead);
    crate::cpu::wait();
    let first = counts();
    hpet_write(0x100, 0);
    hpet_write(0x120, 4);
    hpet_write(0x128, hpet_read(0xf0) + ahead);
    crate::cpu::wait();
    let second = counts();
    hpet_write(0x120, 0);
    hpet_write(0x10, config & !3 | ENABLE);
    crate::cpu::wait();
    let third = counts();
    apic::init_pic(!0);
    equal("HPET 2.4.3.1: timer 0 in the place of the 8254", first, [1, 0]);
    equal("HPET 2.4.3.1: timer 1 in the place of the RTC", second, [1, 1]);
    check("HPET 2.4.3.1: the 8254 again", third[0] >= 2 && third[1] == 1, format_args!("{third:?}"));
}

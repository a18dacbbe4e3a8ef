//! Interrupt controllers to the letter: NMIs, the local APIC in both modes, the I/O APIC, the 8259 pair (SDM vol. 3 chapters 6
//! and 11; data sheets of 82093AA and 8259A).

use crate::apic::{self, register};
use crate::cpu::{cpuid, disable_interrupts, inp, outp, rdmsr, tsc, wait, wrmsr};
use crate::report::{check, equal, skip};
use crate::trap::{self, Hook, PIC_FIRST, Trap};
use crate::{attempt, read_cr};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Vectors of the cases, of three priority classes.
const LOW: u8 = 0x60;
const MIDDLE: u8 = 0x75;
const HIGH: u8 = 0x8a;

/// Runs the suite.
pub fn run() {
    disable_interrupts();
    apic::enable();
    apic::init_pic(!0);
    nmi_blocking();
    nmi_wakes();
    priorities();
    destinations();
    base_register();
    if apic::has_x2apic() && crate::cpu::virtualised() {
        x2apic();
        extended_interrupts();
    } else {
        skip("11.12: x2apic", "not here");
    }
    level();
    // What switched the APIC off has masked its entries: the 8259 is on LINT0, NMIs are on LINT1.
    apic::write(register::LVT_LINT0, 7 << 8);
    apic::write(0x360, 4 << 8);
    pic_modes();
    pic_priorities();
    super::delivery::run();
}

/// Interrupts on for a few instructions.
fn open() {
    // SAFETY: handlers run on a stack of their own and touch only atomics.
    unsafe { asm!("sti", "nop", "nop", "nop", "cli") };
}

/// MSR of a register in x2APIC mode.
fn msr(register: u64) -> u32 {
    0x800 + (register >> 4) as u32
}

/// The APIC is in x2APIC mode.
fn extended() -> bool {
    rdmsr(0x1b) & 1 << 10 != 0
}

/// Reads a register of the local APIC, in the mode that it is in.
fn local(register: u64) -> u32 {
    if extended() { rdmsr(msr(register)) as u32 } else { apic::read(register) }
}

fn set_local(register: u64, value: u32) {
    if extended() {
        // SAFETY: no register of the APIC touches memory.
        unsafe { wrmsr(msr(register), value.into()) };
    } else {
        apic::write(register, value);
    }
}

fn send(low: u32) {
    set_local(register::ICR_LOW, low);
}

/// Sends a fixed interrupt to this processor.
fn send_self(vector: u8) {
    send(0x4_4000 | u32::from(vector));
}

static DEPTH: AtomicU32 = AtomicU32::new(0);
static DEEPEST: AtomicU32 = AtomicU32::new(0);

/// 6.7.1: an NMI is held back while one is in service, however the handler exits, and comes after its IRET. Only one waits.
fn nmi_blocking() {
    fn hook(_: u8) {
        DEPTH.fetch_add(1, Relaxed);
        DEEPEST.fetch_max(DEPTH.load(Relaxed), Relaxed);
        if trap::count(2) - START.load(Relaxed) == 1 {
            for _ in 0..3 {
                send(0x4_4400);
                cpuid(0, 0);
            }
            for _ in 0..3 {
                cpuid(1, 0);
                let _: u8 = inp(0x61);
            }
        }
        DEPTH.fetch_sub(1, Relaxed);
    }
    static START: AtomicU32 = AtomicU32::new(0);
    let before = trap::count(2);
    START.store(before, Relaxed);
    trap::set_hook(Some(hook as Hook), 2);
    send(0x4_4400);
    for _ in 0..20 {
        cpuid(0, 0);
    }
    trap::set_hook(None, 2);
    let (taken, deepest) = (trap::count(2) - before, DEEPEST.load(Relaxed));
    equal("6.7.1: nmis while one is in service", (taken, deepest), (2, 1));
}

/// 6.7: an NMI is taken with IF clear and ends HLT; it comes through a LVT entry as well (11.5.1).
fn nmi_wakes() {
    let before = trap::count(2);
    apic::write(register::TIMER_DIVIDE, 0xb);
    apic::write(register::LVT_TIMER, 4 << 8 | 0x20);
    equal("11.5.1: the timer has no delivery mode", apic::read(register::LVT_TIMER) & 0x700, 0);
    apic::write(register::LVT_TIMER, 1 << 16);
    // LINT1, masked and not, keeps its mode.
    let lint1 = apic::read(0x360);
    apic::write(0x360, 1 << 16 | 4 << 8);
    equal("11.5.1: LINT1 as NMI", apic::read(0x360) & 0x1_0700, 1 << 16 | 4 << 8);
    apic::write(0x360, lint1);
    send(0x4_4400);
    cpuid(0, 0);
    equal("6.7: nmi with interrupts off", trap::count(2) - before, 1);
}

static ORDER: [AtomicU32; 4] = [const { AtomicU32::new(0) }; 4];
static FILLED: AtomicU32 = AtomicU32::new(0);

fn note(value: u32) {
    let at = FILLED.fetch_add(1, Relaxed) as usize;
    if let Some(place) = ORDER.get(at) {
        place.store(value, Relaxed);
    }
}

/// 11.8.3: priorities: TPR, PPR, ISR, nesting, EOI of the highest.
fn priorities() {
    set_local(register::TPR, 0x20);
    equal("11.8.3.1: ppr is tpr with nothing in service", local(register::PPR), 0x20);
    set_local(register::TPR, 0);
    // All three at once: the highest first.
    fn order(vector: u8) {
        note(vector.into());
        if vector == MIDDLE {
            note(local(register::PPR));
        }
    }
    FILLED.store(0, Relaxed);
    for vector in [LOW, MIDDLE, HIGH] {
        trap::set_hook(Some(order as Hook), vector);
        send_self(vector);
    }
    open();
    open();
    for vector in [LOW, MIDDLE, HIGH] {
        trap::set_hook(None, vector);
    }
    let seen = [0, 1, 2, 3].map(|index| ORDER[index].load(Relaxed));
    equal(
        "11.8.3: highest first, ppr is the class in service",
        seen,
        [HIGH.into(), MIDDLE.into(), u32::from(MIDDLE) & 0xf0, LOW.into()],
    );
    // A request of the class in service waits for EOI; ISR and IRR show both.
    static INSIDE: AtomicU32 = AtomicU32::new(0);
    fn same_class(vector: u8) {
        if vector != MIDDLE {
            return;
        }
        send_self(MIDDLE + 1);
        let bit = |base: u64, vector: u8| local(base + 0x10 * u64::from(vector / 32)) >> (vector % 32) & 1;
        INSIDE.store(
            bit(register::ISR, MIDDLE)
                | bit(register::IRR, MIDDLE + 1) << 1
                | bit(register::IRR, MIDDLE) << 2,
            Relaxed,
        );
    }
    trap::set_hook(Some(same_class as Hook), MIDDLE);
    let before = trap::count(MIDDLE + 1);
    send_self(MIDDLE);
    open();
    open();
    trap::set_hook(None, MIDDLE);
    equal("11.8.4: isr and irr", (INSIDE.load(Relaxed), trap::count(MIDDLE + 1) - before), (0b011, 1));
    // An EOI with nothing in service does nothing.
    set_local(register::EOI, 0);
    equal("11.8.5: eoi with nothing in service", local(register::PPR), 0);
    // Illegal vectors of a LVT entry that is not masked, and the ESR as it is latched by a write (11.5.3).
    set_local(register::ESR, 0);
    set_local(register::LVT_TIMER, 0x5);
    set_local(register::ESR, 0);
    let latched = local(register::ESR);
    set_local(register::LVT_TIMER, 1 << 16);
    set_local(register::ESR, 0);
    if crate::cpu::virtualised() {
        check("11.5.3: esr cleared by the next write", local(register::ESR) == 0, latched);
    }
    // The error interrupt (11.5.3), of an interrupt that may not be sent.
    if crate::cpu::virtualised() {
        let before = trap::count(LOW);
        set_local(register::LVT_ERROR, LOW.into());
        send(0x4_4005);
        open();
        set_local(register::LVT_ERROR, 1 << 16);
        set_local(register::ESR, 0);
        let latched = local(register::ESR);
        set_local(register::ESR, 0);
        equal("11.5.3: error interrupt", (trap::count(LOW) - before, latched & 0xe0), (1, 0x20));
    }
    // Software-disabled: all LVT masks are set and stay so (11.4.7.2).
    set_local(register::SVR, 0xff);
    set_local(register::LVT_TIMER, u32::from(LOW));
    equal("11.4.7.2: masks while software-disabled", local(register::LVT_TIMER) >> 16 & 1, 1);
    if crate::cpu::virtualised() {
        // QEMU's own APIC takes it all the same.
        let before = trap::count(LOW);
        send_self(LOW);
        open();
        set_local(register::SVR, 0x1ff);
        open();
        equal("11.4.7.2: no interrupt while software-disabled", trap::count(LOW) - before, 0);
        // Of the processor's own vectors none but the reserved ones is refused; bits 31:13 and 11:10 do not exist.
        set_local(register::SVR, 0x3ef);
        equal("11.9: spurious vector and focus checking", local(register::SVR), 0x3ef);
        let spurious = trap::count(0xff);
        equal("11.9: no spurious interrupt so far", spurious, 0);
    }
    set_local(register::SVR, 0x1ff);
}

/// 11.6.2: the ways to name a destination, from a processor to itself.
fn destinations() {
    let expect = |name: &str, high: u32, low: u32, want: u32| {
        let before = trap::count(LOW);
        apic::write(register::ICR_HIGH, high << 24);
        send(low | u32::from(LOW));
        open();
        equal(name, trap::count(LOW) - before, want);
    };
    let id = apic::read(register::ID) >> 24;
    expect("11.6.2.1: physical", id, 0x4000, 1);
    expect("11.6.2.1: physical broadcast", 0xff, 0x4000, 1);
    expect("11.6.2.1: physical, nobody", 0x7e, 0x4000, 0);
    apic::write(register::DFR, !0);
    apic::write(register::LDR, 0x02 << 24);
    expect("11.6.2.2: flat", 0x03, 0x4800, 1);
    expect("11.6.2.2: flat, not us", 0x0d, 0x4800, 0);
    expect("11.6.2.2: flat broadcast", 0xff, 0x4800, 1);
    apic::write(register::DFR, 0x0fff_ffff);
    apic::write(register::LDR, 0x34 << 24);
    expect("11.6.2.2: cluster", 0x3c, 0x4800, 1);
    expect("11.6.2.2: cluster, not us", 0x3b, 0x4800, 0);
    expect("11.6.2.2: another cluster", 0x24, 0x4800, 0);
    apic::write(register::DFR, !0);
    apic::write(register::LDR, 0x01 << 24);
    expect("11.6.2.4: lowest priority", 0x01, 0x4900, 1);
    expect("11.6.1: shorthand self", 0, 0x4_4000, 1);
    expect("11.6.1: shorthand all", 0, 0x8_4000, 1);
    expect("11.6.1: shorthand all but self", 0, 0xc_4000, 0);
    equal("11.6.1: delivery status idle", apic::read(register::ICR_LOW) >> 12 & 1, 0);
}

const GP: Option<Trap> = Some(Trap { vector: 13, error: 0, cr2: 0 });

fn try_wrmsr(index: u32, value: u64) -> Option<Trap> {
    attempt!(["wrmsr"], in("ecx") index, in("rax") value & 0xffff_ffff, in("rdx") value >> 32)
        .map(|trap| Trap { cr2: 0, ..trap })
}

fn try_rdmsr(index: u32) -> Option<Trap> {
    attempt!(["rdmsr"], in("ecx") index, out("rax") _, out("rdx") _).map(|trap| Trap { cr2: 0, ..trap })
}

/// 11.4.3, 11.12.5: the local APIC off, and the changes of mode that there are.
fn base_register() {
    if !crate::cpu::virtualised() {
        return skip("11.4.3: apic base", "QEMU's own APIC is compared by what real chips do");
    }
    let base = rdmsr(0x1b);
    equal("11.12.1: bits that do not exist", try_wrmsr(0x1b, base | 1 << 9), GP);
    equal("11.12.1: an address beyond the width", try_wrmsr(0x1b, base | 1 << 51), GP);
    equal("11.12.5: disabled and extended", try_wrmsr(0x1b, base & !(1 << 11) | 1 << 10), GP);
    // SAFETY: put back at once.
    unsafe { wrmsr(0x1b, base & !(1 << 11)) };
    let off = cpuid(1, 0)[3] >> 9 & 1;
    // SAFETY: as it was.
    unsafe { wrmsr(0x1b, base) };
    apic::enable();
    equal("11.4.3: no apic in cpuid while it is off", (off, cpuid(1, 0)[3] >> 9 & 1), (0, 1));
}

/// The same in x2APIC mode, in which a processor may deliver and end interrupts without its hypervisor.
fn extended_interrupts() {
    let base = rdmsr(0x1b);
    // SAFETY: the page is not used until the mode is back.
    unsafe { wrmsr(0x1b, base | 1 << 10) };
    set_local(register::SVR, 0x1ff);
    priorities();
    level();
    // 6.8.3: one that waits in the shadow of STI ends the HLT behind it.
    let before = trap::count(LOW);
    send_self(LOW);
    // SAFETY: the handler touches only atomics; the interrupt waits already.
    unsafe { asm!("sti", "hlt", "cli") };
    let woken = trap::count(LOW) - before;
    // What the task priority holds back comes when CR8 falls, and not before.
    // SAFETY: the task priority, put back.
    unsafe { asm!("mov cr8, {}", in(reg) u64::from(MIDDLE >> 4)) };
    let before = trap::count(MIDDLE);
    send_self(MIDDLE);
    open();
    let held = trap::count(MIDDLE) - before;
    // SAFETY: as above.
    unsafe { asm!("sti", "mov cr8, {}", "nop", "nop", "cli", in(reg) 0u64) };
    let come = trap::count(MIDDLE) - before;
    // SAFETY: back to xAPIC through "disabled" (11.12.5).
    unsafe {
        wrmsr(0x1b, base & !(1 << 11 | 1 << 10));
        wrmsr(0x1b, base);
    }
    apic::enable();
    equal("11.12: an interrupt that waits ends hlt", woken, 1);
    equal("11.8.6: cr8 holds back and lets go", (held, come), (0, 1));
}

/// 11.12: x2APIC mode.
fn x2apic() {
    let base = rdmsr(0x1b);
    let id = apic::read(register::ID) >> 24;
    equal("11.12: its registers are not there in xapic mode", try_rdmsr(0x802), GP);
    // SAFETY: the page is not used until the mode is back.
    unsafe { wrmsr(0x1b, base | 1 << 10) };
    equal("11.12.1.1: id", rdmsr(0x802), id.into());
    equal("11.12.10.2: logical id", rdmsr(0x80d), u64::from((id >> 4) << 16 | 1 << (id & 0xf)));
    for (name, index) in [
        ("11.12.1.2: no destination format", 0x80e),
        ("11.12.1.2: no second half of the icr", 0x831),
        ("11.12.1.2: eoi is not readable", 0x80b),
        ("11.12.1.2: self-ipi is not readable", 0x83f),
        ("11.12.1.2: a hole", 0x804),
        ("11.12.1.2: behind the last", 0x840),
    ] {
        equal(name, try_rdmsr(index), GP);
    }
    for (name, index, value) in [
        ("11.12.1.2: id is read-only", 0x802, 0),
        ("11.12.1.2: version is read-only", 0x803, 0),
        ("11.12.1.2: ppr is read-only", 0x80a, 0),
        ("11.12.1.2: logical id is read-only", 0x80d, 0),
        ("11.12.1.2: isr is read-only", 0x810, 0),
        ("11.12.1.2: current count is read-only", 0x839, 0),
        ("11.12.1.3: eoi takes 0 only", 0x80b, 1),
        ("11.12.1.3: esr takes 0 only", 0x828, 1),
        ("11.12.1.3: tpr has eight bits", 0x808, 0x100),
        ("11.12.1.3: svr's reserved bits", 0x80f, 1 << 20),
        ("11.12.1.3: lvt's reserved bits", 0x832, 1 << 20),
        ("11.12.1.3: divider's reserved bits", 0x83e, 1 << 2),
        ("11.12.1.3: icr's reserved bits", 0x830, 1 << 20),
        ("11.12.5: back to xapic directly", 0x1b, base),
    ] {
        equal(name, try_wrmsr(index, value), GP);
    }
    let before = trap::count(LOW);
    // SAFETY: interrupts whose vectors are handled.
    unsafe {
        wrmsr(0x830, u64::from(id) << 32 | u64::from(LOW));
        open();
        wrmsr(0x830, 0xffff_ffff << 32 | u64::from(LOW));
        open();
        // Logical: cluster 0, this processor's bit.
        wrmsr(0x830, u64::from(1u32 << id) << 32 | 0x800 | u64::from(LOW));
        open();
        wrmsr(0x83f, u64::from(LOW));
        open();
    }
    let taken = trap::count(LOW) - before;
    // CR8 and TPR are one here too.
    // SAFETY: the task priority, put back.
    let (tpr, ppr) = unsafe {
        asm!("mov cr8, {}", in(reg) 4u64);
        let seen = (rdmsr(0x808), rdmsr(0x80a));
        wrmsr(0x808, 0);
        seen
    };
    let cr8 = read_cr!("cr8");
    // SAFETY: back to xAPIC through "disabled" (11.12.5).
    unsafe {
        wrmsr(0x1b, base & !(1 << 11 | 1 << 10));
        wrmsr(0x1b, base);
    }
    apic::enable();
    equal("11.12.9: physical, broadcast, logical, self", taken, 4);
    equal("11.8.6: tpr, ppr and cr8", (tpr, ppr, cr8), (0x40, 0x40, 0));
    equal("11.12.5.1: xapic again", apic::read(register::ID) >> 24, id);
}

/// 82093AA 3.2.4, SDM 11.8.5: a level-triggered line: remote IRR until EOI, again if it is still there.
fn level() {
    const PIN: u32 = 4;
    let entry = || apic::io_read(0x10 + 2 * PIN);
    static REMOTE: AtomicU32 = AtomicU32::new(0);
    fn hook(_: u8) {
        REMOTE.store(apic::io_read(0x10 + 2 * 4) >> 14 & 1, Relaxed);
        if trap::count(MIDDLE + 4) & 1 == 0 {
            // The line goes down: transmitter interrupts off.
            outp(crate::console::PORT + 1, 0u8);
        }
    }
    // The hook lets the line down at an even count.
    while trap::count(MIDDLE + 4) & 1 == 1 {
        send_self(MIDDLE + 4);
        open();
    }
    let version = apic::io_read(1);
    check(
        "82093: version and pins",
        matches!(version & 0xff, 0x11 | 0x20) && version >> 16 & 0xff == 23,
        format_args!("{version:#x}"),
    );
    apic::io_redirect(PIN, 0x1_8000 | u64::from(MIDDLE + 4));
    trap::set_hook(Some(hook as Hook), MIDDLE + 4);
    outp(crate::console::PORT + 1, 2u8);
    open();
    let masked = trap::count(MIDDLE + 4) & 1;
    let before = trap::count(MIDDLE + 4);
    apic::io_redirect(PIN, 0x8000 | u64::from(MIDDLE + 4));
    for _ in 0..4 {
        open();
    }
    let taken = trap::count(MIDDLE + 4) - before;
    trap::set_hook(None, MIDDLE + 4);
    outp(crate::console::PORT + 1, 0u8);
    equal("82093: masked level does nothing", masked, 0);
    equal("82093: level comes again after eoi, until it is gone", (taken, REMOTE.load(Relaxed)), (2, 1));
    equal("82093: remote irr is clear after eoi", entry() >> 14 & 1, 0);
    apic::io_redirect(PIN, 1 << 16);
    apic::io_write(0x10 + 2 * PIN, 0x1_0000 | 0x5000);
    equal("82093: status and remote irr are read-only", entry() & 0x5000, 0);
    apic::io_redirect(PIN, 1 << 16);
}

/// Initialises the 8259 pair with this last word for the first; only timer and cascade open.
fn init_first(word_4: u8) {
    for (port, value) in [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, 0x20),
        (0xa1, 0x28),
        (0x21, 4),
        (0xa1, 2),
        (0x21, word_4),
        (0xa1, 1),
    ] {
        outp(port, value);
    }
    outp(0x21, 0xffu8);
    outp(0xa1, 0xffu8);
}

fn requests(port: u16, command: u8) -> u8 {
    outp(port, command);
    inp(port)
}

/// 8259A: modes.
fn pic_modes() {
    // A tick of the 8254 waits in IRR.
    outp(0x43, 0x34u8);
    outp(0x40, 0xa9u8);
    outp(0x40, 0x04u8);
    let tick = || {
        init_first(1);
        let start = tsc();
        while requests(0x20, 0x0a) & 1 == 0 && tsc() - start < 1 << 32 {}
    };
    // Poll: the read acknowledges.
    tick();
    outp(0x21, 0xfeu8);
    outp(0x20, 0x0cu8);
    let polled: u8 = inp(0x20);
    let service = requests(0x20, 0x0b);
    outp(0x20, 0x20u8);
    equal("8259: poll", (polled, service & 1, requests(0x20, 0x0b) & 1), (0x80, 1, 0));
    // Automatic EOI: nothing stays in service.
    init_first(3);
    outp(0x21, 0xfeu8);
    static IN_SERVICE: AtomicU32 = AtomicU32::new(0xff);
    fn look(_: u8) {
        IN_SERVICE.store(requests(0x20, 0x0b).into(), Relaxed);
    }
    trap::set_hook(Some(look as Hook), PIC_FIRST);
    wait();
    let automatic = IN_SERVICE.load(Relaxed);
    init_first(1);
    outp(0x21, 0xfeu8);
    wait();
    trap::set_hook(None, PIC_FIRST);
    equal("8259: in service with and without aeoi", (automatic & 1, IN_SERVICE.load(Relaxed) & 1), (0, 1));
    // ELCR: which bits exist.
    let old: (u8, u8) = (inp(0x4d0), inp(0x4d1));
    outp(0x4d0, 0xffu8);
    outp(0x4d1, 0xffu8);
    let all: (u8, u8) = (inp(0x4d0), inp(0x4d1));
    outp(0x4d0, old.0);
    outp(0x4d1, old.1);
    equal("PIIX: elcr", all, (0xf8, 0xde));
    // Specific EOI and rotation.
    tick();
    outp(0x21, 0xfeu8);
    outp(0x20, 0x0cu8);
    let _: u8 = inp(0x20);
    outp(0x20, 0x61u8);
    let other = requests(0x20, 0x0b) & 1;
    outp(0x20, 0x60u8);
    equal("8259: specific eoi", (other, requests(0x20, 0x0b) & 1), (1, 0));
    apic::init_pic(!0);
}

/// 8259A: who comes first, by rotation and with special masks: a tick of the 8254 on input 0 and the UART's transmitter on 4.
fn pic_priorities() {
    const BOTH: u8 = 0x11;
    let ask = || {
        init_first(1);
        outp(crate::console::PORT + 1, 0u8);
        outp(crate::console::PORT + 1, 2u8);
        let start = tsc();
        while requests(0x20, 0x0a) & BOTH != BOTH && tsc() - start < 1 << 32 {}
        outp(0x21, !BOTH);
    };
    let poll = || -> u8 {
        outp(0x20, 0x0cu8);
        inp(0x20)
    };
    // Fixed: 0 first, which then holds 4 back, until it is masked in special mask mode.
    ask();
    let first = poll();
    let held = poll();
    outp(0x21, !BOTH | 1);
    let masked = poll();
    outp(0x20, 0x68u8);
    let special = poll();
    outp(0x20, 0x48u8);
    equal("8259: fixed priority", (first, held, masked), (0x80, 0, 0));
    equal("8259: special mask mode", (special, requests(0x20, 0x0b)), (0x84, BOTH));
    // Input 0 the last: 4 comes before it.
    ask();
    outp(0x20, 0xc0u8);
    equal("8259: set priority", (poll(), poll()), (0x84, 0));
    // The end of 4 makes that the last; 0 waits still.
    outp(0x20, 0xa0u8);
    equal("8259: rotate at the end of interrupt", (requests(0x20, 0x0b), poll()), (0, 0x80));
    outp(0x20, 0xe0u8);
    equal("8259: specific end with rotation", requests(0x20, 0x0b), 0);
    outp(crate::console::PORT + 1, 0u8);
    let _: u8 = inp(crate::console::PORT + 2);
    apic::init_pic(!0);
}

//! Several processors: INIT, start-up and interprocessor interrupts (SDM vol. 3, 9.4 and 11.6).

use crate::apic::{self, register};
use crate::cpu::{cpuid, disable_interrupts, enable_interrupts, rdmsr, tsc, wait, window, wrmsr};
use crate::report::{check, equal, skip};
use crate::smp::{self, INIT, START_UP, pause_ticks, send, wait_until};
use crate::trap;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

/// Vectors of the cases, one each.
const PHYSICAL: u8 = 0x61;
const LOGICAL: u8 = 0x62;
const OTHERS: u8 = 0x63;
const ALL: u8 = 0x64;
const LOWEST: u8 = 0x65;
const TIMER: u8 = 0x66;
const MASKED: u8 = 0x67;
const PINGS: [u8; 2] = [0x71, 0x72];
const PONG: u8 = 0x73;

/// Ends what `answer` does: 1 asks it to, 2 is its answer.
static STOP: AtomicU32 = AtomicU32::new(0);

/// An MSR that INIT does not touch, and a value for it.
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const MARK: u64 = 0x1234_5678_9abc;

/// What a started processor is told to do, one bit each, and what it tells.
static TASK: AtomicU32 = AtomicU32::new(0);
static ALIVE: AtomicU64 = AtomicU64::new(0);
static SAID: AtomicU64 = AtomicU64::new(0);
static IDS: AtomicU32 = AtomicU32::new(0);

const READ_MARK: u32 = 1;
const SET_MARK: u32 = 2;
const TELL_TSC: u32 = 3;
const TICK: u32 = 4;
const TELL_IDS: u32 = 5;
const MASK: u32 = 6;
const UNMASK: u32 = 7;
const SET_LOGICAL: u32 = 8;
const START_CLOCK: u32 = 9;
const TELL_TIME: u32 = 10;

/// Runs the suite.
pub fn run() {
    disable_interrupts();
    apic::init_pic(0xffff);
    apic::enable();
    let count = smp::count().min(smp::MAX);
    if count < 2 {
        return skip("several processors", "there is one only");
    }
    all_at_once(count);
    start_up(count);
    interrupts(count);
    lowest_priority(count);
    init();
    times(count);
    clocks(count);
    lost_page();
    x2apic();
    for index in 1..count {
        send(index as u32, INIT);
    }
}

/// Two interrupts to the other processor, one back, again and again: none may be lost, whatever either of them does then.
fn x2apic() {
    const ROUNDS: u32 = 2000;
    if !apic::has_x2apic() {
        return skip("x2apic interrupts between processors", "there is no x2apic");
    }
    STOP.store(0, SeqCst);
    ALIVE.store(0, SeqCst);
    smp::start(1, answer);
    apic::enable_x2apic();
    wait_until(|| ALIVE.load(SeqCst) != 0);
    let before = PINGS.map(trap::count);
    let mut rounds = 0;
    while rounds < ROUNDS {
        let back = trap::count(PONG);
        for vector in PINGS {
            send(1, u32::from(vector) | 1 << 14);
        }
        if !wait_until(|| {
            occupied(rounds & 1);
            trap::count(PONG) != back
        }) {
            break;
        }
        rounds += 1;
    }
    let came = PINGS.map(|vector| trap::count(vector).wrapping_sub(before[usize::from(vector - PINGS[0])]));
    equal(
        "11.12 no interrupt between processors is lost in x2apic mode",
        (rounds, came),
        (ROUNDS, [ROUNDS; 2]),
    );
    // 11.12.10.2: of cluster 0, both by their bits, and the second alone.
    let before = trap::count(ALL);
    for who in [3, 2] {
        send(who, 1 << 11 | u32::from(ALL) | 1 << 14);
        let want = before.wrapping_add(if who == 3 { 2 } else { 3 });
        wait_until(|| {
            window();
            trap::count(ALL) == want
        });
    }
    equal("11.12.10.2 logical destinations in x2apic mode", trap::count(ALL).wrapping_sub(before), 3);
    STOP.store(1, SeqCst);
    send(1, 4 << 8 | 1 << 14);
    check("11.12.5 back to xapic mode", wait_until(|| STOP.load(SeqCst) == 2), STOP.load(SeqCst));
    apic::leave_x2apic();
}

/// Something that a processor can do while an interrupt comes.
fn occupied(kind: u32) {
    match kind {
        0 => {}
        1 => _ = cpuid(0, 0),
        // The requests are read from the local APIC.
        2 => _ = (0x820..0x828).map(rdmsr).max(),
        _ => return wait(),
    }
    window();
}

/// A processor that answers when both have come.
fn answer(index: usize) -> ! {
    apic::enable_x2apic();
    let mut seen = PINGS.map(trap::count);
    ALIVE.fetch_or(1 << index, SeqCst);
    let mut round = 0;
    while STOP.load(SeqCst) == 0 {
        occupied(round >> 1 & 3);
        let now = PINGS.map(trap::count);
        if now[0] != seen[0] && now[1] != seen[1] {
            (seen, round) = (now, round + 1);
            send(0, u32::from(PONG) | 1 << 14);
        }
    }
    apic::leave_x2apic();
    STOP.store(2, SeqCst);
    loop {
        wait();
    }
}

/// A processor that counts that it lives and does what it is told.
fn work(index: usize) -> ! {
    ALIVE.fetch_or(1 << index, SeqCst);
    let mine = (index as u32) << 8;
    loop {
        let task = TASK.load(SeqCst);
        if task != 0 && task & 0xff00 == mine {
            match task & 0xff {
                READ_MARK => SAID.store(rdmsr(KERNEL_GS_BASE), SeqCst),
                // SAFETY: no code here uses SWAPGS.
                SET_MARK => unsafe { wrmsr(KERNEL_GS_BASE, MARK) },
                TELL_TSC => SAID.store(tsc(), SeqCst),
                TELL_IDS => {
                    let first = cpuid(1, 0)[1] >> 24;
                    let extended = if cpuid(0, 0)[0] >= 0xb { cpuid(0xb, 0)[3] } else { first };
                    IDS.store(first | extended << 8 | (apic::read(register::ID) >> 24) << 16, SeqCst);
                }
                MASK => apic::write(register::TPR, 0xf0),
                UNMASK => apic::write(register::TPR, 0),
                SET_LOGICAL => {
                    apic::write(register::DFR, !0);
                    apic::write(register::LDR, 1 << (24 + index));
                }
                START_CLOCK => start_clock(index),
                TELL_TIME => SAID.store(nanoseconds(index), SeqCst),
                _ => {
                    apic::write(register::TIMER_DIVIDE, 0xb);
                    apic::write(register::LVT_TIMER, TIMER.into());
                    apic::write(register::TIMER_INITIAL, 10_000);
                }
            }
            TASK.store(0, SeqCst);
        }
        window();
        core::hint::spin_loop();
    }
}

/// A processor that halts, and says how often it has been woken.
fn sleep(index: usize) -> ! {
    ALIVE.fetch_or(1 << index, SeqCst);
    loop {
        wait();
        SAID.fetch_add(1, SeqCst);
    }
}

fn tell(index: usize, task: u32) -> bool {
    TASK.store(task | (index as u32) << 8, SeqCst);
    wait_until(|| TASK.load(SeqCst) == 0)
}

/// 9.4.4: INIT and start-up to all others by one command each, as many kernels have it. None comes twice, though it is told twice.
fn all_at_once(count: usize) {
    const OTHERS: u32 = 3 << 18;
    // cli; lock inc word ptr cs:[0x40]; hlt; jmp to the hlt.
    const CODE: [u8; 11] = [0xfa, 0x2e, 0xf0, 0xff, 0x06, 0x40, 0x00, 0xf4, 0xeb, 0xfd, 0x90];
    let arrived = (smp::PAGE + 0x40) as *mut u16;
    // SAFETY: the start-up page; no other processor runs.
    unsafe {
        (smp::PAGE as *mut [u8; CODE.len()]).write_volatile(CODE);
        arrived.write_volatile(0);
    }
    send(0, INIT | OTHERS);
    pause_ticks(1_000_000);
    for _ in 0..2 {
        send(0, START_UP | OTHERS);
        pause_ticks(1_000_000);
    }
    // SAFETY: as above.
    let arrived = || u32::from(unsafe { arrived.read_volatile() });
    wait_until(|| arrived() + 1 >= count as u32);
    pause_ticks(1_000_000);
    equal("9.4.4 INIT and start-up of all others", arrived(), count as u32 - 1);
}

static RECEIVER: AtomicU32 = AtomicU32::new(0);

/// 11.6.2.4: of those that are named, one whose priority is the lowest. 11.6.2.2: in flat mode several are named by their bits.
fn lowest_priority(count: usize) {
    fn receiver(_: u8) {
        RECEIVER.store(apic::read(register::ID) >> 24, SeqCst);
    }
    let all = count as u32;
    apic::write(register::LDR, 1 << 24);
    for index in 1..count {
        tell(index, SET_LOGICAL);
    }
    equal("11.6.2.2 all by their bits", sent((1 << all) - 1, 1 << 11, LOGICAL, all), all);
    equal("11.6.2.2 all but one by their bits", sent((1 << all) - 2, 1 << 11, LOGICAL, all - 1), all - 1);
    trap::set_hook(Some(receiver as trap::Hook), LOWEST);
    // This processor's task priority lets the vector through, and is higher than the others'.
    apic::write(register::TPR, 0x20);
    let mut wrong = 0;
    for _ in 0..8 {
        RECEIVER.store(0, SeqCst);
        let came = sent((1 << all) - 1, 1 << 11 | 1 << 8, LOWEST, 1);
        wrong += u32::from(came != 1 || RECEIVER.load(SeqCst) == 0);
    }
    equal("11.6.2.4 not to the higher priority", wrong, 0);
    apic::write(register::TPR, 0);
    // The second one's is the highest now.
    tell(1, MASK);
    RECEIVER.store(1, SeqCst);
    let came = sent(3, 1 << 11 | 1 << 8, LOWEST, 1);
    equal("11.6.2.4 to the lower priority of two", (came, RECEIVER.load(SeqCst)), (1, 0));
    tell(1, UNMASK);
    trap::set_hook(None, LOWEST);
}

/// KVM's clock as a processor finds it in memory (Linux, Documentation/virt/kvm/x86/msr.rst): version, TSC and time of its last
/// update, and how to come from one to the other.
#[repr(C, align(64))]
struct Clock {
    version: u32,
    pad: u32,
    timestamp: u64,
    time: u64,
    factor: u32,
    shift: i8,
    flags: u8,
    rest: [u8; 2],
}

static mut CLOCKS: [Clock; smp::MAX] = [const {
    Clock { version: 0, pad: 0, timestamp: 0, time: 0, factor: 0, shift: 0, flags: 0, rest: [0; 2] }
}; smp::MAX];

/// MSR that starts the clock.
const KVM_CLOCK: u32 = 0x4b56_4d01;

/// Nanoseconds by processor `index`'s clock.
fn nanoseconds(index: usize) -> u64 {
    let clock = &raw const CLOCKS;
    loop {
        // SAFETY: this processor's entry, which its hypervisor writes while the processor does not run: volatile.
        let (before, value, now, after) = unsafe {
            let clock = &raw const (*clock)[index];
            let before = (&raw const (*clock).version).read_volatile();
            let value = clock.read_volatile();
            (before, value, tsc(), (&raw const (*clock).version).read_volatile())
        };
        if before == after && before & 1 == 0 {
            let ticks = now.wrapping_sub(value.timestamp);
            let ticks = if value.shift < 0 { ticks >> -value.shift } else { ticks << value.shift };
            return value.time + ((u128::from(ticks) * u128::from(value.factor)) >> 32) as u64;
        }
    }
}

fn start_clock(index: usize) {
    let clock = &raw const CLOCKS;
    // SAFETY: only the address of the processor's own entry is taken, and the hypervisor writes nothing else.
    unsafe { wrmsr(KVM_CLOCK, &raw const (*clock)[index] as u64 | 1) };
}

/// Each processor has a clock of its own, and all show the same time.
fn clocks(count: usize) {
    let [highest, signature, ..] = cpuid(0x4000_0000, 0);
    if highest < 0x4000_0001
        || signature != u32::from_le_bytes(*b"KVMK")
        || cpuid(0x4000_0001, 0)[0] >> 3 & 1 == 0
    {
        return skip("kvmclock", "there is none");
    }
    start_clock(0);
    for index in 1..count {
        tell(index, START_CLOCK);
        let apart = (0..100).filter(|_| {
            let before = nanoseconds(0);
            tell(index, TELL_TIME);
            !(before..=nanoseconds(0)).contains(&SAID.load(SeqCst))
        });
        equal("kvmclock: readings out of order", apart.count(), 0);
    }
    // It goes at the rate of the PM timer.
    let (start, from) = (crate::cpu::inp::<u32>(0x608), nanoseconds(0));
    while crate::cpu::inp::<u32>(0x608).wrapping_sub(start) & 0xff_ffff < 357_954 {}
    let passed = nanoseconds(0) - from;
    check("kvmclock: a tenth of a second", (98_000_000..200_000_000).contains(&passed), passed);
    // SAFETY: ends it.
    unsafe { wrmsr(KVM_CLOCK, 0) };
}

#[repr(align(4096))]
struct Page([u64; 512]);

/// A page that the other processor reads when it is asked to, and how often it was.
static mut SHARED: Page = Page([0; 512]);
static ASKED: AtomicU32 = AtomicU32::new(0);
static ANSWERED: AtomicU32 = AtomicU32::new(0);

fn watch(_: usize) -> ! {
    loop {
        let asked = ASKED.load(SeqCst);
        if asked != ANSWERED.load(SeqCst) {
            // SAFETY: a static that the first processor writes: a volatile read.
            SAID.store(unsafe { (&raw const SHARED.0[0]).read_volatile() }, SeqCst);
            ANSWERED.store(asked, SeqCst);
        }
        core::hint::spin_loop();
    }
}

/// Nested translations end on all processors (SDM vol. 3, 29.4.3.3; APM vol. 2, 15.16): where the balloon has taken a page that another
/// processor has read, that one finds there what everybody finds, and nothing of what was there. QEMU and Bochs drop translations at each
/// entry anyway, so that it is a chip that would see one kept.
fn lost_page() {
    let Some(mut balloon) = crate::balloon::Balloon::start() else {
        return skip("29.4.3.3 a page that is taken away", "there is no balloon");
    };
    let write = |value: u64| {
        // SAFETY: as in `watch`.
        unsafe { (&raw mut SHARED.0[0]).write_volatile(value) };
    };
    let other = || {
        let asked = ASKED.fetch_add(1, SeqCst).wrapping_add(1);
        wait_until(|| ANSWERED.load(SeqCst) == asked).then(|| SAID.load(SeqCst))
    };
    let started = smp::start(1, watch);
    // Until one round is not as it must be.
    let good = (0..20u64).take_while(|round| {
        write(0x5555);
        let before = other();
        let taken = balloon.take(&raw const SHARED as u64);
        let after = other();
        write(*round);
        (before, taken, after, other()) == (Some(0x5555), true, Some(0), Some(*round))
    });
    equal("29.4.3.3 a page that is taken away", (started, good.count()), (true, 20));
}

fn start_up(count: usize) {
    smp::prepare(1, work);
    send(1, INIT);
    pause_ticks(2_000_000);
    equal("9.4.4 INIT alone starts nobody", ALIVE.load(SeqCst), 0);
    for index in 1..count {
        check("9.4.4 INIT and start-up", smp::start(index, work), index);
        wait_until(|| ALIVE.load(SeqCst) >> index & 1 != 0);
        let (cr0, edx, cs) = smp::found();
        equal("9.4.4 starts at the page of the vector", cs, (smp::PAGE >> 4) as u16);
        // CD and NW stay as they were.
        equal("table 10-1 CR0 after INIT", cr0 & !0x6000_0000, 0x10);
        equal("table 10-1 EDX after INIT", edx, cpuid(1, 0)[0]);
        tell(index, TELL_IDS);
        let id = index as u32;
        equal("8.9 identifiers agree", IDS.load(SeqCst), id | id << 8 | id << 16);
    }
    ALIVE.store(0, SeqCst);
    send(1, START_UP);
    pause_ticks(1_000_000);
    equal("9.4.4 a start-up of a running processor is ignored", ALIVE.load(SeqCst), 0);
}

/// Sends, and tells how many handlers have run for `vector` when `want` of them should have.
fn sent(destination: u32, command: u32, vector: u8, want: u32) -> u32 {
    let before = trap::count(vector);
    send(destination, command | u32::from(vector) | 1 << 14);
    enable_interrupts();
    wait_until(|| trap::count(vector) - before >= want);
    pause_ticks(1_000_000);
    disable_interrupts();
    trap::count(vector) - before
}

fn interrupts(count: usize) {
    let all = count as u32;
    for index in 1..all {
        equal("11.6.2.1 physical destination", sent(index, 0, PHYSICAL, 1), 1);
    }
    equal("11.6.2.1 physical broadcast", sent(0xff, 0, PHYSICAL, all), all);
    equal("11.6.1 shorthand: all but self", sent(0, 3 << 18, OTHERS, all - 1), all - 1);
    equal("11.6.1 shorthand: all", sent(0, 2 << 18, ALL, all), all);
    equal("11.6.1 shorthand: self", sent(0, 1 << 18, ALL, 1), 1);
    equal("11.6.2.4 lowest priority goes to one", sent(0xff, 1 << 8, LOWEST, 1), 1);
    // Nobody has a logical identifier of its own yet: only the first gets one.
    apic::write(register::LDR, 1 << 24);
    equal("11.6.2.2 logical destination, flat", sent(1, 1 << 11, LOGICAL, 1), 1);
    // A task priority holds an interrupt back until it falls.
    tell(1, MASK);
    equal("11.8.3.1 task priority holds back", sent(1, 0, MASKED, 0), 0);
    let before = trap::count(MASKED);
    tell(1, UNMASK);
    check("11.8.3.1 and lets go", wait_until(|| trap::count(MASKED) > before), before);
    let before = trap::count(2);
    send(1, 4 << 8 | 1 << 14);
    check("11.6.1 NMI", wait_until(|| trap::count(2) > before), before);
    let before = trap::count(TIMER);
    tell(1, TICK);
    check("11.5.4 a timer of its own", wait_until(|| trap::count(TIMER) > before), before);
}

fn init() {
    tell(1, SET_MARK);
    ALIVE.store(0, SeqCst);
    check("9.4.4 INIT of a running processor", smp::start(1, work), 1);
    wait_until(|| ALIVE.load(SeqCst) != 0);
    tell(1, READ_MARK);
    equal("table 10-1 MSRs after INIT", SAID.load(SeqCst), MARK);
    SAID.store(0, SeqCst);
    check("9.4.4 started again", smp::start(1, sleep), 1);
    pause_ticks(1_000_000);
    equal("halted until something comes", SAID.load(SeqCst), 0);
    for round in 1..=3 {
        sent(1, 0, PHYSICAL, 1);
        check("an interrupt wakes from HLT", wait_until(|| SAID.load(SeqCst) == round), round);
    }
    let before = trap::count(2);
    send(1, 4 << 8 | 1 << 14);
    let woken = wait_until(|| SAID.load(SeqCst) == 4);
    check("an NMI wakes from HLT", woken && trap::count(2) > before, SAID.load(SeqCst));
    smp::start(1, work);
}

fn times(count: usize) {
    for index in 1..count {
        let apart = (0..100).filter(|_| {
            let before = tsc();
            tell(index, TELL_TSC);
            !(before..=tsc()).contains(&SAID.load(SeqCst))
        });
        equal("18.17 one time for all: readings out of order", apart.count(), 0);
    }
}

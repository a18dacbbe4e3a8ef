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

/// Runs the suite.
pub fn run() {
    disable_interrupts();
    apic::init_pic(0xffff);
    apic::enable();
    let count = smp::count().min(smp::MAX);
    if count < 2 {
        return skip("several processors", "there is one only");
    }
    start_up(count);
    interrupts(count);
    init();
    times(count);
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

//! A second processor, which plays rounds of its own beside the first.
//!
//! It runs a copy of this kernel, at the same addresses as the first: on its page tables, the large pages of kernel, arena
//! and stacks lie elsewhere in RAM. So nothing in the sandbox has to know that there are two. What they have in common is
//! one page, [`Shared`], which hostile code of neither can write.
//!
//! The first one starts it, with a fresh copy, whenever it has not ended a round in time: it may have been sent an INIT.

use super::sandbox::{self, CODE, IMAGE, LARGE, TRAP_STACKS};
use super::{Found, Round, quirks};
use crate::boot::{self, PD, PDPT, PML4};
use crate::{apic, smp, trap};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// From a large page of the first processor's (kernel, arena, stacks) to the second one's in its place.
pub const DISTANCE: u64 = 2 * LARGE;
/// The large page that holds what the two have in common.
pub const SHARED: u64 = 0x3a0_0000;

/// The large pages of which each processor has its own.
pub const PAGES: [u64; 3] = [IMAGE, CODE, TRAP_STACKS];

/// What the two have in common.
#[derive(Debug)]
#[repr(C)]
pub struct Shared {
    there: AtomicBool,
    seed: AtomicU64,
    number: AtomicU64,
    /// Counts rounds as they begin.
    begun: AtomicU64,
    /// The latest that is to end.
    over: AtomicU64,
    /// The latest that the second processor has ended.
    ended: AtomicU64,
    /// Its exits.
    exits: AtomicU64,
    /// Pieces of code that need the watchdog now.
    pub armed: AtomicU64,
}

/// Ticks of the TSC in which the second one comes to an end, or up; where it does not it is lost.
const PATIENCE: u64 = 100_000_000;
/// Ticks between two NMIs that call it back from code that waits.
const CALL: u64 = 5_000_000;

/// What both have.
pub fn shared() -> &'static Shared {
    // SAFETY: RAM that nothing else uses, zero or initialised as this type; all of it atomic.
    unsafe { &*(SHARED as *const Shared) }
}

/// There is a second processor.
pub fn there() -> bool {
    shared().there.load(SeqCst)
}

/// Starts the second processor, if there is one; how many there are then.
pub fn init(found: &Found) -> usize {
    // SAFETY: nobody uses it yet; zeros are a value of it.
    unsafe { (SHARED as *mut Shared).write_bytes(0, 1) };
    // SAFETY: one processor; the copy of this kernel has them too.
    unsafe { (&raw mut FOUND).write(Some(found.clone())) };
    if smp::count() > 1 && start() {
        shared().there.store(true, SeqCst);
    }
    1 + usize::from(there())
}

static mut FOUND: Option<Found> = None;

/// INIT and start-up to all others.
const OTHERS: u32 = 3 << 18;

/// Starts the second processor on a fresh copy; true when it has come up.
fn start() -> bool {
    let shared = shared();
    smp::send(0, smp::INIT | OTHERS);
    smp::pause_ticks(100_000);
    copy();
    shared.ended.store(u64::MAX, SeqCst);
    smp::prepare(1, arrive);
    smp::send(0, smp::START_UP | OTHERS);
    wait(|| shared.ended.load(SeqCst) != u64::MAX)
}

fn wait(done: impl Fn() -> bool) -> bool {
    let start = crate::cpu::tsc();
    let mut called = start;
    while !done() {
        let now = crate::cpu::tsc();
        if now - start > PATIENCE {
            return false;
        }
        if now - called > CALL {
            called = now;
            smp::send(0, 4 << 8 | OTHERS);
        }
        core::hint::spin_loop();
    }
    true
}

/// Copies this kernel, and has the copy's page tables lead to itself.
fn copy() {
    let add = |table: u64, index: u64, distance: u64| {
        let entry = (table + DISTANCE + index * 8) as *mut u64;
        // SAFETY: an entry of a table in the copy, which the second processor does not run on now.
        unsafe { entry.write(entry.read() + distance) };
    };
    // SAFETY: the copy's page is there for this, and the second processor waits for its start-up.
    unsafe {
        let size = (boot::end_of_image() - IMAGE) as usize;
        core::ptr::copy_nonoverlapping(IMAGE as *const u8, (IMAGE + DISTANCE) as *mut u8, size);
        ((&raw const sandbox::OFFSET as u64 + DISTANCE) as *mut u64).write(DISTANCE);
    }
    add(&raw const PML4 as u64, 0, DISTANCE);
    for index in 0..4 {
        add(&raw const PDPT as u64, index, DISTANCE);
    }
    for page in PAGES {
        add(&raw const PD as u64, page / LARGE, DISTANCE);
    }
}

/// The second processor comes up in the first one's kernel, and goes over to its own.
fn arrive(_: usize) -> ! {
    let tables = &raw const PML4 as u64 + DISTANCE;
    // SAFETY: the copy has the same code at the same addresses; its stack is nobody's yet. Interrupts are off.
    unsafe {
        core::arch::asm!(
            "mov cr3, {tables}",
            "lea rsp, [rip + boot_stack_top]",
            "lgdt [rip + gdt_pointer]",
            "call {main}",
            "ud2",
            tables = in(reg) tables,
            main = sym main,
            options(noreturn),
        )
    }
}

/// On its own: rounds, for ever.
extern "C" fn main() -> ! {
    boot::reload_task();
    trap::load();
    sandbox::init(!quirks::tcg());
    apic::enable();
    let shared = shared();
    // SAFETY: this kernel's own, as the first one had it.
    let found = unsafe { (&raw const FOUND).as_ref() }.cloned().flatten().unwrap_or_default();
    let mut last = shared.begun.load(SeqCst);
    shared.ended.store(last, SeqCst);
    loop {
        let begun = shared.begun.load(SeqCst);
        if begun == last {
            core::hint::spin_loop();
            continue;
        }
        last = begun;
        let (seed, number) = (shared.seed.load(SeqCst), shared.number.load(SeqCst));
        let mut round = Round::new(seed, number, &found, true);
        round.clean();
        round.play(|| shared.over.load(SeqCst) >= begun);
        shared.exits.fetch_add(round.exits, SeqCst);
        shared.ended.store(begun, SeqCst);
    }
}

/// The first processor begins a round: so does the second.
pub fn begin(seed: u64, number: u64) {
    let shared = shared();
    if !there() {
        return;
    }
    shared.seed.store(seed, SeqCst);
    shared.number.store(number, SeqCst);
    shared.exits.store(0, SeqCst);
    shared.armed.store(0, SeqCst);
    shared.begun.fetch_add(1, SeqCst);
}

/// The first processor has ended its round: so does the second. Gives its exits, and whether it was lost and had to be
/// started anew.
pub fn end() -> (u64, bool) {
    let shared = shared();
    if !there() {
        return (0, false);
    }
    let begun = shared.begun.load(SeqCst);
    shared.over.store(begun, SeqCst);
    let lost = !wait(|| shared.ended.load(SeqCst) == begun);
    if lost {
        start();
    }
    (shared.exits.load(SeqCst), lost)
}

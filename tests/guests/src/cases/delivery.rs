//! Interrupts on their way: I/O APIC delivery modes (82093AA 3.2.4), the end of a level without a broadcast (SDM vol. 3, 11.8.5),
//! and events whose delivery needs memory that is not there yet (SDM vol. 3, 28.2.4; APM vol. 2, 15.7.2).

use crate::apic::{self, register};
use crate::balloon;
use crate::console;
use crate::cpu::outp;
use crate::report::{equal, skip};
use crate::trap::{self, Trap};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Vectors of the cases: an interrupt's, and one for INT n.
const VECTOR: u8 = 0x77;
const SOFTWARE: u8 = 0x42;
/// The UART's pin.
const PIN: u32 = 4;
/// Interrupt enable: transmitter empty.
const UART: u16 = console::PORT + 1;

/// Runs the cases.
pub fn run() {
    apic::enable();
    apic::init_pic(!0);
    modes();
    suppressed_broadcast();
    interrupted();
}

fn open() {
    // SAFETY: handlers run on a stack of their own and touch only atomics.
    unsafe { asm!("sti", "nop", "nop", "nop", "cli") };
}

/// An edge of the UART's line, at once: its last byte has left.
fn edge() {
    outp(UART, 0u8);
    console::drain();
    outp(UART, 2u8);
    open();
    outp(UART, 0u8);
}

fn modes() {
    apic::write(register::DFR, !0);
    apic::write(register::LDR, 0x01 << 24);
    let id = u64::from(apic::read(register::ID) >> 24);
    for (name, entry, vector, want) in [
        ("82093: fixed, physical", id << 56, VECTOR, 1),
        ("82093: fixed, nobody", 0x7e << 56, VECTOR, 0),
        ("82093: fixed, logical", 1 << 56 | 1 << 11, VECTOR, 1),
        ("82093: fixed, logical, not us", 2 << 56 | 1 << 11, VECTOR, 0),
        ("82093: lowest priority", 0xff << 56 | 1 << 11 | 1 << 8, VECTOR, 1),
        ("82093: NMI", id << 56 | 4 << 8, 2, 1),
        ("82093: an edge while it is masked is lost", id << 56 | 1 << 16, VECTOR, 0),
    ] {
        let before = trap::count(vector);
        apic::io_redirect(PIN, entry | u64::from(VECTOR));
        edge();
        equal(name, trap::count(vector) - before, want);
    }
    apic::io_redirect(PIN, 1 << 16);
}

/// With SVR bit 12 the end of a level-triggered interrupt stays in the local APIC; the I/O APIC's EOI register ends it there.
fn suppressed_broadcast() {
    let offered = apic::read(register::VERSION) >> 24 & 1 == 1 && apic::io_read(1) & 0xff >= 0x20;
    if !crate::cpu::virtualised() || !offered {
        return skip("11.8.5: end of interrupt without a broadcast", "not offered here");
    }
    fn lower(_: u8) {
        outp(UART, 0u8);
    }
    let remote = || apic::io_read(0x10 + 2 * PIN) >> 14 & 1;
    apic::write(register::SVR, 0x11ff);
    apic::io_redirect(PIN, 1 << 15 | u64::from(VECTOR));
    trap::set_hook(Some(lower as trap::Hook), VECTOR);
    let before = trap::count(VECTOR);
    console::drain();
    outp(UART, 2u8);
    open();
    let first = (trap::count(VECTOR) - before, remote());
    // SAFETY: a register of the I/O APIC.
    unsafe { ((apic::IO + 0x40) as *mut u32).write_volatile(VECTOR.into()) };
    let ended = remote();
    apic::write(register::SVR, 0x1ff);
    outp(UART, 2u8);
    open();
    let second = (trap::count(VECTOR) - before, remote());
    trap::set_hook(None, VECTOR);
    outp(UART, 0u8);
    apic::io_redirect(PIN, 1 << 16);
    equal("11.8.5: end of interrupt without a broadcast", (first, ended), ((1, 1), 0));
    equal("11.8.5: and with one again", second, (2, 0));
}

global_asm!(
    r#"
    .section .text.delivery, "ax"
    // A handler on the stack of what it interrupts: counts, notes where the frame is, ends the interrupt.
    .global delivery_handler
delivery_handler:
    inc qword ptr [rip + {count}]
    mov [rip + {frame}], rsp
    iretq
    // The same with an error code.
    .global delivery_fault
delivery_fault:
    inc qword ptr [rip + {count}]
    add rsp, 8
    mov [rip + {frame}], rsp
    // Over the instruction, which has two bytes.
    add qword ptr [rsp], 2
    iretq
"#,
    count = sym COUNT,
    frame = sym FRAME
);

unsafe extern "C" {
    fn delivery_handler();
    fn delivery_fault();
}

static COUNT: AtomicU64 = AtomicU64::new(0);
static FRAME: AtomicU64 = AtomicU64::new(0);

#[repr(align(4096))]
struct Page([u64; 512]);

static mut STACK: Page = Page([0; 512]);

/// An interrupt gate without a stack of its own.
fn gate(handler: unsafe extern "C" fn()) -> trap::Gate {
    let address = handler as *const () as u64;
    [address & 0xffff | 8 << 16 | 0x8e << 40 | (address >> 16 & 0xffff) << 48, address >> 32]
}

/// Runs lines of assembly on the stack whose page has just been given away: once for each event that they cause, its frame is found
/// in a page that was not there when the processor began to write it.
macro_rules! on_lost_stack {
    ($balloon:expr, $handler:expr, $vector:expr, [$($line:expr),+]) => {{
        let stack = &raw mut STACK;
        let old = trap::gate($vector);
        trap::set_gate($vector, gate($handler));
        // SAFETY: a static of this kernel that nothing else uses.
        unsafe { (*stack).0.fill(0x5555_5555_5555_5555) };
        let taken = $balloon.take(stack as u64);
        COUNT.store(0, Relaxed);
        FRAME.store(0, Relaxed);
        let top = stack as u64 + 4096;
        // SAFETY: the lines need no stack but for their event; the old one is back at the end.
        unsafe {
            asm!("mov r12, rsp", "mov rsp, {top}", $($line,)+ "mov rsp, r12", top = in(reg) top, out("r12") _, out("rax") _,
                in("rdi") apic::LOCAL);
        }
        trap::set_gate($vector, old);
        // SAFETY: as above; volatile, for the processor has written it.
        let (selector, rest) = unsafe { ((&raw const (*stack).0[508]).read_volatile(), (&raw const (*stack).0[100]).read_volatile()) };
        (taken, COUNT.load(Relaxed), FRAME.load(Relaxed) == top - 40, selector, rest)
    }};
}

/// The exit comes in the midst of an event's delivery: the event has to be delivered again, once.
fn interrupted() {
    let Some(mut balloon) = balloon::Balloon::start() else {
        return skip("28.2.4: an event whose delivery exits", "there is no balloon to take pages away");
    };
    // CS is the second word of a frame; the rest of the page has come back zeroed.
    let want = (true, 1, true, 8, 0);
    // It waits in IRR until the flag is set, on the stack that is not there.
    apic::write(register::ICR_HIGH, 0);
    apic::write(register::ICR_LOW, 0x4_4000 | u32::from(VECTOR));
    let seen = on_lost_stack!(balloon, delivery_handler, VECTOR, ["sti", "nop", "cli"]);
    apic::end_of_interrupt();
    equal("28.2.4: an interrupt whose stack is not there yet", seen, want);
    let seen = on_lost_stack!(balloon, delivery_handler, 2, ["mov dword ptr [rdi + 0x300], 0x44400", "nop"]);
    equal("28.2.4: an NMI whose stack is not there yet", seen, want);
    let seen = on_lost_stack!(balloon, delivery_handler, SOFTWARE, ["int 0x42"]);
    equal("28.2.4: INT n whose stack is not there yet", seen, want);
    let seen = on_lost_stack!(balloon, delivery_handler, 3, ["int3"]);
    equal("28.2.4: INT3 whose stack is not there yet", seen, want);
    let seen = on_lost_stack!(balloon, delivery_fault, 13, ["mov eax, 0x1008", "mov ds, eax"]);
    equal("28.2.4: a fault whose stack is not there yet", seen, want);
    // NMIs are not blocked for good, and the balloon's pages are there again.
    let before = trap::count(2);
    apic::write(register::ICR_LOW, 0x4_4400);
    open();
    equal("28.2.4: the next NMI", trap::count(2) - before, 1);
    let none: Option<Trap> = crate::attempt!(["mov qword ptr [rax], 7"], in("rax") &raw mut STACK as u64);
    equal("a page that was given away is there again", none, None);
}

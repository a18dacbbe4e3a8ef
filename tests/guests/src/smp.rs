//! Starting further processors (SDM vol. 3, 9.4.4), each to a Rust function on a stack of its own.

use crate::apic::{self, register};
use crate::boot;
use crate::cpu::{cpuid, tsc};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Where a started processor begins: a page below 640 KiB that no loader of these guests uses.
pub const PAGE: u64 = 0x8000;

/// Most processors.
pub const MAX: usize = 8;

/// Words of the start-up page, from its middle on, which the code there reads and writes by these places.
const WORDS: u64 = PAGE + 0x800;

global_asm!(
    r#"
    .section .text.start_up, "ax"
    .global start_up
start_up:
    .code16
    cli
    mov bx, cs
    mov ds, bx
    mov esi, cr0
    mov [0x838], esi            // CR0 and EDX as they were, and CS
    mov [0x83c], edx
    mov [0x840], bx
    .byte 0x66, 0x0f, 0x01, 0x16
    .short 0x820                // lgdt
    mov eax, 1
    mov cr0, eax
    .byte 0x66, 0xea            // far jump
    .long 0x8000 + start_up_32 - start_up
    .short 0x08
start_up_32:
    .code32
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, 0x620              // PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, [0x8848]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900               // LME, NXE
    wrmsr
    mov eax, 0x80010033
    mov cr0, eax
    .byte 0xea                  // far jump
    .long 0x8000 + start_up_64 - start_up
    .short 0x18
start_up_64:
    .code64
    mov rsp, [0x8850]
    mov rax, [0x8858]
    call rax
    ud2
    .global start_up_end
start_up_end:
"#
);

unsafe extern "C" {
    static start_up: u8;
    static start_up_end: u8;
}

/// What one processor has of its own.
#[repr(C, align(16))]
struct Own {
    stack: [u8; 16384],
    trap_stack: [u8; 16384],
    /// Null, 32-bit code, data, 64-bit code and TSS; then as in the first processor's, so that code selector 8 is right for
    /// the gates: see `enter`.
    gdt: [u64; 5],
    tss: [u32; 26],
}

static mut OWN: [Own; MAX] =
    [const { Own { stack: [0; 16384], trap_stack: [0; 16384], gdt: [0; 5], tss: [0; 26] } }; MAX];

static MAIN: AtomicU64 = AtomicU64::new(0);
static ARRIVED: AtomicU64 = AtomicU64::new(0);

/// How many processors the package has, by CPUID.
pub fn count() -> usize {
    let [_, ebx, _, edx] = cpuid(1, 0);
    if edx >> 28 & 1 == 0 { 1 } else { (ebx >> 16 & 0xff) as usize }
}

/// What the last started processor found: CR0, EDX (its signature), CS.
pub fn found() -> (u32, u32, u16) {
    // SAFETY: RAM of the start-up page, which the started processor has written.
    unsafe {
        (
            ((WORDS + 0x38) as *const u32).read_volatile(),
            ((WORDS + 0x3c) as *const u32).read_volatile(),
            ((WORDS + 0x40) as *const u16).read_volatile(),
        )
    }
}

/// Sends an interrupt command to the local APIC `id`, in xAPIC or x2APIC mode.
pub fn send(id: u32, command: u32) {
    if crate::cpu::rdmsr(0x1b) & 1 << 10 != 0 {
        // SAFETY: the interrupt command register touches no memory.
        unsafe { crate::cpu::wrmsr(0x830, u64::from(id) << 32 | u64::from(command)) };
    } else {
        apic::write(register::ICR_HIGH, id << 24);
        apic::write(register::ICR_LOW, command);
    }
}

/// INIT, level asserted.
pub const INIT: u32 = 5 << 8 | 1 << 14;
/// Start-up at [`PAGE`].
pub const START_UP: u32 = 6 << 8 | 1 << 14 | (PAGE >> 12) as u32;

/// Makes the start-up page ready for processor `index`, whose function is `main`.
pub fn prepare(index: usize, main: fn(usize) -> !) {
    let (start, end) = (&raw const start_up as u64, &raw const start_up_end as u64);
    // SAFETY: low RAM that nothing else uses; the processor whose things these are does not run.
    unsafe {
        core::ptr::copy_nonoverlapping(start as *const u8, PAGE as *mut u8, (end - start) as usize);
        let own = &raw mut OWN[index];
        let write = |offset: u64, value: u64| ((WORDS + offset) as *mut u64).write_volatile(value);
        // The start-up GDT: 32-bit code, data, 64-bit code.
        for (place, value) in
            [(0, 0), (8, 0x00cf_9b00_0000_ffff), (16, 0x00cf_9300_0000_ffff), (24, 0x0020_9b00_0000_0000)]
        {
            write(place, value);
        }
        write(0x20, 31 | WORDS << 16);
        write(0x38, 0);
        write(0x40, 0);
        write(0x48, &raw const boot::PML4 as u64);
        write(0x50, (&raw const (*own).stack) as u64 + 16384);
        write(0x58, enter as *const () as u64);
    }
    MAIN.store(main as *const () as u64, SeqCst);
    ARRIVED.store(index as u64, SeqCst);
}

/// Starts processor `index`; true when it has come up within a second of a slow clock.
pub fn start(index: usize, main: fn(usize) -> !) -> bool {
    prepare(index, main);
    send(index as u32, INIT);
    pause_ticks(1_000_000);
    send(index as u32, START_UP);
    wait_until(|| ARRIVED.load(SeqCst) == 0)
}

/// Waits some ticks of the TSC.
pub fn pause_ticks(ticks: u64) {
    let start = tsc();
    while tsc() - start < ticks {
        core::hint::spin_loop();
    }
}

/// Waits for something that another processor does, some 4 thousand million ticks at most.
pub fn wait_until(done: impl Fn() -> bool) -> bool {
    let start = tsc();
    while !done() {
        if tsc() - start > 4_000_000_000 {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// First function of a started processor: its own GDT and TSS, the common IDT.
extern "C" fn enter() -> ! {
    let index = ARRIVED.load(SeqCst) as usize;
    // SAFETY: this processor's own things; the tables are complete before they are loaded. Selector 8 becomes 64-bit code,
    // as in the first processor's GDT, for the gates of the common IDT.
    unsafe {
        let own = &raw mut OWN[index];
        let tss = &raw mut (*own).tss;
        let stack = (&raw const (*own).trap_stack) as u64 + 16384;
        (*tss)[9] = stack as u32;
        (*tss)[10] = (stack >> 32) as u32;
        let base = tss as u64;
        (*own).gdt = [
            0,
            0x0020_9b00_0000_0000,
            0x00cf_9300_0000_ffff,
            0x67 | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56,
            base >> 32,
        ];
        let gdt = &raw const (*own).gdt as u64;
        let pointer = [39u16, gdt as u16, (gdt >> 16) as u16, (gdt >> 32) as u16, (gdt >> 48) as u16];
        core::arch::asm!(
            "lgdt [{pointer}]",
            "push 8",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov {scratch:e}, 16",
            "mov ds, {scratch:e}",
            "mov es, {scratch:e}",
            "mov ss, {scratch:e}",
            "mov {scratch:e}, 24",
            "ltr {scratch:x}",
            "fninit",
            pointer = in(reg) &pointer,
            scratch = out(reg) _,
        );
    }
    crate::trap::load();
    apic::software_enable();
    let main = MAIN.load(SeqCst) as usize;
    ARRIVED.store(0, SeqCst);
    // SAFETY: `prepare` stored a function of this type.
    let main = unsafe { core::mem::transmute::<usize, fn(usize) -> !>(main) };
    main(index)
}

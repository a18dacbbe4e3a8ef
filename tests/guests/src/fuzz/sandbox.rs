//! Runs code that may do anything, and comes back: by an exception, an interrupt, or the watchdog's NMI.
//!
//! The code runs on page tables of its own, in which this kernel is read-only and everything else is open to it, at
//! either privilege level. Whatever ends it, the handler puts back control registers, tables and segments and goes on
//! behind [`run`]. What it cannot put back (no IDT, no mappings, real mode) ends in a shutdown or in silence, and the
//! machine is reset from outside.

use super::second;
use crate::boot::{PD, PML4, end_of_image};
use crate::trap;
use core::arch::global_asm;

/// Random code is put here and executed.
pub const CODE: u64 = 0x200_0000;
/// Bytes of it.
pub const CODE_SIZE: usize = 0x4000;
/// Top of the stack that it starts with.
pub const STACK: u64 = CODE + 0x1_0000;
/// Data that it works on.
pub const DATA: u64 = CODE + 0x2_0000;
/// Page tables that it may be started with.
pub const TABLES: u64 = CODE + 0x4_0000;
/// Rings and buffers of virtio devices.
pub const RINGS: u64 = CODE + 0x10_0000;
/// What hostile code and devices may write ends here.
pub const ARENA_END: u64 = TRAP_STACKS;
/// A second view of the physical addresses from 0 on, 512 GiB.
pub const WINDOW: u64 = 1 << 39;
/// Stacks of the handlers, in a large page that only they write.
pub const TRAP_STACKS: u64 = 0x380_0000;
/// The large page that this kernel is loaded to.
pub const IMAGE: u64 = 0x100_0000;
/// Bytes of a large page.
pub const LARGE: u64 = 2 << 20;
/// Entries of this kernel's descriptor table.
pub const DESCRIPTORS: u64 = 9;
/// So many NMIs in this kernel, between one piece of hostile code and the next, are a storm.
const STORM: u32 = 64;
/// RAM that this guest is started with at least.
const RAM_END: u64 = 64 << 20;

global_asm!(
    r#"
    .section .text.fuzz, "ax"
    // Whatever state the CPU is in: back to this kernel's. Nothing but the trap stack is written before CR3 is.
fuzz_trap:
    cld
    push rax
    mov rax, [rip + {home}]
    mov cr3, rax
    cmp byte ptr [rip + {inside}], 0
    je 8f
    push rbx
    mov rax, cr4
    mov rbx, [rip + {cr4}]
    cmp rax, rbx
    je 1f
    mov cr4, rbx
1:  mov rax, cr0
    mov rbx, [rip + {cr0}]
    cmp rax, rbx
    je 1f
    mov cr0, rbx
1:  cmp byte ptr [rip + {debug}], 0
    je 1f
    mov eax, 0x400
    mov dr7, rax
1:  mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    lldt ax
    lgdt [rip + gdt_pointer]
    lidt [rip + {idt}]
    pop rbx
    pop rax
    pop qword ptr [rip + {trap}]
    pop qword ptr [rip + {trap} + 8]
    pop qword ptr [rip + {trap} + 16]
    mov rax, cr2
    mov [rip + {trap} + 24], rax
    mov byte ptr [rip + {inside}], 0
    mov rsp, [rip + {resume}]
    // By IRET, so that an NMI is over.
    mov rax, rsp
    push 16
    push rax
    push 2
    push 8
    lea rax, [rip + 2f]
    push rax
    iretq
2:  pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    // In this kernel itself: an NMI that came late is nothing, anything else is the end. NMIs that leave no time for
    // anything else are stopped.
8:  cmp byte ptr [rsp + 8], 2
    jne 9f
    inc dword ptr [rip + {late}]
    cmp dword ptr [rip + {late}], {storm_at}
    jae 7f
6:  pop rax
    add rsp, 16
    iretq
7:  push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    sub rsp, 512
    fxsave64 [rsp]
    call {storm}
    fxrstor64 [rsp]
    add rsp, 512
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    jmp 6b
9:  mov rdi, [rsp + 8]
    mov rsi, [rsp + 24]
    mov rdx, [rsp + 16]
    call {lost}
    ud2

    // fuzz_enter(registers, cr3): loads all of them; comes back through fuzz_trap.
fuzz_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + {resume}], rsp
    mov byte ptr [rip + {inside}], 1
    mov cr3, rsi
    mov rsp, rdi
    mov eax, [rsp + 160]
    mov ds, eax
    mov es, eax
    pop rax
    pop rcx
    pop rdx
    pop rbx
    pop rbp
    pop rsi
    pop rdi
    pop r8
    pop r9
    pop r10
    pop r11
    pop r12
    pop r13
    pop r14
    pop r15
    iretq
"#,
    home = sym HOME,
    inside = sym INSIDE,
    cr0 = sym CR0,
    cr4 = sym CR4,
    debug = sym CLEAR_DEBUG,
    idt = sym trap::IDT_POINTER,
    trap = sym TRAP,
    resume = sym RESUME_RSP,
    lost = sym lost,
    late = sym LATE,
    storm_at = const STORM,
    storm = sym storm,
);

unsafe extern "C" {
    fn fuzz_trap();
    fn fuzz_enter(registers: *const Registers, cr3: u64);
    static mut TSS: [u8; 104];
    static GDT: [u64; DESCRIPTORS as usize];
}

/// What the code starts with. The order is that in which `fuzz_enter` takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8 to R15.
    pub gprs: [u64; 15],
    /// Instruction pointer.
    pub rip: u64,
    /// Code segment.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
    /// DS and ES.
    pub ds: u64,
}

/// Indices of [`Registers::gprs`].
pub mod gpr {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RSI: usize = 5;
    pub const RDI: usize = 6;
}

/// What ended the code.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trap {
    /// Its vector.
    pub vector: u64,
    /// Its error code.
    pub error: u64,
    /// Where.
    pub rip: u64,
    /// CR2 at that time.
    pub cr2: u64,
}

#[repr(C, align(4096))]
struct Table([u64; 512]);

/// What is to be added to an address in this kernel, its stacks and its hostile code, to have the physical one: 0 on the
/// first processor.
pub static mut OFFSET: u64 = 0;
/// CR3 of this kernel.
static mut HOME: u64 = 0;
static mut INSIDE: u8 = 0;
static mut CLEAR_DEBUG: u8 = 0;
/// NMIs that came while this kernel was at work, since it last began something.
static mut LATE: u32 = 0;
static mut CR0: u64 = 0;
static mut CR4: u64 = 0;
static mut TRAP: Trap = Trap { vector: 0, error: 0, rip: 0, cr2: 0 };
static mut RESUME_RSP: u64 = 0;
static mut TOP: Table = Table([0; 512]);
static mut MIDDLE: Table = Table([0; 512]);
static mut NEAR_TOP: Table = Table([0; 512]);
static mut NEAR_MIDDLE: Table = Table([0; 512]);
static mut NEAR: Table = Table([0; 512]);
static mut FAR: Table = Table([0; 512]);
static mut LEAVES: [Table; 4] = [const { Table([0; 512]) }; 4];

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const LARGE_PAGE: u64 = 0x80;

/// Makes the tables and takes over what comes through the IDT. `debug` says that debug registers are played with.
pub fn init(debug: bool) {
    assert!(end_of_image() <= IMAGE + LARGE, "this kernel has outgrown its large page");
    let (cr0, cr4) = (crate::read_cr!("cr0"), crate::read_cr!("cr4"));
    // SAFETY: one CPU, called once before any of these is used; stacks and arena are RAM that nothing else uses.
    unsafe {
        (&raw mut INSIDE).write_volatile(0);
        (&raw mut HOME).write_volatile(physical(&raw const PML4 as u64));
        (&raw mut CLEAR_DEBUG).write_volatile(u8::from(debug));
        (&raw mut CR0).write_volatile(cr0);
        (&raw mut CR4).write_volatile(cr4);
        trap::go_on_with(fuzz_trap);
        // An NMI may come while another handler runs: it has a stack of its own.
        let [low, high] = trap::gate(2);
        trap::set_gate(2, [low & !(7 << 32) | 2 << 32, high]);
        let stacks = (&raw mut TSS).cast::<u8>().add(36).cast::<u64>();
        stacks.write_unaligned(TRAP_STACKS + 0x8000);
        stacks.add(1).write_unaligned(TRAP_STACKS + 0x1_0000);

        TOP.0[0] = physical(&raw const MIDDLE as u64) | PRESENT | WRITE | USER;
        TOP.0[1] = physical(&raw const FAR as u64) | PRESENT | WRITE | USER;
        let leaves = (&raw mut LEAVES).cast::<u64>();
        for index in 0..4 {
            MIDDLE.0[index] = physical(leaves.add(512 * index) as u64) | PRESENT | WRITE | USER;
        }
        for index in 0..2048 {
            let entry = (&raw const PD).cast::<u64>().add(index).read();
            let entry = match index as u64 * LARGE {
                IMAGE => entry & !WRITE,
                page if page == second::SHARED
                    || second::PAGES.contains(&page.wrapping_sub(second::DISTANCE)) =>
                {
                    entry & !WRITE
                }
                TRAP_STACKS => entry,
                _ => entry | USER,
            };
            leaves.add(index).write(entry);
            if index < (RAM_END / LARGE) as usize {
                NEAR.0[index] = entry;
            }
        }
        NEAR_MIDDLE.0[0] = physical(&raw const NEAR as u64) | PRESENT | WRITE | USER;
        NEAR_TOP.0[0] = physical(&raw const NEAR_MIDDLE as u64) | PRESENT | WRITE | USER;
        for index in 0..512 {
            FAR.0[index] = (index as u64) << 30 | PRESENT | WRITE | USER | LARGE_PAGE;
        }
        // This kernel has the window too.
        (&raw mut PML4).cast::<u64>().add(1).write(TOP.0[1]);
    }
}

/// The physical address of something of this kernel's, or of the first large page of the arena.
pub fn physical(address: u64) -> u64 {
    // SAFETY: written once, before this processor's kernel ran.
    address + unsafe { (&raw const OFFSET).read_volatile() }
}

/// The tables that the code runs on, unless it is given others.
pub fn tables() -> u64 {
    physical(&raw const TOP as u64)
}

/// Writes a copy of this kernel's descriptor table.
pub fn copy_descriptors(to: u64) {
    // SAFETY: the table is static; `to` is a place in the arena.
    unsafe {
        core::ptr::copy_nonoverlapping(&raw const GDT as *const u64, to as *mut u64, DESCRIPTORS as usize)
    };
}

/// Tables that map RAM alone: what touches anything else faults by itself.
pub fn ram_tables() -> u64 {
    physical(&raw const NEAR_TOP as u64)
}

/// Entry 0 of the usual ones, which any other tables need to come back.
pub fn anchor() -> u64 {
    // SAFETY: written once by `init`.
    unsafe { TOP.0[0] }
}

/// Runs the code until something ends it.
pub fn run(registers: &Registers, cr3: u64) -> Trap {
    // SAFETY: the code has nothing writable that this kernel relies on, by the tables; where it gets around that, the
    // machine is reset from outside. `fuzz_enter` comes back with the registers that the calling convention keeps.
    unsafe {
        (&raw mut LATE).write_volatile(0);
        fuzz_enter(registers, cr3);
        (&raw const TRAP).read_volatile()
    }
}

/// Hostile code has set up a timer whose interrupts come as NMIs, faster than they can be handled: no pin of the I/O APIC
/// lets anything through any more.
extern "C" fn storm() {
    crate::apic::io_mask_all();
}

extern "C" fn lost(vector: u64, rip: u64, error: u64) -> ! {
    crate::println!("LOST vector {vector} error {error:#x} at {rip:#x}");
    crate::power::reset_cf9()
}

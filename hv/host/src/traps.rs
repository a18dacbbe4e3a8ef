//! GDT, TSS and IDT of each processor, and what happens on an exception.
//!
//! Compiled code keeps data below its stack pointer (the red zone of the System V ABI), so every exception, NMI, machine
//! check and interrupt switches to a stack of its own (SDM vol. 3, 6.14.5). An exception in the host is a defect: it is
//! reported on the log with all registers, and the machine stops as the board says.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::registers::control::{Cr2, Cr3};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::structures::tss::TaskStateSegment;

use crate::cpu::MAX_CPUS;
use crate::stack::{Stack, TRAP};
use crate::{apic, cpu, interrupts, log, power, secondary};

/// Selector of the host's 64-bit code segment.
pub const CODE_SELECTOR: u16 = 0x08;
/// Selector of the host's data segment.
pub const DATA_SELECTOR: u16 = 0x10;
/// Selector of the first processor's TSS; each further one is 16 higher.
pub const FIRST_TSS_SELECTOR: u16 = 0x18;

/// First vector that is not an exception.
pub(crate) const FIRST_INTERRUPT: u8 = 0x20;
/// Vectors with an entry of their own; all above share one.
const STUBS: usize = 0x40;
/// Bytes from one entry to the next.
const STUB_SIZE: u64 = 16;

/// Stacks that exceptions and interrupts switch to.
pub struct TrapStacks {
    nmi: Stack<4096>,
    double_fault: Stack<TRAP>,
    machine_check: Stack<TRAP>,
    exception: Stack<TRAP>,
    interrupt: Stack<TRAP>,
}

impl TrapStacks {
    /// Unused stacks.
    pub const fn new() -> Self {
        Self {
            nmi: Stack::new(),
            double_fault: Stack::new(),
            machine_check: Stack::new(),
            exception: Stack::new(),
            interrupt: Stack::new(),
        }
    }

    /// Addresses of the guard pages.
    pub fn guards(&self) -> [u64; 5] {
        [
            self.nmi.guard(),
            self.double_fault.guard(),
            self.machine_check.guard(),
            self.exception.guard(),
            self.interrupt.guard(),
        ]
    }

    /// Tops in the order of the interrupt stack table.
    fn tops(&self) -> [u64; 5] {
        [
            self.nmi.top(),
            self.double_fault.top(),
            self.machine_check.top(),
            self.exception.top(),
            self.interrupt.top(),
        ]
    }
}

impl Default for TrapStacks {
    fn default() -> Self {
        Self::new()
    }
}

/// Stacks of the first processor.
#[unsafe(export_name = "monovisor_stack_traps")]
pub static BOOT_TRAP_STACKS: TrapStacks = TrapStacks::new();

/// Tables that the processor reads and that are written once, before it does.
struct Tables {
    gdt: UnsafeCell<[u64; 3 + 2 * MAX_CPUS]>,
    /// Zero in the image, a TSS once `init` has run.
    tss: [UnsafeCell<MaybeUninit<TaskStateSegment>>; MAX_CPUS],
    idt: UnsafeCell<[[u64; 2]; 256]>,
}

// SAFETY: written in `init` alone: the IDT and GDT by the first processor, before there is another; TSS and TSS
// descriptor `n` by processor `n`, before it loads them.
unsafe impl Sync for Tables {}

static TABLES: Tables = Tables {
    gdt: UnsafeCell::new([0; 3 + 2 * MAX_CPUS]),
    tss: [const { UnsafeCell::new(MaybeUninit::zeroed()) }; MAX_CPUS],
    idt: UnsafeCell::new([[0; 2]; 256]),
};

/// A processor has found a defect: any other one stops at its next NMI.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// NMIs taken in the host.
static NMIS: AtomicU64 = AtomicU64::new(0);

global_asm!(
    r#"
    .section .text.monovisor_traps, "ax", @progbits
    .balign 16
    .globl monovisor_trap_stubs
monovisor_trap_stubs:
    .set monovisor_vector, 0
    .rept 64
    .balign 16
    .if monovisor_vector == 8 || (monovisor_vector >= 10 && monovisor_vector <= 14) || monovisor_vector == 17 || monovisor_vector == 21 || monovisor_vector == 29 || monovisor_vector == 30
    .else
    push 0
    .endif
    push monovisor_vector
    jmp monovisor_trap_common
    .set monovisor_vector, monovisor_vector + 1
    .endr

    .balign 16
    .globl monovisor_trap_stray
monovisor_trap_stray:
    push 0
    push 255
monovisor_trap_common:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    call {trap}
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq

    // No register is touched: an NMI comes between any two instructions.
    .globl monovisor_trap_nmi
monovisor_trap_nmi:
    lock inc qword ptr [rip + {nmis}]
    cmp byte ptr [rip + {stopped}], 0
    jne 2f
    iretq
2:
    cli
    hlt
    jmp 2b

    // Reads the MSR in EDI; RAX is its value, EDX 1. Where the processor refuses, #GP makes EDX 0.
    .globl monovisor_read_msr
monovisor_read_msr:
    mov ecx, edi
    .globl monovisor_read_msr_fault
monovisor_read_msr_fault:
    rdmsr
    shl rdx, 32
    or rax, rdx
    mov edx, 1
    ret
    .globl monovisor_read_msr_refused
monovisor_read_msr_refused:
    xor eax, eax
    xor edx, edx
    ret
    .text
"#,
    trap = sym trap,
    nmis = sym NMIS,
    stopped = sym STOPPED,
);

unsafe extern "C" {
    static monovisor_trap_stubs: u8;
    static monovisor_trap_stray: u8;
    static monovisor_trap_nmi: u8;
    static monovisor_read_msr_fault: u8;
    static monovisor_read_msr_refused: u8;
    fn monovisor_read_msr(index: u32) -> ReadMsr;
}

#[repr(C)]
struct ReadMsr {
    value: u64,
    present: u64,
}

/// Reads an MSR that the processor may not have: `None` where it raises #GP.
pub fn read_msr(index: u32) -> Option<u64> {
    // SAFETY: reading an MSR has no effect on memory; a refused read is caught in `trap`.
    let read = unsafe { monovisor_read_msr(index) };
    (read.present != 0).then_some(read.value)
}

/// What the entry code left on the stack, from the last push up.
#[repr(C)]
struct Frame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Loads GDT, TSS and IDT on the processor that runs this.
///
/// # Safety
///
/// `index` must be below `MAX_CPUS` and belong to this processor alone, and so must `stacks`. The first processor, index
/// 0, must have run this before any other does.
pub(crate) unsafe fn init(index: usize, stacks: &'static TrapStacks) {
    let Some(tss_cell) = TABLES.tss.get(index) else { return };
    // SAFETY: nobody reads or writes this TSS but this processor (contract), and not before `load_tss` below.
    let tss = unsafe { (*tss_cell.get()).write(TaskStateSegment::new()) };
    let [nmi, double_fault, machine_check, exception, interrupt] = stacks.tops().map(VirtAddr::new_truncate);
    let unused = VirtAddr::zero();
    tss.interrupt_stack_table = [nmi, double_fault, machine_check, exception, interrupt, unused, unused];
    let base = tss_cell.get() as u64;
    // 64-bit TSS, available, present (SDM vol. 3, figure 8-4).
    let low = 103 | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    let gdt = TABLES.gdt.get().cast::<u64>();
    let gdt_len = (3 + 2 * MAX_CPUS) * size_of::<u64>();
    // SAFETY: single-threaded for the shared entries, this processor's own for the TSS (contract): through raw pointers,
    // for other processors read theirs meanwhile. The index was checked above, so all entries lie within the table.
    unsafe {
        if index == 0 {
            gdt.add(1).write(0x00af_9b00_0000_ffff);
            gdt.add(2).write(0x00cf_9300_0000_ffff);
            fill_idt(&mut *TABLES.idt.get());
        }
        gdt.add(3 + 2 * index).write(low);
        gdt.add(4 + 2 * index).write(base >> 32);
    }
    let pointer = |base: u64, len: usize| DescriptorTablePointer {
        limit: (len - 1) as u16,
        base: VirtAddr::new_truncate(base),
    };
    // SAFETY: the tables are static and filled in; the selectors are those of the entries set above.
    unsafe {
        lgdt(&pointer(gdt as u64, gdt_len));
        CS::set_reg(SegmentSelector(CODE_SELECTOR));
        SS::set_reg(SegmentSelector(DATA_SELECTOR));
        DS::set_reg(SegmentSelector(DATA_SELECTOR));
        ES::set_reg(SegmentSelector(DATA_SELECTOR));
        load_tss(SegmentSelector(FIRST_TSS_SELECTOR + 16 * index as u16));
        lidt(&pointer(TABLES.idt.get() as u64, 256 * 16));
    }
}

/// Index of the processor that runs this: told by its task register, which VM exits restore.
pub fn cpu_index() -> usize {
    let selector: u16;
    // SAFETY: STR only reads.
    unsafe { core::arch::asm!("str {:x}", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    usize::from(selector.saturating_sub(FIRST_TSS_SELECTOR) / 16)
}

fn fill_idt(idt: &mut [[u64; 2]; 256]) {
    let stubs = &raw const monovisor_trap_stubs as u64;
    for (vector, gate) in idt.iter_mut().enumerate() {
        let (entry, stack) = match vector {
            2 => (&raw const monovisor_trap_nmi as u64, 1),
            8 => (stubs + 8 * STUB_SIZE, 2),
            18 => (stubs + 18 * STUB_SIZE, 3),
            0..=31 => (stubs + vector as u64 * STUB_SIZE, 4),
            _ if vector < STUBS => (stubs + vector as u64 * STUB_SIZE, 5),
            _ => (&raw const monovisor_trap_stray as u64, 5),
        };
        // 64-bit interrupt gate, present, privilege level 0 (SDM vol. 3, figure 6-8).
        let low = entry & 0xffff
            | u64::from(CODE_SELECTOR) << 16
            | stack << 32
            | 0x8e << 40
            | (entry >> 16 & 0xffff) << 48;
        *gate = [low, entry >> 32];
    }
}

/// NMIs that the host has taken.
pub fn nmi_count() -> u64 {
    NMIS.load(Ordering::Relaxed)
}

extern "C" fn trap(frame: &mut Frame) {
    if frame.vector >= u64::from(FIRST_INTERRUPT) {
        interrupts::handle(frame.vector as u8);
    } else if frame.vector == 13 && frame.rip == &raw const monovisor_read_msr_fault as u64 {
        frame.rip = &raw const monovisor_read_msr_refused as u64;
    } else {
        report(frame);
    }
}

/// Names of the exceptions (SDM vol. 3, table 6-1).
const NAMES: [&str; 32] = [
    "divide error",
    "debug exception",
    "NMI",
    "breakpoint",
    "overflow",
    "BOUND range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor segment overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection fault",
    "page fault",
    "reserved exception 15",
    "x87 floating-point error",
    "alignment check",
    "machine check",
    "SIMD floating-point exception",
    "virtualization exception",
    "control protection exception",
    "reserved exception 22",
    "reserved exception 23",
    "reserved exception 24",
    "reserved exception 25",
    "reserved exception 26",
    "reserved exception 27",
    "hypervisor injection exception",
    "VMM communication exception",
    "security exception",
    "reserved exception 31",
];

fn report(frame: &Frame) -> ! {
    /// All others, NMI, assert (SDM vol. 3, 11.6.1).
    const STOP_OTHERS: u32 = 3 << 18 | 1 << 14 | 4 << 8;
    const NOBODY: usize = usize::MAX;
    /// Who reports.
    static REPORTER: AtomicUsize = AtomicUsize::new(NOBODY);
    let own = cpu_index();
    match REPORTER.compare_exchange(NOBODY, own, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        // An exception in the report of an exception: nothing that it needs can be trusted.
        Err(first) if first == own => power::fail(),
        Err(_) => cpu::stop(),
    }
    // They might wait for a lock that is held here, or go on with what is broken. An NMI comes whatever they do, from a
    // guest too.
    STOPPED.store(true, Ordering::Release);
    apic::send(0, STOP_OTHERS);
    log::break_lock();
    let name = NAMES.get(frame.vector as usize).copied().unwrap_or("unknown exception");
    crate::error!("host exception on processor {own}: {name}, error code {:#x}", frame.error);
    if frame.vector == 14 {
        let what = match frame.error & 0x13 {
            0 => "read of an unmapped page",
            1 => "read that the page forbids",
            2 => "write to an unmapped page",
            3 => "write that the page forbids",
            0x10 => "fetch from an unmapped page",
            _ => "fetch from a page that is not code",
        };
        let address = Cr2::read_raw();
        crate::error!("page fault at {address:#018x}: {what}");
        let guard = |guard: u64| (guard..guard + 4096).contains(&address);
        if guard(crate::stack::BOOT_STACK.guard())
            || BOOT_TRAP_STACKS.guards().into_iter().any(guard)
            || secondary::is_guard(address)
        {
            crate::error!("a stack has overflowed into its guard page");
        }
    }
    crate::error!("RIP {:#018x} CS {:#06x} RFLAGS {:#018x}", frame.rip, frame.cs, frame.rflags);
    crate::error!(
        "RSP {:#018x} SS {:#06x} CR3 {:#018x}",
        frame.rsp,
        frame.ss,
        Cr3::read_raw().0.start_address()
    );
    crate::error!("RAX {:#018x} RBX {:#018x} RCX {:#018x}", frame.rax, frame.rbx, frame.rcx);
    crate::error!("RDX {:#018x} RSI {:#018x} RDI {:#018x}", frame.rdx, frame.rsi, frame.rdi);
    crate::error!("RBP {:#018x} R8  {:#018x} R9  {:#018x}", frame.rbp, frame.r8, frame.r9);
    crate::error!("R10 {:#018x} R11 {:#018x} R12 {:#018x}", frame.r10, frame.r11, frame.r12);
    crate::error!("R13 {:#018x} R14 {:#018x} R15 {:#018x}", frame.r13, frame.r14, frame.r15);
    power::fail()
}

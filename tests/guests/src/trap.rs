//! Exceptions and interrupts: an IDT of 256 gates, counters, and a way to try an instruction and see what it raises.

use crate::println;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

global_asm!(
    r#"
    .section .text.trap, "ax"
    .balign 16
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    // These push an error code themselves (SDM vol. 3 table 6-1).
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    .byte 0x6a, 0               // push 0
    .endif
    .byte 0x68                  // push vector
    .long vector
    jmp qword ptr [rip + {common}]
    .set vector, vector + 1
    .endr

trap_common:
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
    // With CR0.TS set the saving itself would raise #NM.
    mov rbx, cr0
    test bl, 8
    jz 1f
    clts
1:
    mov rdi, rsp
    sub rsp, 512
    fxsave64 [rsp]
    call {trap}
    fxrstor64 [rsp]
    add rsp, 512
    test bl, 8
    jz 2f
    mov cr0, rbx
2:
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
"#,
    common = sym COMMON,
    trap = sym trap
);

unsafe extern "C" {
    static trap_stubs: [[u8; 16]; 256];
    fn trap_common();
}

/// What the stubs go on with: on the stack are the vector and an error code, 0 where the processor gives none, below what the
/// processor has pushed.
static COMMON: AtomicU64 = AtomicU64::new(0);

/// What the stub and the CPU pushed.
#[repr(C)]
struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// An exception that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Its vector.
    pub vector: u8,
    /// Its error code; 0 where it has none.
    pub error: u32,
    /// CR2 at that time.
    pub cr2: u64,
}

/// An entry of the IDT that a case may damage and must repair.
pub type Gate = [u64; 2];

static mut IDT: [Gate; 256] = [[0; 2]; 256];

/// Limit and base of the IDT, for LIDT.
pub static mut IDT_POINTER: [u16; 5] = [0; 5];

/// Where an expected exception goes on; 0 when none is expected. Written by `attempt!`.
pub static RESUME: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU32 = AtomicU32::new(NONE);
static ERROR: AtomicU32 = AtomicU32::new(0);
static CR2: AtomicU64 = AtomicU64::new(0);
static LAST_TSC: AtomicU64 = AtomicU64::new(0);
static COUNTS: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];

const NONE: u32 = u32::MAX;

/// Vectors from here on are interrupts that get an EOI at the local APIC.
pub const APIC_FIRST: u8 = 0x50;
/// Vectors of the 8259 pair: 0x20 to 0x2f.
pub const PIC_FIRST: u8 = 0x20;

/// Builds and loads the IDT, all gates on the trap stack.
pub fn init() {
    go_on_with(trap_common);
    for vector in 0..=255 {
        set_gate(vector, gate(vector));
    }
    load();
}

/// Has all exceptions and interrupts go on with `handler`, which finds the vector and the error code on the stack.
pub fn go_on_with(handler: unsafe extern "C" fn()) {
    COMMON.store(handler as *const () as u64, Relaxed);
}

/// Loads the IDT on the processor that runs this.
pub fn load() {
    let base = &raw const IDT as u64;
    let pointer = [4095, base as u16, (base >> 16) as u16, (base >> 32) as u16, (base >> 48) as u16];
    // SAFETY: the table is static and complete; all processors write the same pointer.
    unsafe {
        (&raw mut IDT_POINTER).write_volatile(pointer);
        asm!("lidt [{}]", in(reg) &raw const IDT_POINTER, options(nostack));
    }
}

/// The gate that belongs to a vector.
pub fn gate(vector: u8) -> Gate {
    // SAFETY: only the address is taken.
    let address = unsafe { &raw const trap_stubs[vector as usize] } as u64;
    // Interrupt gate, present, IST 1, selector 8.
    let low = address & 0xffff | 8 << 16 | 1 << 32 | 0x8e << 40 | (address >> 16 & 0xffff) << 48;
    [low, address >> 32]
}

/// Replaces a gate.
pub fn set_gate(vector: u8, gate: Gate) {
    // SAFETY: one CPU; the handlers do not write the table.
    unsafe { (&raw mut IDT[vector as usize]).write_volatile(gate) };
}

extern "C" fn trap(frame: &mut Frame) {
    let vector = frame.vector as u8;
    COUNTS[vector as usize].fetch_add(1, Relaxed);
    let resume = RESUME.swap(0, Relaxed);
    let expected = vector < PIC_FIRST || resume != 0 && (0x30..APIC_FIRST).contains(&vector);
    if expected && resume != 0 {
        TAKEN.store(frame.vector as u32, Relaxed);
        ERROR.store(frame.error as u32, Relaxed);
        CR2.store(crate::read_cr!("cr2"), Relaxed);
        frame.rip = resume;
        frame.rflags &= !(1 << 8);
        return;
    }
    RESUME.store(resume, Relaxed);
    if vector == RECORDED.load(Relaxed) {
        return record_step(frame);
    }
    LAST_TSC.store(crate::cpu::tsc(), Relaxed);
    // SAFETY: one CPU; hooks are set while no interrupt of their vector can come.
    if let Some(hook) = unsafe { (&raw const HOOKS[vector as usize]).read_volatile() } {
        hook(vector);
    }
    match vector {
        // NMI: counted, that is all.
        2 => {}
        0..=0x1f => {
            println!(
                "FAIL unexpected exception {vector} error {:#x} at {:#x} cr2 {:#x} rsp {:#x}",
                frame.error,
                frame.rip,
                crate::read_cr!("cr2"),
                frame.rsp
            );
            crate::power::off();
        }
        0x20..=0x27 => crate::cpu::outp(0x20, 0x20u8),
        0x28..=0x2f => {
            crate::cpu::outp(0xa0, 0x20u8);
            crate::cpu::outp(0x20, 0x20u8);
        }
        APIC_FIRST..=0xfe => crate::apic::end_of_interrupt(),
        _ => {}
    }
}

/// A debug exception that was let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it returned to.
    pub rip: u64,
    /// DR6, which is reset after each.
    pub dr6: u64,
    /// RFLAGS on the stack.
    pub rflags: u64,
}

/// Most debug exceptions that are recorded; the last one ends single-stepping.
const STEPS: usize = 16;

/// No vector.
const NOTHING: u8 = 0xff;

static RECORDED: AtomicU8 = AtomicU8::new(NOTHING);
static mut RECORD: ([Step; STEPS], usize) = ([Step { rip: 0, dr6: 0, rflags: 0 }; STEPS], 0);

/// From now on debug exceptions are recorded, and the code goes on where it was.
pub fn record() {
    record_vector(1);
}

/// As [`record`], for another vector.
pub fn record_vector(vector: u8) {
    // SAFETY: one CPU, and nothing is recorded while this runs.
    unsafe { (&raw mut RECORD.1).write_volatile(0) };
    RECORDED.store(vector, Relaxed);
}

/// What has been recorded since; nothing is from now on.
pub fn steps() -> &'static [Step] {
    RECORDED.store(NOTHING, Relaxed);
    // SAFETY: one CPU, and nothing is written any more until the next call of `record`.
    unsafe {
        let count = (&raw const RECORD.1).read_volatile().min(STEPS);
        core::slice::from_raw_parts((&raw const RECORD.0).cast(), count)
    }
}

fn record_step(frame: &mut Frame) {
    let dr6: u64;
    // SAFETY: the status only.
    unsafe { asm!("mov {s}, dr6", "mov dr6, {i}", s = out(reg) dr6, i = in(reg) 0xffff_0ff0u64) };
    let step = Step { rip: frame.rip, dr6, rflags: frame.rflags };
    // SAFETY: one CPU; no exception comes in here.
    unsafe {
        let count = (&raw const RECORD.1).read_volatile();
        if count < STEPS {
            (&raw mut RECORD.0[count]).write_volatile(step);
            (&raw mut RECORD.1).write_volatile(count + 1);
        } else {
            frame.rflags &= !(1 << 8);
        }
    }
    // The instruction of an instruction breakpoint is to be run now.
    if dr6 & 0xf != 0 {
        frame.rflags |= 1 << 16;
    }
}

/// What a case wants to do in the handler of a vector, before its EOI.
pub type Hook = fn(u8);

static mut HOOKS: [Option<Hook>; 256] = [None; 256];

/// Sets or removes the hook of a vector, which must not come at this moment.
pub fn set_hook(hook: Option<Hook>, vector: u8) {
    // SAFETY: one CPU, and the handler of this vector is not running.
    unsafe { (&raw mut HOOKS[vector as usize]).write_volatile(hook) };
}

/// How many times a vector was taken.
pub fn count(vector: u8) -> u32 {
    COUNTS[vector as usize].load(Relaxed)
}

/// TSC when the latest interrupt was taken.
pub fn last_tsc() -> u64 {
    LAST_TSC.load(Relaxed)
}

/// What the latest `attempt!` raised.
pub fn taken() -> Option<Trap> {
    let vector = TAKEN.swap(NONE, Relaxed);
    (vector != NONE).then(|| Trap {
        vector: vector as u8,
        error: ERROR.load(Relaxed),
        cr2: CR2.load(Relaxed),
    })
}

/// Runs instructions of which one may raise an exception; gives the exception, `None` when there was none.
///
/// The lines of assembly stand in brackets, operands follow as in `asm!`, those with explicit registers last.
#[macro_export]
macro_rules! attempt {
    ([$($line:expr),+ $(,)?] $(, $($operand:tt)*)?) => {{
        // SAFETY: the lines run at ring 0 in a kernel that consists of them; an exception goes on at label 77 with
        // all registers as they were, which the asm! block declares as its outputs or leaves alone.
        unsafe {
            core::arch::asm!(
                "lea {resume_scratch}, [rip + 77f]",
                "mov qword ptr [rip + {resume_slot}], {resume_scratch}",
                $($line,)+
                "77:",
                "mov qword ptr [rip + {resume_slot}], 0",
                resume_slot = sym $crate::trap::RESUME,
                resume_scratch = out(reg) _,
                $($($operand)*)?
            );
        }
        $crate::trap::taken()
    }};
}

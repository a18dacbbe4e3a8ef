//! What a processor keeps from programs at CPL 3, and what it only tells them (SDM vol. 3 chapters 2, 5 and 6; APM vol. 2 chapter 4
//! and 8).

use crate::boot::{self, PD, PDPT, PML4};
use crate::cpu::cpuid;
use crate::read_cr;
use crate::report::{equal, skip};
use crate::trap::{self, Trap};
use core::arch::{asm, global_asm};

/// How a program at CPL 3 comes back: a gate that it may use.
const BACK: u8 = 0x41;
/// An address that nothing is mapped at.
const ABSENT: u64 = 0x80_0000_2340;
/// RFLAGS.
const AC: u64 = 1 << 18;
/// CR0: alignment mask.
const AM: u64 = 1 << 18;
/// CR4.
const TSD: u64 = 1 << 2;
const UMIP: u64 = 1 << 11;
const PAGE_SIZE_2M: u64 = 1 << 21;
/// Where there is no I/O permission map: behind the limit of the TSS.
const NO_MAP: u16 = 104;
/// Page tables: user access.
const USER: u64 = 4;

global_asm!(
    r#"
    .section .bss.user, "aw", @nobits
    .balign 16
    .fill 4096
    .global user_stack_top
user_stack_top:
    .balign 8
    .global user_saved
user_saved:
    .fill 16

    .section .text.user, "ax"
    // RIP, CS, RFLAGS, RSP and SS of the program are on the trap stack.
    .global user_back
user_back:
    pop qword ptr [rip + user_saved + 8]
    mov rsp, [rip + user_saved]
    popfq
    push rax
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    pop rax
    jmp qword ptr [rip + user_saved + 8]
"#
);

unsafe extern "C" {
    static user_stack_top: u8;
    static user_saved: u64;
    fn user_back();
}

/// Runs lines of assembly at CPL 3, with these flags and IOPL 0 besides; gives the exception that they raised.
macro_rules! user {
    ($flags:expr, [$($line:expr),+ $(,)?] $(, $($operand:tt)*)?) => {{
        // SAFETY: pages of this kernel are open to CPL 3; the lines come back by the gate, an exception in them at label 77, and
        // the flags and the stack are then what they were.
        unsafe {
            asm!(
                "pushfq",
                "mov [rip + {saved}], rsp",
                "lea {at}, [rip + 77f]",
                "mov [rip + {resume}], {at}",
                "lea {at}, [rip + {stack}]",
                "push 59",
                "push {at}",
                "pushfq",
                "and qword ptr [rsp], ~0x3000",
                "or [rsp], {flags}",
                "push 67",
                "lea {at}, [rip + 76f]",
                "push {at}",
                "iretq",
                "76:",
                $($line,)+
                "77:",
                "int 0x41",
                "mov qword ptr [rip + {resume}], 0",
                saved = sym user_saved,
                stack = sym user_stack_top,
                resume = sym trap::RESUME,
                at = out(reg) _,
                flags = in(reg) $flags,
                $($($operand)*)?
            );
        }
        trap::taken()
    }};
}

/// Runs the suite.
pub fn run() {
    open(true);
    let gate = trap::gate(BACK);
    let address = user_back as *const () as u64;
    // Interrupt gate, DPL 3, IST 1, selector 8.
    let low = address & 0xffff | 8 << 16 | 1 << 32 | 0xee << 40 | (address >> 16 & 0xffff) << 48;
    trap::set_gate(BACK, [low, address >> 32]);
    boot::set_io_map(NO_MAP);
    privileged();
    ports();
    boot::set_io_map(0);
    descriptor_tables();
    time_stamp();
    alignment();
    exceptions();
    hypercalls();
    trap::set_gate(BACK, gate);
    open(false);
}

/// Opens the pages of this kernel to CPL 3, or closes them.
fn open(user: bool) {
    let bit = if user { USER } else { 0 };
    // SAFETY: only a right is changed, of the mapping that is in force.
    unsafe {
        for entry in [&raw mut PML4[0], &raw mut PDPT[0]] {
            entry.write_volatile(entry.read_volatile() & !USER | bit);
        }
        for page in boot::start_of_image() / PAGE_SIZE_2M..=boot::end_of_image() / PAGE_SIZE_2M {
            let entry = (&raw mut PD).cast::<u64>().add(page as usize);
            entry.write_volatile(entry.read_volatile() & !USER | bit);
        }
        asm!("mov {v}, cr3", "mov cr3, {v}", v = out(reg) _);
    }
}

/// Vector and error code.
fn raised(trap: Option<Trap>) -> Option<(u8, u32)> {
    trap.map(|trap| (trap.vector, trap.error))
}

const GP: Option<(u8, u32)> = Some((13, 0));

/// 5.9: instructions of CPL 0, whether they exit or not.
fn privileged() {
    let word = 0u64;
    equal(
        "5.9: cs at cpl 3",
        {
            let mut cs = 0u64;
            let trap = user!(0u64, ["mov {cs}, cs"], cs = inout(reg) cs);
            (raised(trap), cs)
        },
        (None, 67),
    );
    macro_rules! refused {
        ($name:literal, [$($line:expr),+] $(, $($operand:tt)*)?) => {
            equal(concat!("5.9: ", $name, " at cpl 3"), raised(user!(0u64, [$($line),+] $(, $($operand)*)?)), GP)
        };
    }
    refused!("hlt", ["hlt"]);
    refused!("cli", ["cli"]);
    refused!("sti", ["sti"]);
    refused!("clts", ["clts"]);
    refused!("invd", ["invd"]);
    refused!("wbinvd", ["wbinvd"]);
    refused!("mov from cr0", ["mov rax, cr0"], out("rax") _);
    refused!("mov to cr3", ["mov cr3, rax"], in("rax") 0u64);
    refused!("mov to cr4", ["mov cr4, rax"], in("rax") 0u64);
    refused!("mov from cr8", ["mov rax, cr8"], out("rax") _);
    refused!("mov to dr7", ["mov dr7, rax"], in("rax") 0x400u64);
    refused!("lmsw", ["lmsw ax"], in("ax") 1u16);
    refused!("rdmsr", ["rdmsr"], in("ecx") 0x1b, out("eax") _, out("edx") _);
    refused!("wrmsr", ["wrmsr"], in("ecx") 0x1b, in("eax") 0, in("edx") 0);
    refused!("rdmsr of no msr", ["rdmsr"], in("ecx") 0x1234_5678, out("eax") _, out("edx") _);
    refused!("invlpg", ["invlpg [rax]"], in("rax") &word);
    refused!("lgdt", ["lgdt [rax]"], in("rax") &word);
    refused!("lidt", ["lidt [rax]"], in("rax") &word);
    refused!("ltr", ["ltr ax"], in("ax") 24u16);
    refused!("in", ["in al, 0x61"], out("al") _);
    refused!("out", ["out 0x80, al"], in("al") 0u8);
    refused!("rep insb", ["rep insb"], in("dx") 0x80u16, in("rcx") 1u64, in("rdi") &word);
    if cpuid(1, 0)[2] >> 26 & 1 == 1 {
        let cr4 = read_cr!("cr4");
        set_cr4(cr4 | 1 << 18);
        refused!("xsetbv", ["xsetbv"], in("ecx") 0, in("eax") 3, in("edx") 0);
        set_cr4(cr4);
    }
    // 20.2 and APM 15: the other kind of program that a processor keeps things from has no more rights.
    let cpuid_works = {
        let vendor: u64;
        let trap = user!(0u64, ["mov r8, rbx", "xor eax, eax", "xor ecx, ecx", "cpuid", "mov r9, rbx", "mov rbx, r8"],
            out("rax") _, out("rcx") _, out("rdx") _, out("r8") _, out("r9") vendor);
        (raised(trap), vendor as u32)
    };
    equal("3.2: cpuid at cpl 3", cpuid_works, (None, cpuid(0, 0)[1]));
}

fn set_cr0(value: u64) {
    // SAFETY: only the alignment mask changes.
    unsafe { asm!("mov cr0, {}", in(reg) value) };
}

fn set_cr4(value: u64) {
    // SAFETY: bits that the processor has, of which this kernel uses none.
    unsafe { asm!("mov cr4, {}", in(reg) value) };
}

/// SDM vol. 1, 19.5: ports by the I/O permission map, and by IOPL.
fn ports() {
    const IOPL_3: u64 = 3 << 12;
    let read = |flags: u64| {
        let value: u64;
        let trap = user!(flags, ["xor eax, eax", "in al, 0x71"], out("rax") value);
        (raised(trap), value)
    };
    crate::cpu::outp(0x70, 0x0du8);
    let none = read(0);
    let flags = read(IOPL_3);
    boot::set_io_map(0);
    let mapped = read(0);
    // Behind the limit of the TSS the map says no.
    let beyond = raised(user!(0u64, ["in al, dx"], in("dx") 0x2000u16, out("al") _));
    equal("19.5: no map, no ports", none.0, GP);
    equal("19.5: iopl and the map allow", (flags, mapped), ((None, 0x80), (None, 0x80)));
    equal("19.5: the map ends with the tss", beyond, GP);
}

/// 2.5: CR4.UMIP keeps the places of the tables from CPL 3.
fn descriptor_tables() {
    let mut room = [0u64; 2];
    let cr4 = read_cr!("cr4");
    let there = cpuid(7, 0)[2] >> 2 & 1 == 1;
    if !there {
        skip("2.5: umip", "the processor has none");
    }
    for on in [false, true] {
        if on && !there {
            continue;
        }
        set_cr4(if on { cr4 | UMIP } else { cr4 & !UMIP });
        let room = room.as_mut_ptr();
        let seen = [
            user!(0u64, ["sgdt [rax]"], in("rax") room),
            user!(0u64, ["sidt [rax]"], in("rax") room),
            user!(0u64, ["sldt eax"], out("eax") _),
            user!(0u64, ["str eax"], out("eax") _),
            user!(0u64, ["smsw eax"], out("eax") _),
        ]
        .map(raised);
        set_cr4(cr4);
        let (name, want) = if on { ("2.5: with umip", GP) } else { ("2.5: without umip", None) };
        equal(name, seen, [want; 5]);
    }
}

/// 2.5: CR4.TSD; and what reads the same and more where the processor has it.
fn time_stamp() {
    let cr4 = read_cr!("cr4");
    let mut seen = [None; 2];
    for (on, seen) in [false, true].into_iter().zip(&mut seen) {
        set_cr4(if on { cr4 | TSD } else { cr4 & !TSD });
        *seen = raised(user!(0u64, ["rdtsc"], out("eax") _, out("edx") _));
        set_cr4(cr4);
    }
    equal("2.5: rdtsc at cpl 3 with tsd", seen, [None, GP]);
    if cpuid(0x8000_0001, 0)[3] >> 27 & 1 == 1 {
        set_cr4(cr4 | TSD);
        let trap = raised(user!(0u64, ["rdtscp"], out("eax") _, out("edx") _, out("ecx") _));
        set_cr4(cr4);
        equal("2.5: rdtscp at cpl 3 with tsd", trap, GP);
    }
    // APM vol. 3, RDPRU: #UD where CPUID does not have it, and #GP for CPL 3 with CR4.TSD.
    let there = cpuid(0x8000_0000, 0)[0] >= 0x8000_0008 && cpuid(0x8000_0008, 0)[1] >> 4 & 1 == 1;
    for tsd in [false, true] {
        set_cr4(if tsd { cr4 | TSD } else { cr4 & !TSD });
        let trap = user!(0u64, [".byte 0x0f, 0x01, 0xfd"], in("ecx") 0, out("eax") _, out("edx") _);
        set_cr4(cr4);
        let want = match (there, tsd) {
            (false, _) => Some(6),
            (true, false) => None,
            (true, true) => Some(13),
        };
        equal("APM 3: rdpru", trap.map(|trap| trap.vector), want);
    }
}

/// 6.15, interrupt 17: at CPL 3 only, with CR0.AM and RFLAGS.AC.
fn alignment() {
    let words = [0u64; 2];
    let odd = words.as_ptr() as u64 + 1;
    let cr0 = read_cr!("cr0");
    let try_user = |flags: u64| {
        let trap = user!(flags, ["mov ecx, [rax]", "nop"], in("rax") odd, out("ecx") _);
        raised(trap)
    };
    set_cr0(cr0 & !AM);
    let without = try_user(AC);
    set_cr0(cr0 | AM);
    let seen = [without, try_user(0), try_user(AC)];
    equal("6.15: #AC wants cr0.am, rflags.ac and cpl 3", seen, [None, None, Some((17, 0))]);
    // Over an exit: CPUID, then the access.
    let trap = user!(AC, ["mov r8, rbx", "mov r9, rax", "xor eax, eax", "xor ecx, ecx", "cpuid", "mov rbx, r8", "mov [r9], ecx"],
        inout("rax") odd => _, out("rcx") _, out("rdx") _, out("r8") _, out("r9") _);
    equal("6.15: #AC of a write behind an exit", raised(trap), Some((17, 0)));
    // SAFETY: AC is cleared again; at CPL 0 it is SMAP's, which is off.
    let trap = crate::attempt!(["pushfq", "or qword ptr [rsp], 0x40000", "popfq", "mov ecx, [rax]", "pushfq",
        "and qword ptr [rsp], ~0x40000", "popfq"], in("rax") odd, out("ecx") _);
    equal("6.15: no #AC at cpl 0", raised(trap), None);
    set_cr0(cr0);
}

/// 6.15: the same exceptions as at CPL 0, by way of the task's stack; a page fault says who it was.
fn exceptions() {
    equal(
        "6.15: #DE at cpl 3",
        raised(user!(0u64, ["div ecx"], inout("eax") 1 => _, inout("edx") 0 => _, in("ecx") 0)),
        Some((0, 0)),
    );
    equal("6.15: #UD at cpl 3", raised(user!(0u64, ["ud2"])), Some((6, 0)));
    equal("6.15: #BP's gate is not for cpl 3", raised(user!(0u64, ["int3"])), Some((13, 3 * 8 + 2)));
    equal("6.15: int n's gate is not for cpl 3", raised(user!(0u64, ["int 0x40"])), Some((13, 0x40 * 8 + 2)));
    let read = |address: u64| user!(0u64, ["mov al, [rax]"], inout("rax") address => _);
    equal("6.15: #PF at cpl 3", read(ABSENT), Some(Trap { vector: 14, error: 4, cr2: ABSENT }));
    // The first 2 MiB are the supervisor's.
    equal(
        "4.6: a supervisor's page at cpl 3",
        read(0x1000),
        Some(Trap { vector: 14, error: 5, cr2: 0x1000 }),
    );
    let apic = crate::apic::LOCAL + 0x30;
    equal("4.6: a device's page at cpl 3", read(apic), Some(Trap { vector: 14, error: 5, cr2: apic }));
}

/// Programs do not call the hypervisor: KVM's interface answers "not permitted".
fn hypercalls() {
    if !crate::cpu::virtualised() {
        return skip("hypercalls at cpl 3", "this is no guest of ours");
    }
    let (mut first, mut second) = (1u64, 1u64);
    let one = raised(user!(0u64, ["vmcall"], inout("rax") first, out("rcx") _, out("rdx") _));
    let other = raised(user!(0u64, ["vmmcall"], inout("rax") second, out("rcx") _, out("rdx") _));
    equal("26.1: hypercalls at cpl 3 are not permitted", (one, first, other, second), (None, !0, None, !0));
}

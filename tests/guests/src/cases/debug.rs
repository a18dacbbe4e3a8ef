//! Debug exceptions around instructions that a hypervisor carries out itself (SDM vol. 3 chapter 18; APM vol. 2 chapter 13).

use crate::attempt;
use crate::read_cr;
use crate::report::{check, equal, skip};
use crate::trap::{self, Step};
use core::arch::asm;

/// DR6 with nothing in it.
const DR6_INITIAL: u64 = 0xffff_0ff0;
/// DR7 with everything off.
const DR7_INITIAL: u64 = 0x400;
/// DR6: single step.
const BS: u64 = 1 << 14;
/// DR6: access to a debug register while DR7.GD was set.
const BD: u64 = 1 << 13;

/// Runs the suite.
pub fn run() {
    single_steps();
    repeated_steps();
    instruction_breakpoint();
    io_breakpoint();
    stack_switch_shadow();
    general_detect();
    aliases();
    others();
    halt();
}

/// 18.3.1.4: the trap behind HLT ends it.
fn halt() {
    let base: u64;
    trap::record();
    // SAFETY: the flags are what they were.
    unsafe {
        asm!(
            "lea {b}, [rip + 2f]", "pushfq", "or qword ptr [rsp], 0x100", "popfq",
            "2: hlt",
            "pushfq", "and qword ptr [rsp], ~0x100", "popfq",
            b = out(reg) base
        );
    }
    let (places, count) = taken(base);
    equal("18.3.1.4: the trap behind hlt ends it", (count, places[0]), (4, 1));
}

/// Where the traps were, as distances from `base`, and what they said.
fn taken(base: u64) -> ([u16; 16], usize) {
    let mut places = [0; 16];
    let steps = trap::steps();
    for (place, step) in places.iter_mut().zip(steps) {
        *place = step.rip.wrapping_sub(base) as u16;
    }
    (places, steps.len())
}

/// 18.3.1.4: a trap after each instruction, emulated or not; none behind MOV SS.
fn single_steps() {
    let base: u64;
    trap::record();
    // SAFETY: RBX is put back; the flags are what they were.
    unsafe {
        asm!(
            "mov {k}, rbx", "mov r9d, ss", "lea r8, [rip + 2f]",
            "pushfq", "or qword ptr [rsp], 0x100", "popfq",
            "2: xor eax, eax",          // 0, trap at 2
            "cpuid",                    // 2, trap at 4
            "in al, 0x80",              // 4, trap at 6
            "out 0x80, al",             // 6, trap at 8
            "mov ss, r9d",              // 8, no trap
            "nop",                      // b, trap at c
            "mov eax, [rdi + 0x30]",    // c, trap at f: the local APIC
            "mov ecx, 0x1b",            // f, trap at 14
            "rdmsr",                    // 14, trap at 16
            "wrmsr",                    // 16, trap at 18
            "pushfq",                   // 18, trap at 19
            "and qword ptr [rsp], ~0x100", // 19, trap at 21
            "popfq",                    // 21, trap at 22
            "mov rbx, {k}",
            k = out(reg) _, in("rdi") crate::apic::LOCAL,
            out("rax") _, out("rcx") _, out("rdx") _, out("r8") base, out("r9") _
        );
    }
    let (places, count) = taken(base);
    let want = [2, 4, 6, 8, 0xc, 0xf, 0x14, 0x16, 0x18, 0x19, 0x21, 0x22];
    check(
        "18.3.1.4: single steps over exits",
        count == want.len() && places[..count] == want,
        format_args!("{:x?}", &places[..count]),
    );
    check(
        "18.3.1.4: DR6.BS in each",
        trap::steps().iter().all(|step| step.dr6 & (BS | 0xf) == BS),
        format_args!("{:x?}", trap::steps()),
    );
}

/// 18.3.1.4: a string instruction with REP traps after each iteration.
fn repeated_steps() {
    let mut buffer = [0u8; 4];
    for (name, string_io) in [
        ("18.3.1.4: rep stosb traps after each iteration", false),
        ("18.3.1.4: rep insb traps after each iteration", true),
    ] {
        let at: u64;
        trap::record();
        // SAFETY: writes three bytes of the buffer; port 0x80 holds nothing of ours.
        unsafe {
            asm!(
                "lea {b}, [rip + 2f]", "test {i:e}, {i:e}", "jnz 3f",
                "pushfq", "or qword ptr [rsp], 0x100", "popfq",
                "2: rep stosb",
                "pushfq", "and qword ptr [rsp], ~0x100", "popfq", "jmp 4f",
                "3:", "lea {b}, [rip + 2f]", "pushfq", "or qword ptr [rsp], 0x100", "popfq",
                "2: rep insb",
                "pushfq", "and qword ptr [rsp], ~0x100", "popfq",
                "4:",
                b = out(reg) at, i = in(reg) u64::from(string_io), inout("rcx") 3u64 => _,
                inout("rdi") buffer.as_mut_ptr() => _, in("dx") 0x80u16, in("al") 0u8
            );
        }
        let (places, count) = taken(at);
        check(name, count == 6 && places[..4] == [0, 0, 2, 3], format_args!("{:x?}", &places[..count]));
    }
}

/// DR7 and DR6 as they were found after power-up.
fn debug_off() {
    // SAFETY: no breakpoint stays on.
    unsafe { asm!("mov dr7, {z}", "mov dr6, {i}", z = in(reg) DR7_INITIAL, i = in(reg) DR6_INITIAL) };
}

/// 18.3.1.1: an instruction breakpoint comes before the instruction, and RF lets that be run.
fn instruction_breakpoint() {
    let base: u64;
    trap::record();
    // SAFETY: RBX is put back, the breakpoint off.
    unsafe {
        asm!(
            "mov {k}, rbx", "lea r8, [rip + 2f]", "mov dr0, r8", "mov dr7, {s}", "xor eax, eax", "xor ecx, ecx",
            "2: cpuid",
            "nop",
            "mov rbx, {k}",
            k = out(reg) _, s = in(reg) DR7_INITIAL | 1, out("rax") _, out("rcx") _, out("rdx") _, out("r8") base
        );
    }
    debug_off();
    let (places, count) = taken(base);
    let first = trap::steps().first().copied().unwrap_or(Step { rip: 0, dr6: 0, rflags: 0 });
    equal("18.3.1.1: a breakpoint on cpuid", (count, places[0], first.dr6 & 0x400f), (1, 0, 1));
    // RF ended with CPUID: the NOP behind it can have a breakpoint of its own.
    trap::record();
    // SAFETY: as above.
    unsafe {
        asm!(
            "mov {k}, rbx", "lea {b}, [rip + 2f]", "mov dr0, {b}", "lea {b}, [rip + 3f]", "mov dr1, {b}",
            "mov dr7, {s}", "xor eax, eax", "xor ecx, ecx",
            "2: cpuid",
            "3: nop",
            "mov rbx, {k}",
            k = out(reg) _, b = out(reg) _, s = in(reg) DR7_INITIAL | 5, out("rax") _, out("rcx") _, out("rdx") _
        );
    }
    debug_off();
    equal("18.3.1.1: RF ends with an emulated instruction", taken(base).1, 2);
}

/// 18.3.1.3: an I/O breakpoint traps after the instruction.
fn io_breakpoint() {
    if !crate::cpu::virtualised() {
        return skip("18.3.1.3: i/o breakpoint", "QEMU's TCG by itself is compared elsewhere");
    }
    let cr4 = read_cr!("cr4");
    let base: u64;
    trap::record();
    // DR1, R/W 2 (I/O), length 1.
    let setting = DR7_INITIAL | 1 << 2 | 2 << 20;
    // SAFETY: CR4.DE only gives that meaning to DR7; it is put back.
    unsafe {
        asm!(
            "mov cr4, {d}", "mov dr1, {p}", "mov dr7, {s}", "lea {b}, [rip + 2f]",
            "2: out 0x80, al",
            "nop",
            "out 0x81, al",
            "nop",
            "mov cr4, {c}",
            d = in(reg) cr4 | 8, c = in(reg) cr4, p = in(reg) 0x80u64, s = in(reg) setting, b = out(reg) base
        );
    }
    debug_off();
    let (places, count) = taken(base);
    let dr6 = trap::steps().first().map_or(0, |step| step.dr6);
    equal("18.3.1.3: i/o breakpoint", (count, places[0], dr6 & 0x400f), (1, 2, 2));
}

/// 6.8.3: a data breakpoint of MOV SS waits for the next instruction, which is one that exits.
fn stack_switch_shadow() {
    if crate::cpu::is_amd() {
        return skip("6.8.3: data breakpoint on mov ss", "QEMU's TCG does not do it");
    }
    let base: u64;
    let word = 16u64;
    trap::record();
    // SAFETY: RBX is put back, the breakpoint off; the selector is the one in use.
    unsafe {
        asm!(
            "mov {k}, rbx", "lea r8, [rip + 2f]", "mov dr0, {a}", "mov dr7, {s}", "xor eax, eax",
            "mov ss, word ptr [{a}]",
            "2: cpuid",
            "nop",
            "mov rbx, {k}",
            k = out(reg) _, s = in(reg) DR7_INITIAL | 1 | 3 << 16, a = in(reg) &raw const word,
            out("rax") _, out("rcx") _, out("rdx") _, out("r8") base
        );
    }
    debug_off();
    let (places, count) = taken(base);
    let dr6 = trap::steps().first().map_or(0, |step| step.dr6);
    equal("6.8.3: data breakpoint on mov ss, then cpuid", (count, places[0], dr6 & 0xf), (1, 2, 1));
}

/// 18.2.4: DR7.GD makes an access to a debug register a fault, and is cleared in the handler.
fn general_detect() {
    if crate::cpu::is_amd() {
        return skip("18.2.4: general detect", "QEMU's TCG does not do it");
    }
    let trap = attempt!(["mov dr7, {s}", "mov rax, dr0"], s = in(reg) DR7_INITIAL | 1 << 13, out("rax") _);
    let (dr6, dr7): (u64, u64);
    // SAFETY: reads.
    unsafe { asm!("mov {a}, dr7", "mov {b}, dr6", a = out(reg) dr7, b = out(reg) dr6) };
    debug_off();
    equal(
        "18.2.4: general detect",
        (trap.map(|trap| trap.vector), dr6 & BD, dr7 >> 13 & 1),
        (Some(1), BD, 0),
    );
}

/// 18.2.2: DR4 and DR5 are DR6 and DR7 unless CR4.DE is set.
fn aliases() {
    let cr4 = read_cr!("cr4");
    let five: u64;
    // SAFETY: reads.
    unsafe { asm!(".byte 0x0f, 0x21, 0xe8", out("rax") five) };
    equal("18.2.2: dr5 is dr7", five, DR7_INITIAL);
    let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4 | 8);
    let trap = attempt!([".byte 0x0f, 0x21, 0xe8"], out("rax") _).map(|trap| trap.vector);
    let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4);
    equal("18.2.2: dr5 is #UD with CR4.DE", trap, Some(6));
}

/// 6.12.1.3, 6.14: traps of software, with the address that they return to.
fn others() {
    for (name, vector) in [("6.15: int1", 1), ("6.15: int3", 3)] {
        if vector == 1 && crate::cpu::is_amd() {
            skip("6.15: int1", "QEMU's TCG takes it for an undefined instruction");
            continue;
        }
        let base: u64;
        trap::record_vector(vector);
        // SAFETY: the handler returns behind the instruction.
        unsafe {
            if vector == 1 {
                asm!("lea {b}, [rip + 2f]", ".byte 0xf1", "2: nop", b = out(reg) base);
            } else {
                asm!("lea {b}, [rip + 2f]", "int3", "2: nop", b = out(reg) base);
            }
        }
        let (places, count) = taken(base);
        equal(name, (count, places[0]), (1, 0));
    }
}

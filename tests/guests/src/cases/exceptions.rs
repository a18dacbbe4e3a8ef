//! Exceptions that the guest itself causes: right vector, right error code, right CR2 (SDM vol. 3 chapter 6).

use crate::report::{equal, under};
use crate::trap::{self, Trap};
use crate::{attempt, cpu};

fn vector_and_error(trap: Option<Trap>) -> Option<(u8, u32)> {
    trap.map(|trap| (trap.vector, trap.error))
}

/// Runs the suite.
pub fn run() {
    under(&"6.15", || {
        contributory();
        page_faults();
        floating_point();
    });
}

fn contributory() {
    let taken = vector_and_error;
    equal(
        "#DE",
        taken(attempt!(["div ecx"], inout("eax") 1 => _, inout("edx") 0 => _, in("ecx") 0)),
        Some((0, 0)),
    );
    equal("#DB by int1", taken(attempt!([".byte 0xf1"])), Some((1, 0)));
    equal(
        "#DB by TF",
        {
            // POPF's own trap comes after the instruction that follows it.
            taken(attempt!(["pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop"]))
        },
        Some((1, 0)),
    );
    equal(
        "#DB by TF over cpuid",
        {
            // The exit's own instruction ends with the trap: it must be pending after the RIP was moved.
            taken(
                attempt!(["mov r8, rbx", "pushfq", "or qword ptr [rsp], 0x100", "popfq", "cpuid", "nop", "mov rbx, r8"],
            inout("eax") 0 => _, inout("ecx") 0 => _, out("edx") _, out("r8") _),
            )
        },
        Some((1, 0)),
    );
    equal(
        "#DB by a data breakpoint",
        {
            let word = 7u64;
            let trap = attempt!(["mov dr0, {a}", "mov dr7, {s}", "mov qword ptr [{a}], 8", "nop"],
            a = in(reg) &raw const word, s = in(reg) 0x1u64 | 0xd << 16);
            let status: u64;
            // SAFETY: turns the breakpoint off again.
            unsafe {
                core::arch::asm!("mov {s}, dr6", "mov dr7, {z}", "mov dr6, {i}", s = out(reg) status, z = in(reg) 0x400u64,
                             i = in(reg) 0xffff_0ff0u64);
            }
            core::hint::black_box(word);
            (taken(trap), status & 0xf)
        },
        (Some((1, 0)), 1),
    );
    equal("#BP", taken(attempt!(["int3"])), Some((3, 0)));
    equal("#UD", taken(attempt!(["ud2"])), Some((6, 0)));
    equal("#UD by LOCK", taken(attempt!([".byte 0xf0, 0x90"])), Some((6, 0)));
    equal(
        "#GP not canonical",
        taken(attempt!(["mov al, [{a}]"], a = in(reg) 1u64 << 63, out("al") _)),
        Some((13, 0)),
    );
    // RSP as the base makes it a stack access.
    equal(
        "#SS not canonical",
        taken(attempt!(["mov al, [rsp + {a}]"], a = in(reg) 1u64 << 63, out("al") _)),
        Some((12, 0)),
    );
    equal("#GP bad selector", taken(attempt!(["mov ds, {s:x}"], s = in(reg) 0x1008u16)), Some((13, 0x1008)));
    equal(
        "#GP int without gate",
        {
            let gate = trap::gate(0x31);
            trap::set_gate(0x31, [0, 0]);
            let trap = taken(attempt!(["int 0x31"]));
            trap::set_gate(0x31, gate);
            trap
        },
        Some((13, 0x31 * 8 + 2)),
    );
    equal(
        "#NP gate not present",
        {
            let gate = trap::gate(0x31);
            trap::set_gate(0x31, [gate[0] & !(1 << 47), gate[1]]);
            let trap = taken(attempt!(["int 0x31"]));
            trap::set_gate(0x31, gate);
            trap
        },
        Some((11, 0x31 * 8 + 2)),
    );
    equal("int n", taken(attempt!(["int 0x40"])), Some((0x40, 0)));
    equal(
        "#DF",
        {
            // #GP with no gate for it: #NP while #GP is delivered, both contributory.
            let gate = trap::gate(13);
            trap::set_gate(13, [gate[0] & !(1 << 47), gate[1]]);
            let trap = taken(attempt!(["mov al, [{a}]"], a = in(reg) 1u64 << 63, out("al") _));
            trap::set_gate(13, gate);
            trap
        },
        Some((8, 0)),
    );
    equal(
        "#DF by ud2 after page fault",
        {
            // A page fault whose gate is missing: #NP while #PF is delivered.
            let gate = trap::gate(14);
            trap::set_gate(14, [gate[0] & !(1 << 47), gate[1]]);
            let trap = taken(attempt!(["mov al, [{a}]"], a = in(reg) 0x80_0000_0000u64, out("al") _));
            trap::set_gate(14, gate);
            trap
        },
        Some((8, 0)),
    );
}

fn page_faults() {
    let absent = 0x80_0000_1238u64;
    equal(
        "#PF read",
        attempt!(["mov al, [{a}]"], a = in(reg) absent, out("al") _),
        Some(Trap { vector: 14, error: 0, cr2: absent }),
    );
    equal(
        "#PF write",
        attempt!(["mov [{a}], al"], a = in(reg) absent, in("al") 0u8),
        Some(Trap { vector: 14, error: 2, cr2: absent }),
    );
    equal(
        "#PF fetch",
        attempt!(["jmp {a}"], a = in(reg) absent),
        Some(Trap { vector: 14, error: 0x10, cr2: absent }),
    );
}

fn floating_point() {
    let taken = vector_and_error;
    equal(
        "#MF",
        {
            let control = 0x0360u16;
            let trap = attempt!(["fninit", "fldcw [{c}]", "fld1", "fldz", "fdivp", "fwait", "nop"], c = in(reg) &control);
            // SAFETY: resets the FPU.
            unsafe { core::arch::asm!("fnclex", "fninit") };
            taken(trap)
        },
        Some((16, 0)),
    );
    equal(
        "#XM",
        {
            let control = 0x1d80u32;
            let trap = attempt!(["ldmxcsr [{c}]", "divss xmm0, xmm1"], c = in(reg) &control, inout("xmm0") 1f32 => _,
            in("xmm1") 0f32);
            let normal = 0x1f80u32;
            // SAFETY: puts the control word back.
            unsafe { core::arch::asm!("ldmxcsr [{}]", in(reg) &normal) };
            taken(trap)
        },
        Some((19, 0)),
    );
    let _ = cpu::tsc();
}

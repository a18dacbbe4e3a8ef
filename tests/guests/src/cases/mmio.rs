//! Memory-mapped registers, by every instruction form that a kernel might use on them.
//!
//! The high half of the interrupt command register is a plain 32-bit register of which bits 31:24 stick: what a form
//! writes there is what it must read.

use crate::apic::{self, LOCAL, register};
use crate::attempt;
use crate::cpu::cpuid;
use crate::read_cr;
use crate::report::{check, equal, skip, under};

/// Runs the suite.
pub fn run() {
    apic::enable();
    under(&"11.4.1", || {
        let version = apic::read(register::VERSION);
        check("local apic version", (0x10..=0x15).contains(&(version & 0xff)), format_args!("{version:#x}"));
        stores();
        read_modify_write();
        loads();
        string_moves();
    });
    under(&"HPET 2.3", vectors);
    under(&"82093 3.2", io_apic);
    under(&"PC", nothing_there);
}

/// The register that the forms are tried on.
const PLACE: u64 = LOCAL + register::ICR_HIGH;

fn set(value: u32) {
    apic::write(register::ICR_HIGH, value);
}

/// Only the destination field is kept by every APIC.
fn get() -> u32 {
    apic::read(register::ICR_HIGH) & 0xff00_0000
}

/// Runs one form with the register's address in RDI, a value in EAX and its arithmetic flags afterwards in RDX.
macro_rules! form {
    ($name:literal, $before:expr, $eax:expr, [$($line:expr),+], $want:expr) => {{
        set($before);
        let trap = attempt!([$($line),+], in("rdi") PLACE, inout("rax") $eax as u64 => _, out("rcx") _, out("rdx") _);
        equal($name, (trap, get()), (None, $want));
    }};
}

fn stores() {
    form!("mov [m], r32", 0, 0x1200_0000u32, ["mov [rdi], eax"], 0x1200_0000);
    form!("mov [m], imm32", 0, 0, ["mov dword ptr [rdi], 0x34000000"], 0x3400_0000);
    form!("mov with an empty REX", 0, 0x5600_0000u32, [".byte 0x40, 0x89, 0x07"], 0x5600_0000);
    form!("mov with displacement", 0, 0x0700_0000u32, ["mov [rdi - 0x1000 + 0x1000], eax"], 0x0700_0000);
    form!(
        "mov with sib",
        0,
        0x0800_0000u32,
        ["mov ecx, 0x10", "mov [rdi + rcx * 4 - 0x40], eax"],
        0x0800_0000
    );
    form!("mov with 32-bit address", 0, 0x0900_0000u32, ["mov [edi], eax"], 0x0900_0000);
    form!("mov moffs", 0, 0x0a00_0000u32, [".byte 0xa3", ".quad 0xfee00310"], 0x0a00_0000);
    form!("movnti", 0, 0x0b00_0000u32, ["movnti [rdi], eax"], 0x0b00_0000);
    form!("mov through a segment", 0, 0x0c00_0000u32, [".byte 0x2e", "mov [rdi], eax"], 0x0c00_0000);
}

fn read_modify_write() {
    form!("or [m], r32", 0x0100_0000, 0x1000_0000u32, ["or [rdi], eax"], 0x1100_0000);
    form!("or [m], imm32", 0x0100_0000, 0, ["or dword ptr [rdi], 0x02000000"], 0x0300_0000);
    form!("and [m], r32", 0x1100_0000, 0x1000_0000u32, ["and [rdi], eax"], 0x1000_0000);
    form!("xor [m], r32", 0x1100_0000, 0x3000_0000u32, ["xor [rdi], eax"], 0x2100_0000);
    form!("add [m], r32", 0x1100_0000, 0x0100_0000u32, ["add [rdi], eax"], 0x1200_0000);
    form!("sub [m], r32", 0x1100_0000, 0x0100_0000u32, ["sub [rdi], eax"], 0x1000_0000);
    form!("adc [m], r32", 0x1100_0000, 0x00ff_ffffu32, ["stc", "adc [rdi], eax"], 0x1200_0000);
    form!("sbb [m], r32", 0x1100_0000, 0x00ff_ffffu32, ["stc", "sbb [rdi], eax"], 0x1000_0000);
    form!("not [m]", 0x0f00_0000, 0, ["not dword ptr [rdi]"], 0xf000_0000);
    form!("neg [m]", 0x0f00_0000, 0, ["neg dword ptr [rdi]"], 0xf100_0000);
    form!("lock or [m], r32", 0x0100_0000, 0x1000_0000u32, ["lock or [rdi], eax"], 0x1100_0000);
    form!("bts [m], imm8", 0x0100_0000, 0, ["bts dword ptr [rdi], 30"], 0x4100_0000);
    form!("btr [m], imm8", 0x4100_0000, 0, ["btr dword ptr [rdi], 30"], 0x0100_0000);
    form!("btc [m], r32", 0x4100_0000, 24, ["btc [rdi], eax"], 0x4000_0000);
    set(0x2100_0000);
    let mut value = 0x4300_0000u64;
    let trap = attempt!(["xchg [rdi], eax"], in("rdi") PLACE, inout("rax") value);
    equal("xchg [m], r32", (trap, value, get()), (None, 0x2100_0000, 0x4300_0000));
    let mut value = 0x0100_0000u64;
    let trap = attempt!(["lock xadd [rdi], eax"], in("rdi") PLACE, inout("rax") value);
    equal("xadd [m], r32", (trap, value, get()), (None, 0x4300_0000, 0x4400_0000));
    let mut zero = 0u64;
    let trap = attempt!(["lock cmpxchg [rdi], ecx", "sete dl", "movzx edx, dl"], in("rdi") PLACE,
                        inout("rax") 0x4400_0000u64 => _, in("ecx") 0x5500_0000u32, inout("rdx") zero);
    equal("cmpxchg that matches", (trap, zero, get()), (None, 1, 0x5500_0000));
    let mut old = 1u64;
    let trap = attempt!(["lock cmpxchg [rdi], ecx", "sete dl", "movzx edx, dl"], in("rdi") PLACE, inout("rax") old,
                        in("ecx") 0x6600_0000u32, inout("rdx") zero);
    equal("cmpxchg that does not", (trap, zero, old, get()), (None, 0, 0x5500_0000, 0x5500_0000));
}

fn loads() {
    set(0x8700_0000);
    let load = |name: &str, got: u64, want: u64| equal(name, got, want);
    macro_rules! load {
        ($name:literal, $seed:expr, [$($line:expr),+], $want:expr) => {{
            let mut value: u64 = $seed;
            let trap = attempt!([$($line),+], in("rdi") PLACE, inout("rax") value, out("rcx") _);
            check($name, trap.is_none(), format_args!("{trap:?}"));
            load($name, value, $want);
        }};
    }
    load!("mov r32, [m]", !0, ["mov eax, [rdi]"], 0x8700_0000);
    load!("mov moffs load", !0, [".byte 0xa1", ".quad 0xfee00310"], 0x8700_0000);
    load!("movsxd r64, [m]", 0, ["movsxd rax, dword ptr [rdi]"], 0xffff_ffff_8700_0000);
    load!("add r32, [m]", 0x0100_0000, ["add eax, [rdi]"], 0x8800_0000);
    load!("and r32, [m]", 0xffff_ffff, ["and eax, [rdi]"], 0x8700_0000);
    load!("test [m], imm32", 0, ["test dword ptr [rdi], 0x80000000", "setnz al"], 1);
    load!("test [m], r32", 0x0100_0000, ["test [rdi], eax", "mov eax, 0", "setnz al"], 1);
    load!("cmp [m], imm32", 0, ["cmp dword ptr [rdi], 0x87000000", "sete al"], 1);
    load!("cmp r32, [m] sets carry", 0, ["cmp eax, [rdi]", "setb al"], 1);
    load!("bt [m], imm8", 0, ["bt dword ptr [rdi], 31", "setc al"], 1);
    set(0);
}

fn string_moves() {
    let mut words = [0u32; 4];
    set(0x2400_0000);
    let trap = attempt!(["lodsd"], inout("rsi") PLACE => _, out("rax") _);
    equal("lodsd", trap, None);
    let (mut from, mut to) = (PLACE, words.as_mut_ptr() as u64);
    let trap = attempt!(["movsd"], inout("rsi") from, inout("rdi") to);
    equal(
        "movsd from a register",
        (trap, words[0], from - PLACE, to - words.as_ptr() as u64),
        (None, 0x2400_0000, 4, 4),
    );
    words[1] = 0x3500_0000;
    let mut to = PLACE;
    let trap = attempt!(["movsd"], inout("rsi") &raw const words[1] => _, inout("rdi") to);
    equal("movsd to a register", (trap, get(), to - PLACE), (None, 0x3500_0000, 4));
    let trap = attempt!(["stosd"], inout("rdi") PLACE => _, in("eax") 0x4600_0000u32);
    equal("stosd", (trap, get()), (None, 0x4600_0000));
    let mut count = 1u64;
    let trap = attempt!(["rep stosd"], inout("rdi") PLACE => _, in("eax") 0x5700_0000u32, inout("rcx") count);
    equal("rep stosd", (trap, get(), count), (None, 0x5700_0000, 0));
    let mut equal_flag = 0u64;
    let trap = attempt!(["scasd", "sete cl", "movzx ecx, cl"], inout("rdi") PLACE => _, in("eax") 0x5700_0000u32,
                        inout("rcx") equal_flag);
    equal("scasd", (trap, equal_flag), (None, 1));
}

/// The HPET's main counter and the register behind it, which is reserved; its first timer's configuration and comparator.
const COUNTER: u64 = 0xfed0_00f0;
const TIMER: u64 = 0xfed0_0100;

/// Moves of vector registers (SDM vol. 2, MOVAPS to MOVUPS), each checked by a plain one.
fn vectors() {
    form!("movd [m], xmm", 0, 0x1300_0000u32, ["movd xmm1, eax", "movd [rdi], xmm1"], 0x1300_0000);
    form!("movss [m], xmm", 0, 0x1400_0000u32, ["movd xmm9, eax", "movss [rdi], xmm9"], 0x1400_0000);
    form!("movd [m], mm", 0, 0x1500_0000u32, ["movd mm3, eax", "movd [rdi], mm3", "emms"], 0x1500_0000);
    let period = quadword(COUNTER & !0xfff) >> 32;
    if period == 0 || period == 0xffff_ffff {
        return skip("wide moves to device memory", "there is no HPET");
    }
    // The counter stands while it is written.
    let enable = quadword(COUNTER & !0xfff | 0x10);
    set_quadword(COUNTER & !0xfff | 0x10, enable & !3);
    macro_rules! stores {
        ($name:literal, $value:expr, [$($line:expr),+]) => {{
            set_quadword(COUNTER, 0);
            let trap = attempt!([$($line),+], in("rdi") COUNTER, in("rax") $value as u64);
            equal($name, (trap, quadword(COUNTER)), (None, $value));
        }};
    }
    stores!("movq [m], xmm", 0x1122_3344_5566, ["movq xmm2, rax", "movq [rdi], xmm2"]);
    stores!("movlps [m], xmm", 0x2233_4455_6677, ["movq xmm2, rax", "movlps [rdi], xmm2"]);
    stores!(
        "movhpd [m], xmm",
        0x3344_5566_7788,
        ["movq xmm2, rax", "movlhps xmm2, xmm2", "movhpd [rdi], xmm2"]
    );
    stores!("movdqu [m], xmm", 0x4455_6677_8899, ["movq xmm8, rax", "movdqu [rdi], xmm8"]);
    stores!("movaps [m], xmm", 0x5566_7788_99aa, ["movq xmm8, rax", "movaps [rdi], xmm8"]);
    stores!("movntdq [m], xmm", 0x6677_8899_aabb, ["movq xmm8, rax", "movntdq [rdi], xmm8"]);
    stores!("movntq [m], mm", 0x7788_99aa_bbcc, ["movq mm7, rax", "movntq [rdi], mm7", "emms"]);
    let trap = attempt!(["movaps [rdi + 8], xmm8"], in("rdi") COUNTER);
    equal("movaps to where it cannot be", trap.map(|trap| trap.vector), Some(13));

    // Loads, of registers that do not change: what two plain moves find.
    let want = (quadword(TIMER), quadword(TIMER + 8));
    macro_rules! loads {
        ($name:literal, [$($line:expr),+], $want:expr) => {{
            let (low, high): (u64, u64);
            let trap = attempt!([$($line),+, "movq {low}, xmm5", "movhlps xmm5, xmm5", "movq {high}, xmm5"],
                in("rdi") TIMER, low = out(reg) low, high = out(reg) high, out("xmm5") _);
            equal($name, (trap, low, high), (None, $want.0, $want.1));
        }};
    }
    loads!("movups xmm, [m]", ["movups xmm5, [rdi]"], want);
    loads!("movdqa xmm, [m]", ["movdqa xmm5, [rdi]"], want);
    loads!("movq xmm, [m]", ["pcmpeqd xmm5, xmm5", "movq xmm5, [rdi]"], (want.0, 0));
    loads!("movsd xmm, [m]", ["pcmpeqd xmm5, xmm5", "movsd xmm5, [rdi + 8]"], (want.1, 0));
    loads!("movhps xmm, [m]", ["pcmpeqd xmm5, xmm5", "movhps xmm5, [rdi]"], (!0, want.0));
    let low: u64;
    let trap = attempt!(["movq mm1, [rdi]", "movq {low}, mm1", "emms"], in("rdi") TIMER, low = out(reg) low);
    equal("movq mm, [m]", (trap, low), (None, want.0));
    avx(want);
    set_quadword(COUNTER & !0xfff | 0x10, enable);
}

/// The same with VEX.
fn avx(want: (u64, u64)) {
    const OSXSAVE: u64 = 1 << 18;
    if cpuid(1, 0)[2] >> 28 & 1 == 0 {
        return skip("vmovdqu", "no AVX");
    }
    let cr4 = read_cr!("cr4");
    let _ = attempt!(["mov cr4, {v}", "xor ecx, ecx", "xor edx, edx", "mov eax, 7", "xsetbv"],
        v = in(reg) cr4 | OSXSAVE, out("rax") _, out("rcx") _, out("rdx") _);
    let mut got = [0u64; 4];
    let trap = attempt!(["vmovdqu ymm6, [rdi]", "vmovdqu [rsi], ymm6"], in("rdi") TIMER, in("rsi") &mut got);
    let rest = (quadword(TIMER + 16), quadword(TIMER + 24));
    equal("vmovdqu ymm, [m]", (trap, got), (None, [want.0, want.1, rest.0, rest.1]));
    let trap = attempt!(["vpcmpeqd xmm6, xmm6, xmm6", "vinsertf128 ymm6, ymm6, xmm6, 1", "vmovdqa xmm6, [rdi]",
        "vmovdqu [rsi], ymm6"], in("rdi") TIMER, in("rsi") &mut got);
    equal("vmovdqa xmm, [m] clears what is above", (trap, got), (None, [want.0, want.1, 0, 0]));
    set_quadword(COUNTER, 0);
    let from = [0x0123_4567_89abu64, 0, want.0, want.1];
    let trap = attempt!(["vmovups ymm6, [rsi]", "vmovups [rdi], ymm6", "vzeroall"], in("rdi") COUNTER, in("rsi") &from);
    equal("vmovups [m], ymm", (trap, quadword(COUNTER), quadword(TIMER)), (None, from[0], want.0));
    avx_512();
    let _ = attempt!(["mov eax, 3", "xor ecx, ecx", "xor edx, edx", "xsetbv", "mov cr4, {v}"],
        v = in(reg) cr4, out("rax") _, out("rcx") _, out("rdx") _);
}

/// With EVEX: registers that nothing else reaches, and a displacement in sizes of the operand.
fn avx_512() {
    if cpuid(7, 0)[1] >> 16 & 1 == 0 {
        return skip("vmovdqu64", "no AVX-512");
    }
    let _ = attempt!(["xor ecx, ecx", "xor edx, edx", "mov eax, 0xe7", "xsetbv"],
        out("rax") _, out("rcx") _, out("rdx") _);
    let mut got = [0u64; 8];
    let trap = attempt!(["vmovdqu64 zmm21, [rdi + 64]", "vmovups [rsi], zmm21"], in("rdi") TIMER - 64, in("rsi") &mut got);
    equal(
        "vmovdqu64 zmm, [m]",
        (trap, got),
        (None, [0, 8, 16, 24, 32, 40, 48, 56].map(|offset| quadword(TIMER + offset))),
    );
    set_quadword(COUNTER, 0);
    let trap = attempt!(["vmovdqu64 xmm22, [rsi + 8]", "vmovntdq [rdi], xmm22"], in("rdi") COUNTER, in("rsi") &[!0, 0x1234_5678_9abcu64, !0]);
    equal("vmovntdq [m], xmm", (trap, quadword(COUNTER)), (None, 0x1234_5678_9abc));
}

fn quadword(address: u64) -> u64 {
    // SAFETY: device registers only.
    unsafe { (address as *const u64).read_volatile() }
}

fn set_quadword(address: u64, value: u64) {
    // SAFETY: as above.
    unsafe { (address as *mut u64).write_volatile(value) };
}

fn io_apic() {
    let version = apic::io_read(1);
    check(
        "io apic version and pins",
        version & 0xff >= 0x11 && version >> 16 & 0xff == 23,
        format_args!("{version:#x}"),
    );
    apic::io_write(0x10 + 2 * 20, 1 << 16 | 0x55);
    apic::io_write(0x11 + 2 * 20, 0x0300_0000);
    equal(
        "io apic redirection entry",
        (apic::io_read(0x10 + 40), apic::io_read(0x11 + 40)),
        (0x1_0055, 0x0300_0000),
    );
    // The index register is 8 bits wide; a byte access to it counts.
    // SAFETY: device registers only.
    let byte = unsafe {
        (apic::IO as *mut u8).write_volatile(1);
        ((apic::IO + 0x10) as *const u32).read_volatile()
    };
    equal("io apic index by a byte", byte, version);
    let remote = apic::io_read(0x10 + 40);
    apic::io_write(0x10 + 40, remote | 1 << 14 | 1 << 12);
    equal("io apic read-only bits", apic::io_read(0x10 + 40), remote);
}

fn nothing_there() {
    // A hole in the PC's address map. Reads are all ones, writes vanish.
    let hole = 0xd000_0000u64;
    let mut value = 0u64;
    let trap = attempt!(["mov rax, [rdi]", "mov [rdi], rax", "mov byte ptr [rdi + 5], 0"], in("rdi") hole, inout("rax") value);
    equal("64-bit access to a hole", (trap, value), (None, !0));
    let mut byte = 0u64;
    let trap = attempt!(["movzx eax, byte ptr [rdi + 3]"], in("rdi") hole, inout("rax") byte);
    equal("byte read of a hole", (trap, byte), (None, 0xff));
    let mut word = 0u64;
    let trap = attempt!(["movsx eax, word ptr [rdi + 1]"], in("rdi") hole, inout("rax") word);
    equal("sign-extended read of a hole", (trap, word), (None, 0xffff_ffff));
}

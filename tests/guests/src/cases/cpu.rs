//! CPUID, MSRs, control registers, XSETBV, hypercalls and the instructions that a guest must not have (SDM vol. 2, 3.2; vol. 3,
//! chapters 2, 10, 16, 24 and 26; APM vol. 2, 15.4).

use crate::cpu::{cpuid, is_amd, rdmsr, wrmsr};
use crate::report::{check, equal, skip, under};
use crate::trap::Trap;
use crate::{attempt, read_cr};
use core::arch::asm;

const GP: Option<Trap> = Some(Trap { vector: 13, error: 0, cr2: 0 });

/// Runs the suite.
pub fn run() {
    under(&"3.2", identification);
    under(&"10.4", msrs);
    under(&"16.3", machine_check);
    under(&"2.5", control_registers);
    under(&"2.6", extended_state);
    under(&"24.7", no_vmx);
    under(&"APM 15.4", no_svm);
    under(&"9.10", no_monitor);
    under(&"26.1", harmless);
}

/// An exception without its CR2, which only a page fault sets.
fn plain(trap: Option<Trap>) -> Option<Trap> {
    trap.map(|trap| Trap { cr2: 0, ..trap })
}

fn identification() {
    let [max, ..] = cpuid(0, 0);
    check("cpuid max leaf", (0xd..0x1000).contains(&max), format_args!("{max:#x}"));
    let [max, ..] = cpuid(0x8000_0000, 0);
    check("cpuid max extended leaf", max >= 0x8000_0008, format_args!("{max:#x}"));
    check("cpuid long mode", cpuid(0x8000_0001, 0)[3] >> 29 & 1 == 1, "bit 29 of EDX is clear");
    // A prefix makes the instruction longer but changes nothing: RIP has to move over all of it.
    for (name, a) in [
        ("cpuid with 66 prefix", {
            let a: u32;
            // SAFETY: RBX is put back.
            unsafe {
                asm!("mov {k}, rbx", ".byte 0x66, 0x0f, 0xa2", "mov rbx, {k}", k = out(reg) _, inout("eax") 0 => a,
                     inout("ecx") 0 => _, out("edx") _);
            }
            a
        }),
        ("cpuid with REX prefix", {
            let a: u32;
            // SAFETY: RBX is put back.
            unsafe {
                asm!("mov {k}, rbx", ".byte 0x48, 0x0f, 0xa2", "mov rbx, {k}", k = out(reg) _, inout("eax") 0 => a,
                     inout("ecx") 0 => _, out("edx") _);
            }
            a
        }),
        ("cpuid with 2e and f3 prefixes", {
            let a: u32;
            // SAFETY: RBX is put back.
            unsafe {
                asm!("mov {k}, rbx", ".byte 0x2e, 0xf3, 0x0f, 0xa2", "mov rbx, {k}", k = out(reg) _,
                     inout("eax") 0 => a, inout("ecx") 0 => _, out("edx") _);
            }
            a
        }),
    ] {
        equal(name, a, cpuid(0, 0)[0]);
    }
    let upper: u64;
    // SAFETY: RBX is put back.
    unsafe {
        asm!("mov {k}, rbx", "cpuid", "mov r8, rbx", "mov rbx, {k}", k = out(reg) _, out("r8") upper,
             inout("rax") !0u64 << 32 | 1 => _, inout("rcx") 0u64 => _, out("rdx") _);
    }
    equal("cpuid clears upper halves", upper >> 32, 0);
    // CPUID.1:ECX.OSXSAVE follows CR4.OSXSAVE.
    if cpuid(1, 0)[2] >> 26 & 1 == 1 {
        let cr4 = read_cr!("cr4");
        let set = attempt!(["mov cr4, {v}"], v = in(reg) cr4 | 1 << 18);
        let on = cpuid(1, 0)[2] >> 27 & 1;
        let clear = attempt!(["mov cr4, {v}"], v = in(reg) cr4 & !(1 << 18));
        let off = cpuid(1, 0)[2] >> 27 & 1;
        equal("cpuid osxsave follows cr4", (set, on, clear, off), (None, 1, None, 0));
    }
    let one = cpuid(1, 0)[2];
    if one >> 31 == 1 {
        let [max, ..] = cpuid(0x4000_0000, 0);
        check("cpuid hypervisor range", (0x4000_0000..0x4001_0000).contains(&max), format_args!("{max:#x}"));
    } else {
        skip("cpuid hypervisor range", "no hypervisor bit");
    }
}

fn try_rdmsr(index: u32) -> (Option<Trap>, u64) {
    let (low, high): (u64, u64);
    let trap = attempt!(["rdmsr"], in("ecx") index, inout("rax") 0u64 => low, inout("rdx") 0u64 => high);
    (plain(trap), high << 32 | low)
}

fn try_wrmsr(index: u32, value: u64) -> Option<Trap> {
    plain(attempt!(["wrmsr"], in("ecx") index, in("rax") value & 0xffff_ffff, in("rdx") value >> 32))
}

fn msrs() {
    const NO_SUCH: u32 = 0x1234_5678;
    equal("rdmsr of no msr", try_rdmsr(NO_SUCH).0, GP);
    equal("wrmsr of no msr", try_wrmsr(NO_SUCH, 0), GP);
    equal("rdmsr of no low msr", try_rdmsr(0x1800).0, GP);
    equal("rdmsr of no amd msr", try_rdmsr(0xc000_1fff).0, GP);
    let (trap, base) = try_rdmsr(0x1b);
    check(
        "rdmsr apic base",
        trap.is_none() && base & 0x900 == 0x900 && base >> 12 & 0xf_ffff == 0xfee00,
        format_args!("{trap:?} {base:#x}"),
    );
    let first = rdmsr(0x10);
    let second = rdmsr(0x10);
    check("rdmsr tsc grows", second > first, format_args!("{first} {second}"));
    // EFER.
    let efer = rdmsr(0xc000_0080);
    equal("efer says long mode", efer & 0x500, 0x500);
    equal("efer reserved bit", try_wrmsr(0xc000_0080, efer | 1 << 60), GP);
    equal("efer lme with paging on", try_wrmsr(0xc000_0080, efer & !0x100), GP);
    equal("efer sce", (try_wrmsr(0xc000_0080, efer | 1), rdmsr(0xc000_0080) & 1), (None, 1));
    equal("efer back", (try_wrmsr(0xc000_0080, efer), rdmsr(0xc000_0080)), (None, efer));
    // Registers that a kernel saves and restores: what is written is read.
    for (name, index, value) in [
        ("star", 0xc000_0081, 0x0023_0010_0000_0000u64),
        ("lstar", 0xc000_0082, 0xffff_8000_1234_5678),
        ("cstar", 0xc000_0083, 0xffff_8000_1234_5670),
        ("sfmask", 0xc000_0084, 0x4_7700),
        ("fs base", 0xc000_0100, 0xffff_ffff_8000_0000),
        ("gs base", 0xc000_0101, 0x7fff_ffff_f000),
        ("kernel gs base", 0xc000_0102, 0xffff_8888_0000_0000),
        ("sysenter cs", 0x174, 8),
        ("sysenter esp", 0x175, 0xffff_8000_0000_1000),
        ("sysenter eip", 0x176, 0xffff_8000_0000_2000),
        ("pat", 0x277, 0x0007_0406_0007_0406),
    ] {
        let old = rdmsr(index);
        let trap = try_wrmsr(index, value);
        let got = rdmsr(index);
        // SAFETY: the value that was there; no Rust code here uses FS or GS.
        unsafe { wrmsr(index, old) };
        check(
            name_of("msr keeps ", name).as_str(),
            trap.is_none() && got == value && rdmsr(index) == old,
            format_args!("{trap:?} got {got:#x}, want {value:#x}"),
        );
    }
    equal("wrmsr fs base not canonical", try_wrmsr(0xc000_0100, 1 << 63), GP);
    equal("wrmsr lstar not canonical", try_wrmsr(0xc000_0082, 1 << 62), GP);
    equal("wrmsr pat with a bad type", try_wrmsr(0x277, 0x02), GP);
    if cpuid(0x8000_0001, 0)[3] >> 27 & 1 == 1 {
        let (trap, old) = try_rdmsr(0xc000_0103);
        let write = try_wrmsr(0xc000_0103, 0x77);
        let aux: u32;
        // SAFETY: reads registers.
        unsafe { asm!("rdtscp", out("eax") _, out("edx") _, out("ecx") aux) };
        // SAFETY: nothing depends on TSC_AUX.
        unsafe { wrmsr(0xc000_0103, old) };
        equal("rdtscp gives tsc aux", (trap, write, aux), (None, None, 0x77));
    } else {
        skip("rdtscp gives tsc aux", "no RDTSCP");
    }
    let (trap, cap) = try_rdmsr(0xfe);
    if cpuid(1, 0)[3] >> 12 & 1 == 1 {
        check("mtrr capabilities", trap.is_none() && cap & 0xff <= 16, format_args!("{trap:?} {cap:#x}"));
        let (trap, default) = try_rdmsr(0x2ff);
        check(
            "mtrr default type",
            trap.is_none() && default & 0xff <= 6,
            format_args!("{trap:?} {default:#x}"),
        );
    }
}

/// A processor with machine checks and without banks that would say more of them.
fn machine_check() {
    if !crate::cpu::virtualised() {
        return skip("machine check", "this is no guest of ours");
    }
    const MCE: u64 = 1 << 6;
    equal("cpuid has mce and mca", cpuid(1, 0)[3] & (1 << 7 | 1 << 14), 1 << 7 | 1 << 14);
    equal("mcg cap: no banks", try_rdmsr(0x179), (None, 0));
    equal("mcg status: none in progress", try_rdmsr(0x17a), (None, 0));
    equal("mcg status: can be cleared", try_wrmsr(0x17a, 0), None);
    equal("mcg status: cannot be set", try_wrmsr(0x17a, 4), GP);
    let cr4 = read_cr!("cr4");
    let set = attempt!(["mov cr4, {v}"], v = in(reg) cr4 | MCE);
    let seen = read_cr!("cr4") & MCE;
    equal("cr4 mce, and int 18", (set, seen, vector(attempt!(["int 18"]))), (None, MCE, Some(18)));
    let clear = attempt!(["mov cr4, {v}"], v = in(reg) cr4 & !MCE);
    equal("cr4 mce off", (clear, read_cr!("cr4") & MCE), (None, 0));
    let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4);
}

/// Two words joined, in a buffer on the stack.
fn name_of(first: &str, second: &str) -> Name {
    let mut name = Name { bytes: [0; 48], length: 0 };
    for byte in first.bytes().chain(second.bytes()).take(48) {
        name.bytes[name.length] = byte;
        name.length += 1;
    }
    name
}

struct Name {
    bytes: [u8; 48],
    length: usize,
}

impl Name {
    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("?")
    }
}

fn control_registers() {
    let cr0 = read_cr!("cr0");
    let cr4 = read_cr!("cr4");
    let write_cr0 = |value: u64| plain(attempt!(["mov cr0, {v}"], v = in(reg) value));
    let write_cr4 = |value: u64| plain(attempt!(["mov cr4, {v}"], v = in(reg) value));
    if !crate::cpu::virtualised() {
        // QEMU's TCG takes what is refused elsewhere, and what it makes of that ends the run.
        return skip("control registers", "this is no guest of ours");
    }
    // SDM vol. 3 section 2.5: combinations that raise #GP.
    if is_amd() {
        // An SVM guest writes CR0 itself, and the only SVM here is QEMU's, which takes these as they come.
        skip("cr0 rules", "QEMU's TCG does not check them");
    } else {
        equal("cr0 pg without pe", write_cr0(cr0 & !1), GP);
        equal("cr0 nw without cd", write_cr0(cr0 & !(1 << 30) | 1 << 29), GP);
        equal("cr0 upper half", write_cr0(cr0 | 1 << 40), GP);
    }
    equal("cr0 unchanged by refused writes", read_cr!("cr0"), cr0);
    equal(
        "cr0 ts set and clear",
        {
            let set = write_cr0(cr0 | 8);
            let seen = read_cr!("cr0") & 8;
            let fault = attempt!(["fnop"]).map(|trap| trap.vector);
            // SAFETY: clears TS again.
            unsafe { asm!("clts") };
            (set, seen, fault, read_cr!("cr0"))
        },
        (None, 8, Some(7), cr0),
    );
    equal(
        "cr0 cd set and clear",
        {
            let set = write_cr0(cr0 | 1 << 30);
            let seen = read_cr!("cr0") >> 30 & 1;
            (set, seen, write_cr0(cr0), read_cr!("cr0"))
        },
        (None, 1, None, cr0),
    );
    equal(
        "smsw sees cr0",
        {
            let low: u64;
            // SAFETY: reads CR0.
            unsafe { asm!("smsw {}", out(reg) low) };
            low & 0xffff
        },
        cr0 & 0xffff,
    );
    equal(
        "lmsw sets ts",
        {
            let trap = attempt!(["lmsw {v:x}"], v = in(reg) (cr0 as u16 | 8));
            let seen = read_cr!("cr0") & 8;
            // SAFETY: clears TS again.
            unsafe { asm!("clts") };
            (trap, seen)
        },
        (None, 8),
    );
    equal("cr4 reserved bit", write_cr4(cr4 | 1 << 31), GP);
    if is_amd() {
        skip("cr4 pae off in long mode", "QEMU's TCG does not check it");
    } else {
        equal("cr4 pae off in long mode", write_cr4(cr4 & !0x20), GP);
    }
    equal("cr4 unchanged by refused writes", read_cr!("cr4"), cr4);
    for (name, bit, there) in [
        ("cr4 tsd", 2, true),
        ("cr4 de", 3, true),
        ("cr4 pge", 7, true),
        ("cr4 pce", 8, true),
        ("cr4 umip", 11, cpuid(7, 0)[2] >> 2 & 1 == 1),
        ("cr4 fsgsbase", 16, cpuid(7, 0)[1] & 1 == 1),
        ("cr4 smep", 20, cpuid(7, 0)[1] >> 7 & 1 == 1),
        ("cr4 smap", 21, cpuid(7, 0)[1] >> 20 & 1 == 1),
        ("cr4 pku", 22, cpuid(7, 0)[2] >> 3 & 1 == 1),
    ] {
        let trap = write_cr4(cr4 | 1 << bit);
        let seen = read_cr!("cr4") >> bit & 1 == 1;
        let back = write_cr4(cr4);
        let want = if there { (None, true, None) } else { (GP, false, None) };
        equal(name, (trap, seen, back), want);
    }
    equal(
        "cr4 vmxe is not there",
        {
            // Where CPUID has no VMX the bit is reserved.
            if cpuid(1, 0)[2] >> 5 & 1 == 1 { GP } else { write_cr4(cr4 | 1 << 13) }
        },
        GP,
    );
    let tpr = attempt!(["mov cr8, {v}"], v = in(reg) 5u64);
    let seen: u64;
    // SAFETY: reads CR8.
    unsafe { asm!("mov {}, cr8", out(reg) seen) };
    let apic = crate::apic::read(crate::apic::register::TPR);
    crate::apic::write(crate::apic::register::TPR, 0x30);
    let back: u64;
    // SAFETY: reads CR8.
    unsafe { asm!("mov {}, cr8", out(reg) back) };
    crate::apic::write(crate::apic::register::TPR, 0);
    equal("cr8 and tpr are one", (tpr, seen, apic, back), (None, 5, 0x50, 3));
    if is_amd() {
        skip("cr8 reserved bits", "QEMU's TCG does not check them");
    } else {
        equal("cr8 reserved bits", plain(attempt!(["mov cr8, {v}"], v = in(reg) 16u64)), GP);
    }
    equal(
        "cr1 is not there",
        attempt!([".byte 0x0f, 0x20, 0xc8"], out("rax") _).map(|trap| trap.vector),
        Some(6),
    );
    let cr3 = read_cr!("cr3");
    equal(
        "cr3 keeps its value",
        {
            let trap = attempt!(["mov cr3, {v}"], v = in(reg) cr3 | 0x18);
            let seen = read_cr!("cr3");
            (trap, seen, attempt!(["mov cr3, {v}"], v = in(reg) cr3))
        },
        (None, cr3 | 0x18, None),
    );
    equal("cr3 beyond the address width", plain(attempt!(["mov cr3, {v}"], v = in(reg) cr3 | 1 << 62)), GP);
    // Debug registers (SDM vol. 3 section 17.2).
    equal(
        "dr7 and dr0 keep values",
        {
            let (zero, seven): (u64, u64);
            // SAFETY: no breakpoint is enabled.
            unsafe {
                asm!("mov dr0, {v}", "mov {a}, dr0", "mov {b}, dr7", v = in(reg) 0x1234_5000u64, a = out(reg) zero,
                 b = out(reg) seven);
            }
            (zero, seven)
        },
        (0x1234_5000, 0x400),
    );
    equal("dr7 upper half", plain(attempt!(["mov dr7, {v}"], v = in(reg) 1u64 << 40)), GP);
}

fn extended_state() {
    let [_, _, ecx, _] = cpuid(1, 0);
    let xsetbv = |index: u32, value: u64| {
        plain(attempt!(["xsetbv"], in("ecx") index, in("rax") value & 0xffff_ffff, in("rdx") value >> 32))
    };
    let cr4 = read_cr!("cr4");
    equal("xsetbv without osxsave", xsetbv(0, 3).map(|trap| trap.vector), Some(6));
    if ecx >> 26 & 1 == 0 {
        return skip("xsetbv", "no XSAVE");
    }
    let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4 | 1 << 18);
    let [low, _, _, high] = cpuid(0xd, 0);
    let allowed = u64::from(high) << 32 | u64::from(low);
    // SAFETY: OSXSAVE is on.
    let xgetbv = || unsafe { core::arch::x86_64::_xgetbv(0) };
    equal("xsetbv all that cpuid allows", (xsetbv(0, allowed), xgetbv()), (None, allowed));
    equal("xsetbv x87 and sse", (xsetbv(0, 3), xgetbv()), (None, 3));
    equal("xsetbv without x87", xsetbv(0, 2), GP);
    equal("xsetbv avx without sse", xsetbv(0, 5), GP);
    equal("xsetbv nothing", xsetbv(0, 0), GP);
    equal("xsetbv unknown bit", xsetbv(0, 3 | 1 << 62), GP);
    equal("xsetbv of no register", xsetbv(5, 3), GP);
    equal("xsetbv refused changes nothing", xgetbv(), 3);
    if allowed & 4 != 0 {
        equal(
            "xsetbv avx works",
            (xsetbv(0, 7), {
                let value: u64;
                let trap = attempt!(["vpcmpeqd xmm0, xmm0, xmm0", "vmovq {v}, xmm0", "vzeroall"], v = out(reg) value,
                                out("xmm0") _);
                (trap, value)
            }),
            (None, (None, !0)),
        );
        // Size of the area follows XCR0 (CPUID.D.0:EBX).
        let wide = cpuid(0xd, 0)[1];
        let _ = xsetbv(0, 3);
        let narrow = cpuid(0xd, 0)[1];
        check(
            "cpuid xsave size follows xcr0",
            wide > narrow && narrow == 576,
            format_args!("{wide} {narrow}"),
        );
        equal("avx off is #UD", attempt!(["vzeroall"]).map(|trap| trap.vector), Some(6));
    }
    state_survives();
    let _ = xsetbv(0, allowed);
    super::xstate::run(allowed);
    let _ = xsetbv(0, 3);
    let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4);
}

/// SSE registers must be the same after an exit: the host uses them.
fn state_survives() {
    let (a, b, mxcsr): (u64, u64, u32);
    let mut control = 0x1fa0u32;
    // SAFETY: RBX is put back; MXCSR gets its old value after.
    unsafe {
        asm!(
            "ldmxcsr [{c}]",
            "movq xmm3, {x}", "movq xmm15, {y}", "mov {k}, rbx",
            "mov eax, 0", "cpuid", "in al, 0x80", "mov eax, 1", "cpuid",
            "mov rbx, {k}", "movq {a}, xmm3", "movq {b}, xmm15",
            "stmxcsr [{c}]", "mov {m:e}, [{c}]", "mov dword ptr [{c}], 0x1f80", "ldmxcsr [{c}]",
            c = in(reg) &mut control, x = in(reg) 0x1122_3344_5566_7788u64, y = in(reg) !0x55u64, k = out(reg) _,
            a = out(reg) a, b = out(reg) b, m = out(reg) mxcsr,
            out("rax") _, out("rcx") _, out("rdx") _, out("xmm3") _, out("xmm15") _
        );
    }
    equal("sse state survives exits", (a, b, mxcsr & 0xffc0), (0x1122_3344_5566_7788, !0x55, 0x1f80));
}

fn vector(trap: Option<Trap>) -> Option<u8> {
    trap.map(|trap| trap.vector)
}

/// A guest has neither VMX nor SVM: #UD, whatever the host has.
fn no_vmx() {
    let memory = [0u64; 2];
    let address = memory.as_ptr();
    equal("vmxon", vector(attempt!(["vmxon [{a}]"], a = in(reg) address)), Some(6));
    equal("vmclear", vector(attempt!(["vmclear [{a}]"], a = in(reg) address)), Some(6));
    equal("vmptrld", vector(attempt!(["vmptrld [{a}]"], a = in(reg) address)), Some(6));
    equal("vmread", vector(attempt!(["vmread rax, rcx"], out("rax") _, in("rcx") 0u64)), Some(6));
    equal("vmwrite", vector(attempt!(["vmwrite rax, rcx"], in("rax") 0u64, in("rcx") 0u64)), Some(6));
    equal("vmlaunch", vector(attempt!(["vmlaunch"])), Some(6));
    equal("vmxoff", vector(attempt!(["vmxoff"])), Some(6));
    equal("invept", vector(attempt!(["invept rax, [{a}]"], a = in(reg) address, in("rax") 1u64)), Some(6));
    equal("invvpid", vector(attempt!(["invvpid rax, [{a}]"], a = in(reg) address, in("rax") 1u64)), Some(6));
    if crate::cpu::virtualised() {
        equal("no vmx in cpuid", cpuid(1, 0)[2] >> 5 & 1, 0);
    }
}

fn no_svm() {
    equal("vmrun", vector(attempt!([".byte 0x0f, 0x01, 0xd8"], in("rax") 0u64)), Some(6));
    equal("vmload", vector(attempt!([".byte 0x0f, 0x01, 0xda"], in("rax") 0u64)), Some(6));
    equal("vmsave", vector(attempt!([".byte 0x0f, 0x01, 0xdb"], in("rax") 0u64)), Some(6));
    equal("invlpga", vector(attempt!([".byte 0x0f, 0x01, 0xdf"], in("rax") 0u64, in("ecx") 0)), Some(6));
    if crate::cpu::virtualised() {
        equal("stgi", vector(attempt!([".byte 0x0f, 0x01, 0xdc"])), Some(6));
        equal("clgi", vector(attempt!([".byte 0x0f, 0x01, 0xdd"])), Some(6));
        equal("skinit", vector(attempt!([".byte 0x0f, 0x01, 0xde"], in("eax") 0)), Some(6));
        equal("svme in efer", try_wrmsr(0xc000_0080, rdmsr(0xc000_0080) | 1 << 12), GP);
        equal("no svm in cpuid", cpuid(0x8000_0001, 0)[2] >> 2 & 1, 0);
    } else {
        skip("stgi, clgi, skinit, svme", "this is no guest of ours");
    }
}

fn no_monitor() {
    let word = 0u64;
    let address = &raw const word;
    if cpuid(1, 0)[2] >> 3 & 1 == 0 {
        equal(
            "monitor is not there",
            vector(attempt!(["monitor"], in("rax") address, in("ecx") 0, in("edx") 0)),
            Some(6),
        );
        equal("mwait is not there", vector(attempt!(["mwait"], in("eax") 0, in("ecx") 0)), Some(6));
    }
}

fn harmless() {
    // Neither must end the guest; what a hypercall answers is the hypervisor's business.
    let (mut first, mut second) = (!0u64, !0u64);
    let vmcall = attempt!(["vmcall"], inout("rax") first, out("rcx") _, out("rdx") _);
    let vmmcall = attempt!(["vmmcall"], inout("rax") second, out("rcx") _, out("rdx") _);
    if crate::cpu::virtualised() {
        // No such hypercall, as KVM says it: on either vendor's processor by either's instruction.
        let unknown = -1000i64 as u64;
        equal("vmcall and vmmcall", (vmcall, first, vmmcall, second), (None, unknown, None, unknown));
    }
    equal(
        "lock vmcall",
        attempt!([".byte 0xf0, 0x0f, 0x01, 0xc1"], inout("rax") !0u64 => _).map(|trap| trap.vector),
        Some(6),
    );
    equal("wbinvd", attempt!(["wbinvd"]), None);
    equal("invd", attempt!(["invd"]), None);
    equal("pause", attempt!(["pause"]), None);
    let trap =
        plain(attempt!(["rdpmc"], in("ecx") !0u32, out("eax") _, out("edx") _)).map(|trap| trap.vector);
    check("rdpmc of no counter", matches!(trap, Some(6 | 13)), format_args!("{trap:?}"));
    equal(
        "rdtsc with tsd at ring 0",
        {
            let cr4 = read_cr!("cr4");
            let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4 | 4);
            let trap = attempt!(["rdtsc"], out("eax") _, out("edx") _);
            let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4);
            trap
        },
        None,
    );
    let word = 0u64;
    equal("invlpg", attempt!(["invlpg [{a}]"], a = in(reg) &word), None);
    equal(
        "sgdt and sidt",
        {
            let mut pointer = [0u16; 5];
            let trap = attempt!(["sgdt [{a}]"], a = in(reg) pointer.as_mut_ptr());
            (trap, pointer[0] >= 0x2f)
        },
        (None, true),
    );
}

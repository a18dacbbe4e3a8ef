//! Two processes on one processor: each loads a pattern of its own into all vector registers, lets the other run, and looks at
//! what it has then. Says `VECTORS wrong=W switches=S` for each.
use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// How often each lets the other run.
const ROUNDS: u32 = 1000;
/// State that is looked at: SSE, AVX, AVX-512. (A pattern in PKRU would take the memory away.)
const LOOKED_AT: u64 = 0b1110_0110;
/// XMM registers, MXCSR and the header of the area (SDM vol. 1, 13.4).
const XMM: std::ops::Range<usize> = 160..416;
const MXCSR: usize = 24;
const XSTATE_BV: usize = 512;

#[repr(C, align(64))]
struct Area([u8; 4096]);

fn main() {
    let second = std::env::args().nth(1).is_some();
    if second {
        println!("ready");
        return println!("{}", run(0x5555_5555));
    }
    let mut command = Command::new("/proc/self/exe");
    let mut other = command.arg("second").stdout(Stdio::piped()).spawn().expect("no second process");
    let mut said = BufReader::new(other.stdout.take().expect("its output")).lines();
    said.next();
    println!("{}", run(0));
    said.for_each(|line| println!("{}", line.unwrap_or_default()));
    let _ = other.wait();
}

/// All rounds; no two processes with the same `salt`.
fn run(salt: u32) -> String {
    // SAFETY: Linux has turned XSAVE on where the processor has it, and this test is for those.
    let components = unsafe { _xgetbv(0) } & LOOKED_AT;
    let ranges = (2..63).filter(|bit| components >> bit & 1 != 0).map(|bit| {
        let leaf = __cpuid_count(0xd, bit);
        leaf.ebx as usize..(leaf.ebx + leaf.eax) as usize
    });
    let ranges: Vec<_> = [XMM].into_iter().chain(ranges).collect();
    let (mut wrong, before) = (0, switches());
    for round in 0..ROUNDS {
        let (mut pattern, mut seen) = (Area([0; 4096]), Area([0; 4096]));
        pattern.0[MXCSR..MXCSR + 4].copy_from_slice(&0x1f80_u32.to_le_bytes());
        pattern.0[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&components.to_le_bytes());
        for at in ranges.iter().cloned().flat_map(|range| range.step_by(4)) {
            let word = (at as u32 + 1).wrapping_mul(0x9e37_79b1) ^ salt ^ round;
            pattern.0[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        // SAFETY: the areas are whole, aligned and well-formed; the system call is sched_yield; what changes is declared.
        unsafe {
            asm!(
                "xrstor64 [{pattern}]", "mov eax, 24", "syscall", "mov eax, {low:e}", "xor edx, edx", "xsave64 [{seen}]",
                pattern = in(reg) &pattern, seen = in(reg) &mut seen, low = in(reg) components as u32,
                inout("eax") components as u32 => _, inout("edx") 0 => _, out("rcx") _, out("r11") _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
                out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
                out("xmm13") _, out("xmm14") _, out("xmm15") _,
            );
        }
        wrong += u32::from(ranges.iter().any(|range| pattern.0[range.clone()] != seen.0[range.clone()]));
    }
    format!("VECTORS wrong={wrong} switches={}", switches() - before)
}

/// How often this process has lost the processor.
fn switches() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
    counts.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum()
}

//! Vector registers, opmasks and whatever else XSAVE has: across exits, and from XSAVEC to XRSTOR.

use crate::attempt;
use crate::cpu::cpuid;
use crate::report::{equal, skip, under};

/// Components that are looked at: SSE, AVX, AVX-512, PKRU. Left out: x87, whose image has bytes that XSAVE makes zero, and
/// what would not fit.
const LOOKED_AT: u64 = 0x2e6;
/// Bytes for an XSAVE area of these.
const SIZE: usize = 2752;
/// The legacy region's XMM registers, MXCSR, and the header (SDM vol. 1, 13.4.1 and 13.4.2).
const XMM: core::ops::Range<usize> = 160..416;
const MXCSR: usize = 24;
const XSTATE_BV: usize = 512;
const MXCSR_INITIAL: u32 = 0x1f80;

#[repr(C, align(64))]
struct Area([u8; SIZE]);

impl Area {
    const fn new() -> Self {
        Self([0; SIZE])
    }
}

/// Where the components of `xcr0` lie in the standard format, XMM first (CPUID.0DH: EAX and EBX of a component).
fn components(xcr0: u64) -> impl Iterator<Item = core::ops::Range<usize>> {
    let rest = (2..63).filter(move |bit| xcr0 >> bit & 1 != 0).map(|bit| {
        let [size, offset, ..] = cpuid(0xd, bit);
        offset as usize..(offset + size) as usize
    });
    [XMM].into_iter().chain(rest)
}

/// An image in the standard format in which no two words of 32 bits are the same, and none is zero.
fn fill(area: &mut Area, xcr0: u64) {
    area.0[MXCSR..MXCSR + 4].copy_from_slice(&MXCSR_INITIAL.to_le_bytes());
    area.0[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&xcr0.to_le_bytes());
    for range in components(xcr0) {
        for at in range.step_by(4) {
            let word = (at as u32 + 1).wrapping_mul(0x9e37_79b1);
            area.0[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
    }
    // PKRU is the low half of its component.
    if xcr0 >> 9 & 1 != 0 {
        let at = cpuid(0xd, 9)[1] as usize + 4;
        area.0[at..at + 4].fill(0);
    }
}

/// Where two images differ first.
fn difference(one: &Area, other: &Area, xcr0: u64) -> Option<usize> {
    components(xcr0).flatten().find(|&at| one.0[at] != other.0[at])
}

/// Runs instructions that change all extended state but x87's.
macro_rules! with_vectors {
    ([$($line:expr),+ $(,)?], $low:expr, $($operand:tt)*) => {
        attempt!(
            [$($line),+],
            $($operand)*, inout("eax") $low => _, inout("edx") 0 => _, out("xmm0") _, out("xmm1") _, out("xmm2") _,
            out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
            out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _
        )
    };
}

/// Runs the cases; `xcr0` is in force.
pub fn run(xcr0: u64) {
    under(&"vol. 1, 13.10", || cases(xcr0));
}

fn cases(xcr0: u64) {
    let xcr0 = xcr0 & LOOKED_AT;
    let low = xcr0 as u32;
    let (mut pattern, mut initial, mut compact, mut seen) =
        (Area::new(), Area::new(), Area::new(), Area::new());
    initial.0[MXCSR..MXCSR + 4].copy_from_slice(&MXCSR_INITIAL.to_le_bytes());
    fill(&mut pattern, xcr0);
    let trap = with_vectors!(
        [
            "xrstor64 [{from}]",
            "mov {rbx}, rbx",
            "mov eax, 1",
            "cpuid",
            "in al, 0x80",
            "mov eax, 1",
            "cpuid",
            "mov rbx, {rbx}",
            "mov eax, {low:e}",
            "xor edx, edx",
            "xsave64 [{to}]",
            "xrstor64 [{initial}]",
        ],
        low,
        from = in(reg) &pattern, to = in(reg) &mut seen, initial = in(reg) &initial, low = in(reg) low,
        rbx = out(reg) _, out("ecx") _
    );
    equal("extended state survives exits", (trap, difference(&pattern, &seen, xcr0)), (None, None));
    if cpuid(0xd, 1)[0] & 2 == 0 {
        return skip("xsavec is undone by xrstor", "no XSAVEC");
    }
    // SDM vol. 1, 13.4.3 and 13.10: the extended region of the compacted format begins at byte 576, too.
    seen = Area::new();
    let trap = with_vectors!(
        [
            "xrstor64 [{from}]",
            "xsavec64 [{compact}]",
            "xrstor64 [{initial}]",
            "xrstor64 [{compact}]",
            "xsave64 [{to}]",
            "xrstor64 [{initial}]",
        ],
        low,
        from = in(reg) &pattern, to = in(reg) &mut seen, initial = in(reg) &initial, compact = in(reg) &mut compact
    );
    equal("xsavec is undone by xrstor", (trap, difference(&pattern, &seen, xcr0)), (None, None));
}

//! Which control bits a guest may set: those of the features that its CPUID shows.

use monovisor_arch::state::bits::*;
use monovisor_cpu::control::Allowed;

use super::cpuid::{self, Context, Leaf};

/// x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM, PKRU.
const XCR0_OFFERED: u64 = 1 | 1 << 1 | 1 << 2 | 0b111 << 5 | 1 << 9;

/// CR4 bits that every 64-bit processor has: VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT.
const CR4_BASE: u64 = 0x7ff;

/// XCR0 components that a guest sees, of those that the host's CPUID leaf 0xD offers.
pub const fn xcr0_offered(host: u64) -> u64 {
    host & XCR0_OFFERED
}

/// What a guest with these CPUID leaves may set.
pub fn allowed(context: &Context, host: impl Fn(u32, u32) -> Leaf) -> Allowed {
    let leaf = |number| cpuid::leaf(number, 0, context, &host);
    let (one, seven, state, extended) = (leaf(1), leaf(7), leaf(0xd), leaf(0x8000_0001));
    let mut cr4 = CR4_BASE;
    for (register, feature, bit) in [
        (one.ecx, 17, CR4_PCIDE),
        (one.ecx, 26, CR4_OSXSAVE),
        (seven.ebx, 0, CR4_FSGSBASE),
        (seven.ebx, 7, CR4_SMEP),
        (seven.ebx, 20, CR4_SMAP),
        (seven.ecx, 2, CR4_UMIP),
        (seven.ecx, 3, CR4_PKE),
        (seven.ecx, 16, CR4_LA57),
    ] {
        if register >> feature & 1 != 0 {
            cr4 |= bit;
        }
    }
    let mut efer = EFER_SCE | EFER_LME;
    if extended.edx & 1 << 20 != 0 {
        efer |= EFER_NXE;
    }
    let xcr0 = if one.ecx & 1 << 26 != 0 { u64::from(state.eax) | u64::from(state.edx) << 32 } else { 0 };
    Allowed { efer, cr4, xcr0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bits_follow_cpuid() {
        let context = Context {
            apic_id: 0,
            processors: 1,
            osxsave: false,
            pke: false,
            xcr0: 1,
            tsc_khz: 1_000_000,
            invpcid: true,
            rdtscp: true,
        };
        let bare = |leaf, _| match leaf {
            0 => Leaf { eax: 0x16, ..Leaf::default() },
            0x8000_0000 => Leaf { eax: 0x8000_0008, ..Leaf::default() },
            _ => Leaf::default(),
        };
        assert_eq!(allowed(&context, bare), Allowed { efer: EFER_SCE | EFER_LME, cr4: CR4_BASE, xcr0: 0 });
        let full = |leaf, subleaf| match leaf {
            0 | 0x8000_0000 => bare(leaf, subleaf),
            _ => Leaf { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX },
        };
        let full = allowed(&context, full);
        assert_eq!(full.xcr0, 0x2e7);
        assert_ne!(full.cr4 & CR4_SMAP, 0);
        assert_eq!(full.cr4 & CR4_VMXE, 0);
        assert_ne!(full.efer & EFER_NXE, 0);
        assert_eq!(full.efer & EFER_SVME, 0);
    }
}

//! Which control bits, instructions and MSRs a guest may use: those of the features that its model has.

use monovisor_arch::state::bits::*;
use monovisor_cpu::control::{Allowed, CR4_CET, CR4_PKS, CR4_UINTR};

use super::cpuid::Leaf;
use super::model::{Features, host_word};
use super::words::{WORDS, Word};

/// CR4 bits and the features that they belong to.
const CR4_FEATURES: [(Word, u32, u64); 21] = [
    (Word::Edx1, 1, CR4_VME | CR4_PVI),
    (Word::Edx1, 2, CR4_DE),
    (Word::Edx1, 3, CR4_PSE),
    (Word::Edx1, 4, CR4_TSD),
    (Word::Edx1, 6, CR4_PAE),
    (Word::Edx1, 7, CR4_MCE),
    (Word::Edx1, 13, CR4_PGE),
    (Word::Edx1, 5, CR4_PCE),
    (Word::Edx1, 24, CR4_OSFXSR),
    (Word::Edx1, 25, CR4_OSXMMEXCPT),
    (Word::Ecx1, 17, CR4_PCIDE),
    (Word::Ecx1, 26, CR4_OSXSAVE),
    (Word::Ebx7, 0, CR4_FSGSBASE),
    (Word::Ebx7, 7, CR4_SMEP),
    (Word::Ebx7, 20, CR4_SMAP),
    (Word::Ecx7, 2, CR4_UMIP),
    (Word::Ecx7, 3, CR4_PKE),
    (Word::Ecx7, 7, CR4_CET),
    (Word::Ecx7, 16, CR4_LA57),
    (Word::Ecx7, 31, CR4_PKS),
    (Word::Edx7, 5, CR4_UINTR),
];

/// XCR0 components and the features that they belong to, besides x87 and SSE: AVX; opmask, ZMM_Hi256 and Hi16_ZMM; PKRU.
const XCR0_FEATURES: [(Word, u32, u64); 3] =
    [(Word::Ecx1, 28, 1 << 2), (Word::Ebx7, 16, 0b111 << 5), (Word::Ecx7, 3, 1 << 9)];

/// Bits of IA32_SPEC_CTRL and the features that they belong to (SDM vol. 4, table 2-2; APM vol. 2, 3.2.9): IBRS, STIBP, SSBD,
/// PSFD.
const SPEC_CTRL_FEATURES: [(Word, u32, u64); 7] = [
    (Word::Edx7, 26, 1),
    (Word::Ebx88, 14, 1),
    (Word::Edx7, 27, 1 << 1),
    (Word::Ebx88, 15, 1 << 1),
    (Word::Edx7, 31, 1 << 2),
    (Word::Ebx88, 24, 1 << 2),
    (Word::Ebx88, 28, 1 << 7),
];

fn bits(features: &Features, table: &[(Word, u32, u64)]) -> u64 {
    table.iter().filter(|(word, bit, _)| features.has(*word, *bit)).fold(0, |all, (_, _, bits)| all | bits)
}

/// XCR0 components that a guest sees, of those that the host's CPUID leaf 0xD offers.
pub fn xcr0_offered(host: u64, features: &Features) -> u64 {
    host & (0b11 | bits(features, &XCR0_FEATURES))
}

/// What a guest of this model may set.
pub fn allowed(features: &Features, host: &dyn Fn(u32, u32) -> Leaf) -> Allowed {
    let mut efer = EFER_SCE | EFER_LME;
    if features.has(Word::Edx81, 20) {
        efer |= EFER_NXE;
    }
    let xcr0 = if features.has(Word::Ecx1, 26) {
        let state = host(0xd, 0);
        xcr0_offered(u64::from(state.eax) | u64::from(state.edx) << 32, features)
    } else {
        0
    };
    Allowed {
        efer,
        cr4: bits(features, &CR4_FEATURES),
        cr4_checked: CR4_FEATURES.iter().any(|(word, bit, _)| {
            !features.has(*word, *bit) && host_word(&WORDS[*word as usize], host) >> bit & 1 != 0
        }),
        xcr0,
        invpcid: features.has(Word::Ebx7, 10),
        rdtscp: features.has(Word::Edx81, 27),
        rdpid: features.has(Word::Ecx7, 22),
        rdpru: features.has(Word::Ebx88, 4),
        spec_ctrl: bits(features, &SPEC_CTRL_FEATURES) as u32,
        predictor_commands: has_msr(features, 0x49),
        flush_command: has_msr(features, 0x10b),
    }
}

/// The model has the feature that an MSR belongs to (SDM vol. 4, table 2-2; APM vol. 2, appendix A).
pub fn has_msr(features: &Features, index: u32) -> bool {
    match index {
        // SPEC_CTRL.
        0x48 => bits(features, &SPEC_CTRL_FEATURES) != 0,
        // PRED_CMD: IBPB.
        0x49 => features.has(Word::Edx7, 26) || features.has(Word::Ebx88, 12),
        // ARCH_CAPABILITIES.
        0x10a => features.has(Word::Edx7, 29),
        // FLUSH_CMD.
        0x10b => features.has(Word::Edx7, 28),
        // SYSENTER_CS, _ESP, _EIP.
        0x174..=0x176 => features.has(Word::Edx1, 11),
        // MCG_CAP, MCG_STATUS.
        0x179 | 0x17a => features.has(Word::Edx1, 14),
        // MTRRs.
        0xfe | 0x200..=0x26f | 0x2ff => features.has(Word::Edx1, 12),
        0x277 => features.has(Word::Edx1, 16),
        // TSC_DEADLINE.
        0x6e0 => features.has(Word::Ecx1, 24),
        0x800..=0x8ff => features.has(Word::Ecx1, 21),
        // TSC_AUX.
        0xc000_0103 => features.has(Word::Edx81, 27) || features.has(Word::Ecx7, 22),
        // KVM's clock, by the old numbers and the new ones.
        0x11 | 0x12 => features.has(Word::Kvm, 0),
        0x4b56_4d00 | 0x4b56_4d01 => features.has(Word::Kvm, 3),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Base, Instructions};
    use super::*;

    fn everything(leaf: u32, _: u32) -> Leaf {
        match leaf {
            0 => Leaf { eax: 0x16, ..Leaf::default() },
            0x8000_0000 => Leaf { eax: 0x8000_0008, ..Leaf::default() },
            _ => Leaf { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX },
        }
    }

    fn model(base: Base, changes: &[(&'static str, bool)]) -> Features {
        Features::choose(base, changes, Instructions::default(), &everything, &mut |complaint| {
            panic!("{complaint}")
        })
    }

    #[test]
    fn control_bits_follow_the_model() {
        let base = allowed(&model(Base::Base, &[]), &everything);
        assert_eq!((base.efer, base.cr4, base.xcr0), (EFER_SCE | EFER_LME | EFER_NXE, 0x7ff, 0));
        assert!(!base.invpcid && !base.rdtscp && !base.rdpid && !base.rdpru);
        let host = allowed(&model(Base::Host, &[]), &everything);
        assert_eq!(host.xcr0, 0x2e7);
        assert_eq!(host.cr4, 0x77_1fff, "SMAP, but no VMXE, CET, PKS");
        assert_eq!(host.efer & EFER_SVME, 0);
        assert!(host.invpcid && host.rdtscp && host.rdpid && host.rdpru);
        let less = allowed(
            &model(Base::Host, &[("nx", false), ("smap", false), ("avx512f", false), ("vme", false)]),
            &everything,
        );
        assert_eq!(less.efer & EFER_NXE, 0);
        assert_eq!(less.cr4, host.cr4 & !(CR4_SMAP | CR4_VME | CR4_PVI));
        assert_eq!(less.xcr0, 0x207);
        assert_eq!(allowed(&model(Base::Host, &[("avx", false)]), &everything).xcr0, 0x203);
        assert!(host.cr4_checked, "CET");
        let none = allowed(&model(Base::Host, &[("xsave", false)]), &everything);
        assert_eq!((none.xcr0, none.cr4 & CR4_OSXSAVE), (0, 0));
    }

    #[test]
    fn what_a_guest_protects_itself_with_follows_the_model() {
        let host = allowed(&model(Base::Host, &[]), &everything);
        assert_eq!((host.spec_ctrl, host.predictor_commands, host.flush_command), (0x87, true, true));
        let base = model(Base::Base, &[]);
        let none = allowed(&base, &everything);
        assert_eq!((none.spec_ctrl, none.predictor_commands, none.flush_command), (0, false, false));
        assert!([0x48, 0x49, 0x10a, 0x10b].iter().all(|&index| !has_msr(&base, index)));
        let ssbd = model(Base::Base, &[("ssbd", true)]);
        assert!(has_msr(&ssbd, 0x48) && !has_msr(&ssbd, 0x49));
        assert_eq!(allowed(&ssbd, &everything).spec_ctrl, 4);
        assert_eq!(allowed(&model(Base::Base, &[("amd-psfd", true)]), &everything).spec_ctrl, 0x80);
    }

    #[test]
    fn msrs_follow_the_model() {
        let host = model(Base::Host, &[]);
        for (name, index) in [
            ("sep", 0x174),
            ("arch-capabilities", 0x10a),
            ("flush-l1d", 0x10b),
            ("mtrr", 0x200),
            ("mtrr", 0x2ff),
            ("pat", 0x277),
            ("tsc-deadline", 0x6e0),
            ("x2apic", 0x802),
            ("kvmclock", 0x12),
            ("kvmclock", 0x4b56_4d01),
        ] {
            assert!(has_msr(&host, index));
            assert!(!has_msr(&model(Base::Host, &[(name, false)]), index), "{name}");
        }
        assert!(has_msr(&model(Base::Host, &[("rdtscp", false)]), 0xc000_0103), "RDPID reads it too");
        assert!(!has_msr(&model(Base::Host, &[("rdtscp", false), ("rdpid", false)]), 0xc000_0103));
        let either = [("spec-ctrl", false), ("ibpb", false)];
        assert!(
            has_msr(&model(Base::Host, &either[..1]), 0x49)
                && has_msr(&model(Base::Host, &either[1..]), 0x49)
        );
        assert!(!has_msr(&model(Base::Host, &either), 0x49));
    }
}

//! The feature words of CPUID: what each bit is called, and what becomes of it.
//!
//! A feature that is not passed on here is hidden: a new processor's new feature needs state or intercepts that nobody
//! has looked at. Bits: SDM vol. 2, CPUID; APM vol. 3, appendix E. Names: QEMU's, then Linux's where it has another.

use monovisor_devices::kvmclock;

/// Which word of features; the order of [`WORDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Word {
    /// Leaf 1, EDX.
    Edx1,
    /// Leaf 1, ECX.
    Ecx1,
    /// Leaf 7.0, EBX.
    Ebx7,
    /// Leaf 7.0, ECX.
    Ecx7,
    /// Leaf 7.0, EDX.
    Edx7,
    /// Leaf 7.1, EAX.
    Eax71,
    /// Leaf 0xD.1, EAX.
    EaxD1,
    /// Leaf 0x8000_0001, EDX, without the bits of leaf 1 that AMD repeats there.
    Edx81,
    /// Leaf 0x8000_0001, ECX.
    Ecx81,
    /// Leaf 0x8000_0007, EDX.
    Edx87,
    /// Leaf 0x8000_0008, EBX.
    Ebx88,
    /// Leaf 0x4000_0001, EAX: KVM's.
    Kvm,
}

/// Number of words.
pub const COUNT: usize = Word::Kvm as usize + 1;

/// Where a word is in the four registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// One word.
#[derive(Debug)]
pub struct Info {
    /// Leaf.
    pub leaf: u32,
    /// Subleaf.
    pub subleaf: u32,
    /// Register.
    pub register: Register,
    /// Names from bit 0 on, a space apart, `-` for none and `a|b` for two.
    pub names: &'static str,
    /// Shown where the host has it.
    pub passed: u32,
    /// Shown whatever the host has: it is emulated.
    pub emulated: u32,
    /// The host's that the model `base` has.
    pub base: u32,
    /// What no guest can be without: it is started with them.
    pub required: u32,
}

/// FPU, PSE, TSC, MSR, PAE, CX8, APIC, CMOV, FXSR, SSE, SSE2.
const REQUIRED_1_EDX: u32 =
    1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 15 | 1 << 24 | 1 << 25 | 1 << 26;

/// All of the P6 family's but PSN, DS, ACPI thermal, SS, HTT (which depends on the topology), TM, IA-64, PBE.
const PASSED_1_EDX: u32 = 0x078b_fbff;

/// The bits of leaf 1 EDX that AMD has in leaf 0x8000_0001 EDX too (APM vol. 3, E.4.2).
pub const REPEATED: u32 = 0x0183_f3ff;

const fn word(leaf: u32, subleaf: u32, register: Register, names: &'static str, passed: u32) -> Info {
    Info { leaf, subleaf, register, names, passed, emulated: 0, base: 0, required: 0 }
}

/// All words, indexed by [`Word`].
pub static WORDS: [Info; COUNT] = [
    Info {
        emulated: 1 << 9,
        base: PASSED_1_EDX,
        required: REQUIRED_1_EDX,
        ..word(
            1,
            0,
            Register::Edx,
            "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn|pse-pn clflush|clfsh - \
             ds|dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
            PASSED_1_EDX,
        )
    },
    Info {
        // x2APIC, TSC-deadline timer; and a hypervisor is there.
        emulated: 1 << 21 | 1 << 24 | 1 << 31,
        // SSE3, CMPXCHG16B.
        base: 1 | 1 << 13,
        ..word(
            1,
            0,
            Register::Ecx,
            "sse3|pni pclmulqdq dtes64 monitor ds-cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca \
             sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline|tsc-deadline-timer aes xsave osxsave avx f16c rdrand \
             hypervisor",
            1 | 1 << 1
                | 1 << 9
                | 1 << 12
                | 1 << 13
                | 1 << 17
                | 1 << 19
                | 1 << 20
                | 1 << 22
                | 1 << 23
                | 1 << 25
                | 1 << 26
                | 1 << 28
                | 1 << 29
                | 1 << 30,
        )
    },
    // All but TSC_ADJUST, SGX, HLE, RTM (aborts are a side channel), PQM, MPX, PQE, PCOMMIT, Intel PT.
    word(
        7,
        0,
        Register::Ebx,
        "fsgsbase tsc-adjust sgx bmi1 hle avx2 fdp-excptn-only smep bmi2 erms invpcid rtm cqm zero-fcs-fds mpx rdt-a \
         avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel-pt avx512pf avx512er avx512cd \
         sha-ni avx512bw avx512vl",
        !(1 << 1 | 1 << 2 | 1 << 4 | 1 << 11 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 22 | 1 << 25),
    ),
    // AVX512_VBMI, UMIP, PKU, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, LA57, RDPID, CLDEMOTE, MOVDIRI,
    // MOVDIR64B.
    word(
        7,
        0,
        Register::Ecx,
        "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512vbmi2 shstk gfni vaes vpclmulqdq avx512vnni avx512bitalg \
         tme avx512-vpopcntdq - la57 - - - - - rdpid kl bus-lock-detect cldemote - movdiri movdir64b enqcmd sgxlc pks",
        1 << 1
            | 1 << 2
            | 1 << 3
            | 1 << 6
            | 1 << 8
            | 1 << 9
            | 1 << 10
            | 1 << 11
            | 1 << 12
            | 1 << 14
            | 1 << 16
            | 1 << 22
            | 1 << 25
            | 1 << 27
            | 1 << 28,
    ),
    // AVX512_4VNNIW, 4FMAPS, fast short REP MOV, VP2INTERSECT, SERIALIZE, AVX512_FP16; and what a guest protects itself with:
    // MD_CLEAR, IBRS and IBPB, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD.
    word(
        7,
        0,
        Register::Edx,
        "- sgx-keys avx512-4vnniw avx512-4fmaps fsrm uintr - - avx512-vp2intersect srbds-ctrl md-clear \
         rtm-always-abort - - serialize hybrid-cpu tsxldtrk - pconfig arch-lbr ibt - amx-bf16 avx512-fp16 amx-tile \
         amx-int8 spec-ctrl stibp flush-l1d arch-capabilities core-capability ssbd",
        1 << 2 | 1 << 3 | 1 << 4 | 1 << 8 | 1 << 10 | 1 << 14 | 1 << 23 | 0b1111 << 26 | 1 << 31,
    ),
    word(
        7,
        1,
        Register::Eax,
        "- - - - avx-vnni avx512-bf16 - - - - fzrm fsrs fsrc",
        1 << 4 | 1 << 5 | 1 << 10 | 1 << 11 | 1 << 12,
    ),
    // XSAVES and its supervisor state are hidden.
    word(0xd, 1, Register::Eax, "xsaveopt xsavec xgetbv1 xsaves xfd", 0b111),
    Info {
        // SYSCALL, NX, long mode.
        base: 1 << 11 | 1 << 20 | 1 << 29,
        required: 1 << 11 | 1 << 29,
        // Hidden: FFXSR, since EFER.FFXSR is refused.
        ..word(
            0x8000_0001,
            0,
            Register::Edx,
            "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr-opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
            1 << 11 | 1 << 20 | 1 << 22 | 1 << 26 | 1 << 27 | 1 << 29 | 1 << 30 | 1 << 31,
        )
    },
    Info {
        // LAHF and SAHF in 64-bit mode.
        base: 1,
        ..word(
            0x8000_0001,
            0,
            Register::Ecx,
            "lahf-lm cmp-legacy svm extapic cr8legacy abm|lzcnt sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp \
             fma4 tce - nodeid-msr - tbm topoext perfctr-core perfctr-nb",
            1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 16 | 1 << 21,
        )
    },
    word(0x8000_0007, 0, Register::Edx, "- - - - - - - - invtsc|constant-tsc|nonstop-tsc", 1 << 8),
    // CLZERO, XSAVEERPTR, RDPRU; IBPB, IBRS, STIBP and how they are meant to be used, SSBD, SSB_NO, PSFD, BTC_NO, IBPB_RET.
    word(
        0x8000_0008,
        0,
        Register::Ebx,
        "clzero - xsaveerptr - rdpru - - - - wbnoinvd - - ibpb - ibrs amd-stibp ibrs-always-on stibp-always-on ibrs-preferred \
         ibrs-same-mode - - - - amd-ssbd virt-ssbd amd-no-ssb - amd-psfd btc-no ibpb-ret",
        1 | 1 << 2 | 1 << 4 | 1 << 12 | 0x3f << 14 | 1 << 24 | 1 << 26 | 0b111 << 28,
    ),
    Info {
        // Port 0x80 needs no delay, and the clock.
        emulated: 1 << 1 | kvmclock::FEATURES,
        ..word(
            0x4000_0001,
            0,
            Register::Eax,
            "kvmclock kvm-nopiodelay kvm-mmu kvmclock kvm-asyncpf kvm-steal-time kvm-pv-eoi kvm-pv-unhalt - kvm-pv-tlb-flush - \
             - - - - - - - - - - - - - kvmclock-stable-bit",
            0,
        )
    },
];

/// A feature that makes no sense without another one.
pub struct Dependency {
    /// The word of the feature that is needed, and its bit.
    pub needs: (Word, u32),
    /// The words and bits that need it.
    pub of: &'static [(Word, u32)],
}

/// In an order in which one pass finds all (SDM vol. 1, 13.2, 14.3, 15.2).
pub static DEPENDENCIES: [Dependency; 4] = [
    // AVX; XSAVEOPT, XSAVEC, XGETBV with ECX = 1.
    Dependency { needs: (Word::Ecx1, 26), of: &[(Word::Ecx1, 1 << 28), (Word::EaxD1, 0b111)] },
    Dependency {
        needs: (Word::Ecx1, 28),
        of: &[
            // FMA, F16C; AVX2; VAES, VPCLMULQDQ; AVX-VNNI; XOP, FMA4.
            (Word::Ecx1, 1 << 12 | 1 << 29),
            (Word::Ebx7, 1 << 5),
            (Word::Ecx7, 1 << 9 | 1 << 10),
            (Word::Eax71, 1 << 4),
            (Word::Ecx81, 1 << 11 | 1 << 16),
        ],
    },
    Dependency { needs: (Word::Ebx7, 5), of: &[(Word::Ebx7, 1 << 16)] },
    Dependency {
        needs: (Word::Ebx7, 16),
        of: &[
            (Word::Ebx7, 1 << 17 | 1 << 21 | 0b111 << 26 | 0b11 << 30),
            (Word::Ecx7, 1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14),
            (Word::Edx7, 1 << 2 | 1 << 3 | 1 << 8 | 1 << 23),
            (Word::Eax71, 1 << 5),
        ],
    },
];

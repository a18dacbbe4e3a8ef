//! The CPU model: which features a guest has. CPUID, control registers, MSRs and XCR0 all follow from it.

use core::fmt;

use super::cpuid::Leaf;
use super::words::{COUNT, DEPENDENCIES, Info, Register, WORDS, Word};

/// The features of a virtual processor, one word for each register of CPUID that holds some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features([u32; COUNT]);

/// What a model starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Everything that the host has and Monovisor passes on.
    Host,
    /// The least that 64-bit systems expect.
    Base,
}

/// What is wrong with `-cpu`: one line that names the feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint<'a> {
    /// No processor has a feature of this name.
    Unknown(&'a str),
    /// A guest is started with it and cannot be without.
    Required(&'a str),
    /// It was asked for and is not there.
    Missing {
        /// The name.
        name: &'a str,
        /// Where it is in CPUID.
        word: Word,
        /// The bit.
        bit: u32,
        /// The host has it, but it is not virtualised.
        host_has: bool,
    },
    /// It was asked for, but another feature that it needs is not there.
    Needs {
        /// Where it is in CPUID.
        word: Word,
        /// The bit.
        bit: u32,
        /// Where the other one is.
        other: (Word, u32),
    },
}

impl Complaint<'_> {
    /// What was asked for makes no sense at all; the others are for a warning.
    pub const fn is_error(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Required(_))
    }
}

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unknown(name) => write!(f, "-cpu: there is no feature '{name}'"),
            Self::Required(name) => write!(f, "-cpu: a guest cannot be without feature '{name}'"),
            Self::Missing { name, word, bit, host_has } => {
                let who = if host_has { "Monovisor" } else { "host" };
                let info = &WORDS[word as usize];
                write!(f, "-cpu: {who} doesn't support requested feature: {info}.{name} [bit {bit}]")
            }
            Self::Needs { word, bit, other } => {
                let name = |word: Word, bit| name(&WORDS[word as usize], bit);
                let (feature, needed) = (name(word, bit), name(other.0, other.1));
                write!(f, "-cpu: feature '{feature}' is not there without '{needed}'")
            }
        }
    }
}

impl fmt::Display for Info {
    /// As QEMU writes it: `CPUID.07H:EBX`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let register = ["EAX", "EBX", "ECX", "EDX"][self.register as usize];
        write!(f, "CPUID.{:02X}H:{register}", self.leaf)
    }
}

/// The first name of a bit.
fn name(info: &Info, bit: u32) -> &'static str {
    let names = info.names.split_ascii_whitespace().nth(bit as usize).unwrap_or("-");
    names.split('|').next().unwrap_or(names)
}

/// Two ways to write the same name: QEMU has both `sse4_1` and `sse4.1`.
fn same(one: &str, other: &str) -> bool {
    let plain = |byte: u8| if matches!(byte, b'_' | b'.') { b'-' } else { byte };
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(a, b)| plain(a) == plain(b))
}

/// All words, in order.
const ALL: [Word; COUNT] = [
    Word::Edx1,
    Word::Ecx1,
    Word::Ebx7,
    Word::Ecx7,
    Word::Edx7,
    Word::Eax71,
    Word::EaxD1,
    Word::Edx81,
    Word::Ecx81,
    Word::Edx87,
    Word::Ebx88,
    Word::Kvm,
];

/// The host's word of features; 0 where it has no such leaf.
pub(super) fn host_word(info: &Info, host: &dyn Fn(u32, u32) -> Leaf) -> u32 {
    let limit = match info.leaf >> 28 {
        0 => host(0, 0).eax,
        8 => host(0x8000_0000, 0).eax,
        // The hypervisor's leaves are ours alone.
        _ => 0,
    };
    // Leaf 7 has as many subleaves as its first one says.
    if info.leaf > limit || info.leaf == 7 && info.subleaf > host(7, 0).eax {
        return 0;
    }
    let leaf = host(info.leaf, info.subleaf);
    match info.register {
        Register::Eax => leaf.eax,
        Register::Ebx => leaf.ebx,
        Register::Ecx => leaf.ecx,
        Register::Edx => leaf.edx,
    }
}

impl Features {
    /// The model that `-cpu` asks for. What it says about features is in `changes`: a name, and whether it is to be
    /// there. `hidden` are instructions that this host's virtualisation cannot give to a guest. `complain` hears what
    /// cannot be had.
    pub fn choose<'a>(
        base: Base,
        changes: &[(&'a str, bool)],
        hidden: Instructions,
        host: &dyn Fn(u32, u32) -> Leaf,
        complain: &mut dyn FnMut(Complaint<'a>),
    ) -> Self {
        let (mut available, mut features, mut raw) = ([0; COUNT], [0; COUNT], [0; COUNT]);
        for (index, info) in WORDS.iter().enumerate() {
            raw[index] = host_word(info, host);
            available[index] = raw[index] & info.passed | info.emulated;
        }
        Self::hide(&mut available, hidden);
        for (index, info) in WORDS.iter().enumerate() {
            let shown = if base == Base::Host { info.passed } else { info.base };
            features[index] = available[index] & (shown | info.emulated);
        }
        for &(wanted, on) in changes {
            let mut known = false;
            for (word, info) in ALL.into_iter().zip(&WORDS) {
                for (bit, names) in info.names.split_ascii_whitespace().enumerate() {
                    if names == "-" || !names.split('|').any(|name| same(name, wanted)) {
                        continue;
                    }
                    known = true;
                    let mask = 1 << bit;
                    let index = word as usize;
                    if on && available[index] & mask == 0 {
                        let host_has = raw[index] & mask != 0;
                        complain(Complaint::Missing { name: wanted, word, bit: bit as u32, host_has });
                    } else if on {
                        features[index] |= mask;
                    } else if info.required & mask != 0 {
                        complain(Complaint::Required(wanted));
                    } else {
                        features[index] &= !mask;
                    }
                }
            }
            if !known {
                complain(Complaint::Unknown(wanted));
            }
        }
        let asked = |word: Word, bit: u32| {
            let names = WORDS[word as usize].names.split_ascii_whitespace().nth(bit as usize).unwrap_or("-");
            changes.iter().any(|&(wanted, on)| on && names.split('|').any(|name| same(name, wanted)))
        };
        for dependency in &DEPENDENCIES {
            let (word, bit) = dependency.needs;
            if features[word as usize] & 1 << bit != 0 {
                continue;
            }
            for &(of, mask) in dependency.of {
                let lost = features[of as usize] & mask;
                features[of as usize] &= !mask;
                for bit in (0..32).filter(|bit| lost >> bit & 1 != 0 && asked(of, *bit)) {
                    complain(Complaint::Needs { word: of, bit, other: dependency.needs });
                }
            }
        }
        Self(features)
    }

    fn hide(available: &mut [u32; COUNT], hidden: Instructions) {
        if hidden.invpcid {
            // Linux would use PCIDs and INVPCID together; a processor with one has the other.
            available[Word::Ebx7 as usize] &= !(1 << 10);
            available[Word::Ecx1 as usize] &= !(1 << 17);
        }
        if hidden.rdtscp {
            available[Word::Edx81 as usize] &= !(1 << 27);
            available[Word::Ecx7 as usize] &= !(1 << 22);
        }
    }

    /// A word.
    pub const fn word(&self, word: Word) -> u32 {
        self.0[word as usize]
    }

    /// Sets or clears one feature.
    pub const fn set(&mut self, word: Word, bit: u32, on: bool) {
        let mask = 1 << bit;
        self.0[word as usize] = self.0[word as usize] & !mask | if on { mask } else { 0 };
    }

    /// One feature.
    pub const fn has(&self, word: Word, bit: u32) -> bool {
        self.word(word) >> bit & 1 != 0
    }
}

/// Instructions that a virtual processor has by a control of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instructions {
    /// INVPCID.
    pub invpcid: bool,
    /// RDTSCP and RDPID.
    pub rdtscp: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A processor that has every bit of every leaf.
    fn everything(leaf: u32, _: u32) -> Leaf {
        match leaf {
            0 => Leaf { eax: 0x20, ..Leaf::default() },
            0x8000_0000 => Leaf { eax: 0x8000_0022, ..Leaf::default() },
            _ => Leaf { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX },
        }
    }

    /// One of twenty years ago.
    fn old(leaf: u32, _: u32) -> Leaf {
        match leaf {
            0 => Leaf { eax: 1, ..Leaf::default() },
            1 => Leaf { edx: 0x078b_fbff, ..Leaf::default() },
            0x8000_0000 => Leaf { eax: 0x8000_0001, ..Leaf::default() },
            0x8000_0001 => Leaf { edx: 1 << 11 | 1 << 20 | 1 << 29, ..Leaf::default() },
            _ => Leaf::default(),
        }
    }

    fn choose(
        base: Base,
        changes: &[(&'static str, bool)],
        host: &dyn Fn(u32, u32) -> Leaf,
    ) -> (Features, Vec<String>) {
        let mut said = Vec::new();
        let features = Features::choose(base, changes, Instructions::default(), host, &mut |complaint| {
            said.push(complaint.to_string());
        });
        (features, said)
    }

    #[test]
    fn names_are_where_the_manuals_have_the_bits() {
        let find = |wanted: &str| {
            ALL.into_iter().zip(&WORDS).find_map(|(word, info)| {
                let bit = info
                    .names
                    .split_ascii_whitespace()
                    .position(|names| names.split('|').any(|name| same(name, wanted)))?;
                Some((word, bit))
            })
        };
        for (name, word, bit) in [
            ("sse2", Word::Edx1, 26),
            ("pbe", Word::Edx1, 31),
            ("pni", Word::Ecx1, 0),
            ("pcid", Word::Ecx1, 17),
            ("sse4_1", Word::Ecx1, 19),
            ("x2apic", Word::Ecx1, 21),
            ("tsc_deadline_timer", Word::Ecx1, 24),
            ("hypervisor", Word::Ecx1, 31),
            ("fsgsbase", Word::Ebx7, 0),
            ("avx2", Word::Ebx7, 5),
            ("invpcid", Word::Ebx7, 10),
            ("avx512f", Word::Ebx7, 16),
            ("smap", Word::Ebx7, 20),
            ("avx512vl", Word::Ebx7, 31),
            ("umip", Word::Ecx7, 2),
            ("pku", Word::Ecx7, 3),
            ("avx512_vpopcntdq", Word::Ecx7, 14),
            ("la57", Word::Ecx7, 16),
            ("rdpid", Word::Ecx7, 22),
            ("pks", Word::Ecx7, 31),
            ("serialize", Word::Edx7, 14),
            ("ssbd", Word::Edx7, 31),
            ("fsrc", Word::Eax71, 12),
            ("xsaves", Word::EaxD1, 3),
            ("nx", Word::Edx81, 20),
            ("pdpe1gb", Word::Edx81, 26),
            ("rdtscp", Word::Edx81, 27),
            ("lm", Word::Edx81, 29),
            ("3dnow", Word::Edx81, 31),
            ("svm", Word::Ecx81, 2),
            ("tbm", Word::Ecx81, 21),
            ("perfctr_nb", Word::Ecx81, 24),
            ("nonstop_tsc", Word::Edx87, 8),
            ("rdpru", Word::Ebx88, 4),
            ("virt-ssbd", Word::Ebx88, 25),
            ("kvmclock-stable-bit", Word::Kvm, 24),
        ] {
            assert_eq!(find(name), Some((word, bit)), "{name}");
        }
        assert!(WORDS.iter().all(|info| info.names.split_ascii_whitespace().count() <= 32));
    }

    #[test]
    fn the_host_model_is_what_the_host_has_and_monovisor_passes_on() {
        let (features, said) = choose(Base::Host, &[], &everything);
        assert!(said.is_empty());
        for (word, info) in ALL.into_iter().zip(&WORDS) {
            let host = if word == Word::Kvm { 0 } else { info.passed };
            assert_eq!(features.word(word), host | info.emulated, "{info}");
        }
        let (features, _) = choose(Base::Host, &[], &old);
        assert_eq!(features.word(Word::Ecx1), 1 << 21 | 1 << 24 | 1 << 31);
        assert_eq!(features.word(Word::Ebx7), 0);
    }

    #[test]
    fn features_come_and_go_by_either_spelling() {
        let (features, said) = choose(Base::Base, &[("sse4_1", true), ("x2apic", false)], &everything);
        assert!(said.is_empty(), "{said:?}");
        assert!(
            features.has(Word::Ecx1, 19) && !features.has(Word::Ecx1, 21) && !features.has(Word::Ecx1, 26)
        );
        // Every bit of the name.
        let (features, _) = choose(Base::Host, &[("kvmclock", false)], &everything);
        assert_eq!(features.word(Word::Kvm) & 9, 0);
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let wanted = [("avx512f", true), ("vmx", true), ("frob", true), ("lm", false), ("nx", false)];
        let (features, said) = choose(Base::Host, &wanted, &old);
        assert_eq!(
            said,
            [
                "-cpu: host doesn't support requested feature: CPUID.07H:EBX.avx512f [bit 16]",
                "-cpu: host doesn't support requested feature: CPUID.01H:ECX.vmx [bit 5]",
                "-cpu: there is no feature 'frob'",
                "-cpu: a guest cannot be without feature 'lm'",
            ]
        );
        assert!(features.has(Word::Edx81, 29) && !features.has(Word::Edx81, 20));
        let (_, said) = choose(Base::Host, &[("svm", true)], &everything);
        assert_eq!(
            said,
            ["-cpu: Monovisor doesn't support requested feature: CPUID.80000001H:ECX.svm [bit 2]"]
        );
    }

    #[test]
    fn a_feature_goes_with_what_it_needs() {
        let (features, said) = choose(Base::Host, &[("xsave", false)], &everything);
        assert!(said.is_empty());
        assert_eq!(features.word(Word::EaxD1), 0);
        assert_eq!(features.word(Word::Ecx1) & (1 << 28 | 1 << 12 | 1 << 29), 0);
        assert_eq!(features.word(Word::Ebx7) & (1 << 5 | 1 << 16 | 0b11 << 30), 0);
        assert!(features.has(Word::Ecx7, 8), "GFNI has SSE forms");
        let (features, said) = choose(Base::Base, &[("avx2", true)], &everything);
        assert_eq!(said, ["-cpu: feature 'avx2' is not there without 'avx'"]);
        assert!(!features.has(Word::Ebx7, 5));
    }

    #[test]
    fn instructions_that_cannot_be_given_are_hidden() {
        let hidden = Instructions { invpcid: true, rdtscp: true };
        let features = Features::choose(Base::Host, &[], hidden, &everything, &mut |_| {});
        assert!(!features.has(Word::Ebx7, 10) && !features.has(Word::Ecx1, 17));
        assert!(!features.has(Word::Edx81, 27) && !features.has(Word::Ecx7, 22));
    }
}

//! The CPUID leaves of a guest: the host's, less what Monovisor does not virtualise, plus what it adds.
//!
//! Which features it shows is the model's business ([`Features`]). Leaves: SDM vol. 2, CPUID; APM vol. 3, appendix E.

use crate::policy::features::xcr0_offered;
use crate::policy::model::Features;
use crate::policy::words::{REPEATED, Word};

/// EAX, EBX, ECX, EDX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// What the leaves depend on besides the host's.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Local APIC id of this virtual processor.
    pub apic_id: u8,
    /// Virtual processors of the guest.
    pub processors: u8,
    /// Guest's CR4.OSXSAVE.
    pub osxsave: bool,
    /// Guest's CR4.PKE.
    pub pke: bool,
    /// Guest's XCR0.
    pub xcr0: u64,
    /// Frequency of the guest's TSC in kHz.
    pub tsc_khz: u32,
    /// The model.
    pub features: Features,
}

/// Highest basic leaf shown.
const MAX_BASIC: u32 = 0x1f;
/// Highest hypervisor leaf: the timing leaf that VMware defined and KVM guests know.
const MAX_HYPERVISOR: u32 = 0x4000_0010;
/// Highest extended leaf shown.
const MAX_EXTENDED: u32 = 0x8000_001e;

const LEAF_1_ECX_OSXSAVE: u32 = 1 << 27;
const LEAF_1_EDX_HTT: u32 = 1 << 28;
const LEAF_7_ECX_OSPKE: u32 = 1 << 4;
/// CmpLegacy: the package's processors are counted, not threads.
const LEAF_8_1_ECX_CMP_LEGACY: u32 = 1 << 1;

/// KVM's signature, whose paravirtual clock the guest gets: `KVMKVMKVM\0\0\0`.
const KVM_SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x0000_004d];
/// Frequency of the emulated local APIC timer before its divider, in kHz.
const APIC_BUS_KHZ: u32 = 1_000_000;

/// The leaves of one virtual processor, those kept ready that never change.
#[derive(Clone, Debug)]
pub struct Cpuid {
    /// What the others depend on.
    pub context: Context,
    /// Basic leaves 0 to 0x1F, then extended ones 0x8000_0000 to 0x8000_001F.
    ready: [Leaf; 64],
}

/// The leaves, numbered as in [`Cpuid::ready`], that depend on the subleaf, or on state that a guest changes: 1, 4, 7,
/// 0xB, 0xD, 0x1F, 0x8000_001D.
const NOT_READY: u64 = 1 << 1 | 1 << 4 | 1 << 7 | 1 << 0xb | 1 << 0xd | 1 << 0x1f | 1 << (32 + 0x1d);

impl Cpuid {
    /// For a processor with this context.
    pub fn new(context: Context, host: &dyn Fn(u32, u32) -> Leaf) -> Self {
        let mut ready = [Leaf::default(); 64];
        for (number, place) in (0u32..).zip(&mut ready) {
            *place = leaf(number & 0x1f | (number >> 5) << 31, 0, &context, host);
        }
        Self { context, ready }
    }

    /// The guest has switched its local APIC off or on: while it is off, CPUID has none (SDM vol. 3, 11.4.3).
    pub fn set_apic(&mut self, on: bool, host: &dyn Fn(u32, u32) -> Leaf) {
        const APIC: u32 = 9;
        if self.context.features.has(Word::Edx1, APIC) != on {
            self.context.features.set(Word::Edx1, APIC, on);
            *self = Self::new(self.context, host);
        }
    }

    /// A leaf that is always the same; `None` leaves it to [`leaf`].
    #[inline]
    pub fn ready(&self, number: u32) -> Option<&Leaf> {
        let index = number & 0x1f | number >> 31 << 5;
        if number & 0x7fff_ffe0 != 0 || NOT_READY >> index & 1 != 0 {
            return None;
        }
        self.ready.get(index as usize)
    }
}

/// The leaf that a guest sees. `host` runs CPUID on this processor.
pub fn leaf(leaf: u32, subleaf: u32, context: &Context, host: &dyn Fn(u32, u32) -> Leaf) -> Leaf {
    match leaf {
        0x4000_0000..=0x4fff_ffff => hypervisor(leaf, context),
        0x8000_0000..=0xffff_ffff => {
            let limit = host(0x8000_0000, 0).eax.min(MAX_EXTENDED);
            if leaf > limit { Leaf::default() } else { extended(leaf, subleaf, limit, context, host) }
        }
        _ => {
            let limit = host(0, 0).eax.min(MAX_BASIC);
            // Intel answers a leaf beyond the last with the last one's data; AMD with zeros. Zeros tell no lies.
            if leaf > limit { Leaf::default() } else { basic(leaf, subleaf, limit, context, host) }
        }
    }
}

fn basic(leaf: u32, subleaf: u32, limit: u32, context: &Context, host: &dyn Fn(u32, u32) -> Leaf) -> Leaf {
    let raw = host(leaf, subleaf);
    let features = &context.features;
    match leaf {
        0 => Leaf { eax: limit, ..raw },
        1 => {
            let mut ecx = features.word(Word::Ecx1);
            if ecx & (1 << 26) != 0 && context.osxsave {
                ecx |= LEAF_1_ECX_OSXSAVE;
            }
            let mut edx = features.word(Word::Edx1);
            if context.processors > 1 {
                edx |= LEAF_1_EDX_HTT;
            }
            let ebx =
                raw.ebx & 0xffff | u32::from(context.processors) << 16 | u32::from(context.apic_id) << 24;
            Leaf { eax: raw.eax, ebx, ecx, edx }
        }
        // Cache and TLB descriptors are the host's.
        2 => raw,
        // Deterministic caches, and core numbers of the package (31:26), where there are caches.
        4 if raw.eax & 0x1f != 0 => Leaf { eax: cache(raw.eax, context) | (ids(context) - 1) << 26, ..raw },
        4 => raw,
        // ARAT: the APIC timer never stops.
        6 => Leaf { eax: raw.eax & 1 << 2 | 1 << 2, ..Leaf::default() },
        7 => match subleaf {
            0 => {
                let mut ecx = features.word(Word::Ecx7);
                if ecx & (1 << 3) != 0 && context.pke {
                    ecx |= LEAF_7_ECX_OSPKE;
                }
                Leaf {
                    eax: raw.eax.min(1),
                    ebx: features.word(Word::Ebx7),
                    ecx,
                    edx: features.word(Word::Edx7),
                }
            }
            1 => Leaf { eax: features.word(Word::Eax71), ..Leaf::default() },
            _ => Leaf::default(),
        },
        // Extended topology: no threads, no cores; EDX is the x2APIC id.
        0xb | 0x1f => topology(leaf, subleaf, context, host),
        0xd => extended_state(subleaf, raw, context, host),
        // 0x15 and 0x16 stay hidden: their crystal would have to be the APIC timer's clock, and Linux multiplies
        // them in 32 bits. A guest learns its TSC frequency from the KVM clock or leaf 0x4000_0010.
        _ => Leaf::default(),
    }
}

/// The package's processors have numbers below this power of two.
fn ids(context: &Context) -> u32 {
    u32::from(context.processors.max(1)).next_power_of_two()
}

/// EAX of a cache's description: as the host's, but for who shares it (25:14, less one). The package has one cache of level 3
/// or above, and each processor its own of the others.
fn cache(raw: u32, context: &Context) -> u32 {
    let shared = if raw >> 5 & 7 >= 3 { ids(context) - 1 } else { 0 };
    raw & 0x3fff | shared << 14
}

fn topology(leaf: u32, subleaf: u32, context: &Context, host: &dyn Fn(u32, u32) -> Leaf) -> Leaf {
    // A processor without leaf 0x1F answers zeros in EBX of its subleaf 0: then this one must as well.
    if leaf == 0x1f && host(leaf, 0).ebx == 0 {
        return Leaf::default();
    }
    let id = u32::from(context.apic_id);
    // Level types: 1 SMT, 2 core. The shift of the core level spans the package: all APIC ids in one package.
    match subleaf {
        0 => Leaf { eax: 0, ebx: 1, ecx: 1 << 8, edx: id },
        1 => {
            let count = u32::from(context.processors.max(1));
            Leaf { eax: ids(context).trailing_zeros(), ebx: count, ecx: 2 << 8 | 1, edx: id }
        }
        _ => Leaf { eax: 0, ebx: 0, ecx: subleaf & 0xff, edx: id },
    }
}

fn extended_state(subleaf: u32, raw: Leaf, context: &Context, host: &dyn Fn(u32, u32) -> Leaf) -> Leaf {
    if !context.features.has(Word::Ecx1, 26) {
        return Leaf::default();
    }
    let components =
        |leaf: Leaf| xcr0_offered(u64::from(leaf.eax) | u64::from(leaf.edx) << 32, &context.features);
    // Legacy area and header, then each component where the host puts it.
    let size = |mask: u64| {
        (2..63u32).filter(|&bit| mask >> bit & 1 != 0).fold(576, |size: u32, bit| {
            let component = host(0xd, bit);
            size.max(component.ebx.saturating_add(component.eax))
        })
    };
    match subleaf {
        0 => {
            let offered = components(raw);
            Leaf {
                eax: offered as u32,
                ebx: size(context.xcr0),
                ecx: size(offered),
                edx: (offered >> 32) as u32,
            }
        }
        1 => {
            let eax = context.features.word(Word::EaxD1);
            let ebx = if eax & 2 == 0 {
                0
            } else {
                // The compacted size (SDM vol. 1, 13.4.3): components in order, aligned where they ask for it.
                (2..63u32).filter(|&bit| context.xcr0 >> bit & 1 != 0).fold(576u32, |size, bit| {
                    let component = host(0xd, bit);
                    let start = if component.ecx & 2 != 0 { size.next_multiple_of(64) } else { size };
                    start.saturating_add(component.eax)
                })
            };
            Leaf { eax, ebx, ecx: 0, edx: 0 }
        }
        2..63 if components(host(0xd, 0)) >> subleaf & 1 != 0 => Leaf { ecx: raw.ecx & 2, edx: 0, ..raw },
        _ => Leaf::default(),
    }
}

fn hypervisor(leaf: u32, context: &Context) -> Leaf {
    match leaf {
        0x4000_0000 => {
            let [ebx, ecx, edx] = KVM_SIGNATURE;
            Leaf { eax: MAX_HYPERVISOR, ebx, ecx, edx }
        }
        0x4000_0001 => Leaf { eax: context.features.word(Word::Kvm), ..Leaf::default() },
        0x4000_0010 => Leaf { eax: context.tsc_khz, ebx: APIC_BUS_KHZ, ..Leaf::default() },
        _ => Leaf::default(),
    }
}

fn extended(leaf: u32, subleaf: u32, limit: u32, context: &Context, host: &dyn Fn(u32, u32) -> Leaf) -> Leaf {
    let raw = host(leaf, subleaf);
    let features = &context.features;
    match leaf {
        0x8000_0000 => Leaf { eax: limit, ..raw },
        0x8000_0001 => {
            let mut ecx = features.word(Word::Ecx81);
            if context.processors > 1 && limit >= 0x8000_0008 {
                ecx |= raw.ecx & LEAF_8_1_ECX_CMP_LEGACY;
            }
            // AMD repeats some of leaf 1.
            let edx = features.word(Word::Edx81) | raw.edx & REPEATED & features.word(Word::Edx1);
            Leaf { eax: raw.eax, ebx: raw.ebx, ecx, edx }
        }
        // Brand string, caches.
        0x8000_0002..=0x8000_0006 => raw,
        0x8000_0007 => Leaf { edx: features.word(Word::Edx87), ..Leaf::default() },
        0x8000_0008 => Leaf {
            // Guest-physical width in 23:16 is for hypervisors: 0, the same as 7:0.
            eax: raw.eax & 0xffff,
            ebx: features.word(Word::Ebx88),
            // Processors of the package, and the bits of an APIC id that number them.
            ecx: ids(context).trailing_zeros() << 12 | (u32::from(context.processors.max(1)) - 1),
            edx: 0,
        },
        // 1 GiB TLBs.
        0x8000_0019 => raw,
        // Cache topology.
        0x8000_001d => Leaf { eax: cache(raw.eax, context), ..raw },
        0x8000_001e => {
            Leaf { eax: u32::from(context.apic_id), ebx: u32::from(context.apic_id), ecx: 0, edx: 0 }
        }
        _ => Leaf::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::model::{Base, Instructions};

    fn context() -> Context {
        Context {
            apic_id: 0,
            processors: 1,
            osxsave: false,
            pke: false,
            xcr0: 1,
            tsc_khz: 2_400_000,
            features: Features::choose(Base::Host, &[], Instructions::default(), &everything, &mut |_| {}),
        }
    }

    /// A processor that has every bit of every leaf.
    fn everything(leaf: u32, subleaf: u32) -> Leaf {
        match (leaf, subleaf) {
            (0, _) => Leaf { eax: 0x20, ebx: 1, ecx: 2, edx: 3 },
            (0x8000_0000, _) => Leaf { eax: 0x8000_0022, ..Leaf::default() },
            (0xd, 2) => Leaf { eax: 256, ebx: 576, ecx: 0, edx: 0 },
            (0xd, 5) => Leaf { eax: 64, ebx: 1088, ecx: 0, edx: 0 },
            (0xd, 6) => Leaf { eax: 512, ebx: 1152, ecx: 0, edx: 0 },
            (0xd, 7) => Leaf { eax: 1024, ebx: 1664, ecx: 0, edx: 0 },
            (0xd, 9) => Leaf { eax: 8, ebx: 2688, ecx: 0, edx: 0 },
            _ => Leaf { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX },
        }
    }

    #[test]
    fn virtualisation_and_unknown_features_are_hidden() {
        let one = leaf(1, 0, &context(), &everything);
        assert_eq!(one.ecx & (1 << 5 | 1 << 3 | 1 << 6 | 1 << 15), 0, "VMX, MONITOR, SMX, PDCM");
        assert_ne!(one.ecx & 1 << 31, 0);
        assert_eq!(one.ecx & LEAF_1_ECX_OSXSAVE, 0);
        assert_eq!(leaf(0x8000_0001, 0, &context(), &everything).ecx & 1 << 2, 0, "SVM");
        let seven = leaf(7, 0, &context(), &everything);
        assert_eq!(seven.ebx & (1 << 1 | 1 << 2 | 1 << 4 | 1 << 11 | 1 << 14 | 1 << 25), 0);
        assert_eq!(seven.ecx & (1 << 5 | 1 << 7 | LEAF_7_ECX_OSPKE), 0);
        for hidden in
            [0x3, 0x5, 0xa, 0xf, 0x10, 0x12, 0x14, 0x15, 0x16, 0x19, 0x1c, 0x20, 0x8000_000a, 0x8000_001f]
        {
            assert_eq!(leaf(hidden, 0, &context(), &everything), Leaf::default(), "{hidden:#x}");
        }
    }

    #[test]
    fn all_leaves_agree_on_the_package() {
        for processors in [1u8, 2, 3, 4, 8] {
            let ids = u32::from(processors).next_power_of_two();
            for apic_id in 0..processors {
                let context = Context { apic_id, processors, ..context() };
                let id = u32::from(apic_id);
                let get = |number, subleaf, raw: Leaf| {
                    leaf(number, subleaf, &context, &|n, s| if n == number { raw } else { everything(n, s) })
                };
                let one = get(1, 0, everything(1, 0));
                assert_eq!((one.ebx >> 16 & 0xff, one.ebx >> 24), (processors.into(), id));
                assert_eq!(one.edx >> 28 & 1, u32::from(processors > 1));
                // Level 1 data, level 3 unified.
                let (first, third) = (1 | 1 << 5, 3 | 3 << 5);
                for number in [4, 0x8000_001d] {
                    let shared = |eax| get(number, 0, Leaf { eax, ..Leaf::default() }).eax >> 14 & 0xfff;
                    assert_eq!((shared(first), shared(third)), (0, ids - 1));
                }
                assert_eq!(get(4, 0, Leaf { eax: first, ..Leaf::default() }).eax >> 26, ids - 1);
                assert_eq!(get(4, 9, Leaf::default()), Leaf::default());
                let threads = leaf(0xb, 0, &context, &everything);
                let cores = leaf(0xb, 1, &context, &everything);
                assert_eq!((threads.eax, threads.ebx, threads.edx), (0, 1, id));
                assert_eq!((1 << cores.eax, cores.ebx, cores.edx), (ids, processors.into(), id));
                let sizes = leaf(0x8000_0008, 0, &context, &everything).ecx;
                assert_eq!((sizes & 0xff, 1 << (sizes >> 12)), (u32::from(processors) - 1, ids));
                assert_eq!(leaf(0x8000_001e, 0, &context, &everything).ebx & 0xff, id);
            }
        }
    }

    #[test]
    fn limits_are_capped_both_ways() {
        assert_eq!(leaf(0, 0, &context(), &everything).eax, MAX_BASIC);
        assert_eq!(leaf(0x8000_0000, 0, &context(), &everything).eax, MAX_EXTENDED);
        let old = |leaf, subleaf| {
            if leaf == 0 { Leaf { eax: 4, ..Leaf::default() } } else { everything(leaf, subleaf) }
        };
        assert_eq!(leaf(0, 0, &context(), &old).eax, 4);
        assert_eq!(leaf(7, 0, &context(), &old), Leaf::default());
    }

    #[test]
    fn osxsave_and_ospke_mirror_cr4() {
        let context = Context { osxsave: true, pke: true, ..context() };
        assert_ne!(leaf(1, 0, &context, &everything).ecx & LEAF_1_ECX_OSXSAVE, 0);
        assert_ne!(leaf(7, 0, &context, &everything).ecx & LEAF_7_ECX_OSPKE, 0);
    }

    #[test]
    fn sizes_of_extended_state_follow_xcr0() {
        let d = |xcr0| leaf(0xd, 0, &Context { xcr0, ..context() }, &everything);
        assert_eq!((d(1).ebx, d(1).ecx, d(1).eax), (576, 2696, 0x2e7));
        assert_eq!(d(7).ebx, 832);
        assert_eq!(d(0xe7).ebx, 2688);
        let compact = leaf(0xd, 1, &Context { xcr0: 0x207, ..context() }, &everything);
        assert_eq!((compact.eax, compact.ebx), (7, 840));
        assert_eq!(leaf(0xd, 8, &context(), &everything), Leaf::default());
    }

    #[test]
    fn apic_ids_agree_in_all_leaves() {
        let context = Context { apic_id: 3, processors: 4, ..context() };
        assert_eq!(leaf(1, 0, &context, &everything).ebx >> 16, 0x0304);
        assert_eq!(leaf(0xb, 0, &context, &everything).edx, 3);
        assert_eq!(leaf(0xb, 1, &context, &everything), Leaf { eax: 2, ebx: 4, ecx: 0x201, edx: 3 });
        assert_eq!(leaf(0x8000_001e, 0, &context, &everything).eax, 3);
    }

    #[test]
    fn there_is_no_apic_while_it_is_off() {
        let mut cpuid = Cpuid::new(context(), &everything);
        let apic = |cpuid: &Cpuid| {
            let one = leaf(1, 0, &cpuid.context, &everything);
            (one.edx >> 9 & 1, cpuid.ready(0x8000_0001).map(|leaf| leaf.edx >> 9 & 1))
        };
        assert_eq!(apic(&cpuid), (1, Some(1)));
        cpuid.set_apic(false, &everything);
        assert_eq!(apic(&cpuid), (0, Some(0)));
        cpuid.set_apic(true, &everything);
        assert_eq!(apic(&cpuid), (1, Some(1)));
    }

    #[test]
    fn ready_leaves_are_those_that_never_change() {
        let cpuid = Cpuid::new(context(), &everything);
        for number in (0..0x40).chain(0x8000_0000..0x8000_0040).chain([0x4000_0000, u32::MAX]) {
            for subleaf in 0..3 {
                for (osxsave, xcr0) in [(false, 1), (true, 7)] {
                    let state = Context { osxsave, pke: osxsave, xcr0, ..context() };
                    if let Some(ready) = cpuid.ready(number) {
                        assert_eq!(*ready, leaf(number, subleaf, &state, &everything), "{number:#x}");
                    }
                }
            }
        }
        assert!(cpuid.ready(0).is_some() && cpuid.ready(0x8000_0001).is_some());
        for changing in [1, 4, 7, 0xb, 0xd, 0x1f, 0x20, 0x8000_001d, 0x8000_0020, 0x4000_0001] {
            assert!(cpuid.ready(changing).is_none(), "{changing:#x}");
        }
    }
}

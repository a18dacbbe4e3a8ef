//! What a guest could learn of the host through the processor's speculation, and what is done about it.
//!
//! There is one guest, and each of its processors stays on a physical one, so no guest can learn of another. What it must
//! not learn is the host's memory: what the operator sends, the store, the options. [`decide`] says once for each processor
//! what its chip needs; `Barriers` does it around each entry, with nothing but one test of a bit where nothing is needed.
//!
//! | leak | what is done |
//! |---|---|
//! | branches of the host trained by the guest (Spectre v2, BHI) | IBRS, or AutoIBRS, while the host runs; the guest's SPEC_CTRL is kept apart; BHI_DIS_S |
//! | returns of the host predicted from the guest's calls | the return stack is filled on exit; on Zen 5 BpSpecReduce |
//! | level 1 data cache (L1TF) | flushed before the first entry of a slice: between two exits of a slice the host touches the guest's data only |
//! | buffers (MDS, RFDS, TSA) | VERW as the last instruction before each entry |
//! | buffers by TSX (TAA) | TSX is switched off: no guest is shown it; else as MDS |
//!
//! Buffers that only reads of device memory reveal (MMIO stale data) need nothing: no guest reaches a device. Where the
//! microcode or the chip has no means, [`Decision`] says so.
//!
//! Sources: SDM vol. 4, table 2-2; Intel's "Speculative Execution Side Channel Mitigations" and its articles on each issue;
//! APM vol. 2, 3.1.7 and 3.2.9, vol. 3, appendix E; AMD's "Software Techniques for Managing Speculation".

mod barrier;
mod chip;

use core::fmt;

pub(crate) use barrier::{AFTER_EXIT, BEFORE_ENTRY, Barriers, SELECTOR, after_exit, before_entry};
pub use chip::{Chip, Maker, bit};

/// IA32_SPEC_CTRL.
pub(crate) const SPEC_CTRL: u32 = 0x48;
/// IA32_PRED_CMD.
pub(crate) const PRED_CMD: u32 = 0x49;
/// IA32_ARCH_CAPABILITIES.
pub(crate) const ARCH_CAPABILITIES: u32 = 0x10a;
/// IA32_FLUSH_CMD.
pub(crate) const FLUSH_CMD: u32 = 0x10b;

/// SPEC_CTRL: IBRS.
const IBRS: u32 = 1;
/// SPEC_CTRL: BHI_DIS_S.
const BHI_DIS_S: u32 = 1 << 10;

/// What a guest sees of IA32_ARCH_CAPABILITIES: what says that the chip does not leak, or that one of the means that the
/// guest has works. RDCL_NO, IBRS_ALL, RSBA, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO; TAA_NO; SBDR_SSDP_NO,
/// FBSDP_NO, PSDP_NO; FB_CLEAR; RRSBA, BHI_NO; PBRSB_NO; GDS_NO, RFDS_NO, RFDS_CLEAR; ITS_NO.
pub(crate) const SHOWN_CAPABILITIES: u64 =
    0x7f | 1 << 8 | 0b111 << 13 | 1 << 17 | 0b11 << 19 | 1 << 24 | 0b111 << 26 | 1 << 62;

/// What is done, and what stays open, in the order of [`NAMES`].
mod measure {
    /// The host runs with IBRS.
    pub const IBRS: u32 = 1;
    /// The host runs with EFER.AIBRSE, which also clears the return stack on exit (APM vol. 2, 3.1.7).
    pub const AUTO_IBRS: u32 = 1 << 1;
    /// The whole return stack is filled on exit.
    pub const RETURNS: u32 = 1 << 2;
    /// The host runs with BHI_DIS_S.
    pub const BHI: u32 = 1 << 3;
    /// VERW before each entry.
    pub const VERW: u32 = 1 << 4;
    /// The level 1 data cache is flushed before the first entry of a slice.
    pub const FLUSH: u32 = 1 << 5;
    /// TSX is off.
    pub const TSX_OFF: u32 = 1 << 6;
    /// BP_CFG.BpSpecReduce is set.
    pub const SPEC_REDUCE: u32 = 1 << 7;
    /// Branch predictions are dropped when the guest is reset.
    pub const IBPB: u32 = 1 << 8;
    pub const OPEN_L1TF: u32 = 1 << 9;
    pub const OPEN_MDS: u32 = 1 << 10;
    pub const OPEN_SPECTRE_V2: u32 = 1 << 11;
    pub const OPEN_BHI: u32 = 1 << 12;
    /// Returns, on Zen 1 to 4 (retbleed, SRSO): an IBPB on each exit would cost more than all the rest of it.
    pub const OPEN_SRSO: u32 = 1 << 13;
    /// A processor's other thread may look while the host runs on this one.
    pub const OPEN_SMT: u32 = 1 << 14;
    /// Beyond what is shown: IBRS is written on each exit, as it is a barrier only then.
    pub const ALWAYS: u32 = 1 << 16;
    /// SVM keeps the guest's SPEC_CTRL by itself.
    pub const VIRTUAL: u32 = 1 << 17;
    /// There is IA32_ARCH_CAPABILITIES.
    pub const CAPABILITIES: u32 = 1 << 18;
    /// LFENCE is to be made one that waits (AMD's "Software Techniques for Managing Speculation", G-2).
    pub const FENCE: u32 = 1 << 19;
}

/// Names from bit 0 on.
const NAMES: &str = "ibrs auto-ibrs rsb bhi-dis-s verw l1d-flush tsx-off bp-spec-reduce ibpb \
                     l1tf=open mds=open spectre-v2=open bhi=open srso=open smt=open";

/// What is done on a chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    measures: u32,
    /// SPEC_CTRL of the host.
    host: u32,
}

/// What a chip needs.
#[cold]
pub fn decide(chip: &Chip) -> Decision {
    let (intel, amd) = (chip.maker == Maker::Intel, chip.maker == Maker::Amd);
    let has = |bit| chip.has(bit);
    let either = |condition, one, other| if condition { one } else { other };
    let (mut all, mut host) = (0, 0);

    // Branches.
    let ibrs = has(bit::SPEC_CTRL) || has(bit::AMD_IBRS);
    let lasting = has(bit::IBRS_ALL) || has(bit::AMD_IBRS_ALWAYS_ON);
    if has(bit::AUTO_IBRS) {
        all |= measure::AUTO_IBRS;
    } else if ibrs {
        host = IBRS;
        all |= measure::IBRS | either(lasting, 0, measure::ALWAYS);
        // Intel's lasting IBRS covers returns but for the first, which `after_exit` always takes care of.
        all |= either(intel && lasting, 0, measure::RETURNS);
    } else {
        // The guest need not bother with returns.
        all |= measure::OPEN_SPECTRE_V2;
    }
    if intel && lasting && !has(bit::BHI_NO) {
        all |= either(has(bit::BHI_CTRL), measure::BHI, measure::OPEN_BHI);
        host |= either(has(bit::BHI_CTRL), BHI_DIS_S, 0);
    }
    let family = chip.family();
    if amd && matches!(family, 0x17..=0x1a) {
        all |= measure::FENCE;
        if !has(bit::SRSO_NO) {
            all |= either(has(bit::SRSO_MSR_FIX), measure::SPEC_REDUCE, measure::OPEN_SRSO);
        }
    }
    all |= either(has(bit::SPEC_CTRL) || has(bit::AMD_IBPB), measure::IBPB, 0);

    // Data.
    if intel && family == 6 {
        let l1tf = !has(bit::RDCL_NO) && !has(bit::SKIP_L1DFL_VMENTRY);
        if l1tf {
            all |= either(has(bit::FLUSH_L1D), measure::FLUSH, measure::OPEN_L1TF);
        }
        all |= either(has(bit::TSX_CTRL), measure::TSX_OFF, 0);
        let taa = has(bit::RTM) && !has(bit::TAA_NO) && !has(bit::TSX_CTRL);
        let mds = !has(bit::MDS_NO) || taa;
        if mds {
            all |= either(has(bit::MD_CLEAR), measure::VERW, measure::OPEN_MDS);
        }
        all |= either(has(bit::RFDS_CLEAR) && !has(bit::RFDS_NO), measure::VERW, 0);
        all |= either((l1tf || mds) && chip.has_threads(), measure::OPEN_SMT, 0);
    }
    // Microcode of Zen 3 and 4 clears by VERW, but does not say so.
    let tsa = !has(bit::TSA_SQ_NO) || !has(bit::TSA_L1_NO);
    all |= either(amd && tsa && (family == 0x19 || has(bit::VERW_CLEAR)), measure::VERW, 0);

    // How.
    all |= either(has(bit::SVM_SPEC_CTRL), measure::VIRTUAL, 0);
    all |= either(has(bit::ARCH_CAPABILITIES), measure::CAPABILITIES, 0);
    Decision { measures: all, host }
}

impl fmt::Display for Decision {
    /// `ibrs rsb verw smt=open`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, name) in NAMES.split_ascii_whitespace().enumerate() {
            if self.measures >> bit & 1 != 0 {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::bit::*;
    use super::{BHI_DIS_S, Chip, IBRS, Maker, bit, decide, measure};

    fn chip(maker: Maker, signature: u32, bits: &[u32]) -> Chip {
        let mut chip = Chip { maker, ..Chip::default() };
        chip.words[0] = signature;
        for bit in bits {
            chip.words[*bit as usize / 32] |= 1 << (bit % 32);
        }
        chip
    }

    fn intel(bits: &[u32]) -> Chip {
        chip(Maker::Intel, 0x50650, bits)
    }

    fn zen(family: u32, bits: &[u32]) -> Chip {
        chip(Maker::Amd, 0xf00 | (family - 0xf) << 20, bits)
    }

    /// Two threads a core.
    fn threads(mut chip: Chip) -> Chip {
        chip.words[4] = 2;
        chip
    }

    #[test]
    fn chips_get_what_they_need() {
        const OLD: [u32; 3] = [SPEC_CTRL, FLUSH_L1D, MD_CLEAR];
        let new = |more: &[u32]| {
            intel(
                &[&OLD[..], &[bit::ARCH_CAPABILITIES, RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, MDS_NO], more]
                    .concat(),
            )
        };
        for (name, chip, expected) in [
            ("Haswell without new microcode", intel(&[]), " l1tf=open mds=open spectre-v2=open"),
            ("Skylake client", intel(&OLD), " ibrs rsb verw l1d-flush ibpb"),
            ("Skylake client, two threads", threads(intel(&OLD)), " ibrs rsb verw l1d-flush ibpb smt=open"),
            ("Cascade Lake", threads(new(&[RTM, TSX_CTRL])), " ibrs tsx-off ibpb bhi=open"),
            ("Cascade Lake, older microcode", new(&[RTM]), " ibrs verw ibpb bhi=open"),
            ("Alder Lake", new(&[TAA_NO, BHI_CTRL, RFDS_CLEAR]), " ibrs bhi-dis-s verw ibpb"),
            (
                "Sapphire Rapids",
                new(&[RTM, TAA_NO, TSX_CTRL, BHI_CTRL, RFDS_NO]),
                " ibrs bhi-dis-s tsx-off ibpb",
            ),
            ("one that says no to all", new(&[TAA_NO, BHI_NO, RFDS_CLEAR, RFDS_NO]), " ibrs ibpb"),
            ("an old Opteron", chip(Maker::Amd, 0x10_0f42, &[]), " spectre-v2=open"),
            ("Zen 1", zen(0x17, &[AMD_IBPB]), " ibpb spectre-v2=open srso=open"),
            ("Zen 2", zen(0x17, &[AMD_IBPB, AMD_IBRS]), " ibrs rsb ibpb srso=open"),
            ("Zen 3", zen(0x19, &[AMD_IBPB, AMD_IBRS, AMD_IBRS_ALWAYS_ON]), " ibrs rsb verw ibpb srso=open"),
            ("Zen 4", zen(0x19, &[AMD_IBPB, AMD_IBRS, AUTO_IBRS]), " auto-ibrs verw ibpb srso=open"),
            (
                "Zen 5",
                zen(0x1a, &[AMD_IBPB, AMD_IBRS, AUTO_IBRS, SRSO_MSR_FIX]),
                " auto-ibrs bp-spec-reduce ibpb",
            ),
            ("another maker's", chip(Maker::Other, 0x700, &[SPEC_CTRL]), " ibrs rsb ibpb"),
        ] {
            assert_eq!(decide(&chip).to_string(), expected, "{name}");
        }
    }

    #[test]
    fn spec_ctrl_of_the_host_follows() {
        let skylake = decide(&intel(&[SPEC_CTRL]));
        assert_eq!((skylake.host, skylake.measures & measure::ALWAYS), (IBRS, measure::ALWAYS));
        let new = decide(&intel(&[SPEC_CTRL, bit::ARCH_CAPABILITIES, IBRS_ALL, BHI_CTRL]));
        assert_eq!((new.host, new.measures & measure::ALWAYS), (IBRS | BHI_DIS_S, 0));
        assert_eq!(decide(&zen(0x19, &[AMD_IBRS, AUTO_IBRS])).host, 0);
        assert_eq!(decide(&intel(&[])).host, 0);
    }

    #[test]
    fn tsa_goes_by_what_the_chip_says() {
        for (family, bits, expected) in [
            (0x19, &[][..], true),
            (0x19, &[TSA_SQ_NO], true),
            (0x19, &[TSA_SQ_NO, TSA_L1_NO], false),
            (0x1b, &[VERW_CLEAR], true),
            (0x1b, &[], false),
        ] {
            assert_eq!(decide(&zen(family, bits)).measures & measure::VERW != 0, expected, "{bits:?}");
        }
    }
}

//! The checks that VM entry makes on guest state (SDM vol. 3, 27.3.1), done again after it has refused: the CPU says no
//! more than "invalid guest state", an operator needs to know which rule was broken.
//!
//! The rules are those for our controls: unrestricted guest, EPT, EFER, PAT and debug controls loaded.

use core::arch::x86_64::__cpuid;

use monovisor_arch::state::bits::{
    CR0_PE, CR0_PG, CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME, RFLAGS_FIXED, RFLAGS_IF, RFLAGS_TF, RFLAGS_VM,
};
use monovisor_arch::{DescriptorTable, Segment, SegmentName};

use super::Capabilities;
use super::state::{DEBUGCTL_BTF, EFER_DEFINED, PENDING_SINGLE_STEP, RFLAGS_DEFINED};
use crate::control::{canonical, pat_write};
use crate::rules::first;

/// The guest state that VM entry looks at, as it is in the VMCS.
#[derive(Clone, Copy, Debug)]
pub(super) struct GuestState {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub pat: u64,
    pub dr7: u64,
    pub debugctl: u64,
    pub sysenter: [u64; 2],
    /// In the order of [`SegmentName`].
    pub segments: [Segment; 8],
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    pub rip: u64,
    pub rflags: u64,
    pub interruptibility: u64,
    pub pending_debug: u64,
    pub pdptes: [u64; 4],
    /// VM-entry control "IA-32e mode guest".
    pub long: bool,
    /// VM-entry interruption information.
    pub event: u32,
    /// Bits of a physical address.
    pub physical_bits: u32,
    /// Linear addresses have 57 bits.
    pub five_level: bool,
}

const STI: u64 = 1;
const MOV_SS: u64 = 1 << 1;

/// Says which rule is broken first, in the order of the manual.
#[cold]
#[inline(never)]
pub(super) fn broken_rule(state: &GuestState, capabilities: &Capabilities) -> Option<&'static str> {
    control_registers(state, capabilities)
        .or_else(|| segments(state))
        .or_else(|| tables(state))
        .or_else(|| flow(state))
        .or_else(|| non_register(state))
}

/// 27.3.1.1.
fn control_registers(state: &GuestState, capabilities: &Capabilities) -> Option<&'static str> {
    /// CD and NW are never checked.
    const CACHE: u64 = 3 << 29;
    let cr0_must = capabilities.cr0_fixed0 & !(CR0_PE | CR0_PG);
    let paging = state.cr0 & CR0_PG != 0;
    let lma = state.efer & EFER_LMA != 0;
    let address = |value| canonical(value, state.five_level);
    let [sysenter_esp, sysenter_eip] = state.sysenter;
    first![
        (state.cr0 & cr0_must != cr0_must, "CR0 lacks a bit that VMX operation insists on"),
        (
            state.cr0 & !capabilities.cr0_fixed1 & !CACHE != 0,
            "CR0 has a bit that VMX operation does not allow",
        ),
        (paging && state.cr0 & CR0_PE == 0, "CR0.PG is set and CR0.PE clear"),
        (
            state.cr4 & capabilities.cr4_fixed0 != capabilities.cr4_fixed0,
            "CR4 lacks a bit that VMX operation insists on",
        ),
        (state.cr4 & !capabilities.cr4_fixed1 != 0, "CR4 has a bit that this CPU does not have"),
        (state.long && !(paging && state.cr4 & CR4_PAE != 0), "IA-32e mode without CR0.PG and CR4.PAE"),
        (!state.long && state.cr4 & CR4_PCIDE != 0, "CR4.PCIDE is set outside IA-32e mode"),
        (state.cr3 >> state.physical_bits != 0, "CR3 lies beyond the physical-address width"),
        (state.dr7 >> 32 != 0, "DR7 bits 63:32 are not zero"),
        (!address(sysenter_esp) || !address(sysenter_eip), "IA32_SYSENTER_ESP or _EIP is not canonical"),
        (pat_write(state.pat).is_err(), "IA32_PAT holds a reserved memory type"),
        (state.efer & !EFER_DEFINED != 0, "IA32_EFER has reserved bits set"),
        (lma != state.long, "IA32_EFER.LMA does not agree with the IA-32e mode guest control"),
        (paging && lma != (state.efer & EFER_LME != 0), "IA32_EFER.LMA and LME differ with paging on"),
    ]
}

/// 27.3.1.2.
fn segments(state: &GuestState) -> Option<&'static str> {
    let [es, cs, ss, ds, fs, gs, ldtr, tr] = &state.segments;
    let address = |value| canonical(value, state.five_level);
    let in_table = |segment: &Segment| segment.selector & 4 != 0;
    let virtual_8086 = state.rflags & RFLAGS_VM != 0;
    let common = first![
        (in_table(tr), "TR selects from the LDT"),
        (ldtr.usable() && in_table(ldtr), "LDTR selects from the LDT"),
        (
            !address(tr.base) || !address(fs.base) || !address(gs.base),
            "the base of TR, FS or GS is not canonical",
        ),
        (ldtr.usable() && !address(ldtr.base), "the base of LDTR is not canonical"),
        (cs.base >> 32 != 0, "the base of CS is beyond 32 bits"),
        (
            [es, ss, ds].into_iter().any(|segment| segment.usable() && segment.base >> 32 != 0),
            "the base of SS, DS or ES is beyond 32 bits",
        ),
    ];
    if common.is_some() {
        return common;
    }
    if virtual_8086 {
        let proper = |segment: &&Segment| {
            segment.base == u64::from(segment.selector) << 4
                && segment.limit == 0xffff
                && segment.access == 0xf3
        };
        return first![(
            ![es, cs, ss, ds, fs, gs].iter().all(proper),
            "a segment is not that of virtual-8086 mode",
        )];
    }
    let protected = state.cr0 & CR0_PE != 0;
    let code = kind(cs);
    let cs_dpl = cs.dpl();
    first![
        (!matches!(code, 3 | 9 | 11 | 13 | 15), "the type of CS is not accessed code"),
        (!well_formed(cs, true), "the access rights of CS are malformed"),
        (code == 3 && cs_dpl != 0, "the DPL of CS, a data segment, is not 0"),
        (matches!(code, 9 | 11) && cs_dpl != ss.dpl(), "the DPLs of CS and SS differ"),
        (matches!(code, 13 | 15) && cs_dpl > ss.dpl(), "the DPL of conforming CS is above that of SS"),
        (state.long && cs.long() && cs.big(), "CS.L and CS.D are both set"),
        (ss.usable() && !matches!(kind(ss), 3 | 7), "the type of SS is not accessed writable data"),
        (ss.usable() && !well_formed(ss, true), "the access rights of SS are malformed"),
        ((code == 3 || !protected) && ss.dpl() != 0, "the DPL of SS is not 0"),
        (
            [es, ds, fs, gs].into_iter().any(|segment| {
                segment.usable()
                    && (kind(segment) & 1 == 0
                        || kind(segment) & 0b1010 == 0b1000
                        || !well_formed(segment, true))
            }),
            "the access rights of DS, ES, FS or GS are malformed",
        ),
        (!tr.usable(), "TR is unusable"),
        (kind(tr) != 11 && (state.long || kind(tr) != 3), "the type of TR is not a busy TSS"),
        (!well_formed(tr, false), "the access rights of TR are malformed"),
        (
            ldtr.usable() && (kind(ldtr) != 2 || !well_formed(ldtr, false)),
            "the access rights of LDTR are malformed",
        ),
    ]
}

const fn kind(segment: &Segment) -> u32 {
    segment.access & 0xf
}

/// S as it should be, P, no reserved bit, and G that agrees with the limit.
const fn well_formed(segment: &Segment, code_or_data: bool) -> bool {
    const S: u32 = 1 << 4;
    const PRESENT: u32 = 1 << 7;
    const GRANULAR: u32 = 1 << 15;
    const RESERVED: u32 = 0xfffe_0f00;
    let access = segment.access;
    let granular = access & GRANULAR != 0;
    (access & S != 0) == code_or_data
        && access & PRESENT != 0
        && access & RESERVED == 0
        && (segment.limit & 0xfff == 0xfff || !granular)
        && (segment.limit >> 20 == 0 || granular)
}

/// 27.3.1.3.
fn tables(state: &GuestState) -> Option<&'static str> {
    let fits = |table: &DescriptorTable| canonical(table.base, state.five_level);
    first![(!fits(&state.gdtr) || !fits(&state.idtr), "the base of GDTR or IDTR is not canonical")]
}

/// Bits of physical addresses: 36 where the leaf is missing (SDM vol. 3, 4.1.4).
pub(super) fn physical_bits() -> u32 {
    let bits = if __cpuid(0x8000_0000).eax >= 0x8000_0008 { __cpuid(0x8000_0008).eax & 0xff } else { 36 };
    bits.min(52)
}

/// An entry of PAE paging's page-directory-pointer table is present and has reserved bits set (SDM vol. 3, table 4-8).
pub(super) const fn pdpte_reserved(entry: u64, physical_bits: u32) -> bool {
    entry & 1 != 0 && (entry & 0x1e6 != 0 || entry >> physical_bits != 0)
}

/// 27.3.1.4 and 27.3.1.6.
fn flow(state: &GuestState) -> Option<&'static str> {
    let [_, cs, ..] = &state.segments;
    let wide = state.long && cs.long();
    let reserved = |entry: &u64| pdpte_reserved(*entry, state.physical_bits);
    let pae = state.cr0 & CR0_PG != 0 && state.cr4 & CR4_PAE != 0 && !state.long;
    first![
        (!wide && state.rip >> 32 != 0, "RIP is beyond 32 bits"),
        (wide && !canonical(state.rip, state.five_level), "RIP is not canonical"),
        (state.rflags & !(RFLAGS_DEFINED | RFLAGS_FIXED) != 0, "RFLAGS has reserved bits set"),
        (state.rflags & RFLAGS_FIXED == 0, "RFLAGS bit 1 is clear"),
        (
            state.rflags & RFLAGS_VM != 0 && (state.long || state.cr0 & CR0_PE == 0),
            "RFLAGS.VM is set in IA-32e mode or real mode",
        ),
        (
            injects(state, 0) && state.rflags & RFLAGS_IF == 0,
            "an external interrupt is injected with RFLAGS.IF clear",
        ),
        (pae && state.pdptes.iter().any(reserved), "a PDPTE has reserved bits set"),
    ]
}

/// 27.3.1.5. The activity state is always "active".
fn non_register(state: &GuestState) -> Option<&'static str> {
    const NMI: u64 = 1 << 3;
    const PENDING_DEFINED: u64 = 0x1_580f;
    let shadow = state.interruptibility & (STI | MOV_SS);
    let stepping = state.rflags & RFLAGS_TF != 0 && state.debugctl & DEBUGCTL_BTF == 0;
    let pending = state.pending_debug & PENDING_SINGLE_STEP != 0;
    first![
        (state.interruptibility >> 5 != 0, "the interruptibility state has reserved bits set"),
        (shadow == STI | MOV_SS, "blocking by STI and by MOV SS at once"),
        (shadow & STI != 0 && state.rflags & RFLAGS_IF == 0, "blocking by STI with RFLAGS.IF clear"),
        (injects(state, 0) && shadow != 0, "an external interrupt is injected in a shadow"),
        (injects(state, 2) && shadow != 0, "an NMI is injected in a shadow"),
        (injects(state, 2) && state.interruptibility & NMI != 0, "an NMI is injected while NMIs are blocked"),
        (state.pending_debug & !PENDING_DEFINED != 0, "the pending debug exceptions have reserved bits set"),
        (shadow != 0 && stepping != pending, "the pending single step does not agree with RFLAGS.TF"),
    ]
}

/// An event of this type is injected.
const fn injects(state: &GuestState, kind: u32) -> bool {
    state.event >> 31 != 0 && state.event >> 8 & 7 == kind
}

/// The order of [`GuestState::segments`].
pub(super) const SEGMENTS: [SegmentName; 8] = [
    SegmentName::Es,
    SegmentName::Cs,
    SegmentName::Ss,
    SegmentName::Ds,
    SegmentName::Fs,
    SegmentName::Gs,
    SegmentName::Ldtr,
    SegmentName::Tr,
];

#[cfg(test)]
mod tests {
    use super::*;
    use monovisor_arch::state::bits::CR0_NE;

    const CAPABILITIES: fn() -> Capabilities = || Capabilities {
        cr0_fixed0: 0x8000_0021,
        cr0_fixed1: 0xffff_ffff,
        cr4_fixed0: 0x2000,
        cr4_fixed1: 0x0037_27ff,
        ..Default::default()
    };

    /// After power-up.
    fn real_mode() -> GuestState {
        let data = Segment { selector: 0, base: 0, limit: 0xffff, access: 0x93 };
        let code = Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, access: 0x9b };
        let ldtr = Segment { access: 0x82, ..data };
        let tr = Segment { access: 0x8b, ..data };
        GuestState {
            cr0: CR0_NE | 0x10,
            cr3: 0,
            cr4: 0x2040,
            efer: 0,
            pat: 0x0007_0406_0007_0406,
            dr7: 0x400,
            debugctl: 0,
            sysenter: [0; 2],
            segments: [data, code, data, data, data, data, ldtr, tr],
            gdtr: DescriptorTable { base: 0, limit: 0xffff },
            idtr: DescriptorTable { base: 0, limit: 0xffff },
            rip: 0xfff0,
            rflags: 2,
            interruptibility: 0,
            pending_debug: 0,
            pdptes: [0; 4],
            long: false,
            event: 0,
            physical_bits: 39,
            five_level: false,
        }
    }

    fn long_mode() -> GuestState {
        let mut state = real_mode();
        state.cr0 = 0x8005_0033;
        state.cr3 = 0x1000;
        state.cr4 = 0x2060;
        state.efer = 0xd01;
        state.long = true;
        let data = Segment { selector: 0x18, base: 0, limit: u32::MAX, access: 0xc093 };
        let code = Segment { selector: 0x10, base: 0, limit: u32::MAX, access: 0xa09b };
        state.segments = [data, code, data, data, data, data, state.segments[6], state.segments[7]];
        state.rip = 0xffff_ffff_8100_0000;
        state
    }

    #[test]
    fn good_states_break_nothing() {
        assert_eq!(broken_rule(&real_mode(), &CAPABILITIES()), None);
        assert_eq!(broken_rule(&long_mode(), &CAPABILITIES()), None);
    }

    type Change = fn(&mut GuestState);

    #[test]
    fn each_rule_is_found() {
        let changes: &[(Change, &str)] = &[
            (|s| s.cr0 &= !CR0_NE, "insists"),
            (|s| s.cr0 &= !CR0_PE, "CR0.PE clear"),
            (|s| s.cr4 |= 1 << 23, "does not have"),
            (|s| s.cr4 &= !CR4_PAE, "without CR0.PG and CR4.PAE"),
            (|s| s.cr3 = 1 << 39, "physical-address width"),
            (|s| s.sysenter[1] = 1 << 47, "SYSENTER"),
            (|s| s.pat = 2, "PAT"),
            (|s| s.efer |= 1 << 12, "IA32_EFER has reserved"),
            (|s| s.efer &= !EFER_LMA, "control"),
            (|s| s.segments[7].access = 0x1_0000, "TR is unusable"),
            (|s| s.segments[7].access = 0x83, "busy TSS"),
            (|s| s.segments[7].limit = 0x10_0000, "TR are malformed"),
            (|s| s.segments[1].access = 0xc0f3, "a data segment"),
            (|s| s.segments[1].access = 0xe09b, "CS.L and CS.D"),
            (|s| s.segments[1].access = 0xa0fb, "DPLs"),
            (|s| s.segments[2].access = 0xc091, "SS is not"),
            (|s| s.segments[3].access = 0xc092, "DS, ES"),
            (|s| s.segments[4].base = 1 << 47, "FS or GS"),
            (|s| s.segments[6].access = 0x92, "LDTR are"),
            (|s| s.idtr.base = 1 << 47, "IDTR"),
            (|s| s.rip = 1 << 47, "RIP is not"),
            (|s| s.rflags |= 1 << 3, "reserved"),
            (|s| s.rflags |= RFLAGS_VM, "virtual-8086"),
            (|s| s.event = 1 << 31 | 0x20, "IF clear"),
            (|s| s.interruptibility = 1, "STI with"),
            (|s| s.interruptibility = 3, "at once"),
            (|s| (s.interruptibility, s.event) = (8, 1 << 31 | 2 << 8 | 2), "while NMIs"),
            (|s| (s.interruptibility, s.rflags) = (2, 0x102), "single step"),
        ];
        for (change, words) in changes {
            let mut state = long_mode();
            change(&mut state);
            let found = broken_rule(&state, &CAPABILITIES()).unwrap_or("nothing");
            assert!(found.contains(words), "{words}: {found}");
        }
    }

    #[test]
    fn outside_of_ia_32e_mode() {
        let mut state = real_mode();
        state.rip = 1 << 32;
        assert_eq!(broken_rule(&state, &CAPABILITIES()), Some("RIP is beyond 32 bits"));
        let mut state = real_mode();
        state.segments[2].access = 0xf3;
        assert!(broken_rule(&state, &CAPABILITIES()).unwrap_or("").contains("DPL"));
        let mut state = real_mode();
        state.cr0 = CR0_NE | CR0_PE | CR0_PG;
        state.cr4 |= CR4_PAE;
        state.pdptes[3] = 1 | 1 << 8;
        assert_eq!(broken_rule(&state, &CAPABILITIES()), Some("a PDPTE has reserved bits set"));
    }
}

//! What this CPU's VMX can do, and the control settings that follow from it (SDM vol. 3, appendix A).
//!
//! Everything here is a function of register values, tested on the host; [`Facts::read`] fetches them.

use super::control::{entry, exit, pin, primary, secondary};
use super::instruction::rdmsr;
use crate::preflight::Lacks;

/// IA32_FEATURE_CONTROL.
pub(super) const IA32_FEATURE_CONTROL: u32 = 0x3a;
/// The register is locked until the next reset.
pub(super) const FEATURE_CONTROL_LOCK: u64 = 1;
/// VMXON is allowed outside SMX.
pub(super) const FEATURE_CONTROL_VMX: u64 = 1 << 2;

const IA32_VMX_BASIC: u32 = 0x480;
const IA32_VMX_PINBASED_CTLS: u32 = 0x481;
const IA32_VMX_PROCBASED_CTLS: u32 = 0x482;
const IA32_VMX_EXIT_CTLS: u32 = 0x483;
const IA32_VMX_ENTRY_CTLS: u32 = 0x484;
const IA32_VMX_MISC: u32 = 0x485;
const IA32_VMX_CR0_FIXED0: u32 = 0x486;
const IA32_VMX_CR0_FIXED1: u32 = 0x487;
const IA32_VMX_CR4_FIXED0: u32 = 0x488;
const IA32_VMX_CR4_FIXED1: u32 = 0x489;
const IA32_VMX_PROCBASED_CTLS2: u32 = 0x48b;
const IA32_VMX_EPT_VPID_CAP: u32 = 0x48c;
/// The four "true" capability MSRs follow the order of the plain ones from here on.
const IA32_VMX_TRUE_PINBASED_CTLS: u32 = 0x48d;

/// Bits of IA32_VMX_BASIC (A.1).
mod basic {
    /// VMXON region and VMCSs must lie below 4 GiB.
    pub const ADDRESSES_32_BIT: u64 = 1 << 48;
    /// INS and OUTS exits come with instruction information.
    pub const STRING_IO_INFORMATION: u64 = 1 << 54;
    /// The true capability MSRs exist.
    pub const TRUE_CONTROLS: u64 = 1 << 55;
    /// Hardware exceptions may be injected with or without error code, whatever the vector.
    pub const ANY_ERROR_CODE: u64 = 1 << 56;
}

/// Bits of IA32_VMX_EPT_VPID_CAP (A.10).
mod ept_vpid {
    pub const WALK_LENGTH_4: u64 = 1 << 6;
    pub const WRITE_BACK: u64 = 1 << 14;
    pub const PAGES_2M: u64 = 1 << 16;
    pub const PAGES_1G: u64 = 1 << 17;
    pub const INVEPT: u64 = 1 << 20;
    pub const ACCESSED_DIRTY: u64 = 1 << 21;
    pub const INVEPT_SINGLE: u64 = 1 << 25;
    pub const INVEPT_ALL: u64 = 1 << 26;
    pub const INVVPID: u64 = 1 << 32;
    pub const INVVPID_SINGLE: u64 = 1 << 41;
    pub const INVVPID_ALL: u64 = 1 << 42;
}

/// EPT pointer: write-back paging structures (SDM vol. 3, table 25-9).
const EPTP_WRITE_BACK: u64 = 6;
/// EPT pointer: walk length less one.
const EPTP_WALK_LENGTH_4: u64 = 3 << 3;
/// EPT pointer: accessed and dirty flags are kept.
const EPTP_ACCESSED_DIRTY: u64 = 1 << 6;

/// The registers that say what VMX can do here, as read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// IA32_FEATURE_CONTROL.
    pub feature_control: u64,
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// Pin-based controls: must-be-1 bits in the low half, may-be-1 bits in the high half; of the "true" MSR where there
    /// is one. So the three below.
    pub pin: u64,
    /// Primary processor-based controls.
    pub primary: u64,
    /// VM-exit controls.
    pub exit: u64,
    /// VM-entry controls.
    pub entry: u64,
    /// Secondary processor-based controls; 0 where there are none.
    pub secondary: u64,
    /// IA32_VMX_EPT_VPID_CAP; 0 where there is neither EPT nor VPID.
    pub ept_vpid: u64,
    /// CR0 bits that must be 1.
    pub cr0_fixed0: u64,
    /// CR0 bits that may be 1.
    pub cr0_fixed1: u64,
    /// CR4 bits that must be 1.
    pub cr4_fixed0: u64,
    /// CR4 bits that may be 1.
    pub cr4_fixed1: u64,
}

impl Facts {
    /// Reads them.
    ///
    /// # Safety
    /// At CPL 0 on a CPU with CPUID.01H:ECX.VMX set, which has all of these MSRs.
    pub unsafe fn read() -> Self {
        // SAFETY: the caller vouches for VMX; A.2, A.3.3 and A.10 say which further MSR depends on which bit.
        unsafe {
            let basic = rdmsr(IA32_VMX_BASIC);
            let controls = |plain: u32| {
                rdmsr(match basic & basic::TRUE_CONTROLS {
                    0 => plain,
                    _ => IA32_VMX_TRUE_PINBASED_CTLS + (plain - IA32_VMX_PINBASED_CTLS),
                })
            };
            let primary = controls(IA32_VMX_PROCBASED_CTLS);
            let secondary = if allowed(primary, primary::SECONDARY_CONTROLS) {
                rdmsr(IA32_VMX_PROCBASED_CTLS2)
            } else {
                0
            };
            let ept_vpid = if allowed(secondary, secondary::EPT) || allowed(secondary, secondary::VPID) {
                rdmsr(IA32_VMX_EPT_VPID_CAP)
            } else {
                0
            };
            Self {
                feature_control: rdmsr(IA32_FEATURE_CONTROL),
                basic,
                misc: rdmsr(IA32_VMX_MISC),
                pin: controls(IA32_VMX_PINBASED_CTLS),
                primary,
                exit: controls(IA32_VMX_EXIT_CTLS),
                entry: controls(IA32_VMX_ENTRY_CTLS),
                secondary,
                ept_vpid,
                cr0_fixed0: rdmsr(IA32_VMX_CR0_FIXED0),
                cr0_fixed1: rdmsr(IA32_VMX_CR0_FIXED1),
                cr4_fixed0: rdmsr(IA32_VMX_CR4_FIXED0),
                cr4_fixed1: rdmsr(IA32_VMX_CR4_FIXED1),
            }
        }
    }
}

/// The control may be 1.
const fn allowed(capability: u64, bit: u32) -> bool {
    (capability >> 32) as u32 & bit != 0
}

/// One group of controls: what the hypervisor must have, what it takes where it is there, and what a CPU may force on.
struct Group {
    required: &'static [(u32, &'static str)],
    optional: u32,
    /// The reserved bits that are 1 on every CPU ("default1", A.2): known to change nothing.
    default1: u32,
    forced: &'static str,
}

const PIN: Group = Group {
    required: &[
        (pin::EXTERNAL_INTERRUPT_EXITING, "VMX cannot exit on external interrupts"),
        (pin::NMI_EXITING, "VMX cannot exit on NMIs"),
        (pin::VIRTUAL_NMIS, "VMX has no virtual NMIs"),
    ],
    optional: pin::PREEMPTION_TIMER,
    default1: 1 << 1 | 1 << 2 | 1 << 4,
    forced: "VMX forces an unknown pin-based control on",
};

const PRIMARY: Group = Group {
    required: &[
        (primary::INTERRUPT_WINDOW_EXITING, "VMX has no interrupt-window exiting"),
        (primary::NMI_WINDOW_EXITING, "VMX has no NMI-window exiting"),
        (primary::TSC_OFFSETTING, "VMX has no TSC offsetting"),
        (primary::HLT_EXITING, "VMX cannot exit on HLT"),
        (primary::MWAIT_EXITING, "VMX cannot exit on MWAIT"),
        (primary::MONITOR_EXITING, "VMX cannot exit on MONITOR"),
        (primary::RDPMC_EXITING, "VMX cannot exit on RDPMC"),
        (primary::TPR_SHADOW, "VMX has no TPR shadow"),
        (primary::IO_BITMAPS, "VMX has no I/O bitmaps"),
        (primary::MSR_BITMAPS, "VMX has no MSR bitmaps"),
        (primary::SECONDARY_CONTROLS, "VMX has no secondary controls (a first-generation VT-x CPU)"),
    ],
    optional: 0,
    default1: 1 << 1 | 0x7 << 4 | 1 << 8 | 0x3 << 13 | 1 << 26,
    forced: "VMX forces exits on CR3 accesses, or another primary control, on",
};

const SECONDARY: Group = Group {
    required: &[
        (secondary::EPT, "VMX has no extended page tables (EPT)"),
        (secondary::UNRESTRICTED_GUEST, "VMX has no unrestricted guest (real mode under EPT)"),
        (secondary::WBINVD_EXITING, "VMX cannot exit on WBINVD"),
    ],
    optional: secondary::RDTSCP | secondary::VPID | secondary::INVPCID | secondary::XSAVES,
    default1: 0,
    forced: "VMX forces an unknown secondary control on",
};

const EXIT: Group = Group {
    required: &[
        (exit::SAVE_DEBUG_CONTROLS, "VMX cannot save debug controls on exit"),
        (exit::HOST_ADDRESS_SPACE_SIZE, "VMX cannot return to a 64-bit host"),
        (exit::SAVE_PAT, "VMX cannot save the PAT on exit"),
        (exit::LOAD_PAT, "VMX cannot load the PAT on exit"),
        (exit::SAVE_EFER, "VMX cannot save EFER on exit"),
        (exit::LOAD_EFER, "VMX cannot load EFER on exit"),
    ],
    optional: 0,
    default1: 0x1fb | 0x3 << 10 | 0x3 << 13 | 0x3 << 16,
    forced: "VMX forces an unknown VM-exit control on",
};

const ENTRY: Group = Group {
    required: &[
        (entry::LOAD_DEBUG_CONTROLS, "VMX cannot load debug controls on entry"),
        (entry::IA32E_MODE_GUEST, "VMX cannot run a 64-bit guest"),
        (entry::LOAD_PAT, "VMX cannot load the PAT on entry"),
        (entry::LOAD_EFER, "VMX cannot load EFER on entry"),
    ],
    optional: 0,
    default1: 0x1fb | 1 << 12,
    forced: "VMX forces an unknown VM-entry control on",
};

/// The controls that change while a guest runs: off at first, and so not to be set by [`Group::resolve`].
const PRIMARY_OFF: u32 = primary::INTERRUPT_WINDOW_EXITING | primary::NMI_WINDOW_EXITING;

/// The controls for interrupts that the CPU delivers by itself, switched with the guest's mode of the APIC.
pub(super) const VIRTUAL_DELIVERY: u32 = secondary::VIRTUALIZE_X2APIC | secondary::VIRTUAL_INTERRUPT_DELIVERY;

impl Group {
    /// The setting for a CPU with this capability, all required and the possible optional bits on.
    fn resolve(&self, capability: u64, lacks: &mut Lacks) -> u32 {
        let must = capability as u32;
        let may = (capability >> 32) as u32;
        let mut setting = self.optional & may;
        let mut known = self.optional | self.default1;
        for &(bit, lack) in self.required {
            known |= bit;
            if may & bit == 0 {
                lacks.push(lack);
            }
            setting |= bit;
        }
        if must & !known != 0 {
            lacks.push(self.forced);
        }
        setting | must
    }
}

/// The control settings and other choices for a CPU that has all that is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// VMCS revision identifier: bytes 0 to 3 of VMXON region and VMCS.
    pub revision: u32,
    /// Pin-based controls.
    pub pin: u32,
    /// Primary processor-based controls, with neither window open.
    pub primary: u32,
    /// Secondary processor-based controls.
    pub secondary: u32,
    /// VM-exit controls.
    pub exit: u32,
    /// VM-entry controls, for a guest outside IA-32e mode.
    pub entry: u32,
    /// All of the EPT pointer but the root's address.
    pub ept_pointer: u64,
    /// Largest EPT page: 2 MiB.
    pub ept_2m: bool,
    /// Largest EPT page: 1 GiB.
    pub ept_1g: bool,
    /// INVEPT type for one EPT pointer: 1, or 2 where only all contexts can be dropped.
    pub invept: u64,
    /// INVVPID type for one VPID: 1, or 2 where only all contexts can be dropped.
    pub invvpid: u64,
    /// INVVPID can drop all contexts.
    pub invvpid_all: bool,
    /// INVEPT can drop all contexts.
    pub invept_all: bool,
    /// The VMX-preemption timer counts once in 2 to the power of this many TSC ticks.
    pub preemption_shift: u32,
    /// INS and OUTS exits say address size and segment.
    pub string_io: bool,
    /// VMXON region and VMCS must lie below 4 GiB.
    pub regions_32_bit: bool,
    /// The CPU can deliver the interrupts of a guest in x2APIC mode by itself (SDM vol. 3, 30.2, 30.5).
    pub virtual_delivery: bool,
    /// It can take what others post for that guest while it runs it, without an exit (30.6).
    pub posted: bool,
    /// Hardware exceptions may be injected with or without error code, whatever the vector.
    pub any_error_code: bool,
    /// CR0 bits that must be 1 in VMX operation; PE and PG excepted for an unrestricted guest.
    pub cr0_fixed0: u64,
    /// CR0 bits that may be 1.
    pub cr0_fixed1: u64,
    /// CR4 bits that must be 1.
    pub cr4_fixed0: u64,
    /// CR4 bits that may be 1.
    pub cr4_fixed1: u64,
}

impl Capabilities {
    /// Decides on the settings and adds to `lacks` what is missing; with anything added the result is of no use.
    pub fn evaluate(facts: &Facts, lacks: &mut Lacks) -> Self {
        if facts.feature_control & FEATURE_CONTROL_LOCK != 0
            && facts.feature_control & FEATURE_CONTROL_VMX == 0
        {
            lacks.push("VT-x is switched off and locked by the firmware: enable it in the BIOS set-up");
        }
        // Bits 53:50: memory type for the VMCS and the pages it points to. Statics of the image are write-back.
        if facts.basic >> 50 & 0xf != 6 {
            lacks.push("VMX wants its structures in memory that is not write-back");
        }
        // Bits 44:32: size of the region, at most 4096.
        if facts.basic >> 32 & 0x1fff > 4096 {
            lacks.push("VMX wants a region of more than 4 KiB");
        }
        let primary = PRIMARY.resolve(facts.primary, lacks);
        // One word too many helps nobody: without secondary controls everything below is missing as well.
        let secondary = if facts.secondary == 0 { 0 } else { SECONDARY.resolve(facts.secondary, lacks) };
        let has = |bits: u64| facts.ept_vpid & bits == bits;
        if allowed(facts.secondary, secondary::EPT) {
            if !has(ept_vpid::WALK_LENGTH_4) {
                lacks.push("EPT has no 4-level page walk");
            }
            if !has(ept_vpid::WRITE_BACK) {
                lacks.push("EPT cannot keep its tables in write-back memory");
            }
            if !has(ept_vpid::INVEPT) || !(has(ept_vpid::INVEPT_SINGLE) || has(ept_vpid::INVEPT_ALL)) {
                lacks.push("EPT has no INVEPT instruction");
            }
        }
        // VPID is a matter of speed; without a way to flush one it is left alone.
        let vpid = has(ept_vpid::INVVPID) && (has(ept_vpid::INVVPID_SINGLE) || has(ept_vpid::INVVPID_ALL));
        let accessed_dirty = if has(ept_vpid::ACCESSED_DIRTY) { EPTP_ACCESSED_DIRTY } else { 0 };
        let virtual_delivery = (facts.secondary >> 32) as u32 & VIRTUAL_DELIVERY == VIRTUAL_DELIVERY;
        Self {
            revision: facts.basic as u32 & 0x7fff_ffff,
            pin: PIN.resolve(facts.pin, lacks),
            primary: primary & !(PRIMARY_OFF & !(facts.primary as u32)),
            secondary: if vpid { secondary } else { secondary & !secondary::VPID },
            exit: EXIT.resolve(facts.exit, lacks),
            entry: ENTRY.resolve(facts.entry, lacks) & !(entry::IA32E_MODE_GUEST & !(facts.entry as u32)),
            ept_pointer: EPTP_WRITE_BACK | EPTP_WALK_LENGTH_4 | accessed_dirty,
            ept_2m: has(ept_vpid::PAGES_2M),
            ept_1g: has(ept_vpid::PAGES_1G),
            invept: if has(ept_vpid::INVEPT_SINGLE) { 1 } else { 2 },
            invvpid: if has(ept_vpid::INVVPID_SINGLE) { 1 } else { 2 },
            invvpid_all: has(ept_vpid::INVVPID_ALL),
            invept_all: has(ept_vpid::INVEPT_ALL),
            preemption_shift: facts.misc as u32 & 0x1f,
            string_io: facts.basic & basic::STRING_IO_INFORMATION != 0,
            regions_32_bit: facts.basic & basic::ADDRESSES_32_BIT != 0,
            virtual_delivery,
            // With the one goes the other (27.2.1.1).
            posted: virtual_delivery
                && allowed(facts.pin, pin::PROCESS_POSTED_INTERRUPTS)
                && allowed(facts.exit, exit::ACKNOWLEDGE_INTERRUPT),
            any_error_code: facts.basic & basic::ANY_ERROR_CODE != 0,
            cr0_fixed0: facts.cr0_fixed0,
            cr0_fixed1: facts.cr0_fixed1,
            cr4_fixed0: facts.cr4_fixed0,
            cr4_fixed1: facts.cr4_fixed1,
        }
    }

    /// The guest's cached translations carry a VPID.
    pub const fn vpid(&self) -> bool {
        self.secondary & secondary::VPID != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Skylake server's registers, as Linux' `msr-tools` would print them.
    fn skylake() -> Facts {
        Facts {
            feature_control: 5,
            basic: 0x00da_0400_0000_0004,
            misc: 0x7004_c1e7,
            pin: 0x0000_007f_0000_0016,
            primary: 0xfff9_fffe_0400_6172,
            exit: 0x01ff_ffff_0003_6dfb,
            entry: 0x0003_ffff_0000_11fb,
            secondary: 0x0035_7fff_0000_0000,
            ept_vpid: 0x0000_0f01_0633_4141,
            cr0_fixed0: 0x8000_0021,
            cr0_fixed1: 0xffff_ffff,
            cr4_fixed0: 0x2000,
            cr4_fixed1: 0x0037_67ff,
        }
    }

    fn lacks_of(facts: &Facts) -> Lacks {
        let mut lacks = Lacks::default();
        Capabilities::evaluate(facts, &mut lacks);
        lacks
    }

    #[test]
    fn a_server_cpu_has_all() {
        let mut lacks = Lacks::default();
        let found = Capabilities::evaluate(&skylake(), &mut lacks);
        assert_eq!(lacks.as_slice(), [] as [&str; 0]);
        assert_eq!(found.revision, 4);
        assert!(found.vpid() && found.ept_1g && found.ept_2m && found.string_io && !found.regions_32_bit);
        assert_eq!(found.ept_pointer, 0x5e);
        assert_eq!((found.invept, found.invvpid), (1, 1));
        assert_eq!(found.primary & PRIMARY_OFF, 0);
        assert_eq!(found.entry & entry::IA32E_MODE_GUEST, 0);
        // Each setting keeps the rule of A.2: must-be-1 bits set, may-not-be-1 bits clear.
        let facts = skylake();
        for (setting, capability) in [
            (found.pin, facts.pin),
            (found.primary, facts.primary),
            (found.secondary, facts.secondary),
            (found.exit, facts.exit),
            (found.entry, facts.entry),
        ] {
            assert_eq!(setting & capability as u32, capability as u32);
            assert_eq!(setting & !((capability >> 32) as u32), 0);
        }
    }

    #[test]
    fn the_firmware_lock_is_told_from_an_open_register() {
        let mut facts = skylake();
        facts.feature_control = FEATURE_CONTROL_LOCK;
        assert!(lacks_of(&facts).as_slice()[0].contains("locked by the firmware"));
        facts.feature_control = 0;
        assert_eq!(lacks_of(&facts).as_slice().len(), 0, "an unlocked register is ours to set");
    }

    #[test]
    fn every_required_control_is_missed_by_name() {
        for (group, bit_of) in [(&PIN, 0), (&PRIMARY, 1), (&SECONDARY, 2), (&EXIT, 3), (&ENTRY, 4)] {
            for &(bit, words) in group.required {
                let mut facts = skylake();
                let capability = match bit_of {
                    0 => &mut facts.pin,
                    1 => &mut facts.primary,
                    2 => &mut facts.secondary,
                    3 => &mut facts.exit,
                    _ => &mut facts.entry,
                };
                *capability &= !(u64::from(bit) << 32);
                assert!(lacks_of(&facts).as_slice().contains(&words), "{words}");
            }
        }
    }

    #[test]
    fn delivery_by_the_processor_takes_both_controls_and_is_off_at_first() {
        for (has, want) in
            [(VIRTUAL_DELIVERY, true), (secondary::VIRTUAL_INTERRUPT_DELIVERY, false), (0, false)]
        {
            let mut facts = skylake();
            facts.secondary &= !(u64::from(VIRTUAL_DELIVERY) << 32);
            facts.secondary |= u64::from(has) << 32;
            let mut lacks = Lacks::default();
            let found = Capabilities::evaluate(&facts, &mut lacks);
            assert_eq!((found.virtual_delivery, lacks.as_slice().len()), (want, 0));
            assert_eq!(found.secondary & VIRTUAL_DELIVERY, 0);
        }
    }

    #[test]
    fn posted_interrupts_take_three_controls_and_are_off_at_first() {
        let with = |virtual_delivery: bool, pin: bool, exit: bool| {
            let mut facts = skylake();
            facts.secondary &= if virtual_delivery { !0 } else { !(u64::from(VIRTUAL_DELIVERY) << 32) };
            facts.pin |= u64::from(pin) << 39;
            facts.exit &= !(u64::from(!exit) << 47);
            let mut lacks = Lacks::default();
            let found = Capabilities::evaluate(&facts, &mut lacks);
            assert_eq!(lacks.as_slice().len(), 0);
            assert_eq!(found.pin & pin::PROCESS_POSTED_INTERRUPTS, 0);
            assert_eq!(found.exit & exit::ACKNOWLEDGE_INTERRUPT, 0);
            found.posted
        };
        assert!(with(true, true, true));
        assert!(!with(false, true, true) && !with(true, false, true) && !with(true, true, false));
    }

    #[test]
    fn forced_cr3_exits_are_refused() {
        let mut facts = skylake();
        const CR3_LOAD_EXITING: u64 = 1 << 15;
        facts.primary |= CR3_LOAD_EXITING;
        assert_eq!(lacks_of(&facts).as_slice(), [PRIMARY.forced]);
    }

    #[test]
    fn a_cpu_without_secondary_controls_gets_one_line() {
        let mut facts = skylake();
        facts.primary &= !(u64::from(primary::SECONDARY_CONTROLS) << 32);
        facts.secondary = 0;
        facts.ept_vpid = 0;
        assert_eq!(lacks_of(&facts).as_slice().len(), 1);
    }

    #[test]
    fn ept_needs_and_vpid_wishes() {
        let mut facts = skylake();
        facts.ept_vpid &= !(ept_vpid::WALK_LENGTH_4 | ept_vpid::WRITE_BACK | ept_vpid::INVEPT);
        assert_eq!(lacks_of(&facts).as_slice().len(), 3);
        let mut facts = skylake();
        facts.ept_vpid &= !ept_vpid::INVVPID;
        let mut lacks = Lacks::default();
        let found = Capabilities::evaluate(&facts, &mut lacks);
        assert!(!found.vpid() && lacks.as_slice().is_empty());
    }
}

//! What the fields of an exit mean (SDM vol. 3, 28.2 and appendix C). Pure, tested on the host.

use monovisor_arch::{
    Gpr, InstructionBytes, IoExit, MemoryAccess, MemoryExit, SegmentName, StringIo, TaskSource,
};

/// Basic exit reasons (appendix C, table C-1).
pub mod reason {
    #![allow(missing_docs)]
    pub const EXCEPTION_OR_NMI: u16 = 0;
    pub const EXTERNAL_INTERRUPT: u16 = 1;
    pub const TRIPLE_FAULT: u16 = 2;
    pub const INIT: u16 = 3;
    pub const SIPI: u16 = 4;
    pub const INTERRUPT_WINDOW: u16 = 7;
    pub const NMI_WINDOW: u16 = 8;
    pub const TASK_SWITCH: u16 = 9;
    pub const CPUID: u16 = 10;
    pub const GETSEC: u16 = 11;
    pub const HLT: u16 = 12;
    pub const INVD: u16 = 13;
    pub const RDPMC: u16 = 15;
    pub const RSM: u16 = 17;
    pub const VMCALL: u16 = 18;
    pub const VMCLEAR: u16 = 19;
    pub const VMXON: u16 = 27;
    pub const CONTROL_REGISTER: u16 = 28;
    pub const IO: u16 = 30;
    pub const RDMSR: u16 = 31;
    pub const WRMSR: u16 = 32;
    pub const INVALID_GUEST_STATE: u16 = 33;
    pub const MSR_LOADING: u16 = 34;
    pub const MWAIT: u16 = 36;
    pub const MONITOR: u16 = 39;
    pub const PAUSE: u16 = 40;
    pub const MACHINE_CHECK_ON_ENTRY: u16 = 41;
    pub const TPR_BELOW_THRESHOLD: u16 = 43;
    pub const VIRTUALIZED_EOI: u16 = 45;
    pub const EPT_VIOLATION: u16 = 48;
    pub const EPT_MISCONFIGURATION: u16 = 49;
    pub const INVEPT: u16 = 50;
    pub const PREEMPTION_TIMER: u16 = 52;
    pub const INVVPID: u16 = 53;
    pub const WBINVD: u16 = 54;
    pub const XSETBV: u16 = 55;
    pub const VMFUNC: u16 = 59;
    pub const ENCLS: u16 = 60;
    pub const PCONFIG: u16 = 65;
    pub const UMWAIT: u16 = 67;
    pub const TPAUSE: u16 = 68;
    pub const LOADIWKEY: u16 = 69;
    pub const ENCLV: u16 = 70;
    pub const SEAMCALL: u16 = 76;
    pub const TDCALL: u16 = 77;
}

/// Name of a basic exit reason, for the log.
pub const fn reason_name(reason: u16) -> &'static str {
    const NAMES: [&str; 78] = [
        "exception or NMI",
        "external interrupt",
        "triple fault",
        "INIT",
        "SIPI",
        "I/O SMI",
        "other SMI",
        "interrupt window",
        "NMI window",
        "task switch",
        "CPUID",
        "GETSEC",
        "HLT",
        "INVD",
        "INVLPG",
        "RDPMC",
        "RDTSC",
        "RSM",
        "VMCALL",
        "VMCLEAR",
        "VMLAUNCH",
        "VMPTRLD",
        "VMPTRST",
        "VMREAD",
        "VMRESUME",
        "VMWRITE",
        "VMXOFF",
        "VMXON",
        "control-register access",
        "MOV DR",
        "I/O instruction",
        "RDMSR",
        "WRMSR",
        "entry failure: invalid guest state",
        "entry failure: MSR loading",
        "reserved",
        "MWAIT",
        "monitor trap flag",
        "reserved",
        "MONITOR",
        "PAUSE",
        "entry failure: machine check",
        "reserved",
        "TPR below threshold",
        "APIC access",
        "virtualized EOI",
        "access to GDTR or IDTR",
        "access to LDTR or TR",
        "EPT violation",
        "EPT misconfiguration",
        "INVEPT",
        "RDTSCP",
        "VMX-preemption timer",
        "INVVPID",
        "WBINVD or WBNOINVD",
        "XSETBV",
        "APIC write",
        "RDRAND",
        "INVPCID",
        "VMFUNC",
        "ENCLS",
        "RDSEED",
        "page-modification log full",
        "XSAVES",
        "XRSTORS",
        "PCONFIG",
        "SPP-related event",
        "UMWAIT",
        "TPAUSE",
        "LOADIWKEY",
        "ENCLV",
        "reserved",
        "ENQCMD",
        "ENQCMDS",
        "bus lock",
        "instruction timeout",
        "SEAMCALL",
        "TDCALL",
    ];
    if (reason as usize) < NAMES.len() { NAMES[reason as usize] } else { "unknown" }
}

/// The exit was caused by running an instruction, so that the VM-exit instruction length is valid and leads to the next
/// one (SDM vol. 3, 28.2.5). Faults, traps and windows leave RIP where execution goes on.
pub(super) const fn has_instruction_length(reason: u16) -> bool {
    matches!(
        reason,
        reason::CPUID
            | reason::GETSEC
            | reason::HLT
            | reason::INVD
            | reason::RDPMC
            | reason::RSM
            | reason::VMCALL
            ..=reason::CONTROL_REGISTER
                | reason::IO
                | reason::RDMSR
                | reason::WRMSR
                | reason::MWAIT
                | reason::MONITOR
                | reason::PAUSE
                | reason::INVEPT
                | reason::INVVPID
                | reason::WBINVD
                | reason::XSETBV
    )
}

/// The instruction belongs to a feature that the virtual CPU does not have.
pub(super) const fn is_undefined_instruction(reason: u16) -> bool {
    matches!(
        reason,
        reason::GETSEC | reason::RSM | reason::VMCLEAR
            ..=reason::VMXON
                | reason::MWAIT
                | reason::MONITOR
                | reason::INVEPT
                | reason::INVVPID
                | reason::VMFUNC
                | reason::ENCLS
                | reason::PCONFIG
                | reason::UMWAIT
                | reason::TPAUSE
                | reason::LOADIWKEY
                | reason::ENCLV
                | reason::SEAMCALL
                | reason::TDCALL
    )
}

/// The exit can have happened in the middle of the delivery of an event, so that the IDT-vectoring information has to be
/// looked at. The other exits we cause come from instructions or between them (SDM vol. 3, 25.9.3, 28.2.4).
pub(super) const fn may_interrupt_delivery(reason: u16) -> bool {
    !(has_instruction_length(reason)
        || matches!(
            reason,
            reason::EXTERNAL_INTERRUPT
                | reason::TRIPLE_FAULT
                | reason::INIT
                | reason::SIPI
                | reason::INTERRUPT_WINDOW
                | reason::NMI_WINDOW
                | reason::TPR_BELOW_THRESHOLD
                | reason::VIRTUALIZED_EOI
                | reason::PREEMPTION_TIMER
        ))
}

/// The selector and the source of a task switch (table 28-2).
pub(super) const fn task_switch(qualification: u64) -> (u16, TaskSource) {
    let source = match qualification >> 30 & 3 {
        0 => TaskSource::Call,
        1 => TaskSource::Return,
        2 => TaskSource::Jump,
        _ => TaskSource::Gate,
    };
    (qualification as u16, source)
}

/// An I/O instruction (table 28-5), with the VM-exit instruction information of INS and OUTS (table 28-8) where the CPU
/// gives it.
pub(super) const fn io(qualification: u64, information: Option<u32>) -> IoExit {
    let input = qualification & 1 << 3 != 0;
    let string = if qualification & 1 << 4 == 0 {
        None
    } else {
        let (address_size, segment) = match information {
            Some(information) => {
                let size = match information >> 7 & 7 {
                    0 => Some(2),
                    1 => Some(4),
                    2 => Some(8),
                    _ => None,
                };
                (size, if input { Some(SegmentName::Es) } else { segment(information >> 15 & 7) })
            }
            None => (None, None),
        };
        Some(StringIo { repeated: qualification & 1 << 5 != 0, address_size, segment })
    };
    // Bits 2:0 are 0, 1 or 3.
    IoExit { port: (qualification >> 16) as u16, size: (qualification & 3) as u8 + 1, input, string }
}

/// A segment register by its number in instruction information.
const fn segment(number: u32) -> Option<SegmentName> {
    Some(match number {
        0 => SegmentName::Es,
        1 => SegmentName::Cs,
        2 => SegmentName::Ss,
        3 => SegmentName::Ds,
        4 => SegmentName::Fs,
        5 => SegmentName::Gs,
        _ => return None,
    })
}

/// An EPT violation (table 28-7).
pub(super) const fn ept_violation(qualification: u64, address: u64) -> MemoryExit {
    // With accessed and dirty flags on, a walk counts as a write to the guest's tables; and a read-modify-write sets both
    // read and write.
    let access = if qualification & 1 << 2 != 0 {
        MemoryAccess::Fetch
    } else if qualification & 1 << 1 != 0 {
        MemoryAccess::Write
    } else {
        MemoryAccess::Read
    };
    // Bit 7: there is a guest-linear address; bit 8: the access was to its translation. Without a linear address the CPU
    // was loading PDPTEs, which is a walk as well.
    let table_walk = qualification & 1 << 7 == 0 || qualification & 1 << 8 == 0;
    MemoryExit { address, access, table_walk, instruction: InstructionBytes { bytes: [0; 15], len: 0 } }
}

/// Bit 12 of an EPT violation's qualification and of the VM-exit interruption information: an IRET had unblocked NMIs
/// before it faulted (SDM vol. 3, 28.2.3).
pub(super) const NMI_UNBLOCKED_BY_IRET: u64 = 1 << 12;

/// An access to a control register (table 28-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlAccess {
    /// MOV to CRn.
    Write {
        /// Number of the control register.
        register: u8,
        /// Source.
        from: Gpr,
    },
    /// MOV from CRn, LMSW or CLTS, none of which our masks and controls make exit.
    Other,
}

pub(super) const fn control_access(qualification: u64) -> ControlAccess {
    match qualification >> 4 & 3 {
        0 => ControlAccess::Write {
            register: (qualification & 0xf) as u8,
            from: Gpr::ALL[(qualification >> 8 & 0xf) as usize],
        },
        _ => ControlAccess::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_io() {
        assert_eq!(io(0x0071_0008, None), IoExit { port: 0x71, size: 1, input: true, string: None });
        assert_eq!(io(0x0cf8_0003, None), IoExit { port: 0xcf8, size: 4, input: false, string: None });
        assert_eq!(io(0xffff_0001, None), IoExit { port: 0xffff, size: 2, input: false, string: None });
        let string = |repeated, address_size, segment| Some(StringIo { repeated, address_size, segment });
        // rep outsb from FS with 32-bit addresses; insw with 64-bit ones.
        assert_eq!(
            io(0x03f8_0030, Some(4 << 15 | 1 << 7)).string,
            string(true, Some(4), Some(SegmentName::Fs))
        );
        assert_eq!(io(0x03f8_0019, Some(2 << 7)).string, string(false, Some(8), Some(SegmentName::Es)));
        assert_eq!(io(0x03f8_0010, Some(6 << 15 | 3 << 7)).string, string(false, None, None));
        assert_eq!(io(0x03f8_0010, None).string, string(false, None, None));
    }

    #[test]
    fn ept_violations() {
        for (qualification, access, table_walk) in [
            (0x181, MemoryAccess::Read, false),
            (0x182, MemoryAccess::Write, false),
            (0x183, MemoryAccess::Write, false),
            (0x184, MemoryAccess::Fetch, false),
            (0x081, MemoryAccess::Read, true),
            (0x083, MemoryAccess::Write, true),
            (0x001, MemoryAccess::Read, true),
        ] {
            let exit = ept_violation(qualification, 0xfee0_0000);
            assert_eq!((exit.access, exit.table_walk), (access, table_walk), "{qualification:#x}");
            assert_eq!((exit.address, exit.instruction.len), (0xfee0_0000, 0));
        }
    }

    #[test]
    fn control_accesses() {
        assert_eq!(control_access(0x004), ControlAccess::Write { register: 4, from: Gpr::Rax });
        assert_eq!(control_access(0xf00), ControlAccess::Write { register: 0, from: Gpr::R15 });
        for other in [0x13, 0x20, 0x8_0030] {
            assert_eq!(control_access(other), ControlAccess::Other);
        }
    }

    #[test]
    fn reasons_have_their_names() {
        assert_eq!(reason_name(reason::CPUID), "CPUID");
        assert_eq!(reason_name(reason::CONTROL_REGISTER), "control-register access");
        assert_eq!(reason_name(reason::TPR_BELOW_THRESHOLD), "TPR below threshold");
        assert_eq!(reason_name(reason::EPT_VIOLATION), "EPT violation");
        assert_eq!(reason_name(reason::XSETBV), "XSETBV");
        assert_eq!(reason_name(reason::PCONFIG), "PCONFIG");
        assert_eq!(reason_name(reason::TDCALL), "TDCALL");
        assert_eq!(reason_name(78), "unknown");
    }

    #[test]
    fn an_exit_is_in_an_instruction_or_may_be_in_a_delivery() {
        for reason in [
            reason::EXCEPTION_OR_NMI,
            reason::TASK_SWITCH,
            reason::EPT_VIOLATION,
            reason::EPT_MISCONFIGURATION,
        ] {
            assert!(may_interrupt_delivery(reason) && !has_instruction_length(reason));
        }
        for reason in [reason::CPUID, reason::VMXON, reason::IO, reason::WRMSR, reason::XSETBV] {
            assert!(!may_interrupt_delivery(reason) && has_instruction_length(reason));
        }
        assert!(!has_instruction_length(reason::EXTERNAL_INTERRUPT));
        assert!(!has_instruction_length(reason::TRIPLE_FAULT));
    }
}

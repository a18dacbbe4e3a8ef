//! Exit codes (APM vol. 2, appendix C) and what their EXITINFO fields say.

use monovisor_arch::{Exit, InstructionBytes, IoExit, MemoryAccess, MemoryExit, SegmentName, StringIo};

use super::vmcb::ControlArea;

pub const CR4_WRITE: u64 = 0x14;
pub const CR8_WRITE: u64 = 0x18;
pub const EXCEPTION_DB: u64 = 0x41;
pub const EXCEPTION_UD: u64 = 0x46;
pub const EXCEPTION_GP: u64 = 0x4d;
pub const EXCEPTION_AC: u64 = 0x51;
pub const EXCEPTION_MC: u64 = 0x52;
pub const INTR: u64 = 0x60;
pub const NMI: u64 = 0x61;
pub const SMI: u64 = 0x62;
pub const INIT: u64 = 0x63;
pub const VINTR: u64 = 0x64;
pub const RDPMC: u64 = 0x6f;
pub const CPUID: u64 = 0x72;
pub const IRET: u64 = 0x74;
pub const INVD: u64 = 0x76;
pub const PAUSE: u64 = 0x77;
pub const HLT: u64 = 0x78;
pub const INVLPGA: u64 = 0x7a;
pub const IOIO: u64 = 0x7b;
pub const MSR: u64 = 0x7c;
pub const SHUTDOWN: u64 = 0x7f;
pub const VMRUN: u64 = 0x80;
pub const VMMCALL: u64 = 0x81;
pub const VMLOAD: u64 = 0x82;
pub const WBINVD: u64 = 0x89;
pub const MONITOR: u64 = 0x8a;
pub const MWAIT_ARMED: u64 = 0x8c;
pub const XSETBV: u64 = 0x8d;
pub const RDPRU: u64 = 0x8e;
pub const RDTSCP: u64 = 0x87;
pub const INVPCID: u64 = 0xa2;
pub const NPF: u64 = 0x400;
/// AVIC_NOACCEL: the guest did with its local APIC what AVIC leaves to the host.
pub const APIC: u64 = 0x402;
/// VMEXIT_INVALID, -1.
pub const INVALID: u64 = !0;
/// The same as processors write it that know only 32 bits of exit code.
pub const INVALID_LOW: u64 = 0xffff_ffff;

/// Decodes an exit that needs nothing but the control area.
pub fn decode(control: &ControlArea, decode_assists: bool) -> Exit {
    match control.exit_code {
        CPUID => Exit::Cpuid,
        IOIO => Exit::Io(io(control.exit_info_1 as u32, decode_assists)),
        MSR if control.exit_info_1 & 1 == 0 => Exit::ReadMsr,
        MSR => Exit::WriteMsr,
        NPF => nested_page_fault(control, decode_assists),
        // An SMI is taken when GIF is set again, before the host's next instruction.
        INTR | SMI => Exit::HostInterrupt,
        NMI => Exit::HostNmi,
        HLT => Exit::Halt,
        VMMCALL => Exit::Hypercall,
        XSETBV => Exit::Xsetbv,
        WBINVD => Exit::WritebackInvalidate,
        INVD => Exit::Invalidate,
        RDPMC => Exit::ReadPerformanceCounter,
        PAUSE => Exit::Pause,
        SHUTDOWN => Exit::Shutdown,
        INIT => Exit::Init,
        EXCEPTION_MC => Exit::MachineCheck,
        EXCEPTION_UD => Exit::InvalidOpcode,
        VMRUN | VMLOAD..=RDTSCP | INVLPGA | MONITOR..=MWAIT_ARMED | RDPRU | INVPCID => {
            Exit::UndefinedInstruction
        }
        code => Exit::Unexpected(code),
    }
}

/// EXITINFO1 of an IOIO intercept (APM vol. 2, 15.10.2).
pub fn io(info: u32, decode_assists: bool) -> IoExit {
    const INPUT: u32 = 1;
    const STRING: u32 = 1 << 2;
    const REPEATED: u32 = 1 << 3;
    let size = match info >> 4 & 7 {
        1 => 1,
        2 => 2,
        _ => 4,
    };
    let string = (info & STRING != 0).then(|| StringIo {
        repeated: info & REPEATED != 0,
        address_size: match info >> 7 & 7 {
            1 => Some(2),
            2 => Some(4),
            4 => Some(8),
            _ => None,
        },
        segment: if decode_assists { segment(info >> 10 & 7) } else { None },
    });
    IoExit { port: (info >> 16) as u16, size, input: info & INPUT != 0, string }
}

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

/// EXITINFO1 of a nested page fault: a page-fault error code, and where in the walk it was (APM vol. 2, 15.25.6).
fn nested_page_fault(control: &ControlArea, decode_assists: bool) -> Exit {
    const WRITE: u64 = 1 << 1;
    const RESERVED: u64 = 1 << 3;
    const FETCH: u64 = 1 << 4;
    const TABLE_WALK: u64 = 1 << 33;
    let info = control.exit_info_1;
    if info & RESERVED != 0 {
        // Our own tables are broken: nothing that a guest does can cause that.
        return Exit::Unexpected(control.exit_code);
    }
    let access = if info & FETCH != 0 {
        MemoryAccess::Fetch
    } else if info & WRITE != 0 {
        MemoryAccess::Write
    } else {
        MemoryAccess::Read
    };
    let instruction = if decode_assists {
        InstructionBytes { bytes: control.instruction, len: control.instruction_length.min(15) }
    } else {
        InstructionBytes::default()
    };
    Exit::Memory(MemoryExit {
        address: control.exit_info_2,
        access,
        table_walk: info & TABLE_WALK != 0,
        instruction,
    })
}

#[cfg(test)]
mod tests {
    use super::super::vmcb::Vmcb;
    use super::*;

    #[test]
    fn port_accesses() {
        assert_eq!(io(0x03f8_0211, true), IoExit { port: 0x3f8, size: 1, input: true, string: None });
        assert_eq!(io(0xffff_0020, true), IoExit { port: 0xffff, size: 2, input: false, string: None });
        let outs = io(0x1234_0000 | 4 << 10 | 1 << 8 | 1 << 6 | 0b1100, true);
        assert_eq!((outs.port, outs.size, outs.input), (0x1234, 4, false));
        assert_eq!(
            outs.string,
            Some(StringIo { repeated: true, address_size: Some(4), segment: Some(SegmentName::Fs) })
        );
        assert_eq!(
            io(1 << 6 | 0b0101, false).string,
            Some(StringIo { repeated: false, address_size: None, segment: None })
        );
    }

    #[test]
    fn nested_page_faults() {
        let mut vmcb = Box::new(Vmcb::new());
        vmcb.control.exit_code = NPF;
        vmcb.control.exit_info_2 = 0xfee0_0020;
        vmcb.control.instruction = [7; 15];
        vmcb.control.instruction_length = 15;
        let mut decoded = |info, assists| {
            vmcb.control.exit_info_1 = info;
            decode(&vmcb.control, assists)
        };
        let memory = |access, table_walk, instruction| {
            Exit::Memory(MemoryExit { address: 0xfee0_0020, access, table_walk, instruction })
        };
        let none = InstructionBytes::default();
        let bytes = InstructionBytes { bytes: [7; 15], len: 15 };
        assert_eq!(decoded(1 << 32 | 4, false), memory(MemoryAccess::Read, false, none));
        assert_eq!(decoded(1 << 32 | 6, true), memory(MemoryAccess::Write, false, bytes));
        assert_eq!(decoded(1 << 32 | 0x14, false), memory(MemoryAccess::Fetch, false, none));
        assert_eq!(decoded(1 << 33 | 6, false), memory(MemoryAccess::Write, true, none));
        assert_eq!(decoded(1 << 32 | 0xc, false), Exit::Unexpected(NPF));
    }

    #[test]
    fn instructions() {
        let mut vmcb = Box::new(Vmcb::new());
        let mut decoded = |code, info| {
            vmcb.control.exit_code = code;
            vmcb.control.exit_info_1 = info;
            decode(&vmcb.control, false)
        };
        assert_eq!(decoded(0x72, 0), Exit::Cpuid);
        assert_eq!(decoded(0x7c, 0), Exit::ReadMsr);
        assert_eq!(decoded(0x7c, 1), Exit::WriteMsr);
        assert_eq!(decoded(0x81, 0), Exit::Hypercall);
        for svm in [0x80, 0x82, 0x83, 0x84, 0x85, 0x86, 0x7a, 0x8a, 0x8b, 0x8c] {
            assert_eq!(decoded(svm, 0), Exit::UndefinedInstruction);
        }
        assert_eq!(decoded(0x7e, 0), Exit::Unexpected(0x7e));
        assert_eq!(decoded(0x10, 0), Exit::Unexpected(0x10));
    }
}

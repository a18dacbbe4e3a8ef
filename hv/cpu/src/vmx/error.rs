//! VM-instruction errors and failed VM entries in the manual's words.

use monovisor_arch::EntryFailure;

use super::decode::reason;

/// How a VMX instruction failed (SDM vol. 3, 31.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmxError {
    /// CF set: there is no current VMCS to report in, or, for VMXON, the region or a control register is not right.
    Invalid,
    /// ZF set, with this VM-instruction error number.
    Valid(u32),
}

impl VmxError {
    /// The reason in words.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "VMfailInvalid: no current VMCS, or a bad VMXON region",
            Self::Valid(number) => instruction_error(number),
        }
    }

    /// The VM-instruction error number; 0 for `VMfailInvalid`.
    pub const fn number(self) -> u32 {
        match self {
            Self::Invalid => 0,
            Self::Valid(number) => number,
        }
    }

    /// As the result of a VM entry.
    pub const fn entry_failure(self) -> EntryFailure {
        EntryFailure { reason: self.reason(), code: self.number() as u64 }
    }
}

/// Name of a VM-instruction error number (SDM vol. 3, table 31-1).
pub const fn instruction_error(number: u32) -> &'static str {
    match number {
        1 => "VMCALL executed in VMX root operation",
        2 => "VMCLEAR with invalid physical address",
        3 => "VMCLEAR with VMXON pointer",
        4 => "VMLAUNCH with non-clear VMCS",
        5 => "VMRESUME with non-launched VMCS",
        6 => "VMRESUME after VMXOFF",
        7 => "VM entry with invalid control field(s)",
        8 => "VM entry with invalid host-state field(s)",
        9 => "VMPTRLD with invalid physical address",
        10 => "VMPTRLD with VMXON pointer",
        11 => "VMPTRLD with incorrect VMCS revision identifier",
        12 => "VMREAD or VMWRITE of an unsupported VMCS component",
        13 => "VMWRITE to a read-only VMCS component",
        15 => "VMXON executed in VMX root operation",
        16 => "VM entry with invalid executive-VMCS pointer",
        17 => "VM entry with non-launched executive VMCS",
        18 => "VM entry with executive-VMCS pointer not VMXON pointer",
        19 => "VMCALL with non-clear VMCS",
        20 => "VMCALL with invalid VM-exit control fields",
        22 => "VMCALL with incorrect MSEG revision identifier",
        23 => "VMXOFF under dual-monitor treatment of SMIs and SMM",
        24 => "VMCALL with invalid SMM-monitor features",
        25 => "VM entry with invalid VM-execution control fields in executive VMCS",
        26 => "VM entry with events blocked by MOV SS",
        28 => "invalid operand to INVEPT or INVVPID",
        _ => "unknown VM-instruction error",
    }
}

/// What an exit with bit 31 of the exit reason set says: the entry failed after the checks of controls and host state
/// (SDM vol. 3, 27.8). `None` for a basic exit reason that no failed entry has.
///
/// `broken_rule` names the guest-state check that fails where the caller found it; the CPU gives only a hint.
pub(super) fn failed_entry(
    basic_reason: u16,
    qualification: u64,
    broken_rule: Option<&'static str>,
) -> Option<EntryFailure> {
    let reason = match (basic_reason, qualification) {
        (reason::INVALID_GUEST_STATE, 2) => "invalid guest state: a PDPTE has reserved bits set",
        (reason::INVALID_GUEST_STATE, 3) => "invalid guest state: NMI injected while blocked by STI",
        (reason::INVALID_GUEST_STATE, 4) => "invalid guest state: VMCS link pointer",
        (reason::INVALID_GUEST_STATE, _) => broken_rule.unwrap_or("invalid guest state"),
        (reason::MSR_LOADING, _) => "VM entry failed loading MSRs",
        (reason::MACHINE_CHECK_ON_ENTRY, _) => "machine check during VM entry",
        _ => return None,
    };
    Some(EntryFailure { reason, code: u64::from(basic_reason) | qualification << 16 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_the_table_has_its_own_words() {
        let known =
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18, 19, 20, 22, 23, 24, 25, 26, 28];
        for (position, number) in known.iter().enumerate() {
            assert_ne!(instruction_error(*number), instruction_error(0));
            for other in &known[position + 1..] {
                assert_ne!(instruction_error(*number), instruction_error(*other));
            }
        }
        for gap in [0, 14, 21, 27, 29] {
            assert_eq!(instruction_error(gap), "unknown VM-instruction error");
        }
    }

    #[test]
    fn failed_entries_are_named() {
        let failure = failed_entry(33, 0, Some("RFLAGS has a reserved bit set")).unwrap();
        assert_eq!((failure.reason, failure.code), ("RFLAGS has a reserved bit set", 33));
        assert_eq!(failed_entry(33, 4, Some("not this")).unwrap().code, 33 | 4 << 16);
        assert_eq!(failed_entry(33, 0, None).unwrap().reason, "invalid guest state");
        assert_eq!(failed_entry(34, 1, None).unwrap().reason, "VM entry failed loading MSRs");
        assert!(failed_entry(10, 0, None).is_none());
    }
}

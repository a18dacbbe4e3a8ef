//! Components of a VMCS by their encoding (SDM vol. 3, 25.11.2 and appendix B).

/// One VMCS component: the operand of VMREAD and VMWRITE.
///
/// Bits 14:13 of the encoding give the width (0: 16 bits, 1: 64 bits, 2: 32 bits, 3: natural), bits 11:10 the area
/// (0: control, 1: VM-exit information, 2: guest state, 3: host state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(u32);

macro_rules! fields {
    ($($(#[$meta:meta])* $name:ident = $encoding:literal;)*) => {
        impl Field {
            $($(#[$meta])* pub const $name: Self = Self($encoding);)*

        }

        const ENCODINGS: &[u16] = &[$($encoding),*];
        /// A name for each of [`ENCODINGS`], in one piece: a string for each, with its address and length, takes 2 KB more.
        const NAMES: &str = concat!($(stringify!($name), " "),*);

        #[cfg(test)]
        const ALL: &[(Field, u32)] = &[$((Field::$name, $encoding)),*];
    };
}

fields! {
    // 16-bit control fields.
    /// Virtual-processor identifier.
    VPID = 0x0000;
    /// Posted-interrupt notification vector.
    NOTIFICATION_VECTOR = 0x0002;

    // 16-bit guest-state fields.
    /// Guest ES selector; those of CS, SS, DS, FS, GS, LDTR and TR follow in steps of two, as do base, limit and
    /// access rights.
    GUEST_ES_SELECTOR = 0x0800;

    /// Guest interrupt status: RVI in bits 7:0, SVI in bits 15:8.
    GUEST_INTERRUPT_STATUS = 0x0810;

    // 16-bit host-state fields.
    /// Host ES selector.
    HOST_ES_SELECTOR = 0x0c00;
    /// Host CS selector.
    HOST_CS_SELECTOR = 0x0c02;
    /// Host SS selector.
    HOST_SS_SELECTOR = 0x0c04;
    /// Host DS selector.
    HOST_DS_SELECTOR = 0x0c06;
    /// Host FS selector.
    HOST_FS_SELECTOR = 0x0c08;
    /// Host GS selector.
    HOST_GS_SELECTOR = 0x0c0a;
    /// Host TR selector.
    HOST_TR_SELECTOR = 0x0c0c;

    // 64-bit control fields.
    /// Address of I/O bitmap A (ports 0 to 0x7fff).
    IO_BITMAP_A = 0x2000;
    /// Address of I/O bitmap B (ports 0x8000 to 0xffff).
    IO_BITMAP_B = 0x2002;
    /// Address of the MSR bitmaps.
    MSR_BITMAP = 0x2004;
    /// TSC offset.
    TSC_OFFSET = 0x2010;
    /// Address of the virtual-APIC page.
    VIRTUAL_APIC = 0x2012;
    /// Address of the posted-interrupt descriptor.
    POSTED_INTERRUPTS = 0x2016;
    /// EPT pointer.
    EPT_POINTER = 0x201a;
    /// EOI-exit bitmap, vectors 0 to 63; the other three follow in steps of two.
    EOI_EXIT_BITMAP = 0x201c;
    /// XSS-exiting bitmap.
    XSS_EXITING_BITMAP = 0x202c;

    // 64-bit read-only data field.
    /// Guest-physical address of an EPT violation or misconfiguration.
    GUEST_PHYSICAL_ADDRESS = 0x2400;

    // 64-bit guest-state fields.
    /// VMCS link pointer.
    VMCS_LINK_POINTER = 0x2800;
    /// Guest IA32_DEBUGCTL.
    GUEST_DEBUGCTL = 0x2802;
    /// Guest IA32_PAT.
    GUEST_PAT = 0x2804;
    /// Guest IA32_EFER.
    GUEST_EFER = 0x2806;
    /// Guest PDPTE0; the other three follow in steps of two.
    GUEST_PDPTE0 = 0x280a;

    // 64-bit host-state fields.
    /// Host IA32_PAT.
    HOST_PAT = 0x2c00;
    /// Host IA32_EFER.
    HOST_EFER = 0x2c02;

    // 32-bit control fields.
    /// Pin-based VM-execution controls.
    PIN_CONTROLS = 0x4000;
    /// Primary processor-based VM-execution controls.
    PRIMARY_CONTROLS = 0x4002;
    /// Exception bitmap.
    EXCEPTION_BITMAP = 0x4004;
    /// Page-fault error-code mask.
    PAGE_FAULT_MASK = 0x4006;
    /// Page-fault error-code match.
    PAGE_FAULT_MATCH = 0x4008;
    /// CR3-target count.
    CR3_TARGET_COUNT = 0x400a;
    /// Primary VM-exit controls.
    EXIT_CONTROLS = 0x400c;
    /// VM-exit MSR-store count.
    EXIT_MSR_STORE_COUNT = 0x400e;
    /// VM-exit MSR-load count.
    EXIT_MSR_LOAD_COUNT = 0x4010;
    /// VM-entry controls.
    ENTRY_CONTROLS = 0x4012;
    /// VM-entry MSR-load count.
    ENTRY_MSR_LOAD_COUNT = 0x4014;
    /// VM-entry interruption-information field.
    ENTRY_INTERRUPTION = 0x4016;
    /// VM-entry exception error code.
    ENTRY_ERROR_CODE = 0x4018;
    /// VM-entry instruction length.
    ENTRY_INSTRUCTION_LENGTH = 0x401a;
    /// TPR threshold.
    TPR_THRESHOLD = 0x401c;
    /// Secondary processor-based VM-execution controls.
    SECONDARY_CONTROLS = 0x401e;

    // 32-bit read-only data fields.
    /// VM-instruction error.
    INSTRUCTION_ERROR = 0x4400;
    /// Exit reason.
    EXIT_REASON = 0x4402;
    /// VM-exit interruption information.
    EXIT_INTERRUPTION = 0x4404;
    /// VM-exit interruption error code.
    EXIT_ERROR_CODE = 0x4406;
    /// IDT-vectoring information field.
    VECTORING = 0x4408;
    /// IDT-vectoring error code.
    VECTORING_ERROR_CODE = 0x440a;
    /// VM-exit instruction length.
    INSTRUCTION_LENGTH = 0x440c;
    /// VM-exit instruction information.
    INSTRUCTION_INFORMATION = 0x440e;

    // 32-bit guest-state fields.
    /// Guest ES limit.
    GUEST_ES_LIMIT = 0x4800;
    /// Guest GDTR limit.
    GUEST_GDTR_LIMIT = 0x4810;
    /// Guest IDTR limit.
    GUEST_IDTR_LIMIT = 0x4812;
    /// Guest ES access rights.
    GUEST_ES_ACCESS = 0x4814;
    /// Guest CS access rights.
    GUEST_CS_ACCESS = 0x4816;
    /// Guest SS access rights.
    GUEST_SS_ACCESS = 0x4818;
    /// Guest interruptibility state.
    GUEST_INTERRUPTIBILITY = 0x4824;
    /// Guest activity state.
    GUEST_ACTIVITY = 0x4826;
    /// Guest IA32_SYSENTER_CS.
    GUEST_SYSENTER_CS = 0x482a;
    /// VMX-preemption timer value.
    PREEMPTION_TIMER = 0x482e;

    // 32-bit host-state field.
    /// Host IA32_SYSENTER_CS.
    HOST_SYSENTER_CS = 0x4c00;

    // Natural-width control fields.
    /// CR0 guest/host mask.
    CR0_MASK = 0x6000;
    /// CR4 guest/host mask.
    CR4_MASK = 0x6002;
    /// CR0 read shadow.
    CR0_SHADOW = 0x6004;
    /// CR4 read shadow.
    CR4_SHADOW = 0x6006;

    // Natural-width read-only data fields.
    /// Exit qualification.
    QUALIFICATION = 0x6400;

    // Natural-width guest-state fields.
    /// Guest CR0.
    GUEST_CR0 = 0x6800;
    /// Guest CR3.
    GUEST_CR3 = 0x6802;
    /// Guest CR4.
    GUEST_CR4 = 0x6804;
    /// Guest ES base.
    GUEST_ES_BASE = 0x6806;
    /// Guest FS base.
    GUEST_FS_BASE = 0x680e;
    /// Guest GS base.
    GUEST_GS_BASE = 0x6810;
    /// Guest GDTR base.
    GUEST_GDTR_BASE = 0x6816;
    /// Guest IDTR base.
    GUEST_IDTR_BASE = 0x6818;
    /// Guest DR7.
    GUEST_DR7 = 0x681a;
    /// Guest RSP.
    GUEST_RSP = 0x681c;
    /// Guest RIP.
    GUEST_RIP = 0x681e;
    /// Guest RFLAGS.
    GUEST_RFLAGS = 0x6820;
    /// Guest pending debug exceptions.
    GUEST_PENDING_DEBUG = 0x6822;
    /// Guest IA32_SYSENTER_ESP.
    GUEST_SYSENTER_ESP = 0x6824;
    /// Guest IA32_SYSENTER_EIP.
    GUEST_SYSENTER_EIP = 0x6826;

    // Natural-width host-state fields.
    /// Host CR0.
    HOST_CR0 = 0x6c00;
    /// Host CR3.
    HOST_CR3 = 0x6c02;
    /// Host CR4.
    HOST_CR4 = 0x6c04;
    /// Host FS base.
    HOST_FS_BASE = 0x6c06;
    /// Host GS base.
    HOST_GS_BASE = 0x6c08;
    /// Host TR base.
    HOST_TR_BASE = 0x6c0a;
    /// Host GDTR base.
    HOST_GDTR_BASE = 0x6c0c;
    /// Host IDTR base.
    HOST_IDTR_BASE = 0x6c0e;
    /// Host IA32_SYSENTER_ESP.
    HOST_SYSENTER_ESP = 0x6c10;
    /// Host IA32_SYSENTER_EIP.
    HOST_SYSENTER_EIP = 0x6c12;
    /// Host RSP.
    HOST_RSP = 0x6c14;
    /// Host RIP.
    HOST_RIP = 0x6c16;
}

impl Field {
    /// The component's name.
    pub fn name(self) -> &'static str {
        let position = ENCODINGS.iter().position(|encoding| u32::from(*encoding) == self.0);
        position.and_then(|position| NAMES.split(' ').nth(position)).unwrap_or("VMCS component")
    }

    /// The operand of VMREAD and VMWRITE.
    pub const fn encoding(self) -> u32 {
        self.0
    }

    /// The same component of the segment register `index` places after ES, in the order ES, CS, SS, DS, FS, GS, LDTR,
    /// TR that all four groups of segment fields share.
    pub(super) const fn of_segment(self, index: u32) -> Self {
        Self(self.0 + 2 * index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_unique_and_well_formed() {
        assert_eq!(Field::VPID.name(), "VPID");
        assert_eq!(Field::HOST_RIP.name(), "HOST_RIP");
        assert_eq!(Field(0x0ffe).name(), "VMCS component");
        for (position, (field, encoding)) in ALL.iter().enumerate() {
            // Bit 0 selects the high half of a 64-bit field, bits 12 and 31:15 are reserved.
            assert_eq!(encoding & 0xffff_9001, 0, "{field:?}");
            assert!(ALL[position + 1..].iter().all(|(other, _)| other != field), "{}", field.name());
        }
    }

    #[test]
    fn widths_and_areas_match_the_names() {
        for (field, encoding) in ALL {
            let area = encoding >> 10 & 3;
            let name = field.name();
            let guest = name.starts_with("GUEST_") && *field != Field::GUEST_PHYSICAL_ADDRESS;
            let guest = guest || [Field::VMCS_LINK_POINTER, Field::PREEMPTION_TIMER].contains(field);
            assert_eq!(guest, area == 2, "{name}");
            assert_eq!(name.starts_with("HOST_"), area == 3, "{name}");
            if name.ends_with("_BASE") {
                assert_eq!(encoding >> 13, 3, "{name}");
            }
            if name.ends_with("_ACCESS") || name.ends_with("_LIMIT") {
                assert_eq!(encoding >> 13, 2, "{name}");
            }
        }
    }

    #[test]
    fn segment_fields_follow_each_other() {
        assert_eq!(Field::GUEST_ES_BASE.of_segment(4), Field::GUEST_FS_BASE);
        assert_eq!(Field::GUEST_ES_BASE.of_segment(5), Field::GUEST_GS_BASE);
        assert_eq!(Field::GUEST_ES_ACCESS.of_segment(2), Field::GUEST_SS_ACCESS);
        assert_eq!(Field::GUEST_ES_BASE.of_segment(7).encoding(), 0x6814);
    }
}

//! The guest's registers in the VMCB, in the neutral vocabulary.

use monovisor_arch::state::bits::*;
use monovisor_arch::{
    Control, DescriptorTable, Event, Gpr, Segment, SegmentName, Vcpu, VcpuState, VectorRegister, vector,
};

use super::Svm;
use super::vmcb::{SaveArea, VmcbSegment, clean};

/// P in the VMCB's attributes and in the neutral access rights alike.
const PRESENT: u16 = 1 << 7;
/// L in the VMCB's attributes: 64-bit code, once EFER.LMA is set.
const LONG: u16 = 1 << 9;
/// Accessed (code and data segments).
const ACCESSED: u32 = 1;
/// Busy (TSS).
const BUSY: u32 = 1 << 1;

/// The VMCB's twelve attribute bits from the neutral layout, which leaves bits 11:8 out. An unusable segment is one
/// that is not present (APM vol. 2, 15.5.1: a null selector in the VMCB).
pub const fn to_vmcb(segment: &Segment) -> VmcbSegment {
    let attributes = (segment.access & 0xff) as u16 | (segment.access >> 4 & 0xf00) as u16;
    VmcbSegment {
        selector: segment.selector,
        attributes: if segment.usable() { attributes } else { attributes & !PRESENT },
        limit: segment.limit,
        base: segment.base,
    }
}

/// The neutral layout from the VMCB's.
pub const fn from_vmcb(segment: &VmcbSegment) -> Segment {
    let attributes = segment.attributes as u32;
    let mut access = (attributes & 0xff) | (attributes & 0xf00) << 4;
    if segment.attributes & PRESENT == 0 {
        access |= Segment::UNUSABLE;
    }
    Segment { selector: segment.selector, base: segment.base, limit: segment.limit, access }
}

impl Svm {
    /// An instruction has been emulated while RFLAGS, given as `flags`, had TF or RF set: RF ends with it, and a single
    /// step is due, as after one that the processor runs (SDM vol. 3, 18.3.1.4).
    #[cold]
    fn instruction_done(&mut self, flags: u64) {
        const DR6_BS: u64 = 1 << 14;
        self.save_mut().rflags = flags & !RFLAGS_RF;
        if flags & RFLAGS_TF != 0 {
            self.save_mut().dr6 |= DR6_BS;
            self.control_mut().clean &= !clean::DEBUG;
            self.inject(Event::exception(vector::DB));
        }
    }
}

fn slot(save: &mut SaveArea, name: SegmentName) -> &mut VmcbSegment {
    match name {
        SegmentName::Es => &mut save.es,
        SegmentName::Cs => &mut save.cs,
        SegmentName::Ss => &mut save.ss,
        SegmentName::Ds => &mut save.ds,
        SegmentName::Fs => &mut save.fs,
        SegmentName::Gs => &mut save.gs,
        SegmentName::Ldtr => &mut save.ldtr,
        SegmentName::Tr => &mut save.tr,
    }
}

impl VcpuState for Svm {
    fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::Rax => self.save().rax,
            Gpr::Rsp => self.save().rsp,
            other => self.memory.context.registers[other as usize & 15],
        }
    }

    fn set_gpr(&mut self, register: Gpr, value: u64) {
        match register {
            Gpr::Rax => self.save_mut().rax = value,
            Gpr::Rsp => self.save_mut().rsp = value,
            other => self.memory.context.registers[other as usize & 15] = value,
        }
    }

    fn rip(&self) -> u64 {
        self.save().rip
    }

    #[inline]
    fn set_rip(&mut self, value: u64) {
        self.save_mut().rip = value;
        self.control_mut().interrupt_shadow = 0;
        let flags = self.save().rflags;
        if flags & (RFLAGS_TF | RFLAGS_RF) != 0 {
            self.instruction_done(flags);
        }
    }

    fn vector(&mut self, register: VectorRegister) -> Option<[u64; 8]> {
        self.memory.xstate.vector(register)
    }

    fn set_vector(&mut self, register: VectorRegister, value: [u64; 8]) {
        self.memory.xstate.set_vector(register, value);
    }

    fn rflags(&self) -> u64 {
        self.save().rflags
    }

    fn set_rflags(&mut self, value: u64) {
        /// Bits 3, 5, 15 and from 22 on are always zero, bit 1 is one (APM vol. 2, 3.1.6).
        const DEFINED: u64 = 0x3f_7fd7;
        self.save_mut().rflags = (value & DEFINED) | RFLAGS_FIXED;
    }

    fn segment(&self, name: SegmentName) -> Segment {
        let save = self.save();
        let mut segment = from_vmcb(match name {
            SegmentName::Es => &save.es,
            SegmentName::Cs => &save.cs,
            SegmentName::Ss => &save.ss,
            SegmentName::Ds => &save.ds,
            SegmentName::Fs => &save.fs,
            SegmentName::Gs => &save.gs,
            SegmentName::Ldtr => &save.ldtr,
            SegmentName::Tr => &save.tr,
        });
        // Bits that the processor need not keep in the VMCB, but that others (VMX, a debugger) expect.
        match name {
            // The privilege level is a field of its own (APM vol. 2, 15.5.1).
            SegmentName::Ss => segment.access = (segment.access & !(3 << 5)) | u32::from(save.cpl & 3) << 5,
            SegmentName::Tr => segment.access |= BUSY,
            SegmentName::Ldtr => {}
            _ if segment.usable() => segment.access |= ACCESSED,
            _ => {}
        }
        segment
    }

    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        let save = self.save_mut();
        *slot(save, name) = to_vmcb(&segment);
        if matches!(name, SegmentName::Ss) {
            save.cpl = segment.dpl();
        }
        self.touch(clean::SEGMENTS);
    }

    fn gdtr(&self) -> DescriptorTable {
        table(&self.save().gdtr)
    }

    fn set_gdtr(&mut self, table: DescriptorTable) {
        set_table(&mut self.save_mut().gdtr, table);
        self.touch(clean::TABLES);
    }

    fn idtr(&self) -> DescriptorTable {
        table(&self.save().idtr)
    }

    fn set_idtr(&mut self, table: DescriptorTable) {
        set_table(&mut self.save_mut().idtr, table);
        self.touch(clean::TABLES);
    }

    #[inline]
    fn control(&self) -> Control {
        let save = self.save();
        // SVME is set inside, always; the guest has no SVM.
        Control { cr0: save.cr0, cr2: save.cr2, cr3: save.cr3, cr4: save.cr4, efer: save.efer & !EFER_SVME }
    }

    fn set_control(&mut self, control: Control) {
        let save = self.save_mut();
        let stale = save.cr0 != control.cr0
            || save.cr3 != control.cr3
            || save.cr4 != control.cr4
            || save.efer != control.efer | EFER_SVME;
        save.cr0 = control.cr0;
        save.cr2 = control.cr2;
        save.cr3 = control.cr3;
        save.cr4 = control.cr4;
        save.efer = control.efer | EFER_SVME;
        self.touch(clean::CONTROL | clean::CR2);
        if stale {
            // The processor flushes for its own MOV to CR, not for ours (APM vol. 2, 15.16.1).
            self.flush = true;
        }
    }

    fn cpl(&self) -> u8 {
        self.save().cpl & 3
    }

    #[inline]
    fn runs_64_bit_code(&self) -> bool {
        let save = self.save();
        save.cs.attributes & LONG != 0 && save.efer & EFER_LMA != 0
    }
}

const fn table(segment: &VmcbSegment) -> DescriptorTable {
    DescriptorTable { base: segment.base, limit: segment.limit as u16 }
}

const fn set_table(segment: &mut VmcbSegment, table: DescriptorTable) {
    segment.base = table.base;
    segment.limit = table.limit as u32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_go_both_ways() {
        // 64-bit code: type 0xb, S, P, L, G.
        let code = Segment { selector: 8, base: 0, limit: u32::MAX, access: 0xa09b };
        assert_eq!(to_vmcb(&code).attributes, 0xa9b);
        assert_eq!(from_vmcb(&to_vmcb(&code)), code);
        let null = Segment { selector: 0, base: 0, limit: 0, access: Segment::UNUSABLE | 0x93 };
        assert_eq!(to_vmcb(&null).attributes, 0x13);
        assert!(!from_vmcb(&to_vmcb(&null)).usable());
    }
}

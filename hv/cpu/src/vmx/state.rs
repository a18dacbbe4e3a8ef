//! Reading and changing the guest's registers.

use monovisor_arch::state::bits::{
    CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_MCE, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE, RFLAGS_FIXED, RFLAGS_RF,
    RFLAGS_TF, RFLAGS_VM,
};
use monovisor_arch::{Control, DescriptorTable, Gpr, Segment, SegmentName, VcpuState, VectorRegister};

use super::check::{pdpte_reserved, physical_bits};
use super::control::entry;
use super::field::Field;
use super::instruction::{cr2, rdmsr, set_cr2, wrmsr};
use super::vmcs::Slot;
use super::{Vmx, interruptibility};
use crate::control::{canonical, pat_write};

/// MSRs that the guest's state includes.
pub(super) mod msr {
    #![allow(missing_docs)]
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const PAT: u32 = 0x277;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
}

/// DEBUGCTL bits that a guest may have: LBR and BTF (SDM vol. 3, 18.4.1). The others need hardware that is the host's.
const DEBUGCTL_ALLOWED: u64 = 3;
pub(super) const DEBUGCTL_LBR: u64 = 1;
pub(super) const DEBUGCTL_BTF: u64 = 1 << 1;
/// EFER bits that exist on Intel CPUs.
pub(super) const EFER_DEFINED: u64 = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
/// Pending debug exceptions: a single step (table 25-4).
pub(super) const PENDING_SINGLE_STEP: u64 = 1 << 14;
/// RFLAGS bits that exist; VM entry fails with any other set (SDM vol. 3, 27.3.1.4).
pub(super) const RFLAGS_DEFINED: u64 = 0x3f_7fd5;
/// Access rights: granularity.
const GRANULARITY: u32 = 1 << 15;
/// Access rights: bits 11:8 and 31:17 are reserved.
const ACCESS_DEFINED: u32 = 0x1_f0ff;

/// Where an MSR of the guest is while the host runs.
enum Place {
    /// In the VMCS.
    Vmcs(Field),
    /// In the CPU itself.
    Cpu,
}

impl Vmx {
    fn place(&self, index: u32) -> Option<Place> {
        Some(match index {
            msr::SYSENTER_CS => Place::Vmcs(Field::GUEST_SYSENTER_CS),
            msr::SYSENTER_ESP => Place::Vmcs(Field::GUEST_SYSENTER_ESP),
            msr::SYSENTER_EIP => Place::Vmcs(Field::GUEST_SYSENTER_EIP),
            msr::DEBUGCTL => Place::Vmcs(Field::GUEST_DEBUGCTL),
            msr::PAT => Place::Vmcs(Field::GUEST_PAT),
            msr::EFER => Place::Vmcs(Field::GUEST_EFER),
            msr::FS_BASE => Place::Vmcs(Field::GUEST_FS_BASE),
            msr::GS_BASE => Place::Vmcs(Field::GUEST_GS_BASE),
            msr::STAR | msr::LSTAR | msr::CSTAR | msr::FMASK | msr::KERNEL_GS_BASE => Place::Cpu,
            msr::TSC_AUX if self.tsc_aux => Place::Cpu,
            _ => return None,
        })
    }

    pub(super) fn read_msr(&self, index: u32) -> Option<u64> {
        match self.place(index)? {
            Place::Vmcs(field) => Some(self.vmcs.read(field)),
            // SAFETY: every CPU with long mode has these, and TSC_AUX is asked for only where it exists.
            Place::Cpu => Some(unsafe { rdmsr(index) }),
        }
    }

    /// Sets an MSR of the guest to a value that neither VM entry nor WRMSR can refuse; false for any other.
    pub(super) fn write_msr(&mut self, index: u32, value: u64) -> bool {
        let Some(place) = self.place(index) else { return false };
        let legal = match index {
            msr::SYSENTER_CS | msr::FMASK | msr::TSC_AUX => value >> 32 == 0,
            // 48 bits hold on every CPU; one with 57 takes what fits 48 as well, and its own guests' larger values.
            msr::SYSENTER_ESP
            | msr::SYSENTER_EIP
            | msr::LSTAR
            | msr::CSTAR
            | msr::FS_BASE
            | msr::GS_BASE
            | msr::KERNEL_GS_BASE => canonical(value, self.five_level()),
            msr::PAT => pat_write(value).is_ok(),
            msr::DEBUGCTL => value & !DEBUGCTL_ALLOWED == 0,
            msr::EFER => value & !EFER_DEFINED == 0,
            _ => true,
        };
        if !legal {
            return false;
        }
        match place {
            Place::Vmcs(Field::GUEST_EFER) => self.write_efer(value, self.control().cr0),
            Place::Vmcs(field) => self.vmcs.write(field, value),
            // SAFETY: the MSR exists (as above) and takes this value; the host has no use for it.
            Place::Cpu => unsafe { wrmsr(index, value) },
        }
        true
    }

    /// The CPU has 57 bits of linear address (CR4.LA57 may be 1).
    pub(super) fn five_level(&self) -> bool {
        self.capabilities().cr4_fixed1 & monovisor_arch::state::bits::CR4_LA57 != 0
    }

    /// Sets EFER with LMA as paging and LME say, and the VM-entry control that must agree with it (27.3.1.1).
    fn write_efer(&mut self, value: u64, cr0: u64) {
        let long = value & EFER_LME != 0 && cr0 & CR0_PG != 0;
        let efer = value & EFER_DEFINED & !EFER_LMA | if long { EFER_LMA } else { 0 };
        self.vmcs.set(Slot::Efer, efer);
        let controls = self.capabilities().entry | if long { entry::IA32E_MODE_GUEST } else { 0 };
        self.vmcs.write(Field::ENTRY_CONTROLS, u64::from(controls));
        self.flush_linear = true;
    }

    /// Page-directory-pointer-table entries 0 to 3, which count when the guest uses PAE paging (SDM vol. 3, 4.4.1).
    pub fn pdptes(&self) -> [u64; 4] {
        [0, 1, 2, 3].map(|index| self.vmcs.read(Field::GUEST_PDPTE0.of_segment(index)))
    }

    /// An instruction has been completed in software: RF ends with it, and with TF set the trap that the CPU would raise
    /// behind it is due (SDM vol. 3, 18.3.1.1, 18.3.1.4).
    #[cold]
    fn complete_instruction(&mut self) {
        let rflags = self.vmcs.get(Slot::Rflags);
        if rflags & RFLAGS_RF != 0 {
            self.vmcs.set(Slot::Rflags, rflags & !RFLAGS_RF);
        }
        if rflags & RFLAGS_TF != 0 && self.vmcs.read(Field::GUEST_DEBUGCTL) & DEBUGCTL_BTF == 0 {
            let pending = self.vmcs.read(Field::GUEST_PENDING_DEBUG);
            self.vmcs.write(Field::GUEST_PENDING_DEBUG, pending | PENDING_SINGLE_STEP);
            self.step_due = true;
        }
    }

    /// A shadow of STI or MOV SS needs the pending single step to agree with RFLAGS.TF (27.3.1.5).
    fn settle_single_step(&mut self, rflags: u64) {
        if self.vmcs.get(Slot::Interruptibility) & interruptibility::SHADOW == 0 {
            return;
        }
        let branches_only = self.vmcs.read(Field::GUEST_DEBUGCTL) & DEBUGCTL_BTF != 0;
        let pending = self.vmcs.read(Field::GUEST_PENDING_DEBUG) & !PENDING_SINGLE_STEP;
        let step = if rflags & RFLAGS_TF != 0 && !branches_only { PENDING_SINGLE_STEP } else { 0 };
        self.vmcs.write(Field::GUEST_PENDING_DEBUG, pending | step);
    }
}

impl VcpuState for Vmx {
    fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::Rsp => self.vmcs.get(Slot::Rsp),
            _ => self.context.gprs.get(register as usize).copied().unwrap_or(0),
        }
    }

    fn set_gpr(&mut self, register: Gpr, value: u64) {
        if register == Gpr::Rsp {
            self.vmcs.set(Slot::Rsp, value);
        } else if let Some(place) = self.context.gprs.get_mut(register as usize) {
            *place = value;
        }
    }

    fn rip(&self) -> u64 {
        self.vmcs.get(Slot::Rip)
    }

    fn set_rip(&mut self, value: u64) {
        self.length_valid = false;
        self.vmcs.set(Slot::Rip, value);
        let state = self.vmcs.get(Slot::Interruptibility);
        if state & interruptibility::SHADOW != 0 {
            self.vmcs.set(Slot::Interruptibility, state & !interruptibility::SHADOW);
        }
        if self.vmcs.get(Slot::Rflags) & (RFLAGS_TF | RFLAGS_RF) != 0 {
            self.complete_instruction();
        }
    }

    #[cold]
    fn load_pdptes(&mut self, table: &[u8; 32]) -> bool {
        let bits = physical_bits();
        let entries = || table.as_chunks().0.iter().map(|entry| u64::from_le_bytes(*entry));
        if entries().any(|entry| pdpte_reserved(entry, bits)) {
            return false;
        }
        for (index, entry) in (0..).zip(entries()) {
            self.vmcs.write(Field::GUEST_PDPTE0.of_segment(index), entry);
        }
        true
    }

    fn vector(&mut self, register: VectorRegister) -> Option<[u64; 8]> {
        self.xstate.vector(register)
    }

    fn set_vector(&mut self, register: VectorRegister, value: [u64; 8]) {
        self.xstate.set_vector(register, value);
    }

    fn rflags(&self) -> u64 {
        self.vmcs.get(Slot::Rflags)
    }

    fn set_rflags(&mut self, value: u64) {
        let value = value & RFLAGS_DEFINED | RFLAGS_FIXED;
        self.vmcs.set(Slot::Rflags, value);
        self.settle_single_step(value);
    }

    fn segment(&self, name: SegmentName) -> Segment {
        let index = name as u32;
        Segment {
            selector: self.vmcs.read(Field::GUEST_ES_SELECTOR.of_segment(index)) as u16,
            base: self.vmcs.read(Field::GUEST_ES_BASE.of_segment(index)),
            limit: self.vmcs.read(Field::GUEST_ES_LIMIT.of_segment(index)) as u32,
            access: self.vmcs.read(Field::GUEST_ES_ACCESS.of_segment(index)) as u32,
        }
    }

    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        let index = name as u32;
        // G and the limit must agree (27.3.1.2); the limit is the truth here.
        let granularity = match segment.limit {
            limit if limit >> 20 != 0 => GRANULARITY,
            limit if limit & 0xfff != 0xfff => 0,
            _ => segment.access & GRANULARITY,
        };
        let access = segment.access & ACCESS_DEFINED & !GRANULARITY | granularity;
        self.vmcs.write(Field::GUEST_ES_SELECTOR.of_segment(index), u64::from(segment.selector));
        self.vmcs.write(Field::GUEST_ES_BASE.of_segment(index), segment.base);
        self.vmcs.write(Field::GUEST_ES_LIMIT.of_segment(index), u64::from(segment.limit));
        match name {
            SegmentName::Cs => self.vmcs.set(Slot::CsAccess, u64::from(access)),
            _ => self.vmcs.write(Field::GUEST_ES_ACCESS.of_segment(index), u64::from(access)),
        }
    }

    fn gdtr(&self) -> DescriptorTable {
        DescriptorTable {
            base: self.vmcs.read(Field::GUEST_GDTR_BASE),
            limit: self.vmcs.read(Field::GUEST_GDTR_LIMIT) as u16,
        }
    }

    fn set_gdtr(&mut self, table: DescriptorTable) {
        self.vmcs.write(Field::GUEST_GDTR_BASE, table.base);
        self.vmcs.write(Field::GUEST_GDTR_LIMIT, u64::from(table.limit));
    }

    fn idtr(&self) -> DescriptorTable {
        DescriptorTable {
            base: self.vmcs.read(Field::GUEST_IDTR_BASE),
            limit: self.vmcs.read(Field::GUEST_IDTR_LIMIT) as u16,
        }
    }

    fn set_idtr(&mut self, table: DescriptorTable) {
        self.vmcs.write(Field::GUEST_IDTR_BASE, table.base);
        self.vmcs.write(Field::GUEST_IDTR_LIMIT, u64::from(table.limit));
    }

    fn control(&self) -> Control {
        let shadowed = |value: Field, shadow: Field, mask: u64| {
            self.vmcs.read(value) & !mask | self.vmcs.read(shadow) & mask
        };
        Control {
            cr0: shadowed(Field::GUEST_CR0, Field::CR0_SHADOW, self.cr0_mask),
            // SAFETY: CPL 0, since this CPU is in VMX root operation.
            cr2: unsafe { cr2() },
            cr3: self.vmcs.read(Field::GUEST_CR3),
            cr4: shadowed(Field::GUEST_CR4, Field::CR4_SHADOW, self.cr4_mask),
            efer: self.vmcs.get(Slot::Efer),
        }
    }

    fn set_control(&mut self, control: Control) {
        let capabilities = *self.capabilities();
        // What the CPU runs with: the guest's own bits, the bits that VMX insists on, and neither CD nor NW, which VM entry
        // would ignore.
        let insisted = capabilities.cr0_fixed0 & !(CR0_PE | CR0_PG);
        let cr0 = (control.cr0 | insisted | self.cr0_mask & !(CR0_CD | CR0_NW)) & !(CR0_CD | CR0_NW);
        self.vmcs.write(Field::GUEST_CR0, cr0 & capabilities.cr0_fixed1 & 0xffff_ffff);
        self.vmcs.write(Field::CR0_SHADOW, control.cr0);
        self.vmcs.write(Field::GUEST_CR3, control.cr3);
        let cr4 = control.cr4 & !self.cr4_mask | capabilities.cr4_fixed0 | CR4_MCE;
        self.vmcs.write(Field::GUEST_CR4, cr4 & capabilities.cr4_fixed1);
        self.vmcs.write(Field::CR4_SHADOW, control.cr4);
        self.write_efer(control.efer, control.cr0);
        // SAFETY: CPL 0, since this CPU is in VMX root operation; the host uses CR2 only in a page-fault handler, whose
        // fault has set it before.
        unsafe { set_cr2(control.cr2) };
        self.flush_linear = true;
    }

    fn cpl(&self) -> u8 {
        // SS.DPL, but in real mode and virtual-8086 mode, where the access rights may be anything.
        if self.vmcs.read(Field::GUEST_CR0) & CR0_PE == 0 {
            return 0;
        }
        if self.rflags() & RFLAGS_VM != 0 {
            return 3;
        }
        (self.vmcs.read(Field::GUEST_SS_ACCESS) >> 5 & 3) as u8
    }
}

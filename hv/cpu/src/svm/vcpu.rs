//! What the machine above does with a virtual processor.

use core::arch::asm;

use monovisor_arch::state::bits::*;
use monovisor_arch::{
    Control, DescriptorTable, Event, EventKind, Exit, Gpr, Inbox, Segment, SegmentName, Vcpu, VcpuState,
    VirtualInterrupts, apic_page::register, vector,
};
use monovisor_host::apic;
use x86_64::registers::model_specific::Msr;

use super::vmcb::{clean, intercept, interrupt};
use super::window::NmiState;
use super::{EXCEPTION_INTERCEPTS, INFO_VALID, OPEN_MSRS, Svm, exit, switch};
use crate::msr;
use crate::speculation::SPEC_CTRL;

impl Vcpu for Svm {
    fn run(&mut self) -> Exit {
        /// Exits served here one after the other, before the host looks after itself: a guest may arrange for events
        /// whose delivery raises the next one without end.
        const EXITS_IN_A_ROW: u32 = 32;
        for _ in 0..EXITS_IN_A_ROW {
            if self.attention {
                if let Some(exit) = self.prepare() {
                    return exit;
                }
                if self.recoil {
                    apic::release_parked();
                }
            }
            // SAFETY: `new` has enabled SVM on this processor, to which this value is pinned, and set up everything
            // that the context points to, all of it inside `memory`, which nothing else can reach while this borrow
            // lasts. IF is clear and GIF set in the host, as `Vcpu::run` says. Intercepts and nested page tables
            // keep the guest in.
            unsafe { switch::enter(&raw mut self.memory.context) };
            let control = &mut self.memory.vmcb.control;
            control.clean = if self.features.clean_bits { clean::ALL } else { 0 };
            if self.cleanup || control.exit_interrupt_info & INFO_VALID != 0 {
                self.clean_up();
                if core::mem::take(&mut self.recoil) {
                    apic::hold_parked();
                    // Any other interrupt is still pending, and ends the next entry.
                    if self.memory.vmcb.control.exit_code == exit::INTR && self.step.is_none() {
                        continue;
                    }
                }
                if let Some(step) = self.step.take() {
                    if let Some(exit) = self.end_step(step) {
                        return exit;
                    }
                    if matches!(self.memory.vmcb.control.exit_code, exit::EXCEPTION_DB | exit::EXCEPTION_GP) {
                        continue;
                    }
                }
            }
            let control = &self.memory.vmcb.control;
            match control.exit_code {
                code @ (exit::CR4_WRITE
                | exit::CR8_WRITE
                | exit::EXCEPTION_DB
                | exit::EXCEPTION_AC
                | exit::IRET
                | exit::VINTR
                | exit::APIC
                | exit::INVALID
                | exit::INVALID_LOW) => {
                    if let Some(exit) = self.internal_exit(code) {
                        return exit;
                    }
                }
                _ => return exit::decode(control, self.features.decode_assists),
            }
        }
        Exit::HostInterrupt
    }

    #[inline]
    fn next_rip(&self) -> Option<u64> {
        let control = &self.memory.vmcb.control;
        let rip = if self.features.next_rip {
            control.next_rip
        } else if control.exit_code == exit::IOIO {
            // EXITINFO2 of an IOIO intercept (APM vol. 2, 15.10.2), on every processor.
            control.exit_info_2
        } else {
            return None;
        };
        // Zero for exits that are not an instruction's.
        (rip != 0).then_some(rip)
    }

    fn inject(&mut self, event: Event) {
        if event.kind == EventKind::Nmi && self.features.virtual_nmi {
            let control = self.control_mut();
            control.interrupt_control |= interrupt::NMI;
            control.clean &= !clean::INTERRUPT;
            return;
        }
        self.queue.push(event);
        self.attention = true;
    }

    fn pending_event(&self) -> Option<Event> {
        self.queue.pending()
    }

    fn interrupt_ready(&self) -> bool {
        self.save().rflags & RFLAGS_IF != 0
            && self.memory.vmcb.control.interrupt_shadow & 1 == 0
            && self.queue.is_empty()
    }

    fn nmi_ready(&self) -> bool {
        let control = &self.memory.vmcb.control;
        if self.features.virtual_nmi {
            // The processor holds one back by itself while NMIs are blocked; a second one merges with it.
            return control.interrupt_control & interrupt::NMI == 0;
        }
        self.nmi == NmiState::Open && control.interrupt_shadow & 1 == 0 && self.queue.is_empty()
    }

    fn set_interrupt_window(&mut self, on: bool) {
        if self.interrupt_window != on {
            self.interrupt_window = on;
            self.update_virtual_interrupt();
        }
    }

    fn set_nmi_window(&mut self, on: bool) {
        if self.nmi_window != on {
            self.nmi_window = on;
            self.update_virtual_interrupt();
        }
    }

    fn tpr(&self) -> u8 {
        self.task_priority()
    }

    fn set_tpr(&mut self, value: u8) {
        let control = self.control_mut();
        control.interrupt_control = (control.interrupt_control & !interrupt::TPR) | u64::from(value >> 4);
        control.clean &= !clean::INTERRUPT;
        // AVIC has both follow the guest's writes, and neither the other one at an entry.
        self.apic.write(register::TPR, u32::from(value & 0xf0));
    }

    fn set_tpr_threshold(&mut self, class: u8) {
        if self.tpr_threshold != class {
            self.tpr_threshold = class;
            self.update_virtual_interrupt();
        }
    }

    fn set_virtual_delivery(&mut self, on: bool) -> bool {
        self.virtual_delivery = on && self.features.x2avic;
        self.update_virtual_interrupt();
        self.virtual_delivery
    }

    fn give_interrupts(&mut self, interrupts: &VirtualInterrupts) {
        self.give(interrupts);
    }

    fn take_interrupts(&mut self) -> VirtualInterrupts {
        self.take()
    }

    fn inbox(&self) -> Option<Inbox> {
        self.virtual_delivery.then_some(Inbox::Page(self.apic))
    }

    fn guest_msr(&self, index: u32) -> Option<u64> {
        let save = self.save();
        Some(match index {
            msr::EFER => save.efer & !EFER_SVME,
            msr::PAT => save.pat,
            msr::STAR => save.star,
            msr::LSTAR => save.lstar,
            msr::CSTAR => save.cstar,
            msr::SFMASK => save.sfmask,
            msr::FS_BASE => save.fs.base,
            msr::GS_BASE => save.gs.base,
            msr::KERNEL_GS_BASE => save.kernel_gs_base,
            msr::SYSENTER_CS => save.sysenter_cs,
            msr::SYSENTER_ESP => save.sysenter_esp,
            msr::SYSENTER_EIP => save.sysenter_eip,
            // SAFETY: the processor has TSC_AUX; reading it changes nothing.
            msr::TSC_AUX if self.features.tsc_aux => unsafe { Msr::new(msr::TSC_AUX).read() },
            _ => return self.memory.context.barriers.msr(index),
        })
    }

    fn set_guest_msr(&mut self, index: u32, value: u64) -> bool {
        let save = self.save_mut();
        match index {
            msr::EFER => self.set_control(Control { efer: value, ..self.control() }),
            msr::PAT => {
                save.pat = value;
                self.touch(clean::NESTED);
                self.flush = true;
            }
            msr::STAR => save.star = value,
            msr::LSTAR => save.lstar = value,
            msr::CSTAR => save.cstar = value,
            msr::SFMASK => save.sfmask = value,
            msr::FS_BASE => save.fs.base = value,
            msr::GS_BASE => save.gs.base = value,
            msr::KERNEL_GS_BASE => save.kernel_gs_base = value,
            msr::SYSENTER_CS => save.sysenter_cs = value,
            msr::SYSENTER_ESP => save.sysenter_esp = value,
            msr::SYSENTER_EIP => save.sysenter_eip = value,
            msr::TSC_AUX if self.features.tsc_aux => {
                // SAFETY: the processor has TSC_AUX and the host does not use it; its high half is reserved.
                unsafe { Msr::new(msr::TSC_AUX).write(value & 0xffff_ffff) };
            }
            SPEC_CTRL => {
                let Some(opens) = self.memory.context.barriers.set_spec_ctrl(value, &self.allowed) else {
                    return false;
                };
                if opens {
                    self.memory.msrs.open(SPEC_CTRL);
                    // The map's contents count as the MSR map (APM vol. 2, 15.15.3, bit 1).
                    self.control_mut().clean = 0;
                }
            }
            _ => return false,
        }
        true
    }

    fn xcr0(&self) -> u64 {
        self.memory.xstate.xcr0()
    }

    fn set_xcr0(&mut self, value: u64) {
        self.memory.xstate.set_xcr0(value);
    }

    fn extended_state(&self) -> &[u8] {
        self.memory.xstate.image()
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        let control = self.control_mut();
        control.tsc_offset = offset;
        control.clean &= !clean::INTERCEPTS;
    }

    fn debug_registers(&self) -> [u64; 6] {
        let [dr0, dr1, dr2, dr3] = read_breakpoints();
        [dr0, dr1, dr2, dr3, self.save().dr6, self.save().dr7]
    }

    fn set_debug_registers(&mut self, values: [u64; 6]) {
        let [dr0, dr1, dr2, dr3, dr6, dr7] = values;
        write_breakpoints([dr0, dr1, dr2, dr3]);
        let save = self.save_mut();
        save.dr6 = dr6;
        save.dr7 = dr7;
        self.touch(clean::DEBUG);
    }

    #[inline]
    fn debug_control(&self) -> u64 {
        self.save().dr7
    }

    fn breakpoints_met(&mut self, breakpoints: u64) {
        self.save_mut().dr6 |= breakpoints & 0xf;
        self.touch(clean::DEBUG);
        // One trap for both where a single step is due as well.
        let trap = Event::exception(vector::DB);
        if self.queue.pending() != Some(trap) {
            self.inject(trap);
        }
    }

    fn flush_tlb(&mut self) {
        self.flush = true;
        self.attention = true;
    }

    fn reset(&mut self) {
        const PAT_RESET: u64 = 0x0007_0406_0007_0406;
        self.start_over(CR0_CD | CR0_NW);
        for msr in OPEN_MSRS {
            self.set_guest_msr(msr, 0);
        }
        self.set_guest_msr(msr::TSC_AUX, 0);
        self.set_guest_msr(msr::PAT, PAT_RESET);
        self.memory.context.barriers.reset();
        self.memory.xstate.reset();
    }

    fn init(&mut self) {
        let kept = self.control().cr0 & (CR0_CD | CR0_NW);
        self.start_over(kept);
    }
}

impl Svm {
    /// V_TPR: the guest's CR8.
    pub(super) fn task_priority(&self) -> u8 {
        (self.memory.vmcb.control.interrupt_control as u8 & 0xf) << 4
    }

    /// No event waits, none is blocked, and no window is wanted.
    pub(super) fn forget_events(&mut self) {
        self.queue.clear();
        self.software = None;
        self.nmi = NmiState::Open;
        self.interrupt_window = false;
        self.nmi_window = false;
        self.tpr_threshold = 0;
        self.step = None;
        self.unexplained = None;
        self.virtual_delivery = false;
        self.update_virtual_interrupt();
        self.take();
        self.apic.write(register::TPR, 0);
        let basis = self.interrupt_basis();
        self.control_mut().interrupt_control = basis;
        self.set_intercept(intercept::IRET, false);
    }

    /// To the reset vector, with `caching` in CR0.
    fn start_over(&mut self, caching: u64) {
        const DR6_RESET: u64 = 0xffff_0ff0;
        const DR7_RESET: u64 = 0x400;
        self.forget_events();
        let control = self.control_mut();
        control.interrupt_shadow = 0;
        control.event_injection = 0;
        control.exception_intercepts = EXCEPTION_INTERCEPTS;

        self.memory.context.registers = [0; 16];
        self.memory.context.barriers.restart();
        let save = self.save_mut();
        save.s_cet = 0;
        save.ssp = 0;
        save.isst_address = 0;
        save.spec_ctrl = 0;
        self.set_gpr(Gpr::Rax, 0);
        self.set_gpr(Gpr::Rsp, 0);
        // The processor's signature, as CPUID 1 has it in EAX.
        self.set_gpr(Gpr::Rdx, u64::from(core::arch::x86_64::__cpuid(1).eax));
        self.set_rflags(RFLAGS_FIXED);
        self.set_rip(0xfff0);
        let data = Segment { selector: 0, base: 0, limit: 0xffff, access: 0x93 };
        for name in [SegmentName::Es, SegmentName::Ss, SegmentName::Ds, SegmentName::Fs, SegmentName::Gs] {
            self.set_segment(name, data);
        }
        self.set_segment(
            SegmentName::Cs,
            Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, access: 0x9b },
        );
        self.set_segment(SegmentName::Ldtr, Segment { access: 0x82, ..data });
        self.set_segment(SegmentName::Tr, Segment { access: 0x8b, ..data });
        self.set_gdtr(DescriptorTable { base: 0, limit: 0xffff });
        self.set_idtr(DescriptorTable { base: 0, limit: 0xffff });
        self.set_control(Control { cr0: CR0_ET | caching, cr2: 0, cr3: 0, cr4: 0, efer: 0 });
        self.set_debug_registers([0, 0, 0, 0, DR6_RESET, DR7_RESET]);
        self.control_mut().clean = 0;
        self.flush_tlb();
    }
}

/// DR0 to DR3, which hold the guest's values (see the module's text).
fn read_breakpoints() -> [u64; 4] {
    let (dr0, dr1, dr2, dr3);
    // SAFETY: at CPL 0 with CR4.DE or not, reading DR0 to DR3 changes nothing; DR7.GD is clear in the host.
    unsafe {
        asm!(
            "mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
            out(reg) dr0, out(reg) dr1, out(reg) dr2, out(reg) dr3, options(nostack, nomem),
        );
    }
    [dr0, dr1, dr2, dr3]
}

fn write_breakpoints(values: [u64; 4]) {
    let [dr0, dr1, dr2, dr3] = values;
    // SAFETY: breakpoints are off in the host (#VMEXIT clears DR7), so the addresses have no effect there.
    unsafe {
        asm!(
            "mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
            in(reg) dr0, in(reg) dr1, in(reg) dr2, in(reg) dr3, options(nostack, nomem),
        );
    }
}

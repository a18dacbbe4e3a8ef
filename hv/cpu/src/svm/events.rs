//! Before an entry and after an exit: events, flushes, and the exits that are nobody else's business.

use monovisor_arch::state::bits::*;
use monovisor_arch::{EntryFailure, Event, EventKind, Exit, SegmentName, Vcpu, VcpuState, vector};

use super::vmcb::{clean, intercept};
use super::window::NmiState;
use super::{INFO_VALID, Svm, TLB_FLUSH_ALL, TLB_FLUSH_GUEST, check, exit};
use crate::inject;

impl Svm {
    /// Work before an entry; an exit instead of the entry where there is none to be had.
    #[cold]
    pub(super) fn prepare(&mut self) -> Option<Exit> {
        self.attention = false;
        if self.queue.take_shutdown() {
            return Some(Exit::Shutdown);
        }
        if core::mem::take(&mut self.flush) {
            self.request_flush();
        }
        if let Some(event) = self.queue.take() {
            self.write_event(event);
        }
        if core::mem::take(&mut self.touched)
            && let Some(reason) = check::check(&self.memory.vmcb, self.features.physical_bits)
        {
            // Looked at again before any other try.
            self.touched = true;
            self.attention = true;
            return Some(Exit::EntryFailed(EntryFailure { reason, code: exit::INVALID }));
        }
        None
    }

    /// By ASID where the CPU can; else by a new ASID, and everything once they are used up.
    pub(super) fn request_flush(&mut self) {
        let features = self.features;
        self.cleanup = true;
        let control = &mut self.memory.vmcb.control;
        if control.tlb_control == TLB_FLUSH_ALL {
            return;
        }
        if features.flush_by_asid {
            control.tlb_control = TLB_FLUSH_GUEST;
            return;
        }
        control.asid += 1;
        if control.asid >= features.asids {
            control.asid = 1;
            control.tlb_control = TLB_FLUSH_ALL;
        }
        control.clean &= !clean::ASID;
    }

    pub(super) fn write_event(&mut self, event: Event) {
        self.cleanup = true;
        self.software = None;
        match event.kind {
            EventKind::Nmi if !self.features.virtual_nmi => {
                self.nmi = NmiState::Blocked;
                self.set_intercept(intercept::IRET, true);
            }
            EventKind::SoftwareInterrupt
            | EventKind::SoftwareException
            | EventKind::PrivilegedSoftwareException => {
                let wide = self.save().efer & EFER_LMA != 0 && self.segment(SegmentName::Cs).long();
                let next = self.save().rip.wrapping_add(u64::from(event.instruction_length));
                let next = if wide { next } else { next & 0xffff_ffff };
                // The address pushed is nRIP for INT n on processors that have it, else RIP (APM vol. 2, 15.20).
                self.save_mut().rip = next;
                self.control_mut().next_rip = next;
                self.software = Some(Event { instruction_length: 0, ..event });
            }
            EventKind::Interrupt => self.recoil = self.features.injects_twice,
            _ => {}
        }
        let mut event = event;
        if self.save().cr0 & CR0_PE == 0 {
            // Real mode pushes no error codes.
            event.error_code = None;
        }
        let injection = inject::to_svm(&event);
        self.control_mut().event_injection = injection;
        if !check::injection_valid(injection) {
            self.touched = true;
        }
    }

    /// Work after an exit that followed an injection or flush, interrupted an event, or may have ended an NMI.
    #[cold]
    pub(super) fn clean_up(&mut self) {
        let control = self.control_mut();
        control.event_injection = 0;
        control.tlb_control = 0;
        let info = control.exit_interrupt_info;
        let software = self.software.take();
        self.cleanup = false;
        if let NmiState::Returning { rip, rsp } = self.nmi {
            if (rip, rsp) != (self.save().rip, self.save().rsp) {
                self.nmi = NmiState::Open;
            } else {
                self.cleanup = true;
            }
        }
        match inject::from_svm(info) {
            None => {}
            Some(event)
                if matches!(event.kind, EventKind::SoftwareInterrupt | EventKind::SoftwareException) =>
            {
                // The guest's own: RIP is still at the instruction, which will be run again.
                if let Some(ours) = software.filter(|ours| ours.vector == event.vector) {
                    self.queue.push(ours);
                    self.attention = true;
                }
            }
            Some(event) => {
                self.queue.push(event);
                self.attention = true;
            }
        }
    }

    /// Exits that are this module's own business; `None` to go on in the guest.
    #[cold]
    pub(super) fn internal_exit(&mut self, code: u64) -> Option<Exit> {
        match code {
            exit::EXCEPTION_DB | exit::EXCEPTION_AC => {
                self.inject(if code == exit::EXCEPTION_DB {
                    // DR6 and DR7 in the VMCB are as the handler must find them (APM vol. 2, 15.12.2); EVENTINJ leaves
                    // them.
                    Event::exception(vector::DB)
                } else {
                    Event::fault(vector::AC, 0)
                });
                // Raised in the delivery of an event: the next entry may end in the same way, before it has come to an
                // instruction boundary where a physical interrupt is seen. The host looks after itself.
                if self.memory.vmcb.control.exit_interrupt_info & INFO_VALID != 0 {
                    return Some(Exit::HostInterrupt);
                }
            }
            exit::IRET => {
                self.set_intercept(intercept::IRET, false);
                self.nmi = NmiState::Returning { rip: self.save().rip, rsp: self.save().rsp };
                self.cleanup = true;
                self.update_virtual_interrupt();
            }
            exit::VINTR => {
                if self.nmi_window && self.nmi_ready() {
                    return Some(Exit::NmiWindow);
                }
                if self.interrupt_window {
                    return Some(Exit::InterruptWindow);
                }
                // For an NMI that is still blocked: an IRET with IF set around it has not run yet. Some other exit
                // will find it done.
                self.arm_virtual_interrupt(false);
            }
            exit::CR4_WRITE | exit::CR8_WRITE => self.begin_step(),
            exit::APIC => return Some(self.apic_exit()),
            _ => return self.refused(code),
        }
        None
    }

    /// VMEXIT_INVALID. With a reason that [`check`] knows, the entry was refused. Without one, it may be QEMU's TCG, which
    /// exits so where a chip raises #GP: a guest's MOV of reserved bits into CR3 or CR4. If that was not it, the next
    /// entry is refused as well, at the same place.
    pub(super) fn refused(&mut self, code: u64) -> Option<Exit> {
        let basis = self.interrupt_basis();
        let control = self.control_mut();
        // What the processor has kept of a block that it refused is anybody's guess.
        control.clean = 0;
        // TCG even overwrites such a block: with the host's state, and zero in this field, where some bits are always set.
        let overwritten = control.interrupt_control & basis != basis;
        control.interrupt_control |= basis;
        if overwritten {
            // Not to be entered again before it has been set anew: `check` sees to that.
            self.save_mut().efer = 0;
            self.touch(clean::CONTROL);
        }
        // Where #GP has been delivered, RSP at least is another.
        let place = (self.save().rip, self.save().rsp);
        let known =
            if overwritten { None } else { check::check(&self.memory.vmcb, self.features.physical_bits) };
        let reason = match known {
            Some(reason) => reason,
            None if overwritten || self.unexplained == Some(place) => {
                "VMEXIT_INVALID: invalid guest state in VMCB"
            }
            None => {
                self.unexplained = Some(place);
                self.inject(Event::fault(vector::GP, 0));
                return None;
            }
        };
        self.unexplained = None;
        Some(Exit::EntryFailed(EntryFailure { reason, code }))
    }
}

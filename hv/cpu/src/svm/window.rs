//! Windows: exits as soon as the guest can take an interrupt or an NMI, or has lowered its task priority.

use monovisor_arch::state::bits::RFLAGS_TF;
use monovisor_arch::{Event, Exit, Vcpu, vector};

use super::vmcb::{clean, intercept, interrupt};
use super::{CR4_WRITE, CR8_WRITE, EXCEPTION_INTERCEPTS, Svm, exit};

/// Blocking of NMIs by an NMI in service, for processors without virtual NMIs: EVENTINJ does not block, so it is
/// followed in software from the injection to the end of the next IRET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NmiState {
    Open,
    /// In service; IRET is intercepted.
    Blocked,
    /// IRET has been seen, at this RIP and RSP, but not been run yet. NMIs are open as soon as either has changed.
    Returning {
        rip: u64,
        rsp: u64,
    },
}

/// One instruction, MOV to CR4 or CR8, is being stepped over by RFLAGS.TF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The guest's own TF.
    pub trap: bool,
    /// As they were in front of the instruction.
    pub rip: u64,
    /// As they were, TF included.
    pub rflags: u64,
    /// As it was.
    pub cr4: u64,
    /// As it was.
    pub dr6: u64,
}

/// A single step has ended in #DB.
const DR6_BS: u64 = 1 << 14;

impl Svm {
    /// Steps over MOV to CR4 or CR8: with TF set the guest comes back by #DB, which is intercepted anyway, or by #GP if the value is
    /// reserved, which is not to be delivered with TF in the saved RFLAGS.
    pub(super) fn begin_step(&mut self) {
        let save = self.save();
        self.step = Some(Step {
            trap: save.rflags & RFLAGS_TF != 0,
            rip: save.rip,
            rflags: save.rflags,
            cr4: save.cr4,
            dr6: save.dr6,
        });
        self.cleanup = true;
        self.arm_virtual_interrupt(false);
        self.save_mut().rflags |= RFLAGS_TF;
        let control = self.control_mut();
        control.cr_intercepts = 0;
        control.exception_intercepts = EXCEPTION_INTERCEPTS | 1 << vector::GP;
        control.clean &= !clean::INTERCEPTS;
    }

    /// The exit after [`Self::begin_step`]. Any exit will do: if the instruction has not been run, it is intercepted again.
    pub(super) fn end_step(&mut self, step: Step) -> Option<Exit> {
        let control = self.control_mut();
        control.exception_intercepts = EXCEPTION_INTERCEPTS;
        control.clean &= !clean::INTERCEPTS;
        let (code, error_code) = (control.exit_code, control.exit_info_1 as u32);
        if !step.trap {
            self.save_mut().rflags &= !RFLAGS_TF;
        }
        self.update_virtual_interrupt();
        let excess = self.save().cr4 & !self.allowed.cr4 & !step.cr4;
        if code == exit::EXCEPTION_DB && excess != 0 {
            // The processor has taken what the guest's would have refused.
            self.refuse_cr4(step);
            return None;
        }
        match code {
            exit::EXCEPTION_GP => self.inject(Event::fault(vector::GP, error_code)),
            exit::EXCEPTION_DB => {
                if step.trap {
                    self.inject(Event::exception(vector::DB));
                } else {
                    self.save_mut().dr6 &= !DR6_BS;
                    self.control_mut().clean &= !clean::DEBUG;
                }
                if self.tpr() >> 4 < self.tpr_threshold {
                    return Some(Exit::InterruptWindow);
                }
            }
            _ => {}
        }
        None
    }

    /// Back to where MOV to CR4 has not been run, and #GP(0) for it.
    #[cold]
    fn refuse_cr4(&mut self, step: Step) {
        let save = self.save_mut();
        (save.rip, save.rflags, save.cr4, save.dr6) = (step.rip, step.rflags, step.cr4, step.dr6);
        // Translations may have been made by the rules of the wrong CR4.
        self.flush = true;
        self.control_mut().clean &= !(clean::CONTROL | clean::DEBUG);
        self.inject(Event::fault(vector::GP, 0));
    }

    pub(super) fn intercept_cr8(&mut self, on: bool) {
        let cr4 = if self.allowed.cr4_checked { CR4_WRITE } else { 0 };
        let control = self.control_mut();
        let wanted = cr4 | if on { CR8_WRITE } else { 0 };
        if control.cr_intercepts != wanted {
            control.cr_intercepts = wanted;
            control.clean &= !clean::INTERCEPTS;
        }
    }

    pub(super) fn set_intercept(&mut self, bit: u32, on: bool) {
        let control = self.control_mut();
        let wanted = if on { control.intercepts | bit } else { control.intercepts & !bit };
        if control.intercepts != wanted {
            control.intercepts = wanted;
            control.clean &= !clean::INTERCEPTS;
        }
    }

    /// Sets up the exits for the windows that are wanted.
    pub(super) fn update_virtual_interrupt(&mut self) {
        let nmi = self.nmi_window && self.nmi != NmiState::Blocked;
        let window = self.interrupt_window || nmi;
        self.arm_virtual_interrupt(window);
        self.intercept_cr8(window || self.tpr_threshold != 0);
    }

    /// Makes a virtual interrupt pending, of which VINTR is intercepted: an exit as soon as IF and shadow would let it
    /// through (APM vol. 2, 15.21.4, 15.21.6), whatever the task priority.
    pub(super) fn arm_virtual_interrupt(&mut self, on: bool) {
        const PENDING: u64 = interrupt::IRQ | interrupt::IGNORE_TPR | 0xf << interrupt::PRIORITY_SHIFT;
        let control = self.control_mut();
        let wanted = (control.interrupt_control & !PENDING) | if on { PENDING } else { 0 };
        if control.interrupt_control != wanted {
            control.interrupt_control = wanted;
            control.clean &= !clean::INTERRUPT;
        }
        self.set_intercept(intercept::VINTR, on);
        self.update_avic(on);
    }
}

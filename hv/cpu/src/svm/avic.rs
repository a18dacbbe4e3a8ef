//! Interrupts that the processor delivers by itself: AVIC (APM vol. 2, 15.29), for a guest whose local APIC is in x2APIC mode.
//!
//! What AVIC is trusted with is the vAPIC backing page: IRR, ISR and task priority there are the processor's from `give_interrupts` to
//! `take_interrupts`, and it delivers from it, takes the ends of edge-triggered interrupts and follows CR8. The page needs no
//! other register, for all MSRs of the local APIC exit but the write of EOI. So the guest's interrupt commands come to the model as ever,
//! and the tables of APIC IDs, which only they would be looked up in, are empty.
//!
//! V_IRQ is ignored while AVIC is on. It is off while a window is wanted, and for an instruction that is stepped over, as an
//! interrupt would push our RFLAGS.TF. **With AVIC off the write of EOI must exit, or it would be the host's**: both go together,
//! in [`Svm::set_avic`].

use monovisor_arch::apic_page::register;
use monovisor_arch::{Exit, VirtualInterrupts};

use super::Svm;
use super::vmcb::interrupt;

/// x2APIC MSR EOI.
const END_OF_INTERRUPT: u32 = 0x80b;

/// Where the registers of a local APIC are by default. Nothing is mapped there, so no access is taken for one of AVIC's.
const APIC_BASE: u64 = 0xfee0_0000;

impl Svm {
    /// Gives AVIC its addresses; it stays off.
    pub(super) fn set_up_avic(&mut self) {
        let ids = core::ptr::from_ref(self.ids) as u64;
        let page = core::ptr::from_ref(self.apic) as u64;
        let control = self.control_mut();
        control.apic_base = APIC_BASE;
        control.apic_page = page;
        control.logical_ids = ids;
        control.physical_ids = ids;
    }

    /// AVIC goes on where the guest's interrupts are the processor's, and no window is open.
    pub(super) fn update_avic(&mut self, window: bool) {
        self.set_avic(self.virtual_delivery && !window && self.step.is_none());
    }

    fn set_avic(&mut self, on: bool) {
        if self.avic == on {
            return;
        }
        self.avic = on;
        // The page has not followed CR8 meanwhile, and an entry does not make it.
        self.apic.write(register::TPR, self.task_priority().into());
        self.memory.msrs.open_write(END_OF_INTERRUPT, on);
        let control = self.control_mut();
        control.interrupt_control =
            control.interrupt_control & !interrupt::X2AVIC | if on { interrupt::X2AVIC } else { 0 };
        // The map's contents count as the MSR map (APM vol. 2, 15.15.3, bit 1), and AVIC has a bit of its own.
        control.clean = 0;
    }

    pub(super) fn give(&mut self, interrupts: &VirtualInterrupts) {
        self.apic.swap(register::IRR, &interrupts.requests);
        self.apic.swap(register::ISR, &interrupts.in_service);
        self.apic.swap(register::TMR, &interrupts.told);
        let serviced = VirtualInterrupts::highest(&interrupts.in_service) & 0xf0;
        self.apic.write(register::PPR, self.task_priority().max(serviced).into());
    }

    pub(super) fn take(&mut self) -> VirtualInterrupts {
        let requests = self.apic.swap(register::IRR, &[0; 8]);
        let in_service = self.apic.swap(register::ISR, &[0; 8]);
        VirtualInterrupts { requests, in_service, told: [0; 8] }
    }

    /// AVIC_NOACCEL: the end of a level-triggered interrupt, after the write; who is in service is left to the host.
    pub(super) fn apic_exit(&mut self) -> Exit {
        const WRITE: u64 = 1 << 32;
        const EOI: u64 = 0xb0;
        let control = &self.memory.vmcb.control;
        if control.exit_info_1 & (WRITE | 0xff0) != WRITE | EOI {
            return Exit::Unexpected(control.exit_code);
        }
        let vector = control.exit_info_2 as u8;
        self.apic.end(vector);
        Exit::EndOfInterrupt(vector)
    }
}

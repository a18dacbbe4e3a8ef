//! What happens around an entry, with the exits of a processor that this test plays.

use monovisor_arch::state::bits::*;
use monovisor_arch::{
    Control, EntryFailure, Event, EventKind, Exit, Inbox, Segment, SegmentName, Vcpu, VcpuState,
    VirtualInterrupts, apic_page::register, vector,
};

use super::vmcb::{clean, intercept, interrupt};
use super::*;
use crate::paging::PageSize;

fn features() -> Features {
    Features {
        svm: true,
        asids: 3,
        nested_paging: true,
        lock: true,
        next_rip: false,
        clean_bits: true,
        flush_by_asid: false,
        decode_assists: false,
        x2avic: false,
        virtual_nmi: false,
        tsc_aux: false,
        invpcid: true,
        injects_twice: false,
        physical_bits: 48,
        largest_page: PageSize::Size1G,
    }
}

/// A model without SMAP, INVPCID and RDTSCP, on a processor that has them.
const ALLOWED: Allowed = Allowed {
    efer: EFER_SCE | EFER_LME | EFER_NXE,
    cr4: 0x7ff,
    cr4_checked: true,
    xcr0: 7,
    invpcid: false,
    rdtscp: false,
    rdpid: false,
    rdpru: true,
    spec_ctrl: 0,
    predictor_commands: false,
    flush_command: false,
};

/// In 64-bit mode at 0x1000, after its first entry.
fn vcpu(features: Features) -> Svm {
    let mut svm = Svm::assemble(Box::leak(Box::new(SvmMemory::new())), features, &ALLOWED);
    svm.set_up(0x1000);
    let efer = EFER_LME | EFER_LMA;
    svm.set_control(Control { cr0: CR0_PE | CR0_PG, cr2: 0, cr3: 0, cr4: CR4_PAE, efer });
    svm.set_segment(SegmentName::Cs, Segment { selector: 8, base: 0, limit: !0, access: 0xa09b });
    svm.save_mut().pat = 0x0007_0406_0007_0406;
    svm.set_rip(0x1000);
    svm.set_rflags(RFLAGS_IF);
    assert_eq!(svm.prepare(), None);
    leave(&mut svm, exit::INTR, 0);
    svm
}

/// The processor leaves the guest with this exit code and EXITINTINFO.
fn leave(svm: &mut Svm, code: u64, interrupted: u64) {
    let control = svm.control_mut();
    control.exit_code = code;
    control.exit_interrupt_info = interrupted;
    svm.clean_up();
}

fn injected(svm: &mut Svm) -> u64 {
    assert_eq!(svm.prepare(), None);
    svm.memory.vmcb.control.event_injection
}

#[test]
fn an_event_interrupted_in_delivery_is_delivered_again() {
    let mut svm = vcpu(features());
    svm.inject(Event::interrupt(0x40));
    assert!(!svm.interrupt_ready());
    assert_eq!(injected(&mut svm), 0x8000_0040);
    leave(&mut svm, exit::NPF, 0x8000_0040);
    assert_eq!(svm.memory.vmcb.control.event_injection, 0);
    assert_eq!(svm.pending_event(), Some(Event::interrupt(0x40)));
    assert_eq!(injected(&mut svm), 0x8000_0040);
    leave(&mut svm, exit::HLT, 0);
    assert!(svm.pending_event().is_none() && svm.interrupt_ready());
}

#[test]
fn a_software_interrupt_is_run_again_if_it_is_the_guests_and_injected_again_if_it_is_ours() {
    let mut svm = vcpu(features());
    leave(&mut svm, exit::NPF, 0x8000_0431);
    leave(&mut svm, exit::NPF, 0x8000_0303);
    assert_eq!((svm.pending_event(), svm.rip()), (None, 0x1000));

    svm.inject(Event { kind: EventKind::SoftwareInterrupt, instruction_length: 2, ..Event::exception(0x31) });
    assert_eq!((injected(&mut svm), svm.rip()), (0x8000_0431, 0x1002));
    assert_eq!(svm.memory.vmcb.control.next_rip, 0x1002);
    leave(&mut svm, exit::NPF, 0x8000_0431);
    assert_eq!((injected(&mut svm), svm.rip()), (0x8000_0431, 0x1002));
}

#[test]
fn exceptions_merge_with_what_was_interrupted() {
    let mut svm = vcpu(features());
    leave(&mut svm, exit::NPF, 0x7_8000_0b0e);
    svm.inject(Event::fault(vector::PF, 2));
    assert_eq!(svm.pending_event(), Some(Event::fault(vector::DF, 0)));
    svm.inject(Event::fault(vector::GP, 0));
    assert_eq!(svm.prepare(), Some(Exit::Shutdown));
    assert_eq!(svm.prepare(), None);
}

#[test]
fn real_mode_pushes_no_error_code() {
    let mut svm = vcpu(features());
    svm.set_control(Control { cr0: 0, cr2: 0, cr3: 0, cr4: 0, efer: 0 });
    svm.inject(Event::fault(vector::GP, 5));
    assert_eq!(injected(&mut svm), 0x8000_030d);
}

#[test]
fn an_nmi_blocks_others_until_iret_has_run() {
    let mut svm = vcpu(features());
    assert!(svm.nmi_ready());
    svm.inject(Event::nmi());
    assert_eq!(injected(&mut svm), 0x8000_0202);
    assert!(!svm.nmi_ready());
    assert!(svm.memory.vmcb.control.intercepts & intercept::IRET != 0);
    // The handler runs, and the next NMI waits: there is no window to open before IRET.
    leave(&mut svm, exit::CPUID, 0);
    svm.set_nmi_window(true);
    assert_eq!(svm.memory.vmcb.control.interrupt_control & interrupt::IRQ, 0);
    leave(&mut svm, exit::IRET, 0);
    assert_eq!(svm.internal_exit(exit::IRET), None);
    let control = &svm.memory.vmcb.control;
    assert_eq!(control.intercepts & (intercept::IRET | intercept::VINTR), intercept::VINTR);
    assert!(control.interrupt_control & interrupt::IRQ != 0);
    // IF is set in the handler: the window opens before IRET has run. Then the guest must get on.
    leave(&mut svm, exit::VINTR, 0);
    assert!(!svm.nmi_ready());
    assert_eq!(svm.internal_exit(exit::VINTR), None);
    assert_eq!(svm.memory.vmcb.control.interrupt_control & interrupt::IRQ, 0);
    // It has.
    svm.save_mut().rip = 0x2000;
    leave(&mut svm, exit::INTR, 0);
    assert!(svm.nmi_ready());
}

#[test]
fn an_nmi_window_opens_behind_iret() {
    let mut svm = vcpu(features());
    svm.inject(Event::nmi());
    injected(&mut svm);
    leave(&mut svm, exit::IRET, 0);
    svm.internal_exit(exit::IRET);
    svm.set_nmi_window(true);
    svm.save_mut().rip = 0x2000;
    leave(&mut svm, exit::VINTR, 0);
    assert_eq!(svm.internal_exit(exit::VINTR), Some(Exit::NmiWindow));
}

#[test]
fn virtual_nmis_are_left_to_the_processor() {
    let mut svm = vcpu(Features { virtual_nmi: true, ..features() });
    svm.inject(Event::nmi());
    assert!(svm.memory.vmcb.control.interrupt_control & interrupt::NMI != 0);
    assert!(!svm.nmi_ready() && svm.pending_event().is_none());
    assert_eq!(svm.memory.vmcb.control.clean & clean::INTERRUPT, 0);
}

#[test]
fn cr8_is_stepped_over_and_compared() {
    let mut svm = vcpu(features());
    svm.set_tpr(0x50);
    svm.set_tpr_threshold(3);
    assert_eq!(svm.memory.vmcb.control.cr_intercepts, CR4_WRITE | CR8_WRITE);
    for (tpr, exit) in [(0x30, None), (0x20, Some(Exit::InterruptWindow))] {
        leave(&mut svm, exit::CR8_WRITE, 0);
        assert_eq!(svm.internal_exit(exit::CR8_WRITE), None);
        assert!(svm.rflags() & RFLAGS_TF != 0);
        assert_eq!(svm.memory.vmcb.control.cr_intercepts, 0);
        svm.set_tpr(tpr);
        svm.save_mut().dr6 |= 1 << 14;
        leave(&mut svm, exit::EXCEPTION_DB, 0);
        let step = svm.step.take().unwrap();
        assert_eq!(svm.end_step(step), exit);
        assert_eq!(svm.rflags() & RFLAGS_TF, 0);
        assert_eq!((svm.pending_event(), svm.save().dr6 & 1 << 14), (None, 0));
        assert_eq!(svm.memory.vmcb.control.cr_intercepts, CR4_WRITE | CR8_WRITE);
    }
    // A guest that steps itself gets its #DB, one that writes a reserved value its #GP.
    svm.set_rflags(RFLAGS_TF);
    svm.begin_step();
    leave(&mut svm, exit::EXCEPTION_DB, 0);
    let step = svm.step.take().unwrap();
    assert!(step.trap);
    svm.end_step(step);
    assert!(svm.rflags() & RFLAGS_TF != 0);
    assert_eq!(svm.queue.take(), Some(Event::exception(vector::DB)));
    svm.set_rflags(0);
    svm.begin_step();
    leave(&mut svm, exit::EXCEPTION_GP, 0);
    let step = svm.step.take().unwrap();
    svm.end_step(step);
    assert_eq!(svm.queue.take(), Some(Event::fault(vector::GP, 0)));
    svm.set_tpr_threshold(0);
    assert_eq!(svm.memory.vmcb.control.cr_intercepts, CR4_WRITE);
    assert_eq!(svm.memory.vmcb.control.exception_intercepts, EXCEPTION_INTERCEPTS);
}

#[test]
fn cr4_keeps_what_the_model_has() {
    let mut svm = vcpu(features());
    let step = |svm: &mut Svm, cr4| {
        leave(svm, exit::CR4_WRITE, 0);
        assert_eq!(svm.internal_exit(exit::CR4_WRITE), None);
        assert_eq!(svm.memory.vmcb.control.cr_intercepts, 0);
        let save = svm.save_mut();
        save.cr4 = cr4;
        save.rip += 3;
        save.dr6 |= 1 << 14;
        leave(svm, exit::EXCEPTION_DB, 0);
        let step = svm.step.take().unwrap();
        assert_eq!(svm.end_step(step), None);
        assert_eq!(svm.memory.vmcb.control.cr_intercepts, CR4_WRITE);
        assert_eq!((svm.rflags(), svm.save().dr6 & 1 << 14), (RFLAGS_IF | RFLAGS_FIXED, 0));
    };
    step(&mut svm, CR4_PAE | CR4_PGE);
    assert_eq!((svm.rip(), svm.control().cr4, svm.pending_event()), (0x1003, CR4_PAE | CR4_PGE, None));
    step(&mut svm, CR4_PAE | CR4_SMAP);
    assert_eq!((svm.rip(), svm.control().cr4), (0x1003, CR4_PAE | CR4_PGE));
    assert_eq!(svm.pending_event(), Some(Event::fault(vector::GP, 0)));
    assert!(svm.flush);
}

#[test]
fn instructions_that_the_model_has_not_exit() {
    let svm = vcpu(features());
    let control = &svm.memory.vmcb.control;
    assert_eq!(control.intercepts_2 & (intercept_2::RDTSCP | intercept_2::RDPRU), intercept_2::RDTSCP);
    assert_eq!(control.intercepts_3, intercept_3::INVPCID);
    for code in [exit::RDTSCP, exit::INVPCID, exit::VMLOAD, exit::VMRUN] {
        let mut vmcb = Vmcb::new();
        vmcb.control.exit_code = code;
        assert_eq!(exit::decode(&vmcb.control, false), Exit::UndefinedInstruction);
    }
}

#[test]
fn debug_and_alignment_exceptions_are_handed_on() {
    let mut svm = vcpu(features());
    leave(&mut svm, exit::EXCEPTION_DB, 0);
    assert_eq!(svm.internal_exit(exit::EXCEPTION_DB), None);
    assert_eq!(injected(&mut svm), 0x8000_0301);
    // Again in its own delivery: the host gets its turn, the guest its exception.
    leave(&mut svm, exit::EXCEPTION_AC, 0x8000_0301);
    assert_eq!(svm.internal_exit(exit::EXCEPTION_AC), Some(Exit::HostInterrupt));
    assert_eq!(injected(&mut svm), 0x8000_0b11);
}

#[test]
fn a_flush_is_by_asid_where_it_can_be() {
    let mut svm = vcpu(features());
    let flush = |svm: &mut Svm| {
        svm.flush_tlb();
        assert_eq!(svm.prepare(), None);
        let control = &svm.memory.vmcb.control;
        let found = (control.asid, control.tlb_control);
        leave(svm, exit::INTR, 0);
        assert_eq!(svm.memory.vmcb.control.tlb_control, 0);
        found
    };
    assert_eq!(flush(&mut svm), (2, 0));
    assert_eq!(flush(&mut svm), (1, TLB_FLUSH_ALL));
    let mut svm = vcpu(Features { flush_by_asid: true, ..features() });
    assert_eq!(flush(&mut svm), (1, TLB_FLUSH_GUEST));
}

#[test]
fn the_very_first_entry_flushes_everything() {
    let mut svm = Svm::assemble(Box::leak(Box::new(SvmMemory::new())), features(), &ALLOWED);
    svm.set_up(0);
    svm.flush_tlb();
    svm.prepare();
    assert_eq!(svm.memory.vmcb.control.tlb_control, TLB_FLUSH_ALL);
}

#[test]
fn a_refused_entry_has_a_reason() {
    let mut svm = vcpu(features());
    svm.set_control(Control { cr0: CR0_NW, ..svm.control() });
    let failed = |reason| Some(Exit::EntryFailed(EntryFailure { reason, code: exit::INVALID }));
    assert_eq!(svm.prepare(), failed("CR0.NW is set and CR0.CD clear"));
    assert_eq!(svm.prepare(), failed("CR0.NW is set and CR0.CD clear"));
    svm.set_control(Control { cr0: CR0_PE | CR0_PG, ..svm.control() });
    assert_eq!(svm.prepare(), None);
    // Refused for no known reason: tried once more with #GP.
    leave(&mut svm, exit::INVALID, 0);
    assert_eq!(svm.internal_exit(exit::INVALID), None);
    assert_eq!(injected(&mut svm), 0x8000_0b0d);
    leave(&mut svm, exit::INVALID, 0);
    assert_eq!(svm.internal_exit(exit::INVALID), failed("VMEXIT_INVALID: invalid guest state in VMCB"));
    // Elsewhere it counts anew.
    assert_eq!(svm.internal_exit(exit::INVALID), None);
    svm.set_rip(0x2000);
    assert_eq!(svm.internal_exit(exit::INVALID), None);
}

#[test]
fn a_block_overwritten_at_a_refused_entry_is_not_entered_again() {
    let mut svm = vcpu(features());
    svm.control_mut().interrupt_control = 0;
    leave(&mut svm, exit::INVALID_LOW, 0);
    assert!(matches!(svm.internal_exit(exit::INVALID_LOW), Some(Exit::EntryFailed(_))));
    assert_eq!(svm.memory.vmcb.control.interrupt_control, interrupt::MASKING);
    assert!(matches!(svm.prepare(), Some(Exit::EntryFailed(_))));
}

#[test]
fn what_is_changed_is_not_clean() {
    let mut svm = vcpu(features());
    let mut changed = |change: &dyn Fn(&mut Svm)| {
        svm.control_mut().clean = clean::ALL;
        change(&mut svm);
        clean::ALL & !svm.memory.vmcb.control.clean
    };
    assert_eq!(changed(&|svm| svm.set_rip(5)), 0);
    assert_eq!(changed(&|svm| svm.set_control(svm.control())), clean::CONTROL | clean::CR2);
    assert_eq!(changed(&|svm| svm.set_segment(SegmentName::Ds, Segment::default())), clean::SEGMENTS);
    assert_eq!(changed(&|svm| svm.set_gdtr(Default::default())), clean::TABLES);
    assert_eq!(changed(&|svm| svm.set_tsc_offset(7)), clean::INTERCEPTS);
    assert_eq!(changed(&|svm| svm.set_tpr(0x30)), clean::INTERRUPT);
    assert_eq!(changed(&|svm| assert!(svm.set_guest_msr(msr::PAT, 0))), clean::NESTED);
    assert_eq!(changed(&|svm| svm.set_interrupt_window(true)), clean::INTERCEPTS | clean::INTERRUPT);
    assert_eq!(changed(&|svm| svm.set_interrupt_window(true)), 0);
}

#[test]
fn svme_is_set_inside_and_clear_outside() {
    let mut svm = vcpu(features());
    assert!(svm.save().efer & EFER_SVME != 0);
    assert_eq!(svm.control().efer & EFER_SVME, 0);
    assert!(svm.set_guest_msr(msr::EFER, EFER_LME | EFER_LMA | EFER_NXE));
    assert_eq!(svm.guest_msr(msr::EFER), Some(EFER_LME | EFER_LMA | EFER_NXE));
    assert!(svm.save().efer & EFER_SVME != 0);
    assert_eq!(svm.guest_msr(0x10), None);
    assert!(!svm.set_guest_msr(0x10, 0));
}

/// The bits of AVIC in the VMCB, and whether the guest's write of EOI exits.
fn avic(svm: &Svm) -> (u64, bool) {
    let map = svm.memory.msrs.exits_on_write(0x80b);
    (svm.memory.vmcb.control.interrupt_control & interrupt::X2AVIC, map)
}

const AVIC_ON: (u64, bool) = (interrupt::X2AVIC, false);
const AVIC_OFF: (u64, bool) = (0, true);

#[test]
fn avic_is_for_processors_that_have_it() {
    let mut svm = vcpu(features());
    assert!(!svm.set_virtual_delivery(true) && svm.inbox().is_none());
    assert_eq!(avic(&svm), AVIC_OFF);
}

#[test]
fn avic_gives_way_to_windows_and_steps() {
    let mut svm = vcpu(Features { x2avic: true, ..features() });
    assert_eq!(avic(&svm), AVIC_OFF);
    assert!(svm.set_virtual_delivery(true) && svm.inbox().is_some());
    assert_eq!(avic(&svm), AVIC_ON);
    let control = &svm.memory.vmcb.control;
    assert_eq!(control.clean, 0);
    assert_eq!(control.apic_page, core::ptr::from_ref(svm.apic) as u64);
    assert_eq!((control.apic_base, control.physical_ids & 0xfff), (0xfee0_0000, 0));
    svm.set_interrupt_window(true);
    assert_eq!(avic(&svm), AVIC_OFF);
    // Meanwhile the guest writes CR8.
    svm.control_mut().interrupt_control |= 5;
    svm.set_interrupt_window(false);
    assert_eq!((avic(&svm), svm.apic.read(register::TPR)), (AVIC_ON, 0x50));
    svm.set_nmi_window(true);
    assert_eq!(avic(&svm), AVIC_OFF);
    svm.set_nmi_window(false);
    // With our TF in RFLAGS nothing is to be delivered.
    svm.begin_step();
    assert_eq!(avic(&svm), AVIC_OFF);
    svm.memory.vmcb.control.exit_code = exit::EXCEPTION_DB;
    let step = svm.step.take().unwrap();
    assert_eq!(svm.end_step(step), None);
    assert_eq!(avic(&svm), AVIC_ON);
    svm.forget_events();
    assert_eq!((avic(&svm), svm.virtual_delivery), (AVIC_OFF, false));
    svm.set_virtual_delivery(true);
    svm.set_virtual_delivery(false);
    assert_eq!(avic(&svm), AVIC_OFF);
}

#[test]
fn avic_keeps_its_bits_when_a_refused_block_is_overwritten() {
    let mut svm = vcpu(Features { x2avic: true, ..features() });
    svm.set_virtual_delivery(true);
    svm.control_mut().interrupt_control = 0;
    assert!(svm.refused(exit::INVALID).is_some());
    assert_eq!(avic(&svm), AVIC_ON);
}

#[test]
fn avic_works_on_its_page() {
    let mut svm = vcpu(Features { x2avic: true, ..features() });
    svm.set_virtual_delivery(true);
    svm.set_tpr(0x35);
    let mut given = VirtualInterrupts::default();
    given.requests[2] = 1 << 1 | 1;
    given.in_service[4] = 1 << 5;
    given.told[4] = 1 << 5;
    svm.give_interrupts(&given);
    // The processor and another one at work: 0x41 is delivered, 0x61 comes.
    let Some(Inbox::Page(page)) = svm.inbox() else { panic!("no page") };
    assert!(Inbox::Page(page).post(0x61));
    page.swap(register::ISR, &[0, 0, 2, 0, 1 << 5, 0, 0, 0]);
    // The end of 0x85, which is level-triggered: left to us.
    let control = svm.control_mut();
    control.exit_info_1 = 1 << 32 | 0xb0;
    control.exit_info_2 = 0x85;
    assert_eq!(svm.internal_exit(exit::APIC), Some(Exit::EndOfInterrupt(0x85)));
    let left = svm.take_interrupts();
    assert_eq!((left.requests, left.in_service), ([0, 0, 3, 2, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0, 0, 0]));
    assert_eq!(svm.take_interrupts(), VirtualInterrupts::default());
    // Nothing else is expected of it.
    let control = svm.control_mut();
    (control.exit_code, control.exit_info_1) = (exit::APIC, 1 << 32 | 0x300);
    assert_eq!(svm.internal_exit(exit::APIC), Some(Exit::Unexpected(exit::APIC)));
}

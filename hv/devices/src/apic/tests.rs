use super::local::{CpuRequest, LOOK, LocalApic, Lvt, MSR_APIC_BASE, MSR_TSC_DEADLINE, MSR_X2APIC, NOTIFY};
use super::{Delivery, GeneralProtection, LocalApics, Message};
use monovisor_arch::{ApicPage, Inbox, PostedInterrupts, VirtualInterrupts, apic_page::register};

const ID: u64 = 0x20;
const TPR: u64 = 0x80;
const PPR: u64 = 0xa0;
const EOI: u64 = 0xb0;
const LDR: u64 = 0xd0;
const DFR: u64 = 0xe0;
const SVR: u64 = 0xf0;
const ESR: u64 = 0x280;
const ICR: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const LVT_LINT0: u64 = 0x350;
const LVT_LINT1: u64 = 0x360;
const LVT_ERROR: u64 = 0x370;
const INITIAL: u64 = 0x380;
const CURRENT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

fn apic() -> LocalApic {
    let mut apic = LocalApic::new(0, 2_000_000_000, 40);
    write(&mut apic, SVR, 0x1ff);
    apic
}

fn write(apic: &mut LocalApic, offset: u64, value: u64) {
    apic.write_page(offset, 4, value, 0);
}

fn read(apic: &mut LocalApic, offset: u64) -> u64 {
    apic.read_page(offset, 4, 0)
}

fn x2apic() -> LocalApic {
    let mut apic = apic();
    apic.write_msr(MSR_APIC_BASE, 0xfee0_0d00, 0).unwrap();
    apic
}

#[test]
fn reset_values_are_those_of_11_4_7_1() {
    let mut apic = LocalApic::new(0, 1, 40);
    for (offset, value) in
        [(ID, 0), (TPR, 0), (LDR, 0), (DFR, 0xffff_ffff), (SVR, 0xff), (LVT_TIMER, 0x1_0000)]
    {
        assert_eq!(read(&mut apic, offset), value, "{offset:#x}");
    }
    assert_eq!(read(&mut apic, 0x30), 0x0105_0014);
    assert_eq!(apic.read_msr(MSR_APIC_BASE, 0), Ok(0xfee0_0900));
    assert_eq!(LocalApic::new(1, 1, 40).read_msr(MSR_APIC_BASE, 0), Ok(0xfee0_0800));
}

#[test]
fn interrupts_are_lent_to_the_processor_and_come_back() {
    let mut apic = apic();
    apic.accept(Delivery::Fixed, 0x41, false);
    apic.accept(Delivery::Fixed, 0x91, true);
    let mut lent = apic.hand_over(None);
    assert_eq!((lent.requests[2], lent.requests[4], lent.told[4]), (2, 1 << 17, 1 << 17));
    assert_eq!((lent.told[2], lent.in_service), (0, [0; 8]));
    assert_eq!(VirtualInterrupts::highest(&lent.requests), 0x91);
    assert_eq!(apic.pending(), None);
    // The processor delivers 0x91; meanwhile another one comes, and 0x91 once more.
    lent.requests[4] = 0;
    lent.in_service[4] = 1 << 17;
    apic.accept(Delivery::Fixed, 0xa0, false);
    apic.accept(Delivery::Fixed, 0x91, true);
    apic.take_back(&lent);
    assert_eq!(read(&mut apic, PPR), 0x90);
    assert_eq!(apic.acknowledge(), 0xa0);
    write(&mut apic, EOI, 0);
    assert_eq!((apic.take_ended(), apic.pending()), (None, None), "0x91 is in service");
    // The processor ends it, and tells.
    let mut lent = apic.hand_over(None);
    lent.in_service = [0; 8];
    apic.take_back(&lent);
    apic.ended(0x91);
    assert_eq!(apic.take_ended(), Some(0x91));
    assert_eq!([apic.acknowledge(), apic.highest_request().unwrap()], [0x91, 0x41]);
    // An INIT comes while they are lent: nothing of them is left.
    let lent = apic.hand_over(None);
    apic.accept(Delivery::Init, 0, false);
    apic.take_back(&lent);
    assert_eq!((apic.highest_request(), read(&mut apic, PPR)), (None, 0));
}

#[test]
fn interrupts_for_a_processor_that_runs_are_posted() {
    static POSTED: PostedInterrupts = PostedInterrupts::new();
    let posted = |vector: u8| {
        let mut words = [0; 8];
        words[usize::from(vector >> 5)] = 1 << (vector & 31);
        words
    };
    let mut apic = apic();
    apic.accept(Delivery::Fixed, 0x91, true);
    apic.take_attention();
    let lent = apic.hand_over(Some(Inbox::Descriptor(&POSTED)));
    apic.accept(Delivery::Fixed, 0x41, false);
    assert_eq!((apic.take_attention(), apic.highest_request()), (NOTIFY, None));
    apic.accept(Delivery::Fixed, 0x41, false);
    assert_eq!((apic.take_attention(), POSTED.take()), (0, posted(0x41)), "notified of already");
    // What the processor does not know the trigger mode of, it is called for; and for what is no interrupt.
    apic.accept(Delivery::Fixed, 0x42, true);
    assert_eq!((apic.take_attention(), apic.highest_request()), (LOOK, Some(0x42)));
    apic.accept(Delivery::Fixed, 0x91, false);
    assert_eq!((apic.take_attention(), apic.highest_request()), (LOOK, Some(0x91)));
    apic.accept(Delivery::Nmi, 0, false);
    assert_eq!(apic.take_attention(), LOOK);
    // From then on nothing is posted: as it comes back, or with an INIT.
    apic.take_back(&lent);
    apic.accept(Delivery::Fixed, 0x43, false);
    assert_eq!((apic.take_attention(), POSTED.outstanding()), (LOOK, false));
    apic.hand_over(Some(Inbox::Descriptor(&POSTED)));
    apic.accept(Delivery::Init, 0, false);
    write(&mut apic, SVR, 0x1ff);
    apic.accept(Delivery::Fixed, 0x44, false);
    assert_eq!((apic.take_attention(), POSTED.outstanding()), (LOOK, false));
    apic.hand_over(Some(Inbox::Descriptor(&POSTED)));
    apic.reset();
    write(&mut apic, SVR, 0x1ff);
    apic.accept(Delivery::Fixed, 0x45, false);
    assert_eq!((apic.take_attention(), POSTED.outstanding()), (LOOK, false));
}

#[test]
fn interrupts_for_a_processor_that_reads_a_page_are_left_in_the_page() {
    static PAGE: ApicPage = ApicPage::new();
    let mut apic = apic();
    apic.take_attention();
    apic.hand_over(Some(Inbox::Page(&PAGE)));
    for _ in 0..2 {
        apic.accept(Delivery::Fixed, 0x41, false);
        assert_eq!((apic.take_attention(), apic.highest_request()), (NOTIFY, None));
    }
    assert_eq!(PAGE.swap(register::IRR, &[0; 8]), [0, 0, 2, 0, 0, 0, 0, 0]);
}

#[test]
fn the_highest_vector_goes_first_and_blocks_its_class() {
    let mut apic = apic();
    apic.accept(Delivery::Fixed, 0x41, false);
    apic.accept(Delivery::Fixed, 0x51, false);
    assert_eq!(apic.pending(), Some(0x51));
    assert_eq!(apic.acknowledge(), 0x51);
    assert_eq!(apic.pending(), None);
    apic.accept(Delivery::Fixed, 0x5f, false);
    assert_eq!(apic.pending(), None, "same class");
    apic.accept(Delivery::Fixed, 0x60, false);
    assert_eq!(apic.acknowledge(), 0x60);
    assert_eq!(read(&mut apic, PPR), 0x60);
    write(&mut apic, EOI, 0);
    write(&mut apic, EOI, 0);
    assert_eq!(apic.acknowledge(), 0x5f);
    write(&mut apic, EOI, 0);
    assert_eq!(apic.acknowledge(), 0x41);
    write(&mut apic, EOI, 0);
    write(&mut apic, EOI, 0);
    assert_eq!(read(&mut apic, PPR), 0);
}

#[test]
fn the_task_priority_holds_interrupts_back() {
    let mut apic = apic();
    apic.accept(Delivery::Fixed, 0x41, false);
    write(&mut apic, TPR, 0x40);
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.acknowledge(), 0xff, "the spurious vector");
    assert_eq!(apic.cr8(), 4);
    apic.set_cr8(3);
    assert_eq!(apic.pending(), Some(0x41));
    assert_eq!(read(&mut apic, TPR), 0x30);
    write(&mut apic, TPR, 0x35);
    assert_eq!(read(&mut apic, PPR), 0x35, "PPR takes the sub-class of the higher one");
}

#[test]
fn only_ends_of_level_triggered_interrupts_are_broadcast() {
    let mut apic = apic();
    apic.accept(Delivery::Fixed, 0x41, false);
    apic.acknowledge();
    write(&mut apic, EOI, 0);
    assert_eq!(apic.take_ended(), None);
    apic.accept(Delivery::Fixed, 0x41, true);
    assert_eq!(read(&mut apic, 0x1a0), 2, "TMR");
    apic.acknowledge();
    assert_eq!(read(&mut apic, 0x120), 2, "ISR");
    write(&mut apic, EOI, 0);
    assert_eq!(apic.take_ended(), Some(0x41));
    write(&mut apic, SVR, 0x11ff);
    apic.accept(Delivery::Fixed, 0x41, true);
    apic.acknowledge();
    write(&mut apic, EOI, 0);
    assert_eq!(apic.take_ended(), None, "directed EOI");
}

#[test]
fn a_disabled_apic_masks_its_lvt_and_takes_no_vectors() {
    let mut apic = apic();
    write(&mut apic, LVT_TIMER, 0x40);
    write(&mut apic, SVR, 0xff);
    assert_eq!(read(&mut apic, LVT_TIMER), 0x1_0040);
    write(&mut apic, LVT_TIMER, 0x40);
    assert_eq!(read(&mut apic, LVT_TIMER), 0x1_0040, "the mask cannot be cleared");
    apic.accept(Delivery::Fixed, 0x41, false);
    assert_eq!(apic.pending(), None);
    apic.accept(Delivery::Nmi, 0, false);
    assert!(apic.nmi_pending());
}

#[test]
fn one_shot_timer_with_every_divider() {
    for (code, divider) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
        let mut apic = apic();
        write(&mut apic, LVT_TIMER, 0x40);
        write(&mut apic, DIVIDE, code);
        apic.write_page(INITIAL, 4, 1000, 5000);
        assert_eq!(apic.deadline(), Some(5000 + 1000 * divider));
        assert_eq!(apic.read_page(CURRENT, 4, 5000 + 400 * divider), 600);
        apic.advance(5000 + 1000 * divider - 1);
        assert_eq!(apic.pending(), None);
        apic.advance(5000 + 1000 * divider);
        assert_eq!(apic.pending(), Some(0x40));
        assert_eq!(apic.read_page(CURRENT, 4, 9_000_000), 0);
        assert_eq!(apic.deadline(), None);
    }
}

#[test]
fn periodic_timer_keeps_its_phase() {
    let mut apic = apic();
    write(&mut apic, LVT_TIMER, 0x2_0040);
    write(&mut apic, DIVIDE, 11);
    apic.write_page(INITIAL, 4, 1_000_000, 0);
    apic.advance(1_000_100);
    assert_eq!(apic.acknowledge(), 0x40);
    assert_eq!(apic.deadline(), Some(2_000_000));
    apic.advance(7_500_000);
    assert_eq!(apic.deadline(), Some(8_000_000));
    assert_eq!(apic.read_page(CURRENT, 4, 7_600_000), 400_000);
    apic.write_page(INITIAL, 4, 0, 7_600_000);
    assert_eq!(apic.deadline(), None);
    apic.write_page(INITIAL, 4, 1, 8_000_000);
    apic.advance(8_000_001);
    assert!(apic.deadline().unwrap() >= 8_000_001 + crate::clock::MIN_PERIOD);
}

#[test]
fn a_masked_timer_expires_unheard() {
    let mut apic = apic();
    write(&mut apic, DIVIDE, 11);
    apic.write_page(INITIAL, 4, 10, 0);
    apic.advance(10);
    write(&mut apic, LVT_TIMER, 0x40);
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.deadline(), None);
}

#[test]
fn changing_the_divider_goes_on_from_the_count() {
    let mut apic = apic();
    write(&mut apic, DIVIDE, 11);
    apic.write_page(INITIAL, 4, 1000, 0);
    apic.write_page(DIVIDE, 4, 0, 400);
    assert_eq!(apic.read_page(CURRENT, 4, 400), 600);
    assert_eq!(apic.deadline(), Some(1600));
}

#[test]
fn tsc_deadline_timer() {
    let mut apic = apic();
    assert_eq!(apic.write_msr(MSR_TSC_DEADLINE, 100, 0), Ok(()));
    assert_eq!(apic.read_msr(MSR_TSC_DEADLINE, 0), Ok(0), "not in that mode");
    write(&mut apic, LVT_TIMER, 0x4_0040);
    apic.write_page(INITIAL, 4, 1000, 0);
    assert_eq!(apic.deadline(), None, "the initial count is ignored");
    apic.write_msr(MSR_TSC_DEADLINE, 2_000_001, 0).unwrap();
    assert_eq!(apic.read_msr(MSR_TSC_DEADLINE, 0), Ok(2_000_001));
    assert_eq!(apic.deadline(), Some(1_000_001), "2 GHz: rounded up");
    assert_eq!(read(&mut apic, CURRENT), 0);
    apic.advance(1_000_001);
    assert_eq!(apic.acknowledge(), 0x40);
    assert_eq!(apic.read_msr(MSR_TSC_DEADLINE, 0), Ok(0));
    write(&mut apic, EOI, 0);
    apic.write_msr(MSR_TSC_DEADLINE, 5, 2_000_000).unwrap();
    assert_eq!(apic.pending(), Some(0x40), "a deadline in the past fires at once");
    apic.write_msr(MSR_TSC_DEADLINE, u64::MAX, 0).unwrap();
    apic.write_msr(MSR_TSC_DEADLINE, 0, 0).unwrap();
    assert_eq!(apic.deadline(), None, "0 disarms");
    apic.write_msr(MSR_TSC_DEADLINE, 4_000_000, 0).unwrap();
    apic.set_tsc_offset(2_000_000, 0);
    assert_eq!(apic.deadline(), Some(1_000_000), "the deadline follows the TSC");
    write(&mut apic, LVT_TIMER, 0x40);
    assert_eq!(apic.deadline(), None, "leaving the mode disarms");
}

#[test]
fn error_status_is_latched_by_a_write() {
    let mut apic = apic();
    write(&mut apic, LVT_ERROR, 0x33);
    write(&mut apic, ICR, 0x0000_0005);
    assert_eq!(read(&mut apic, ESR), 0);
    write(&mut apic, ESR, 0);
    assert_eq!(read(&mut apic, ESR), 0x20);
    assert_eq!(apic.acknowledge(), 0x33);
    write(&mut apic, EOI, 0);
    apic.accept(Delivery::Fixed, 3, false);
    apic.read_page(0x3f0, 4, 0);
    write(&mut apic, ESR, 0);
    assert_eq!(read(&mut apic, ESR), 0xc0);
    write(&mut apic, ESR, 0);
    assert_eq!(read(&mut apic, ESR), 0);
}

#[test]
fn an_illegal_error_vector_does_not_report_itself() {
    let mut apic = apic();
    write(&mut apic, LVT_ERROR, 0x03);
    write(&mut apic, ICR, 0x0000_0005);
    write(&mut apic, ESR, 0);
    assert_eq!(read(&mut apic, ESR), 0x20);
}

#[test]
fn odd_accesses_to_the_page() {
    let mut apic = apic();
    write(&mut apic, TPR, 0x12);
    assert_eq!(apic.read_page(TPR, 1, 0), 0x12);
    assert_eq!(apic.read_page(SVR + 1, 1, 0), 0x01);
    assert_eq!(apic.read_page(SVR + 2, 4, 0), 0);
    assert_eq!(apic.read_page(SVR, 8, 0), 0);
    apic.write_page(TPR, 1, 0x34, 0);
    apic.write_page(TPR + 4, 4, 0x34, 0);
    apic.write_page(TPR, 8, 0x34, 0);
    assert_eq!(read(&mut apic, TPR), 0x12);
}

#[test]
fn lint_pins() {
    let mut apic = LocalApic::new(0, 1, 40);
    assert!(!apic.passes_external());
    apic.firmware();
    assert!(apic.passes_external());
    apic.set_lint(1, true);
    assert!(apic.nmi_pending());
    apic.acknowledge_nmi();
    apic.set_lint(1, true);
    assert!(!apic.nmi_pending(), "an edge");
    write(&mut apic, LVT_LINT1, 0x1_0400);
    apic.set_lint(1, false);
    apic.set_lint(1, true);
    assert!(!apic.nmi_pending(), "masked");
    write(&mut apic, LVT_LINT0, 0x0030);
    assert!(!apic.passes_external());
    apic.set_lint(0, true);
    assert_eq!(apic.acknowledge(), 0x30);
    write(&mut apic, EOI, 0);
    write(&mut apic, LVT_LINT0, 0x8030);
    assert_eq!(read(&mut apic, LVT_LINT0), 0xc030, "level: asks while high, remote IRR set");
    assert_eq!(apic.acknowledge(), 0x30);
    write(&mut apic, EOI, 0);
    assert_eq!(apic.acknowledge(), 0x30, "again, it is still high");
    apic.set_lint(0, false);
    write(&mut apic, EOI, 0);
    assert_eq!(apic.pending(), None);
}

#[test]
fn without_its_apic_the_pins_are_the_processors() {
    let mut apic = apic();
    apic.write_msr(MSR_APIC_BASE, 0xfee0_0100, 0).unwrap();
    assert!(!apic.enabled());
    assert_eq!(apic.page(), None);
    assert!(apic.passes_external());
    apic.set_lint(1, true);
    assert!(apic.nmi_pending());
}

#[test]
fn transitions_of_the_base_register() {
    let mut apic = LocalApic::new(0, 1, 40);
    let gp = Err(GeneralProtection);
    assert_eq!(apic.write_msr(MSR_APIC_BASE, 0xfee0_0500, 0), gp, "x2APIC without enable");
    assert_eq!(apic.write_msr(MSR_APIC_BASE, 0xfee0_0900 | 1 << 40, 0), gp, "beyond MAXPHYADDR");
    assert_eq!(apic.write_msr(MSR_APIC_BASE, 0xfee0_0901, 0), gp, "reserved");
    assert_eq!(apic.write_msr(MSR_APIC_BASE, 0xfee0_0100, 0), Ok(()));
    assert_eq!(apic.write_msr(MSR_APIC_BASE, 0xfee0_0d00, 0), gp, "disabled to x2APIC");
    assert_eq!(apic.write_msr(MSR_APIC_BASE, 0xfee0_0900, 0), Ok(()));
    assert_eq!(apic.page(), Some(0xfee0_0000));
    assert_eq!(apic.write_msr(MSR_APIC_BASE, 0xfee0_0d00, 0), Ok(()));
    assert_eq!(apic.page(), None);
    assert_eq!(apic.write_msr(MSR_APIC_BASE, 0xfee0_0900, 0), gp, "x2APIC to xAPIC");
    assert_eq!(apic.write_msr(MSR_APIC_BASE, 0xfee0_0100, 0), Ok(()));
}

#[test]
fn x2apic_registers() {
    let mut apic = x2apic();
    assert_eq!(apic.read_msr(MSR_X2APIC + 2, 0), Ok(0));
    assert_eq!(apic.read_msr(MSR_X2APIC + 0xd, 0), Ok(1));
    for number in [0x0b, 0x0e, 0x31, 0x3f, 0x00, 0x2f, 0x09, 0x0c, 0xff] {
        assert_eq!(apic.read_msr(MSR_X2APIC + number, 0), Err(GeneralProtection), "{number:#x}");
    }
    for number in [0x02, 0x03, 0x0a, 0x0d, 0x0e, 0x10, 0x18, 0x20, 0x31, 0x39, 0x09, 0xff] {
        assert_eq!(apic.write_msr(MSR_X2APIC + number, 0, 0), Err(GeneralProtection), "{number:#x}");
    }
    for (number, value) in [
        (0x0b, 1),
        (0x28, 1),
        (0x08, 0x100),
        (0x0f, 0x400),
        (0x32, 0x100),
        (0x3e, 4),
        (0x3f, 0x100),
        (0x38, 1 << 32),
        (0x30, 1 << 20),
    ] {
        assert_eq!(apic.write_msr(MSR_X2APIC + number, value, 0), Err(GeneralProtection), "{number:#x}");
    }
    assert_eq!(apic.write_msr(MSR_X2APIC + 0x3f, 0x77, 0), Ok(()));
    assert_eq!(apic.acknowledge(), 0x77);
    assert_eq!(apic.write_msr(MSR_X2APIC + 0x0b, 0, 0), Ok(()));
    assert_eq!(apic.write_msr(MSR_X2APIC + 0x30, 5 << 32 | 0x41, 0), Ok(()));
    assert_eq!(apic.read_msr(MSR_X2APIC + 0x30, 0), Ok(5 << 32 | 0x41));
    assert_eq!(apic.take_command().unwrap().0.destination, 5);
    assert_eq!(self::apic().read_msr(MSR_X2APIC + 2, 0), Err(GeneralProtection), "not in x2APIC mode");
}

fn system(count: u8) -> LocalApics {
    let mut apics = LocalApics::new(count, 1_000_000_000, 40);
    for apic in apics.iter_mut() {
        write(apic, SVR, 0x1ff);
    }
    apics
}

fn pending(apics: &LocalApics) -> Vec<Option<u8>> {
    apics.iter().map(LocalApic::pending).collect()
}

fn message(delivery: Delivery, vector: u8, logical: bool, destination: u32) -> Message {
    Message { delivery, vector, level: false, logical, destination }
}

#[test]
fn physical_destinations_and_broadcast() {
    let mut apics = system(3);
    apics.deliver(message(Delivery::Fixed, 0x40, false, 1));
    assert_eq!(pending(&apics), [None, Some(0x40), None]);
    apics.deliver(message(Delivery::Fixed, 0x50, false, 0xff));
    assert_eq!(pending(&apics), [Some(0x50); 3]);
    apics.deliver(message(Delivery::Fixed, 0x60, false, 9));
    assert_eq!(pending(&apics), [Some(0x50); 3]);
}

#[test]
fn logical_destinations_flat_and_cluster() {
    let mut apics = system(4);
    for (index, apic) in apics.iter_mut().enumerate() {
        write(apic, LDR, 1 << (24 + index));
    }
    apics.deliver(message(Delivery::Fixed, 0x40, true, 0b0101));
    assert_eq!(pending(&apics), [Some(0x40), None, Some(0x40), None]);
    for (index, apic) in apics.iter_mut().enumerate() {
        write(apic, DFR, 0);
        write(apic, LDR, [0x1100_0000, 0x1200_0000, 0x2100_0000, 0x2200_0000][index]);
    }
    apics.deliver(message(Delivery::Fixed, 0x50, true, 0x23));
    assert_eq!(pending(&apics), [Some(0x40), None, Some(0x50), Some(0x50)]);
}

#[test]
fn x2apic_clusters_take_messages_with_8_bit_destinations() {
    let mut apics = system(3);
    for apic in apics.iter_mut() {
        let base = apic.read_msr(MSR_APIC_BASE, 0).unwrap();
        apic.write_msr(MSR_APIC_BASE, base | 0x400, 0).unwrap();
    }
    apics.deliver(message(Delivery::Fixed, 0x40, true, 0b110));
    assert_eq!(pending(&apics), [None, Some(0x40), Some(0x40)]);
    apics.deliver(message(Delivery::Fixed, 0x50, false, 0xff));
    assert_eq!(pending(&apics), [Some(0x50); 3]);
    let sender = apics.get_mut(0).unwrap();
    sender.write_msr(MSR_X2APIC + 0x30, 0xff << 32 | 0x60, 0).unwrap();
    apics.settle(0);
    assert_eq!(pending(&apics), [Some(0x50); 3], "0xff is no broadcast in an x2APIC command");
    let sender = apics.get_mut(0).unwrap();
    sender.write_msr(MSR_X2APIC + 0x30, 0xffff_ffff << 32 | 0x60, 0).unwrap();
    apics.settle(0);
    assert_eq!(pending(&apics), [Some(0x60); 3]);
}

#[test]
fn lowest_priority_takes_the_idlest_and_then_turns() {
    let mut apics = system(3);
    write(apics.get_mut(0).unwrap(), TPR, 0x20);
    for (index, apic) in apics.iter_mut().enumerate() {
        write(apic, LDR, 1 << (24 + index));
    }
    apics.deliver(message(Delivery::LowestPriority, 0x40, true, 7));
    apics.deliver(message(Delivery::LowestPriority, 0x41, true, 7));
    assert_eq!(pending(&apics), [None, Some(0x40), Some(0x41)]);
    apics.deliver(message(Delivery::LowestPriority, 0x42, true, 7));
    assert_eq!(pending(&apics), [Some(0x42), Some(0x40), Some(0x41)]);
}

#[test]
fn shorthands() {
    let mut apics = system(3);
    for (shorthand, vector, expected) in [
        (1, 0x40, [None, Some(0x40), None]),
        (3, 0x50, [Some(0x50), Some(0x40), Some(0x50)]),
        (2, 0x60, [Some(0x60); 3]),
    ] {
        write(apics.get_mut(1).unwrap(), ICR, shorthand << 18 | vector);
        apics.settle(1);
        assert_eq!(pending(&apics), expected);
    }
}

#[test]
fn a_command_to_one_processor() {
    let mut apics = system(3);
    let sender = apics.get_mut(0).unwrap();
    write(sender, ICR_HIGH, 2 << 24);
    write(sender, ICR, 0x44);
    assert_eq!(read(sender, ICR_HIGH), 2 << 24);
    apics.settle(0);
    assert_eq!(pending(&apics), [None, None, Some(0x44)]);
    write(apics.get_mut(0).unwrap(), ICR, 0x400);
    apics.settle(0);
    assert!(apics.get(2).unwrap().nmi_pending());
}

#[test]
fn init_and_start_up() {
    let mut apics = system(2);
    write(apics.get_mut(1).unwrap(), TPR, 0x50);
    let sender = apics.get_mut(0).unwrap();
    write(sender, ICR_HIGH, 1 << 24);
    write(sender, ICR, 0xc500);
    apics.settle(0);
    write(apics.get_mut(0).unwrap(), ICR, 0x8500);
    apics.settle(0);
    let target = apics.get_mut(1).unwrap();
    assert_eq!(target.take_cpu_request(), Some(CpuRequest::Init));
    assert_eq!(target.take_cpu_request(), None, "the de-assert does nothing");
    assert_eq!((read(target, TPR), read(target, SVR), read(target, ID)), (0, 0xff, 1 << 24));
    for _ in 0..2 {
        write(apics.get_mut(0).unwrap(), ICR, 0x069a);
        apics.settle(0);
    }
    let target = apics.get_mut(1).unwrap();
    assert_eq!(target.take_cpu_request(), Some(CpuRequest::StartUp(0x9a)));
    assert_eq!(target.take_cpu_request(), None, "the second start-up finds it running");
    apics.get_mut(0).unwrap().accept(Delivery::StartUp, 5, false);
    assert_eq!(apics.get_mut(0).unwrap().take_cpu_request(), None, "not waiting for one");
}

#[test]
fn commands_that_are_not_valid_send_nothing() {
    let mut apic = apic();
    for icr in [0x4_0500, 0x8_0500, 0x4_0600, 0x0300, 0x0700] {
        write(&mut apic, ICR, icr);
        assert_eq!(apic.take_command(), None, "{icr:#x}");
    }
}

#[test]
fn the_performance_counter_entry() {
    let mut apic = apic();
    apic.signal(Lvt::Performance);
    assert!(!apic.nmi_pending(), "masked after reset");
    write(&mut apic, 0x340, 0x400);
    apic.signal(Lvt::Performance);
    assert!(apic.nmi_pending());
}

#[test]
fn processors_that_do_not_exist() {
    let mut apics = LocalApics::new(0, 0, 40);
    assert_eq!(apics.count(), 1);
    assert!(apics.get(1).is_none());
    assert_eq!(apics.settle(200), None);
    assert_eq!(LocalApics::new(200, 0, 40).count(), 8);
}

//! One local APIC: registers, priorities, timer, in xAPIC and x2APIC mode (Intel SDM vol. 3, chapter 11).
//!
//! Knows nothing of other processors: an interrupt command it was given comes out of [`LocalApic::take_command`],
//! ends of level-triggered interrupts out of [`LocalApic::take_ended`].

use super::{Delivery, GeneralProtection, Message};
use crate::clock::{self, MIN_PERIOD};
use monovisor_arch::layout::{LAPIC_BASE, MAX_VCPUS};
use monovisor_arch::{Inbox, VirtualInterrupts};

/// Frequency of the bus clock that the timer divides: its ticks are nanoseconds.
pub const TIMER_HZ: u64 = 1_000_000_000;

/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// First MSR of the x2APIC registers.
pub const MSR_X2APIC: u32 = 0x800;
/// Last MSR of the range kept for them.
pub const MSR_X2APIC_LAST: u32 = 0x8ff;

const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;

/// Version 0x14, highest LVT entry 5, EOI broadcasts can be suppressed.
const VERSION: u32 = 0x14 | 5 << 16 | 1 << 24;

const SVR_ENABLE: u32 = 1 << 8;
const SVR_NO_EOI_BROADCAST: u32 = 1 << 12;
const SVR_WRITABLE: u32 = 0x13ff;

const LVT_REMOTE_IRR: u32 = 1 << 14;
const LVT_LEVEL: u32 = 1 << 15;
const LVT_MASKED: u32 = 1 << 16;

/// Error status bits (SDM vol. 3, 11.5.3).
const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// Register numbers: offset / 16 in the page, MSR index - 0x800.
mod register {
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const APR: u32 = 0x09;
    pub const PPR: u32 = 0x0a;
    pub const EOI: u32 = 0x0b;
    pub const RRD: u32 = 0x0c;
    pub const LDR: u32 = 0x0d;
    pub const DFR: u32 = 0x0e;
    pub const SVR: u32 = 0x0f;
    pub const ISR: u32 = 0x10;
    pub const TMR: u32 = 0x18;
    pub const IRR: u32 = 0x20;
    pub const ESR: u32 = 0x28;
    pub const ICR: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT_TIMER: u32 = 0x32;
    pub const LVT_ERROR: u32 = 0x37;
    pub const TIMER_INITIAL: u32 = 0x38;
    pub const TIMER_CURRENT: u32 = 0x39;
    pub const TIMER_DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}

/// Entries of the local vector table, in register order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Lvt {
    Timer = 0,
    Thermal = 1,
    Performance = 2,
    Lint0 = 3,
    Lint1 = 4,
    Error = 5,
}

/// Bits of each LVT entry that software can write, in register order.
const LVT_WRITABLE: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

/// What a processor is to be called for: to look at its interrupts, requests or deadline, which have changed; to be notified of
/// an interrupt that has been posted. A bit each; that of processor n is n bits further up.
pub const LOOK: u32 = 1;
/// See [`LOOK`].
pub const NOTIFY: u32 = 1 << MAX_VCPUS;
const _: () = assert!(2 * MAX_VCPUS <= 32);

/// What a message asks of the processor itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuRequest {
    /// INIT: reset the processor (SDM vol. 3, table 10-1); one that is not the bootstrap processor then waits for
    /// a start-up.
    Init,
    /// Start-up: begin in real mode at this page (CS base = vector << 12).
    StartUp(u8),
}

/// A set of 256 vectors with a fast look for the highest.
#[derive(Clone, Copy, Debug)]
struct Vectors {
    words: [u32; 8],
    /// Bit n: `words[n]` is not zero.
    used: u8,
}

impl Vectors {
    const fn new() -> Self {
        Self { words: [0; 8], used: 0 }
    }

    #[inline]
    fn contains(&self, vector: u8) -> bool {
        self.words[usize::from(vector >> 5)] & 1 << (vector & 31) != 0
    }

    #[inline]
    fn insert(&mut self, vector: u8) {
        self.words[usize::from(vector >> 5)] |= 1 << (vector & 31);
        self.used |= 1 << (vector >> 5);
    }

    fn add(&mut self, index: usize, word: u32) {
        if word != 0
            && let Some(own) = self.words.get_mut(index)
        {
            *own |= word;
            self.used |= 1 << index;
        }
    }

    #[inline]
    fn remove(&mut self, vector: u8) {
        let word = &mut self.words[usize::from(vector >> 5)];
        *word &= !(1 << (vector & 31));
        if *word == 0 {
            self.used &= !(1 << (vector >> 5));
        }
    }

    #[inline]
    fn highest(&self) -> Option<u8> {
        if self.used == 0 {
            return None;
        }
        let index = 7 - self.used.leading_zeros() as u8;
        let word = self.words[usize::from(index & 7)];
        Some((index << 5) | (31u8.wrapping_sub(word.leading_zeros() as u8) & 31))
    }
}

/// The timer's mode (LVT bits 18:17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
}

/// One local APIC.
#[derive(Clone, Debug)]
pub struct LocalApic {
    index: u8,
    bootstrap: bool,
    address_bits: u8,
    base: u64,
    /// xAPIC ID, bits 31:24 of the register; writable in xAPIC mode.
    id: u8,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    in_service: Vectors,
    trigger_level: Vectors,
    requests: Vectors,
    esr: u32,
    errors: u32,
    icr: u64,
    lvt: [u32; 6],
    lint: [bool; 2],
    timer_initial: u32,
    timer_divide: u8,
    /// When the count in force was written, or a periodic one was reloaded; modulo 2^64, for a changed divider may
    /// put it before the clock's beginning.
    timer_start: u64,
    /// When the timer fires next.
    timer_deadline: Option<u64>,
    /// IA32_TSC_DEADLINE; 0 is disarmed.
    tsc_deadline: u64,
    tsc_hz: u64,
    /// Guest TSC less what follows from the virtual clock.
    tsc_offset: u64,
    nmi: bool,
    init: bool,
    start_up: Option<u8>,
    waits_for_start_up: bool,
    command: Option<Message>,
    command_shorthand: u8,
    ended: Option<u8>,
    /// What the processor is to be called for: [`LOOK`], [`NOTIFY`].
    attention: u32,
    /// Where interrupts for it go while it delivers them by itself, and runs.
    posted: Option<Inbox>,
    /// The deadline that it was last told to look at.
    told_deadline: Option<u64>,
}

impl LocalApic {
    /// State after power-up of the local APIC of processor `index`. The one with index 0 is the bootstrap
    /// processor's. `tsc_hz` must not be 0; `address_bits` is MAXPHYADDR.
    pub const fn new(index: u8, tsc_hz: u64, address_bits: u8) -> Self {
        Self {
            index,
            bootstrap: index == 0,
            address_bits,
            base: LAPIC_BASE | BASE_ENABLE | if index == 0 { BASE_BSP } else { 0 },
            id: index,
            tpr: 0,
            ldr: 0,
            dfr: 0xffff_ffff,
            svr: 0xff,
            in_service: Vectors::new(),
            trigger_level: Vectors::new(),
            requests: Vectors::new(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [LVT_MASKED; 6],
            lint: [false; 2],
            timer_initial: 0,
            timer_divide: 0,
            timer_start: 0,
            timer_deadline: None,
            tsc_deadline: 0,
            tsc_hz: if tsc_hz == 0 { 1 } else { tsc_hz },
            tsc_offset: 0,
            nmi: false,
            init: false,
            start_up: None,
            waits_for_start_up: index != 0,
            command: None,
            command_shorthand: 0,
            ended: None,
            attention: 0,
            posted: None,
            told_deadline: None,
        }
    }

    /// Back to power-up.
    pub fn reset(&mut self) {
        let lint = self.lint;
        *self = Self::new(self.index, self.tsc_hz, self.address_bits);
        self.lint = lint;
    }

    /// What firmware leaves behind: enabled, virtual wire mode (MPS 1.4, 3.6.2.2) on the bootstrap processor,
    /// NMI on LINT1.
    pub fn firmware(&mut self) {
        if self.bootstrap {
            self.svr = SVR_ENABLE | 0xff;
            self.lvt[Lvt::Lint0 as usize] = 0x0700;
            self.lvt[Lvt::Lint1 as usize] = 0x0400;
        }
    }

    /// The reset that an INIT does: as at power-up, but IDs and IA32_APIC_BASE stay (SDM vol. 3, 11.4.7.3).
    fn init_reset(&mut self) {
        let fresh = Self::new(self.index, self.tsc_hz, self.address_bits);
        *self = Self {
            base: self.base,
            id: self.id,
            lint: self.lint,
            tsc_offset: self.tsc_offset,
            ldr: if self.x2apic() { self.x2apic_ldr() } else { 0 },
            // The bootstrap processor starts by itself (SDM vol. 3, 9.4.3).
            waits_for_start_up: !self.bootstrap,
            init: true,
            attention: LOOK,
            ..fresh
        };
    }

    /// Hardware-enabled by IA32_APIC_BASE (CPUID.01H:EDX.APIC follows this).
    #[inline]
    pub fn enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    /// In x2APIC mode.
    #[inline]
    pub fn x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    fn software_enabled(&self) -> bool {
        self.svr & SVR_ENABLE != 0
    }

    /// Guest-physical address of the register page, where it can be reached: not in x2APIC mode.
    #[inline]
    pub fn page(&self) -> Option<u64> {
        (self.base & (BASE_ENABLE | BASE_X2APIC) == BASE_ENABLE).then_some(self.base & !0xfff)
    }

    /// The ID that messages are sent to: 32 bits in x2APIC mode, else 8.
    pub fn id(&self) -> u32 {
        if self.x2apic() { u32::from(self.index) } else { u32::from(self.id) }
    }

    fn x2apic_ldr(&self) -> u32 {
        let id = u32::from(self.index);
        (id >> 4) << 16 | 1 << (id & 15)
    }

    /// A message is for this APIC (SDM vol. 3, 11.6.2).
    pub fn matches(&self, logical: bool, destination: u32, from_x2apic: bool) -> bool {
        if !self.enabled() {
            return false;
        }
        let broadcast = if from_x2apic { destination == u32::MAX } else { destination == 0xff };
        if broadcast {
            return true;
        }
        if !logical {
            return destination == self.id();
        }
        if self.x2apic() {
            let ldr = self.x2apic_ldr();
            return destination >> 16 == ldr >> 16 && destination & ldr & 0xffff != 0;
        }
        let (mda, address) = (destination as u8, (self.ldr >> 24) as u8);
        match self.dfr >> 28 {
            0xf => destination <= 0xff && mda & address != 0,
            0x0 => destination <= 0xff && mda >> 4 == address >> 4 && mda & address & 0x0f != 0,
            _ => false,
        }
    }

    /// Takes a message that matched.
    pub fn accept(&mut self, delivery: Delivery, vector: u8, level: bool) {
        match delivery {
            Delivery::Fixed | Delivery::LowestPriority => return self.accept_vector(vector, level),
            Delivery::Nmi => self.nmi = true,
            Delivery::Init => self.init_reset(),
            Delivery::StartUp => {
                if self.waits_for_start_up {
                    self.waits_for_start_up = false;
                    self.start_up = Some(vector);
                }
            }
            Delivery::Smi | Delivery::External | Delivery::Reserved => {}
        }
        self.attention |= LOOK;
    }

    fn accept_vector(&mut self, vector: u8, level: bool) {
        if vector < 16 {
            return self.error(ESR_RECEIVE_ILLEGAL_VECTOR);
        }
        if !self.software_enabled() {
            return;
        }
        if let Some(posted) = self.posted
            && !level
            && !self.trigger_level.contains(vector)
        {
            if posted.post(vector) {
                self.attention |= NOTIFY;
            }
            return;
        }
        self.attention |= LOOK;
        self.requests.insert(vector);
        if level {
            self.trigger_level.insert(vector);
        } else {
            self.trigger_level.remove(vector);
        }
    }

    fn error(&mut self, bits: u32) {
        let new = self.errors & bits != bits;
        self.errors |= bits;
        let entry = self.lvt[Lvt::Error as usize];
        // The error interrupt's own vector being illegal must not be reported by another one.
        if new && entry & LVT_MASKED == 0 && entry & 0xff >= 16 {
            self.accept_vector(entry as u8, false);
        }
    }

    /// Processor priority (SDM vol. 3, 11.8.3.1).
    #[inline]
    fn ppr(&self) -> u8 {
        let service = self.in_service.highest().unwrap_or(0);
        if self.tpr >> 4 >= service >> 4 { self.tpr } else { service & 0xf0 }
    }

    /// Arbitration priority, by which lowest priority delivery chooses.
    pub fn arbitration_priority(&self) -> u8 {
        let service = self.in_service.highest().unwrap_or(0);
        let request = self.requests.highest().unwrap_or(0);
        if self.tpr >> 4 >= request >> 4 && self.tpr >> 4 > service >> 4 {
            self.tpr
        } else {
            (self.tpr & 0xf0).max(service & 0xf0).max(request & 0xf0)
        }
    }

    /// The vector that the processor would get now.
    #[inline]
    pub fn pending(&self) -> Option<u8> {
        let vector = self.requests.highest()?;
        (vector >> 4 > self.ppr() >> 4 && self.enabled()).then_some(vector)
    }

    /// The vector of highest priority that waits, whatever the priorities in force; for HLT and TPR threshold.
    pub fn highest_request(&self) -> Option<u8> {
        self.requests.highest()
    }

    /// The processor takes its interrupt; the spurious one where there is none any more.
    pub fn acknowledge(&mut self) -> u8 {
        match self.pending() {
            Some(vector) => {
                self.requests.remove(vector);
                self.in_service.insert(vector);
                vector
            }
            None => self.svr as u8,
        }
    }

    fn end_of_interrupt(&mut self) {
        let Some(vector) = self.in_service.highest() else { return };
        self.in_service.remove(vector);
        self.ended(vector);
    }

    /// What follows the end of an interrupt.
    pub fn ended(&mut self, vector: u8) {
        for entry in [Lvt::Lint0, Lvt::Lint1] {
            let entry = &mut self.lvt[entry as usize];
            if *entry as u8 == vector {
                *entry &= !LVT_REMOTE_IRR;
            }
        }
        if self.trigger_level.contains(vector) {
            self.update_lint(0);
            self.update_lint(1);
            if self.svr & SVR_NO_EOI_BROADCAST == 0 {
                self.ended = Some(vector);
            }
        }
    }

    /// Gives the interrupts away to a processor that delivers them by itself. Until they come back, there are only those here
    /// that have come since, but for those whose trigger mode it knows: they go to `posted`, where that is given. What is in
    /// service is as it was.
    pub fn hand_over(&mut self, posted: Option<Inbox>) -> VirtualInterrupts {
        self.posted = posted;
        let requests = core::mem::replace(&mut self.requests, Vectors::new()).words;
        VirtualInterrupts { requests, in_service: self.in_service.words, told: self.trigger_level.words }
    }

    /// Takes them back, as the processor left them; what was posted is among them. An INIT since then has ended them all.
    pub fn take_back(&mut self, left: &VirtualInterrupts) {
        self.posted = None;
        if self.init {
            return;
        }
        self.in_service = Vectors::new();
        for (index, (requests, in_service)) in left.requests.iter().zip(&left.in_service).enumerate() {
            self.requests.add(index, *requests);
            self.in_service.add(index, *in_service);
        }
    }

    /// The level-triggered vector whose end is to be broadcast to the I/O APIC.
    #[inline]
    pub fn take_ended(&mut self) -> Option<u8> {
        self.ended.take()
    }

    /// After an access of the processor's own: has it look where there is something to look at, for an interrupt that waits
    /// may come through now, and a timer that was set needs the physical one.
    #[inline]
    pub fn settle(&mut self) {
        if self.requests.used != 0 || self.timer_deadline != self.told_deadline {
            self.told_deadline = self.timer_deadline;
            self.attention |= LOOK;
        }
    }

    /// Has the processor look at its interrupts.
    #[inline]
    pub fn call(&mut self) {
        self.attention |= LOOK;
    }

    /// What the processor is to be called for since this was last asked: [`LOOK`], [`NOTIFY`].
    #[inline]
    pub fn take_attention(&mut self) -> u32 {
        core::mem::take(&mut self.attention)
    }

    /// The interrupt command to deliver, with its shorthand (SDM vol. 3, 11.6.1: 0 none, 1 self, 2 all, 3 others).
    #[inline]
    pub fn take_command(&mut self) -> Option<(Message, u8)> {
        self.command.take().map(|message| (message, self.command_shorthand))
    }

    /// An NMI waits.
    pub fn nmi_pending(&self) -> bool {
        self.nmi
    }

    /// The processor has taken the NMI.
    pub fn acknowledge_nmi(&mut self) {
        self.nmi = false;
    }

    /// What INIT and start-up messages ask of the processor, in their order.
    pub fn take_cpu_request(&mut self) -> Option<CpuRequest> {
        if core::mem::take(&mut self.init) {
            return Some(CpuRequest::Init);
        }
        self.start_up.take().map(CpuRequest::StartUp)
    }

    /// An INIT or start-up request waits for [`LocalApic::take_cpu_request`].
    pub fn has_cpu_request(&self) -> bool {
        self.init || self.start_up.is_some()
    }

    /// Task priority as CR8 shows it.
    pub fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// A write to CR8, which the caller has checked to be below 16.
    pub fn set_cr8(&mut self, value: u8) {
        self.tpr = value << 4;
    }

    // Local interrupt pins.

    /// LINT0 passes the 8259's interrupts through: ExtINT mode and unmasked, or the APIC is hardware-disabled and
    /// the pin is the processor's INTR.
    #[inline]
    pub fn passes_external(&self) -> bool {
        if !self.enabled() {
            return self.bootstrap;
        }
        self.lvt[Lvt::Lint0 as usize] & (LVT_MASKED | 0x700) == 0x700
    }

    /// Sets the level of LINT0 (0) or LINT1 (1).
    #[inline]
    pub fn set_lint(&mut self, pin: usize, high: bool) {
        let Some(level) = self.lint.get_mut(pin) else { return };
        let before = core::mem::replace(level, high);
        if before == high {
            return;
        }
        if !self.enabled() {
            self.nmi |= pin == 1 && high;
            self.attention |= LOOK;
            return;
        }
        let entry = self.lvt[Lvt::Lint0 as usize + pin];
        if entry & LVT_MASKED != 0 {
            return;
        }
        match Delivery::from_bits((entry >> 8) as u8) {
            Delivery::Fixed if entry & LVT_LEVEL != 0 && pin == 0 => self.update_lint(pin),
            // LINT1 is always edge-triggered; INIT, NMI and SMI are so whatever the bit says.
            delivery @ (Delivery::Fixed | Delivery::Nmi) if high => self.accept(delivery, entry as u8, false),
            Delivery::Init if high => self.init_reset(),
            _ => {}
        }
    }

    /// A level-triggered LINT0 in Fixed mode asks again until its end of interrupt finds it low.
    fn update_lint(&mut self, pin: usize) {
        let Some(entry) = self.lvt.get_mut(Lvt::Lint0 as usize + pin) else { return };
        let armed = *entry & (LVT_MASKED | LVT_REMOTE_IRR | LVT_LEVEL | 0x700) == LVT_LEVEL;
        if armed && pin == 0 && self.lint[0] {
            *entry |= LVT_REMOTE_IRR;
            let vector = *entry as u8;
            self.accept_vector(vector, true);
        }
    }

    /// A local source (thermal, performance) signals.
    pub fn signal(&mut self, source: Lvt) {
        let entry = self.lvt[source as usize];
        if entry & LVT_MASKED == 0 {
            self.accept(Delivery::from_bits((entry >> 8) as u8), entry as u8, false);
        }
    }

    // Timer (SDM vol. 3, 11.5.4).

    fn timer_mode(&self) -> TimerMode {
        match self.lvt[Lvt::Timer as usize] >> 17 & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            _ => TimerMode::TscDeadline,
        }
    }

    /// Divide configuration as a shift: 0b0000 is 2, …, 0b1010 is 128, 0b1011 is 1.
    fn timer_shift(&self) -> u32 {
        let value = u32::from(self.timer_divide & 3 | (self.timer_divide & 8) >> 1);
        (value + 1) & 7
    }

    fn timer_period(&self) -> u64 {
        u64::from(self.timer_initial) << self.timer_shift()
    }

    fn start_timer(&mut self, now: u64) {
        self.timer_start = now;
        self.timer_deadline = match (self.timer_initial, self.timer_mode()) {
            (0, _) | (_, TimerMode::TscDeadline) => None,
            _ => Some(now.saturating_add(self.timer_period())),
        };
    }

    fn timer_current(&self, now: u64) -> u32 {
        if self.timer_deadline.is_none() || self.timer_mode() == TimerMode::TscDeadline {
            return 0;
        }
        let ticks = now.wrapping_sub(self.timer_start) >> self.timer_shift();
        let initial = u64::from(self.timer_initial);
        match self.timer_mode() {
            TimerMode::Periodic if initial != 0 => (initial - ticks % initial) as u32,
            _ => initial.saturating_sub(ticks) as u32,
        }
    }

    fn write_divide(&mut self, value: u32, now: u64) {
        let current = u64::from(self.timer_current(now));
        self.timer_divide = value as u8 & 0x0b;
        if self.timer_deadline.is_some() && self.timer_mode() != TimerMode::TscDeadline {
            // The count goes on at the new rate.
            let shift = self.timer_shift();
            let passed = (u64::from(self.timer_initial) - current) << shift;
            self.timer_start = now.wrapping_sub(passed);
            self.timer_deadline = Some(now.saturating_add(current << shift));
        }
    }

    /// Guest TSC at a moment of the virtual clock.
    pub fn tsc(&self, now: u64) -> u64 {
        clock::ticks(now, self.tsc_hz).wrapping_add(self.tsc_offset)
    }

    /// The guest has moved its TSC (IA32_TSC, IA32_TSC_ADJUST): `offset` is its distance from the virtual clock.
    pub fn set_tsc_offset(&mut self, offset: u64, now: u64) {
        self.tsc_offset = offset;
        self.attention |= LOOK;
        if self.tsc_deadline != 0 {
            self.arm_tsc_deadline(now);
        }
    }

    fn arm_tsc_deadline(&mut self, now: u64) {
        let left = self.tsc_deadline.saturating_sub(self.tsc(now));
        // Through the tick at `now`, so that rounding never fires early.
        let target = clock::ticks(now, self.tsc_hz).saturating_add(left);
        self.timer_deadline = match (self.tsc_deadline, left) {
            (0, _) => None,
            (_, 0) => Some(now),
            _ => Some(clock::nanoseconds(target, self.tsc_hz)),
        };
    }

    /// When the timer fires next.
    #[inline]
    pub fn deadline(&self) -> Option<u64> {
        self.timer_deadline
    }

    /// Fires the timer if it is due.
    #[inline]
    pub fn advance(&mut self, now: u64) {
        if self.timer_deadline.is_some_and(|deadline| deadline <= now) {
            self.fire(now);
        }
    }

    fn fire(&mut self, now: u64) {
        match self.timer_mode() {
            TimerMode::OneShot => self.timer_deadline = None,
            TimerMode::TscDeadline => {
                self.timer_deadline = None;
                self.tsc_deadline = 0;
            }
            TimerMode::Periodic => {
                let period = self.timer_period().max(1);
                let passed = now.wrapping_sub(self.timer_start);
                self.timer_start = now.wrapping_sub(passed % period);
                let next = self.timer_start.wrapping_add(period);
                let soonest = if period < MIN_PERIOD { now.saturating_add(MIN_PERIOD) } else { next };
                self.timer_deadline = Some(next.max(soonest));
            }
        }
        let entry = self.lvt[Lvt::Timer as usize];
        if entry & LVT_MASKED == 0 {
            self.accept_vector(entry as u8, false);
        }
    }

    // Registers.

    fn write_lvt(&mut self, index: usize, value: u32, now: u64) {
        let Some((entry, writable)) = self.lvt.get_mut(index).zip(LVT_WRITABLE.get(index)) else { return };
        let before = *entry;
        let mut new = value & writable | before & LVT_REMOTE_IRR;
        if self.svr & SVR_ENABLE == 0 {
            new |= LVT_MASKED;
        }
        if new & LVT_LEVEL == 0 {
            new &= !LVT_REMOTE_IRR;
        }
        *entry = new;
        if index == Lvt::Timer as usize && (before ^ new) & 0x6_0000 != 0 {
            self.change_timer_mode(before, now);
        }
        if index == Lvt::Lint0 as usize {
            self.update_lint(0);
        }
    }

    /// Moving to or from TSC-deadline mode disarms the timer; one-shot and periodic share a running count.
    fn change_timer_mode(&mut self, before: u32, now: u64) {
        let was_deadline = before & 0x4_0000 != 0;
        let is_deadline = self.timer_mode() == TimerMode::TscDeadline;
        if was_deadline || is_deadline {
            self.timer_deadline = None;
            self.tsc_deadline = 0;
            self.timer_initial = 0;
        } else if self.timer_deadline.is_some() {
            self.advance(now);
        }
    }

    fn write_svr(&mut self, value: u32) {
        self.svr = value & SVR_WRITABLE;
        if !self.software_enabled() {
            for entry in &mut self.lvt {
                *entry |= LVT_MASKED;
            }
        }
    }

    fn send(&mut self, icr: u64) {
        let low = icr as u32;
        let delivery = Delivery::from_bits((low >> 8) as u8);
        let shorthand = (low >> 18 & 3) as u8;
        let level = low & 1 << 15 != 0;
        let assert = low & 1 << 14 != 0;
        match delivery {
            // INIT level de-assert: only resynchronises arbitration IDs, which are no more.
            Delivery::Init if level && !assert => return,
            Delivery::Fixed | Delivery::LowestPriority if low & 0xff < 16 => {
                return self.error(ESR_SEND_ILLEGAL_VECTOR);
            }
            // Not valid with the sender among the targets (SDM vol. 3, table 11-3). NMI is not valid for "self"
            // either, but chips deliver it.
            Delivery::Init | Delivery::StartUp if matches!(shorthand, 1 | 2) => return,
            Delivery::External | Delivery::Reserved => return,
            _ => {}
        }
        let destination = if self.x2apic() { (icr >> 32) as u32 } else { (icr >> 56) as u32 };
        self.command_shorthand = shorthand;
        self.command = Some(Message {
            delivery,
            vector: low as u8,
            // IPIs are edges: the trigger mode is for INIT de-assert only (SDM vol. 3, 11.6.1).
            level: false,
            logical: low & 1 << 11 != 0,
            destination,
        });
    }

    fn set_word(vectors: &Vectors, index: u32) -> u32 {
        vectors.words.get(index as usize & 7).copied().unwrap_or(0)
    }

    fn read_register(&mut self, number: u32, now: u64) -> Option<u32> {
        Some(match number {
            register::ID if self.x2apic() => u32::from(self.index),
            register::ID => u32::from(self.id) << 24,
            register::VERSION => VERSION,
            register::TPR => u32::from(self.tpr),
            register::APR => u32::from(self.arbitration_priority()),
            register::PPR => u32::from(self.ppr()),
            register::EOI | register::RRD => 0,
            register::LDR if self.x2apic() => self.x2apic_ldr(),
            register::LDR => self.ldr,
            register::DFR => self.dfr,
            register::SVR => self.svr,
            register::ISR..register::TMR => Self::set_word(&self.in_service, number - register::ISR),
            register::TMR..register::IRR => Self::set_word(&self.trigger_level, number - register::TMR),
            register::IRR..register::ESR => Self::set_word(&self.requests, number - register::IRR),
            register::ESR => self.esr,
            register::ICR => self.icr as u32,
            register::ICR_HIGH => (self.icr >> 32) as u32,
            register::LVT_TIMER..=register::LVT_ERROR => {
                *self.lvt.get((number - register::LVT_TIMER) as usize)?
            }
            register::TIMER_INITIAL => self.timer_initial,
            register::TIMER_CURRENT => {
                self.advance(now);
                self.timer_current(now)
            }
            register::TIMER_DIVIDE => u32::from(self.timer_divide),
            _ => return None,
        })
    }

    /// False when there is no such register that can be written.
    fn write_register(&mut self, number: u32, value: u32, now: u64) -> bool {
        match number {
            register::ID => self.id = (value >> 24) as u8,
            register::TPR => self.tpr = value as u8,
            register::EOI => self.end_of_interrupt(),
            register::LDR => self.ldr = value & 0xff00_0000,
            register::DFR => self.dfr = value | 0x0fff_ffff,
            register::SVR => self.write_svr(value),
            register::ESR => self.esr = core::mem::take(&mut self.errors),
            register::ICR => {
                self.icr = self.icr & !0xffff_ffff | u64::from(value & 0xc_cfff);
                self.send(self.icr);
            }
            register::ICR_HIGH => self.icr = self.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
            register::LVT_TIMER..=register::LVT_ERROR => {
                self.write_lvt((number - register::LVT_TIMER) as usize, value, now);
            }
            register::TIMER_INITIAL => {
                if self.timer_mode() != TimerMode::TscDeadline {
                    self.timer_initial = value;
                    self.start_timer(now);
                }
            }
            register::TIMER_DIVIDE => self.write_divide(value, now),
            _ => return false,
        }
        true
    }

    /// Reads from the register page. Only aligned 32-bit reads are defined (SDM vol. 3, 11.4.1); smaller ones get
    /// the bytes of the register, others 0.
    pub fn read_page(&mut self, offset: u64, size: u8, now: u64) -> u64 {
        let byte = offset & 15;
        if byte >= 4 || byte + u64::from(size) > 4 {
            return 0;
        }
        match self.read_register((offset >> 4) as u32, now) {
            Some(value) => {
                let shifted = u64::from(value) >> (8 * byte);
                shifted & if size >= 4 { u64::from(u32::MAX) } else { (1 << (8 * size)) - 1 }
            }
            None => {
                self.error(ESR_ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// Writes to the register page; what is not an aligned 32-bit write is ignored.
    pub fn write_page(&mut self, offset: u64, size: u8, value: u64, now: u64) {
        if offset & 15 != 0 || size != 4 {
            return;
        }
        if !self.write_register((offset >> 4) as u32, value as u32, now) {
            self.error(ESR_ILLEGAL_REGISTER);
        }
    }

    /// RDMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register.
    pub fn read_msr(&mut self, index: u32, now: u64) -> Result<u64, GeneralProtection> {
        match index {
            MSR_APIC_BASE => Ok(self.base),
            MSR_TSC_DEADLINE => {
                self.advance(now);
                Ok(if self.timer_mode() == TimerMode::TscDeadline { self.tsc_deadline } else { 0 })
            }
            MSR_X2APIC..=MSR_X2APIC_LAST if self.x2apic() => match index - MSR_X2APIC {
                register::ICR => Ok(self.icr),
                register::APR | register::EOI | register::RRD | register::DFR | register::ICR_HIGH => {
                    Err(GeneralProtection)
                }
                number => self.read_register(number, now).map(u64::from).ok_or(GeneralProtection),
            },
            _ => Err(GeneralProtection),
        }
    }

    /// WRMSR to one of them.
    pub fn write_msr(&mut self, index: u32, value: u64, now: u64) -> Result<(), GeneralProtection> {
        match index {
            MSR_APIC_BASE => self.write_base(value),
            MSR_TSC_DEADLINE => {
                if self.timer_mode() == TimerMode::TscDeadline {
                    self.tsc_deadline = value;
                    self.arm_tsc_deadline(now);
                    self.advance(now);
                }
                Ok(())
            }
            MSR_X2APIC..=MSR_X2APIC_LAST if self.x2apic() => {
                self.write_x2apic(index - MSR_X2APIC, value, now)
            }
            _ => Err(GeneralProtection),
        }
    }

    /// Reserved bits are checked as SDM vol. 3, 11.12.1.2 and table 11-6 have it.
    fn write_x2apic(&mut self, number: u32, value: u64, now: u64) -> Result<(), GeneralProtection> {
        let writable = match number {
            register::TPR | register::SELF_IPI => 0xff,
            register::EOI | register::ESR => 0,
            register::SVR => u64::from(SVR_WRITABLE),
            register::ICR => 0xffff_ffff_000c_cfff,
            register::LVT_TIMER..=register::LVT_ERROR => {
                // Delivery status and remote IRR are read-only, but not reserved.
                let index = (number - register::LVT_TIMER) as usize;
                u64::from(LVT_WRITABLE.get(index).copied().unwrap_or(0) | 0x1000)
                    | if matches!(index, 3 | 4) { u64::from(LVT_REMOTE_IRR) } else { 0 }
            }
            register::TIMER_INITIAL => 0xffff_ffff,
            register::TIMER_DIVIDE => 0x0b,
            _ => return Err(GeneralProtection),
        };
        if value & !writable != 0 {
            return Err(GeneralProtection);
        }
        match number {
            register::ICR => {
                self.icr = value;
                self.send(value);
            }
            register::SELF_IPI => {
                if value < 16 {
                    self.error(ESR_SEND_ILLEGAL_VECTOR);
                } else {
                    self.accept_vector(value as u8, false);
                }
            }
            _ => {
                self.write_register(number, value as u32, now);
            }
        }
        Ok(())
    }

    /// IA32_APIC_BASE: modes and their transitions (SDM vol. 3, 11.12.5).
    fn write_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        let address_mask = (1u64 << self.address_bits.clamp(32, 52)) - 1;
        let writable = address_mask & !0xfff | BASE_ENABLE | BASE_X2APIC | BASE_BSP;
        if value & !writable != 0 {
            return Err(GeneralProtection);
        }
        let mode = |base: u64| (base & BASE_ENABLE != 0, base & BASE_X2APIC != 0);
        match (mode(self.base), mode(value)) {
            (_, (false, true)) | ((true, true), (true, false)) | ((false, false), (true, true)) => {
                return Err(GeneralProtection);
            }
            ((true, _), (false, false)) => {
                let (offset, lint, nmi) = (self.tsc_offset, self.lint, self.nmi);
                self.reset();
                (self.tsc_offset, self.lint, self.nmi) = (offset, lint, nmi);
                self.waits_for_start_up = false;
            }
            ((true, false), (true, true)) => self.id = self.index,
            _ => {}
        }
        self.base = value;
        Ok(())
    }
}

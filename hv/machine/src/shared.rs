//! What the processors of one guest share, and how they get each other's attention.
//!
//! # The device lock
//!
//! Devices, their back ends and the clock are behind one spin lock ([`Shared::with`]). It is the only lock on the way of
//! an exit. It is held for one access, with interrupts off, and nothing waits while it is held. What needs no device
//! (CPUID, XSETBV, most MSRs, the ACPI PM timer, which is the time in another unit) takes no lock.
//!
//! Order of locks: a copy of registers (`Shared::publish`) is never held together with another lock; behind the
//! device lock come those of the parts that devices are connected to: a serial line, the file store, the second-level
//! mapping, the trace's ring, the log. Nobody takes the device lock while he holds one of these.
//!
//! # Attention
//!
//! Each processor has a word of its own, which it looks at before each entry to the guest and before each HLT: 0 means
//! that nothing has changed for it. Whoever changes something for another one sets a bit and, where the word was 0,
//! sends a physical interrupt. No call is lost:
//!
//! - The bit is set before the interrupt is sent. In root mode interrupts are off, so one that comes between the look and
//!   the entry stays pending, and the entry ends at once (an external-interrupt exit); one that comes between the look
//!   and the HLT wakes the HLT, for STI lets the HLT begin before it takes an interrupt.
//! - An interrupt that is taken in a window is taken before the next look.
//! - No interrupt is sent where the word was not 0: then either one is on its way, sent by whoever made it so, or the
//!   owner itself did, which is in root mode and looks before it enters.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use monovisor_arch::layout::MAX_VCPUS;
use monovisor_devices::kvmclock::KvmClock;
use monovisor_devices::pc::{LOOK, NOTIFY};
use monovisor_devices::{Pc, Request};
use monovisor_host::{error, interrupts, timer};
use spin::{Mutex, Once};

use crate::backend::Backend;
use crate::balloon::Mapping;
use crate::clock::Clock;
use crate::machine::Halt;
use crate::ram::GuestRam;
use crate::registers::Registers;

/// What is behind the device lock.
pub struct Devices {
    /// Devices and interrupt controllers.
    pub pc: Pc,
    /// What the devices are connected to.
    pub backend: Backend,
    /// The guest's time. Each processor has a copy, taken when it starts to run.
    pub clock: Clock,
    /// The paravirtual clocks.
    pub kvm_clock: KvmClock,
}

impl Devices {
    /// Virtual time in nanoseconds. Asked for with the lock held, it never goes back from one access to the next.
    #[inline]
    pub fn now(&self) -> u64 {
        self.clock.now(timer::now_tsc())
    }

    /// What the guest asks of the machine. The processors that wait for it to be taken look again.
    pub fn take_request(&mut self) -> Option<Request> {
        let request = self.pc.take_request()?;
        self.pc.call_all();
        Some(request)
    }
}

/// Bits of an attention word.
pub(crate) mod attention {
    /// The interrupt controllers, a request or a deadline: look at the devices.
    pub const DEVICES: u32 = 1;
    /// An order of the first processor's.
    pub const ORDER: u32 = 1 << 1;
    /// For the first processor: another one cannot go on.
    pub const HALT: u32 = 1 << 2;
    /// The second-level tables have changed: drop what is cached of them.
    pub const FLUSH: u32 = 1 << 3;
}

/// What the first processor, which serves the monitor, tells another one to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Leave a copy of the registers and go on as before.
    Publish = 0,
    /// Stop running the guest, and leave a copy of the registers.
    Park = 1,
    /// Run the guest again, by the clock as it is now.
    Run = 2,
    /// Back to power-up, and leave a copy of the registers.
    Reset = 3,
}

impl Order {
    const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Publish,
            2 => Self::Run,
            3 => Self::Reset,
            _ => Self::Park,
        }
    }
}

/// Time that a processor has to carry an order out, in nanoseconds. It needs some microseconds: to leave the guest, and
/// to wait for the device lock.
const ANSWER_LIMIT_NS: u64 = 1_000_000_000;

/// What others can reach of one processor. Apart, so that one's word does not share a cache line with another's.
#[repr(align(64))]
pub struct Slot {
    attention: AtomicU32,
    order: AtomicU8,
    /// Counts orders given, and those carried out.
    given: AtomicU32,
    done: AtomicU32,
    /// The last generation of the second-level tables that the processor uses no older one than.
    generation: AtomicU32,
    registers: Mutex<Registers>,
}

impl Slot {
    /// Nothing waits for the processor.
    pub const fn new() -> Self {
        Self {
            attention: AtomicU32::new(0),
            order: AtomicU8::new(0),
            given: AtomicU32::new(0),
            done: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            registers: Mutex::new(Registers::new()),
        }
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

/// What others can reach of each processor. Apart from the rest, so that it can be a static from the start: it is too large
/// to be moved about on a stack.
pub type Slots = [Slot; MAX_VCPUS];

/// What the processors of one guest share.
pub struct Shared {
    devices: Mutex<Devices>,
    ram: &'static GuestRam,
    count: usize,
    /// TSC ticks that a processor has to answer.
    answer_limit: u64,
    slots: &'static Slots,
    /// Counts the changes of the second-level tables that take something away.
    generation: AtomicU32,
    /// The second-level tables, where RAM can be taken from them.
    mapping: Once<Mutex<&'static mut dyn Mapping>>,
    /// Why a processor other than the first cannot go on.
    halt: Mutex<Option<Halt>>,
}

impl Shared {
    /// A guest of `pc`'s number of processors.
    pub fn new(
        pc: Pc,
        slots: &'static Slots,
        ram: &'static GuestRam,
        clock: Clock,
        backend: Backend,
    ) -> Self {
        let count = usize::from(pc.config().vcpus).clamp(1, MAX_VCPUS);
        let kvm_clock = KvmClock::new(clock.tsc_hz());
        let answer_limit = clock.ticks(ANSWER_LIMIT_NS);
        Self {
            devices: Mutex::new(Devices { pc, backend, clock, kvm_clock }),
            ram,
            count,
            answer_limit,
            slots,
            generation: AtomicU32::new(0),
            mapping: Once::new(),
            halt: Mutex::new(None),
        }
    }

    /// RAM.
    pub fn ram(&self) -> &'static GuestRam {
        self.ram
    }

    /// How many processors the guest has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Works on the devices, as processor `cpu` (the index of the physical processor that runs this), and calls the
    /// processors for which something has changed by it.
    #[inline]
    pub fn with<R>(&self, cpu: usize, act: impl FnOnce(&mut Devices) -> R) -> R {
        let (result, wanted) = {
            let mut devices = self.devices.lock();
            let result = act(&mut devices);
            let wanted = devices.pc.take_attention();
            (result, wanted)
        };
        if wanted != 0 {
            self.call_all(cpu, wanted);
        }
        result
    }

    /// As [`Shared::with`], by a processor that has looked at all that there is for itself when `act` is done.
    #[inline]
    pub(crate) fn with_look<R>(&self, cpu: usize, act: impl FnOnce(&mut Devices) -> R) -> R {
        let (result, wanted) = {
            let mut devices = self.devices.lock();
            let result = act(&mut devices);
            let wanted = devices.pc.take_attention() & !((LOOK | NOTIFY) << cpu);
            (result, wanted)
        };
        if wanted != 0 {
            self.call_all(cpu, wanted);
        }
        result
    }

    fn call_all(&self, cpu: usize, wanted: u32) {
        let mut looks = wanted & (NOTIFY - 1);
        while looks != 0 {
            self.call(cpu, looks.trailing_zeros() as usize, attention::DEVICES);
            looks &= looks - 1;
        }
        if wanted >= NOTIFY {
            self.notify_all(cpu, wanted / NOTIFY);
        }
    }

    /// Notifies processors of what has been posted for them. The caller finds its own before it enters its guest.
    #[cold]
    fn notify_all(&self, cpu: usize, wanted: u32) {
        (0..self.count)
            .filter(|target| wanted >> target & 1 != 0 && *target != cpu)
            .for_each(interrupts::notify);
    }

    /// Processor `cpu` calls `target`, which may be itself.
    fn call(&self, cpu: usize, target: usize, bits: u32) {
        let Some(slot) = self.slots.get(target) else { return };
        let before = slot.attention.fetch_or(bits, Ordering::AcqRel);
        if before == 0 && target != cpu {
            interrupts::kick(target);
        }
    }

    /// Something waits for `cpu`: [`Shared::take_attention`] tells what.
    #[inline]
    pub(crate) fn wants(&self, cpu: usize) -> bool {
        self.slots.get(cpu).is_some_and(|slot| slot.attention.load(Ordering::Relaxed) != 0)
    }

    /// What waits for `cpu`, once.
    #[inline]
    pub(crate) fn take_attention(&self, cpu: usize) -> u32 {
        match self.slots.get(cpu) {
            Some(slot) if slot.attention.load(Ordering::Relaxed) != 0 => {
                slot.attention.swap(0, Ordering::AcqRel)
            }
            _ => 0,
        }
    }

    // Second-level translations.

    /// Processor `cpu` is in root mode and drops its translations before it enters the guest: it has found the call to,
    /// or made it.
    pub(crate) fn will_flush(&self, cpu: usize) {
        if let Some(slot) = self.slots.get(cpu) {
            slot.generation.store(self.generation.load(Ordering::Acquire), Ordering::Release);
        }
    }

    /// Has every processor drop what it has cached of the second-level tables, after a mapping has been taken away or
    /// restricted. Nobody waits for that here, for the device lock may be held: the number is what to ask
    /// [`Shared::has_dropped`] with.
    pub(crate) fn drop_all(&self) -> u32 {
        let generation = self.generation.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        for target in 0..self.count {
            // The caller is called too: it leaves the guest once more, and looks.
            self.call(usize::MAX, target, attention::FLUSH);
        }
        generation
    }

    /// Every processor has dropped what it had cached of this generation of the tables and older ones: what was mapped is
    /// out of the guest's reach. It need not have entered its guest again by then. It is enough that it has left it and
    /// will drop what it has cached before it enters: in root mode nothing is reached through these tables.
    pub(crate) fn has_dropped(&self, generation: u32) -> bool {
        self.slots
            .iter()
            .take(self.count)
            .all(|slot| slot.generation.load(Ordering::Acquire).wrapping_sub(generation).cast_signed() >= 0)
    }

    /// The guest's RAM can be taken from it, by `mapping`. May be called once.
    pub fn set_mapping(&self, mapping: &'static mut dyn Mapping) {
        self.mapping.call_once(|| Mutex::new(mapping));
    }

    /// Works on the mapping; `None` where it does not change.
    pub(crate) fn with_mapping<R>(&self, act: impl FnOnce(&mut dyn Mapping) -> R) -> Option<R> {
        let mut mapping = self.mapping.get()?.lock();
        Some(act(&mut **mapping))
    }

    /// Maps the page of RAM at a guest-physical address, if it has been taken. False where there is no RAM; true, if the
    /// access to it is to be tried again.
    pub fn touch(&self, address: u64) -> bool {
        self.with_mapping(|mapping| mapping.map(address & !0xfff)) == Some(true)
    }

    // Orders: given by the first processor, one at a time.

    /// Gives an order to all processors but the first, and waits until it is carried out. False: one did not answer.
    pub fn order_others(&self, order: Order) -> bool {
        for target in 1..self.count {
            self.give(target, order);
        }
        let mut all = true;
        for target in 1..self.count {
            all &= self.await_done(target);
        }
        all
    }

    fn give(&self, target: usize, order: Order) {
        let Some(slot) = self.slots.get(target) else { return };
        slot.order.store(order as u8, Ordering::Relaxed);
        slot.given.fetch_add(1, Ordering::Release);
        self.call(0, target, attention::ORDER);
    }

    fn await_done(&self, target: usize) -> bool {
        let Some(slot) = self.slots.get(target) else { return false };
        let given = slot.given.load(Ordering::Relaxed);
        let start = timer::now_tsc();
        while slot.done.load(Ordering::Acquire) != given {
            if timer::now_tsc().wrapping_sub(start) > self.answer_limit {
                error!("processor {target} does not answer");
                return false;
            }
            // The lines go on meanwhile.
            interrupts::window();
            core::hint::spin_loop();
        }
        true
    }

    /// The order for `cpu` that has not been carried out yet.
    pub(crate) fn order(&self, cpu: usize) -> Option<Order> {
        let slot = self.slots.get(cpu)?;
        let given = slot.given.load(Ordering::Acquire);
        (given != slot.done.load(Ordering::Relaxed))
            .then(|| Order::from_number(slot.order.load(Ordering::Relaxed)))
    }

    /// `cpu` has carried its order out.
    pub(crate) fn order_done(&self, cpu: usize) {
        if let Some(slot) = self.slots.get(cpu) {
            slot.done.store(slot.given.load(Ordering::Relaxed), Ordering::Release);
        }
    }

    /// Lets others read `cpu`'s registers.
    pub(crate) fn publish(&self, cpu: usize, take: impl FnOnce(&mut Registers)) {
        if let Some(slot) = self.slots.get(cpu) {
            take(&mut slot.registers.lock());
        }
    }

    /// The registers of a processor other than the first, as they are now: it is called to leave a copy. `None` where
    /// there is no such processor.
    pub fn registers(&self, cpu: usize) -> Option<Registers> {
        if cpu == 0 || cpu >= self.count {
            return None;
        }
        self.give(cpu, Order::Publish);
        // An old copy is better than none; that there was no answer is on the log.
        let _ = self.await_done(cpu);
        Some(self.slots.get(cpu)?.registers.lock().clone())
    }

    /// Processor `cpu` cannot go on: the first one is told.
    pub(crate) fn report(&self, cpu: usize, halt: Halt) {
        {
            let mut first = self.halt.lock();
            if first.is_none() {
                *first = Some(halt);
            }
        }
        self.call(cpu, 0, attention::HALT);
    }

    /// Why another processor cannot go on.
    pub(crate) fn take_halt(&self) -> Option<Halt> {
        self.halt.lock().take()
    }

    /// Processor `cpu` has found a request of the devices, which the first one serves.
    pub(crate) fn call_first(&self, cpu: usize) {
        self.call(cpu, 0, attention::DEVICES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use monovisor_arch::{Inbox, PostedInterrupts};
    use monovisor_devices::PcConfig;

    /// x2APIC registers.
    const APIC_BASE: u32 = 0x1b;
    const SVR: u32 = 0x80f;
    const ICR: u32 = 0x830;

    fn shared(vcpus: u8) -> Box<Shared> {
        let config = PcConfig {
            vcpus,
            tsc_hz: 1_000_000_000,
            address_bits: 40,
            low_ram: 1 << 20,
            high_ram: 0,
            debug_exit: None,
        };
        let ram = Box::leak(Box::new(GuestRam::new()));
        let slots: &'static Slots = Box::leak(Box::new([const { Slot::new() }; MAX_VCPUS]));
        let shared = Shared::new(Pc::new(&config), slots, ram, Clock::new(1_000_000_000), Backend::new(None));
        shared.with(0, |devices| devices.pc.reset(0));
        for cpu in 0..usize::from(vcpus) {
            for (index, value) in [(APIC_BASE, 0xfee0_0c00 | u64::from(cpu == 0) << 8), (SVR, 0x1ff)] {
                shared.with(cpu, |devices| devices.pc.apic_msr_write(cpu, index, value, 0)).unwrap();
            }
        }
        for cpu in 0..usize::from(vcpus) {
            shared.take_attention(cpu);
        }
        Box::new(shared)
    }

    fn send(shared: &Shared, from: usize, icr: u64) {
        shared.with(from, |devices| devices.pc.apic_msr_write(from, ICR, icr, 0)).unwrap();
    }

    #[test]
    fn who_gets_an_interrupt_is_called_and_no_other() {
        let shared = shared(4);
        send(&shared, 0, 2 << 32 | 0x40);
        assert!(shared.wants(2) && !shared.wants(1) && !shared.wants(3));
        // The sender has nothing to look at.
        assert_eq!(shared.take_attention(0), 0);
        assert_eq!(shared.take_attention(2), attention::DEVICES);
        assert_eq!(shared.take_attention(2), 0);
        // All but itself.
        send(&shared, 3, 3 << 18 | 0x41);
        assert!((0..3).all(|cpu| shared.take_attention(cpu) == attention::DEVICES));
    }

    #[test]
    fn who_is_posted_to_is_not_called() {
        static POSTED: PostedInterrupts = PostedInterrupts::new();
        let shared = shared(3);
        shared.with(1, |devices| devices.pc.hand_over(1, Some(Inbox::Descriptor(&POSTED))));
        // To the others, and to itself.
        for (from, icr) in [(0, 3 << 18 | 0x40), (1, 1 << 18 | 0x41)] {
            send(&shared, from, icr);
            assert!(!shared.wants(1) && POSTED.take()[2] != 0);
        }
        assert_eq!([0, 2].map(|cpu| shared.take_attention(cpu)), [0, attention::DEVICES]);
        // An NMI calls it as ever.
        send(&shared, 0, 3 << 18 | 4 << 8);
        assert_eq!(shared.take_attention(1), attention::DEVICES);
    }

    #[test]
    fn start_up_messages_call_their_processor() {
        let shared = shared(2);
        send(&shared, 0, 1 << 32 | 5 << 8 | 1 << 14);
        assert_eq!(shared.take_attention(1), attention::DEVICES);
        send(&shared, 0, 1 << 32 | 6 << 8 | 0x9a);
        assert_eq!(shared.take_attention(1), attention::DEVICES);
    }

    #[test]
    fn a_timer_set_by_another_processor_calls_the_first() {
        let shared = shared(2);
        // 8254, counter 0: mode 2, 1000 ticks; its first use makes the deadline sooner.
        shared.with(0, |devices| devices.pc.take_attention());
        for (port, value) in [(0x43, 0x34), (0x40, 0xe8), (0x40, 0x03)] {
            shared.with(1, |devices| devices.pc.io_write(port, 1, value, 0, &mut devices.backend));
        }
        assert_eq!(shared.take_attention(0) & attention::DEVICES, attention::DEVICES);
    }

    #[test]
    fn what_a_processor_looks_at_itself_does_not_call_it() {
        let shared = shared(2);
        // An NMI to all, itself included.
        shared.with_look(0, |devices| devices.pc.apic_msr_write(0, ICR, 2 << 18 | 4 << 8, 0)).unwrap();
        assert!(!shared.wants(0) && shared.wants(1));
    }

    #[test]
    fn orders_wait_until_they_are_carried_out() {
        let shared = shared(2);
        assert_eq!(shared.order(1), None);
        shared.give(1, Order::Reset);
        assert_eq!(shared.take_attention(1), attention::ORDER);
        assert_eq!(shared.order(1), Some(Order::Reset));
        shared.publish(1, |registers| registers.halted = true);
        shared.order_done(1);
        assert_eq!(shared.order(1), None);
        assert!(shared.await_done(1));
        // With nobody but the first there is nobody to wait for.
        assert!(super::tests::shared(1).order_others(Order::Park));
        assert!(shared.registers(0).is_none() && shared.registers(2).is_none());
    }

    #[test]
    fn the_first_reason_for_a_halt_counts() {
        let shared = shared(2);
        shared.report(1, Halt::TripleFault);
        shared.report(1, Halt::MachineCheck);
        assert_eq!(shared.take_attention(0), attention::HALT);
        assert_eq!(shared.take_halt(), Some(Halt::TripleFault));
        assert_eq!(shared.take_halt(), None);
    }

    #[test]
    fn translations_are_dropped_by_all() {
        let shared = shared(2);
        let first = shared.drop_all();
        assert!((0..2).all(|cpu| shared.take_attention(cpu) == attention::FLUSH));
        shared.will_flush(0);
        assert!(!shared.has_dropped(first));
        let second = shared.drop_all();
        shared.will_flush(1);
        // Who drops the newest state has none of the older ones.
        assert!(shared.has_dropped(first) && !shared.has_dropped(second));
        shared.will_flush(0);
        assert!(shared.has_dropped(second));
    }
}

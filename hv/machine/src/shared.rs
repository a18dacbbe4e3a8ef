//! What the processors of one guest share, and how they get each other's attention.
//!
//! # The device lock
//!
//! Devices, their back ends and the clock are behind one spin lock ([`Shared::with`]). It is the only lock on the way of
//! an exit. It is held for one access, with interrupts off, and nothing waits while it is held. What needs no device
//! (CPUID, XSETBV, most MSRs, the ACPI PM timer, which is the time in another unit) takes no lock.
//!
//! Order of locks: a copy of registers ([`Shared::publish`]) is never held together with another lock; behind the
//! device lock come those of the parts that devices are connected to: a serial line, the file store, the trace's ring,
//! the log. Nobody takes the device lock while he holds one of these.
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
use monovisor_devices::{Pc, Request};
use monovisor_host::{error, interrupts, timer};
use spin::Mutex;

use crate::backend::Backend;
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
const ORDER_LIMIT_NS: u64 = 1_000_000_000;

/// What others can reach of one processor. Apart, so that one's word does not share a cache line with another's.
#[repr(align(64))]
struct Slot {
    attention: AtomicU32,
    order: AtomicU8,
    /// Counts orders given, and those carried out.
    given: AtomicU32,
    done: AtomicU32,
    registers: Mutex<Registers>,
}

impl Slot {
    const fn new() -> Self {
        Self {
            attention: AtomicU32::new(0),
            order: AtomicU8::new(0),
            given: AtomicU32::new(0),
            done: AtomicU32::new(0),
            registers: Mutex::new(Registers::new()),
        }
    }
}

/// What the processors of one guest share.
pub struct Shared {
    devices: Mutex<Devices>,
    ram: &'static GuestRam,
    count: usize,
    slots: [Slot; MAX_VCPUS],
    /// Why a processor other than the first cannot go on.
    halt: Mutex<Option<Halt>>,
}

impl Shared {
    /// A guest of `pc`'s number of processors.
    pub fn new(pc: Pc, ram: &'static GuestRam, clock: Clock, backend: Backend) -> Self {
        let count = usize::from(pc.config().vcpus).clamp(1, MAX_VCPUS);
        let kvm_clock = KvmClock::new(clock.tsc_hz());
        Self {
            devices: Mutex::new(Devices { pc, backend, clock, kvm_clock }),
            ram,
            count,
            slots: [const { Slot::new() }; MAX_VCPUS],
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
            let wanted = devices.pc.take_attention() & !(1 << cpu);
            (result, wanted)
        };
        if wanted != 0 {
            self.call_all(cpu, wanted);
        }
        result
    }

    fn call_all(&self, cpu: usize, wanted: u32) {
        for target in 0..self.count {
            if wanted & 1 << target != 0 {
                self.call(cpu, target, attention::DEVICES);
            }
        }
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
        let limit = Clock::new(timer::tsc_hz()).ticks(ORDER_LIMIT_NS);
        while slot.done.load(Ordering::Acquire) != given {
            if timer::now_tsc().wrapping_sub(start) > limit {
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

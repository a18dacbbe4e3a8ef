//! What a device may do while it is called: take chains, give them back, interrupt.

use monovisor_arch::GuestMemory;

use super::queue::{Chain, Mark, Queue, QueueError};
use super::registers::Registers;
use crate::pci::MsiX;

/// Interrupt status: a queue (virtio 1.2, 4.1.4.5).
pub(super) const ISR_QUEUE: u8 = 1;
/// Interrupt status: the configuration.
pub(super) const ISR_CONFIG: u8 = 1 << 1;

/// A device's way to its driver, for one call.
pub struct Context<'a> {
    pub(super) registers: &'a mut Registers,
    pub(super) msix: &'a mut MsiX,
    pub(super) chain: &'a mut Chain,
    pub(super) memory: &'a dyn GuestMemory,
    pub(super) now: u64,
}

impl<'a> Context<'a> {
    /// Virtual time in nanoseconds.
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Guest RAM.
    #[inline]
    pub const fn memory(&self) -> &'a dyn GuestMemory {
        self.memory
    }

    /// The driver has accepted all of these features.
    pub const fn has(&self, features: u64) -> bool {
        self.registers.driver_features & features == features
    }

    /// The driver is there and has broken no rule: there may be chains.
    #[inline]
    pub const fn running(&self) -> bool {
        self.registers.running()
    }

    fn queue(&mut self, queue: u16) -> Option<&mut Queue> {
        if !self.registers.running() {
            return None;
        }
        self.registers.queue(queue)
    }

    /// The next chain of a queue is now [`Context::chain`]; the number to give it back by.
    #[inline]
    pub fn next(&mut self, queue: u16) -> Option<u16> {
        if !self.running() {
            return None;
        }
        let features = self.registers.ring_features();
        let result = self.registers.queue(queue)?.pop(self.memory, features, self.chain);
        self.checked(result).flatten()
    }

    /// Whether [`Context::next`] would find a chain; if not, the driver notifies when there is one.
    pub fn available(&mut self, queue: u16) -> bool {
        if !self.running() {
            return false;
        }
        let features = self.registers.ring_features();
        let Some(ring) = self.registers.queue(queue).filter(|ring| ring.ready) else { return false };
        let result = ring.has_available(self.memory, features);
        self.checked(result).unwrap_or(false)
    }

    /// Puts the chain that [`Context::next`] gave last back to where it was.
    pub fn put_back(&mut self, queue: u16) {
        if let Some(ring) = self.queue(queue) {
            ring.unpop();
        }
    }

    /// Where a queue is: [`Context::roll_back`] comes back to it.
    pub fn mark(&mut self, queue: u16) -> Option<Mark> {
        Some(self.queue(queue)?.mark())
    }

    /// Puts all chains back that have been taken since `mark`, whether they have been completed or not. Nothing may have
    /// been signalled since.
    pub fn roll_back(&mut self, queue: u16, mark: Mark) {
        if let Some(ring) = self.queue(queue) {
            ring.roll_back(mark);
        }
    }

    /// The chain `head`, taken before, is [`Context::chain`] again. False when that cannot be.
    pub fn reload(&mut self, queue: u16, head: u16) -> bool {
        if !self.running() {
            return false;
        }
        let features = self.registers.ring_features();
        let Some(ring) = self.registers.queue(queue) else { return false };
        let result = ring.load(self.memory, features, head, self.chain);
        self.checked(result).is_some()
    }

    /// The buffers of the chain taken last.
    #[inline]
    pub const fn chain(&self) -> &Chain {
        self.chain
    }

    /// Gives a chain back. `written` is how many bytes of its writable part, from the start, have been filled.
    #[inline]
    pub fn complete(&mut self, queue: u16, head: u16, written: u32) {
        let memory = self.memory;
        if let Some(ring) = self.queue(queue) {
            let result = ring.push(memory, head, written);
            let _ = self.checked(result);
        }
    }

    /// Shows the driver what has been given back, and interrupts it if it wants that.
    pub fn signal(&mut self, queue: u16) {
        let memory = self.memory;
        let features = self.registers.ring_features();
        let Some(ring) = self.queue(queue) else { return };
        let vector = ring.vector;
        let result = ring.publish(memory, features);
        if self.checked(result) == Some(true) {
            self.interrupt(vector, ISR_QUEUE);
        }
    }

    /// The configuration has changed: counts its generation on and interrupts.
    pub fn config_changed(&mut self) {
        self.registers.generation = self.registers.generation.wrapping_add(1);
        if self.registers.driver_ok() {
            self.interrupt(self.registers.config_vector, ISR_CONFIG);
        }
    }

    /// The driver has broken a rule: the device needs a reset and does nothing before it gets one.
    #[cold]
    pub fn fail(&mut self, error: impl Into<QueueError>) {
        self.registers.last_error = Some(error.into());
        if self.registers.need_reset() {
            self.interrupt(self.registers.config_vector, ISR_CONFIG);
        }
    }

    /// There is more to do: [`super::Device::poll`] is to be called when others have had a turn.
    pub const fn again(&mut self) {
        self.registers.again = true;
    }

    /// There is something that the services should look at: `Pc::take_request` says so.
    pub const fn tell(&mut self) {
        self.registers.told = true;
    }

    /// There is something for other devices of the machine: [`super::net::hub`] is called when this call is over.
    pub(super) const fn forward(&mut self) {
        self.registers.forward = Some(self.now);
    }

    fn checked<T>(&mut self, result: Result<T, QueueError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    fn interrupt(&mut self, vector: u16, status: u8) {
        if self.msix.enabled() {
            self.msix.raise(vector);
        } else {
            self.registers.isr |= status;
        }
    }
}

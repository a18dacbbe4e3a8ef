//! The loop of the processors that serve no monitor: run the guest, follow the orders of the first one.

use monovisor_arch::Vcpu;
use monovisor_host::interrupts::{self, Sources};

use super::{Cold, Machine, SliceEnd};
use crate::shared::{Order, attention};

/// What keeps a processor other than the first from running the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// Nothing.
    No,
    /// The guest stands still.
    Parked,
    /// A request of the devices that the first processor has not taken yet.
    Request,
    /// Its guest cannot go on.
    Stopped,
}

impl<V: Vcpu + 'static> Machine<V> {
    /// Runs this processor, other than the first, for good. It begins parked; `slice` runs the guest.
    pub fn follow(mut self, slice: fn(&mut Self) -> SliceEnd) -> ! {
        let mut held = Held::Parked;
        loop {
            if interrupts::take().contains(Sources::TIMER) {
                self.timer_fired();
            }
            if self.shared.order(self.index).is_some() {
                held = self.cold().obey(held);
            }
            if held == Held::Request && !self.with(|devices| devices.pc.has_request()) {
                held = Held::No;
            }
            if held != Held::No {
                // Whoever calls next must find the word empty, for then he sends an interrupt.
                let wanted = self.shared.take_attention(self.index);
                self.look = true;
                self.drop_translations(wanted);
                if wanted & attention::ORDER == 0 {
                    interrupts::wait();
                }
                continue;
            }
            match slice(&mut self) {
                SliceEnd::Service => interrupts::window(),
                SliceEnd::Idle => interrupts::wait(),
                SliceEnd::Order => {}
                SliceEnd::Request => {
                    held = Held::Request;
                    self.shared.call_first(self.index);
                }
                SliceEnd::Stop(halt) => {
                    held = Held::Stopped;
                    self.shared.report(self.index, halt);
                }
            }
        }
    }
}

impl Machine<dyn Vcpu> {
    /// Carries out the order that waits; what holds the processor afterwards.
    fn obey(&mut self, held: Held) -> Held {
        let Some(order) = self.shared.order(self.index) else { return held };
        let held = match order {
            Order::Publish => held,
            Order::Park => {
                if held == Held::Stopped {
                    Held::Stopped
                } else {
                    Held::Parked
                }
            }
            Order::Run => {
                self.follow_clock();
                if held == Held::Stopped { Held::Stopped } else { Held::No }
            }
            Order::Reset => {
                self.reset();
                Held::Parked
            }
        };
        if order != Order::Run {
            self.shared.publish(self.index, |registers| self.take_registers(registers));
        }
        self.shared.order_done(self.index);
        held
    }
}

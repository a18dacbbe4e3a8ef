//! The local APICs of all processors and the delivery of messages to them.

use super::local::LocalApic;
use super::{Delivery, Message};
use monovisor_arch::layout::MAX_VCPUS;

/// All local APICs.
#[derive(Clone, Debug)]
pub struct LocalApics {
    apics: [LocalApic; MAX_VCPUS],
    count: u8,
    /// Where the search for the lowest priority starts, so that equals take turns.
    turn: u8,
}

impl LocalApics {
    /// Local APICs of `count` processors (1 to [`MAX_VCPUS`]).
    pub const fn new(count: u8, tsc_hz: u64, address_bits: u8) -> Self {
        let mut apics = [const { LocalApic::new(0, 1, 36) }; MAX_VCPUS];
        let mut index = 0;
        while index < MAX_VCPUS {
            apics[index] = LocalApic::new(index as u8, tsc_hz, address_bits);
            index += 1;
        }
        let most = MAX_VCPUS as u8;
        let count = if count == 0 {
            1
        } else if count > most {
            most
        } else {
            count
        };
        Self { apics, count, turn: 0 }
    }

    /// How many processors there are.
    pub const fn count(&self) -> usize {
        self.count as usize
    }

    /// One of them.
    #[inline]
    pub fn get(&self, vcpu: usize) -> Option<&LocalApic> {
        if vcpu < self.count() { self.apics.get(vcpu) } else { None }
    }

    /// One of them.
    #[inline]
    pub fn get_mut(&mut self, vcpu: usize) -> Option<&mut LocalApic> {
        if vcpu < self.count() { self.apics.get_mut(vcpu) } else { None }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &LocalApic> {
        self.apics.iter().take(self.count())
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut LocalApic> {
        self.apics.iter_mut().take(usize::from(self.count))
    }

    /// Delivers a message from the I/O APIC or an MSI, whose destination has 8 bits.
    pub fn deliver(&mut self, message: Message) {
        self.send(message, 0, 0, false);
    }

    /// Sends the interrupt command that processor `vcpu` has written, if there is one. The vector whose end it
    /// wants broadcast comes back.
    #[inline]
    pub fn settle(&mut self, vcpu: usize) -> Option<u8> {
        let apic = self.get_mut(vcpu)?;
        apic.settle();
        let x2apic = apic.x2apic();
        let ended = apic.take_ended();
        if let Some((message, shorthand)) = apic.take_command() {
            self.send(message, shorthand, vcpu, x2apic);
        }
        ended
    }

    fn send(&mut self, message: Message, shorthand: u8, sender: usize, x2apic: bool) {
        let mut targets = 0u32;
        for (index, apic) in self.iter().enumerate() {
            let hit = match shorthand {
                1 => index == sender,
                2 => apic.enabled(),
                3 => apic.enabled() && index != sender,
                _ => apic.matches(message.logical, message.destination, x2apic),
            };
            targets |= u32::from(hit) << index;
        }
        if message.delivery == Delivery::LowestPriority {
            targets = self.lowest(targets);
        }
        for (index, apic) in self.iter_mut().enumerate() {
            if targets & 1 << index != 0 {
                apic.accept(message.delivery, message.vector, message.level);
            }
        }
    }

    /// Picks the target of lowest priority (SDM vol. 3, 11.6.2.4).
    fn lowest(&mut self, targets: u32) -> u32 {
        let mut best: Option<(u8, usize)> = None;
        for step in 0..self.count() {
            let index = (usize::from(self.turn) + step) % self.count();
            if targets & 1 << index == 0 {
                continue;
            }
            let Some(apic) = self.get(index) else { continue };
            let priority = apic.arbitration_priority();
            if best.is_none_or(|(lowest, _)| priority < lowest) {
                best = Some((priority, index));
            }
        }
        match best {
            Some((_, index)) => {
                self.turn = ((index + 1) % self.count()) as u8;
                1 << index
            }
            None => 0,
        }
    }

    /// The processors that are to be called since this was last asked: [`super::local::LOOK`] and [`super::local::NOTIFY`] of each.
    #[inline]
    pub fn take_attention(&mut self) -> u32 {
        let mut wanted = 0;
        for (index, apic) in self.iter_mut().enumerate() {
            wanted |= apic.take_attention() << index;
        }
        wanted
    }
}

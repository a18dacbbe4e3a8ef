//! The PCI bus: functions of the chip set, devices in slots, their BARs and interrupts.

use super::*;
use crate::virtio::net::hub;
use monovisor_arch::layout::{
    PCI_FUNCTION_POWER, PCI_SLOT_FIRST_FREE, PCI_SLOT_HOST_BRIDGE, PCI_SLOT_ISA_BRIDGE,
};

/// Most devices in slots: as many as a machine is given, with room for as many again.
pub const MAX_FUNCTIONS: usize = 16;

/// Ports of BARs are above those of the chip set's own devices: a BAR below decodes nothing.
pub(super) const FIRST_BAR_PORT: u16 = 0x1000;

/// Slots of a bus.
const SLOTS: u8 = 32;

/// Why a device cannot be put into a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// There are [`MAX_FUNCTIONS`] devices already.
    Full,
    /// Something else is in that slot, or there is no such slot.
    Taken,
}

/// A function on bus 0.
#[derive(Clone, Copy, Debug)]
pub struct PciFunction<'a> {
    /// Where it is; offset 0.
    pub address: Address,
    /// Its configuration space.
    pub space: &'a ConfigSpace,
    /// The operator's name of the device; empty where it has none.
    pub name: &'static str,
    /// How many MSI-X vectors it has.
    pub vectors: u8,
}

impl Pc {
    /// Puts a device on the bus, at its own slot. It is reset with the machine.
    pub fn attach(&mut self, function: &'static mut VirtioPci) -> Result<(), SlotError> {
        let slot = function.address().slot;
        if !self.slot_is_free(slot) {
            return Err(SlotError::Taken);
        }
        self.functions.push(function).map_err(|_| SlotError::Full)?;
        self.stale = true;
        Ok(())
    }

    fn slot_is_free(&self, slot: u8) -> bool {
        (PCI_SLOT_FIRST_FREE..SLOTS).contains(&slot)
            && self.functions.iter().all(|function| function.address().slot != slot)
    }

    /// The first slot that nothing is in, and that is not one of `kept`, a bit each.
    pub fn free_slot(&self, kept: u32) -> Option<u8> {
        (PCI_SLOT_FIRST_FREE..SLOTS).find(|slot| self.slot_is_free(*slot) && kept & 1 << slot == 0)
    }

    /// The PCI functions of bus 0: those of the chip set in the order of their addresses, then the devices in the order
    /// in which they were attached.
    pub fn pci_functions(&self) -> impl Iterator<Item = PciFunction<'_>> {
        let at = |slot, function, space| PciFunction {
            address: Address { bus: 0, slot, function, offset: 0 },
            space,
            name: "",
            vectors: 0,
        };
        [
            at(PCI_SLOT_HOST_BRIDGE, 0, &self.chipset.host_bridge),
            at(PCI_SLOT_ISA_BRIDGE, 0, &self.chipset.isa_bridge),
            at(PCI_SLOT_ISA_BRIDGE, PCI_FUNCTION_POWER, &self.chipset.power),
        ]
        .into_iter()
        .chain(self.functions.iter().map(|function| PciFunction {
            address: function.address(),
            space: function.space(),
            name: function.name(),
            vectors: function.vectors(),
        }))
    }

    /// Works with the device in a slot, if it is of that type: input from outside, or a question about its state. What
    /// it interrupts for is delivered.
    pub fn with_virtio<T: Device, R>(
        &mut self,
        slot: u8,
        now: u64,
        work: impl FnOnce(&mut T, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let index = self.functions.iter().position(|function| function.address().slot == slot)?;
        let result = self.functions.get_mut(index)?.with(now, work);
        self.settle_function(index);
        result
    }

    /// The devices of a type, with their slots.
    pub fn virtio_devices<T: Device>(&self) -> impl Iterator<Item = (u8, &T)> {
        self.functions.iter().filter_map(|function| Some((function.address().slot, function.device::<T>()?)))
    }

    /// The slot of the first device of a type.
    pub fn find_virtio<T: Device>(&self) -> Option<u8> {
        self.virtio_devices::<T>().next().map(|(slot, _)| slot)
    }

    /// Lets devices look at their queues whose time has come.
    pub(super) fn poll_functions(&mut self, now: u64) {
        for index in 0..self.functions.len() {
            let Some(function) = self.functions.get_mut(index) else { return };
            if function.deadline().is_some_and(|deadline| deadline <= now) {
                function.poll(now);
                self.settle_function(index);
            }
        }
    }

    /// A write to a BAR's port. False if there is none.
    #[inline]
    pub(super) fn notify_function(&mut self, port: u16, queue: u16, now: u64) -> bool {
        let Some(index) = self.functions.iter().position(|function| function.is_notify_port(port)) else {
            return false;
        };
        if let Some(function) = self.functions.get_mut(index) {
            function.notify(queue, now);
        }
        self.settle_function(index);
        true
    }

    pub(super) fn read_bar(&mut self, address: u64, size: u8) -> Option<u64> {
        for index in 0..self.functions.len() {
            if let Some(value) = self.functions.get_mut(index)?.memory_read(address, size) {
                self.settle_function(index);
                return Some(value);
            }
        }
        None
    }

    pub(super) fn write_bar(&mut self, address: u64, size: u8, value: u64, now: u64) -> bool {
        for index in 0..self.functions.len() {
            let Some(function) = self.functions.get_mut(index) else { return false };
            if function.memory_write(address, size, value, now) {
                self.settle_function(index);
                return true;
            }
        }
        false
    }

    /// After a call of a device: lets it reach others, sends its messages, drives its line, and looks when it wants to be
    /// called.
    #[inline]
    pub(super) fn settle_function(&mut self, index: usize) {
        if let Some(now) = self.functions.get_mut(index).and_then(|function| function.take_forward()) {
            self.forward(index, now);
        }
        self.settle_own(index);
    }

    /// Lets a network card reach the others.
    fn forward(&mut self, index: usize, now: u64) {
        let called = hub::forward(&mut self.functions, index, now);
        for other in (0..self.functions.len()).filter(|other| *other != index && called & 1 << other != 0) {
            self.settle_own(other);
        }
    }

    #[inline]
    fn settle_own(&mut self, index: usize) {
        let Some(function) = self.functions.get_mut(index) else { return };
        while let Some(message) = function.take_message() {
            self.apics.deliver(message);
        }
        self.told |= function.take_told();
        let (wants, has) = (function.deadline(), self.deadline);
        // An earlier one counts at once; one that has gone is found when the old one comes.
        self.stale |= wants.is_some_and(|wants| has.is_none_or(|has| wants < has));
        let pin = function.intx();
        if pin || self.pci_lines != 0 {
            self.settle_pci_lines();
        }
    }

    /// Drives the lines that INTx interrupts are routed to; several may share one.
    fn settle_pci_lines(&mut self) {
        let mut lines = 0u16;
        for function in self.functions.iter().filter(|function| function.intx()) {
            let pirq = layout::pirq(function.address().slot, 0);
            if let Some(line) = self.chipset.pirq_route(pirq) {
                lines |= 1 << (line & 15);
            }
        }
        let changed = lines ^ core::mem::replace(&mut self.pci_lines, lines);
        for line in (0..16u8).filter(|line| changed & 1 << line != 0) {
            self.set_line(line, Driver::Pci, lines & 1 << line != 0);
        }
    }

    // Configuration space.

    pub(super) fn read_function(&mut self, address: Address, size: u8) -> Option<u32> {
        if let Some(space) = self.chip(address) {
            return Some(space.read(address.offset, size));
        }
        let index = self.function_at(address)?;
        let value = self.functions.get_mut(index)?.config_read(address.offset, size);
        self.settle_function(index);
        Some(value)
    }

    pub(super) fn write_function(&mut self, address: Address, size: u8, value: u32, now: u64) {
        if let Some(space) = self.chip(address) {
            space.write(address.offset, size, value);
            // The interrupt routing may have changed.
            self.settle_pci_lines();
        } else if let Some(index) = self.function_at(address) {
            if let Some(function) = self.functions.get_mut(index) {
                function.config_write(address.offset, size, value, now);
            }
            self.settle_function(index);
        }
    }

    /// A function of the chip set.
    fn chip(&mut self, address: Address) -> Option<&mut ConfigSpace> {
        match (address.bus, address.slot, address.function) {
            (0, PCI_SLOT_HOST_BRIDGE, 0) => Some(&mut self.chipset.host_bridge),
            (0, PCI_SLOT_ISA_BRIDGE, 0) => Some(&mut self.chipset.isa_bridge),
            (0, PCI_SLOT_ISA_BRIDGE, PCI_FUNCTION_POWER) => Some(&mut self.chipset.power),
            _ => None,
        }
    }

    fn function_at(&self, address: Address) -> Option<usize> {
        let here = Address { offset: 0, ..address };
        self.functions.iter().position(|function| function.address() == here)
    }
}

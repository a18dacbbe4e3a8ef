//! A virtio device as a PCI function (virtio 1.2, 4.1).
//!
//! | BAR | what |
//! |---|---|
//! | 0 | ports: notifications, one for all queues. An OUT costs the guest a small part of what an access to memory does |
//! | 1 | memory: MSI-X table and pending bits |
//! | 4 | memory: common configuration, ISR status, device configuration, and notifications for drivers that know no ports |
//!
//! The capability for notifications by ports comes before the other: that is the device's preference (4.1.4).

use core::any::Any;
use core::fmt;

use monovisor_arch::{GuestMemory, layout};

use super::context::Context;
use super::queue::Chain;
use super::registers::{self, Action, Registers};
use super::{CONFIG_SIZE, Device, MAX_QUEUES};
use crate::apic::Message;
use crate::clock;
use crate::pci::config::{COMMAND_INTX_OFF, COMMAND_MASTER, Identity, header};
use crate::pci::msix::{self, MAX_VECTORS, MsiX};
use crate::pci::{Address, ConfigSpace};

/// Vendor of all virtio devices, and of the subsystem that QEMU shows.
const VENDOR: u16 = 0x1af4;
/// PCI device ID of virtio device 0 (4.1.2).
const FIRST_DEVICE: u16 = 0x1040;
const SUBSYSTEM: u16 = 0x1100;

/// BAR with the notification port.
const NOTIFY_BAR: u8 = 0;
/// Its ports: the least that an I/O BAR can have.
const NOTIFY_PORTS: u16 = 4;
/// BAR with the MSI-X table.
const TABLE_BAR: u8 = 1;
const TABLE_SIZE: u32 = 0x1000;
/// BAR with the registers.
const REGISTER_BAR: u8 = 4;
const REGISTER_SIZE: u32 = 0x4000;

// What is where in the registers' BAR, a page each so that a guest can map them apart.
const COMMON: u32 = 0;
const ISR: u32 = 0x1000;
const CONFIG: u32 = 0x2000;
const NOTIFY: u32 = 0x3000;

/// Types of structures (4.1.4).
const TYPE_COMMON: u8 = 1;
const TYPE_NOTIFY: u8 = 2;
const TYPE_ISR: u8 = 3;
const TYPE_CONFIG: u8 = 4;
const TYPE_PCI: u8 = 5;

// Capabilities: where each is, and PCI's numbers for them.
const CAP_MSIX: u8 = 0x40;
const CAP_COMMON: u8 = 0x4c;
const CAP_ISR: u8 = 0x5c;
const CAP_CONFIG: u8 = 0x6c;
const CAP_NOTIFY_PORT: u8 = 0x7c;
const CAP_NOTIFY: u8 = 0x90;
const CAP_PCI: u8 = 0xa4;
/// The data register of the configuration access capability.
const PCI_DATA: u8 = CAP_PCI + 16;
const ID_MSIX: u8 = 0x11;
const ID_VENDOR: u8 = 0x09;

/// Status: an INTx interrupt is pending; there is a list of capabilities.
const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// A BAR that decodes nothing.
const NOWHERE: u64 = u64::MAX;

/// A virtio device on the bus.
pub struct VirtioPci {
    slot: u8,
    name: &'static str,
    space: ConfigSpace,
    msix: MsiX,
    registers: Registers,
    chain: Chain,
    memory: &'static (dyn GuestMemory + Sync),
    device: &'static mut dyn Device,
    /// Where the BARs are, as far as they decode anything. 0 is no port of a BAR.
    notify_port: u16,
    table_at: u64,
    registers_at: u64,
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci")
            .field("slot", &self.slot)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl VirtioPci {
    /// Puts `device` into slot `slot` of bus 0; `name` is the operator's name of it, or empty.
    pub fn new(
        slot: u8,
        name: &'static str,
        memory: &'static (dyn GuestMemory + Sync),
        device: &'static mut dyn Device,
    ) -> Self {
        let queues = device.queues().min(MAX_QUEUES as u16);
        let vectors = (queues as u8).saturating_add(1).min(MAX_VECTORS as u8);
        let mut function = Self {
            slot: slot & 31,
            name,
            space: ConfigSpace::empty(),
            msix: MsiX::new(vectors),
            registers: Registers::new(device.features(), queues, vectors.into()),
            chain: Chain::new(),
            memory,
            device,
            notify_port: 0,
            table_at: NOWHERE,
            registers_at: NOWHERE,
        };
        function.reset();
        function
    }

    /// Does not offer these features of the transport.
    pub const fn withhold(&mut self, features: u64) {
        self.registers.offered &= !features;
    }

    /// Has so many MSI-X vectors; with none it has no MSI-X at all, only INTx.
    pub fn set_vectors(&mut self, vectors: u8) {
        self.msix = MsiX::new(vectors);
        self.registers.vectors = self.msix.vectors().into();
        self.reset();
    }

    /// How many MSI-X vectors it has.
    pub const fn vectors(&self) -> u8 {
        self.msix.vectors()
    }

    /// The operator's name of the device.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Where the function is; offset 0.
    pub const fn address(&self) -> Address {
        Address { bus: 0, slot: self.slot, function: 0, offset: 0 }
    }

    /// Its configuration space.
    pub const fn space(&self) -> &ConfigSpace {
        &self.space
    }

    /// The device, if it is of that type.
    pub fn device<T: Device>(&self) -> Option<&T> {
        let device: &dyn Any = &*self.device;
        device.downcast_ref()
    }

    /// Power-up, with the BARs where firmware would put them.
    pub fn reset(&mut self) {
        self.reset_device();
        self.registers.master = false;
        self.registers.generation = 0;
        self.msix = MsiX::new(self.msix.vectors());
        self.space = self.power_up();
        self.decode();
    }

    fn reset_device(&mut self) {
        self.device.reset();
        let device = &self.device;
        self.registers.reset(|queue| device.queue_size(queue));
    }

    fn power_up(&self) -> ConfigSpace {
        let kind = self.device.kind();
        let mut space = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: FIRST_DEVICE.wrapping_add(kind.id),
            revision: 1,
            class: kind.class,
            subsystem_vendor: VENDOR,
            subsystem: SUBSYSTEM,
        });
        space.set(header::STATUS, STATUS_CAPABILITIES);
        let msix = self.msix.vectors() != 0;
        space.set(header::CAPABILITIES, if msix { CAP_MSIX } else { CAP_COMMON });
        let irq = layout::PIRQ_IRQ.get(layout::pirq(self.slot, 0)).copied().unwrap_or(0);
        space.set(header::INTERRUPT_LINE, irq);
        space.set(header::INTERRUPT_PIN, 1);

        space.io_bar(NOTIFY_BAR, NOTIFY_PORTS.into());
        if msix {
            space.memory_bar(TABLE_BAR, TABLE_SIZE);
        }
        space.memory_bar(REGISTER_BAR, REGISTER_SIZE);
        let slot = u32::from(self.slot);
        let ports = u32::from(layout::PCI_IO_BASE) + slot * u32::from(NOTIFY_PORTS);
        let base = layout::PCI_MEMORY_BASE as u32;
        for (bar, address) in [
            (NOTIFY_BAR, ports),
            (TABLE_BAR, base + slot * TABLE_SIZE),
            (REGISTER_BAR, base + (32 * TABLE_SIZE) + slot * REGISTER_SIZE),
        ] {
            space.write(header::BAR0 + 4 * bar, 4, address);
        }
        // I/O and memory space on.
        space.write(header::COMMAND, 2, 3);

        // MSI-X: message control, table, pending bits (PCI 3.0, 6.8.2).
        if msix {
            capability(&mut space, CAP_MSIX, ID_MSIX, CAP_COMMON, &[]);
            space.set(CAP_MSIX + 2, self.msix.vectors().saturating_sub(1));
            space.allow(CAP_MSIX + 3, 0xc0);
            set_u32(&mut space, CAP_MSIX + 4, TABLE_BAR.into());
            set_u32(&mut space, CAP_MSIX + 8, msix::PENDING | u32::from(TABLE_BAR));
        }

        let config = u32::from(self.device.config_size()).min(CONFIG_SIZE as u32);
        for (at, next, kind, bar, offset, length) in [
            (CAP_COMMON, CAP_ISR, TYPE_COMMON, REGISTER_BAR, COMMON, registers::SIZE),
            (CAP_ISR, CAP_CONFIG, TYPE_ISR, REGISTER_BAR, ISR, 1),
            (CAP_CONFIG, CAP_NOTIFY_PORT, TYPE_CONFIG, REGISTER_BAR, CONFIG, config),
            (CAP_NOTIFY_PORT, CAP_NOTIFY, TYPE_NOTIFY, NOTIFY_BAR, 0, NOTIFY_PORTS.into()),
            (CAP_NOTIFY, CAP_PCI, TYPE_NOTIFY, REGISTER_BAR, NOTIFY, 4),
            (CAP_PCI, 0, TYPE_PCI, 0, 0, 0),
        ] {
            // The notification's multiplier and the access capability's data are 4 bytes more (4.1.4.4, 4.1.4.9).
            let bytes = if matches!(kind, TYPE_NOTIFY | TYPE_PCI) { 20 } else { 16 };
            capability(&mut space, at, ID_VENDOR, next, &[bytes, kind, bar]);
            set_u32(&mut space, at + 8, offset);
            set_u32(&mut space, at + 12, length);
        }
        // A device without configuration has no structure for it (4.1.4.6): its capability is stepped over.
        if config == 0 {
            space.set(CAP_ISR + 1, CAP_NOTIFY_PORT);
        }
        // Which register the access capability reaches is the driver's to say.
        space.allow(CAP_PCI + 4, 0xff);
        for byte in CAP_PCI + 8..CAP_PCI + 20 {
            space.allow(byte, 0xff);
        }
        space
    }

    /// Follows the BARs and the command register.
    fn decode(&mut self) {
        self.notify_port = self.space.io_address(NOTIFY_BAR).unwrap_or(0);
        self.table_at = self.space.memory_address(TABLE_BAR).unwrap_or(NOWHERE);
        self.registers_at = self.space.memory_address(REGISTER_BAR).unwrap_or(NOWHERE);
        let master = self.space.command() & COMMAND_MASTER != 0;
        // What was made available while the function could not reach it is looked for now.
        self.registers.again |= master && !self.registers.master && self.registers.driver_ok();
        self.registers.master = master;
    }

    // Configuration space.

    /// The guest reads 1, 2 or 4 bytes of the configuration space.
    pub fn config_read(&mut self, offset: u8, size: u8) -> u32 {
        if reaches_data(offset, size) {
            let (bar, at, length) = self.window();
            let value = if length == 0 { 0 } else { self.bar_read(bar, at, length) as u32 };
            for (index, byte) in (0..length).zip(value.to_le_bytes()) {
                self.space.set(PCI_DATA + index, byte);
            }
        }
        let interrupt = if self.registers.isr != 0 { STATUS_INTERRUPT } else { 0 };
        self.space.set(header::STATUS, STATUS_CAPABILITIES | interrupt);
        self.space.read(offset, size)
    }

    /// The guest writes 1, 2 or 4 bytes of the configuration space.
    pub fn config_write(&mut self, offset: u8, size: u8, value: u32, now: u64) {
        self.space.write(offset, size, value);
        self.decode();
        self.msix.set_control(self.space.get(CAP_MSIX + 3));
        if reaches_data(offset, size) {
            let (bar, at, length) = self.window();
            if length != 0 {
                let data = self.space.get_u32(PCI_DATA);
                self.bar_write(bar, at, length, data.into(), now);
            }
        }
    }

    /// What the access capability points to: BAR, offset, and length, which is 0 where it is none that can be (4.1.4.9.1).
    fn window(&self) -> (u8, u32, u8) {
        let at = self.space.get_u32(CAP_PCI + 8);
        let length = match self.space.get_u32(CAP_PCI + 12) {
            length @ (1 | 2 | 4) if at.is_multiple_of(length) => length as u8,
            _ => 0,
        };
        (self.space.get(CAP_PCI + 4), at, length)
    }

    // The BARs.

    /// The port is the one for notifications.
    #[inline]
    pub const fn is_notify_port(&self, port: u16) -> bool {
        self.notify_port != 0 && port == self.notify_port
    }

    /// The BAR that a memory address is in, and the offset there.
    fn locate(&self, address: u64) -> Option<(u8, u32)> {
        let within = |base: u64, size: u32| {
            let offset = address.wrapping_sub(base);
            (base != NOWHERE && offset < u64::from(size)).then_some(offset as u32)
        };
        if let Some(offset) = within(self.registers_at, REGISTER_SIZE) {
            return Some((REGISTER_BAR, offset));
        }
        within(self.table_at, TABLE_SIZE).map(|offset| (TABLE_BAR, offset))
    }

    /// A read of 1, 2, 4 or 8 bytes of memory, if it is this function's.
    pub fn memory_read(&mut self, address: u64, size: u8) -> Option<u64> {
        let (bar, offset) = self.locate(address)?;
        Some(self.bar_read(bar, offset, size))
    }

    /// A write; false if it is not this function's.
    pub fn memory_write(&mut self, address: u64, size: u8, value: u64, now: u64) -> bool {
        let Some((bar, offset)) = self.locate(address) else { return false };
        self.bar_write(bar, offset, size, value, now);
        true
    }

    fn bar_read(&mut self, bar: u8, offset: u32, size: u8) -> u64 {
        match (bar, offset) {
            (TABLE_BAR, _) => self.msix.read(offset, size),
            (REGISTER_BAR, COMMON..ISR) => self.registers.read(offset, size),
            // Reading it acknowledges the interrupt (4.1.4.5).
            (REGISTER_BAR, ISR) => core::mem::take(&mut self.registers.isr).into(),
            (REGISTER_BAR, CONFIG..NOTIFY) => {
                let mut config = [0; CONFIG_SIZE];
                self.device.config(&mut config);
                let at = (offset - CONFIG) as usize;
                (0..usize::from(size)).fold(0, |value, index| {
                    let byte = config.get(at.wrapping_add(index)).copied().unwrap_or(0);
                    value | u64::from(byte) << (8 * (index & 7))
                })
            }
            _ => 0,
        }
    }

    fn bar_write(&mut self, bar: u8, offset: u32, size: u8, value: u64, now: u64) {
        match (bar, offset) {
            (NOTIFY_BAR, 0) | (REGISTER_BAR, NOTIFY) => self.notify(value as u16, now),
            (TABLE_BAR, _) => self.msix.write(offset, size, value),
            (REGISTER_BAR, COMMON..ISR) => match self.registers.write(offset, size, value) {
                Action::None => {}
                Action::Reset => self.reset_device(),
                Action::Start => self.call(now, |device, cx| device.start(cx)),
                Action::BadQueue => {}
            },
            (REGISTER_BAR, CONFIG..NOTIFY) => {
                let bytes = value.to_le_bytes();
                let Some(bytes) = bytes.get(..usize::from(size)) else { return };
                self.call(now, |device, cx| device.set_config((offset - CONFIG) as u16, bytes, cx));
            }
            _ => {}
        }
    }

    // The device.

    /// The driver has put something into a queue.
    #[inline]
    pub fn notify(&mut self, queue: u16, now: u64) {
        if self.registers.running() && self.registers.queue(queue).is_some_and(|queue| queue.ready) {
            self.call(now, |device, cx| device.notify(queue, cx));
        }
    }

    /// Calls the device.
    #[inline]
    fn call<R>(&mut self, now: u64, work: impl FnOnce(&mut dyn Device, &mut Context<'_>) -> R) -> R {
        let mut context = Context {
            registers: &mut self.registers,
            msix: &mut self.msix,
            chain: &mut self.chain,
            memory: self.memory,
            now,
        };
        work(&mut *self.device, &mut context)
    }

    /// Works with the device, if it is of that type.
    pub fn with<T: Device, R>(
        &mut self,
        now: u64,
        work: impl FnOnce(&mut T, &mut Context<'_>) -> R,
    ) -> Option<R> {
        self.call(now, |device, cx| {
            let device: &mut dyn Any = device;
            device.downcast_mut().map(|device| work(device, cx))
        })
    }

    /// The device, if it is of that type, and its way to its driver.
    pub(super) fn open<T: Device>(&mut self, now: u64) -> Option<(&mut T, Context<'_>)> {
        let device: &mut dyn Any = &mut *self.device;
        let device = device.downcast_mut()?;
        let context = Context {
            registers: &mut self.registers,
            msix: &mut self.msix,
            chain: &mut self.chain,
            memory: self.memory,
            now,
        };
        Some((device, context))
    }

    /// Whether the device has something for other devices, since the last question: the time of it.
    #[inline]
    pub const fn take_forward(&mut self) -> Option<u64> {
        self.registers.forward.take()
    }

    /// When the device wants to be polled.
    pub fn deadline(&self) -> Option<u64> {
        if !self.registers.running() {
            return None;
        }
        if self.registers.again { Some(clock::AT_ONCE) } else { self.device.deadline() }
    }

    /// Lets the device do what it has waited for.
    pub fn poll(&mut self, now: u64) {
        if self.registers.running() {
            self.registers.again = false;
            self.call(now, |device, cx| device.poll(cx));
        }
    }

    /// Whether the device has something for the services, since the last question.
    #[inline]
    pub const fn take_told(&mut self) -> bool {
        core::mem::replace(&mut self.registers.told, false)
    }

    // Interrupts.

    /// Level of INTA#.
    #[inline]
    pub const fn intx(&self) -> bool {
        self.registers.isr != 0 && !self.msix.enabled() && self.space.command() & COMMAND_INTX_OFF == 0
    }

    /// The next message to send; none while the function may not write to memory.
    #[inline]
    pub fn take_message(&mut self) -> Option<Message> {
        if !self.msix.has_message() || !self.registers.master {
            return None;
        }
        self.msix.take()
    }
}

/// The access touches the data register of the access capability.
const fn reaches_data(offset: u8, size: u8) -> bool {
    offset < PCI_DATA + 4 && offset as u16 + size as u16 > PCI_DATA as u16
}

fn capability(space: &mut ConfigSpace, at: u8, id: u8, next: u8, rest: &[u8]) {
    space.set(at, id);
    space.set(at + 1, next);
    for (offset, byte) in (at + 2..).zip(rest) {
        space.set(offset, *byte);
    }
}

fn set_u32(space: &mut ConfigSpace, at: u8, value: u32) {
    space.set_u16(at, value as u16);
    space.set_u16(at + 2, (value >> 16) as u16);
}

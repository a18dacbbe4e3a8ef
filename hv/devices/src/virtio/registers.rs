//! The common configuration structure (virtio 1.2, 4.1.4.3): device status, features, and the set-up of queues.

use super::queue::{Queue, QueueError, RingFeatures};
use super::{MAX_QUEUES, NO_VECTOR, feature};

/// Bytes of the structure.
pub(super) const SIZE: u32 = 56;

// Device status (2.1).
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;
/// What a driver can set.
const DRIVER_BITS: u8 = 1 | 2 | DRIVER_OK | FEATURES_OK | 128;

/// What a write to the registers asks of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    None,
    /// The device is to be reset.
    Reset,
    /// DRIVER_OK has been set.
    Start,
    /// A queue could not be enabled.
    BadQueue,
}

/// State of a device as far as all have it.
#[derive(Clone, Debug)]
pub(super) struct Registers {
    pub offered: u64,
    pub driver_features: u64,
    device_select: u32,
    driver_select: u32,
    pub config_vector: u16,
    /// Vectors that there are.
    pub(super) vectors: u16,
    status: u8,
    pub generation: u8,
    queue_select: u16,
    queues: [Queue; MAX_QUEUES],
    count: u16,
    pub isr: u8,
    /// The PCI function may reach memory.
    pub master: bool,
    /// The device wants to be polled.
    pub again: bool,
    /// The device has something for the services.
    pub told: bool,
    /// The device has something for other devices, since this moment of the virtual clock.
    pub forward: Option<u64>,
    /// What the driver did wrong.
    pub last_error: Option<QueueError>,
}

/// The 64-bit register whose half is at `offset`, with its value and the shift of that half.
const fn half(offset: u32) -> (u32, u32) {
    (offset & !7, (offset & 4) * 8)
}

impl Registers {
    pub const fn new(offered: u64, queues: u16, vectors: u16) -> Self {
        let most = MAX_QUEUES as u16;
        Self {
            offered: offered | feature::VERSION_1 | feature::INDIRECT_DESC | feature::EVENT_IDX,
            driver_features: 0,
            device_select: 0,
            driver_select: 0,
            config_vector: NO_VECTOR,
            vectors,
            status: 0,
            generation: 0,
            queue_select: 0,
            queues: [const { Queue::new() }; MAX_QUEUES],
            count: if queues > most { most } else { queues },
            isr: 0,
            master: false,
            again: false,
            told: false,
            forward: None,
            last_error: None,
        }
    }

    /// A reset by the driver; `limit` says how large each queue may be.
    pub fn reset(&mut self, limit: impl Fn(u16) -> u16) {
        self.driver_features = 0;
        self.device_select = 0;
        self.driver_select = 0;
        self.config_vector = NO_VECTOR;
        self.status = 0;
        self.queue_select = 0;
        self.isr = 0;
        self.again = false;
        self.forward = None;
        self.last_error = None;
        for (index, queue) in (0..self.count).zip(&mut self.queues) {
            queue.reset(limit(index));
        }
    }

    #[inline]
    pub fn queue(&mut self, index: u16) -> Option<&mut Queue> {
        if index < self.count { self.queues.get_mut(usize::from(index)) } else { None }
    }

    pub const fn driver_ok(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// The device may look at its queues.
    #[inline]
    pub const fn running(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK && self.master
    }

    #[inline]
    pub const fn ring_features(&self) -> RingFeatures {
        RingFeatures {
            indirect: self.driver_features & feature::INDIRECT_DESC != 0,
            event_idx: self.driver_features & feature::EVENT_IDX != 0,
        }
    }

    /// Sets DEVICE_NEEDS_RESET. True, if the driver is to be told (2.1.2).
    pub const fn need_reset(&mut self) -> bool {
        let before = self.status;
        self.status |= NEEDS_RESET;
        before & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    /// The naturally sized register at `offset` and the offset at which it starts.
    fn register(&self, offset: u32) -> (u32, u64) {
        let none = const { Queue::new() };
        let queue = if self.queue_select < self.count {
            self.queues.get(usize::from(self.queue_select)).unwrap_or(&none)
        } else {
            &none
        };
        let window = |features: u64, select: u32| match select {
            0 => features & 0xffff_ffff,
            1 => features >> 32,
            _ => 0,
        };
        match offset {
            0..4 => (0, self.device_select.into()),
            4..8 => (4, window(self.offered, self.device_select)),
            8..12 => (8, self.driver_select.into()),
            12..16 => (12, window(self.driver_features, self.driver_select)),
            16..18 => (16, self.config_vector.into()),
            18..20 => (18, self.count.into()),
            20 => (20, self.status.into()),
            21 => (21, self.generation.into()),
            22..24 => (22, self.queue_select.into()),
            24..26 => (24, queue.size.into()),
            26..28 => (26, queue.vector.into()),
            28..30 => (28, u64::from(queue.ready)),
            // queue_notify_off: all queues have the same address, for the value says which.
            30..32 => (30, 0),
            32..40 => (32, queue.descriptors),
            40..48 => (40, queue.available),
            48..56 => (48, queue.used),
            _ => (offset, 0),
        }
    }

    /// Reads 1, 2, 4 or 8 bytes.
    pub fn read(&self, offset: u32, size: u8) -> u64 {
        let mut value = 0;
        let mut done = 0;
        // An access that spans registers is made of their bytes.
        while done < u32::from(size.min(8)) {
            let at = offset.wrapping_add(done);
            let (start, register) = self.register(at);
            value |= (register >> (8 * (at - start)) & 0xff) << (8 * done);
            done += 1;
        }
        value
    }

    /// Writes a register with its own width; 64-bit ones also by halves (4.1.3.1). Anything else is ignored.
    pub fn write(&mut self, offset: u32, size: u8, value: u64) -> Action {
        match (offset, size) {
            (0, 4) => self.device_select = value as u32,
            (8, 4) => self.driver_select = value as u32,
            (12, 4) if self.status & FEATURES_OK == 0 => match self.driver_select {
                0 => {
                    self.driver_features = self.driver_features & !0xffff_ffff | value & 0xffff_ffff;
                }
                1 => self.driver_features = self.driver_features & 0xffff_ffff | value << 32,
                _ => {}
            },
            (16, 2) => self.config_vector = self.vector(value as u16),
            (20, 1) => return self.set_status(value as u8),
            (22, 2) => self.queue_select = value as u16,
            (24..56, _) => return self.write_queue(offset, size, value),
            _ => {}
        }
        Action::None
    }

    /// A vector that is not there cannot be assigned (4.1.5.1.2.1).
    const fn vector(&self, vector: u16) -> u16 {
        if vector < self.vectors { vector } else { NO_VECTOR }
    }

    fn set_status(&mut self, value: u8) -> Action {
        if value == 0 {
            return Action::Reset;
        }
        let before = self.status;
        let mut new = value & DRIVER_BITS & !before;
        if new & FEATURES_OK != 0
            && (self.driver_features & !self.offered != 0 || self.driver_features & feature::VERSION_1 == 0)
        {
            new &= !FEATURES_OK;
        }
        // A driver that does not negotiate is none of virtio 1.x.
        if (before | new) & FEATURES_OK == 0 {
            new &= !DRIVER_OK;
        }
        self.status |= new;
        if new & DRIVER_OK != 0 { Action::Start } else { Action::None }
    }

    fn write_queue(&mut self, offset: u32, size: u8, value: u64) -> Action {
        let vector = self.vector(value as u16);
        let Some(queue) = self.queue(self.queue_select) else { return Action::None };
        if (offset, size) == (26, 2) {
            queue.vector = vector;
            return Action::None;
        }
        // Nothing else changes once the queue is in use.
        if queue.ready {
            return Action::None;
        }
        match (offset, size) {
            (24, 2) => queue.size = value as u16,
            (28, 2) if value == 1 && !queue.enable() => {
                self.need_reset();
                return Action::BadQueue;
            }
            (32..56, 4 | 8) if offset.is_multiple_of(size.into()) => {
                let (start, shift) = half(offset);
                let register = match start {
                    32 => &mut queue.descriptors,
                    40 => &mut queue.available,
                    _ => &mut queue.used,
                };
                *register = match size {
                    8 => value,
                    _ => *register & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift,
                };
            }
            _ => {}
        }
        Action::None
    }
}

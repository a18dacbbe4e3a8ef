//! The split virtqueue, seen from the device (virtio 1.2, 2.7), and the chains of buffers that come out of it.
//!
//! Nothing in guest memory is believed, and nothing is read twice: a descriptor is copied once, checked, and kept as a
//! [`Segment`]. Whether a segment lies in RAM is checked by the access to it.

use core::sync::atomic::{Ordering, fence};

use heapless::Vec;
use monovisor_arch::{GuestMemory, MemoryError};

/// Most entries of a queue. A chain may not have more buffers than its queue has entries (2.7.5.2), and so this is also
/// the most buffers that a device has to take at once.
pub const MAX_QUEUE_SIZE: u16 = 256;

/// Bytes of a descriptor (2.7.5).
const DESCRIPTOR: u64 = 16;
const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 1 << 1;
const DESC_INDIRECT: u16 = 1 << 2;

/// Available ring: the driver wants no interrupts (2.7.6).
const AVAIL_NO_INTERRUPT: u16 = 1;

/// What a driver did wrong: the device needs a reset (2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// A ring, a table of descriptors or a buffer that is not in RAM.
    Memory(MemoryError),
    /// The available index is further ahead than the queue has entries.
    Index,
    /// A descriptor number beyond the table.
    Descriptor,
    /// A chain with more buffers than the queue can have entries; loops are among these.
    ChainTooLong,
    /// A device-readable buffer behind a device-writable one (2.7.4.2).
    Order,
    /// An indirect descriptor that was not negotiated, is nested, has a successor, or has a length that is no table's
    /// (2.7.5.3.1).
    Indirect,
    /// A request that lacks what its type always has.
    Request,
}

impl From<MemoryError> for QueueError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

/// Features that change how a queue works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RingFeatures {
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
}

/// A buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address of its first byte.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

/// A chain of buffers: first those that the device reads, then those that it writes.
///
/// Where a driver cuts its data into buffers means nothing (2.7.4): devices work by offsets into the two parts.
#[derive(Debug, Default)]
pub struct Chain {
    segments: Vec<Segment, { MAX_QUEUE_SIZE as usize }>,
    /// How many of them the device reads.
    readable: usize,
}

/// Which part of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What the driver sends.
    Readable,
    /// What the driver wants to be filled.
    Writable,
}

impl Chain {
    /// Without any buffers.
    pub const fn new() -> Self {
        Self { segments: Vec::new(), readable: 0 }
    }

    /// The buffers of a part.
    #[inline]
    pub fn segments(&self, part: Part) -> &[Segment] {
        let (readable, writable) =
            self.segments.split_at_checked(self.readable).unwrap_or((&self.segments, &[]));
        match part {
            Part::Readable => readable,
            Part::Writable => writable,
        }
    }

    /// How many buffers both parts have.
    pub fn count(&self) -> usize {
        self.segments.len()
    }

    /// Bytes of a part.
    pub fn length(&self, part: Part) -> u64 {
        self.segments(part).iter().map(|segment| u64::from(segment.length)).sum()
    }

    /// The pieces that `length` bytes from byte `offset` of a part consist of, as far as the part goes.
    pub fn pieces(&self, part: Part, offset: u64, length: u64) -> impl Iterator<Item = Segment> + '_ {
        let mut skip = offset;
        let mut left = length;
        self.segments(part).iter().filter_map(move |segment| {
            let bytes = u64::from(segment.length);
            if skip >= bytes || left == 0 {
                skip = skip.saturating_sub(bytes);
                return None;
            }
            let take = (bytes - skip).min(left);
            // Wraps only where the buffer itself does, which no RAM reaches.
            let piece = Segment { address: segment.address.wrapping_add(skip), length: take as u32 };
            skip = 0;
            left -= take;
            Some(piece)
        })
    }

    /// Copies from byte `offset` of the readable part on. How many bytes there were.
    pub fn read(
        &self,
        memory: &dyn GuestMemory,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, MemoryError> {
        let mut done = 0usize;
        for piece in self.pieces(Part::Readable, offset, buffer.len() as u64) {
            let end = done.saturating_add(piece.length as usize);
            if let Some(place) = buffer.get_mut(done..end) {
                memory.read(piece.address, place)?;
            }
            done = end;
        }
        Ok(done)
    }

    /// Copies `data` to byte `offset` of the writable part and on. How many bytes had room.
    pub fn write(&self, memory: &dyn GuestMemory, offset: u64, data: &[u8]) -> Result<usize, MemoryError> {
        let mut done = 0usize;
        for piece in self.pieces(Part::Writable, offset, data.len() as u64) {
            let end = done.saturating_add(piece.length as usize);
            if let Some(bytes) = data.get(done..end) {
                memory.write(piece.address, bytes)?;
            }
            done = end;
        }
        Ok(done)
    }

    /// Takes the chain that starts with descriptor `head` of a queue's table.
    fn load(
        &mut self,
        memory: &dyn GuestMemory,
        queue: &Queue,
        head: u16,
        indirect: bool,
    ) -> Result<(), QueueError> {
        self.segments.clear();
        self.readable = 0;
        let (mut table, mut entries, mut index) = (queue.descriptors, u32::from(queue.size), head);
        let mut nested = !indirect;
        loop {
            if u32::from(index) >= entries {
                return Err(QueueError::Descriptor);
            }
            let at = table.wrapping_add(u64::from(index) * DESCRIPTOR);
            let address = memory.read_u64(at)?;
            let rest = memory.read_u64(at.wrapping_add(8))?;
            let (length, flags, next) = (rest as u32, (rest >> 32) as u16, (rest >> 48) as u16);
            if flags & DESC_INDIRECT != 0 {
                let whole = length != 0 && u64::from(length).is_multiple_of(DESCRIPTOR);
                if nested || flags & DESC_NEXT != 0 || !whole {
                    return Err(QueueError::Indirect);
                }
                nested = true;
                (table, entries, index) = (address, length / DESCRIPTOR as u32, 0);
                continue;
            }
            let readable = flags & DESC_WRITE == 0;
            if readable && self.readable != self.segments.len() {
                return Err(QueueError::Order);
            }
            if self.segments.len() >= usize::from(queue.limit) {
                return Err(QueueError::ChainTooLong);
            }
            self.segments.push(Segment { address, length }).map_err(|_| QueueError::ChainTooLong)?;
            self.readable += usize::from(readable);
            if flags & DESC_NEXT == 0 {
                return Ok(());
            }
            index = next;
        }
    }
}

/// How far a queue has been worked on.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    next_available: u16,
    next_used: u16,
}

/// One queue of a device.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    /// Most entries that the device offers.
    limit: u16,
    /// Entries; a power of two while `ready`.
    pub size: u16,
    /// The driver has enabled it.
    pub ready: bool,
    /// MSI-X vector.
    pub vector: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// Next entry of the available ring to take.
    next_available: u16,
    /// The available index as it was read last.
    seen: u16,
    /// The index at which the driver was last told to notify.
    announced: Option<u16>,
    /// Next entry of the used ring to fill.
    next_used: u16,
    /// The used index that the driver has been shown.
    published: u16,
}

impl Queue {
    pub const fn new() -> Self {
        Self {
            limit: 0,
            size: 0,
            ready: false,
            vector: super::NO_VECTOR,
            descriptors: 0,
            available: 0,
            used: 0,
            next_available: 0,
            seen: 0,
            announced: None,
            next_used: 0,
            published: 0,
        }
    }

    /// Back to what the driver finds after a reset; at most `limit` entries.
    pub fn reset(&mut self, limit: u16) {
        let limit = limit.min(MAX_QUEUE_SIZE);
        *self = Self { limit, size: limit, ..Self::new() };
    }

    /// The driver enables the queue. False, if that cannot work: a size that is not a power of two or too large, or
    /// rings that are not aligned (2.7) or wrap around the end of the address space.
    pub fn enable(&mut self) -> bool {
        let size = u64::from(self.size);
        let sane = self.size.is_power_of_two()
            && self.size <= self.limit
            && self.descriptors.is_multiple_of(16)
            && self.available.is_multiple_of(2)
            && self.used.is_multiple_of(4)
            && self.descriptors.checked_add(size * DESCRIPTOR).is_some()
            && self.available.checked_add(6 + 2 * size).is_some()
            && self.used.checked_add(6 + 8 * size).is_some();
        self.ready |= sane;
        sane
    }

    fn mask(&self) -> u16 {
        self.size.wrapping_sub(1)
    }

    /// There are chains that [`Queue::pop`] would give.
    pub fn has_available(
        &mut self,
        memory: &dyn GuestMemory,
        features: RingFeatures,
    ) -> Result<bool, QueueError> {
        if self.seen != self.next_available {
            return Ok(true);
        }
        if self.look(memory)? {
            return Ok(true);
        }
        if !features.event_idx || self.announced == Some(self.next_available) {
            return Ok(false);
        }
        // The driver notifies when it passes this index; what it did before it could see that is looked for again.
        memory.write_u16(self.used.wrapping_add(4 + 8 * u64::from(self.size)), self.next_available)?;
        self.announced = Some(self.next_available);
        fence(Ordering::SeqCst);
        self.look(memory)
    }

    /// Reads the available index.
    fn look(&mut self, memory: &dyn GuestMemory) -> Result<bool, QueueError> {
        let index = memory.read_u16(self.available.wrapping_add(2))?;
        if index.wrapping_sub(self.next_available) > self.size {
            return Err(QueueError::Index);
        }
        self.seen = index;
        // The entries are read after the index that vouches for them.
        fence(Ordering::Acquire);
        Ok(index != self.next_available)
    }

    /// Takes the next chain: its buffers into `chain`, the number to give back by [`Queue::push`] as the result.
    pub fn pop(
        &mut self,
        memory: &dyn GuestMemory,
        features: RingFeatures,
        chain: &mut Chain,
    ) -> Result<Option<u16>, QueueError> {
        if !self.ready || !self.has_available(memory, features)? {
            return Ok(None);
        }
        let slot = u64::from(self.next_available & self.mask());
        let head = memory.read_u16(self.available.wrapping_add(4 + 2 * slot))?;
        self.load(memory, features, head, chain)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(head))
    }

    /// Reads a chain that has been taken again.
    pub fn load(
        &self,
        memory: &dyn GuestMemory,
        features: RingFeatures,
        head: u16,
        chain: &mut Chain,
    ) -> Result<(), QueueError> {
        chain.load(memory, self, head, features.indirect)
    }

    /// Puts the chain taken last back: the next [`Queue::pop`] gives it again.
    pub fn unpop(&mut self) {
        self.next_available = self.next_available.wrapping_sub(1);
    }

    /// Where the queue is, to come back to by [`Queue::roll_back`].
    pub const fn mark(&self) -> Mark {
        Mark { next_available: self.next_available, next_used: self.next_used }
    }

    /// Takes everything back that has been taken and given back since [`Queue::mark`], nothing of which has been published.
    pub const fn roll_back(&mut self, mark: Mark) {
        self.next_available = mark.next_available;
        self.next_used = mark.next_used;
    }

    /// Gives a chain back, `written` bytes of whose writable part have been filled from its start on. The driver sees
    /// it after [`Queue::publish`].
    pub fn push(&mut self, memory: &dyn GuestMemory, head: u16, written: u32) -> Result<(), QueueError> {
        let slot = u64::from(self.next_used & self.mask());
        let at = self.used.wrapping_add(4 + 8 * slot);
        memory.write_u32(at, u32::from(head))?;
        memory.write_u32(at.wrapping_add(4), written)?;
        self.next_used = self.next_used.wrapping_add(1);
        Ok(())
    }

    /// Shows the driver what has been given back. True, if it wants an interrupt for that (2.7.7.1, 2.7.10).
    pub fn publish(&mut self, memory: &dyn GuestMemory, features: RingFeatures) -> Result<bool, QueueError> {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return Ok(false);
        }
        // The entries are there before the index that vouches for them.
        fence(Ordering::Release);
        memory.write_u16(self.used.wrapping_add(2), new)?;
        self.published = new;
        // What the driver wants is read after it could see the index.
        fence(Ordering::SeqCst);
        if features.event_idx {
            let event = memory.read_u16(self.available.wrapping_add(4 + 2 * u64::from(self.size)))?;
            return Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old));
        }
        Ok(memory.read_u16(self.available)? & AVAIL_NO_INTERRUPT == 0)
    }
}

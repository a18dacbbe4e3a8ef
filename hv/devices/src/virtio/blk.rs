//! The block device (virtio 1.2, 5.2).
//!
//! Requests are carried out while the driver's notification is handled, all that there are, and answered by one
//! interrupt at most. What would take long is cut: after `TURN` bytes the rest waits for the next poll.
//!
//! A request that the medium fails, and that the guest is to be stopped for, goes back into its queue: whoever serves the
//! devices is told and stops the guest, and the next poll tries it again.

mod account;

pub use account::{Action, Failure, OnError, Operation, Statistics, Tally};

use super::{CONFIG_SIZE, Context, Device, Kind, MAX_QUEUES, Part, QueueError};
use crate::disk::{Disk, DiskError, SECTOR};

/// Entries of a queue. A request may have as many buffers, two of which are its header and its status.
pub const QUEUE_SIZE: u16 = 128;

/// Bytes of a serial number (5.2.6).
pub const SERIAL: usize = 20;

/// Bytes that are moved before others have a turn: some tenths of a millisecond.
const TURN: u64 = 1 << 20;
/// What a request and each buffer of it cost besides their data, in bytes that could be moved instead.
const BUFFER_COST: u64 = 256;

/// Most bytes that one discard or write-zeroes request covers: as long as a turn.
const ZERO_LIMIT: u64 = 8 << 20;

const SEG_MAX: u64 = 1 << 2;
const GEOMETRY: u64 = 1 << 4;
const RO: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;
const CONFIG_WCE: u64 = 1 << 11;
const MQ: u64 = 1 << 12;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;

/// Bytes of a request's header, and of a segment of a discard or write-zeroes request.
const HEADER: usize = 16;

/// Write-zeroes: the device may give the room back.
const FLAG_UNMAP: u32 = 1;

/// Offset of `writeback` in the configuration.
const WRITEBACK: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// What the operator sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Request queues, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// Serial number, padded with zeros.
    pub serial: [u8; SERIAL],
    /// Bytes of a logical block, a power of two from 512 on.
    pub block_size: u32,
    /// Bytes of a physical block, a power of two.
    pub physical_block_size: u32,
    /// Preferred least size of a request in bytes; 0 for no preference.
    pub min_io_size: u32,
    /// Best size of a request in bytes; 0 for no preference.
    pub opt_io_size: u32,
    /// The driver may switch the write cache (VIRTIO_BLK_F_CONFIG_WCE).
    pub config_wce: bool,
    /// The guest may not write, even if the medium could be written to.
    pub read_only: bool,
    /// What has been written counts as safe only when it has been flushed, until the driver says otherwise.
    pub writeback: bool,
    /// About errors in reading.
    pub on_read_error: OnError,
    /// About errors in writing and flushing.
    pub on_write_error: OnError,
    /// The operator's number of the drive, which [`Blk::drive`] gives back.
    pub drive: u8,
}

impl Settings {
    /// QEMU's defaults.
    pub const DEFAULT: Self = Self {
        queues: 1,
        serial: [0; SERIAL],
        block_size: 512,
        physical_block_size: 512,
        min_io_size: 0,
        opt_io_size: 0,
        config_wce: true,
        read_only: false,
        writeback: true,
        on_read_error: OnError::Report,
        on_write_error: OnError::NoSpace,
        drive: 0,
    };
}

/// A request that has been begun.
#[derive(Clone, Copy, Debug)]
struct Request {
    queue: u16,
    head: u16,
    /// Data goes to the guest; else it comes from there.
    input: bool,
    /// Where it is on the disk, in bytes.
    offset: u64,
    /// Bytes of data.
    length: u64,
    /// How many have been moved.
    done: u64,
    /// When it was begun, by the disk's clock.
    start: u64,
}

impl Request {
    const fn operation(&self) -> Operation {
        if self.input { Operation::Read } else { Operation::Write }
    }
}

/// How far a request has come.
enum Outcome {
    /// Finished, with this many bytes of data written for the driver.
    Done(Status, u32),
    /// To be gone on with.
    Data(Request),
    /// The medium has failed an operation without data, which was begun at this tick.
    Failed(Operation, DiskError, u64),
    /// The driver has broken a rule.
    Broken(QueueError),
}

/// A disk.
pub struct Blk {
    disk: &'static mut dyn Disk,
    settings: Settings,
    writeback: bool,
    /// The request that has used up its turn.
    current: Option<Request>,
    /// What may be done in this turn, in bytes.
    left: u64,
    statistics: Statistics,
    /// The last error that nobody has been told of yet.
    failure: Option<Failure>,
    /// The error for which the current request waits.
    stuck: Option<DiskError>,
}

impl Blk {
    /// A disk with that medium.
    pub fn new(disk: &'static mut dyn Disk, settings: &Settings) -> Self {
        let queues = settings.queues.clamp(1, MAX_QUEUES as u16);
        let read_only = settings.read_only || disk.read_only();
        Self {
            disk,
            settings: Settings { queues, read_only, ..*settings },
            writeback: settings.writeback,
            current: None,
            left: 0,
            statistics: Statistics::default(),
            failure: None,
            stuck: None,
        }
    }

    /// The operator's number of its drive.
    pub const fn drive(&self) -> u8 {
        self.settings.drive
    }

    /// The medium.
    pub const fn disk(&self) -> &dyn Disk {
        self.disk
    }

    /// The driver flushes what is to outlive the power.
    pub const fn writeback(&self) -> bool {
        self.writeback
    }

    /// What it has done.
    pub const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The error for which a request waits until the guest goes on.
    pub const fn stuck(&self) -> Option<DiskError> {
        self.stuck
    }

    /// There is an error that has not been taken yet.
    pub const fn has_failure(&self) -> bool {
        self.failure.is_some()
    }

    /// The last error that has not been taken yet. One with [`Action::Stop`] asks for the guest to be stopped.
    pub const fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// Size in bytes, in whole sectors.
    fn size(&self) -> u64 {
        self.disk.size() & !(SECTOR - 1)
    }

    /// Carries out what is in a queue. False: the turn is over.
    fn drain(&mut self, queue: u16, cx: &mut Context<'_>) -> bool {
        while self.left > 0 {
            let Some(head) = cx.next(queue) else {
                cx.signal(queue);
                return true;
            };
            let cost = BUFFER_COST.saturating_mul(cx.chain().count() as u64 + 1);
            self.left = self.left.saturating_sub(cost);
            let outcome = self.begin(queue, head, cx);
            if !self.go_on(queue, head, outcome, cx) {
                break;
            }
        }
        cx.signal(queue);
        cx.again();
        false
    }

    /// Reads a request's header and does what needs no data.
    fn begin(&mut self, queue: u16, head: u16, cx: &Context<'_>) -> Outcome {
        let (chain, memory) = (cx.chain(), cx.memory());
        let (sent, room) = (chain.length(Part::Readable), chain.length(Part::Writable));
        let mut header = [0; HEADER];
        // One byte for the status, the last, is there in every request.
        let (Ok(HEADER), Some(room)) = (chain.read(memory, 0, &mut header), room.checked_sub(1)) else {
            return Outcome::Broken(QueueError::Request);
        };
        let sent = sent.saturating_sub(HEADER as u64);
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([k0, k1, k2, k3]) {
            kind @ (TYPE_IN | TYPE_OUT) => {
                let input = kind == TYPE_IN;
                let length = if input { room } else { sent };
                let start = self.disk.ticks();
                let offset = self.place(sector, length).filter(|_| input || !self.settings.read_only);
                let request =
                    Request { queue, head, input, offset: offset.unwrap_or(0), length, done: 0, start };
                if offset.is_none() {
                    self.statistics.invalid(request.operation(), start);
                    return Outcome::Done(Status::IoError, 0);
                }
                Outcome::Data(request)
            }
            TYPE_FLUSH => {
                let start = self.disk.ticks();
                match self.disk.flush() {
                    Ok(()) => self.done(Operation::Flush, 0, start),
                    Err(error) => Outcome::Failed(Operation::Flush, error, start),
                }
            }
            TYPE_GET_ID => {
                let serial = self.settings.serial.get(..room.min(SERIAL as u64) as usize).unwrap_or_default();
                match chain.write(memory, 0, serial) {
                    Ok(length) => Outcome::Done(Status::Ok, length as u32),
                    Err(error) => Outcome::Broken(error.into()),
                }
            }
            kind @ (TYPE_DISCARD | TYPE_WRITE_ZEROES) => {
                let mut segment = [0; HEADER];
                // One segment is all that the configuration allows.
                if sent != HEADER as u64 {
                    return Outcome::Done(Status::IoError, 0);
                }
                match chain.read(memory, HEADER as u64, &mut segment) {
                    Ok(_) => self.forget(kind == TYPE_DISCARD, segment),
                    Err(error) => Outcome::Broken(error.into()),
                }
            }
            _ => Outcome::Done(Status::Unsupported, 0),
        }
    }

    /// The offset in bytes of a range that lies on the disk and has whole blocks.
    fn place(&self, sector: u64, length: u64) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(length)?;
        let block = u64::from(self.settings.block_size.max(1));
        (end <= self.size() && offset.is_multiple_of(block) && length.is_multiple_of(block)).then_some(offset)
    }

    /// Discards or zeroes what a segment says (5.2.6.2).
    fn forget(&mut self, discard: bool, segment: [u8; HEADER]) -> Outcome {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = segment;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let length = u64::from(u32::from_le_bytes([n0, n1, n2, n3])) * SECTOR;
        let allowed = if discard { 0 } else { FLAG_UNMAP };
        if u32::from_le_bytes(flags) & !allowed != 0 {
            return Outcome::Done(Status::Unsupported, 0);
        }
        let start = self.disk.ticks();
        let offset = self.place(sector, length).filter(|_| !self.settings.read_only && length <= ZERO_LIMIT);
        let Some(offset) = offset else {
            if !discard {
                self.statistics.invalid(Operation::Write, start);
            }
            return Outcome::Done(Status::IoError, 0);
        };
        self.left = self.left.saturating_sub(length / (ZERO_LIMIT / TURN));
        if discard {
            // A hint, of which there is no count.
            let status = if self.disk.discard(offset, length).is_ok() { Status::Ok } else { Status::IoError };
            return Outcome::Done(status, 0);
        }
        match self.disk.write_zeroes(offset, length) {
            Ok(()) => {
                self.statistics.highest = self.statistics.highest.max(offset + length);
                self.done(Operation::Write, length, start)
            }
            Err(error) => Outcome::Failed(Operation::Write, error, start),
        }
    }

    /// Counts an operation without data that is done.
    fn done(&mut self, operation: Operation, bytes: u64, start: u64) -> Outcome {
        self.statistics.done(operation, Some(bytes), start, self.disk.ticks());
        Outcome::Done(Status::Ok, 0)
    }

    /// Moves data as far as the turn allows. False: the chain has less than there was when the request was begun.
    fn transfer(&mut self, request: &mut Request, cx: &Context<'_>) -> Result<bool, DiskError> {
        let memory = cx.memory();
        let (part, before) =
            if request.input { (Part::Writable, 0) } else { (Part::Readable, HEADER as u64) };
        // At least a sector, so that every turn gets somewhere.
        let take = (request.length - request.done).min(self.left.max(SECTOR));
        let end = request.done + take;
        for piece in cx.chain().pieces(part, before + request.done, take) {
            let offset = request.offset + request.done;
            if request.input {
                self.disk.read(offset, memory, piece.address, piece.length)?;
            } else {
                self.disk.write(offset, memory, piece.address, piece.length)?;
            }
            request.done += u64::from(piece.length);
        }
        self.left = self.left.saturating_sub(take);
        Ok(request.done == end)
    }

    /// Goes on with a request whose chain is loaded, and gives it back when it is finished. False: it is not, or there
    /// is no going on.
    fn go_on(&mut self, queue: u16, head: u16, outcome: Outcome, cx: &mut Context<'_>) -> bool {
        let (status, written) = match outcome {
            Outcome::Data(mut request) => match self.transfer(&mut request, cx) {
                // The chain has shrunk since it was first looked at.
                Ok(false) => return self.broken(QueueError::Request, cx),
                Ok(true) if request.done < request.length => {
                    self.current = Some(request);
                    return false;
                }
                Ok(true) => {
                    let Request { length, start, .. } = request;
                    self.statistics.done(request.operation(), Some(length), start, self.disk.ticks());
                    if !request.input {
                        self.statistics.highest = self.statistics.highest.max(request.offset + length);
                    }
                    (Status::Ok, if request.input { length as u32 } else { 0 })
                }
                Err(DiskError::Memory(error)) => return self.broken(error.into(), cx),
                Err(error) => match self.fail(queue, request.operation(), error, request.start, cx) {
                    Some(status) => (status, 0),
                    None => return false,
                },
            },
            Outcome::Failed(operation, error, start) => match self.fail(queue, operation, error, start, cx) {
                Some(status) => (status, 0),
                None => return false,
            },
            Outcome::Done(status, written) => (status, written),
            Outcome::Broken(error) => return self.broken(error, cx),
        };
        let room = cx.chain().length(Part::Writable);
        let Some(last) = room.checked_sub(1) else { return self.broken(QueueError::Request, cx) };
        if let Err(error) = cx.chain().write(cx.memory(), last, &[status as u8]) {
            return self.broken(error.into(), cx);
        }
        // The status counts as written where all before it is (2.7.8.2).
        let written = if u64::from(written) == last { written.saturating_add(1) } else { written };
        cx.complete(queue, head, written);
        true
    }

    /// The medium has failed the request that was taken last. What the guest gets to know; `None`: the request waits.
    #[cold]
    fn fail(
        &mut self,
        queue: u16,
        operation: Operation,
        error: DiskError,
        start: u64,
        cx: &mut Context<'_>,
    ) -> Option<Status> {
        let read = operation == Operation::Read;
        let policy = if read { self.settings.on_read_error } else { self.settings.on_write_error };
        let action = policy.action(error);
        self.failure = Some(Failure { operation, error, action });
        cx.tell();
        if action == Action::Stop {
            // It is begun again as a whole. Nothing has been taken from its queue since.
            cx.put_back(queue);
            self.stuck = Some(error);
            return None;
        }
        let ignored = action == Action::Ignore;
        self.statistics.done(operation, ignored.then_some(0), start, self.disk.ticks());
        Some(if ignored { Status::Ok } else { Status::IoError })
    }

    #[cold]
    fn broken(&self, error: QueueError, cx: &mut Context<'_>) -> bool {
        cx.fail(error);
        false
    }
}

impl Device for Blk {
    fn kind(&self) -> Kind {
        Kind { id: 2, class: 0x01_0000 }
    }

    fn features(&self) -> u64 {
        let mut features = SEG_MAX | GEOMETRY | BLK_SIZE | FLUSH | TOPOLOGY;
        if self.settings.read_only {
            features |= RO;
        } else {
            features |= DISCARD | WRITE_ZEROES;
        }
        if self.settings.config_wce {
            features |= CONFIG_WCE;
        }
        if self.settings.queues > 1 {
            features |= MQ;
        }
        features
    }

    fn queues(&self) -> u16 {
        self.settings.queues
    }

    fn queue_size(&self, _: u16) -> u16 {
        QUEUE_SIZE
    }

    fn config_size(&self) -> u16 {
        60
    }

    fn config(&self, config: &mut [u8; CONFIG_SIZE]) {
        /// Heads and sectors a track of the geometry; what does not fit into its cylinders is not shown.
        const HEADS: u8 = 16;
        const TRACK: u8 = 63;
        let capacity = self.size() / SECTOR;
        let cylinders = (capacity / (u64::from(HEADS) * u64::from(TRACK))).clamp(2, 16383) as u16;
        let block = self.settings.block_size.max(1);
        let exponent = (self.settings.physical_block_size / block).max(1).ilog2() as u8;
        let blocks = |bytes: u32| bytes / block;
        let limit = (ZERO_LIMIT / SECTOR) as u32;
        let zeroes = if self.settings.read_only { 0 } else { limit };
        let segments = u32::from(zeroes != 0);
        let mut put = |offset: usize, bytes: &[u8]| {
            if let Some(place) = config.get_mut(offset..offset.saturating_add(bytes.len())) {
                place.copy_from_slice(bytes);
            }
        };
        put(0, &capacity.to_le_bytes());
        put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
        put(16, &cylinders.to_le_bytes());
        put(18, &[HEADS, TRACK]);
        put(20, &self.settings.block_size.to_le_bytes());
        put(24, &[exponent]);
        put(26, &(blocks(self.settings.min_io_size) as u16).to_le_bytes());
        put(28, &blocks(self.settings.opt_io_size).to_le_bytes());
        put(WRITEBACK, &[u8::from(self.writeback)]);
        put(34, &self.settings.queues.to_le_bytes());
        for (offset, value) in
            [(36, zeroes), (40, segments), (44, block / SECTOR as u32), (48, zeroes), (52, segments)]
        {
            put(offset, &value.to_le_bytes());
        }
        // Zeros may be made by giving room back.
        put(56, &[1]);
    }

    fn set_config(&mut self, offset: u16, bytes: &[u8], cx: &mut Context<'_>) {
        // Writes reach RAM at once either way; the mode is what the driver has set.
        if let ([value], WRITEBACK, true) = (bytes, usize::from(offset), cx.has(CONFIG_WCE)) {
            self.writeback = *value & 1 != 0;
        }
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        // Without FLUSH the driver expects that nothing waits for it, with FLUSH alone that it has to (5.2.5.2).
        self.writeback = cx.has(FLUSH) && (self.writeback || !cx.has(CONFIG_WCE));
    }

    fn notify(&mut self, queue: u16, cx: &mut Context<'_>) {
        // While a request waits for its next turn, so does what comes behind it.
        if self.current.is_none() && self.stuck.is_none() {
            self.left = TURN;
            self.drain(queue, cx);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        if self.failure.is_some_and(|failure| failure.action == Action::Stop) {
            // The guest is about to be stopped.
            return cx.again();
        }
        self.stuck = None;
        self.left = TURN;
        let mut first = 0;
        if let Some(request) = self.current.take() {
            let Request { queue, head, .. } = request;
            if !cx.reload(queue, head) {
                return;
            }
            let going = self.go_on(queue, head, Outcome::Data(request), cx);
            cx.signal(queue);
            if !going {
                cx.again();
                return;
            }
            // The others come first now.
            first = queue + 1;
        }
        for step in 0..self.settings.queues {
            let queue = (first + step) % self.settings.queues;
            if !self.drain(queue, cx) {
                return;
            }
        }
    }

    fn reset(&mut self) {
        self.current = None;
        self.stuck = None;
        self.failure = None;
        self.writeback = self.settings.writeback;
    }
}

#[cfg(test)]
#[path = "blk/tests.rs"]
mod tests;

//! Frames from one card to the others on its hub.
//!
//! A frame is copied once, from the buffers of the card that sends it to those of each card whose filter wants it, while the
//! sender's notification is handled. What its checksum and its segments lack is passed on to a driver that takes it so;
//! for others `segment` completes it.
//!
//! A card that is off, or without a link, gets nothing, as a switch's port. A card that has no buffers just now makes the
//! sender wait: a stream between two cards of one guest would lose what the receiver could take a moment later. The frame
//! stays in the sender's ring, until the receiver has buffers again or `PATIENCE` is over; then frames that find no room
//! are dropped until one finds some. Of several cards, those without room lose what another one has taken.

use heapless::Vec;
use monovisor_arch::{GuestMemory, MemoryError};

use super::super::{Context, MAX_QUEUE_SIZE, Part, Segment, VirtioPci};
use super::header::{self, ETHERNET, Header, MAX_FRAME};
use super::{FLOWS, Net, feature, segment};
use crate::pc::MAX_FUNCTIONS;

/// How long frames wait for a card without buffers, in nanoseconds of virtual time.
const PATIENCE: u64 = 10_000_000;

/// Bytes that are moved before others have a turn: some hundredths of a millisecond.
const TURN: u64 = 256 << 10;
/// What a frame and each buffer of it cost besides their data, in bytes that could be moved instead.
const BUFFER_COST: u64 = 256;

/// Bytes of a frame that are looked at: Ethernet with two VLAN tags, IPv6, ports.
const PEEK: usize = ETHERNET + 8 + 40 + 4;

/// What has become of a frame at one card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// It is there.
    Taken,
    /// There are not enough buffers now.
    NoRoom,
    /// It cannot be given to that driver.
    Lost,
    /// The sender's buffers are not in RAM.
    Broken(MemoryError),
}

/// What has become of a frame.
enum Sent {
    /// It is done with, at this cost.
    Done(u64),
    /// It is to be tried again.
    Wait,
    /// Its sender has broken a rule.
    Broken,
}

/// What is left of a frame, in the sender's buffers.
#[derive(Clone, Debug)]
pub(super) struct Source<'a> {
    rest: core::slice::Iter<'a, Segment>,
    current: Segment,
    left: u64,
}

impl<'a> Source<'a> {
    /// `length` bytes from byte `offset` of the buffers on, which have as many.
    fn new(segments: &'a [Segment], offset: u64, length: u64) -> Self {
        let none = Segment { address: 0, length: 0 };
        let mut source = Self { rest: segments.iter(), current: none, left: offset.saturating_add(length) };
        source.skip(offset);
        source
    }

    /// Bytes that are left.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// As much of the first `most` bytes as is in one piece; `None` where nothing is left.
    fn piece(&mut self, most: u64) -> Option<Segment> {
        let most = most.min(self.left);
        if most == 0 {
            return None;
        }
        while self.current.length == 0 {
            self.current = *self.rest.next()?;
        }
        let length = u64::from(self.current.length).min(most);
        let piece = Segment { address: self.current.address, length: length as u32 };
        // Wraps only where the buffer itself does, which no RAM reaches.
        self.current.address = self.current.address.wrapping_add(length);
        self.current.length -= piece.length;
        self.left -= length;
        Some(piece)
    }

    /// Leaves bytes out.
    pub fn skip(&mut self, length: u64) {
        let mut skipped = 0;
        while let Some(piece) = self.piece(length - skipped) {
            skipped += u64::from(piece.length);
        }
    }

    /// No more than the first `length` bytes.
    pub fn take(&self, length: u64) -> Self {
        Self { left: self.left.min(length), ..self.clone() }
    }

    /// Reads the next bytes, as many as there are.
    pub fn read(&mut self, memory: &dyn GuestMemory, buffer: &mut [u8]) -> Result<usize, MemoryError> {
        let mut done = 0;
        while let Some(piece) = self.piece((buffer.len() - done) as u64) {
            let end = done + piece.length as usize;
            if let Some(place) = buffer.get_mut(done..end) {
                memory.read(piece.address, place)?;
            }
            done = end;
        }
        Ok(done)
    }

    /// Copies the next `length` bytes to guest RAM.
    fn copy(&mut self, memory: &dyn GuestMemory, target: u64, length: u64) -> Result<(), Fault> {
        let mut done = 0;
        while let Some(piece) = self.piece(length - done) {
            let bytes = u64::from(piece.length);
            memory.copy(target.wrapping_add(done), piece.address, bytes).map_err(|error| {
                let from_source = error.address.wrapping_sub(piece.address) < bytes;
                if from_source { Fault::Source(error) } else { Fault::Target(error) }
            })?;
            done += bytes;
        }
        Ok(())
    }
}

/// Whose buffer is not in RAM.
enum Fault {
    Source(MemoryError),
    Target(MemoryError),
}

/// A frame that is being sent.
pub(super) struct Frame<'a> {
    /// What it lacks.
    pub header: Header,
    /// Its bytes.
    pub source: Source<'a>,
    /// Its first bytes.
    start: &'a [u8],
    /// Its flow's place in the tables of flows.
    flow: usize,
}

/// A card that may get frames.
struct Peer<'a> {
    net: &'a mut Net,
    cx: Context<'a>,
    index: usize,
    /// Pairs that something has been put into, a bit each.
    filled: u16,
}

/// Where the network layer's header starts and whether it is IPv6's; `None` for other protocols.
pub(super) fn network(frame: &[u8]) -> Option<(usize, bool)> {
    let mut at = 12usize;
    // One tag, or one within another (IEEE 802.1Q, 802.1ad).
    for _ in 0..3 {
        match frame.get(at..at + 2)? {
            [0x08, 0x00] => return Some((at + 2, false)),
            [0x86, 0xdd] => return Some((at + 2, true)),
            [0x81, 0x00] | [0x88, 0xa8] => at += 4,
            _ => return None,
        }
    }
    None
}

/// The place of a frame's flow in the tables: the same for both directions.
fn flow(frame: &[u8]) -> usize {
    let Some((at, v6)) = network(frame) else { return 0 };
    let packet = frame.get(at..).unwrap_or_default();
    let (addresses, protocol, ports) = if v6 {
        (8..40, packet.get(6), 40)
    } else {
        (12..20, packet.get(9), usize::from(packet.first().map_or(0, |first| first & 15)) * 4)
    };
    // TCP and UDP have ports, at the same place.
    let ports = if matches!(protocol, Some(6 | 17)) { ports..ports + 4 } else { 0..0 };
    let halves = [addresses, ports].into_iter().filter_map(|range| packet.get(range));
    let words = halves.flat_map(|bytes| bytes.as_chunks::<2>().0);
    let mixed = words.fold(0, |mixed, word| mixed ^ u16::from_be_bytes(*word));
    usize::from(mixed ^ mixed >> 8) % FLOWS
}

/// Puts a frame into the next buffers of a queue: first `front`, then what is left of `source`.
pub(super) fn place(cx: &mut Context<'_>, queue: u16, front: &[u8], mut source: Source<'_>) -> Placed {
    let Some(mark) = cx.mark(queue) else { return Placed::NoRoom };
    let memory = cx.memory();
    let mergeable = cx.has(feature::MRG_RXBUF);
    let needed = if mergeable { 0 } else { (front.len() as u64).saturating_add(source.left()) };
    let mut front = front;
    let mut first = None;
    let mut buffers = 0u16;
    loop {
        let Some(head) = cx.next(queue) else {
            cx.roll_back(queue, mark);
            return Placed::NoRoom;
        };
        // A driver may take smaller frames only than those that there are, and one cannot go on giving buffers without room.
        if buffers == MAX_QUEUE_SIZE || cx.chain().length(Part::Writable) < needed {
            cx.roll_back(queue, mark);
            return Placed::Lost;
        }
        let mut written = 0u64;
        for segment in cx.chain().segments(Part::Writable) {
            match fill(memory, *segment, &mut front, &mut source) {
                Ok(bytes) => written += bytes,
                Err(fault) => {
                    cx.roll_back(queue, mark);
                    return match fault {
                        Fault::Source(error) => Placed::Broken(error),
                        Fault::Target(error) => {
                            cx.fail(error);
                            Placed::Lost
                        }
                    };
                }
            }
        }
        cx.complete(queue, head, written as u32);
        let first = *first.get_or_insert(head);
        buffers += 1;
        if front.is_empty() && source.left() == 0 {
            // The header says one buffer.
            if buffers > 1
                && cx.reload(queue, first)
                && let Err(error) = cx.chain().write(memory, header::SIZE as u64 - 2, &buffers.to_le_bytes())
            {
                cx.fail(error);
            }
            return Placed::Taken;
        }
    }
}

/// Fills a buffer; how many bytes it has got.
fn fill(
    memory: &dyn GuestMemory,
    buffer: Segment,
    front: &mut &[u8],
    source: &mut Source<'_>,
) -> Result<u64, Fault> {
    let room = u64::from(buffer.length);
    let length = front.len().min(buffer.length as usize);
    if let Some((bytes, rest)) = front.split_at_checked(length)
        && length != 0
    {
        memory.write(buffer.address, bytes).map_err(Fault::Target)?;
        *front = rest;
    }
    let done = length as u64;
    let more = source.left().min(room - done);
    source.copy(memory, buffer.address.wrapping_add(done), more)?;
    Ok(done + more)
}

/// Does what a card has asked for by `Context::forward`: it has sent something, or can be sent something. The functions
/// that have been called by it, a bit each.
pub fn forward(functions: &mut [&mut VirtioPci], index: usize, now: u64) -> u32 {
    let Some((net, _)) = functions.get_mut(index).and_then(|function| function.open::<Net>(now)) else {
        return 0;
    };
    let hub = net.settings.hub;
    let refilled = core::mem::replace(&mut net.refilled, false);
    let mut called = 0;
    if refilled && hub.is_some() {
        for other in 0..functions.len() {
            if let Some((net, _)) = functions.get_mut(other).and_then(|function| function.open::<Net>(now))
                && other != index
                && net.settings.hub == hub
            {
                net.impatient = false;
                if net.patience.take().is_some() {
                    called |= transmit(functions, other, now);
                }
            }
        }
    }
    called | transmit(functions, index, now)
}

/// Sends what a card has, as far as there is room and as its turn goes.
fn transmit(functions: &mut [&mut VirtioPci], index: usize, now: u64) -> u32 {
    let Some((before, rest)) = functions.split_at_mut_checked(index) else { return 0 };
    let Some((sender, after)) = rest.split_first_mut() else { return 0 };
    let Some((net, mut cx)) = sender.open::<Net>(now) else { return 0 };
    if net.sending == 0 || net.patience.is_some() {
        return 0;
    }
    let mut peers: Vec<Peer<'_>, MAX_FUNCTIONS> = Vec::new();
    let others = before.iter_mut().chain(after);
    for (other, function) in (0..).filter(|other| *other != index).zip(others) {
        if let Some((peer, cx)) = function.open::<Net>(now)
            && net.link
            && peer.link
            && net.settings.hub.is_some()
            && net.settings.hub == peer.settings.hub
            && cx.running()
        {
            // There are no more than there is room for.
            let _ = peers.push(Peer { net: peer, cx, index: other, filled: 0 });
        }
    }
    let mut left = TURN;
    for step in 0..net.settings.pairs {
        let pair = (net.turn + step) % net.settings.pairs;
        if net.sending & 1 << pair == 0 {
            continue;
        }
        if !drain(net, &mut cx, pair, &mut peers, &mut left) {
            net.turn = pair;
            break;
        }
        net.sending &= !(1 << pair);
    }
    let mut called = 1 << index;
    for peer in &mut peers {
        for pair in (0..peer.net.settings.pairs).filter(|pair| peer.filled & 1 << pair != 0) {
            peer.cx.signal(pair * 2);
            called |= 1 << peer.index;
        }
    }
    called
}

/// Sends what is in the queue of a pair. False: there is more.
fn drain(net: &mut Net, cx: &mut Context<'_>, pair: u16, peers: &mut [Peer<'_>], left: &mut u64) -> bool {
    let queue = pair * 2 + 1;
    while let Some(head) = cx.next(queue) {
        match send(net, cx, pair, peers) {
            Sent::Done(cost) => {
                cx.complete(queue, head, 0);
                *left = left.saturating_sub(cost);
            }
            Sent::Wait => {
                cx.put_back(queue);
                cx.signal(queue);
                return false;
            }
            // It needs a reset, and its queues give no more.
            Sent::Broken => return true,
        }
        if *left == 0 {
            // Others have their turn before this one goes on.
            cx.signal(queue);
            cx.again();
            net.turn = (pair + 1) % net.settings.pairs;
            return false;
        }
    }
    cx.signal(queue);
    true
}

/// Sends the frame that is in the chain taken last.
fn send(net: &mut Net, cx: &mut Context<'_>, pair: u16, peers: &mut [Peer<'_>]) -> Sent {
    let memory = cx.memory();
    let mut bytes = [0; header::SIZE + PEEK];
    let known = match cx.chain().read(memory, 0, &mut bytes) {
        Ok(known) => known,
        Err(error) => {
            cx.fail(error);
            return Sent::Broken;
        }
    };
    let segments = cx.chain().segments(Part::Readable);
    let length = cx.chain().length(Part::Readable).saturating_sub(header::SIZE as u64);
    let cost = length + BUFFER_COST * (segments.len() as u64 + 1);
    let parsed =
        bytes.get(..known).and_then(|bytes| bytes.split_first_chunk()).and_then(|(header, start)| {
            let whole = (ETHERNET as u64..=MAX_FRAME).contains(&length);
            let header = Header::parse(header, length, |features| cx.has(features))?;
            whole.then_some((header, start))
        });
    let Some((header, start)) = parsed else {
        net.dropped = net.dropped.wrapping_add(1);
        return Sent::Done(cost);
    };
    let flow =
        if net.settings.pairs > 1 || peers.iter().any(|peer| peer.net.pairs > 1) { flow(start) } else { 0 };
    if let Some(place) = net.flows.get_mut(flow) {
        *place = pair as u8;
    }
    let frame = Frame { header, source: Source::new(segments, header::SIZE as u64, length), start, flow };
    let (mut taken, mut no_room, mut work) = (false, false, 0);
    for peer in peers {
        match give(peer, &frame, memory, &mut work) {
            None => {}
            Some(Placed::Taken) => taken = true,
            Some(Placed::NoRoom) => no_room = true,
            Some(Placed::Lost) => net.dropped = net.dropped.wrapping_add(1),
            Some(Placed::Broken(error)) => {
                cx.fail(error);
                return Sent::Broken;
            }
        }
    }
    if taken {
        net.impatient = false;
    } else if no_room && !net.impatient {
        net.patience = Some(cx.now().saturating_add(PATIENCE));
        return Sent::Wait;
    }
    net.dropped = net.dropped.wrapping_add(u64::from(no_room));
    Sent::Done(cost + work)
}

/// Gives a frame to a card, if its filter wants it. What that costs is added to `work`.
fn give(peer: &mut Peer<'_>, frame: &Frame<'_>, memory: &dyn GuestMemory, work: &mut u64) -> Option<Placed> {
    if !peer.net.filter.passes(frame.start) {
        return None;
    }
    // The pair that the driver uses for this flow; of one that it has not sent anything of yet, any.
    let pairs = peer.net.pairs.max(1);
    let used = peer.net.flows.get(frame.flow).copied().map_or(0, u16::from);
    let pair = if used < pairs { used } else { frame.flow as u16 % pairs };
    let length = frame.source.left();
    let placed = if frame.header.suits(peer.net.offloads) {
        *work += length;
        place(&mut peer.cx, pair * 2, &frame.header.to_bytes(), frame.source.clone())
    } else {
        let pieces = frame.header.segments.map_or(1, |segments| length.div_ceil(segments.size.into()));
        *work += 2 * length + BUFFER_COST * pieces.min(segment::MAX_SEGMENTS);
        segment::place(&mut peer.cx, pair * 2, frame, memory)
    };
    if placed == Placed::Taken {
        peer.filled |= 1 << pair;
    }
    Some(placed)
}

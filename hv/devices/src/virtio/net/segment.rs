//! What a driver has left out of a frame, for one that cannot take it so: checksums, and the cutting of TCP into segments.

use monovisor_arch::{GuestMemory, MemoryError};

use super::super::{Context, MAX_QUEUE_SIZE};
use super::header::{self, Segments};
use super::hub::{Frame, Placed, Source, network, place as place_frame};

/// Most bytes of headers: Ethernet with two tags, IPv6 with some extensions, or IPv4 with all options, and TCP with all.
const HEADERS: usize = 256;

/// Most segments that a frame is cut into: each needs a buffer, and all of them are given at once. A frame of 64 KiB has
/// as many where a segment has 257 bytes.
pub(super) const MAX_SEGMENTS: u64 = MAX_QUEUE_SIZE as u64 - 1;

/// Where the checksum is in a TCP header, and the shortest one (RFC 9293, 3.1).
const TCP_CHECKSUM: usize = 16;
const TCP_HEADER: usize = 20;

// Flags of TCP.
const FIN: u8 = 1;
const PSH: u8 = 1 << 3;
const CWR: u8 = 1 << 7;

/// Where the next protocol starts in an IPv6 packet without extensions.
const IPV6_HEADER: usize = 40;

/// Bytes that are summed at a time; even.
const PIECE: usize = 256;

/// A checksum of the Internet (RFC 1071): the sum of 16-bit numbers in one's complement.
#[derive(Clone, Copy, Debug, Default)]
struct Sum(u64);

impl Sum {
    /// Adds bytes that start at an even offset.
    fn add(&mut self, bytes: &[u8]) {
        let (words, odd) = bytes.as_chunks::<2>();
        for word in words {
            self.0 += u64::from(u16::from_be_bytes(*word));
        }
        if let [last] = odd {
            self.0 += u64::from(*last) << 8;
        }
    }

    /// Adds all of `source`, which starts at an even offset.
    fn add_source(&mut self, mut source: Source<'_>, memory: &dyn GuestMemory) -> Result<(), MemoryError> {
        let mut piece = [0; PIECE];
        loop {
            let length = source.read(memory, &mut piece)?;
            if length == 0 {
                return Ok(());
            }
            self.add(piece.get(..length).unwrap_or_default());
        }
    }

    /// The sum of all.
    const fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// What goes into a header. In UDP 0 says that there is none; in one's complement the other zero is the same number.
    const fn finished(self) -> [u8; 2] {
        match !self.folded() {
            0 => [0xff, 0xff],
            sum => sum.to_be_bytes(),
        }
    }
}

/// The beginning of a frame with room for the header before it, as it is written.
struct Front {
    bytes: [u8; header::SIZE + HEADERS],
    /// Bytes of the frame's own headers.
    length: usize,
}

impl Front {
    /// Takes the first `length` bytes of a frame. `None`: there are fewer, or too many to be headers.
    fn new(
        source: &mut Source<'_>,
        length: usize,
        memory: &dyn GuestMemory,
    ) -> Result<Option<Self>, MemoryError> {
        let mut bytes = [0; header::SIZE + HEADERS];
        for (place, byte) in bytes.iter_mut().zip(header::PLAIN) {
            *place = byte;
        }
        let Some(place) = bytes.get_mut(header::SIZE..header::SIZE + length) else { return Ok(None) };
        let known = source.read(memory, place)?;
        Ok((known == length).then_some(Self { bytes, length }))
    }

    /// Bytes of the frame.
    fn get(&self, from: usize, to: usize) -> &[u8] {
        self.bytes.get(header::SIZE + from..header::SIZE + to).unwrap_or_default()
    }

    fn get_u16(&self, at: usize) -> u16 {
        match self.get(at, at + 2) {
            [high, low] => u16::from_be_bytes([*high, *low]),
            _ => 0,
        }
    }

    fn get_byte(&self, at: usize) -> u8 {
        self.get(at, at + 1).first().copied().unwrap_or(0)
    }

    fn set<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        if let Some(place) = self.bytes.get_mut(header::SIZE + at..header::SIZE + at + N) {
            place.copy_from_slice(&bytes);
        }
    }

    /// All of it, with the header before the frame.
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..header::SIZE + self.length).unwrap_or_default()
    }
}

/// Puts a frame into buffers of a queue, with all that it lacks.
pub(super) fn place(cx: &mut Context<'_>, queue: u16, frame: &Frame<'_>, memory: &dyn GuestMemory) -> Placed {
    let Some((start, offset)) = frame.header.checksum else { return Placed::Lost };
    let (start, offset) = (usize::from(start), usize::from(offset));
    let result = match frame.header.segments {
        None => complete(cx, queue, frame.source.clone(), start, start + offset, memory),
        Some(segments) if offset == TCP_CHECKSUM => {
            cut(cx, queue, frame.source.clone(), start, segments, memory)
        }
        Some(_) => Ok(Placed::Lost),
    };
    result.unwrap_or_else(Placed::Broken)
}

/// Completes a checksum.
fn complete(
    cx: &mut Context<'_>,
    queue: u16,
    mut source: Source<'_>,
    start: usize,
    at: usize,
    memory: &dyn GuestMemory,
) -> Result<Placed, MemoryError> {
    // So that what follows starts at an even offset from where the sum does; a frame may end there.
    let end = (at + 2 + (at - start) % 2).min(source.left() as usize);
    let Some(mut front) = Front::new(&mut source, end, memory)? else { return Ok(Placed::Lost) };
    // What is there is the sum of the pseudo header.
    let mut sum = Sum::default();
    sum.add(front.get(start, end));
    sum.add_source(source.clone(), memory)?;
    front.set(at, sum.finished());
    Ok(place_frame(cx, queue, front.bytes(), source))
}

/// Cuts TCP into segments.
fn cut(
    cx: &mut Context<'_>,
    queue: u16,
    mut source: Source<'_>,
    tcp: usize,
    segments: Segments,
    memory: &dyn GuestMemory,
) -> Result<Placed, MemoryError> {
    let whole = source.left();
    // How long the headers are is in the last of them.
    let Some(front) = Front::new(&mut source.clone(), tcp + TCP_HEADER, memory)? else {
        return Ok(Placed::Lost);
    };
    let length = usize::from(front.get_byte(tcp + 12) >> 4) * 4;
    let Some((ip, v6)) = network(front.get(0, tcp)) else { return Ok(Placed::Lost) };
    let ip_header = if v6 { IPV6_HEADER } else { usize::from(front.get_byte(ip) & 15) * 4 };
    let whole_header = if v6 { ip + ip_header <= tcp } else { ip_header >= 20 && ip + ip_header == tcp };
    if v6 != segments.v6 || !whole_header || length < TCP_HEADER {
        return Ok(Placed::Lost);
    }
    let Some(front) = Front::new(&mut source, tcp + length, memory)? else { return Ok(Placed::Lost) };
    let size = u64::from(segments.size);
    let payload = source.left();
    if payload.div_ceil(size) > MAX_SEGMENTS {
        return Ok(Placed::Lost);
    }
    let Some(mark) = cx.mark(queue) else { return Ok(Placed::NoRoom) };
    let (identification, flags) = (front.get_u16(ip + 4), front.get_byte(tcp + 13));
    let sequence = u32::from(front.get_u16(tcp + 4)) << 16 | u32::from(front.get_u16(tcp + 6));
    // The sum of the pseudo header has the length of all of it.
    let pseudo =
        Sum(u64::from(front.get_u16(tcp + TCP_CHECKSUM)) + u64::from(!Sum(whole - tcp as u64).folded()));
    let mut front = front;
    let (mut done, mut number) = (0, 0u16);
    loop {
        let piece = (payload - done).min(size);
        let last = done + piece == payload;
        // Fits: a segment has less payload than the frame, and that is within what IP can say.
        let packet = ((tcp + length - ip) as u64 + piece) as u16;
        if v6 {
            front.set(ip + 4, packet.wrapping_sub(IPV6_HEADER as u16).to_be_bytes());
        } else {
            front.set(ip + 2, packet.to_be_bytes());
            front.set(ip + 4, identification.wrapping_add(number).to_be_bytes());
            front.set(ip + 10, [0, 0]);
            let mut sum = Sum::default();
            sum.add(front.get(ip, ip + ip_header));
            front.set(ip + 10, sum.finished());
        }
        front.set(tcp + 4, sequence.wrapping_add(done as u32).to_be_bytes());
        let without = if last { 0 } else { FIN | PSH } | if done == 0 { 0 } else { CWR };
        front.set(tcp + 13, [flags & !without]);
        front.set(tcp + TCP_CHECKSUM, [0, 0]);
        let mut sum = Sum(pseudo.0 + length as u64 + piece);
        sum.add(front.get(tcp, tcp + length));
        let data = source.take(piece);
        sum.add_source(data.clone(), memory)?;
        front.set(tcp + TCP_CHECKSUM, sum.finished());
        match place_frame(cx, queue, front.bytes(), data) {
            Placed::Taken => {}
            // All of them, or none: the frame is sent again as a whole.
            other => {
                cx.roll_back(queue, mark);
                return Ok(other);
            }
        }
        if last {
            return Ok(Placed::Taken);
        }
        source.skip(piece);
        done += piece;
        number = number.wrapping_add(1);
    }
}

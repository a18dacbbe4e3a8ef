//! The header before each frame (5.1.6): what of its checksum and its segments is left to whoever gets it.

use super::feature;

/// Bytes of it. `num_buffers` is there with every driver of virtio 1.x.
pub const SIZE: usize = 12;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// Most bytes of a frame: the largest IP packet, with Ethernet's header and two VLAN tags.
pub const MAX_FRAME: u64 = 65535 + ETHERNET as u64 + 8;

/// The checksum from `csum_start` on is to be completed.
const NEEDS_CSUM: u8 = 1;

// gso_type.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// What a frame lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The checksum is to be completed: where what it covers begins, and where it is from there.
    pub checksum: Option<(u16, u16)>,
    /// It is to be cut into segments.
    pub segments: Option<Segments>,
    /// Bytes of its headers, if the driver has said so: a hint.
    length: u16,
}

/// How a frame is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Over IPv6; else over IPv4.
    pub v6: bool,
    /// Congestion is signalled in the first segment only.
    pub ecn: bool,
    /// Bytes of payload of a segment; not 0.
    pub size: u16,
}

impl Segments {
    /// What a device has to offer so that a driver may leave this to it.
    const fn to_device(self) -> u64 {
        (if self.v6 { feature::HOST_TSO6 } else { feature::HOST_TSO4 })
            | if self.ecn { feature::HOST_ECN } else { 0 }
    }

    /// What a driver has to take so that a device may leave this to it.
    const fn to_driver(self) -> u64 {
        (if self.v6 { feature::GUEST_TSO6 } else { feature::GUEST_TSO4 })
            | if self.ecn { feature::GUEST_ECN } else { 0 }
    }
}

impl Header {
    /// Reads what a driver has put before a frame of `length` bytes. `None`: it cannot be, or the driver has not
    /// negotiated it, as `has` says.
    pub fn parse(bytes: &[u8; SIZE], length: u64, has: impl Fn(u64) -> bool) -> Option<Self> {
        let [flags, kind, l0, l1, s0, s1, c0, c1, o0, o1, _, _] = *bytes;
        let start = u16::from_le_bytes([c0, c1]);
        let offset = u16::from_le_bytes([o0, o1]);
        let checksum = match flags & NEEDS_CSUM != 0 {
            true => {
                let inside = u64::from(start) + u64::from(offset) + 2 <= length;
                if !inside || usize::from(start) < ETHERNET || !has(feature::CSUM) {
                    return None;
                }
                Some((start, offset))
            }
            false => None,
        };
        let segments = match kind & !GSO_ECN {
            GSO_NONE if kind == GSO_NONE => None,
            protocol @ (GSO_TCPV4 | GSO_TCPV6) => {
                let size = u16::from_le_bytes([s0, s1]);
                let segments = Segments { v6: protocol == GSO_TCPV6, ecn: kind & GSO_ECN != 0, size };
                if size == 0 || checksum.is_none() || !has(segments.to_device()) {
                    return None;
                }
                Some(segments)
            }
            _ => return None,
        };
        let headers = u16::from_le_bytes([l0, l1]);
        let known = u64::from(headers) <= length;
        Some(Self { checksum, segments, length: if known { headers } else { 0 } })
    }

    /// A driver with these offloads takes the frame as it is.
    pub const fn suits(&self, offloads: u64) -> bool {
        let mut needed = 0;
        if self.checksum.is_some() {
            needed |= feature::GUEST_CSUM;
        }
        if let Some(segments) = self.segments {
            needed |= segments.to_driver();
        }
        offloads & needed == needed
    }

    /// What the receiving driver finds before the frame, which is in one buffer.
    pub fn to_bytes(self) -> [u8; SIZE] {
        let (start, offset) = self.checksum.unwrap_or_default();
        let (kind, size) = match self.segments {
            None => (GSO_NONE, 0),
            Some(segments) => {
                let protocol = if segments.v6 { GSO_TCPV6 } else { GSO_TCPV4 };
                (protocol | if segments.ecn { GSO_ECN } else { 0 }, segments.size)
            }
        };
        let flags = if self.checksum.is_some() { NEEDS_CSUM } else { 0 };
        let [l0, l1] = if self.segments.is_some() { self.length.to_le_bytes() } else { [0; 2] };
        let ([s0, s1], [c0, c1], [o0, o1]) = (size.to_le_bytes(), start.to_le_bytes(), offset.to_le_bytes());
        [flags, kind, l0, l1, s0, s1, c0, c1, o0, o1, 1, 0]
    }
}

/// What is before a frame that lacks nothing.
pub const PLAIN: [u8; SIZE] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

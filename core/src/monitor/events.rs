//! Events on their way to the sessions.
//!
//! An event is written once, when it occurs, and waits in a ring of every session that is in command mode. A slow line's
//! ring fills: an event that does not fit is not sent to that session, and counted (`x-query-events-lost`). Replies have a
//! buffer of their own and are never lost.

use heapless::{Deque, Vec};

use super::Now;
use crate::{
    json::{Emit, Writer},
    schema::{Event, EventData, Throttle},
};

/// Bytes of events that wait for one session's line.
pub const EVENT_RING_BYTES: usize = 8192;

/// Longest event, in bytes as they are sent; a longer one is counted as lost.
pub const EVENT_BYTES: usize = 1024;

/// Events of one kind (and key) that the rate limit holds back at a time. Beyond, they are sent without limit.
const THROTTLED: usize = 16;

/// Longest event that can be held back.
const THROTTLED_BYTES: usize = 384;

/// Shortest time between two events under the rate limit, in nanoseconds.
const RATE: u64 = 1_000_000_000;

/// One session's events.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: Deque<u8, EVENT_RING_BYTES>,
    /// Bytes that are sent before anything else.
    pub(super) first: usize,
    /// Events that found no room.
    pub(super) lost: u64,
    /// The session is in command mode.
    pub(super) active: bool,
}

impl Ring {
    pub(super) const fn new() -> Self {
        Self { bytes: Deque::new(), first: 0, lost: 0, active: false }
    }

    /// Everything that waits now goes before what the session sends next.
    pub(super) fn promote(&mut self) {
        self.first = self.bytes.len();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next bytes to send.
    pub(super) fn front(&self) -> &[u8] {
        let (bytes, _) = self.bytes.as_slices();
        bytes.get(..bytes.len().min(self.first)).unwrap_or_default()
    }

    pub(super) fn sent(&mut self, count: usize) {
        for _ in 0..count {
            self.bytes.pop_front();
        }
        self.first = self.first.saturating_sub(count);
    }

    /// The client is a new one: nothing of this is for it.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    fn push(&mut self, line: &[u8]) {
        if !self.active {
            return;
        }
        if self.bytes.storage_capacity().saturating_sub(self.bytes.len()) < line.len() {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        for &byte in line {
            let _ = self.bytes.push_back(byte);
        }
    }
}

/// An event under the rate limit, from when one was sent until a second later.
#[derive(Debug)]
struct Held {
    event: Event,
    key: u64,
    /// When the next may be sent, in nanoseconds.
    until: u64,
    /// The last one that came too early; empty where there was none.
    line: Vec<u8, THROTTLED_BYTES>,
}

/// The rate limits, which are the monitor's and not a session's.
#[derive(Debug)]
pub(super) struct Limits {
    held: Vec<Held, THROTTLED>,
}

impl Limits {
    pub(super) const fn new() -> Self {
        Self { held: Vec::new() }
    }

    /// When [`expire`](Self::expire) has something to do, in nanoseconds.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.held.iter().map(|held| held.until).min()
    }

    /// Sends what has waited long enough.
    pub(super) fn expire(&mut self, rings: &mut [Ring], now: u64) {
        self.held.retain_mut(|held| {
            if held.until > now {
                return true;
            }
            if held.line.is_empty() {
                return false;
            }
            broadcast(rings, &held.line);
            held.line.clear();
            held.until = now.saturating_add(RATE);
            true
        });
    }

    /// Whether the event may be sent now; if not it is kept in place of one kept before.
    fn admit(&mut self, event: Event, key: u64, line: &[u8], now: u64) -> bool {
        if let Some(held) = self.held.iter_mut().find(|held| held.event == event && held.key == key) {
            let mut copy = Vec::new();
            if copy.extend_from_slice(line).is_err() {
                return true;
            }
            held.line = copy;
            return false;
        }
        // Without room the limit cannot be kept; an event too many is better than one too few.
        let _ = self.held.push(Held { event, key, until: now.saturating_add(RATE), line: Vec::new() });
        true
    }
}

fn broadcast(rings: &mut [Ring], line: &[u8]) {
    for ring in rings {
        ring.push(line);
    }
}

/// Where events go.
#[derive(Debug)]
pub(crate) struct Events<'c> {
    pub(super) rings: &'c mut [Ring],
    pub(super) limits: &'c mut Limits,
}

impl Events<'_> {
    /// Sends an event to every session in command mode, or keeps it back as the rate limits say.
    pub(crate) fn emit<E: EventData>(&mut self, now: Now, event: &E) {
        let limited = match E::EVENT.throttle() {
            Throttle::None => None,
            Throttle::Rate => Some(0),
            Throttle::RatePerKey(_) => Some(fnv(event.throttle_key())),
        };
        let data: Option<&dyn Emit> = if E::HAS_DATA { Some(event) } else { None };
        self.queue(now, E::EVENT, limited, data);
    }

    /// Events that a session did not get.
    pub(crate) fn lost(&self, session: usize) -> u64 {
        self.rings.get(session).map_or(0, |ring| ring.lost)
    }

    /// The part of [`emit`](Self::emit) that is the same for all events.
    fn queue(&mut self, now: Now, event: Event, limited: Option<u64>, data: Option<&dyn Emit>) {
        let mut buffer = [0; EVENT_BYTES];
        let mut w = Writer::new(&mut buffer);
        let (seconds, microseconds) = now.timestamp();
        w.begin_object();
        w.key("timestamp");
        w.begin_object();
        w.key("seconds");
        w.int(seconds);
        w.key("microseconds");
        w.int(microseconds);
        w.end_object();
        w.key("event");
        w.string(event.name());
        if let Some(data) = data {
            w.member("data", data);
        }
        w.end_object();
        w.raw("\r\n");
        if w.overflowed() {
            for ring in self.rings.iter_mut().filter(|ring| ring.active) {
                ring.lost = ring.lost.saturating_add(1);
            }
            return;
        }
        if limited.is_none_or(|key| self.limits.admit(event, key, w.written(), now.monotonic)) {
            broadcast(self.rings, w.written());
        }
    }
}

/// FNV-1a, to tell keys apart without keeping them.
fn fnv(key: &str) -> u64 {
    key.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

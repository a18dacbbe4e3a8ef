//! The receiving side of a session: from the line to whole messages.

use crate::{
    json::{Object, Outcome, Receiver, SyntaxError},
    port::{LineError, Port},
};

/// Bytes that are kept while a command runs. A client that waits for replies needs none; this lets one that does not, run
/// ahead, by half of it at least. When it is full, the port is no longer read, and it is the port's business to hold the client back.
pub const RECEIVE_BYTES: usize = 4096;

/// Bytes taken from the port in one step.
const READ_BYTES: usize = 512;

/// After bytes were lost, input is not trusted again before an end of line, byte 0xFF, or a silence of this length, in
/// nanoseconds: else the rest of a mutilated message could be taken for one. That is four characters at 1200 baud.
const SILENCE: u64 = 30_000_000;

/// Bytes 0xFF that follow each other within this time, in nanoseconds, are one wish for a greeting: a client sends two, as
/// the first may only end a string.
const RUN: u64 = 5_000_000;

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A message: see [`Input::message`].
    Message,
    /// Something that is no message.
    Syntax(SyntaxError),
    /// Part of the input never arrived.
    Lost(LineError),
    /// The client wants to begin afresh.
    Resync,
}

/// A place in the stream where bytes are missing.
#[derive(Clone, Copy, Debug)]
struct Loss {
    /// There is such a place.
    real: bool,
    error: LineError,
    /// Received bytes before it that are not looked at.
    at: usize,
}

impl Loss {
    const NONE: Self = Self { real: false, error: LineError::Overrun, at: 0 };
}

#[derive(Debug)]
pub(super) struct Input {
    pub(super) receiver: Receiver,
    /// What is received and not looked at, from `start` to `end`.
    bytes: [u8; RECEIVE_BYTES],
    start: usize,
    end: usize,
    loss: Loss,
    /// Bytes are dropped until the stream can be trusted again.
    skipping: bool,
    /// When the last byte was read, in nanoseconds.
    heard: u64,
    /// The byte before was a 0xFF that began the session afresh, until this moment: more of the same say nothing new.
    resynced: u64,
}

impl Input {
    pub(super) const fn new() -> Self {
        Self {
            receiver: Receiver::new(),
            bytes: [0; RECEIVE_BYTES],
            start: 0,
            end: 0,
            loss: Loss::NONE,
            skipping: false,
            heard: 0,
            resynced: 0,
        }
    }

    /// Fetches what the line has. Returns whether that was anything.
    pub(super) fn read(&mut self, port: &mut impl Port, now: u64) -> bool {
        if self.end == RECEIVE_BYTES && self.start >= RECEIVE_BYTES / 2 {
            self.end = self.move_down(self.start, self.end, 0);
            self.start = 0;
        }
        let mut any = false;
        let mut left = READ_BYTES;
        while left > 0 && self.end < RECEIVE_BYTES {
            let limit = self.end.saturating_add(left).min(RECEIVE_BYTES);
            let room = self.bytes.get_mut(self.end..limit).unwrap_or_default();
            let most = room.len();
            match port.read_some(room) {
                Ok(0) | Err(nb::Error::WouldBlock) => break,
                Ok(count) => {
                    let count = count.min(most);
                    left = left.saturating_sub(count);
                    if self.skipping {
                        self.skip(count);
                    } else {
                        self.end = self.end.saturating_add(count);
                    }
                }
                Err(nb::Error::Other(error)) => {
                    left = left.saturating_sub(1);
                    self.lose(error);
                }
            }
            any = true;
        }
        if any {
            self.heard = now;
        }
        if self.skipping && now.saturating_sub(self.heard) >= SILENCE {
            self.skipping = false;
        }
        any
    }

    /// Moves bytes down in the buffer. Returns where they end then.
    fn move_down(&mut self, from: usize, to: usize, mut place: usize) -> usize {
        for at in from..to {
            let byte = self.bytes.get(at).copied().unwrap_or(0);
            if let Some(slot) = self.bytes.get_mut(place) {
                *slot = byte;
            }
            place = place.wrapping_add(1);
        }
        place
    }

    /// Drops what was just read up to where the stream can be trusted again, and keeps the rest.
    fn skip(&mut self, count: usize) {
        let end = self.end.saturating_add(count);
        let read = self.bytes.get(self.end..end).unwrap_or_default();
        if let Some(at) = read.iter().position(|byte| matches!(byte, b'\r' | b'\n' | 0xFF)) {
            self.skipping = false;
            // The end of a line is of no further use, but 0xFF still has to be heard.
            let resync = read.get(at) == Some(&0xFF);
            let from = self.end.saturating_add(at).saturating_add(usize::from(!resync));
            self.end = self.move_down(from, end, self.end);
        }
    }

    fn lose(&mut self, error: LineError) {
        self.skipping = true;
        if self.loss.real {
            // What came between two losses has lost its connection to both sides.
            self.end = self.start.saturating_add(self.loss.at);
        } else {
            self.loss = Loss { real: true, error, at: self.end.saturating_sub(self.start) };
        }
    }

    /// Goes on until there is something to say about the input.
    pub(super) fn next(&mut self, now: u64) -> Option<Received> {
        loop {
            if self.loss.real && self.loss.at == 0 {
                if self.skipping {
                    return None;
                }
                self.receiver.abandon();
                let error = self.loss.error;
                self.loss = Loss::NONE;
                return Some(Received::Lost(error));
            }
            let end = if self.loss.real { self.start.saturating_add(self.loss.at) } else { self.end };
            let bytes = self.bytes.get(self.start..end).unwrap_or_default();
            if bytes.is_empty() {
                return None;
            }
            if now < self.resynced && bytes.first() == Some(&0xFF) {
                self.drop_front(1);
                continue;
            }
            let (used, outcome) = self.receiver.feed(bytes);
            self.drop_front(used);
            if used > 0 {
                self.resynced = 0;
            }
            match outcome {
                Some(Outcome::Message) => return Some(Received::Message),
                Some(Outcome::Error(error)) => return Some(Received::Syntax(error)),
                Some(Outcome::Resync) => {
                    self.resynced = now.saturating_add(RUN);
                    return Some(Received::Resync);
                }
                None => {}
            }
        }
    }

    /// Looks for a byte 0xFF in what has been received and not looked at, and drops everything up to it. The byte is in no
    /// message, so this can be done while a command runs that nobody waits for any more.
    pub(super) fn cut_to_resync(&mut self, now: u64) -> bool {
        let unread = self.bytes.get(self.start..self.end).unwrap_or_default();
        let Some(at) = unread.iter().rposition(|byte| *byte == 0xFF) else { return false };
        self.receiver.abandon();
        (self.loss, self.skipping, self.resynced) = (Loss::NONE, false, now.saturating_add(RUN));
        self.drop_front(at.saturating_add(1));
        true
    }

    fn drop_front(&mut self, count: usize) {
        self.start = self.start.saturating_add(count);
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
        self.loss.at = self.loss.at.saturating_sub(count);
    }

    /// The message that was received last.
    pub(super) fn message(&self) -> Object<'_> {
        self.receiver.message().unwrap_or(Object::EMPTY)
    }

    /// Forgets everything received so far.
    pub(super) fn clear(&mut self) {
        self.receiver.abandon();
        (self.start, self.end) = (0, 0);
        self.loss = Loss::NONE;
        self.skipping = false;
    }
}

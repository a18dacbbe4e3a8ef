//! The receiving side of a session: from the line to whole messages.

use heapless::Deque;

use crate::{
    json::{Object, Outcome, Receiver, SyntaxError},
    port::{LineError, Port},
};

/// Bytes that are kept while a command runs. A client that waits for replies needs none; this lets one that does not, run
/// ahead. When it is full, the port is no longer read, and it is the port's business to hold the client back.
pub const RECEIVE_BYTES: usize = 4096;

/// Bytes taken from the port in one step.
const READ_BYTES: usize = 512;

/// After bytes were lost, input is not trusted again before an end of line, byte 0xFF, or a silence of this length, in
/// nanoseconds: else the rest of a mutilated message could be taken for one. That is four characters at 1200 baud.
const SILENCE: u64 = 30_000_000;

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
    /// Bytes in the ring before it.
    at: usize,
}

impl Loss {
    const NONE: Self = Self { real: false, error: LineError::Overrun, at: 0 };
}

#[derive(Debug)]
pub(super) struct Input {
    pub(super) receiver: Receiver,
    ring: Deque<u8, RECEIVE_BYTES>,
    loss: Loss,
    /// Bytes are dropped until the stream can be trusted again.
    skipping: bool,
    /// When the last byte was read, in nanoseconds.
    heard: u64,
    /// The byte before was a 0xFF that began the session afresh: more of the same say nothing new.
    resynced: bool,
}

impl Input {
    pub(super) const fn new() -> Self {
        Self {
            receiver: Receiver::new(),
            ring: Deque::new(),
            loss: Loss::NONE,
            skipping: false,
            heard: 0,
            resynced: false,
        }
    }

    /// Fetches what the line has. Returns whether that was anything.
    pub(super) fn read(&mut self, port: &mut impl Port, now: u64) -> bool {
        let mut any = false;
        for _ in 0..READ_BYTES {
            if self.ring.is_full() {
                break;
            }
            match port.read() {
                Ok(byte) => self.take(byte),
                Err(nb::Error::Other(error)) => self.lose(error),
                Err(nb::Error::WouldBlock) => break,
            }
            self.heard = now;
            any = true;
        }
        if self.skipping && now.saturating_sub(self.heard) >= SILENCE {
            self.skipping = false;
        }
        any
    }

    #[inline]
    fn take(&mut self, byte: u8) {
        if self.skipping {
            match byte {
                b'\r' | b'\n' => {
                    self.skipping = false;
                    return;
                }
                0xFF => self.skipping = false,
                _ => return,
            }
        }
        // There is room: `read` looks before every byte.
        let _ = self.ring.push_back(byte);
    }

    fn lose(&mut self, error: LineError) {
        self.skipping = true;
        if self.loss.real {
            // What came between two losses has lost its connection to both sides.
            while self.ring.len() > self.loss.at {
                self.ring.pop_back();
            }
        } else {
            self.loss = Loss { real: true, error, at: self.ring.len() };
        }
    }

    /// Goes on until there is something to say about the input.
    pub(super) fn next(&mut self) -> Option<Received> {
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
            let limit = if self.loss.real { self.loss.at } else { usize::MAX };
            let (bytes, _) = self.ring.as_slices();
            let bytes = bytes.get(..bytes.len().min(limit)).unwrap_or_default();
            if bytes.is_empty() {
                return None;
            }
            if self.resynced && bytes.first() == Some(&0xFF) {
                self.drop_front(1);
                continue;
            }
            let (used, outcome) = self.receiver.feed(bytes);
            self.drop_front(used);
            self.resynced &= used == 0;
            match outcome {
                Some(Outcome::Message) => return Some(Received::Message),
                Some(Outcome::Error(error)) => return Some(Received::Syntax(error)),
                Some(Outcome::Resync) => {
                    self.resynced = true;
                    return Some(Received::Resync);
                }
                None => {}
            }
        }
    }

    fn drop_front(&mut self, count: usize) {
        for _ in 0..count {
            self.ring.pop_front();
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
        self.ring.clear();
        self.loss = Loss::NONE;
        self.skipping = false;
    }
}

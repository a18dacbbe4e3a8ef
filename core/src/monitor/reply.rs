//! The sending side of a session: from a command's result to the line.
//!
//! A line is made in pieces, each of which fits the buffer: what the handler writes, the echo of the `id`, the end. The
//! next piece is made when the one before has been sent. For members in QEMU's order the result stands before the `id`
//! and an error behind it.

use crate::{
    Error,
    dispatch::{self, Call, Outcome, Request},
    handlers::Handlers,
    json::{Echo, Emit, Writer},
};

/// Bytes made at a time. An element of a list, and the result of a command that returns no list, must fit.
pub const SEND_BYTES: usize = 4096;

/// Room that is left for the end of a line.
const TAIL: usize = 64;

/// What a session is sending.
#[derive(Debug)]
#[repr(u8)] // nothing is 0, see `Monitor::new`
enum Phase {
    /// Nothing: the next message may be looked at.
    Idle,
    /// The result of a command that is running.
    Result(Call),
    /// The `id` behind a result.
    ResultId,
    /// The `id` in front of this error.
    ErrorId(Error),
    /// The error itself.
    Error(Error),
}

/// What is being sent.
#[derive(Debug)]
pub(super) struct Reply {
    phase: Phase,
    /// A line has been begun and its end has not been made.
    open: bool,
    /// The line has taken the beginning of one and not its end.
    cut: bool,
    /// Where the `id` is on the message's tape; 0 where the answer has none.
    id: usize,
    echo: Echo,
    sent: usize,
    len: usize,
    bytes: [u8; SEND_BYTES],
}

impl Reply {
    pub(super) const fn new() -> Self {
        Self {
            phase: Phase::Idle,
            open: false,
            cut: false,
            id: 0,
            echo: Echo::new(),
            sent: 0,
            len: 0,
            bytes: [0; SEND_BYTES],
        }
    }

    /// Whether no command is being answered.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether a line has been begun that is not yet complete in the buffer: no event may go out behind it.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether what has gone out last was no end of a line.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(super) fn set_cut(&mut self, cut: bool) {
        self.cut = cut;
    }

    /// Bytes to be sent.
    pub(super) fn front(&self) -> &[u8] {
        self.bytes.get(self.sent..self.len).unwrap_or_default()
    }

    pub(super) fn sent(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count).min(self.len);
    }

    /// Makes a line that is known as a whole. Only when there is nothing to be sent.
    pub(super) fn line(&mut self, write: impl FnOnce(&mut Writer<'_>)) {
        let mut w = Writer::new(&mut self.bytes);
        write(&mut w);
        w.raw("\r\n");
        (self.sent, self.len) = (0, w.len());
    }

    /// Begins to answer a command.
    pub(super) fn run(&mut self, request: Request) {
        self.phase = Phase::Result(Call::new(request));
        self.id = request.id;
    }

    /// Answers a message with an error. `id` is the place of the `id` that goes with it on the message's tape, 0 for none.
    pub(super) fn fail(&mut self, error: Error, id: usize) {
        self.phase = Phase::ErrorId(error);
        self.id = id;
    }

    /// Forgets what was being sent.
    pub(super) fn clear(&mut self) {
        self.phase = Phase::Idle;
        self.open = false;
        (self.sent, self.len) = (0, 0);
    }

    /// Makes the next piece, when there is nothing to be sent. `tape` is the message's. Returns whether there now is
    /// something to be sent; if not, the handler is not ready.
    pub(super) fn step<H: Handlers>(
        &mut self,
        tape: &[u8],
        handlers: &mut H,
        cx: &mut dispatch::Context<'_>,
    ) -> bool {
        let Self { phase, open, id, echo, sent, len, bytes, .. } = self;
        let mut w = Writer::new(bytes);
        loop {
            match phase {
                Phase::Idle => break,
                Phase::Result(call) => {
                    let start = w.mark();
                    if !*open {
                        w.raw("{\"return\": ");
                    }
                    let outcome = call.step(tape, handlers, cx, &mut w);
                    match outcome {
                        Outcome::Done => {}
                        Outcome::More => {
                            *open = true;
                            break;
                        }
                        Outcome::NotReady => {
                            w.rewind(start);
                            break;
                        }
                        // Too late for an error: what has been sent stands, and the line is brought to its end.
                        Outcome::Failed if *open => {
                            w.rewind(start);
                            call.close(&mut w);
                        }
                        Outcome::Failed => {
                            w.rewind(start);
                            *phase = Phase::ErrorId(cx.failure.take().unwrap_or_else(Error::io));
                            continue;
                        }
                    }
                    *open = true;
                    if echo.start(*id) {
                        w.raw(", \"id\": ");
                    }
                    *phase = Phase::ResultId;
                }
                Phase::ResultId => {
                    if !echo.step(tape, &mut w) || w.room() < TAIL {
                        break;
                    }
                    w.raw("}\r\n");
                    *open = false;
                    *phase = Phase::Idle;
                }
                Phase::ErrorId(error) => {
                    if !*open {
                        *open = true;
                        w.raw("{");
                        if echo.start(*id) {
                            w.raw("\"id\": ");
                        } else {
                            *phase = Phase::Error(error.clone());
                            continue;
                        }
                    }
                    if !echo.step(tape, &mut w) || w.room() < TAIL {
                        break;
                    }
                    w.raw(", ");
                    *phase = Phase::Error(error.clone());
                }
                Phase::Error(error) => {
                    let start = w.mark();
                    if !*open {
                        w.raw("{");
                    }
                    w.raw("\"error\": ");
                    error.emit(&mut w);
                    w.raw("}\r\n");
                    if w.overflowed() {
                        w.rewind(start);
                        *open = true;
                        break;
                    }
                    *open = false;
                    *phase = Phase::Idle;
                }
            }
        }
        (*sent, *len) = (0, w.len());
        *len > 0
    }
}

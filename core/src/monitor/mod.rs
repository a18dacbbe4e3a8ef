//! The monitor: sessions, each on its own line, that drive one machine.
//!
//! [`Monitor::poll`] is called for a session whenever there may be something to do: a byte came, the line has room, a
//! handler that was not ready may be, [`Monitor::deadline`] has passed. It does one bounded step and never waits. All
//! sessions see the same machine and the same events; everything else is a session's own.

mod events;
mod input;
mod reply;
#[cfg(test)]
mod tests;

pub use events::{EVENT_BYTES, EVENT_RING_BYTES};
pub use input::RECEIVE_BYTES;
pub use reply::SEND_BYTES;

use crate::{
    Error,
    dispatch::{Context, Request, version},
    handlers::Handlers,
    json::{Emit, Writer},
    port::Port,
    schema::{EventData, Offered},
};
pub(crate) use events::Events;
use events::{Limits, Ring};
use input::{Input, Received};
use reply::Reply;

/// The moment of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds since some moment before; never goes back.
    pub monotonic: u64,
    /// Microseconds since 1970-01-01 UTC; none where the rig has no clock.
    pub wall: Option<u64>,
}

impl Now {
    /// The two members of an event's `timestamp`, both -1 where there is no clock.
    fn timestamp(self) -> (i64, i64) {
        match self.wall {
            Some(wall) => ((wall / 1_000_000).cast_signed(), (wall % 1_000_000).cast_signed()),
            None => (-1, -1),
        }
    }
}

/// What a product says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// The member `package` of the version: ` (Monovisor 0.1.0)`.
    pub package: &'static str,
    /// The commands and events that it has.
    pub offered: &'static Offered,
}

/// Mode of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The greeting is still to be sent.
    Silent,
    /// `qmp_capabilities` is expected.
    Negotiation,
    /// Commands are expected.
    Command,
}

/// Monitor with `S` sessions.
#[derive(Debug)]
pub struct Monitor<const S: usize> {
    product: Option<Product>,
    modes: [Mode; S],
    inputs: [Input; S],
    replies: [Reply; S],
    rings: [Ring; S],
    limits: Limits,
    /// The processor that each session has chosen.
    cpus: [usize; S],
}

impl<const S: usize> Default for Monitor<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const S: usize> Monitor<S> {
    /// A monitor that is silent until [`start`](Self::start).
    ///
    /// Its memory is all zero, so that a static one takes no place in an image.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            product: None,
            modes: [Mode::Silent; S],
            inputs: [const { Input::new() }; S],
            replies: [const { Reply::new() }; S],
            rings: [const { Ring::new() }; S],
            limits: Limits::new(),
            cpus: [0; S],
        }
    }

    /// Lets the monitor speak for a product: it greets on every line.
    pub fn start(&mut self, product: Product) {
        self.product = Some(product);
    }

    /// Sends an event to every session in command mode.
    pub fn event<E: EventData>(&mut self, event: &E, now: Now) {
        Events { rings: &mut self.rings, limits: &mut self.limits }.emit(now, event);
    }

    /// When the monitor wants to be polled even if nothing else happens, in nanoseconds of [`Now::monotonic`].
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.limits.deadline()
    }

    /// Whether a session has something to send.
    #[must_use]
    pub fn wants_to_send(&self, session: usize) -> bool {
        let reply =
            self.replies.get(session).is_some_and(|reply| !reply.front().is_empty() || reply.is_open());
        reply || self.rings.get(session).is_some_and(|ring| !ring.is_empty())
    }

    /// Whether a session has a command that is not finished.
    #[must_use]
    pub fn is_busy(&self, session: usize) -> bool {
        self.replies.get(session).is_some_and(|reply| !reply.is_idle())
    }

    /// Whether a session has a command that is not finished and does not wait for the line: poll again soon.
    #[must_use]
    pub fn is_working(&self, session: usize) -> bool {
        self.replies.get(session).is_some_and(|reply| !reply.is_idle() && reply.front().is_empty())
    }

    /// A session's client is gone, or another has come: the session starts again with its greeting.
    pub fn restart(&mut self, session: usize) {
        if let Some(input) = self.inputs.get_mut(session) {
            input.clear();
        }
        self.forget(session);
    }

    /// Whether everything that a session had to say has gone out, and nothing more is being made.
    #[must_use]
    pub fn is_flushed(&self, session: usize) -> bool {
        !self.is_busy(session) && !self.wants_to_send(session)
    }

    /// Drops a session's mode, reply and events.
    fn forget(&mut self, session: usize) {
        if let Some(mode) = self.modes.get_mut(session) {
            *mode = Mode::Silent;
        }
        if let Some(reply) = self.replies.get_mut(session) {
            reply.clear();
        }
        if let Some(ring) = self.rings.get_mut(session) {
            ring.clear();
        }
        if let Some(cpu) = self.cpus.get_mut(session) {
            *cpu = 0;
        }
    }

    /// One step of a session. Returns whether anything was done: if so, there may be more to do at once.
    pub fn poll<H: Handlers>(
        &mut self,
        session: usize,
        port: &mut impl Port,
        handlers: &mut H,
        now: Now,
    ) -> bool {
        if self.limits.deadline().is_some_and(|deadline| deadline <= now.monotonic) {
            self.limits.expire(&mut self.rings, now.monotonic);
        }
        let heard = self.inputs.get_mut(session).is_some_and(|input| input.read(port, now.monotonic));
        // A client that begins afresh does not wait for what another one has left running.
        if heard
            && self.is_busy(session)
            && self.inputs.get_mut(session).is_some_and(|input| input.cut_to_resync(now.monotonic))
        {
            self.forget(session);
        }
        let mut done = self.send(session, port);
        if self.replies.get(session).is_some_and(|reply| reply.front().is_empty()) {
            done |= self.advance(session, handlers, now);
            done |= self.send(session, port);
        }
        heard || done
    }

    /// Hands the line what is ready. Returns whether it took anything.
    fn send(&mut self, session: usize, port: &mut impl Port) -> bool {
        let (Some(reply), Some(ring)) = (self.replies.get_mut(session), self.rings.get_mut(session)) else {
            return false;
        };
        let mut any = false;
        loop {
            if ring.first == 0 && reply.front().is_empty() && !reply.is_open() {
                ring.promote();
            }
            let events = ring.first > 0;
            let bytes = if events { ring.front() } else { reply.front() };
            if bytes.is_empty() {
                return any;
            }
            let Ok(count @ 1..) = port.write(bytes) else { return any };
            let whole = bytes.get(count.saturating_sub(1)) == Some(&b'\n');
            if events {
                ring.sent(count);
            } else {
                reply.sent(count);
            }
            reply.set_cut(!whole);
            any = true;
        }
    }

    /// Makes something to send: the next piece of a reply, or the beginning of one. Returns whether anything was done.
    fn advance<H: Handlers>(&mut self, session: usize, handlers: &mut H, now: Now) -> bool {
        let Self { product, modes, inputs, replies, rings, limits, cpus } = self;
        let (Some(product), Some(mode), Some(input), Some(reply), Some(cpu)) = (
            product,
            modes.get_mut(session),
            inputs.get_mut(session),
            replies.get_mut(session),
            cpus.get_mut(session),
        ) else {
            return false;
        };
        if *mode == Mode::Silent {
            // Behind a line that was cut short, a client that reads lines would not find the greeting.
            let cut = reply.is_cut();
            reply.line(|w| {
                if cut {
                    w.raw("\r\n");
                }
                greet(w, product);
            });
            *mode = Mode::Negotiation;
            return true;
        }
        if reply.is_idle() {
            let Some(received) = input.next(now.monotonic) else { return false };
            match received {
                Received::Message => match Request::read(input.message(), *mode == Mode::Command, product) {
                    Ok(request) => reply.run(request),
                    Err((error, id)) => reply.fail(error, id),
                },
                Received::Syntax(error) => {
                    reply.fail(Error::syntax(error, input.receiver.keyword()), 0);
                }
                Received::Lost(error) => {
                    let name = error.name();
                    reply.fail(Error::generic(format_args!("Input lost on the serial line ({name})")), 0);
                }
                Received::Resync => {
                    self.forget(session);
                    return true;
                }
            }
        }
        let mut cx = Context {
            session,
            now,
            first: false,
            progress: 0,
            cpu: *cpu,
            negotiated: false,
            failure: None,
            product,
            events: Events { rings, limits },
        };
        let begun = reply.is_open();
        let made = reply.step(input.receiver.tape(), handlers, &mut cx);
        let negotiated = cx.negotiated;
        *cpu = cx.cpu;
        if let Some(ring) = rings.get_mut(session) {
            // Events that were raised before or by the command come before its reply.
            if !begun && made {
                ring.promote();
            }
            if negotiated {
                *mode = Mode::Command;
                ring.active = true;
            }
        }
        made
    }
}

/// Writes the greeting.
fn greet(w: &mut Writer<'_>, product: &Product) {
    w.begin_object();
    w.key("QMP");
    w.begin_object();
    w.key("version");
    version(product).emit(w);
    w.key("capabilities");
    w.begin_array();
    w.end_array();
    w.end_object();
    w.end_object();
}

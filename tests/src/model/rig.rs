//! A model with its monitor, on lines in memory.

use std::collections::VecDeque;
use std::convert::Infallible;

use monovisor_core::{LineError, Monitor, Now, Port};

use super::{Model, Options};

/// Sessions of a rig.
pub const SESSIONS: usize = 2;

/// A line in memory.
#[derive(Debug, Default)]
pub struct Line {
    input: VecDeque<Result<u8, LineError>>,
    output: Vec<u8>,
}

impl Port for Line {
    fn read(&mut self) -> nb::Result<u8, LineError> {
        match self.input.pop_front() {
            Some(Ok(byte)) => Ok(byte),
            Some(Err(error)) => Err(nb::Error::Other(error)),
            None => Err(nb::Error::WouldBlock),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> nb::Result<usize, Infallible> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

/// A model machine with its monitor and its lines.
#[derive(Debug)]
pub struct Rig {
    monitor: Box<Monitor<SESSIONS>>,
    /// The machine.
    pub model: Model,
    lines: [Line; SESSIONS],
    now: u64,
}

impl Rig {
    /// A rig that has just been started; the greetings are on the lines.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let model = Model::new(options);
        let mut monitor = Box::new(Monitor::new());
        monitor.start(model.product());
        let mut rig = Self { monitor, model, lines: Default::default(), now: 0 };
        rig.run();
        rig
    }

    /// Sends bytes to a session and lets everything happen that follows.
    ///
    /// # Panics
    /// Where there is no such session.
    pub fn feed(&mut self, session: usize, bytes: &[u8]) {
        self.lines[session].input.extend(bytes.iter().copied().map(Ok));
        self.run();
    }

    /// Sends bytes to a session and polls it so often, whatever there may be left to do.
    ///
    /// # Panics
    /// Where there is no such session.
    pub fn feed_for(&mut self, session: usize, bytes: &[u8], polls: usize) {
        self.lines[session].input.extend(bytes.iter().copied().map(Ok));
        for _ in 0..polls {
            self.step(session);
        }
    }

    /// Has an error on the receiving side of a line.
    ///
    /// # Panics
    /// Where there is no such session.
    pub fn disturb(&mut self, session: usize, error: LineError) {
        self.lines[session].input.push_back(Err(error));
        self.run();
    }

    /// Takes what a session has answered.
    ///
    /// # Panics
    /// Where there is no such session.
    pub fn output(&mut self, session: usize) -> Vec<u8> {
        std::mem::take(&mut self.lines[session].output)
    }

    /// Sends bytes and takes the answer, as text.
    ///
    /// # Panics
    /// Where there is no such session, or the answer is no text.
    pub fn say(&mut self, session: usize, bytes: &[u8]) -> String {
        self.feed(session, bytes);
        String::from_utf8(self.output(session)).expect("answers are ASCII")
    }

    /// Lets time pass.
    pub fn wait(&mut self, nanoseconds: u64) {
        self.now += nanoseconds;
        self.run();
    }

    /// Starts a session again, as when another client comes.
    pub fn restart(&mut self, session: usize) {
        self.monitor.restart(session);
        self.run();
    }

    /// Steps until nothing more happens.
    fn run(&mut self) {
        let mut any = true;
        while any {
            any = (0..SESSIONS).fold(false, |any, session| self.step(session) | any);
        }
    }

    /// One step of a session, and what the machine reports behind a reply. Returns whether there may be more to do.
    fn step(&mut self, session: usize) -> bool {
        let now = Now { monotonic: self.now, wall: Some(1_500_000_000_000_000 + self.now / 1000) };
        let any = self.monitor.poll(session, &mut self.lines[session], &mut self.model, now);
        if self.model.later.is_empty() || (0..SESSIONS).any(|session| self.monitor.is_busy(session)) {
            return any || self.monitor.is_working(session);
        }
        self.model.report(&mut self.monitor, now);
        true
    }
}

//! From a message to the method that answers it.

use crate::{
    Error, ErrorClass, Text,
    handlers::{self, Handlers, Poll, StoreFiles},
    json::{Emit, Mark, Object, Value, Writer},
    monitor::{Events, Now, Product},
    schema::{
        self, Command, CommandList, EventData, EventList, SchemaList,
        extensions::{EventsLost, XStoreReadArgs},
        misc::{ClosefdArgs, RemoveFdArgs, VersionInfo, VersionTriple},
        value::Decode,
    },
};

/// The version of QEMU whose protocol this is: major, minor, micro.
const VERSION: VersionTriple = VersionTriple { major: 2, minor: 8, micro: 0 };

/// Room below which nothing further is made in this step.
const ENOUGH: usize = 512;

/// Most bytes of a file that one `x-store-read` gives, and what it gives where the client does not say.
pub const READ_BYTES: u64 = 48 * 1024;

/// What a handler may know and do besides its arguments.
#[derive(Debug)]
pub struct Context<'c> {
    /// The session that the command came on.
    pub session: usize,
    /// The present moment.
    pub now: Now,
    /// Whether this is the first call for this command: not one that continues after `WouldBlock`.
    pub first: bool,
    /// A number that stays with the command from call to call; 0 at first.
    pub progress: u64,
    /// The processor that the session's commands are about where they do not say: what `cpu` sets.
    pub cpu: usize,
    pub(crate) negotiated: bool,
    /// Why the command failed, where it has.
    pub(crate) failure: Option<Error>,
    pub(crate) product: &'c Product,
    pub(crate) events: Events<'c>,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The result is complete.
    Done,
    /// There is more of it.
    More,
    /// The handler is to be called again later.
    NotReady,
    /// [`Context::failure`] says why.
    Failed,
}

impl Context<'_> {
    /// Sends an event to every session in command mode. It goes out before the reply of the command that is being handled.
    pub fn event<E: EventData>(&mut self, event: &E) {
        self.events.emit(self.now, event);
    }

    /// The command fails. Errors are large: each is put here where it comes up, and not handed on from call to call.
    #[cold]
    pub(crate) fn fail(&mut self, error: Error) -> Outcome {
        self.failure = Some(error);
        Outcome::Failed
    }

    /// The same, unless the handler only wants to be called again.
    #[inline(never)]
    pub(crate) fn fail_or_wait(&mut self, error: nb::Error<Error>) -> Outcome {
        match error {
            nb::Error::Other(error) => self.fail(error),
            nb::Error::WouldBlock => Outcome::NotReady,
        }
    }
}

/// The result for a command that the product does not have.
#[cold]
pub(crate) fn absent(command: Command) -> nb::Error<Error> {
    nb::Error::Other(Error::command_not_found(command.name()))
}

/// Keeps the optimiser from seeing through a default handler, where the whole of `core` is to be linked for inspection.
#[inline(always)]
pub(crate) fn hide<T>(value: T) -> T {
    if cfg!(feature = "inspect") { core::hint::black_box(value) } else { value }
}

/// What is between the calls of a command that needs more than one.
#[derive(Debug)]
enum Course {
    /// Nothing but a count.
    Count,
    Commands(CommandList),
    Events(EventList),
    Schema(SchemaList),
    /// Bytes that the file has, and how many of them are to be sent.
    File {
        all: u64,
        length: u64,
    },
}

/// A command that is being carried out.
#[derive(Debug)]
pub(crate) struct Call {
    command: Command,
    /// The place of the arguments on the message's tape; 0 where there are none.
    arguments: usize,
    /// Elements or pieces of the result so far.
    count: usize,
    /// Whether something was made of it already.
    begun: bool,
    /// Whether the next element is preceded by a comma.
    comma: bool,
    progress: u64,
    first: bool,
    course: Course,
}

/// The object without members, for commands whose `arguments` are left out.
const NO_ARGUMENTS: Object<'static> = Object::EMPTY;

impl Call {
    /// A command that is to be carried out.
    pub(crate) fn new(request: Request) -> Self {
        let Request { command, arguments, .. } = request;
        let course = match command {
            Command::QUERY_COMMANDS => Course::Commands(CommandList::new()),
            Command::QUERY_EVENTS => Course::Events(EventList::new()),
            Command::QUERY_QMP_SCHEMA => Course::Schema(SchemaList::new()),
            _ => Course::Count,
        };
        Self { command, arguments, count: 0, begun: false, comma: false, progress: 0, first: true, course }
    }

    /// The command.
    pub(crate) fn command(&self) -> Command {
        self.command
    }

    /// Makes the result's next piece.
    pub(crate) fn step<H: Handlers>(
        &mut self,
        tape: &[u8],
        handlers: &mut H,
        cx: &mut Context<'_>,
        w: &mut Writer<'_>,
    ) -> Outcome {
        let arguments = match self.arguments {
            0 => NO_ARGUMENTS,
            at => Object::at(tape, at).unwrap_or(NO_ARGUMENTS),
        };
        (cx.first, cx.progress) = (self.first, self.progress);
        if self.first {
            handlers.observe(self.command, cx);
        }
        let result = match schema::check_arguments(self.command, arguments) {
            Ok(()) => self.families(arguments, handlers, cx, w),
            Err(error) => cx.fail(error),
        };
        (self.first, self.progress) = (false, cx.progress);
        result
    }

    fn families<H: Handlers>(
        &mut self,
        arguments: Object<'_>,
        handlers: &mut H,
        cx: &mut Context<'_>,
        w: &mut Writer<'_>,
    ) -> Outcome {
        macro_rules! any {
            ($($family:ident)*) => {
                $( if let Some(result) = handlers::$family(handlers, self, arguments, cx, w) {
                    return result;
                } )*
            };
        }
        any!(run_control machine cpus memory human trace store chardevs objects);
        any!(block media block_jobs network migration display extras);
        self.own(arguments, handlers, cx, w)
    }

    /// The commands that the monitor answers by itself.
    fn own<H: StoreFiles>(
        &mut self,
        arguments: Object<'_>,
        handlers: &mut H,
        cx: &mut Context<'_>,
        w: &mut Writer<'_>,
    ) -> Outcome {
        match self.command {
            Command::QMP_CAPABILITIES => {
                cx.negotiated = true;
                value(Ok(()), cx, w)
            }
            Command::QUERY_VERSION => value(Ok(version(cx.product)), cx, w),
            Command::QUERY_COMMANDS | Command::QUERY_EVENTS | Command::QUERY_QMP_SCHEMA => {
                let offered = cx.product.offered;
                let made = match &mut self.course {
                    Course::Commands(list) => w.fill(|room| list.fill(offered, room)),
                    Course::Events(list) => w.fill(|room| list.fill(offered, room)),
                    Course::Schema(list) => w.fill(|room| list.fill(offered, room)),
                    _ => 0,
                };
                if made == 0 { Outcome::Done } else { Outcome::More }
            }
            Command::X_QUERY_EVENTS_LOST => {
                let lost = cx.events.lost(cx.session);
                value(Ok(EventsLost { lost }), cx, w)
            }
            Command::X_STORE_READ => match decode(arguments) {
                Some(arguments) => {
                    self.store_read(arguments, handlers, w).unwrap_or_else(|error| cx.fail(error))
                }
                None => self.unreadable(cx),
            },
            // A serial line carries no file descriptors, so there never is one.
            Command::GETFD | Command::ADD_FD => {
                cx.fail(Error::text("No file descriptor supplied via SCM_RIGHTS"))
            }
            Command::CLOSEFD => match decode(arguments) {
                Some(ClosefdArgs { fdname }) => cx.fail(Error::no_file_descriptor(format_args!("{fdname}"))),
                None => self.unreadable(cx),
            },
            Command::REMOVE_FD => cx.fail(match decode(arguments) {
                Some(RemoveFdArgs { fdset_id, fd: Some(fd) }) => {
                    Error::no_file_descriptor(format_args!("fdset-id:{fdset_id}, fd:{fd}"))
                }
                Some(RemoveFdArgs { fdset_id, fd: None }) => {
                    Error::no_file_descriptor(format_args!("fdset-id:{fdset_id}"))
                }
                None => return self.unreadable(cx),
            }),
            Command::QUERY_FDSETS | Command::QUERY_GIC_CAPABILITIES => {
                w.json("[]");
                Outcome::Done
            }
            Command::DUMP_SKEYS => cx.fail(Error::unsupported()),
            command => cx.fail(Error::command_not_found(command.name())),
        }
    }

    /// The result where arguments that passed the check cannot be read.
    #[cold]
    pub(crate) fn unreadable(&self, cx: &mut Context<'_>) -> Outcome {
        cx.fail(schema::unreadable(self.command))
    }

    /// Makes elements until there is little room left. `next` writes the element of an index; it is done where there is none.
    ///
    /// What is here is compiled for each command; what is not is in the functions behind.
    pub(crate) fn list(
        &mut self,
        w: &mut Writer<'_>,
        mut next: impl FnMut(usize, &mut Writer<'_>) -> Outcome,
    ) -> Outcome {
        let fresh = self.begin_list(w);
        loop {
            let mark = w.mark();
            let outcome = next(self.count, w);
            if let Some(outcome) = self.listed(outcome, fresh, mark, w) {
                return outcome;
            }
        }
    }

    /// Begins or goes on with a list. Returns whether there is a whole buffer's room.
    #[inline(never)]
    fn begin_list(&mut self, w: &mut Writer<'_>) -> bool {
        if self.begun {
            w.set_comma(self.comma);
        } else {
            w.begin_array();
        }
        w.len() < ENOUGH
    }

    /// An element has been written behind `mark`, or there was none. Returns what came of the step, where it is over.
    #[inline(never)]
    fn listed(&mut self, outcome: Outcome, fresh: bool, mark: Mark, w: &mut Writer<'_>) -> Option<Outcome> {
        let more = match outcome {
            Outcome::Done => false,
            Outcome::More => true,
            Outcome::NotReady | Outcome::Failed => return Some(outcome),
        };
        if !more {
            w.end_array();
            if !w.overflowed() {
                return Some(Outcome::Done);
            }
        }
        // Without room it is made again in the next step. What would never fit is left out rather than waited for.
        let again = w.overflowed();
        if again {
            w.rewind(mark);
        }
        let over = again && (!more || !fresh || w.len() >= ENOUGH);
        if !over {
            self.count = self.count.saturating_add(1);
        }
        if over || w.room() < ENOUGH {
            (self.begun, self.comma) = (true, w.comma());
            return Some(Outcome::More);
        }
        None
    }

    /// Lets a handler write text until there is no more room.
    pub(crate) fn text(
        &mut self,
        w: &mut Writer<'_>,
        write: impl FnOnce(&mut Text<'_, '_>) -> Outcome,
    ) -> Outcome {
        if !self.begun {
            w.raw("\"");
        }
        let before = self.count;
        match write(&mut Text::new(w, &mut self.count)) {
            Outcome::Done | Outcome::More => {
                w.raw("\"");
                self.begun = true;
                Outcome::Done
            }
            Outcome::NotReady if self.count > before => {
                self.begun = true;
                Outcome::More
            }
            outcome => outcome,
        }
    }

    /// Ends a result that cannot be completed.
    pub(crate) fn close(&self, w: &mut Writer<'_>) {
        w.raw(match self.course {
            Course::Count if self.comma => "]",
            Course::Count => "\"",
            _ => "\"}",
        });
    }

    /// Sends a part of a file of the store.
    fn store_read<H: StoreFiles>(
        &mut self,
        arguments: XStoreReadArgs<'_>,
        handlers: &mut H,
        w: &mut Writer<'_>,
    ) -> Result<Outcome, Error> {
        let offset = arguments.offset.unwrap_or(0);
        if !self.begun {
            let all = handlers.store_size(arguments.path)?;
            let left = all.saturating_sub(offset);
            let length = left.min(arguments.size.unwrap_or(READ_BYTES)).min(READ_BYTES);
            self.course = Course::File { all, length };
            w.raw("{\"data\": \"");
            self.begun = true;
        }
        let Course::File { all, length } = self.course else { return Ok(Outcome::Done) };
        // Whole groups of three bytes, so that the pieces of base64 join without padding.
        let mut bytes = [0; 768];
        while self.progress_of_file() < length && w.room() >= ENOUGH * 3 {
            let at = self.progress_of_file();
            let want = usize::try_from(length.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
            let piece = bytes.get_mut(..want).unwrap_or_default();
            piece.fill(0);
            handlers.store_read(arguments.path, offset.saturating_add(at), piece)?;
            crate::base64::encode(piece, |group| w.bytes(group));
            self.count = self.count.saturating_add(want);
        }
        if self.progress_of_file() < length {
            return Ok(Outcome::More);
        }
        w.raw("\", \"size\": ");
        w.set_comma(false);
        w.uint(all);
        w.raw(", \"eof\": ");
        w.set_comma(false);
        w.bool(offset.saturating_add(length) >= all);
        w.raw("}");
        Ok(Outcome::Done)
    }

    fn progress_of_file(&self) -> u64 {
        self.count as u64
    }
}

/// Reads arguments that have been checked.
pub(crate) fn decode<'a, T: Decode<'a>>(arguments: Object<'a>) -> Option<T> {
    T::decode(Value::Object(arguments))
}

/// Writes the result of a method that returns it whole.
pub(crate) fn value<T: Emit>(result: Poll<T>, cx: &mut Context<'_>, w: &mut Writer<'_>) -> Outcome {
    match result {
        Ok(value) => {
            value.emit(w);
            whole(cx, w)
        }
        Err(error) => cx.fail_or_wait(error),
    }
}

/// Whether all of a result could be written.
#[inline(never)]
fn whole(cx: &mut Context<'_>, w: &Writer<'_>) -> Outcome {
    if w.overflowed() {
        return cx.fail(Error::text("The result is too long"));
    }
    Outcome::Done
}

/// Writes an element of a list, if there is one.
pub(crate) fn element<T: Emit>(
    result: handlers::Element<T>,
    cx: &mut Context<'_>,
    w: &mut Writer<'_>,
) -> Outcome {
    match result {
        Ok(Some(element)) => {
            element.emit(w);
            Outcome::More
        }
        Ok(None) => Outcome::Done,
        Err(error) => cx.fail(error),
    }
}

/// The outcome of a method that writes text.
pub(crate) fn written(result: Poll<()>, cx: &mut Context<'_>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error) => cx.fail_or_wait(error),
    }
}

/// The version that the greeting and `query-version` give.
pub(crate) fn version(product: &Product) -> VersionInfo<'static> {
    VersionInfo { qemu: VERSION, package: product.package }
}

/// What a message asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    command: Command,
    /// Where the arguments are on the message's tape; 0 where there are none.
    arguments: usize,
    /// Where the `id` is on the message's tape; 0 where there is none.
    pub(crate) id: usize,
}

impl Request {
    /// Looks at a message, in QEMU's order. An error comes with the place of the `id` that goes with it.
    pub(crate) fn read(
        message: Object<'_>,
        negotiated: bool,
        product: &Product,
    ) -> Result<Self, (Error, usize)> {
        let Envelope { execute, arguments, id } = match Envelope::open(message) {
            Ok(envelope) => envelope,
            Err(error) => return Err((error, 0)),
        };
        let command = Command::of_bytes(execute);
        let negotiation = command == Some(Command::QMP_CAPABILITIES);
        let command = command.filter(|command| product.offered.has(*command));
        match command {
            Some(command) if negotiation != negotiated => Ok(Self { command, arguments, id }),
            _ => Err((refusal(execute, negotiation == negotiated, negotiated), id)),
        }
    }
}

/// What a message's members are, each looked at once.
struct Envelope<'a> {
    /// The command's name.
    execute: &'a [u8],
    /// Where the arguments are on the tape; 0 where there are none.
    arguments: usize,
    /// Where the `id` is on the tape; 0 where there is none.
    id: usize,
}

impl<'a> Envelope<'a> {
    fn open(message: Object<'a>) -> Result<Self, Error> {
        let (mut execute, mut arguments, mut id, mut sound) = (None, 0, 0, true);
        for (key, value) in message.places() {
            match key {
                b"id" => id = value.at,
                b"execute" => {
                    execute = value.string();
                    sound &= execute.is_some();
                }
                b"arguments" => {
                    arguments = value.at;
                    sound &= value.is_object();
                }
                _ => sound = false,
            }
        }
        match execute {
            Some(execute) if sound => Ok(Self { execute, arguments, id }),
            _ => Ok(Self { execute: find_fault(message)?.as_bytes(), arguments, id }),
        }
    }
}

/// Why a command is not carried out: it comes at the wrong time, or there is none of this name.
#[cold]
fn refusal(name: &[u8], untimely: bool, negotiated: bool) -> Error {
    let name = core::str::from_utf8(name).unwrap_or_default();
    match (untimely, negotiated) {
        (false, _) => Error::command_not_found(name),
        (true, true) => Error::new(
            ErrorClass::CommandNotFound,
            format_args!("Capabilities negotiation is already complete, command '{name}' ignored"),
        ),
        (true, false) => Error::new(
            ErrorClass::CommandNotFound,
            format_args!(
                "Expecting capabilities negotiation with 'qmp_capabilities' before command '{name}'"
            ),
        ),
    }
}

/// Says what is wrong with the members of a message: the first offender in QEMU's order counts. A name that stands there
/// twice counts with its last value, so that there may be none.
#[cold]
fn find_fault(message: Object<'_>) -> Result<&str, Error> {
    let mut execute = None;
    for (key, value) in message.ordered() {
        match (key, value) {
            ("execute", Value::Str(name)) => execute = Some(name),
            ("execute", _) => return Err(Error::member_expects(key, "string")),
            ("arguments", Value::Object(_)) | ("id", _) => {}
            ("arguments", _) => return Err(Error::member_expects(key, "object")),
            _ => return Err(Error::unexpected_member(key)),
        }
    }
    execute.ok_or_else(|| Error::text("Expected 'execute' in QMP input"))
}

impl Emit for schema::Any<'_> {
    fn emit(&self, w: &mut Writer<'_>) {
        schema::value::Qapi::print(self, w);
    }
}

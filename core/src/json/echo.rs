//! Printing a received value back, a piece at a time.
//!
//! The `id` of a command may be any value, as deep and as long as a message may be, and the reply has to repeat it. The
//! [`Echo`] keeps its place in the value, so that printing goes on whenever there is room again.

use super::{
    Elements, Emit, MAX_NESTING, Object, Ordered, Value, Writer,
    tape::{self, HEADER, KEY_HEADER},
};

/// Room in the writer without which nothing is begun: more than any one piece of punctuation or key word.
const ROOM: usize = 16;

/// Bytes of objects that are looked through in one step, less the last one's: all of an object is, three times, to find each of
/// its members, so that the largest message takes a step for every two of them and no step takes more than a millisecond.
const WORK_BYTES: usize = 128 * 1024;

/// A container that is being printed.
#[derive(Clone, Copy, Debug)]
struct Level {
    /// Offset of its header.
    header: u32,
    /// One more than the offset, in its content, of the element or key that was looked at last; 0 before the first. With
    /// [`COMMA`] once there is something that the next one is to be kept apart from.
    cursor: u32,
}

/// Flag of a cursor; a message has far fewer bytes.
const COMMA: u32 = 1 << 31;

#[derive(Clone, Copy, Debug)]
#[repr(u8)] // the end is 0, see `Monitor::new`
enum Place {
    /// All is printed.
    End,
    /// Before the value at this offset.
    Value(usize),
    /// In the text of the node at `node`, `done` bytes of which are printed. A key is followed by its value.
    Text { node: usize, done: usize },
    /// Behind an element or member of the innermost container, or at its start.
    Next,
}

/// The place in a value that is being printed.
#[derive(Debug)]
pub(crate) struct Echo {
    place: Place,
    depth: usize,
    levels: [Level; MAX_NESTING as usize],
}

impl Echo {
    pub(crate) const fn new() -> Self {
        Self { place: Place::End, depth: 0, levels: [Level { header: 0, cursor: 0 }; MAX_NESTING as usize] }
    }

    /// Begins with the value at this place on the tape; nothing is at 0. Returns whether there is one.
    pub(crate) fn start(&mut self, at: usize) -> bool {
        self.depth = 0;
        self.place = if at == 0 { Place::End } else { Place::Value(at) };
        at != 0
    }

    /// Prints as much as there is room for, unless that takes too long; it may be nothing. Returns whether that was the rest.
    pub(crate) fn step(&mut self, tape: &[u8], w: &mut Writer<'_>) -> bool {
        let mut work = 0;
        while w.room() >= ROOM && work < WORK_BYTES {
            match self.place {
                Place::Value(at) => self.value(tape, at, w),
                Place::Text { node, done } => self.text(tape, node, done, w),
                Place::Next => work = self.next(tape, w).saturating_add(work),
                Place::End => return true,
            }
        }
        matches!(self.place, Place::End)
    }

    fn after_value(&mut self) {
        self.place = if self.depth == 0 { Place::End } else { Place::Next };
    }

    fn value(&mut self, tape: &[u8], at: usize, w: &mut Writer<'_>) {
        let tag = tape.get(at).copied().unwrap_or(tape::NULL);
        match tag & 0xF0 {
            tape::INTEGER | tape::FLOAT if tag & 0x0F != 0 => {
                // A short one, so there is room.
                w.bytes(tape.get(at.saturating_add(1)..tape::skip(tape, at)).unwrap_or_default());
                self.after_value();
            }
            tape::INTEGER | tape::FLOAT => self.place = Place::Text { node: at, done: 0 },
            tape::STRING => {
                w.bytes(b"\"");
                self.place = Place::Text { node: at, done: 0 };
            }
            tape::ARRAY | tape::OBJECT => {
                w.bytes(if tag == tape::ARRAY { b"[" } else { b"{" });
                if let Some(level) = self.levels.get_mut(self.depth) {
                    *level = Level { header: at as u32, cursor: 0 };
                    self.depth = self.depth.saturating_add(1);
                }
                self.place = Place::Next;
            }
            _ => {
                w.bytes(match tag {
                    tape::TRUE => b"true",
                    tape::FALSE => b"false",
                    _ => b"null",
                });
                self.after_value();
            }
        }
    }

    fn text(&mut self, tape: &[u8], node: usize, done: usize, w: &mut Writer<'_>) {
        let tag = tape.get(node).copied().unwrap_or(tape::NULL);
        let end = tape::skip(tape, node);
        let header = if tag == tape::KEY { KEY_HEADER } else { HEADER };
        let from = node.saturating_add(header).saturating_add(done);
        let rest = core::str::from_utf8(tape.get(from..end).unwrap_or_default()).unwrap_or_default();
        let quoted = matches!(tag & 0xF0, tape::KEY | tape::STRING);
        let printed = if quoted {
            w.escaped_part(rest)
        } else {
            let part = rest.get(..rest.len().min(w.room())).unwrap_or_default();
            w.raw(part);
            part.len()
        };
        // The closing quote, and the colon of a key, need room too.
        if printed < rest.len() || w.room() < 3 {
            self.place = Place::Text { node, done: done.saturating_add(printed) };
            return;
        }
        match tag & 0xF0 {
            tape::KEY => {
                w.bytes(b"\": ");
                self.place = Place::Value(self.member_value(tape, node, end));
            }
            tape::STRING => {
                w.bytes(b"\"");
                self.after_value();
            }
            _ => self.after_value(),
        }
    }

    /// Where the value of the key at `node` is: that of the last key of this name.
    fn member_value(&self, tape: &[u8], node: usize, end: usize) -> usize {
        let Some(level) = self.depth.checked_sub(1).and_then(|top| self.levels.get(top)) else { return end };
        let header = level.header as usize;
        let found = Object::at(tape, header)
            .and_then(|object| object.value_of_key(node.checked_sub(header + HEADER)?));
        found.map_or(end, |at| at.saturating_add(header).saturating_add(HEADER))
    }

    /// Goes on to the next element or member. Returns how many bytes were looked through for that.
    fn next(&mut self, tape: &[u8], w: &mut Writer<'_>) -> usize {
        let Some(level) = self.depth.checked_sub(1).and_then(|top| self.levels.get_mut(top)) else {
            self.place = Place::End;
            return 0;
        };
        let header = level.header as usize;
        let content = header.saturating_add(HEADER);
        let last = (level.cursor & !COMMA).checked_sub(1).map(|last| last as usize);
        let object = Object::at(tape, header);
        let work = object.map_or(0, Object::size);
        let next = match (object, last) {
            (Some(object), last) => match object.next_key(last) {
                Some((at, true)) => {
                    level.cursor = (level.cursor & COMMA) | (at as u32).saturating_add(1);
                    return work;
                }
                next => next.map(|(at, _)| at),
            },
            (None, None) => Some(0),
            (None, Some(last)) => {
                Some(tape::skip(tape, content.saturating_add(last)).saturating_sub(content))
            }
        };
        match next {
            Some(next) if content.saturating_add(next) < tape::skip(tape, header) => {
                if level.cursor & COMMA != 0 {
                    w.bytes(b", ");
                }
                level.cursor = COMMA | (next as u32).saturating_add(1);
                let at = content.saturating_add(next);
                if object.is_some() {
                    w.bytes(b"\"");
                    self.place = Place::Text { node: at, done: 0 };
                } else {
                    self.place = Place::Value(at);
                }
            }
            _ => {
                w.bytes(if object.is_some() { b"}" } else { b"]" });
                self.depth = self.depth.saturating_sub(1);
                self.after_value();
            }
        }
        work
    }
}

/// Deepest nesting of a value that is written in one go.
const DEPTH: usize = 32;

/// Writes the value again. Containers nested deeper than 32 are written as `null`.
impl Emit for Value<'_> {
    fn emit(&self, w: &mut Writer<'_>) {
        let mut levels: heapless::Vec<Open<'_>, DEPTH> = heapless::Vec::new();
        let mut value = Some(*self);
        loop {
            if let Some(value) = value.take() {
                let open = match value {
                    Value::Array(array) => Some(Open::Array(array.iter())),
                    Value::Object(object) => Some(Open::Object(object.ordered())),
                    _ => None,
                };
                match open {
                    Some(open) if !levels.is_full() => {
                        match open {
                            Open::Array(_) => w.begin_array(),
                            Open::Object(_) => w.begin_object(),
                        }
                        // Cannot fail: there is room.
                        let _ = levels.push(open);
                    }
                    _ => scalar(value, w),
                }
            }
            match levels.last_mut() {
                None => return,
                Some(Open::Array(elements)) => match elements.next() {
                    Some(element) => value = Some(element),
                    None => {
                        w.end_array();
                        levels.pop();
                    }
                },
                Some(Open::Object(members)) => match members.next() {
                    Some((key, member)) => {
                        w.key(key);
                        value = Some(member);
                    }
                    None => {
                        w.end_object();
                        levels.pop();
                    }
                },
            }
        }
    }
}

/// A container of which some is written.
enum Open<'a> {
    Array(Elements<'a>),
    Object(Ordered<'a>),
}

fn scalar(value: Value<'_>, w: &mut Writer<'_>) {
    match value {
        Value::Bool(truth) => w.bool(truth),
        Value::Int(number) => w.int(number),
        Value::Double(number) => w.json(number.text()),
        Value::Str(text) => w.string(text),
        Value::Null | Value::Array(_) | Value::Object(_) => w.null(),
    }
}

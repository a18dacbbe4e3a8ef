//! The parser: bytes in, whole messages out, nothing recursive.
//!
//! QEMU collects the tokens of a message until its braces and brackets balance and parses them then. So a message that is
//! wrong in its second byte is complained about at its end, and of several complaints the outermost one is made. The
//! [`Receiver`] parses while the bytes arrive but keeps to both.

use super::{
    MAX_NESTING, MESSAGE_BYTES, TAPE_BYTES, hash,
    lexer::{self, Lexer, Step},
    tape::{self, HEADER, KEY_HEADER, Object, SHORT},
    text::{self, Utf8},
};

/// What there is to say about the bytes taken so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An object is complete: see [`Receiver::message`].
    Message,
    /// What was received is no message, for this reason. The next byte begins a new one.
    Error(SyntaxError),
    /// Byte 0xFF outside a string: the client wants to begin afresh.
    Resync,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyntaxError {
    /// Not JSON, or JSON that is no object.
    Invalid,
    /// A value was expected.
    Value,
    /// A member has no value.
    MissingValue,
    /// A member's name is not followed by a colon.
    Colon,
    /// A member's name is not a string.
    Key,
    /// Members are not separated.
    ObjectSeparator,
    /// Elements are not separated.
    ArraySeparator,
    /// An unknown key word: [`Receiver::keyword`].
    Keyword,
    /// The message has more than [`MESSAGE_BYTES`] bytes. What is left of it is taken in silence.
    TooLong,
}

/// What the next token may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    Separator,
}

/// A token as the parser sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    String,
    Scalar,
    Unknown,
    Format,
    Punctuation(u8),
}

/// How the message is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)] // the start is 0, see `Monitor::new`
enum Course {
    /// So far, so good.
    Good,
    /// It will be refused when it is complete.
    Bad(SyntaxError),
    /// It has been refused already; its rest is skipped.
    Skipped,
}

/// The hash of a key of which bytes arrive, as they are before repair.
#[derive(Clone, Copy, Debug)]
struct KeyHash {
    sum: u32,
    shift: u32,
    bytes: u32,
}

impl KeyHash {
    #[inline]
    fn add(&mut self, byte: u8) {
        self.sum = self.sum.wrapping_add(hash::step(self.shift, byte));
        self.shift = hash::next(self.shift);
        self.bytes = self.bytes.wrapping_add(1);
    }
}

/// No container is open. An open one is known by the offset behind its tag, which is never 0.
const NONE: usize = 0;

/// Receives messages byte by byte into a fixed buffer.
#[derive(Debug)]
pub struct Receiver {
    lexer: Lexer,
    utf8: Utf8,
    expect: Expect,
    course: Course,
    /// Open braces less closed ones; the same for brackets. They are counted apart, as a mismatch is found only later.
    braces: i32,
    brackets: i32,
    /// Bytes of tokens so far.
    size: usize,
    /// Length field of the innermost open container; that field holds the place of its parent's until it is closed.
    open: usize,
    /// Where the node of the present token begins, when it is being kept.
    node: Option<usize>,
    /// The hash of the present string, if that is a key.
    key: Option<KeyHash>,
    /// The previous outcome has been handed out: begin afresh.
    done: bool,
    len: usize,
    tape: [u8; TAPE_BYTES],
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl Receiver {
    /// A receiver at the start of a message.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            lexer: Lexer::new(),
            utf8: Utf8::new(),
            expect: Expect::Value,
            course: Course::Good,
            braces: 0,
            brackets: 0,
            size: 0,
            open: NONE,
            node: None,
            key: None,
            done: false,
            len: 0,
            tape: [0; TAPE_BYTES],
        }
    }

    /// Takes bytes until something is to be said about them. Returns how many were used: a byte that only showed where
    /// a token ends is not, and must be given again.
    pub fn feed(&mut self, bytes: &[u8]) -> (usize, Option<Outcome>) {
        let mut used = 0;
        while let Some(&byte) = bytes.get(used) {
            if self.done {
                self.clear();
            }
            if self.open != NONE && self.course == Course::Good && self.lexer.is_fresh() {
                let taken = self.whole(bytes.get(used..).unwrap_or_default());
                if taken > 0 {
                    used = used.saturating_add(taken);
                    continue;
                }
            }
            if byte == 0xFF && !self.lexer.in_string() {
                self.abandon();
                return (used.saturating_add(1), Some(Outcome::Resync));
            }
            if self.lexer.in_text() {
                let rest = bytes.get(used..).unwrap_or_default();
                let run = self.run(rest);
                if run > 0 {
                    used = used.saturating_add(run);
                    continue;
                }
            }
            if let (b'{' | b'}' | b'[' | b']' | b':' | b',', true) = (byte, self.lexer.is_fresh()) {
                used = used.saturating_add(1);
                self.size = self.size.saturating_add(1);
                let mut outcome = self.token(Token::Punctuation(byte));
                if outcome.is_none() && self.size > MESSAGE_BYTES {
                    outcome = self.too_long();
                }
                if outcome.is_some() {
                    return (used, outcome);
                }
                continue;
            }
            let (again, outcome) = self.take(byte);
            if !again {
                used = used.saturating_add(1);
            }
            if outcome.is_some() {
                return (used, outcome);
            }
        }
        (used, None)
    }

    /// The object that [`Outcome::Message`] announced, until the next byte is fed.
    #[must_use]
    pub fn message(&self) -> Option<Object<'_>> {
        if self.done { Object::root(self.tape()) } else { None }
    }

    /// The key word that [`SyntaxError::Keyword`] complains of, until the next byte is fed.
    #[must_use]
    pub fn keyword(&self) -> &str {
        let word = self.tape.get(1..self.len).unwrap_or_default();
        core::str::from_utf8(word).unwrap_or_default()
    }

    /// Whether nothing of a message has arrived yet.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lexer.at_start() && (self.done || (self.braces == 0 && self.brackets == 0))
    }

    /// Gives up the message that is being received: bytes of it have been lost. What has arrived of it is forgotten, so
    /// that its rest is fresh input.
    pub fn abandon(&mut self) {
        self.lexer = Lexer::new();
        self.clear();
    }

    /// The nodes of the message.
    pub(crate) fn tape(&self) -> &[u8] {
        self.tape.get(..self.len).unwrap_or_default()
    }

    fn clear(&mut self) {
        self.utf8 = Utf8::new();
        self.expect = Expect::Value;
        self.course = Course::Good;
        (self.braces, self.brackets, self.size) = (0, 0, 0);
        self.open = NONE;
        (self.node, self.key) = (None, None);
        (self.done, self.len) = (false, 0);
    }

    fn finish(&mut self, outcome: Option<Outcome>) -> Option<Outcome> {
        self.done = true;
        outcome
    }

    /// Takes one byte. Returns whether it must be given again, and what there is to say.
    fn take(&mut self, byte: u8) -> (bool, Option<Outcome>) {
        let (text, first) = (self.lexer.in_text(), self.lexer.at_start());
        let step = self.lexer.step(byte);
        match step {
            Step::Skip => return (true, None),
            Step::Integer | Step::Float | Step::Keyword => return (true, self.end_scalar(step)),
            Step::Nothing if self.lexer.at_start() => return (false, None),
            _ => {}
        }
        self.size = self.size.saturating_add(1);
        let outcome = match step {
            Step::Text(character) => {
                self.text(character, text);
                None
            }
            Step::Unicode(code) => {
                self.unicode(code);
                None
            }
            Step::StringStart => {
                self.start_string();
                None
            }
            Step::StringEnd => self.end_string(),
            Step::Digit(byte) => {
                self.scalar(byte, tape::INTEGER, first);
                None
            }
            Step::Letter(byte) => {
                self.scalar(byte, tape::NULL, first);
                None
            }
            Step::Punctuation(byte) => self.token(Token::Punctuation(byte)),
            Step::Format => self.token(Token::Format),
            Step::Error => return (false, self.finish(Some(Outcome::Error(SyntaxError::Invalid)))),
            _ => None,
        };
        if outcome.is_none() && self.size > MESSAGE_BYTES {
            return (false, self.too_long());
        }
        (false, outcome)
    }

    /// The message does not fit: say so once, then only look for its end.
    fn too_long(&mut self) -> Option<Outcome> {
        self.node = None;
        if self.course == Course::Skipped || self.done {
            return None;
        }
        self.course = Course::Skipped;
        Some(Outcome::Error(SyntaxError::TooLong))
    }

    // The short way, for a container that is all right so far: tokens that are here as a whole and have nothing special in
    // them. What it does not take goes the long way, byte by byte, from the same state. It ends no message.

    /// Takes tokens and white space for as long as they are of the simple kind. Returns how many bytes that were.
    fn whole(&mut self, bytes: &[u8]) -> usize {
        let bytes = bytes.get(..MESSAGE_BYTES.saturating_sub(self.size)).unwrap_or(bytes);
        let (mut at, mut white) = (0_usize, 0_usize);
        while let Some(&[byte, ref rest @ ..]) = bytes.get(at..) {
            let taken = match byte {
                b'"' | b'\'' => self.whole_string(byte, rest),
                b':' if self.expect == Expect::Colon => {
                    self.expect = Expect::Value;
                    1
                }
                b',' if self.expect == Expect::Separator => {
                    let object = self.innermost() == Some(tape::OBJECT);
                    self.expect = if object { Expect::Key } else { Expect::Value };
                    1
                }
                b'1'..=b'9' => self.whole_integer(byte, rest),
                b' ' | b'\t' | b'\r' | b'\n' => {
                    white = white.wrapping_add(1);
                    1
                }
                _ => 0,
            };
            if taken == 0 {
                break;
            }
            at = at.saturating_add(taken);
        }
        self.size = self.size.saturating_add(at.saturating_sub(white));
        at
    }

    /// Takes a string whose first quote stands before `rest`, if its end is there and all of it stands for itself.
    #[inline]
    fn whole_string(&mut self, quote: u8, rest: &[u8]) -> usize {
        let (tag, header, next) = match self.expect {
            Expect::Key | Expect::KeyOrEnd => (tape::KEY, KEY_HEADER, Expect::Colon),
            Expect::Value | Expect::ValueOrEnd => (tape::STRING, HEADER, Expect::Separator),
            Expect::Colon | Expect::Separator => return 0,
        };
        let length = lexer::plain(quote, rest);
        let (Some(text), true) = (rest.get(..length), rest.get(length) == Some(&quote)) else { return 0 };
        let end = self.len.saturating_add(header).saturating_add(length);
        let Some(node) = self.tape.get_mut(self.len..end) else { return 0 };
        let [low, middle, high, ..] = length.to_le_bytes();
        match node {
            [first, a, b, c, x, y, room @ ..] if tag == tape::KEY => {
                (*first, *a, *b, *c) = (tag, low, middle, high);
                let mut hash = KeyHash { sum: hash::start(length as u32), shift: 0, bytes: 0 };
                for (place, &byte) in room.iter_mut().zip(text) {
                    *place = byte;
                    hash.add(byte);
                }
                [*x, *y] = hash::finish(hash.sum).to_le_bytes();
            }
            [first, a, b, c, room @ ..] => {
                (*first, *a, *b, *c) = (tag, low, middle, high);
                super::copy(room, text);
            }
            _ => return 0,
        }
        self.len = end;
        self.expect = next;
        length.saturating_add(2)
    }

    /// Takes an integer that begins with the digit `first`, not 0, before `rest`, if it is short and its end is there.
    #[inline]
    fn whole_integer(&mut self, first: u8, rest: &[u8]) -> usize {
        if !matches!(self.expect, Expect::Value | Expect::ValueOrEnd) {
            return 0;
        }
        let Some(digits) = rest.iter().take(SHORT).position(|byte| !byte.is_ascii_digit()) else { return 0 };
        if !matches!(rest.get(digits), Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n')) {
            return 0;
        }
        let length = digits.saturating_add(1);
        let end = self.len.saturating_add(1).saturating_add(length);
        let Some([tag, lead, room @ ..]) = self.tape.get_mut(self.len..end) else { return 0 };
        (*tag, *lead) = (tape::INTEGER | length as u8, first);
        for (place, &byte) in room.iter_mut().zip(rest) {
            *place = byte;
        }
        self.len = end;
        self.expect = Expect::Separator;
        length
    }

    // Writing nodes. `push` and `patch` ignore what does not fit: `full` looks for that once a token.

    fn push(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        if let Some(room) = self.tape.get_mut(self.len..end) {
            super::copy(room, bytes);
        }
        self.len = end;
    }

    fn patch(&mut self, at: usize, value: usize) {
        if let Some([a, b, c, ..]) = self.tape.get_mut(at..) {
            let [x, y, z, ..] = value.to_le_bytes();
            (*a, *b, *c) = (x, y, z);
        }
    }

    fn full(&self) -> bool {
        self.len > TAPE_BYTES
    }

    // Strings.

    fn start_string(&mut self) {
        self.utf8 = Utf8::new();
        self.key = None;
        self.node = None;
        if self.course != Course::Good {
            return;
        }
        match self.expect {
            Expect::Key | Expect::KeyOrEnd => {
                self.node = Some(self.len);
                self.key = Some(KeyHash { sum: 0, shift: 0, bytes: 0 });
                self.push(&[tape::KEY, 0, 0, 0, 0, 0]);
            }
            Expect::Value | Expect::ValueOrEnd => {
                self.node = Some(self.len);
                self.push(&[tape::STRING, 0, 0, 0]);
            }
            Expect::Colon | Expect::Separator => {}
        }
    }

    /// Takes the bytes of a string that are ASCII and stand for themselves, up to the first that does not. Returns how many.
    #[inline]
    fn run(&mut self, bytes: &[u8]) -> usize {
        let bytes = bytes.get(..MESSAGE_BYTES.saturating_sub(self.size)).unwrap_or(bytes);
        if bytes.first().is_none_or(|&byte| self.lexer.ends_plain(byte)) {
            return 0;
        }
        let run = if self.node.is_none() {
            self.lexer.plain(bytes)
        } else {
            if self.utf8.flush() {
                self.character(text::REPLACEMENT);
            }
            let room = self.tape.get_mut(self.len..).unwrap_or_default();
            let run = if let Some(key) = &mut self.key {
                let mut run: usize = 0;
                for (place, &byte) in room.iter_mut().zip(bytes) {
                    if self.lexer.ends_plain(byte) {
                        break;
                    }
                    *place = byte;
                    key.add(byte);
                    run = run.wrapping_add(1);
                }
                run
            } else {
                let run = self.lexer.plain(bytes).min(room.len());
                for (place, &byte) in room.iter_mut().zip(bytes.iter().take(run)) {
                    *place = byte;
                }
                run
            };
            self.len = self.len.saturating_add(run);
            run
        };
        self.size = self.size.saturating_add(run);
        run
    }

    #[inline]
    fn text(&mut self, byte: u8, plain: bool) {
        if self.node.is_none() {
            return;
        }
        if let Some(key) = &mut self.key {
            key.add(byte);
        }
        if !plain && self.utf8.flush() {
            self.character(text::REPLACEMENT);
        }
        let (cut, character) = self.utf8.push(byte);
        if cut {
            self.character(text::REPLACEMENT);
        }
        if let Some(character) = character {
            self.character(character);
        }
    }

    fn unicode(&mut self, code: u16) {
        // QEMU appends the character's bytes as a C string: U+0000 has none.
        if self.node.is_none() || code == 0 {
            return;
        }
        if let Some(key) = &mut self.key {
            let code = u32::from(code);
            let low = |shift: u32| 0x80 | (code >> shift & 0x3F) as u8;
            let (bytes, len) = match code {
                0..0x80 => ([code as u8, 0, 0], 1),
                0x80..0x800 => ([0xC0 | (code >> 6) as u8, low(0), 0], 2),
                _ => ([0xE0 | (code >> 12) as u8, low(6), low(0)], 3),
            };
            for &byte in bytes.iter().take(len) {
                key.add(byte);
            }
        }
        if self.utf8.flush() {
            self.character(text::REPLACEMENT);
        }
        self.character(text::checked(code.into(), 0));
    }

    #[inline]
    fn character(&mut self, character: char) {
        let mut buffer = [0; 4];
        let bytes = character.encode_utf8(&mut buffer).as_bytes();
        if let ([byte], Some(room)) = (bytes, self.tape.get_mut(self.len)) {
            *room = *byte;
            self.len = self.len.wrapping_add(1);
        } else {
            self.push(bytes);
        }
    }

    fn end_string(&mut self) -> Option<Outcome> {
        if let Some(node) = self.node {
            if self.utf8.flush() {
                self.character(text::REPLACEMENT);
            }
            if self.full() {
                return self.too_long();
            }
            let header = if self.key.is_some() { KEY_HEADER } else { HEADER };
            self.patch(node.saturating_add(1), self.len.saturating_sub(node).saturating_sub(header));
            if let Some(key) = self.key {
                let bucket = hash::finish(key.sum.wrapping_add(hash::start(key.bytes)));
                if let Some([low, high, ..]) = self.tape.get_mut(node.saturating_add(HEADER)..) {
                    [*low, *high] = bucket.to_le_bytes();
                }
            }
        }
        self.token(Token::String)
    }

    // Numbers and key words: a tag, then the text as it arrives.

    fn scalar(&mut self, byte: u8, tag: u8, first: bool) {
        if first {
            self.node = None;
            if self.course == Course::Good && matches!(self.expect, Expect::Value | Expect::ValueOrEnd) {
                self.node = Some(self.len);
                self.push(&[tag]);
            }
        }
        if self.node.is_some() {
            self.push(&[byte]);
        }
    }

    fn end_scalar(&mut self, step: Step) -> Option<Outcome> {
        let Some(node) = self.node else { return self.token(Token::Scalar) };
        if self.full() {
            return self.too_long();
        }
        if step == Step::Keyword {
            let tag = match self.tape.get(node.saturating_add(1)..self.len) {
                Some(b"null") => tape::NULL,
                Some(b"false") => tape::FALSE,
                Some(b"true") => tape::TRUE,
                _ => return self.token(Token::Unknown),
            };
            self.len = node;
            self.push(&[tag]);
        } else {
            let tag = if step == Step::Integer { tape::INTEGER } else { tape::FLOAT };
            let text = node.saturating_add(1)..self.len;
            let length = text.len();
            if length <= SHORT {
                self.set(node, tag | length as u8);
            } else {
                let to = node.saturating_add(HEADER);
                self.len = to.saturating_add(length);
                if self.full() {
                    return self.too_long();
                }
                for at in (0..length).rev() {
                    let byte = self.tape.get(text.start.saturating_add(at)).copied().unwrap_or(0);
                    self.set(to.saturating_add(at), byte);
                }
                self.set(node, tag);
                self.patch(node.saturating_add(1), length);
            }
        }
        self.token(Token::Scalar)
    }

    fn set(&mut self, at: usize, tag: u8) {
        if let Some(byte) = self.tape.get_mut(at) {
            *byte = tag;
        }
    }

    // Structure.

    /// A token is complete: what it means where it stands, and whether the message is complete.
    fn token(&mut self, token: Token) -> Option<Outcome> {
        self.node = None;
        let depth = self.braces.saturating_add(self.brackets);
        match token {
            Token::Punctuation(b'{') => self.braces = self.braces.saturating_add(1),
            Token::Punctuation(b'}') => self.braces = self.braces.saturating_sub(1),
            Token::Punctuation(b'[') => self.brackets = self.brackets.saturating_add(1),
            Token::Punctuation(b']') => self.brackets = self.brackets.saturating_sub(1),
            _ => {}
        }
        if self.course == Course::Good {
            if let Err(error) = self.place(token) {
                self.course = Course::Bad(self.outermost(error, depth));
            } else if self.full() {
                return self.too_long();
            }
        }
        if self.braces < 0 || self.brackets < 0 || (self.braces == 0 && self.brackets == 0) {
            let outcome = match self.course {
                Course::Bad(error) => Some(Outcome::Error(error)),
                Course::Skipped => None,
                Course::Good if self.tape.first() == Some(&tape::OBJECT) => Some(Outcome::Message),
                Course::Good => Some(Outcome::Error(SyntaxError::Invalid)),
            };
            return self.finish(outcome);
        }
        if self.braces.saturating_add(self.brackets) > MAX_NESTING && self.course != Course::Skipped {
            return self.finish(Some(Outcome::Error(SyntaxError::Invalid)));
        }
        None
    }

    /// The complaint that is made about `error` in a container at `depth`: every container around it has one of its own,
    /// and the outermost is heard.
    fn outermost(&self, error: SyntaxError, depth: i32) -> SyntaxError {
        match self.tape.first() {
            Some(&tape::OBJECT) if depth > 1 => SyntaxError::MissingValue,
            Some(&tape::ARRAY) if depth > 1 => SyntaxError::Value,
            _ => error,
        }
    }

    /// Puts a token where it belongs.
    fn place(&mut self, token: Token) -> Result<(), SyntaxError> {
        match self.expect {
            Expect::Value | Expect::ValueOrEnd => match token {
                Token::String | Token::Scalar => self.expect = Expect::Separator,
                Token::Punctuation(b'{') => self.enter(tape::OBJECT, Expect::KeyOrEnd),
                Token::Punctuation(b'[') => self.enter(tape::ARRAY, Expect::ValueOrEnd),
                Token::Punctuation(b']') if self.expect == Expect::ValueOrEnd => self.leave(),
                _ => {
                    return Err(match (self.innermost(), token) {
                        (Some(tape::OBJECT), _) => SyntaxError::MissingValue,
                        (Some(_), _) => SyntaxError::Value,
                        (None, Token::Unknown) => SyntaxError::Keyword,
                        (None, Token::Format) => SyntaxError::Invalid,
                        (None, _) => SyntaxError::Value,
                    });
                }
            },
            Expect::Key | Expect::KeyOrEnd => match token {
                Token::String => self.expect = Expect::Colon,
                Token::Punctuation(b'}') if self.expect == Expect::KeyOrEnd => self.leave(),
                _ => return Err(SyntaxError::Key),
            },
            Expect::Colon => match token {
                Token::Punctuation(b':') => self.expect = Expect::Value,
                _ => return Err(SyntaxError::Colon),
            },
            Expect::Separator => match (self.innermost(), token) {
                (Some(tape::OBJECT), Token::Punctuation(b',')) => self.expect = Expect::Key,
                (Some(tape::ARRAY), Token::Punctuation(b',')) => self.expect = Expect::Value,
                (Some(tape::OBJECT), Token::Punctuation(b'}')) => self.leave(),
                (Some(tape::ARRAY), Token::Punctuation(b']')) => self.leave(),
                (Some(tape::OBJECT), _) => return Err(SyntaxError::ObjectSeparator),
                _ => return Err(SyntaxError::ArraySeparator),
            },
        }
        Ok(())
    }

    /// Tag of the innermost open container.
    fn innermost(&self) -> Option<u8> {
        self.tape.get(self.open.checked_sub(1)?).copied()
    }

    fn enter(&mut self, tag: u8, expect: Expect) {
        let length = self.len.saturating_add(1);
        self.push(&[tag, 0, 0, 0]);
        self.patch(length, self.open);
        self.open = length;
        self.expect = expect;
    }

    fn leave(&mut self) {
        let length = self.open;
        self.open = tape::u24(&self.tape, length);
        self.patch(length, self.len.saturating_add(1).saturating_sub(length).saturating_sub(HEADER));
        self.expect = Expect::Separator;
    }
}

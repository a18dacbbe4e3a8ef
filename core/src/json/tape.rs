//! The form in which a received message is kept, and views of it.
//!
//! A message is not kept as text but as a tape of nodes: strings decoded, lengths of containers known, so that a value
//! is skipped in one step and nobody recurses. A node begins with a tag; numbers in it are little-endian:
//!
//! | tag | then | value |
//! |---|---|---|
//! | 00, 01, 02 | | null, false, true |
//! | 1n, n > 0 | n bytes | integer, its text as received |
//! | 2n, n > 0 | n bytes | number with fraction or exponent, likewise |
//! | 10, 20 | u24, that many bytes | the same where the text is longer than 15 bytes |
//! | 30 | u24, that many bytes | string, decoded, UTF-8 |
//! | 40 | u24, that many bytes | array: its elements |
//! | 50 | u24, that many bytes | object: keys and values in turn |
//! | 60 | u24, u16, as many bytes as the u24 says | key: bucket ([`super::bucket`]), then the text as in a string |
//!
//! A node takes at most twice the bytes that it took as JSON text (strings with invalid UTF-8 excepted), see
//! [`super::TAPE_BYTES`].

use core::{fmt, str};

pub(super) const NULL: u8 = 0x00;
pub(super) const FALSE: u8 = 0x01;
pub(super) const TRUE: u8 = 0x02;
pub(super) const INTEGER: u8 = 0x10;
pub(super) const FLOAT: u8 = 0x20;
pub(super) const STRING: u8 = 0x30;
pub(super) const ARRAY: u8 = 0x40;
pub(super) const OBJECT: u8 = 0x50;
pub(super) const KEY: u8 = 0x60;

/// Bytes of a tag with its u24 length.
pub(super) const HEADER: usize = 4;
/// Bytes of a key's header.
pub(super) const KEY_HEADER: usize = 6;
/// Longest number whose length is in the tag.
pub(super) const SHORT: usize = 15;

/// The u24 at `at`; 0 beyond the end.
pub(super) fn u24(tape: &[u8], at: usize) -> usize {
    match tape.get(at..) {
        Some([a, b, c, ..]) => usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16,
        _ => 0,
    }
}

/// The bucket in the header of the key at `at`.
fn key_bucket(tape: &[u8], at: usize) -> u16 {
    match tape.get(at.saturating_add(HEADER)..) {
        Some([a, b, ..]) => u16::from_le_bytes([*a, *b]),
        _ => 0,
    }
}

/// Header and content length of the node that begins the slice.
fn extent(node: &[u8]) -> (usize, usize) {
    let Some(&tag) = node.first() else { return (0, 0) };
    match tag & 0xF0 {
        0x00 => (1, 0),
        INTEGER | FLOAT if tag & 0x0F != 0 => (1, usize::from(tag & 0x0F)),
        KEY => (KEY_HEADER, u24(node, 1)),
        _ => (HEADER, u24(node, 1)),
    }
}

/// Offset of the node behind the one at `at`.
pub(super) fn skip(tape: &[u8], at: usize) -> usize {
    let (header, length) = extent(tape.get(at..).unwrap_or_default());
    at.saturating_add(header).saturating_add(length)
}

/// Content of the node that begins the slice.
fn content(node: &[u8]) -> &[u8] {
    let (header, length) = extent(node);
    node.get(header..header.saturating_add(length)).unwrap_or_default()
}

/// Content of a string, number or key as text.
fn text(node: &[u8]) -> &str {
    str::from_utf8(content(node)).unwrap_or_default()
}

/// A value of a received message. Cheap to copy: it borrows the message.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number without fraction and exponent that fits 64 bits with sign.
    Int(i64),
    /// Any other number.
    Double(Number<'a>),
    /// A string. What was no Unicode character is U+FFFD.
    Str(&'a str),
    /// An array.
    Array(Array<'a>),
    /// An object.
    Object(Object<'a>),
}

impl<'a> Value<'a> {
    /// The value whose node begins the slice.
    fn read(node: &'a [u8]) -> Self {
        match node.first().copied().unwrap_or(NULL) & 0xF0 {
            // The lexer has passed the digits, so the only error is that they are too many for 64 bits.
            INTEGER => match serde_json_core::from_slice(content(node)) {
                Ok((number, _)) => Self::Int(number),
                Err(_) => Self::Double(Number(text(node))),
            },
            FLOAT => Self::Double(Number(text(node))),
            STRING => Self::Str(text(node)),
            ARRAY => Self::Array(Array(content(node))),
            OBJECT => Self::Object(Object(content(node))),
            _ => match node.first() {
                Some(&TRUE) => Self::Bool(true),
                Some(&FALSE) => Self::Bool(false),
                _ => Self::Null,
            },
        }
    }

    /// The text, if this is a string.
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        if let Self::Str(text) = self { Some(text) } else { None }
    }

    /// The integer, if this is one.
    #[must_use]
    pub fn as_int(self) -> Option<i64> {
        if let Self::Int(number) = self { Some(number) } else { None }
    }

    /// The truth value, if this is one.
    #[must_use]
    pub fn as_bool(self) -> Option<bool> {
        if let Self::Bool(truth) = self { Some(truth) } else { None }
    }

    /// The array, if this is one.
    #[must_use]
    pub fn as_array(self) -> Option<Array<'a>> {
        if let Self::Array(array) = self { Some(array) } else { None }
    }

    /// The object, if this is one.
    #[must_use]
    pub fn as_object(self) -> Option<Object<'a>> {
        if let Self::Object(object) = self { Some(object) } else { None }
    }
}

impl fmt::Debug for Value<'_> {
    /// Containers show only their length: a message may be nested a thousand deep and this must not recurse.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(truth) => fmt::Debug::fmt(truth, f),
            Self::Int(number) => fmt::Debug::fmt(number, f),
            Self::Double(number) => f.write_str(number.0),
            Self::Str(text) => fmt::Debug::fmt(text, f),
            Self::Array(array) => write!(f, "[{} elements]", array.iter().count()),
            Self::Object(object) => write!(f, "{{{} members}}", object.iter().count()),
        }
    }
}

/// A number that is no 64-bit integer, as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<'a>(&'a str);

impl<'a> Number<'a> {
    /// The digits as received.
    #[must_use]
    pub fn text(self) -> &'a str {
        self.0
    }

    /// The value as a double; infinite where it is out of range.
    ///
    /// It is the nearest one for numbers of up to 15 digits and exponents of up to 22 (W. D. Clinger, "How to read floating
    /// point numbers accurately"), and may be a few units in the last place off for others. The exact conversion of the
    /// standard library would be 20 KiB of code and tables in an image, for a number of seconds.
    #[must_use]
    pub fn to_f64(self) -> f64 {
        let (mantissa, exponent) = match self.0.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => {
                // More than an i32 holds is far out of range on either side.
                let limit = if exponent.starts_with('-') { -400 } else { 400 };
                (
                    mantissa,
                    exponent.parse::<i32>().map_or(limit, |exponent| exponent.clamp(-100_000, 100_000)),
                )
            }
            None => (self.0, 0),
        };
        let (mut digits, mut scale, mut fraction) = (0_u64, exponent, false);
        for byte in mantissa.bytes() {
            match byte {
                b'0'..=b'9' => {
                    // Digits beyond the 18th only count as places.
                    let full = digits >= 100_000_000_000_000_000;
                    if !full {
                        digits = digits.wrapping_mul(10).wrapping_add(u64::from(byte.wrapping_sub(b'0')));
                    }
                    scale = scale.saturating_add(i32::from(full)).saturating_sub(i32::from(fraction));
                }
                b'.' => fraction = true,
                _ => {}
            }
        }
        let mut value = digits as f64;
        for _ in 0..scale.unsigned_abs().min(400).div_ceil(22) {
            let step = scale.clamp(-22, 22);
            scale = scale.saturating_sub(step);
            let power = (0..step.unsigned_abs()).fold(1.0, |power, _| power * 10.0);
            value = if step < 0 { value / power } else { value * power };
        }
        if self.0.starts_with('-') { -value } else { value }
    }
}

/// An array of a received message.
#[derive(Clone, Copy, Debug)]
pub struct Array<'a>(&'a [u8]);

impl<'a> Array<'a> {
    /// An array without elements.
    pub const EMPTY: Self = Self(&[]);

    /// The elements in turn.
    #[must_use]
    pub fn iter(self) -> Elements<'a> {
        Elements(self.0)
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for Array<'a> {
    type Item = Value<'a>;
    type IntoIter = Elements<'a>;

    fn into_iter(self) -> Elements<'a> {
        self.iter()
    }
}

/// Iterator over the elements of an [`Array`]; by default of an empty one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let node = self.0;
        if node.is_empty() {
            return None;
        }
        self.0 = node.get(skip(node, 0)..).unwrap_or_default();
        Some(Value::read(node))
    }
}

/// An object of a received message.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a>(&'a [u8]);

impl<'a> Object<'a> {
    /// An object without members.
    pub const EMPTY: Self = Self(&[]);

    /// The object at the start of a tape.
    pub(super) fn root(tape: &'a [u8]) -> Option<Self> {
        Value::read(tape).as_object()
    }

    /// The object whose header is at `at`, if there is an object.
    pub(crate) fn at(tape: &'a [u8], at: usize) -> Option<Self> {
        Value::read(tape.get(at..)?).as_object()
    }

    /// Offset of the value that the name of the key at `at` stands for.
    pub(super) fn value_of_key(self, at: usize) -> Option<usize> {
        self.find(text(self.0.get(at..)?), key_bucket(self.0, at))
    }

    /// The member of this name; the last one where the name occurs more than once.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        self.get_hashed(key, super::bucket(key))
    }

    /// As [`get`](Self::get), for a name whose [`bucket`](super::bucket) is known already.
    #[must_use]
    pub fn get_hashed(self, key: &str, bucket: u16) -> Option<Value<'a>> {
        Some(Value::read(self.0.get(self.find(key, bucket)?..)?))
    }

    /// Offset, in the object's content, of the value of the last member of this name.
    pub(super) fn find(self, key: &str, bucket: u16) -> Option<usize> {
        let mut found = None;
        let mut at = 0;
        while at < self.0.len() {
            let value = skip(self.0, at);
            if key_bucket(self.0, at) == bucket && self.key(at) == key.as_bytes() {
                found = Some(value);
            }
            at = skip(self.0, value);
        }
        found
    }

    fn key(self, at: usize) -> &'a [u8] {
        content(self.0.get(at..).unwrap_or_default())
    }

    /// Names and values in the order in which they were received, repeated names included.
    #[must_use]
    pub fn iter(self) -> Members<'a> {
        Members(self.0)
    }

    /// Names, as bytes, and the places of their values on the tape, in the order in which they were received. Only for the
    /// object at the start of the tape.
    pub(crate) fn places(self) -> impl Iterator<Item = (&'a [u8], Place<'a>)> {
        let (mut rest, mut at) = (self.0, HEADER);
        core::iter::from_fn(move || {
            let key = rest;
            if key.is_empty() {
                return None;
            }
            let next = u24(key, 1).saturating_add(KEY_HEADER);
            let name = key.get(KEY_HEADER..next).unwrap_or_default();
            let node = key.get(next..).unwrap_or_default();
            let value = skip(node, 0);
            let place = Place { node, at: at.saturating_add(next) };
            rest = node.get(value..).unwrap_or_default();
            at = place.at.saturating_add(value);
            Some((name, place))
        })
    }

    /// Names and values in the order in which QEMU 2.8 would print them, each name once, with its last value.
    ///
    /// Every step looks at all members, since there is nowhere to keep them sorted.
    #[must_use]
    pub fn ordered(self) -> Ordered<'a> {
        Ordered { object: self, last: None }
    }

    /// Whether there are no members.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The key that is printed after the one at `last` (the first for `None`).
    ///
    /// A repeated name counts where it stands first.
    fn successor(self, mut last: Option<usize>) -> Option<usize> {
        loop {
            let (at, repeated) = self.next_key(last)?;
            if !repeated {
                return Some(at);
            }
            last = Some(at);
        }
    }

    /// The next key in QEMU's order (the first for `None`), and whether its name stands in the object before it.
    ///
    /// That is the smallest bucket and in it the latest insertion. It takes one look at all members and one at those before.
    pub(super) fn next_key(self, last: Option<usize>) -> Option<(usize, bool)> {
        let last = last.map(|at| (key_bucket(self.0, at), at));
        let mut best: Option<(u16, usize)> = None;
        let mut at = 0;
        while at < self.0.len() {
            let bucket = key_bucket(self.0, at);
            let after_last = last.is_none_or(|(b, a)| bucket > b || (bucket == b && at < a));
            let before_best = best.is_none_or(|(b, _)| bucket <= b);
            // The name again that was found just now: it needs no look of its own.
            let again = best.is_some_and(|(b, best)| bucket == b && self.key(best) == self.key(at));
            if after_last && before_best && !again {
                best = Some((bucket, at));
            }
            at = skip(self.0, skip(self.0, at));
        }
        best.map(|(bucket, at)| (at, self.repeated(at, bucket)))
    }

    /// Bytes of its content.
    pub(super) fn size(self) -> usize {
        self.0.len()
    }

    /// Whether the name of the key at `at` stands in the object before it.
    fn repeated(self, at: usize, bucket: u16) -> bool {
        let mut earlier = 0;
        while earlier < at {
            if key_bucket(self.0, earlier) == bucket && self.key(earlier) == self.key(at) {
                return true;
            }
            earlier = skip(self.0, skip(self.0, earlier));
        }
        false
    }
}

/// A value that is not read yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    node: &'a [u8],
    /// Where it is on the tape.
    pub(crate) at: usize,
}

impl<'a> Place<'a> {
    /// The bytes of its text, if this is a string.
    pub(crate) fn string(self) -> Option<&'a [u8]> {
        if self.node.first() != Some(&STRING) {
            return None;
        }
        self.node.get(HEADER..)?.get(..u24(self.node, 1))
    }

    /// Whether this is an object.
    pub(crate) fn is_object(self) -> bool {
        self.node.first() == Some(&OBJECT)
    }
}

/// Iterator of [`Object::iter`].
#[derive(Clone, Copy, Debug)]
pub struct Members<'a>(&'a [u8]);

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.0;
        if key.is_empty() {
            return None;
        }
        let value = key.get(skip(key, 0)..).unwrap_or_default();
        self.0 = value.get(skip(value, 0)..).unwrap_or_default();
        Some((text(key), Value::read(value)))
    }
}

/// Iterator of [`Object::ordered`].
#[derive(Clone, Copy, Debug)]
pub struct Ordered<'a> {
    object: Object<'a>,
    last: Option<usize>,
}

impl<'a> Iterator for Ordered<'a> {
    type Item = (&'a str, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.object.successor(self.last)?;
        self.last = Some(at);
        let key = text(self.object.0.get(at..)?);
        Some((key, self.object.get_hashed(key, key_bucket(self.object.0, at))?))
    }
}

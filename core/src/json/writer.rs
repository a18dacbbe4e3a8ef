//! Writing replies and events, in QEMU 2.8's output format.

/// A value that can be written.
pub trait Emit {
    /// Writes the value. Members of an object come in the order of [`super::order`].
    fn emit(&self, w: &mut Writer<'_>);
}

/// Longest string that is written byte by byte: beyond, it pays to look at it by words.
const SHORT_BYTES: usize = 24;

/// Writes JSON into a buffer.
///
/// Nothing is written beyond its end; whether something was left out is asked once, afterwards
/// ([`overflowed`](Self::overflowed)). Commas are inserted where they belong.
#[derive(Debug)]
pub struct Writer<'b> {
    buffer: &'b mut [u8],
    len: usize,
    comma: bool,
    overflowed: bool,
}

/// A place to come back to: see [`Writer::mark`].
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    len: usize,
    comma: bool,
}

impl<'b> Writer<'b> {
    /// A writer at the start of `buffer`.
    #[must_use]
    pub fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, len: 0, comma: false, overflowed: false }
    }

    /// What was written.
    #[must_use]
    pub fn written(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    /// Bytes written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.buffer.len().saturating_sub(self.len)
    }

    /// Whether something did not fit and was left out.
    #[must_use]
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Whether the next value will be preceded by a comma.
    #[must_use]
    pub fn comma(&self) -> bool {
        self.comma
    }

    /// Says whether the next value will be preceded by a comma.
    pub(crate) fn set_comma(&mut self, comma: bool) {
        self.comma = comma;
    }

    /// Lets `fill` write into the room that is left; it returns how much of it it used, and so does this.
    pub(crate) fn fill(&mut self, fill: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let room = self.buffer.get_mut(self.len..).unwrap_or_default();
        let used = fill(room).min(room.len());
        self.len = self.len.saturating_add(used);
        self.comma = true;
        used
    }

    /// Notes the present place.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { len: self.len, comma: self.comma }
    }

    /// Takes back everything written since `mark`, with its overflow.
    pub fn rewind(&mut self, mark: Mark) {
        self.len = mark.len.min(self.len);
        self.comma = mark.comma;
        self.overflowed = false;
    }

    /// Writes bytes as they are, without any comma.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        match self.buffer.get_mut(self.len..end) {
            Some(room) if !self.overflowed => {
                super::copy(room, bytes);
                self.len = end;
            }
            _ => self.overflowed = true,
        }
    }

    /// Writes text as it is, without any comma.
    #[inline]
    pub fn raw(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// As [`bytes`](Self::bytes), for a few that are known when this is compiled.
    #[inline]
    fn fixed<const N: usize>(&mut self, bytes: &[u8; N]) {
        let room = self.buffer.get_mut(self.len..).and_then(|room| room.first_chunk_mut());
        match room {
            Some(room) if !self.overflowed => {
                *room = *bytes;
                self.len = self.len.saturating_add(N);
            }
            _ => self.overflowed = true,
        }
    }

    /// Begins a value: the comma in front of it, if there is to be one.
    #[inline]
    fn value(&mut self) {
        if self.comma {
            self.fixed(b", ");
        }
        self.comma = true;
    }

    /// Writes a value whose JSON text is at hand.
    pub fn json(&mut self, text: &str) {
        self.value();
        self.raw(text);
    }

    /// Begins an object.
    pub fn begin_object(&mut self) {
        self.value();
        self.fixed(b"{");
        self.comma = false;
    }

    /// Ends an object.
    pub fn end_object(&mut self) {
        self.fixed(b"}");
        self.comma = true;
    }

    /// Begins an array.
    pub fn begin_array(&mut self) {
        self.value();
        self.fixed(b"[");
        self.comma = false;
    }

    /// Ends an array.
    pub fn end_array(&mut self) {
        self.fixed(b"]");
        self.comma = true;
    }

    /// Writes the name of a member; its value is to follow.
    pub fn key(&mut self, key: &str) {
        self.value();
        self.quoted(key);
        self.fixed(b": ");
        self.comma = false;
    }

    /// Writes a member.
    pub fn member(&mut self, key: &str, value: &dyn Emit) {
        self.key(key);
        value.emit(self);
    }

    /// Writes a member if it has a value.
    pub fn optional<T: Emit>(&mut self, key: &str, value: &Option<T>) {
        if let Some(value) = value {
            self.member(key, value);
        }
    }

    /// Writes `null`.
    pub fn null(&mut self) {
        self.json("null");
    }

    /// Writes `true` or `false`.
    pub fn bool(&mut self, truth: bool) {
        self.value();
        if truth {
            self.fixed(b"true");
        } else {
            self.fixed(b"false");
        }
    }

    /// Writes a signed integer.
    pub fn int(&mut self, number: i64) {
        self.value();
        if number < 0 {
            self.fixed(b"-");
        }
        self.digits(number.unsigned_abs());
    }

    /// Writes an unsigned integer.
    ///
    /// QEMU keeps every integer in 64 bits with sign, so what is beyond their range comes out negative there and here.
    pub fn uint(&mut self, number: u64) {
        self.int(number.cast_signed());
    }

    fn digits(&mut self, mut number: u64) {
        let mut text = [0_u8; 20];
        let mut used: usize = 0;
        for byte in text.iter_mut().rev() {
            *byte = b'0'.wrapping_add((number % 10) as u8);
            number /= 10;
            used = used.wrapping_add(1);
            if number == 0 {
                break;
            }
        }
        self.bytes(text.get(text.len().saturating_sub(used)..).unwrap_or_default());
    }

    /// Writes a number with six decimals at most, trailing zeros cut (C's `%f`).
    ///
    /// What is not finite, and what is beyond ±2^63, is written as the nearest number within: JSON has no infinity.
    pub fn double(&mut self, number: f64) {
        self.value();
        if number.is_sign_negative() {
            self.fixed(b"-");
        }
        let magnitude = if number < 0.0 { -number } else { number };
        let whole = magnitude as u64; // saturates, and NaN becomes 0
        let micro = ((magnitude - whole as f64) * 1e6 + 0.5) as u64;
        let (whole, mut micro) =
            if micro >= 1_000_000 { (whole.saturating_add(1), 0) } else { (whole, micro) };
        self.digits(whole);
        if micro == 0 {
            return;
        }
        self.fixed(b".");
        let mut unit = 100_000;
        while micro > 0 && unit > 0 {
            self.bytes(&[b'0'.wrapping_add((micro / unit % 10) as u8)]);
            micro %= unit;
            unit /= 10;
        }
    }

    /// Writes a string.
    pub fn string(&mut self, text: &str) {
        self.value();
        self.quoted(text);
    }

    fn quoted(&mut self, text: &str) {
        if text.len() > SHORT_BYTES || !self.short(text.as_bytes()) {
            self.fixed(b"\"");
            self.escaped(text);
            self.fixed(b"\"");
        }
    }

    /// Writes a string in one pass if it fits and all of it stands for itself. Returns whether that was so; if not, nothing is
    /// written.
    fn short(&mut self, text: &[u8]) -> bool {
        let end = self.len.saturating_add(text.len()).saturating_add(2);
        let Some([first, room @ .., last]) = self.buffer.get_mut(self.len..end) else { return false };
        for (place, &byte) in room.iter_mut().zip(text) {
            if !is_plain(byte) {
                return false;
            }
            *place = byte;
        }
        (*first, *last) = (b'"', b'"');
        if !self.overflowed {
            self.len = end;
        }
        true
    }

    /// Writes the inside of a string: ASCII only, everything else escaped.
    pub fn escaped(&mut self, text: &str) {
        let plain = plain(text.as_bytes());
        let (run, mut rest) = text.split_at_checked(plain).unwrap_or((text, ""));
        self.raw(run);
        while !rest.is_empty() {
            let mut characters = rest.chars();
            if let Some(character) = characters.next() {
                self.bytes(escape(character, &mut [0; 12]));
            }
            rest = characters.as_str();
            let (run, tail) = rest.split_at_checked(self::plain(rest.as_bytes())).unwrap_or((rest, ""));
            self.raw(run);
            rest = tail;
        }
    }

    /// As [`escaped`](Self::escaped), but only as many whole characters as fit. Returns how many bytes of `text` that were.
    pub fn escaped_part(&mut self, text: &str) -> usize {
        let mut done: usize = 0;
        for character in text.chars() {
            let mut buffer = [0; 12];
            let escape = escape(character, &mut buffer);
            if escape.len() > self.room() {
                break;
            }
            self.bytes(escape);
            done = done.saturating_add(character.len_utf8());
        }
        done
    }
}

/// How many bytes at the beginning stand for themselves in a string.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // A byte's high bit of `zero(x)` is set where the byte of `x` is 0, and maybe where a lower byte of it was 0.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut at: usize = 0;
    for chunk in bytes.chunks_exact(8) {
        let Ok(word) = chunk.try_into().map(u64::from_le_bytes) else { break };
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let delete = word.wrapping_add(ONES);
        let quote = zero(word ^ (ONES * 0x22));
        let backslash = zero(word ^ (ONES * 0x5C));
        if (word | control | delete | quote | backslash) & HIGH != 0 {
            break;
        }
        at = at.saturating_add(8);
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at.saturating_add(rest.iter().position(|&byte| !is_plain(byte)).unwrap_or(rest.len()))
}

/// Whether a byte of text stands for itself in a string.
fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7E) && byte != b'"' && byte != b'\\'
}

/// A character as it stands in a string.
fn escape(character: char, out: &mut [u8; 12]) -> &[u8] {
    let short: &[u8] = match character {
        '"' => b"\\\"",
        '\\' => b"\\\\",
        '\x08' => b"\\b",
        '\x0C' => b"\\f",
        '\n' => b"\\n",
        '\r' => b"\\r",
        '\t' => b"\\t",
        ' '..='~' => {
            let [first, ..] = out;
            *first = character as u8;
            return out.get(..1).unwrap_or_default();
        }
        _ => b"",
    };
    if !short.is_empty() {
        return short;
    }
    let character = super::text::checked(character.into(), 0);
    let mut units = [0; 2];
    let mut len: usize = 0;
    for (unit, group) in character.encode_utf16(&mut units).iter().zip(out.chunks_exact_mut(6)) {
        if let [a, b, digits @ ..] = group {
            (*a, *b) = (b'\\', b'u');
            let mut rest = *unit;
            for digit in digits {
                let value = (rest >> 12) as u8;
                *digit = value.wrapping_add(if value < 10 { b'0' } else { b'A' - 10 });
                rest <<= 4;
            }
        }
        len = len.saturating_add(6);
    }
    out.get(..len).unwrap_or_default()
}

impl Emit for bool {
    fn emit(&self, w: &mut Writer<'_>) {
        w.bool(*self);
    }
}

impl Emit for str {
    fn emit(&self, w: &mut Writer<'_>) {
        w.string(self);
    }
}

impl Emit for f64 {
    fn emit(&self, w: &mut Writer<'_>) {
        w.double(*self);
    }
}

impl Emit for i64 {
    fn emit(&self, w: &mut Writer<'_>) {
        w.int(*self);
    }
}

impl Emit for u64 {
    fn emit(&self, w: &mut Writer<'_>) {
        w.uint(*self);
    }
}

macro_rules! emit_integer {
    ($($type:ty)*) => { $(
        impl Emit for $type {
            fn emit(&self, w: &mut Writer<'_>) {
                w.int(i64::from(*self));
            }
        }
    )* };
}
emit_integer!(i8 i16 i32 u8 u16 u32);

/// The empty object, which is what commands without a result return.
impl Emit for () {
    fn emit(&self, w: &mut Writer<'_>) {
        w.json("{}");
    }
}

impl<T: Emit> Emit for [T] {
    fn emit(&self, w: &mut Writer<'_>) {
        w.begin_array();
        for element in self {
            element.emit(w);
        }
        w.end_array();
    }
}

impl<T: Emit, const N: usize> Emit for heapless::Vec<T, N> {
    fn emit(&self, w: &mut Writer<'_>) {
        self.as_slice().emit(w);
    }
}

impl<const N: usize> Emit for heapless::String<N> {
    fn emit(&self, w: &mut Writer<'_>) {
        w.string(self);
    }
}

impl<T: Emit + ?Sized> Emit for &T {
    fn emit(&self, w: &mut Writer<'_>) {
        (**self).emit(w);
    }
}

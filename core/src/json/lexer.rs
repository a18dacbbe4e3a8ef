//! The lexer: one byte in, one step out, eight bytes of state.
//!
//! The dialect is QEMU 2.8's, not RFC 8259's: strings in single or double quotes, raw control characters inside them,
//! `%d` and its like as tokens, key words of lower-case letters only, integers that may not continue after a leading
//! zero but may be followed at once by another token.
//!
//! A number, a key word and white space end with the first byte that does not belong to them. That byte has not been
//! used: it must be fed again.

/// What a byte did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Part of white space, of an unfinished escape or of a `%` token: nothing to keep.
    Nothing,
    /// A string begins.
    StringStart,
    /// A byte of a string that stands for itself.
    Text(u8),
    /// A `\uXXXX` escape of a string is complete.
    Unicode(u16),
    /// The string is complete.
    StringEnd,
    /// A byte of a number.
    Digit(u8),
    /// A byte of a key word.
    Letter(u8),
    /// The number before this byte is complete and is an integer; feed the byte again.
    Integer,
    /// The number before this byte is complete and has a fraction or an exponent; feed the byte again.
    Float,
    /// The key word before this byte is complete; feed the byte again.
    Keyword,
    /// The white space before this byte is complete; feed the byte again.
    Skip,
    /// One of `{}[]:,`.
    Punctuation(u8),
    /// A `%d` or the like is complete: a token that has no value.
    Format,
    /// No token can go on like this. The byte is used up and the lexer is at its start again.
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)] // the start is 0, see `Monitor::new`
enum State {
    Start,
    String,
    Backslash,
    Hex(u8),
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Keyword,
    White,
    Percent,
    PercentL,
    PercentLl,
    PercentI,
    PercentI6,
    PercentI64,
}

/// How many bytes of a string in such quotes there are before one that is no ASCII character that stands for itself.
#[inline]
pub(super) fn plain(quote: u8, bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // The lowest high bit that is set shows the first byte that is 0; of those above it some may be wrong.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let quotes = ONES.wrapping_mul(u64::from(quote));
    let mut at: usize = 0;
    for chunk in bytes.chunks_exact(8) {
        let Ok(word) = chunk.try_into().map(u64::from_le_bytes) else { break };
        let special = word | zero(word) | zero(word ^ quotes) | zero(word ^ (ONES * 0x5C));
        if special & HIGH != 0 {
            return at.saturating_add(((special & HIGH).trailing_zeros() / 8) as usize);
        }
        at = at.saturating_add(8);
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let special = |byte: &u8| *byte == quote || *byte == b'\\' || *byte == 0 || *byte >= 0x80;
    at.saturating_add(rest.iter().position(special).unwrap_or(rest.len()))
}

/// Lexer state between two bytes.
#[derive(Clone, Debug)]
pub(super) struct Lexer {
    state: State,
    quote: u8,
    unicode: u16,
}

impl Lexer {
    pub(super) const fn new() -> Self {
        Self { state: State::Start, quote: 0, unicode: 0 }
    }

    /// Whether the next byte is one of a string's characters (not of an escape).
    #[inline]
    pub(super) fn in_text(&self) -> bool {
        self.state == State::String
    }

    /// Whether this byte, while [`in_text`](Self::in_text), is no ASCII character that stands for itself.
    #[inline]
    pub(super) fn ends_plain(&self, byte: u8) -> bool {
        byte == self.quote || byte == b'\\' || byte == 0 || byte >= 0x80
    }

    /// How many bytes there are before one that [`ends_plain`](Self::ends_plain).
    #[inline]
    pub(super) fn plain(&self, bytes: &[u8]) -> usize {
        plain(self.quote, bytes)
    }

    /// Whether the lexer is between the quotes of a string.
    pub(super) fn in_string(&self) -> bool {
        matches!(self.state, State::String | State::Backslash | State::Hex(_))
    }

    /// Whether nothing has begun, not even white space.
    #[inline]
    pub(super) fn is_fresh(&self) -> bool {
        self.state == State::Start
    }

    /// Whether no token has begun (white space counts as none).
    pub(super) fn at_start(&self) -> bool {
        matches!(self.state, State::Start | State::White)
    }

    /// Takes one byte.
    #[inline]
    pub(super) fn step(&mut self, byte: u8) -> Step {
        let (state, step) = self.next(byte);
        self.state = state;
        step
    }

    #[inline]
    fn next(&mut self, byte: u8) -> (State, Step) {
        use State as S;
        const ERROR: (State, Step) = (State::Start, Step::Error);
        match self.state {
            S::Start => match byte {
                b'"' | b'\'' => {
                    self.quote = byte;
                    (S::String, Step::StringStart)
                }
                b'{' | b'}' | b'[' | b']' | b':' | b',' => (S::Start, Step::Punctuation(byte)),
                b' ' | b'\t' | b'\r' | b'\n' => (S::White, Step::Nothing),
                b'0' => (S::Zero, Step::Digit(byte)),
                b'1'..=b'9' => (S::Integer, Step::Digit(byte)),
                b'-' => (S::Minus, Step::Digit(byte)),
                b'a'..=b'z' => (S::Keyword, Step::Letter(byte)),
                b'%' => (S::Percent, Step::Nothing),
                _ => ERROR,
            },
            S::String => match byte {
                _ if byte == self.quote => (S::Start, Step::StringEnd),
                b'\\' => (S::Backslash, Step::Nothing),
                0 | 0xC0 | 0xC1 | 0xF5..=0xFF => ERROR,
                _ => (S::String, Step::Text(byte)),
            },
            S::Backslash => match byte {
                b'"' | b'\'' | b'\\' | b'/' => (S::String, Step::Text(byte)),
                b'b' => (S::String, Step::Text(0x08)),
                b'f' => (S::String, Step::Text(0x0C)),
                b'n' => (S::String, Step::Text(b'\n')),
                b'r' => (S::String, Step::Text(b'\r')),
                b't' => (S::String, Step::Text(b'\t')),
                b'u' => {
                    self.unicode = 0;
                    (S::Hex(0), Step::Nothing)
                }
                _ => ERROR,
            },
            S::Hex(have) => {
                let digit = match byte {
                    b'0'..=b'9' => byte.wrapping_sub(b'0'),
                    b'a'..=b'f' => byte.wrapping_sub(b'a' - 10),
                    b'A'..=b'F' => byte.wrapping_sub(b'A' - 10),
                    _ => return ERROR,
                };
                self.unicode = (self.unicode << 4) | u16::from(digit);
                if have == 3 {
                    (S::String, Step::Unicode(self.unicode))
                } else {
                    (S::Hex(have.wrapping_add(1)), Step::Nothing)
                }
            }
            S::Minus => match byte {
                b'0' => (S::Zero, Step::Digit(byte)),
                b'1'..=b'9' => (S::Integer, Step::Digit(byte)),
                _ => ERROR,
            },
            S::Zero => match byte {
                b'.' => (S::Point, Step::Digit(byte)),
                b'0'..=b'9' | 0x80.. => ERROR,
                _ => (S::Start, Step::Integer),
            },
            S::Integer => match byte {
                b'0'..=b'9' => (S::Integer, Step::Digit(byte)),
                b'.' => (S::Point, Step::Digit(byte)),
                b'e' | b'E' => (S::Exponent, Step::Digit(byte)),
                0x80.. => ERROR,
                _ => (S::Start, Step::Integer),
            },
            S::Point => match byte {
                b'0'..=b'9' => (S::Fraction, Step::Digit(byte)),
                _ => ERROR,
            },
            S::Fraction => match byte {
                b'0'..=b'9' => (S::Fraction, Step::Digit(byte)),
                b'e' | b'E' => (S::Exponent, Step::Digit(byte)),
                0x80.. => ERROR,
                _ => (S::Start, Step::Float),
            },
            S::Exponent => match byte {
                b'+' | b'-' => (S::ExponentSign, Step::Digit(byte)),
                b'0'..=b'9' => (S::ExponentDigits, Step::Digit(byte)),
                _ => ERROR,
            },
            S::ExponentSign => match byte {
                b'0'..=b'9' => (S::ExponentDigits, Step::Digit(byte)),
                _ => ERROR,
            },
            S::ExponentDigits => match byte {
                b'0'..=b'9' => (S::ExponentDigits, Step::Digit(byte)),
                0x80.. => ERROR,
                _ => (S::Start, Step::Float),
            },
            S::Keyword => match byte {
                b'a'..=b'z' => (S::Keyword, Step::Letter(byte)),
                0x80.. => ERROR,
                _ => (S::Start, Step::Keyword),
            },
            S::White => match byte {
                b' ' | b'\t' | b'\r' | b'\n' => (S::White, Step::Nothing),
                0x80.. => ERROR,
                _ => (S::Start, Step::Skip),
            },
            S::Percent => match byte {
                b'd' | b'i' | b'p' | b's' | b'f' => (S::Start, Step::Format),
                b'l' => (S::PercentL, Step::Nothing),
                b'I' => (S::PercentI, Step::Nothing),
                _ => ERROR,
            },
            S::PercentL => match byte {
                b'd' => (S::Start, Step::Format),
                b'l' => (S::PercentLl, Step::Nothing),
                _ => ERROR,
            },
            S::PercentI if byte == b'6' => (S::PercentI6, Step::Nothing),
            S::PercentI6 if byte == b'4' => (S::PercentI64, Step::Nothing),
            S::PercentLl | S::PercentI64 if byte == b'd' => (S::Start, Step::Format),
            S::PercentLl | S::PercentI | S::PercentI6 | S::PercentI64 => ERROR,
        }
    }
}

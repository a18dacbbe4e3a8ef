//! Repairing text: the bytes of a string become valid UTF-8 as they arrive.
//!
//! QEMU keeps a string as the client's bytes and prints U+FFFD for what is no character. Here that happens once, on the
//! way in, so that everybody behind the parser can have a `&str`.

/// The character that stands for what is none.
pub(super) const REPLACEMENT: char = '\u{FFFD}';

/// Decoder state between two bytes of a string.
#[derive(Clone, Debug)]
pub(super) struct Utf8 {
    /// Continuation bytes that are still to come.
    missing: u8,
    /// Bits so far.
    bits: u32,
    /// Smallest code point that may be written with this many bytes.
    least: u32,
}

impl Utf8 {
    pub(super) const fn new() -> Self {
        Self { missing: 0, bits: 0, least: 0 }
    }

    /// Takes a byte. Returns whether it cut a sequence short, which then counts as one [`REPLACEMENT`], and the character
    /// that it completes.
    #[inline]
    pub(super) fn push(&mut self, byte: u8) -> (bool, Option<char>) {
        if self.missing > 0 && byte & 0xC0 == 0x80 {
            self.bits = (self.bits << 6) | u32::from(byte & 0x3F);
            self.missing = self.missing.wrapping_sub(1);
            return (false, (self.missing == 0).then(|| checked(self.bits, self.least)));
        }
        let cut = self.flush();
        let (missing, bits, least) = match byte {
            0..=0x7F => return (cut, Some(char::from(byte))),
            0xC0..=0xDF => (1, byte & 0x1F, 0x80),
            0xE0..=0xEF => (2, byte & 0x0F, 0x800),
            0xF0..=0xF7 => (3, byte & 0x07, 0x1_0000),
            _ => return (cut, Some(REPLACEMENT)),
        };
        (self.missing, self.bits, self.least) = (missing, bits.into(), least);
        (cut, None)
    }

    /// The string ends, or an escape interrupts. Returns whether an unfinished sequence is left behind.
    #[inline]
    pub(super) fn flush(&mut self) -> bool {
        core::mem::take(&mut self.missing) > 0
    }
}

/// `code` as a character; the replacement for surrogates, non-characters and over-long forms.
pub(super) fn checked(code: u32, least: u32) -> char {
    if code < least || (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE {
        return REPLACEMENT;
    }
    char::from_u32(code).unwrap_or(REPLACEMENT)
}

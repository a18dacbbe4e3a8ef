//! `x` and `xp`: guest memory in the formats of QEMU's monitor.

use core::fmt::Write;

use super::Line;

/// How values are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Radix {
    /// `x`
    Hexadecimal,
    /// `d`
    Signed,
    /// `u`
    Unsigned,
    /// `o`
    Octal,
    /// `c`
    Character,
    /// `i`: instructions. Parsed so that the refusal can say what is missing.
    Instruction,
}

/// `/4xw`: count, format, size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Values to print.
    pub count: u32,
    /// How.
    pub radix: Radix,
    /// Bytes a value: 1, 2, 4 or 8.
    pub size: u8,
}

/// Bytes of one line: 16, or 8 where values are bytes.
const LINE_BYTES: u64 = 16;

impl Format {
    /// What `x ADDRESS` means at first.
    pub const DEFAULT: Self = Self { count: 1, radix: Radix::Hexadecimal, size: 4 };

    /// Parses the text between `/` and the next space. Missing parts are those of `last`; the count is 1.
    pub fn parse(text: &str, last: Self) -> Option<Self> {
        let (count, letters) = super::cut(text, |byte| !byte.is_ascii_digit());
        let count = if count.is_empty() { 1 } else { count.parse().ok()? };
        let (mut radix, mut size) = (None, None);
        for letter in letters.bytes() {
            match letter {
                b'x' => radix = Some(Radix::Hexadecimal),
                b'd' => radix = Some(Radix::Signed),
                b'u' => radix = Some(Radix::Unsigned),
                b'o' => radix = Some(Radix::Octal),
                b'c' => radix = Some(Radix::Character),
                b'i' => radix = Some(Radix::Instruction),
                b'b' => size = Some(1),
                b'h' => size = Some(2),
                b'w' | b'l' => size = Some(4),
                b'g' | b'L' => size = Some(8),
                _ => return None,
            }
        }
        let radix = radix.unwrap_or(last.radix);
        Some(Self { count, radix, size: size.unwrap_or(last.size) })
    }

    fn line_bytes(self) -> u64 {
        if self.size == 1 { LINE_BYTES / 2 } else { LINE_BYTES }
    }

    /// Line `index` of a dump from `address` on; `read` copies guest memory. False behind the last line.
    pub fn line(
        mut self,
        address: u64,
        index: usize,
        line: &mut Line,
        read: impl FnOnce(u64, &mut [u8]) -> bool,
    ) -> Dump {
        // Characters are bytes; the size is kept for the next command.
        if self.radix == Radix::Character {
            self.size = 1;
        }
        let total = u64::from(self.count) * u64::from(self.size);
        let Some(done) = (index as u64).checked_mul(self.line_bytes()).filter(|done| *done < total) else {
            return Dump::End;
        };
        let length = (total - done).min(self.line_bytes()) as usize;
        let at = address.wrapping_add(done);
        let mut buffer = [0; LINE_BYTES as usize];
        let bytes = &mut buffer[..length];
        if write!(line, "{at:016x}:").is_err() {
            return Dump::End;
        }
        if !read(at, bytes) {
            return match line.push_str(" Cannot access memory") {
                Ok(()) => Dump::LastLine,
                Err(_) => Dump::End,
            };
        }
        for value in bytes.chunks(usize::from(self.size).max(1)) {
            let mut wide = [0; 8];
            wide[..value.len()].copy_from_slice(value);
            if self.value(u64::from_le_bytes(wide), line).is_err() {
                return Dump::End;
            }
        }
        Dump::Line
    }

    fn value(self, value: u64, line: &mut Line) -> core::fmt::Result {
        let bits = u32::from(self.size) * 8;
        let decimal_width = (bits * 10).div_ceil(33) as usize;
        match self.radix {
            Radix::Hexadecimal => write!(line, " 0x{value:0width$x}", width = bits as usize / 4),
            Radix::Unsigned => write!(line, " {value:decimal_width$}"),
            Radix::Signed => {
                let shift = 64 - bits;
                write!(line, " {:decimal_width$}", (value << shift) as i64 >> shift)
            }
            // C's `#` puts one 0 in front of an octal number.
            Radix::Octal => {
                let mut digits = heapless::String::<24>::new();
                write!(digits, "{}{value:o}", if value == 0 { "" } else { "0" })?;
                write!(line, " {digits:>width$}", width = bits.div_ceil(3) as usize)
            }
            Radix::Character => {
                line.write_str(" '")?;
                match value as u8 {
                    b'\'' => line.write_str("\\'"),
                    b'\\' => line.write_str("\\\\"),
                    b'\n' => line.write_str("\\n"),
                    b'\r' => line.write_str("\\r"),
                    byte @ 32..=126 => line.write_char(char::from(byte)),
                    byte => write!(line, "\\x{byte:02x}"),
                }?;
                line.write_char('\'')
            }
            Radix::Instruction => Err(core::fmt::Error),
        }
    }
}

/// What [`Format::line`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    /// A line; there may be more.
    Line,
    /// A line, and it was the last.
    LastLine,
    /// Nothing: the dump has ended.
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(format: &str, address: u64, memory: &[u8]) -> std::vec::Vec<std::string::String> {
        let format = Format::parse(format, Format::DEFAULT).unwrap();
        let mut lines = std::vec::Vec::new();
        for index in 0.. {
            let mut line = Line::new();
            let shown = format.line(address, index, &mut line, |at, buffer| {
                let offset = (at - address) as usize;
                memory.get(offset..offset + buffer.len()).map(|bytes| buffer.copy_from_slice(bytes)).is_some()
            });
            if shown != Dump::End {
                lines.push(line.as_str().to_owned());
            }
            if shown != Dump::Line {
                break;
            }
        }
        lines
    }

    use std::borrow::ToOwned;

    #[test]
    fn as_a_real_2_8_prints() {
        let memory =
            [0xea, 0x5b, 0xe0, 0x00, 0xf0, 0x30, 0x36, 0x2f, 0x32, 0x33, 0x2f, 0x39, 0x39, 0, 0xfc, 0];
        assert_eq!(
            dump("4xw", 0xffff_fff0, &memory),
            ["00000000fffffff0: 0x00e05bea 0x2f3630f0 0x392f3332 0x00fc0039"]
        );
        assert_eq!(dump("2xb", 0xffff_fff0, &memory), ["00000000fffffff0: 0xea 0x5b"]);
        assert_eq!(dump("9xb", 0, &memory).len(), 2);
    }

    #[test]
    fn other_formats() {
        assert_eq!(dump("2dh", 0, &[0xff, 0xff, 2, 0]), ["0000000000000000:    -1     2"]);
        assert_eq!(dump("1ub", 0, &[200]), ["0000000000000000: 200"]);
        assert_eq!(dump("1ob", 0, &[8]), ["0000000000000000: 010"]);
        assert_eq!(dump("3c", 0, b"a'\x01"), ["0000000000000000: 'a' '\\'' '\\x01'"]);
        assert_eq!(dump("2xg", 0, &[0; 8]), ["0000000000000000: Cannot access memory"]);
        let characters = Format::parse("4cw", Format::DEFAULT).unwrap();
        assert_eq!(Format::parse("x", characters).unwrap().size, 4);
        assert!(Format::parse("4z", Format::DEFAULT).is_none());
        assert!(Format::parse("99999999999x", Format::DEFAULT).is_none());
    }
}

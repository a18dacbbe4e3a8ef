//! Text of any length as a command's result.

use core::fmt::{self, Write};

use crate::{error::Error, json::Writer};

/// Where a handler writes text that becomes one JSON string.
///
/// The reply leaves through a small buffer. When that is full the handler is called again, from its beginning, once the
/// buffer has been sent; what it wrote before is then skipped, without being formatted. So a handler just writes its text,
/// hands on the `WouldBlock` that a full buffer gives, and keeps no state:
///
/// ```
/// # use monovisor_core::{Error, Text};
/// fn registers(values: &[u64], text: &mut Text<'_, '_>) -> nb::Result<(), Error> {
///     for (number, value) in values.iter().enumerate() {
///         text.write(format_args!("R{number:02}={value:016x}\n"))?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Text<'t, 'b> {
    writer: &'t mut Writer<'b>,
    /// Pieces sent by earlier calls.
    sent: &'t mut usize,
    /// Pieces that this call has seen.
    seen: usize,
    /// A piece of this call did not fit: nothing after it may go out.
    full: bool,
}

/// Longest piece, in bytes as they are sent; a longer one is left out.
pub const PIECE_BYTES: usize = 2048;

impl<'t, 'b> Text<'t, 'b> {
    pub(crate) fn new(writer: &'t mut Writer<'b>, sent: &'t mut usize) -> Self {
        Self { writer, sent, seen: 0, full: false }
    }

    /// For handlers that keep their own place: skips what earlier calls wrote, and returns how many pieces that was.
    pub fn resume(&mut self) -> usize {
        self.seen = *self.sent;
        self.seen
    }

    /// Writes a piece of text, whole or not at all. A line feed is sent as CR LF, as QEMU's human monitor does.
    ///
    /// # Errors
    /// `WouldBlock` where there is no room: hand it on.
    pub fn write(&mut self, piece: fmt::Arguments<'_>) -> nb::Result<(), Error> {
        self.piece(|w| {
            let _ = Escape(w).write_fmt(piece);
        })
    }

    /// Writes a piece of text in which line feeds stay as they are.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn raw(&mut self, piece: &str) -> nb::Result<(), Error> {
        self.piece(|w| w.escaped(piece))
    }

    fn piece(&mut self, write: impl FnOnce(&mut Writer<'b>)) -> nb::Result<(), Error> {
        if self.seen < *self.sent && !self.full {
            self.seen = self.seen.saturating_add(1);
            return Ok(());
        }
        if self.full {
            return Err(nb::Error::WouldBlock);
        }
        let (mark, room) = (self.writer.mark(), self.writer.room());
        write(self.writer);
        if self.writer.overflowed() {
            self.writer.rewind(mark);
            if room < PIECE_BYTES {
                self.full = true;
                return Err(nb::Error::WouldBlock);
            }
        }
        self.seen = self.seen.saturating_add(1);
        *self.sent = self.seen;
        Ok(())
    }

    /// Writes a piece of text that needs no formatting.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn str(&mut self, piece: &str) -> nb::Result<(), Error> {
        self.write(format_args!("{piece}"))
    }
}

struct Escape<'w, 'b>(&'w mut Writer<'b>);

impl Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut lines = text.split('\n');
        if let Some(first) = lines.next() {
            self.0.escaped(first);
        }
        for line in lines {
            self.0.raw("\\r\\n");
            self.0.escaped(line);
        }
        if self.0.overflowed() { Err(fmt::Error) } else { Ok(()) }
    }
}

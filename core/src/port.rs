//! The serial line as a session sees it.

use core::convert::Infallible;

/// What went wrong on the receiving side of a line. In each case at least one byte is not what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// A byte arrived before the one before it had been fetched.
    Overrun,
    /// A stop bit or a parity bit was not as it should be.
    Framing,
    /// The line was held low for longer than a character: it is not connected, or the other side wants attention.
    Break,
}

impl LineError {
    /// The error's name in a sentence.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overrun => "overrun",
            Self::Framing => "framing error",
            Self::Break => "break",
        }
    }
}

/// A byte stream in both directions that never waits.
pub trait Port {
    /// Takes a received byte.
    ///
    /// # Errors
    /// `WouldBlock` where nothing has been received; a [`LineError`] where something was lost at this place in the stream.
    fn read(&mut self) -> nb::Result<u8, LineError>;

    /// Takes received bytes, and returns how many: at least one. A port that has several at hand can do better than this
    /// default, which gives one.
    ///
    /// # Errors
    /// As [`read`](Self::read); bytes before the loss must have been given before.
    #[inline]
    fn read_some(&mut self, bytes: &mut [u8]) -> nb::Result<usize, LineError> {
        let byte = self.read()?;
        let Some(place) = bytes.first_mut() else { return Err(nb::Error::WouldBlock) };
        *place = byte;
        Ok(1)
    }

    /// Takes bytes to be sent, and returns how many it took: at least one.
    ///
    /// # Errors
    /// `WouldBlock` where not one byte can be taken now.
    fn write(&mut self, bytes: &[u8]) -> nb::Result<usize, Infallible>;
}

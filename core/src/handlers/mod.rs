//! What a product implements: one trait a family of commands, one method a command.
//!
//! Every method has a default that answers like an unknown command, so a product implements what it has and names that in
//! its [`Offered`]; a command that is not offered never gets here, and nothing of it is linked. Methods are of three kinds:
//!
//! - A **result**: the method returns it whole. A method that cannot finish now returns `WouldBlock` and is called again
//!   with the same arguments; [`Context::first`] tells the first call from the others and [`Context::progress`] keeps a
//!   number in between.
//! - A **list**: the method is called for index 0, 1, 2 … until it returns `None`, with pauses in which what was made so far
//!   leaves through the line. Only the first call's error can be reported.
//! - A **text**: the method writes into a [`Text`], which stops it when the line is full and lets it go on later.
//!
//! Events are sent through [`Context::event`]: those go out before the reply. What is to follow the reply is reported by
//! the machine itself, with [`Monitor::event`](crate::Monitor::event), after the call.

#[macro_use]
mod family;
mod families;

pub use families::*;

#[cfg(doc)]
use crate::Text;
use crate::{
    Context, Error,
    schema::{Command, Offered},
};

/// What all commands have in common.
pub trait Base {
    /// The commands that are built.
    const OFFERED: &'static Offered;

    /// A command is about to be carried out: called once for each, for tracing.
    fn observe(&mut self, command: Command, cx: &Context<'_>) {
        let _ = (command, cx);
    }
}

/// The files of the store, as far as reading them goes.
pub trait StoreFiles {
    /// Length of the file, in bytes.
    ///
    /// # Errors
    /// [`Error::cannot_open`] where there is none.
    fn store_size(&mut self, path: &str) -> crate::error::Result<u64> {
        Err(Error::cannot_open(path, "No such file or directory"))
    }

    /// Reads bytes of the file. What is beyond its end is left as it is.
    ///
    /// # Errors
    /// As [`store_size`](Self::store_size), and [`Error::io`].
    fn store_read(&mut self, path: &str, offset: u64, bytes: &mut [u8]) -> crate::error::Result<()> {
        let _ = (offset, bytes);
        Err(Error::cannot_open(path, "No such file or directory"))
    }
}

/// Result of a handler's method. `WouldBlock`: call again later.
pub type Poll<T> = nb::Result<T, Error>;

/// Result of a method that produces a list: the element, or `None` behind the last one.
pub type Element<T> = crate::error::Result<Option<T>>;

//! JSON as QEMU 2.8 reads and writes it.
//!
//! Reading: a [`Receiver`] takes bytes, one or many at a time, and tells when a message is complete; a [`Value`] is a view
//! of what it holds. Writing: a [`Writer`] fills a buffer; an [`Emit`] knows how to write itself.
//!
//! Nothing here recurses and nothing allocates. Every limit is a constant below.

mod echo;
mod hash;
mod lexer;
mod receiver;
mod tape;
#[cfg(test)]
mod tests;
mod text;
mod writer;

pub(crate) use echo::Echo;
pub use hash::{BUCKETS, bucket, order};
pub use receiver::{Outcome, Receiver, SyntaxError};
pub use tape::{Array, Elements, Members, Number, Object, Ordered, Value};
pub use writer::{Emit, Mark, Writer};

/// Longest message, in bytes; white space between tokens does not count.
pub const MESSAGE_BYTES: usize = 64 * 1024;

/// Deepest nesting of braces and brackets (QEMU's limit).
pub const MAX_NESTING: i32 = 1024;

/// Bytes of the buffer in which a message is kept.
///
/// Twice the text, which is the most that its nodes take; and for every container that is still open three bytes that are
/// paid back when it is closed.
const TAPE_BYTES: usize = 2 * MESSAGE_BYTES + 4 * MAX_NESTING as usize;

/// Copies as many bytes as both have: the one of the standard library would have to check, and panic.
#[inline]
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

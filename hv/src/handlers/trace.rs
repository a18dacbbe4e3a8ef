//! The hypervisor's log.

use monovisor_core::Context;
use monovisor_core::handlers::{Poll, Trace};
use monovisor_core::schema::extensions::{LogText, XQueryLogArgs};
use monovisor_host::log;

use crate::hypervisor::Hypervisor;

impl Trace for Hypervisor<'_> {
    fn x_query_log(&mut self, arguments: XQueryLogArgs, _: &mut Context<'_>) -> Poll<LogText<'_>> {
        let asked = arguments.offset.unwrap_or(0);
        let (start, length) = log::read(asked, &mut self.log_piece);
        let bytes = self.log_piece.get(..length).unwrap_or_default();
        // A character that the end of the piece cuts goes into the next one; the log is otherwise UTF-8.
        let text = match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        };
        // A log that begins in the middle of a character must not stop there for good.
        let taken = if text.is_empty() { length } else { text.len() };
        let lost = if arguments.offset.is_some() { start.saturating_sub(asked) } else { 0 };
        Ok(LogText { text, next: start + taken as u64, lost })
    }
}

//! The hypervisor's tracepoints and its log.

use monovisor_core::Context;
use monovisor_core::handlers::{Element, Poll, Trace};
use monovisor_core::schema::extensions::{LogText, XQueryLogArgs, XQueryTraceArgs};
use monovisor_core::schema::trace::{TraceEventGetStateArgs, TraceEventInfo, TraceEventSetStateArgs};
use monovisor_host::log;

use crate::hypervisor::Hypervisor;
use crate::trace;

impl Trace for Hypervisor<'_> {
    fn trace_event_get_state(
        &mut self,
        arguments: TraceEventGetStateArgs<'_>,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<TraceEventInfo<'_>> {
        trace::get(&arguments, self.processors(), index)
    }

    fn trace_event_set_state(
        &mut self,
        arguments: TraceEventSetStateArgs<'_>,
        _: &mut Context<'_>,
    ) -> Poll<()> {
        trace::set(&arguments, self.processors()).map_err(nb::Error::Other)
    }

    fn x_query_trace(&mut self, arguments: XQueryTraceArgs, _: &mut Context<'_>) -> Poll<LogText<'_>> {
        let reading = trace::read(arguments.offset, &mut self.log_piece);
        let text = self.log_piece.get(..reading.len).and_then(|bytes| core::str::from_utf8(bytes).ok());
        Ok(LogText { text: text.unwrap_or_default(), next: reading.next, lost: reading.lost })
    }

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

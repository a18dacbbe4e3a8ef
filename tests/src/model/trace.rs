//! Tracepoints and the log.

use monovisor_core::handlers::{Element, Poll, Trace as Tracing};
use monovisor_core::schema::extensions::{LogText, XQueryLogArgs, XQueryTraceArgs};
use monovisor_core::schema::trace::{
    TraceEventGetStateArgs, TraceEventInfo, TraceEventSetStateArgs, TraceEventState,
};
use monovisor_core::{Context, Error};

use super::Model;

/// A tracepoint.
#[derive(Debug)]
struct Point {
    name: &'static str,
    /// Whether it is about one CPU.
    vcpu: bool,
    on: bool,
}

/// Tracepoints and what they recorded.
#[derive(Debug)]
pub(super) struct Trace {
    points: Vec<Point>,
    text: String,
}

impl Default for Trace {
    fn default() -> Self {
        let point = |name, vcpu| Point { name, vcpu, on: false };
        Self { points: vec![point("vm_run", false), point("vcpu_nmi", true)], text: String::new() }
    }
}

impl Trace {
    /// Records that a point was passed, if it is on.
    pub(super) fn record(&mut self, name: &str, vcpu: Option<usize>, values: &[u64]) {
        if self.points.iter().any(|point| point.on && point.name == name) {
            self.text.push_str(&format!("{name} {vcpu:?} {values:x?}\n"));
        }
    }
}

/// Whether a name fits a pattern with `*` and `?`.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if p < pattern.len() && (pattern[p] == b'?' || (pattern[p] == name[n] && pattern[p] != b'*')) {
            (p, n) = (p + 1, n + 1);
        } else if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, n));
            p += 1;
        } else if let Some((at, from)) = star {
            (p, n) = (at + 1, from + 1);
            star = Some((at, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

impl Model {
    /// The points that a name or pattern means, checked as QEMU does.
    fn points(&self, pattern: &str, vcpu: Option<i64>) -> Result<Vec<usize>, Error> {
        if let Some(vcpu) = vcpu
            && !usize::try_from(vcpu).is_ok_and(|vcpu| vcpu < self.cpus.len())
        {
            return Err(Error::generic(format_args!("invalid vCPU index {vcpu}")));
        }
        let found: Vec<usize> = self
            .trace
            .points
            .iter()
            .enumerate()
            .filter(|(_, point)| fits(pattern, point.name))
            .map(|(at, _)| at)
            .collect();
        let is_pattern = pattern.contains('*');
        if found.is_empty() && !is_pattern {
            return Err(Error::generic(format_args!("unknown event \"{pattern}\"")));
        }
        if vcpu.is_some() && !is_pattern && !found.iter().all(|&at| self.trace.points[at].vcpu) {
            return Err(Error::generic(format_args!("event \"{pattern}\" is not vCPU-specific")));
        }
        Ok(found)
    }
}

impl Tracing for Model {
    fn trace_event_get_state(
        &mut self,
        arguments: TraceEventGetStateArgs<'_>,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<TraceEventInfo<'_>> {
        let found = self.points(arguments.name, arguments.vcpu)?;
        Ok(found.get(index).map(|&at| {
            let point = &self.trace.points[at];
            let state = if point.on { TraceEventState::Enabled } else { TraceEventState::Disabled };
            TraceEventInfo { name: point.name, state, vcpu: point.vcpu }
        }))
    }

    fn trace_event_set_state(
        &mut self,
        arguments: TraceEventSetStateArgs<'_>,
        _: &mut Context<'_>,
    ) -> Poll<()> {
        for at in self.points(arguments.name, arguments.vcpu)? {
            self.trace.points[at].on = arguments.enable;
        }
        Ok(())
    }

    fn x_query_trace(&mut self, arguments: XQueryTraceArgs, _: &mut Context<'_>) -> Poll<LogText<'_>> {
        let start = usize::try_from(arguments.offset.unwrap_or(0)).unwrap_or(usize::MAX);
        let rest = self.trace.text.get(start..).unwrap_or_default();
        let mut end = rest.len().min(1024);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let next = (start.min(self.trace.text.len()) + end) as u64;
        Ok(LogText { text: &rest[..end], next, lost: 0 })
    }

    fn x_query_log(&mut self, arguments: XQueryLogArgs, _: &mut Context<'_>) -> Poll<LogText<'_>> {
        const LOG: &str = "model machine started\n";
        let start = usize::try_from(arguments.offset.unwrap_or(0)).unwrap_or(usize::MAX).min(LOG.len());
        Ok(LogText { text: &LOG[start..], next: LOG.len() as u64, lost: 0 })
    }
}

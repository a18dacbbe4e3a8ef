//! Tracepoints.

types! {
    /// Whether a tracepoint is on.
    enum TraceEventState {
        Unavailable = "unavailable",
        Disabled = "disabled",
        Enabled = "enabled",
    }

    /// A tracepoint.
    struct TraceEventInfo<'a> {
        name: &'a str,
        state: TraceEventState,
        /// Whether it can be switched for a single virtual CPU.
        vcpu: bool,
    }
}

commands! {
    /// Says which tracepoints are on.
    TRACE_EVENT_GET_STATE = "trace-event-get-state"(TraceEventGetStateArgs<'a> {
        /// A name, or a pattern with `*`.
        name: &'a str,
        vcpu: Option<i64>,
    }) -> [TraceEventInfo];

    /// Turns tracepoints on or off.
    TRACE_EVENT_SET_STATE = "trace-event-set-state"(TraceEventSetStateArgs<'a> {
        name: &'a str,
        enable: bool,
        /// Whether to pass over those that are not there.
        ignore_unavailable as "ignore-unavailable": Option<bool>,
        vcpu: Option<i64>,
    });
}

events! {}

//! trace

types! {
    /// `TraceEventState`.
    enum TraceEventState {
        Unavailable = "unavailable",
        Disabled = "disabled",
        Enabled = "enabled",
    }

    /// `TraceEventInfo`.
    struct TraceEventInfo<'a> {
        name: &'a str,
        state: TraceEventState,
        vcpu: bool,
    }
}

commands! {
    /// `trace-event-get-state`.
    TRACE_EVENT_GET_STATE = "trace-event-get-state"(TraceEventGetStateArgs<'a> {
        name: &'a str,
        vcpu: Option<i64>,
    }) -> [TraceEventInfo];

    /// `trace-event-set-state`.
    TRACE_EVENT_SET_STATE = "trace-event-set-state"(TraceEventSetStateArgs<'a> {
        name: &'a str,
        enable: bool,
        ignore_unavailable as "ignore-unavailable": Option<bool>,
        vcpu: Option<i64>,
    });
}

events! {}

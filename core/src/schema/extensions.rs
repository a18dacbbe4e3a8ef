//! What Monovisor adds to QEMU's commands. All names begin with `x-`.

types! {
    /// A file of the store.
    struct StoreFile<'a> {
        /// Its path.
        path: &'a str,
        /// Its length in bytes.
        size: u64,
    }

    /// A part of a file of the store.
    struct StoreData<'a> {
        /// The bytes, in base64. Fewer than were asked for where the file ends or the monitor's buffer does.
        data: &'a str,
        /// The length of the whole file, in bytes.
        size: u64,
        /// Whether the file ends with these bytes.
        eof: bool,
    }

    /// A part of the hypervisor's log, or of its trace as text.
    struct LogText<'a> {
        /// The text.
        text: &'a str,
        /// The `offset` at which it goes on.
        next: u64,
        /// Bytes that were asked for and are overwritten by later ones.
        lost: u64,
    }

    /// A serial port of the rig that is in use, and what it has counted since it was opened.
    struct SerialPortInfo<'a> {
        /// The port, `com1` to `com4`.
        port: &'a str,
        /// What its UART is: `8250`, `16450` or `16550A`.
        chip: &'a str,
        /// Its speed in bits per second.
        baud: u32,
        /// Characters received.
        received: u64,
        /// Characters sent.
        sent: u64,
        /// Times that characters were lost, because the UART was emptied too late or the other side did not heed RTS.
        overruns: u64,
        /// Characters without stop bit.
        framing: u64,
        /// Characters with wrong parity.
        parity: u64,
        /// Breaks.
        breaks: u64,
        /// Times that RTS has asked the other side to stop.
        throttled: u64,
    }

    /// Events that a slow line has cost.
    struct EventsLost {
        /// How many events were not sent since the session began.
        lost: u64,
    }
}

commands! {
    /// Lists the files of the store.
    X_STORE_LIST = "x-store-list" -> [StoreFile];

    /// Reads a part of a file of the store.
    X_STORE_READ = "x-store-read"(XStoreReadArgs<'a> {
        /// The path of the file.
        path: &'a str,
        /// The first byte; 0 where left out.
        offset: Option<u64>,
        /// How many bytes at most; as many as the monitor can give at once where left out.
        size: Option<u64>,
    }) -> StoreData;

    /// Reads the hypervisor's log.
    X_QUERY_LOG = "x-query-log"(XQueryLogArgs {
        /// Where to begin, in bytes logged since the start; the oldest byte that is kept where left out.
        offset: Option<u64>,
    }) -> LogText;

    /// Reads the trace that is kept, a line for each record.
    X_QUERY_TRACE = "x-query-trace"(XQueryTraceArgs {
        /// Where to begin, in bytes since the start; the oldest record that is kept where left out.
        offset: Option<u64>,
    }) -> LogText;

    /// Says how the rig's serial ports are doing.
    X_QUERY_SERIAL = "x-query-serial" -> [SerialPortInfo];

    /// Says how many events this session did not get.
    X_QUERY_EVENTS_LOST = "x-query-events-lost" -> EventsLost;
}

events! {}

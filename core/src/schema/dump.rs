//! Dumps of guest memory.

use super::value::List;

types! {
    /// The format of a dump.
    enum DumpGuestMemoryFormat {
        Elf = "elf",
        KdumpZlib = "kdump-zlib",
        KdumpLzo = "kdump-lzo",
        KdumpSnappy = "kdump-snappy",
    }

    /// How far a dump is.
    enum DumpStatus {
        None = "none",
        Active = "active",
        Completed = "completed",
        Failed = "failed",
    }

    /// The progress of a dump.
    struct DumpQueryResult {
        status: DumpStatus,
        /// Bytes written.
        completed: i64,
        /// Bytes to write.
        total: i64,
    }

    /// What dumps can be made.
    struct DumpGuestMemoryCapability<'a> {
        formats: List<'a, DumpGuestMemoryFormat>,
    }
}

commands! {
    /// Writes the guest's memory to a file that a debugger reads.
    DUMP_GUEST_MEMORY = "dump-guest-memory"(DumpGuestMemoryArgs<'a> {
        /// Whether the guest's page tables are used, so that its virtual addresses are in the file.
        paging: bool,
        /// `file:` and a path, or `fd:` and a name.
        protocol: &'a str,
        /// Whether to answer at once and go on in the background.
        detach: Option<bool>,
        /// The first physical address, in bytes; only with `length`.
        begin: Option<i64>,
        /// How many bytes; only with `begin`.
        length: Option<i64>,
        format: Option<DumpGuestMemoryFormat>,
    });

    /// Says how far the last dump is.
    QUERY_DUMP = "query-dump" -> DumpQueryResult;

    /// Lists the formats of dumps.
    QUERY_DUMP_GUEST_MEMORY_CAPABILITY = "query-dump-guest-memory-capability" -> DumpGuestMemoryCapability;

    /// Writes the guest's storage keys (s390 only) to a file.
    DUMP_SKEYS = "dump-skeys"(DumpSkeysArgs<'a> {
        filename: &'a str,
    });
}

events! {
    /// A dump has ended.
    DUMP_COMPLETED = DumpCompleted<'a> {
        result: DumpQueryResult,
        /// Why it failed; absent where it did not.
        error: Option<&'a str>,
    };
}

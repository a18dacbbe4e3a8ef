//! dump

use super::value::List;

types! {
    /// `DumpGuestMemoryFormat`.
    enum DumpGuestMemoryFormat {
        Elf = "elf",
        KdumpZlib = "kdump-zlib",
        KdumpLzo = "kdump-lzo",
        KdumpSnappy = "kdump-snappy",
    }

    /// `DumpStatus`.
    enum DumpStatus {
        None = "none",
        Active = "active",
        Completed = "completed",
        Failed = "failed",
    }

    /// `DumpQueryResult`.
    struct DumpQueryResult {
        status: DumpStatus,
        completed: i64,
        total: i64,
    }

    /// `DumpGuestMemoryCapability`.
    struct DumpGuestMemoryCapability<'a> {
        formats: List<'a, DumpGuestMemoryFormat>,
    }
}

commands! {
    /// `dump-guest-memory`.
    DUMP_GUEST_MEMORY = "dump-guest-memory"(DumpGuestMemoryArgs<'a> {
        paging: bool,
        protocol: &'a str,
        detach: Option<bool>,
        begin: Option<i64>,
        length: Option<i64>,
        format: Option<DumpGuestMemoryFormat>,
    });

    /// `query-dump`.
    QUERY_DUMP = "query-dump" -> DumpQueryResult;

    /// `query-dump-guest-memory-capability`.
    QUERY_DUMP_GUEST_MEMORY_CAPABILITY = "query-dump-guest-memory-capability" -> DumpGuestMemoryCapability;

    /// `dump-skeys`.
    DUMP_SKEYS = "dump-skeys"(DumpSkeysArgs<'a> {
        filename: &'a str,
    });
}

events! {
    /// `DUMP_COMPLETED`.
    DUMP_COMPLETED = DumpCompleted<'a> {
        result: DumpQueryResult,
        error: Option<&'a str>,
    };
}

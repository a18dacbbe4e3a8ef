//! migration

use super::value::List;

types! {
    /// `MigrationStats`.
    struct MigrationStats {
        transferred: i64,
        remaining: i64,
        total: i64,
        duplicate: i64,
        skipped: i64,
        normal: i64,
        normal_bytes as "normal-bytes": i64,
        dirty_pages_rate as "dirty-pages-rate": i64,
        mbps: f64,
        dirty_sync_count as "dirty-sync-count": i64,
        postcopy_requests as "postcopy-requests": i64,
    }

    /// `XBZRLECacheStats`.
    struct XBZRLECacheStats {
        cache_size as "cache-size": i64,
        bytes: i64,
        pages: i64,
        cache_miss as "cache-miss": i64,
        cache_miss_rate as "cache-miss-rate": f64,
        overflow: i64,
    }

    /// `MigrationStatus`.
    enum MigrationStatus {
        None = "none",
        Setup = "setup",
        Cancelling = "cancelling",
        Cancelled = "cancelled",
        Active = "active",
        PostcopyActive = "postcopy-active",
        Completed = "completed",
        Failed = "failed",
        Colo = "colo",
    }

    /// `MigrationInfo`.
    struct MigrationInfo<'a> {
        status: Option<MigrationStatus>,
        ram: Option<MigrationStats>,
        disk: Option<MigrationStats>,
        xbzrle_cache as "xbzrle-cache": Option<XBZRLECacheStats>,
        total_time as "total-time": Option<i64>,
        expected_downtime as "expected-downtime": Option<i64>,
        downtime: Option<i64>,
        setup_time as "setup-time": Option<i64>,
        cpu_throttle_percentage as "cpu-throttle-percentage": Option<i64>,
        error_desc as "error-desc": Option<&'a str>,
    }

    /// `MigrationCapability`.
    enum MigrationCapability {
        Xbzrle = "xbzrle",
        RdmaPinAll = "rdma-pin-all",
        AutoConverge = "auto-converge",
        ZeroBlocks = "zero-blocks",
        Compress = "compress",
        Events = "events",
        PostcopyRam = "postcopy-ram",
        XColo = "x-colo",
    }

    /// `MigrationCapabilityStatus`.
    struct MigrationCapabilityStatus {
        capability: MigrationCapability,
        state: bool,
    }

    /// `MigrationParameters`.
    struct MigrationParameters<'a> {
        compress_level as "compress-level": Option<i64>,
        compress_threads as "compress-threads": Option<i64>,
        decompress_threads as "decompress-threads": Option<i64>,
        cpu_throttle_initial as "cpu-throttle-initial": Option<i64>,
        cpu_throttle_increment as "cpu-throttle-increment": Option<i64>,
        tls_creds as "tls-creds": Option<&'a str>,
        tls_hostname as "tls-hostname": Option<&'a str>,
        max_bandwidth as "max-bandwidth": Option<i64>,
        downtime_limit as "downtime-limit": Option<i64>,
        x_checkpoint_delay as "x-checkpoint-delay": Option<i64>,
    }
}

commands! {
    /// `query-migrate`.
    QUERY_MIGRATE = "query-migrate" -> MigrationInfo;

    /// `migrate-set-capabilities`.
    MIGRATE_SET_CAPABILITIES = "migrate-set-capabilities"(MigrateSetCapabilitiesArgs<'a> {
        capabilities: List<'a, MigrationCapabilityStatus>,
    });

    /// `query-migrate-capabilities`.
    QUERY_MIGRATE_CAPABILITIES = "query-migrate-capabilities" -> [MigrationCapabilityStatus];

    /// `migrate-set-parameters`.
    MIGRATE_SET_PARAMETERS = "migrate-set-parameters"(MigrationParameters);

    /// `query-migrate-parameters`.
    QUERY_MIGRATE_PARAMETERS = "query-migrate-parameters" -> MigrationParameters;

    /// `client_migrate_info`.
    CLIENT_MIGRATE_INFO = "client_migrate_info"(ClientMigrateInfoArgs<'a> {
        protocol: &'a str,
        hostname: &'a str,
        port: Option<i64>,
        tls_port as "tls-port": Option<i64>,
        cert_subject as "cert-subject": Option<&'a str>,
    });

    /// `migrate-start-postcopy`.
    MIGRATE_START_POSTCOPY = "migrate-start-postcopy";

    /// `x-colo-lost-heartbeat`.
    X_COLO_LOST_HEARTBEAT = "x-colo-lost-heartbeat";

    /// `migrate_cancel`.
    MIGRATE_CANCEL = "migrate_cancel";

    /// `migrate_set_downtime`.
    MIGRATE_SET_DOWNTIME = "migrate_set_downtime"(MigrateSetDowntimeArgs {
        value: f64,
    });

    /// `migrate_set_speed`.
    MIGRATE_SET_SPEED = "migrate_set_speed"(MigrateSetSpeedArgs {
        value: i64,
    });

    /// `migrate-set-cache-size`.
    MIGRATE_SET_CACHE_SIZE = "migrate-set-cache-size"(MigrateSetCacheSizeArgs {
        value: i64,
    });

    /// `query-migrate-cache-size`.
    QUERY_MIGRATE_CACHE_SIZE = "query-migrate-cache-size" -> i64;

    /// `migrate`.
    MIGRATE = "migrate"(MigrateArgs<'a> {
        uri: &'a str,
        blk: Option<bool>,
        inc: Option<bool>,
        detach: Option<bool>,
    });

    /// `migrate-incoming`.
    MIGRATE_INCOMING = "migrate-incoming"(MigrateIncomingArgs<'a> {
        uri: &'a str,
    });
}

events! {
    /// `MIGRATION`.
    MIGRATION = Migration {
        status: MigrationStatus,
    };

    /// `MIGRATION_PASS`.
    MIGRATION_PASS = MigrationPass {
        pass: i64,
    };
}

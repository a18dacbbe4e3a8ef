//! Migration and COLO.

use super::value::List;

types! {
    /// How much was migrated, in bytes where nothing else is said.
    struct MigrationStats {
        transferred: i64,
        remaining: i64,
        total: i64,
        duplicate: i64,
        skipped: i64,
        normal: i64,
        normal_bytes as "normal-bytes": i64,
        /// Pages a second.
        dirty_pages_rate as "dirty-pages-rate": i64,
        /// Megabits a second.
        mbps: f64,
        dirty_sync_count as "dirty-sync-count": i64,
        postcopy_requests as "postcopy-requests": i64,
    }

    /// The cache of XBZRLE.
    struct XBZRLECacheStats {
        cache_size as "cache-size": i64,
        bytes: i64,
        pages: i64,
        cache_miss as "cache-miss": i64,
        cache_miss_rate as "cache-miss-rate": f64,
        overflow: i64,
    }

    /// How far a migration is.
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

    /// A migration.
    struct MigrationInfo<'a> {
        status: Option<MigrationStatus>,
        ram: Option<MigrationStats>,
        disk: Option<MigrationStats>,
        xbzrle_cache as "xbzrle-cache": Option<XBZRLECacheStats>,
        /// Milliseconds.
        total_time as "total-time": Option<i64>,
        /// Milliseconds.
        expected_downtime as "expected-downtime": Option<i64>,
        /// Milliseconds.
        downtime: Option<i64>,
        /// Milliseconds.
        setup_time as "setup-time": Option<i64>,
        cpu_throttle_percentage as "cpu-throttle-percentage": Option<i64>,
        error_desc as "error-desc": Option<&'a str>,
    }

    /// What a migration may make use of.
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

    /// A capability, on or off.
    struct MigrationCapabilityStatus {
        capability: MigrationCapability,
        state: bool,
    }

    /// Parameters of migrations.
    struct MigrationParameters<'a> {
        compress_level as "compress-level": Option<i64>,
        compress_threads as "compress-threads": Option<i64>,
        decompress_threads as "decompress-threads": Option<i64>,
        cpu_throttle_initial as "cpu-throttle-initial": Option<i64>,
        cpu_throttle_increment as "cpu-throttle-increment": Option<i64>,
        tls_creds as "tls-creds": Option<&'a str>,
        tls_hostname as "tls-hostname": Option<&'a str>,
        /// Bytes a second.
        max_bandwidth as "max-bandwidth": Option<i64>,
        /// Milliseconds.
        downtime_limit as "downtime-limit": Option<i64>,
        /// Milliseconds.
        x_checkpoint_delay as "x-checkpoint-delay": Option<i64>,
    }
}

commands! {
    /// Says how far the last migration is.
    QUERY_MIGRATE = "query-migrate" -> MigrationInfo;

    /// Turns capabilities on or off.
    MIGRATE_SET_CAPABILITIES = "migrate-set-capabilities"(MigrateSetCapabilitiesArgs<'a> {
        capabilities: List<'a, MigrationCapabilityStatus>,
    });

    /// Lists the capabilities.
    QUERY_MIGRATE_CAPABILITIES = "query-migrate-capabilities" -> [MigrationCapabilityStatus];

    /// Sets parameters; those left out stay as they are.
    MIGRATE_SET_PARAMETERS = "migrate-set-parameters"(MigrationParameters);

    /// Says what the parameters are.
    QUERY_MIGRATE_PARAMETERS = "query-migrate-parameters" -> MigrationParameters;

    /// Tells clients of a display where the guest is being migrated to.
    CLIENT_MIGRATE_INFO = "client_migrate_info"(ClientMigrateInfoArgs<'a> {
        protocol: &'a str,
        hostname: &'a str,
        port: Option<i64>,
        tls_port as "tls-port": Option<i64>,
        cert_subject as "cert-subject": Option<&'a str>,
    });

    /// Goes over to post-copy.
    MIGRATE_START_POSTCOPY = "migrate-start-postcopy";

    /// Tells COLO that the other side is dead.
    X_COLO_LOST_HEARTBEAT = "x-colo-lost-heartbeat";

    /// Ends the migration that is going on.
    MIGRATE_CANCEL = "migrate_cancel";

    /// Sets how long the guest may stand still.
    MIGRATE_SET_DOWNTIME = "migrate_set_downtime"(MigrateSetDowntimeArgs {
        /// Seconds.
        value: f64,
    });

    /// Limits the speed of migrations.
    MIGRATE_SET_SPEED = "migrate_set_speed"(MigrateSetSpeedArgs {
        /// Bytes a second.
        value: i64,
    });

    /// Sets the size of the cache of XBZRLE.
    MIGRATE_SET_CACHE_SIZE = "migrate-set-cache-size"(MigrateSetCacheSizeArgs {
        /// Bytes.
        value: i64,
    });

    /// Says how large the cache of XBZRLE is, in bytes.
    QUERY_MIGRATE_CACHE_SIZE = "query-migrate-cache-size" -> i64;

    /// Begins to migrate the guest.
    MIGRATE = "migrate"(MigrateArgs<'a> {
        /// Where to.
        uri: &'a str,
        blk: Option<bool>,
        inc: Option<bool>,
        detach: Option<bool>,
    });

    /// Begins to wait for a guest, where started with `-incoming defer`.
    MIGRATE_INCOMING = "migrate-incoming"(MigrateIncomingArgs<'a> {
        uri: &'a str,
    });
}

events! {
    /// A migration has come into another state.
    MIGRATION = Migration {
        status: MigrationStatus,
    };

    /// A pass over the guest's memory begins.
    MIGRATION_PASS = MigrationPass {
        pass: i64,
    };
}

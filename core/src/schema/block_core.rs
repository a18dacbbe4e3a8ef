//! block-core

use super::block_job::NewImageMode;
use super::blockdev::{BlockdevCacheInfo, BlockdevDetectZeroesOptions};
use super::common::IoOperationType;
use super::crypto::QCryptoBlockInfoLUKS;
use super::value::{Boxed, List};

types! {
    /// `SnapshotInfo`.
    struct SnapshotInfo<'a> {
        id: &'a str,
        name: &'a str,
        vm_state_size as "vm-state-size": i64,
        date_sec as "date-sec": i64,
        date_nsec as "date-nsec": i64,
        vm_clock_sec as "vm-clock-sec": i64,
        vm_clock_nsec as "vm-clock-nsec": i64,
    }

    /// `ImageInfoSpecificQCow2`.
    struct ImageInfoSpecificQCow2<'a> {
        compat: &'a str,
        lazy_refcounts as "lazy-refcounts": Option<bool>,
        corrupt: Option<bool>,
        refcount_bits as "refcount-bits": i64,
    }

    /// `ImageInfoSpecificVmdk`.
    struct ImageInfoSpecificVmdk<'a> {
        create_type as "create-type": &'a str,
        cid: i64,
        parent_cid as "parent-cid": i64,
        extents: List<'a, ImageInfo<'a>>,
    }

    /// `ImageInfoSpecific`.
    simple ImageInfoSpecific<'a>: ImageInfoSpecificKind {
        Qcow2(ImageInfoSpecificQCow2<'a>) = "qcow2",
        Vmdk(ImageInfoSpecificVmdk<'a>) = "vmdk",
        Luks(QCryptoBlockInfoLUKS<'a>) = "luks",
    }

    /// `ImageInfo`.
    struct ImageInfo<'a> {
        filename: &'a str,
        format: &'a str,
        dirty_flag as "dirty-flag": Option<bool>,
        actual_size as "actual-size": Option<i64>,
        virtual_size as "virtual-size": i64,
        cluster_size as "cluster-size": Option<i64>,
        encrypted: Option<bool>,
        compressed: Option<bool>,
        backing_filename as "backing-filename": Option<&'a str>,
        full_backing_filename as "full-backing-filename": Option<&'a str>,
        backing_filename_format as "backing-filename-format": Option<&'a str>,
        snapshots: Option<List<'a, SnapshotInfo<'a>>>,
        backing_image as "backing-image": Option<Boxed<'a, ImageInfo<'a>>>,
        format_specific as "format-specific": Option<ImageInfoSpecific<'a>>,
    }

    /// `BlockDeviceInfo`.
    struct BlockDeviceInfo<'a> {
        file: &'a str,
        node_name as "node-name": Option<&'a str>,
        ro: bool,
        drv: &'a str,
        backing_file: Option<&'a str>,
        backing_file_depth: i64,
        encrypted: bool,
        encryption_key_missing: bool,
        detect_zeroes: BlockdevDetectZeroesOptions,
        bps: i64,
        bps_rd: i64,
        bps_wr: i64,
        iops: i64,
        iops_rd: i64,
        iops_wr: i64,
        image: ImageInfo<'a>,
        bps_max: Option<i64>,
        bps_rd_max: Option<i64>,
        bps_wr_max: Option<i64>,
        iops_max: Option<i64>,
        iops_rd_max: Option<i64>,
        iops_wr_max: Option<i64>,
        bps_max_length: Option<i64>,
        bps_rd_max_length: Option<i64>,
        bps_wr_max_length: Option<i64>,
        iops_max_length: Option<i64>,
        iops_rd_max_length: Option<i64>,
        iops_wr_max_length: Option<i64>,
        iops_size: Option<i64>,
        group: Option<&'a str>,
        cache: BlockdevCacheInfo,
        write_threshold: i64,
    }

    /// `BlockDeviceIoStatus`.
    enum BlockDeviceIoStatus {
        Ok = "ok",
        Failed = "failed",
        Nospace = "nospace",
    }

    /// `DirtyBitmapStatus`.
    enum DirtyBitmapStatus {
        Active = "active",
        Disabled = "disabled",
        Frozen = "frozen",
    }

    /// `BlockDirtyInfo`.
    struct BlockDirtyInfo<'a> {
        name: Option<&'a str>,
        count: i64,
        granularity: u32,
        status: DirtyBitmapStatus,
    }

    /// `BlockInfo`.
    struct BlockInfo<'a> {
        device: &'a str,
        kind as "type": &'a str,
        removable: bool,
        locked: bool,
        inserted: Option<BlockDeviceInfo<'a>>,
        tray_open: Option<bool>,
        io_status as "io-status": Option<BlockDeviceIoStatus>,
        dirty_bitmaps as "dirty-bitmaps": Option<List<'a, BlockDirtyInfo<'a>>>,
    }

    /// `BlockDeviceTimedStats`.
    struct BlockDeviceTimedStats {
        interval_length: i64,
        min_rd_latency_ns: i64,
        max_rd_latency_ns: i64,
        avg_rd_latency_ns: i64,
        min_wr_latency_ns: i64,
        max_wr_latency_ns: i64,
        avg_wr_latency_ns: i64,
        min_flush_latency_ns: i64,
        max_flush_latency_ns: i64,
        avg_flush_latency_ns: i64,
        avg_rd_queue_depth: f64,
        avg_wr_queue_depth: f64,
    }

    /// `BlockDeviceStats`.
    struct BlockDeviceStats<'a> {
        rd_bytes: i64,
        wr_bytes: i64,
        rd_operations: i64,
        wr_operations: i64,
        flush_operations: i64,
        flush_total_time_ns: i64,
        wr_total_time_ns: i64,
        rd_total_time_ns: i64,
        wr_highest_offset: i64,
        rd_merged: i64,
        wr_merged: i64,
        idle_time_ns: Option<i64>,
        failed_rd_operations: i64,
        failed_wr_operations: i64,
        failed_flush_operations: i64,
        invalid_rd_operations: i64,
        invalid_wr_operations: i64,
        invalid_flush_operations: i64,
        account_invalid: bool,
        account_failed: bool,
        timed_stats: List<'a, BlockDeviceTimedStats>,
    }

    /// `BlockStats`.
    struct BlockStats<'a> {
        device: Option<&'a str>,
        node_name as "node-name": Option<&'a str>,
        stats: BlockDeviceStats<'a>,
        parent: Option<Boxed<'a, BlockStats<'a>>>,
        backing: Option<Boxed<'a, BlockStats<'a>>>,
    }

    /// `BlockdevOnError`.
    enum BlockdevOnError {
        Report = "report",
        Ignore = "ignore",
        Enospc = "enospc",
        Stop = "stop",
        Auto = "auto",
    }

    /// `BlockdevSnapshotSync`.
    struct BlockdevSnapshotSync<'a> {
        device: Option<&'a str>,
        node_name as "node-name": Option<&'a str>,
        snapshot_file as "snapshot-file": &'a str,
        snapshot_node_name as "snapshot-node-name": Option<&'a str>,
        format: Option<&'a str>,
        mode: Option<NewImageMode>,
    }

    /// `BlockdevSnapshot`.
    struct BlockdevSnapshot<'a> {
        node: &'a str,
        overlay: &'a str,
    }

    /// `BlockDirtyBitmap`.
    struct BlockDirtyBitmap<'a> {
        node: &'a str,
        name: &'a str,
    }

    /// `BlockDirtyBitmapAdd`.
    struct BlockDirtyBitmapAdd<'a> {
        node: &'a str,
        name: &'a str,
        granularity: Option<u32>,
    }

    /// `BlockIOThrottle`.
    struct BlockIoThrottle<'a> {
        device: Option<&'a str>,
        id: Option<&'a str>,
        bps: i64,
        bps_rd: i64,
        bps_wr: i64,
        iops: i64,
        iops_rd: i64,
        iops_wr: i64,
        bps_max: Option<i64>,
        bps_rd_max: Option<i64>,
        bps_wr_max: Option<i64>,
        iops_max: Option<i64>,
        iops_rd_max: Option<i64>,
        iops_wr_max: Option<i64>,
        bps_max_length: Option<i64>,
        bps_rd_max_length: Option<i64>,
        bps_wr_max_length: Option<i64>,
        iops_max_length: Option<i64>,
        iops_rd_max_length: Option<i64>,
        iops_wr_max_length: Option<i64>,
        iops_size: Option<i64>,
        group: Option<&'a str>,
    }

    /// `BlockdevChangeReadOnlyMode`.
    enum BlockdevChangeReadOnlyMode {
        Retain = "retain",
        ReadOnly = "read-only",
        ReadWrite = "read-write",
    }

    /// `BlockErrorAction`.
    enum BlockErrorAction {
        Ignore = "ignore",
        Report = "report",
        Stop = "stop",
    }
}

commands! {
    /// `query-block`.
    QUERY_BLOCK = "query-block" -> [BlockInfo];

    /// `query-blockstats`.
    QUERY_BLOCKSTATS = "query-blockstats"(QueryBlockstatsArgs {
        query_nodes as "query-nodes": Option<bool>,
    }) -> [BlockStats];

    /// `block_passwd`.
    BLOCK_PASSWD = "block_passwd"(BlockPasswdArgs<'a> {
        device: Option<&'a str>,
        node_name as "node-name": Option<&'a str>,
        password: &'a str,
    });

    /// `block_resize`.
    BLOCK_RESIZE = "block_resize"(BlockResizeArgs<'a> {
        device: Option<&'a str>,
        node_name as "node-name": Option<&'a str>,
        size: i64,
    });

    /// `blockdev-snapshot-sync`.
    BLOCKDEV_SNAPSHOT_SYNC = "blockdev-snapshot-sync"(BlockdevSnapshotSync);

    /// `blockdev-snapshot`.
    BLOCKDEV_SNAPSHOT = "blockdev-snapshot"(BlockdevSnapshot);

    /// `change-backing-file`.
    CHANGE_BACKING_FILE = "change-backing-file"(ChangeBackingFileArgs<'a> {
        device: &'a str,
        image_node_name as "image-node-name": &'a str,
        backing_file as "backing-file": &'a str,
    });

    /// `query-named-block-nodes`.
    QUERY_NAMED_BLOCK_NODES = "query-named-block-nodes" -> [BlockDeviceInfo];

    /// `block-dirty-bitmap-add`.
    BLOCK_DIRTY_BITMAP_ADD = "block-dirty-bitmap-add"(BlockDirtyBitmapAdd);

    /// `block-dirty-bitmap-remove`.
    BLOCK_DIRTY_BITMAP_REMOVE = "block-dirty-bitmap-remove"(BlockDirtyBitmap);

    /// `block-dirty-bitmap-clear`.
    BLOCK_DIRTY_BITMAP_CLEAR = "block-dirty-bitmap-clear"(BlockDirtyBitmap);

    /// `block_set_io_throttle`.
    BLOCK_SET_IO_THROTTLE = "block_set_io_throttle"(BlockIoThrottle);

    /// `blockdev-open-tray`.
    BLOCKDEV_OPEN_TRAY = "blockdev-open-tray"(BlockdevOpenTrayArgs<'a> {
        device: Option<&'a str>,
        id: Option<&'a str>,
        force: Option<bool>,
    });

    /// `blockdev-close-tray`.
    BLOCKDEV_CLOSE_TRAY = "blockdev-close-tray"(BlockdevCloseTrayArgs<'a> {
        device: Option<&'a str>,
        id: Option<&'a str>,
    });

    /// `x-blockdev-remove-medium`.
    X_BLOCKDEV_REMOVE_MEDIUM = "x-blockdev-remove-medium"(XBlockdevRemoveMediumArgs<'a> {
        device: Option<&'a str>,
        id: Option<&'a str>,
    });

    /// `x-blockdev-insert-medium`.
    X_BLOCKDEV_INSERT_MEDIUM = "x-blockdev-insert-medium"(XBlockdevInsertMediumArgs<'a> {
        device: Option<&'a str>,
        id: Option<&'a str>,
        node_name as "node-name": &'a str,
    });

    /// `blockdev-change-medium`.
    BLOCKDEV_CHANGE_MEDIUM = "blockdev-change-medium"(BlockdevChangeMediumArgs<'a> {
        device: Option<&'a str>,
        id: Option<&'a str>,
        filename: &'a str,
        format: Option<&'a str>,
        read_only_mode as "read-only-mode": Option<BlockdevChangeReadOnlyMode>,
    });

    /// `block-set-write-threshold`.
    BLOCK_SET_WRITE_THRESHOLD = "block-set-write-threshold"(BlockSetWriteThresholdArgs<'a> {
        node_name as "node-name": &'a str,
        write_threshold as "write-threshold": u64,
    });

    /// `x-blockdev-change`.
    X_BLOCKDEV_CHANGE = "x-blockdev-change"(XBlockdevChangeArgs<'a> {
        parent: &'a str,
        child: Option<&'a str>,
        node: Option<&'a str>,
    });

    /// `x-blockdev-del`.
    X_BLOCKDEV_DEL = "x-blockdev-del"(XBlockdevDelArgs<'a> {
        node_name as "node-name": &'a str,
    });
}

events! {
    /// `BLOCK_IMAGE_CORRUPTED`.
    BLOCK_IMAGE_CORRUPTED = BlockImageCorrupted<'a> {
        device: &'a str,
        node_name as "node-name": Option<&'a str>,
        msg: &'a str,
        offset: Option<i64>,
        size: Option<i64>,
        fatal: bool,
    };

    /// `BLOCK_IO_ERROR`.
    BLOCK_IO_ERROR = BlockIoError<'a> {
        device: &'a str,
        node_name as "node-name": &'a str,
        operation: IoOperationType,
        action: BlockErrorAction,
        nospace: Option<bool>,
        reason: &'a str,
    };

    /// `BLOCK_WRITE_THRESHOLD`.
    BLOCK_WRITE_THRESHOLD = BlockWriteThreshold<'a> {
        node_name as "node-name": &'a str,
        amount_exceeded as "amount-exceeded": u64,
        write_threshold as "write-threshold": u64,
    };
}

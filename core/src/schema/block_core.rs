//! Block devices and nodes: state, statistics, snapshots, bitmaps, throttling, media.

use super::block_job::NewImageMode;
use super::blockdev::{BlockdevCacheInfo, BlockdevDetectZeroesOptions};
use super::common::IoOperationType;
use super::crypto::QCryptoBlockInfoLUKS;
use super::value::{Boxed, List, Made};

types! {
    /// An internal snapshot.
    struct SnapshotInfo<'a> {
        id: &'a str,
        name: &'a str,
        /// Bytes.
        vm_state_size as "vm-state-size": i64,
        date_sec as "date-sec": i64,
        date_nsec as "date-nsec": i64,
        vm_clock_sec as "vm-clock-sec": i64,
        vm_clock_nsec as "vm-clock-nsec": i64,
    }

    /// What qcow2 adds.
    struct ImageInfoSpecificQCow2<'a> {
        compat: &'a str,
        lazy_refcounts as "lazy-refcounts": Option<bool>,
        corrupt: Option<bool>,
        refcount_bits as "refcount-bits": i64,
    }

    /// What VMDK adds.
    struct ImageInfoSpecificVmdk<'a> {
        create_type as "create-type": &'a str,
        cid: i64,
        parent_cid as "parent-cid": i64,
        extents: List<'a, ImageInfo<'a>>,
    }

    /// What the format adds.
    simple ImageInfoSpecific<'a>: ImageInfoSpecificKind {
        Qcow2(ImageInfoSpecificQCow2<'a>) = "qcow2",
        Vmdk(ImageInfoSpecificVmdk<'a>) = "vmdk",
        Luks(QCryptoBlockInfoLUKS<'a>) = "luks",
    }

    /// An image.
    struct ImageInfo<'a> {
        filename: &'a str,
        format: &'a str,
        dirty_flag as "dirty-flag": Option<bool>,
        /// What it takes, in bytes.
        actual_size as "actual-size": Option<i64>,
        /// What the guest sees, in bytes.
        virtual_size as "virtual-size": i64,
        /// Bytes.
        cluster_size as "cluster-size": Option<i64>,
        encrypted: Option<bool>,
        compressed: Option<bool>,
        backing_filename as "backing-filename": Option<&'a str>,
        full_backing_filename as "full-backing-filename": Option<&'a str>,
        backing_filename_format as "backing-filename-format": Option<&'a str>,
        snapshots: Option<Made<'a, List<'a, SnapshotInfo<'a>>>>,
        backing_image as "backing-image": Option<Boxed<'a, ImageInfo<'a>>>,
        format_specific as "format-specific": Option<Made<'a, ImageInfoSpecific<'a>>>,
    }

    /// A node.
    struct BlockDeviceInfo<'a> {
        file: &'a str,
        node_name as "node-name": Option<&'a str>,
        ro: bool,
        drv: &'a str,
        backing_file: Option<&'a str>,
        /// How many backing files there are below it.
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

    /// How the last operations went.
    enum BlockDeviceIoStatus {
        Ok = "ok",
        Failed = "failed",
        Nospace = "nospace",
    }

    /// What a bitmap is doing.
    enum DirtyBitmapStatus {
        Active = "active",
        Disabled = "disabled",
        Frozen = "frozen",
    }

    /// A bitmap of what has changed.
    struct BlockDirtyInfo<'a> {
        name: Option<&'a str>,
        /// Bytes that are dirty.
        count: i64,
        /// Bytes for each bit.
        granularity: u32,
        status: DirtyBitmapStatus,
    }

    /// A drive.
    struct BlockInfo<'a> {
        device: &'a str,
        kind as "type": &'a str,
        removable: bool,
        locked: bool,
        /// Absent where it is empty.
        inserted: Option<BlockDeviceInfo<'a>>,
        tray_open: Option<bool>,
        io_status as "io-status": Option<BlockDeviceIoStatus>,
        dirty_bitmaps as "dirty-bitmaps": Option<Made<'a, List<'a, BlockDirtyInfo<'a>>>>,
    }

    /// Statistics of an interval.
    struct BlockDeviceTimedStats {
        /// Seconds.
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

    /// Statistics since the start.
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
        timed_stats: Made<'a, List<'a, BlockDeviceTimedStats>>,
    }

    /// Statistics of a drive or a node.
    struct BlockStats<'a> {
        device: Option<&'a str>,
        node_name as "node-name": Option<&'a str>,
        stats: BlockDeviceStats<'a>,
        parent: Option<Boxed<'a, BlockStats<'a>>>,
        backing: Option<Boxed<'a, BlockStats<'a>>>,
    }

    /// What a job does about an error.
    enum BlockdevOnError {
        Report = "report",
        Ignore = "ignore",
        Enospc = "enospc",
        Stop = "stop",
        Auto = "auto",
    }

    /// A new image on top of a node.
    struct BlockdevSnapshotSync<'a> {
        device: Option<&'a str>,
        node_name as "node-name": Option<&'a str>,
        snapshot_file as "snapshot-file": &'a str,
        snapshot_node_name as "snapshot-node-name": Option<&'a str>,
        format: Option<&'a str>,
        mode: Option<NewImageMode>,
    }

    /// A node to be put on top of another.
    struct BlockdevSnapshot<'a> {
        node: &'a str,
        overlay: &'a str,
    }

    /// A node and a bitmap of it.
    struct BlockDirtyBitmap<'a> {
        node: &'a str,
        name: &'a str,
    }

    /// A bitmap to be made.
    struct BlockDirtyBitmapAdd<'a> {
        node: &'a str,
        name: &'a str,
        /// Bytes for each bit, a power of two.
        granularity: Option<u32>,
    }

    /// The limits of a drive: bytes and operations a second, in total or by direction; 0 is no limit.
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

    /// Whether the new medium may be written.
    enum BlockdevChangeReadOnlyMode {
        Retain = "retain",
        ReadOnly = "read-only",
        ReadWrite = "read-write",
    }

    /// What is done about an error.
    enum BlockErrorAction {
        Ignore = "ignore",
        Report = "report",
        Stop = "stop",
    }
}

commands! {
    /// Lists the drives.
    QUERY_BLOCK = "query-block" -> [BlockInfo];

    /// Lists statistics of drives, or of all nodes.
    QUERY_BLOCKSTATS = "query-blockstats"(QueryBlockstatsArgs {
        query_nodes as "query-nodes": Option<bool>,
    }) -> [BlockStats];

    /// Gives the password of an encrypted image.
    BLOCK_PASSWD = "block_passwd"(BlockPasswdArgs<'a> {
        device: Option<&'a str>,
        node_name as "node-name": Option<&'a str>,
        password: &'a str,
    });

    /// Changes the size of an image.
    BLOCK_RESIZE = "block_resize"(BlockResizeArgs<'a> {
        device: Option<&'a str>,
        node_name as "node-name": Option<&'a str>,
        /// Bytes.
        size: i64,
    });

    /// Makes a new image and puts it on top of a node.
    BLOCKDEV_SNAPSHOT_SYNC = "blockdev-snapshot-sync"(BlockdevSnapshotSync);

    /// Puts a node on top of another.
    BLOCKDEV_SNAPSHOT = "blockdev-snapshot"(BlockdevSnapshot);

    /// Writes another backing file name into an image.
    CHANGE_BACKING_FILE = "change-backing-file"(ChangeBackingFileArgs<'a> {
        device: &'a str,
        image_node_name as "image-node-name": &'a str,
        backing_file as "backing-file": &'a str,
    });

    /// Lists the nodes that have a name.
    QUERY_NAMED_BLOCK_NODES = "query-named-block-nodes" -> [BlockDeviceInfo];

    /// Makes a bitmap that keeps record of what changes.
    BLOCK_DIRTY_BITMAP_ADD = "block-dirty-bitmap-add"(BlockDirtyBitmapAdd);

    /// Removes a bitmap.
    BLOCK_DIRTY_BITMAP_REMOVE = "block-dirty-bitmap-remove"(BlockDirtyBitmap);

    /// Clears a bitmap.
    BLOCK_DIRTY_BITMAP_CLEAR = "block-dirty-bitmap-clear"(BlockDirtyBitmap);

    /// Limits what a drive may do.
    BLOCK_SET_IO_THROTTLE = "block_set_io_throttle"(BlockIoThrottle);

    /// Opens the tray of a drive.
    BLOCKDEV_OPEN_TRAY = "blockdev-open-tray"(BlockdevOpenTrayArgs<'a> {
        device: Option<&'a str>,
        id: Option<&'a str>,
        force: Option<bool>,
    });

    /// Closes the tray of a drive.
    BLOCKDEV_CLOSE_TRAY = "blockdev-close-tray"(BlockdevCloseTrayArgs<'a> {
        device: Option<&'a str>,
        id: Option<&'a str>,
    });

    /// Takes the medium out of a drive whose tray is open.
    X_BLOCKDEV_REMOVE_MEDIUM = "x-blockdev-remove-medium"(XBlockdevRemoveMediumArgs<'a> {
        device: Option<&'a str>,
        id: Option<&'a str>,
    });

    /// Puts a node into a drive whose tray is open.
    X_BLOCKDEV_INSERT_MEDIUM = "x-blockdev-insert-medium"(XBlockdevInsertMediumArgs<'a> {
        device: Option<&'a str>,
        id: Option<&'a str>,
        node_name as "node-name": &'a str,
    });

    /// Changes the medium of a drive, tray and all.
    BLOCKDEV_CHANGE_MEDIUM = "blockdev-change-medium"(BlockdevChangeMediumArgs<'a> {
        device: Option<&'a str>,
        id: Option<&'a str>,
        filename: &'a str,
        format: Option<&'a str>,
        read_only_mode as "read-only-mode": Option<BlockdevChangeReadOnlyMode>,
    });

    /// Has BLOCK_WRITE_THRESHOLD sent when a node is written beyond a point.
    BLOCK_SET_WRITE_THRESHOLD = "block-set-write-threshold"(BlockSetWriteThresholdArgs<'a> {
        node_name as "node-name": &'a str,
        /// Bytes from the start; 0: none.
        write_threshold as "write-threshold": u64,
    });

    /// Adds a child to a node, or takes one away.
    X_BLOCKDEV_CHANGE = "x-blockdev-change"(XBlockdevChangeArgs<'a> {
        parent: &'a str,
        child: Option<&'a str>,
        node: Option<&'a str>,
    });

    /// Removes a node.
    X_BLOCKDEV_DEL = "x-blockdev-del"(XBlockdevDelArgs<'a> {
        node_name as "node-name": &'a str,
    });
}

events! {
    /// An image was found to be corrupt.
    BLOCK_IMAGE_CORRUPTED = BlockImageCorrupted<'a> {
        device: &'a str,
        node_name as "node-name": Option<&'a str>,
        msg: &'a str,
        offset: Option<i64>,
        size: Option<i64>,
        fatal: bool,
    };

    /// An operation of a drive has failed.
    BLOCK_IO_ERROR = BlockIoError<'a> {
        device: &'a str,
        node_name as "node-name": &'a str,
        operation: IoOperationType,
        action: BlockErrorAction,
        nospace: Option<bool>,
        reason: &'a str,
    };

    /// A node was written beyond its threshold, which is cleared by that.
    BLOCK_WRITE_THRESHOLD = BlockWriteThreshold<'a> {
        node_name as "node-name": &'a str,
        /// Bytes.
        amount_exceeded as "amount-exceeded": u64,
        write_threshold as "write-threshold": u64,
    };
}

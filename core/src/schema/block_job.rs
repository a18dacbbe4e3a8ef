//! block-job

use super::block_core::{BlockDeviceIoStatus, BlockErrorAction, BlockdevOnError};
use super::common::IoOperationType;

types! {
    /// `MirrorSyncMode`.
    enum MirrorSyncMode {
        Top = "top",
        Full = "full",
        None = "none",
        Incremental = "incremental",
    }

    /// `BlockJobType`.
    enum BlockJobType {
        Commit = "commit",
        Stream = "stream",
        Mirror = "mirror",
        Backup = "backup",
    }

    /// `BlockJobInfo`.
    struct BlockJobInfo<'a> {
        kind as "type": &'a str,
        device: &'a str,
        len: i64,
        offset: i64,
        busy: bool,
        paused: bool,
        speed: i64,
        io_status as "io-status": BlockDeviceIoStatus,
        ready: bool,
    }

    /// `NewImageMode`.
    enum NewImageMode {
        Existing = "existing",
        AbsolutePaths = "absolute-paths",
    }

    /// `DriveBackup`.
    struct DriveBackup<'a> {
        job_id as "job-id": Option<&'a str>,
        device: &'a str,
        target: &'a str,
        format: Option<&'a str>,
        sync: MirrorSyncMode,
        mode: Option<NewImageMode>,
        speed: Option<i64>,
        bitmap: Option<&'a str>,
        compress: Option<bool>,
        on_source_error as "on-source-error": Option<BlockdevOnError>,
        on_target_error as "on-target-error": Option<BlockdevOnError>,
    }

    /// `BlockdevBackup`.
    struct BlockdevBackup<'a> {
        job_id as "job-id": Option<&'a str>,
        device: &'a str,
        target: &'a str,
        sync: MirrorSyncMode,
        speed: Option<i64>,
        compress: Option<bool>,
        on_source_error as "on-source-error": Option<BlockdevOnError>,
        on_target_error as "on-target-error": Option<BlockdevOnError>,
    }

    /// `DriveMirror`.
    struct DriveMirror<'a> {
        job_id as "job-id": Option<&'a str>,
        device: &'a str,
        target: &'a str,
        format: Option<&'a str>,
        node_name as "node-name": Option<&'a str>,
        replaces: Option<&'a str>,
        sync: MirrorSyncMode,
        mode: Option<NewImageMode>,
        speed: Option<i64>,
        granularity: Option<u32>,
        buf_size as "buf-size": Option<i64>,
        on_source_error as "on-source-error": Option<BlockdevOnError>,
        on_target_error as "on-target-error": Option<BlockdevOnError>,
        unmap: Option<bool>,
    }
}

commands! {
    /// `query-block-jobs`.
    QUERY_BLOCK_JOBS = "query-block-jobs" -> [BlockJobInfo];

    /// `block-commit`.
    BLOCK_COMMIT = "block-commit"(BlockCommitArgs<'a> {
        job_id as "job-id": Option<&'a str>,
        device: &'a str,
        base: Option<&'a str>,
        top: Option<&'a str>,
        backing_file as "backing-file": Option<&'a str>,
        speed: Option<i64>,
    });

    /// `drive-backup`.
    DRIVE_BACKUP = "drive-backup"(DriveBackup);

    /// `blockdev-backup`.
    BLOCKDEV_BACKUP = "blockdev-backup"(BlockdevBackup);

    /// `drive-mirror`.
    DRIVE_MIRROR = "drive-mirror"(DriveMirror);

    /// `blockdev-mirror`.
    BLOCKDEV_MIRROR = "blockdev-mirror"(BlockdevMirrorArgs<'a> {
        job_id as "job-id": Option<&'a str>,
        device: &'a str,
        target: &'a str,
        replaces: Option<&'a str>,
        sync: MirrorSyncMode,
        speed: Option<i64>,
        granularity: Option<u32>,
        buf_size as "buf-size": Option<i64>,
        on_source_error as "on-source-error": Option<BlockdevOnError>,
        on_target_error as "on-target-error": Option<BlockdevOnError>,
    });

    /// `block-stream`.
    BLOCK_STREAM = "block-stream"(BlockStreamArgs<'a> {
        job_id as "job-id": Option<&'a str>,
        device: &'a str,
        base: Option<&'a str>,
        base_node as "base-node": Option<&'a str>,
        backing_file as "backing-file": Option<&'a str>,
        speed: Option<i64>,
        on_error as "on-error": Option<BlockdevOnError>,
    });

    /// `block-job-set-speed`.
    BLOCK_JOB_SET_SPEED = "block-job-set-speed"(BlockJobSetSpeedArgs<'a> {
        device: &'a str,
        speed: i64,
    });

    /// `block-job-cancel`.
    BLOCK_JOB_CANCEL = "block-job-cancel"(BlockJobCancelArgs<'a> {
        device: &'a str,
        force: Option<bool>,
    });

    /// `block-job-pause`.
    BLOCK_JOB_PAUSE = "block-job-pause"(BlockJobPauseArgs<'a> {
        device: &'a str,
    });

    /// `block-job-resume`.
    BLOCK_JOB_RESUME = "block-job-resume"(BlockJobResumeArgs<'a> {
        device: &'a str,
    });

    /// `block-job-complete`.
    BLOCK_JOB_COMPLETE = "block-job-complete"(BlockJobCompleteArgs<'a> {
        device: &'a str,
    });
}

events! {
    /// `BLOCK_JOB_COMPLETED`.
    BLOCK_JOB_COMPLETED = BlockJobCompleted<'a> {
        kind as "type": BlockJobType,
        device: &'a str,
        len: i64,
        offset: i64,
        speed: i64,
        error: Option<&'a str>,
    };

    /// `BLOCK_JOB_CANCELLED`.
    BLOCK_JOB_CANCELLED = BlockJobCancelled<'a> {
        kind as "type": BlockJobType,
        device: &'a str,
        len: i64,
        offset: i64,
        speed: i64,
    };

    /// `BLOCK_JOB_ERROR`.
    BLOCK_JOB_ERROR = BlockJobError<'a> {
        device: &'a str,
        operation: IoOperationType,
        action: BlockErrorAction,
    };

    /// `BLOCK_JOB_READY`.
    BLOCK_JOB_READY = BlockJobReady<'a> {
        kind as "type": BlockJobType,
        device: &'a str,
        len: i64,
        offset: i64,
        speed: i64,
    };
}

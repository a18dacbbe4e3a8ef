//! Long-running block operations.

use super::block_core::{BlockDeviceIoStatus, BlockErrorAction, BlockdevOnError};
use super::common::IoOperationType;

types! {
    /// Which data a job copies.
    enum MirrorSyncMode {
        Top = "top",
        Full = "full",
        None = "none",
        Incremental = "incremental",
    }

    /// What a job does.
    enum BlockJobType {
        Commit = "commit",
        Stream = "stream",
        Mirror = "mirror",
        Backup = "backup",
    }

    /// A job.
    struct BlockJobInfo<'a> {
        kind as "type": &'a str,
        device: &'a str,
        /// The end of `offset`.
        len: i64,
        offset: i64,
        busy: bool,
        paused: bool,
        /// Bytes a second; 0: no limit.
        speed: i64,
        io_status as "io-status": BlockDeviceIoStatus,
        ready: bool,
    }

    /// Whether an image is made or there.
    enum NewImageMode {
        Existing = "existing",
        AbsolutePaths = "absolute-paths",
    }

    /// A backup to a new image.
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

    /// A backup to a node.
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

    /// A mirror to be begun.
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
    /// Lists the jobs.
    QUERY_BLOCK_JOBS = "query-block-jobs" -> [BlockJobInfo];

    /// Writes what an image holds into one below it.
    BLOCK_COMMIT = "block-commit"(BlockCommitArgs<'a> {
        job_id as "job-id": Option<&'a str>,
        device: &'a str,
        base: Option<&'a str>,
        top: Option<&'a str>,
        backing_file as "backing-file": Option<&'a str>,
        speed: Option<i64>,
    });

    /// Copies a drive as it is now to an image, while the guest writes on.
    DRIVE_BACKUP = "drive-backup"(DriveBackup);

    /// Copies a drive as it is now to a node, while the guest writes on.
    BLOCKDEV_BACKUP = "blockdev-backup"(BlockdevBackup);

    /// Copies a drive to an image and keeps that up to date.
    DRIVE_MIRROR = "drive-mirror"(DriveMirror);

    /// Copies a drive to a node and keeps that up to date.
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

    /// Fetches into an image what is in those below it.
    BLOCK_STREAM = "block-stream"(BlockStreamArgs<'a> {
        job_id as "job-id": Option<&'a str>,
        device: &'a str,
        base: Option<&'a str>,
        base_node as "base-node": Option<&'a str>,
        backing_file as "backing-file": Option<&'a str>,
        speed: Option<i64>,
        on_error as "on-error": Option<BlockdevOnError>,
    });

    /// Limits the speed of a job.
    BLOCK_JOB_SET_SPEED = "block-job-set-speed"(BlockJobSetSpeedArgs<'a> {
        device: &'a str,
        /// Bytes a second; 0: no limit.
        speed: i64,
    });

    /// Ends a job before its time.
    BLOCK_JOB_CANCEL = "block-job-cancel"(BlockJobCancelArgs<'a> {
        device: &'a str,
        force: Option<bool>,
    });

    /// Pauses a job.
    BLOCK_JOB_PAUSE = "block-job-pause"(BlockJobPauseArgs<'a> {
        device: &'a str,
    });

    /// Lets a paused job go on.
    BLOCK_JOB_RESUME = "block-job-resume"(BlockJobResumeArgs<'a> {
        device: &'a str,
    });

    /// Ends a job that is ready: the drive goes over to the copy.
    BLOCK_JOB_COMPLETE = "block-job-complete"(BlockJobCompleteArgs<'a> {
        device: &'a str,
    });
}

events! {
    /// A job has ended.
    BLOCK_JOB_COMPLETED = BlockJobCompleted<'a> {
        kind as "type": BlockJobType,
        device: &'a str,
        len: i64,
        offset: i64,
        speed: i64,
        /// Why it failed; absent where it did not.
        error: Option<&'a str>,
    };

    /// A job was cancelled.
    BLOCK_JOB_CANCELLED = BlockJobCancelled<'a> {
        kind as "type": BlockJobType,
        device: &'a str,
        len: i64,
        offset: i64,
        speed: i64,
    };

    /// A job had an error.
    BLOCK_JOB_ERROR = BlockJobError<'a> {
        device: &'a str,
        operation: IoOperationType,
        action: BlockErrorAction,
    };

    /// A job can be completed.
    BLOCK_JOB_READY = BlockJobReady<'a> {
        kind as "type": BlockJobType,
        device: &'a str,
        len: i64,
        offset: i64,
        speed: i64,
    };
}

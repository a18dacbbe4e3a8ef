//! transaction

use super::block::BlockdevSnapshotInternal;
use super::block_core::{BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockdevSnapshot, BlockdevSnapshotSync};
use super::block_job::{BlockdevBackup, DriveBackup};
use super::value::List;

types! {
    /// `Abort`.
    struct Abort {}

    /// `ActionCompletionMode`.
    enum ActionCompletionMode {
        Individual = "individual",
        Grouped = "grouped",
    }

    /// `TransactionAction`.
    simple TransactionAction<'a>: TransactionActionKind {
        BlockdevSnapshot(BlockdevSnapshot<'a>) = "blockdev-snapshot",
        BlockdevSnapshotSync(BlockdevSnapshotSync<'a>) = "blockdev-snapshot-sync",
        DriveBackup(DriveBackup<'a>) = "drive-backup",
        BlockdevBackup(BlockdevBackup<'a>) = "blockdev-backup",
        Abort(Abort) = "abort",
        BlockdevSnapshotInternalSync(BlockdevSnapshotInternal<'a>) = "blockdev-snapshot-internal-sync",
        BlockDirtyBitmapAdd(BlockDirtyBitmapAdd<'a>) = "block-dirty-bitmap-add",
        BlockDirtyBitmapClear(BlockDirtyBitmap<'a>) = "block-dirty-bitmap-clear",
    }

    /// `TransactionProperties`.
    struct TransactionProperties {
        completion_mode as "completion-mode": Option<ActionCompletionMode>,
    }
}

commands! {
    /// `transaction`.
    TRANSACTION = "transaction"(TransactionArgs<'a> {
        actions: List<'a, TransactionAction<'a>>,
        properties: Option<TransactionProperties>,
    });
}

events! {}

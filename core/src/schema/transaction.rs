//! Several block operations that succeed or fail as one.

use super::block::BlockdevSnapshotInternal;
use super::block_core::{BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockdevSnapshot, BlockdevSnapshotSync};
use super::block_job::{BlockdevBackup, DriveBackup};
use super::value::List;

types! {
    /// Fails; for tests.
    struct Abort {}

    /// Whether the jobs of a transaction end together.
    enum ActionCompletionMode {
        Individual = "individual",
        Grouped = "grouped",
    }

    /// An action.
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

    /// How a transaction is run.
    struct TransactionProperties {
        completion_mode as "completion-mode": Option<ActionCompletionMode>,
    }
}

commands! {
    /// Runs several actions; where one fails none is done.
    TRANSACTION = "transaction"(TransactionArgs<'a> {
        actions: List<'a, TransactionAction<'a>>,
        properties: Option<TransactionProperties>,
    });
}

events! {}

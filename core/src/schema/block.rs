//! Internal snapshots, trays, NBD export, and events of drives.

use super::block_core::SnapshotInfo;
use super::sockets::SocketAddress;

types! {
    /// An internal snapshot of a drive.
    struct BlockdevSnapshotInternal<'a> {
        device: &'a str,
        name: &'a str,
    }

    /// What a quorum was doing.
    enum QuorumOpType {
        Read = "read",
        Write = "write",
        Flush = "flush",
    }
}

commands! {
    /// Makes an internal snapshot.
    BLOCKDEV_SNAPSHOT_INTERNAL_SYNC = "blockdev-snapshot-internal-sync"(BlockdevSnapshotInternal);

    /// Removes an internal snapshot.
    BLOCKDEV_SNAPSHOT_DELETE_INTERNAL_SYNC = "blockdev-snapshot-delete-internal-sync"(BlockdevSnapshotDeleteInternalSyncArgs<'a> {
        device: &'a str,
        id: Option<&'a str>,
        name: Option<&'a str>,
    }) -> SnapshotInfo;

    /// Takes the medium out of a drive.
    EJECT = "eject"(EjectArgs<'a> {
        device: Option<&'a str>,
        id: Option<&'a str>,
        /// Even where the guest has locked the tray.
        force: Option<bool>,
    });

    /// Starts the NBD server.
    NBD_SERVER_START = "nbd-server-start"(NbdServerStartArgs<'a> {
        addr: SocketAddress<'a>,
        tls_creds as "tls-creds": Option<&'a str>,
    });

    /// Exports a node by the NBD server.
    NBD_SERVER_ADD = "nbd-server-add"(NbdServerAddArgs<'a> {
        device: &'a str,
        writable: Option<bool>,
    });

    /// Stops the NBD server and drops its clients.
    NBD_SERVER_STOP = "nbd-server-stop";
}

events! {
    /// A tray was opened or closed.
    DEVICE_TRAY_MOVED = DeviceTrayMoved<'a> {
        device: &'a str,
        id: &'a str,
        tray_open as "tray-open": bool,
    };

    /// A quorum could not agree.
    QUORUM_FAILURE = QuorumFailure<'a> {
        reference: &'a str,
        sector_num as "sector-num": i64,
        sectors_count as "sectors-count": i64,
    } throttle;

    /// A copy of a quorum is not like the others.
    QUORUM_REPORT_BAD = QuorumReportBad<'a> {
        kind as "type": QuorumOpType,
        error: Option<&'a str>,
        node_name as "node-name": &'a str,
        sector_num as "sector-num": i64,
        sectors_count as "sectors-count": i64,
    } throttle by node_name "node-name";
}

//! block

use super::block_core::SnapshotInfo;
use super::sockets::SocketAddress;

types! {
    /// `BlockdevSnapshotInternal`.
    struct BlockdevSnapshotInternal<'a> {
        device: &'a str,
        name: &'a str,
    }

    /// `QuorumOpType`.
    enum QuorumOpType {
        Read = "read",
        Write = "write",
        Flush = "flush",
    }
}

commands! {
    /// `blockdev-snapshot-internal-sync`.
    BLOCKDEV_SNAPSHOT_INTERNAL_SYNC = "blockdev-snapshot-internal-sync"(BlockdevSnapshotInternal);

    /// `blockdev-snapshot-delete-internal-sync`.
    BLOCKDEV_SNAPSHOT_DELETE_INTERNAL_SYNC = "blockdev-snapshot-delete-internal-sync"(BlockdevSnapshotDeleteInternalSyncArgs<'a> {
        device: &'a str,
        id: Option<&'a str>,
        name: Option<&'a str>,
    }) -> SnapshotInfo;

    /// `eject`.
    EJECT = "eject"(EjectArgs<'a> {
        device: Option<&'a str>,
        id: Option<&'a str>,
        force: Option<bool>,
    });

    /// `nbd-server-start`.
    NBD_SERVER_START = "nbd-server-start"(NbdServerStartArgs<'a> {
        addr: SocketAddress<'a>,
        tls_creds as "tls-creds": Option<&'a str>,
    });

    /// `nbd-server-add`.
    NBD_SERVER_ADD = "nbd-server-add"(NbdServerAddArgs<'a> {
        device: &'a str,
        writable: Option<bool>,
    });

    /// `nbd-server-stop`.
    NBD_SERVER_STOP = "nbd-server-stop";
}

events! {
    /// `DEVICE_TRAY_MOVED`.
    DEVICE_TRAY_MOVED = DeviceTrayMoved<'a> {
        device: &'a str,
        id: &'a str,
        tray_open as "tray-open": bool,
    };

    /// `QUORUM_FAILURE`.
    QUORUM_FAILURE = QuorumFailure<'a> {
        reference: &'a str,
        sector_num as "sector-num": i64,
        sectors_count as "sectors-count": i64,
    } throttle;

    /// `QUORUM_REPORT_BAD`.
    QUORUM_REPORT_BAD = QuorumReportBad<'a> {
        kind as "type": QuorumOpType,
        error: Option<&'a str>,
        node_name as "node-name": &'a str,
        sector_num as "sector-num": i64,
        sectors_count as "sectors-count": i64,
    } throttle by node_name "node-name";
}

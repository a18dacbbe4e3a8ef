//! Options of block nodes, for every driver.

use super::sockets::{InetSocketAddress, SocketAddress, UnixSocketAddress};
use super::value::{Boxed, List};

types! {
    /// The cache mode of a node.
    struct BlockdevCacheInfo {
        writeback: bool,
        direct: bool,
        no_flush as "no-flush": bool,
    }

    /// What is done with discards of the guest.
    enum BlockdevDiscardOptions {
        Ignore = "ignore",
        Unmap = "unmap",
    }

    /// What is done with zeros that the guest writes.
    enum BlockdevDetectZeroesOptions {
        Off = "off",
        On = "on",
        Unmap = "unmap",
    }

    /// How a file is read and written.
    enum BlockdevAioOptions {
        Threads = "threads",
        Native = "native",
    }

    /// The cache mode of a node.
    struct BlockdevCacheOptions {
        direct: Option<bool>,
        no_flush as "no-flush": Option<bool>,
    }

    /// The drivers.
    enum BlockdevDriver {
        Archipelago = "archipelago",
        Blkdebug = "blkdebug",
        Blkverify = "blkverify",
        Bochs = "bochs",
        Cloop = "cloop",
        Dmg = "dmg",
        File = "file",
        Ftp = "ftp",
        Ftps = "ftps",
        Gluster = "gluster",
        HostCdrom = "host_cdrom",
        HostDevice = "host_device",
        Http = "http",
        Https = "https",
        Luks = "luks",
        Nbd = "nbd",
        Nfs = "nfs",
        NullAio = "null-aio",
        NullCo = "null-co",
        Parallels = "parallels",
        Qcow = "qcow",
        Qcow2 = "qcow2",
        Qed = "qed",
        Quorum = "quorum",
        Raw = "raw",
        Replication = "replication",
        Ssh = "ssh",
        Vdi = "vdi",
        Vhdx = "vhdx",
        Vmdk = "vmdk",
        Vpc = "vpc",
        Vvfat = "vvfat",
    }

    /// Files.
    struct BlockdevOptionsFile<'a> {
        filename: &'a str,
        aio: Option<BlockdevAioOptions>,
    }

    /// Nothing at all: reads zeros.
    struct BlockdevOptionsNull {
        /// Bytes.
        size: Option<i64>,
        /// How long an operation takes, in nanoseconds.
        latency_ns as "latency-ns": Option<u64>,
    }

    /// A directory as a FAT file system.
    struct BlockdevOptionsVvfat<'a> {
        dir: &'a str,
        fat_type as "fat-type": Option<i64>,
        floppy: Option<bool>,
        label: Option<&'a str>,
        rw: Option<bool>,
    }

    /// Formats without options of their own.
    struct BlockdevOptionsGenericFormat<'a> {
        file: BlockdevRef<'a>,
    }

    /// LUKS.
    struct BlockdevOptionsLUKS<'a> {
        file: BlockdevRef<'a>,
        key_secret as "key-secret": Option<&'a str>,
    }

    /// Formats with a backing file and no more.
    struct BlockdevOptionsGenericCOWFormat<'a> {
        file: BlockdevRef<'a>,
        backing: Option<BlockdevRef<'a>>,
    }

    /// Sets of checks against overwriting metadata.
    enum Qcow2OverlapCheckMode {
        None = "none",
        Constant = "constant",
        Cached = "cached",
        All = "all",
    }

    /// Checks against overwriting metadata, one by one.
    struct Qcow2OverlapCheckFlags {
        template: Option<Qcow2OverlapCheckMode>,
        main_header as "main-header": Option<bool>,
        active_l1 as "active-l1": Option<bool>,
        active_l2 as "active-l2": Option<bool>,
        refcount_table as "refcount-table": Option<bool>,
        refcount_block as "refcount-block": Option<bool>,
        snapshot_table as "snapshot-table": Option<bool>,
        inactive_l1 as "inactive-l1": Option<bool>,
        inactive_l2 as "inactive-l2": Option<bool>,
    }

    /// Checks against overwriting metadata.
    alternate Qcow2OverlapChecks {
        /// Each check by itself.
        Flags(Qcow2OverlapCheckFlags),
        /// A set of checks.
        Mode(Qcow2OverlapCheckMode),
    }

    /// qcow2.
    struct BlockdevOptionsQcow2<'a> {
        file: BlockdevRef<'a>,
        backing: Option<BlockdevRef<'a>>,
        lazy_refcounts as "lazy-refcounts": Option<bool>,
        pass_discard_request as "pass-discard-request": Option<bool>,
        pass_discard_snapshot as "pass-discard-snapshot": Option<bool>,
        pass_discard_other as "pass-discard-other": Option<bool>,
        overlap_check as "overlap-check": Option<Qcow2OverlapChecks>,
        cache_size as "cache-size": Option<i64>,
        l2_cache_size as "l2-cache-size": Option<i64>,
        refcount_cache_size as "refcount-cache-size": Option<i64>,
        cache_clean_interval as "cache-clean-interval": Option<i64>,
    }

    /// Files by SSH.
    struct BlockdevOptionsSsh<'a> {
        server: InetSocketAddress<'a>,
        path: &'a str,
        user: Option<&'a str>,
    }

    /// Places where errors may be injected.
    enum BlkdebugEvent {
        L1Update = "l1_update",
        L1GrowAllocTable = "l1_grow_alloc_table",
        L1GrowWriteTable = "l1_grow_write_table",
        L1GrowActivateTable = "l1_grow_activate_table",
        L2Load = "l2_load",
        L2Update = "l2_update",
        L2UpdateCompressed = "l2_update_compressed",
        L2AllocCowRead = "l2_alloc_cow_read",
        L2AllocWrite = "l2_alloc_write",
        ReadAio = "read_aio",
        ReadBackingAio = "read_backing_aio",
        ReadCompressed = "read_compressed",
        WriteAio = "write_aio",
        WriteCompressed = "write_compressed",
        VmstateLoad = "vmstate_load",
        VmstateSave = "vmstate_save",
        CowRead = "cow_read",
        CowWrite = "cow_write",
        ReftableLoad = "reftable_load",
        ReftableGrow = "reftable_grow",
        ReftableUpdate = "reftable_update",
        RefblockLoad = "refblock_load",
        RefblockUpdate = "refblock_update",
        RefblockUpdatePart = "refblock_update_part",
        RefblockAlloc = "refblock_alloc",
        RefblockAllocHookup = "refblock_alloc_hookup",
        RefblockAllocWrite = "refblock_alloc_write",
        RefblockAllocWriteBlocks = "refblock_alloc_write_blocks",
        RefblockAllocWriteTable = "refblock_alloc_write_table",
        RefblockAllocSwitchTable = "refblock_alloc_switch_table",
        ClusterAlloc = "cluster_alloc",
        ClusterAllocBytes = "cluster_alloc_bytes",
        ClusterFree = "cluster_free",
        FlushToOs = "flush_to_os",
        FlushToDisk = "flush_to_disk",
        PwritevRmwHead = "pwritev_rmw_head",
        PwritevRmwAfterHead = "pwritev_rmw_after_head",
        PwritevRmwTail = "pwritev_rmw_tail",
        PwritevRmwAfterTail = "pwritev_rmw_after_tail",
        Pwritev = "pwritev",
        PwritevZero = "pwritev_zero",
        PwritevDone = "pwritev_done",
        EmptyImagePrepare = "empty_image_prepare",
    }

    /// An error to be injected.
    struct BlkdebugInjectErrorOptions {
        event: BlkdebugEvent,
        state: Option<i64>,
        errno: Option<i64>,
        sector: Option<i64>,
        once: Option<bool>,
        immediately: Option<bool>,
    }

    /// A change of the injector's state.
    struct BlkdebugSetStateOptions {
        event: BlkdebugEvent,
        state: Option<i64>,
        new_state: i64,
    }

    /// Injects errors.
    struct BlockdevOptionsBlkdebug<'a> {
        image: BlockdevRef<'a>,
        config: Option<&'a str>,
        align: Option<i64>,
        inject_error as "inject-error": Option<List<'a, BlkdebugInjectErrorOptions>>,
        set_state as "set-state": Option<List<'a, BlkdebugSetStateOptions>>,
    }

    /// Compares two nodes with each other.
    struct BlockdevOptionsBlkverify<'a> {
        test: BlockdevRef<'a>,
        raw: BlockdevRef<'a>,
    }

    /// How a quorum reads.
    enum QuorumReadPattern {
        Quorum = "quorum",
        Fifo = "fifo",
    }

    /// Several copies that vote.
    struct BlockdevOptionsQuorum<'a> {
        blkverify: Option<bool>,
        children: List<'a, BlockdevRef<'a>>,
        vote_threshold as "vote-threshold": i64,
        rewrite_corrupted as "rewrite-corrupted": Option<bool>,
        read_pattern as "read-pattern": Option<QuorumReadPattern>,
    }

    /// Gluster.
    struct BlockdevOptionsGluster<'a> {
        volume: &'a str,
        path: &'a str,
        server: List<'a, GlusterServer<'a>>,
        debug: Option<i64>,
        logfile: Option<&'a str>,
    }

    /// The side of a replication.
    enum ReplicationMode {
        Primary = "primary",
        Secondary = "secondary",
    }

    /// Replication.
    struct BlockdevOptionsReplication<'a> {
        file: BlockdevRef<'a>,
        mode: ReplicationMode,
        top_id as "top-id": Option<&'a str>,
    }

    /// How an NFS server is reached.
    enum NFSTransport {
        Inet = "inet",
    }

    /// An NFS server.
    struct NFSServer<'a> {
        kind as "type": NFSTransport,
        host: &'a str,
    }

    /// NFS.
    struct BlockdevOptionsNfs<'a> {
        server: NFSServer<'a>,
        path: &'a str,
        user: Option<i64>,
        group: Option<i64>,
        tcp_syn_count as "tcp-syn-count": Option<i64>,
        readahead_size as "readahead-size": Option<i64>,
        page_cache_size as "page-cache-size": Option<i64>,
        debug: Option<i64>,
    }

    /// A server that speaks NBD.
    struct BlockdevOptionsNbd<'a> {
        server: SocketAddress<'a>,
        export: Option<&'a str>,
        tls_creds as "tls-creds": Option<&'a str>,
    }

    /// Raw images, or a part of another node.
    struct BlockdevOptionsRaw<'a> {
        file: BlockdevRef<'a>,
        offset: Option<i64>,
        size: Option<i64>,
    }

    /// A node.
    union BlockdevOptions<'a> {
        base {
            driver: BlockdevDriver,
            node_name as "node-name": Option<&'a str>,
            discard: Option<BlockdevDiscardOptions>,
            cache: Option<BlockdevCacheOptions>,
            read_only as "read-only": Option<bool>,
            detect_zeroes as "detect-zeroes": Option<BlockdevDetectZeroesOptions>,
        }
        match "driver" => branch: BlockdevOptionsBranch<'a> {
            Archipelago(BlockdevOptionsArchipelago<'a>) = "archipelago",
            Blkdebug(BlockdevOptionsBlkdebug<'a>) = "blkdebug",
            Blkverify(BlockdevOptionsBlkverify<'a>) = "blkverify",
            Bochs(BlockdevOptionsGenericFormat<'a>) = "bochs",
            Cloop(BlockdevOptionsGenericFormat<'a>) = "cloop",
            Dmg(BlockdevOptionsGenericFormat<'a>) = "dmg",
            File(BlockdevOptionsFile<'a>) = "file",
            Ftp(BlockdevOptionsCurl<'a>) = "ftp",
            Ftps(BlockdevOptionsCurl<'a>) = "ftps",
            Gluster(BlockdevOptionsGluster<'a>) = "gluster",
            HostCdrom(BlockdevOptionsFile<'a>) = "host_cdrom",
            HostDevice(BlockdevOptionsFile<'a>) = "host_device",
            Http(BlockdevOptionsCurl<'a>) = "http",
            Https(BlockdevOptionsCurl<'a>) = "https",
            Luks(BlockdevOptionsLUKS<'a>) = "luks",
            Nbd(BlockdevOptionsNbd<'a>) = "nbd",
            Nfs(BlockdevOptionsNfs<'a>) = "nfs",
            NullAio(BlockdevOptionsNull) = "null-aio",
            NullCo(BlockdevOptionsNull) = "null-co",
            Parallels(BlockdevOptionsGenericFormat<'a>) = "parallels",
            Qcow2(BlockdevOptionsQcow2<'a>) = "qcow2",
            Qcow(BlockdevOptionsGenericCOWFormat<'a>) = "qcow",
            Qed(BlockdevOptionsGenericCOWFormat<'a>) = "qed",
            Quorum(BlockdevOptionsQuorum<'a>) = "quorum",
            Raw(BlockdevOptionsRaw<'a>) = "raw",
            Replication(BlockdevOptionsReplication<'a>) = "replication",
            Ssh(BlockdevOptionsSsh<'a>) = "ssh",
            Vdi(BlockdevOptionsGenericFormat<'a>) = "vdi",
            Vhdx(BlockdevOptionsGenericFormat<'a>) = "vhdx",
            Vmdk(BlockdevOptionsGenericCOWFormat<'a>) = "vmdk",
            Vpc(BlockdevOptionsGenericFormat<'a>) = "vpc",
            Vvfat(BlockdevOptionsVvfat<'a>) = "vvfat",
        }
    }

    /// A node that is there, or one to be made.
    alternate BlockdevRef<'a> {
        /// The node itself.
        Definition(Boxed<'a, BlockdevOptions<'a>>),
        /// The name of a node that is there.
        Reference(&'a str),
    }

    /// Files by HTTP and FTP.
    struct BlockdevOptionsCurl<'a> {
        filename: &'a str,
    }

    /// A Gluster server.
    union GlusterServer<'a> {
        base {
            kind as "type": GlusterTransport,
        }
        match "type" => branch: GlusterServerBranch<'a> {
            Unix(UnixSocketAddress<'a>) = "unix",
            Tcp(InetSocketAddress<'a>) = "tcp",
        }
    }

    /// How a Gluster server is reached.
    enum GlusterTransport {
        Unix = "unix",
        Tcp = "tcp",
    }

    /// Archipelago.
    struct BlockdevOptionsArchipelago<'a> {
        volume: &'a str,
        mport: Option<i64>,
        vport: Option<i64>,
        segment: Option<&'a str>,
    }
}

commands! {
    /// Makes a node.
    BLOCKDEV_ADD = "blockdev-add"(BlockdevOptions);
}

events! {}

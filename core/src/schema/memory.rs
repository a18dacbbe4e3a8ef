//! memory

use super::value::List;

types! {
    /// `BalloonInfo`.
    struct BalloonInfo {
        actual: i64,
    }

    /// `HostMemPolicy`.
    enum HostMemPolicy {
        Default = "default",
        Preferred = "preferred",
        Bind = "bind",
        Interleave = "interleave",
    }

    /// `Memdev`.
    struct Memdev<'a> {
        size: u64,
        merge: bool,
        dump: bool,
        prealloc: bool,
        host_nodes as "host-nodes": List<'a, u16>,
        policy: HostMemPolicy,
    }

    /// `PCDIMMDeviceInfo`.
    struct PcdimmDeviceInfo<'a> {
        id: Option<&'a str>,
        addr: i64,
        size: i64,
        slot: i64,
        node: i64,
        memdev: &'a str,
        hotplugged: bool,
        hotpluggable: bool,
    }

    /// `MemoryDeviceInfo`.
    simple MemoryDeviceInfo<'a>: MemoryDeviceInfoKind {
        Dimm(PcdimmDeviceInfo<'a>) = "dimm",
    }
}

commands! {
    /// `query-balloon`.
    QUERY_BALLOON = "query-balloon" -> BalloonInfo;

    /// `memsave`.
    MEMSAVE = "memsave"(MemsaveArgs<'a> {
        val: i64,
        size: i64,
        filename: &'a str,
        cpu_index as "cpu-index": Option<i64>,
    });

    /// `pmemsave`.
    PMEMSAVE = "pmemsave"(PmemsaveArgs<'a> {
        val: i64,
        size: i64,
        filename: &'a str,
    });

    /// `balloon`.
    BALLOON = "balloon"(BalloonArgs {
        value: i64,
    });

    /// `query-memdev`.
    QUERY_MEMDEV = "query-memdev" -> [Memdev];

    /// `query-memory-devices`.
    QUERY_MEMORY_DEVICES = "query-memory-devices" -> [MemoryDeviceInfo];
}

events! {
    /// `BALLOON_CHANGE`.
    BALLOON_CHANGE = BalloonChange {
        actual: i64,
    } throttle;

    /// `MEM_UNPLUG_ERROR`.
    MEM_UNPLUG_ERROR = MemUnplugError<'a> {
        device: &'a str,
        msg: &'a str,
    };
}

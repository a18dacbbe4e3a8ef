//! Guest memory: balloon, saving, back ends, memory devices.

use super::value::List;

types! {
    /// The balloon's state.
    struct BalloonInfo {
        /// How much memory the guest has, in bytes.
        actual: i64,
    }

    /// Where memory of the host is taken from.
    enum HostMemPolicy {
        Default = "default",
        Preferred = "preferred",
        Bind = "bind",
        Interleave = "interleave",
    }

    /// A memory back end.
    struct Memdev<'a> {
        /// Bytes.
        size: u64,
        merge: bool,
        dump: bool,
        prealloc: bool,
        host_nodes as "host-nodes": List<'a, u16>,
        policy: HostMemPolicy,
    }

    /// A memory module.
    struct PcdimmDeviceInfo<'a> {
        id: Option<&'a str>,
        /// Its physical address.
        addr: i64,
        /// Bytes.
        size: i64,
        slot: i64,
        node: i64,
        memdev: &'a str,
        hotplugged: bool,
        hotpluggable: bool,
    }

    /// A memory device.
    simple MemoryDeviceInfo<'a>: MemoryDeviceInfoKind {
        Dimm(PcdimmDeviceInfo<'a>) = "dimm",
    }
}

commands! {
    /// Says how much memory the balloon leaves to the guest.
    QUERY_BALLOON = "query-balloon" -> BalloonInfo;

    /// Saves a piece of the guest's virtual memory to a file.
    MEMSAVE = "memsave"(MemsaveArgs<'a> {
        /// The first virtual address.
        val: i64,
        /// How many bytes.
        size: i64,
        filename: &'a str,
        /// Whose page tables are used; those of the CPU set by `cpu` where left out.
        cpu_index as "cpu-index": Option<i64>,
    });

    /// Saves a piece of the guest's physical memory to a file.
    PMEMSAVE = "pmemsave"(PmemsaveArgs<'a> {
        /// The first physical address.
        val: i64,
        /// How many bytes.
        size: i64,
        filename: &'a str,
    });

    /// Asks the guest to leave or take back memory by its balloon.
    BALLOON = "balloon"(BalloonArgs {
        /// How much memory it is to have, in bytes.
        value: i64,
    });

    /// Lists the memory back ends.
    QUERY_MEMDEV = "query-memdev" -> [Memdev];

    /// Lists the memory devices.
    QUERY_MEMORY_DEVICES = "query-memory-devices" -> [MemoryDeviceInfo];
}

events! {
    /// The balloon's size has changed.
    BALLOON_CHANGE = BalloonChange {
        /// How much memory the guest has, in bytes.
        actual: i64,
    } throttle;

    /// The guest did not let go of a memory device.
    MEM_UNPLUG_ERROR = MemUnplugError<'a> {
        device: &'a str,
        msg: &'a str,
    };
}

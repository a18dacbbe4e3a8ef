//! The guest's PCI buses.

use super::value::List;

types! {
    /// A range of addresses, both ends included.
    struct PciMemoryRange {
        base: i64,
        limit: i64,
    }

    /// A base address register.
    struct PciMemoryRegion<'a> {
        /// Its number.
        bar: i64,
        /// `io` or `memory`.
        kind as "type": &'a str,
        address: i64,
        size: i64,
        prefetch: Option<bool>,
        mem_type_64: Option<bool>,
    }

    /// The bus behind a bridge.
    struct PciBusInfo {
        number: i64,
        secondary: i64,
        subordinate: i64,
        io_range: PciMemoryRange,
        memory_range: PciMemoryRange,
        prefetchable_range: PciMemoryRange,
    }

    /// A bridge.
    struct PciBridgeInfo<'a> {
        bus: PciBusInfo,
        devices: Option<List<'a, PciDeviceInfo<'a>>>,
    }

    /// The class of a device.
    struct PciDeviceClass<'a> {
        desc: Option<&'a str>,
        class: i64,
    }

    /// Vendor and device.
    struct PciDeviceId {
        device: i64,
        vendor: i64,
    }

    /// A device.
    struct PciDeviceInfo<'a> {
        bus: i64,
        slot: i64,
        function: i64,
        class_info: PciDeviceClass<'a>,
        id: PciDeviceId,
        irq: Option<i64>,
        qdev_id: &'a str,
        pci_bridge: Option<PciBridgeInfo<'a>>,
        regions: List<'a, PciMemoryRegion<'a>>,
    }

    /// A bus with its devices.
    struct PciInfo<'a> {
        bus: i64,
        devices: List<'a, PciDeviceInfo<'a>>,
    }
}

commands! {
    /// Lists the guest's PCI buses and devices.
    QUERY_PCI = "query-pci" -> [PciInfo];
}

events! {}

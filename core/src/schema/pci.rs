//! pci

use super::value::List;

types! {
    /// `PciMemoryRange`.
    struct PciMemoryRange {
        base: i64,
        limit: i64,
    }

    /// `PciMemoryRegion`.
    struct PciMemoryRegion<'a> {
        bar: i64,
        kind as "type": &'a str,
        address: i64,
        size: i64,
        prefetch: Option<bool>,
        mem_type_64: Option<bool>,
    }

    /// `PciBusInfo`.
    struct PciBusInfo {
        number: i64,
        secondary: i64,
        subordinate: i64,
        io_range: PciMemoryRange,
        memory_range: PciMemoryRange,
        prefetchable_range: PciMemoryRange,
    }

    /// `PciBridgeInfo`.
    struct PciBridgeInfo<'a> {
        bus: PciBusInfo,
        devices: Option<List<'a, PciDeviceInfo<'a>>>,
    }

    /// `PciDeviceClass`.
    struct PciDeviceClass<'a> {
        desc: Option<&'a str>,
        class: i64,
    }

    /// `PciDeviceId`.
    struct PciDeviceId {
        device: i64,
        vendor: i64,
    }

    /// `PciDeviceInfo`.
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

    /// `PciInfo`.
    struct PciInfo<'a> {
        bus: i64,
        devices: List<'a, PciDeviceInfo<'a>>,
    }
}

commands! {
    /// `query-pci`.
    QUERY_PCI = "query-pci" -> [PciInfo];
}

events! {}

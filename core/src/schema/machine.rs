//! machine

types! {
    /// `KvmInfo`.
    struct KvmInfo {
        enabled: bool,
        present: bool,
    }

    /// `UuidInfo`.
    struct UuidInfo<'a> {
        uuid as "UUID": &'a str,
    }

    /// `MachineInfo`.
    struct MachineInfo<'a> {
        name: &'a str,
        alias: Option<&'a str>,
        is_default as "is-default": Option<bool>,
        cpu_max as "cpu-max": i64,
        hotpluggable_cpus as "hotpluggable-cpus": bool,
    }

    /// `TargetInfo`.
    struct TargetInfo<'a> {
        arch: &'a str,
    }

    /// `ACPISlotType`.
    enum AcpiSlotType {
        Dimm = "DIMM",
        Cpu = "CPU",
    }

    /// `ACPIOSTInfo`.
    struct AcpiOstInfo<'a> {
        device: Option<&'a str>,
        slot: &'a str,
        slot_type as "slot-type": AcpiSlotType,
        source: i64,
        status: i64,
    }

    /// `GICCapability`.
    struct GicCapability {
        version: i64,
        emulated: bool,
        kernel: bool,
    }
}

commands! {
    /// `query-kvm`.
    QUERY_KVM = "query-kvm" -> KvmInfo;

    /// `query-uuid`.
    QUERY_UUID = "query-uuid" -> UuidInfo;

    /// `xen-set-global-dirty-log`.
    XEN_SET_GLOBAL_DIRTY_LOG = "xen-set-global-dirty-log"(XenSetGlobalDirtyLogArgs {
        enable: bool,
    });

    /// `query-machines`.
    QUERY_MACHINES = "query-machines" -> [MachineInfo];

    /// `query-target`.
    QUERY_TARGET = "query-target" -> TargetInfo;

    /// `query-acpi-ospm-status`.
    QUERY_ACPI_OSPM_STATUS = "query-acpi-ospm-status" -> [AcpiOstInfo];

    /// `rtc-reset-reinjection`.
    RTC_RESET_REINJECTION = "rtc-reset-reinjection";

    /// `xen-load-devices-state`.
    XEN_LOAD_DEVICES_STATE = "xen-load-devices-state"(XenLoadDevicesStateArgs<'a> {
        filename: &'a str,
    });

    /// `query-gic-capabilities`.
    QUERY_GIC_CAPABILITIES = "query-gic-capabilities" -> [GicCapability];

    /// `xen-save-devices-state`.
    XEN_SAVE_DEVICES_STATE = "xen-save-devices-state"(XenSaveDevicesStateArgs<'a> {
        filename: &'a str,
    });
}

events! {
    /// `ACPI_DEVICE_OST`.
    ACPI_DEVICE_OST = AcpiDeviceOst<'a> {
        info: AcpiOstInfo<'a>,
    };

    /// `RTC_CHANGE`.
    RTC_CHANGE = RtcChange {
        offset: i64,
    } throttle;
}

//! The machine as a whole: type, accelerator, ACPI, clock, interrupt controller, Xen.

types! {
    /// Whether hardware virtualisation is used.
    struct KvmInfo {
        /// Whether this machine runs with it.
        enabled: bool,
        /// Whether the host has it.
        present: bool,
    }

    /// The machine's UUID.
    struct UuidInfo<'a> {
        /// In the usual form, with hyphens; all zeros where none was given.
        uuid as "UUID": &'a str,
    }

    /// A machine type.
    struct MachineInfo<'a> {
        name: &'a str,
        alias: Option<&'a str>,
        is_default as "is-default": Option<bool>,
        /// How many CPUs it may have.
        cpu_max as "cpu-max": i64,
        hotpluggable_cpus as "hotpluggable-cpus": bool,
    }

    /// The guest's architecture.
    struct TargetInfo<'a> {
        arch: &'a str,
    }

    /// What a slot is for.
    enum AcpiSlotType {
        Dimm = "DIMM",
        Cpu = "CPU",
    }

    /// What the guest said of a slot by `_OST`.
    struct AcpiOstInfo<'a> {
        device: Option<&'a str>,
        slot: &'a str,
        slot_type as "slot-type": AcpiSlotType,
        source: i64,
        status: i64,
    }

    /// A version of the ARM interrupt controller.
    struct GicCapability {
        version: i64,
        emulated: bool,
        kernel: bool,
    }
}

commands! {
    /// Says whether hardware virtualisation is used.
    QUERY_KVM = "query-kvm" -> KvmInfo;

    /// Says what the machine's UUID is.
    QUERY_UUID = "query-uuid" -> UuidInfo;

    /// Turns the logging of dirty pages on or off (Xen).
    XEN_SET_GLOBAL_DIRTY_LOG = "xen-set-global-dirty-log"(XenSetGlobalDirtyLogArgs {
        enable: bool,
    });

    /// Lists the machine types.
    QUERY_MACHINES = "query-machines" -> [MachineInfo];

    /// Says what architecture the guest's is.
    QUERY_TARGET = "query-target" -> TargetInfo;

    /// Says what the guest last said of its slots.
    QUERY_ACPI_OSPM_STATUS = "query-acpi-ospm-status" -> [AcpiOstInfo];

    /// Drops the timer interrupts that the guest has missed and would still get.
    RTC_RESET_REINJECTION = "rtc-reset-reinjection";

    /// Loads the state of all devices (Xen).
    XEN_LOAD_DEVICES_STATE = "xen-load-devices-state"(XenLoadDevicesStateArgs<'a> {
        filename: &'a str,
    });

    /// Lists the versions of the ARM interrupt controller; there are none on x86.
    QUERY_GIC_CAPABILITIES = "query-gic-capabilities" -> [GicCapability];

    /// Saves the state of all devices (Xen).
    XEN_SAVE_DEVICES_STATE = "xen-save-devices-state"(XenSaveDevicesStateArgs<'a> {
        filename: &'a str,
    });
}

events! {
    /// The guest says how a plug or unplug went.
    ACPI_DEVICE_OST = AcpiDeviceOst<'a> {
        info: AcpiOstInfo<'a>,
    };

    /// The guest has set its clock.
    RTC_CHANGE = RtcChange {
        /// How far it is from the host's now, in seconds.
        offset: i64,
    } throttle;
}

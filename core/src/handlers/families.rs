//! The families of commands.

use crate::{
    handlers::{Base, StoreFiles},
    json::Object,
    schema::{
        Any, block::*, block_core::*, block_job::*, blockdev::*, char::*, cpu::*, dump::*, extensions::*,
        machine::*, memory::*, migration::*, misc::*, net::*, pci::*, qom::*, rocker::*, run_state::*,
        tpm::*, trace::*, transaction::*, ui::*,
    },
};

family! {
    /// Whether the guest runs.
    trait RunControl via run_control {
        QUERY_STATUS => value query_status() -> StatusInfo;
        STOP => value stop();
        CONT => value cont();
        SYSTEM_RESET => value system_reset();
        SYSTEM_POWERDOWN => value system_powerdown();
        SYSTEM_WAKEUP => value system_wakeup();
        INJECT_NMI => value inject_nmi();
        QUIT => value quit();
    }
}

family! {
    /// What machine this is.
    trait Machine via machine {
        QUERY_NAME => value query_name() -> NameInfo<'_>;
        QUERY_UUID => value query_uuid() -> UuidInfo<'_>;
        QUERY_KVM => value query_kvm() -> KvmInfo;
        QUERY_TARGET => value query_target() -> TargetInfo<'_>;
        QUERY_MACHINES => list query_machines() -> MachineInfo<'_>;
        QUERY_CPU_DEFINITIONS => list query_cpu_definitions() -> CpuDefinitionInfo<'_>;
        QUERY_CPU_MODEL_EXPANSION => value query_cpu_model_expansion(QueryCpuModelExpansionArgs<'_>)
            -> CpuModelExpansionInfo<'_>;
        QUERY_CPU_MODEL_COMPARISON => value query_cpu_model_comparison(QueryCpuModelComparisonArgs<'_>)
            -> CpuModelCompareInfo<'_>;
        QUERY_CPU_MODEL_BASELINE => value query_cpu_model_baseline(QueryCpuModelBaselineArgs<'_>)
            -> CpuModelBaselineInfo<'_>;
        QUERY_COMMAND_LINE_OPTIONS => list query_command_line_options(QueryCommandLineOptionsArgs<'_>)
            -> CommandLineOptionInfo<'_>;
        QUERY_ACPI_OSPM_STATUS => list query_acpi_ospm_status() -> AcpiOstInfo<'_>;
        QUERY_IOTHREADS => list query_iothreads() -> IoThreadInfo<'_>;
        QUERY_PCI => list query_pci() -> PciInfo<'_>;
        RTC_RESET_REINJECTION => value rtc_reset_reinjection();
        XEN_SET_GLOBAL_DIRTY_LOG => value xen_set_global_dirty_log(XenSetGlobalDirtyLogArgs);
        XEN_LOAD_DEVICES_STATE => value xen_load_devices_state(XenLoadDevicesStateArgs<'_>);
        XEN_SAVE_DEVICES_STATE => value xen_save_devices_state(XenSaveDevicesStateArgs<'_>);
    }
}

family! {
    /// The guest's processors.
    trait Cpus via cpus {
        QUERY_CPUS => list query_cpus() -> CpuInfo<'_>;
        CPU => value cpu(CpuArgs);
        CPU_ADD => value cpu_add(CpuAddArgs);
        QUERY_HOTPLUGGABLE_CPUS => list query_hotpluggable_cpus() -> HotpluggableCpu<'_>;
    }
}

family! {
    /// The guest's memory.
    trait Memory via memory {
        MEMSAVE => value memsave(MemsaveArgs<'_>);
        PMEMSAVE => value pmemsave(PmemsaveArgs<'_>);
        BALLOON => value balloon(BalloonArgs);
        QUERY_BALLOON => value query_balloon() -> BalloonInfo;
        QUERY_MEMDEV => list query_memdev() -> Memdev<'_>;
        QUERY_MEMORY_DEVICES => list query_memory_devices() -> MemoryDeviceInfo<'_>;
        DUMP_GUEST_MEMORY => value dump_guest_memory(DumpGuestMemoryArgs<'_>);
        QUERY_DUMP => value query_dump() -> DumpQueryResult;
        QUERY_DUMP_GUEST_MEMORY_CAPABILITY => value query_dump_guest_memory_capability()
            -> DumpGuestMemoryCapability<'_>;
    }
}

family! {
    /// The human monitor, behind `human-monitor-command`.
    trait Human via human {
        HUMAN_MONITOR_COMMAND => text human_monitor_command(HumanMonitorCommandArgs<'_>);
    }
}

family! {
    /// The hypervisor's own tracepoints and log.
    trait Trace via trace {
        TRACE_EVENT_GET_STATE => list trace_event_get_state(TraceEventGetStateArgs<'_>) -> TraceEventInfo<'_>;
        TRACE_EVENT_SET_STATE => value trace_event_set_state(TraceEventSetStateArgs<'_>);
        X_QUERY_TRACE => value x_query_trace(XQueryTraceArgs) -> LogText<'_>;
        X_QUERY_LOG => value x_query_log(XQueryLogArgs) -> LogText<'_>;
    }
}

family! {
    /// The store of files.
    trait Store via store {
        X_STORE_LIST => list x_store_list() -> StoreFile<'_>;
    }
}

family! {
    /// Character devices.
    trait Chardevs via chardevs {
        QUERY_CHARDEV => list query_chardev() -> ChardevInfo<'_>;
        QUERY_CHARDEV_BACKENDS => list query_chardev_backends() -> ChardevBackendInfo<'_>;
        X_QUERY_SERIAL => list x_query_serial() -> SerialPortInfo<'_>;
        CHARDEV_ADD => value chardev_add(ChardevAddArgs<'_>) -> ChardevReturn<'_>;
        CHARDEV_REMOVE => value chardev_remove(ChardevRemoveArgs<'_>);
        RINGBUF_WRITE => value ringbuf_write(RingbufWriteArgs<'_>);
        RINGBUF_READ => text ringbuf_read(RingbufReadArgs<'_>);
    }
}

family! {
    /// Devices and objects, and their properties.
    trait Objects via objects {
        QOM_LIST => list qom_list(QomListArgs<'_>) -> ObjectPropertyInfo<'_>;
        QOM_GET => value qom_get(QomGetArgs<'_>) -> Any<'_>;
        QOM_SET => value qom_set(QomSetArgs<'_>);
        QOM_LIST_TYPES => list qom_list_types(QomListTypesArgs<'_>) -> ObjectTypeInfo<'_>;
        DEVICE_LIST_PROPERTIES => list device_list_properties(DeviceListPropertiesArgs<'_>)
            -> DevicePropertyInfo<'_>;
        DEVICE_ADD => value device_add(Object<'_>);
        DEVICE_DEL => value device_del(DeviceDelArgs<'_>);
        OBJECT_ADD => value object_add(ObjectAddArgs<'_>);
        OBJECT_DEL => value object_del(ObjectDelArgs<'_>);
    }
}

family! {
    /// Block devices and their images.
    trait Block via block {
        QUERY_BLOCK => list query_block() -> BlockInfo<'_>;
        QUERY_BLOCKSTATS => list query_blockstats(QueryBlockstatsArgs) -> BlockStats<'_>;
        QUERY_NAMED_BLOCK_NODES => list query_named_block_nodes() -> BlockDeviceInfo<'_>;
        BLOCKDEV_ADD => value blockdev_add(BlockdevOptions<'_>);
        X_BLOCKDEV_DEL => value x_blockdev_del(XBlockdevDelArgs<'_>);
        X_BLOCKDEV_CHANGE => value x_blockdev_change(XBlockdevChangeArgs<'_>);
        BLOCK_PASSWD => value block_passwd(BlockPasswdArgs<'_>);
        BLOCK_RESIZE => value block_resize(BlockResizeArgs<'_>);
        BLOCK_SET_IO_THROTTLE => value block_set_io_throttle(BlockIoThrottle<'_>);
        BLOCK_SET_WRITE_THRESHOLD => value block_set_write_threshold(BlockSetWriteThresholdArgs<'_>);
        BLOCKDEV_SNAPSHOT => value blockdev_snapshot(BlockdevSnapshot<'_>);
        BLOCKDEV_SNAPSHOT_SYNC => value blockdev_snapshot_sync(BlockdevSnapshotSync<'_>);
        BLOCKDEV_SNAPSHOT_INTERNAL_SYNC => value blockdev_snapshot_internal_sync(BlockdevSnapshotInternal<'_>);
        BLOCKDEV_SNAPSHOT_DELETE_INTERNAL_SYNC => value blockdev_snapshot_delete_internal_sync(
            BlockdevSnapshotDeleteInternalSyncArgs<'_>
        ) -> SnapshotInfo<'_>;
        BLOCK_DIRTY_BITMAP_ADD => value block_dirty_bitmap_add(BlockDirtyBitmapAdd<'_>);
        BLOCK_DIRTY_BITMAP_REMOVE => value block_dirty_bitmap_remove(BlockDirtyBitmap<'_>);
        BLOCK_DIRTY_BITMAP_CLEAR => value block_dirty_bitmap_clear(BlockDirtyBitmap<'_>);
        CHANGE_BACKING_FILE => value change_backing_file(ChangeBackingFileArgs<'_>);
        TRANSACTION => value transaction(TransactionArgs<'_>);
    }
}

family! {
    /// Removable media.
    trait Media via media {
        CHANGE => value change(ChangeArgs<'_>);
        EJECT => value eject(EjectArgs<'_>);
        BLOCKDEV_OPEN_TRAY => value blockdev_open_tray(BlockdevOpenTrayArgs<'_>);
        BLOCKDEV_CLOSE_TRAY => value blockdev_close_tray(BlockdevCloseTrayArgs<'_>);
        BLOCKDEV_CHANGE_MEDIUM => value blockdev_change_medium(BlockdevChangeMediumArgs<'_>);
        X_BLOCKDEV_INSERT_MEDIUM => value x_blockdev_insert_medium(XBlockdevInsertMediumArgs<'_>);
        X_BLOCKDEV_REMOVE_MEDIUM => value x_blockdev_remove_medium(XBlockdevRemoveMediumArgs<'_>);
    }
}

family! {
    /// Jobs on images.
    trait BlockJobs via block_jobs {
        QUERY_BLOCK_JOBS => list query_block_jobs() -> BlockJobInfo<'_>;
        BLOCK_STREAM => value block_stream(BlockStreamArgs<'_>);
        BLOCK_COMMIT => value block_commit(BlockCommitArgs<'_>);
        DRIVE_MIRROR => value drive_mirror(DriveMirror<'_>);
        BLOCKDEV_MIRROR => value blockdev_mirror(BlockdevMirrorArgs<'_>);
        DRIVE_BACKUP => value drive_backup(DriveBackup<'_>);
        BLOCKDEV_BACKUP => value blockdev_backup(BlockdevBackup<'_>);
        BLOCK_JOB_SET_SPEED => value block_job_set_speed(BlockJobSetSpeedArgs<'_>);
        BLOCK_JOB_CANCEL => value block_job_cancel(BlockJobCancelArgs<'_>);
        BLOCK_JOB_PAUSE => value block_job_pause(BlockJobPauseArgs<'_>);
        BLOCK_JOB_RESUME => value block_job_resume(BlockJobResumeArgs<'_>);
        BLOCK_JOB_COMPLETE => value block_job_complete(BlockJobCompleteArgs<'_>);
    }
}

family! {
    /// Network devices and the export of images over the network.
    trait Network via network {
        NETDEV_ADD => value netdev_add(Object<'_>);
        NETDEV_DEL => value netdev_del(NetdevDelArgs<'_>);
        SET_LINK => value set_link(SetLinkArgs<'_>);
        QUERY_RX_FILTER => list query_rx_filter(QueryRxFilterArgs<'_>) -> RxFilterInfo<'_>;
        NBD_SERVER_START => value nbd_server_start(NbdServerStartArgs<'_>);
        NBD_SERVER_ADD => value nbd_server_add(NbdServerAddArgs<'_>);
        NBD_SERVER_STOP => value nbd_server_stop();
    }
}

family! {
    /// Moving the guest to another host.
    trait Migration via migration {
        MIGRATE => value migrate(MigrateArgs<'_>);
        MIGRATE_INCOMING => value migrate_incoming(MigrateIncomingArgs<'_>);
        MIGRATE_CANCEL => value migrate_cancel();
        MIGRATE_SET_SPEED => value migrate_set_speed(MigrateSetSpeedArgs);
        MIGRATE_SET_DOWNTIME => value migrate_set_downtime(MigrateSetDowntimeArgs);
        MIGRATE_SET_CACHE_SIZE => value migrate_set_cache_size(MigrateSetCacheSizeArgs);
        QUERY_MIGRATE_CACHE_SIZE => value query_migrate_cache_size() -> i64;
        MIGRATE_SET_CAPABILITIES => value migrate_set_capabilities(MigrateSetCapabilitiesArgs<'_>);
        QUERY_MIGRATE_CAPABILITIES => list query_migrate_capabilities() -> MigrationCapabilityStatus;
        MIGRATE_SET_PARAMETERS => value migrate_set_parameters(MigrationParameters<'_>);
        QUERY_MIGRATE_PARAMETERS => value query_migrate_parameters() -> MigrationParameters<'_>;
        QUERY_MIGRATE => value query_migrate() -> MigrationInfo<'_>;
        MIGRATE_START_POSTCOPY => value migrate_start_postcopy();
        CLIENT_MIGRATE_INFO => value client_migrate_info(ClientMigrateInfoArgs<'_>);
        X_COLO_LOST_HEARTBEAT => value x_colo_lost_heartbeat();
    }
}

family! {
    /// Remote displays and input devices.
    trait Display via display {
        SCREENDUMP => value screendump(ScreendumpArgs<'_>);
        QUERY_VNC => value query_vnc() -> VncInfo<'_>;
        QUERY_VNC_SERVERS => list query_vnc_servers() -> VncInfo2<'_>;
        QUERY_SPICE => value query_spice() -> SpiceInfo<'_>;
        CHANGE_VNC_PASSWORD => value change_vnc_password(ChangeVncPasswordArgs<'_>);
        SET_PASSWORD => value set_password(SetPasswordArgs<'_>);
        EXPIRE_PASSWORD => value expire_password(ExpirePasswordArgs<'_>);
        ADD_CLIENT => value add_client(AddClientArgs<'_>);
        QUERY_MICE => list query_mice() -> MouseInfo<'_>;
        SEND_KEY => value send_key(SendKeyArgs<'_>);
        INPUT_SEND_EVENT => value input_send_event(InputSendEventArgs<'_>);
    }
}

family! {
    /// Security modules and switches.
    trait Extras via extras {
        QUERY_TPM => list query_tpm() -> TPMInfo<'_>;
        QUERY_TPM_MODELS => list query_tpm_models() -> TpmModel;
        QUERY_TPM_TYPES => list query_tpm_types() -> TpmType;
        QUERY_ROCKER => value query_rocker(QueryRockerArgs<'_>) -> RockerSwitch<'_>;
        QUERY_ROCKER_PORTS => list query_rocker_ports(QueryRockerPortsArgs<'_>) -> RockerPort<'_>;
        QUERY_ROCKER_OF_DPA_FLOWS => list query_rocker_of_dpa_flows(QueryRockerOfDpaFlowsArgs<'_>)
            -> RockerOfDpaFlow<'_>;
        QUERY_ROCKER_OF_DPA_GROUPS => list query_rocker_of_dpa_groups(QueryRockerOfDpaGroupsArgs<'_>)
            -> RockerOfDpaGroup<'_>;
    }
}

/// All families.
pub trait Handlers:
    Base
    + RunControl
    + Machine
    + Cpus
    + Memory
    + Human
    + Trace
    + Store
    + StoreFiles
    + Chardevs
    + Objects
    + Block
    + Media
    + BlockJobs
    + Network
    + Migration
    + Display
    + Extras
{
}

impl<H> Handlers for H where
    H: Base
        + RunControl
        + Machine
        + Cpus
        + Memory
        + Human
        + Trace
        + Store
        + StoreFiles
        + Chardevs
        + Objects
        + Block
        + Media
        + BlockJobs
        + Network
        + Migration
        + Display
        + Extras
{
}

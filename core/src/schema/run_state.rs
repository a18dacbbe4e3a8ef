//! run-state

types! {
    /// `RunState`.
    enum RunState {
        Debug = "debug",
        Inmigrate = "inmigrate",
        InternalError = "internal-error",
        IoError = "io-error",
        Paused = "paused",
        Postmigrate = "postmigrate",
        Prelaunch = "prelaunch",
        FinishMigrate = "finish-migrate",
        RestoreVm = "restore-vm",
        Running = "running",
        SaveVm = "save-vm",
        Shutdown = "shutdown",
        Suspended = "suspended",
        Watchdog = "watchdog",
        GuestPanicked = "guest-panicked",
        Colo = "colo",
    }

    /// `StatusInfo`.
    struct StatusInfo {
        running: bool,
        singlestep: bool,
        status: RunState,
    }

    /// `WatchdogAction`.
    enum WatchdogAction {
        Reset = "reset",
        Shutdown = "shutdown",
        Poweroff = "poweroff",
        Pause = "pause",
        Debug = "debug",
        None = "none",
        InjectNmi = "inject-nmi",
    }

    /// `GuestPanicAction`.
    enum GuestPanicAction {
        Pause = "pause",
        Poweroff = "poweroff",
    }
}

commands! {
    /// `stop`.
    STOP = "stop";

    /// `system_reset`.
    SYSTEM_RESET = "system_reset";

    /// `system_powerdown`.
    SYSTEM_POWERDOWN = "system_powerdown";

    /// `cont`.
    CONT = "cont";

    /// `system_wakeup`.
    SYSTEM_WAKEUP = "system_wakeup";

    /// `query-status`.
    QUERY_STATUS = "query-status" -> StatusInfo;
}

events! {
    /// `SHUTDOWN`.
    SHUTDOWN = Shutdown {};

    /// `POWERDOWN`.
    POWERDOWN = Powerdown {};

    /// `RESET`.
    RESET = Reset {};

    /// `STOP`.
    STOP = Stop {};

    /// `RESUME`.
    RESUME = Resume {};

    /// `SUSPEND`.
    SUSPEND = Suspend {};

    /// `SUSPEND_DISK`.
    SUSPEND_DISK = SuspendDisk {};

    /// `WAKEUP`.
    WAKEUP = Wakeup {};

    /// `WATCHDOG`.
    WATCHDOG = Watchdog {
        action: WatchdogAction,
    } throttle;

    /// `GUEST_PANICKED`.
    GUEST_PANICKED = GuestPanicked {
        action: GuestPanicAction,
    };
}

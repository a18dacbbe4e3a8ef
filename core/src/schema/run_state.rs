//! Running, stopping, resetting; the life of a machine.

types! {
    /// Where a machine is in its life.
    enum RunState {
        /// A debugger holds it.
        Debug = "debug",
        /// It waits for an incoming migration.
        Inmigrate = "inmigrate",
        /// The hypervisor cannot run it on.
        InternalError = "internal-error",
        /// A drive is set to stop the machine on errors and had one.
        IoError = "io-error",
        /// The operator stopped it.
        Paused = "paused",
        /// It has been migrated away.
        Postmigrate = "postmigrate",
        /// It was started with `-S` and has not run yet.
        Prelaunch = "prelaunch",
        /// It is stopped to finish a migration.
        FinishMigrate = "finish-migrate",
        /// Its state is being restored.
        RestoreVm = "restore-vm",
        /// It runs.
        Running = "running",
        /// Its state is being saved.
        SaveVm = "save-vm",
        /// It is shut down, and `-no-shutdown` keeps it.
        Shutdown = "shutdown",
        /// It is in ACPI S3.
        Suspended = "suspended",
        /// Its watchdog stopped it.
        Watchdog = "watchdog",
        /// Its kernel said that it panicked.
        GuestPanicked = "guest-panicked",
        /// It takes part in COLO.
        Colo = "colo",
    }

    /// The state of the machine.
    struct StatusInfo {
        /// Whether virtual CPUs run.
        running: bool,
        /// Whether they run step by step.
        singlestep: bool,
        status: RunState,
    }

    /// What a watchdog does.
    enum WatchdogAction {
        Reset = "reset",
        Shutdown = "shutdown",
        Poweroff = "poweroff",
        Pause = "pause",
        Debug = "debug",
        None = "none",
        InjectNmi = "inject-nmi",
    }

    /// What is done about a panic.
    enum GuestPanicAction {
        Pause = "pause",
        Poweroff = "poweroff",
    }
}

commands! {
    /// Stops the guest.
    STOP = "stop";

    /// Resets the guest's machine.
    SYSTEM_RESET = "system_reset";

    /// Presses the guest's power button.
    SYSTEM_POWERDOWN = "system_powerdown";

    /// Lets the guest run, or run on.
    CONT = "cont";

    /// Wakes the guest from suspension; nothing happens where it is not suspended.
    SYSTEM_WAKEUP = "system_wakeup";

    /// Says what state the machine is in.
    QUERY_STATUS = "query-status" -> StatusInfo;
}

events! {
    /// The guest has shut down, or `quit` was given.
    SHUTDOWN = Shutdown {};

    /// The power button was pressed.
    POWERDOWN = Powerdown {};

    /// The machine was reset.
    RESET = Reset {};

    /// The machine was stopped.
    STOP = Stop {};

    /// The machine runs again.
    RESUME = Resume {};

    /// The guest has gone to ACPI S3.
    SUSPEND = Suspend {};

    /// The guest has gone to ACPI S4.
    SUSPEND_DISK = SuspendDisk {};

    /// The guest has woken from S3.
    WAKEUP = Wakeup {};

    /// The watchdog has run out.
    WATCHDOG = Watchdog {
        action: WatchdogAction,
    } throttle;

    /// The guest's kernel said that it panicked.
    GUEST_PANICKED = GuestPanicked {
        action: GuestPanicAction,
    };
}

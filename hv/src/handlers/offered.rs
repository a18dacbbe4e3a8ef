//! Which commands and events are built. `cargo xtask commands` reads this file too, so it takes nothing but the schema.

use monovisor_core::schema::{Command, Event, Offered};

/// The commands and events that are built. Everything else answers `CommandNotFound`.
pub static OFFERED: Offered = Offered::new(
    &[
        Command::QMP_CAPABILITIES,
        Command::QUERY_VERSION,
        Command::QUERY_COMMANDS,
        Command::QUERY_EVENTS,
        Command::QUERY_QMP_SCHEMA,
        Command::QUERY_COMMAND_LINE_OPTIONS,
        Command::QUERY_STATUS,
        Command::QUERY_NAME,
        Command::QUERY_UUID,
        Command::QUERY_KVM,
        Command::QUERY_TARGET,
        Command::QUERY_CPUS,
        Command::CPU,
        Command::STOP,
        Command::CONT,
        Command::SYSTEM_RESET,
        Command::SYSTEM_POWERDOWN,
        Command::INJECT_NMI,
        Command::QUIT,
        Command::HUMAN_MONITOR_COMMAND,
        Command::MEMSAVE,
        Command::PMEMSAVE,
        Command::X_STORE_LIST,
        Command::X_STORE_READ,
        Command::X_QUERY_LOG,
        Command::X_QUERY_EVENTS_LOST,
    ],
    &[Event::STOP, Event::RESUME, Event::RESET, Event::POWERDOWN, Event::SHUTDOWN],
);

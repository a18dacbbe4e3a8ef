//! misc

use super::value::List;

types! {
    /// `VersionTriple`.
    struct VersionTriple {
        major: i64,
        minor: i64,
        micro: i64,
    }

    /// `VersionInfo`.
    struct VersionInfo<'a> {
        qemu: VersionTriple,
        package: &'a str,
    }

    /// `CommandInfo`.
    struct CommandInfo<'a> {
        name: &'a str,
    }

    /// `NameInfo`.
    struct NameInfo<'a> {
        name: Option<&'a str>,
    }

    /// `EventInfo`.
    struct EventInfo<'a> {
        name: &'a str,
    }

    /// `IOThreadInfo`.
    struct IoThreadInfo<'a> {
        id: &'a str,
        thread_id as "thread-id": i64,
    }

    /// `AddfdInfo`.
    struct AddfdInfo {
        fdset_id as "fdset-id": i64,
        fd: i64,
    }

    /// `FdsetFdInfo`.
    struct FdsetFdInfo<'a> {
        fd: i64,
        opaque: Option<&'a str>,
    }

    /// `FdsetInfo`.
    struct FdsetInfo<'a> {
        fdset_id as "fdset-id": i64,
        fds: List<'a, FdsetFdInfo<'a>>,
    }

    /// `CommandLineParameterType`.
    enum CommandLineParameterType {
        String = "string",
        Boolean = "boolean",
        Number = "number",
        Size = "size",
    }

    /// `CommandLineParameterInfo`.
    struct CommandLineParameterInfo<'a> {
        name: &'a str,
        kind as "type": CommandLineParameterType,
        help: Option<&'a str>,
        default: Option<&'a str>,
    }

    /// `CommandLineOptionInfo`.
    struct CommandLineOptionInfo<'a> {
        option: &'a str,
        parameters: List<'a, CommandLineParameterInfo<'a>>,
    }
}

commands! {
    /// `qmp_capabilities`.
    QMP_CAPABILITIES = "qmp_capabilities";

    /// `query-version`.
    QUERY_VERSION = "query-version" -> VersionInfo;

    /// `query-commands`.
    QUERY_COMMANDS = "query-commands" -> [CommandInfo];

    /// `add_client`.
    ADD_CLIENT = "add_client"(AddClientArgs<'a> {
        protocol: &'a str,
        fdname: &'a str,
        skipauth: Option<bool>,
        tls: Option<bool>,
    });

    /// `query-name`.
    QUERY_NAME = "query-name" -> NameInfo;

    /// `query-events`.
    QUERY_EVENTS = "query-events" -> [EventInfo];

    /// `query-iothreads`.
    QUERY_IOTHREADS = "query-iothreads" -> [IoThreadInfo];

    /// `quit`.
    QUIT = "quit";

    /// `human-monitor-command`.
    HUMAN_MONITOR_COMMAND = "human-monitor-command"(HumanMonitorCommandArgs<'a> {
        command_line as "command-line": &'a str,
        cpu_index as "cpu-index": Option<i64>,
    }) -> &'static str;

    /// `change`.
    CHANGE = "change"(ChangeArgs<'a> {
        device: &'a str,
        target: &'a str,
        arg: Option<&'a str>,
    });

    /// `getfd`.
    GETFD = "getfd"(GetfdArgs<'a> {
        fdname: &'a str,
    });

    /// `closefd`.
    CLOSEFD = "closefd"(ClosefdArgs<'a> {
        fdname: &'a str,
    });

    /// `add-fd`.
    ADD_FD = "add-fd"(AddFdArgs<'a> {
        fdset_id as "fdset-id": Option<i64>,
        opaque: Option<&'a str>,
    }) -> AddfdInfo;

    /// `remove-fd`.
    REMOVE_FD = "remove-fd"(RemoveFdArgs {
        fdset_id as "fdset-id": i64,
        fd: Option<i64>,
    });

    /// `query-fdsets`.
    QUERY_FDSETS = "query-fdsets" -> [FdsetInfo];

    /// `query-command-line-options`.
    QUERY_COMMAND_LINE_OPTIONS = "query-command-line-options"(QueryCommandLineOptionsArgs<'a> {
        option: Option<&'a str>,
    }) -> [CommandLineOptionInfo];
}

events! {}

//! Negotiation, version, names, file descriptors, and what the monitor says of itself.

use super::value::List;

types! {
    /// A version in three numbers.
    struct VersionTriple {
        major: i64,
        minor: i64,
        micro: i64,
    }

    /// The version of QEMU that is spoken, and of the product.
    struct VersionInfo<'a> {
        /// The version of the protocol's reference.
        qemu: VersionTriple,
        /// The product and its own version.
        package: &'a str,
    }

    /// A command that is offered.
    struct CommandInfo<'a> {
        name: &'a str,
    }

    /// The name of the guest.
    struct NameInfo<'a> {
        /// Absent where it has none.
        name: Option<&'a str>,
    }

    /// An event that may be sent.
    struct EventInfo<'a> {
        name: &'a str,
    }

    /// A thread that serves devices.
    struct IoThreadInfo<'a> {
        id: &'a str,
        thread_id as "thread-id": i64,
    }

    /// A file descriptor that was added.
    struct AddfdInfo {
        fdset_id as "fdset-id": i64,
        fd: i64,
    }

    /// A file descriptor of a set.
    struct FdsetFdInfo<'a> {
        fd: i64,
        opaque: Option<&'a str>,
    }

    /// A set of file descriptors.
    struct FdsetInfo<'a> {
        fdset_id as "fdset-id": i64,
        fds: List<'a, FdsetFdInfo<'a>>,
    }

    /// What values a parameter of the command line takes.
    enum CommandLineParameterType {
        String = "string",
        Boolean = "boolean",
        Number = "number",
        Size = "size",
    }

    /// A parameter of an option.
    struct CommandLineParameterInfo<'a> {
        name: &'a str,
        kind as "type": CommandLineParameterType,
        help: Option<&'a str>,
        default: Option<&'a str>,
    }

    /// An option of the command line.
    struct CommandLineOptionInfo<'a> {
        option: &'a str,
        parameters: List<'a, CommandLineParameterInfo<'a>>,
    }
}

commands! {
    /// Ends the negotiation. Before it no other command is taken.
    QMP_CAPABILITIES = "qmp_capabilities";

    /// Says which version this is.
    QUERY_VERSION = "query-version" -> VersionInfo;

    /// Lists the commands that are offered.
    QUERY_COMMANDS = "query-commands" -> [CommandInfo];

    /// Hands an open connection, given as a file descriptor, to a display or to a character device.
    ADD_CLIENT = "add_client"(AddClientArgs<'a> {
        protocol: &'a str,
        fdname: &'a str,
        skipauth: Option<bool>,
        tls: Option<bool>,
    });

    /// Says what the guest is called.
    QUERY_NAME = "query-name" -> NameInfo;

    /// Lists the events that may be sent.
    QUERY_EVENTS = "query-events" -> [EventInfo];

    /// Lists the threads that serve devices.
    QUERY_IOTHREADS = "query-iothreads" -> [IoThreadInfo];

    /// Ends the hypervisor; the board says what that does to the rig.
    QUIT = "quit";

    /// Runs a command of the human monitor and returns what it prints.
    HUMAN_MONITOR_COMMAND = "human-monitor-command"(HumanMonitorCommandArgs<'a> {
        command_line as "command-line": &'a str,
        /// The CPU that it is run for; the one set by `cpu` where left out.
        cpu_index as "cpu-index": Option<i64>,
    }) -> &'static str;

    /// Puts another medium into a drive, or sets the password of VNC.
    CHANGE = "change"(ChangeArgs<'a> {
        /// A drive, or `vnc`.
        device: &'a str,
        /// A file, or `password`.
        target: &'a str,
        /// The format of the file, or the new password.
        arg: Option<&'a str>,
    });

    /// Takes a file descriptor that came with the command and gives it a name.
    GETFD = "getfd"(GetfdArgs<'a> {
        fdname: &'a str,
    });

    /// Closes a named file descriptor.
    CLOSEFD = "closefd"(ClosefdArgs<'a> {
        fdname: &'a str,
    });

    /// Adds a file descriptor that came with the command to a set.
    ADD_FD = "add-fd"(AddFdArgs<'a> {
        /// A new set is made where left out.
        fdset_id as "fdset-id": Option<i64>,
        opaque: Option<&'a str>,
    }) -> AddfdInfo;

    /// Removes a file descriptor, or a whole set of them.
    REMOVE_FD = "remove-fd"(RemoveFdArgs {
        fdset_id as "fdset-id": i64,
        /// The whole set where left out.
        fd: Option<i64>,
    });

    /// Lists the sets of file descriptors.
    QUERY_FDSETS = "query-fdsets" -> [FdsetInfo];

    /// Lists the options of the command line, or one of them.
    QUERY_COMMAND_LINE_OPTIONS = "query-command-line-options"(QueryCommandLineOptionsArgs<'a> {
        option: Option<&'a str>,
    }) -> [CommandLineOptionInfo];
}

events! {}

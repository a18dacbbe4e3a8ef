//! The options: one table for the parser, the help text and `query-command-line-options`.

use super::group::GroupKind;

/// What kind of value a parameter takes (QMP `CommandLineParameterType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterType {
    /// Any text.
    String,
    /// `on` or `off`.
    Boolean,
    /// A number.
    Number,
    /// A number of bytes with an optional suffix.
    Size,
}

impl ParameterType {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Boolean => "boolean",
            Self::Number => "number",
            Self::Size => "size",
        }
    }
}

/// One `key=value` of an option (QMP `CommandLineParameterInfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its key.
    pub name: &'static str,
    /// What it takes.
    pub kind: ParameterType,
    /// One line for the operator; empty where the name says it.
    pub help: &'static str,
    /// What holds where it is not given.
    pub default: Option<&'static str>,
}

/// One option: the row that drives the parser, the help text and `query-command-line-options`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionInfo {
    /// Its name without `-`.
    pub name: &'static str,
    /// What follows it; empty for a flag.
    pub argument: &'static str,
    /// One line for the operator.
    pub help: &'static str,
    /// QEMU's name for the option group in `query-command-line-options`; empty where QEMU has none for it, and so
    /// the option is not listed there.
    pub group: &'static str,
    /// What the group takes.
    pub parameters: &'static [Parameter],
    pub(super) action: Action,
}

/// What the parser does with an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Memory,
    Cpus,
    Kernel,
    Initrd,
    Append,
    Name,
    Uuid,
    Paused,
    NoReboot,
    NoShutdown,
    Serial,
    Qmp,
    Cpu,
    /// A list of keys and values.
    Group(GroupKind),
    /// A word of QEMU's that has no meaning here yet; it has an argument unless `argument` is empty.
    NotYet,
}

const fn parameter(name: &'static str, kind: ParameterType, help: &'static str) -> Parameter {
    Parameter { name, kind, help, default: None }
}

const fn option(
    name: &'static str,
    argument: &'static str,
    help: &'static str,
    group: &'static str,
    parameters: &'static [Parameter],
    action: Action,
) -> OptionInfo {
    OptionInfo { name, argument, help, group, parameters, action }
}

/// An option that is a list of keys and values; QEMU's name for the group is the option's.
const fn group(
    kind: GroupKind,
    argument: &'static str,
    help: &'static str,
    parameters: &'static [Parameter],
) -> OptionInfo {
    option(kind.option(), argument, help, kind.option(), parameters, Action::Group(kind))
}

const fn not_yet(name: &'static str, argument: &'static str) -> OptionInfo {
    option(name, argument, "not yet", "", &[], Action::NotYet)
}

/// What `-drive` takes.
pub const DRIVE: &[Parameter] = &[
    parameter("file", ParameterType::String, "file name"),
    parameter("format", ParameterType::String, "disk format (raw)"),
    parameter("if", ParameterType::String, "interface (none, virtio)"),
    parameter("index", ParameterType::Number, "index number"),
    parameter("media", ParameterType::String, "media type (disk)"),
    parameter("cache", ParameterType::String, ""),
    parameter("node-name", ParameterType::String, ""),
    parameter("snapshot", ParameterType::Boolean, "enable/disable snapshot mode"),
    parameter("readonly", ParameterType::Boolean, ""),
    parameter("read-only", ParameterType::Boolean, "open drive file as read-only"),
    parameter("serial", ParameterType::String, "disk serial number"),
    parameter("rerror", ParameterType::String, "read error action"),
    parameter("werror", ParameterType::String, "write error action"),
    parameter("x-size", ParameterType::Size, "size of a file that is made"),
];

/// What `-chardev` takes, each back end a part of it.
pub const CHARDEV: &[Parameter] = &[
    parameter("backend", ParameterType::String, ""),
    parameter("path", ParameterType::String, ""),
    parameter("input-path", ParameterType::String, ""),
    parameter("append", ParameterType::Boolean, ""),
    parameter("size", ParameterType::Size, ""),
    parameter("chardev", ParameterType::String, ""),
];

/// All options. Those whose help is `not yet` are QEMU's and known by name only.
pub const OPTIONS: &[OptionInfo] = &[
    option(
        "m",
        "[size=]MIB|SIZE",
        "guest RAM: MiB, or bytes with a suffix k, M, G, T",
        "memory",
        &[Parameter { name: "size", kind: ParameterType::Size, help: "guest RAM", default: Some("128M") }],
        Action::Memory,
    ),
    option(
        "smp",
        "[cpus=]N[,maxcpus=N][,sockets=1][,cores=N][,threads=1]",
        "virtual processors: cores of one socket",
        "smp-opts",
        &[
            Parameter {
                name: "cpus",
                kind: ParameterType::Number,
                help: "virtual processors",
                default: Some("1"),
            },
            parameter("sockets", ParameterType::Number, "sockets: 1"),
            parameter("cores", ParameterType::Number, "cores of the socket: as many as processors"),
            parameter("threads", ParameterType::Number, "threads of a core: 1"),
            parameter("maxcpus", ParameterType::Number, "as many as processors"),
        ],
        Action::Cpus,
    ),
    option(
        "kernel",
        "FILE",
        "kernel image: bzImage or vmlinux in the bundle",
        "machine",
        &[
            parameter("kernel", ParameterType::String, "kernel image"),
            parameter("initrd", ParameterType::String, "initial ramdisk"),
            parameter("append", ParameterType::String, "kernel command line"),
        ],
        Action::Kernel,
    ),
    option("initrd", "FILE", "initial ramdisk in the bundle", "", &[], Action::Initrd),
    option("append", "TEXT", "kernel command line", "", &[], Action::Append),
    option(
        "name",
        "[guest=]NAME",
        "name of the guest",
        "name",
        &[parameter("guest", ParameterType::String, "name of the guest")],
        Action::Name,
    ),
    option("uuid", "UUID", "UUID of the guest", "", &[], Action::Uuid),
    option("S", "", "do not start the guest: wait for cont", "", &[], Action::Paused),
    option("no-reboot", "", "a guest that resets itself ends", "", &[], Action::NoReboot),
    option("no-shutdown", "", "stop the guest where it would end", "", &[], Action::NoShutdown),
    option(
        "serial",
        "comN[:BAUD][,baudbase=RATE]",
        "speed of a serial port of the rig, and the rate that its clock gives at most",
        "",
        &[],
        Action::Serial,
    ),
    option("qmp", "comN", "one more monitor, on another serial port of the rig", "", &[], Action::Qmp),
    option("cpu", "host|base[,+FEATURE|,-FEATURE|,FEATURE=on|off]...", "CPU model", "", &[], Action::Cpu),
    group(GroupKind::Device, "DRIVER[,KEY=VALUE]...", "a device of the guest", &[]),
    group(GroupKind::Drive, "KEY=VALUE[,KEY=VALUE]...", "a disk for a -device", DRIVE),
    group(GroupKind::Netdev, "TYPE,id=ID[,KEY=VALUE]...", "what a network card is connected to", &[]),
    group(
        GroupKind::Chardev,
        "BACKEND,id=ID[,KEY=VALUE]...",
        "what a serial device is connected to",
        CHARDEV,
    ),
    group(GroupKind::Object, "TYPE,id=ID[,KEY=VALUE]...", "a source that devices use", &[]),
    not_yet("M", "TYPE"),
    not_yet("accel", "NAME"),
    not_yet("acpitable", "…"),
    not_yet("audiodev", "…"),
    not_yet("bios", "FILE"),
    not_yet("blockdev", "…"),
    not_yet("boot", "…"),
    not_yet("cdrom", "FILE"),
    not_yet("d", "…"),
    not_yet("debugcon", "DEV"),
    not_yet("display", "TYPE"),
    not_yet("enable-kvm", ""),
    not_yet("fda", "FILE"),
    not_yet("fw_cfg", "…"),
    not_yet("global", "…"),
    not_yet("hda", "FILE"),
    not_yet("hdb", "FILE"),
    not_yet("icount", "…"),
    not_yet("incoming", "URI"),
    not_yet("loadvm", "NAME"),
    not_yet("machine", "TYPE"),
    not_yet("mon", "…"),
    not_yet("monitor", "DEV"),
    not_yet("net", "…"),
    not_yet("nic", "…"),
    not_yet("no-acpi", ""),
    not_yet("no-hpet", ""),
    not_yet("nodefaults", ""),
    not_yet("nographic", ""),
    not_yet("numa", "…"),
    not_yet("parallel", "DEV"),
    not_yet("rtc", "…"),
    not_yet("sandbox", "…"),
    not_yet("smbios", "…"),
    not_yet("snapshot", ""),
    not_yet("spice", "…"),
    not_yet("tpmdev", "…"),
    not_yet("trace", "…"),
    not_yet("usb", ""),
    not_yet("vga", "TYPE"),
    not_yet("vnc", "…"),
    not_yet("watchdog", "…"),
];

/// The option groups as `query-command-line-options` lists them.
pub fn groups() -> impl Iterator<Item = &'static OptionInfo> {
    OPTIONS.iter().filter(|option| !option.group.is_empty())
}

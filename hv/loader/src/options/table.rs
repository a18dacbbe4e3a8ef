//! The options: one table for the parser and `query-command-line-options`.

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

/// One option: the row that drives the parser and `query-command-line-options`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionInfo {
    /// Its name without `-`.
    pub name: &'static str,
    /// Whether an argument follows it.
    pub argument: bool,
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
    /// A word of QEMU's that has no meaning here yet.
    NotYet,
    /// A word of QEMU's that changes nothing here.
    Nothing,
}

const fn parameter(name: &'static str, kind: ParameterType, help: &'static str) -> Parameter {
    Parameter { name, kind, help, default: None }
}

const fn option(
    name: &'static str,
    argument: bool,
    group: &'static str,
    parameters: &'static [Parameter],
    action: Action,
) -> OptionInfo {
    OptionInfo { name, argument, group, parameters, action }
}

/// An option that is a list of keys and values; QEMU's name for the group is the option's.
const fn group(kind: GroupKind, parameters: &'static [Parameter]) -> OptionInfo {
    option(kind.option(), true, kind.option(), parameters, Action::Group(kind))
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

/// The options that mean something.
pub const OPTIONS: &[OptionInfo] = &[
    // `[size=]MIB|SIZE`: guest RAM: MiB, or bytes with a suffix k, M, G, T.
    option(
        "m",
        true,
        "memory",
        &[Parameter { name: "size", kind: ParameterType::Size, help: "guest RAM", default: Some("128M") }],
        Action::Memory,
    ),
    // `[cpus=]N[,maxcpus=N][,sockets=1][,cores=N][,threads=1]`: virtual processors: cores of one socket.
    option(
        "smp",
        true,
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
    // `FILE`: kernel image: bzImage or vmlinux in the bundle.
    option(
        "kernel",
        true,
        "machine",
        &[
            parameter("kernel", ParameterType::String, "kernel image"),
            parameter("initrd", ParameterType::String, "initial ramdisk"),
            parameter("append", ParameterType::String, "kernel command line"),
        ],
        Action::Kernel,
    ),
    // `FILE`: initial ramdisk in the bundle.
    option("initrd", true, "", &[], Action::Initrd),
    // `TEXT`: kernel command line.
    option("append", true, "", &[], Action::Append),
    // `[guest=]NAME`: name of the guest.
    option(
        "name",
        true,
        "name",
        &[parameter("guest", ParameterType::String, "name of the guest")],
        Action::Name,
    ),
    // `UUID`: UUID of the guest.
    option("uuid", true, "", &[], Action::Uuid),
    // Do not start the guest: wait for cont.
    option("S", false, "", &[], Action::Paused),
    // A guest that resets itself ends.
    option("no-reboot", false, "", &[], Action::NoReboot),
    // Stop the guest where it would end.
    option("no-shutdown", false, "", &[], Action::NoShutdown),
    // `comN[:BAUD][,baudbase=RATE]`: speed of a serial port of the rig, and the rate that its clock gives at most.
    option("serial", true, "", &[], Action::Serial),
    // `comN`: one more monitor, on another serial port of the rig.
    option("qmp", true, "", &[], Action::Qmp),
    // `host|base[,+FEATURE|,-FEATURE|,FEATURE=on|off]...`: CPU model; `x-posted` and `x-avic` are none of the guest's features.
    option("cpu", true, "", &[], Action::Cpu),
    // `DRIVER[,KEY=VALUE]...`: a device of the guest.
    group(GroupKind::Device, &[]),
    // `KEY=VALUE[,KEY=VALUE]...`: a disk for a -device.
    group(GroupKind::Drive, DRIVE),
    // `TYPE,id=ID[,KEY=VALUE]...`: what a network card is connected to.
    group(GroupKind::Netdev, &[]),
    // `BACKEND,id=ID[,KEY=VALUE]...`: what a serial device is connected to.
    group(GroupKind::Chardev, CHARDEV),
    // `TYPE,id=ID[,KEY=VALUE]...`: a source that devices use.
    group(GroupKind::Object, &[]),
];

/// Options of QEMU's that are known by name only, and have an argument.
const NOT_YET: &str = "M accel acpitable audiodev bios blockdev boot cdrom d debugcon display fda fw_cfg global hda hdb \
    icount incoming loadvm machine mon monitor net nic numa parallel rtc sandbox smbios spice tpmdev \
    trace vga vnc watchdog";

/// The same, without an argument.
const NOT_YET_FLAGS: &str = "no-acpi no-hpet snapshot usb";

/// Options of QEMU's that ask for nothing but what there is anyway: rigs' scripts are full of them.
const AS_IT_IS: &str = "M=pc accel=kvm display=none machine=pc monitor=none net=none nic=none parallel=none \
    rtc=base=utc vga=none machine=accel=kvm vnc=none";

/// The same, without an argument.
const AS_IT_IS_FLAGS: &str = "enable-kvm no-user-config nodefaults nographic";

/// Whether this value of a [`Action::NotYet`] option is what holds without it.
pub(super) fn is_as_it_is(name: &str, value: &str) -> bool {
    AS_IT_IS.split(' ').any(|pair| pair.split_once('=') == Some((name, value)))
}

/// One string takes less of the image than a table of them.
fn is_among(name: &str, words: &str) -> bool {
    words.split(' ').any(|word| word == name)
}

/// What an option does, and whether an argument follows it; `None` where there is no such option.
pub(super) fn find(name: &str) -> Option<(Action, bool)> {
    match OPTIONS.iter().find(|option| option.name == name) {
        Some(option) => Some((option.action, option.argument)),
        None if is_among(name, NOT_YET) => Some((Action::NotYet, true)),
        None if is_among(name, NOT_YET_FLAGS) => Some((Action::NotYet, false)),
        None if is_among(name, AS_IT_IS_FLAGS) => Some((Action::Nothing, false)),
        None => None,
    }
}

/// The option groups as `query-command-line-options` lists them.
pub fn groups() -> impl Iterator<Item = &'static OptionInfo> {
    OPTIONS.iter().filter(|option| !option.group.is_empty())
}

//! The machine as a tree of objects with properties (QEMU's object model), made from what the machine is.
//!
//! The tree is built anew for every question, from a [`Machine`]: there is no second truth to keep up.

mod types;

use core::fmt::{self, Write};

use heapless::{String, Vec};
use monovisor_arch::layout;
use monovisor_core::Error;
use monovisor_core::json::{Emit, Writer};
use monovisor_devices::DebugExit;
use monovisor_devices::pc::MAX_FUNCTIONS;
use monovisor_devices::virtio::balloon::STATISTIC_KINDS;
use monovisor_loader::Options;
use monovisor_loader::options::{Group, GroupKind};

use crate::virtio::{Asked, DriveName, Kind, Model, Property, VECTORS, drive_name};
pub use types::Type;
use types::{
    APIC, CONTAINER, DEBUG_EXIT, HOST_BRIDGE, HOST_CPU, HPET, IOAPIC, ISA_BRIDGE, KEYBOARD, KVM_CLOCK, PC,
    PIC, PIT, PORT_92, POWER, RTC, SERIAL, TEST_DEVICE,
};
pub use types::{DEVICE, GUEST_STATS, POLLING_INTERVAL, TYPES};

/// Most objects: six containers, two for each of eight processors, and the devices, two for each of those that are asked for.
const OBJECTS: usize = 48 + 2 * MAX_FUNCTIONS;

/// Deepest object: `/machine/unattached/device[0]/lapic`, `/machine/peripheral/net0/virtio-backend`.
const DEPTH: usize = 4;

/// Ports of the first 8259; the second one's are its slave's.
const MASTER_PIC: u16 = 0x20;

/// A device on the PCI bus that the operator has asked for.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// What kind of device it is.
    pub model: &'static Model,
    /// The list that it comes from: its own, or a drive's.
    pub group: Group<'static>,
    /// Where it is.
    pub slot: u8,
    /// How many MSI-X vectors it has.
    pub vectors: u8,
    /// What its drive is called.
    pub drive: Option<DriveName>,
    /// The serial number of its drive; empty for none.
    pub serial: &'static str,
    /// Its number among the devices without a name.
    pub anonymous: u8,
}

/// What the guest has told of its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestStats {
    /// By the numbers of the virtio standard (1.2, 5.5.6.3), all ones where the guest has not told.
    pub values: [u64; STATISTIC_KINDS],
    /// When, in seconds since 1970; 0: never.
    pub updated: u64,
    /// Seconds from one question to the next; 0: the guest is not asked.
    pub interval: u64,
}

/// What the machine is, as far as its objects show it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `-kernel`.
    pub kernel: &'static str,
    /// `-initrd`.
    pub initrd: &'static str,
    /// `-append`.
    pub append: &'static str,
    /// Processors; none where there is no guest, and then there are no devices either.
    pub processors: u8,
    /// TSC ticks a second.
    pub tsc_hz: u64,
    /// It has a keyboard controller.
    pub i8042: bool,
    /// It has an HPET.
    pub hpet: bool,
    /// Its isa-debug-exit.
    pub debug_exit: Option<DebugExit>,
    /// It has a pc-testdev.
    pub test_device: bool,
    /// The devices that the operator has put on its PCI bus.
    pub devices: Vec<Placed, MAX_FUNCTIONS>,
    /// What its balloon knows.
    pub guest_stats: GuestStats,
}

/// The value of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(&'static str),
    /// A truth value.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A word and a number in one.
    Numbered(&'static str, u32),
    /// Statistics of the guest's memory.
    Stats(GuestStats),
}

impl Emit for Value {
    fn emit(&self, writer: &mut Writer<'_>) {
        match *self {
            Self::Text(text) => writer.string(text),
            Self::Bool(value) => writer.bool(value),
            Self::Int(value) => writer.int(value),
            Self::Numbered(word, number) => {
                let mut text = String::<NUMBERED_BYTES>::new();
                // It fits.
                let _ = write!(text, "{word}{number}");
                writer.string(&text);
            }
            Self::Stats(stats) => {
                writer.begin_object();
                writer.key("stats");
                writer.begin_object();
                for (name, kind) in STATISTICS {
                    writer.key(name);
                    writer.uint(stats.values.get(kind).copied().unwrap_or(u64::MAX));
                }
                writer.end_object();
                writer.key("last-update");
                writer.uint(stats.updated);
                writer.end_object();
            }
        }
    }
}

/// Bytes of a word and its number.
const NUMBERED_BYTES: usize = 20;

/// QEMU's names of the statistics in the order in which it prints them, and their numbers.
const STATISTICS: [(&str, usize); STATISTIC_KINDS] = [
    ("stat-swap-out", 1),
    ("stat-available-memory", 6),
    ("stat-free-memory", 4),
    ("stat-minor-faults", 3),
    ("stat-major-faults", 2),
    ("stat-total-memory", 5),
    ("stat-swap-in", 0),
];

/// An object's name among its parent's children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A word.
    Word(&'static str),
    /// `device[N]`.
    Device(u8),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Device(number) => write!(f, "device[{number}]"),
        }
    }
}

impl Name {
    fn is(self, text: &str) -> bool {
        match self {
            Self::Word(word) => word == text,
            Self::Device(number) => {
                text.strip_prefix("device[").and_then(|text| text.strip_suffix(']')).is_some_and(|digits| {
                    digits.parse() == Ok(number) && !digits.starts_with(['+', '0'])
                        || digits == "0" && number == 0
                })
            }
        }
    }
}

/// What tells an object from others of its type.
#[derive(Clone, Copy, Debug)]
enum What {
    Nothing,
    /// A processor, or its local APIC, of this number.
    Processor(u8),
    /// A PCI function: slot and function in one byte.
    Pci(u8),
    /// First of its ports.
    Ports(u16),
    /// Its ports and how many.
    PortRange(u16, u8),
    /// A device on the PCI bus, by its place in the machine's list.
    Placed(usize),
    /// What is behind it.
    Backend(usize),
}

/// An object.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// Its name.
    pub name: Name,
    /// Its type.
    pub kind: &'static Type,
    /// Where its parent is; the root is its own.
    parent: usize,
    what: What,
}

impl Placed {
    /// What the command line asks for, at its place.
    pub fn new(options: &Options<'static>, asked: &Asked, slot: u8, vectors: u8) -> Self {
        Self {
            model: asked.model,
            group: asked.group,
            slot,
            vectors,
            drive: asked.drive.map(|(number, group)| drive_name(options, number, &group)),
            serial: asked.drive.and_then(|(_, group)| group.str("serial")).unwrap_or_default(),
            anonymous: asked.anonymous,
        }
    }

    /// The operator's name of it: a drive's name is not its device's.
    fn id(&self) -> Option<&'static str> {
        self.group.id().filter(|_| self.group.kind() == GroupKind::Device)
    }

    /// The value of a property that the operator could set.
    fn value(&self, kind: &'static Type, name: &str) -> Option<Value> {
        let from_drive = self.group.kind() == GroupKind::Drive;
        match name {
            "addr" => return Some(Value::Int((self.slot << 3).into())),
            VECTORS => return Some(Value::Int(self.vectors.into())),
            _ => {}
        }
        match (name, self.drive) {
            ("drive", Some(DriveName::Given(name))) => return Some(Value::Text(name)),
            ("drive", Some(DriveName::Made(word, number))) => return Some(Value::Numbered(word, number)),
            ("serial", Some(_)) if from_drive || self.group.str("serial").is_none() => {
                return Some(Value::Text(self.serial));
            }
            _ => {}
        }
        let known = |setting: &&Property| setting.name == name;
        let setting = kind.line().find_map(|kind| kind.settings().iter().find(known))?;
        let given = self.group.str(setting.name).filter(|_| !from_drive);
        let text = given.unwrap_or(setting.default);
        Some(match setting.kind {
            Kind::Bool => Value::Bool(text == "on"),
            Kind::Unsigned(bits) => match given {
                Some(_) => Value::Int(self.group.unsigned(setting.name, bits).ok()??.cast_signed()),
                None => Value::Int(text.parse().ok()?),
            },
            Kind::Int32 => Value::Int(text.parse().ok()?),
            _ => Value::Text(text),
        })
    }
}

/// All objects; the root first, and every parent before its children.
#[derive(Debug)]
pub struct Tree {
    objects: Vec<Object, OBJECTS>,
    machine: Machine,
}

impl Tree {
    /// The objects of a machine.
    pub fn new(machine: Machine) -> Self {
        let mut tree = Self { objects: Vec::new(), machine };
        let root = tree.add(0, Name::Word(""), &CONTAINER, What::Nothing);
        tree.add(root, Name::Word("objects"), &CONTAINER, What::Nothing);
        let pc = tree.add(root, Name::Word("machine"), &PC, What::Nothing);
        let named = tree.add(pc, Name::Word("peripheral"), &CONTAINER, What::Nothing);
        let nameless = tree.add(pc, Name::Word("peripheral-anon"), &CONTAINER, What::Nothing);
        tree.placed(named, nameless);
        let unattached = tree.add(pc, Name::Word("unattached"), &CONTAINER, What::Nothing);
        for number in 0..tree.machine.processors {
            tree.processor(unattached, number);
        }
        if tree.machine.processors != 0 {
            tree.devices(unattached);
        }
        tree
    }

    fn add(&mut self, parent: usize, name: Name, kind: &'static Type, what: What) -> usize {
        let object = Object { name, kind, parent, what };
        // Cannot fail: there is a place for each (a test makes the largest machine).
        let _ = self.objects.push(object);
        self.objects.len().saturating_sub(1)
    }

    /// The devices of the command line: those with a name, and those without.
    fn placed(&mut self, named: usize, nameless: usize) {
        for index in 0..self.machine.devices.len() {
            let Some(device) = self.machine.devices.get(index) else { return };
            let Some(kind) = Type::find(device.model.name) else { continue };
            let (parent, name) = match device.id() {
                Some(id) => (named, Name::Word(id)),
                None => (nameless, Name::Device(device.anonymous)),
            };
            let function = self.add(parent, name, kind, What::Placed(index));
            if let Some(kind) = kind.backend() {
                self.add(function, Name::Word("virtio-backend"), kind, What::Backend(index));
            }
        }
    }

    fn processor(&mut self, parent: usize, number: u8) {
        let cpu = self.add(parent, Name::Device(number), &HOST_CPU, What::Processor(number));
        self.add(cpu, Name::Word("lapic"), &APIC, What::Processor(number));
    }

    fn devices(&mut self, parent: usize) {
        let Machine { processors, i8042, hpet, debug_exit, test_device, .. } = self.machine;
        let mut number = processors;
        let mut add = |kind: &'static Type, what: What| {
            self.add(parent, Name::Device(number), kind, what);
            number = number.saturating_add(1);
        };
        let pci = |slot: u8, function: u8| What::Pci(slot << 3 | function);
        add(&HOST_BRIDGE, pci(layout::PCI_SLOT_HOST_BRIDGE, 0));
        add(&ISA_BRIDGE, pci(layout::PCI_SLOT_ISA_BRIDGE, 0));
        add(&POWER, pci(layout::PCI_SLOT_ISA_BRIDGE, layout::PCI_FUNCTION_POWER));
        add(&IOAPIC, What::Nothing);
        add(&PIC, What::Ports(MASTER_PIC));
        add(&PIC, What::Ports(0xa0));
        add(&PIT, What::Ports(0x40));
        add(&RTC, What::Nothing);
        add(&PORT_92, What::Nothing);
        add(&SERIAL, What::Ports(layout::COM1));
        add(&KVM_CLOCK, What::Nothing);
        if i8042 {
            add(&KEYBOARD, What::Nothing);
        }
        if hpet {
            add(&HPET, What::Nothing);
        }
        if let Some(exit) = debug_exit {
            add(&DEBUG_EXIT, What::PortRange(exit.iobase, exit.iosize));
        }
        if test_device {
            add(&TEST_DEVICE, What::Nothing);
        }
    }

    /// The object that a path leads to: an absolute one, or the end of one that fits a single object.
    ///
    /// # Errors
    /// QEMU's, where there is none or more than one.
    pub fn resolve(&self, path: &str) -> Result<usize, Error> {
        let mut found = (0..self.objects.len()).filter(|&index| self.fits(index, path));
        match (found.next(), found.next()) {
            (Some(index), None) => Ok(index),
            (Some(_), Some(_)) => {
                Err(Error::generic(format_args!("Path '{path}' does not uniquely identify an object")))
            }
            _ => Err(Error::device_not_found(path)),
        }
    }

    /// Whether a path leads to an object: its components are compared from the last one on, up to the root.
    fn fits(&self, index: usize, path: &str) -> bool {
        let mut at = index;
        let mut steps: usize = 0;
        for component in path.rsplit('/').filter(|component| !component.is_empty()) {
            let Some(object) = self.objects.get(at) else { return false };
            if at == 0 || steps >= DEPTH || !object.name.is(component) {
                return false;
            }
            at = object.parent;
            steps = steps.saturating_add(1);
        }
        at == 0 || !path.starts_with('/')
    }

    /// The object at an index.
    pub fn object(&self, index: usize) -> Option<&Object> {
        self.objects.get(index)
    }

    /// The children of an object.
    pub fn children(&self, index: usize) -> impl Iterator<Item = &Object> {
        self.objects.iter().skip(1).filter(move |object| object.parent == index)
    }

    /// The value of a property.
    ///
    /// # Errors
    /// QEMU's, where the object has no such property.
    pub fn get(&self, index: usize, property: &str) -> Result<Value, Error> {
        self.value(index, property)
            .ok_or_else(|| Error::generic(format_args!("Property '.{property}' not found")))
    }

    fn value(&self, index: usize, property: &str) -> Option<Value> {
        let object = self.objects.get(index)?;
        object.kind.properties().find(|known| known.name == property)?;
        if let What::Placed(place) | What::Backend(place) = object.what
            && let Some(device) = self.machine.devices.get(place)
            && let Some(value) = device.value(object.kind, property)
        {
            return Some(value);
        }
        Some(match (property, object.what) {
            ("type", _) => Value::Text(object.kind.name),
            ("kernel", _) => Value::Text(self.machine.kernel),
            ("initrd", _) => Value::Text(self.machine.initrd),
            ("append", _) => Value::Text(self.machine.append),
            ("realized", _) => Value::Bool(true),
            // Everything is there from the start and stays.
            ("hotplugged" | "hotpluggable", _) => Value::Bool(false),
            ("id" | "apic-id" | "socket-id", What::Processor(number)) => Value::Int(number.into()),
            ("core-id" | "thread-id", _) => Value::Int(0),
            ("tsc-frequency", _) => Value::Int(self.machine.tsc_hz.cast_signed()),
            ("addr", What::Pci(address)) => Value::Int(address.into()),
            ("iobase", What::Ports(port) | What::PortRange(port, _)) => Value::Int(port.into()),
            ("iosize", What::PortRange(_, count)) => Value::Int(count.into()),
            ("master", What::Ports(port)) => Value::Bool(port == MASTER_PIC),
            ("irq", _) => Value::Int(layout::COM1_IRQ.into()),
            ("chardev", _) => Value::Text("serial0"),
            (GUEST_STATS, _) => Value::Stats(self.machine.guest_stats),
            (POLLING_INTERVAL, _) => Value::Int(self.machine.guest_stats.interval.cast_signed()),
            _ => return None,
        })
    }

    /// Why a property cannot be set: none can.
    pub fn refuse(&self, index: usize, property: &str) -> Error {
        match (self.get(index, property), self.objects.get(index)) {
            (Err(error), _) => error,
            (Ok(_), Some(object))
                if property != GUEST_STATS
                    && object.kind.is_a(DEVICE.name)
                    && object.kind.device_properties().any(|own| own.name == property) =>
            {
                let kind = object.kind.name;
                let id = match object.what {
                    What::Placed(place) => self.machine.devices.get(place).and_then(Placed::id),
                    _ => None,
                };
                match id {
                    Some(id) => Error::generic(format_args!(
                        "Attempt to set property '{property}' on device '{id}' (type '{kind}') after it was realized"
                    )),
                    None => Error::generic(format_args!(
                        "Attempt to set property '{property}' on anonymous device (type '{kind}') after it was realized"
                    )),
                }
            }
            _ => Error::text("Insufficient permission to perform this operation"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio;

    fn largest() -> Machine {
        let line = "-device virtio-balloon-pci,id=bal0,vectors=2 -drive file=d,serial=s1,id=d1,if=none \
                    -device isa-debug-exit -device virtio-blk,drive=d1,num-queues=0x4,config-wce=off,addr=9 -drive file=x -device virtio-rng-pci \
                    -device virtio-serial-pci -device virtio-keyboard-pci -device virtio-mouse-pci \
                    -device virtio-tablet-pci,serial=t -drive file=y,id=named";
        let options = Options::parse(line.as_bytes().to_vec().leak());
        let mut devices: Vec<Placed, MAX_FUNCTIONS> = Vec::new();
        virtio::asked(&options, &mut |asked| {
            let slot = 4 + devices.len() as u8;
            devices.push(Placed::new(&options, &asked, slot, 3)).unwrap();
        });
        let guest_stats = GuestStats { values: [u64::MAX; STATISTIC_KINDS], updated: 5, interval: 2 };
        Machine {
            kernel: "vmlinuz",
            initrd: "",
            append: "console=ttyS0",
            processors: layout::MAX_VCPUS as u8,
            tsc_hz: 1_000_000_000,
            i8042: true,
            hpet: true,
            debug_exit: Some(DebugExit { iobase: 0xf4, iosize: 4 }),
            test_device: true,
            devices,
            guest_stats,
        }
    }

    fn get(tree: &Tree, path: &str, property: &str) -> Result<Value, std::string::String> {
        let object = tree.resolve(path).map_err(|error| error.description().to_string())?;
        tree.get(object, property).map_err(|error| error.description().to_string())
    }

    #[test]
    fn the_largest_machine_has_room_and_every_property_a_value() {
        let tree = Tree::new(largest());
        assert!(tree.objects.len() < OBJECTS);
        for (index, object) in tree.objects.iter().enumerate() {
            for property in object.kind.properties() {
                let value = tree.get(index, property.name).unwrap();
                let fits = match property.kind {
                    "bool" => matches!(value, Value::Bool(_)),
                    "string" | "str" | "OnOffAuto" => matches!(value, Value::Text(_) | Value::Numbered(..)),
                    "guest statistics" => matches!(value, Value::Stats(_)),
                    _ => matches!(value, Value::Int(_)),
                };
                assert!(fits, "{}.{} = {value:?}", object.kind.name, property.name);
            }
            assert!(!object.kind.is_abstract);
        }
    }

    #[test]
    fn paths() {
        let tree = Tree::new(largest());
        let kind = |path| get(&tree, path, "type");
        assert_eq!(kind("/"), Ok(Value::Text("container")));
        assert_eq!(kind("/machine"), Ok(Value::Text("pc-machine")));
        assert_eq!(kind("machine"), Ok(Value::Text("pc-machine")));
        assert_eq!(kind("/machine//unattached/device[0]/"), Ok(Value::Text("host-x86_64-cpu")));
        assert_eq!(kind("unattached/device[7]/lapic"), Ok(Value::Text("apic")));
        assert_eq!(kind("unattached/device[8]"), Ok(Value::Text("i440FX")));
        for path in
            ["/nope", "/unattached", "device[08]", "device[+8]", "device[99]", "/machine/machine", "x//y"]
        {
            assert_eq!(kind(path), Err(format!("Device '{path}' not found")), "{path}");
        }
        assert_eq!(kind("lapic"), Err("Path 'lapic' does not uniquely identify an object".into()));
        assert_eq!(kind(""), Err("Path '' does not uniquely identify an object".into()));
        assert_eq!(get(&tree, "/machine", "nope"), Err("Property '.nope' not found".into()));
        assert_eq!(get(&tree, "/objects", "kernel"), Err("Property '.kernel' not found".into()));
        assert_eq!(get(&tree, "/machine", "append"), Ok(Value::Text("console=ttyS0")));
        assert_eq!(get(&tree, "unattached/device[3]", "apic-id"), Ok(Value::Int(3)));
    }

    #[test]
    fn virtio_devices_have_their_settings() {
        let tree = Tree::new(largest());
        let balloon = |property| get(&tree, "/machine/peripheral/bal0", property);
        assert_eq!(balloon("type"), Ok(Value::Text("virtio-balloon-pci")));
        assert_eq!((balloon("addr"), balloon("vectors")), (Ok(Value::Int(32)), Ok(Value::Int(3))));
        assert_eq!(balloon("guest-stats-polling-interval"), Ok(Value::Int(2)));
        let backend = |property| get(&tree, "/machine/peripheral/bal0/virtio-backend", property);
        assert_eq!(backend("type"), Ok(Value::Text("virtio-balloon-device")));
        assert_eq!(backend("guest-stats-polling-interval"), Ok(Value::Int(2)));
        assert_eq!(backend("addr"), Err("Property '.addr' not found".into()));
        assert_eq!(
            get(&tree, "/machine/peripheral-anon/device[1]/virtio-backend", "num-queues"),
            Ok(Value::Int(4))
        );
        assert_eq!(balloon("drive"), Err("Property '.drive' not found".into()));
        let anon =
            |index: u8, property| get(&tree, &format!("/machine/peripheral-anon/device[{index}]"), property);
        assert_eq!(anon(1, "type"), Ok(Value::Text("virtio-blk-pci")));
        for (index, property, value) in [
            (1, "num-queues", Value::Int(4)),
            (1, "drive", Value::Text("d1")),
            (1, "serial", Value::Text("s1")),
            (1, "config-wce", Value::Bool(false)),
            (1, "bootindex", Value::Int(-1)),
            (1, "bus", Value::Text("pci.0")),
            (2, "max-bytes", Value::Int(i64::MAX)),
            (6, "serial", Value::Text("t")),
            (7, "drive", Value::Numbered("virtio", 0)),
            (7, "config-wce", Value::Bool(true)),
            (7, "serial", Value::Text("")),
            (8, "drive", Value::Text("named")),
        ] {
            assert_eq!(anon(index, property), Ok(value), "{index} {property}");
        }
        assert_eq!(anon(9, "type"), Err("Device '/machine/peripheral-anon/device[9]' not found".into()));
    }

    #[test]
    fn every_model_is_a_type() {
        for model in &virtio::MODELS {
            let kind = Type::find(model.name).unwrap();
            let names: Vec<_, 64> = kind.device_properties().map(|property| property.name).collect();
            for (at, name) in names.iter().enumerate() {
                assert!(!names[..at].contains(name), "{}.{name} twice", model.name);
            }
            assert!(model.properties.iter().all(|property| names.contains(&property.name)));
            assert!(names.contains(&"vectors") && names.contains(&"addr"));
            let behind: Vec<_, 64> =
                kind.backend().unwrap().device_properties().map(|property| property.name).collect();
            assert!(behind.iter().all(|name| names.contains(name)) && !behind.contains(&"addr"));
        }
    }

    #[test]
    fn nothing_can_be_set() {
        let tree = Tree::new(largest());
        let set =
            |path, property| tree.refuse(tree.resolve(path).unwrap(), property).description().to_string();
        assert_eq!(set("/machine", "type"), "Insufficient permission to perform this operation");
        assert_eq!(
            set("unattached/device[0]", "realized"),
            "Insufficient permission to perform this operation"
        );
        assert_eq!(set("unattached/device[0]", "nope"), "Property '.nope' not found");
        assert_eq!(
            set("unattached/device[0]", "apic-id"),
            "Attempt to set property 'apic-id' on anonymous device (type 'host-x86_64-cpu') after it was realized"
        );
        assert_eq!(
            set("bal0", "vectors"),
            "Attempt to set property 'vectors' on device 'bal0' (type 'virtio-balloon-pci') after it was realized"
        );
        assert_eq!(
            set("bal0/virtio-backend", "deflate-on-oom"),
            "Attempt to set property 'deflate-on-oom' on anonymous device (type 'virtio-balloon-device') after it was realized"
        );
        assert_eq!(set("bal0", "guest-stats"), "Insufficient permission to perform this operation");
    }

    #[test]
    fn without_a_guest_there_are_no_devices() {
        let tree = Tree::new(Machine { processors: 0, ..largest() });
        let unattached = tree.resolve("/machine/unattached").unwrap();
        assert_eq!(tree.children(unattached).count(), 0);
        assert_eq!(tree.children(0).map(|child| child.name).collect::<std::vec::Vec<_>>().len(), 2);
    }

    #[test]
    fn types_are_unique_and_end_in_object() {
        for (at, kind) in TYPES.iter().enumerate() {
            assert!(kind.is_a("object"), "{}", kind.name);
            assert!(TYPES[..at].iter().all(|other| other.name != kind.name), "{}", kind.name);
        }
    }
}

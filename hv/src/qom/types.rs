//! The types of objects that the machine is made of.

use crate::virtio::{self, MODELS};

/// When the guest is asked for statistics of its memory, in seconds; 0: never.
pub const POLLING_INTERVAL: &str = "guest-stats-polling-interval";
/// The statistics of its memory that the guest has told.
pub const GUEST_STATS: &str = "guest-stats";

/// A property that objects of a type have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property {
    /// Its name.
    pub name: &'static str,
    /// The type of its value.
    pub kind: &'static str,
}

/// A type.
#[derive(Debug, PartialEq, Eq)]
pub struct Type {
    /// Its name.
    pub name: &'static str,
    /// The type that it is a kind of.
    pub parent: Option<&'static Type>,
    /// There are no objects of just this type.
    pub is_abstract: bool,
    /// What it adds to its parent's properties, [`settings`](Self::settings) apart.
    pub properties: &'static [Property],
}

const fn property(name: &'static str, kind: &'static str) -> Property {
    Property { name, kind }
}

macro_rules! types {
    ($( $type:ident = $name:literal, $parent:expr, $abstract:literal, [ $( $property:literal: $kind:literal ),* ]; )*) => {
        $( #[doc = concat!("`", $name, "`")] pub static $type: Type = Type {
            name: $name,
            parent: $parent,
            is_abstract: $abstract,
            properties: &[ $( property($property, $kind) ),* ],
        }; )*

        /// All of them.
        pub static TYPES: &[&Type] = &[ $( &$type ),* ];
    };
}

types! {
    OBJECT = "object", None, true, ["type": "string"];
    CONTAINER = "container", Some(&OBJECT), false, [];
    MACHINE = "machine", Some(&OBJECT), true, ["kernel": "string", "initrd": "string", "append": "string"];
    PC = "pc-machine", Some(&MACHINE), false, [];
    DEVICE = "device", Some(&OBJECT), true, ["hotplugged": "bool", "hotpluggable": "bool", "realized": "bool"];
    CPU = "cpu", Some(&DEVICE), true, [];
    X86_CPU = "x86_64-cpu", Some(&CPU), true, [
        "apic-id": "uint32", "socket-id": "int32", "core-id": "int32", "thread-id": "int32", "tsc-frequency": "int"
    ];
    HOST_CPU = "host-x86_64-cpu", Some(&X86_CPU), false, [];
    APIC = "apic", Some(&DEVICE), false, ["id": "uint32"];
    SYSTEM_DEVICE = "sys-bus-device", Some(&DEVICE), true, [];
    IOAPIC = "ioapic", Some(&SYSTEM_DEVICE), false, [];
    HPET = "hpet", Some(&SYSTEM_DEVICE), false, [];
    KVM_CLOCK = "kvmclock", Some(&SYSTEM_DEVICE), false, [];
    ISA_DEVICE = "isa-device", Some(&DEVICE), true, [];
    PIC = "isa-i8259", Some(&ISA_DEVICE), false, ["iobase": "uint32", "master": "bool"];
    PIT = "isa-pit", Some(&ISA_DEVICE), false, ["iobase": "uint32"];
    RTC = "mc146818rtc", Some(&ISA_DEVICE), false, [];
    KEYBOARD = "i8042", Some(&ISA_DEVICE), false, [];
    PORT_92 = "port92", Some(&ISA_DEVICE), false, [];
    SERIAL = "isa-serial", Some(&ISA_DEVICE), false, [
        "iobase": "uint32", "irq": "uint32", "chardev": "str"
    ];
    DEBUG_EXIT = "isa-debug-exit", Some(&ISA_DEVICE), false, ["iobase": "uint32", "iosize": "uint32"];
    TEST_DEVICE = "pc-testdev", Some(&ISA_DEVICE), false, [];
    PCI_DEVICE = "pci-device", Some(&DEVICE), true, ["addr": "int32"];
    HOST_BRIDGE = "i440FX", Some(&PCI_DEVICE), false, [];
    ISA_BRIDGE = "PIIX3", Some(&PCI_DEVICE), false, [];
    POWER = "PIIX4_PM", Some(&PCI_DEVICE), false, [];
    VIRTIO = "virtio-pci", Some(&PCI_DEVICE), true, [];
    VIRTIO_BLK = "virtio-blk-pci", Some(&VIRTIO), false, [];
    VIRTIO_BALLOON = "virtio-balloon-pci", Some(&VIRTIO), false, [
        "guest-stats": "guest statistics", "guest-stats-polling-interval": "int"
    ];
    VIRTIO_NET = "virtio-net-pci", Some(&VIRTIO), false, [];
    VIRTIO_RNG = "virtio-rng-pci", Some(&VIRTIO), false, [];
    VIRTIO_SERIAL = "virtio-serial-pci", Some(&VIRTIO), false, [];
    VIRTIO_KEYBOARD = "virtio-keyboard-pci", Some(&VIRTIO), false, [];
    VIRTIO_MOUSE = "virtio-mouse-pci", Some(&VIRTIO), false, [];
    VIRTIO_TABLET = "virtio-tablet-pci", Some(&VIRTIO), false, [];
    BACKEND = "virtio-device", Some(&DEVICE), true, [];
    BLK = "virtio-blk-device", Some(&BACKEND), false, [];
    BALLOON = "virtio-balloon-device", Some(&BACKEND), false, [
        "guest-stats": "guest statistics", "guest-stats-polling-interval": "int"
    ];
    NET = "virtio-net-device", Some(&BACKEND), false, [];
    RNG = "virtio-rng-device", Some(&BACKEND), false, [];
    CONSOLES = "virtio-serial-device", Some(&BACKEND), false, [];
    INPUT_KEYBOARD = "virtio-keyboard-device", Some(&BACKEND), false, [];
    INPUT_MOUSE = "virtio-mouse-device", Some(&BACKEND), false, [];
    INPUT_TABLET = "virtio-tablet-device", Some(&BACKEND), false, [];
}

impl Type {
    /// The type of a name.
    pub fn find(name: &str) -> Option<&'static Self> {
        TYPES.iter().copied().find(|kind| kind.name == name)
    }

    /// The type of the device behind a PCI function of this type: `virtio-net-device` behind `virtio-net-pci`.
    pub fn backend(&self) -> Option<&'static Self> {
        let stem = self.name.strip_suffix("pci")?;
        TYPES.iter().copied().find(|kind| kind.name.strip_suffix("device") == Some(stem))
    }

    /// The type and those that it is a kind of.
    pub fn line(&'static self) -> impl Iterator<Item = &'static Self> {
        core::iter::successors(Some(self), |kind| kind.parent)
    }

    /// Whether it is a kind of the type of a name.
    pub fn is_a(&'static self, name: &str) -> bool {
        self.line().any(|kind| kind.name == name)
    }

    /// What `-device` can set beside the properties that are in this table.
    pub fn settings(&self) -> &'static [virtio::Property] {
        // A function has them from the device behind it.
        let stem = self.name.strip_suffix("device").or(self.name.strip_suffix("pci"));
        match MODELS.iter().find(|model| stem.is_some() && model.name.strip_suffix("pci") == stem) {
            Some(model) => model.properties,
            // The address is every PCI device's.
            None if self.name == VIRTIO.name => virtio::PCI.get(1..).unwrap_or_default(),
            None => &[],
        }
    }

    /// What it adds to its parent's properties.
    fn own(&'static self) -> impl Iterator<Item = Property> {
        let settings = self.settings().iter().map(|setting| property(setting.name, setting.kind.name()));
        self.properties.iter().copied().chain(settings)
    }

    /// All properties, its own first.
    pub fn properties(&'static self) -> impl Iterator<Item = Property> {
        self.line().flat_map(Self::own)
    }

    /// The properties that are its own and not those of all devices.
    pub fn device_properties(&'static self) -> impl Iterator<Item = Property> {
        self.line().take_while(|kind| **kind != DEVICE).flat_map(Self::own)
    }
}

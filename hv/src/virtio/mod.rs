//! From `-device` and `-drive` to virtio devices on the guest's bus.
//!
//! A kind of device is an entry of [`MODELS`]: its name, the table of its properties, a check for what the table cannot
//! say, and the function that makes one. What a device has behind it (a disk's image) is made here, too.

mod balloon;
mod blk;
mod drive;
mod image;
mod input;
mod net;
mod place;
mod property;
mod rng;
mod serial;

use core::fmt;

use heapless::Vec;
use monovisor_arch::GuestMemory;
use monovisor_devices::Pc;
use monovisor_devices::pc::MAX_FUNCTIONS;
use monovisor_devices::virtio::net::Mac;
use monovisor_devices::virtio::{Device, VirtioPci, feature};
use monovisor_loader::Options;
use monovisor_loader::options::{Group, GroupError, GroupKind};
use monovisor_store::StoreError;

use crate::machine::Shared;
use crate::store::Files;
pub use balloon::wanted as wants_balloon;
use blk::Drives;
pub use drive::{Cache, Drive, Name as DriveName, name as drive_name};
pub use net::{NAME as NIC, Nic, check_netdev, mac_text};
pub use place::place;
pub use property::{Kind, PCI, Property, VECTORS};
pub use rng::check_object;
pub use serial::{Links, check_port, is_port};

/// Most drives: one for each device.
pub const MAX_DRIVES: usize = MAX_FUNCTIONS;

/// RAM that a device takes at most, with its place on the bus and what is behind it.
const DEVICE_BYTES: usize = 16 << 10;

/// A kind of device.
#[derive(Debug)]
pub struct Model {
    /// What `-device` calls it.
    pub name: &'static str,
    /// Its properties besides those that all have.
    pub properties: &'static [Property],
    /// Checks what the table of properties cannot.
    check: for<'a> fn(&Group<'a>) -> Result<(), GroupError<'a>>,
    make: fn(&mut Bench<'_>, &Group<'static>) -> Result<&'static mut dyn Device, MakeError>,
}

/// All of them; the first is what a drive comes with.
pub static MODELS: [Model; 8] = [
    Model { name: "virtio-blk-pci", properties: blk::PROPERTIES, check: blk::check, make: blk::make },
    Model {
        name: balloon::NAME,
        properties: balloon::PROPERTIES,
        check: balloon::check,
        make: balloon::make,
    },
    Model { name: net::NAME, properties: net::PROPERTIES, check: net::check, make: net::make },
    Model { name: "virtio-rng-pci", properties: rng::PROPERTIES, check: rng::check, make: rng::make },
    Model {
        name: "virtio-serial-pci",
        properties: serial::PROPERTIES,
        check: serial::check,
        make: serial::make,
    },
    Model {
        name: "virtio-keyboard-pci",
        properties: input::PROPERTIES,
        check: input::check,
        make: input::keyboard,
    },
    Model {
        name: "virtio-mouse-pci",
        properties: input::PROPERTIES,
        check: input::check,
        make: input::mouse,
    },
    Model {
        name: "virtio-tablet-pci",
        properties: input::PROPERTIES,
        check: input::check,
        make: input::tablet,
    },
];

/// What devices are made from.
struct Bench<'o> {
    options: &'o Options<'static>,
    shared: &'static Shared,
    files: Files,
    drives: Drives,
    /// Drives that a device has, one bit each.
    used: u32,
    /// Network back ends that a device has, one bit each.
    netdevs: u64,
    /// Addresses that network cards have.
    macs: Vec<Mac, MAX_FUNCTIONS>,
    /// There is a balloon.
    balloon: bool,
    /// Ports that are to be connected.
    links: &'o mut Links,
}

/// Why a device cannot be made: one line by `Display`, which names the option.
#[derive(Debug)]
pub struct MakeError {
    group: Group<'static>,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    /// A value that is wrong.
    Value(GroupError<'static>),
    /// It needs a drive.
    NoDrive,
    /// What a property names has a device.
    InUse(&'static str, &'static str),
    /// A property names something that is not there.
    Unknown(&'static str, &'static str),
    /// The processor has no random bytes.
    NoEntropy,
    /// There is a balloon.
    OneBalloon,
    /// No bus has that name.
    NoBus(&'static str),
    /// There is no bus for ports.
    NoSerialBus,
    /// The port's number is taken, or there are too many ports.
    NoPort,
    /// The file cannot be opened.
    Open(&'static str, StoreError),
    /// The slot has something in it.
    Slot(u8),
    /// There are too many devices.
    TooMany,
    /// There is no RAM for it.
    NoMemory,
}

impl fmt::Display for MakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = self.group.driver();
        if let Problem::Value(error) = &self.problem {
            return write!(f, "{error}");
        }
        let name = if driver.is_empty() { self.group.id().unwrap_or_default() } else { driver };
        write!(f, "-{} {name}: ", self.group.kind().option())?;
        match self.problem {
            Problem::Value(_) => Ok(()),
            Problem::NoDrive => f.write_str("drive property not set"),
            Problem::InUse(key, id) => {
                write!(f, "Property '{driver}.{key}' can't take value '{id}', it's in use")
            }
            Problem::Unknown(key, id) => write!(f, "Property '{driver}.{key}' can't find value '{id}'"),
            Problem::NoEntropy => f.write_str("this machine's processor has neither RDSEED nor RDRAND"),
            Problem::OneBalloon => f.write_str("Only one balloon device is supported"),
            Problem::NoBus(bus) => write!(f, "Bus '{bus}' not found"),
            Problem::NoSerialBus => write!(f, "No 'virtio-serial-bus' bus found for device '{driver}'"),
            Problem::NoPort => write!(
                f,
                "virtio-serial-bus: no such free port (a device has {} at most, and port 0 is for a console)",
                monovisor_devices::virtio::console::MAX_PORTS
            ),
            Problem::Open(file, StoreError::ReadOnly) => write!(
                f,
                "Could not open '{file}': Read-only file system (a file of the boot needs readonly=on or snapshot=on)"
            ),
            Problem::Open(file, error) => write!(f, "Could not open '{file}': {error}"),
            Problem::Slot(slot) => write!(f, "PCI: slot {slot} function 0 not available"),
            Problem::TooMany => write!(f, "there can be {MAX_FUNCTIONS} at most"),
            Problem::NoMemory => f.write_str("there is no RAM left for it"),
        }
    }
}

/// The kind of a name, which may leave `-pci` out.
pub fn model(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name || model.name.strip_suffix("-pci") == Some(name))
}

/// Checks a `-device` list of a kind.
///
/// # Errors
/// The first property that is unknown or has a value that it cannot have.
pub fn check_device<'a>(model: &Model, device: &Group<'a>) -> Result<(), GroupError<'a>> {
    property::check(device, model.properties)?;
    (model.check)(device)
}

/// A device that the command line asks for.
pub struct Asked {
    /// What kind of device it is.
    pub model: &'static Model,
    /// The list that it comes from: its own, or that of a drive which comes with a device.
    pub group: Group<'static>,
    /// Its drive's number and list.
    pub drive: Option<(usize, Group<'static>)>,
    /// How many devices without a name there are before it, whatever they are.
    pub anonymous: u8,
}

/// Shows what a command line asks for, in the order in which [`attach`] puts it on the bus.
pub fn asked(options: &Options<'static>, visit: &mut dyn FnMut(Asked)) {
    let mut anonymous = 0u8;
    for group in options.devices() {
        if let Some(model) = model(group.driver()) {
            let wanted = group.str("drive");
            let mut drives = options.groups(GroupKind::Drive).enumerate();
            let drive = drives.find(|(_, drive)| wanted.is_some() && drive.id() == wanted);
            visit(Asked { model, group, drive, anonymous });
        }
        anonymous = anonymous.saturating_add(group.id().is_none().into());
    }
    for (number, group) in options.groups(GroupKind::Drive).enumerate() {
        if drive::has_device(&group) {
            visit(Asked { model: &MODELS[0], group, drive: Some((number, group)), anonymous });
            anonymous = anonymous.saturating_add(1);
        }
    }
}

/// Checks a `-drive` list.
///
/// # Errors
/// The first key that is unknown or has a value that it cannot have.
pub fn check_drive<'a>(group: Group<'a>) -> Result<(), GroupError<'a>> {
    Drive::new(group).map(|_| ())
}

/// Sets aside the RAM that the devices of a command line take, before the store gets the rest.
pub fn reserve(options: &Options<'_>) {
    let devices = options.devices().filter(|device| model(device.driver()).is_some()).count();
    let drives = options.groups(GroupKind::Drive).count();
    place::reserve((devices + drives).min(2 * MAX_FUNCTIONS) * DEVICE_BYTES);
}

/// Puts the devices of a command line on the bus: those of `-device` in their order, then those of drives that come
/// with one.
///
/// # Errors
/// The first one that cannot be made.
// Not part of its caller's frame, which stays on the stack for good.
#[inline(never)]
pub fn attach(
    pc: &mut Pc,
    shared: &'static Shared,
    options: &Options<'static>,
    files: Files,
    links: &mut Links,
) -> Result<(), MakeError> {
    let ram = shared.ram();
    let mut bench = Bench {
        options,
        shared,
        files,
        drives: Drives::new(),
        used: 0,
        netdevs: 0,
        macs: Vec::new(),
        balloon: false,
        links,
    };
    for group in options.groups(GroupKind::Drive) {
        let drive = Drive::new(group).map_err(|error| MakeError { group, problem: Problem::Value(error) })?;
        bench.drives.push(drive).map_err(|_| MakeError { group, problem: Problem::TooMany })?;
    }
    // Slots that are asked for by number go first, so that nobody else takes them.
    let mut taken = 0u32;
    for slot in options.devices().filter_map(|device| slot_of(&device)) {
        taken |= 1 << (slot & 31);
    }
    for group in options.devices() {
        if serial::is_port(group.driver()) {
            serial::check_owner(options, &group)?;
        }
        let Some(model) = model(group.driver()) else { continue };
        let device = (model.make)(&mut bench, &group)?;
        let slot = put(pc, ram, &group, group.id().unwrap_or_default(), device, taken)?;
        // The ports that have come with it.
        for link in bench.links.iter_mut() {
            link.slot.get_or_insert(slot);
        }
    }
    for index in 0..bench.drives.len() {
        if let Some(drive) = bench.drives.get(index).filter(|drive| drive.with_device) {
            let device = blk::make_for(&bench, index, drive)?;
            put(pc, ram, &drive.group, "", device, taken)?;
        }
    }
    Ok(())
}

/// The slot that a device asks for.
fn slot_of(device: &Group<'_>) -> Option<u8> {
    property::address(device.str("addr")?)
}

/// Puts a device into its slot, whose number is the result.
fn put(
    pc: &mut Pc,
    ram: &'static (dyn GuestMemory + Sync),
    group: &Group<'static>,
    name: &'static str,
    device: &'static mut dyn Device,
    taken: u32,
) -> Result<u8, MakeError> {
    let wrong = |problem| MakeError { group: *group, problem };
    let asked = if group.kind() == GroupKind::Device { slot_of(group) } else { None };
    let slot = asked.or_else(|| pc.free_slot(taken)).ok_or_else(|| wrong(Problem::TooMany))?;
    let off = |key| group.kind() == GroupKind::Device && group.bool(key) == Ok(Some(false));
    let mut function = VirtioPci::new(slot, name, ram, device);
    for (key, bit) in [("indirect_desc", feature::INDIRECT_DESC), ("event_idx", feature::EVENT_IDX)] {
        if off(key) {
            function.withhold(bit);
        }
    }
    if group.kind() == GroupKind::Device
        && let Some(vectors) = property::vectors(group).map_err(|error| wrong(Problem::Value(error)))?
    {
        function.set_vectors(vectors);
    }
    let function = place(function).ok_or_else(|| wrong(Problem::NoMemory))?;
    pc.attach(function).map_err(|error| match error {
        monovisor_devices::pc::SlotError::Full => wrong(Problem::TooMany),
        monovisor_devices::pc::SlotError::Taken => wrong(Problem::Slot(slot)),
    })?;
    Ok(slot)
}

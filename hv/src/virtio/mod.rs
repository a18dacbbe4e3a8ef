//! From `-device` and `-drive` to virtio devices on the guest's bus.
//!
//! A kind of device is an entry of [`MODELS`]: its name, the table of its properties, a check for what the table cannot
//! say, and the function that makes one. What a device has behind it (a disk's image) is made here, too.

mod blk;
mod drive;
mod image;
mod place;
mod property;

use core::fmt;

use monovisor_arch::GuestMemory;
use monovisor_devices::Pc;
use monovisor_devices::pc::MAX_FUNCTIONS;
use monovisor_devices::virtio::{Device, VirtioPci, feature};
use monovisor_loader::Options;
use monovisor_loader::options::{Group, GroupError, GroupKind};
use monovisor_store::StoreError;

use crate::store::Files;
use blk::Drives;
use drive::Drive;
use place::place;
pub use property::Property;

/// Most drives: one for each device.
const MAX_DRIVES: usize = MAX_FUNCTIONS;

/// RAM that a device takes at most, with its place on the bus and what is behind it.
const DEVICE_BYTES: usize = 16 << 10;

/// A kind of device.
pub struct Model {
    /// What `-device` calls it.
    pub name: &'static str,
    /// Its properties besides those that all have.
    pub properties: &'static [Property],
    /// Checks what the table of properties cannot.
    check: for<'a> fn(&Group<'a>) -> Result<(), GroupError<'a>>,
    make: fn(&mut Bench, &Group<'static>) -> Result<&'static mut dyn Device, MakeError>,
}

/// All of them.
pub static MODELS: [Model; 1] =
    [Model { name: "virtio-blk-pci", properties: blk::PROPERTIES, check: blk::check, make: blk::make }];

/// What devices are made from.
struct Bench {
    files: Files,
    drives: Drives,
    /// Drives that a device has, one bit each.
    used: u32,
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
    /// No drive has that `id`.
    UnknownDrive(&'static str),
    /// The drive has a device.
    DriveInUse(&'static str),
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
            Problem::UnknownDrive(id) => write!(f, "Property '{driver}.drive' can't find value '{id}'"),
            Problem::DriveInUse(id) => {
                write!(f, "Property '{driver}.drive' can't take value '{id}', it's in use")
            }
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

/// The kind of a name.
pub fn model(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}

/// Checks a `-device` list of a kind.
///
/// # Errors
/// The first property that is unknown or has a value that it cannot have.
pub fn check_device<'a>(model: &Model, device: &Group<'a>) -> Result<(), GroupError<'a>> {
    property::check(device, model.properties)?;
    (model.check)(device)
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
pub fn attach(
    pc: &mut Pc,
    ram: &'static (dyn GuestMemory + Sync),
    options: &Options<'static>,
    files: Files,
) -> Result<(), MakeError> {
    let mut bench = Bench { files, drives: Drives::new(), used: 0 };
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
        let Some(model) = model(group.driver()) else { continue };
        let device = (model.make)(&mut bench, &group)?;
        put(pc, ram, &group, group.id().unwrap_or_default(), device, taken)?;
    }
    for index in 0..bench.drives.len() {
        if let Some(drive) = bench.drives.get(index).filter(|drive| drive.with_device) {
            let device = blk::make_for(&bench, drive)?;
            put(pc, ram, &drive.group, "", device, taken)?;
        }
    }
    Ok(())
}

/// The slot that a device asks for.
fn slot_of(device: &Group<'_>) -> Option<u8> {
    property::address(device.str("addr")?)
}

/// Puts a device into its slot.
fn put(
    pc: &mut Pc,
    ram: &'static (dyn GuestMemory + Sync),
    group: &Group<'static>,
    name: &'static str,
    device: &'static mut dyn Device,
    taken: u32,
) -> Result<(), MakeError> {
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
    let function = place(function).ok_or_else(|| wrong(Problem::NoMemory))?;
    pc.attach(function).map_err(|error| match error {
        monovisor_devices::pc::SlotError::Full => wrong(Problem::TooMany),
        monovisor_devices::pc::SlotError::Taken => wrong(Problem::Slot(slot)),
    })
}

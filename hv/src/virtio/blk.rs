//! `virtio-blk-pci`.

use heapless::Vec;
use monovisor_devices::virtio::blk::{Blk, SERIAL, Settings};
use monovisor_devices::virtio::{Device, MAX_QUEUES};
use monovisor_loader::options::{Group, GroupError, GroupProblem};

use super::drive::Drive;
use super::image::Image;
use super::place::place;
use super::property::{Kind, Property, property};
use super::{Bench, MakeError, Problem};

/// Its properties.
pub const PROPERTIES: &[Property] = &[
    property("drive", Kind::Drive, ""),
    property("serial", Kind::Text, ""),
    property("num-queues", Kind::Unsigned(16), "1"),
    property("logical_block_size", Kind::Unsigned(16), "512"),
    property("physical_block_size", Kind::Unsigned(16), "512"),
    property("min_io_size", Kind::Unsigned(16), "0"),
    property("opt_io_size", Kind::Unsigned(32), "0"),
    property("config-wce", Kind::Bool, "on"),
    // There is no firmware that would look at it.
    property("bootindex", Kind::Int32, "-1"),
];

/// Checks what the table cannot.
///
/// # Errors
/// The first value that is out of its range.
pub fn check<'a>(device: &Group<'a>) -> Result<(), GroupError<'a>> {
    settings(device).map(|_| ())
}

fn settings<'a>(device: &Group<'a>) -> Result<Settings, GroupError<'a>> {
    let number = |key: &'static str, bits, default: u32| {
        Ok(device.unsigned(key, bits)?.map_or(default, |value| value as u32))
    };
    let queues = number("num-queues", 16, 1)?;
    if queues == 0 || queues > MAX_QUEUES as u32 {
        return Err(device.error("num-queues", GroupProblem::Expects("a number from 1 to 16")));
    }
    let block = |key: &'static str| {
        let size = number(key, 16, 512)?;
        if !(512..=32768).contains(&size) || !size.is_power_of_two() {
            return Err(device.error(key, GroupProblem::Expects("a power of 2 between 512 and 32768")));
        }
        Ok(size)
    };
    let block_size = block("logical_block_size")?;
    let physical_block_size = block("physical_block_size")?.max(block_size);
    Ok(Settings {
        queues: queues as u16,
        serial: serial(device.str("serial").unwrap_or_default()),
        block_size,
        physical_block_size,
        min_io_size: number("min_io_size", 16, 0)?,
        opt_io_size: number("opt_io_size", 32, 0)?,
        config_wce: device.bool("config-wce")?.unwrap_or(true),
        ..Settings::DEFAULT
    })
}

/// A serial number as the guest sees it: cut off at its length, as QEMU does it.
fn serial(text: &str) -> [u8; SERIAL] {
    let mut serial = [0; SERIAL];
    for (place, byte) in serial.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    serial
}

/// Makes the device of a `-device` list.
pub fn make(bench: &mut Bench<'_>, device: &Group<'static>) -> Result<&'static mut dyn Device, MakeError> {
    let wrong = |problem| MakeError { group: *device, problem };
    let name = device.str("drive").ok_or_else(|| wrong(Problem::NoDrive))?;
    let (index, drive) = bench
        .drives
        .iter()
        .enumerate()
        .find(|(_, drive)| drive.group.id() == Some(name))
        .ok_or_else(|| wrong(Problem::Unknown("drive", name)))?;
    if drive.with_device || bench.used & 1 << index != 0 {
        return Err(wrong(Problem::InUse("drive", name)));
    }
    let drive = *drive;
    bench.used |= 1 << index;
    let mut settings = settings(device).map_err(|error| wrong(Problem::Value(error)))?;
    if let (None, Some(text)) = (device.str("serial"), drive.serial) {
        settings.serial = serial(text);
    }
    with_drive(bench, index, &drive, settings)
}

/// Makes the device of a drive that comes with one.
pub fn make_for(
    bench: &Bench<'_>,
    number: usize,
    drive: &Drive<'static>,
) -> Result<&'static mut dyn Device, MakeError> {
    let serial = serial(drive.serial.unwrap_or_default());
    with_drive(bench, number, drive, Settings { serial, ..Settings::DEFAULT })
}

fn with_drive(
    bench: &Bench<'_>,
    number: usize,
    drive: &Drive<'static>,
    settings: Settings,
) -> Result<&'static mut dyn Device, MakeError> {
    let settings = Settings {
        writeback: drive.cache.writeback,
        on_read_error: drive.on_read_error,
        on_write_error: drive.on_write_error,
        // There are few of them: `MAX_DRIVES`.
        drive: number as u8,
        ..settings
    };
    let wrong = |problem| MakeError { group: drive.group, problem };
    let image = Image::open(bench.files, drive.file, drive.mode)
        .map_err(|error| wrong(Problem::Open(drive.file, error)))?;
    let image = place(image).ok_or_else(|| wrong(Problem::NoMemory))?;
    let device = place(Blk::new(image, &settings)).ok_or_else(|| wrong(Problem::NoMemory))?;
    Ok(device)
}

/// The drives of a command line, each of which has been checked.
pub type Drives = Vec<Drive<'static>, { super::MAX_DRIVES }>;

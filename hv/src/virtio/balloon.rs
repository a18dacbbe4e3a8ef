//! `virtio-balloon-pci`.

use monovisor_devices::virtio::Device;
use monovisor_devices::virtio::balloon::Balloon;
use monovisor_loader::Options;
use monovisor_loader::options::{Group, GroupError};
use monovisor_machine::balloon::GuestPages;

use super::place::place;
use super::property::{Kind, Property, property};
use super::{Bench, MakeError, Problem};

/// What `-device` calls it.
pub const NAME: &str = "virtio-balloon-pci";

/// Its properties.
pub const PROPERTIES: &[Property] = &[property("deflate-on-oom", Kind::Bool, "off")];

/// Whether a command line asks for a balloon.
pub fn wanted(options: &Options<'_>) -> bool {
    options.devices().any(|device| super::model(device.driver()).is_some_and(|model| model.name == NAME))
}

/// The table says all.
///
/// # Errors
/// None.
pub fn check<'a>(_: &Group<'a>) -> Result<(), GroupError<'a>> {
    Ok(())
}

/// Makes the device of a `-device` list.
pub fn make(bench: &mut Bench<'_>, device: &Group<'static>) -> Result<&'static mut dyn Device, MakeError> {
    let wrong = |problem| MakeError { group: *device, problem };
    // There is one amount of memory that it can speak of.
    if core::mem::replace(&mut bench.balloon, true) {
        return Err(wrong(Problem::OneBalloon));
    }
    let deflate = device.bool("deflate-on-oom").map_err(|error| wrong(Problem::Value(error)))?;
    let pages = place(GuestPages::new(bench.shared)).ok_or_else(|| wrong(Problem::NoMemory))?;
    let balloon = Balloon::new(pages, bench.shared.ram().size(), deflate.unwrap_or(false));
    Ok(place(balloon).ok_or_else(|| wrong(Problem::NoMemory))?)
}

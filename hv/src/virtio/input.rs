//! `virtio-keyboard-pci`, `virtio-mouse-pci`, `virtio-tablet-pci`.

use monovisor_devices::virtio::Device;
use monovisor_devices::virtio::input::{InputDevice, Model, SERIAL_BYTES};
use monovisor_loader::options::{Group, GroupError, GroupProblem};

use super::place::place;
use super::property::{Kind, Property, property};
use super::{Bench, MakeError, Problem};

/// Their properties.
pub const PROPERTIES: &[Property] = &[property("serial", Kind::Text, "")];

/// Checks what the table cannot.
///
/// # Errors
/// A serial number that is too long.
pub fn check<'a>(device: &Group<'a>) -> Result<(), GroupError<'a>> {
    match device.str("serial") {
        Some(serial) if serial.len() > SERIAL_BYTES => {
            Err(device.error("serial", GroupProblem::Expects("128 bytes at most")))
        }
        _ => Ok(()),
    }
}

/// Makes a keyboard.
pub fn keyboard(_: &mut Bench<'_>, device: &Group<'static>) -> Result<&'static mut dyn Device, MakeError> {
    make(device, Model::Keyboard)
}

/// Makes a mouse.
pub fn mouse(_: &mut Bench<'_>, device: &Group<'static>) -> Result<&'static mut dyn Device, MakeError> {
    make(device, Model::Mouse)
}

/// Makes a tablet.
pub fn tablet(_: &mut Bench<'_>, device: &Group<'static>) -> Result<&'static mut dyn Device, MakeError> {
    make(device, Model::Tablet)
}

fn make(device: &Group<'static>, model: Model) -> Result<&'static mut dyn Device, MakeError> {
    let input = InputDevice::new(model, device.str("serial").unwrap_or_default());
    Ok(place(input).ok_or(MakeError { group: *device, problem: Problem::NoMemory })?)
}

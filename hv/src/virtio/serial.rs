//! `virtio-serial-pci`, and the ports that are plugged into it: `virtconsole` and `virtserialport`.

use heapless::Vec;
use monovisor_devices::virtio::Device;
use monovisor_devices::virtio::console::{Console, MAX_PORTS, NAME_BYTES, PortSettings};
use monovisor_loader::Options;
use monovisor_loader::options::{Group, GroupError, GroupProblem};

use super::place::place;
use super::property::{Kind, Property, property};
use super::{Bench, MakeError, Problem};

/// What `-device` calls the device with the ports.
const NAME: &str = "virtio-serial-pci";

/// What `-device` calls a console.
const CONSOLE: &str = "virtconsole";
/// What `-device` calls a port with a name.
const PORT: &str = "virtserialport";

/// Most ports of all devices that are connected to something.
pub const MAX_LINKS: usize = 16;

/// A port and what is connected to it.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The slot of its device, once that is in one.
    pub slot: Option<u8>,
    /// Its number there.
    pub port: usize,
    /// The list that it comes from.
    pub group: Group<'static>,
    /// It is a console.
    pub console: bool,
}

impl Link {
    /// The operator's name of the port; empty for none.
    pub fn id(&self) -> &'static str {
        self.group.id().unwrap_or_default()
    }

    /// The character device that it is to be connected to.
    pub fn chardev(&self) -> Option<&'static str> {
        self.group.str("chardev")
    }
}

/// All ports.
pub type Links = Vec<Link, MAX_LINKS>;

/// Its properties.
pub const PROPERTIES: &[Property] = &[property("max_ports", Kind::Unsigned(32), "7")];

/// Whether `-device` means a port.
pub fn is_port(driver: &str) -> bool {
    matches!(driver, CONSOLE | PORT)
}

/// Checks the list of a port.
///
/// # Errors
/// The first property that is unknown, or has a value that it cannot have.
pub fn check_port<'a>(device: &Group<'a>) -> Result<(), GroupError<'a>> {
    device.only(&["bus", "nr", "chardev", "name"])?;
    device.unsigned("nr", 32)?;
    match device.str("name") {
        Some(name) if name.len() > NAME_BYTES => {
            Err(device.error("name", GroupProblem::Expects("64 bytes at most")))
        }
        _ => Ok(()),
    }
}

/// Checks what the table cannot.
///
/// # Errors
/// A number of ports that cannot be.
pub fn check<'a>(device: &Group<'a>) -> Result<(), GroupError<'a>> {
    ports(device).map(|_| ())
}

fn ports<'a>(device: &Group<'a>) -> Result<u8, GroupError<'a>> {
    match device.unsigned("max_ports", 32)? {
        None => Ok(MAX_PORTS as u8),
        Some(count @ 1..=7) => Ok(count as u8),
        Some(_) => Err(device.error("max_ports", GroupProblem::Expects("a number from 1 to 7"))),
    }
}

/// The device that a port is plugged into: the one whose bus it names, or the first.
fn owner<'a>(options: &Options<'a>, port: &Group<'a>) -> Option<Group<'a>> {
    let is_serial =
        |device: &Group<'a>| super::model(device.driver()).is_some_and(|model| model.name == NAME);
    let mut devices = options.devices().filter(is_serial);
    match port.str("bus") {
        None => devices.next(),
        Some(bus) => devices.find(|device| device.id().is_some() && device.id() == bus.strip_suffix(".0")),
    }
}

/// Makes the device of a `-device` list, with all its ports.
pub fn make(bench: &mut Bench<'_>, device: &Group<'static>) -> Result<&'static mut dyn Device, MakeError> {
    let wrong = |problem| MakeError { group: *device, problem };
    let mut console = Console::new(ports(device).map_err(|error| wrong(Problem::Value(error)))?);
    for group in bench.options.devices().filter(|group| is_port(group.driver())) {
        if owner(bench.options, &group) != Some(*device) {
            continue;
        }
        let wrong = |problem| MakeError { group, problem };
        let settings =
            PortSettings { console: group.driver() == CONSOLE, name: group.str("name").unwrap_or_default() };
        let asked = group.unsigned("nr", 32).map_err(|error| wrong(Problem::Value(error)))?;
        let asked = asked.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        let port = console.add(settings, asked).ok_or_else(|| wrong(Problem::NoPort))?;
        let link = Link { slot: None, port, group, console: settings.console };
        bench.links.push(link).map_err(|_| wrong(Problem::NoPort))?;
    }
    Ok(place(console).ok_or_else(|| wrong(Problem::NoMemory))?)
}

/// Checks that a port has a device to be plugged into.
pub fn check_owner(options: &Options<'static>, port: &Group<'static>) -> Result<(), MakeError> {
    match (owner(options, port), port.str("bus")) {
        (Some(_), _) => Ok(()),
        (None, Some(bus)) => Err(MakeError { group: *port, problem: Problem::NoBus(bus) }),
        (None, None) => Err(MakeError { group: *port, problem: Problem::NoSerialBus }),
    }
}

//! `virtio-rng-pci`, and the objects that random bytes come from.

use monovisor_devices::virtio::Device;
use monovisor_devices::virtio::rng::{Limit, Rng};
use monovisor_host::entropy;
use monovisor_loader::options::{Group, GroupError, GroupKind, GroupProblem};

use super::place::place;
use super::property::{Kind, Property, property};
use super::{Bench, MakeError, Problem};

/// Its properties.
pub const PROPERTIES: &[Property] = &[
    property("rng", Kind::Text, ""),
    property("max-bytes", Kind::Unsigned(64), "9223372036854775807"),
    property("period", Kind::Unsigned(32), "65536"),
];

/// Objects that give random bytes: all of them have the processor's.
const SOURCES: [&str; 2] = ["rng-random", "rng-builtin"];

/// Objects of QEMU that are for other things.
const NOT_YET: [&str; 7] = [
    "iothread",
    "memory-backend-file",
    "memory-backend-ram",
    "rng-egd",
    "secret",
    "throttle-group",
    "tls-creds-x509",
];

/// Checks an `-object` list.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_object<'a>(group: &Group<'a>) -> Result<(), GroupError<'a>> {
    match group.required("qom-type")? {
        kind if SOURCES.contains(&kind) => {
            // Which file of the host it would be in QEMU does not matter: there are none.
            group.only(if kind == "rng-random" { &["filename"] } else { &[] })?;
            group.required("id").map(|_| ())
        }
        kind if NOT_YET.contains(&kind) => Err(group.error("qom-type", GroupProblem::NotYet)),
        _ => Err(group.error("qom-type", GroupProblem::NoSuch("object type"))),
    }
}

/// Checks what the table cannot.
///
/// # Errors
/// The first value that is out of its range.
pub fn check<'a>(device: &Group<'a>) -> Result<(), GroupError<'a>> {
    limit(device).map(|_| ())
}

fn limit<'a>(device: &Group<'a>) -> Result<Limit, GroupError<'a>> {
    let default = Limit::default();
    let max_bytes = device.unsigned("max-bytes", 64)?.unwrap_or(default.max_bytes);
    if max_bytes > default.max_bytes {
        return Err(device.error("max-bytes", GroupProblem::Expects("a number less than 2^63")));
    }
    let period = device.unsigned("period", 32)?.map_or(default.period_ms, |period| period as u32);
    if period == 0 {
        return Err(device.error("period", GroupProblem::Expects("a positive integer")));
    }
    Ok(Limit { max_bytes, period_ms: period })
}

/// Makes the device of a `-device` list. Without `rng` it has a source of its own, as in QEMU.
pub fn make(bench: &mut Bench<'_>, device: &Group<'static>) -> Result<&'static mut dyn Device, MakeError> {
    let wrong = |problem| MakeError { group: *device, problem };
    if let Some(id) = device.str("rng") {
        let mut sources =
            bench.options.groups(GroupKind::Object).filter(|object| SOURCES.contains(&object.driver()));
        if !sources.any(|object| object.id() == Some(id)) {
            return Err(wrong(Problem::Unknown("rng", id)));
        }
    }
    if !entropy::available() {
        return Err(wrong(Problem::NoEntropy));
    }
    let limit = limit(device).map_err(|error| wrong(Problem::Value(error)))?;
    Ok(place(Rng::new(entropy::fill, limit)).ok_or_else(|| wrong(Problem::NoMemory))?)
}

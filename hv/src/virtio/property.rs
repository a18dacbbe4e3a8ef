//! The properties that `-device` can set: one table for each device, which says what is known and how it is written.

use monovisor_devices::pci::msix::MAX_VECTORS;
use monovisor_loader::options::{Group, GroupError, GroupProblem};

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `on` or `off`.
    Bool,
    /// `on`, `off` or `auto`.
    OnOffAuto,
    /// A number of so many bits.
    Unsigned(u32),
    /// A signed number of 32 bits.
    Int32,
    /// Slot, or slot and function, in hexadecimal.
    Address,
    /// Any text.
    Text,
    /// The `id` of a `-drive`.
    Drive,
}

impl Kind {
    /// QEMU's name of the type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::OnOffAuto => "OnOffAuto",
            Self::Unsigned(0..=8) => "uint8",
            Self::Unsigned(9..=16) => "uint16",
            Self::Unsigned(17..=32) => "uint32",
            Self::Unsigned(_) => "uint64",
            Self::Int32 | Self::Address => "int32",
            Self::Text | Self::Drive => "str",
        }
    }
}

/// A property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property {
    /// Its name.
    pub name: &'static str,
    /// How its value is written.
    pub kind: Kind,
    /// Its value where nothing is said.
    pub default: &'static str,
}

/// An entry of a table.
pub const fn property(name: &'static str, kind: Kind, default: &'static str) -> Property {
    Property { name, kind, default }
}

/// The number of MSI-X vectors, which by default follows from the device's queues.
pub const VECTORS: &str = "vectors";

/// What every virtio device on the PCI bus has; the first is any PCI device's.
pub const PCI: &[Property] = &[
    property("addr", Kind::Address, ""),
    property("bus", Kind::Text, "pci.0"),
    property("disable-legacy", Kind::OnOffAuto, "on"),
    property("disable-modern", Kind::Bool, "off"),
    property("indirect_desc", Kind::Bool, "on"),
    property("event_idx", Kind::Bool, "on"),
    property(VECTORS, Kind::Unsigned(32), ""),
];

/// The number of MSI-X vectors that a device's list asks for.
///
/// # Errors
/// Where there cannot be so many.
pub fn vectors<'a>(device: &Group<'a>) -> Result<Option<u8>, GroupError<'a>> {
    match device.unsigned(VECTORS, 32)? {
        Some(vectors) if vectors > MAX_VECTORS as u64 => {
            Err(device.error(VECTORS, GroupProblem::Expects("a number from 0 to 17")))
        }
        vectors => Ok(vectors.map(|vectors| vectors as u8)),
    }
}

/// Checks that a device's list has only properties of `own` and [`PCI`], each with a value of its kind.
///
/// # Errors
/// The first one that is not.
pub fn check<'a>(device: &Group<'a>, own: &[Property]) -> Result<(), GroupError<'a>> {
    for (key, value) in device.pairs().filter(|(key, _)| !matches!(*key, "driver" | "id")) {
        let known = own.iter().chain(PCI).find(|property| property.name == key);
        let Some(known) = known else { return Err(device.error(key, GroupProblem::Unknown)) };
        let fits = match known.kind {
            Kind::Bool => device.bool(key).map(|_| true)?,
            Kind::Unsigned(bits) => device.unsigned(key, bits).map(|_| true)?,
            Kind::OnOffAuto => matches!(value, "on" | "off" | "auto"),
            Kind::Int32 => value.parse::<i32>().is_ok(),
            Kind::Address => address(value).is_some(),
            Kind::Text | Kind::Drive => true,
        };
        if !fits {
            return Err(device.error(key, GroupProblem::Expects(known.kind.name())));
        }
    }
    vectors(device)?;
    // There is one bus, and on it virtio 1.x only.
    for (key, value) in device.pairs() {
        let there = match key {
            "bus" => matches!(value, "pci.0" | "pci"),
            "disable-legacy" => value != "off",
            "disable-modern" => value != "on",
            _ => true,
        };
        if !there {
            return Err(device.error(key, GroupProblem::NotYet));
        }
    }
    Ok(())
}

/// The slot that `addr` names: `slot` or `slot.function`, in hexadecimal; there is one function in a slot.
pub fn address(text: &str) -> Option<u8> {
    let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
    let slot = slot.strip_prefix("0x").unwrap_or(slot);
    let plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if function != "0" || !plain(slot) {
        return None;
    }
    u8::from_str_radix(slot, 16).ok().filter(|slot| *slot < 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hexadecimal() {
        for (text, slot) in [
            ("5", Some(5)),
            ("0x1f", Some(31)),
            ("1f.0", Some(31)),
            ("20", None),
            ("5.1", None),
            ("", None),
            ("+5", None),
            ("5.", None),
        ] {
            assert_eq!(address(text), slot, "{text}");
        }
    }
}

//! `virtio-net-pci`, and the network back ends that it is connected to.

use core::fmt::Write;

use heapless::String;
use monovisor_devices::virtio::Device;
use monovisor_devices::virtio::net::{MAX_PAIRS, Mac, Net, Settings, feature};
use monovisor_loader::Options;
use monovisor_loader::options::{Group, GroupError, GroupKind, GroupProblem};

use super::place::place;
use super::property::{Kind, Property, property};
use super::{Bench, MakeError, Problem};

/// What `-device` calls it.
pub const NAME: &str = "virtio-net-pci";

/// Back ends of QEMU that there are none of here.
const NOT_YET: [&str; 9] =
    ["bridge", "dump", "l2tpv3", "netmap", "socket", "tap", "user", "vde", "vhost-user"];

/// Longest name of a card, in bytes.
const ID_BYTES: usize = 100;

/// Features that the operator can withhold, or ask for, by the names of their properties.
const FLAGS: [(&str, u64); 17] = [
    ("csum", feature::CSUM),
    ("guest_csum", feature::GUEST_CSUM),
    ("ctrl_guest_offloads", feature::CTRL_GUEST_OFFLOADS),
    ("guest_tso4", feature::GUEST_TSO4),
    ("guest_tso6", feature::GUEST_TSO6),
    ("guest_ecn", feature::GUEST_ECN),
    ("host_tso4", feature::HOST_TSO4),
    ("host_tso6", feature::HOST_TSO6),
    ("host_ecn", feature::HOST_ECN),
    ("mrg_rxbuf", feature::MRG_RXBUF),
    ("status", feature::STATUS),
    ("ctrl_vq", feature::CTRL_VQ),
    ("ctrl_rx", feature::CTRL_RX),
    ("ctrl_vlan", feature::CTRL_VLAN),
    ("ctrl_rx_extra", feature::CTRL_RX_EXTRA),
    ("ctrl_mac_addr", feature::CTRL_MAC_ADDR),
    ("mq", feature::MQ),
];

/// Features of QEMU's that there are not here: they can be off only.
const NEVER: [&str; 3] = ["guest_ufo", "host_ufo", "guest_announce"];

/// Its properties.
pub const PROPERTIES: &[Property] = &[
    property("netdev", Kind::Text, ""),
    property("mac", Kind::Text, ""),
    property("mq", Kind::Bool, "off"),
    property("host_mtu", Kind::Unsigned(16), "0"),
    property("csum", Kind::Bool, "on"),
    property("guest_csum", Kind::Bool, "on"),
    property("ctrl_guest_offloads", Kind::Bool, "on"),
    property("guest_tso4", Kind::Bool, "on"),
    property("guest_tso6", Kind::Bool, "on"),
    property("guest_ecn", Kind::Bool, "on"),
    property("guest_ufo", Kind::Bool, "off"),
    property("guest_announce", Kind::Bool, "off"),
    property("host_tso4", Kind::Bool, "on"),
    property("host_tso6", Kind::Bool, "on"),
    property("host_ecn", Kind::Bool, "on"),
    property("host_ufo", Kind::Bool, "off"),
    property("mrg_rxbuf", Kind::Bool, "on"),
    property("status", Kind::Bool, "on"),
    property("ctrl_vq", Kind::Bool, "on"),
    property("ctrl_rx", Kind::Bool, "on"),
    property("ctrl_vlan", Kind::Bool, "on"),
    property("ctrl_rx_extra", Kind::Bool, "on"),
    property("ctrl_mac_addr", Kind::Bool, "on"),
    // There is no firmware that would look at it.
    property("bootindex", Kind::Int32, "-1"),
];

/// Where the addresses start that cards have by themselves; QEMU's.
const FIRST_MAC: Mac = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// Checks a `-netdev` list.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_netdev<'a>(group: &Group<'a>) -> Result<(), GroupError<'a>> {
    match group.required("type")? {
        "hubport" => {
            group.only(&["hubid", "queues"])?;
            group.required("id")?;
            group.required("hubid")?;
            group.unsigned("hubid", 32)?;
            queues(group).map(|_| ())
        }
        kind if NOT_YET.contains(&kind) => Err(group.error("type", GroupProblem::NotYet)),
        _ => Err(group.error("type", GroupProblem::NoSuch("netdev backend type"))),
    }
}

/// Pairs of queues that a back end has.
fn queues<'a>(netdev: &Group<'a>) -> Result<u16, GroupError<'a>> {
    match netdev.unsigned("queues", 32)?.unwrap_or(1) {
        queues if (1..=MAX_PAIRS.into()).contains(&queues) => Ok(queues as u16),
        _ => Err(netdev.error("queues", GroupProblem::Expects("a number from 1 to 7"))),
    }
}

/// Checks what the table cannot.
///
/// # Errors
/// The first value that is out of its range.
pub fn check<'a>(device: &Group<'a>) -> Result<(), GroupError<'a>> {
    for key in NEVER {
        if device.bool(key)? == Some(true) {
            return Err(device.error(key, GroupProblem::NotYet));
        }
    }
    if device.id().is_some_and(|id| id.len() > ID_BYTES) {
        return Err(device.error("id", GroupProblem::Expects("100 bytes at most")));
    }
    // The least that IPv4 needs (RFC 791), and that a driver takes.
    if let Some(1..68) = device.unsigned("host_mtu", 16)? {
        return Err(device.error("host_mtu", GroupProblem::Expects("a number from 68 on")));
    }
    match device.str("mac").map(parse_mac) {
        Some(None) => Err(device.error("mac", GroupProblem::Expects("an Ethernet address"))),
        _ => Ok(()),
    }
}

/// Six numbers of two hexadecimal digits, `:` or `-` between them.
fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = Mac::default();
    let mut rest = text.as_bytes();
    for (index, place) in mac.iter_mut().enumerate() {
        if let (1.., [b':' | b'-', behind @ ..]) = (index, rest) {
            rest = behind;
        } else if index != 0 {
            return None;
        }
        let [high, low, behind @ ..] = rest else { return None };
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        *place = (digit(high)? << 4 | digit(low)?) as u8;
        rest = behind;
    }
    rest.is_empty().then_some(mac)
}

/// An address as text.
pub fn mac_text(mac: &Mac) -> String<17> {
    let mut text = String::new();
    for (index, byte) in mac.iter().enumerate() {
        let before = if index == 0 { "" } else { ":" };
        // All of it fits.
        let _ = write!(text, "{before}{byte:02x}");
    }
    text
}

/// The first back end that a test finds, and its number.
fn find<'a>(options: &Options<'a>, test: &dyn Fn(&Group<'a>) -> bool) -> Option<(usize, Group<'a>)> {
    options.groups(GroupKind::Netdev).enumerate().find(|(_, netdev)| test(netdev))
}

/// Makes the device of a `-device` list. All lists have been checked by then.
pub fn make(bench: &mut Bench<'_>, device: &Group<'static>) -> Result<&'static mut dyn Device, MakeError> {
    let wrong = |problem| MakeError { group: *device, problem };
    let number = |key, default| device.number(key).ok().flatten().unwrap_or(default);
    let (mut hub, mut pairs) = (None, 1);
    if let Some(id) = device.str("netdev") {
        let options = bench.options;
        let (index, netdev) = find(options, &|netdev| netdev.id() == Some(id))
            .ok_or_else(|| wrong(Problem::Unknown("netdev", id)))?;
        // There are no more of these than bits.
        let bit = 1u64 << (index & 63);
        if bench.netdevs & bit != 0 {
            return Err(wrong(Problem::InUse("netdev", id)));
        }
        bench.netdevs |= bit;
        // A hub is known by the first port that names it.
        let number = netdev.number("hubid");
        hub = find(options, &|other| other.number("hubid") == number).map(|(first, _)| first as u8);
        pairs = queues(&netdev).unwrap_or(1);
    }
    let mut features = feature::DEFAULT;
    for (key, bit) in FLAGS {
        match device.bool(key) {
            Ok(Some(true)) => features |= bit,
            Ok(Some(false)) => features &= !bit,
            _ => {}
        }
    }
    let mac = match device.str("mac").and_then(parse_mac) {
        Some(mac) => mac,
        None => free_mac(bench),
    };
    let settings = Settings { mac, hub, pairs, features, mtu: number("host_mtu", 0) as u16 };
    bench.macs.push(mac).map_err(|_| wrong(Problem::TooMany))?;
    Ok(place(Net::new(&settings)).ok_or_else(|| wrong(Problem::NoMemory))?)
}

/// The first address that no card has.
fn free_mac(bench: &Bench<'_>) -> Mac {
    let mut mac = FIRST_MAC;
    while bench.macs.contains(&mac) {
        let [.., last] = &mut mac;
        *last = last.wrapping_add(1);
    }
    mac
}

/// How a card is known.
#[derive(Clone, Copy, Debug)]
pub struct Nic {
    /// Its number among all cards, in the order of the command line and of the bus.
    pub index: usize,
    /// The list that it is from.
    group: Group<'static>,
    /// Devices without a name before it.
    anonymous: usize,
}

impl Nic {
    /// Longest name, in bytes.
    pub const NAME_BYTES: usize = ID_BYTES;

    /// The card of that number.
    pub fn nth(options: &Options<'static>, index: usize) -> Option<Self> {
        let is_nic =
            |device: &Group<'_>| super::model(device.driver()).is_some_and(|model| model.name == NAME);
        let (place, group) = options.devices().enumerate().filter(|(_, device)| is_nic(device)).nth(index)?;
        let anonymous = options.devices().take(place).filter(|device| device.id().is_none()).count();
        Some(Self { index, group, anonymous })
    }

    /// Its name: the operator's, or the one that QEMU would give it.
    pub fn name(&self) -> String<ID_BYTES> {
        let mut name = String::new();
        // All of it fits, as `check` has seen to.
        let _ = match self.group.id() {
            Some(id) => name.write_str(id),
            None => write!(name, "{NAME}.{}", self.index),
        };
        name
    }

    /// Its path among the objects.
    pub fn path(&self) -> String<{ ID_BYTES + 40 }> {
        let mut path = String::new();
        // All of it fits, as above.
        let _ = match self.group.id() {
            Some(id) => write!(path, "/machine/peripheral/{id}/virtio-backend"),
            None => write!(path, "/machine/peripheral-anon/device[{}]/virtio-backend", self.anonymous),
        };
        path
    }

    /// Its name, where the operator has given one.
    pub fn id(&self) -> Option<&'static str> {
        self.group.id()
    }

    /// The back end that it is connected to.
    pub fn netdev(&self) -> Option<&'static str> {
        self.group.str("netdev")
    }

    /// Whether a name means it, or the back end that it is connected to.
    pub fn answers_to(&self, name: &str) -> bool {
        self.name() == name || self.netdev() == Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_six_numbers() {
        assert_eq!(parse_mac("52:54:00:12:34:56"), Some(FIRST_MAC));
        assert_eq!(parse_mac("52-54-00-12-34-56"), Some(FIRST_MAC));
        assert_eq!(mac_text(&FIRST_MAC), "52:54:00:12:34:56");
        for text in ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52:54:0:12:34:56", "+2:54:00:12:34:56"] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }

    #[test]
    fn cards_are_known_by_name_and_back_end() {
        let line =
            "-device virtio-rng-pci -device virtio-net-pci,netdev=n0 -device virtio-net,id=x,netdev=n1";
        let line: &'static mut [u8] = Box::leak(line.as_bytes().to_vec().into_boxed_slice());
        let options: &'static Options<'static> = Box::leak(Box::new(Options::parse(line)));
        let nics: Vec<Nic> = (0..).map_while(|index| Nic::nth(options, index)).collect();
        let [first, second] = nics[..] else { panic!("two cards") };
        assert_eq!(first.name(), "virtio-net-pci.0");
        assert_eq!(first.path(), "/machine/peripheral-anon/device[1]/virtio-backend");
        assert_eq!((second.name().as_str(), second.index), ("x", 1));
        assert_eq!(second.path(), "/machine/peripheral/x/virtio-backend");
        assert!(second.answers_to("x") && second.answers_to("n1") && !second.answers_to("n0"));
        assert!(first.answers_to("virtio-net-pci.0") && !first.answers_to(""));
    }
}

//! Which frames a driver wants: by address and by VLAN, as far as the device can keep that, and what it cannot keep too
//! (5.1.6.5.1: a device may let more through).

use super::Mac;

/// Addresses that a filter keeps besides the card's own: as many as QEMU's.
pub const MAC_TABLE: usize = 64;

/// VLANs that there are.
pub const VLANS: u16 = 4096;

const BROADCAST: Mac = [0xff; 6];

/// What comes before a VLAN's number in a frame (IEEE 802.1Q).
const VLAN_TYPE: [u8; 2] = [0x81, 0x00];

/// How much of a kind of frames is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Those of a table.
    Normal,
    /// None.
    None,
    /// All.
    All,
}

/// The filter of a card.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The card's address.
    pub mac: Mac,
    /// Everything is let through.
    pub promiscuous: bool,
    /// All frames to one address each.
    pub all_unicast: bool,
    /// All frames to groups.
    pub all_multicast: bool,
    /// None to one address.
    pub no_unicast: bool,
    /// None to groups.
    pub no_multicast: bool,
    /// None to everybody.
    pub no_broadcast: bool,
    /// The driver has named more single addresses than there is room for.
    pub unicast_overflow: bool,
    /// The driver has named more groups than there is room for.
    pub multicast_overflow: bool,
    /// Single addresses, then groups.
    table: heapless::Vec<Mac, MAC_TABLE>,
    /// How many of them are single addresses.
    unicast: usize,
    /// A bit for each VLAN that the driver is on.
    vlans: [u64; VLANS as usize / 64],
}

impl Filter {
    /// What holds after a reset: everything is let through, but for VLANs.
    pub const fn new(mac: Mac) -> Self {
        Self {
            mac,
            promiscuous: true,
            all_unicast: false,
            all_multicast: false,
            no_unicast: false,
            no_multicast: false,
            no_broadcast: false,
            unicast_overflow: false,
            multicast_overflow: false,
            table: heapless::Vec::new(),
            unicast: 0,
            vlans: [0; VLANS as usize / 64],
        }
    }

    /// Lets all VLANs through.
    pub const fn all_vlans(&mut self) {
        self.vlans = [!0; VLANS as usize / 64];
    }

    /// Lets a VLAN through, or not. False: there is none of that number.
    pub fn set_vlan(&mut self, vlan: u16, on: bool) -> bool {
        let bit = 1 << (vlan % 64);
        match self.vlans.get_mut(usize::from(vlan / 64)) {
            Some(word) if on => *word |= bit,
            Some(word) => *word &= !bit,
            None => return false,
        }
        true
    }

    /// Whether a VLAN is let through.
    pub fn has_vlan(&self, vlan: u16) -> bool {
        self.vlans.get(usize::from(vlan / 64)).is_some_and(|word| word & 1 << (vlan % 64) != 0)
    }

    /// The VLANs that are let through.
    pub fn vlans(&self) -> impl Iterator<Item = u16> + '_ {
        (0..VLANS).filter(|vlan| self.has_vlan(*vlan))
    }

    /// Forgets both tables.
    pub fn clear(&mut self) {
        self.table.clear();
        self.unicast = 0;
        self.unicast_overflow = false;
        self.multicast_overflow = false;
    }

    /// Adds an address to the table of those that are for one card each, or to that of groups; the first table is filled
    /// before the second.
    pub fn add(&mut self, mac: Mac, multicast: bool) {
        let added = self.table.push(mac).is_ok();
        self.unicast += usize::from(added && !multicast);
    }

    /// Addresses that there is still room for.
    pub fn room(&self) -> usize {
        MAC_TABLE - self.table.len()
    }

    /// The table of single addresses, or of groups.
    pub fn table(&self, multicast: bool) -> &[Mac] {
        let (unicast, groups) = self.table.split_at_checked(self.unicast).unwrap_or_default();
        if multicast { groups } else { unicast }
    }

    /// How frames to one address each are let through.
    pub const fn unicast(&self) -> Mode {
        match (self.no_unicast, self.all_unicast) {
            (true, _) => Mode::None,
            (_, true) => Mode::All,
            _ => Mode::Normal,
        }
    }

    /// How frames to groups are let through.
    pub const fn multicast(&self) -> Mode {
        match (self.no_multicast, self.all_multicast) {
            (true, _) => Mode::None,
            (_, true) => Mode::All,
            _ => Mode::Normal,
        }
    }

    /// Whether a frame that starts with these bytes is let through.
    pub fn passes(&self, frame: &[u8]) -> bool {
        let Some((target, rest)) = frame.split_first_chunk::<6>() else { return false };
        if self.promiscuous {
            return true;
        }
        if let Some([VLAN0, VLAN1, high, low]) = rest.get(6..10)
            && !self.has_vlan(u16::from_be_bytes([*high, *low]) % VLANS)
        {
            return false;
        }
        if *target == BROADCAST {
            return !self.no_broadcast;
        }
        let multicast = target[0] & 1 != 0;
        let (mode, overflow) = if multicast {
            (self.multicast(), self.multicast_overflow)
        } else {
            (self.unicast(), self.unicast_overflow)
        };
        match mode {
            Mode::None => false,
            Mode::All => true,
            Mode::Normal => {
                overflow || (!multicast && *target == self.mac) || self.table(multicast).contains(target)
            }
        }
    }
}

const VLAN0: u8 = VLAN_TYPE[0];
const VLAN1: u8 = VLAN_TYPE[1];

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    const OTHER: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x57];
    const GROUP: Mac = [0x33, 0x33, 0, 0, 0, 1];

    fn frame(target: Mac, vlan: Option<u16>) -> Vec<u8> {
        let mut frame = [&target[..], &OTHER].concat();
        if let Some(vlan) = vlan {
            frame.extend([0x81, 0]);
            frame.extend((vlan | 0xe000).to_be_bytes());
        }
        frame.extend([8, 0, 0x45, 0]);
        frame
    }

    fn passed(filter: &Filter) -> [bool; 4] {
        [OWN, OTHER, GROUP, BROADCAST].map(|target| filter.passes(&frame(target, None)))
    }

    #[test]
    fn each_mode_lets_through_what_it_says() {
        let mut filter = Filter::new(OWN);
        assert_eq!(passed(&filter), [true; 4]);
        filter.promiscuous = false;
        assert_eq!(passed(&filter), [true, false, false, true]);
        filter.add(OTHER, false);
        assert_eq!(passed(&filter), [true, true, false, true]);
        filter.add(GROUP, true);
        assert_eq!(passed(&filter), [true; 4]);
        assert_eq!((filter.table(false), filter.table(true)), (&[OTHER][..], &[GROUP][..]));
        filter.no_unicast = true;
        assert_eq!(passed(&filter), [false, false, true, true]);
        (filter.no_multicast, filter.no_broadcast) = (true, true);
        assert_eq!(passed(&filter), [false; 4]);
        filter = Filter { promiscuous: false, all_multicast: true, ..Filter::new(OWN) };
        assert_eq!(passed(&filter), [true, false, true, true]);
        filter.all_unicast = true;
        assert_eq!(passed(&filter), [true; 4]);
        // What could not be kept is let through.
        filter = Filter { promiscuous: false, unicast_overflow: true, ..Filter::new(OWN) };
        assert_eq!(passed(&filter), [true, true, false, true]);
        filter = Filter { promiscuous: false, multicast_overflow: true, ..Filter::new(OWN) };
        assert_eq!(passed(&filter), [true, false, true, true]);
    }

    #[test]
    fn vlans_are_looked_at() {
        let mut filter = Filter { promiscuous: false, ..Filter::new(OWN) };
        assert!(!filter.passes(&frame(OWN, Some(7))) && !filter.passes(&frame(BROADCAST, Some(7))));
        assert!(filter.set_vlan(7, true) && filter.set_vlan(4095, true) && !filter.set_vlan(4096, true));
        assert!(filter.passes(&frame(OWN, Some(7))) && !filter.passes(&frame(OTHER, Some(7))));
        assert!(filter.vlans().eq([7, 4095]));
        assert!(filter.set_vlan(7, false) && !filter.passes(&frame(OWN, Some(7))));
        filter.all_vlans();
        assert!(filter.passes(&frame(OWN, Some(0))) && filter.vlans().count() == 4096);
    }

    #[test]
    fn the_tables_are_full_at_some_point() {
        let mut filter = Filter::new(OWN);
        for index in 0..70 {
            filter.add([2, 0, 0, 0, 0, index], false);
            filter.add([3, 0, 0, 0, 0, index], true);
        }
        assert_eq!((filter.room(), filter.table(false).len() + filter.table(true).len()), (0, MAC_TABLE));
        filter.clear();
        assert_eq!((filter.room(), filter.table(false).len()), (MAC_TABLE, 0));
    }
}

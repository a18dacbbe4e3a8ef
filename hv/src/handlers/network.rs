//! Network cards: their links and their filters.

use core::fmt::Write;

use heapless::{String, Vec};
use monovisor_core::handlers::{Element, Network, Poll};
use monovisor_core::schema::List;
use monovisor_core::schema::net::{QueryRxFilterArgs, RxFilterInfo, RxState, SetLinkArgs};
use monovisor_core::schema::value::Source;
use monovisor_core::{Context, Error, Text};
use monovisor_devices::virtio::Context as VirtioContext;
use monovisor_devices::virtio::net::{Filter, MAC_TABLE, Mac, Mode, Net, feature};

use spin::{Mutex, MutexGuard};

use monovisor_loader::options::GroupKind;

use crate::hypervisor::Hypervisor;
use crate::virtio::{NIC, Nic, mac_text};

/// The filter that was asked for last. All zeros at first, so that it takes no room in the image.
static FILTERED: Mutex<Filtered> = Mutex::new(Filtered {
    name: String::new(),
    filter: {
        let mut filter = Filter::new([0; 6]);
        filter.promiscuous = false;
        filter
    },
    main: String::new(),
    unicast: Macs(Vec::new()),
    multicast: Macs(Vec::new()),
});

/// Addresses as text.
struct Macs(Vec<String<17>, MAC_TABLE>);

impl<'a> Source<'a, &'a str> for Macs {
    fn item(&'a self, index: usize) -> Option<&'a str> {
        self.0.iter().rev().nth(index).map(String::as_str)
    }
}

impl Macs {
    fn set(&mut self, macs: &[Mac]) {
        self.0.clear();
        // There are no more than there is room for.
        self.0.extend(macs.iter().map(mac_text));
    }
}

/// The filter of a card, as it is sent.
pub(crate) struct Filtered {
    name: String<{ Nic::NAME_BYTES }>,
    filter: Filter,
    main: String<17>,
    unicast: Macs,
    multicast: Macs,
}

impl Filtered {
    /// The place where it is kept. May be called once.
    pub(crate) fn take() -> &'static mut Self {
        MutexGuard::leak(FILTERED.lock())
    }
}

impl<'a> Source<'a, i64> for Filtered {
    fn item(&'a self, index: usize) -> Option<i64> {
        self.filter.vlans().nth(index).map(i64::from)
    }
}

const fn state(mode: Mode) -> RxState {
    match mode {
        Mode::Normal => RxState::Normal,
        Mode::None => RxState::None,
        Mode::All => RxState::All,
    }
}

impl Hypervisor<'_> {
    /// The card after `skip` others that a test finds.
    fn find_nic(&self, mut skip: usize, test: &dyn Fn(&Nic) -> bool) -> Option<Nic> {
        self.guest.as_ref()?;
        for index in 0.. {
            let nic = Nic::nth(&self.launch.options, index)?;
            if test(&nic) {
                skip = match skip.checked_sub(1) {
                    Some(skip) => skip,
                    None => return Some(nic),
                };
            }
        }
        None
    }

    /// Works on a card.
    fn with_nic(&mut self, nic: &Nic, work: &mut dyn FnMut(&mut Net, &mut VirtioContext<'_>)) {
        let Some(guest) = &mut self.guest else { return };
        guest.devices(&mut |devices| {
            let now = devices.now();
            let slot = devices.pc.virtio_devices::<Net>().nth(nic.index).map(|(slot, _)| slot);
            if let Some(slot) = slot {
                devices.pc.with_virtio(slot, now, &mut *work);
            }
        });
    }

    /// Writes line `index` of `info network`: each hub with its ports, then the cards that are connected to none. As in QEMU
    /// the newest hub and port come first. False: there are no more lines.
    ///
    /// # Errors
    /// `WouldBlock` where there is no room.
    pub(crate) fn list_network(&mut self, index: usize, text: &mut Text<'_, '_>) -> nb::Result<bool, Error> {
        let mut skip = index;
        // No more than a command line has room for.
        let ends = || self.launch.options.groups(GroupKind::Netdev);
        let hub = |end: usize| ends().nth(end).and_then(|end| end.number("hubid").ok().flatten());
        let mut pass = || skip.checked_sub(1).map(|rest| skip = rest).is_none();
        let count = ends().count();
        for first in (0..count).rev().filter(|&first| (0..first).all(|end| hub(end) != hub(first))) {
            if pass() {
                return text.write(format_args!("hub {}\n", hub(first).unwrap_or_default())).map(|()| true);
            }
            for port in (0..count).rev().filter(|&port| hub(port) == hub(first)) {
                if pass() {
                    let name = ends().nth(port).and_then(|end| end.id()).unwrap_or_default();
                    let nic = self.find_nic(0, &|nic| nic.netdev() == Some(name));
                    return self.list_client(nic, Some(name), text);
                }
            }
        }
        match self.find_nic(skip, &|nic| nic.netdev().is_none()) {
            None => Ok(false),
            alone => self.list_client(alone, None, text),
        }
    }

    /// A line of `info network`: a card, behind the port that it is connected to.
    fn list_client(
        &mut self,
        nic: Option<Nic>,
        port: Option<&str>,
        text: &mut Text<'_, '_>,
    ) -> nb::Result<bool, Error> {
        let (before, port, after) = if let Some(port) = port { (" \\ ", port, ": ") } else { ("", "", "") };
        let Some(nic) = nic else { return text.write(format_args!("{before}{port}\n")).map(|()| true) };
        let (mut mac, mut dropped) = (Mac::default(), 0);
        self.with_nic(&nic, &mut |net, _| (mac, dropped) = (net.mac(), net.dropped()));
        let mut lost = String::<32>::new();
        if dropped != 0 {
            // It fits. QEMU does not count them.
            let _ = write!(lost, ",dropped={dropped}");
        }
        let (name, mac) = (nic.name(), mac_text(&mac));
        let line =
            format_args!("{before}{port}{after}{name}: index=0,type=nic,model={NIC},macaddr={mac}{lost}\n");
        text.write(line).map(|()| true)
    }

    /// The next card whose filter has changed since the last question.
    pub(crate) fn filter_change(&mut self) -> Option<Nic> {
        let mut changed = None;
        self.guest.as_mut()?.devices(&mut |devices| {
            changed = devices.pc.virtio_devices::<Net>().position(|(_, net)| net.has_filter_change());
        });
        let nic = Nic::nth(&self.launch.options, changed?)?;
        self.with_nic(&nic, &mut |net, _| {
            net.take_filter_change();
        });
        Some(nic)
    }
}

impl Network for Hypervisor<'_> {
    fn set_link(&mut self, arguments: SetLinkArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        let nic = self.find_nic(0, &|nic| nic.answers_to(arguments.name));
        let nic = nic.ok_or_else(|| Error::device_not_found(arguments.name))?;
        self.with_nic(&nic, &mut |net, cx| net.set_link(arguments.up, cx));
        Ok(())
    }

    fn query_rx_filter(
        &mut self,
        arguments: QueryRxFilterArgs<'_>,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<RxFilterInfo<'_>> {
        let wanted = arguments.name;
        let nic = self.find_nic(index, &|nic| wanted.is_none_or(|wanted| nic.name() == wanted));
        let Some(nic) = nic else {
            return match (wanted, index) {
                (None, _) | (_, 1..) => Ok(None),
                (Some(name), 0) if self.find_nic(0, &|nic| nic.answers_to(name)).is_some() => {
                    Err(Error::generic(format_args!("net client({name}) isn't a NIC")))
                }
                (Some(name), 0) => Err(Error::generic(format_args!("invalid net client name: {name}"))),
            };
        };
        let mut by_vlan = false;
        let mut filter = Filter::new(Mac::default());
        self.with_nic(&nic, &mut |net, cx| {
            by_vlan = cx.has(feature::CTRL_VLAN);
            filter.clone_from(net.query_filter());
        });
        let kept = &mut *self.rx_filter;
        kept.name = nic.name();
        kept.main = mac_text(&filter.mac);
        kept.unicast.set(filter.table(false));
        kept.multicast.set(filter.table(true));
        kept.filter = filter;
        let filter = &kept.filter;
        Ok(Some(RxFilterInfo {
            name: &kept.name,
            promiscuous: filter.promiscuous,
            multicast: state(filter.multicast()),
            unicast: state(filter.unicast()),
            vlan: match filter.vlans().next() {
                _ if !by_vlan => RxState::All,
                None => RxState::None,
                Some(_) => RxState::Normal,
            },
            broadcast_allowed: !filter.no_broadcast,
            multicast_overflow: filter.multicast_overflow,
            unicast_overflow: filter.unicast_overflow,
            main_mac: &kept.main,
            vlan_table: List::From(&*kept),
            unicast_table: List::From(&kept.unicast),
            multicast_table: List::From(&kept.multicast),
        }))
    }
}

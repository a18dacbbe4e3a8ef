//! Network cards: their links and their filters.

use heapless::{String, Vec};
use monovisor_core::handlers::{Element, Network, Poll};
use monovisor_core::schema::List;
use monovisor_core::schema::net::{QueryRxFilterArgs, RxFilterInfo, RxState, SetLinkArgs};
use monovisor_core::schema::value::Source;
use monovisor_core::{Context, Error};
use monovisor_devices::virtio::Context as VirtioContext;
use monovisor_devices::virtio::net::{Filter, MAC_TABLE, Mac, Mode, Net, feature};

use crate::hypervisor::Hypervisor;
use crate::virtio::{Nic, mac_text};

/// Addresses as text.
struct Macs(Vec<String<17>, MAC_TABLE>);

impl<'a> Source<'a, &'a str> for Macs {
    fn item(&'a self, index: usize) -> Option<&'a str> {
        self.0.iter().rev().nth(index).map(String::as_str)
    }
}

impl Macs {
    fn new(macs: &[Mac]) -> Self {
        Self(macs.iter().map(mac_text).collect())
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
    /// Nothing.
    pub(crate) const NONE: Self = Self {
        name: String::new(),
        filter: Filter::new([0; 6]),
        main: String::new(),
        unicast: Macs(Vec::new()),
        multicast: Macs(Vec::new()),
    };
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
    /// The cards.
    fn nics(&self) -> impl Iterator<Item = Nic> + '_ {
        let options = if self.guest.is_some() { Some(&self.launch.options) } else { None };
        (0..).map_while(move |index| Nic::nth(options?, index))
    }

    /// Works on a card.
    fn with_nic<R>(
        &mut self,
        nic: &Nic,
        mut work: impl FnMut(&mut Net, &mut VirtioContext<'_>) -> R,
    ) -> Option<R> {
        let mut result = None;
        self.guest.as_mut()?.devices(&mut |devices| {
            let now = devices.now();
            let slot = devices.pc.virtio_slots::<Net>().nth(nic.index);
            result = slot.and_then(|slot| devices.pc.with_virtio(slot, now, &mut work));
        });
        result
    }

    /// The next card whose filter has changed since the last question.
    pub(crate) fn filter_change(&mut self) -> Option<Nic> {
        for index in 0.. {
            let nic = self.nics().nth(index)?;
            if self.with_nic(&nic, |net, _| net.take_filter_change()) == Some(true) {
                return Some(nic);
            }
        }
        None
    }
}

impl Network for Hypervisor<'_> {
    fn set_link(&mut self, arguments: SetLinkArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        let nic = self.nics().find(|nic| nic.answers_to(arguments.name));
        let done = nic.and_then(|nic| self.with_nic(&nic, |net, cx| net.set_link(arguments.up, cx)));
        Ok(done.ok_or_else(|| Error::device_not_found(arguments.name))?)
    }

    fn query_rx_filter(
        &mut self,
        arguments: QueryRxFilterArgs<'_>,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<RxFilterInfo<'_>> {
        let wanted = arguments.name;
        let nic = self.nics().filter(|nic| wanted.is_none_or(|wanted| nic.name() == wanted)).nth(index);
        let Some(nic) = nic else {
            return match (wanted, index) {
                (None, _) | (_, 1..) => Ok(None),
                (Some(name), 0) if self.nics().any(|nic| nic.answers_to(name)) => {
                    Err(Error::generic(format_args!("net client({name}) isn't a NIC")))
                }
                (Some(name), 0) => Err(Error::generic(format_args!("invalid net client name: {name}"))),
            };
        };
        let found = self.with_nic(&nic, |net, cx| (net.query_filter().clone(), cx.has(feature::CTRL_VLAN)));
        let Some((filter, by_vlan)) = found else { return Ok(None) };
        let kept = &mut self.rx_filter;
        *kept = Filtered {
            name: nic.name(),
            main: mac_text(&filter.mac),
            unicast: Macs::new(filter.table(false)),
            multicast: Macs::new(filter.table(true)),
            filter,
        };
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

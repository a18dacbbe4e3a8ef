//! The network card (virtio 1.2, 5.1).
//!
//! | module | what |
//! |---|---|
//! | `header` | what comes before each frame: checksums and segments that are left to others |
//! | `filter` | which frames the driver wants |
//! | `control` | the driver's commands |
//! | `hub` | from one card to the others |
//! | `segment` | checksums and segments for a driver that cannot take what another one has left out |
//!
//! A card has pairs of queues, one for frames that it receives (even numbers) and one for those that it sends, and behind
//! them the one for commands. What a driver sends stays in its queue until the hub takes it.

mod control;
mod filter;
mod header;
pub mod hub;
mod segment;

pub use filter::{Filter, MAC_TABLE, Mode, VLANS};

use super::{CONFIG_SIZE, Context, Device, Kind, MAX_QUEUE_SIZE, MAX_QUEUES};

/// A hardware address.
pub type Mac = [u8; 6];

/// Most pairs of queues: with the one for commands no more fit.
pub const MAX_PAIRS: u16 = (MAX_QUEUES as u16 - 1) / 2;

/// Hubs that there can be: each card has one at most.
pub const MAX_HUBS: usize = 16;

/// Feature bits (5.1.3).
pub mod feature {
    /// The device takes frames without a checksum.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes frames without a checksum.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The driver can switch what it takes.
    pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    /// There is a largest frame.
    pub const MTU: u64 = 1 << 3;
    /// The device has an address.
    pub const MAC: u64 = 1 << 5;
    /// The driver takes TCP over IPv4 that is not cut into segments.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The same over IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// Also with ECN.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// The device takes TCP over IPv4 that is not cut into segments.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The same over IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// Also with ECN.
    pub const HOST_ECN: u64 = 1 << 13;
    /// A frame may be put into several buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The configuration says whether there is a link.
    pub const STATUS: u64 = 1 << 16;
    /// There is a queue for commands.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// With commands for what is received.
    pub const CTRL_RX: u64 = 1 << 18;
    /// With commands for VLANs.
    pub const CTRL_VLAN: u64 = 1 << 19;
    /// With more commands for what is received.
    pub const CTRL_RX_EXTRA: u64 = 1 << 20;
    /// There can be several pairs of queues.
    pub const MQ: u64 = 1 << 22;
    /// With a command for the address.
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;

    /// What a driver takes, and can switch by a command (5.1.6.5.8).
    pub const OFFLOADS: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN;
    /// All that are offered where the operator says nothing else, and that are for him to withhold.
    pub const DEFAULT: u64 = OFFLOADS
        | CSUM
        | CTRL_GUEST_OFFLOADS
        | HOST_TSO4
        | HOST_TSO6
        | HOST_ECN
        | MRG_RXBUF
        | STATUS
        | CTRL_VQ
        | CTRL_RX
        | CTRL_VLAN
        | CTRL_RX_EXTRA
        | CTRL_MAC_ADDR;
    /// Those that mean nothing without a queue for commands.
    pub const NEED_CTRL_VQ: u64 =
        CTRL_GUEST_OFFLOADS | CTRL_RX | CTRL_VLAN | CTRL_RX_EXTRA | CTRL_MAC_ADDR | MQ;
}

/// Link status (5.1.4): up.
const LINK_UP: u8 = 1;

/// Entries that a card keeps of which pair a flow uses.
const FLOWS: usize = 128;

/// What the operator sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Address at power-up.
    pub mac: Mac,
    /// Hub that it is on, below [`MAX_HUBS`]; without one it sends to nobody.
    pub hub: Option<u8>,
    /// Pairs of queues, 1 to [`MAX_PAIRS`].
    pub pairs: u16,
    /// Features of [`feature::DEFAULT`] and MQ to offer.
    pub features: u64,
    /// Largest frame that the driver is to send, without its header, in bytes; 0: it is not told.
    pub mtu: u16,
}

/// A network card.
#[derive(Debug)]
pub struct Net {
    settings: Settings,
    filter: Filter,
    /// The cable is plugged in.
    link: bool,
    /// Pairs that the driver receives on.
    pairs: u16,
    /// What of [`feature::OFFLOADS`] the driver takes now.
    offloads: u64,
    /// Pairs whose frames wait to be sent, a bit each.
    sending: u16,
    /// The pair that is to be served first.
    turn: u16,
    /// Frames wait until there is room for them, or until then.
    patience: Option<u64>,
    /// They have waited long enough: nothing does until a frame has found room.
    impatient: bool,
    /// The driver has added buffers for what it receives.
    refilled: bool,
    /// The pair that the driver sends the frames of a flow on.
    flows: [u8; FLOWS],
    /// Frames that nobody has got although they were for somebody.
    dropped: u64,
    /// The services want to know of the next change of the filter.
    notify_filter: bool,
    /// The filter has changed, and they have not heard of it.
    filter_changed: bool,
}

impl Net {
    /// A card.
    pub const fn new(settings: &Settings) -> Self {
        let mut settings = *settings;
        if settings.pairs == 0 {
            settings.pairs = 1;
        } else if settings.pairs > MAX_PAIRS {
            settings.pairs = MAX_PAIRS;
        }
        if settings.features & feature::CTRL_VQ == 0 {
            settings.features &= !feature::NEED_CTRL_VQ;
        }
        if settings.features & feature::MQ == 0 {
            settings.pairs = 1;
        }
        Self {
            settings,
            filter: Filter::new(settings.mac),
            link: true,
            pairs: 1,
            offloads: 0,
            sending: 0,
            turn: 0,
            patience: None,
            impatient: false,
            refilled: false,
            flows: [u8::MAX; FLOWS],
            dropped: 0,
            notify_filter: true,
            filter_changed: false,
        }
    }

    /// Which frames it lets through. Whoever asks wants to know of the next change again.
    pub const fn query_filter(&mut self) -> &Filter {
        self.notify_filter = true;
        &self.filter
    }

    /// The filter has changed, which has not been taken yet.
    pub const fn has_filter_change(&self) -> bool {
        self.filter_changed
    }

    /// Whether the filter has changed; said once, until [`Net::query_filter`] is called.
    pub const fn take_filter_change(&mut self) -> bool {
        core::mem::replace(&mut self.filter_changed, false)
    }

    /// The address that it has now.
    pub const fn mac(&self) -> Mac {
        self.filter.mac
    }

    /// Frames that were for a card without room, or broke a rule.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Plugs the cable in or pulls it out.
    pub fn set_link(&mut self, up: bool, cx: &mut Context<'_>) {
        if core::mem::replace(&mut self.link, up) != up && cx.has(feature::STATUS) {
            cx.config_changed();
        }
    }

    /// The queue for commands, where the driver expects it (5.1.2).
    const fn control_queue(&self, cx: &Context<'_>) -> u16 {
        if cx.has(feature::MQ) { self.settings.pairs * 2 } else { 2 }
    }
}

impl Device for Net {
    fn kind(&self) -> Kind {
        Kind { id: 1, class: 0x02_0000 }
    }

    fn features(&self) -> u64 {
        let mtu = if self.settings.mtu == 0 { 0 } else { feature::MTU };
        feature::MAC | mtu | self.settings.features & (feature::DEFAULT | feature::MQ)
    }

    fn queues(&self) -> u16 {
        self.settings.pairs * 2 + if self.settings.features & feature::CTRL_VQ != 0 { 1 } else { 0 }
    }

    fn queue_size(&self, _: u16) -> u16 {
        MAX_QUEUE_SIZE
    }

    fn config_size(&self) -> u16 {
        12
    }

    fn config(&self, config: &mut [u8; CONFIG_SIZE]) {
        let [m0, m1, m2, m3, m4, m5] = self.filter.mac;
        let [p0, p1] = self.settings.pairs.to_le_bytes();
        let [s0, s1] = self.settings.mtu.to_le_bytes();
        let status = if self.link { LINK_UP } else { 0 };
        for (place, byte) in config.iter_mut().zip([m0, m1, m2, m3, m4, m5, status, 0, p0, p1, s0, s1]) {
            *place = byte;
        }
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        self.offloads = 0;
        for bit in 0..u64::BITS {
            if feature::OFFLOADS & 1 << bit != 0 && cx.has(1 << bit) {
                self.offloads |= 1 << bit;
            }
        }
        // A driver that cannot say which VLANs it is on is on all.
        if !cx.has(feature::CTRL_VLAN) {
            self.filter.all_vlans();
        }
        // There may be frames for it.
        self.refilled = true;
        cx.forward();
    }

    fn notify(&mut self, queue: u16, cx: &mut Context<'_>) {
        if cx.has(feature::CTRL_VQ) && queue == self.control_queue(cx) {
            return self.commands(cx);
        }
        if queue & 1 == 0 {
            self.refilled = true;
        } else {
            self.sending |= 1 << (queue / 2).min(15);
        }
        cx.forward();
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        if self.patience.is_some_and(|until| until <= cx.now()) {
            self.patience = None;
            self.impatient = true;
        }
        if cx.has(feature::CTRL_VQ) {
            self.commands(cx);
        }
        // Also what was made available while nobody looked.
        self.sending = !0 >> (16 - self.settings.pairs.min(16));
        self.refilled = true;
        cx.forward();
    }

    fn deadline(&self) -> Option<u64> {
        self.patience
    }

    fn reset(&mut self) {
        // What the operator has set stays: address, link, and whether he wants to hear of the filter.
        let Self { settings, link, dropped, notify_filter, filter_changed, .. } = *self;
        *self = Self { link, dropped, notify_filter, filter_changed, ..Self::new(&settings) };
    }
}

#[cfg(test)]
mod tests;

//! The driver's commands (5.1.6.5): each is a chain with class, command and data to read, and a byte for the answer.

use super::super::{Context, Part, QueueError};
use super::{Mac, Net, feature};

/// Commands that are carried out in one call.
const STEP: u32 = 32;

const CLASS_RX: u8 = 0;
const CLASS_MAC: u8 = 1;
const CLASS_VLAN: u8 = 2;
const CLASS_MQ: u8 = 4;
const CLASS_OFFLOADS: u8 = 5;

const ACK_OK: u8 = 0;
const ACK_ERROR: u8 = 1;

/// What a command had to say: whether it has been carried out, or what is wrong with its chain.
type Outcome = Result<bool, QueueError>;

/// Reads `length` bytes, 8 at most, of a command from byte `offset` on, and zeros behind them. `None`: it is shorter.
fn read(cx: &Context<'_>, offset: u64, length: usize) -> Result<Option<[u8; 8]>, QueueError> {
    let mut bytes = [0; 8];
    let place = bytes.get_mut(..length).unwrap_or_default();
    let known = cx.chain().read(cx.memory(), offset, place)?;
    Ok((known == length).then_some(bytes))
}

/// The address that is read so.
const fn address(bytes: [u8; 8]) -> Mac {
    let [m0, m1, m2, m3, m4, m5, ..] = bytes;
    [m0, m1, m2, m3, m4, m5]
}

impl Net {
    /// Carries out the commands that there are.
    pub(super) fn commands(&mut self, cx: &mut Context<'_>) {
        let queue = self.control_queue(cx);
        for _ in 0..STEP {
            let Some(head) = cx.next(queue) else { return cx.signal(queue) };
            if cx.chain().length(Part::Writable) == 0 {
                return cx.fail(QueueError::Request);
            }
            let done = match self.command(cx) {
                Ok(done) => done,
                Err(error) => return cx.fail(error),
            };
            let answer = if done { ACK_OK } else { ACK_ERROR };
            if let Err(error) = cx.chain().write(cx.memory(), 0, &[answer]) {
                return cx.fail(error);
            }
            cx.complete(queue, head, 1);
        }
        cx.signal(queue);
        cx.again();
    }

    fn command(&mut self, cx: &mut Context<'_>) -> Outcome {
        let Some([class, command, ..]) = read(cx, 0, 2)? else { return Ok(false) };
        // How much data there has to be, and the feature with which the command is there.
        let (length, needed) = match (class, command) {
            (CLASS_RX, 0..=1) => (1, feature::CTRL_RX),
            (CLASS_RX, 2..=5) => (1, feature::CTRL_RX_EXTRA),
            (CLASS_MAC, 0) => (0, feature::CTRL_RX),
            (CLASS_MAC, 1) => (6, feature::CTRL_MAC_ADDR),
            (CLASS_VLAN, 0..=1) => (2, feature::CTRL_VLAN),
            (CLASS_MQ, 0) => (2, feature::MQ),
            (CLASS_OFFLOADS, 0) => (8, feature::CTRL_GUEST_OFFLOADS),
            _ => return Ok(false),
        };
        let Some(data) = read(cx, 2, length)? else { return Ok(false) };
        if !cx.has(needed) {
            return Ok(false);
        }
        let number = u64::from_le_bytes(data);
        let done = match class {
            CLASS_RX => {
                let filter = &mut self.filter;
                let modes = [
                    &mut filter.promiscuous,
                    &mut filter.all_multicast,
                    &mut filter.all_unicast,
                    &mut filter.no_multicast,
                    &mut filter.no_unicast,
                    &mut filter.no_broadcast,
                ];
                for (mode, place) in (0..).zip(modes) {
                    if mode == command {
                        *place = number != 0;
                    }
                }
                true
            }
            CLASS_MAC if command == 0 => self.set_table(cx)?,
            CLASS_MAC => {
                self.filter.mac = address(data);
                true
            }
            CLASS_VLAN => self.filter.set_vlan(number as u16, command == 0),
            CLASS_MQ => {
                let possible = (1..=u64::from(self.settings.pairs)).contains(&number);
                if possible {
                    self.pairs = number as u16;
                }
                return Ok(possible);
            }
            _ => {
                let possible = number & !feature::OFFLOADS == 0 && cx.has(number);
                if possible {
                    self.offloads = number;
                }
                return Ok(possible);
            }
        };
        if done && self.notify_filter {
            self.notify_filter = false;
            self.filter_changed = true;
            cx.tell();
        }
        Ok(done)
    }

    /// Replaces both tables of addresses. Of a table that there is no room for it is kept that it would be longer.
    fn set_table(&mut self, cx: &Context<'_>) -> Outcome {
        let mut at = 2u64;
        self.filter.clear();
        for multicast in [false, true] {
            let Some(count) = read(cx, at, 4)? else { return Ok(false) };
            let count = u64::from_le_bytes(count);
            at += 4;
            let end = at + count * 6;
            if end > cx.chain().length(Part::Readable) {
                return Ok(false);
            }
            if count > self.filter.room() as u64 {
                if multicast {
                    self.filter.multicast_overflow = true;
                } else {
                    self.filter.unicast_overflow = true;
                }
                at = end;
                continue;
            }
            while at < end {
                let Some(mac) = read(cx, at, 6)? else { return Ok(false) };
                self.filter.add(address(mac), multicast);
                at += 6;
            }
        }
        Ok(true)
    }
}

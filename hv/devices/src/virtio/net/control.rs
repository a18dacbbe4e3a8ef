//! The driver's commands (5.1.6.5): each is a chain with class, command and data to read, and a byte for the answer.

use super::super::{Context, Part, QueueError};
use super::{Net, feature};

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

/// Reads `N` bytes of the command that starts `offset` bytes from its beginning. `None`: it is shorter.
fn read<const N: usize>(cx: &Context<'_>, offset: u64) -> Result<Option<[u8; N]>, QueueError> {
    let mut bytes = [0; N];
    let length = cx.chain().read(cx.memory(), offset, &mut bytes)?;
    Ok((length == N).then_some(bytes))
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
        let Some([class, command]) = read(cx, 0)? else { return Ok(false) };
        let done = match class {
            CLASS_RX => self.set_mode(command, cx)?,
            CLASS_MAC => match command {
                0 if cx.has(feature::CTRL_RX) => self.set_table(cx)?,
                1 if cx.has(feature::CTRL_MAC_ADDR) => match read(cx, 2)? {
                    Some(mac) => {
                        self.filter.mac = mac;
                        true
                    }
                    None => false,
                },
                _ => false,
            },
            CLASS_VLAN if cx.has(feature::CTRL_VLAN) && command <= 1 => match read(cx, 2)? {
                Some(vlan) => self.filter.set_vlan(u16::from_le_bytes(vlan), command == 0),
                None => false,
            },
            CLASS_MQ if cx.has(feature::MQ) && command == 0 => {
                let pairs = read(cx, 2)?.map_or(0, u16::from_le_bytes);
                let possible = (1..=self.settings.pairs).contains(&pairs);
                if possible {
                    self.pairs = pairs;
                }
                return Ok(possible);
            }
            CLASS_OFFLOADS if cx.has(feature::CTRL_GUEST_OFFLOADS) && command == 0 => {
                let Some(bytes) = read(cx, 2)? else { return Ok(false) };
                let offloads = u64::from_le_bytes(bytes);
                let possible = offloads & !feature::OFFLOADS == 0 && cx.has(offloads);
                if possible {
                    self.offloads = offloads;
                }
                return Ok(possible);
            }
            _ => false,
        };
        if done && self.notify_filter {
            self.notify_filter = false;
            self.filter_changed = true;
            cx.tell();
        }
        Ok(done)
    }

    fn set_mode(&mut self, command: u8, cx: &Context<'_>) -> Outcome {
        let needed = if command <= 1 { feature::CTRL_RX } else { feature::CTRL_RX_EXTRA };
        let filter = &mut self.filter;
        let mode = match command {
            0 => &mut filter.promiscuous,
            1 => &mut filter.all_multicast,
            2 => &mut filter.all_unicast,
            3 => &mut filter.no_multicast,
            4 => &mut filter.no_unicast,
            5 => &mut filter.no_broadcast,
            _ => return Ok(false),
        };
        match read(cx, 2)? {
            Some([on]) if cx.has(needed) => *mode = on != 0,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Replaces both tables of addresses. Of a table that there is no room for it is kept that it would be longer.
    fn set_table(&mut self, cx: &Context<'_>) -> Outcome {
        let mut at = 2u64;
        self.filter.clear();
        for multicast in [false, true] {
            let Some(count) = read(cx, at)? else { return Ok(false) };
            let count = u64::from(u32::from_le_bytes(count));
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
                let Some(mac) = read(cx, at)? else { return Ok(false) };
                self.filter.add(mac, multicast);
                at += 6;
            }
        }
        Ok(true)
    }
}

//! A PS/2 mouse with the wheel and five-button extensions (IBM PS/2 Hardware Interface Technical Reference, "Mouse";
//! the extensions are IntelliMouse's, asked for by a sequence of sample rates).

use super::{ACKNOWLEDGE, PASSED, RESEND};
use heapless::Deque;

/// Bytes that wait for the controller: four packets.
pub const QUEUE: usize = 16;

/// Buttons, one bit each.
pub mod button {
    #![allow(missing_docs)]
    pub const LEFT: u8 = 1;
    pub const RIGHT: u8 = 1 << 1;
    pub const MIDDLE: u8 = 1 << 2;
    pub const SIDE: u8 = 1 << 3;
    pub const EXTRA: u8 = 1 << 4;
}

/// A command whose parameter comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Resolution,
    SampleRate,
}

/// The mouse.
#[derive(Clone, Debug)]
pub struct Mouse {
    queue: Deque<u8, QUEUE>,
    last: u8,
    awaits: Option<Awaits>,
    /// 0 plain, 3 with wheel, 4 with five buttons.
    id: u8,
    /// The last three sample rates, newest last.
    rates: [u8; 3],
    rate: u8,
    resolution: u8,
    double: bool,
    remote: bool,
    wrap: bool,
    reporting: bool,
    buttons: u8,
    dx: i32,
    dy: i32,
    dz: i32,
    changed: bool,
}

impl Mouse {
    /// State after power-up.
    pub const fn new() -> Self {
        Self {
            queue: Deque::new(),
            last: 0,
            awaits: None,
            id: 0,
            rates: [0; 3],
            rate: 100,
            resolution: 2,
            double: false,
            remote: false,
            wrap: false,
            reporting: false,
            buttons: 0,
            dx: 0,
            dy: 0,
            dz: 0,
            changed: false,
        }
    }

    /// The next byte for the controller.
    pub fn take(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        if byte != RESEND {
            self.last = byte;
        }
        if self.queue.is_empty() {
            self.stream();
        }
        Some(byte)
    }

    /// A byte waits for the controller.
    pub fn has_output(&self) -> bool {
        !self.queue.is_empty()
    }

    fn send(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let _ = self.queue.push_back(*byte);
        }
    }

    /// The mouse moves right by `dx`, up by `dy`, the wheel towards the user by `dz`, with these buttons down.
    /// What finds no room yet adds up.
    pub fn event(&mut self, dx: i32, dy: i32, dz: i32, buttons: u8) {
        self.changed |= (dx, dy, dz) != (0, 0, 0) || buttons != self.buttons;
        self.dx = self.dx.saturating_add(dx);
        self.dy = self.dy.saturating_add(dy);
        self.dz = self.dz.saturating_add(dz);
        self.buttons = buttons & 0x1f;
        self.stream();
    }

    /// In stream mode, sends what has changed while there is room for a packet.
    fn stream(&mut self) {
        if !self.reporting || self.remote || self.wrap {
            return;
        }
        while self.changed && self.queue.len() + 4 <= QUEUE {
            self.packet();
        }
    }

    /// Queues one packet; movement beyond its range stays for the next.
    fn packet(&mut self) {
        let dx = self.dx.clamp(-256, 255);
        let dy = self.dy.clamp(-256, 255);
        self.dx -= dx;
        self.dy -= dy;
        let first = self.buttons & 7 | 0x08 | u8::from(dx < 0) << 4 | u8::from(dy < 0) << 5;
        self.send(&[first, dx as u8, dy as u8]);
        match self.id {
            3 => {
                let dz = self.dz.clamp(-127, 127);
                self.dz -= dz;
                self.send(&[dz as u8]);
            }
            4 => {
                let dz = self.dz.clamp(-7, 7);
                self.dz -= dz;
                self.send(&[dz as u8 & 0x0f | (self.buttons & 0x18) << 1]);
            }
            _ => self.dz = 0,
        }
        self.changed = (self.dx, self.dy, self.dz) != (0, 0, 0);
    }

    fn forget_movement(&mut self) {
        (self.dx, self.dy, self.dz) = (0, 0, 0);
        self.changed = false;
    }

    fn defaults(&mut self) {
        self.rate = 100;
        self.resolution = 2;
        self.double = false;
        self.remote = false;
        self.reporting = false;
        self.forget_movement();
    }

    /// The controller passes on a byte from the guest.
    pub fn write(&mut self, value: u8) {
        if self.wrap && !matches!(value, 0xec | 0xff) {
            return self.send(&[value]);
        }
        // A command ends what was on its way.
        self.queue.clear();
        if let Some(awaits) = self.awaits.take() {
            return self.parameter(awaits, value);
        }
        match value {
            0xe6 => self.double = false,
            0xe7 => self.double = true,
            0xe8 => self.awaits = Some(Awaits::Resolution),
            0xe9 => {
                let status = self.status();
                return self.send(&[ACKNOWLEDGE, status, self.resolution, self.rate]);
            }
            0xea => self.remote = false,
            0xeb => {
                self.send(&[ACKNOWLEDGE]);
                return self.packet();
            }
            0xec => self.wrap = false,
            0xee => self.wrap = true,
            0xf0 => self.remote = true,
            0xf2 => return self.send(&[ACKNOWLEDGE, self.id]),
            0xf3 => self.awaits = Some(Awaits::SampleRate),
            0xf4 => {
                self.forget_movement();
                self.reporting = true;
            }
            0xf5 => self.reporting = false,
            0xf6 => self.defaults(),
            0xfe => {
                let last = self.last;
                return self.send(&[last]);
            }
            0xff => {
                let buttons = self.buttons;
                *self = Self { buttons, ..Self::new() };
                return self.send(&[ACKNOWLEDGE, PASSED, self.id]);
            }
            _ => return self.send(&[RESEND]),
        }
        self.send(&[ACKNOWLEDGE]);
    }

    fn status(&self) -> u8 {
        let left = self.buttons & button::LEFT;
        let right = self.buttons >> 1 & 1;
        let middle = self.buttons >> 2 & 1;
        u8::from(self.remote) << 6
            | u8::from(self.reporting) << 5
            | u8::from(self.double) << 4
            | left << 2
            | middle << 1
            | right
    }

    fn parameter(&mut self, awaits: Awaits, value: u8) {
        match awaits {
            Awaits::Resolution => self.resolution = value & 3,
            Awaits::SampleRate => {
                self.rate = value;
                self.rates = [self.rates[1], self.rates[2], value];
                match (self.rates, self.id) {
                    ([200, 100, 80], _) => self.id = 3,
                    ([200, 200, 80], _) => self.id = 4,
                    _ => {}
                }
            }
        }
        self.send(&[ACKNOWLEDGE]);
    }
}

impl Default for Mouse {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mouse: &mut Mouse) -> Vec<u8> {
        core::iter::from_fn(|| mouse.take()).collect()
    }

    fn answer(mouse: &mut Mouse, bytes: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        for byte in bytes {
            mouse.write(*byte);
            all.extend(drain(mouse));
        }
        all
    }

    #[test]
    fn commands() {
        let mut mouse = Mouse::new();
        for (bytes, expected) in [
            (&[0xff][..], &[0xfa, 0xaa, 0x00][..]),
            (&[0xf2], &[0xfa, 0x00]),
            (&[0xe9], &[0xfa, 0x00, 2, 100]),
            (&[0xe8, 3], &[0xfa, 0xfa]),
            (&[0xf3, 40], &[0xfa, 0xfa]),
            (&[0xe7], &[0xfa]),
            (&[0xf4], &[0xfa]),
            (&[0xe9], &[0xfa, 0x30, 3, 40]),
            (&[0xee, 0x12, 0xf2, 0xec], &[0xfa, 0x12, 0xf2, 0xfa]),
            (&[0xf0, 0xeb], &[0xfa, 0xfa, 0x08, 0, 0]),
            (&[0xf6, 0xe9], &[0xfa, 0xfa, 0x00, 2, 100]),
            (&[0x01], &[0xfe]),
        ] {
            assert_eq!(answer(&mut mouse, bytes), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn the_sequences_that_ask_for_wheel_and_buttons() {
        let mut mouse = Mouse::new();
        answer(&mut mouse, &[0xf3, 200, 0xf3, 100, 0xf3, 80]);
        assert_eq!(answer(&mut mouse, &[0xf2]), [0xfa, 3]);
        answer(&mut mouse, &[0xf3, 200, 0xf3, 200, 0xf3, 80]);
        assert_eq!(answer(&mut mouse, &[0xf2, 0xf4]), [0xfa, 4, 0xfa]);
        mouse.event(1, -2, -3, button::LEFT | button::EXTRA);
        assert_eq!(drain(&mut mouse), [0x29, 1, 0xfe, 0x2d]);
    }

    #[test]
    fn movement_adds_up_and_is_cut_into_packets() {
        let mut mouse = Mouse::new();
        mouse.event(5, 5, 0, 0);
        assert!(!mouse.has_output(), "not reporting");
        answer(&mut mouse, &[0xf4]);
        mouse.event(300, -300, 0, 0);
        assert_eq!(drain(&mut mouse), [0x28, 255, 0, 0x28, 45, 0xd4]);
        for _ in 0..1000 {
            mouse.event(i32::MAX, i32::MIN, i32::MAX, 0xff);
        }
        assert!(mouse.has_output());
        answer(&mut mouse, &[0xf5]);
        assert!(!mouse.has_output());
    }
}

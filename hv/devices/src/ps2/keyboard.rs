//! A PS/2 keyboard with 102 keys (IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and
//! 102-key)"), speaking scan code sets 1 and 2.

use super::{ACKNOWLEDGE, PASSED, RESEND};
use heapless::Deque;

/// Bytes that wait for the controller; a real keyboard's buffer has 16 as well.
pub const QUEUE: usize = 16;

/// What is sent instead of keys that found the queue full (set 1; set 2 has 0).
const OVERRUN_SET_1: u8 = 0xff;

/// A key, by its scan code set 1 make code, which is how QEMU numbers keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A key with a code of one byte, 0x01 to 0x7f.
    Plain(u8),
    /// A key whose code has the prefix E0.
    Extended(u8),
    /// Pause, which has no break code.
    Pause,
}

/// What the controller's translation makes of a set 2 code (below 0x85): the set 1 code.
pub const SET_2_TO_1: [u8; 0x85] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29,
    0x59, // 00
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03,
    0x5b, // 10
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06,
    0x5d, // 20
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09,
    0x5f, // 30
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c,
    0x61, // 40
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63,
    0x76, // 50
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f,
    0x6f, // 60
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46,
    0x54, // 70
    0x80, 0x81, 0x82, 0x41, 0x54, // 80
];

/// The set 2 code of a set 1 code. F7 and system request have the codes above 0x80 that keyboards really send.
fn set_2(code: u8) -> Option<u8> {
    match code {
        0 | 0x80.. => None,
        0x41 => Some(0x83),
        0x54 => Some(0x84),
        _ => SET_2_TO_1.iter().position(|translated| *translated == code).map(|code| code as u8),
    }
}

/// A command whose parameter comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Leds,
    ScanCodeSet,
    Rate,
}

/// The keyboard.
#[derive(Clone, Debug)]
pub struct Keyboard {
    queue: Deque<u8, QUEUE>,
    last: u8,
    awaits: Option<Awaits>,
    scanning: bool,
    set: u8,
    leds: u8,
    rate: u8,
}

impl Keyboard {
    /// State after power-up.
    pub const fn new() -> Self {
        Self { queue: Deque::new(), last: 0, awaits: None, scanning: true, set: 2, leds: 0, rate: 0x2b }
    }

    /// Lamps: bit 0 scroll lock, 1 num lock, 2 caps lock.
    pub const fn leds(&self) -> u8 {
        self.leds
    }

    /// Typematic rate and delay, as the last command set them.
    pub const fn rate(&self) -> u8 {
        self.rate
    }

    /// The next byte for the controller.
    pub fn take(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        if byte != RESEND {
            self.last = byte;
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

    /// A key goes down or up. What does not fit into the queue is lost as a whole, as the overrun code tells.
    pub fn key(&mut self, key: Key, down: bool) {
        if !self.scanning {
            return;
        }
        let mut bytes = heapless::Vec::<u8, 8>::new();
        let mut put = |more: &[u8]| bytes.extend_from_slice(more).is_ok();
        let fits = match (key, self.set, down) {
            (Key::Pause, _, false) => return,
            (Key::Pause, 1, true) => put(&[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]),
            (Key::Pause, _, true) => put(&[0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]),
            (Key::Plain(code) | Key::Extended(code), set, _) => {
                let prefixed = !matches!(key, Key::Extended(_)) || put(&[0xe0]);
                let coded = match (set, set_2(code)) {
                    (1, _) if code & 0x80 == 0 => put(&[if down { code } else { code | 0x80 }]),
                    (2, Some(code)) if down => put(&[code]),
                    (2, Some(code)) => put(&[0xf0, code]),
                    _ => return,
                };
                prefixed && coded
            }
        };
        // One place is kept for the overrun code.
        if fits && self.queue.len() + bytes.len() < QUEUE {
            self.send(&bytes);
        } else if self.queue.len() + 1 == QUEUE || self.queue.back() != Some(&self.overrun()) {
            self.send(&[self.overrun()]);
        }
    }

    fn overrun(&self) -> u8 {
        if self.set == 1 { OVERRUN_SET_1 } else { 0 }
    }

    fn defaults(&mut self) {
        self.queue.clear();
        self.set = 2;
        self.rate = 0x2b;
    }

    /// The controller passes on a byte from the guest.
    pub fn write(&mut self, value: u8) {
        if let Some(awaits) = self.awaits.take()
            && value < 0x80
        {
            return self.parameter(awaits, value);
        }
        match value {
            0xed => self.await_parameter(Awaits::Leds),
            0xee => self.send(&[0xee]),
            0xf0 => self.await_parameter(Awaits::ScanCodeSet),
            0xf2 => self.send(&[ACKNOWLEDGE, 0xab, 0x83]),
            0xf3 => self.await_parameter(Awaits::Rate),
            0xf4 => {
                self.queue.clear();
                self.scanning = true;
                self.send(&[ACKNOWLEDGE]);
            }
            0xf5 => {
                self.defaults();
                self.scanning = false;
                self.send(&[ACKNOWLEDGE]);
            }
            0xf6 => {
                self.defaults();
                self.send(&[ACKNOWLEDGE]);
            }
            // Make/break and typematic of single keys: set 3 only; accepted, as real keyboards do.
            0xf7..=0xfa => self.send(&[ACKNOWLEDGE]),
            0xfe => {
                let last = self.last;
                self.send(&[last]);
            }
            0xff => {
                self.defaults();
                self.scanning = true;
                self.leds = 0;
                self.send(&[ACKNOWLEDGE, PASSED]);
            }
            _ => self.send(&[RESEND]),
        }
    }

    fn await_parameter(&mut self, awaits: Awaits) {
        self.awaits = Some(awaits);
        self.send(&[ACKNOWLEDGE]);
    }

    fn parameter(&mut self, awaits: Awaits, value: u8) {
        match (awaits, value) {
            (Awaits::Leds, _) => self.leds = value & 7,
            (Awaits::Rate, _) => self.rate = value,
            (Awaits::ScanCodeSet, 0) => {
                let set = self.set;
                return self.send(&[ACKNOWLEDGE, set]);
            }
            (Awaits::ScanCodeSet, 1 | 2) => self.set = value,
            (Awaits::ScanCodeSet, _) => return self.send(&[RESEND]),
        }
        self.send(&[ACKNOWLEDGE]);
    }
}

impl Default for Keyboard {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(keyboard: &mut Keyboard) -> Vec<u8> {
        core::iter::from_fn(|| keyboard.take()).collect()
    }

    fn answer(keyboard: &mut Keyboard, bytes: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        for byte in bytes {
            keyboard.write(*byte);
            all.extend(drain(keyboard));
        }
        all
    }

    #[test]
    fn commands() {
        let mut keyboard = Keyboard::new();
        for (bytes, expected) in [
            (&[0xff][..], &[0xfa, 0xaa][..]),
            (&[0xf2], &[0xfa, 0xab, 0x83]),
            (&[0xed, 0x07], &[0xfa, 0xfa]),
            (&[0xee], &[0xee]),
            (&[0xf3, 0x20], &[0xfa, 0xfa]),
            (&[0xf0, 0x00], &[0xfa, 0xfa, 2]),
            (&[0xf0, 0x01], &[0xfa, 0xfa]),
            (&[0xf0, 0x00], &[0xfa, 0xfa, 1]),
            (&[0xf0, 0x03], &[0xfa, 0xfe]),
            (&[0xf6], &[0xfa]),
            (&[0xf5], &[0xfa]),
            (&[0xf4], &[0xfa]),
            (&[0x00], &[0xfe]),
            // A command takes the place of the parameter.
            (&[0xed, 0xf4], &[0xfa, 0xfa]),
        ] {
            assert_eq!(answer(&mut keyboard, bytes), expected, "{bytes:x?}");
        }
        assert_eq!((keyboard.leds(), keyboard.rate()), (7, 0x2b));
        answer(&mut keyboard, &[0xf2]);
        assert_eq!(answer(&mut keyboard, &[0xfe]), [0x83], "resend");
    }

    #[test]
    fn keys_in_both_sets() {
        let mut keyboard = Keyboard::new();
        let mut press = |key, set| {
            answer(&mut keyboard, &[0xf0, set]);
            keyboard.key(key, true);
            keyboard.key(key, false);
            drain(&mut keyboard)
        };
        assert_eq!(press(Key::Plain(0x1e), 2), [0x1c, 0xf0, 0x1c], "A");
        assert_eq!(press(Key::Plain(0x1e), 1), [0x1e, 0x9e]);
        assert_eq!(press(Key::Extended(0x48), 2), [0xe0, 0x75, 0xe0, 0xf0, 0x75], "up");
        assert_eq!(press(Key::Plain(0x41), 2), [0x83, 0xf0, 0x83], "F7");
        assert_eq!(press(Key::Plain(0x58), 2), [0x07, 0xf0, 0x07], "F12");
        assert_eq!(press(Key::Pause, 2), [0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]);
        assert_eq!(press(Key::Pause, 1), [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
        assert_eq!(press(Key::Plain(0), 2), []);
        assert_eq!(press(Key::Plain(0x80), 1), []);
    }

    #[test]
    fn every_set_1_code_of_a_102_key_keyboard_has_a_set_2_code() {
        for code in (0x01..=0x53).chain([0x56, 0x57, 0x58]) {
            let set_2 = set_2(code).unwrap_or_else(|| panic!("{code:#x}"));
            assert_eq!(SET_2_TO_1[usize::from(set_2)], code);
        }
    }

    #[test]
    fn a_full_queue_says_so_once() {
        let mut keyboard = Keyboard::new();
        for _ in 0..100 {
            keyboard.key(Key::Plain(0x1e), true);
        }
        let bytes = drain(&mut keyboard);
        assert_eq!(bytes.len(), QUEUE);
        assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), 1);
        answer(&mut keyboard, &[0xf5]);
        keyboard.key(Key::Plain(0x1e), true);
        assert!(!keyboard.has_output(), "not scanning");
    }
}

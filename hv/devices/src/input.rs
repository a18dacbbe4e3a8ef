//! Keys, buttons and movements, as the operator sends them and whatever device takes them.
//!
//! Keys have the numbers that Linux gives them (`KEY_*` of its input-event-codes), which is also what virtio's input
//! devices use (virtio 1.2, 5.8.6). They are the make codes of scan code set 1 as far as those have no prefix.

use crate::ps2::Key;
use crate::ps2::mouse::button;

/// A button of a pointing device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Button {
    Left,
    Middle,
    Right,
    WheelUp,
    WheelDown,
}

impl Button {
    /// Its bit in a PS/2 mouse's packets; the wheel has none.
    pub const fn ps2(self) -> Option<u8> {
        match self {
            Self::Left => Some(button::LEFT),
            Self::Middle => Some(button::MIDDLE),
            Self::Right => Some(button::RIGHT),
            Self::WheelUp | Self::WheelDown => None,
        }
    }
}

/// An axis of a pointing device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Axis {
    X,
    Y,
}

/// Greatest coordinate of an absolute pointing device; the least is 0.
pub const MAX_COORDINATE: i32 = 0x7fff;

/// Something that the operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A key goes down or up.
    Key {
        /// Its number.
        code: u8,
        /// Down.
        down: bool,
    },
    /// A button goes down or up.
    Button {
        /// Which.
        button: Button,
        /// Down.
        down: bool,
    },
    /// A movement right or down.
    Relative {
        /// Along which axis.
        axis: Axis,
        /// How far.
        by: i32,
    },
    /// A place on the screen.
    Absolute {
        /// Along which axis.
        axis: Axis,
        /// 0 to [`MAX_COORDINATE`].
        at: i32,
    },
}

/// Which kinds of input a device takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takes(u8);

impl Takes {
    /// Keys.
    pub const KEYS: Self = Self(1);
    /// Buttons and movements.
    pub const RELATIVE: Self = Self(0b0110);
    /// Buttons and places.
    pub const ABSOLUTE: Self = Self(0b1010);

    /// Whether it is a pointing device.
    pub const fn points(self) -> bool {
        self.0 & 0b1100 != 0
    }

    /// Whether it takes this.
    pub const fn takes(self, input: &Input) -> bool {
        let kind = match input {
            Input::Key { .. } => 1,
            Input::Button { .. } => 1 << 1,
            Input::Relative { .. } => 1 << 2,
            Input::Absolute { .. } => 1 << 3,
        };
        self.0 & kind != 0
    }
}

/// Whether a keyboard has the key of this number: those of 105 keys, and what Sun's had more.
pub const fn is_key(code: u8) -> bool {
    matches!(code, 1..=83 | 86..=89 | 96..=111 | 116 | 117 | 119 | 121 | 125..=139)
}

/// The keys whose scan code set 1 make code is not their number: number, prefix E0, code.
const OTHERS: [(u8, bool, u8); 24] = [
    (89, false, 0x73),
    (96, true, 0x1c),
    (97, true, 0x1d),
    (98, true, 0x35),
    (99, true, 0x37),
    (100, true, 0x38),
    (102, true, 0x47),
    (103, true, 0x48),
    (104, true, 0x49),
    (105, true, 0x4b),
    (106, true, 0x4d),
    (107, true, 0x4f),
    (108, true, 0x50),
    (109, true, 0x51),
    (110, true, 0x52),
    (111, true, 0x53),
    (116, true, 0x5e),
    (117, false, 0x59),
    (121, false, 0x7e),
    (125, true, 0x5b),
    (126, true, 0x5c),
    (127, true, 0x5d),
    (138, true, 0x75),
    (139, true, 0x1e),
];

/// The number of pause, which sends codes like no other.
const PAUSE: u8 = 119;

/// The key as a PS/2 keyboard has it.
pub fn ps2_key(code: u8) -> Option<Key> {
    match code {
        1..=83 | 86..=88 => Some(Key::Plain(code)),
        PAUSE => Some(Key::Pause),
        _ => OTHERS
            .iter()
            .find(|(number, ..)| *number == code)
            .map(|(_, extended, scan)| if *extended { Key::Extended(*scan) } else { Key::Plain(*scan) }),
    }
}

/// The key of a scan code as QEMU's monitor counts them: set 1, with bit 7 in place of the prefix E0.
pub fn key_of_scan_code(scan: u8) -> Option<u8> {
    match scan {
        1..=83 | 86..=88 => Some(scan),
        // System request, as the key without Alt.
        84 => Some(99),
        0xc6 => Some(PAUSE),
        _ => OTHERS
            .iter()
            .find(|(_, extended, code)| *code == scan & 0x7f && *extended == (scan & 0x80 != 0))
            .map(|(number, ..)| *number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_scan_codes_agree() {
        for (code, key) in (0..=255).filter_map(|code| ps2_key(code).map(|key| (code, key))) {
            assert!(is_key(code), "{code}");
            let scan = match key {
                Key::Plain(scan) => scan,
                Key::Extended(scan) => scan | 0x80,
                Key::Pause => 0xc6,
            };
            assert_eq!(key_of_scan_code(scan), Some(code));
        }
        assert_eq!(ps2_key(30), Some(Key::Plain(0x1e)));
        assert_eq!(ps2_key(103), Some(Key::Extended(0x48)));
        assert_eq!(key_of_scan_code(0xd3), Some(111), "delete");
        assert_eq!(
            (key_of_scan_code(0), key_of_scan_code(0xff), ps2_key(0), ps2_key(84)),
            (None, None, None, None)
        );
    }

    #[test]
    fn kinds() {
        let button = Input::Button { button: Button::Left, down: true };
        assert!(
            Takes::ABSOLUTE.takes(&button) && Takes::RELATIVE.takes(&button) && !Takes::KEYS.takes(&button)
        );
        assert!(!Takes::RELATIVE.takes(&Input::Absolute { axis: Axis::X, at: 1 }));
        assert!(Takes::RELATIVE.points() && !Takes::KEYS.points());
    }
}

//! Keys and pointing devices: `send-key`, `input-send-event`, `query-mice`.

use heapless::Vec;
use monovisor_core::Context;
use monovisor_core::Error;
use monovisor_core::handlers::{Display, Element, Poll};
use monovisor_core::schema::run_state::RunState;
use monovisor_core::schema::ui::{
    InputAxis, InputButton, InputEvent, InputMoveEvent, InputSendEventArgs, KeyValue, MouseInfo, QKeyCode,
    SendKeyArgs,
};
use monovisor_devices::input::{Axis, Button, Input, key_of_scan_code};
use monovisor_devices::pc::MAX_STROKES;

use crate::hypervisor::Hypervisor;

/// Time between two keys of `send-key` where it is not given, in milliseconds.
const HOLD_MS: u64 = 10;

/// The same of the human monitor's `sendkey`.
const NAMED_HOLD_MS: i64 = 100;

/// The keys of `QKeyCode`, in its order, by their numbers among the input devices.
const KEYS: [u8; 127] = [
    // unmapped, shift, shift_r, alt, alt_r, altgr, altgr_r, ctrl, ctrl_r, menu, esc
    0, 42, 54, 56, 100, 100, 100, 29, 97, 139, 1, //
    // 1 to 9, 0, minus, equal, backspace, tab
    2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, //
    // q to p, brackets, ret
    16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, //
    // a to l, semicolon, apostrophe, grave_accent, backslash
    30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 43, //
    // z to m, comma, dot, slash, asterisk, spc, caps_lock
    44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 55, 57, 58, //
    // f1 to f10, num_lock, scroll_lock
    59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, //
    // kp_divide, kp_multiply, kp_subtract, kp_add, kp_enter, kp_decimal, sysrq
    98, 55, 74, 78, 96, 83, 99, //
    // kp_0 to kp_9
    82, 79, 80, 81, 75, 76, 77, 71, 72, 73, //
    // less, f11, f12, print, home, pgup, pgdn, end, left, up, down, right, insert, delete
    86, 87, 88, 99, 102, 104, 109, 107, 105, 103, 108, 106, 110, 111, //
    // stop, again, props, undo, front, copy, open, paste, find, cut, lf, help
    128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 101, 138, //
    // meta_l, meta_r, compose, pause, ro, kp_comma, kp_equals, power
    125, 126, 127, 119, 89, 121, 117, 116, //
];

/// The number of a key; 0 for one that no keyboard has.
fn code(key: KeyValue) -> u8 {
    match key {
        KeyValue::Qcode(key) => KEYS.get(key as usize).copied().unwrap_or(0),
        KeyValue::Number(scan) => u8::try_from(scan).ok().and_then(key_of_scan_code).unwrap_or(0),
    }
}

/// The number of the key that has a name.
fn named(name: &str) -> Option<u8> {
    if let Some(digits) = name.strip_prefix("0x") {
        return u8::from_str_radix(digits, 16).ok().and_then(key_of_scan_code);
    }
    let name = if name == "<" { "less" } else { name };
    let key = QKeyCode::ALL.iter().copied().find(|key| key.as_str() == name)?;
    Some(code(KeyValue::Qcode(key)))
}

fn input(event: InputEvent) -> Input {
    let axis = |moved: &InputMoveEvent| match moved.axis {
        InputAxis::X => Axis::X,
        InputAxis::Y => Axis::Y,
    };
    // What is further away than a number of 32 bits can say is as far as that.
    let value = |moved: &InputMoveEvent| moved.value.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
    match event {
        InputEvent::Key(key) => Input::Key { code: code(key.key), down: key.down },
        InputEvent::Btn(pressed) => Input::Button {
            button: match pressed.button {
                InputButton::Left => Button::Left,
                InputButton::Middle => Button::Middle,
                InputButton::Right => Button::Right,
                InputButton::WheelUp => Button::WheelUp,
                InputButton::WheelDown => Button::WheelDown,
            },
            down: pressed.down,
        },
        InputEvent::Rel(moved) => Input::Relative { axis: axis(&moved), by: value(&moved) },
        InputEvent::Abs(moved) => Input::Absolute { axis: axis(&moved), at: value(&moved) },
    }
}

fn too_many() -> Error {
    let most = MAX_STROKES / 2;
    Error::generic(format_args!("Too many keys: {most} can wait to be pressed and let go"))
}

impl Hypervisor<'_> {
    /// Presses keys one after the other and lets them go, `hold` milliseconds between two; where that is not positive, as
    /// long as QEMU takes.
    fn press(&mut self, keys: impl Iterator<Item = u8>, hold: i64) -> Result<(), Error> {
        let mut codes: Vec<u8, { MAX_STROKES / 2 }> = Vec::new();
        for key in keys {
            codes.push(key).map_err(|_| too_many())?;
        }
        // A guest that stands still gets no keys, and the command is none the worse for it: as in QEMU.
        if !self.run.running() {
            return Ok(());
        }
        let hold = u64::try_from(hold).ok().filter(|hold| *hold != 0).unwrap_or(HOLD_MS);
        let mut sent = Ok(());
        if let Some(guest) = &mut self.guest {
            guest.devices(&mut |devices| {
                let now = devices.now();
                sent = devices.pc.send_keys(&codes, hold.saturating_mul(1_000_000), now);
            });
        }
        sent.map_err(|_| too_many())
    }

    /// The human monitor's `sendkey`: names with `-` between them, or scan codes as `0x1e`.
    ///
    /// # Errors
    /// A name that no key has.
    pub(crate) fn press_named(&mut self, names: &str, hold: i64) -> Result<(), Error> {
        if let Some(unknown) = names.split('-').find(|name| named(name).is_none()) {
            return Err(Error::generic(format_args!("unknown key: '{unknown}'")));
        }
        self.press(names.split('-').filter_map(named), if hold == 0 { NAMED_HOLD_MS } else { hold })
    }
}

impl Display for Hypervisor<'_> {
    fn query_mice(&mut self, index: usize, _: &mut Context<'_>) -> Element<MouseInfo<'_>> {
        let mut pointer = None;
        if let Some(guest) = &mut self.guest {
            guest.devices(&mut |devices| pointer = devices.pc.pointers().nth(index));
        }
        Ok(pointer.map(|pointer| MouseInfo {
            name: pointer.name,
            index: pointer.index.into(),
            current: index == 0,
            absolute: pointer.absolute,
        }))
    }

    fn send_key(&mut self, arguments: SendKeyArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        Ok(self.press(arguments.keys.iter().map(code), arguments.hold_time.unwrap_or(0))?)
    }

    fn input_send_event(&mut self, arguments: InputSendEventArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        // There is no screen that a device could be.
        if let Some(device) = arguments.device {
            return Err(nb::Error::Other(Error::device_not_found(device)));
        }
        if !self.run.running() && self.run.state() != RunState::Suspended {
            return Err(nb::Error::Other(Error::text("VM not running")));
        }
        let mut missing = None;
        if let Some(guest) = &mut self.guest {
            guest.devices(&mut |devices| {
                let now = devices.now();
                let pc = &mut devices.pc;
                missing = arguments.events.iter().find(|event| !pc.takes_input(&input(*event)));
                if missing.is_none() {
                    arguments.events.iter().for_each(|event| pc.input(&input(event), now));
                    pc.input_done(now);
                }
            });
        }
        match missing {
            None => Ok(()),
            Some(event) => Err(nb::Error::Other(Error::generic(format_args!(
                "Input handler not found for event type {}",
                event.kind().as_str()
            )))),
        }
    }
}

#[cfg(test)]
mod tests {
    use monovisor_devices::input::is_key;

    use super::*;

    #[test]
    fn every_key_code_has_its_key() {
        for key in QKeyCode::ALL {
            let code = code(KeyValue::Qcode(*key));
            assert_eq!(is_key(code), *key != QKeyCode::Unmapped, "{key:?}");
        }
        for (key, number) in [
            (QKeyCode::Esc, 1),
            (QKeyCode::Digit0, 11),
            (QKeyCode::Ret, 28),
            (QKeyCode::Backslash, 43),
            (QKeyCode::CapsLock, 58),
            (QKeyCode::ScrollLock, 70),
            (QKeyCode::Sysrq, 99),
            (QKeyCode::Kp9, 73),
            (QKeyCode::Delete, 111),
            (QKeyCode::Help, 138),
            (QKeyCode::Power, 116),
        ] {
            assert_eq!(code(KeyValue::Qcode(key)), number, "{key:?}");
        }
        assert_eq!(
            ["ctrl", "<", "0xd3", "nope", "", "0x"].map(named),
            [Some(29), Some(86), Some(111), None, None, None]
        );
        assert_eq!(code(KeyValue::Number(30)), 30);
        assert_eq!(code(KeyValue::Number(99_999)), 0);
    }
}

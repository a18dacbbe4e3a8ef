//! The keyboard controller (Intel 8042 with the PS/2 firmware; IBM PS/2 Hardware Interface Technical Reference,
//! "Keyboard and auxiliary device controller").

use super::keyboard::SET_2_TO_1;
use super::{Key, Keyboard, Mouse};

const STATUS_FULL: u8 = 1;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
/// The keyboard lock is open.
const STATUS_UNLOCKED: u8 = 1 << 4;
const STATUS_MOUSE: u8 = 1 << 5;

const BYTE_KEYBOARD_INTERRUPT: u8 = 1;
const BYTE_MOUSE_INTERRUPT: u8 = 1 << 1;
const BYTE_SYSTEM: u8 = 1 << 2;
const BYTE_KEYBOARD_OFF: u8 = 1 << 4;
const BYTE_MOUSE_OFF: u8 = 1 << 5;
const BYTE_TRANSLATE: u8 = 1 << 6;

/// Output port: reset is active low, A20 is open.
const OUTPUT_NO_RESET: u8 = 1;
const OUTPUT_A20: u8 = 1 << 1;

/// Who the byte in the output buffer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Keyboard,
    Mouse,
}

/// Where the next byte written to the data port goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Keyboard,
    Ram(u8),
    OutputPort,
    KeyboardOutput,
    MouseOutput,
    Mouse,
}

/// The controller with what is plugged into it.
#[derive(Clone, Debug)]
pub struct Controller {
    keyboard: Keyboard,
    mouse: Mouse,
    /// Internal RAM; byte 0 is the command byte.
    ram: [u8; 32],
    output_port: u8,
    target: Target,
    last_was_command: bool,
    output: Option<(u8, Source)>,
    /// What port 0x60 shows while nothing new is there.
    data: u8,
    /// An answer of the controller itself, which goes ahead of the devices' bytes.
    answer: Option<(u8, Source)>,
    /// F0 was received: the next code is a release, and translates with bit 7 set.
    release: bool,
    reset: bool,
}

impl Controller {
    /// State after power-up and the controller's self-test, as firmware leaves it: keyboard on and translated.
    pub const fn new() -> Self {
        let mut ram = [0; 32];
        ram[0] = BYTE_KEYBOARD_INTERRUPT | BYTE_SYSTEM | BYTE_MOUSE_OFF | BYTE_TRANSLATE;
        Self {
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
            ram,
            output_port: OUTPUT_NO_RESET | OUTPUT_A20,
            target: Target::Keyboard,
            last_was_command: false,
            output: None,
            data: 0,
            answer: None,
            release: false,
            reset: false,
        }
    }

    fn byte(&self) -> u8 {
        self.ram[0]
    }

    /// Levels of the interrupt lines of keyboard and mouse.
    pub fn interrupts(&self) -> (bool, bool) {
        match self.output {
            Some((_, Source::Keyboard)) => (self.byte() & BYTE_KEYBOARD_INTERRUPT != 0, false),
            Some((_, Source::Mouse)) => (false, self.byte() & BYTE_MOUSE_INTERRUPT != 0),
            None => (false, false),
        }
    }

    /// The guest has pulled the reset line.
    pub fn take_reset(&mut self) -> bool {
        core::mem::take(&mut self.reset)
    }

    /// A key goes down or up.
    pub fn key(&mut self, key: Key, down: bool) {
        self.keyboard.key(key, down);
        self.fill();
    }

    /// The mouse moves or clicks; see [`Mouse::event`].
    pub fn mouse_event(&mut self, dx: i32, dy: i32, dz: i32, buttons: u8) {
        self.mouse.event(dx, dy, dz, buttons);
        self.fill();
    }

    /// The lamps of the keyboard.
    pub fn leds(&self) -> u8 {
        self.keyboard.leds()
    }

    /// Moves the next byte into the output buffer, if that is empty.
    fn fill(&mut self) {
        // F0 alone makes no byte for a translated keyboard: look on.
        for _ in 0..2 {
            if self.output.is_some() {
                return;
            }
            self.output = self.next();
        }
        if let Some((byte, _)) = self.output {
            self.data = byte;
        }
    }

    fn next(&mut self) -> Option<(u8, Source)> {
        if let Some(answer) = self.answer.take() {
            self.data = answer.0;
            return Some(answer);
        }
        if self.byte() & BYTE_KEYBOARD_OFF == 0
            && let Some(byte) = self.keyboard.take()
        {
            let byte = if self.byte() & BYTE_TRANSLATE != 0 { self.translate(byte)? } else { byte };
            self.data = byte;
            return Some((byte, Source::Keyboard));
        }
        if self.byte() & BYTE_MOUSE_OFF == 0
            && let Some(byte) = self.mouse.take()
        {
            self.data = byte;
            return Some((byte, Source::Mouse));
        }
        None
    }

    /// Set 2 to set 1; F0 turns into bit 7 of the code behind it.
    fn translate(&mut self, byte: u8) -> Option<u8> {
        if byte == 0xf0 {
            self.release = true;
            return None;
        }
        let code = SET_2_TO_1.get(usize::from(byte)).copied().unwrap_or(byte);
        Some(if core::mem::take(&mut self.release) { code | 0x80 } else { code })
    }

    fn answer(&mut self, byte: u8, source: Source) {
        self.answer = Some((byte, source));
    }

    /// Reads port 0x60.
    pub fn read_data(&mut self) -> u8 {
        let byte = self.data;
        self.output = None;
        byte
    }

    /// After a read or write has been seen by the interrupt lines: lets the next byte in.
    pub fn advance(&mut self) {
        self.fill();
    }

    /// Reads port 0x64.
    pub fn read_status(&self) -> u8 {
        let full = match self.output {
            Some((_, Source::Keyboard)) => STATUS_FULL,
            Some((_, Source::Mouse)) => STATUS_FULL | STATUS_MOUSE,
            None => 0,
        };
        full | self.byte() & STATUS_SYSTEM
            | STATUS_UNLOCKED
            | if self.last_was_command { STATUS_COMMAND } else { 0 }
    }

    /// Writes port 0x60.
    pub fn write_data(&mut self, value: u8) {
        self.last_was_command = false;
        match core::mem::replace(&mut self.target, Target::Keyboard) {
            Target::Keyboard => {
                // Writing to a device switches its interface on.
                self.ram[0] &= !BYTE_KEYBOARD_OFF;
                self.keyboard.write(value);
            }
            Target::Ram(index) => self.ram[usize::from(index & 31)] = value,
            Target::OutputPort => self.write_output_port(value),
            Target::KeyboardOutput => self.answer(value, Source::Keyboard),
            Target::MouseOutput => self.answer(value, Source::Mouse),
            Target::Mouse => {
                self.ram[0] &= !BYTE_MOUSE_OFF;
                self.mouse.write(value);
            }
        }
    }

    fn write_output_port(&mut self, value: u8) {
        self.reset |= value & OUTPUT_NO_RESET == 0;
        // A20 is open for good; the buffer flags are not software's.
        self.output_port = value & 0xcc | OUTPUT_NO_RESET | OUTPUT_A20;
    }

    /// Writes port 0x64.
    pub fn write_command(&mut self, value: u8) {
        self.last_was_command = true;
        self.target = Target::Keyboard;
        match value {
            0x20..=0x3f => self.answer(self.ram[usize::from(value & 31)], Source::Keyboard),
            0x60..=0x7f => self.target = Target::Ram(value & 31),
            // No password is installed.
            0xa4 => self.answer(0xf1, Source::Keyboard),
            0xa7 => self.ram[0] |= BYTE_MOUSE_OFF,
            0xa8 => self.ram[0] &= !BYTE_MOUSE_OFF,
            // Interface tests: nothing is stuck.
            0xa9 | 0xab => self.answer(0x00, Source::Keyboard),
            0xaa => {
                self.ram[0] |= BYTE_SYSTEM;
                self.output = None;
                self.release = false;
                self.answer(0x55, Source::Keyboard);
            }
            0xad => self.ram[0] |= BYTE_KEYBOARD_OFF,
            0xae => self.ram[0] &= !BYTE_KEYBOARD_OFF,
            // Input port: keyboard not locked.
            0xc0 => self.answer(0x80, Source::Keyboard),
            0xd0 => {
                let (keyboard, mouse) = self.interrupts();
                self.answer(
                    self.output_port | u8::from(keyboard) << 4 | u8::from(mouse) << 5,
                    Source::Keyboard,
                );
            }
            0xd1 => self.target = Target::OutputPort,
            0xd2 => self.target = Target::KeyboardOutput,
            0xd3 => self.target = Target::MouseOutput,
            0xd4 => self.target = Target::Mouse,
            // Test inputs: both clocks high.
            0xe0 => self.answer(0x03, Source::Keyboard),
            // Pulse output port bits; bit 0 is reset.
            0xf0..=0xff => self.reset |= value & 1 == 0,
            _ => {}
        }
    }
}

impl Default for Controller {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(controller: &mut Controller, value: u8) {
        controller.write_command(value);
        controller.advance();
    }

    fn data(controller: &mut Controller, value: u8) {
        controller.write_data(value);
        controller.advance();
    }

    fn read(controller: &mut Controller) -> Option<u8> {
        if controller.read_status() & STATUS_FULL == 0 {
            return None;
        }
        let byte = controller.read_data();
        controller.advance();
        Some(byte)
    }

    fn drain(controller: &mut Controller) -> Vec<u8> {
        core::iter::from_fn(|| read(controller)).collect()
    }

    #[test]
    fn linux_finds_controller_keyboard_and_mouse_port() {
        let mut controller = Controller::new();
        command(&mut controller, 0xaa);
        assert_eq!(read(&mut controller), Some(0x55));
        command(&mut controller, 0x20);
        let byte = read(&mut controller).unwrap();
        assert_eq!(byte, 0x65);
        command(&mut controller, 0x60);
        data(&mut controller, 0x74 & !BYTE_KEYBOARD_INTERRUPT);
        // AUX loop.
        command(&mut controller, 0xd3);
        data(&mut controller, 0x5a);
        assert_eq!(controller.read_status() & (STATUS_MOUSE | STATUS_FULL), STATUS_MOUSE | STATUS_FULL);
        assert_eq!(read(&mut controller), Some(0x5a));
        command(&mut controller, 0xa9);
        assert_eq!(read(&mut controller), Some(0));
        command(&mut controller, 0xa8);
        command(&mut controller, 0x20);
        assert_eq!(read(&mut controller).unwrap() & BYTE_MOUSE_OFF, 0);
        command(&mut controller, 0xa7);
        command(&mut controller, 0x20);
        assert_eq!(read(&mut controller).unwrap() & BYTE_MOUSE_OFF, BYTE_MOUSE_OFF);
        // The interrupt test: a looped byte with the mouse interrupt on.
        command(&mut controller, 0x60);
        data(&mut controller, BYTE_MOUSE_INTERRUPT | BYTE_KEYBOARD_OFF);
        command(&mut controller, 0xd3);
        data(&mut controller, 0xa5);
        assert_eq!(controller.interrupts(), (false, true));
        assert_eq!(read(&mut controller), Some(0xa5));
        assert_eq!(controller.interrupts(), (false, false));
    }

    #[test]
    fn the_keyboard_answers_through_the_controller() {
        let mut controller = Controller::new();
        data(&mut controller, 0xf2);
        assert_eq!(controller.interrupts(), (true, false));
        assert_eq!(drain(&mut controller), [0xfa, 0xab, 0x41], "the ID is translated, too");
        command(&mut controller, 0xd4);
        data(&mut controller, 0xf2);
        assert_eq!(controller.read_status() & STATUS_MOUSE, STATUS_MOUSE);
        assert_eq!(drain(&mut controller), [0xfa, 0x00]);
    }

    #[test]
    fn keys_are_translated() {
        let mut controller = Controller::new();
        for key in [Key::Plain(0x1e), Key::Extended(0x48), Key::Pause] {
            controller.key(key, true);
            controller.key(key, false);
            let expected: &[u8] = match key {
                Key::Plain(_) => &[0x1e, 0x9e],
                Key::Extended(_) => &[0xe0, 0x48, 0xe0, 0xc8],
                Key::Pause => &[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5],
            };
            assert_eq!(drain(&mut controller), expected);
        }
        command(&mut controller, 0x60);
        data(&mut controller, 0x01);
        controller.key(Key::Plain(0x1e), false);
        assert_eq!(drain(&mut controller), [0xf0, 0x1c]);
    }

    #[test]
    fn a_disabled_interface_keeps_its_bytes() {
        let mut controller = Controller::new();
        command(&mut controller, 0xad);
        controller.key(Key::Plain(0x1e), true);
        assert_eq!(read(&mut controller), None);
        command(&mut controller, 0xae);
        assert_eq!(read(&mut controller), Some(0x1e));
    }

    #[test]
    fn the_ways_to_reset() {
        let mut controller = Controller::new();
        command(&mut controller, 0xff);
        assert!(!controller.take_reset());
        command(&mut controller, 0xfe);
        assert!(controller.take_reset());
        command(&mut controller, 0xd1);
        data(&mut controller, 0xdf);
        assert!(!controller.take_reset());
        command(&mut controller, 0xd1);
        data(&mut controller, 0xde);
        assert!(controller.take_reset());
        command(&mut controller, 0xd0);
        assert_eq!(read(&mut controller).unwrap() & 3, 3);
    }

    #[test]
    fn internal_ram_and_status() {
        let mut controller = Controller::new();
        command(&mut controller, 0x7f);
        assert_eq!(controller.read_status() & STATUS_COMMAND, STATUS_COMMAND);
        data(&mut controller, 0x99);
        assert_eq!(controller.read_status() & STATUS_COMMAND, 0);
        command(&mut controller, 0x3f);
        assert_eq!(read(&mut controller), Some(0x99));
        assert_eq!(controller.read_data(), 0x99, "the last byte stays readable");
    }
}

//! Input from the operator: which device gets it, and keys that are pressed one after the other.
//!
//! Of the devices that take an event the one whose driver began last gets it, as in QEMU; without a driver of a virtio
//! device that is the PS/2 keyboard or mouse. A pointing device that the operator has chosen goes first.

use heapless::{Deque, Vec};

use super::*;
use crate::input::{Axis, Button, Input, Takes, ps2_key};
use crate::virtio::input::InputDevice;

/// Keys that wait to go down or up: those of a few combinations, or a line of text.
pub const MAX_STROKES: usize = 128;

/// Numbers of the PS/2 devices; those of the virtio devices follow, in the order of their slots.
const PS2_KEYBOARD: u8 = 1;
const PS2_MOUSE: u8 = 2;

/// There is no room for so many keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyKeys;

/// A pointing device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Its name.
    pub name: &'static str,
    /// Its number among the input devices.
    pub index: u8,
    /// It points to places, and does not move from where it is.
    pub absolute: bool,
}

/// A device that takes input.
#[derive(Clone, Copy, Debug)]
struct Taker {
    index: u8,
    name: &'static str,
    takes: Takes,
    /// Which function it is; `None` for the PS/2 devices.
    function: Option<usize>,
    /// The greatest one gets what several take.
    rank: (u8, u64, u8),
}

#[derive(Clone, Copy, Debug)]
struct Stroke {
    code: u8,
    down: bool,
    /// Nanoseconds before the next one.
    hold: u64,
}

/// What is kept between two events.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    /// The pointing device that the operator has chosen.
    pointer: Option<u8>,
    /// What the PS/2 mouse is to be told.
    motion: (i32, i32, i32),
    buttons: u8,
    moved: bool,
    strokes: Deque<Stroke, MAX_STROKES>,
    /// When the next stroke may come.
    next: u64,
}

impl Operator {
    pub const fn new() -> Self {
        Self { pointer: None, motion: (0, 0, 0), buttons: 0, moved: false, strokes: Deque::new(), next: 0 }
    }

    /// The guest has been reset: nobody waits for what was on its way.
    pub fn reset(&mut self) {
        *self = Self { pointer: self.pointer, ..Self::new() };
    }

    /// When the next key is to be sent.
    pub fn deadline(&self) -> Option<u64> {
        (!self.strokes.is_empty()).then_some(self.next)
    }
}

impl Pc {
    /// Calls a function for each device that takes input, in the order of their numbers.
    fn for_takers(&self, act: &mut dyn FnMut(Taker)) {
        let mut act = |mut taker: Taker| {
            if self.operator.pointer == Some(taker.index) {
                taker.rank.0 = 3;
            }
            act(taker);
        };
        for (index, name, takes) in [
            (PS2_KEYBOARD, "QEMU PS/2 Keyboard", Takes::KEYS),
            (PS2_MOUSE, "QEMU PS/2 Mouse", Takes::RELATIVE),
        ] {
            act(Taker { index, name, takes, function: None, rank: (1, 0, 0) });
        }
        let mut index = PS2_MOUSE;
        for (place, function) in self.functions.iter().enumerate() {
            let Some(device) = function.device::<InputDevice>() else { continue };
            index = index.saturating_add(1);
            act(Taker {
                index,
                name: device.model().name(),
                takes: device.model().takes(),
                function: Some(place),
                rank: device.started().map_or((0, 0, 0), |at| (2, at, index)),
            });
        }
    }

    /// The device that gets an event.
    fn taker_of(&self, input: &Input) -> Option<Taker> {
        let mut best: Option<Taker> = None;
        self.for_takers(&mut |taker| {
            if taker.takes.takes(input) && best.is_none_or(|best| best.rank <= taker.rank) {
                best = Some(taker);
            }
        });
        best
    }

    /// Whether there is a device for an event.
    pub fn takes_input(&self, input: &Input) -> bool {
        self.taker_of(input).is_some()
    }

    /// The pointing devices; the first one gets what several take.
    pub fn pointers(&self) -> impl Iterator<Item = Pointer> + use<> {
        let mut all: Vec<Taker, { MAX_FUNCTIONS + 1 }> = Vec::new();
        self.for_takers(&mut |taker| {
            if taker.takes.points() {
                let before = all.iter().position(|other| other.rank < taker.rank);
                // There is room for all: the PS/2 mouse and one a function.
                let _ = all.insert(before.unwrap_or(all.len()), taker);
            }
        });
        all.into_iter().map(|taker| Pointer {
            name: taker.name,
            index: taker.index,
            absolute: taker.takes == Takes::ABSOLUTE,
        })
    }

    /// Chooses a pointing device by its number. False where there is none.
    pub fn choose_pointer(&mut self, index: u8) -> bool {
        let there = self.pointers().any(|pointer| pointer.index == index);
        if there {
            self.operator.pointer = Some(index);
        }
        there
    }

    /// The operator does something. [`Pc::input_done`] follows what happens together.
    pub fn input(&mut self, input: &Input, now: u64) {
        let Some(taker) = self.taker_of(input) else { return };
        if let Some(place) = taker.function {
            if let Some(function) = self.functions.get_mut(place) {
                function.with(now, |device: &mut InputDevice, _| device.input(input));
            }
            return;
        }
        let operator = &mut self.operator;
        match *input {
            Input::Key { code, down } => {
                if let Some(key) = ps2_key(code) {
                    self.key(key, down);
                }
                return;
            }
            Input::Relative { axis: Axis::X, by } => operator.motion.0 = operator.motion.0.saturating_add(by),
            // A mouse counts upwards.
            Input::Relative { axis: Axis::Y, by } => operator.motion.1 = operator.motion.1.saturating_sub(by),
            Input::Button { button: Button::WheelUp, down } => operator.motion.2 -= i32::from(down),
            Input::Button { button: Button::WheelDown, down } => operator.motion.2 += i32::from(down),
            Input::Button { button, down } => {
                let bit = button.ps2().unwrap_or(0);
                operator.buttons = if down { operator.buttons | bit } else { operator.buttons & !bit };
            }
            // No PS/2 device takes it.
            Input::Absolute { .. } => return,
        }
        operator.moved = true;
    }

    /// What has been put in happens now.
    pub fn input_done(&mut self, now: u64) {
        if core::mem::replace(&mut self.operator.moved, false) {
            let (dx, dy, dz) = core::mem::take(&mut self.operator.motion);
            self.mouse_event(dx, dy, dz, self.operator.buttons);
        }
        for index in 0..self.functions.len() {
            let Some(function) = self.functions.get_mut(index) else { return };
            if function.with(now, |device: &mut InputDevice, cx| device.sync(cx)).is_some() {
                self.settle_function(index);
            }
        }
    }

    /// Presses keys one after the other and lets them go in reverse order, each `hold` nanoseconds after the one before.
    ///
    /// # Errors
    /// Where more keys wait than there is room for; then none is pressed.
    pub fn send_keys(&mut self, codes: &[u8], hold: u64, now: u64) -> Result<(), TooManyKeys> {
        let strokes = &mut self.operator.strokes;
        if strokes.len().saturating_add(codes.len().saturating_mul(2)) > MAX_STROKES {
            return Err(TooManyKeys);
        }
        let down = codes.iter().map(|code| (*code, true));
        let up = codes.iter().rev().map(|code| (*code, false));
        for (code, down) in down.chain(up) {
            // Cannot fail: there is room.
            let _ = strokes.push_back(Stroke { code, down, hold });
        }
        self.press_keys(now);
        self.stale = true;
        Ok(())
    }

    /// Sends the keys whose time has come.
    pub(super) fn press_keys(&mut self, now: u64) {
        if self.operator.next > now {
            return;
        }
        if let Some(Stroke { code, down, hold }) = self.operator.strokes.pop_front() {
            self.operator.next = now.saturating_add(hold.max(1));
            self.input(&Input::Key { code, down }, now);
            self.input_done(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PcConfig;
    use crate::input::MAX_COORDINATE;
    use crate::virtio::input::Model;
    use crate::virtio::testing::Ram;

    const A: Input = Input::Key { code: 30, down: true };
    const LEFT: Input = Input::Button { button: Button::Left, down: true };
    const PLACE: Input = Input::Absolute { axis: Axis::X, at: MAX_COORDINATE };

    fn pc(models: &[Model]) -> Pc {
        let mut pc = Pc::new(&PcConfig {
            vcpus: 1,
            tsc_hz: 1_000_000_000,
            address_bits: 40,
            low_ram: 1 << 20,
            high_ram: 0,
            debug_exit: None,
        });
        for (slot, model) in (3..).zip(models) {
            let device = Box::leak(Box::new(InputDevice::new(*model, "")));
            pc.attach(Box::leak(Box::new(VirtioPci::new(slot, "", Ram::leak(), device)))).unwrap();
        }
        pc.reset(0);
        pc
    }

    /// Lets a driver begin with the device in a slot.
    fn start(pc: &mut Pc, slot: u8, now: u64) {
        assert!(pc.with_virtio(slot, now, |device: &mut InputDevice, cx| device.start(cx)).is_some());
    }

    fn names(pc: &Pc) -> std::vec::Vec<(u8, &'static str)> {
        pc.pointers().map(|pointer| (pointer.index, pointer.name)).collect()
    }

    fn keyboard_bytes(pc: &mut Pc) -> std::vec::Vec<u8> {
        struct Nothing;
        impl Backend for Nothing {
            fn console_write(&mut self, _: u8) -> bool {
                true
            }
            fn console_read(&mut self) -> Option<u8> {
                None
            }
        }
        let mut bytes = vec![];
        while pc.io_read(0x64, 1, 0, &mut Nothing) & 1 != 0 {
            bytes.push(pc.io_read(0x60, 1, 0, &mut Nothing) as u8);
        }
        bytes
    }

    #[test]
    fn the_keyboard_of_the_newest_driver_gets_keys() {
        let mut pc = pc(&[Model::Keyboard, Model::Keyboard]);
        pc.input(&A, 0);
        assert_eq!(keyboard_bytes(&mut pc), [0x1e]);
        start(&mut pc, 4, 10);
        pc.input(&A, 10);
        assert_eq!(pc.taker_of(&A).and_then(|taker| taker.function), Some(1));
        start(&mut pc, 3, 20);
        assert_eq!(pc.taker_of(&A).and_then(|taker| taker.function), Some(0));
        assert_eq!(keyboard_bytes(&mut pc), []);
    }

    #[test]
    fn pointing_devices_are_in_order() {
        let mut pc = pc(&[Model::Keyboard, Model::Tablet, Model::Mouse]);
        assert!(pc.takes_input(&PLACE) && pc.takes_input(&LEFT));
        let (ps2, tablet, mouse) =
            ((2, "QEMU PS/2 Mouse"), (4, "QEMU Virtio Tablet"), (5, "QEMU Virtio Mouse"));
        assert_eq!(names(&pc)[0], ps2);
        start(&mut pc, 4, 10);
        start(&mut pc, 5, 10);
        assert_eq!(names(&pc), [mouse, tablet, ps2]);
        assert!(pc.choose_pointer(2) && !pc.choose_pointer(1) && !pc.choose_pointer(9));
        assert_eq!(names(&pc), [ps2, mouse, tablet]);
        // What only one takes goes there all the same.
        assert_eq!(pc.taker_of(&PLACE).map(|taker| taker.index), Some(4));
    }

    #[test]
    fn without_a_tablet_there_are_no_places() {
        assert!(!pc(&[]).takes_input(&PLACE));
    }

    #[test]
    fn keys_are_pressed_one_after_the_other() {
        let mut pc = pc(&[]);
        pc.send_keys(&[29, 30], 1000, 500).unwrap();
        assert_eq!((keyboard_bytes(&mut pc), pc.deadline(0)), (vec![0x1d], Some(1500)));
        let mut seen = vec![];
        for now in [1499, 1500, 2500, 3500] {
            pc.advance(0, now);
            seen.push(keyboard_bytes(&mut pc));
        }
        assert_eq!(seen, [vec![], vec![0x1e], vec![0x9e], vec![0x9d]]);
        assert!(pc.operator.deadline().is_none());
        assert_eq!(pc.send_keys(&[1; MAX_STROKES], 1, 0), Err(TooManyKeys));
    }

    #[test]
    fn a_mouse_with_a_driver_takes_what_the_other_would() {
        let mut pc = pc(&[Model::Mouse]);
        start(&mut pc, 3, 0);
        pc.input(&Input::Relative { axis: Axis::X, by: 1 }, 0);
        pc.input(&LEFT, 0);
        pc.input_done(0);
        // The driver gave no buffers: they wait in the device, and the PS/2 mouse got nothing.
        assert!(!pc.operator.moved && pc.operator.buttons == 0);
    }
}

//! Input devices (virtio 1.2, 5.8): keyboard, mouse and tablet, with the names and numbers that QEMU's have.

use heapless::Deque;

use super::{CONFIG_SIZE, Context, Device, Kind};
use crate::input::{Axis, Button, Input, MAX_COORDINATE, Takes, is_key};

const EVENTS: u16 = 0;
/// Lamps, which nobody looks at.
const STATUS: u16 = 1;

/// Entries of a queue, as QEMU has them.
const QUEUE_SIZE: u16 = 64;

/// Events that wait for buffers of the driver. A packet that finds no room is lost as a whole.
const WAITING: usize = 64;

/// Most events of a packet, without the one that ends it: more than a person does at once.
const PACKET: usize = 16;

/// Buffers that are taken from the status queue in one call.
const STEP: u32 = 64;

/// Bytes of an event (5.8.6).
const EVENT: usize = 8;

/// Longest serial number, in bytes: what one answer of the configuration structure has room for.
pub const SERIAL_BYTES: usize = 128;

// What the configuration structure can be asked for (5.8.4).
const NAME: u8 = 0x01;
const SERIAL: u8 = 0x02;
const IDS: u8 = 0x03;
const EVENT_BITS: u8 = 0x11;
const AXIS: u8 = 0x12;

// Types and codes of events, Linux's numbers.
const SYNCHRONIZE: u8 = 0x00;
const KEY: u8 = 0x01;
const RELATIVE: u8 = 0x02;
const ABSOLUTE: u8 = 0x03;
const LED: u8 = 0x11;
const REPEAT: u8 = 0x14;
const WHEEL: u16 = 0x08;
const LEFT_BUTTON: u16 = 0x110;
const RIGHT_BUTTON: u16 = 0x111;
const MIDDLE_BUTTON: u16 = 0x112;

/// BUS_VIRTUAL, QEMU's vendor, and a version: the identity but for the product.
const BUS: u16 = 0x06;
const VENDOR: u16 = 0x0627;
const VERSION: u16 = 1;

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Model {
    Keyboard,
    Mouse,
    Tablet,
}

impl Model {
    /// The name that guest and operator see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keyboard => "QEMU Virtio Keyboard",
            Self::Mouse => "QEMU Virtio Mouse",
            Self::Tablet => "QEMU Virtio Tablet",
        }
    }

    /// What it takes.
    pub const fn takes(self) -> Takes {
        match self {
            Self::Keyboard => Takes::KEYS,
            Self::Mouse => Takes::RELATIVE,
            Self::Tablet => Takes::ABSOLUTE,
        }
    }

    /// Whether it sends events of a type and code.
    const fn sends(self, kind: u8, code: u16) -> bool {
        match (self, kind) {
            (Self::Keyboard, KEY) => code < 256 && is_key(code as u8),
            // Num lock, caps lock, scroll lock.
            (Self::Keyboard, LED) => code < 3,
            // Delay and period.
            (Self::Keyboard, REPEAT) => code < 2,
            (Self::Mouse | Self::Tablet, KEY) => matches!(code, LEFT_BUTTON..=MIDDLE_BUTTON),
            (Self::Mouse, RELATIVE) => code < 2 || code == WHEEL,
            (Self::Tablet, RELATIVE) => code == WHEEL,
            (Self::Tablet, ABSOLUTE) => code < 2,
            _ => false,
        }
    }
}

type Event = [u8; EVENT];

const fn event(kind: u8, code: u16, value: i32) -> Event {
    let (code, value) = (code.to_le_bytes(), value.to_le_bytes());
    [kind, 0, code[0], code[1], value[0], value[1], value[2], value[3]]
}

/// The device.
#[derive(Debug)]
pub struct InputDevice {
    model: Model,
    serial: &'static str,
    select: u8,
    subselect: u8,
    /// The packet that is being made.
    packet: heapless::Vec<Event, PACKET>,
    /// The packet has more than it has room for.
    spilled: bool,
    waiting: Deque<Event, WAITING>,
    /// Virtual time at which the driver began; `None` before.
    started: Option<u64>,
}

impl InputDevice {
    /// A device with a serial number of up to [`SERIAL_BYTES`] bytes, or without one.
    pub const fn new(model: Model, serial: &'static str) -> Self {
        Self {
            model,
            serial,
            select: 0,
            subselect: 0,
            packet: heapless::Vec::new(),
            spilled: false,
            waiting: Deque::new(),
            started: None,
        }
    }

    /// What it is.
    pub const fn model(&self) -> Model {
        self.model
    }

    /// When its driver began to listen, in virtual time; `None` while there is none.
    pub const fn started(&self) -> Option<u64> {
        self.started
    }

    /// Adds something to the packet that [`InputDevice::sync`] sends.
    pub fn input(&mut self, input: &Input) {
        let event = match *input {
            Input::Key { code, down } => event(KEY, code.into(), down.into()),
            Input::Button { button, down } => match (button, down) {
                (Button::Left, _) => event(KEY, LEFT_BUTTON, down.into()),
                (Button::Right, _) => event(KEY, RIGHT_BUTTON, down.into()),
                (Button::Middle, _) => event(KEY, MIDDLE_BUTTON, down.into()),
                (Button::WheelUp, true) => event(RELATIVE, WHEEL, 1),
                (Button::WheelDown, true) => event(RELATIVE, WHEEL, -1),
                // A wheel does not come up again.
                (Button::WheelUp | Button::WheelDown, false) => return,
            },
            Input::Relative { axis, by } => event(RELATIVE, code(axis), by),
            Input::Absolute { axis, at } => event(ABSOLUTE, code(axis), at.clamp(0, MAX_COORDINATE)),
        };
        let [kind, _, low, high, ..] = event;
        if self.started.is_some() && self.model.sends(kind, u16::from_le_bytes([low, high])) {
            self.spilled |= self.packet.push(event).is_err();
        }
    }

    /// Sends what has been put in, as one packet.
    pub fn sync(&mut self, cx: &mut Context<'_>) {
        let room = WAITING.saturating_sub(self.waiting.len());
        if !self.spilled && !self.packet.is_empty() && self.packet.len() < room {
            for event in self.packet.iter().chain([&event(SYNCHRONIZE, 0, 0)]) {
                // Cannot fail: there is room.
                let _ = self.waiting.push_back(*event);
            }
        }
        self.packet.clear();
        self.spilled = false;
        self.send(cx);
    }

    /// Moves what waits into the driver's buffers.
    fn send(&mut self, cx: &mut Context<'_>) {
        while let Some(event) = self.waiting.front() {
            let Some(head) = cx.next(EVENTS) else { break };
            let memory = cx.memory();
            match cx.chain().write(memory, 0, event) {
                // At most the bytes of an event.
                Ok(length) => cx.complete(EVENTS, head, length as u32),
                Err(error) => return cx.fail(error),
            }
            let _ = self.waiting.pop_front();
        }
        cx.signal(EVENTS);
    }

    /// Fills the answer to what has been selected: how many bytes.
    fn answer(&self, place: &mut [u8]) -> usize {
        let mut put = |bytes: &[u8]| match place.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                bytes.len()
            }
            None => 0,
        };
        match (self.select, self.subselect) {
            (NAME, 0) => put(self.model.name().as_bytes()),
            (SERIAL, 0) => put(self.serial.as_bytes()),
            (IDS, 0) => {
                let product = match self.model {
                    Model::Keyboard => 1,
                    Model::Mouse => 2,
                    Model::Tablet => 3,
                };
                put([BUS, VENDOR, product, VERSION].map(u16::to_le_bytes).as_flattened())
            }
            (AXIS, 0 | 1) if self.model == Model::Tablet => {
                // Least, greatest, fuzz, flat, resolution.
                put([0, MAX_COORDINATE, 0, 0, 0].map(i32::to_le_bytes).as_flattened())
            }
            (EVENT_BITS, kind) => {
                // Buttons are the highest codes.
                let mut bits = [0u8; MIDDLE_BUTTON as usize / 8 + 1];
                let mut length = 0;
                for (index, byte) in bits.iter_mut().enumerate() {
                    for bit in 0..8u8 {
                        if self.model.sends(kind, (index * 8) as u16 | u16::from(bit)) {
                            *byte |= 1 << bit;
                            length = index + 1;
                        }
                    }
                }
                put(bits.get(..length).unwrap_or_default())
            }
            _ => 0,
        }
    }
}

const fn code(axis: Axis) -> u16 {
    match axis {
        Axis::X => 0,
        Axis::Y => 1,
    }
}

impl Device for InputDevice {
    fn kind(&self) -> Kind {
        let class = match self.model {
            Model::Keyboard => 0x09_0000,
            Model::Mouse => 0x09_0200,
            Model::Tablet => 0x09_8000,
        };
        Kind { id: 18, class }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> u16 {
        2
    }

    fn queue_size(&self, _: u16) -> u16 {
        QUEUE_SIZE
    }

    fn config_size(&self) -> u16 {
        136
    }

    fn config(&self, config: &mut [u8; CONFIG_SIZE]) {
        let [select, subselect, size, _, _, _, _, _, place @ ..] = config;
        (*select, *subselect) = (self.select, self.subselect);
        // An answer has 128 bytes at most.
        *size = self.answer(place.get_mut(..128).unwrap_or_default()) as u8;
    }

    fn set_config(&mut self, offset: u16, bytes: &[u8], _: &mut Context<'_>) {
        for (offset, byte) in (offset..).zip(bytes) {
            match offset {
                0 => self.select = *byte,
                1 => self.subselect = *byte,
                _ => {}
            }
        }
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        self.started = Some(cx.now());
    }

    fn notify(&mut self, queue: u16, cx: &mut Context<'_>) {
        if queue != STATUS {
            return self.send(cx);
        }
        for _ in 0..STEP {
            let Some(head) = cx.next(STATUS) else { return cx.signal(STATUS) };
            cx.complete(STATUS, head, 0);
        }
        cx.signal(STATUS);
        cx.again();
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        self.notify(EVENTS, cx);
        self.notify(STATUS, cx);
    }

    fn reset(&mut self) {
        let Self { model, serial, .. } = *self;
        *self = Self::new(model, serial);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn driver(model: Model) -> Driver {
        let mut driver = Driver::new(InputDevice::new(model, "s1"));
        driver.start(0);
        driver
    }

    fn ask(driver: &mut Driver, select: u8, subselect: u8) -> Vec<u8> {
        driver.write(0x2000, 1, select.into());
        driver.write(0x2001, 1, subselect.into());
        let size = driver.read(0x2002, 1);
        (0..size).map(|index| driver.read(0x2008 + index, 1) as u8).collect()
    }

    fn press(driver: &mut Driver, inputs: &[Input]) {
        driver.function.with(0, |device: &mut InputDevice, cx| {
            inputs.iter().for_each(|input| device.input(input));
            device.sync(cx);
        });
    }

    /// Gives the device a buffer for each of `count` events.
    fn offer(driver: &mut Driver, count: u16) {
        for head in 0..count {
            driver.chain(EVENTS, head, &[(0x80_000 + 8 * u64::from(head), 8, true)]);
            driver.offer(EVENTS, head);
        }
        driver.kick(EVENTS);
    }

    const A: Input = Input::Key { code: 30, down: true };

    #[test]
    fn a_keyboard_says_what_it_is() {
        let mut driver = driver(Model::Keyboard);
        assert_eq!(ask(&mut driver, NAME, 0), b"QEMU Virtio Keyboard");
        assert_eq!(ask(&mut driver, SERIAL, 0), b"s1");
        assert_eq!(ask(&mut driver, IDS, 0), [6, 0, 0x27, 6, 1, 0, 1, 0]);
        let keys = ask(&mut driver, EVENT_BITS, KEY);
        assert_eq!((keys.len(), keys[0], keys[3] & 0x40), (18, 0xfe, 0x40));
        assert_eq!(ask(&mut driver, EVENT_BITS, LED), [7]);
        assert_eq!(ask(&mut driver, EVENT_BITS, RELATIVE), []);
        assert_eq!(ask(&mut driver, NAME, 1), []);
        assert_eq!(ask(&mut driver, 0, 0), []);
    }

    #[test]
    fn pointing_devices_say_what_they_are() {
        let mut mouse = driver(Model::Mouse);
        assert_eq!(ask(&mut mouse, EVENT_BITS, RELATIVE), [3, 1]);
        assert_eq!(ask(&mut mouse, EVENT_BITS, KEY)[0x22], 7);
        assert_eq!(ask(&mut mouse, AXIS, 0), []);
        let mut tablet = driver(Model::Tablet);
        assert_eq!(ask(&mut tablet, EVENT_BITS, ABSOLUTE), [3]);
        assert_eq!(ask(&mut tablet, AXIS, 1)[..8], [0, 0, 0, 0, 0xff, 0x7f, 0, 0]);
        assert_eq!(ask(&mut tablet, IDS, 0)[4], 3);
    }

    #[test]
    fn packets_end_with_a_synchronization() {
        let mut driver = driver(Model::Mouse);
        offer(&mut driver, 4);
        let moves = [
            Input::Relative { axis: Axis::X, by: -5 },
            Input::Button { button: Button::Right, down: true },
            // Not a mouse's.
            A,
            Input::Absolute { axis: Axis::X, at: 3 },
        ];
        press(&mut driver, &moves);
        for head in 0..3 {
            assert_eq!(driver.take_used(EVENTS), Some((head, 8)));
        }
        assert_eq!(driver.take_used(EVENTS), None);
        assert_eq!(driver.isr(), 1);
        assert_eq!(driver.bytes::<8>(0x80_000), [2, 0, 0, 0, 0xfb, 0xff, 0xff, 0xff]);
        assert_eq!(driver.bytes::<8>(0x80_008), [1, 0, 0x11, 1, 1, 0, 0, 0]);
        assert_eq!(driver.bytes::<8>(0x80_010), [0; 8]);
    }

    #[test]
    fn events_wait_for_buffers_and_are_lost_as_whole_packets() {
        let mut driver = driver(Model::Keyboard);
        for _ in 0..100 {
            press(&mut driver, &[A]);
        }
        press(&mut driver, &[A; PACKET + 1]);
        driver.size = 8;
        let mut events = 0;
        loop {
            offer(&mut driver, 8);
            let taken = core::iter::from_fn(|| driver.take_used(EVENTS)).count();
            events += taken;
            if taken < 8 {
                break;
            }
        }
        assert_eq!(events, WAITING);
    }

    #[test]
    fn without_a_driver_keys_go_nowhere() {
        let mut driver = driver(Model::Keyboard);
        driver.write(20, 1, 0);
        press(&mut driver, &[A]);
        driver.start(0);
        offer(&mut driver, 4);
        assert_eq!(driver.take_used(EVENTS), None);
    }

    #[test]
    fn lamps_are_taken() {
        let mut driver = driver(Model::Keyboard);
        assert_eq!(driver.request(STATUS, &[(0x80_000, 8, false)]), 0);
    }

    #[test]
    fn survives_a_hostile_driver() {
        for (seed, model) in (0..60).zip([Model::Keyboard, Model::Mouse, Model::Tablet].into_iter().cycle()) {
            let mut driver = Driver::new(InputDevice::new(model, ""));
            for round in 0..10 {
                abuse(&mut driver, seed * 10 + round, 30);
                for _ in 0..40 {
                    press(&mut driver, &[A, Input::Button { button: Button::WheelUp, down: true }]);
                }
            }
        }
    }
}

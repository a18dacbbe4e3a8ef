//! Console device (virtio 1.2, 5.3), as QEMU's `virtio-serial` with its ports: consoles, and ports with names.
//!
//! Port 0 is kept for the first console, as in QEMU. Queues 0 and 1 are port 0's, 2 and 3 carry control messages, and the
//! ports behind it have two each. What a driver sends stays in its queue until the services take it ([`Console::output`]),
//! and what they have for it is only taken from them as far as there are buffers ([`Console::input`]): nothing is kept
//! here, and nothing is lost.

use heapless::{Deque, Vec};

use super::{CONFIG_SIZE, Context, Device, Kind, MAX_QUEUES, Part};

/// Most ports: the queues of a device have room for no more.
pub const MAX_PORTS: usize = MAX_QUEUES / 2 - 1;

/// Longest name of a port, in bytes.
pub const NAME_BYTES: usize = 64;

/// Entries of a queue, as QEMU has them.
const QUEUE_SIZE: u16 = 128;

const CONTROL_IN: u16 = 2;
const CONTROL_OUT: u16 = 3;

const FEATURE_MULTIPORT: u64 = 1 << 1;
const FEATURE_EMERGENCY: u64 = 1 << 2;

/// Offset of the register for emergency output.
const EMERGENCY: u16 = 8;

/// Bytes of a control message without a name (5.3.6.2).
const MESSAGE: usize = 8;

/// Control messages that wait for buffers: every port can have all of its own twice. A driver that asks for more without
/// giving buffers gets no more.
const WAITING: usize = 64;

/// Chains that are taken in one call.
const STEP: u32 = 32;

/// Bytes of output that are moved at a time.
const PIECE: usize = 256;

/// Events of control messages (5.3.6.2).
mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// What the operator says of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSettings {
    /// It is a console; else a port with a name.
    pub console: bool,
    /// Name that the driver sees; empty for none.
    pub name: &'static str,
}

#[derive(Clone, Copy, Debug)]
struct Port {
    settings: PortSettings,
    /// The driver has opened it.
    open: bool,
    /// `open` has changed since the last question.
    changed: bool,
    /// The chain that is being read, and how far it is.
    chain: Option<(u16, u64)>,
}

/// The device.
#[derive(Debug)]
pub struct Console {
    ports: [Option<Port>; MAX_PORTS],
    /// How many ports the driver is told that there can be.
    count: u8,
    /// Messages to the driver: port, event, value.
    waiting: Deque<(u8, u16, u16), WAITING>,
    /// What has been written to the emergency register.
    emergency: Deque<u8, 16>,
}

/// Queues of a port: what it is given, and what it sends.
const fn queues(port: usize) -> (u16, u16) {
    let first = if port == 0 { 0 } else { port as u16 * 2 + 2 };
    (first, first + 1)
}

impl Console {
    /// A device with room for `ports` ports, 1 to [`MAX_PORTS`].
    pub const fn new(ports: u8) -> Self {
        Self {
            ports: [None; MAX_PORTS],
            count: if ports as usize > MAX_PORTS {
                MAX_PORTS as u8
            } else if ports == 0 {
                1
            } else {
                ports
            },
            waiting: Deque::new(),
            emergency: Deque::new(),
        }
    }

    /// Adds a port: at `number`, or at the first that is free; the first console gets 0. The port that it has become.
    /// `None`: there is none, or it is taken, or 0 and not for a console.
    pub fn add(&mut self, settings: PortSettings, number: Option<usize>) -> Option<usize> {
        let first = usize::from(!settings.console);
        let number = match number {
            Some(number) => number,
            None => {
                (first..self.ports.len()).find(|port| self.ports.get(*port).is_some_and(Option::is_none))?
            }
        };
        if number < first || number >= usize::from(self.count) {
            return None;
        }
        let place = self.ports.get_mut(number)?;
        if place.is_some() {
            return None;
        }
        *place = Some(Port { settings, open: false, changed: false, chain: None });
        Some(number)
    }

    /// Whether the driver has the port open.
    pub fn is_open(&self, port: usize) -> bool {
        self.port(port).is_some_and(|port| port.open)
    }

    /// Whether the driver has opened (true) or closed a port since the last question.
    pub fn take_change(&mut self, port: usize) -> Option<bool> {
        let port = self.port_mut(port)?;
        core::mem::take(&mut port.changed).then_some(port.open)
    }

    fn port(&self, port: usize) -> Option<&Port> {
        self.ports.get(port)?.as_ref()
    }

    fn port_mut(&mut self, port: usize) -> Option<&mut Port> {
        self.ports.get_mut(port)?.as_mut()
    }

    /// Gives what the driver has sent through a port to `take`, in pieces; it says how many bytes of a piece it has
    /// taken. What it leaves is given again at the next call. True: there is more.
    pub fn output(
        &mut self,
        port: usize,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&[u8]) -> usize,
    ) -> bool {
        let (_, queue) = queues(port);
        let emergency = &mut self.emergency;
        let Some(state) = self.ports.get_mut(port).and_then(Option::as_mut) else { return false };
        if port == 0 {
            while let Some(byte) = emergency.front()
                && take(&[*byte]) == 1
            {
                let _ = emergency.pop_front();
            }
        }
        for _ in 0..STEP {
            let (head, mut done) = match state.chain {
                Some((head, done)) if cx.reload(queue, head) => (head, done),
                Some(_) => return false,
                None => match cx.next(queue) {
                    Some(head) => (head, 0),
                    None => {
                        cx.signal(queue);
                        return false;
                    }
                },
            };
            state.chain = None;
            let mut piece = [0; PIECE];
            // A chain is cut where a turn ends.
            for _ in 0..STEP {
                let memory = cx.memory();
                let bytes = match cx.chain().read(memory, done, &mut piece) {
                    Ok(length) => piece.get(..length).unwrap_or_default(),
                    Err(error) => {
                        cx.fail(error);
                        return false;
                    }
                };
                if bytes.is_empty() {
                    break;
                }
                let taken = take(bytes).min(bytes.len());
                done = done.saturating_add(taken as u64);
                if taken < bytes.len() {
                    state.chain = Some((head, done));
                    cx.signal(queue);
                    return true;
                }
            }
            if done < cx.chain().length(Part::Readable) {
                state.chain = Some((head, done));
                cx.signal(queue);
                return true;
            }
            cx.complete(queue, head, 0);
        }
        cx.signal(queue);
        true
    }

    /// Gives the driver bytes for a port. How many it has had room for; none while it has the port closed.
    pub fn input(&mut self, port: usize, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        // A driver without several ports does not say that it opens the only one.
        if cx.has(FEATURE_MULTIPORT) && !self.is_open(port) {
            return 0;
        }
        let (queue, _) = queues(port);
        let mut rest = bytes;
        while !rest.is_empty()
            && let Some(head) = cx.next(queue)
        {
            let memory = cx.memory();
            match cx.chain().write(memory, 0, rest) {
                Ok(length) => {
                    cx.complete(queue, head, u32::try_from(length).unwrap_or(u32::MAX));
                    rest = rest.get(length..).unwrap_or_default();
                }
                Err(error) => {
                    cx.fail(error);
                    break;
                }
            }
        }
        cx.signal(queue);
        bytes.len() - rest.len()
    }

    /// Bytes that [`Console::input`] would take for a port at least; if none, the services are told when there is room.
    pub fn room(&mut self, port: usize, cx: &mut Context<'_>) -> usize {
        if cx.has(FEATURE_MULTIPORT) && !self.is_open(port) {
            return 0;
        }
        let (queue, _) = queues(port);
        for _ in 0..STEP {
            let Some(head) = cx.next(queue) else { return 0 };
            let length = cx.chain().length(Part::Writable);
            if length != 0 {
                cx.put_back(queue);
                return usize::try_from(length).unwrap_or(usize::MAX);
            }
            // A buffer without room is of no use to anybody.
            cx.complete(queue, head, 0);
        }
        0
    }

    /// Queues a message to the driver.
    fn tell(&mut self, port: usize, event: u16, value: u16) {
        // A driver that gives no buffers for its answers does not get them.
        let _ = self.waiting.push_back((port as u8, event, value));
    }

    /// Sends messages that wait, as far as there are buffers.
    fn send(&mut self, cx: &mut Context<'_>) {
        while let Some((port, event, value)) = self.waiting.front().copied() {
            let Some(head) = cx.next(CONTROL_IN) else { break };
            let mut message: Vec<u8, { MESSAGE + NAME_BYTES + 1 }> = Vec::new();
            let name = match event {
                event::PORT_NAME => self.port(port.into()).map_or("", |port| port.settings.name),
                _ => "",
            };
            // All of it has room: a name has no more than NAME_BYTES.
            let _ = message.extend_from_slice(&u32::from(port).to_le_bytes());
            let _ = message.extend_from_slice(&event.to_le_bytes());
            let _ = message.extend_from_slice(&value.to_le_bytes());
            if event == event::PORT_NAME {
                let _ = message.extend_from_slice(name.as_bytes());
                let _ = message.push(0);
            }
            let memory = cx.memory();
            match cx.chain().write(memory, 0, &message) {
                Ok(length) => cx.complete(CONTROL_IN, head, length as u32),
                Err(error) => return cx.fail(error),
            }
            let _ = self.waiting.pop_front();
        }
        cx.signal(CONTROL_IN);
    }

    /// Reads what the driver has sent as control messages.
    fn receive(&mut self, cx: &mut Context<'_>) {
        for _ in 0..STEP {
            let Some(head) = cx.next(CONTROL_OUT) else { return cx.signal(CONTROL_OUT) };
            let mut message = [0; MESSAGE];
            let memory = cx.memory();
            match cx.chain().read(memory, 0, &mut message) {
                Ok(MESSAGE) => self.control(message, cx),
                // Too short to mean anything.
                Ok(_) => {}
                Err(error) => return cx.fail(error),
            }
            cx.complete(CONTROL_OUT, head, 0);
        }
        cx.signal(CONTROL_OUT);
        cx.again();
    }

    fn control(&mut self, message: [u8; MESSAGE], cx: &mut Context<'_>) {
        let [a, b, c, d, event_low, event_high, value_low, value_high] = message;
        let number = u32::from_le_bytes([a, b, c, d]) as usize;
        let value = u16::from_le_bytes([value_low, value_high]);
        match u16::from_le_bytes([event_low, event_high]) {
            event::DEVICE_READY if value == 1 => {
                for port in 0..self.ports.len() {
                    if self.port(port).is_some() {
                        self.tell(port, event::PORT_ADD, 1);
                    }
                }
            }
            event::PORT_READY if value == 1 => {
                let Some(port) = self.port(number).copied() else { return };
                if port.settings.console {
                    self.tell(number, event::CONSOLE_PORT, 1);
                }
                if !port.settings.name.is_empty() {
                    self.tell(number, event::PORT_NAME, 1);
                }
                // The other end of a port is always there.
                self.tell(number, event::PORT_OPEN, 1);
            }
            event::PORT_OPEN => {
                if let Some(port) = self.port_mut(number)
                    && port.open != (value != 0)
                {
                    port.open = value != 0;
                    port.changed = true;
                    cx.tell();
                }
            }
            _ => {}
        }
    }
}

impl Device for Console {
    fn kind(&self) -> Kind {
        Kind { id: 3, class: 0x07_8000 }
    }

    fn features(&self) -> u64 {
        FEATURE_MULTIPORT | FEATURE_EMERGENCY
    }

    fn queues(&self) -> u16 {
        u16::from(self.count) * 2 + 2
    }

    fn queue_size(&self, _: u16) -> u16 {
        QUEUE_SIZE
    }

    fn config_size(&self) -> u16 {
        12
    }

    fn config(&self, config: &mut [u8; CONFIG_SIZE]) {
        // Columns and rows are not known.
        if let Some(place) = config.get_mut(4) {
            *place = self.count;
        }
    }

    fn set_config(&mut self, offset: u16, bytes: &[u8], cx: &mut Context<'_>) {
        // A driver may write here before it has negotiated anything (5.3.4).
        if let (EMERGENCY, Some(byte)) = (offset, bytes.first()) {
            let console = self.port(0).is_some_and(|port| port.settings.console);
            if console && self.emergency.push_back(*byte).is_ok() {
                cx.tell();
            }
        }
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        if !cx.has(FEATURE_MULTIPORT)
            && let Some(port) = self.port_mut(0)
        {
            port.open = true;
        }
    }

    fn notify(&mut self, queue: u16, cx: &mut Context<'_>) {
        match queue {
            CONTROL_IN => self.send(cx),
            CONTROL_OUT => {
                self.receive(cx);
                self.send(cx);
            }
            // Output, or room for input.
            _ => cx.tell(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        self.notify(CONTROL_OUT, cx);
        cx.tell();
    }

    fn reset(&mut self) {
        self.waiting.clear();
        for port in self.ports.iter_mut().flatten() {
            port.changed |= port.open;
            port.open = false;
            port.chain = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    const CONSOLE: PortSettings = PortSettings { console: true, name: "" };
    const NAMED: PortSettings = PortSettings { console: false, name: "org.x.y" };

    fn device() -> Console {
        let mut console = Console::new(MAX_PORTS as u8);
        assert_eq!(console.add(NAMED, None), Some(1));
        assert_eq!(console.add(CONSOLE, None), Some(0));
        console
    }

    fn driver() -> Driver {
        let mut driver = Driver::new(device());
        driver.start(FEATURE_MULTIPORT);
        driver
    }

    /// Sends a control message.
    fn control(driver: &mut Driver, port: u32, event: u16, value: u16) {
        let mut message = port.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        driver.fill(0x80_000, &message);
        assert_eq!(driver.request(CONTROL_OUT, &[(0x80_000, 8, false)]), 0);
    }

    /// Gives buffers for control messages and reads those that come.
    fn answers(driver: &mut Driver) -> Vec<(u32, u16, u16, u32), 8> {
        for head in 0..8 {
            driver.chain(CONTROL_IN, head, &[(0x90_000 + 0x100 * u64::from(head), 0x100, true)]);
            driver.offer(CONTROL_IN, head);
        }
        driver.kick(CONTROL_IN);
        let mut answers = Vec::new();
        while let Some((head, length)) = driver.take_used(CONTROL_IN) {
            let at = 0x90_000 + 0x100 * u64::from(head);
            let [a, b, c, d, e, f, g, h] = driver.bytes::<8>(at);
            let number = u32::from_le_bytes([a, b, c, d]);
            answers.push((number, u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]), length)).unwrap();
        }
        answers
    }

    fn output(driver: &mut Driver, port: usize, room: usize) -> (std::vec::Vec<u8>, bool) {
        let mut bytes = std::vec::Vec::new();
        let more = driver.function.with(0, |console: &mut Console, cx| {
            console.output(port, cx, &mut |piece| {
                let take = piece.len().min(room - bytes.len());
                bytes.extend(&piece[..take]);
                take
            })
        });
        (bytes, more.unwrap())
    }

    fn input(driver: &mut Driver, port: usize, bytes: &[u8]) -> usize {
        driver.function.with(0, |console: &mut Console, cx| console.input(port, bytes, cx)).unwrap()
    }

    fn open(driver: &mut Driver, port: u32) {
        control(driver, port, event::PORT_OPEN, 1);
    }

    #[test]
    fn ports_are_added_and_named() {
        let mut driver = driver();
        control(&mut driver, 0, event::DEVICE_READY, 1);
        assert_eq!(answers(&mut driver), [(0, event::PORT_ADD, 1, 8), (1, event::PORT_ADD, 1, 8)]);
        driver.start(FEATURE_MULTIPORT);
        control(&mut driver, 0, event::PORT_READY, 1);
        control(&mut driver, 1, event::PORT_READY, 1);
        control(&mut driver, 5, event::PORT_READY, 1);
        control(&mut driver, 0xffff_ffff, event::PORT_READY, 1);
        let expected = [
            (0, event::CONSOLE_PORT, 1, 8),
            (0, event::PORT_OPEN, 1, 8),
            (1, event::PORT_NAME, 1, 16),
            (1, event::PORT_OPEN, 1, 8),
        ];
        assert_eq!(answers(&mut driver), expected);
        assert_eq!(driver.bytes::<8>(0x90_208), *b"org.x.y\0");
        assert_eq!(driver.read(0x2004, 4), MAX_PORTS as u64);
    }

    #[test]
    fn places_for_ports() {
        let mut console = device();
        assert_eq!(console.add(NAMED, Some(0)), None, "kept for a console");
        assert_eq!(console.add(NAMED, Some(1)), None, "taken");
        assert_eq!(console.add(CONSOLE, Some(6)), Some(6));
        assert_eq!(console.add(CONSOLE, Some(7)), None);
        for port in 2..6 {
            assert_eq!(console.add(CONSOLE, None), Some(port));
        }
        assert_eq!(console.add(CONSOLE, None), None);
        assert_eq!((queues(0), queues(1), queues(6)), ((0, 1), (4, 5), (14, 15)));
        let mut small = Console::new(1);
        assert_eq!((small.add(NAMED, None), small.add(CONSOLE, None)), (None, Some(0)));
    }

    #[test]
    fn output_waits_in_the_ring() {
        let mut driver = driver();
        driver.fill(0x81_000, &[b'x'; 600]);
        driver.chain(5, 0, &[(0x81_000, 300, false), (0x81_000, 300, false)]);
        driver.offer(5, 0);
        driver.kick(5);
        assert!(driver.function.take_told());
        assert_eq!(driver.take_used(5), None);
        let (first, more) = output(&mut driver, 1, 310);
        assert_eq!((first.len(), more, driver.take_used(5)), (310, true, None));
        let (second, more) = output(&mut driver, 1, 1000);
        assert_eq!((second.len(), more), (290, false));
        assert_eq!(driver.take_used(5), Some((0, 0)));
        assert_eq!(output(&mut driver, 1, 10), (vec![], false));
        assert_eq!(output(&mut driver, 4, 10), (vec![], false), "no such port");
    }

    #[test]
    fn input_needs_an_open_port_and_buffers() {
        let mut driver = driver();
        driver.chain(4, 0, &[(0x82_000, 4, true)]);
        driver.offer(4, 0);
        driver.kick(4);
        assert_eq!(input(&mut driver, 1, b"hello"), 0);
        open(&mut driver, 1);
        assert!(driver.function.take_told());
        let room = driver.function.with(0, |console: &mut Console, cx| console.room(1, cx));
        assert_eq!(room, Some(4));
        assert_eq!(input(&mut driver, 1, b"hello"), 4);
        assert_eq!(driver.take_used(4), Some((0, 4)));
        assert_eq!(driver.bytes::<5>(0x82_000), *b"hell\0");
        assert_eq!(input(&mut driver, 1, b"o"), 0);
    }

    #[test]
    fn opening_is_told_once() {
        let mut driver = driver();
        let change = |driver: &mut Driver| {
            driver.function.with(0, |console: &mut Console, _| console.take_change(1)).unwrap()
        };
        open(&mut driver, 1);
        open(&mut driver, 1);
        assert_eq!((change(&mut driver), change(&mut driver)), (Some(true), None));
        driver.write(20, 1, 0);
        assert_eq!((change(&mut driver), change(&mut driver)), (Some(false), None));
    }

    #[test]
    fn a_driver_without_ports_has_the_console() {
        let mut driver = Driver::new(device());
        driver.start(0);
        driver.chain(0, 0, &[(0x82_000, 4, true)]);
        driver.offer(0, 0);
        driver.kick(0);
        assert_eq!(input(&mut driver, 0, b"abc"), 3);
    }

    #[test]
    fn emergency_output_needs_no_driver() {
        let mut driver = Driver::new(device());
        for byte in b"oops" {
            driver.write(0x2008, 4, u64::from(*byte));
        }
        assert_eq!(output(&mut driver, 0, 10).0, b"oops");
    }

    #[test]
    fn survives_a_hostile_driver() {
        for seed in 0..40 {
            let mut driver = Driver::new(device());
            for round in 0..8 {
                abuse(&mut driver, seed * 8 + round, 40);
                for port in 0..MAX_PORTS {
                    input(&mut driver, port, b"something");
                    output(&mut driver, port, 1 << 20);
                }
            }
        }
    }
}

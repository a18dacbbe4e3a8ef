//! A model of the chip in place of port I/O, for the tests of the driver.
//!
//! It keeps what the data sheet says about the FIFOs, the line status and the interrupts; time does not exist: a test says
//! what arrives and when the transmitter is empty.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use super::line::*;

/// A UART on the bus.
#[derive(Debug, Default)]
pub struct Model {
    /// Has a scratch register.
    scratch_register: bool,
    /// Has a FIFO.
    fifo: bool,
    /// What has been sent.
    pub sent: Vec<u8>,
    /// What CTS, DSR and DCD are: bits of the modem status register.
    pub modem: u8,
    fifo_on: bool,
    received: VecDeque<(u8, u8)>,
    /// What arrives as soon as there is room for it.
    pub waits: VecDeque<u8>,
    overrun: bool,
    /// Characters in the transmitter.
    sending: usize,
    /// The transmitter has become empty since the interrupt was identified.
    empty_event: bool,
    modem_seen: u8,
    interrupt_enable: u8,
    line_control: u8,
    pub modem_control: u8,
    pub divisor: u16,
    scratch: u8,
}

thread_local! {
    static BUS: RefCell<BTreeMap<u16, Model>> = const { RefCell::new(BTreeMap::new()) };
}

/// Puts a chip on the bus of this thread.
pub fn plug(base: u16, model: Model) {
    BUS.with_borrow_mut(|bus| bus.insert(base, model));
}

/// Does something to a chip.
pub fn chip<T>(base: u16, action: impl FnOnce(&mut Model) -> T) -> T {
    BUS.with_borrow_mut(|bus| action(bus.get_mut(&base).expect("a chip at this port")))
}

impl Model {
    /// An 8250, to which the others have added.
    pub fn ns8250() -> Self {
        Self::default()
    }

    /// A 16450.
    pub fn ns16450() -> Self {
        Self { scratch_register: true, ..Self::default() }
    }

    /// A 16550A.
    pub fn ns16550a() -> Self {
        Self { fifo: true, ..Self::ns16450() }
    }

    /// With a peer that is on and ready.
    pub fn connected(self) -> Self {
        Self { modem: MSR_CTS | MSR_DSR | MSR_DCD, ..self }
    }

    /// A character arrives, with the error bits of the line status.
    pub fn arrive(&mut self, byte: u8, errors: u8) {
        let room = if self.fifo_on { usize::from(FIFO) } else { 1 };
        if self.received.len() < room {
            self.received.push_back((byte, errors));
            return;
        }
        self.overrun = true;
        // Without FIFO the new character takes the place of the old one; with it, it is the new one that is lost
        // (data sheet, 8.4, bit 1).
        if !self.fifo_on {
            self.received[0] = (byte, errors);
        }
    }

    /// Characters that nobody has fetched.
    pub fn waiting(&self) -> usize {
        self.received.len()
    }

    /// The transmitter becomes empty.
    pub fn drain(&mut self) {
        self.empty_event |= self.sending > 0;
        self.sending = 0;
    }

    /// Whether the chip asserts its interrupt.
    pub fn interrupts(&self) -> bool {
        self.cause() & 1 == 0
    }

    fn cause(&self) -> u8 {
        let fifo = if self.fifo_on { 0xc0 } else { 0 };
        let errors = self.overrun || self.received.front().is_some_and(|(_, errors)| *errors != 0);
        let enabled = |bit: u8| self.interrupt_enable & bit != 0;
        fifo | if enabled(4) && errors {
            0x06
        } else if enabled(1) && !self.received.is_empty() {
            0x04
        } else if enabled(2) && self.empty_event {
            0x02
        } else if enabled(8) && self.modem != self.modem_seen {
            0x00
        } else {
            0x01
        }
    }

    fn read(&mut self, register: u16) -> u8 {
        let divisor = self.line_control & 0x80 != 0;
        match register {
            DATA if divisor => self.divisor as u8,
            DIVISOR_HIGH if divisor => (self.divisor >> 8) as u8,
            DATA => {
                let byte = self.received.pop_front().map_or(0, |(byte, _)| byte);
                self.received.extend(self.waits.pop_front().map(|byte| (byte, 0)));
                byte
            }
            INTERRUPT_ENABLE => self.interrupt_enable,
            INTERRUPT_ID => {
                let cause = self.cause();
                if cause & 0x0f == 0x02 {
                    self.empty_event = false;
                }
                cause
            }
            LINE_CONTROL => self.line_control,
            MODEM_CONTROL => self.modem_control,
            LINE_STATUS => {
                let (mut status, errors) = match self.received.front_mut() {
                    Some((_, errors)) => (LSR_DATA, std::mem::take(errors)),
                    None => (0, 0),
                };
                status |= errors;
                if std::mem::take(&mut self.overrun) {
                    status |= LSR_OVERRUN;
                }
                status | if self.sending == 0 { LSR_EMPTY | LSR_IDLE } else { 0 }
            }
            MODEM_STATUS if self.modem_control & 0x10 != 0 => {
                let bit = |from: u8, to: u8| if self.modem_control & from != 0 { to } else { 0 };
                bit(2, MSR_CTS) | bit(1, MSR_DSR) | bit(8, MSR_DCD)
            }
            MODEM_STATUS => {
                self.modem_seen = self.modem;
                self.modem
            }
            SCRATCH if self.scratch_register => self.scratch,
            _ => 0xff,
        }
    }

    fn write(&mut self, register: u16, value: u8) {
        let divisor = self.line_control & 0x80 != 0;
        match register {
            DATA if divisor => self.divisor = self.divisor & 0xff00 | u16::from(value),
            DIVISOR_HIGH if divisor => self.divisor = self.divisor & 0xff | u16::from(value) << 8,
            DATA => {
                assert!(self.sending < if self.fifo_on { usize::from(FIFO) } else { 1 }, "sent without room");
                self.sending += 1;
                self.empty_event = false;
                self.sent.push(value);
            }
            INTERRUPT_ENABLE => {
                // Enabling the interrupt of an empty transmitter raises it.
                self.empty_event |= value & !self.interrupt_enable & 2 != 0 && self.sending == 0;
                self.interrupt_enable = value & 0x0f;
            }
            FIFO_CONTROL if self.fifo => {
                if (value & 1 != 0) != self.fifo_on || value & 2 != 0 {
                    self.received.clear();
                }
                self.fifo_on = value & 1 != 0;
            }
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.modem_control = value & 0x1f,
            SCRATCH => self.scratch = value,
            _ => {}
        }
    }
}

/// As the real one; a port without a chip reads ones.
pub fn in8(port: u16) -> u8 {
    BUS.with_borrow_mut(|bus| bus.get_mut(&(port & !7)).map_or(0xff, |chip| chip.read(port & 7)))
}

/// As the real one.
pub fn out8(port: u16, value: u8) {
    BUS.with_borrow_mut(|bus| {
        if let Some(chip) = bus.get_mut(&(port & !7)) {
            chip.write(port & 7, value);
        }
    });
}

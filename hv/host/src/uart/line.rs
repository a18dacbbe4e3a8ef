//! One UART: its registers, and the ring that its interrupt handler fills.

use heapless::Deque;
use spin::Mutex;

use super::{LINES, LineError, Modem, UartConfig, port};
use crate::interrupts::{self, Sources};

/// Received characters kept for a reader that is late: 44 ms of a line at 921600 baud.
pub const RECEIVE_RING: usize = 4096;

/// Ring levels at which RTS asks the other side to stop and to go on. What is left above the first is for a peer that
/// stops late: a Linux host sends what its own FIFO holds, a USB adapter up to a packet or two of 512 bytes.
const RTS_STOP: usize = RECEIVE_RING / 4 * 3;
const RTS_GO: usize = RECEIVE_RING / 4;

/// Room that the ring keeps for what one character can become: itself, and an overrun on each side of it.
const RING_RESERVE: usize = 3;

/// Interrupt causes handled in one go; more mean a chip that does not drop its interrupt.
const CAUSES: usize = 64;
/// Characters read in one go, likewise.
const DRAIN: usize = 512;
/// Polls, of about 1 us, for a transmitter to come to rest: 16 characters at 9600 baud last 17 ms.
const IDLE_POLLS: u32 = 20_000;
/// Rounds over the UARTs that share an interrupt, likewise.
pub(super) const SHARING_PASSES: usize = 64;

/// Register offsets from the base port.
mod register {
    pub(in crate::uart) const DATA: u16 = 0;
    pub(in crate::uart) const DIVISOR_LOW: u16 = 0;
    pub(in crate::uart) const INTERRUPT_ENABLE: u16 = 1;
    pub(in crate::uart) const DIVISOR_HIGH: u16 = 1;
    pub(in crate::uart) const INTERRUPT_ID: u16 = 2;
    pub(in crate::uart) const FIFO_CONTROL: u16 = 2;
    pub(in crate::uart) const LINE_CONTROL: u16 = 3;
    pub(in crate::uart) const MODEM_CONTROL: u16 = 4;
    pub(in crate::uart) const LINE_STATUS: u16 = 5;
    pub(in crate::uart) const MODEM_STATUS: u16 = 6;
    pub(in crate::uart) const SCRATCH: u16 = 7;
}
pub(super) use register::*;

const IER_RECEIVE: u8 = 1;
const IER_TRANSMIT: u8 = 2;
const IER_LINE_STATUS: u8 = 4;
const IER_MODEM: u8 = 8;
const IER_ALL: u8 = 0x0f;
/// FIFO on, both cleared, receive interrupt at 4 of 16 characters. At 1 each character would cost an interrupt; at 8 or 14
/// the time until one is lost would shrink to 8 or 2 characters, of which one is 10.9 us at 921600 baud.
const FCR_ON: u8 = 0x47;
/// FIFO on, both cleared, interrupt at each character: for the log.
const FCR_LOG: u8 = 7;
/// Interrupt identification: the FIFO is on and works (16550A), or is on and does not (16550).
const IIR_FIFO: u8 = 0xc0;
const LCR_8N1: u8 = 3;
const LCR_DIVISOR: u8 = 0x80;
const MCR_DTR: u8 = 1;
const MCR_RTS: u8 = 2;
/// OUT2 lets the interrupt through to the bus on a PC.
const MCR_OUT2: u8 = 8;
const MCR_LOOP: u8 = 0x10;
pub(super) const LSR_DATA: u8 = 1;
pub(super) const LSR_OVERRUN: u8 = 2;
pub(super) const LSR_PARITY: u8 = 4;
pub(super) const LSR_FRAMING: u8 = 8;
pub(super) const LSR_BREAK: u8 = 0x10;
const LSR_ERRORS: u8 = LSR_OVERRUN | LSR_PARITY | LSR_FRAMING | LSR_BREAK;
pub(super) const LSR_EMPTY: u8 = 0x20;
pub(super) const LSR_IDLE: u8 = 0x40;
pub(super) const MSR_CTS: u8 = 0x10;
pub(super) const MSR_DSR: u8 = 0x20;
pub(super) const MSR_DCD: u8 = 0x80;

/// Characters of a 16550A's FIFO.
pub(super) const FIFO: u8 = 16;

/// What kind of chip a line has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chip {
    /// Without FIFO and scratch register.
    #[default]
    Ns8250,
    /// Without FIFO; a 16550 whose FIFO does not work counts as one.
    Ns16450,
    /// With a FIFO of 16 characters in each direction.
    Ns16550A,
}

impl Chip {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ns8250 => "8250",
            Self::Ns16450 => "16450",
            Self::Ns16550A => "16550A",
        }
    }
}

/// What a line has seen since it was opened, and how it is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The chip.
    pub chip: Chip,
    /// Its baud rate.
    pub baud: u32,
    /// Characters received.
    pub received: u64,
    /// Characters sent.
    pub sent: u64,
    /// Times that the chip had no room for a character: it was emptied too late, or not at all because nobody read the
    /// ring and the other side did not heed RTS.
    pub overruns: u64,
    /// Characters without stop bit.
    pub framing: u64,
    /// Characters with wrong parity.
    pub parity: u64,
    /// Breaks.
    pub breaks: u64,
    /// Times that RTS asked the other side to stop.
    pub throttled: u64,
}

/// A received character or what came instead of it.
#[derive(Clone, Copy)]
enum Received {
    Byte(u8),
    Error(LineError),
}

/// A line's state. All zero while it is closed, so that the image file need not hold the ring.
pub(super) struct Line {
    pub(super) open: bool,
    /// An interrupt of the chip has arrived.
    pub(super) heard: bool,
    /// What this line is among the interrupt sources.
    pub(super) source: Sources,
    pub(super) config: UartConfig,
    /// Characters that the transmit FIFO takes when it is empty.
    burst: u8,
    /// Characters that it still takes.
    room: u8,
    ring: Deque<Received, RECEIVE_RING>,
    /// The ring is full, and what comes stays in the chip: its receive interrupts are off.
    full: bool,
    /// Error bits of the line status that were read, and so cleared, before there was room for what they belong to.
    errors: u8,
    /// Characters that may be from before an overrun that came up: what the receive FIFO can have held then, or less where it
    /// has been empty since.
    suspect: u8,
    interrupt_enable: u8,
    modem_control: u8,
    /// Wait for CTS before each burst.
    flow_control: bool,
    modem_status: u8,
    connected: bool,
    counters: Counters,
}

pub(super) static LINE: [Mutex<Line>; LINES] = [const { Mutex::new(Line::closed()) }; LINES];

/// Has the host's services look at a line.
fn note(source: Sources) {
    if cfg!(not(test)) {
        interrupts::note(source);
    }
}

/// The chip at `base`, where there is one: its interrupt enables keep what is written, and in loop-back its modem outputs
/// come in.
fn detect(base: u16) -> Option<Chip> {
    // Four bits (data sheet, 8.5): a bus that nobody drives gives ones.
    for pattern in [0, IER_ALL, 0] {
        port::out8(base + INTERRUPT_ENABLE, pattern);
        // Later chips have more there, which may read as anything.
        if port::in8(base + INTERRUPT_ENABLE) & IER_ALL != pattern {
            return None;
        }
    }
    // What the boot loader has written last is still on its way: loop-back would have it come in, and another divisor would
    // garble it.
    let _ = (0..IDLE_POLLS).find(|_| port::in8(base + LINE_STATUS) & LSR_IDLE != 0);
    let old = port::in8(base + MODEM_CONTROL);
    // RTS comes back as CTS, OUT2 as DCD (data sheet, 8.6.1).
    port::out8(base + MODEM_CONTROL, MCR_LOOP | MCR_RTS | MCR_OUT2);
    let status = port::in8(base + MODEM_STATUS) & 0xf0;
    port::out8(base + MODEM_CONTROL, old & !MCR_LOOP);
    if status != MSR_CTS | MSR_DCD {
        return None;
    }
    let scratch = [0x55, 0xaa].iter().all(|&pattern| {
        port::out8(base + SCRATCH, pattern);
        port::in8(base + SCRATCH) == pattern
    });
    Some(if scratch { Chip::Ns16450 } else { Chip::Ns8250 })
}

fn write_divisor(base: u16, divisor: u16) {
    let [low, high] = divisor.to_le_bytes();
    port::out8(base + LINE_CONTROL, LCR_DIVISOR | LCR_8N1);
    port::out8(base + DIVISOR_LOW, low);
    port::out8(base + DIVISOR_HIGH, high);
    port::out8(base + LINE_CONTROL, LCR_8N1);
}

/// Sets a UART up for polled sending only. False where there is none.
pub(super) fn open_for_log(config: UartConfig, baud: u32) -> bool {
    if detect(config.base).is_none() {
        return false;
    }
    write_divisor(config.base, config.divisor(baud).map_or(1, |(divisor, _)| divisor));
    port::out8(config.base + FIFO_CONTROL, FCR_LOG);
    port::out8(config.base + MODEM_CONTROL, MCR_DTR | MCR_RTS);
    true
}

impl Line {
    pub(super) const fn closed() -> Self {
        Self {
            open: false,
            heard: false,
            source: Sources::empty(),
            config: UartConfig { base: 0, irq: 0, base_baud: 0 },
            burst: 0,
            room: 0,
            ring: Deque::new(),
            full: false,
            errors: 0,
            suspect: 0,
            interrupt_enable: 0,
            modem_control: 0,
            flow_control: false,
            modem_status: 0,
            connected: false,
            counters: Counters {
                chip: Chip::Ns8250,
                baud: 0,
                received: 0,
                sent: 0,
                overruns: 0,
                framing: 0,
                parity: 0,
                breaks: 0,
                throttled: 0,
            },
        }
    }

    /// Sets the chip up, if it is there and the line is not open.
    pub(super) fn open(&mut self, source: Sources, config: UartConfig, baud: u32) -> Option<()> {
        if self.open {
            return None;
        }
        let chip = detect(config.base)?;
        self.source = source;
        self.config = config;
        self.burst = 1;
        self.modem_control = MCR_DTR | MCR_RTS | MCR_OUT2;
        let (divisor, real) = config.divisor(baud).unwrap_or((1, config.base_baud));
        write_divisor(config.base, divisor);
        self.counters.baud = real;
        self.counters.chip = chip;
        // What a client has sent already is kept: switching the FIFO on would clear it.
        self.drain(0);
        self.out(FIFO_CONTROL, FCR_ON);
        if self.input(INTERRUPT_ID) & IIR_FIFO == IIR_FIFO {
            self.burst = FIFO;
            self.counters.chip = Chip::Ns16550A;
        } else {
            self.out(FIFO_CONTROL, 0);
        }
        self.out(MODEM_CONTROL, self.modem_control);
        self.read_modem();
        // Who is there already need not be noticed: everybody is greeted at the start.
        self.connected = false;
        self.interrupt_enable = IER_RECEIVE | IER_LINE_STATUS | IER_MODEM;
        self.out(INTERRUPT_ENABLE, self.interrupt_enable);
        self.open = true;
        Some(())
    }

    fn input(&self, register: u16) -> u8 {
        port::in8(self.config.base + register)
    }

    fn out(&self, register: u16, value: u8) {
        port::out8(self.config.base + register, value);
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    pub(super) fn available(&self) -> usize {
        self.ring.len()
    }

    pub(super) fn read(&mut self) -> nb::Result<u8, LineError> {
        match self.take() {
            Some(Received::Byte(byte)) => Ok(byte),
            Some(Received::Error(error)) => Err(nb::Error::Other(error)),
            None => Err(nb::Error::WouldBlock),
        }
    }

    pub(super) fn read_slice(&mut self, buffer: &mut [u8]) -> usize {
        let mut count = 0;
        for slot in buffer {
            let Some(Received::Byte(byte)) = self.ring.front().copied() else { break };
            *slot = byte;
            self.take();
            count += 1;
        }
        count
    }

    pub(super) fn write_slice(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        for &byte in bytes {
            if !self.has_room() {
                break;
            }
            self.out(DATA, byte);
            self.room -= 1;
            sent += 1;
        }
        self.counters.sent = self.counters.sent.wrapping_add(sent as u64);
        if sent < bytes.len() && !self.held() {
            self.enable(IER_TRANSMIT, true);
        }
        sent
    }

    pub(super) fn is_idle(&mut self) -> bool {
        let status = self.status();
        status & LSR_IDLE != 0
    }

    pub(super) fn modem(&mut self) -> Modem {
        self.read_modem();
        Modem {
            cts: self.modem_status & MSR_CTS != 0,
            dsr: self.modem_status & MSR_DSR != 0,
            dcd: self.modem_status & MSR_DCD != 0,
        }
    }

    pub(super) fn connected(&mut self) -> bool {
        core::mem::take(&mut self.connected)
    }

    /// Reads the line status. Reading it clears its error bits, so what they belong to is taken here; its interrupt, when
    /// it comes, will find nothing, so the source is noted here too.
    fn status(&mut self) -> u8 {
        let status = self.input(LINE_STATUS);
        if status & (LSR_DATA | LSR_OVERRUN) != 0 {
            let before = self.ring.len();
            self.drain(status);
            // Where the ring is full nothing was taken: to note it each time would keep the services from ever waiting.
            if self.ring.len() != before {
                note(self.source);
            }
        }
        status
    }

    fn has_room(&mut self) -> bool {
        if self.room > 0 {
            return true;
        }
        if self.flow_control {
            self.read_modem();
            if self.modem_status & MSR_CTS == 0 {
                return false;
            }
        }
        if self.status() & LSR_EMPTY != 0 {
            self.room = self.burst;
        }
        self.room > 0
    }

    fn push(&mut self, received: Received) {
        // There is room: `drain` sees to it.
        let _ = self.ring.push_back(received);
        if self.ring.len() >= RTS_STOP && self.modem_control & MCR_RTS != 0 {
            self.counters.throttled = self.counters.throttled.wrapping_add(1);
            self.modem_control &= !MCR_RTS;
            self.out(MODEM_CONTROL, self.modem_control);
        }
    }

    fn take(&mut self) -> Option<Received> {
        let received = self.ring.pop_front();
        if self.ring.len() <= RTS_GO {
            if self.modem_control & MCR_RTS == 0 {
                self.modem_control |= MCR_RTS;
                self.out(MODEM_CONTROL, self.modem_control);
            }
            if self.full {
                self.full = false;
                self.enable(IER_RECEIVE | IER_LINE_STATUS, true);
            }
        }
        received
    }

    fn enable(&mut self, interrupts: u8, on: bool) {
        let old = self.interrupt_enable;
        self.interrupt_enable = if on { old | interrupts } else { old & !interrupts };
        if self.interrupt_enable != old {
            self.out(INTERRUPT_ENABLE, self.interrupt_enable);
        }
    }

    /// Empties the receive FIFO into the ring. `status` is a line status already read, or 0.
    fn drain(&mut self, status: u8) {
        let mut status = if status == 0 { self.input(LINE_STATUS) } else { status };
        status |= core::mem::take(&mut self.errors);
        for _ in 0..DRAIN {
            if RECEIVE_RING - self.ring.len() < RING_RESERVE {
                self.errors = status & LSR_ERRORS;
                self.full = true;
                self.enable(IER_RECEIVE | IER_LINE_STATUS, false);
                return;
            }
            if status & LSR_OVERRUN != 0 {
                self.counters.overruns = self.counters.overruns.wrapping_add(1);
                self.push(Received::Error(LineError::Overrun));
                // A chip without FIFO loses the character before the one that it holds. One with a FIFO loses the newest,
                // which came after all that the FIFO held then, and what it holds now may be from before or after that:
                // it is an overrun on both sides, and what is in between is believed in no case.
                self.suspect = if self.burst > 1 && status & LSR_DATA != 0 { FIFO } else { 0 };
            }
            if status & LSR_DATA == 0 {
                if core::mem::take(&mut self.suspect) > 0 {
                    self.push(Received::Error(LineError::Overrun));
                }
                return;
            }
            let byte = self.input(DATA);
            self.counters.received = self.counters.received.wrapping_add(1);
            let received = self.judge(status, byte);
            self.push(received);
            if self.suspect > 0 {
                self.suspect -= 1;
                if self.suspect == 0 {
                    self.push(Received::Error(LineError::Overrun));
                }
            }
            status = self.input(LINE_STATUS);
        }
        self.errors = status & LSR_ERRORS;
    }

    /// What a character is worth, by the status that was read with it.
    fn judge(&mut self, status: u8, byte: u8) -> Received {
        let counters = &mut self.counters;
        let (count, error) = if status & LSR_BREAK != 0 {
            (&mut counters.breaks, LineError::Break)
        } else if status & LSR_FRAMING != 0 {
            (&mut counters.framing, LineError::Framing)
        } else if status & LSR_PARITY != 0 {
            (&mut counters.parity, LineError::Parity)
        } else {
            return Received::Byte(byte);
        };
        *count = count.wrapping_add(1);
        Received::Error(error)
    }

    fn read_modem(&mut self) {
        let status = self.input(MODEM_STATUS);
        let risen = status & !self.modem_status & (MSR_DSR | MSR_DCD);
        self.modem_status = status;
        self.connected |= risen != 0;
        // A peer that has once raised CTS means it; a cable of three wires never does.
        self.flow_control |= status & MSR_CTS != 0;
    }

    /// The peer holds the line: the modem interrupt tells when it does no more, and the transmitter's would never end.
    fn held(&self) -> bool {
        self.flow_control && self.modem_status & MSR_CTS == 0
    }

    /// Asks for an interrupt that is due at once, the transmitter being empty (data sheet, 8.6), or no more.
    pub(super) fn provoke(&mut self, on: bool) {
        self.enable(IER_TRANSMIT, on);
    }

    /// Serves the chip's interrupts until none is pending. True where there was one.
    pub(super) fn interrupt(&mut self) -> bool {
        let mut served = false;
        for _ in 0..CAUSES {
            let cause = self.input(INTERRUPT_ID);
            // Bit 0: none pending.
            if cause & 1 != 0 {
                return served;
            }
            served = true;
            match cause & 0x0e {
                0x04 | 0x06 | 0x0c => self.drain(0),
                0x02 => self.enable(IER_TRANSMIT, false),
                _ => self.read_modem(),
            }
        }
        self.let_fall();
        served
    }

    /// The chip's interrupt does not end, and the line is edge-triggered: lets it fall and rise, or none would come again.
    pub(super) fn let_fall(&self) {
        self.out(INTERRUPT_ENABLE, 0);
        self.out(INTERRUPT_ENABLE, self.interrupt_enable);
    }
}

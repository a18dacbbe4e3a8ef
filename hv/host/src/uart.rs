//! 16550 serial lines (National PC16550D data sheet).
//!
//! A line's interrupt handler empties the receive FIFO into a ring, so that no byte is lost as long as interrupts are
//! taken once in 12 characters (1 ms at 115200 baud): a running guest is interrupted by them. Sending goes out in
//! bursts of what the FIFO holds, each begun only when the chip says that it is empty.

use heapless::Deque;
use spin::Mutex;

use crate::interrupts::{self, Sources};
use crate::port;

/// Lines that can be open: QMP and the guest's console.
pub const LINES: usize = 2;

/// Received characters kept for a reader that is late: 44 ms of a line at 921600 baud.
pub const RECEIVE_RING: usize = 4096;

/// Ring levels at which RTS asks the other side to stop and to go on.
const RTS_STOP: usize = RECEIVE_RING * 3 / 4;
const RTS_GO: usize = RECEIVE_RING / 4;

/// Interrupt causes handled in one go; more mean a chip that does not drop its interrupt.
const CAUSES: usize = 64;
/// Characters read in one go, likewise.
const DRAIN: usize = 512;

/// Register offsets from the base port.
mod register {
    pub(super) const DATA: u16 = 0;
    pub(super) const DIVISOR_LOW: u16 = 0;
    pub(super) const INTERRUPT_ENABLE: u16 = 1;
    pub(super) const DIVISOR_HIGH: u16 = 1;
    pub(super) const INTERRUPT_ID: u16 = 2;
    pub(super) const FIFO_CONTROL: u16 = 2;
    pub(super) const LINE_CONTROL: u16 = 3;
    pub(super) const MODEM_CONTROL: u16 = 4;
    pub(super) const LINE_STATUS: u16 = 5;
    pub(super) const MODEM_STATUS: u16 = 6;
    pub(super) const SCRATCH: u16 = 7;
}
use register::*;

const IER_RECEIVE: u8 = 1;
const IER_TRANSMIT: u8 = 2;
const IER_LINE_STATUS: u8 = 4;
const IER_MODEM: u8 = 8;
const LCR_8N1: u8 = 3;
const LCR_DIVISOR: u8 = 0x80;
const MCR_DTR: u8 = 1;
const MCR_RTS: u8 = 2;
/// OUT2 lets the interrupt through to the bus on a PC.
const MCR_OUT2: u8 = 8;
const MCR_LOOP: u8 = 0x10;
const LSR_DATA: u8 = 1;
const LSR_OVERRUN: u8 = 2;
const LSR_PARITY: u8 = 4;
const LSR_FRAMING: u8 = 8;
const LSR_BREAK: u8 = 0x10;
const LSR_EMPTY: u8 = 0x20;
const LSR_IDLE: u8 = 0x40;
const MSR_CTS: u8 = 0x10;
const MSR_DSR: u8 = 0x20;
const MSR_DCD: u8 = 0x80;

/// A 16550 and how it is wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UartConfig {
    /// First of its eight ports.
    pub base: u16,
    /// Its ISA interrupt.
    pub irq: u8,
    /// Baud rate at divisor 1: 115200 with the PC's 1.8432 MHz crystal.
    pub base_baud: u32,
}

impl UartConfig {
    /// COM1 of a PC.
    pub const COM1: Self = Self { base: 0x3f8, irq: 4, base_baud: 115_200 };
    /// COM2 of a PC.
    pub const COM2: Self = Self { base: 0x2f8, irq: 3, base_baud: 115_200 };
}

/// What went wrong on the line while receiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// Characters were lost before this point.
    Overrun,
    /// A character without stop bit: noise, or another baud rate.
    Framing,
    /// A character with wrong parity.
    Parity,
    /// The other side held the line in the break state.
    Break,
}

/// Why a baud rate cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBaud {
    /// The fastest rate that this line has.
    pub fastest: u32,
}

/// State of the modem lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modem {
    /// Clear to send.
    pub cts: bool,
    /// Data set ready: something is connected and switched on.
    pub dsr: bool,
    /// Data carrier detect.
    pub dcd: bool,
    /// DSR or DCD has risen since it was last asked for: a client may have come.
    pub connected: bool,
}

/// A received character or what came instead of it.
#[derive(Clone, Copy)]
enum Received {
    Byte(u8),
    Error(LineError),
}

/// A line's state. All zero while it is closed, so that the image file need not hold the ring.
struct Line {
    open: bool,
    /// What this line is among the interrupt sources.
    source: Sources,
    config: UartConfig,
    /// Characters that the transmit FIFO takes when it is empty.
    burst: u8,
    /// Characters that it still takes.
    room: u8,
    ring: Deque<Received, RECEIVE_RING>,
    /// The ring was full: an overrun is to be reported where there is room again.
    lost: bool,
    interrupt_enable: u8,
    modem_control: u8,
    /// Wait for CTS before each burst.
    flow_control: bool,
    modem_status: u8,
    connected: bool,
}

static LINE: [Mutex<Line>; LINES] = [const { Mutex::new(Line::closed()) }; LINES];
const SOURCES: [Sources; LINES] = [Sources::UART0, Sources::UART1];

/// An open line.
#[derive(Debug)]
pub struct Uart {
    index: usize,
}

impl Uart {
    /// Finds out whether the chip is there, and sets it up: 8 data bits, no parity, FIFO on, interrupts on. `index` is
    /// the line's place in `Sources`. `None` where there is no UART, or the place is taken.
    pub fn open(index: usize, config: UartConfig, baud: u32) -> Option<Self> {
        let mut line = LINE.get(index)?.lock();
        if line.open || !detect(config.base) {
            return None;
        }
        line.source = SOURCES.get(index).copied()?;
        line.config = config;
        line.burst = 1;
        line.modem_control = MCR_DTR | MCR_RTS | MCR_OUT2;
        line.out(INTERRUPT_ENABLE, 0);
        line.set_baud(baud).or_else(|bad| line.set_baud(bad.fastest)).ok()?;
        // What a client has sent already is kept: switching the FIFO on would clear it.
        line.drain(0);
        // FIFO on, both cleared, receive interrupt at 4 of 16 characters: a quarter of the interrupts, and 12 characters
        // (130 us at 921600 baud) until one is lost.
        line.out(FIFO_CONTROL, 0x47);
        if line.input(INTERRUPT_ID) & 0xc0 == 0xc0 {
            line.burst = 16;
        } else {
            line.out(FIFO_CONTROL, 0);
        }
        line.out(MODEM_CONTROL, line.modem_control);
        line.modem_status = line.input(MODEM_STATUS);
        line.interrupt_enable = IER_RECEIVE | IER_LINE_STATUS | IER_MODEM;
        line.out(INTERRUPT_ENABLE, line.interrupt_enable);
        line.open = true;
        drop(line);
        interrupts::enable_isa(config.irq);
        Some(Self { index })
    }

    fn with<T>(&self, absent: T, action: impl FnOnce(&mut Line) -> T) -> T {
        match LINE.get(self.index).map(|line| line.lock()) {
            Some(mut line) if line.open => action(&mut line),
            _ => absent,
        }
    }

    /// The next received byte, or what came in its place.
    pub fn read(&mut self) -> nb::Result<u8, LineError> {
        self.with(Err(nb::Error::WouldBlock), |line| match line.take() {
            Some(Received::Byte(byte)) => Ok(byte),
            Some(Received::Error(error)) => Err(nb::Error::Other(error)),
            None => Err(nb::Error::WouldBlock),
        })
    }

    /// Reads bytes until the buffer is full, nothing is there or an error is next; returns how many.
    pub fn read_slice(&mut self, buffer: &mut [u8]) -> usize {
        self.with(0, |line| {
            let mut count = 0;
            for slot in buffer {
                let Some(Received::Byte(byte)) = line.ring.front().copied() else { break };
                *slot = byte;
                line.take();
                count += 1;
            }
            count
        })
    }

    /// Bytes and errors that wait to be read.
    pub fn available(&self) -> usize {
        self.with(0, |line| line.ring.len() + usize::from(line.lost))
    }

    /// Sends one byte, or says that the chip has no room; then its source is noted when it has.
    pub fn write(&mut self, byte: u8) -> nb::Result<(), core::convert::Infallible> {
        if self.write_slice(&[byte]) == 1 { Ok(()) } else { Err(nb::Error::WouldBlock) }
    }

    /// Sends as much as the chip takes without waiting; returns how much. Where that is not all, its source is noted
    /// when there is room again.
    pub fn write_slice(&mut self, bytes: &[u8]) -> usize {
        self.with(0, |line| {
            let mut sent = 0;
            for &byte in bytes {
                if !line.has_room() {
                    break;
                }
                line.out(DATA, byte);
                line.room -= 1;
                sent += 1;
            }
            if sent < bytes.len() && !line.held() && line.interrupt_enable & IER_TRANSMIT == 0 {
                line.interrupt_enable |= IER_TRANSMIT;
                line.out(INTERRUPT_ENABLE, line.interrupt_enable);
            }
            sent
        })
    }

    /// Looks at the chip itself, as an interrupt would. For lines whose interrupt does not come.
    pub fn poll(&mut self) {
        self.with((), |line| {
            line.drain(0);
            if !line.ring.is_empty() || line.lost {
                interrupts::note(line.source);
            }
            line.read_modem();
        });
    }

    /// Everything sent has left the chip.
    pub fn is_idle(&self) -> bool {
        self.with(true, |line| line.input(LINE_STATUS) & LSR_IDLE != 0)
    }

    /// Sets the baud rate to the nearest that the divisor gives, which it returns. A rate that is off by more than
    /// 3 % does not work between two UARTs and is refused.
    pub fn set_baud(&mut self, baud: u32) -> Result<u32, BadBaud> {
        self.with(Err(BadBaud { fastest: 0 }), |line| line.set_baud(baud))
    }

    /// State of the modem lines; forgets `connected`.
    pub fn modem(&mut self) -> Modem {
        self.with(Modem::default(), |line| {
            line.read_modem();
            Modem {
                cts: line.modem_status & MSR_CTS != 0,
                dsr: line.modem_status & MSR_DSR != 0,
                dcd: line.modem_status & MSR_DCD != 0,
                connected: core::mem::take(&mut line.connected),
            }
        })
    }

    /// How the line is wired.
    pub fn config(&self) -> Option<UartConfig> {
        self.with(None, |line| Some(line.config))
    }
}

/// Sets a UART up for polled sending only, for the log. False where there is none.
pub(crate) fn open_for_log(config: UartConfig, baud: u32) -> bool {
    if !detect(config.base) {
        return false;
    }
    let divisor = (config.base_baud / baud.max(1)).clamp(1, 0xffff) as u16;
    port::out8(config.base + INTERRUPT_ENABLE, 0);
    write_divisor(config.base, divisor);
    port::out8(config.base + FIFO_CONTROL, 7);
    port::out8(config.base + MODEM_CONTROL, MCR_DTR | MCR_RTS);
    true
}

/// There is a UART at `base`: its scratch register keeps what is written, and in loop-back its modem outputs come in.
fn detect(base: u16) -> bool {
    for pattern in [0x55, 0xaa] {
        port::out8(base + SCRATCH, pattern);
        if port::in8(base + SCRATCH) != pattern {
            return false;
        }
    }
    let old = port::in8(base + MODEM_CONTROL);
    // RTS comes back as CTS, OUT2 as DCD (data sheet, 8.6.1).
    port::out8(base + MODEM_CONTROL, MCR_LOOP | MCR_RTS | MCR_OUT2);
    let status = port::in8(base + MODEM_STATUS) & 0xf0;
    port::out8(base + MODEM_CONTROL, old & !MCR_LOOP);
    status == MSR_CTS | MSR_DCD
}

fn write_divisor(base: u16, divisor: u16) {
    let [low, high] = divisor.to_le_bytes();
    port::out8(base + LINE_CONTROL, LCR_DIVISOR | LCR_8N1);
    port::out8(base + DIVISOR_LOW, low);
    port::out8(base + DIVISOR_HIGH, high);
    port::out8(base + LINE_CONTROL, LCR_8N1);
}

/// The divisor nearest to a baud rate, and the rate that it gives, where that is within 3 %.
fn divisor(base_baud: u32, baud: u32) -> Option<(u16, u32)> {
    let nearest = base_baud.checked_add(baud / 2)?.checked_div(baud)?;
    let divisor = u16::try_from(nearest).ok().filter(|&divisor| divisor > 0)?;
    let real = base_baud / u32::from(divisor);
    (u64::from(real.abs_diff(baud)) * 100 <= u64::from(baud) * 3).then_some((divisor, real))
}

impl Line {
    const fn closed() -> Self {
        Self {
            open: false,
            source: Sources::empty(),
            config: UartConfig { base: 0, irq: 0, base_baud: 0 },
            burst: 0,
            room: 0,
            ring: Deque::new(),
            lost: false,
            interrupt_enable: 0,
            modem_control: 0,
            flow_control: false,
            modem_status: 0,
            connected: false,
        }
    }

    fn input(&self, register: u16) -> u8 {
        port::in8(self.config.base + register)
    }

    fn out(&self, register: u16, value: u8) {
        port::out8(self.config.base + register, value);
    }

    fn set_baud(&mut self, baud: u32) -> Result<u32, BadBaud> {
        let (divisor, real) =
            divisor(self.config.base_baud, baud).ok_or(BadBaud { fastest: self.config.base_baud })?;
        write_divisor(self.config.base, divisor);
        Ok(real)
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
        let status = self.input(LINE_STATUS);
        // Reading the status clears its error bits, so what they belong to is taken here; its interrupt, when it comes,
        // will find nothing, so the source is noted here too.
        if status & (LSR_DATA | LSR_OVERRUN) != 0 {
            self.drain(status);
            interrupts::note(self.source);
        }
        if status & LSR_EMPTY != 0 {
            self.room = self.burst;
        }
        self.room > 0
    }

    fn push(&mut self, received: Received) {
        if self.lost && self.ring.push_back(Received::Error(LineError::Overrun)).is_ok() {
            self.lost = false;
        }
        if self.lost || self.ring.push_back(received).is_err() {
            self.lost = true;
        }
        if self.ring.len() >= RTS_STOP && self.modem_control & MCR_RTS != 0 {
            self.modem_control &= !MCR_RTS;
            self.out(MODEM_CONTROL, self.modem_control);
        }
    }

    fn take(&mut self) -> Option<Received> {
        let received = self.ring.pop_front();
        if received.is_none() && self.lost {
            self.lost = false;
            return Some(Received::Error(LineError::Overrun));
        }
        if self.modem_control & MCR_RTS == 0 && self.ring.len() <= RTS_GO {
            self.modem_control |= MCR_RTS;
            self.out(MODEM_CONTROL, self.modem_control);
        }
        received
    }

    /// Empties the receive FIFO. `status` is a line status already read, or 0.
    fn drain(&mut self, status: u8) {
        let mut status = if status == 0 { self.input(LINE_STATUS) } else { status };
        for _ in 0..DRAIN {
            // The order of time: what was lost came before the character that is read next.
            if status & LSR_OVERRUN != 0 {
                self.push(Received::Error(LineError::Overrun));
            }
            if status & LSR_DATA == 0 {
                return;
            }
            let byte = self.input(DATA);
            self.push(if status & LSR_BREAK != 0 {
                Received::Error(LineError::Break)
            } else if status & LSR_FRAMING != 0 {
                Received::Error(LineError::Framing)
            } else if status & LSR_PARITY != 0 {
                Received::Error(LineError::Parity)
            } else {
                Received::Byte(byte)
            });
            status = self.input(LINE_STATUS);
        }
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

    /// Serves the chip's interrupts until none is pending. True where there was one.
    fn interrupt(&mut self) -> bool {
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
                0x02 => {
                    self.interrupt_enable &= !IER_TRANSMIT;
                    self.out(INTERRUPT_ENABLE, self.interrupt_enable);
                }
                _ => self.read_modem(),
            }
        }
        // Still pending, and the line is edge-triggered: let it fall and rise, or no interrupt would come again.
        self.out(INTERRUPT_ENABLE, 0);
        self.out(INTERRUPT_ENABLE, self.interrupt_enable);
        served
    }
}

/// Serves the lines on ISA interrupt `irq`, and says which had something.
pub(crate) fn interrupt(irq: u8) -> Sources {
    let mut sources = Sources::empty();
    for slot in &LINE {
        // Interrupts are taken in windows only, where no lock is held.
        let mut line = slot.lock();
        if line.open && line.config.irq == irq && line.interrupt() {
            sources |= line.source;
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baud_rates() {
        assert_eq!(divisor(115_200, 115_200), Some((1, 115_200)));
        assert_eq!(divisor(115_200, 9_600), Some((12, 9_600)));
        assert_eq!(divisor(115_200, 38_400), Some((3, 38_400)));
        assert_eq!(divisor(921_600, 921_600), Some((1, 921_600)));
        assert_eq!(divisor(115_200, 921_600), None);
        assert_eq!(divisor(115_200, 100_000), None);
        assert_eq!(divisor(115_200, 0), None);
        assert_eq!(divisor(115_200, 1), None);
        assert_eq!(divisor(115_200, u32::MAX), None);
    }
}

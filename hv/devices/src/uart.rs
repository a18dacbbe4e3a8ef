//! A 16550A UART (National PC16550D data sheet).
//!
//! It has no line speed of its own: a byte leaves when the back end takes it and arrives when there is room. The
//! back end is never asked for a byte that could be lost. As in QEMU, OUT2 does not gate the interrupt.

use heapless::Deque;

/// Depth of both FIFOs.
pub const FIFO: usize = 16;

/// What is at the other end of the line.
pub trait Line {
    /// Takes a byte that the guest sends. False: no room now; it is offered again by [`Uart::poll`].
    fn transmit(&mut self, byte: u8) -> bool;
    /// The next byte for the guest.
    fn receive(&mut self) -> Option<u8>;
}

const IER_RECEIVED: u8 = 1;
const IER_EMPTY: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IER_MODEM: u8 = 1 << 3;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM: u8 = 0x00;
const IIR_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0c;

const LCR_DLAB: u8 = 1 << 7;
const MCR_LOOP: u8 = 1 << 4;
const MCR_WRITABLE: u8 = 0x1f;

const LSR_READY: u8 = 1;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_BREAK: u8 = 1 << 4;
const LSR_EMPTY: u8 = 1 << 5;
const LSR_IDLE: u8 = 1 << 6;
const LSR_FIFO_ERROR: u8 = 1 << 7;
const LSR_ERRORS: u8 = 0x1e;

/// CTS, DSR and DCD on, RI off: a peer that is always there.
const PEER: u8 = 0xb0;

/// Slowest character time that the receive time-out is computed from, in nanoseconds (a tenth of a second).
const SLOWEST: u64 = 100_000_000;

/// The UART.
#[derive(Clone, Debug)]
pub struct Uart {
    received: Deque<u8, FIFO>,
    sending: Deque<u8, FIFO>,
    ier: u8,
    lcr: u8,
    mcr: u8,
    msr: u8,
    scratch: u8,
    divisor: u16,
    fifo: bool,
    trigger: u8,
    /// Line status errors, cleared by reading LSR.
    errors: u8,
    /// The transmitter-empty interrupt is due: it rose, and was neither read in IIR nor answered by a byte.
    empty_due: bool,
    timeout: bool,
    timeout_at: Option<u64>,
}

impl Uart {
    /// State after a master reset.
    pub const fn new() -> Self {
        Self {
            received: Deque::new(),
            sending: Deque::new(),
            ier: 0,
            lcr: 0,
            mcr: 0,
            msr: PEER,
            scratch: 0,
            divisor: 12,
            fifo: false,
            trigger: 1,
            errors: 0,
            empty_due: false,
            timeout: false,
            timeout_at: None,
        }
    }

    /// Master reset. What the guest has sent and the back end has not taken yet stays.
    pub fn reset(&mut self) {
        let sending = core::mem::take(&mut self.sending);
        *self = Self { sending, ..Self::new() };
    }

    fn looped(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    fn depth(&self) -> usize {
        if self.fifo { FIFO } else { 1 }
    }

    fn received_due(&self) -> bool {
        let level = if self.fifo { usize::from(self.trigger) } else { 1 };
        self.received.len() >= level
    }

    /// The interrupt of highest priority (data sheet, table IV).
    fn cause(&self) -> u8 {
        if self.ier & IER_LINE != 0 && self.errors & LSR_ERRORS != 0 {
            IIR_LINE
        } else if self.ier & IER_RECEIVED != 0 && self.received_due() {
            IIR_RECEIVED
        } else if self.ier & IER_RECEIVED != 0 && self.timeout {
            IIR_TIMEOUT
        } else if self.ier & IER_EMPTY != 0 && self.empty_due {
            IIR_EMPTY
        } else if self.ier & IER_MODEM != 0 && self.msr & 0x0f != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    /// Level of the interrupt output.
    #[inline]
    pub fn interrupt(&self) -> bool {
        self.cause() != IIR_NONE
    }

    /// When the receive time-out is due.
    pub fn deadline(&self) -> Option<u64> {
        self.timeout_at
    }

    /// Raises the time-out if it is due.
    pub fn advance(&mut self, now: u64) {
        if self.timeout_at.is_some_and(|at| at <= now) {
            self.timeout_at = None;
            self.timeout = !self.received.is_empty();
        }
    }

    /// Starts the four character times after which a FIFO that has not reached its trigger level interrupts.
    fn restart_timeout(&mut self, now: u64) {
        self.timeout = false;
        self.timeout_at = (self.fifo && !self.received.is_empty() && !self.received_due())
            .then(|| now.saturating_add(4 * self.character()));
    }

    /// Time of a character in nanoseconds, from divisor and frame format.
    fn character(&self) -> u64 {
        let bits = 7 + u64::from(self.lcr & 3) + u64::from(self.lcr >> 3 & 1) + u64::from(self.lcr >> 2 & 1);
        let divisor = u64::from(self.divisor.max(1));
        (bits * divisor * 1_000_000_000 / 115_200).min(SLOWEST)
    }

    /// There is room for a byte from the line.
    pub fn can_receive(&self) -> bool {
        !self.looped() && self.received.len() < self.depth()
    }

    /// The guest has sent bytes that wait for the back end.
    pub fn has_output(&self) -> bool {
        !self.sending.is_empty()
    }

    fn push_received(&mut self, byte: u8, now: u64) {
        if self.received.len() >= self.depth() {
            self.errors |= LSR_OVERRUN;
            if !self.fifo {
                // The holding register is overwritten; a full FIFO keeps what it has.
                self.received.clear();
                let _ = self.received.push_back(byte);
            }
            return;
        }
        let _ = self.received.push_back(byte);
        self.restart_timeout(now);
    }

    /// Moves what can be moved between the back end and the FIFOs.
    pub fn poll<L: Line + ?Sized>(&mut self, line: &mut L, now: u64) {
        self.flush(line);
        while self.can_receive() {
            match line.receive() {
                Some(byte) => self.push_received(byte, now),
                None => break,
            }
        }
    }

    fn flush<L: Line + ?Sized>(&mut self, line: &mut L) {
        if self.sending.is_empty() {
            return;
        }
        while let Some(byte) = self.sending.front() {
            if !line.transmit(*byte) {
                return;
            }
            self.sending.pop_front();
        }
        self.empty_due = true;
    }

    /// The peer sends a break.
    pub fn receive_break(&mut self, now: u64) {
        if self.can_receive() {
            self.push_received(0, now);
            self.errors |= LSR_BREAK;
        }
    }

    /// Levels of the modem inputs in the layout of MSR (CTS 4, DSR 5, RI 6, DCD 7).
    pub fn set_modem_inputs(&mut self, lines: u8) {
        if !self.looped() {
            self.change_modem(lines);
        }
    }

    fn change_modem(&mut self, lines: u8) {
        let lines = lines & 0xf0;
        let changed = (self.msr ^ lines) >> 4;
        // RI counts by its trailing edge only.
        let delta = changed & 0b1011 | changed & 0b0100 & !(lines >> 4);
        self.msr = lines | self.msr & 0x0f | delta;
    }

    fn write_mcr(&mut self, value: u8) {
        let was_looped = self.looped();
        self.mcr = value & MCR_WRITABLE;
        if self.looped() {
            // DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD.
            let [dtr, rts, out1, out2] = [0, 1, 2, 3].map(|bit| self.mcr >> bit & 1);
            self.change_modem(rts << 4 | dtr << 5 | out1 << 6 | out2 << 7);
        } else if was_looped {
            self.change_modem(PEER);
        }
    }

    fn write_fcr(&mut self, value: u8) {
        let fifo = value & 1 != 0;
        if fifo != self.fifo || value & 2 != 0 && fifo {
            self.received.clear();
            self.timeout = false;
            self.timeout_at = None;
            self.errors &= LSR_OVERRUN;
        }
        if fifo != self.fifo || value & 4 != 0 && fifo {
            let pending = !self.sending.is_empty();
            self.sending.clear();
            self.empty_due |= pending;
        }
        self.fifo = fifo;
        if fifo {
            self.trigger = [1, 4, 8, 14][usize::from(value >> 6)];
        }
    }

    fn write_thr<L: Line + ?Sized>(&mut self, byte: u8, line: &mut L, now: u64) {
        self.empty_due = false;
        if self.looped() {
            self.push_received(byte, now);
            self.empty_due = true;
            return;
        }
        self.flush(line);
        if self.sending.is_empty() && line.transmit(byte) {
            self.empty_due = true;
            return;
        }
        if self.sending.len() >= self.depth() {
            // The guest did not wait for THRE: the byte in the holding register is overwritten.
            if self.fifo {
                return;
            }
            self.sending.clear();
        }
        self.empty_due = false;
        let _ = self.sending.push_back(byte);
    }

    /// Reads register `register` (0 to 7).
    pub fn read<L: Line + ?Sized>(&mut self, register: u16, line: &mut L, now: u64) -> u8 {
        let dlab = self.lcr & LCR_DLAB != 0;
        match register & 7 {
            0 if dlab => self.divisor as u8,
            1 if dlab => (self.divisor >> 8) as u8,
            0 => {
                let byte = self.received.pop_front().unwrap_or(0);
                self.restart_timeout(now);
                self.poll(line, now);
                byte
            }
            1 => self.ier,
            2 => {
                let cause = self.cause();
                if cause == IIR_EMPTY {
                    self.empty_due = false;
                }
                cause | if self.fifo { 0xc0 } else { 0 }
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => {
                self.flush(line);
                let errors = core::mem::take(&mut self.errors);
                let empty = self.sending.is_empty();
                errors
                    | if self.received.is_empty() { 0 } else { LSR_READY }
                    | if empty { LSR_EMPTY | LSR_IDLE } else { 0 }
                    | if self.fifo && errors & LSR_ERRORS & !LSR_OVERRUN != 0 { LSR_FIFO_ERROR } else { 0 }
            }
            6 => {
                let value = self.msr;
                self.msr &= 0xf0;
                value
            }
            _ => self.scratch,
        }
    }

    /// Writes register `register` (0 to 7).
    pub fn write<L: Line + ?Sized>(&mut self, register: u16, value: u8, line: &mut L, now: u64) {
        let dlab = self.lcr & LCR_DLAB != 0;
        match register & 7 {
            0 if dlab => self.divisor = self.divisor & 0xff00 | u16::from(value),
            1 if dlab => self.divisor = self.divisor & 0x00ff | u16::from(value) << 8,
            0 => self.write_thr(value, line, now),
            1 => {
                let rose = value & !self.ier;
                self.ier = value & 0x0f;
                // Enabling the interrupt with the transmitter empty raises it.
                if rose & IER_EMPTY != 0 && self.sending.is_empty() {
                    self.empty_due = true;
                }
            }
            2 => self.write_fcr(value),
            3 => self.lcr = value,
            4 => self.write_mcr(value),
            7 => self.scratch = value,
            // LSR and MSR: factory test, and read-only.
            _ => {}
        }
    }
}

impl Default for Uart {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[derive(Default)]
    struct Peer {
        sent: Vec<u8>,
        input: VecDeque<u8>,
        busy: bool,
    }

    impl Line for Peer {
        fn transmit(&mut self, byte: u8) -> bool {
            if !self.busy {
                self.sent.push(byte);
            }
            !self.busy
        }
        fn receive(&mut self) -> Option<u8> {
            self.input.pop_front()
        }
    }

    struct Rig {
        uart: Uart,
        peer: Peer,
        now: u64,
    }

    impl Rig {
        fn new() -> Self {
            Self { uart: Uart::new(), peer: Peer::default(), now: 0 }
        }
        fn read(&mut self, register: u16) -> u8 {
            self.uart.read(register, &mut self.peer, self.now)
        }
        fn write(&mut self, register: u16, value: u8) {
            self.uart.write(register, value, &mut self.peer, self.now);
        }
        fn poll(&mut self) {
            self.uart.poll(&mut self.peer, self.now);
        }
    }

    #[test]
    fn reset_values() {
        let mut rig = Rig::new();
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(|r| rig.read(r)), [0, 1, 0, 0, 0x60, 0xb0, 0]);
        rig.write(7, 0xa5);
        assert_eq!(rig.read(7), 0xa5);
        rig.write(1, 0xff);
        assert_eq!(rig.read(1), 0x0f);
        rig.write(4, 0xff);
        assert_eq!(rig.read(4), 0x1f);
    }

    #[test]
    fn divisor_latch() {
        let mut rig = Rig::new();
        rig.write(3, 0x83);
        rig.write(0, 0x01);
        rig.write(1, 0x02);
        assert_eq!((rig.read(0), rig.read(1)), (1, 2));
        rig.write(3, 0x03);
        rig.write(0, b'x');
        assert_eq!(rig.peer.sent, b"x");
    }

    #[test]
    fn what_linux_probes_a_16550a_by() {
        let mut rig = Rig::new();
        rig.write(1, 0x0f);
        assert_eq!(rig.read(1), 0x0f);
        rig.write(1, 0);
        rig.write(4, 0x1a);
        assert_eq!(rig.read(6) & 0xf0, 0x90, "loopback: OUT2 to DCD, RTS to CTS");
        rig.write(4, 0x08);
        rig.write(2, 0x01);
        assert_eq!(rig.read(2) >> 6, 3);
        // The test for a THRE interrupt that does not come again.
        rig.write(1, 0x02);
        rig.read(2);
        rig.write(1, 0);
        rig.write(1, 0x02);
        assert_eq!(rig.read(2), 0xc2);
        assert_eq!(rig.read(2), 0xc1, "cleared by reading it");
    }

    #[test]
    fn the_transmitter_interrupt() {
        let mut rig = Rig::new();
        rig.write(1, 0x02);
        assert!(rig.uart.interrupt());
        rig.read(2);
        assert!(!rig.uart.interrupt());
        rig.write(0, b'a');
        assert!(rig.uart.interrupt());
        rig.peer.busy = true;
        rig.write(0, b'b');
        assert!(!rig.uart.interrupt());
        assert_eq!(rig.read(5), 0x00);
        rig.peer.busy = false;
        rig.poll();
        assert!(rig.uart.interrupt());
        assert_eq!(rig.read(5), 0x60);
        assert_eq!(rig.peer.sent, b"ab");
    }

    #[test]
    fn a_busy_line_loses_nothing_of_a_fifo_full() {
        let mut rig = Rig::new();
        rig.write(2, 0x01);
        rig.peer.busy = true;
        for byte in 0..16 {
            rig.write(0, byte);
        }
        assert!(rig.uart.has_output());
        rig.write(0, 99);
        rig.peer.busy = false;
        assert_eq!(rig.read(5) & 0x60, 0x60);
        assert_eq!(rig.peer.sent, (0..16).collect::<Vec<u8>>());
    }

    #[test]
    fn input_waits_for_room() {
        let mut rig = Rig::new();
        rig.peer.input.extend(0..40);
        rig.poll();
        assert_eq!(rig.peer.input.len(), 39, "one byte without FIFO");
        assert_eq!(rig.read(0), 0);
        rig.write(2, 0x01);
        rig.poll();
        let mut bytes = Vec::new();
        while rig.read(5) & 1 != 0 {
            bytes.push(rig.read(0));
        }
        assert_eq!(bytes, (2..40).collect::<Vec<u8>>(), "enabling the FIFO clears it, as the chip does");
    }

    #[test]
    fn trigger_level_and_time_out() {
        let mut rig = Rig::new();
        rig.write(3, 0x83);
        rig.write(0, 1);
        rig.write(1, 0);
        rig.write(3, 0x03);
        rig.write(2, 0x81);
        rig.write(1, 0x01);
        rig.peer.input.extend(0..7);
        rig.poll();
        assert!(!rig.uart.interrupt());
        let due = rig.uart.deadline().unwrap();
        assert_eq!(due, 4 * (10 * 1_000_000_000 / 115_200));
        rig.uart.advance(due - 1);
        assert!(!rig.uart.interrupt());
        rig.uart.advance(due);
        assert_eq!(rig.read(2), 0xcc);
        rig.now = due;
        rig.read(0);
        assert_eq!(rig.read(2), 0xc1, "reading a byte ends the time-out");
        assert!(rig.uart.deadline().is_some());
        rig.peer.input.extend(0..2);
        rig.poll();
        assert_eq!(rig.read(2), 0xc4);
        assert_eq!(rig.uart.deadline(), None);
    }

    #[test]
    fn loopback_and_overrun() {
        let mut rig = Rig::new();
        rig.write(4, 0x10);
        rig.write(1, 0x05);
        rig.write(0, b'1');
        assert_eq!(rig.read(2), 0x04);
        rig.write(0, b'2');
        assert_eq!(rig.read(2), 0x06, "line status first");
        assert_eq!(rig.read(5), 0x63);
        assert_eq!(rig.read(5), 0x61, "reading clears the error");
        assert_eq!(rig.read(0), b'2');
        assert!(rig.peer.sent.is_empty());
        rig.peer.input.push_back(b'x');
        rig.poll();
        assert_eq!(rig.peer.input.len(), 1, "the line is cut off");
    }

    #[test]
    fn modem_changes() {
        let mut rig = Rig::new();
        rig.write(1, 0x08);
        rig.uart.set_modem_inputs(0x30);
        assert_eq!(rig.read(2), 0x00);
        assert_eq!(rig.read(6), 0x38, "DCD went off");
        assert_eq!(rig.read(2), 0x01);
        rig.uart.set_modem_inputs(0x70);
        assert_eq!(rig.read(6), 0x70, "RI counts when it ends");
        rig.uart.set_modem_inputs(0x30);
        assert_eq!(rig.read(6), 0x34);
    }

    #[test]
    fn a_break_is_a_line_error_with_a_null() {
        let mut rig = Rig::new();
        rig.write(2, 1);
        rig.uart.receive_break(0);
        assert_eq!(rig.read(5), 0xf1);
        assert_eq!(rig.read(0), 0);
    }

    #[test]
    fn reset_keeps_what_was_sent() {
        let mut rig = Rig::new();
        rig.peer.busy = true;
        rig.write(0, b'z');
        rig.uart.reset();
        rig.peer.busy = false;
        rig.poll();
        assert_eq!(rig.peer.sent, b"z");
    }
}

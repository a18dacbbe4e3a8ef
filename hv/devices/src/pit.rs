//! The 8254 interval timer and port 0x61, its gate and speaker port.
//!
//! Rules are those of the Intel 82C54 data sheet (231244). Counts are not ticked: where a counter stands follows
//! from the tick at which it was loaded. One clock is 1 / 1.193182 MHz.

use crate::clock::{self, MIN_PERIOD};

/// First of the four ports.
pub const PORT: u16 = 0x40;
/// System control port B.
pub const CONTROL_B: u16 = 0x61;
/// Input clock of all three counters.
pub const HZ: u64 = 1_193_182;

/// Time between two toggles of the refresh bit of port 0x61, in nanoseconds: counter 1 divides by 18.
const REFRESH: u64 = 15_085;

/// Which bytes of the count the CPU reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Low,
    High,
    Both,
}

/// One counter.
#[derive(Clone, Debug)]
struct Counter {
    mode: u8,
    bcd: bool,
    access: Access,
    gate: bool,
    /// The count register, 1..=65536; `None` until a whole count was written after the control word.
    count: Option<u32>,
    /// A count written while a periodic mode runs, taken over at the end of its (half) period.
    next_count: Option<u32>,
    /// First byte of a two-byte count.
    low_byte: Option<u8>,
    read_high: bool,
    latch: Option<u16>,
    status: Option<u8>,
    /// Tick at which the count was in the counting element; meaningful while `running`.
    start: u64,
    /// Loaded (and in modes 1 and 5 triggered).
    running: bool,
    /// Ticks already counted when the gate stopped the counter (modes 0 and 4).
    paused: Option<u64>,
    /// Counts the ticks up to which rising edges of OUT have been reported.
    served: u64,
}

impl Counter {
    const fn new(gate: bool) -> Self {
        Self {
            mode: 0,
            bcd: false,
            access: Access::Both,
            gate,
            count: None,
            next_count: None,
            low_byte: None,
            read_high: false,
            latch: None,
            status: None,
            start: 0,
            running: false,
            paused: None,
            served: 0,
        }
    }

    fn period(&self) -> u64 {
        u64::from(self.count.unwrap_or(0x1_0000)).max(1)
    }

    /// Clocks since the count was loaded.
    fn elapsed(&self, tick: u64) -> u64 {
        self.paused.unwrap_or_else(|| tick.saturating_sub(self.start))
    }

    /// Takes over a count that was written during a period that has ended by now.
    fn settle(&mut self, tick: u64) {
        let Some(next) = self.next_count else { return };
        if !self.running || self.paused.is_some() {
            return;
        }
        let period = self.period();
        let written = self.served.max(self.start);
        let position = (written - self.start) % period;
        let high = period.div_ceil(2);
        let end = match self.mode {
            3 if position < high => written - position + high,
            _ => written - position + period,
        };
        if tick >= end {
            // A half period that has ended low is followed by a high one, and the other way round.
            let half = u64::from(next).div_ceil(2);
            let second_half = self.mode == 3 && position < high;
            self.start = if second_half { end.saturating_sub(half) } else { end };
            self.count = Some(next);
            self.next_count = None;
        }
    }

    fn output(&self, tick: u64) -> bool {
        if !self.running {
            return self.mode != 0;
        }
        let elapsed = self.elapsed(tick);
        let period = self.period();
        match self.mode {
            0 | 1 => elapsed >= period,
            2 => !self.gate || elapsed % period != period - 1,
            3 => !self.gate || elapsed % period < period.div_ceil(2),
            _ => elapsed != period,
        }
    }

    /// First tick behind `tick` at which OUT rises by counting.
    fn next_rise(&self, tick: u64) -> Option<u64> {
        if !self.running || self.paused.is_some() {
            return None;
        }
        let period = self.period();
        let at = match self.mode {
            0 | 1 => self.start.saturating_add(period),
            2 | 3 if self.gate => {
                let done = tick.saturating_sub(self.start) / period;
                let mut start = self.start;
                // A new count is in force from the end of this period on, whose edge is not moved by it.
                start = start.saturating_add((done + 1).saturating_mul(period));
                start
            }
            2 | 3 => return None,
            _ => self.start.saturating_add(period + 1),
        };
        (at > tick).then_some(at)
    }

    /// Value of the counting element.
    fn value(&self, tick: u64) -> u16 {
        let modulus: u64 = if self.bcd { 10_000 } else { 0x1_0000 };
        if self.count.is_none() {
            return 0;
        }
        let period = self.period();
        let elapsed = if self.running { self.elapsed(tick) } else { 0 };
        let binary = match self.mode {
            2 => period - elapsed % period,
            3 => {
                let high = period.div_ceil(2);
                let position = elapsed % period;
                let in_half = if position < high { position } else { position - high };
                (period & !1) - 2 * in_half
            }
            _ => (period + modulus - elapsed % modulus) % modulus,
        } % modulus;
        let binary = binary as u16;
        if self.bcd { to_bcd(binary) } else { binary }
    }

    fn status_byte(&self, tick: u64) -> u8 {
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::Both => 3,
        };
        let null = self.count.is_none() || self.next_count.is_some() || tick < self.start && self.running;
        u8::from(self.output(tick)) << 7
            | u8::from(null) << 6
            | access << 4
            | self.mode << 1
            | u8::from(self.bcd)
    }

    fn latch_count(&mut self, tick: u64) {
        if self.latch.is_none() {
            self.latch = Some(self.value(tick));
        }
    }

    fn control(&mut self, value: u8) {
        self.access = match value >> 4 & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        self.mode = match value >> 1 & 7 {
            mode @ 0..=5 => mode,
            mode => mode - 4,
        };
        self.bcd = value & 1 != 0;
        self.count = None;
        self.next_count = None;
        self.low_byte = None;
        self.read_high = false;
        self.latch = None;
        self.status = None;
        self.running = false;
        self.paused = None;
    }

    fn write(&mut self, value: u8, tick: u64) {
        let raw = match (self.access, self.low_byte) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, None) => {
                self.low_byte = Some(value);
                if self.mode == 0 {
                    // The first byte stops the counter and OUT goes low.
                    self.running = false;
                    self.paused = None;
                }
                return;
            }
            (Access::Both, Some(low)) => {
                self.low_byte = None;
                u16::from_le_bytes([low, value])
            }
        };
        let count = match (self.bcd, raw) {
            (false, 0) => 0x1_0000,
            (true, 0) => 10_000,
            (false, raw) => u32::from(raw),
            (true, raw) => from_bcd(raw).max(1),
        };
        match self.mode {
            2 | 3 if self.running => self.next_count = Some(count),
            // Loaded now, counted from the next trigger on.
            1 | 5 => self.count = Some(count),
            _ => {
                self.count = Some(count);
                self.running = true;
                self.start = tick + 1;
                self.paused = (!self.gate && matches!(self.mode, 0 | 4)).then_some(0);
            }
        }
    }

    fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let value = self.latch.unwrap_or_else(|| self.value(tick));
        let [low, high] = value.to_le_bytes();
        match self.access {
            Access::Low => {
                self.latch = None;
                low
            }
            Access::High => {
                self.latch = None;
                high
            }
            Access::Both => {
                self.read_high = !self.read_high;
                if self.read_high {
                    low
                } else {
                    self.latch = None;
                    high
                }
            }
        }
    }

    fn set_gate(&mut self, gate: bool, tick: u64) {
        let before = core::mem::replace(&mut self.gate, gate);
        if before == gate {
            return;
        }
        match self.mode {
            0 | 4 if self.running => {
                if gate {
                    if let Some(counted) = self.paused.take() {
                        self.start = (tick + 1).saturating_sub(counted);
                    }
                } else {
                    self.paused = Some(self.elapsed(tick));
                }
            }
            1 | 5 if gate && self.count.is_some() => {
                self.running = true;
                self.start = tick + 1;
            }
            2 | 3 if gate && self.running => {
                self.start = tick + 1;
                if let Some(next) = self.next_count.take() {
                    self.count = Some(next);
                }
            }
            _ => {}
        }
    }
}

/// The timer with its three counters.
#[derive(Clone, Debug)]
pub struct Pit {
    counters: [Counter; 3],
    /// Bits 1 to 3 of port 0x61, as written.
    control_b: u8,
}

impl Pit {
    /// State after power-up: no counter runs.
    pub const fn new() -> Self {
        Self { counters: [Counter::new(true), Counter::new(true), Counter::new(false)], control_b: 0 }
    }

    /// What firmware leaves behind: counter 0 ticks 18.2 times a second, counter 1 for refresh.
    pub fn firmware(&mut self, now: u64) {
        for (port, value) in [(3, 0x34), (0, 0), (0, 0), (3, 0x54), (1, 18)] {
            self.write(PORT + port, value, now);
        }
    }

    fn settle(&mut self, tick: u64) {
        for counter in &mut self.counters {
            counter.settle(tick);
            counter.served = counter.served.max(tick);
        }
    }

    /// OUT of counter 0, interrupt line 0.
    pub fn output(&self, now: u64) -> bool {
        self.counters[0].output(clock::ticks(now, HZ))
    }

    /// When OUT of counter 0 rises next. At most one edge per `MIN_PERIOD` is asked for.
    pub fn deadline(&self) -> Option<u64> {
        let counter = &self.counters[0];
        let served = clock::nanoseconds(counter.served, HZ);
        counter.next_rise(counter.served).map(|tick| clock::nanoseconds(tick, HZ).max(served + MIN_PERIOD))
    }

    /// Brings counter 0 up to `now`. True when OUT has risen at least once since the last call or access.
    pub fn advance(&mut self, now: u64) -> bool {
        let tick = clock::ticks(now, HZ);
        let rose = self.counters[0].next_rise(self.counters[0].served).is_some_and(|edge| edge <= tick);
        self.settle(tick);
        rose
    }

    /// Reads a byte from one of the four ports; the control register cannot be read.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        let tick = clock::ticks(now, HZ);
        match self.counters.get_mut(usize::from(port & 3)) {
            Some(counter) => {
                counter.settle(tick);
                counter.read(tick)
            }
            None => 0xff,
        }
    }

    /// Writes a byte to one of the four ports. Call [`Pit::advance`] first, so that no edge is lost.
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        let tick = clock::ticks(now, HZ);
        self.settle(tick);
        if let Some(counter) = self.counters.get_mut(usize::from(port & 3)) {
            return counter.write(value, tick);
        }
        match (value >> 6, value >> 4 & 3) {
            (3, _) => {
                // Read-back: bits 5 and 4 are active low.
                for (index, counter) in self.counters.iter_mut().enumerate() {
                    if value >> (index + 1) & 1 == 0 {
                        continue;
                    }
                    if value & 0x20 == 0 {
                        counter.latch_count(tick);
                    }
                    if value & 0x10 == 0 && counter.status.is_none() {
                        counter.status = Some(counter.status_byte(tick));
                    }
                }
            }
            (select, 0) => self.counters[usize::from(select)].latch_count(tick),
            (select, _) => self.counters[usize::from(select)].control(value),
        }
    }

    /// Reads port 0x61: gate and speaker bits, refresh toggle (bit 4), OUT of counter 2 (bit 5).
    pub fn read_control_b(&mut self, now: u64) -> u8 {
        let tick = clock::ticks(now, HZ);
        self.counters[2].settle(tick);
        let refresh = ((now / REFRESH) & 1) as u8;
        u8::from(self.counters[2].gate)
            | self.control_b
            | refresh << 4
            | u8::from(self.counters[2].output(tick)) << 5
    }

    /// Writes port 0x61: bit 0 is the gate of counter 2; bits 1 to 3 are kept.
    pub fn write_control_b(&mut self, value: u8, now: u64) {
        let tick = clock::ticks(now, HZ);
        self.settle(tick);
        self.counters[2].set_gate(value & 1 != 0, tick);
        self.control_b = value & 0x0e;
    }
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

fn to_bcd(value: u16) -> u16 {
    (value % 10) | (value / 10 % 10) << 4 | (value / 100 % 10) << 8 | (value / 1000 % 10) << 12
}

fn from_bcd(value: u16) -> u32 {
    let digit = |n: u32| u32::from(value >> (4 * n) & 15);
    digit(0) + 10 * digit(1) + 100 * digit(2) + 1000 * digit(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nanosecond at which a tick has just begun.
    fn at(tick: u64) -> u64 {
        clock::nanoseconds(tick, HZ)
    }

    fn program(pit: &mut Pit, counter: u16, mode: u8, count: u16, now: u64) {
        pit.write(PORT + 3, (counter as u8) << 6 | 0x30 | mode << 1, now);
        let [low, high] = count.to_le_bytes();
        pit.write(PORT + counter, low, now);
        pit.write(PORT + counter, high, now);
    }

    fn read_count(pit: &mut Pit, counter: u16, now: u64) -> u16 {
        pit.write(PORT + 3, (counter as u8) << 6, now);
        u16::from_le_bytes([pit.read(PORT + counter, now), pit.read(PORT + counter, now)])
    }

    #[test]
    fn mode_0_interrupts_n_plus_one_clocks_after_the_count() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0, 100, at(1000));
        assert!(!pit.output(at(1000)));
        assert!(!pit.output(at(1100)));
        assert!(pit.output(at(1101)));
        assert!(!pit.advance(at(1050)));
        assert_eq!(pit.deadline(), Some(at(1101)));
        assert!(pit.advance(at(1101)));
        assert!(!pit.advance(at(9999)));
        assert_eq!(pit.deadline(), None);
        assert_eq!(read_count(&mut pit, 0, at(1102)), 0xffff, "counts on behind zero");
    }

    #[test]
    fn mode_0_stops_at_the_first_byte_of_a_new_count() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0, 10, at(0));
        assert!(pit.output(at(20)));
        pit.write(PORT, 5, at(20));
        assert!(!pit.output(at(20)));
        assert_eq!(pit.deadline(), None);
        pit.write(PORT, 0, at(30));
        assert!(pit.output(at(36)));
    }

    #[test]
    fn the_gate_pauses_mode_0() {
        let mut pit = Pit::new();
        program(&mut pit, 2, 0, 100, at(0));
        assert_eq!(pit.read_control_b(at(500)) & 0x21, 0, "gate low: nothing counts");
        pit.write_control_b(1, at(1000));
        assert_eq!(pit.read_control_b(at(1100)) & 0x20, 0);
        assert_eq!(pit.read_control_b(at(1101)) & 0x21, 0x21);
    }

    #[test]
    fn modes_1_and_5_wait_for_the_gate() {
        let mut pit = Pit::new();
        program(&mut pit, 2, 1, 50, at(0));
        assert_eq!(pit.read_control_b(at(100)) & 0x20, 0x20);
        pit.write_control_b(1, at(100));
        assert_eq!(pit.read_control_b(at(101)) & 0x20, 0);
        assert_eq!(pit.read_control_b(at(151)) & 0x20, 0x20);
        pit.write_control_b(0, at(160));
        pit.write_control_b(1, at(170));
        assert_eq!(pit.read_control_b(at(171)) & 0x20, 0, "triggered again");

        program(&mut pit, 2, 5, 50, at(1000));
        pit.write_control_b(0, at(1001));
        pit.write_control_b(1, at(1100));
        assert_eq!(pit.read_control_b(at(1150)) & 0x20, 0x20);
        assert_eq!(pit.read_control_b(at(1151)) & 0x20, 0);
        assert_eq!(pit.read_control_b(at(1152)) & 0x20, 0x20);
    }

    #[test]
    fn mode_2_is_low_for_one_clock_of_n() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 1000, at(0));
        assert!(pit.output(at(999)));
        assert!(!pit.output(at(1000)));
        assert!(pit.output(at(1001)));
        assert_eq!(pit.deadline(), Some(at(1001)));
        assert!(pit.advance(at(1001)));
        assert_eq!(pit.deadline(), Some(at(2001)));
        assert!(pit.advance(at(5500)), "missed edges are one");
        assert_eq!(pit.deadline(), Some(at(6001)));
        assert_eq!(read_count(&mut pit, 0, at(6001)), 1000);
        assert_eq!(read_count(&mut pit, 0, at(6002)), 999);
    }

    #[test]
    fn a_new_count_waits_for_the_end_of_the_period() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 1000, at(0));
        pit.write(PORT, 0x64, at(500));
        pit.write(PORT, 0, at(500));
        assert_eq!(pit.deadline(), Some(at(1001)));
        assert!(pit.advance(at(1001)));
        assert_eq!(read_count(&mut pit, 0, at(1011)), 90);
        assert_eq!(pit.deadline(), Some(at(1101)));
    }

    #[test]
    fn mode_3_is_a_square_wave() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 3, 1001, at(0));
        assert!(pit.output(at(1)));
        assert!(pit.output(at(501)));
        assert!(!pit.output(at(502)), "an odd count is high one clock longer");
        assert!(!pit.output(at(1001)));
        assert!(pit.output(at(1002)));
        assert_eq!(read_count(&mut pit, 0, at(1)), 1000);
        assert_eq!(read_count(&mut pit, 0, at(2)), 998);
        assert_eq!(read_count(&mut pit, 0, at(502)), 1000);
        assert_eq!(pit.deadline(), Some(at(1002)));
        // A new count takes over at the end of the half period.
        pit.advance(at(1010));
        pit.write(PORT, 200, at(1010));
        pit.write(PORT, 0, at(1010));
        pit.advance(at(1502));
        pit.advance(at(1503));
        assert!(!pit.output(at(1503)));
        assert!(pit.output(at(1603)));
        assert!(!pit.output(at(1703)));
    }

    #[test]
    fn mode_4_strobes_once() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 4, 10, at(0));
        assert!(pit.output(at(10)));
        assert!(!pit.output(at(11)));
        assert!(pit.output(at(12)));
        assert!(pit.advance(at(12)));
        assert!(!pit.advance(at(100_000)));
    }

    #[test]
    fn counts_in_decimal() {
        let mut pit = Pit::new();
        pit.write(PORT + 3, 0x31, at(0));
        pit.write(PORT, 0x34, at(0));
        pit.write(PORT, 0x12, at(0));
        assert_eq!(read_count(&mut pit, 0, at(1)), 0x1234);
        assert_eq!(read_count(&mut pit, 0, at(36)), 0x1199);
        assert_eq!(read_count(&mut pit, 0, at(1236)), 0x9999);
    }

    #[test]
    fn read_back_latches_status_then_count() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 1000, at(0));
        pit.write(PORT + 3, 0xc2, at(11));
        assert_eq!(pit.read(PORT, at(50)), 0xb4);
        assert_eq!(pit.read(PORT, at(60)), 0xde);
        assert_eq!(pit.read(PORT, at(60)), 0x03);
        pit.write(PORT + 3, 0x34, at(70));
        pit.write(PORT + 3, 0xe2, at(70));
        assert_eq!(pit.read(PORT, at(70)), 0xf4, "null count until a count is loaded");
    }

    #[test]
    fn a_latched_count_stays_until_it_is_read() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 1000, at(0));
        pit.write(PORT + 3, 0, at(11));
        pit.write(PORT + 3, 0, at(500));
        assert_eq!(pit.read(PORT, at(900)), 0xde);
        assert_eq!(pit.read(PORT, at(900)), 0x03);
    }

    #[test]
    fn one_byte_counts() {
        let mut pit = Pit::new();
        pit.write(PORT + 3, 0x10, at(0));
        pit.write(PORT, 7, at(0));
        assert_eq!(pit.read(PORT, at(1)), 7);
        pit.write(PORT + 3, 0x20, at(10));
        pit.write(PORT, 7, at(10));
        assert_eq!(pit.read(PORT, at(11)), 7);
        assert_eq!(pit.read(PORT, at(12)), 6);
    }

    #[test]
    fn the_shortest_count_does_not_flood() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 1, at(0));
        let first = pit.deadline().unwrap();
        assert!(first >= MIN_PERIOD);
        assert!(pit.advance(first));
        assert!(pit.deadline().unwrap() >= first + MIN_PERIOD - 1000);
        program(&mut pit, 0, 0, 0, at(100_000));
        assert_eq!(pit.deadline(), Some(at(100_000 + 0x1_0000 + 1)));
    }

    #[test]
    fn the_control_register_reads_as_ones_and_refresh_toggles() {
        let mut pit = Pit::new();
        assert_eq!(pit.read(PORT + 3, 0), 0xff);
        assert_ne!(pit.read_control_b(0) & 0x10, pit.read_control_b(REFRESH) & 0x10);
        pit.write_control_b(0xff, 0);
        assert_eq!(pit.read_control_b(0) & 0xcf, 0x0f);
    }
}

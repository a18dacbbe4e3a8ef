//! The high precision event timer (IA-PC HPET specification 1.0a): a 100 MHz counter of 64 bits and three timers,
//! each periodic or one-shot. No timer has FSB (message) delivery.

use crate::clock::{MIN_PERIOD, earlier};

/// Nanoseconds a tick.
const TICK: u64 = 10;

/// Timers.
pub const TIMERS: usize = 3;

/// Revision 1, three timers, 64 bits, legacy replacement; vendor 8086; the period in femtoseconds.
const CAPABILITIES: u64 =
    0x01 | (TIMERS as u64 - 1) << 8 | 1 << 13 | 1 << 15 | 0x8086 << 16 | (TICK * 1_000_000) << 32;

/// General configuration: the counter runs.
const ENABLE: u64 = 1;
/// General configuration: timers 0 and 1 take the interrupts of 8254 and RTC.
const LEGACY: u64 = 1 << 1;

const LEVEL: u64 = 1 << 1;
const INTERRUPT: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const PERIODIC_CAPABLE: u64 = 1 << 4;
const WIDE: u64 = 1 << 5;
const SET_VALUE: u64 = 1 << 6;
const NARROW: u64 = 1 << 8;
const ROUTE: u64 = 0x1f << 9;
const WRITABLE: u64 = LEVEL | INTERRUPT | PERIODIC | SET_VALUE | NARROW | ROUTE;

/// Interrupts that a timer can be routed to: GSI 16 to 23.
const ROUTES: u64 = 0x00ff_0000;

/// One timer.
#[derive(Clone, Copy, Debug)]
struct Timer {
    config: u64,
    comparator: u64,
    period: u64,
}

impl Timer {
    const fn new() -> Self {
        Self { config: PERIODIC_CAPABLE | WIDE | ROUTES << 32, comparator: u64::MAX, period: 0 }
    }

    const fn mask(&self) -> u64 {
        if self.config & NARROW != 0 { 0xffff_ffff } else { u64::MAX }
    }

    const fn has(&self, bit: u64) -> bool {
        self.config & bit != 0
    }

    /// Ticks from `counter` to the next match; never 0.
    const fn distance(&self, counter: u64) -> u64 {
        let distance = self.comparator.wrapping_sub(counter) & self.mask();
        if distance == 0 { self.mask() } else { distance }
    }
}

/// The timer block.
#[derive(Clone, Debug)]
pub struct Hpet {
    config: u64,
    status: u64,
    /// The counter while it stands; what it is ahead of the virtual clock while it runs.
    base: u64,
    timers: [Timer; TIMERS],
    /// Tick of the virtual clock up to which matches have been worked out.
    served: u64,
}

/// What has become of the interrupts of one timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// GSI, or for the legacy replacement the ISA interrupt, it is wired to.
    pub line: u8,
    /// The line is to be pulsed: an edge has happened.
    pub pulse: bool,
    /// The line is the 8259's, which forgets an edge whose line falls before it is acknowledged: it stays up until the next one.
    pub stays: bool,
    /// Its level otherwise.
    pub level: bool,
}

impl Hpet {
    /// State after reset: the counter stands at 0.
    pub const fn new() -> Self {
        Self { config: 0, status: 0, base: 0, timers: [Timer::new(); TIMERS], served: 0 }
    }

    fn running(&self) -> bool {
        self.config & ENABLE != 0
    }

    /// Timers 0 and 1 have the interrupts of 8254 and RTC.
    #[inline]
    pub fn legacy(&self) -> bool {
        self.config & (LEGACY | ENABLE) == LEGACY | ENABLE
    }

    fn counter(&self, tick: u64) -> u64 {
        if self.running() { tick.wrapping_add(self.base) } else { self.base }
    }

    /// When the next timer with its interrupt on matches.
    pub fn deadline(&self) -> Option<u64> {
        if !self.running() {
            return None;
        }
        let counter = self.counter(self.served);
        let mut first = None;
        for timer in self.timers.iter().filter(|timer| timer.has(INTERRUPT)) {
            let ticks = timer.distance(counter);
            let at = self.served.saturating_add(ticks).saturating_mul(TICK);
            let storm = timer.has(PERIODIC) && timer.period.saturating_mul(TICK) < MIN_PERIOD;
            let soonest =
                if storm { self.served.saturating_mul(TICK).saturating_add(MIN_PERIOD) } else { at };
            first = earlier(first, Some(at.max(soonest)));
        }
        first
    }

    /// Works out the matches up to `now`: a bit for each timer that has matched.
    pub fn advance(&mut self, now: u64) -> u8 {
        let tick = now / TICK;
        let passed = tick.saturating_sub(self.served);
        let counter = self.counter(self.served);
        self.served = tick.max(self.served);
        let mut matched = 0;
        if !self.running() {
            return 0;
        }
        for (index, timer) in self.timers.iter_mut().enumerate() {
            let distance = timer.distance(counter);
            if distance > passed {
                continue;
            }
            matched |= 1 << index;
            if timer.has(LEVEL) {
                self.status |= 1 << index;
            }
            if timer.has(PERIODIC) && timer.period != 0 {
                let periods = (passed - distance) / timer.period + 1;
                timer.comparator =
                    timer.comparator.wrapping_add(periods.wrapping_mul(timer.period)) & timer.mask();
            }
        }
        matched
    }

    /// What the line of timer `index` does, given the matches that [`Hpet::advance`] has returned. `None`: it is
    /// wired to nothing.
    pub fn output(&self, index: usize, matched: u8) -> Option<Output> {
        let timer = self.timers.get(index)?;
        let line = match index {
            0 if self.legacy() => 0,
            1 if self.legacy() => 8,
            _ => ((timer.config & ROUTE) >> 9) as u8,
        };
        if !(self.legacy() && index < 2) && ROUTES >> line & 1 == 0 {
            return None;
        }
        let on = timer.has(INTERRUPT);
        Some(Output {
            line,
            pulse: on && !timer.has(LEVEL) && matched & 1 << index != 0,
            stays: on && !timer.has(LEVEL) && line < 16,
            level: on && timer.has(LEVEL) && self.status & 1 << index != 0,
        })
    }

    fn read_register(&self, offset: u64, now: u64) -> u64 {
        match offset {
            0x00 => CAPABILITIES,
            0x10 => self.config,
            0x20 => self.status,
            0xf0 => self.counter(now / TICK),
            0x100..0x160 => match (self.timers.get(((offset - 0x100) / 0x20) as usize), offset & 0x18) {
                (Some(timer), 0x00) => timer.config,
                (Some(timer), 0x08) => timer.comparator & timer.mask(),
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Reads 4 or 8 bytes, aligned; other reads are not defined and give 0 (specification, 2.2).
    pub fn read(&self, offset: u64, size: u8, now: u64) -> u64 {
        let value = self.read_register(offset & !7, now);
        match (size, offset & 7) {
            (8, 0) => value,
            (4, 0) => value & 0xffff_ffff,
            (4, 4) => value >> 32,
            _ => 0,
        }
    }

    /// Writes 4 or 8 bytes, aligned; other writes are ignored. Call [`Hpet::advance`] first.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, now: u64) {
        let register = offset & !7;
        let (shift, mask) = match (size, offset & 7) {
            (8, 0) => (0, u64::MAX),
            (4, 0) => (0, 0xffff_ffff),
            (4, 4) => (32, 0xffff_ffff << 32),
            _ => return,
        };
        let new = value << shift & mask;
        let tick = now / TICK;
        match register {
            0x10 => self.write_config(self.config & !mask | new, tick),
            0x20 => self.status &= !new,
            // The counter may be written while it stands only.
            0xf0 if !self.running() => self.base = self.base & !mask | new,
            0x100..0x160 => {
                if let Some(timer) = self.timers.get_mut(((register - 0x100) / 0x20) as usize) {
                    match register & 0x18 {
                        0x00 => write_timer_config(timer, mask, new),
                        0x08 => write_comparator(timer, mask, new),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn write_config(&mut self, value: u64, tick: u64) {
        let counter = self.counter(tick);
        self.config = value & (ENABLE | LEGACY);
        self.base = if self.running() { counter.wrapping_sub(tick) } else { counter };
    }
}

fn write_timer_config(timer: &mut Timer, mask: u64, new: u64) {
    let mask = mask & WRITABLE;
    timer.config = timer.config & !mask | new & mask;
    if timer.has(NARROW) {
        timer.comparator &= 0xffff_ffff;
        timer.period &= 0xffff_ffff;
    }
}

/// A periodic timer keeps what is written as its period; the comparator itself takes it only behind SET_VALUE
/// (specification, 2.3.9.2.2).
fn write_comparator(timer: &mut Timer, mask: u64, new: u64) {
    let set = !timer.has(PERIODIC) || timer.has(SET_VALUE);
    if set {
        timer.comparator = (timer.comparator & !mask | new) & timer.mask();
    }
    if timer.has(PERIODIC) {
        timer.period = (timer.period & !mask | new) & timer.mask();
    }
    // A write in two halves sets both.
    if mask & 1 << 63 != 0 || timer.has(NARROW) {
        timer.config &= !SET_VALUE;
    }
}

impl Default for Hpet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled() -> Hpet {
        let mut hpet = Hpet::new();
        hpet.write(0x10, 4, ENABLE, 0);
        hpet
    }

    #[test]
    fn capabilities() {
        let hpet = Hpet::new();
        assert_eq!(hpet.read(0, 8, 0), 0x0098_9680_8086_a201);
        assert_eq!(hpet.read(4, 4, 0), 10_000_000);
        assert_eq!(hpet.read(0x100, 8, 0), 0x00ff_0000_0000_0030);
        assert_eq!(hpet.read(0x160, 8, 0), 0);
        assert_eq!(hpet.read(2, 4, 0), 0);
    }

    #[test]
    fn the_counter_runs_stands_and_is_set() {
        let mut hpet = enabled();
        assert_eq!(hpet.read(0xf0, 8, 1000), 100);
        hpet.write(0xf0, 8, 7, 1000);
        assert_eq!(hpet.read(0xf0, 8, 1000), 100, "not while it runs");
        hpet.write(0x10, 4, 0, 2000);
        assert_eq!(hpet.read(0xf0, 8, 9000), 200);
        hpet.write(0xf4, 4, 1, 9000);
        hpet.write(0xf0, 4, 5, 9000);
        hpet.write(0x10, 4, 1, 10_000);
        assert_eq!(hpet.read(0xf0, 8, 10_100), 0x1_0000_000f);
    }

    #[test]
    fn one_shot() {
        let mut hpet = enabled();
        hpet.write(0x100, 4, INTERRUPT | 16 << 9, 0);
        hpet.write(0x108, 8, 500, 0);
        assert_eq!(hpet.deadline(), Some(5000));
        assert_eq!(hpet.advance(4999), 0);
        let matched = hpet.advance(5000);
        assert_eq!(
            hpet.output(0, matched),
            Some(Output { line: 16, pulse: true, stays: false, level: false })
        );
        assert_eq!(hpet.advance(5010), 0);
        assert!(hpet.deadline().unwrap() > u64::MAX / 2, "once around the counter");
    }

    #[test]
    fn periodic_as_linux_sets_it_up() {
        let mut hpet = enabled();
        hpet.write(0x10, 4, ENABLE | LEGACY, 0);
        hpet.write(0x100, 4, INTERRUPT | PERIODIC | SET_VALUE | NARROW, 0);
        hpet.write(0x108, 4, 200_000, 0);
        assert_eq!(hpet.read(0x100, 4, 0) & SET_VALUE, 0);
        hpet.write(0x108, 4, 100_000, 0);
        assert_eq!(hpet.deadline(), Some(2_000_000));
        let matched = hpet.advance(2_000_000);
        assert_eq!(hpet.output(0, matched), Some(Output { line: 0, pulse: true, stays: true, level: false }));
        assert_eq!(hpet.deadline(), Some(3_000_000));
        assert_eq!(hpet.advance(10_500_000), 1, "missed ones are one");
        assert_eq!(hpet.deadline(), Some(11_000_000));
    }

    #[test]
    fn thirty_two_bits_wrap() {
        let mut hpet = enabled();
        hpet.write(0x120, 4, INTERRUPT | NARROW | 17 << 9, 0);
        let now = 0x1_0000_0000 * TICK + 1000;
        hpet.advance(now);
        hpet.write(0x128, 4, 600, now);
        assert_eq!(hpet.deadline(), Some(0x1_0000_0000 * TICK + 6000));
    }

    #[test]
    fn level_until_the_status_is_cleared() {
        let mut hpet = enabled();
        hpet.write(0x140, 4, INTERRUPT | LEVEL | 20 << 9, 0);
        hpet.write(0x148, 8, 10, 0);
        let matched = hpet.advance(100);
        assert_eq!(
            hpet.output(2, matched),
            Some(Output { line: 20, pulse: false, stays: false, level: true })
        );
        assert_eq!(hpet.read(0x20, 4, 100), 4);
        hpet.write(0x20, 4, 4, 100);
        assert!(!hpet.output(2, 0).unwrap().level);
    }

    #[test]
    fn routes_that_are_not_there_and_storms() {
        let mut hpet = enabled();
        hpet.write(0x100, 4, INTERRUPT | PERIODIC | SET_VALUE | 3 << 9, 0);
        hpet.write(0x108, 8, 1, 0);
        assert_eq!(hpet.output(0, 1), None);
        assert_eq!(hpet.output(9, 0xff), None);
        let due = hpet.deadline().unwrap();
        assert!(due >= MIN_PERIOD);
        hpet.advance(due);
        assert!(hpet.deadline().unwrap() >= due + MIN_PERIOD - TICK);
        hpet.write(0x108, 8, 0, due);
        hpet.advance(due * 3);
        let _ = hpet.deadline();
    }
}

//! The MC146818A real-time clock with its CMOS memory (Motorola data sheet; register C and D as on every PC).
//!
//! Its time is the virtual clock plus the distance to wall time, which the hypervisor sets at power-up and after
//! every stop, plus what the guest has set it to. Flags are worked out when somebody looks or an interrupt is due.

use crate::clock::{SECOND, earlier, nanoseconds, ticks};
use monovisor_arch::layout::RTC_CENTURY;

mod calendar;
use calendar::Date;

/// Bytes of the clock and its memory.
const SIZE: usize = 128;

const SECONDS: u8 = 0;
const SECONDS_ALARM: u8 = 1;
const MINUTES: u8 = 2;
const MINUTES_ALARM: u8 = 3;
const HOURS: u8 = 4;
const HOURS_ALARM: u8 = 5;
const WEEKDAY: u8 = 6;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const A: u8 = 10;
const B: u8 = 11;
const C: u8 = 12;
const D: u8 = 13;

const A_UPDATING: u8 = 1 << 7;
const B_SET: u8 = 1 << 7;
const B_PERIODIC: u8 = 1 << 6;
const B_ALARM: u8 = 1 << 5;
const B_UPDATE: u8 = 1 << 4;
const B_BINARY: u8 = 1 << 2;
const B_24H: u8 = 1 << 1;
const C_REQUEST: u8 = 1 << 7;
const D_VALID: u8 = 1 << 7;

/// UIP goes high this long before an update (data sheet, tBUC), in nanoseconds.
const BEFORE_UPDATE: u64 = 244_000;

/// The crystal.
const CRYSTAL: u64 = 32_768;

/// The real-time clock.
#[derive(Clone, Debug)]
pub struct Rtc {
    index: u8,
    memory: [u8; SIZE],
    /// Nanoseconds since 1970 at the virtual clock's zero, by the rig's clock.
    wall: i64,
    /// What the guest has moved the clock by, in nanoseconds.
    offset: i64,
    /// The clock stands (SET, or the divider held in reset): the registers are plain memory.
    frozen: bool,
    /// Second and crystal tick up to which flags are worked out.
    second: i64,
    tick: u64,
    changed: bool,
}

impl Rtc {
    /// State after the battery was put in: 24 hours, BCD, no interrupt, wall time 1970.
    pub const fn new() -> Self {
        let mut memory = [0; SIZE];
        memory[A as usize] = 0x26;
        memory[B as usize] = B_24H;
        memory[D as usize] = D_VALID;
        Self { index: 0, memory, wall: 0, offset: 0, frozen: false, second: 0, tick: 0, changed: false }
    }

    /// Reset pin: interrupts off, flags clear; time and memory stay (data sheet, "RESET").
    pub fn reset(&mut self) {
        self.memory[B as usize] &= !(B_PERIODIC | B_ALARM | B_UPDATE | 0x08);
        self.memory[C as usize] = 0;
    }

    /// Sets the rig's wall time: `unix` nanoseconds since 1970 at `now`.
    pub fn set_wall_clock(&mut self, unix: i64, now: u64) {
        self.wall = unix.wrapping_sub(now as i64);
        self.second = self.unix(now).div_euclid(SECOND as i64);
        self.tick = ticks(now, CRYSTAL);
    }

    /// How many seconds the guest's clock is ahead of the rig's, once after the guest has set it.
    pub fn take_change(&mut self) -> Option<i64> {
        core::mem::take(&mut self.changed).then(|| self.offset.div_euclid(SECOND as i64))
    }

    /// [`Self::take_change`] has something.
    #[inline]
    pub const fn has_change(&self) -> bool {
        self.changed
    }

    /// Stores a byte of the memory behind the clock; for what firmware leaves there.
    pub fn set_memory(&mut self, index: u8, value: u8) {
        if index > D
            && let Some(byte) = self.memory.get_mut(usize::from(index))
        {
            *byte = value;
        }
    }

    fn get(&self, index: u8) -> u8 {
        self.memory.get(usize::from(index)).copied().unwrap_or(0xff)
    }

    fn unix(&self, now: u64) -> i64 {
        (now as i64).wrapping_add(self.wall).wrapping_add(self.offset)
    }

    fn encode(&self, value: u8) -> u8 {
        if self.get(B) & B_BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.get(B) & B_BINARY != 0 { value } else { (value >> 4) * 10 + (value & 15) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.get(B) & B_24H != 0 {
            return self.encode(hour);
        }
        let twelve = (hour + 11) % 12 + 1;
        self.encode(twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.get(B) & B_24H != 0 {
            return self.decode(value);
        }
        self.decode(value & 0x7f) % 12 + if value & 0x80 != 0 { 12 } else { 0 }
    }

    /// Puts the time into the registers.
    fn load(&mut self, now: u64) {
        let date = Date::from_unix(self.unix(now).div_euclid(SECOND as i64));
        let century = (date.year / 100 % 100) as u8;
        for (index, value) in [
            (SECONDS, self.encode(date.second)),
            (MINUTES, self.encode(date.minute)),
            (HOURS, self.encode_hour(date.hour)),
            (WEEKDAY, self.encode(date.weekday + 1)),
            (DAY, self.encode(date.day)),
            (MONTH, self.encode(date.month)),
            (YEAR, self.encode((date.year % 100) as u8)),
            (RTC_CENTURY, self.encode(century)),
        ] {
            self.memory[usize::from(index)] = value;
        }
    }

    /// Takes the time from the registers; the fraction of the second starts anew if `whole`.
    fn store(&mut self, now: u64, whole: bool) {
        let field = |index| self.decode(self.get(index));
        let date = Date {
            year: u16::from(field(RTC_CENTURY)) * 100 + u16::from(field(YEAR)),
            month: field(MONTH),
            day: field(DAY),
            hour: self.decode_hour(self.get(HOURS)),
            minute: field(MINUTES),
            second: field(SECONDS),
            weekday: 0,
        };
        let fraction = if whole { 0 } else { self.unix(now).rem_euclid(SECOND as i64) };
        let unix = date.to_unix().saturating_mul(SECOND as i64).saturating_add(fraction);
        self.offset = self.offset.wrapping_add(unix.wrapping_sub(self.unix(now)));
        self.second = unix.div_euclid(SECOND as i64);
        self.changed = true;
    }

    /// Seconds from `second` (excluded) to the next one that matches the alarm; within a day, or never.
    fn alarm_after(&self, second: i64) -> Option<i64> {
        let dont_care = |index| self.get(index) & 0xc0 == 0xc0;
        let want = |index| u32::from(self.decode(self.get(index)));
        let fits = |index, value: u32| dont_care(index) || want(index) == value;
        let now = second.rem_euclid(86_400) as u32;
        let hour_fits =
            |hour: u32| dont_care(HOURS_ALARM) || u32::from(self.decode_hour(self.get(HOURS_ALARM))) == hour;
        let never = |index, most: u32| !dont_care(index) && want(index) >= most;
        if never(SECONDS_ALARM, 60) || never(MINUTES_ALARM, 60) || !(0..24).any(hour_fits) {
            return None;
        }
        // Field by field from the next second on; each step skips a whole hour or minute that does not fit.
        let mut ahead = 1;
        while ahead <= 86_400 {
            let at = (now + ahead) % 86_400;
            let (hour, minute, sec) = (at / 3600, at / 60 % 60, at % 60);
            if !hour_fits(hour) {
                ahead += 3600 - at % 3600;
            } else if !fits(MINUTES_ALARM, minute) {
                ahead += 60 - sec;
            } else if !fits(SECONDS_ALARM, sec) {
                ahead += 1;
            } else {
                return Some(i64::from(ahead));
            }
        }
        None
    }

    /// Period of the periodic interrupt in ticks of the crystal; `None` while it is off.
    fn period(&self) -> Option<u64> {
        match self.get(A) & 15 {
            0 => None,
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    /// Works out the flags up to `now`.
    pub fn advance(&mut self, now: u64) {
        let tick = ticks(now, CRYSTAL);
        if let Some(period) = self.period()
            && tick / period != self.tick / period
        {
            self.memory[C as usize] |= B_PERIODIC;
        }
        self.tick = tick;
        let second = self.unix(now).div_euclid(SECOND as i64);
        if !self.frozen && second != self.second {
            self.memory[C as usize] |= B_UPDATE;
            let passed = second.saturating_sub(self.second);
            if self.get(C) & B_ALARM == 0
                && self.alarm_after(self.second).is_some_and(|ahead| ahead <= passed)
            {
                self.memory[C as usize] |= B_ALARM;
            }
        }
        self.second = second;
        let enabled = self.get(B) & self.get(C) & (B_PERIODIC | B_ALARM | B_UPDATE) != 0;
        if enabled {
            self.memory[C as usize] |= C_REQUEST;
        }
    }

    /// Level of the interrupt output, until register C is read.
    pub fn interrupt(&self) -> bool {
        self.get(C) & C_REQUEST != 0
    }

    /// When an enabled interrupt is due.
    pub fn deadline(&self) -> Option<u64> {
        let enabled = self.get(B);
        if self.get(C) & C_REQUEST != 0 || enabled & (B_PERIODIC | B_ALARM | B_UPDATE) == 0 {
            return None;
        }
        let mut first = None;
        if enabled & B_PERIODIC != 0
            && let Some(period) = self.period()
        {
            first = Some(nanoseconds((self.tick / period + 1) * period, CRYSTAL));
        }
        if !self.frozen {
            let until = |ahead: i64| {
                let target = self.second.saturating_add(ahead).saturating_mul(SECOND as i64);
                target.wrapping_sub(self.wall).wrapping_sub(self.offset).max(0) as u64
            };
            if enabled & B_UPDATE != 0 {
                first = earlier(first, Some(until(1)));
            }
            if enabled & B_ALARM != 0 {
                first = earlier(first, self.alarm_after(self.second).map(until));
            }
        }
        first
    }

    /// Writes the index register. Bit 7 (NMI off) is not looked at: it is the chip set's.
    pub fn select(&mut self, value: u8) {
        self.index = value & 0x7f;
    }

    /// Reads the register or byte that is selected.
    pub fn read(&mut self, now: u64) -> u8 {
        self.advance(now);
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | RTC_CENTURY => {
                if !self.frozen {
                    self.load(now);
                }
                self.get(self.index)
            }
            A => {
                let left = SECOND - self.unix(now).rem_euclid(SECOND as i64) as u64;
                self.get(A) | if !self.frozen && left <= BEFORE_UPDATE { A_UPDATING } else { 0 }
            }
            C => core::mem::take(&mut self.memory[C as usize]),
            index => self.get(index),
        }
    }

    /// Writes the register or byte that is selected.
    pub fn write(&mut self, value: u8, now: u64) {
        self.advance(now);
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | RTC_CENTURY => {
                if !self.frozen {
                    self.load(now);
                }
                self.memory[usize::from(self.index)] = value;
                if !self.frozen && self.index != WEEKDAY {
                    self.store(now, self.index == SECONDS);
                }
            }
            A => {
                self.memory[A as usize] = value & !A_UPDATING;
                self.freeze(now);
            }
            B => {
                // SET clears the update-ended enable (data sheet, register B).
                let value = if value & B_SET != 0 { value & !B_UPDATE } else { value };
                let format = (self.get(B) ^ value) & (B_BINARY | B_24H) != 0;
                if !self.frozen && format {
                    self.load(now);
                }
                if value & B_SET != 0 {
                    self.stop(now);
                }
                self.memory[B as usize] = value;
                self.freeze(now);
                self.advance(now);
            }
            C | D => {}
            index => {
                if let Some(byte) = self.memory.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
        }
    }

    fn stop(&mut self, now: u64) {
        if !self.frozen {
            self.load(now);
            self.frozen = true;
        }
    }

    /// Stops or starts the clock as SET and the divider say. Out of divider reset the first update comes half a
    /// second later (data sheet, "Divider control").
    fn freeze(&mut self, now: u64) {
        let held = self.get(A) & 0x60 == 0x60;
        if self.get(B) & B_SET != 0 || held {
            self.stop(now);
        } else if self.frozen {
            self.frozen = false;
            self.store(now, true);
        }
    }
}

#[cfg(test)]
mod tests;

impl Default for Rtc {
    fn default() -> Self {
        Self::new()
    }
}

//! The CMOS clock (MC146818 data sheet), read once.

use crate::port;

/// Polls for the end of an update: it takes 2 ms at most, a poll about 1 µs or more.
const UPDATE_POLLS: u32 = 20_000;

fn cmos(index: u8) -> u8 {
    // Bit 7 keeps NMIs masked in the chip set; it is left clear.
    port::out8(0x70, index & 0x7f);
    port::in8(0x71)
}

/// The clock's registers, as they stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raw {
    second: u8,
    minute: u8,
    hour: u8,
    day: u8,
    month: u8,
    year: u8,
    century: u8,
    status_b: u8,
}

fn raw(century: u8) -> Option<Raw> {
    // Register A bit 7: an update is near or on; the time registers are not to be read.
    (0..UPDATE_POLLS).find(|_| cmos(0x0a) & 0x80 == 0)?;
    Some(Raw {
        second: cmos(0),
        minute: cmos(2),
        hour: cmos(4),
        day: cmos(7),
        month: cmos(8),
        year: cmos(9),
        century: if century == 0 { 0 } else { cmos(century) },
        status_b: cmos(0x0b),
    })
}

/// Seconds since 1970, taking the clock for UTC. `century` is the CMOS index of the century, 0 for none. `None` where
/// there is no clock, or one that shows no possible time.
pub(crate) fn read(century: u8) -> Option<u64> {
    // Twice the same: no update came in between.
    for _ in 0..5 {
        let first = raw(century)?;
        if raw(century)? == first {
            return decode(&first);
        }
    }
    None
}

fn decode(raw: &Raw) -> Option<u64> {
    /// Register B: binary values; 24 hours.
    const BINARY: u8 = 1 << 2;
    const HOURS_24: u8 = 1 << 1;
    let number = |value: u8| -> Option<u64> {
        if raw.status_b & BINARY != 0 {
            return Some(value.into());
        }
        let (tens, ones) = (value >> 4, value & 15);
        (tens <= 9 && ones <= 9).then_some(u64::from(tens) * 10 + u64::from(ones))
    };
    let hour = if raw.status_b & HOURS_24 != 0 {
        number(raw.hour)?
    } else {
        // Bit 7 is PM; 12 AM is midnight.
        number(raw.hour & 0x7f)? % 12 + if raw.hour & 0x80 != 0 { 12 } else { 0 }
    };
    let (second, minute, day, month) =
        (number(raw.second)?, number(raw.minute)?, number(raw.day)?, number(raw.month)?);
    // A century that cannot be is no century register: this program is not run before 2000.
    let century = number(raw.century).filter(|century| (20..=99).contains(century)).unwrap_or(20);
    let year = century * 100 + number(raw.year).filter(|&year| year < 100)?;
    if second > 59 || minute > 59 || hour > 23 || !(1..=31).contains(&day) || !(1..=12).contains(&month) {
        return None;
    }
    // Days of the Gregorian calendar, years beginning in March so that a leap day is a year's last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1;
    /// Days so counted until 1970-01-01.
    const EPOCH: u64 = 719_468;
    Some((days.checked_sub(EPOCH)? * 24 + hour) * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCD: Raw = Raw {
        second: 0x56,
        minute: 0x34,
        hour: 0x12,
        day: 0x29,
        month: 2,
        year: 0x24,
        century: 0x20,
        status_b: 2,
    };

    #[test]
    fn reads_all_forms() {
        // date -u -d '2024-02-29 12:34:56' +%s
        assert_eq!(decode(&BCD), Some(1_709_210_096));
        let binary =
            Raw { second: 56, minute: 34, hour: 12, day: 29, month: 2, year: 24, century: 20, status_b: 6 };
        assert_eq!(decode(&binary), Some(1_709_210_096));
        assert_eq!(decode(&Raw { hour: 0x92, status_b: 0, ..BCD }), Some(1_709_210_096));
        assert_eq!(decode(&Raw { hour: 0x12, status_b: 0, ..BCD }), Some(1_709_210_096 - 12 * 3600));
        assert_eq!(decode(&Raw { century: 0, ..BCD }), Some(1_709_210_096));
        // date -u -d '2099-12-31 23:59:59' +%s
        let last =
            Raw { second: 59, minute: 59, hour: 23, day: 31, month: 12, year: 99, century: 20, status_b: 6 };
        assert_eq!(decode(&last), Some(4_102_444_799));
    }

    #[test]
    fn refuses_what_no_clock_shows() {
        assert_eq!(decode(&Raw { month: 0x13, ..BCD }), None);
        assert_eq!(decode(&Raw { day: 0, ..BCD }), None);
        assert_eq!(decode(&Raw { second: 0xff, ..BCD }), None);
        assert_eq!(decode(&Raw { hour: 0x24, ..BCD }), None);
    }
}

//! Dates of the proleptic Gregorian calendar.

/// A date and time of day, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    /// 0 is Sunday.
    pub weekday: u8,
}

/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;
/// Days in 400 years.
const ERA: i64 = 146_097;

impl Date {
    /// The date of a second since 1970; years beyond 0 to 9999 wrap.
    pub fn from_unix(unix: i64) -> Self {
        let days = unix.div_euclid(86_400);
        let second = unix.rem_euclid(86_400) as u32;
        // Years start in March here, so that the leap day is their last.
        let shifted = days + EPOCH;
        let era = shifted.div_euclid(ERA);
        let day_of_era = shifted.rem_euclid(ERA);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self {
            year: year.rem_euclid(10_000) as u16,
            month: month as u8,
            day: day as u8,
            hour: (second / 3600) as u8,
            minute: (second / 60 % 60) as u8,
            second: (second % 60) as u8,
            weekday: (days + 4).rem_euclid(7) as u8,
        }
    }

    /// The second since 1970. Months that do not exist count as the nearest one; days, hours, minutes and seconds
    /// beyond their range carry over.
    pub fn to_unix(self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let year = i64::from(self.year) - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month_from_march = (month + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * ERA + day_of_era - EPOCH;
        days * 86_400 + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        for (unix, year, month, day, weekday) in [
            (0, 1970, 1, 1, 4),
            (951_782_400, 2000, 2, 29, 2),
            (951_868_800, 2000, 3, 1, 3),
            (1_709_164_800, 2024, 2, 29, 4),
            (4_107_542_400, 2100, 3, 1, 1),
            (-86_400, 1969, 12, 31, 3),
        ] {
            let date = Date::from_unix(unix);
            assert_eq!(
                (date.year, date.month, date.day, date.weekday),
                (year, month, day, weekday),
                "{unix}"
            );
            assert_eq!(date.to_unix(), unix);
        }
    }

    #[test]
    fn every_day_of_four_centuries_goes_there_and_back() {
        for day in 0..ERA {
            let unix = day * 86_400 + day % 86_400;
            assert_eq!(Date::from_unix(unix).to_unix(), unix);
        }
    }

    #[test]
    fn senseless_fields_carry() {
        let date = Date { year: 2024, month: 0, day: 0, hour: 255, minute: 255, second: 255, weekday: 0 };
        assert!(date.to_unix() > 0);
        let date = Date { year: 25_755, month: 255, day: 255, hour: 0, minute: 0, second: 0, weekday: 9 };
        let _ = Date::from_unix(date.to_unix());
        let _ = Date::from_unix(i64::MAX / 1_000_000_000);
    }
}

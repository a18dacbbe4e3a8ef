//! Conversions between the virtual clock (nanoseconds) and the ticks of a device's own clock.
//!
//! Exact for every input and without a 128-bit division: whole seconds and the rest are converted apart.

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// Shortest period, in nanoseconds, at which a periodic timer wants service. A guest that programs a faster one
/// gets one interrupt for several periods: it slows nobody but itself.
pub const MIN_PERIOD: u64 = 20_000;

/// Deadline of a device that goes on with its work as soon as it is called: the guest waits for that, and has nothing to gain
/// from running before.
pub const AT_ONCE: u64 = 0;

/// Ticks of a clock of `hz` that lie behind `nanoseconds`, rounded down. Exact for `hz` up to 18 GHz; wraps as
/// the counter of a chip would.
#[inline]
pub const fn ticks(nanoseconds: u64, hz: u64) -> u64 {
    (nanoseconds / SECOND).wrapping_mul(hz).wrapping_add((nanoseconds % SECOND).wrapping_mul(hz) / SECOND)
}

/// First nanosecond at which `ticks` of a clock of `hz` have passed; saturates.
pub const fn nanoseconds(ticks: u64, hz: u64) -> u64 {
    if hz == 0 {
        return u64::MAX;
    }
    let rest = (ticks % hz).saturating_mul(SECOND).div_ceil(hz);
    (ticks / hz).saturating_mul(SECOND).saturating_add(rest)
}

/// The earlier of two moments, where `None` is never.
pub const fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a < b { a } else { b }),
        (Some(a), None) => Some(a),
        (None, b) => b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_reached_exactly_at_its_nanosecond() {
        for hz in [32_768, 1_193_182, 3_579_545, 10_000_000, 2_999_999_977, 5_000_000_000] {
            for count in [0, 1, 2, 3, 1_000, 65_535, 65_536, hz - 1, hz, hz + 1, 77 * hz + 12_345] {
                let at = nanoseconds(count, hz);
                assert!(ticks(at, hz) >= count, "{hz} {count}");
                if at > 0 {
                    assert!(ticks(at - 1, hz) < count, "{hz} {count}");
                }
            }
        }
    }

    #[test]
    fn extremes_saturate() {
        assert_eq!(nanoseconds(u64::MAX, 1), u64::MAX);
        assert_eq!(nanoseconds(5, 0), u64::MAX);
        let _ = ticks(u64::MAX, 3_579_545);
    }

    #[test]
    fn never_is_later_than_any_moment() {
        assert_eq!(earlier(None, Some(3)), Some(3));
        assert_eq!(earlier(Some(3), None), Some(3));
        assert_eq!(earlier(Some(4), Some(3)), Some(3));
        assert_eq!(earlier(None, None), None);
    }
}

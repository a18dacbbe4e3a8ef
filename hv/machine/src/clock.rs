//! The guest's clock: one count that drives its TSC and every device timer, and stands still while it is stopped.
//!
//! The guest's TSC is the host's plus an offset; virtual time is that TSC in nanoseconds. Stopping remembers the
//! guest's TSC, going on recomputes the offset, so that no time passes for a stopped guest (as in QEMU).

/// Nanoseconds a second.
const NANOSECONDS: u64 = 1_000_000_000;

/// A frequency conversion without division: `value * factor >> 32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scale(u64);

impl Scale {
    /// The scale from `from` Hz to `to` Hz. `from` is at least 1 MHz, which keeps the factor within 64 bits.
    const fn new(from: u64, to: u64) -> Self {
        Self((((to as u128) << 32) / from as u128) as u64)
    }

    #[inline]
    const fn apply(self, value: u64) -> u64 {
        ((value as u128 * self.0 as u128) >> 32) as u64
    }
}

/// Lowest TSC frequency that is taken for real. No 64-bit processor runs slower than this.
pub const MIN_TSC_HZ: u64 = 1_000_000;

/// The guest's clock.
#[derive(Clone, Debug)]
pub struct Clock {
    tsc_hz: u64,
    to_ns: Scale,
    to_ticks: Scale,
    /// Guest TSC less host TSC, while the clock runs.
    offset: u64,
    /// Guest TSC at which the clock stopped.
    stopped_at: Option<u64>,
}

impl Clock {
    /// A clock that stands at 0, for a TSC of `tsc_hz` Hz.
    pub const fn new(tsc_hz: u64) -> Self {
        let tsc_hz = if tsc_hz < MIN_TSC_HZ { MIN_TSC_HZ } else { tsc_hz };
        Self {
            tsc_hz,
            to_ns: Scale::new(tsc_hz, NANOSECONDS),
            to_ticks: Scale::new(NANOSECONDS, tsc_hz),
            offset: 0,
            stopped_at: Some(0),
        }
    }

    /// TSC frequency in Hz.
    pub const fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// Lets time pass from now on. `host_tsc` is the host's TSC now.
    pub fn start(&mut self, host_tsc: u64) {
        if let Some(at) = self.stopped_at.take() {
            self.offset = at.wrapping_sub(host_tsc);
        }
    }

    /// Stops time.
    pub fn stop(&mut self, host_tsc: u64) {
        if self.stopped_at.is_none() {
            self.stopped_at = Some(self.guest_tsc(host_tsc));
        }
    }

    /// What a VMCS or VMCB adds to the host's TSC.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The guest's TSC when the host's is `host_tsc`.
    #[inline]
    pub const fn guest_tsc(&self, host_tsc: u64) -> u64 {
        match self.stopped_at {
            Some(at) => at,
            None => host_tsc.wrapping_add(self.offset),
        }
    }

    /// Virtual time in nanoseconds when the host's TSC is `host_tsc`.
    #[inline]
    pub const fn now(&self, host_tsc: u64) -> u64 {
        self.to_ns.apply(self.guest_tsc(host_tsc))
    }

    /// The host TSC at which virtual time reaches `deadline` nanoseconds (while the clock runs). One tick late at
    /// most, never early: a timer that fires early would have to be armed again.
    #[inline]
    pub const fn host_tsc_at(&self, deadline: u64) -> u64 {
        let wide = (deadline as u128 * self.to_ticks.0 as u128) >> 32;
        let guest = if wide > u64::MAX as u128 { u64::MAX } else { wide as u64 }.saturating_add(2);
        // A deadline too far away to count must not come out as one that has passed.
        let offset = self.offset.cast_signed();
        if offset < 0 {
            guest.saturating_add(offset.unsigned_abs())
        } else {
            guest.saturating_sub(self.offset)
        }
    }

    /// Host TSC ticks in `nanoseconds`.
    pub const fn ticks(&self, nanoseconds: u64) -> u64 {
        self.to_ticks.apply(nanoseconds)
    }
}

/// The soonest host TSC at which to look at the devices again, when a look has taken from `began` to `ended`.
///
/// A guest can set timers that come faster than they are served, and each entry would end before its first instruction. So
/// it gets about as long as the look has taken, on whatever processor this is: twice that from here, of which the way into the
/// guest takes a part.
#[inline]
pub const fn after_look(began: u64, ended: u64) -> u64 {
    ended.saturating_add(ended.saturating_sub(began).saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_clock_stands_still() {
        let mut clock = Clock::new(2_000_000_000);
        assert_eq!(clock.now(12345), 0);
        clock.start(1_000);
        assert_eq!(clock.guest_tsc(3_000), 2_000);
        clock.stop(3_000);
        assert_eq!(clock.guest_tsc(9_000), 2_000);
        clock.start(10_000);
        assert_eq!(clock.guest_tsc(10_500), 2_500);
    }

    #[test]
    fn deadlines_are_never_early() {
        for hz in [1_000_000_000, 2_999_999_999, 3_700_000_001, 50_000_000] {
            let mut clock = Clock::new(hz);
            clock.start(777);
            for deadline in [1, 999, 1_000_000, 86_400 * NANOSECONDS] {
                let at = clock.host_tsc_at(deadline);
                let reached = clock.now(at);
                // 2^-32 relative error of either conversion, and two ticks.
                let slack = 2 + deadline / (1 << 28) + 3 * NANOSECONDS / hz;
                assert!(reached + deadline / (1 << 28) >= deadline, "{hz} {deadline} {reached}");
                assert!(reached <= deadline + slack, "{hz} {deadline} {reached}");
            }
        }
    }

    #[test]
    fn the_farthest_deadline_stays_ahead() {
        for (hz, start) in [(2_000_000_000, 777), (50_000_000, 1 << 40), (1_000_000_000, 0)] {
            let mut clock = Clock::new(hz);
            clock.start(start);
            assert!(clock.host_tsc_at(u64::MAX) > start + (1 << 50), "{hz}");
            assert!(clock.host_tsc_at(u64::MAX / 2) > start + (1 << 50), "{hz}");
        }
    }

    #[test]
    fn the_guest_gets_time_in_proportion_to_the_look() {
        assert_eq!(after_look(11_000, 13_000), 17_000);
        // Whatever the TSC says.
        assert_eq!(after_look(13_000, 11_000), 11_000);
        assert_eq!(after_look(0, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_day_at_4_ghz_keeps_its_nanoseconds() {
        let mut clock = Clock::new(4_000_000_000);
        clock.start(0);
        assert_eq!(clock.now(4_000_000_000 * 86_400), NANOSECONDS * 86_400);
    }
}

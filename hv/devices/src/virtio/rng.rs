//! Entropy device (virtio 1.2, 5.4): one queue, whose buffers are filled with random bytes.
//!
//! What the guest may take is limited as QEMU's `virtio-rng-pci` does it: `max-bytes` in each `period`, which starts with
//! the first request in it. A request that finds nothing left waits for the next period.

use super::{Context, Device, Kind, Part};

const QUEUE: u16 = 0;

/// Entries of the queue, as QEMU has them.
const QUEUE_SIZE: u16 = 8;

/// Bytes that are made in one call: hardware takes about a microsecond for 64, and nothing else runs meanwhile.
const STEP: u64 = 4096;

/// Bytes that are asked of the source at a time.
const PIECE: usize = 64;

/// How long a source that has nothing is left alone, in nanoseconds.
const RETRY_NS: u64 = 1_000_000;

/// Gives random bytes. False: it has none now.
pub type Source = fn(&mut [u8; PIECE]) -> bool;

/// How much a guest may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes in each period.
    pub max_bytes: u64,
    /// Length of a period in milliseconds.
    pub period_ms: u32,
}

impl Default for Limit {
    /// QEMU's: no limit to speak of.
    fn default() -> Self {
        Self { max_bytes: i64::MAX.cast_unsigned(), period_ms: 1 << 16 }
    }
}

/// The device.
#[derive(Debug)]
pub struct Rng {
    source: Source,
    limit: Limit,
    /// Bytes left in this period.
    left: u64,
    /// When this period ends, once a request has begun it.
    end: Option<u64>,
    /// When to look at the queue again.
    wake: Option<u64>,
}

impl Rng {
    /// A device that gives what `source` has, as far as `limit` lets it.
    pub const fn new(source: Source, limit: Limit) -> Self {
        Self { source, limit, left: limit.max_bytes, end: None, wake: None }
    }

    fn serve(&mut self, cx: &mut Context<'_>) {
        self.wake = None;
        if self.end.is_some_and(|end| end <= cx.now()) {
            self.end = None;
            self.left = self.limit.max_bytes;
        }
        let mut step = STEP;
        while let Some(head) = cx.next(QUEUE) {
            let length = cx.chain().length(Part::Writable);
            let most = length.min(self.left).min(step);
            if most == 0 && length != 0 {
                cx.put_back(QUEUE);
                if self.left == 0 {
                    self.wake = self.end;
                } else {
                    cx.again();
                }
                break;
            }
            let end = cx.now().saturating_add(u64::from(self.limit.period_ms).saturating_mul(1_000_000));
            self.end.get_or_insert(end);
            let Some(done) = self.fill(most, cx) else { return };
            if done == 0 && length != 0 {
                cx.put_back(QUEUE);
                self.wake = Some(cx.now().saturating_add(RETRY_NS));
                break;
            }
            self.left -= done;
            step -= done;
            // Below `STEP`.
            cx.complete(QUEUE, head, done as u32);
        }
        cx.signal(QUEUE);
    }

    /// Fills the first `length` bytes of the chain's writable part. How many the source had; `None` after an error of the
    /// driver.
    fn fill(&self, length: u64, cx: &mut Context<'_>) -> Option<u64> {
        let mut done = 0;
        let mut piece = [0; PIECE];
        while done < length && (self.source)(&mut piece) {
            let bytes = piece.get(..(length - done).min(PIECE as u64) as usize)?;
            let memory = cx.memory();
            if let Err(error) = cx.chain().write(memory, done, bytes) {
                cx.fail(error);
                return None;
            }
            done += bytes.len() as u64;
        }
        Some(done)
    }
}

impl Device for Rng {
    fn kind(&self) -> Kind {
        Kind { id: 4, class: 0x00_ff00 }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> u16 {
        1
    }

    fn queue_size(&self, _: u16) -> u16 {
        QUEUE_SIZE
    }

    fn notify(&mut self, _: u16, cx: &mut Context<'_>) {
        self.serve(cx);
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        self.serve(cx);
    }

    fn deadline(&self) -> Option<u64> {
        self.wake
    }

    /// The limit is on the guest, and a reset does not give it more.
    fn reset(&mut self) {
        self.wake = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    /// Bytes that are never zero.
    fn ones(piece: &mut [u8; PIECE]) -> bool {
        piece.fill(0x5a);
        true
    }

    fn none(_: &mut [u8; PIECE]) -> bool {
        false
    }

    fn driver(source: Source, limit: Limit) -> Driver {
        let mut driver = Driver::new(Rng::new(source, limit));
        driver.start(0);
        driver
    }

    #[test]
    fn fills_what_it_is_given() {
        let mut driver = driver(ones, Limit::default());
        assert_eq!(driver.request(0, &[(0x80_000, 100, true), (0x81_000, 30, true)]), 130);
        assert_eq!(driver.bytes::<101>(0x80_000)[99..], [0x5a, 0]);
        assert_eq!(driver.bytes::<31>(0x81_000)[29..], [0x5a, 0]);
        // Nothing to fill is no error of the device.
        assert_eq!(driver.request(0, &[(0x80_000, 100, false)]), 0);
        // A long one is filled as far as one call goes.
        assert_eq!(driver.request(0, &[(0x80_000, 0x10_000, true)]), STEP as u32);
        assert_eq!(driver.function.deadline(), None);
    }

    #[test]
    fn many_requests_are_done_in_steps() {
        let mut driver = driver(ones, Limit::default());
        for head in 0..4 {
            driver.chain(0, head, &[(0x80_000, 3000, true)]);
            driver.offer(0, head);
        }
        driver.kick(0);
        assert_eq!(driver.take_used(0), Some((0, 3000)));
        assert_eq!(driver.take_used(0), Some((1, 1096)));
        assert_eq!(driver.take_used(0), None);
        assert_eq!(driver.function.deadline(), Some(0), "wants to go on");
        driver.function.poll(0);
        assert_eq!(driver.take_used(0), Some((2, 3000)));
        assert_eq!(driver.take_used(0), Some((3, 1096)));
    }

    #[test]
    fn a_period_has_its_limit() {
        let mut driver = driver(ones, Limit { max_bytes: 100, period_ms: 10 });
        driver.now = 5_000_000;
        assert_eq!(driver.request(0, &[(0x80_000, 64, true)]), 64);
        assert_eq!(driver.request(0, &[(0x80_000, 64, true)]), 36);
        driver.chain(0, 0, &[(0x80_000, 64, true)]);
        driver.offer(0, 0);
        driver.kick(0);
        assert_eq!(driver.take_used(0), None);
        assert_eq!(driver.function.deadline(), Some(15_000_000));
        // A reset gives it no more.
        driver.start(0);
        driver.chain(0, 0, &[(0x80_000, 64, true)]);
        driver.offer(0, 0);
        driver.kick(0);
        assert_eq!(driver.take_used(0), None);
        driver.function.poll(15_000_000);
        assert_eq!(driver.take_used(0), Some((0, 64)));
        assert_eq!(driver.function.deadline(), None);
    }

    #[test]
    fn an_empty_source_is_asked_again() {
        let mut driver = driver(none, Limit::default());
        driver.chain(0, 0, &[(0x80_000, 64, true)]);
        driver.offer(0, 0);
        driver.kick(0);
        assert_eq!(driver.take_used(0), None);
        assert_eq!(driver.function.deadline(), Some(RETRY_NS));
    }

    #[test]
    fn survives_a_hostile_driver() {
        for seed in 0..50 {
            abuse(&mut Driver::new(Rng::new(ones, Limit { max_bytes: 5000, period_ms: 0 })), seed, 300);
        }
    }
}

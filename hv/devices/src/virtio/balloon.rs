//! Traditional memory balloon (virtio 1.2, 5.5): the guest gives pages away, and takes them back.
//!
//! | queue | what the driver puts there |
//! |---|---|
//! | 0 | numbers of pages that it gives away |
//! | 1 | numbers of pages that it takes back |
//! | 2 | one buffer of statistics, which the device returns when it wants new ones |
//!
//! What becomes of a page is the business of [`Pages`]. A driver is believed nothing: a page that it gives away twice, or
//! that is no RAM, changes nothing, and what it says that the balloon holds is only shown.

use super::{Context, Device, Kind, Part};

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS: u16 = 2;

/// Entries of a queue, as QEMU has them.
const QUEUE_SIZE: u16 = 128;

const FEATURE_STATISTICS: u64 = 1 << 1;
const FEATURE_DEFLATE_ON_OOM: u64 = 1 << 2;

/// Bytes of a page, whatever the guest's pages are (5.5.6).
const PAGE: u64 = 4096;

/// Pages that are given away or taken back in one call: each is cleared, which takes about 100 nanoseconds.
pub const STEP: usize = 64;

/// Bytes of a page's number.
const NUMBER: usize = 4;

/// Offset of the size that the device reads in the configuration structure: pages that the balloon holds.
const ACTUAL: u16 = 4;

/// Kinds of statistics that are kept (5.5.6.3): swap in, swap out, major faults, minor faults, free memory, total memory,
/// available memory.
pub const STATISTIC_KINDS: usize = 7;

/// Bytes of one statistic: tag and value.
const STATISTIC: usize = 10;

/// Where the pages come from and go to: the second-level mapping of the guest's RAM.
pub trait Pages: Send {
    /// Takes the page at a guest-physical address, a multiple of 4 KiB, out of the guest's reach. At most [`STEP`] of
    /// them come between two calls of [`Pages::settle`] that are true.
    fn take(&mut self, address: u64);
    /// No processor can reach any more what has been taken, and it has been cleared. False: not yet.
    fn settle(&mut self) -> bool;
    /// Puts a page back where it was, if it has been taken.
    fn give(&mut self, address: u64);
    /// Seconds since 1970 by the rig's clock; 0 where it has none.
    fn time(&self) -> u64;
}

/// A chain of page numbers that is being worked on.
#[derive(Clone, Copy, Debug)]
struct Work {
    queue: u16,
    head: u16,
    /// Bytes of it that are done.
    done: u64,
}

/// The device.
pub struct Balloon {
    pages: &'static mut dyn Pages,
    deflate_on_oom: bool,
    /// Bytes of RAM that the guest has with an empty balloon.
    ram: u64,
    /// Pages that the balloon is to hold.
    target: u32,
    /// Pages that it holds, as the driver says.
    actual: u32,
    /// The driver has changed `actual`.
    changed: bool,
    work: Option<Work>,
    /// What has been taken is not settled yet.
    unsettled: bool,
    statistics: [u64; STATISTIC_KINDS],
    /// When the last statistics came, in seconds since 1970; 0: never.
    updated: u64,
    /// The buffer of statistics that the device has.
    buffer: Option<u16>,
    /// Nanoseconds between two requests for statistics; 0: none.
    interval: u64,
    /// When to ask for statistics.
    due: Option<u64>,
}

impl Balloon {
    /// A balloon in a guest with `ram` bytes of RAM. `deflate_on_oom`: the guest may take pages back when it has none left.
    pub fn new(pages: &'static mut dyn Pages, ram: u64, deflate_on_oom: bool) -> Self {
        Self {
            pages,
            deflate_on_oom,
            ram,
            target: 0,
            actual: 0,
            changed: false,
            work: None,
            unsettled: false,
            statistics: [u64::MAX; STATISTIC_KINDS],
            updated: 0,
            buffer: None,
            interval: 0,
            due: None,
        }
    }

    /// Asks the guest to make do with `bytes` of RAM.
    pub fn set_target(&mut self, bytes: u64, cx: &mut Context<'_>) {
        let pages = self.ram.saturating_sub(bytes) / PAGE;
        self.target = u32::try_from(pages).unwrap_or(u32::MAX);
        cx.config_changed();
    }

    /// Bytes of RAM that the guest has now.
    pub fn actual(&self) -> u64 {
        self.ram.saturating_sub(u64::from(self.actual) * PAGE)
    }

    /// The driver has changed the size since the last question: what it is now, in bytes of RAM that the guest has.
    pub fn take_change(&mut self) -> Option<u64> {
        core::mem::take(&mut self.changed).then(|| self.actual())
    }

    /// The statistics, in the order of their tags, all ones where the guest has not told; and when they came, in seconds
    /// since 1970, 0 for never.
    pub const fn statistics(&self) -> ([u64; STATISTIC_KINDS], u64) {
        (self.statistics, self.updated)
    }

    /// Seconds between two requests for statistics; 0: the guest is not asked.
    pub const fn interval(&self) -> u64 {
        self.interval / 1_000_000_000
    }

    /// Sets the interval between two requests for statistics, in seconds.
    pub fn set_interval(&mut self, seconds: u64, now: u64) {
        self.interval = seconds.saturating_mul(1_000_000_000);
        self.due = (self.interval != 0).then(|| now.saturating_add(self.interval));
    }

    /// Goes on with the pages, chain after chain, as far as one call goes.
    fn serve(&mut self, cx: &mut Context<'_>) {
        let mut budget = STEP;
        loop {
            if self.unsettled {
                if !self.pages.settle() {
                    return cx.again();
                }
                self.unsettled = false;
            }
            let Some(work) = self.work.or_else(|| Self::take_work(cx)) else { return };
            if self.work.is_some() && !cx.reload(work.queue, work.head) {
                return;
            }
            if budget == 0 {
                self.work = Some(work);
                return cx.again();
            }
            let Some(done) = self.step(work, &mut budget, cx) else { return };
            if self.unsettled {
                // Settled before the driver is told that the pages are gone.
                self.work = Some(Work { done, ..work });
                continue;
            }
            self.work = None;
            if done.saturating_add(NUMBER as u64) <= cx.chain().length(Part::Readable) {
                self.work = Some(Work { done, ..work });
                continue;
            }
            cx.complete(work.queue, work.head, 0);
            cx.signal(work.queue);
        }
    }

    fn take_work(cx: &mut Context<'_>) -> Option<Work> {
        // Given back goes first: a guest that needs memory waits for it.
        [DEFLATE, INFLATE]
            .into_iter()
            .find_map(|queue| cx.next(queue).map(|head| Work { queue, head, done: 0 }))
    }

    /// Works on up to `budget` pages of the chain. The offset behind them; `None` after an error of the driver.
    fn step(&mut self, work: Work, budget: &mut usize, cx: &mut Context<'_>) -> Option<u64> {
        let mut numbers = [0; STEP * NUMBER];
        let room = numbers.get_mut(..*budget * NUMBER)?;
        let memory = cx.memory();
        let length = match cx.chain().read(memory, work.done, room) {
            Ok(length) => length,
            Err(error) => {
                cx.fail(error);
                return None;
            }
        };
        let (numbers, _) = room.get(..length)?.as_chunks::<NUMBER>();
        for number in numbers {
            let address = u64::from(u32::from_le_bytes(*number)) * PAGE;
            if work.queue == INFLATE {
                self.pages.take(address);
                self.unsettled = true;
            } else {
                self.pages.give(address);
            }
        }
        *budget -= numbers.len();
        Some(work.done.saturating_add((numbers.len() * NUMBER) as u64))
    }

    /// The driver has filled the buffer of statistics.
    fn read_statistics(&mut self, cx: &mut Context<'_>) {
        while let Some(head) = cx.next(STATISTICS) {
            // There is one buffer (5.5.6.3): of more, the newest counts.
            if let Some(old) = self.buffer.replace(head) {
                cx.complete(STATISTICS, old, 0);
            }
            // More kinds than are known may come with a newer guest: the first ones are looked at.
            let mut bytes = [0; STATISTIC * 16];
            let memory = cx.memory();
            let length = match cx.chain().read(memory, 0, &mut bytes) {
                Ok(length) => length,
                Err(error) => return cx.fail(error),
            };
            let (entries, _) = bytes.get(..length).unwrap_or_default().as_chunks::<STATISTIC>();
            for [low, high, value @ ..] in entries {
                let tag = u16::from_le_bytes([*low, *high]);
                if let Some(place) = self.statistics.get_mut(usize::from(tag)) {
                    *place = u64::from_le_bytes(*value);
                }
            }
            self.updated = self.pages.time();
        }
        if self.interval != 0 {
            self.due = Some(cx.now().saturating_add(self.interval));
        }
    }

    fn ask_statistics(&mut self, cx: &mut Context<'_>) {
        if self.due.is_none_or(|due| due > cx.now()) {
            return;
        }
        self.due = None;
        match self.buffer.take() {
            Some(head) => {
                cx.complete(STATISTICS, head, 0);
                cx.signal(STATISTICS);
            }
            // The driver has it still.
            None => self.due = Some(cx.now().saturating_add(self.interval)),
        }
    }
}

impl Device for Balloon {
    fn kind(&self) -> Kind {
        Kind { id: 5, class: 0x00_ff00 }
    }

    fn features(&self) -> u64 {
        FEATURE_STATISTICS | if self.deflate_on_oom { FEATURE_DEFLATE_ON_OOM } else { 0 }
    }

    fn queues(&self) -> u16 {
        3
    }

    fn queue_size(&self, _: u16) -> u16 {
        QUEUE_SIZE
    }

    fn config_size(&self) -> u16 {
        8
    }

    fn config(&self, config: &mut [u8; super::CONFIG_SIZE]) {
        let (target, actual) = (self.target.to_le_bytes(), self.actual.to_le_bytes());
        for (place, byte) in config.iter_mut().zip(target.into_iter().chain(actual)) {
            *place = byte;
        }
    }

    fn set_config(&mut self, offset: u16, bytes: &[u8], cx: &mut Context<'_>) {
        if let (ACTUAL, Ok(value)) = (offset, bytes.try_into()) {
            let actual = u32::from_le_bytes(value);
            // No guest has given away more than it had.
            let actual = actual.min(u32::try_from(self.ram / PAGE).unwrap_or(u32::MAX));
            if core::mem::replace(&mut self.actual, actual) != actual {
                self.changed = true;
                cx.tell();
            }
        }
    }

    fn notify(&mut self, queue: u16, cx: &mut Context<'_>) {
        if queue == STATISTICS { self.read_statistics(cx) } else { self.serve(cx) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        self.ask_statistics(cx);
        self.serve(cx);
    }

    fn deadline(&self) -> Option<u64> {
        self.buffer.and(self.due)
    }

    /// The pages stay where they are: a guest that touches one has it again. The target is the operator's.
    fn reset(&mut self) {
        self.actual = 0;
        self.work = None;
        self.buffer = None;
        self.statistics = [u64::MAX; STATISTIC_KINDS];
        self.updated = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::testing::*;
    use super::*;

    #[derive(Default)]
    struct State {
        taken: Vec<u64>,
        given: Vec<u64>,
        /// How often `settle` says no.
        busy: u32,
        since: usize,
    }

    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<State>>);

    impl Pages for Recorder {
        fn take(&mut self, address: u64) {
            let mut state = self.0.lock().unwrap();
            state.taken.push(address);
            state.since += 1;
            assert!(state.since <= STEP);
        }
        fn settle(&mut self) -> bool {
            let mut state = self.0.lock().unwrap();
            if state.busy > 0 {
                state.busy -= 1;
                return false;
            }
            state.since = 0;
            true
        }
        fn give(&mut self, address: u64) {
            self.0.lock().unwrap().given.push(address);
        }
        fn time(&self) -> u64 {
            42
        }
    }

    const RAM_BYTES: u64 = 64 << 20;

    fn driver() -> (Driver, Recorder) {
        let recorder = Recorder::default();
        let pages = Box::leak(Box::new(recorder.clone()));
        let mut driver = Driver::new(Balloon::new(pages, RAM_BYTES, true));
        assert_eq!(driver.offered() & 0xff_ffff, 6);
        driver.start(FEATURE_STATISTICS);
        (driver, recorder)
    }

    fn numbers(driver: &Driver, address: u64, numbers: impl Iterator<Item = u32>) -> u32 {
        let bytes: Vec<u8> = numbers.flat_map(u32::to_le_bytes).collect();
        driver.fill(address, &bytes);
        bytes.len() as u32
    }

    #[test]
    fn pages_go_and_come_back() {
        let (mut driver, recorder) = driver();
        let length = numbers(&driver, 0x80_000, [5, 0xffff_ffff, 7].into_iter());
        // Odd bytes at the end are no number.
        assert_eq!(driver.request(INFLATE, &[(0x80_000, length, false), (0x80_000, 3, false)]), 0);
        assert_eq!(recorder.0.lock().unwrap().taken, [0x5000, 0xfff_ffff_f000, 0x7000]);
        driver.request(DEFLATE, &[(0x80_000, 4, false)]);
        assert_eq!(recorder.0.lock().unwrap().given, [0x5000]);
    }

    #[test]
    fn a_long_chain_is_done_in_steps_and_told_when_settled() {
        let (mut driver, recorder) = driver();
        let count = 3 * STEP as u32 - 1;
        let length = numbers(&driver, 0x80_000, 0..count);
        recorder.0.lock().unwrap().busy = 1;
        driver.chain(INFLATE, 0, &[(0x80_000, length, false)]);
        driver.offer(INFLATE, 0);
        driver.kick(INFLATE);
        assert_eq!(recorder.0.lock().unwrap().taken.len(), STEP);
        let mut polls = 0;
        while driver.function.deadline() == Some(0) {
            assert_eq!(driver.take_used(INFLATE), None);
            driver.function.poll(0);
            polls += 1;
        }
        assert_eq!(driver.take_used(INFLATE), Some((0, 0)));
        assert_eq!(polls, 2);
        let taken = &recorder.0.lock().unwrap().taken;
        assert!(taken.iter().copied().eq((0..u64::from(count)).map(|page| page * PAGE)));
    }

    #[test]
    fn the_target_is_shown_and_the_answer_told() {
        let (mut driver, _) = driver();
        driver.function.with(0, |balloon: &mut Balloon, cx| balloon.set_target(RAM_BYTES / 2, cx));
        assert_eq!(driver.isr(), 2);
        assert_eq!(driver.read(0x2000, 4), RAM_BYTES / 2 / PAGE);
        let change = |driver: &mut Driver| {
            driver.function.with(0, |balloon: &mut Balloon, _| balloon.take_change()).unwrap()
        };
        assert_eq!(change(&mut driver), None);
        driver.write(0x2004, 4, 0x100);
        assert!(driver.function.take_told());
        assert_eq!(change(&mut driver), Some(RAM_BYTES - 0x10_0000));
        assert_eq!(change(&mut driver), None);
        // The target cannot be written, and no more given away than there is.
        driver.write(0x2000, 4, 7);
        driver.write(0x2004, 4, 0xffff_ffff);
        assert_eq!(driver.read(0x2000, 8), (RAM_BYTES / 2 / PAGE) + ((RAM_BYTES / PAGE) << 32));
        assert_eq!(change(&mut driver), Some(0));
    }

    #[test]
    fn statistics_are_asked_for() {
        let (mut driver, _) = driver();
        let mut bytes = Vec::new();
        for (tag, value) in [(4u16, 1234u64), (99, 1), (0, 7)] {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        driver.fill(0x80_000, &bytes);
        driver.chain(STATISTICS, 0, &[(0x80_000, bytes.len() as u32, false)]);
        driver.now = 42;
        driver.offer(STATISTICS, 0);
        driver.kick(STATISTICS);
        assert_eq!(driver.take_used(STATISTICS), None, "the device keeps it");
        driver.function.with(0, |balloon: &mut Balloon, _| {
            let (values, updated) = balloon.statistics();
            assert_eq!((values[4], values[0], values[1]), (1234, 7, u64::MAX));
            assert_eq!(updated, 42);
            balloon.set_interval(2, 1_000);
        });
        assert_eq!(driver.function.deadline(), Some(2_000_001_000));
        driver.function.poll(2_000_001_000);
        assert_eq!(driver.take_used(STATISTICS), Some((0, 0)));
        assert_eq!(driver.function.deadline(), None);
    }

    #[test]
    fn survives_a_hostile_driver() {
        for seed in 0..50 {
            let pages = Box::leak(Box::new(Recorder::default()));
            abuse(&mut Driver::new(Balloon::new(pages, RAM_BYTES, false)), seed, 300);
        }
    }
}

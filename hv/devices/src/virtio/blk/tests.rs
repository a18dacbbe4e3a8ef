use super::super::feature;
use super::super::testing::*;
use super::*;
use monovisor_arch::GuestMemory;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A disk of bytes.
struct Bytes {
    data: Arc<Mutex<Vec<u8>>>,
    read_only: bool,
    /// Writes from here on find no room.
    full: Arc<AtomicU64>,
    /// Each look at the clock is a tick.
    clock: AtomicU64,
}

impl Disk for Bytes {
    fn size(&self) -> u64 {
        self.data.lock().unwrap().len() as u64
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn allocated(&self) -> u64 {
        self.size()
    }
    fn ticks(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
    fn read(
        &mut self,
        offset: u64,
        memory: &dyn GuestMemory,
        address: u64,
        length: u32,
    ) -> Result<(), DiskError> {
        let range = offset as usize..offset as usize + length as usize;
        Ok(memory.write(address, &self.data.lock().unwrap()[range])?)
    }
    fn write(
        &mut self,
        offset: u64,
        memory: &dyn GuestMemory,
        address: u64,
        length: u32,
    ) -> Result<(), DiskError> {
        assert!(!self.read_only);
        if offset + u64::from(length) > self.full.load(Ordering::Relaxed) {
            return Err(DiskError::NoSpace);
        }
        let range = offset as usize..offset as usize + length as usize;
        Ok(memory.read(address, &mut self.data.lock().unwrap()[range])?)
    }
    fn write_zeroes(&mut self, offset: u64, length: u64) -> Result<(), DiskError> {
        assert!(!self.read_only);
        if offset + length > self.full.load(Ordering::Relaxed) {
            return Err(DiskError::NoSpace);
        }
        self.data.lock().unwrap()[offset as usize..(offset + length) as usize].fill(0);
        Ok(())
    }
    fn discard(&mut self, offset: u64, length: u64) -> Result<(), DiskError> {
        assert!(!self.read_only);
        self.data.lock().unwrap()[offset as usize..(offset + length) as usize].fill(0xdd);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

const MIB: usize = 1 << 20;

/// A driver, and what is on the disk: 4 MiB whose bytes are numbered by sector.
fn disk(read_only: bool, settings: Settings) -> (Driver, Arc<Mutex<Vec<u8>>>) {
    let (driver, data, _) = small_disk(read_only, settings);
    (driver, data)
}

/// The same, and where it ends to find room: at 3 MiB.
fn small_disk(read_only: bool, settings: Settings) -> (Driver, Arc<Mutex<Vec<u8>>>, Arc<AtomicU64>) {
    let data: Vec<u8> = (0..4 * MIB + 100).map(|index| (index / 512) as u8).collect();
    let data = Arc::new(Mutex::new(data));
    let full = Arc::new(AtomicU64::new(3 * MIB as u64));
    let bytes = Bytes { data: data.clone(), read_only, full: full.clone(), clock: AtomicU64::new(0) };
    (Driver::new(Blk::new(Box::leak(Box::new(bytes)), &settings)), data, full)
}

fn header(driver: &Driver, kind: u32, sector: u64) -> (u64, u32, bool) {
    driver.fill(0x80000, &kind.to_le_bytes());
    driver.fill(0x80008, &sector.to_le_bytes());
    // Nothing that a device has to write anyway.
    driver.fill(0x80100, &[0xee]);
    (0x80000, 16, false)
}

const STATUS: (u64, u32, bool) = (0x80100, 1, true);

/// A request with data at 0x81000; status and bytes written.
fn request(driver: &mut Driver, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u8, u32) {
    let mut buffers = vec![header(driver, kind, sector)];
    buffers.extend_from_slice(data);
    buffers.push(STATUS);
    let written = driver.request(0, &buffers);
    let [status] = driver.bytes(0x80100);
    (status, written)
}

#[test]
fn reads_and_writes() {
    let (mut driver, data) = disk(false, Settings::DEFAULT);
    driver.start(FLUSH);
    assert_eq!(request(&mut driver, TYPE_IN, 5, &[(0x81000, 1024, true)]), (0, 1025));
    assert_eq!((driver.bytes(0x811ff), driver.bytes(0x81200)), ([5], [6]));
    driver.fill(0x82000, &[0xaa; 512]);
    let split = [(0x82000, 500, false), (0x821f4, 12, false), (0x82000, 512, false)];
    assert_eq!(request(&mut driver, TYPE_OUT, 9, &split), (0, 1));
    assert_eq!(data.lock().unwrap()[8 * 512..12 * 512].iter().filter(|byte| **byte == 0xaa).count(), 1024);
    assert_eq!(request(&mut driver, TYPE_FLUSH, 0, &[]), (0, 1));
    assert_eq!(request(&mut driver, TYPE_IN, 0, &[]), (0, 1), "no data is none");
}

#[test]
fn what_is_not_on_the_disk_is_an_error() {
    let (mut driver, data) = disk(false, Settings { on_write_error: OnError::Report, ..Settings::DEFAULT });
    driver.start(0);
    let before = data.lock().unwrap().clone();
    for (kind, sector, length) in [
        (TYPE_IN, 8191, 1024),
        (TYPE_IN, 8192, 512),
        (TYPE_IN, u64::MAX, 512),
        (TYPE_IN, u64::MAX / 512, 1024),
        (TYPE_IN, 0, 511),
        (TYPE_OUT, 8192, 512),
        (TYPE_OUT, 1, 100),
        (TYPE_OUT, 3 * 2048, 512),
    ] {
        let (status, written) = request(&mut driver, kind, sector, &[(0x81000, length, kind == TYPE_IN)]);
        assert_eq!(status, 1, "{kind} {sector} {length}");
        assert_eq!(written, u32::from(kind == TYPE_OUT), "no data counts as written");
    }
    assert_eq!(request(&mut driver, 99, 0, &[]).0, 2);
    assert_eq!(*data.lock().unwrap(), before);
    assert_eq!(request(&mut driver, TYPE_IN, 8191, &[(0x81000, 512, true)]).0, 0, "the last sector");
}

#[test]
fn headers_may_be_in_pieces_and_must_be_whole() {
    let (mut driver, _) = disk(false, Settings::DEFAULT);
    driver.start(0);
    let (at, ..) = header(&driver, TYPE_IN, 7);
    let buffers = [(at, 3, false), (at + 3, 13, false), (0x81000, 500, true), (0x811f4, 13, true)];
    assert_eq!(driver.request(0, &buffers), 513);
    assert_eq!((driver.bytes(0x811ff), driver.bytes(0x81200)), ([7], [0]));
    for buffers in [
        &[(at, 15, false), STATUS][..],
        &[(at, 16, false)],
        &[STATUS],
        &[(at, 16, false), (0x80100, 0, true)],
    ] {
        driver.start(0);
        driver.chain(0, 0, buffers);
        driver.offer(0, 0);
        driver.kick(0);
        assert_eq!(driver.status(), 79, "{buffers:?}");
    }
    driver.start(0);
    driver.chain(0, 0, &[(at, 16, false), (RAM as u64 - 100, 512, true), STATUS]);
    driver.offer(0, 0);
    driver.kick(0);
    assert_eq!(driver.status(), 79, "a buffer that is not in RAM");
}

#[test]
fn a_read_only_disk_is_not_written() {
    for (medium, setting) in [(true, false), (false, true)] {
        let (mut driver, data) = disk(medium, Settings { read_only: setting, ..Settings::DEFAULT });
        assert_eq!(driver.offered() & (RO | DISCARD | WRITE_ZEROES), RO);
        driver.start(RO);
        let before = data.lock().unwrap().clone();
        assert_eq!(request(&mut driver, TYPE_OUT, 0, &[(0x81000, 512, false)]).0, 1);
        for kind in [TYPE_DISCARD, TYPE_WRITE_ZEROES] {
            driver.fill(0x81000, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(request(&mut driver, kind, 0, &[(0x81000, 16, false)]).0, 1);
        }
        assert_eq!(*data.lock().unwrap(), before);
    }
}

#[test]
fn discard_and_write_zeroes_keep_to_their_limits() {
    let (mut driver, data) = disk(false, Settings::DEFAULT);
    driver.start(DISCARD | WRITE_ZEROES);
    let mut forget = |kind, sector: u64, count: u32, flags: u32| {
        driver.fill(0x81000, &sector.to_le_bytes());
        driver.fill(0x81008, &count.to_le_bytes());
        driver.fill(0x8100c, &flags.to_le_bytes());
        request(&mut driver, kind, 0, &[(0x81000, 16, false)]).0
    };
    assert_eq!(forget(TYPE_WRITE_ZEROES, 3, 2, 1), 0);
    assert_eq!(forget(TYPE_DISCARD, 5, 1, 0), 0);
    for (kind, sector, count, flags, status) in [
        (TYPE_DISCARD, 0, 1, 1, 2),
        (TYPE_WRITE_ZEROES, 0, 1, 2, 2),
        (TYPE_WRITE_ZEROES, 8191, 2, 0, 1),
        (TYPE_WRITE_ZEROES, 0, u32::MAX, 0, 1),
        (TYPE_DISCARD, u64::MAX, 1, 0, 1),
    ] {
        assert_eq!(forget(kind, sector, count, flags), status);
    }
    let data = data.lock().unwrap();
    let sectors: Vec<u8> = (2..7).map(|sector| data[sector * 512]).collect();
    assert_eq!(sectors, [2, 0, 0, 0xdd, 6]);
    drop(data);
    driver.fill(0x81000, &[0; 32]);
    assert_eq!(request(&mut driver, TYPE_DISCARD, 0, &[(0x81000, 32, false)]).0, 1, "one segment at most");
    assert_eq!(request(&mut driver, TYPE_DISCARD, 0, &[(0x81000, 15, false)]).0, 1);
}

#[test]
fn the_configuration_says_what_the_operator_wants() {
    let mut serial = [0; SERIAL];
    serial[..6].copy_from_slice(b"disk-1");
    let settings = Settings {
        queues: 4,
        serial,
        block_size: 4096,
        physical_block_size: 8192,
        min_io_size: 4096,
        opt_io_size: 65536,
        ..Settings::DEFAULT
    };
    let (mut driver, _) = disk(false, settings);
    assert_eq!(
        driver.offered() & 0xff_ffff,
        SEG_MAX | GEOMETRY | BLK_SIZE | FLUSH | TOPOLOGY | CONFIG_WCE | MQ | DISCARD | WRITE_ZEROES
    );
    let mut at = |offset: u64, size| driver.read(0x2000 + offset, size);
    assert_eq!((at(0, 8), at(12, 4), at(20, 4)), (8192, 126, 4096));
    assert_eq!((at(16, 2), at(18, 1), at(19, 1)), (8, 16, 63));
    assert_eq!((at(24, 1), at(26, 2), at(28, 4), at(34, 2)), (1, 1, 16, 4));
    assert_eq!(
        (at(36, 4), at(40, 4), at(44, 4), at(48, 4), at(52, 4), at(56, 1)),
        (16384, 1, 8, 16384, 1, 1)
    );
    assert_eq!(driver.read(18, 2), 4);
    driver.start(CONFIG_WCE | MQ);
    driver.write(0x2020, 1, 0);
    assert_eq!(driver.read(0x2020, 1), 0);
    assert_eq!(request(&mut driver, TYPE_GET_ID, 0, &[(0x81000, 20, true)]), (0, 21));
    assert_eq!(driver.bytes(0x81000), serial);
    assert_eq!(request(&mut driver, TYPE_GET_ID, 0, &[(0x81000, 4, true)]), (0, 5));
    assert_eq!(request(&mut driver, TYPE_IN, 1, &[(0x81000, 4096, true)]).0, 1, "not a whole block");
    assert_eq!(request(&mut driver, TYPE_IN, 8, &[(0x81000, 4096, true)]).0, 0);
}

#[test]
fn a_batch_is_one_interrupt() {
    let (mut driver, _) = disk(false, Settings::DEFAULT);
    driver.size = 64;
    driver.start(feature::EVENT_IDX);
    let head = header(&driver, TYPE_IN, 0);
    for index in 0..16u16 {
        driver.chain(0, index * 3, &[head, (0x81000, 512, true), STATUS]);
        driver.offer(0, index * 3);
    }
    driver.kick(0);
    assert_eq!(driver.isr(), 1);
    assert_eq!(std::iter::from_fn(|| driver.take_used(0)).count(), 16);
}

#[test]
fn a_long_request_takes_turns_with_others() {
    let (mut driver, data) = disk(false, Settings { queues: 2, ..Settings::DEFAULT });
    driver.size = 32;
    driver.start(MQ);
    let head = header(&driver, TYPE_OUT, 0);
    // 2.5 MiB out of the same piece of RAM, and a short request behind it and in the other queue.
    driver.fill(0x90000, &[0x77; 0x40000]);
    let mut buffers = vec![head];
    buffers.extend([(0x90000, 0x40000, false); 10]);
    buffers.push(STATUS);
    driver.chain(0, 0, &buffers);
    driver.offer(0, 0);
    for (queue, at) in [(0, 20), (1, 0)] {
        driver.chain(queue, at, &[(0x80200, 16, false), (0x81000, 512, true), (0x80300, 1, true)]);
        driver.offer(queue, at);
    }
    driver.kick(0);
    assert_eq!(driver.take_used(0), None);
    let mut turns = 1;
    while driver.function.deadline() == Some(0) {
        driver.kick(1);
        driver.function.poll(0);
        turns += 1;
    }
    assert_eq!(turns, 3);
    assert_eq!(
        (driver.take_used(0), driver.take_used(0), driver.take_used(1)),
        (Some((0, 1)), Some((20, 513)), Some((0, 513)))
    );
    let end = 10 * 0x40000;
    assert!(data.lock().unwrap()[..end].iter().all(|byte| *byte == 0x77));
    assert_eq!(data.lock().unwrap()[end], (end / 512) as u8);

    // A reset in the middle forgets it.
    driver.start(MQ);
    driver.chain(0, 0, &buffers);
    driver.offer(0, 0);
    driver.kick(0);
    driver.write(20, 1, 0);
    assert_eq!(driver.function.deadline(), None);
    driver.start(MQ);
    assert_eq!(request(&mut driver, TYPE_IN, 0, &[(0x81000, 512, true)]).0, 0);

    // A chain that is shortened in the middle.
    driver.start(MQ);
    header(&driver, TYPE_OUT, 0);
    driver.chain(0, 0, &buffers);
    driver.offer(0, 0);
    driver.kick(0);
    driver.chain(0, 0, &[head, (0x81000, 512, false), STATUS]);
    driver.function.poll(0);
    assert_eq!(driver.status(), 79);
}

#[test]
fn a_hostile_driver_reaches_only_the_disk() {
    for seed in 1..=16 {
        let (mut driver, _) =
            disk(seed % 4 == 0, Settings { queues: 1 + seed as u16 % 3, ..Settings::DEFAULT });
        abuse(&mut driver, seed, 2000);
        assert_eq!(request(&mut driver, TYPE_IN, 8191, &[(0x81000, 512, true)]).0, 0, "seed {seed}");
    }
}

fn statistics(driver: &mut Driver) -> Statistics {
    driver.function.with(0, |blk: &mut Blk, _| *blk.statistics()).unwrap()
}

#[test]
fn what_is_done_is_counted() {
    let (mut driver, _) = disk(false, Settings { on_write_error: OnError::Report, ..Settings::DEFAULT });
    driver.start(FLUSH | WRITE_ZEROES);
    assert_eq!(statistics(&mut driver), Statistics::default());
    for (kind, sector, length) in [
        (TYPE_IN, 0, 1024),
        (TYPE_IN, 5, 512),
        (TYPE_IN, 8192, 512),
        (TYPE_OUT, 100, 2048),
        (TYPE_OUT, 7, 512),
        (TYPE_OUT, 1, 100),
        (TYPE_OUT, 3 * 2048, 512),
    ] {
        request(&mut driver, kind, sector, &[(0x81000, length, kind == TYPE_IN)]);
    }
    request(&mut driver, TYPE_FLUSH, 0, &[]);
    request(&mut driver, TYPE_GET_ID, 0, &[(0x81000, 20, true)]);
    for (sector, count) in [(200u64, 4u32), (3 * 2048, 1)] {
        driver.fill(0x81000, &sector.to_le_bytes());
        driver.fill(0x81008, &[count.to_le_bytes(), [0; 4]].concat());
        request(&mut driver, TYPE_WRITE_ZEROES, 0, &[(0x81000, 16, false)]);
    }
    let all = statistics(&mut driver);
    let tally =
        |bytes, operations, failed, invalid, ticks| Tally { bytes, operations, failed, invalid, ticks };
    assert_eq!(all.of(Operation::Read), tally(1536, 2, 0, 1, 2));
    assert_eq!(all.of(Operation::Write), tally(2048 + 512 + 2048, 3, 2, 1, 5));
    assert_eq!(all.of(Operation::Flush), tally(0, 1, 0, 0, 1));
    assert_eq!(all.highest, 204 * 512);
    // The clock has been read twice for each but the two that were invalid.
    assert_eq!(all.last, Some(2 * 8 + 2 - 1));
}

#[test]
fn a_write_without_room_waits_for_the_guest_to_go_on() {
    let (mut driver, data, full) = small_disk(false, Settings { queues: 2, ..Settings::DEFAULT });
    driver.size = 32;
    driver.start(MQ);
    driver.fill(0x82000, &[0xaa; 512]);
    let head = header(&driver, TYPE_OUT, 3 * 2048);
    driver.chain(0, 0, &[head, (0x82000, 512, false), STATUS]);
    driver.fill(0x80200, &[0; 16]);
    driver.chain(0, 3, &[(0x80200, 16, false), (0x81000, 512, true), (0x80300, 1, true)]);
    driver.offer(0, 0);
    driver.offer(0, 3);
    driver.kick(0);
    let failure = |driver: &mut Driver| {
        driver.function.with(0, |blk: &mut Blk, _| (blk.take_failure(), blk.stuck())).unwrap()
    };
    let full_up = DiskError::NoSpace;
    let stop = Failure { operation: Operation::Write, error: full_up, action: Action::Stop };
    assert!(driver.function.take_told());
    for _ in 0..3 {
        // Nothing goes on before somebody has stopped the guest.
        driver.function.poll(0);
        driver.kick(0);
        driver.kick(1);
        assert_eq!((driver.take_used(0), driver.function.deadline()), (None, Some(0)));
    }
    assert_eq!(failure(&mut driver), (Some(stop), Some(full_up)));
    // The guest goes on, and there is no room yet.
    driver.function.poll(0);
    assert_eq!(failure(&mut driver), (Some(stop), Some(full_up)));
    full.store(u64::MAX, Ordering::Relaxed);
    driver.function.poll(0);
    assert_eq!(failure(&mut driver), (None, None));
    assert_eq!((driver.take_used(0), driver.take_used(0)), (Some((0, 1)), Some((3, 513))));
    assert_eq!(data.lock().unwrap()[3 * MIB], 0xaa);
    let tally = statistics(&mut driver).of(Operation::Write);
    assert_eq!((tally.operations, tally.failed, tally.bytes), (1, 0, 512));
    // A reset forgets what waits.
    full.store(0, Ordering::Relaxed);
    driver.offer(0, 0);
    driver.kick(0);
    driver.start(MQ);
    assert_eq!(failure(&mut driver), (None, None));
    assert_eq!(driver.function.deadline(), None);
}

#[test]
fn errors_are_reported_or_ignored_as_the_operator_wants() {
    for (policy, status, action, failed) in
        [(OnError::Report, 1, Action::Report, 1), (OnError::Ignore, 0, Action::Ignore, 0)]
    {
        let (mut driver, _) = disk(false, Settings { on_write_error: policy, ..Settings::DEFAULT });
        driver.start(0);
        assert_eq!(request(&mut driver, TYPE_OUT, 3 * 2048, &[(0x81000, 512, false)]).0, status);
        let failure = driver.function.with(0, |blk: &mut Blk, _| blk.take_failure()).unwrap().unwrap();
        assert_eq!((failure.error, failure.action), (DiskError::NoSpace, action));
        assert_eq!(statistics(&mut driver).of(Operation::Write).failed, failed);
    }
    assert_eq!(OnError::NoSpace.action(DiskError::Io), Action::Report);
    assert_eq!(OnError::Stop.action(DiskError::Io), Action::Stop);
}

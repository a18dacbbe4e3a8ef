//! The guest's disks: what they are made of, what they have done, what has gone wrong.
//!
//! A disk is a chain of nodes, as QEMU has it: the file, the raw image in it, and under `snapshot=on` an overlay above
//! that takes what is written. The overlay is pages of the store and no file: its driver is called `x-overlay`.

use core::fmt::{self, Write};

use heapless::String;
use monovisor_core::handlers::{Block, Element};
use monovisor_core::json::{Emit, Writer};
use monovisor_core::schema::block_core::{
    BlockDeviceInfo, BlockDeviceIoStatus, BlockDeviceStats, BlockErrorAction, BlockInfo, BlockIoError,
    BlockStats, ImageInfo, QueryBlockstatsArgs,
};
use monovisor_core::schema::blockdev::{BlockdevCacheInfo, BlockdevDetectZeroesOptions};
use monovisor_core::schema::common::IoOperationType;
use monovisor_core::schema::{Boxed, Made, Source};
use monovisor_core::{Context, Error, Text};
use monovisor_devices::disk::{DiskError, SECTOR};
use monovisor_devices::virtio::blk::{Action, Blk, Failure, Operation, Statistics};
use monovisor_host::timer;
use monovisor_loader::options::GroupKind;
use monovisor_store::PAGE_SIZE;

use crate::clock::Clock;
use crate::hypervisor::Hypervisor;
use crate::virtio::{Cache, Drive, DriveName, drive_name};

/// The driver of a node that takes what is written to a snapshot, and what stands for its file.
const OVERLAY_DRIVER: &str = "x-overlay";

/// Bytes of a name that is made here: `#block` and a number, or the interface and one.
const NAME_BYTES: usize = 20;

/// The nodes of a disk, in the order in which they are made. The number of each is its index among them.
const FILE: usize = 0;
const RAW: usize = 1;
const OVERLAY: usize = 2;
/// Most nodes of a disk.
const NODES: usize = 3;

/// A drive as it is now.
#[derive(Default)]
pub(crate) struct Disk {
    drive: Option<Drive<'static>>,
    /// Its name where the operator has given none.
    name: String<NAME_BYTES>,
    /// The nodes' names where the operator has given none.
    nodes: [String<NAME_BYTES>; NODES],
    /// Bytes of its file, and of the store that it takes; `None`: it cannot be opened.
    file: Option<(u64, u64)>,
    device: Option<Attached>,
}

/// What its device knows.
#[derive(Clone, Copy, Default)]
struct Attached {
    writeback: bool,
    stuck: Option<DiskError>,
    statistics: Statistics,
    /// Bytes of the store that its uppermost node takes.
    allocated: u64,
}

impl Hypervisor<'_> {
    /// Looks at a drive of the command line, by its number.
    fn disk(&mut self, number: usize) -> Option<&Disk> {
        let options = &self.launch.options;
        let drive = Drive::new(options.groups(GroupKind::Drive).nth(number)?).ok()?;
        let disk = &mut self.disk;
        disk.name.clear();
        if let DriveName::Made(word, index) = drive_name(options, number, &drive.group) {
            // It fits.
            let _ = write!(disk.name, "{word}{index}");
        }
        for (node, name) in disk.nodes.iter_mut().enumerate() {
            name.clear();
            // Three digits at least, as in QEMU, where the last two are random.
            let _ = write!(name, "#block{:03}", number * NODES + node);
        }
        let store = self.files.lock();
        let stat = store.open(drive.file).and_then(|file| store.stat(file));
        drop(store);
        // A file of the boot takes what it is long.
        disk.file =
            stat.ok().map(|file| (file.size, if file.read_only { file.size } else { file.allocated }));
        disk.drive = Some(drive);
        disk.device = None;
        if let Some(guest) = &mut self.guest {
            guest.devices(&mut |devices| {
                let mut all = devices.pc.virtio_devices::<Blk>();
                let own = all.find(|(_, blk)| usize::from(blk.drive()) == number);
                disk.device = own.map(|(_, blk)| Attached {
                    writeback: blk.writeback(),
                    stuck: blk.stuck(),
                    statistics: *blk.statistics(),
                    allocated: blk.disk().allocated(),
                });
            });
        }
        Some(disk)
    }

    /// How many drives there are.
    fn disks(&self) -> usize {
        self.launch.options.groups(GroupKind::Drive).count()
    }

    /// The node of this number, in the order in which they are made, or the other way round.
    fn node(&mut self, index: usize, reverse: bool) -> Option<(&Disk, usize)> {
        let count = self.disks();
        let mut left = index;
        for number in 0..count {
            let number = if reverse { count - 1 - number } else { number };
            let nodes = self.disk(number)?.count();
            if left < nodes {
                let node = if reverse { nodes - 1 - left } else { left };
                return Some((&self.disk, node));
            }
            left -= nodes;
        }
        None
    }

    /// Writes what `info block` or `info blockstats` says of a drive. False: there is no drive of that number.
    ///
    /// # Errors
    /// `WouldBlock` where there is no room.
    pub(crate) fn list_disk(
        &mut self,
        number: usize,
        statistics: bool,
        text: &mut Text<'_, '_>,
    ) -> nb::Result<bool, Error> {
        let Some(disk) = self.disk(number) else { return Ok(false) };
        let apart = if number == 0 || statistics { "" } else { "\n" };
        text.write(format_args!("{apart}{}", Shown { disk, statistics })).map(|()| true)
    }

    /// An error of a disk that nobody has been told of; `self.disk` is that disk.
    pub(crate) fn disk_failure(&mut self) -> Option<Failure> {
        let mut found = None;
        self.guest.as_mut()?.devices(&mut |devices| {
            let now = devices.now();
            let failing = |(slot, blk): (u8, &Blk)| blk.has_failure().then_some((slot, blk.drive()));
            let Some((slot, drive)) = devices.pc.virtio_devices().find_map(failing) else { return };
            let failure = devices.pc.with_virtio(slot, now, |blk: &mut Blk, _| blk.take_failure());
            found = failure.flatten().map(|failure| (drive, failure));
        });
        let (drive, failure) = found?;
        self.disk(drive.into())?;
        Some(failure)
    }
}

impl Disk {
    /// What the operator calls the drive.
    fn device(&self) -> &str {
        self.drive.and_then(|drive| drive.group.id()).unwrap_or(&self.name)
    }

    fn snapshot(&self) -> bool {
        self.drive.is_some_and(|drive| drive.mode.snapshot && !drive.mode.read_only)
    }

    /// How many nodes it has.
    fn count(&self) -> usize {
        match self.file {
            None => 0,
            Some(_) if self.snapshot() => NODES,
            Some(_) => OVERLAY,
        }
    }

    /// The node that the device has.
    fn top(&self) -> usize {
        if self.snapshot() { OVERLAY } else { RAW }
    }

    fn node_name(&self, node: usize) -> Option<&str> {
        let given = self.drive.and_then(|drive| drive.node).filter(|_| node == RAW);
        given.or_else(|| self.nodes.get(node).map(String::as_str))
    }

    fn file_name(&self, node: usize) -> &'static str {
        if node == OVERLAY { OVERLAY_DRIVER } else { self.drive.map_or("", |drive| drive.file) }
    }

    fn driver(node: usize) -> &'static str {
        match node {
            FILE => "file",
            RAW => "raw",
            _ => OVERLAY_DRIVER,
        }
    }

    fn image(&self, node: usize) -> ImageInfo<'_> {
        let overlay = node == OVERLAY;
        let (size, below) = self.file.unwrap_or_default();
        let allocated = self.device.map_or(0, |device| device.allocated);
        ImageInfo {
            filename: self.file_name(node),
            format: Self::driver(node),
            dirty_flag: Some(false),
            actual_size: Some(if overlay { allocated } else { below }.cast_signed()),
            virtual_size: if node == FILE { size } else { size - size % SECTOR }.cast_signed(),
            cluster_size: overlay.then_some(PAGE_SIZE as i64),
            encrypted: None,
            compressed: None,
            backing_filename: overlay.then(|| self.file_name(RAW)),
            full_backing_filename: overlay.then(|| self.file_name(RAW)),
            backing_filename_format: overlay.then_some("raw"),
            snapshots: None,
            backing_image: overlay.then_some(Boxed::From(self, RAW)),
            format_specific: None,
        }
    }

    fn node_info(&self, node: usize) -> BlockDeviceInfo<'_> {
        let overlay = node == OVERLAY;
        let cache = self.drive.map(|drive| drive.cache);
        let set = |flag: fn(&Cache) -> bool| cache.as_ref().is_some_and(flag);
        let writeback = match self.device {
            Some(device) if node == self.top() => device.writeback,
            // What is below is written through to by nobody.
            _ => true,
        };
        BlockDeviceInfo {
            file: self.file_name(node),
            node_name: self.node_name(node),
            // What has an overlay above it is not written to.
            ro: self.drive.is_some_and(|drive| drive.mode.read_only) || (self.snapshot() && !overlay),
            drv: Self::driver(node),
            backing_file: overlay.then(|| self.file_name(RAW)),
            backing_file_depth: overlay.into(),
            encrypted: false,
            encryption_key_missing: false,
            detect_zeroes: BlockdevDetectZeroesOptions::Off,
            bps: 0,
            bps_rd: 0,
            bps_wr: 0,
            iops: 0,
            iops_rd: 0,
            iops_wr: 0,
            image: self.image(node),
            bps_max: None,
            bps_rd_max: None,
            bps_wr_max: None,
            iops_max: None,
            iops_rd_max: None,
            iops_wr_max: None,
            bps_max_length: None,
            bps_rd_max_length: None,
            bps_wr_max_length: None,
            iops_max_length: None,
            iops_rd_max_length: None,
            iops_wr_max_length: None,
            iops_size: None,
            group: None,
            cache: BlockdevCacheInfo {
                writeback,
                direct: set(|cache| cache.direct),
                no_flush: set(|cache| cache.no_flush),
            },
            write_threshold: 0,
        }
    }

    fn info(&self) -> BlockInfo<'_> {
        BlockInfo {
            device: self.device(),
            kind: "unknown",
            removable: false,
            locked: false,
            inserted: self.file.map(|_| self.node_info(self.top())),
            tray_open: None,
            io_status: self.device.map(|device| match device.stuck {
                None => BlockDeviceIoStatus::Ok,
                Some(DiskError::NoSpace) => BlockDeviceIoStatus::Nospace,
                Some(_) => BlockDeviceIoStatus::Failed,
            }),
            dirty_bitmaps: None,
        }
    }

    /// The statistics of a node, for the drive with what its device has counted. `deep`: with what it backs on.
    fn stats(&self, node: usize, device: bool, deep: bool) -> BlockStats<'_> {
        let all = self.device.map(|device| device.statistics).unwrap_or_default();
        let shown = if device { all } else { Statistics::default() };
        // Time from tick 0 on: what so many ticks take.
        let mut clock = Clock::new(timer::tsc_hz());
        clock.start(0);
        let ns = |ticks: u64| clock.now(ticks).cast_signed();
        let (read, write, flush) =
            (shown.of(Operation::Read), shown.of(Operation::Write), shown.of(Operation::Flush));
        // What is under an overlay is not written to.
        let written = node == OVERLAY || !self.snapshot();
        let idle = shown.last.map(|last| timer::now_tsc().saturating_sub(last));
        BlockStats {
            device: device.then(|| self.device()),
            node_name: self.node_name(node),
            stats: BlockDeviceStats {
                rd_bytes: read.bytes.cast_signed(),
                wr_bytes: write.bytes.cast_signed(),
                rd_operations: read.operations.cast_signed(),
                wr_operations: write.operations.cast_signed(),
                flush_operations: flush.operations.cast_signed(),
                flush_total_time_ns: ns(flush.ticks),
                wr_total_time_ns: ns(write.ticks),
                rd_total_time_ns: ns(read.ticks),
                wr_highest_offset: if written { all.highest } else { 0 }.cast_signed(),
                // Requests are carried out as they come.
                rd_merged: 0,
                wr_merged: 0,
                idle_time_ns: idle.map(ns),
                failed_rd_operations: read.failed.cast_signed(),
                failed_wr_operations: write.failed.cast_signed(),
                failed_flush_operations: flush.failed.cast_signed(),
                invalid_rd_operations: read.invalid.cast_signed(),
                invalid_wr_operations: write.invalid.cast_signed(),
                invalid_flush_operations: flush.invalid.cast_signed(),
                account_invalid: device,
                account_failed: device,
                timed_stats: Made::new(&NoIntervals),
            },
            parent: (node == RAW).then_some(Boxed::From(self, FILE)),
            backing: (node == OVERLAY && deep).then_some(Boxed::From(self, RAW)),
        }
    }

    /// The event that tells of an error of the disk. `None`: the disk is not there any more.
    pub(crate) fn error_event(&self, failure: Failure) -> Option<BlockIoError<'_>> {
        let no_space = failure.error == DiskError::NoSpace;
        Some(BlockIoError {
            device: self.device(),
            node_name: self.node_name(self.top())?,
            operation: match failure.operation {
                Operation::Read => IoOperationType::Read,
                Operation::Write | Operation::Flush => IoOperationType::Write,
            },
            action: match failure.action {
                Action::Report => BlockErrorAction::Report,
                Action::Ignore => BlockErrorAction::Ignore,
                Action::Stop => BlockErrorAction::Stop,
            },
            nospace: Some(no_space),
            reason: if no_space { "No space left on device" } else { "Input/output error" },
        })
    }
}

/// A drive in the human monitor's words.
struct Shown<'d> {
    disk: &'d Disk,
    statistics: bool,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.disk;
        f.write_str(disk.device())?;
        if self.statistics {
            let stats = disk.stats(disk.top(), true, false).stats;
            let all = [
                ("rd_bytes", stats.rd_bytes),
                ("wr_bytes", stats.wr_bytes),
                ("rd_operations", stats.rd_operations),
                ("wr_operations", stats.wr_operations),
                ("flush_operations", stats.flush_operations),
                ("wr_total_time_ns", stats.wr_total_time_ns),
                ("rd_total_time_ns", stats.rd_total_time_ns),
                ("flush_total_time_ns", stats.flush_total_time_ns),
                ("rd_merged", stats.rd_merged),
                ("wr_merged", stats.wr_merged),
                ("idle_time_ns", stats.idle_time_ns.unwrap_or(0)),
            ];
            f.write_str(":")?;
            for (name, value) in all {
                write!(f, " {name}={value}")?;
            }
            return f.write_str("\n");
        }
        let info = disk.info();
        let Some(node) = info.inserted else { return f.write_str(": [not inserted]\n") };
        if let Some(name) = node.node_name {
            write!(f, " ({name})")?;
        }
        writeln!(f, ": {} ({}{})", node.file, node.drv, said(node.ro, ", read-only"))?;
        match info.io_status {
            Some(BlockDeviceIoStatus::Failed) => f.write_str("    I/O status:       failed\n")?,
            Some(BlockDeviceIoStatus::Nospace) => f.write_str("    I/O status:       nospace\n")?,
            _ => {}
        }
        let mode = if node.cache.writeback { "writeback" } else { "writethrough" };
        let direct = said(node.cache.direct, ", direct");
        let ignored = said(node.cache.no_flush, ", ignore flushes");
        writeln!(f, "    Cache mode:       {mode}{direct}{ignored}")?;
        if let Some(file) = node.backing_file {
            let depth = node.backing_file_depth;
            writeln!(f, "    Backing file:     {file} (chain depth: {depth})")?;
        }
        Ok(())
    }
}

const fn said(is_so: bool, words: &'static str) -> &'static str {
    if is_so { words } else { "" }
}

/// Nothing is counted by intervals.
struct NoIntervals;

impl Emit for NoIntervals {
    fn emit(&self, writer: &mut Writer<'_>) {
        writer.begin_array();
        writer.end_array();
    }
}

impl<'a> Source<'a, ImageInfo<'a>> for Disk {
    fn item(&'a self, node: usize) -> Option<ImageInfo<'a>> {
        Some(self.image(node))
    }
}

impl<'a> Source<'a, BlockStats<'a>> for Disk {
    fn item(&'a self, node: usize) -> Option<BlockStats<'a>> {
        Some(self.stats(node, false, true))
    }
}

impl Block for Hypervisor<'_> {
    fn query_block(&mut self, index: usize, _: &mut Context<'_>) -> Element<BlockInfo<'_>> {
        Ok(self.disk(index).map(Disk::info))
    }

    fn query_blockstats(
        &mut self,
        arguments: QueryBlockstatsArgs,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<BlockStats<'_>> {
        if arguments.query_nodes == Some(true) {
            return Ok(self.node(index, false).map(|(disk, node)| disk.stats(node, false, false)));
        }
        Ok(self.disk(index).map(|disk| disk.stats(disk.top(), true, true)))
    }

    fn query_named_block_nodes(&mut self, index: usize, _: &mut Context<'_>) -> Element<BlockDeviceInfo<'_>> {
        Ok(self.node(index, true).map(|(disk, node)| disk.node_info(node)))
    }
}

#[cfg(test)]
mod tests {
    use monovisor_loader::Options;

    use super::*;

    fn options(line: &str) -> Options<'static> {
        Options::parse(line.as_bytes().to_vec().leak())
    }

    /// The drive of a command line, of 10,100 bytes of which 4,096 are in the store.
    fn disk(line: &str) -> Disk {
        let options = options(line);
        let drive = Drive::new(options.groups(GroupKind::Drive).next().unwrap()).unwrap();
        Disk {
            drive: Some(drive),
            name: String::new(),
            nodes: ["f", "r", "o"].map(|name| String::try_from(name).unwrap()),
            file: Some((10_100, 4096)),
            device: None,
        }
    }

    #[test]
    fn drives_without_a_name_are_numbered_by_interface() {
        let options = options("-drive file=a -drive file=b,if=none -drive file=c,index=7 -drive file=d,id=d");
        let drives = options.groups(GroupKind::Drive).enumerate();
        let names: Vec<_> = drives.map(|(number, group)| drive_name(&options, number, &group)).collect();
        let made = |word, number| DriveName::Made(word, number);
        let want = [made("virtio", 0), made("none", 0), made("virtio", 7), DriveName::Given("d")];
        assert_eq!(names, want);
    }

    #[test]
    fn a_raw_image_in_a_file() {
        let mut disk = disk("-drive file=/tmp/a,id=d0,node-name=n0,cache=none,readonly=on");
        let info = disk.info();
        assert_eq!((info.device, info.io_status), ("d0", None), "without a device nothing can fail");
        let node = info.inserted.unwrap();
        assert_eq!((node.file, node.node_name, node.drv, node.ro), ("/tmp/a", Some("n0"), "raw", true));
        assert_eq!((node.image.virtual_size, node.image.actual_size), (9728, Some(4096)));
        assert!(node.cache.direct && node.cache.writeback && !node.cache.no_flush);
        assert_eq!((disk.count(), disk.node_info(FILE).image.virtual_size), (2, 10_100));
        disk.device = Some(Attached { stuck: Some(DiskError::NoSpace), ..Attached::default() });
        assert_eq!(disk.info().io_status, Some(BlockDeviceIoStatus::Nospace));
        let statistics = disk.stats(RAW, true, true);
        assert_eq!((statistics.device, statistics.stats.idle_time_ns), (Some("d0"), None));
        assert!(statistics.backing.is_none());
        assert_eq!(statistics.parent.and_then(|parent| parent.get()).unwrap().node_name, Some("f"));
        disk.file = None;
        assert!(disk.info().inserted.is_none() && disk.count() == 0);
    }

    #[test]
    fn a_snapshot_is_a_node_above() {
        let mut disk = disk("-drive file=/tmp/a,snapshot=on");
        disk.device = Some(Attached { allocated: 8192, writeback: true, ..Attached::default() });
        let node = disk.info().inserted.unwrap();
        assert_eq!((node.drv, node.node_name, node.ro), ("x-overlay", Some("o"), false));
        assert_eq!((node.backing_file, node.backing_file_depth), (Some("/tmp/a"), 1));
        assert_eq!((node.image.actual_size, node.image.virtual_size), (Some(8192), 9728));
        let below = node.image.backing_image.and_then(|image| image.get()).unwrap();
        assert_eq!((below.filename, below.actual_size, below.backing_filename), ("/tmp/a", Some(4096), None));
        assert!(disk.node_info(RAW).ro);
        let statistics = disk.stats(OVERLAY, true, true);
        let backing = statistics.backing.and_then(|backing| backing.get()).unwrap();
        assert_eq!((backing.device, backing.node_name), (None, Some("r")));
        assert!(backing.parent.is_some() && statistics.parent.is_none());
    }

    #[test]
    fn the_human_monitors_words() {
        let mut disk = disk("-drive file=/tmp/a,id=d0,readonly=on,cache=none");
        let say = |disk: &Disk, statistics| Shown { disk, statistics }.to_string();
        assert_eq!(
            say(&disk, false),
            "d0 (r): /tmp/a (raw, read-only)\n    Cache mode:       writeback, direct\n"
        );
        disk.device = Some(Attached { stuck: Some(DiskError::NoSpace), ..Attached::default() });
        assert_eq!(
            say(&disk, false),
            "d0 (r): /tmp/a (raw, read-only)\n    I/O status:       nospace\n    \
             Cache mode:       writethrough, direct\n"
        );
        let numbers = "rd_bytes=0 wr_bytes=0 rd_operations=0 wr_operations=0 flush_operations=0 wr_total_time_ns=0 \
                       rd_total_time_ns=0 flush_total_time_ns=0 rd_merged=0 wr_merged=0 idle_time_ns=0";
        assert_eq!(say(&disk, true), format!("d0: {numbers}\n"));
        disk.file = None;
        assert_eq!(say(&disk, false), "d0: [not inserted]\n");
        let snapshot = self::disk("-drive file=/tmp/a,id=s,snapshot=on");
        assert_eq!(
            say(&snapshot, false),
            "s (o): x-overlay (x-overlay)\n    Cache mode:       writeback\n    \
             Backing file:     /tmp/a (chain depth: 1)\n"
        );
    }

    #[test]
    fn an_error_is_told_as_qemu_does() {
        let disk = disk("-drive file=/tmp/a,id=d0");
        let failure =
            Failure { operation: Operation::Flush, error: DiskError::NoSpace, action: Action::Stop };
        let event = disk.error_event(failure).unwrap();
        assert_eq!((event.device, event.node_name, event.nospace), ("d0", "r", Some(true)));
        assert_eq!((event.operation, event.action), (IoOperationType::Write, BlockErrorAction::Stop));
        assert_eq!(event.reason, "No space left on device");
    }
}

//! The host's own page tables: every byte of RAM at its physical address, nothing both writable and executable.
//!
//! Four levels (SDM vol. 3, 4.5), the largest pages that fit. RAM is readable, writable and never executed; the image
//! has its sections' rights; the null page and the page below each stack are not mapped; device registers are mapped
//! uncached, one by one.

use spin::Mutex;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::registers::model_specific::Msr;
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

use crate::boot::{BootInfo, MemoryKind, MemoryRegion};
use crate::cpu::Features;
use crate::physical::PhysRange;

/// Page tables. One maps 512 pages of its size: with 1 GiB pages some 10 serve a PC, and one more each 2 MiB in which its
/// memory map changes; without 1 GiB pages, one more for each GiB of RAM.
const TABLES: usize = 96;

/// Those of them that RAM leaves for what is mapped or split later: the registers of interrupt controllers, without which
/// nothing runs, what the loader left outside of RAM, and the guard pages of further processors' stacks.
const RESERVED: usize = 24;

/// Guard pages within the image: one a stack.
pub const MAX_GUARDS: usize = 16;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
/// Page attribute index 3, both with the PAT written here and with the power-on one: uncacheable (SDM vol. 3, 12.12).
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const ACCESSED_DIRTY: u64 = 1 << 5 | 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// IA32_PAT: write-back, write-through, uncached-, uncacheable, and the same again: the value after power-up, written
/// because a loader may have left another.
const PAT: u64 = 0x0007_0406_0007_0406;
const IA32_PAT: u32 = 0x277;

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Code: read and execute.
    Code,
    /// Constants: read.
    Constant,
    /// Data: read and write.
    Data,
    /// Device registers: read and write, uncached.
    Device,
}

/// Why something could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// All page tables are in use.
    OutOfTables,
    /// Part of the range is mapped already.
    Mapped,
    /// The range lies beyond what the processor addresses, or is not whole pages.
    BadRange,
}

#[derive(Clone)]
#[repr(C, align(4096))]
struct Table([u64; 512]);

/// A tree of page tables; the first table is the root.
pub struct PageTables {
    tables: [Table; TABLES],
    /// Tables in use besides the root. Zero at first, as all of this is: the image file need not hold it.
    used: usize,
    /// Tables that are not to be taken now.
    spare: usize,
    large_1g: bool,
    no_execute: bool,
    /// First address that cannot be mapped.
    limit: u64,
}

static HOST: Mutex<PageTables> = Mutex::new(PageTables::new());

impl PageTables {
    const fn new() -> Self {
        Self {
            tables: [const { Table([0; 512]) }; TABLES],
            used: 0,
            spare: 0,
            large_1g: false,
            no_execute: false,
            limit: 0,
        }
    }

    fn base(&self) -> u64 {
        self.tables.as_ptr() as u64
    }

    /// Maps a range of whole pages to itself.
    pub fn map(&mut self, range: PhysRange, access: Access) -> Result<(), MapError> {
        if range.start & 0xfff != 0 || range.len & 0xfff != 0 || range.end() > self.limit {
            return Err(MapError::BadRange);
        }
        let flags = self.flags(access);
        let mut at = range.start;
        while at < range.end() {
            let left = range.end() - at;
            let fits = |size: u64| at & (size - 1) == 0 && left >= size;
            // Level of the table that holds the entry: 2 has 1 GiB pages, 1 has 2 MiB, 0 has 4 KiB.
            let level = match access {
                Access::Data if self.large_1g && fits(1 << 30) => 2,
                Access::Data if fits(1 << 21) => 1,
                _ => 0,
            };
            self.set(at, level, flags | if level > 0 { LARGE } else { 0 })?;
            at += 1 << (12 + 9 * level);
        }
        Ok(())
    }

    /// Maps a range of RAM to itself, but for what is mapped already. An error is the first GiB that found no tables.
    fn map_ram(&mut self, range: PhysRange) -> Result<(), u64> {
        self.spare = RESERVED;
        let mut at = range.start;
        let mut result = Ok(());
        while at < range.end() {
            let end = range.end().min((at | ((1 << 30) - 1)) + 1);
            if !matches!(self.map(PhysRange::new(at, end - at), Access::Data), Ok(()) | Err(MapError::Mapped))
            {
                result = Err(at);
                break;
            }
            at = end;
        }
        self.spare = 0;
        result
    }

    /// Writes the entry for `address` in the table at `level`, making the tables above it.
    fn set(&mut self, address: u64, level: u32, flags: u64) -> Result<(), MapError> {
        let mut table = 0;
        let mut depth = 3;
        loop {
            let index = (address >> (12 + 9 * depth)) as usize & 511;
            let entry = self.entry(table, index)?;
            if depth == level {
                if *entry != 0 {
                    return Err(MapError::Mapped);
                }
                *entry = address | flags;
                return Ok(());
            }
            let value = *entry;
            table = if value & PRESENT == 0 {
                let new = self.new_table()?;
                let target = self.base() + new as u64 * 4096;
                *self.entry(table, index)? = target | PRESENT | WRITABLE | ACCESSED_DIRTY;
                new
            } else if value & LARGE != 0 {
                return Err(MapError::Mapped);
            } else {
                ((value & ADDRESS) - self.base()) as usize / 4096
            };
            depth -= 1;
        }
    }

    fn entry(&mut self, table: usize, index: usize) -> Result<&mut u64, MapError> {
        self.tables.get_mut(table).and_then(|table| table.0.get_mut(index)).ok_or(MapError::OutOfTables)
    }

    /// Changes the entry of one page of RAM that is mapped already, splitting the larger page that it is part of.
    fn change(&mut self, page: u64, access: Option<Access>) -> Result<(), MapError> {
        let mut table = 0;
        for depth in (1..4).rev() {
            let index = (page >> (12 + 9 * depth)) as usize & 511;
            let value = *self.entry(table, index)?;
            if value & PRESENT == 0 {
                return Err(MapError::BadRange);
            }
            table = if value & LARGE != 0 {
                self.split(table, index, value, depth)?
            } else {
                ((value & ADDRESS) - self.base()) as usize / 4096
            };
        }
        let flags = access.map(|access| self.flags(access));
        *self.entry(table, (page >> 12) as usize & 511)? = flags.map_or(0, |flags| page | flags);
        Ok(())
    }

    /// Maps by smaller pages what the entry `value` maps by one; the new table.
    fn split(&mut self, table: usize, index: usize, value: u64, depth: u32) -> Result<usize, MapError> {
        let new = self.new_table()?;
        let step = 1u64 << (12 + 9 * (depth - 1));
        let flags = value & !ADDRESS & !if depth == 1 { LARGE } else { 0 };
        for (number, entry) in (0u64..).zip(self.tables.get_mut(new).into_iter().flat_map(|t| t.0.iter_mut()))
        {
            *entry = ((value & ADDRESS) + number * step) | flags;
        }
        let target = self.base() + new as u64 * 4096;
        *self.entry(table, index)? = target | PRESENT | WRITABLE | ACCESSED_DIRTY;
        Ok(new)
    }

    fn new_table(&mut self) -> Result<usize, MapError> {
        let new = self.used + 1;
        if new + self.spare >= TABLES {
            return Err(MapError::OutOfTables);
        }
        self.used = new;
        Ok(new)
    }

    fn flags(&self, access: Access) -> u64 {
        let no_execute = if self.no_execute { NO_EXECUTE } else { 0 };
        PRESENT
            | ACCESSED_DIRTY
            | match access {
                Access::Code => 0,
                Access::Constant => no_execute,
                Access::Data => WRITABLE | no_execute,
                Access::Device => WRITABLE | UNCACHED | no_execute,
            }
    }

    /// What `address` is mapped with: the leaf entry.
    fn leaf(&self, address: u64) -> Option<u64> {
        let mut table = 0;
        for depth in (0..4).rev() {
            let index = (address >> (12 + 9 * depth)) as usize & 511;
            let value = *self.tables.get(table)?.0.get(index)?;
            if value & PRESENT == 0 {
                return None;
            }
            if depth == 0 || value & LARGE != 0 {
                return Some(value);
            }
            table = ((value & ADDRESS) - self.base()) as usize / 4096;
        }
        None
    }
}

/// The sections of the image, from the link script.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Constants.
    pub constants: PhysRange,
    /// Code.
    pub code: PhysRange,
    /// Data, zero-initialised data and stacks.
    pub data: PhysRange,
}

impl Image {
    /// The whole image.
    pub fn range(&self) -> PhysRange {
        PhysRange::new(self.constants.start, self.data.end() - self.constants.start)
    }
}

/// Builds the tables and switches to them. Returns the first address that is not mapped although it may be RAM: the
/// limit for everything that carves memory.
///
/// # Safety
///
/// `image` must be the running image, and `guards` pages within its data that nothing uses.
pub(crate) unsafe fn init(
    boot: &BootInfo,
    image: &Image,
    guards: &[u64],
    features: &Features,
) -> Result<u64, MapError> {
    let map = &boot.memory;
    let mut host = HOST.lock();
    host.large_1g = features.pages_1g;
    host.no_execute = features.no_execute;
    host.limit = 1u64 << features.physical_bits.min(47);

    host.map(image.constants, Access::Constant)?;
    host.map(image.code, Access::Code)?;
    let mut start = image.data.start;
    let mut sorted: heapless::Vec<u64, MAX_GUARDS> = heapless::Vec::new();
    sorted.extend_from_slice(guards).map_err(|_| MapError::OutOfTables)?;
    crate::bytes::insertion_sort(&mut sorted, |guard| *guard);
    for guard in sorted {
        host.map(PhysRange::new(start, guard.saturating_sub(start)), Access::Data)?;
        start = guard + 4096;
    }
    host.map(PhysRange::new(start, image.data.end().saturating_sub(start)), Access::Data)?;

    let image = image.range();
    let mut limit = host.limit;
    let is_ram = |region: &&MemoryRegion| !matches!(region.kind, MemoryKind::Reserved | MemoryKind::Bad);
    for region in map.iter().filter(is_ram) {
        // Whole pages, not the null page, not beyond what can be addressed; around the image.
        let start = region.range.start.next_multiple_of(4096).max(4096);
        let end = (region.range.end() & !0xfff).min(host.limit);
        for (start, end) in [(start, end.min(image.start)), (start.max(image.end()), end)] {
            let range = PhysRange::new(start, end.saturating_sub(start));
            if let Err(from) = host.map_ram(range) {
                // Nothing from here on is used.
                limit = limit.min(from);
            }
        }
    }

    // What the loader left in memory that is not RAM by the map stays readable, page by page.
    let elsewhere = |range: &PhysRange| !map.iter().filter(is_ram).any(|region| region.range.contains(range));
    for range in boot.referred().filter(elsewhere) {
        for page in (range.start & !0xfff..range.end()).step_by(4096).filter(|&page| page != 0) {
            if host.leaf(page).is_none() {
                host.map(PhysRange::new(page, 4096), Access::Constant)?;
            }
        }
    }

    // SAFETY: index 0 to 3 of the PAT keep the types that the mappings in use have: write-back for all.
    unsafe { Msr::new(IA32_PAT).write(PAT) };
    let root = PhysFrame::containing_address(PhysAddr::new(host.base()));
    // SAFETY: the tables map the image that runs here, its stack included, at the addresses that it has now.
    unsafe { Cr3::write(root, Cr3Flags::empty()) };
    Ok(limit)
}

/// Maps device registers at physical `address`, uncached; they are then at that address. Mapping them twice is fine.
pub fn map_device(address: u64, len: u64) -> Result<(), MapError> {
    let start = address & !0xfff;
    let end = address
        .checked_add(len)
        .and_then(|end| end.checked_next_multiple_of(4096))
        .ok_or(MapError::BadRange)?;
    let mut host = HOST.lock();
    for page in (start..end).step_by(4096) {
        match host.leaf(page) {
            Some(leaf) if leaf & UNCACHED == UNCACHED => {}
            Some(_) => return Err(MapError::Mapped),
            None => host.map(PhysRange::new(page, 4096), Access::Device)?,
        }
        x86_64::instructions::tlb::flush(VirtAddr::new_truncate(page));
    }
    Ok(())
}

/// Makes a page of RAM code, data, or (`None`) not there at all.
///
/// # Safety
///
/// Nothing refers to the page that the new access forbids, on any processor. A processor that has used the page may go on
/// by the old access until it loads CR3: only this one's cached translation is dropped.
pub(crate) unsafe fn change(page: u64, access: Option<Access>) -> Result<(), MapError> {
    HOST.lock().change(page, access)?;
    x86_64::instructions::tlb::flush(VirtAddr::new_truncate(page));
    Ok(())
}

/// Physical address of the root table.
pub(crate) fn root() -> u64 {
    HOST.lock().base()
}

/// Lets a further processor, which runs on these tables already, see memory as the first one does.
pub(crate) fn init_secondary() {
    // SAFETY: as in `init`. Reloading CR3 drops what was cached with the PAT that this processor had.
    unsafe {
        Msr::new(IA32_PAT).write(PAT);
        let (root, flags) = Cr3::read();
        Cr3::write(root, flags);
    }
}

/// Page tables in use, and how many there are.
pub fn usage() -> (usize, usize) {
    (HOST.lock().used + 1, TABLES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Box<PageTables> {
        let mut tables = Box::new(PageTables::new());
        tables.large_1g = true;
        tables.no_execute = true;
        tables.limit = 1 << 40;
        tables
    }

    #[test]
    fn uses_the_largest_pages() {
        let mut t = tables();
        t.map(PhysRange::new(0x1f_f000, (3 << 30) - 0x1f_f000), Access::Data).unwrap();
        // The root, one PDPT, a PD for the first GiB, a PT for the first page.
        assert_eq!(t.used + 1, 4);
        assert_eq!(t.leaf(0x1f_e000), None);
        assert_eq!(t.leaf(0x1f_f000).unwrap() & LARGE, 0);
        assert_eq!(t.leaf(0x20_0000).unwrap() & ADDRESS, 0x20_0000);
        assert_ne!(t.leaf(0x8000_0000).unwrap() & LARGE, 0);
        assert_eq!(t.leaf(3 << 30), None);
    }

    #[test]
    fn a_page_within_a_large_one_is_changed_alone() {
        let mut t = tables();
        t.map(PhysRange::new(1 << 30, 2 << 30), Access::Data).unwrap();
        let page = (1 << 30) + 0x60_3000;
        let before = t.leaf(page + 4096).unwrap();
        assert_ne!(before & LARGE, 0);
        t.change(page, None).unwrap();
        assert_eq!(t.leaf(page), None);
        for other in [page - 4096, page + 4096] {
            let leaf = t.leaf(other).unwrap();
            assert_eq!((leaf & ADDRESS, leaf & !ADDRESS), (other, before & !ADDRESS & !LARGE));
        }
        // The next 2 MiB stay whole, the next GiB too.
        assert_eq!(
            t.leaf((1 << 30) + 0x80_0000).unwrap() & (ADDRESS | LARGE),
            ((1 << 30) + 0x80_0000) | LARGE
        );
        assert_eq!(t.leaf(2 << 30).unwrap() & (ADDRESS | LARGE), 2 << 30 | LARGE);
        t.change(page, Some(Access::Code)).unwrap();
        assert_eq!(t.leaf(page).unwrap() & (ADDRESS | WRITABLE | NO_EXECUTE), page);
        assert_eq!(t.change(5 << 30, None), Err(MapError::BadRange));
    }

    #[test]
    fn nothing_is_writable_and_executable() {
        let mut t = tables();
        for (n, access) in
            [Access::Code, Access::Constant, Access::Data, Access::Device].into_iter().enumerate()
        {
            let page = 0x10_0000 + n as u64 * 4096;
            t.map(PhysRange::new(page, 4096), access).unwrap();
            let leaf = t.leaf(page).unwrap();
            assert!(leaf & WRITABLE == 0 || leaf & NO_EXECUTE != 0);
            assert_eq!(leaf & NO_EXECUTE == 0, access == Access::Code);
        }
    }

    #[test]
    fn ram_leaves_tables_for_devices() {
        let mut t = tables();
        t.large_1g = false;
        assert_eq!(t.map_ram(PhysRange::new(0x1000, (2 << 30) - 0x1000)), Ok(()));
        let from = t.map_ram(PhysRange::new(4 << 30, 124 << 30)).unwrap_err();
        assert_eq!((from & ((1 << 30) - 1), t.leaf(from)), (0, None));
        assert!(from >= 64 << 30 && t.leaf(from - 1).is_some());
        for device in [0xfec0_0000, 0xfee0_0000, 0xfe_0000_0000] {
            t.map(PhysRange::new(device, 4096), Access::Device).unwrap();
        }
        for guard in 1..10 {
            t.change(guard << 21, None).unwrap();
        }
        // With large pages all of it is mapped.
        let mut t = tables();
        assert_eq!(t.map_ram(PhysRange::new(4 << 30, 508 << 30)), Ok(()));
        assert_eq!(t.leaf((512 << 30) - 1).unwrap() & ADDRESS, 511 << 30);
    }

    #[test]
    fn says_what_it_cannot_do() {
        let mut t = tables();
        assert_eq!(t.map(PhysRange::new(0x10, 0x1000), Access::Data), Err(MapError::BadRange));
        assert_eq!(t.map(PhysRange::new(1 << 40, 0x1000), Access::Data), Err(MapError::BadRange));
        t.map(PhysRange::new(0, 1 << 30), Access::Data).unwrap();
        assert_eq!(t.map(PhysRange::new(0x1000, 0x1000), Access::Data), Err(MapError::Mapped));
        t.large_1g = false;
        assert_eq!(t.map(PhysRange::new(1 << 30, 1 << 39), Access::Data), Err(MapError::OutOfTables));
    }
}

//! Second-level page tables: guest-physical to host-physical addresses.
//!
//! One radix builder serves both vendors; what differs is how an entry is written, [`Format`]: EPT (SDM vol. 3,
//! chapter 29.3) and NPT (APM vol. 2, 15.25). Both have four levels of 512 entries and map 48 bits of address with
//! 4 KiB, 2 MiB and 1 GiB pages.
//!
//! Tables live in a pool of [`Frame`]s that the caller lends. A frame's address in memory is its physical address
//! (the host maps all RAM identity), and a child table is only ever reached by its index in the pool, so this module
//! needs no pointer of its own and cannot leave the pool. Entries are atomic: another processor may walk the tables
//! while they change.
//!
//! Entries that become *more* permissive take effect by themselves (a processor that faults walks again). After
//! [`Tables::unmap`], [`Tables::protect`] and any other change that takes something away, every processor that runs
//! on these tables must leave the guest and flush before the pages are used for anything else; then
//! [`Tables::flushed`] gives the emptied tables back to the pool.

mod format;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU64, Ordering};

pub use format::{Access, Format, MemoryType};

/// Entries in one table.
const ENTRIES: usize = 512;
/// Bytes of the smallest page, and of a table.
pub const PAGE_SIZE: u64 = 4096;
/// Guest-physical addresses that four levels reach: 48 bits.
pub const ADDRESS_LIMIT: u64 = 1 << 48;
/// Level of the root table; level 1 holds 4 KiB pages.
const ROOT_LEVEL: u32 = 4;
/// End of a list of frames.
const NIL: u32 = u32::MAX;

/// One table: 512 entries in a 4 KiB frame.
#[repr(C, align(4096))]
pub struct Frame([AtomicU64; ENTRIES]);

impl Frame {
    /// An empty table. `const`, so that a pool can be a zeroed `static`.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; ENTRIES])
    }

    fn address(&self) -> u64 {
        core::ptr::from_ref(self) as u64
    }

    fn clear(&self) {
        for entry in &self.0 {
            entry.store(0, Ordering::Relaxed);
        }
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

/// Size of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum PageSize {
    /// 4 KiB.
    Size4K = 1,
    /// 2 MiB.
    Size2M = 2,
    /// 1 GiB.
    Size1G = 3,
}

impl PageSize {
    /// Bytes.
    pub const fn bytes(self) -> u64 {
        level_size(self as u32)
    }

    const fn from_level(level: u32) -> Self {
        match level {
            1 => Self::Size4K,
            2 => Self::Size2M,
            _ => Self::Size1G,
        }
    }
}

/// Bytes that one entry of a table at `level` covers.
const fn level_size(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

/// Index into the table at `level` on the way to `guest`.
const fn index(guest: u64, level: u32) -> usize {
    ((guest >> (12 + 9 * (level - 1))) & 0x1ff) as usize
}

/// Why tables could not be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagingError {
    /// The pool has no frame left for a table. What was done up to there stays.
    OutOfFrames,
    /// An address or length is not a multiple of 4 KiB.
    Misaligned,
    /// The range is empty, wraps, or ends beyond [`ADDRESS_LIMIT`] (guest) or the format's address field (host).
    OutOfRange,
    /// A page of the range is mapped already, at this guest-physical address.
    AlreadyMapped(u64),
    /// A page of the range is not mapped, at this guest-physical address.
    NotMapped(u64),
    /// No read access asked for: neither vendor has write-only pages (an EPT misconfiguration), execute-only pages are
    /// optional, and "no access" is [`Tables::unmap`].
    InvalidAccess,
    /// The pool is too large for the 32-bit indices of its free list.
    PoolTooLarge,
}

impl core::fmt::Display for PagingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OutOfFrames => f.write_str("no frame left for second-level page tables"),
            Self::Misaligned => f.write_str("address or length is not a multiple of 4 KiB"),
            Self::OutOfRange => f.write_str("address range is empty or too high"),
            Self::AlreadyMapped(at) => write!(f, "guest-physical address {at:#x} is mapped already"),
            Self::NotMapped(at) => write!(f, "guest-physical address {at:#x} is not mapped"),
            Self::InvalidAccess => f.write_str("a page must be readable"),
            Self::PoolTooLarge => f.write_str("too many frames in the page-table pool"),
        }
    }
}

/// Where a guest-physical address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Host-physical address of the very byte asked for.
    pub host: u64,
    /// What the guest may do there.
    pub access: Access,
    /// Memory type of the mapping.
    pub memory: MemoryType,
    /// Size of the page that maps it.
    pub size: PageSize,
}

/// The entry that a walk ended at.
struct Found {
    /// Pool index of the table on each level passed, `[level - 1]`.
    path: [u32; ROOT_LEVEL as usize],
    level: u32,
    index: usize,
    entry: u64,
}

/// A set of second-level page tables in frames borrowed from `pool`.
pub struct Tables<'a> {
    pool: &'a [Frame],
    /// Frames from this index on have never been used.
    fresh: u32,
    /// Head of the list of emptied tables that may be used again.
    free: u32,
    /// Head of the list of emptied tables that a processor may still have cached.
    retired: u32,
    in_use: u32,
    largest: PageSize,
    format: Format,
}

impl<'a> Tables<'a> {
    /// Takes one frame of `pool` for an empty root table. `largest` is the largest page that the processor has
    /// (1 GiB pages: IA32_VMX_EPT_VPID_CAP bit 17, CPUID 8000_0001 EDX bit 26).
    pub fn new(pool: &'a [Frame], largest: PageSize, format: Format) -> Result<Self, PagingError> {
        if pool.len() >= NIL as usize {
            return Err(PagingError::PoolTooLarge);
        }
        let mut tables = Self { pool, fresh: 0, free: NIL, retired: NIL, in_use: 0, largest, format };
        // The first frame handed out is frame 0: the root is always there.
        tables.allocate()?;
        Ok(tables)
    }

    /// Host-physical address of the root table, for EPTP or nCR3.
    pub fn root(&self) -> u64 {
        self.pool.first().map_or(0, Frame::address)
    }

    /// Frames that hold tables now.
    pub fn frames_in_use(&self) -> usize {
        self.in_use as usize
    }

    /// Maps `length` bytes at `guest` to `host`, all multiples of 4 KiB, with the largest pages that fit. Nothing of
    /// the range may be mapped yet. After an error a leading part may be mapped; [`Self::unmap`] takes it back.
    pub fn map(
        &mut self,
        guest: u64,
        host: u64,
        length: u64,
        access: Access,
        memory: MemoryType,
    ) -> Result<(), PagingError> {
        let end = check_range(guest, length, ADDRESS_LIMIT)?;
        check_range(host, length, Format::ADDRESS_MASK + PAGE_SIZE)?;
        if !access.contains(Access::READ) {
            return Err(PagingError::InvalidAccess);
        }
        let mut at = guest;
        let mut to = host;
        while at < end {
            let level = self.fitting_level(at | to, end - at);
            let (table, index) = self.descend(at, level)?;
            let entry = self.entry(table, index);
            if self.format.present(entry.load(Ordering::Relaxed)) {
                return Err(PagingError::AlreadyMapped(at));
            }
            entry.store(self.format.leaf(to, access, memory, level > 1), Ordering::Release);
            at += level_size(level);
            to += level_size(level);
        }
        Ok(())
    }

    /// Takes `length` bytes at `guest` out of the mapping; what is not mapped there already stays so. Larger pages
    /// are split at the ends of the range. Flush afterwards (see the module's text).
    pub fn unmap(&mut self, guest: u64, length: u64) -> Result<(), PagingError> {
        let end = check_range(guest, length, ADDRESS_LIMIT)?;
        let mut at = guest;
        while at < end {
            let found = self.walk(at);
            if self.format.present(found.entry) {
                if self.split_for(&found, at, end)? {
                    continue;
                }
                self.store(&found, 0);
            }
            at = (at | (level_size(found.level) - 1)) + 1;
            // The last entry of a table, or the last one asked for: is the table empty now?
            if index(at, found.level) == 0 || at >= end {
                self.retire_empty(&found, at - 1);
            }
        }
        Ok(())
    }

    /// Changes what the guest may do with `length` bytes at `guest`, all of which must be mapped. Larger pages are
    /// split at the ends of the range. Flush afterwards if a right was taken away.
    pub fn protect(&mut self, guest: u64, length: u64, access: Access) -> Result<(), PagingError> {
        let end = check_range(guest, length, ADDRESS_LIMIT)?;
        if !access.contains(Access::READ) {
            return Err(PagingError::InvalidAccess);
        }
        let mut at = guest;
        while at < end {
            let found = self.walk(at);
            if !self.format.present(found.entry) {
                return Err(PagingError::NotMapped(at));
            }
            if self.split_for(&found, at, end)? {
                continue;
            }
            let leaf = self.format.leaf(
                self.format.address(found.entry, level_size(found.level)),
                access,
                self.format.memory_type(found.entry),
                found.level > 1,
            );
            self.store(&found, leaf);
            at = (at | (level_size(found.level) - 1)) + 1;
        }
        Ok(())
    }

    /// Where `guest` leads; `None` where it is not mapped.
    pub fn translate(&self, guest: u64) -> Option<Translation> {
        if guest >= ADDRESS_LIMIT {
            return None;
        }
        let found = self.walk(guest);
        self.format.present(found.entry).then(|| {
            let size = level_size(found.level);
            Translation {
                host: self.format.address(found.entry, size) | (guest & (size - 1)),
                access: self.format.access(found.entry),
                memory: self.format.memory_type(found.entry),
                size: PageSize::from_level(found.level),
            }
        })
    }

    /// Tells that no processor has anything of these tables cached any more: emptied tables become free.
    pub fn flushed(&mut self) {
        while let Some(frame) = self.pool.get(self.retired as usize) {
            let next = link(frame);
            set_link(frame, self.free);
            self.free = self.retired;
            self.retired = next;
        }
    }

    fn fitting_level(&self, alignment: u64, length: u64) -> u32 {
        let mut level = self.largest as u32;
        while level > 1 && (alignment & (level_size(level) - 1) != 0 || length < level_size(level)) {
            level -= 1;
        }
        level
    }

    fn entry(&self, table: u32, index: usize) -> &AtomicU64 {
        // Both are in range by construction: `table` is from `child` or `allocate`, `index` has nine bits.
        &self.pool[table as usize].0[index & (ENTRIES - 1)]
    }

    fn store(&self, found: &Found, value: u64) {
        self.entry(found.path[found.level as usize - 1], found.index).store(value, Ordering::Release);
    }

    /// Pool index of the table that a non-leaf entry points to.
    fn child(&self, entry: u64) -> u32 {
        // Wrapping: an address below the pool gives a huge index, which `entry` would refuse.
        (self.format.address(entry, PAGE_SIZE).wrapping_sub(self.root()) / PAGE_SIZE) as u32
    }

    /// Walks as far as there are tables; the entry found is a leaf or not present.
    fn walk(&self, guest: u64) -> Found {
        let mut path = [0; ROOT_LEVEL as usize];
        let mut table = 0;
        let mut level = ROOT_LEVEL;
        loop {
            path[level as usize - 1] = table;
            let index = index(guest, level);
            let entry = self.entry(table, index).load(Ordering::Acquire);
            if !self.format.present(entry) || level == 1 || self.format.is_large(entry) {
                return Found { path, level, index, entry };
            }
            table = self.child(entry);
            level -= 1;
        }
    }

    /// The table at `level` on the way to `guest`, made where it is missing, and the index in it.
    fn descend(&mut self, guest: u64, level: u32) -> Result<(u32, usize), PagingError> {
        let mut table = 0;
        let mut at = ROOT_LEVEL;
        while at > level {
            let index = index(guest, at);
            let entry = self.entry(table, index).load(Ordering::Relaxed);
            table = if !self.format.present(entry) {
                let new = self.allocate()?;
                self.entry(table, index)
                    .store(self.format.table(self.pool[new as usize].address()), Ordering::Release);
                new
            } else if self.format.is_large(entry) {
                return Err(PagingError::AlreadyMapped(guest));
            } else {
                self.child(entry)
            };
            at -= 1;
        }
        let index = index(guest, level);
        let entry = self.entry(table, index).load(Ordering::Relaxed);
        // A table where a large page should go: something below it is mapped.
        if level > 1 && self.format.present(entry) && !self.format.is_large(entry) {
            return Err(PagingError::AlreadyMapped(guest));
        }
        Ok((table, index))
    }

    /// Splits the page found where it reaches outside of `at..end`. True when it did: walk again.
    fn split_for(&mut self, found: &Found, at: u64, end: u64) -> Result<bool, PagingError> {
        let size = level_size(found.level);
        if found.level == 1 || (at & (size - 1) == 0 && end - at >= size) {
            return Ok(false);
        }
        let child = self.allocate()?;
        let step = level_size(found.level - 1);
        let mut host = self.format.address(found.entry, size);
        for entry in &self.pool[child as usize].0 {
            let leaf = self.format.leaf(
                host,
                self.format.access(found.entry),
                self.format.memory_type(found.entry),
                found.level > 2,
            );
            entry.store(leaf, Ordering::Relaxed);
            host += step;
        }
        self.store(found, self.format.table(self.pool[child as usize].address()));
        Ok(true)
    }

    /// Takes tables out of the tree that have become empty, from the one that was found upwards.
    fn retire_empty(&mut self, found: &Found, guest: u64) {
        let mut level = found.level;
        while level < ROOT_LEVEL {
            let table = found.path[level as usize - 1];
            let frame = &self.pool[table as usize];
            if frame.0.iter().any(|entry| self.format.present(entry.load(Ordering::Relaxed))) {
                return;
            }
            let parent = found.path[level as usize];
            self.entry(parent, index(guest, level + 1)).store(0, Ordering::Release);
            // A processor may still walk this frame: what links it must not look like a present entry.
            set_link(frame, self.retired);
            self.retired = table;
            self.in_use -= 1;
            level += 1;
        }
    }

    fn allocate(&mut self) -> Result<u32, PagingError> {
        let index = if self.free != NIL {
            let index = self.free;
            self.free = link(&self.pool[index as usize]);
            index
        } else if (self.fresh as usize) < self.pool.len() {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return Err(PagingError::OutOfFrames);
        };
        self.pool[index as usize].clear();
        self.in_use += 1;
        Ok(index)
    }
}

/// Next frame of a list. A link lies in an entry's address bits with every control bit clear, which both formats
/// read as "not present".
fn link(frame: &Frame) -> u32 {
    ((frame.0[0].load(Ordering::Relaxed) >> 12) as u32).wrapping_sub(1)
}

fn set_link(frame: &Frame, next: u32) {
    frame.0[0].store(u64::from(next.wrapping_add(1)) << 12, Ordering::Relaxed);
}

/// End of a range of whole pages below `limit`.
fn check_range(start: u64, length: u64, limit: u64) -> Result<u64, PagingError> {
    if (start | length) & (PAGE_SIZE - 1) != 0 {
        return Err(PagingError::Misaligned);
    }
    match start.checked_add(length) {
        Some(end) if length > 0 && end <= limit => Ok(end),
        _ => Err(PagingError::OutOfRange),
    }
}

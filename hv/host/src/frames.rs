//! Physical memory, given away once.
//!
//! At start-up the free ranges are what the memory map calls usable, less the image, the boot modules and everything
//! below 1 MiB. [`carve`] takes pieces out of them for good: guest RAM, the store, tables. There is no way back, and so
//! no fragmentation and no heap.

use heapless::Vec;
use spin::Mutex;

use crate::boot::{BootInfo, MemoryKind};
pub use crate::physical::PhysRange;

/// Free ranges. Each hole in usable memory and each aligned carve can add one.
const MAX_FREE: usize = 256;

/// Memory below 1 MiB is kept for what must lie there: the code that further processors start in.
const LOW_END: u64 = 1 << 20;
/// The first 64 KiB are left alone although the memory map calls them usable: firmware of real boards writes there from
/// system-management mode.
const LOW_START: u64 = 64 << 10;

static FREE: Mutex<FreeRanges> = Mutex::new(FreeRanges::new());
static LOW: Mutex<FreeRanges> = Mutex::new(FreeRanges::new());

/// Ranges of memory that nobody owns yet.
#[derive(Debug, Default)]
pub struct FreeRanges {
    ranges: Vec<PhysRange, MAX_FREE>,
}

impl FreeRanges {
    /// Nothing is free.
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Adds a range. One that finds no room is lost, which only makes memory smaller.
    pub fn add(&mut self, range: PhysRange) {
        if range.len > 0 {
            let _ = self.ranges.push(range);
        }
    }

    /// Takes `taken` out of what is free.
    pub fn remove(&mut self, taken: PhysRange) {
        let mut index = 0;
        while let Some(&range) = self.ranges.get(index) {
            if !range.overlaps(&taken) || taken.len == 0 {
                index += 1;
                continue;
            }
            self.ranges.swap_remove(index);
            self.add(PhysRange::new(range.start, taken.start.saturating_sub(range.start)));
            self.add(PhysRange::new(taken.end(), range.end().saturating_sub(taken.end())));
            // The pieces just added do not overlap, so going on at the same index ends.
        }
    }

    /// Takes `len` bytes at a multiple of `align` (a power of two), all below `limit`. The range that is left with the
    /// least is used, so that large ones stay whole.
    pub fn take(&mut self, len: u64, align: u64, limit: u64) -> Option<PhysRange> {
        if len == 0 || !align.is_power_of_two() {
            return None;
        }
        let fits = |range: &PhysRange| {
            let start = range.start.checked_next_multiple_of(align)?;
            let end = start.checked_add(len)?;
            (end <= range.end() && end <= limit).then_some(PhysRange::new(start, len))
        };
        let best = self.ranges.iter().filter_map(|r| Some((r.len, fits(r)?))).min_by_key(|(len, _)| *len)?.1;
        self.remove(best);
        Some(best)
    }

    /// Bytes free.
    pub fn total(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, range| sum.saturating_add(range.len))
    }

    /// The longest piece that [`FreeRanges::take`] would find at this alignment.
    pub fn largest(&self, align: u64) -> u64 {
        let at = |r: &PhysRange| {
            r.start.checked_next_multiple_of(align).map_or(0, |start| r.end().saturating_sub(start))
        };
        self.ranges.iter().map(at).max().unwrap_or(0)
    }
}

/// Sets up the free ranges. `image` is where the image lies; nothing at or above `limit` is used.
pub(crate) fn init(boot: &BootInfo, image: PhysRange, limit: u64) {
    for (free, from, to) in [(&LOW, LOW_START, LOW_END), (&FREE, LOW_END, limit)] {
        let mut free = free.lock();
        for region in boot.memory.iter().filter(|region| region.kind == MemoryKind::Usable) {
            let start = region.range.start.max(from);
            free.add(PhysRange::new(start, region.range.end().min(to).saturating_sub(start)));
        }
        free.remove(image);
        for range in &boot.structures {
            free.remove(*range);
        }
        for module in &boot.modules {
            free.remove(PhysRange::new(module.data.as_ptr() as u64, module.data.len() as u64));
            free.remove(PhysRange::new(
                module.command_line.as_ptr() as u64,
                module.command_line.len() as u64,
            ));
        }
        // Whole pages only.
        let ranges = core::mem::take(&mut free.ranges);
        for range in ranges {
            let start = range.start.next_multiple_of(4096);
            free.add(PhysRange::new(start, (range.end() & !4095).saturating_sub(start)));
        }
    }
}

/// Takes whole pages below 640 KiB, where a processor can start in real mode.
pub fn carve_low(len: u64) -> Option<PhysRange> {
    LOW.lock().take(len.checked_next_multiple_of(4096)?, 4096, 0xa_0000)
}

/// Takes `len` bytes of RAM at a multiple of `align`, a power of two, for good. `None` where there is no such piece.
///
/// The contents are whatever was there: zero them ([`zero`]) before anybody else may read them.
pub fn carve(len: u64, align: u64) -> Option<PhysRange> {
    FREE.lock().take(len.checked_next_multiple_of(4096)?, align.max(4096), u64::MAX)
}

/// As [`carve`], all below address `limit`.
pub fn carve_below(len: u64, align: u64, limit: u64) -> Option<PhysRange> {
    FREE.lock().take(len.checked_next_multiple_of(4096)?, align.max(4096), limit)
}

/// Bytes that can still be carved.
pub fn available() -> u64 {
    FREE.lock().total()
}

/// The longest piece that can still be carved at this alignment.
pub fn largest(align: u64) -> u64 {
    FREE.lock().largest(align.max(4096))
}

/// Carves `len` bytes, zeroes them, and gives them as a slice that nothing else refers to.
pub fn carve_slice(len: u64, align: u64) -> Option<&'static mut [u8]> {
    let range = carve(len, align)?;
    zero(range);
    // SAFETY: RAM is mapped to itself, and the carver has just given this range to nobody but the caller.
    Some(unsafe { core::slice::from_raw_parts_mut(range.start as usize as *mut u8, len as usize) })
}

/// Carves `len` bytes and gives them as they are: whatever was there can be read from the slice.
pub fn carve_slice_dirty(len: u64, align: u64) -> Option<&'static mut [u8]> {
    let range = carve(len, align)?;
    // SAFETY: as in `carve_slice`; every byte of RAM holds some value.
    Some(unsafe { core::slice::from_raw_parts_mut(range.start as usize as *mut u8, len as usize) })
}

/// Zeroes a carved range, with the widest stores that the processor has.
///
/// The range must come from [`carve`]: nothing else may refer to it.
pub fn zero(range: PhysRange) {
    // SAFETY: carved ranges are whole pages of mapped RAM that only the caller knows.
    unsafe { crate::mem::zero_pages(range.start as usize as *mut u8, range.len as usize) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_never_overlap() {
        let mut free = FreeRanges::new();
        free.add(PhysRange::new(0x10_0000, 0x400_0000));
        free.add(PhysRange::new(0x1_0000_0000, 0x1000_0000));
        free.remove(PhysRange::new(0x20_0000, 0x1_2345));
        let before = free.total();
        let mut taken: std::vec::Vec<PhysRange> = vec![];
        for (len, align) in
            [(0x1000, 0x1000), (0x20_0000, 0x20_0000), (0x3000, 0x1000), (0x800_0000, 0x20_0000)]
        {
            let piece = free.take(len, align, u64::MAX).unwrap();
            assert_eq!(piece.start % align, 0);
            assert!(taken.iter().all(|other| !other.overlaps(&piece)));
            assert!(!piece.overlaps(&PhysRange::new(0x20_0000, 0x1_2345)));
            taken.push(piece);
        }
        assert_eq!(free.total() + taken.iter().map(|r| r.len).sum::<u64>(), before);
        assert_eq!(free.take(1 << 40, 0x1000, u64::MAX), None);
        assert_eq!(free.take(0, 0x1000, u64::MAX), None);
        assert_eq!(free.take(0x1000, 3, u64::MAX), None);
    }

    #[test]
    fn small_pieces_come_from_small_ranges_and_below_the_limit() {
        let mut free = FreeRanges::new();
        free.add(PhysRange::new(0x1_0000_0000, 0x2000));
        free.add(PhysRange::new(0x100_0000, 0x100_0000));
        assert_eq!(free.take(0x1000, 0x1000, u64::MAX).unwrap().start, 0x1_0000_0000);
        assert_eq!(free.take(0x1000, 0x1000, 1 << 32).unwrap().start, 0x100_0000);
        assert_eq!(free.largest(0x20_0000), 0xe0_0000);
    }
}

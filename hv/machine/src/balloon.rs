//! Pages that the guest has given away by its balloon: out of the second-level mapping, cleared, and back on the next
//! touch.
//!
//! A page is taken in three steps, so that no processor can write to it any more when it is cleared: its mapping goes,
//! every processor drops what it has cached of the mapping, and then it is cleared. The frame stays
//! the guest's: when the guest touches the page, or says that it takes it back, it is mapped as before, full of zeros;
//! where it does so before the page has been cleared, the page has its content still and keeps it.
//! Devices that reach a page by its address do so all the time.

use monovisor_arch::GuestMemory;
use monovisor_cpu::paging::{Access, MemoryType, Tables};
use monovisor_devices::virtio::balloon::{Pages, STEP};
use monovisor_host::timer;

use crate::ram::GuestRam;
use crate::shared::Shared;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Second-level tables from which pages of RAM can be taken.
pub trait Mapping: Send {
    /// Takes a page out. False: it was not mapped, or cannot be taken. A flush on all processors has to follow.
    fn unmap(&mut self, page: u64) -> bool;
    /// Maps a page of RAM that has been taken. False: it is no RAM.
    fn map(&mut self, page: u64) -> bool;
    /// All processors have flushed since the last [`Mapping::unmap`].
    fn flushed(&mut self);
    /// Fills a page that has been taken with zeros, unless it is mapped again.
    fn clear(&self, page: u64);
}

/// The tables of a guest with this RAM.
pub struct RamMapping {
    tables: Tables<'static>,
    ram: &'static GuestRam,
}

impl RamMapping {
    /// `tables` map all of `ram` and nothing else, with all rights.
    pub const fn new(tables: Tables<'static>, ram: &'static GuestRam) -> Self {
        Self { tables, ram }
    }
}

impl Mapping for RamMapping {
    fn unmap(&mut self, page: u64) -> bool {
        // What cannot be split, for want of a frame, stays with the guest.
        self.tables.translate(page).is_some() && self.tables.unmap(page, PAGE).is_ok()
    }

    fn map(&mut self, page: u64) -> bool {
        let block = self.ram.blocks().find(|(base, length, _)| page.wrapping_sub(*base) < *length);
        let Some((base, _, host)) = block else { return false };
        if self.tables.translate(page).is_some() {
            // Another processor was faster.
            return true;
        }
        let everything = Access::READ | Access::WRITE | Access::EXECUTE;
        self.tables.map(page, host + (page - base), PAGE, everything, MemoryType::WriteBack).is_ok()
    }

    fn flushed(&mut self) {
        self.tables.flushed();
    }

    fn clear(&self, page: u64) {
        if self.tables.translate(page).is_none() {
            // It is RAM: it was mapped.
            let _ = self.ram.fill(page, 0, PAGE);
        }
    }
}

/// The balloon's way to the pages of a guest.
pub struct GuestPages {
    shared: &'static Shared,
    /// Taken, and not cleared yet.
    taken: heapless::Vec<u64, STEP>,
    /// The flush that is waited for.
    flush: Option<u32>,
}

impl GuestPages {
    /// The pages of the guest of `shared`.
    pub const fn new(shared: &'static Shared) -> Self {
        Self { shared, taken: heapless::Vec::new(), flush: None }
    }
}

impl Pages for GuestPages {
    fn take(&mut self, address: u64) {
        // One beyond the limit that the balloon keeps is not taken.
        if !self.taken.is_full() && self.shared.with_mapping(|mapping| mapping.unmap(address)) == Some(true) {
            let _ = self.taken.push(address);
        }
    }

    fn settle(&mut self) -> bool {
        if self.taken.is_empty() {
            return true;
        }
        let flush = *self.flush.get_or_insert_with(|| self.shared.drop_all());
        if !self.shared.has_dropped(flush) {
            return false;
        }
        self.flush = None;
        self.shared.with_mapping(|mapping| mapping.flushed());
        for page in &self.taken {
            // Another processor that touches the page meanwhile gets it as it was or as zeros, and waits no longer than
            // for one page.
            self.shared.with_mapping(|mapping| mapping.clear(*page));
        }
        self.taken.clear();
        true
    }

    fn give(&mut self, address: u64) {
        self.shared.touch(address);
    }

    fn time(&self) -> u64 {
        timer::wall_clock().unwrap_or(0) / 1_000_000
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use monovisor_cpu::paging::{Format, Frame, PageSize};

    use super::*;

    #[test]
    fn pages_go_and_come_back() {
        const LARGE: u64 = 2 << 20;
        let layout = std::alloc::Layout::from_size_align(2 * LARGE as usize, LARGE as usize).unwrap();
        // SAFETY: the layout has a size. The memory lives as long as the test.
        let host = unsafe { std::alloc::alloc_zeroed(layout) };
        let mut ram = GuestRam::new();
        // SAFETY: the memory is as long as said, and used by nobody else.
        assert!(unsafe { ram.add(0, 2 * LARGE, host) });
        let ram: &'static GuestRam = Box::leak(Box::new(ram));
        let pool: &'static [Frame] = Box::leak((0..8).map(|_| Frame::new()).collect());
        let mut tables = Tables::new(pool, PageSize::Size2M, Format::Ept).unwrap();
        let everything = Access::READ | Access::WRITE | Access::EXECUTE;
        tables.map(0, host as u64, 2 * LARGE, everything, MemoryType::WriteBack).unwrap();
        let mut mapping = RamMapping::new(tables, ram);
        assert!(mapping.unmap(LARGE) && !mapping.unmap(LARGE));
        assert_eq!(mapping.tables.translate(LARGE), None);
        assert!(mapping.tables.translate(LARGE + PAGE).is_some());
        mapping.flushed();
        ram.write(LARGE - 1, &[7; 3]).unwrap();
        let bytes = || {
            let mut bytes = [1; 3];
            ram.read(LARGE - 1, &mut bytes).unwrap();
            bytes
        };
        mapping.clear(LARGE);
        assert_eq!(bytes(), [7, 0, 0]);
        assert!(mapping.map(LARGE) && mapping.map(LARGE));
        // What the guest has touched again stays as the guest has left it.
        ram.write(LARGE, &[8]).unwrap();
        mapping.clear(LARGE);
        assert_eq!(bytes(), [7, 8, 0]);
        assert_eq!(mapping.tables.translate(LARGE + 5).unwrap().host, host as u64 + LARGE + 5);
        // What is no RAM is nobody's.
        assert!(!mapping.unmap(8 * LARGE) && !mapping.map(8 * LARGE) && !mapping.map(u64::MAX - 4095));
        // All of a large page, and again: frames are used again.
        for _ in 0..5 {
            for page in 0..512 {
                assert!(mapping.unmap(page * PAGE));
            }
            mapping.flushed();
            for page in 0..512 {
                assert!(mapping.map(page * PAGE));
            }
        }
    }
}

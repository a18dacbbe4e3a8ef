//! The memory map: what loaders give, put in order.

use heapless::Vec;

use crate::physical::PhysRange;

/// Regions of a memory map. UEFI firmware of big machines gives some 100; neighbours of one kind are joined first.
pub const MAX_REGIONS: usize = 192;

/// What a region of physical memory is (ACPI 6.5, table 15.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemoryKind {
    /// RAM, free to use.
    Usable,
    /// RAM that holds ACPI tables.
    AcpiReclaimable,
    /// RAM that ACPI firmware keeps across sleep.
    AcpiNvs,
    /// Not to be touched, or of a kind not known here.
    Reserved,
    /// RAM in which errors were found.
    Bad,
}

impl MemoryKind {
    /// The kind of an e820 type.
    pub const fn from_e820(kind: u32) -> Self {
        match kind {
            1 => Self::Usable,
            3 => Self::AcpiReclaimable,
            4 => Self::AcpiNvs,
            5 => Self::Bad,
            _ => Self::Reserved,
        }
    }
}

/// A region of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Where it is.
    pub range: PhysRange,
    /// What it is.
    pub kind: MemoryKind,
}

/// A memory map, sorted by address once [`MemoryMap::finish`] has run.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    regions: Vec<MemoryRegion, MAX_REGIONS>,
    /// Regions that found no room. They are left alone, as if reserved.
    dropped: usize,
}

impl MemoryMap {
    /// An empty map.
    pub const fn new() -> Self {
        Self { regions: Vec::new(), dropped: 0 }
    }

    /// Adds a region as the firmware gave it.
    pub fn add(&mut self, start: u64, len: u64, kind: MemoryKind) {
        let range = PhysRange::new(start, len);
        if range.len == 0 {
            return;
        }
        if let Some(last) = self.regions.last_mut()
            && last.kind == kind
            && last.range.end() == start
        {
            last.range.len = last.range.len.saturating_add(range.len);
            return;
        }
        if self.regions.push(MemoryRegion { range, kind }).is_err() {
            self.dropped += 1;
        }
    }

    /// Sorts the regions, resolves overlaps in favour of the more careful kind (ACPI 6.5, 15.3 allows them to none, but
    /// firmware makes them) and joins neighbours of one kind.
    pub fn finish(&mut self) {
        crate::bytes::insertion_sort(&mut self.regions, |region| (region.range.start, region.kind));
        let mut index = 0;
        while index + 1 < self.regions.len() {
            let (Some(&first), Some(&second)) = (self.regions.get(index), self.regions.get(index + 1)) else {
                return;
            };
            if first.range.end() <= second.range.start {
                if first.kind == second.kind && first.range.end() == second.range.start {
                    self.set(index, PhysRange::new(first.range.start, first.range.len + second.range.len));
                    self.regions.remove(index + 1);
                } else {
                    index += 1;
                }
            } else if first.kind >= second.kind {
                // The first wins: the second keeps what stands out behind.
                let end = second.range.end().max(first.range.end());
                self.regions.remove(index + 1);
                self.insert(first.range.end(), end, second.kind);
            } else {
                // The second wins: the first keeps what stands out in front, and behind.
                let rest =
                    PhysRange::new(second.range.end(), first.range.end().saturating_sub(second.range.end()));
                if first.range.start < second.range.start {
                    self.set(
                        index,
                        PhysRange::new(first.range.start, second.range.start - first.range.start),
                    );
                } else {
                    self.regions.remove(index);
                }
                self.insert(rest.start, rest.end(), first.kind);
            }
        }
    }

    fn set(&mut self, index: usize, range: PhysRange) {
        if let Some(region) = self.regions.get_mut(index) {
            region.range = range;
        }
    }

    /// Inserts a region in order.
    fn insert(&mut self, start: u64, end: u64, kind: MemoryKind) {
        if end <= start {
            return;
        }
        let region = MemoryRegion { range: PhysRange::new(start, end - start), kind };
        let at = self.regions.iter().position(|other| (other.range.start, other.kind) > (start, kind));
        if self.regions.insert(at.unwrap_or(self.regions.len()), region).is_err() {
            self.dropped += 1;
        }
    }

    /// The regions.
    pub fn iter(&self) -> impl Iterator<Item = &MemoryRegion> {
        self.regions.iter()
    }

    /// Regions that found no room and are not used.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Bytes of usable RAM.
    pub fn usable(&self) -> u64 {
        self.iter().filter(|r| r.kind == MemoryKind::Usable).fold(0, |sum, r| sum.saturating_add(r.range.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(regions: &[(u64, u64, MemoryKind)]) -> Vec<(u64, u64, MemoryKind), MAX_REGIONS> {
        let mut map = MemoryMap::new();
        for &(start, len, kind) in regions {
            map.add(start, len, kind);
        }
        map.finish();
        map.iter().map(|r| (r.range.start, r.range.len, r.kind)).collect()
    }

    use MemoryKind::{Reserved, Usable};

    #[test]
    fn sorts_and_joins() {
        let joined = map(&[(0x2000, 0x1000, Usable), (0x9000, 0x1000, Usable), (0x1000, 0x1000, Usable)]);
        assert_eq!(joined, [(0x1000, 0x2000, Usable), (0x9000, 0x1000, Usable)]);
    }

    #[test]
    fn reserved_wins_in_the_middle() {
        let cut = map(&[(0, 0x10000, Usable), (0x4000, 0x1000, Reserved)]);
        assert_eq!(cut, [(0, 0x4000, Usable), (0x4000, 0x1000, Reserved), (0x5000, 0xb000, Usable)]);
    }

    #[test]
    fn reserved_wins_from_the_front_and_at_the_same_start() {
        assert_eq!(
            map(&[(0, 0x2000, Reserved), (0x1000, 0x2000, Usable)]),
            [(0, 0x2000, Reserved), (0x2000, 0x1000, Usable)]
        );
        assert_eq!(
            map(&[(0, 0x4000, Usable), (0, 0x1000, Reserved)]),
            [(0, 0x1000, Reserved), (0x1000, 0x3000, Usable)]
        );
        assert_eq!(map(&[(0, 0x4000, Usable), (0, 0x4000, Reserved)]), [(0, 0x4000, Reserved)]);
    }

    #[test]
    fn ends_at_the_end_of_the_address_space() {
        let one = map(&[(u64::MAX - 0xfff, u64::MAX, Usable), (u64::MAX - 0x10, 8, Reserved)]);
        assert!(one.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
    }

    #[test]
    fn never_overlaps_whatever_comes() {
        // A fixed linear congruential sequence: the same map every time.
        let mut seed = 1u64;
        let mut next = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            seed >> 33
        };
        for _ in 0..200 {
            let mut input = std::vec::Vec::new();
            for _ in 0..next() % 90 {
                input.push((next() % 4096, next() % 512, MemoryKind::from_e820((next() % 6) as u32)));
            }
            let result = map(&input);
            assert!(result.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
            for address in 0..4700 {
                let covers =
                    |&&(start, len, _): &&(u64, u64, MemoryKind)| (start..start + len).contains(&address);
                let want = input.iter().filter(covers).map(|r| r.2).max();
                assert_eq!(result.iter().find(covers).map(|r| r.2), want, "at {address}");
            }
        }
    }
}

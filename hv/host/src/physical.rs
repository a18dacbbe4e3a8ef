//! Physical memory as the boot code reads it: ranges, and bounds-checked looks at tables that firmware or a loader left.

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhysRange {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl PhysRange {
    /// A range; one that would run over the end of the address space is cut off there.
    pub const fn new(start: u64, len: u64) -> Self {
        let room = u64::MAX - start;
        Self { start, len: if len > room { room } else { len } }
    }

    /// First address behind the range.
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// The two ranges share an address.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// `other` lies within this range.
    pub const fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }
}

/// Read access to physical memory, for the parsers of boot structures and ACPI tables.
///
/// The parsers see memory through this alone, so that they run on a host over bytes in a buffer.
pub trait PhysicalMemory {
    /// `len` bytes at `address`, or `None` where they are not all readable memory.
    fn bytes(&self, address: u64, len: usize) -> Option<&'static [u8]>;

    /// The bytes at `address` up to a zero byte, of which there must be one within `limit` bytes.
    fn c_string(&self, address: u64, limit: usize) -> Option<&'static [u8]> {
        let mut len = 0;
        loop {
            let byte = self.bytes(address.checked_add(len as u64)?, 1)?;
            if byte.first() == Some(&0) {
                return self.bytes(address, len);
            }
            len += 1;
            if len >= limit {
                return None;
            }
        }
    }
}

/// The memory below 4 GiB that the entry code's page tables map, less the null page.
///
/// For boot structures only: their addresses come from the loader, which is trusted with far more than that.
pub struct EarlyMemory(());

impl EarlyMemory {
    /// # Safety
    ///
    /// The first 4 GiB must be mapped to themselves for as long as the value is used, and what is read through it
    /// must not be written for as long as the program runs.
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

impl PhysicalMemory for EarlyMemory {
    fn bytes(&self, address: u64, len: usize) -> Option<&'static [u8]> {
        let end = address.checked_add(len as u64)?;
        if address == 0 || end > 1 << 32 {
            return None;
        }
        // SAFETY: identity-mapped and unchanging by the contract of `new`, not null, no overflow (checked above).
        Some(unsafe { core::slice::from_raw_parts(address as usize as *const u8, len) })
    }
}

#[cfg(test)]
pub(crate) mod test {
    use super::PhysicalMemory;

    /// Memory made of pieces at given addresses.
    pub(crate) struct Pieces(pub(crate) Vec<(u64, &'static [u8])>);

    impl PhysicalMemory for Pieces {
        fn bytes(&self, address: u64, len: usize) -> Option<&'static [u8]> {
            self.0.iter().find_map(|(start, piece)| {
                let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
                piece.get(offset..offset.checked_add(len)?)
            })
        }
    }
}

//! Guest RAM and the memory map that the guest is given.
//!
//! RAM of `size` bytes is one run from address 0 up to [`LOW_RAM_LIMIT`], and what is left starts again at 4 GiB. The
//! first MiB has the holes of a PC (VGA, firmware); behind them there is RAM too, where the ACPI tables live.

use heapless::Vec;
use monovisor_arch::layout::{HIGH_RAM_BASE, LOW_RAM_LIMIT};

/// First address of the extended BIOS data area: the end of conventional memory.
pub const EBDA: u64 = 0x9_fc00;
/// First address of the 128 KiB in which the ACPI tables are, as firmware on a PC has them.
pub const FIRMWARE: u64 = 0xe_0000;
/// End of the first MiB.
pub const MIB: u64 = 0x10_0000;

/// Most entries that [`map`] makes.
pub const MAX_ENTRIES: usize = 8;

/// What a range is (ACPI 6.5, table 15.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// RAM that the guest may use.
    Ram = 1,
    /// Keep off.
    Reserved = 2,
}

/// One range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First address.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
    /// What it is.
    pub kind: Kind,
}

/// The guest-physical ranges (first address, length in bytes) that hold `size` bytes of RAM. The second one is empty
/// where all of it fits below the hole.
pub const fn ram(size: u64) -> [(u64, u64); 2] {
    let low = if size > LOW_RAM_LIMIT { LOW_RAM_LIMIT } else { size };
    [(0, low), (HIGH_RAM_BASE, size - low)]
}

/// The memory map for `size` bytes of RAM.
pub fn map(size: u64) -> Vec<Entry, MAX_ENTRIES> {
    let [(_, low), (high, high_length)] = ram(size);
    let candidates = [
        Entry { address: 0, length: EBDA.min(low), kind: Kind::Ram },
        Entry { address: EBDA, length: 0xa_0000 - EBDA, kind: Kind::Reserved },
        Entry { address: FIRMWARE, length: MIB - FIRMWARE, kind: Kind::Reserved },
        Entry { address: MIB, length: low.saturating_sub(MIB), kind: Kind::Ram },
        Entry { address: high, length: high_length, kind: Kind::Ram },
    ];
    // Fewer than the capacity.
    candidates.into_iter().filter(|entry| entry.length != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_adds_up_and_ranges_do_not_touch_holes() {
        for size in [1 << 20, 64 << 20, LOW_RAM_LIMIT, LOW_RAM_LIMIT + 4096, 1 << 40] {
            let entries = map(size);
            let usable: u64 = entries.iter().filter(|e| e.kind == Kind::Ram).map(|e| e.length).sum();
            assert_eq!(usable, size - (MIB - EBDA));
            for pair in entries.windows(2) {
                assert!(pair[0].address + pair[0].length <= pair[1].address);
            }
            for entry in entries {
                let end = entry.address + entry.length;
                assert!(end <= LOW_RAM_LIMIT || entry.address >= HIGH_RAM_BASE);
            }
        }
    }
}

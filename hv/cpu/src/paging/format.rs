//! How the two vendors write an entry.

use bitflags::bitflags;

bitflags! {
    /// What a guest may do with a page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u8 {
        /// Read data.
        const READ = 1;
        /// Write data.
        const WRITE = 2;
        /// Fetch instructions.
        const EXECUTE = 4;
    }
}

/// Memory type of a mapping, before the guest's own PAT and MTRRs are combined with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryType {
    /// Cached; the guest's PAT decides what is less.
    WriteBack,
    /// Not cached: device memory.
    Uncacheable,
}

/// One vendor's entry format.
pub trait Format {
    /// Address bits of an entry.
    const ADDRESS_MASK: u64;

    /// An entry that points to a table at `address`.
    fn table(address: u64) -> u64;
    /// An entry that maps the page at `address`; `large` above level 1.
    fn leaf(address: u64, access: Access, memory: MemoryType, large: bool) -> u64;
    /// The entry maps something or points to a table.
    fn present(entry: u64) -> bool;
    /// The entry, which is present and above level 1, maps a page itself.
    fn is_large(entry: u64) -> bool;
    /// Rights of a leaf.
    fn access(entry: u64) -> Access;
    /// Memory type of a leaf.
    fn memory_type(entry: u64) -> MemoryType;

    /// Address in an entry for a page or table of `size` bytes.
    fn address(entry: u64, size: u64) -> u64 {
        entry & Self::ADDRESS_MASK & !(size - 1)
    }
}

/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bit 7: the entry maps a page (same place in both formats).
const LARGE: u64 = 1 << 7;

/// Intel's extended page tables (SDM vol. 3, 29.3.2, tables 29-1 to 29-7).
pub enum Ept {}

impl Ept {
    const READ: u64 = 1;
    const WRITE: u64 = 1 << 1;
    const EXECUTE: u64 = 1 << 2;
    /// Memory type, bits 5:3 of a leaf.
    const TYPE_SHIFT: u32 = 3;
    /// "Ignore PAT", bit 6 of a leaf: set for RAM. The host reaches the same RAM write-back, for rings and tables, and two
    /// memory types for one page are not to be used at once (SDM vol. 3, 12.12.4, 29.3.7.2); no device of the rig reads
    /// a guest's RAM behind the caches, so that a guest loses nothing by it.
    const IGNORE_PAT: u64 = 1 << 6;
    const TYPE_UC: u64 = 0;
    const TYPE_WB: u64 = 6;
}

impl Format for Ept {
    const ADDRESS_MASK: u64 = ADDRESS;

    fn table(address: u64) -> u64 {
        (address & ADDRESS) | Self::READ | Self::WRITE | Self::EXECUTE
    }

    fn leaf(address: u64, access: Access, memory: MemoryType, large: bool) -> u64 {
        let kind = match memory {
            MemoryType::WriteBack => Self::TYPE_WB | Self::IGNORE_PAT >> Self::TYPE_SHIFT,
            MemoryType::Uncacheable => Self::TYPE_UC,
        };
        // Access has the bits of the format.
        (address & ADDRESS)
            | u64::from(access.bits())
            | kind << Self::TYPE_SHIFT
            | if large { LARGE } else { 0 }
    }

    fn present(entry: u64) -> bool {
        entry & (Self::READ | Self::WRITE | Self::EXECUTE) != 0
    }

    fn is_large(entry: u64) -> bool {
        entry & LARGE != 0
    }

    fn access(entry: u64) -> Access {
        Access::from_bits_truncate(entry as u8 & 7)
    }

    fn memory_type(entry: u64) -> MemoryType {
        if entry >> Self::TYPE_SHIFT & 7 == Self::TYPE_WB {
            MemoryType::WriteBack
        } else {
            MemoryType::Uncacheable
        }
    }
}

/// AMD's nested page tables (APM vol. 2, 15.25): long-mode page tables, walked as user accesses (15.25.5), so that
/// every entry has U/S set. NX needs the host's EFER.NXE. The memory type is an index into the *host's* PAT
/// (15.25.8): 0 (write-back) and 3 (PCD and PWT, uncacheable), which every PAT in use keeps as after reset.
pub enum Npt {}

impl Npt {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 1 << 1;
    const USER: u64 = 1 << 2;
    const PWT: u64 = 1 << 3;
    const PCD: u64 = 1 << 4;
    const NX: u64 = 1 << 63;
}

impl Format for Npt {
    const ADDRESS_MASK: u64 = ADDRESS;

    fn table(address: u64) -> u64 {
        (address & ADDRESS) | Self::PRESENT | Self::WRITE | Self::USER
    }

    fn leaf(address: u64, access: Access, memory: MemoryType, large: bool) -> u64 {
        let mut entry = (address & ADDRESS) | Self::PRESENT | Self::USER;
        if access.contains(Access::WRITE) {
            entry |= Self::WRITE;
        }
        if !access.contains(Access::EXECUTE) {
            entry |= Self::NX;
        }
        if memory == MemoryType::Uncacheable {
            entry |= Self::PCD | Self::PWT;
        }
        if large {
            entry |= LARGE;
        }
        entry
    }

    fn present(entry: u64) -> bool {
        entry & Self::PRESENT != 0
    }

    fn is_large(entry: u64) -> bool {
        entry & LARGE != 0
    }

    fn access(entry: u64) -> Access {
        let mut access = Access::READ;
        access.set(Access::WRITE, entry & Self::WRITE != 0);
        access.set(Access::EXECUTE, entry & Self::NX == 0);
        access
    }

    fn memory_type(entry: u64) -> MemoryType {
        if entry & (Self::PCD | Self::PWT) == 0 { MemoryType::WriteBack } else { MemoryType::Uncacheable }
    }
}

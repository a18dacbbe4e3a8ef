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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Intel's extended page tables (SDM vol. 3, 29.3.2, tables 29-1 to 29-7).
    Ept,
    /// AMD's nested page tables (APM vol. 2, 15.25): long-mode page tables, walked as user accesses (15.25.5), so that
    /// every entry has U/S set. NX needs the host's EFER.NXE. The memory type is an index into the *host's* PAT
    /// (15.25.8): 0 (write-back) and 3 (PCD and PWT, uncacheable), which every PAT in use keeps as after reset.
    Npt,
}

impl Format {
    /// Address bits of an entry, the same in both formats.
    pub(super) const ADDRESS_MASK: u64 = ADDRESS;

    /// An entry that points to a table at `address`.
    pub(super) fn table(self, address: u64) -> u64 {
        let bits = match self {
            Self::Ept => Ept::READ | Ept::WRITE | Ept::EXECUTE,
            Self::Npt => Npt::PRESENT | Npt::WRITE | Npt::USER,
        };
        (address & ADDRESS) | bits
    }

    /// An entry that maps the page at `address`; `large` above level 1.
    pub(super) fn leaf(self, address: u64, access: Access, memory: MemoryType, large: bool) -> u64 {
        let bits = match self {
            Self::Ept => Ept::leaf(access, memory),
            Self::Npt => Npt::leaf(access, memory),
        };
        (address & ADDRESS) | bits | if large { LARGE } else { 0 }
    }

    /// The entry maps something or points to a table.
    pub(super) fn present(self, entry: u64) -> bool {
        let bits = match self {
            Self::Ept => Ept::READ | Ept::WRITE | Ept::EXECUTE,
            Self::Npt => Npt::PRESENT,
        };
        entry & bits != 0
    }

    /// The entry, which is present and above level 1, maps a page itself.
    pub(super) fn is_large(self, entry: u64) -> bool {
        entry & LARGE != 0
    }

    /// Rights of a leaf.
    pub(super) fn access(self, entry: u64) -> Access {
        match self {
            Self::Ept => Access::from_bits_truncate(entry as u8 & 7),
            Self::Npt => {
                let mut access = Access::READ;
                access.set(Access::WRITE, entry & Npt::WRITE != 0);
                access.set(Access::EXECUTE, entry & Npt::NX == 0);
                access
            }
        }
    }

    /// Memory type of a leaf.
    pub(super) fn memory_type(self, entry: u64) -> MemoryType {
        let cached = match self {
            Self::Ept => entry >> Ept::TYPE_SHIFT & 7 == Ept::TYPE_WB,
            Self::Npt => entry & (Npt::PCD | Npt::PWT) == 0,
        };
        if cached { MemoryType::WriteBack } else { MemoryType::Uncacheable }
    }

    /// Address in an entry for a page or table of `size` bytes.
    pub(super) fn address(self, entry: u64, size: u64) -> u64 {
        entry & Self::ADDRESS_MASK & !(size - 1)
    }
}

/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bit 7: the entry maps a page (same place in both formats).
const LARGE: u64 = 1 << 7;

/// Bits of [`Format::Ept`].
struct Ept;

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

    fn leaf(access: Access, memory: MemoryType) -> u64 {
        let kind = match memory {
            MemoryType::WriteBack => Self::TYPE_WB | Self::IGNORE_PAT >> Self::TYPE_SHIFT,
            MemoryType::Uncacheable => Self::TYPE_UC,
        };
        // Access has the bits of the format.
        u64::from(access.bits()) | kind << Self::TYPE_SHIFT
    }
}

/// Bits of [`Format::Npt`].
struct Npt;

impl Npt {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 1 << 1;
    const USER: u64 = 1 << 2;
    const PWT: u64 = 1 << 3;
    const PCD: u64 = 1 << 4;
    const NX: u64 = 1 << 63;

    fn leaf(access: Access, memory: MemoryType) -> u64 {
        let mut bits = Self::PRESENT | Self::USER;
        if access.contains(Access::WRITE) {
            bits |= Self::WRITE;
        }
        if !access.contains(Access::EXECUTE) {
            bits |= Self::NX;
        }
        if memory == MemoryType::Uncacheable {
            bits |= Self::PCD | Self::PWT;
        }
        bits
    }
}

//! What a loader leaves in guest RAM for a kernel that starts in protected mode: a GDT, tables, strings.
//!
//! It lies in conventional memory, out of the way of kernels and of what they put behind themselves; where a kernel
//! lies there itself, behind kernel and modules.
//!
//! | offset | what |
//! |---|---|
//! | 0x000 | GDT |
//! | 0x100 | the structure that the kernel gets the address of |
//! | 0x200 | memory map |
//! | 0x400 | list of modules |
//! | 0x1000 | strings, each ended by a zero |

use monovisor_arch::{GuestMemory, MemoryError};

use crate::e820;
use crate::entry::FLAT_GDT;
use crate::error::{LoadError, Problem};

/// Where it is by default.
const LOW: u64 = 0x1_0000;
/// Its size: room for a command line and module strings as long as the hypervisor's own command line, and more.
pub(crate) const SIZE: u64 = 0x1_0000;

pub(crate) const GDT: u64 = 0;
pub(crate) const INFORMATION: u64 = 0x100;
pub(crate) const MEMORY_MAP: u64 = 0x200;
pub(crate) const MODULES: u64 = 0x400;
const STRINGS: u64 = 0x1000;

/// Most modules of a multiboot kernel: what their list has room for.
pub const MAX_MODULES: usize = 32;

/// The area while it is being filled.
pub(crate) struct Area<'m, M> {
    memory: &'m M,
    base: u64,
    next: u64,
}

impl<'m, M: GuestMemory> Area<'m, M> {
    /// An area with the GDT and zeros. `lowest` is the first address that kernel and modules use, `end` the end of
    /// that; RAM below 4 GiB ends at `low`.
    pub fn new<'a>(memory: &'m M, lowest: u64, end: u64, low: u64) -> Result<Self, LoadError<'a>> {
        let base = if lowest >= LOW + SIZE { LOW } else { end.next_multiple_of(4096).max(e820::MIB) };
        if base + SIZE > low {
            let problem = Problem::TooLittleMemory { needed: base + SIZE, available: low };
            return Err(LoadError { option: "kernel", name: "", problem });
        }
        let area = Self { memory, base, next: base + STRINGS };
        memory.fill(base, 0, STRINGS).map_err(|error| memory_error(error.address))?;
        for (index, descriptor) in (0..).zip(FLAT_GDT) {
            area.put(GDT + 8 * index, &descriptor.to_le_bytes())?;
        }
        Ok(area)
    }

    /// Physical address of `offset`.
    pub const fn address(&self, offset: u64) -> u64 {
        self.base + offset
    }

    /// End of the area.
    pub const fn end(&self) -> u64 {
        self.base + SIZE
    }

    /// Writes `bytes` at `offset`.
    pub fn put<'a>(&self, offset: u64, bytes: &[u8]) -> Result<(), LoadError<'a>> {
        self.memory.write(self.base + offset, bytes).map_err(|error: MemoryError| memory_error(error.address))
    }

    /// Adds a string made of `parts`; returns its address.
    pub fn string<'a>(&mut self, option: &'static str, parts: &[&str]) -> Result<u64, LoadError<'a>> {
        let start = self.next;
        let limit = self.base + SIZE;
        for bytes in parts.iter().map(|part| part.as_bytes()).chain([&[0][..]]) {
            let end = self.next + bytes.len() as u64;
            if end > limit {
                let length = parts.iter().map(|part| part.len()).sum();
                let problem = Problem::LongCommandLine { length, limit: (limit - start) as usize };
                return Err(LoadError { option, name: "", problem });
            }
            self.memory.write(self.next, bytes).map_err(|error| memory_error(error.address))?;
            self.next = end;
        }
        Ok(start)
    }
}

/// RAM is missing at an address where every guest of enough memory has it.
pub(crate) const fn memory_error<'a>(address: u64) -> LoadError<'a> {
    LoadError { option: "m", name: "", problem: Problem::Memory(address) }
}

//! From the loader's hand-over to [`BootInfo`].
//!
//! Two loaders are understood: any that follows the PVH note (QEMU `-kernel`), and multiboot2 (GRUB, on BIOS and UEFI).
//! Their structures are parsed by plain functions over [`PhysicalMemory`].

mod entry;
pub mod memory_map;
pub mod multiboot2;
pub mod pvh;

use heapless::Vec;

pub use memory_map::{MAX_REGIONS, MemoryKind, MemoryMap, MemoryRegion};

use crate::physical::{PhysRange, PhysicalMemory};

/// Boot modules: one bundle, or one module a guest file. A machine with more files packs them into a bundle.
pub const MAX_MODULES: usize = 16;

/// Longest command line, of the image or of a module, in bytes: twice what Linux takes, so that `-append` fits.
pub const MAX_COMMAND_LINE: usize = 4096;

/// Ranges that boot structures occupy: information, map, module list, command lines.
pub const MAX_STRUCTURES: usize = 8 + MAX_MODULES;

/// Who started the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// A loader that follows the PVH note, such as QEMU with `-kernel`.
    Pvh,
    /// A multiboot2 loader, such as GRUB.
    Multiboot2,
}

/// A file that the loader put into memory.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Its contents. Never written, never carved.
    pub data: &'static [u8],
    /// Its command line, without the terminating zero.
    pub command_line: &'static [u8],
}

/// What the loader handed over.
#[derive(Debug)]
pub struct BootInfo {
    /// The image's command line, without the terminating zero. Empty where there is none.
    pub command_line: &'static [u8],
    /// Memory map: sorted, without overlaps.
    pub memory: MemoryMap,
    /// Modules in the loader's order.
    pub modules: Vec<Module, MAX_MODULES>,
    /// Physical address of the ACPI root pointer, where the loader knows it.
    pub rsdp: Option<u64>,
    /// Who started the image.
    pub loader: Loader,
    /// What the loader's own structures occupy, so that it is not carved.
    pub structures: Vec<PhysRange, MAX_STRUCTURES>,
    /// The first thing that is wrong with what was handed over, but that the machine can be started without: a module
    /// or a command line that is missing from the above.
    pub problem: Option<BootError>,
}

/// Why the hand-over could not be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// EAX, or the magic number at EBX, is that of no loader known here.
    UnknownLoader,
    /// A structure lies outside of memory that is mapped at this time, or is cut short.
    Truncated(&'static str),
    /// The loader gave no memory map.
    NoMemoryMap,
    /// More modules than [`MAX_MODULES`].
    TooManyModules,
    /// A command line longer than [`MAX_COMMAND_LINE`].
    CommandLineTooLong,
}

impl core::fmt::Display for BootError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownLoader => f.write_str("started by neither a PVH nor a multiboot2 loader"),
            Self::Truncated(what) => write!(f, "the loader's {what} is cut short or out of reach"),
            Self::NoMemoryMap => f.write_str("the loader gave no memory map"),
            Self::TooManyModules => {
                write!(f, "more than {MAX_MODULES} modules: put the files into one bundle")
            }
            Self::CommandLineTooLong => write!(f, "a command line is longer than {MAX_COMMAND_LINE} bytes"),
        }
    }
}

impl BootInfo {
    fn new(loader: Loader) -> Self {
        Self {
            command_line: &[],
            memory: MemoryMap::new(),
            modules: Vec::new(),
            rsdp: None,
            loader,
            structures: Vec::new(),
            problem: None,
        }
    }

    /// Notes that the loader's data occupy `range`.
    fn keep(&mut self, start: u64, len: u64) {
        if self.structures.push(PhysRange::new(start, len)).is_err() {
            self.note(BootError::TooManyModules);
        }
    }

    /// Notes what is wrong; the first counts.
    fn note(&mut self, problem: BootError) {
        self.problem.get_or_insert(problem);
    }

    /// Adds a module: `len` bytes at `start`.
    fn add_module(
        &mut self,
        start: u64,
        len: u64,
        command_line: &'static [u8],
        memory: &impl PhysicalMemory,
    ) {
        let data = match usize::try_from(len) {
            Ok(0) => Some(&[][..]),
            Ok(len) => memory.bytes(start, len),
            Err(_) => None,
        };
        match data {
            None => self.note(BootError::Truncated("module")),
            Some(data) if self.modules.push(Module { data, command_line }).is_err() => {
                self.note(BootError::TooManyModules);
            }
            Some(_) => {}
        }
    }

    /// Ranges that must stay readable as long as this is used.
    pub(crate) fn referred(&self) -> impl Iterator<Item = PhysRange> {
        let range = |bytes: &'static [u8]| PhysRange::new(bytes.as_ptr() as u64, bytes.len() as u64);
        let modules =
            self.modules.iter().flat_map(move |module| [range(module.data), range(module.command_line)]);
        modules.chain([range(self.command_line)]).filter(|range| range.len > 0)
    }

    /// Parses what the loader left at `address`, `magic` being the register or constant that tells the loaders apart.
    pub fn parse(magic: u32, address: u64, memory: &impl PhysicalMemory) -> Result<Self, BootError> {
        match magic {
            pvh::MAGIC => pvh::parse(address, memory),
            multiboot2::MAGIC => multiboot2::parse(address, memory),
            _ => Err(BootError::UnknownLoader),
        }
    }
}

//! Kernels of every kind: which one a file is, and its loading.
//!
//! The order is QEMU's: a bzImage first, then a multiboot header, then a PVH note, and what is left of ELF is taken
//! for a vmlinux.

use monovisor_arch::GuestMemory;

pub use crate::area::MAX_MODULES;
use crate::elf::Elf;
use crate::entry::EntryState;
use crate::error::{LoadError, Problem};
use crate::linux::{self, LinuxGuest};
use crate::{multiboot, pvh};

/// A file and the name that the operator gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// Name, for messages; a multiboot module's whole string.
    pub name: &'a str,
    /// Content.
    pub data: &'a [u8],
}

/// How a kernel is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Linux, compressed, by the 64-bit entry of the Linux boot protocol.
    BzImage,
    /// By the multiboot specification, version 0.6.96.
    Multiboot,
    /// By the entry point that an ELF note names (Xen's boot ABI for HVM guests, "PVH").
    Pvh,
    /// Linux, uncompressed, by the 64-bit entry of the Linux boot protocol.
    Vmlinux,
}

impl Kind {
    /// What `file` is.
    ///
    /// # Errors
    /// Where it is no kernel that can be started.
    pub fn of(file: &[u8]) -> Result<Self, Problem> {
        if linux::is_bzimage(file) {
            return Ok(Self::BzImage);
        }
        if multiboot::is_kernel(file) {
            return Ok(Self::Multiboot);
        }
        if !Elf::is_elf(file) {
            return Err(Problem::NotAKernel);
        }
        let elf = Elf::new(file)?;
        match pvh::entry(&elf) {
            Some(_) => Ok(Self::Pvh),
            None if elf.wide => Ok(Self::Vmlinux),
            None => Err(Problem::PlainElf32),
        }
    }

    /// The modules that the value of `-initrd` names, each as its file's name and its whole text. A multiboot kernel
    /// has several, separated by commas, and what follows a file's name belongs to the module's string; for all
    /// others the value is one name.
    pub fn modules<'a>(self, initrd: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let separator = move |character: char| self == Self::Multiboot && character == ',';
        initrd.split(separator).map(move |text| match text.split_once(' ') {
            Some((name, _)) if self == Self::Multiboot => (name, text),
            _ => (text, text),
        })
    }
}

/// A guest to be loaded.
#[derive(Clone, Copy, Debug)]
pub struct KernelGuest<'a, 'm> {
    /// `-kernel`.
    pub kernel: Image<'a>,
    /// `-initrd`: one file, or a multiboot kernel's modules.
    pub modules: &'m [Image<'a>],
    /// `-append`.
    pub command_line: &'a str,
    /// Guest RAM in bytes, as in [`crate::e820::ram`].
    pub memory_size: u64,
    /// Guest-physical address of the ACPI RSDP; 0 for none.
    pub rsdp: u64,
}

/// Fills guest RAM with kernel, modules and what the kernel is told, and says how its processor starts. All else of
/// guest RAM stays.
///
/// # Errors
/// One that names the option, where a file cannot be used or has no room.
pub fn load<'a>(memory: &impl GuestMemory, guest: &KernelGuest<'a, '_>) -> Result<EntryState, LoadError<'a>> {
    let KernelGuest { kernel, modules, command_line, memory_size, rsdp } = *guest;
    let kind = Kind::of(kernel.data).map_err(|problem| LoadError {
        option: "kernel",
        name: kernel.name,
        problem,
    })?;
    if modules.len() > if kind == Kind::Multiboot { MAX_MODULES } else { 1 } {
        let problem = Problem::TooManyModules(MAX_MODULES);
        return Err(LoadError { option: "initrd", name: "", problem });
    }
    match kind {
        Kind::Multiboot => multiboot::load(memory, guest),
        Kind::Pvh => pvh::load(memory, guest),
        Kind::BzImage | Kind::Vmlinux => {
            let initrd = modules.first().copied();
            linux::load(memory, &LinuxGuest { kernel, initrd, command_line, memory_size, rsdp })
        }
    }
}

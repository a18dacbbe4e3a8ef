//! Multiboot kernels (Multiboot Specification, version 0.6.96): 32-bit ELF files, and files of any format whose header
//! holds the load addresses.

use monovisor_arch::GuestMemory;

use crate::area::{self, Area};
use crate::bytes::u32_at;
use crate::e820;
use crate::elf::{Elf, Loaded, place};
use crate::entry::{self, EntryState};
use crate::error::{LoadError, Problem};
use crate::kernel::KernelGuest;

/// The header lies in so many bytes at the start of the file (3.1).
const SEARCH: usize = 8192;
const MAGIC: u32 = 0x1bad_b002;
/// What the kernel finds in EAX (3.2).
const LOADER_MAGIC: u32 = 0x2bad_b002;

/// Header flags (3.1.2). Modules are page-aligned, and there is memory information, whether asked for or not.
const PAGE_ALIGN: u32 = 1;
const MEMORY_INFO: u32 = 1 << 1;
/// Flags below this one are demands: whoever does not know one has to refuse the kernel.
const OPTIONAL: u32 = 1 << 16;
/// The header holds load addresses.
const ADDRESSES: u32 = 1 << 16;

/// Flags of the information (3.3): which of its fields are there.
mod info {
    pub const MEMORY: u32 = 1;
    pub const BOOT_DEVICE: u32 = 1 << 1;
    pub const COMMAND_LINE: u32 = 1 << 2;
    pub const MODULES: u32 = 1 << 3;
    pub const MEMORY_MAP: u32 = 1 << 6;
    pub const LOADER_NAME: u32 = 1 << 9;
}

/// Boot device: first hard disk, no partition. There is no BIOS that numbers them; QEMU says the same.
const BOOT_DEVICE: u32 = 0x8000_ffff;
/// Conventional memory in KiB, as a PC has it: up to the EBDA.
const LOWER_KIB: u32 = (e820::EBDA / 1024) as u32;
/// Size of a module's entry in the list.
const MODULE_ENTRY: u64 = 16;
/// Size of an entry of the memory map without the field that says it.
const MAP_ENTRY: u32 = 20;

/// Offset of the header in the file, and its flags.
fn header(file: &[u8]) -> Option<(usize, u32)> {
    (0..SEARCH - 11).step_by(4).take_while(|at| at + 12 <= file.len()).find_map(|at| {
        let field = |index: usize| u32_at(file, at + 4 * index);
        let (magic, flags, checksum) = (field(0)?, field(1)?, field(2)?);
        let sum = magic.wrapping_add(flags).wrapping_add(checksum);
        (magic == MAGIC && sum == 0).then_some((at, flags))
    })
}

/// The file has a multiboot header. One with a PVH note besides that is 64 bits wide is not meant to be started by it.
pub(crate) fn is_kernel(file: &[u8]) -> bool {
    let Some((_, flags)) = header(file) else { return false };
    let by_note = || Elf::new(file).is_ok_and(|elf| elf.wide && crate::pvh::entry(&elf).is_some());
    flags & ADDRESSES != 0 || !by_note()
}

pub(crate) fn load<'a>(
    memory: &impl GuestMemory,
    guest: &KernelGuest<'a, '_>,
) -> Result<EntryState, LoadError<'a>> {
    let [(_, low), _] = e820::ram(guest.memory_size);
    let file = guest.kernel.data;
    let loaded = load_kernel(memory, file, low).map_err(|problem| LoadError {
        option: "kernel",
        name: guest.kernel.name,
        problem,
    })?;
    let start = loaded.entry.unwrap_or_default();

    // Modules come behind the kernel, each at the start of a page.
    let mut next = loaded.end.max(e820::MIB).next_multiple_of(4096);
    let mut places = [(0u32, 0u32); area::MAX_MODULES];
    for (module, place) in guest.modules.iter().zip(&mut places) {
        let error = |problem| LoadError { option: "initrd", name: module.name, problem };
        let length = module.data.len() as u64;
        if length > low.saturating_sub(next) {
            return Err(error(Problem::NoRoomForInitrd { length, room: low.saturating_sub(next) }));
        }
        memory.write(next, module.data).map_err(|e| error(Problem::Memory(e.address)))?;
        // Below 4 GiB, as all of `low` is.
        *place = (next as u32, (next + length) as u32);
        next = (next + length).next_multiple_of(4096);
    }

    let mut area = Area::new(memory, loaded.lowest, next, low)?;
    let mut flags =
        info::MEMORY | info::BOOT_DEVICE | info::COMMAND_LINE | info::MEMORY_MAP | info::LOADER_NAME;
    // The kernel's name comes first, as argv[0].
    let space = if guest.command_line.is_empty() { "" } else { " " };
    let command_line = area.string("append", &[guest.kernel.name, space, guest.command_line])?;
    let loader = area.string("append", &["Monovisor"])?;
    if !guest.modules.is_empty() {
        flags |= info::MODULES;
    }
    for (index, (module, (from, to))) in (0..).zip(guest.modules.iter().zip(places)) {
        let string = area.string("initrd", &[module.name])?;
        for (offset, field) in [(0, from), (4, to), (8, string as u32)] {
            area.put(area::MODULES + MODULE_ENTRY * index + offset, &field.to_le_bytes())?;
        }
    }
    let map = e820::map(guest.memory_size);
    let stride = u64::from(MAP_ENTRY) + 4;
    for (place, entry) in (area::MEMORY_MAP..).step_by(stride as usize).zip(&map) {
        area.put(place, &MAP_ENTRY.to_le_bytes())?;
        area.put(place + 4, &entry.address.to_le_bytes())?;
        area.put(place + 12, &entry.length.to_le_bytes())?;
        area.put(place + 20, &(entry.kind as u32).to_le_bytes())?;
    }
    let upper = (low.saturating_sub(e820::MIB) / 1024) as u32;
    for (offset, field) in [
        (0, flags),
        (4, LOWER_KIB),
        (8, upper),
        (12, BOOT_DEVICE),
        (16, command_line as u32),
        (20, guest.modules.len() as u32),
        (24, area.address(area::MODULES) as u32),
        (44, map.len() as u32 * stride as u32),
        (48, area.address(area::MEMORY_MAP) as u32),
        (64, loader as u32),
    ] {
        area.put(area::INFORMATION + offset, &field.to_le_bytes())?;
    }
    let state = entry::protected_mode(start, area.address(area::GDT));
    Ok(EntryState { rax: LOADER_MAGIC.into(), rbx: area.address(area::INFORMATION), ..state })
}

fn load_kernel(memory: &impl GuestMemory, file: &[u8], low: u64) -> Result<Loaded, Problem> {
    let (at, flags) = header(file).ok_or(Problem::NotAKernel)?;
    let unknown = flags & (OPTIONAL - 1) & !(PAGE_ALIGN | MEMORY_INFO);
    if unknown != 0 {
        return Err(Problem::MultibootFlags(unknown));
    }
    if flags & ADDRESSES != 0 {
        return load_by_addresses(memory, file, at, low);
    }
    let elf = if Elf::is_elf(file) { Elf::new(file)? } else { return Err(Problem::NotAKernel) };
    if elf.wide {
        return Err(Problem::Multiboot64);
    }
    let loaded = elf.load(memory, low)?;
    if loaded.entry.is_some() { Ok(loaded) } else { Err(Problem::NoEntry) }
}

/// Loads by the address fields of the header at `at` (3.1.3).
fn load_by_addresses(memory: &impl GuestMemory, file: &[u8], at: usize, low: u64) -> Result<Loaded, Problem> {
    let field = |index: usize| u32_at(file, at + 12 + 4 * index).map(u64::from).ok_or(Problem::Truncated);
    let (header, load, load_end, bss_end, entry) = (field(0)?, field(1)?, field(2)?, field(3)?, field(4)?);
    // The file is loaded from where `load_addr` is in it, which the header's own place tells.
    let before = header.checked_sub(load).ok_or(Problem::BadHeader("load_addr"))?;
    let from = (at as u64).checked_sub(before).ok_or(Problem::BadHeader("header_addr"))?;
    let rest = file.get(from as usize..).ok_or(Problem::Truncated)?;
    let text = match load_end {
        // "If this field is zero, the boot loader assumes that the text and data segments occupy the whole file."
        0 => rest,
        _ => {
            let length = load_end.checked_sub(load).ok_or(Problem::BadHeader("load_end_addr"))?;
            rest.get(..length as usize).ok_or(Problem::Truncated)?
        }
    };
    let length = text.len() as u64;
    let bss = match bss_end {
        0 => 0,
        _ => bss_end.checked_sub(load + length).ok_or(Problem::BadHeader("bss_end_addr"))?,
    };
    let end = place(load, length + bss, low)?;
    if !(load..end).contains(&entry) {
        return Err(Problem::BadHeader("entry_addr"));
    }
    memory
        .write(load, text)
        .and_then(|()| memory.fill(load + length, 0, bss))
        .map_err(|error| Problem::Memory(error.address))?;
    Ok(Loaded { entry: Some(entry), lowest: load, end })
}

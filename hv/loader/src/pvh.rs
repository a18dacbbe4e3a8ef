//! PVH: the direct boot of an ELF kernel in 32-bit protected mode (Xen, docs/misc/pvh.pandoc and
//! xen/include/public/arch-x86/hvm/start_info.h).

use monovisor_arch::GuestMemory;

use crate::area::{self, Area};
use crate::bytes::{u32_at, u64_at};
use crate::e820;
use crate::elf::Elf;
use crate::entry::{self, EntryState};
use crate::error::{LoadError, Problem};
use crate::kernel::KernelGuest;

/// XEN_ELFNOTE_PHYS32_ENTRY.
const PHYS32_ENTRY: u32 = 18;
/// `hvm_start_info.magic`.
const MAGIC: u32 = 0x336e_c578;
/// Version of the structure: 1 is the one with a memory map.
const VERSION: u32 = 1;
/// Size of an entry of the memory map.
const MAP_ENTRY: u64 = 24;

/// Physical address of the 32-bit entry point, where the file has a note that says so.
pub(crate) fn entry(elf: &Elf<'_>) -> Option<u64> {
    let content = elf.note(b"Xen\0", PHYS32_ENTRY)?;
    match content.len() {
        4 => u32_at(content, 0).map(u64::from),
        _ => u64_at(content, 0),
    }
}

pub(crate) fn load<'a>(
    memory: &impl GuestMemory,
    guest: &KernelGuest<'a, '_>,
) -> Result<EntryState, LoadError<'a>> {
    let kernel_error = |problem| LoadError { option: "kernel", name: guest.kernel.name, problem };
    let [(_, low), _] = e820::ram(guest.memory_size);
    let elf = Elf::new(guest.kernel.data).map_err(kernel_error)?;
    let loaded = elf.load(memory, low).map_err(kernel_error)?;
    let start = entry(&elf).filter(|start| (loaded.lowest..loaded.end).contains(start));
    let start = start.ok_or(kernel_error(Problem::NoEntry))?;

    let mut area = Area::new(memory, loaded.lowest, loaded.end, low)?;
    let command_line = area.string("append", &[guest.command_line])?;
    // hvm_modlist_entry: address, size, command line, reserved.
    if let Some(initrd) = guest.modules.first() {
        let error = |problem| LoadError { option: "initrd", name: initrd.name, problem };
        let floor = loaded.end.max(e820::MIB).next_multiple_of(4096).max(area.end());
        let length = initrd.data.len() as u64;
        let problem = Problem::NoRoomForInitrd { length, room: low.saturating_sub(floor) };
        let address = low.checked_sub(length).map(|address| address & !0xfff);
        let address = address.filter(|address| *address >= floor).ok_or(error(problem))?;
        memory.write(address, initrd.data).map_err(|e| error(Problem::Memory(e.address)))?;
        area.put(area::MODULES, &address.to_le_bytes())?;
        area.put(area::MODULES + 8, &length.to_le_bytes())?;
    }
    let map = e820::map(guest.memory_size);
    for (place, entry) in (area::MEMORY_MAP..).step_by(MAP_ENTRY as usize).zip(&map) {
        area.put(place, &entry.address.to_le_bytes())?;
        area.put(place + 8, &entry.length.to_le_bytes())?;
        area.put(place + 16, &(entry.kind as u32).to_le_bytes())?;
    }
    let modules = guest.modules.len().min(1) as u32;
    let info = area::INFORMATION;
    for (offset, field) in [(0, MAGIC), (4, VERSION), (12, modules), (48, map.len() as u32)] {
        area.put(info + offset, &field.to_le_bytes())?;
    }
    let list = if modules == 0 { 0 } else { area.address(area::MODULES) };
    let map = area.address(area::MEMORY_MAP);
    for (offset, field) in [(16, list), (24, command_line), (32, guest.rsdp), (40, map)] {
        area.put(info + offset, &field.to_le_bytes())?;
    }
    Ok(EntryState { rbx: area.address(info), ..entry::protected_mode(start, area.address(area::GDT)) })
}

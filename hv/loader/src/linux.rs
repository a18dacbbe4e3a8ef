//! The Linux boot protocol (Documentation/arch/x86/boot.rst of the kernel), 64-bit entry.
//!
//! A bzImage of protocol 2.12 or later, or an uncompressed vmlinux (ELF64), is copied to guest RAM together with
//! its initrd, command line and boot parameters ("zero page"), and the processor state for the entry is returned.
//!
//! What is where below 1 MiB, beside the ACPI tables:
//!
//! | address | what |
//! |---|---|
//! | 0x1000 | GDT |
//! | 0x7000 | boot parameters |
//! | 0x8000 | page tables: identity for the first 4 GiB, 2 MiB pages |
//! | 0x20000 | command line |

use monovisor_arch::state::bits;
use monovisor_arch::{Control, DescriptorTable, GuestMemory, MemoryError, Segment};

use crate::area::memory_error;
use crate::bytes::{bytes_at, u16_at, u32_at, u64_at};
use crate::e820;
use crate::elf::Elf;
use crate::entry::EntryState;
use crate::error::{LoadError, Problem};
use crate::kernel::Image;

const GDT: u64 = 0x1000;
const BOOT_PARAMS: u64 = 0x7000;
const PAGE_TABLES: u64 = 0x8000;
const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line in bytes: the room at [`COMMAND_LINE`], less than any kernel's own limit of 2047 and up to
/// where the EBDA starts.
const COMMAND_LINE_LIMIT: usize = 0xffff;

/// Offsets in the boot parameters and in the file (boot.rst, "The Real-Mode Kernel Header"; zero-page.rst).
mod offset {
    pub const ACPI_RSDP: usize = 0x070;
    pub const E820_ENTRIES: usize = 0x1e8;
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const BOOT_FLAG: usize = 0x1fe;
    pub const JUMP: usize = 0x201;
    pub const HEADER: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const INITRD_ADDR_MAX: usize = 0x22c;
    pub const KERNEL_ALIGNMENT: usize = 0x230;
    pub const RELOCATABLE: usize = 0x234;
    pub const XLOADFLAGS: usize = 0x236;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
    pub const E820_TABLE: usize = 0x2d0;
}

const MAGIC: &[u8] = b"HdrS";
/// The kernel has a 64-bit entry point at 0x200 (xloadflags bit 0).
const XLF_KERNEL_64: u16 = 1;
/// The protected-mode code is at 1 MiB or above (loadflags bit 0).
const LOADED_HIGH: u8 = 1;
/// Loader type "undefined".
const LOADER: u8 = 0xff;
/// initrd_addr_max where the header has none.
const INITRD_LIMIT: u64 = 0x7fff_ffff;

/// A Linux guest to be loaded.
#[derive(Clone, Copy, Debug)]
pub struct LinuxGuest<'a> {
    /// `-kernel`.
    pub kernel: Image<'a>,
    /// `-initrd`.
    pub initrd: Option<Image<'a>>,
    /// `-append`.
    pub command_line: &'a str,
    /// Guest RAM in bytes, as in [`e820::ram`].
    pub memory_size: u64,
    /// Guest-physical address of the ACPI RSDP; 0 for none.
    pub rsdp: u64,
}

/// Where the kernel has come to lie.
struct Placed {
    /// Physical address of the 64-bit entry.
    entry: u64,
    /// End of what it uses until it has read the memory map.
    end: u64,
    /// Highest address that the initrd may use.
    initrd_max: u64,
    /// Longest command line.
    command_line: usize,
}

/// The boot parameters being made.
struct ZeroPage([u8; 4096]);

impl ZeroPage {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        if let Some(place) = offset.checked_add(bytes.len()).and_then(|end| self.0.get_mut(offset..end)) {
            place.copy_from_slice(bytes);
        }
    }
}

/// The file has the magic numbers of a bzImage.
pub(crate) fn is_bzimage(data: &[u8]) -> bool {
    bytes_at::<4>(data, offset::HEADER).is_some_and(|magic| magic == MAGIC)
        && u16_at(data, offset::BOOT_FLAG) == Some(0xaa55)
}

/// Loads a Linux guest: kernel, initrd, command line, boot parameters, page tables. All else of guest RAM stays.
pub fn load<'a>(memory: &impl GuestMemory, guest: &LinuxGuest<'a>) -> Result<EntryState, LoadError<'a>> {
    let kernel_error = |problem| LoadError { option: "kernel", name: guest.kernel.name, problem };
    let [(_, low), _] = e820::ram(guest.memory_size);
    let mut page = ZeroPage([0; 4096]);
    let data = guest.kernel.data;
    let placed = if Elf::is_elf(data) {
        load_elf(memory, data, low, &mut page)
    } else if is_bzimage(data) {
        load_bzimage(memory, data, low, &mut page)
    } else {
        Err(Problem::NotAKernel)
    }
    .map_err(kernel_error)?;

    let command_line = guest.command_line.as_bytes();
    let limit = placed.command_line.min(COMMAND_LINE_LIMIT);
    if command_line.len() > limit {
        let problem = Problem::LongCommandLine { length: command_line.len(), limit };
        return Err(LoadError { option: "append", name: "", problem });
    }
    let write =
        |address, data: &[u8]| memory.write(address, data).map_err(|error| memory_error(error.address));
    write(COMMAND_LINE, command_line)?;
    write(COMMAND_LINE + command_line.len() as u64, &[0])?;
    page.put(offset::CMD_LINE_PTR, &(COMMAND_LINE as u32).to_le_bytes());

    if let Some(initrd) = guest.initrd {
        let error = |problem| LoadError { option: "initrd", name: initrd.name, problem };
        let top = low.min(placed.initrd_max.saturating_add(1));
        let length = initrd.data.len() as u64;
        let floor = placed.end.next_multiple_of(4096);
        let room = (top & !0xfff).saturating_sub(floor);
        // Two GiB and more do not fit below initrd_addr_max: the sizes below have 32 bits.
        let address = match top.checked_sub(length) {
            Some(address) if address & !0xfff >= floor => address & !0xfff,
            _ => return Err(error(Problem::NoRoomForInitrd { length, room })),
        };
        memory.write(address, initrd.data).map_err(|e| error(Problem::Memory(e.address)))?;
        page.put(offset::RAMDISK_IMAGE, &(address as u32).to_le_bytes());
        page.put(offset::RAMDISK_SIZE, &(length as u32).to_le_bytes());
    }

    page.put(offset::TYPE_OF_LOADER, &[LOADER]);
    page.put(offset::ACPI_RSDP, &guest.rsdp.to_le_bytes());
    let map = e820::map(guest.memory_size);
    page.put(offset::E820_ENTRIES, &[map.len() as u8]);
    for (index, entry) in map.iter().enumerate() {
        let place = offset::E820_TABLE + 20 * index;
        page.put(place, &entry.address.to_le_bytes());
        page.put(place + 8, &entry.length.to_le_bytes());
        page.put(place + 16, &(entry.kind as u32).to_le_bytes());
    }
    write(BOOT_PARAMS, &page.0)?;
    let control = long_mode(memory).map_err(|error| memory_error(error.address))?;
    // boot.rst, "64-bit Boot Protocol": __BOOT_CS 0x10 and __BOOT_DS 0x18, flat; RSI at the boot parameters.
    Ok(EntryState {
        rip: placed.entry,
        rax: 0,
        rbx: 0,
        rsi: BOOT_PARAMS,
        control,
        gdtr: DescriptorTable { base: GDT, limit: 4 * 8 - 1 },
        code: Segment { selector: 0x10, base: 0, limit: u32::MAX, access: 0xa09b },
        data: Segment { selector: 0x18, base: 0, limit: u32::MAX, access: 0xc093 },
    })
}

/// Writes the GDT and identity page tables for the first 4 GiB; returns the control registers that go with them.
fn long_mode(memory: &impl GuestMemory) -> Result<Control, MemoryError> {
    // Null, unused, 64-bit code, data; accessed, so that no CPU has to write here (SDM vol. 3, 3.4.5).
    let descriptors = [0u64, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    for (address, descriptor) in (GDT..).step_by(8).zip(descriptors) {
        memory.write(address, &descriptor.to_le_bytes())?;
    }
    // PML4, PDPT, four page directories. Present, writable, accessed; the leaves dirty and 2 MiB large.
    let pdpt = PAGE_TABLES + 0x1000;
    memory.fill(PAGE_TABLES, 0, 0x2000)?;
    memory.write(PAGE_TABLES, &(pdpt | 0x23).to_le_bytes())?;
    for gib in 0..4u64 {
        let directory = PAGE_TABLES + 0x2000 + 0x1000 * gib;
        memory.write(pdpt + 8 * gib, &(directory | 0x23).to_le_bytes())?;
        let mut page = [0u8; 4096];
        for (slot, entry) in page.chunks_exact_mut(8).zip((gib << 30..).step_by(2 << 20)) {
            slot.copy_from_slice(&(entry | 0xe3).to_le_bytes());
        }
        memory.write(directory, &page)?;
    }
    Ok(Control {
        cr0: bits::CR0_PE | bits::CR0_ET | bits::CR0_NE | bits::CR0_PG,
        cr2: 0,
        cr3: PAGE_TABLES,
        cr4: bits::CR4_PAE,
        efer: bits::EFER_LME | bits::EFER_LMA,
    })
}

fn load_bzimage(
    memory: &impl GuestMemory,
    data: &[u8],
    low: u64,
    page: &mut ZeroPage,
) -> Result<Placed, Problem> {
    let version = u16_at(data, offset::VERSION).ok_or(Problem::Truncated)?;
    if version < 0x20c {
        return Err(Problem::OldProtocol(version));
    }
    if u16_at(data, offset::XLOADFLAGS).ok_or(Problem::Truncated)? & XLF_KERNEL_64 == 0 {
        return Err(Problem::NoEntry64);
    }
    let setup_sects = match data.get(offset::SETUP_SECTS) {
        Some(0) => 4,
        Some(count) => usize::from(*count),
        None => return Err(Problem::Truncated),
    };
    let kernel = data.get((setup_sects + 1) * 512..).ok_or(Problem::Truncated)?;
    // The 64-bit entry is at 0x200 and the code before it is the 32-bit entry.
    if kernel.len() <= 0x200 {
        return Err(Problem::Truncated);
    }
    let alignment = u64::from(u32_at(data, offset::KERNEL_ALIGNMENT).ok_or(Problem::Truncated)?);
    if !alignment.is_power_of_two() || alignment < 4096 {
        return Err(Problem::BadHeader("kernel_alignment"));
    }
    let init_size = u64::from(u32_at(data, offset::INIT_SIZE).ok_or(Problem::Truncated)?);
    let preferred = u64_at(data, offset::PREF_ADDRESS).ok_or(Problem::Truncated)?;
    if preferred < e820::MIB || preferred % 4096 != 0 {
        return Err(Problem::BadHeader("pref_address"));
    }
    let need = init_size.max(kernel.len() as u64);
    let fits = |address: u64| address.checked_add(need).is_some_and(|end| end <= low);
    let lowest = e820::MIB.next_multiple_of(alignment);
    let relocatable = data.get(offset::RELOCATABLE).is_some_and(|flag| *flag != 0);
    // The kernel moves itself from a lower address up to pref_address (boot.rst, "pref_address"), so only what is
    // relocatable can go elsewhere, and that with less memory.
    let address = match (fits(preferred), relocatable && fits(lowest)) {
        (true, _) => preferred,
        (false, true) => lowest,
        (false, false) => {
            let base = if relocatable { lowest } else { preferred };
            return Err(Problem::TooLittleMemory { needed: base.saturating_add(need), available: low });
        }
    };
    memory.write(address, kernel).map_err(|error| Problem::Memory(error.address))?;

    // The header ends where the jump at 0x200 goes to.
    let end = offset::HEADER + usize::from(*data.get(offset::JUMP).ok_or(Problem::Truncated)?);
    page.put(offset::SETUP_SECTS, data.get(offset::SETUP_SECTS..end).ok_or(Problem::Truncated)?);
    let flags = *data.get(offset::LOADFLAGS).ok_or(Problem::Truncated)?;
    page.put(offset::LOADFLAGS, &[flags | LOADED_HIGH]);
    page.put(offset::CODE32_START, &(address as u32).to_le_bytes());
    Ok(Placed {
        entry: address + 0x200,
        end: address + need,
        initrd_max: u32_at(data, offset::INITRD_ADDR_MAX).map_or(INITRD_LIMIT, u64::from),
        command_line: u32_at(data, offset::CMDLINE_SIZE).unwrap_or(255) as usize,
    })
}

fn load_elf(
    memory: &impl GuestMemory,
    data: &[u8],
    low: u64,
    page: &mut ZeroPage,
) -> Result<Placed, Problem> {
    let elf = Elf::new(data)?;
    if !elf.wide {
        return Err(Problem::NoEntry64);
    }
    let loaded = elf.load(memory, low)?;
    if loaded.lowest < e820::MIB {
        return Err(Problem::BadHeader("p_paddr"));
    }
    let entry = loaded.entry.ok_or(Problem::NoEntry)?;
    // There is no setup header in the file: the fields that the kernel reads from one.
    page.put(offset::BOOT_FLAG, &0xaa55u16.to_le_bytes());
    page.put(offset::HEADER, MAGIC);
    page.put(offset::VERSION, &0x20cu16.to_le_bytes());
    page.put(offset::LOADFLAGS, &[LOADED_HIGH]);
    page.put(offset::KERNEL_ALIGNMENT, &(2u32 << 20).to_le_bytes());
    Ok(Placed { entry, end: loaded.end, initrd_max: INITRD_LIMIT, command_line: 2047 })
}

//! ELF executables, 32 and 64 bits wide (System V ABI, chapters 4 and 5): headers, segments, notes.

use monovisor_arch::GuestMemory;

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::e820;
use crate::error::Problem;

/// Program headers that are looked at; a vmlinux has five.
const MAX_SEGMENTS: u16 = 64;
/// Notes of a segment that are looked at; a vmlinux has some twenty.
const MAX_NOTES: usize = 256;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// e_machine: Intel 80386.
const EM_386: u16 = 3;
/// e_machine: x86-64.
const EM_X86_64: u16 = 62;

/// A file whose headers are those of an x86 executable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elf<'a> {
    data: &'a [u8],
    /// Class and machine are the 64-bit ones.
    pub wide: bool,
    entry: u64,
    /// Offset of the program headers, size of one, and their number.
    headers: (usize, usize, u16),
}

/// One program header.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    offset: usize,
    virt: u64,
    phys: u64,
    in_file: u64,
    in_memory: u64,
}

/// Where an executable has come to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Physical address of its entry point, where that lies in a segment.
    pub entry: Option<u64>,
    /// First address used.
    pub lowest: u64,
    /// End of what is used.
    pub end: u64,
}

impl<'a> Elf<'a> {
    /// The file starts as an ELF file does.
    pub fn is_elf(data: &[u8]) -> bool {
        data.starts_with(b"\x7fELF")
    }

    /// Checks the file's header.
    pub fn new(data: &'a [u8]) -> Result<Self, Problem> {
        let field16 = |offset| u16_at(data, offset).ok_or(Problem::Truncated);
        // e_ident: class, little-endian; e_type ET_EXEC or ET_DYN; e_machine.
        let class = *data.get(4).ok_or(Problem::Truncated)?;
        let wide = match (class, field16(18)?) {
            (1, EM_386) => false,
            (2, EM_X86_64) => true,
            _ => return Err(Problem::WrongElf),
        };
        if data.get(5) != Some(&1) || !matches!(field16(16)?, 2 | 3) {
            return Err(Problem::WrongElf);
        }
        let (entry, table, size, count) = if wide {
            (u64_at(data, 24), u64_at(data, 32), field16(54)?, field16(56)?)
        } else {
            (u32_at(data, 24).map(u64::from), u32_at(data, 28).map(u64::from), field16(42)?, field16(44)?)
        };
        let (entry, table) = (entry.ok_or(Problem::Truncated)?, table.ok_or(Problem::Truncated)?);
        let size = usize::from(size);
        if size < header_size(wide) || count > MAX_SEGMENTS {
            return Err(Problem::BadHeader("e_phentsize or e_phnum"));
        }
        Ok(Self { data, wide, entry, headers: (table as usize, size, count) })
    }

    fn segments(&self) -> impl Iterator<Item = Result<Segment, Problem>> + use<'a> {
        let Self { data, wide, headers: (table, size, count), .. } = *self;
        (0..usize::from(count)).map(move |index| {
            let header = table
                .checked_add(index * size)
                .and_then(|from| data.get(from..from.checked_add(header_size(wide))?))
                .ok_or(Problem::Truncated)?;
            let kind = u32_at(header, 0).unwrap_or(0);
            // Elf32_Phdr and Elf64_Phdr: p_offset, p_vaddr, p_paddr, p_filesz, p_memsz.
            let [offset, virt, phys, in_file, in_memory] = if wide {
                [8, 16, 24, 32, 40].map(|at| u64_at(header, at).unwrap_or(0))
            } else {
                [4, 8, 12, 16, 20].map(|at| u32_at(header, at).unwrap_or(0).into())
            };
            Ok(Segment { kind, offset: offset as usize, virt, phys, in_file, in_memory })
        })
    }

    fn content(&self, segment: &Segment) -> Result<&'a [u8], Problem> {
        let end = segment.offset.checked_add(segment.in_file as usize);
        end.and_then(|end| self.data.get(segment.offset..end)).ok_or(Problem::Truncated)
    }

    /// The content of the note of this `name` (with its final zero) and `kind`.
    pub fn note(&self, name: &[u8], kind: u32) -> Option<&'a [u8]> {
        for segment in self.segments().flatten().filter(|segment| segment.kind == PT_NOTE) {
            let mut rest = self.content(&segment).ok()?;
            for _ in 0..MAX_NOTES {
                let (Some(name_size), Some(size), Some(note_kind)) =
                    (u32_at(rest, 0), u32_at(rest, 4), u32_at(rest, 8))
                else {
                    break;
                };
                // Name and content are each padded to four bytes.
                let from = 12 + (name_size as usize).next_multiple_of(4);
                let to = from + size as usize;
                let Some(content) = rest.get(from..to) else { break };
                if note_kind == kind && rest.get(12..12 + name_size as usize) == Some(name) {
                    return Some(content);
                }
                rest = rest.get(to.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        None
    }

    /// Copies all segments to the physical addresses that they ask for, in guest RAM of which `low` bytes lie below
    /// 4 GiB. What is there already is overwritten, but for the ROM area of the first MiB, which is refused.
    pub fn load(&self, memory: &impl GuestMemory, low: u64) -> Result<Loaded, Problem> {
        let mut loaded = Loaded { entry: None, lowest: u64::MAX, end: 0 };
        for segment in self.segments() {
            let segment = segment?;
            let Segment { virt, phys, in_file, in_memory, .. } = segment;
            if segment.kind != PT_LOAD || in_memory == 0 {
                continue;
            }
            if in_file > in_memory {
                return Err(Problem::BadHeader("p_filesz"));
            }
            let end = place(phys, in_memory, low)?;
            let bytes = self.content(&segment)?;
            memory
                .write(phys, bytes)
                .and_then(|()| memory.fill(phys + in_file, 0, in_memory - in_file))
                .map_err(|error| Problem::Memory(error.address))?;
            loaded.lowest = loaded.lowest.min(phys);
            loaded.end = loaded.end.max(end);
            // Most kernels give their entry as a physical address, some as a virtual one.
            if self.entry.wrapping_sub(virt) < in_memory {
                loaded.entry = Some(phys + (self.entry - virt));
            } else if loaded.entry.is_none() && self.entry.wrapping_sub(phys) < in_memory {
                loaded.entry = Some(self.entry);
            }
        }
        if loaded.end == 0 { Err(Problem::NoEntry) } else { Ok(loaded) }
    }
}

/// Size of a program header in bytes.
const fn header_size(wide: bool) -> usize {
    if wide { 56 } else { 32 }
}

/// Checks that `length` bytes of a kernel fit at `address`: in conventional memory, or from 1 MiB up to `low`. Returns
/// their end.
pub(crate) fn place(address: u64, length: u64, low: u64) -> Result<u64, Problem> {
    let end = address.checked_add(length).ok_or(Problem::BadHeader("load address or size"))?;
    if address < e820::MIB && end > e820::EBDA {
        return Err(Problem::InRom(address.max(e820::EBDA)));
    }
    if end > low {
        return Err(Problem::TooLittleMemory { needed: end, available: low });
    }
    Ok(end)
}

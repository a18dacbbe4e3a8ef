//! Kernel files in other formats, made of our guests' ELF64 ones.

use anyhow::{Context, Result, ensure};

/// Size of an ELF32 header and of a program header of it.
const HEADER: usize = 52;
const SEGMENT: usize = 32;
/// Multiboot header: magic, flags (pages, memory information), checksum.
const MULTIBOOT: [u32; 3] = [0x1bad_b002, 3, 0u32.wrapping_sub(0x1bad_b002 + 3)];
/// What is before the entry point in a guest's PVH note: sizes of name and content, kind, name.
const NOTE: [u8; 16] = *b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0";

fn u64_at(file: &[u8], at: usize) -> Result<u64> {
    let bytes = file.get(at..at + 8).context("the file is cut off")?;
    Ok(u64::from_le_bytes(bytes.try_into()?))
}

fn note(elf64: &[u8]) -> Result<usize> {
    elf64.windows(NOTE.len()).position(|window| window == NOTE).context("the guest has no PVH note")
}

/// The same file without its PVH note: a loader takes it for a vmlinux.
pub fn without_note(elf64: &[u8]) -> Result<Vec<u8>> {
    let at = note(elf64)?;
    let mut file = elf64.to_vec();
    file[at + 12..at + 16].copy_from_slice(b"xen\0");
    Ok(file)
}

/// A multiboot kernel, ELF32, that starts where PVH would.
pub fn multiboot(elf64: &[u8]) -> Result<Vec<u8>> {
    let entry = u64_at(elf64, note(elf64)? + NOTE.len())? as u32;
    let (table, count) = (u64_at(elf64, 32)? as usize, usize::from(elf64[56]));
    // PT_LOAD: offset, physical address, length in the file and in memory.
    let mut segments = Vec::new();
    for header in elf64[table..].chunks_exact(56).take(count).filter(|header| header[..4] == [1, 0, 0, 0]) {
        segments.push([8, 24, 32, 40].map(|at| u64_at(header, at).map_or(0, |value| value as usize)));
    }
    ensure!(!segments.is_empty(), "the guest has no segments");
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2u16, 3].map(u16::to_le_bytes).concat());
    file.extend([1, entry, HEADER as u32, 0, 0].map(u32::to_le_bytes).concat());
    file.extend(
        [HEADER as u16, SEGMENT as u16, segments.len() as u16, 40, 0, 0].map(u16::to_le_bytes).concat(),
    );
    let mut at = 4096;
    for [_, address, length, memory] in &segments {
        let words =
            [1, at, *address, *address, *length, *memory, 7, 4096].map(|word| (word as u32).to_le_bytes());
        file.extend(words.concat());
        at += length.next_multiple_of(4096);
    }
    file.extend(MULTIBOOT.map(u32::to_le_bytes).concat());
    for [offset, _, length, _] in segments {
        file.resize(file.len().next_multiple_of(4096), 0);
        file.extend(elf64.get(offset..offset + length).context("the guest is cut off")?);
    }
    Ok(file)
}

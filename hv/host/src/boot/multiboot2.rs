//! The multiboot2 boot information (multiboot2 specification 2.0, 3.6).

use super::{BootError, BootInfo, Loader, MAX_COMMAND_LINE, MemoryKind};
use crate::bytes::{u32_at, u64_at, until_nul};
use crate::physical::PhysicalMemory;

/// EAX at entry.
pub const MAGIC: u32 = 0x36d7_6289;

/// Largest boot information taken: GRUB's is some 2 KiB, plus an EFI memory map.
const MAX_INFO: usize = 256 * 1024;

/// Tag types read here.
mod tag {
    pub(super) const END: u32 = 0;
    pub(super) const COMMAND_LINE: u32 = 1;
    pub(super) const MODULE: u32 = 3;
    pub(super) const MEMORY_MAP: u32 = 6;
    pub(super) const ACPI_OLD: u32 = 14;
    pub(super) const ACPI_NEW: u32 = 15;
}

/// Parses the boot information at `address`.
pub fn parse(address: u64, memory: &impl PhysicalMemory) -> Result<BootInfo, BootError> {
    let cut = BootError::Truncated("multiboot2 information");
    let total = memory.bytes(address, 8).and_then(|head| u32_at(head, 0)).ok_or(cut)? as usize;
    if !(8..=MAX_INFO).contains(&total) {
        return Err(cut);
    }
    let info = memory.bytes(address, total).ok_or(cut)?;
    let mut boot = BootInfo::new(Loader::Multiboot2);
    boot.keep(address, total as u64);

    let mut offset = 8;
    loop {
        let rest = info.get(offset..).ok_or(cut)?;
        let (kind, size) = (u32_at(rest, 0).ok_or(cut)?, u32_at(rest, 4).ok_or(cut)? as usize);
        if kind == tag::END {
            break;
        }
        let body = rest.get(8..size).ok_or(cut)?;
        match kind {
            tag::COMMAND_LINE => boot.command_line = text(&mut boot, body),
            tag::MODULE => {
                let (start, end) = (u32_at(body, 0).ok_or(cut)?, u32_at(body, 4).ok_or(cut)?);
                let command_line = text(&mut boot, body.get(8..).ok_or(cut)?);
                // An end before the start is an endless length, which is nowhere readable.
                let len = u64::from(end).wrapping_sub(start.into());
                boot.add_module(start.into(), len, command_line, memory);
            }
            tag::MEMORY_MAP => memory_map(&mut boot, body)?,
            // The tag holds a copy of the root pointer; the copy lies in the information and serves as well.
            tag::ACPI_NEW => boot.rsdp = Some(address + offset as u64 + 8),
            tag::ACPI_OLD if boot.rsdp.is_none() => boot.rsdp = Some(address + offset as u64 + 8),
            _ => {}
        }
        // Tags start at multiples of 8. `size` is at least 8 here, so the loop ends.
        offset = offset.checked_add(size).and_then(|end| end.checked_next_multiple_of(8)).ok_or(cut)?;
    }
    if boot.memory.iter().next().is_none() {
        return Err(BootError::NoMemoryMap);
    }
    boot.memory.finish();
    Ok(boot)
}

fn memory_map(boot: &mut BootInfo, body: &[u8]) -> Result<(), BootError> {
    let cut = BootError::Truncated("memory map");
    let entry_size = u32_at(body, 0).ok_or(cut)? as usize;
    if entry_size < 24 {
        return Err(cut);
    }
    for entry in body.get(8..).ok_or(cut)?.chunks_exact(entry_size) {
        let (start, len) = (u64_at(entry, 0).ok_or(cut)?, u64_at(entry, 8).ok_or(cut)?);
        boot.memory.add(start, len, MemoryKind::from_e820(u32_at(entry, 16).ok_or(cut)?));
    }
    Ok(())
}

/// A command line; empty where it cannot be taken.
fn text(boot: &mut BootInfo, body: &'static [u8]) -> &'static [u8] {
    let text = until_nul(body);
    if text.len() < MAX_COMMAND_LINE {
        return text;
    }
    boot.note(BootError::CommandLineTooLong);
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::physical::test::Pieces;

    /// Boot information out of tags: type and body.
    fn info(tags: &[(u32, &[u8])]) -> Pieces {
        let mut bytes = vec![0; 8];
        for (kind, body) in tags {
            bytes.extend(kind.to_le_bytes());
            bytes.extend((body.len() as u32 + 8).to_le_bytes());
            bytes.extend(*body);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        Pieces(vec![(0x9000, Box::leak(bytes.into_boxed_slice())), (0x20_0000, b"module data")])
    }

    fn map() -> Vec<u8> {
        let mut map = Vec::new();
        map.extend(24u32.to_le_bytes());
        map.extend(0u32.to_le_bytes());
        for word in [0x10_0000u64, 0x100_0000, 1, 0xfee0_0000, 0x1000, 2] {
            map.extend(word.to_le_bytes());
        }
        map
    }

    fn module() -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(0x20_0000u32.to_le_bytes());
        body.extend(0x20_000bu32.to_le_bytes());
        body.extend(b"bundle\0");
        body
    }

    #[test]
    fn reads_all_there_is() {
        let (map, module) = (map(), module());
        let memory = info(&[
            (1, b"-m 8 -S\0"),
            (99, b"?"),
            (3, &module),
            (6, &map),
            (14, b"old"),
            (15, b"new"),
            (0, &[]),
        ]);
        let boot = parse(0x9000, &memory).unwrap();
        assert_eq!(boot.command_line, b"-m 8 -S");
        assert_eq!(boot.modules[0].data, b"module data");
        assert_eq!(boot.modules[0].command_line, b"bundle");
        assert_eq!(boot.memory.usable(), 0x100_0000);
        let rsdp = memory.bytes(boot.rsdp.unwrap(), 3).unwrap();
        assert_eq!(rsdp, b"new");
    }

    #[test]
    fn names_what_is_wrong() {
        let map = map();
        let error = |tags: &[(u32, &[u8])]| parse(0x9000, &info(tags)).unwrap_err();
        assert_eq!(error(&[(0, &[])]), BootError::NoMemoryMap);
        assert_eq!(error(&[(6, &map)]), BootError::Truncated("multiboot2 information"));
        assert_eq!(error(&[(6, &[0; 16]), (0, &[])]), BootError::Truncated("memory map"));
    }

    #[test]
    fn goes_on_without_what_is_broken() {
        let map = map();
        let problem = |tags: &[(u32, &[u8])]| {
            let boot = parse(0x9000, &info(tags)).unwrap();
            assert!(boot.memory.usable() > 0);
            boot.problem
        };
        let bad_end = [0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(problem(&[(3, &bad_end), (6, &map), (0, &[])]), Some(BootError::Truncated("module")));
        let backwards = [0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(problem(&[(3, &backwards), (6, &map), (0, &[])]), Some(BootError::Truncated("module")));
        assert_eq!(problem(&[(1, &[b'a'; 5000]), (6, &map), (0, &[])]), Some(BootError::CommandLineTooLong));
    }

    #[test]
    fn survives_any_damage() {
        let (map, module) = (map(), module());
        let Pieces(pieces) = info(&[(1, b"-m 8\0"), (3, &module), (6, &map), (15, b"new"), (0, &[])]);
        let good = pieces[0].1;
        for at in 0..good.len() {
            for value in [0, 1, 7, 0x7f, 0x80, 0xff] {
                let mut bad = good.to_vec();
                bad[at] = value;
                let _ = parse(0x9000, &Pieces(vec![(0x9000, Box::leak(bad.into_boxed_slice()))]));
            }
        }
    }
}

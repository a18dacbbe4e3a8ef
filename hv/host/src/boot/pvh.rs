//! The PVH start information (Xen public header `arch-x86/hvm/start_info.h`).

use super::{BootError, BootInfo, Loader, MAX_COMMAND_LINE, MAX_MODULES, MemoryKind};
use crate::bytes::{u32_at, u64_at};
use crate::physical::PhysicalMemory;

/// First word of the start information.
pub const MAGIC: u32 = 0x336e_c578;

/// Bytes of the structure in version 1, which has the memory map.
const START_INFO: usize = 56;
/// Bytes of a module entry and of a memory map entry.
const MODULE_ENTRY: usize = 32;
const MAP_ENTRY: usize = 24;
/// More entries than any firmware gives; a bound on the loop, not a need.
const MAX_MAP_ENTRIES: usize = 1024;

/// Parses the start information at `address`.
pub fn parse(address: u64, memory: &impl PhysicalMemory) -> Result<BootInfo, BootError> {
    let cut = BootError::Truncated("PVH start information");
    let info = memory.bytes(address, START_INFO).ok_or(cut)?;
    if u32_at(info, 0) != Some(MAGIC) {
        return Err(BootError::UnknownLoader);
    }
    let version = u32_at(info, 4).ok_or(cut)?;
    let modules = u32_at(info, 12).ok_or(cut)? as usize;
    let module_list = u64_at(info, 16).ok_or(cut)?;
    let command_line = u64_at(info, 24).ok_or(cut)?;
    let rsdp = u64_at(info, 32).ok_or(cut)?;
    if version < 1 {
        return Err(BootError::NoMemoryMap);
    }
    let map = u64_at(info, 40).ok_or(cut)?;
    let map_entries = u32_at(info, 48).ok_or(cut)? as usize;

    let mut boot = BootInfo::new(Loader::Pvh);
    boot.rsdp = (rsdp != 0).then_some(rsdp);
    boot.keep(address, START_INFO as u64);
    boot.command_line = text(&mut boot, command_line, memory);

    if map_entries == 0 || map == 0 {
        return Err(BootError::NoMemoryMap);
    }
    let cut = BootError::Truncated("memory map");
    let entries = map_entries.min(MAX_MAP_ENTRIES) * MAP_ENTRY;
    boot.keep(map, entries as u64);
    for entry in memory.bytes(map, entries).ok_or(cut)?.chunks_exact(MAP_ENTRY) {
        let (start, len) = (u64_at(entry, 0).ok_or(cut)?, u64_at(entry, 8).ok_or(cut)?);
        boot.memory.add(start, len, MemoryKind::from_e820(u32_at(entry, 16).ok_or(cut)?));
    }
    boot.memory.finish();

    let len = modules.min(MAX_MODULES) * MODULE_ENTRY;
    if modules > MAX_MODULES {
        boot.note(BootError::TooManyModules);
    }
    let Some(list) = memory.bytes(module_list, len).filter(|_| len > 0) else {
        if len > 0 {
            boot.note(BootError::Truncated("module list"));
        }
        return Ok(boot);
    };
    boot.keep(module_list, len as u64);
    for entry in list.chunks_exact(MODULE_ENTRY) {
        let field = |offset| u64_at(entry, offset).unwrap_or(0);
        let command_line = text(&mut boot, field(16), memory);
        boot.add_module(field(0), field(8), command_line, memory);
    }
    Ok(boot)
}

/// A command line; empty where `address` is 0 or the line cannot be taken.
fn text(boot: &mut BootInfo, address: u64, memory: &impl PhysicalMemory) -> &'static [u8] {
    if address == 0 {
        return &[];
    }
    let Some(text) = memory.c_string(address, MAX_COMMAND_LINE) else {
        boot.note(BootError::CommandLineTooLong);
        return &[];
    };
    boot.keep(address, text.len() as u64 + 1);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::physical::test::Pieces;

    fn leak(bytes: Vec<u8>) -> &'static [u8] {
        Box::leak(bytes.into_boxed_slice())
    }

    fn start_info(modules: u32, map_entries: u32) -> Vec<u8> {
        let mut info = Vec::new();
        for word in [MAGIC, 1, 0, modules] {
            info.extend(word.to_le_bytes());
        }
        for word in [0x2000u64, 0x3000, 0xe0000, 0x4000] {
            info.extend(word.to_le_bytes());
        }
        info.extend(map_entries.to_le_bytes());
        info.extend([0; 4]);
        info
    }

    fn words(values: &[u64]) -> &'static [u8] {
        leak(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn pieces(info: Vec<u8>) -> Pieces {
        Pieces(vec![
            (0x1000, leak(info)),
            (0x2000, words(&[0x5000, 4, 0x3100, 0])),
            (0x3000, b"-m 64\0"),
            (0x3100, b"bundle\0"),
            (0x4000, words(&[0, 0x9fc00, 1, 0x100000, 0x700000, 1])),
            (0x5000, b"data"),
        ])
    }

    #[test]
    fn reads_all_there_is() {
        let boot = parse(0x1000, &pieces(start_info(1, 2))).unwrap();
        assert_eq!(boot.command_line, b"-m 64");
        assert_eq!(boot.rsdp, Some(0xe0000));
        assert_eq!(boot.modules[0].data, b"data");
        assert_eq!(boot.modules[0].command_line, b"bundle");
        assert_eq!(boot.memory.usable(), 0x9fc00 + 0x700000);
        assert!(boot.structures.iter().any(|r| r.start == 0x3100 && r.len == 7));
    }

    #[test]
    fn names_what_is_wrong() {
        let error = |info| parse(0x1000, &pieces(info)).unwrap_err();
        assert_eq!(error(start_info(1, 0)), BootError::NoMemoryMap);
        assert_eq!(error(start_info(1, 3)), BootError::Truncated("memory map"));
        assert_eq!(error(vec![0; 56]), BootError::UnknownLoader);
        assert_eq!(error(vec![0; 8]), BootError::Truncated("PVH start information"));
    }

    #[test]
    fn goes_on_without_what_is_broken() {
        let problem = |memory: &Pieces| {
            let boot = parse(0x1000, memory).unwrap();
            assert!(boot.memory.usable() > 0);
            (boot.problem, boot.modules.len(), boot.command_line)
        };
        let full = &b"-m 64"[..];
        assert_eq!(problem(&pieces(start_info(1, 2))), (None, 1, full));
        let cut = Some(BootError::Truncated("module list"));
        assert_eq!(problem(&pieces(start_info(2, 2))), (cut, 0, full));
        assert_eq!(problem(&pieces(start_info(17, 2))), (Some(BootError::TooManyModules), 0, full));
        let mut long = pieces(start_info(1, 2));
        long.0[2].1 = leak(vec![b'a'; MAX_COMMAND_LINE]);
        assert_eq!(problem(&long), (Some(BootError::CommandLineTooLong), 1, &b""[..]));
        let mut short = pieces(start_info(1, 2));
        short.0[5].1 = b"dat";
        assert_eq!(problem(&short), (Some(BootError::Truncated("module")), 0, full));
    }
}

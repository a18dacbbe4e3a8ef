//! Page walks against a plain model of SDM vol. 3, chapter 4: all paging modes, rights, reserved bits, A and D.

mod common;

use common::{Cpu, Device, Memory};
use monovisor_arch::state::bits::*;
use monovisor_arch::{GuestMemory, MemoryAccess, MemoryExit, SegmentName};
use monovisor_insn::{Intent, PageFault, Paging, emulate_access, peek};
use proptest::prelude::*;

/// Tables lie in the first 16 pages, so that random entries often point to one.
const PAGES: u64 = 16;

#[derive(Clone, Debug)]
struct Case {
    levels: u32,
    cr0_wp: bool,
    cr4: u64,
    nxe: bool,
    ac: bool,
    user: bool,
    physical_bits: u8,
    linear: u64,
    intent: Intent,
    /// One entry for each level, top first.
    entries: Vec<u64>,
}

/// An entry that is often good.
fn entry() -> impl Strategy<Value = u64> {
    let flag = |bit: u64, often: u32| prop_oneof![often => Just(bit), 1 => Just(0)];
    let rare = |bit: u64| prop_oneof![30 => Just(0), 1 => Just(bit)];
    (
        (flag(1, 30), flag(2, 3), flag(4, 1), flag(0x20, 3), flag(0x40, 2)),
        prop_oneof![3 => Just(0u64), 1 => Just(0x80)],
        prop_oneof![4 => Just(0u64), 1 => Just(1 << 63)],
        (1..PAGES, prop_oneof![20 => Just(0u64), 1 => Just(1), 1 => Just(0x200), 1 => Just(1 << 18), 1 => Just(0x1ff)]),
        (rare(1 << 45), rare(1 << 51), rare(1 << 52), rare(1 << 60), rare(0x100)),
    )
        .prop_map(|((p, w, u, a, d), ps, nx, (page, extra), (r1, r2, r3, r4, g))| {
            p | w | u | a | d | ps | nx | (page ^ extra) << 12 | r1 | r2 | r3 | r4 | g
        })
}

fn case() -> impl Strategy<Value = Case> {
    (
        prop::sample::select(vec![2u32, 3, 4, 4, 5]),
        (
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
        ),
        prop::sample::select(vec![36u8, 40, 46, 52]),
        any::<u64>(),
        prop::sample::select(vec![Intent::Read, Intent::Write, Intent::Fetch]),
        prop::collection::vec(entry(), 5),
    )
        .prop_map(
            |(levels, (wp, smep, smap, nxe, ac, user, pse), physical_bits, linear, intent, entries)| {
                let cr4 = if smep { CR4_SMEP } else { 0 }
                    | if smap { CR4_SMAP } else { 0 }
                    | if pse { CR4_PSE } else { 0 }
                    | match levels {
                        2 => 0,
                        5 => CR4_PAE | CR4_LA57,
                        _ => CR4_PAE,
                    };
                let unused = match levels {
                    5 => 7,
                    4 => 16,
                    _ => 32,
                };
                let linear = match levels {
                    4 | 5 => ((linear << unused) as i64 >> unused) as u64,
                    _ => linear & 0xffff_ffff,
                };
                Case { levels, cr0_wp: wp, cr4, nxe, ac, user, physical_bits, linear, intent, entries }
            },
        )
}

/// What the manual says: the address, or the error code; and the entries that get A, and A and D.
type Model = (Result<u64, u32>, Vec<u64>, Option<u64>);

fn model(case: &Case, memory: &Memory) -> Model {
    let narrow = case.levels == 2;
    let size = if narrow { 4 } else { 8 };
    let index_bits = if narrow { 10 } else { 9 };
    let mut error = match case.intent {
        Intent::Read => 0,
        Intent::Write => PageFault::WRITE,
        Intent::Fetch if case.cr4 & CR4_SMEP != 0 || (!narrow && case.nxe) => PageFault::FETCH,
        Intent::Fetch => 0,
    };
    if case.user {
        error |= PageFault::USER;
    }
    let (mut user_page, mut writable, mut executable) = (true, true, true);
    let mut table = 0x1000u64;
    let mut accessed = vec![];
    for level in (1..=case.levels).rev() {
        let shift = 12 + index_bits * (level - 1);
        let mask = if case.levels == 3 && level == 3 { 3 } else { (1 << index_bits) - 1 };
        let address = table + (case.linear >> shift & mask) * size;
        let entry = if narrow { memory.read_u32(address).map(u64::from) } else { memory.read_u64(address) }
            .unwrap_or(u64::MAX);
        if entry & 1 == 0 {
            return (Err(error), vec![], None);
        }
        let pdpte = case.levels == 3 && level == 3;
        let large = entry & 0x80 != 0
            && match case.levels {
                2 => level == 2 && case.cr4 & CR4_PSE != 0,
                _ => level == 2 || (level == 3 && !pdpte),
            };
        let mut reserved = 0u64;
        if narrow {
            if large {
                reserved |= 1 << 21;
                for bit in 13..21 {
                    if bit - 13 + 32 >= u32::from(case.physical_bits) {
                        reserved |= 1 << bit;
                    }
                }
            }
        } else {
            for bit in u32::from(case.physical_bits)..52 {
                reserved |= 1 << bit;
            }
            if !case.nxe || pdpte {
                reserved |= 1 << 63;
            }
            if case.levels == 3 {
                reserved |= 0x7ff << 52;
            }
            if pdpte {
                reserved |= 0x1e6;
            }
            if level > 3 {
                reserved |= 0x80;
            }
            if large {
                reserved |= ((1 << shift) - 1) & !0x1fff;
            }
        }
        if entry & reserved != 0 {
            return (Err(error | PageFault::PRESENT | PageFault::RESERVED), vec![], None);
        }
        if !pdpte {
            writable &= entry & 2 != 0;
            user_page &= entry & 4 != 0;
            executable &= narrow || entry >> 63 == 0;
            if entry & 0x20 == 0 {
                accessed.push(address);
            }
        }
        if level == 1 || large {
            let allowed = if case.user {
                user_page
                    && match case.intent {
                        Intent::Read => true,
                        Intent::Write => writable,
                        Intent::Fetch => executable,
                    }
            } else {
                let smap = user_page && case.cr4 & CR4_SMAP != 0 && !case.ac;
                match case.intent {
                    Intent::Read => !smap,
                    Intent::Write => !smap && (writable || !case.cr0_wp),
                    Intent::Fetch => executable && !(user_page && case.cr4 & CR4_SMEP != 0),
                }
            };
            if !allowed {
                return (Err(error | PageFault::PRESENT), vec![], None);
            }
            let offset = (1u64 << shift) - 1;
            let mut base = entry & 0x000f_ffff_ffff_f000 & !offset;
            if narrow {
                base = entry & 0xffff_f000 & !offset;
                if large {
                    base |= (entry >> 13 & 0xff) << 32;
                }
            }
            let dirty = (case.intent == Intent::Write && entry & 0x40 == 0).then_some(address);
            return (Ok(base | case.linear & offset), accessed, dirty);
        }
        table = if narrow { entry & 0xffff_f000 } else { entry & 0x000f_ffff_ffff_f000 };
    }
    unreachable!()
}

/// Puts the case's entries where the walk comes by, as long as the tables are in RAM.
fn tables(case: &Case) -> Memory {
    let memory = Memory::new((PAGES << 12) as usize);
    let (size, bits) = if case.levels == 2 { (4, 10) } else { (8, 9) };
    let mut table = 0x1000;
    for (level, entry) in (1..=case.levels).rev().zip(&case.entries) {
        let mask = if case.levels == 3 && level == 3 { 3 } else { (1 << bits) - 1 };
        let address = table + (case.linear >> (12 + bits * (level - 1)) & mask) * size;
        // Rights in PDPTEs of PAE paging are reserved: most of the time they are not set.
        let entry = if case.levels == 3 && level == 3 && entry & 0x20 != 0 {
            entry & !0x8000_0000_0000_01e6
        } else {
            *entry
        };
        if address + 8 <= PAGES << 12 {
            if size == 4 {
                memory.put32(address, entry as u32);
            } else {
                memory.put64(address, entry);
            }
        }
        table = entry & if size == 4 { 0xffff_f000 } else { 0x000f_ffff_ffff_f000 };
    }
    memory
}

fn cpu(case: &Case) -> Cpu {
    let mut cpu = Cpu::protected32();
    cpu.control.cr0 |= CR0_PG | if case.cr0_wp { CR0_WP } else { 0 };
    cpu.control.cr4 = case.cr4;
    cpu.control.cr3 = 0x1000;
    cpu.control.efer =
        if case.levels >= 4 { EFER_LMA | EFER_LME } else { 0 } | if case.nxe { EFER_NXE } else { 0 };
    cpu.rflags = if case.ac { RFLAGS_AC } else { 0 };
    if case.user {
        cpu.segments[SegmentName::Ss as usize].access |= 3 << 5;
    }
    cpu
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6_000, ..ProptestConfig::default() })]

    #[test]
    fn walks_do_what_the_manual_says(case in case()) {
        let memory = tables(&case);
        let before = memory.0.borrow().clone();
        let (expected, accessed, dirty) = model(&case, &memory);
        let paging = Paging::of(&cpu(&case)).with_physical_bits(case.physical_bits);
        let probed = paging.probe(&memory, case.linear);
        prop_assert!(*memory.0.borrow() == before, "a probe leaves no trace");
        let result = paging.translate(&memory, case.linear, case.intent);
        prop_assert_eq!(result.map_err(|fault| fault.error_code), expected);
        if let Err(fault) = result {
            prop_assert_eq!(fault.cr2, case.linear);
            prop_assert!(*memory.0.borrow() == before, "a fault leaves no trace");
        } else {
            prop_assert_eq!(probed, result.ok());
            let mut after = before;
            for address in accessed {
                if let Some(byte) = after.get_mut(address as usize) {
                    *byte |= 0x20;
                }
            }
            if let Some(byte) = dirty.and_then(|address| after.get_mut(address as usize)) {
                *byte |= 0x60;
            }
            prop_assert!(*memory.0.borrow() == after, "accessed and dirty bits");
        }
    }
}

#[test]
fn canonical_addresses() {
    let mut cpu = Cpu::long();
    let four = Paging::of(&cpu);
    cpu.control.cr4 |= CR4_LA57;
    let five = Paging::of(&cpu);
    for (linear, in_four, in_five) in [
        (0, true, true),
        (0x7fff_ffff_ffff, true, true),
        (0x8000_0000_0000, false, true),
        (0xffff_8000_0000_0000, true, true),
        (0xffff_7fff_ffff_ffff, false, true),
        (0x0100_0000_0000_0000, false, false),
        (0xff00_0000_0000_0000, false, true),
        (0xfeff_ffff_ffff_ffff, false, false),
    ] {
        assert_eq!((four.canonical(linear), five.canonical(linear)), (in_four, in_five), "{linear:x}");
    }
    assert_eq!(four.probe(&Memory::identity(), 0x8000_0000_0000), None);
}

#[test]
fn peek_stops_at_the_first_page_that_is_not_there() {
    let memory = Memory::identity();
    let cpu = Cpu::long();
    memory.put64(0x1ff8, 0x1122_3344_5566_7788);
    let mut buffer = [0; 16];
    assert_eq!(peek(&cpu, &memory, 0x1ff8, &mut buffer), 16);
    assert_eq!(buffer[..8], 0x1122_3344_5566_7788u64.to_le_bytes());
    assert_eq!(peek(&cpu, &memory, 0xffff_fff8, &mut buffer), 0);
    assert_eq!(peek(&cpu, &memory, 0x20_0000 - 8, &mut buffer), 8);
    assert_eq!(peek(&cpu, &memory, 0x1_0000_0000, &mut buffer), 0);
}

#[test]
fn the_address_of_an_exit_stands_for_a_walk() {
    let memory = Memory::identity();
    let mut device = Device::new();
    let mut cpu = Cpu::long();
    // mov eax, [rbx]; RBX is mapped nowhere: only the exit knows where it leads.
    memory.write(0x1000, &[0x8b, 0x03]).unwrap();
    cpu.gpr[3] = 0x1234_5678_9010;
    let mut exit = MemoryExit {
        address: Device::BASE + 0x10,
        access: MemoryAccess::Read,
        table_walk: false,
        instruction: Default::default(),
    };
    emulate_access(&mut cpu, &memory, &mut device, &exit).unwrap();
    assert_eq!(device.log, [('r', Device::BASE + 0x10, 4, device.peek(0x10, 4))]);
    // Another page offset is another operand's: walk, and find nothing.
    cpu.rip = 0x1000;
    exit.address += 4;
    assert!(emulate_access(&mut cpu, &memory, &mut device, &exit).is_err());
    exit.address -= 4;
    exit.table_walk = true;
    assert!(emulate_access(&mut cpu, &memory, &mut device, &exit).is_err());
}

//! Any bytes, any registers, any segments, in every mode: an answer, never a panic, and never more than a share of
//! work.

mod common;

use common::{Cpu, Device, Memory, next_rip};
use monovisor_arch::state::bits::*;
use monovisor_arch::{Event, GuestMemory, IoExit, Segment, StringIo, vector};
use monovisor_insn::{CHUNK, Encoding, ITERATIONS, Outcome, emulate, instruction_length, peek, string_io};
use proptest::prelude::*;

/// Opcodes that the emulator knows, to get behind the first check.
const KNOWN: [&[u8]; 22] = [
    &[0x8b],
    &[0x89],
    &[0x88],
    &[0x01],
    &[0x3b],
    &[0x81],
    &[0x83],
    &[0x87],
    &[0xc7],
    &[0xf7],
    &[0xff],
    &[0x8f],
    &[0xa1],
    &[0xa3],
    &[0xa5],
    &[0xa6],
    &[0xab],
    &[0xaf],
    &[0x0f, 0xab],
    &[0x0f, 0xb1],
    &[0x0f, 0xc1],
    &[0x8e],
];

fn code() -> impl Strategy<Value = Vec<u8>> {
    let prefixes = prop::collection::vec(
        prop::sample::select(vec![0x66u8, 0x67, 0x26, 0x36, 0x64, 0x65, 0xf0, 0xf2, 0xf3, 0x48, 0x4f]),
        0..4,
    );
    let opcode = prop_oneof![
        prop::sample::select(KNOWN.to_vec()).prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 0..3),
    ];
    (prefixes, opcode, prop::collection::vec(any::<u8>(), 15)).prop_map(|(a, b, c)| [a, b, c].concat())
}

/// Near the edges of RAM, of the device, of 4 GiB and of the canonical halves.
fn address() -> impl Strategy<Value = u64> {
    let edge = prop::sample::select(vec![
        0u64,
        0x1000,
        0x20_0000,
        Device::BASE,
        Device::BASE + 0x1000,
        0x1_0000_0000,
        0x8000_0000_0000,
        0xffff_8000_0000_0000,
    ]);
    prop_oneof![
        4 => (edge, -20i64..20).prop_map(|(edge, distance)| edge.wrapping_add(distance as u64)),
        1 => any::<u64>(),
    ]
}

fn segment() -> impl Strategy<Value = Segment> {
    let limit = prop_oneof![Just(u32::MAX), Just(0xffff), any::<u32>()];
    let access = prop_oneof![Just(0xc093u32), Just(0x93), Just(0xc09b), Just(0x1_0000), 0u32..0x2_0000];
    (any::<u16>(), prop_oneof![3 => Just(0u64), 1 => address()], limit, access)
        .prop_map(|(selector, base, limit, access)| Segment { selector, base, limit, access })
}

fn cpu() -> impl Strategy<Value = Cpu> {
    (
        prop::sample::select(vec![0usize, 1, 2, 3]),
        prop::collection::vec(address(), 16),
        prop::collection::vec(segment(), 8),
        any::<[bool; 4]>(),
        any::<u64>(),
        prop_oneof![3 => Just(0x3000u64), 1 => address()],
    )
        .prop_map(|(mode, gpr, segments, [keep, odd, paging, user], rflags, rip)| {
            let mut cpu = match mode {
                0 => Cpu::long(),
                1 => Cpu::protected32(),
                2 => Cpu::real(),
                _ => Cpu::long(),
            };
            cpu.gpr.copy_from_slice(&gpr);
            cpu.rflags = rflags & 0x3_7fd5 & !RFLAGS_VM | if mode == 1 && odd { RFLAGS_VM } else { 0 };
            cpu.rip = rip;
            if !keep {
                let code = cpu.segments[1];
                cpu.segments.copy_from_slice(&segments);
                if mode != 2 {
                    cpu.segments[1] = code;
                }
            }
            if mode == 3 && odd {
                // Compatibility mode.
                cpu.segments[1].access = 0xc09b;
            }
            if mode == 1 && paging {
                // The tables of 4-level paging as 32-bit ones: nonsense that must do no harm.
                cpu.control.cr0 |= CR0_PG;
                cpu.control.cr3 = common::TABLES;
            }
            if user {
                cpu.segments[2].access |= 0x60;
            }
            cpu
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn emulate_answers(code in code(), mut cpu in cpu()) {
        thread_local!(static MEMORY: Memory = Memory::identity());
        MEMORY.with(|memory| {
            // The last case may have written anywhere: tables and code are made again.
            *memory.0.borrow_mut() = Memory::identity().0.into_inner();
            memory.write(0x3000, &code).unwrap();
            let mut device = Device::new();
            let before = cpu.clone();
            let result = emulate(&mut cpu, memory, &mut device, None);
            // At most a read and a write of four pieces each for each iteration.
            prop_assert!(device.log.len() <= 16 * ITERATIONS as usize);
            match result {
                Ok(()) => {}
                Err(Outcome::Exception { event, cr2 }) => {
                    prop_assert_eq!(cpu.rip, before.rip);
                    prop_assert!(event == Event::fault(vector::GP, 0) || event == Event::fault(vector::SS, 0)
                        || event.vector == vector::PF);
                    prop_assert_eq!(cr2.is_some(), event.vector == vector::PF);
                }
                Err(Outcome::Unsupported(_) | Outcome::CodeOutsideRam { .. }) => {
                    prop_assert_eq!(&cpu, &before);
                    prop_assert!(device.log.is_empty());
                }
            }
            let mut cpu = before.clone();
            let length = instruction_length(&mut cpu, memory);
            let next = next_rip(&mut cpu, memory, Encoding::CPUID);
            if let (Ok(length), Ok(next)) = (length, next) {
                prop_assert_eq!(next as u32, before.rip.wrapping_add(length.into()) as u32);
            }
            prop_assert_eq!(length.is_ok(), next.is_ok());
            let mut buffer = [0; 40];
            prop_assert!(peek(&cpu, memory, before.gpr[0], &mut buffer) <= 40);
            Ok(())
        })?;
    }

    #[test]
    fn string_io_answers(code in code(), mut cpu in cpu(), input in any::<bool>(), repeated in any::<bool>(),
        size in prop::sample::select(vec![1u8, 2, 4, 3]), known in any::<bool>(), count in 0u64..1000)
    {
        let memory = Memory::identity();
        memory.write(0x3000, &code).unwrap();
        cpu.gpr[1] = count;
        let mut device = Device::new();
        let string = StringIo { repeated, address_size: known.then_some(4), segment: None };
        let io = IoExit { port: 0x70, size, input, string: Some(string) };
        let before = cpu.rip;
        let result = string_io(&mut cpu, &memory, &mut device, &io);
        let ports = device.log.iter().filter(|entry| matches!(entry.0, 'i' | 'o')).count();
        prop_assert!(ports <= CHUNK);
        if result != Ok(true) {
            prop_assert_eq!(cpu.rip, before);
        }
    }
}

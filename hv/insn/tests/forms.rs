//! Instruction forms by hand: addressing, segments, faults, REP, string I/O, next RIP.

mod common;

use common::{Cpu, Device, Memory, next_rip};
use monovisor_arch::{Event, Gpr, GuestMemory, IoExit, SegmentName, StringIo, VcpuState, vector};
use monovisor_insn::{Encoding, ITERATIONS, Outcome, emulate, instruction_length, string_io, usual_next_rip};

const MMIO: u64 = Device::BASE;

fn run(cpu: &mut Cpu, device: &mut Device, code: &[u8]) -> Result<(), Outcome> {
    let memory = Memory::identity();
    memory.write(cpu.rip(), code).unwrap();
    emulate(cpu, &memory, device, None)
}

#[test]
fn loads_of_every_width_extend_as_the_manual_says() {
    let mut device = Device::new();
    device.bytes[0x10..0x18].copy_from_slice(&0x8182_8384_8586_8788u64.to_le_bytes());
    // Destination RAX holds ones first.
    let cases: &[(&[u8], u64)] = &[
        (&[0x8a, 0x43, 0x10], 0xffff_ffff_ffff_ff88), // mov al, [rbx+0x10]
        (&[0x8a, 0x63, 0x10], 0xffff_ffff_ffff_88ff), // mov ah, [rbx+0x10]
        (&[0x66, 0x8b, 0x43, 0x10], 0xffff_ffff_ffff_8788), // mov ax
        (&[0x8b, 0x43, 0x10], 0x8586_8788),           // mov eax
        (&[0x48, 0x8b, 0x43, 0x10], 0x8182_8384_8586_8788), // mov rax
        (&[0x0f, 0xb6, 0x43, 0x10], 0x88),            // movzx eax, byte
        (&[0x48, 0x0f, 0xbe, 0x43, 0x10], 0xffff_ffff_ffff_ff88), // movsx rax, byte
        (&[0x0f, 0xbf, 0x43, 0x10], 0xffff_8788),     // movsx eax, word
        (&[0x48, 0x63, 0x43, 0x10], 0xffff_ffff_8586_8788), // movsxd rax, dword
        (&[0x0f, 0x38, 0xf0, 0x43, 0x10], 0x8887_8685), // movbe eax
    ];
    for (code, expected) in cases {
        let mut cpu = Cpu::long();
        cpu.gpr[Gpr::Rax as usize] = u64::MAX;
        cpu.gpr[Gpr::Rbx as usize] = MMIO;
        run(&mut cpu, &mut device, code).unwrap();
        assert_eq!(cpu.gpr[0], *expected, "{code:02x?}");
        assert_eq!(cpu.rip, 0x1000 + code.len() as u64, "{code:02x?}");
    }
}

#[test]
fn one_access_is_one_bus_cycle_of_its_width() {
    for (code, size) in
        [(&[0x88, 0x03][..], 1), (&[0x66, 0x89, 0x03], 2), (&[0x89, 0x03], 4), (&[0x48, 0x89, 0x03], 8)]
    {
        let (mut cpu, mut device) = (Cpu::long(), Device::new());
        cpu.gpr[0] = 0x1122_3344_5566_7788;
        cpu.gpr[Gpr::Rbx as usize] = MMIO;
        run(&mut cpu, &mut device, code).unwrap();
        let mask = u64::MAX >> (64 - 8 * size);
        assert_eq!(device.log, [('w', MMIO, size as u8, cpu.gpr[0] & mask)]);
    }
}

#[test]
fn rip_relative_counts_from_the_next_instruction() {
    let (mut cpu, mut device) = (Cpu::long(), Device::new());
    // mov dword [rip+disp], imm32: the immediate is behind the displacement.
    let displacement = (MMIO + 0x20 - 0x100a) as i32;
    let mut code = vec![0xc7, 0x05];
    code.extend(displacement.to_le_bytes());
    code.extend(0x89ab_cdefu32.to_le_bytes());
    // The target is out of reach of 31 bits from here: it is, as a negative displacement, at 2^64 - ...
    cpu.gpr[0] = 0;
    let result = run(&mut cpu, &mut device, &code);
    // 0xfeb00020 is not reachable by +-2 GiB from 0x1000 in 64 bits: it wraps to a canonical high address, unmapped.
    assert!(matches!(result, Err(Outcome::Exception { event, cr2: Some(cr2) })
        if event == Event::fault(vector::PF, 2) && cr2 == 0xffff_ffff_feb0_0020));
    // With an address-size prefix it is the low 32 bits.
    code.insert(0, 0x67);
    let displacement = (MMIO + 0x20 - 0x100b) as i32;
    code[3..7].copy_from_slice(&displacement.to_le_bytes());
    run(&mut cpu, &mut device, &code).unwrap();
    assert_eq!(device.log, [('w', MMIO + 0x20, 4, 0x89ab_cdef)]);
}

#[test]
fn an_operand_can_be_half_ram_and_half_device() {
    let memory = Memory::identity();
    let (mut cpu, mut device) = (Cpu::protected32(), Device::new());
    let end = 0x20_0000u64;
    memory.write(end - 1, &[0x5a]).unwrap();
    memory.write(0x1000, &[0x8b, 0x03]).unwrap();
    cpu.gpr[Gpr::Rbx as usize] = end - 1;
    emulate(&mut cpu, &memory, &mut device, None).unwrap();
    // Nothing answers behind the end of RAM: three single bytes of ones.
    assert_eq!(cpu.gpr[0], 0xffff_ff5a);
    assert_eq!(device.log.len(), 3);
}

#[test]
fn real_mode_addresses_and_limits() {
    // mov al, [bx+si]; DS base puts it on the device.
    let (mut cpu, mut device) = (Cpu::real(), Device::new());
    cpu.segments[SegmentName::Ds as usize].base = MMIO;
    cpu.gpr[Gpr::Rbx as usize] = 0xdead_fff0;
    cpu.gpr[Gpr::Rsi as usize] = 0x20;
    run(&mut cpu, &mut device, &[0x8a, 0x00]).unwrap();
    assert_eq!(device.log, [('r', MMIO + 0x10, 1, device.peek(0x10, 1))]);
    // A word at offset 0xffff is beyond the limit.
    cpu.rip = 0x1000;
    cpu.gpr[Gpr::Rsi as usize] = 0xf;
    let result = run(&mut cpu, &mut device, &[0x8b, 0x00]);
    assert_eq!(result, Err(Outcome::Exception { event: Event::fault(vector::GP, 0), cr2: None }));
}

#[test]
fn non_canonical_addresses_fault_by_segment() {
    let (mut cpu, mut device) = (Cpu::long(), Device::new());
    cpu.gpr[Gpr::Rbx as usize] = 1 << 47;
    cpu.gpr[Gpr::Rbp as usize] = 1 << 47;
    let general = run(&mut cpu, &mut device, &[0x8b, 0x03]);
    assert_eq!(general, Err(Outcome::Exception { event: Event::fault(vector::GP, 0), cr2: None }));
    let stack = run(&mut cpu, &mut device, &[0x8b, 0x45, 0x00]);
    assert_eq!(stack, Err(Outcome::Exception { event: Event::fault(vector::SS, 0), cr2: None }));
    assert_eq!(cpu.rip, 0x1000);
}

#[test]
fn rep_stops_after_its_share_and_goes_on() {
    let memory = Memory::identity();
    let (mut cpu, mut device) = (Cpu::long(), Device::new());
    memory.write(0x1000, &[0xf3, 0xa5]).unwrap(); // rep movsd
    for index in 0..300u32 {
        memory.put32(0x8000 + 4 * u64::from(index), index * 0x0101);
    }
    cpu.gpr[Gpr::Rsi as usize] = 0x8000;
    cpu.gpr[Gpr::Rdi as usize] = MMIO;
    cpu.gpr[Gpr::Rcx as usize] = 300;
    let mut calls = 0;
    while cpu.rip == 0x1000 {
        emulate(&mut cpu, &memory, &mut device, None).unwrap();
        calls += 1;
    }
    assert_eq!(calls, 300u32.div_ceil(ITERATIONS));
    assert_eq!((cpu.gpr[Gpr::Rcx as usize], cpu.rip), (0, 0x1002));
    assert_eq!(cpu.gpr[Gpr::Rsi as usize], 0x8000 + 1200);
    for index in 0..300usize {
        assert_eq!(device.peek(4 * index, 4), index as u64 * 0x0101);
    }
}

#[test]
fn rep_movs_faults_before_the_device_is_read() {
    let (mut cpu, mut device) = (Cpu::long(), Device::new());
    cpu.gpr[Gpr::Rsi as usize] = MMIO;
    cpu.gpr[Gpr::Rdi as usize] = 0x1_0000_0000; // not mapped
    cpu.gpr[Gpr::Rcx as usize] = 5;
    let result = run(&mut cpu, &mut device, &[0xf3, 0xa4]);
    assert_eq!(
        result,
        Err(Outcome::Exception { event: Event::fault(vector::PF, 2), cr2: Some(0x1_0000_0000) })
    );
    assert!(device.log.is_empty());
    assert_eq!(cpu.gpr[Gpr::Rcx as usize], 5);
}

#[test]
fn pop_to_the_device_by_rsp_uses_the_moved_pointer() {
    let memory = Memory::identity();
    let (mut cpu, mut device) = (Cpu::long(), Device::new());
    memory.write(0x1000, &[0x8f, 0x84, 0x24]).unwrap(); // pop qword [rsp+disp32]
    memory.put32(0x1003, (MMIO - 0x9008) as u32);
    memory.put64(0x9000, 0xfeed_f00d_dead_beef);
    cpu.gpr[Gpr::Rsp as usize] = 0x9000;
    // The displacement is negative as a 32-bit number: the address is in the upper half and unmapped.
    assert!(emulate(&mut cpu, &memory, &mut device, None).is_err());
    assert_eq!(cpu.gpr[Gpr::Rsp as usize], 0x9000);
    // pop [rsp+rbx]
    memory.write(0x1000, &[0x8f, 0x04, 0x1c]).unwrap();
    cpu.gpr[Gpr::Rbx as usize] = MMIO - 0x9008;
    emulate(&mut cpu, &memory, &mut device, None).unwrap();
    assert_eq!(device.log, [('w', MMIO, 8, 0xfeed_f00d_dead_beef)]);
    assert_eq!(cpu.gpr[Gpr::Rsp as usize], 0x9008);
}

fn io(input: bool, size: u8, repeated: bool, known: bool) -> IoExit {
    IoExit {
        port: 0x3f8,
        size,
        input,
        string: Some(StringIo {
            repeated,
            address_size: known.then_some(8),
            segment: known.then_some(SegmentName::Ds),
        }),
    }
}

#[test]
fn rep_outsb_crosses_pages_and_keeps_its_order() {
    for known in [false, true] {
        let memory = Memory::identity();
        let (mut cpu, mut device) = (Cpu::long(), Device::new());
        memory.write(0x1000, &[0xf3, 0x6e]).unwrap();
        let text: Vec<u8> = (0..600u32).map(|index| (index % 251) as u8).collect();
        memory.write(0x8ff0, &text).unwrap();
        cpu.gpr[Gpr::Rsi as usize] = 0x8ff0;
        cpu.gpr[Gpr::Rcx as usize] = 600;
        while !string_io(&mut cpu, &memory, &mut device, &io(false, 1, true, known)).unwrap() {
            assert_eq!(cpu.rip, 0x1000);
        }
        assert_eq!((cpu.rip, cpu.gpr[Gpr::Rcx as usize]), (0x1002, 0));
        assert_eq!(cpu.gpr[Gpr::Rsi as usize], 0x8ff0 + 600);
        let sent: Vec<u8> = device.log.iter().map(|entry| entry.3 as u8).collect();
        assert_eq!(sent, text);
    }
}

#[test]
fn insw_downwards() {
    let memory = Memory::identity();
    let (mut cpu, mut device) = (Cpu::long(), Device::new());
    memory.write(0x1000, &[0xf3, 0x66, 0x6d]).unwrap();
    device.feed = vec![0x1111, 0x2222, 0x3333];
    cpu.gpr[Gpr::Rdi as usize] = 0x9004;
    cpu.gpr[Gpr::Rcx as usize] = 3;
    cpu.rflags |= 1 << 10;
    assert_eq!(string_io(&mut cpu, &memory, &mut device, &io(true, 2, true, false)), Ok(true));
    assert_eq!(memory.read_u64(0x9000).unwrap() & 0xffff_ffff_ffff, 0x1111_2222_3333);
    assert_eq!((cpu.rip, cpu.gpr[Gpr::Rdi as usize]), (0x1003, 0x8ffe));
}

#[test]
fn sixteen_bit_outs_wraps_inside_its_segment() {
    let memory = Memory::identity();
    let (mut cpu, mut device) = (Cpu::real(), Device::new());
    memory.write(0x1000, &[0xf3, 0x6e]).unwrap();
    memory.write(0xfffe, b"ab").unwrap();
    memory.write(0, b"cd").unwrap();
    cpu.gpr[Gpr::Rsi as usize] = 0x7777_fffe;
    cpu.gpr[Gpr::Rcx as usize] = 0x8888_0004;
    assert_eq!(string_io(&mut cpu, &memory, &mut device, &io(false, 1, true, false)), Ok(true));
    let sent: Vec<u8> = device.log.iter().map(|entry| entry.3 as u8).collect();
    assert_eq!(sent, b"abcd");
    assert_eq!(cpu.gpr[Gpr::Rsi as usize], 0x7777_0002);
    assert_eq!(cpu.gpr[Gpr::Rcx as usize], 0x8888_0000);
}

#[test]
fn next_rip_by_the_usual_encoding_and_by_decoding() {
    let memory = Memory::identity();
    let mut cpu = Cpu::long();
    memory.write(0x1000, &[0x0f, 0xa2]).unwrap();
    assert_eq!(next_rip(&mut cpu, &memory, Encoding::CPUID), Ok(0x1002));
    memory.write(0x1000, &[0x66, 0x0f, 0xa2]).unwrap();
    assert_eq!(next_rip(&mut cpu, &memory, Encoding::CPUID), Ok(0x1003));
    memory.write(0x1000, &[0x0f, 0x01, 0xd9]).unwrap();
    assert_eq!(next_rip(&mut cpu, &memory, Encoding::VMCALL), Ok(0x1003));
    assert_eq!(usual_next_rip(&cpu, &memory, Encoding::VMCALL), None);
    // Across a quadword: left to the decoder.
    memory.write(0x1007, &[0x0f, 0xa2]).unwrap();
    cpu.rip = 0x1007;
    assert_eq!(usual_next_rip(&cpu, &memory, Encoding::CPUID), None);
    assert_eq!(next_rip(&mut cpu, &memory, Encoding::CPUID), Ok(0x1009));
    // The last two bytes of one, and the last byte of a page.
    memory.write(0x100e, &[0x0f, 0xa2]).unwrap();
    cpu.rip = 0x100e;
    assert_eq!(usual_next_rip(&cpu, &memory, Encoding::CPUID), Some(0x1010));
    memory.write(0x1fff, &[0xf4]).unwrap();
    cpu.rip = 0x1fff;
    assert_eq!(next_rip(&mut cpu, &memory, Encoding::HLT), Ok(0x2000));
    // 32 bits wrap.
    let mut cpu = Cpu::protected32();
    cpu.segments[SegmentName::Cs as usize].base = 0x1001;
    cpu.rip = 0xffff_ffff;
    memory.write(0x1000, &[0xf4]).unwrap();
    assert_eq!(next_rip(&mut cpu, &memory, Encoding::HLT), Ok(0));
}

#[test]
fn code_outside_ram_and_unmapped_code() {
    let memory = Memory::identity();
    let mut cpu = Cpu::long();
    cpu.rip = MMIO;
    assert_eq!(instruction_length(&mut cpu, &memory), Err(Outcome::CodeOutsideRam { address: MMIO }));
    cpu.rip = 0x1_2345_6789;
    assert_eq!(
        instruction_length(&mut cpu, &memory),
        Err(Outcome::Exception { event: Event::fault(vector::PF, 0x10), cr2: Some(0x1_2345_6789) })
    );
}

#[test]
fn what_is_not_done_is_said() {
    let (mut cpu, mut device) = (Cpu::long(), Device::new());
    cpu.gpr[Gpr::Rbx as usize] = MMIO;
    // addps xmm0, [rbx]; vaddps ymm0, ymm0, [rbx]; vmovdqu64 zmm0 {k1}, [rbx]; mul dword [rbx]
    for code in [
        &[0x0f, 0x58, 0x03][..],
        &[0xc5, 0xfc, 0x58, 0x03],
        &[0x62, 0xf1, 0xfe, 0x49, 0x6f, 0x03],
        &[0xf7, 0x23],
    ] {
        assert!(matches!(run(&mut cpu, &mut device, code), Err(Outcome::Unsupported(_))), "{code:02x?}");
    }
    assert!(device.log.is_empty());
}

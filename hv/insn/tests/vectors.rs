//! Moves of vector registers: against this processor, and against a disassembler that says which instructions are moves.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod common;

use std::arch::global_asm;

use common::{Cpu, Device, Memory};
use monovisor_arch::GuestMemory;
use monovisor_insn::{Outcome, emulate};
use yaxpeax_arch::{Decoder, U8Reader};

/// Vector registers as both leave them.
#[repr(C)]
#[derive(Clone, Debug, PartialEq)]
struct Registers {
    vectors: [[u64; 8]; 32],
    mmx: [u64; 8],
}

impl Registers {
    /// What a processor without AVX-512 has of them.
    fn narrow(mut self) -> Self {
        self.vectors[16..].fill([0; 8]);
        self.vectors.iter_mut().for_each(|vector| vector[4..].fill(0));
        self
    }
}

// Loads all registers from RDI, calls the code at RSI with RAX = RDX, and stores them again.
global_asm!(
    ".globl vectors_run",
    "vectors_run:",
    "push rbx",
    "mov rbx, rdi",
    "mov rax, rdx",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "vmovdqu ymm\\n, [rbx + 64 * \\n]",
    ".endr",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7",
    "movq mm\\n, [rbx + 2048 + 8 * \\n]",
    ".endr",
    "call rsi",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "vmovdqu [rbx + 64 * \\n], ymm\\n",
    ".endr",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7",
    "movq [rbx + 2048 + 8 * \\n], mm\\n",
    ".endr",
    "emms",
    "vzeroupper",
    "pop rbx",
    "ret",
    // The same, all of them.
    ".globl vectors_run_wide",
    "vectors_run_wide:",
    "push rbx",
    "mov rbx, rdi",
    "mov rax, rdx",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "vmovdqu64 zmm\\n, [rbx + 64 * \\n]",
    ".endr",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7",
    "movq mm\\n, [rbx + 2048 + 8 * \\n]",
    ".endr",
    "call rsi",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "vmovdqu64 [rbx + 64 * \\n], zmm\\n",
    ".endr",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7",
    "movq [rbx + 2048 + 8 * \\n], mm\\n",
    ".endr",
    "emms",
    "vzeroupper",
    "pop rbx",
    "ret",
);

unsafe extern "C" {
    fn vectors_run(registers: *mut Registers, code: *const u8, address: *mut u8);
    fn vectors_run_wide(registers: *mut Registers, code: *const u8, address: *mut u8);
}

/// Opcode map as VEX numbers them, implied prefix likewise, opcode.
type Opcode = (u8, u8, u8);

/// With legacy prefixes; `[rax]` and register `number`, RAX being `base`.
fn legacy((map, prefix, opcode): Opcode, number: u8, w: bool) -> Vec<u8> {
    let mut code = match prefix {
        0 => vec![],
        1 => vec![0x66],
        2 => vec![0xf3],
        _ => vec![0xf2],
    };
    let rex = 0x40 | u8::from(w) << 3 | (number & 8) >> 1;
    if rex != 0x40 {
        code.push(rex);
    }
    code.push(0x0f);
    match map {
        2 => code.push(0x38),
        3 => code.push(0x3a),
        _ => {}
    }
    code.extend([opcode, (number & 7) << 3]);
    code
}

fn vex((map, prefix, opcode): Opcode, number: u8, w: bool, wide: bool, source: u8) -> Vec<u8> {
    let last = !source << 3 & 0x78 | u8::from(wide) << 2 | prefix;
    if map == 1 && !w {
        return vec![0xc5, !number << 4 & 0x80 | last, opcode, (number & 7) << 3];
    }
    let first = !number << 4 & 0x80 | 0x60 | map;
    vec![0xc4, first, u8::from(w) << 7 | last, opcode, (number & 7) << 3]
}

/// With EVEX, a length of 128 bits shifted left by `length`, registers up to 31, a displacement of 8 bits where it is not 0.
fn evex(
    (map, prefix, opcode): Opcode,
    number: u8,
    w: bool,
    length: u8,
    rest: u8,
    displacement: i8,
) -> Vec<u8> {
    let first = (!number << 4 & 0x80) | (!number & 0x10) | 0x60 | map;
    let mut code =
        vec![0x62, first, u8::from(w) << 7 | 0x7c | prefix, length << 5 | rest, opcode, (number & 7) << 3];
    if displacement != 0 {
        code[5] |= 0x40;
        code.push(displacement as u8);
    }
    code
}

/// Moves of whole registers, without masks.
fn all_wide_codes() -> Vec<Vec<u8>> {
    let mut codes = Vec::new();
    for (map, prefix, opcode, w) in [
        (1, 0, 0x10, false),
        (1, 0, 0x11, false),
        (1, 1, 0x10, true),
        (1, 1, 0x11, true),
        (1, 0, 0x28, false),
        (1, 0, 0x29, false),
        (1, 1, 0x28, true),
        (1, 1, 0x29, true),
        (1, 0, 0x2b, false),
        (1, 1, 0x2b, true),
        (1, 1, 0xe7, false),
        (2, 1, 0x2a, false),
        (1, 1, 0x6f, false),
        (1, 1, 0x7f, true),
        (1, 2, 0x6f, true),
        (1, 2, 0x7f, false),
        (1, 3, 0x6f, false),
        (1, 3, 0x6f, true),
        (1, 3, 0x7f, true),
        (1, 3, 0x7f, false),
    ] {
        for number in [1, 10, 17, 30] {
            for length in 0..3 {
                for displacement in [0, 1, -1] {
                    codes.push(evex((map, prefix, opcode), number, w, length, 8, displacement));
                }
            }
        }
    }
    codes
}

/// The mnemonic and the whole text by yaxpeax; `None` where it knows no such instruction.
fn reference(code: &[u8]) -> Option<(String, String)> {
    let instruction = yaxpeax_x86::long_mode::InstDecoder::default().decode(&mut U8Reader::new(code)).ok()?;
    let text = instruction.to_string();
    Some((text.split(' ').next()?.to_owned(), text))
}

/// Moves between memory and vector registers that do nothing else; with a `v` in front with VEX.
const MOVES: [&str; 20] = [
    "movups", "movupd", "movss", "movsd", "movlps", "movlpd", "movhps", "movhpd", "movaps", "movapd",
    "movntps", "movntpd", "movd", "movq", "movdqa", "movdqu", "movntq", "movntdq", "movntdqa", "lddqu",
];

fn all_codes() -> Vec<Vec<u8>> {
    let mut codes = Vec::new();
    for map in 1..=2 {
        for prefix in 0..4 {
            for opcode in 0..=255 {
                let opcode = (map, prefix, opcode);
                for (number, w) in [(1, false), (10, true)] {
                    // The two escapes, and what takes an immediate or is no instruction of this shape.
                    if map == 1 && matches!(opcode.2, 0x38 | 0x3a) {
                        continue;
                    }
                    codes.push(legacy(opcode, number, w));
                    for (wide, source) in [(false, 0), (true, 0), (false, 5)] {
                        codes.push(vex(opcode, number, w, wide, source));
                    }
                }
            }
        }
    }
    codes
}

#[test]
fn what_is_a_move_is_done_and_nothing_else_is_taken_for_one() {
    let memory = Memory::identity();
    let (mut done, mut failures) = (0, Vec::new());
    for code in all_codes() {
        let Some((mnemonic, text)) = reference(&[&code[..], &[0; 8]].concat()) else { continue };
        let is_vex = matches!(code[0], 0xc4 | 0xc5);
        // A register, and not the size of a memory operand.
        let vector = text.split("mm").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let name = if is_vex { mnemonic.strip_prefix('v').unwrap_or("") } else { &mnemonic };
        if !vector {
            continue;
        }
        let expected = MOVES.contains(&name);
        memory.write(0x1000, &code).unwrap();
        memory.write(0x1000 + code.len() as u64, &[0; 8]).unwrap();
        let mut cpu = Cpu::long();
        cpu.gpr[0] = Device::BASE + 0x40;
        let mut device = Device::new();
        match emulate(&mut cpu, &memory, &mut device, None) {
            Ok(()) if expected => {
                done += 1;
                let stores = text.contains("], ") || text.contains("], mm");
                let written = device.log.iter().any(|access| access.0 == 'w');
                if stores != written {
                    failures.push(format!("{code:02x?}: {text} stores: {written}"));
                }
            }
            Err(Outcome::Unsupported(_)) if !expected => {}
            other => failures.push(format!("{code:02x?}: {text}: {other:?}")),
        }
    }
    assert!(
        failures.is_empty(),
        "{}\n{} in all",
        failures[..failures.len().min(40)].join("\n"),
        failures.len()
    );
    assert!(done > 100, "{done}");
}

struct Random(u64);

impl Random {
    /// xorshift64*.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[test]
fn registers_and_memory_are_the_processors() {
    if !std::arch::is_x86_feature_detected!("avx2") {
        eprintln!("this processor has no AVX2 to compare with");
        return;
    }
    let codes = all_codes().into_iter().filter(|code| {
        let Some((mnemonic, text)) = reference(&[&code[..], &[0; 8]].concat()) else { return false };
        MOVES.contains(&mnemonic.strip_prefix('v').unwrap_or(&mnemonic)) && text.contains("mm")
    });
    let done = compare(
        codes,
        |registers, code, address| {
            // SAFETY: one move between a vector register and the 64 bytes at the address, and a RET.
            unsafe { vectors_run(registers, code, address) };
        },
        Registers::narrow,
    );
    assert!(done > 800, "{done}");
}

#[test]
fn registers_and_memory_are_those_of_a_processor_with_avx_512() {
    let has =
        std::arch::is_x86_feature_detected!("avx512bw") && std::arch::is_x86_feature_detected!("avx512vl");
    if !has {
        eprintln!("this processor has no AVX-512 to compare with");
        return;
    }
    // What has VEX has the rest of a register cleared, what has not leaves it alone.
    let others = [vec![0xc5, 0xfe, 0x6f, 0x08], vec![0xc5, 0xfa, 0x6f, 0x08], vec![0x0f, 0x10, 0x08]];
    let done = compare(
        all_wide_codes().into_iter().chain(others),
        |registers, code, address| {
            // SAFETY: as above, and the bytes before and behind those.
            unsafe { vectors_run_wide(registers, code, address) };
        },
        |registers| registers,
    );
    assert!(done > 5000, "{done}");
}

/// Runs each code here and on the emulator, with the same random registers and memory, and compares what `seen` leaves of the
/// registers. How many runs there were.
fn compare(
    codes: impl Iterator<Item = Vec<u8>>,
    native_run: impl Fn(*mut Registers, *const u8, *mut u8),
    seen: impl Fn(Registers) -> Registers,
) -> usize {
    // SAFETY: a fresh anonymous mapping of one page.
    let page = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    assert_ne!(page, libc::MAP_FAILED);
    // SAFETY: the mapping is this test's alone and is never unmapped.
    let page = unsafe { std::slice::from_raw_parts_mut(page.cast::<u8>(), 4096) };
    let (code_page, window) = page.split_at_mut(2048);
    assert!((window.as_ptr() as u64).is_multiple_of(64));
    let memory = Memory::identity();
    let mut random = Random(0x0123_4567_89ab_cdef);
    let mut done = 0;
    for code in codes {
        for _ in 0..8 {
            let mut before = Registers { vectors: [[0; 8]; 32], mmx: [0; 8] };
            before.vectors.iter_mut().flatten().chain(&mut before.mmx).for_each(|word| *word = random.next());
            let mut device = Device::new();
            device.bytes.iter_mut().for_each(|byte| *byte = random.next() as u8);
            window.copy_from_slice(&device.bytes[..2048]);

            code_page[..code.len()].copy_from_slice(&code);
            code_page[code.len()] = 0xc3;
            let mut native = before.clone();
            native_run(&raw mut native, code_page.as_ptr(), window[64..].as_mut_ptr());

            memory.write(0x1000, &code).unwrap();
            let mut cpu = Cpu::long();
            (cpu.vectors, cpu.mmx) = (before.vectors, before.mmx);
            cpu.gpr[0] = Device::BASE + 64;
            emulate(&mut cpu, &memory, &mut device, None)
                .unwrap_or_else(|error| panic!("{code:02x?}: {error:?}"));
            let ours = Registers { vectors: cpu.vectors, mmx: cpu.mmx };
            assert_eq!(seen(ours), seen(native), "{code:02x?}");
            assert!(device.bytes[..2048] == *window, "{code:02x?}: memory differs");
            assert_eq!(cpu.rip, 0x1000 + code.len() as u64);
            done += 1;
        }
    }
    done
}

#[test]
fn an_aligned_move_of_what_is_not_is_a_general_protection_fault() {
    let memory = Memory::identity();
    for (code, aligned) in [
        (vec![0x0f, 0x28, 0x00], true),
        (vec![0xc5, 0xfd, 0x6f, 0x00], true),
        (vec![0x0f, 0x10, 0x00], false),
        (vec![0xc5, 0xfe, 0x6f, 0x00], false),
        (evex((1, 1, 0x6f), 0, false, 2, 8, 0), true),
        (evex((1, 2, 0x6f), 0, false, 2, 8, 0), false),
    ] {
        memory.write(0x1000, &code).unwrap();
        let mut cpu = Cpu::long();
        cpu.gpr[0] = Device::BASE + 8;
        let mut device = Device::new();
        let result = emulate(&mut cpu, &memory, &mut device, None);
        if aligned {
            assert!(
                matches!(result, Err(Outcome::Exception { event, .. }) if event.vector == 13),
                "{result:?}"
            );
            assert!(device.log.is_empty());
        } else {
            assert_eq!(result, Ok(()));
        }
    }
}

#[test]
fn evex_with_more_than_a_length_is_not_done() {
    let memory = Memory::identity();
    // A mask, zeroing, broadcast, a source of its own by V', by `vvvv`, a length of 3.
    let mut codes: Vec<_> =
        [0x09, 0x89, 0x18, 0x00, 0x68].map(|rest| evex((1, 2, 0x6f), 1, true, 0, rest, 0)).into();
    codes.push(vec![0x62, 0xf1, 0xf6, 0x48, 0x6f, 0x08]);
    // VMOVSS and VADDPS.
    codes.push(evex((1, 2, 0x10), 1, false, 0, 8, 0));
    codes.push(evex((1, 0, 0x58), 1, false, 2, 8, 0));
    for code in codes {
        memory.write(0x1000, &code).unwrap();
        let mut cpu = Cpu::long();
        cpu.gpr[0] = Device::BASE;
        let result = emulate(&mut cpu, &memory, &mut Device::new(), None);
        assert!(matches!(result, Err(Outcome::Unsupported(_))), "{code:02x?} {result:?}");
    }
}

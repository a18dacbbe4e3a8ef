//! Each emulated form run natively and by the emulator on the same registers, flags and memory: the results must be
//! the same to the bit. The memory is RAM for the processor and a device for the emulator, at the same address.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod common;

use std::arch::global_asm;

use common::{Cpu, Memory};
use monovisor_arch::{CpuMode, GuestMemory};
use monovisor_insn::{Bus, decode_instruction, emulate};

/// Where the operands are, for both.
const WINDOW: u64 = 0x2000_0000;
const WINDOW_SIZE: usize = 0x6000;
/// Operands are around here.
const MIDDLE: u64 = WINDOW + 0x3000;

/// CF, PF, AF, ZF, SF, DF, OF.
const FLAGS: u64 = 0xcd5;

#[repr(C)]
#[derive(Clone, Debug, PartialEq)]
struct State {
    gpr: [u64; 16],
    flags: u64,
}

global_asm!(
    ".globl native_run",
    "native_run:",
    "push rbx; push rbp; push r12; push r13; push r14; push r15",
    "push rdi",
    "mov [rip + native_code], rsi",
    "push [rdi + 128]",
    "popfq",
    "mov rax, [rdi]",
    "mov rcx, [rdi + 8]",
    "mov rdx, [rdi + 16]",
    "mov rbx, [rdi + 24]",
    "mov rbp, [rdi + 40]",
    "mov rsi, [rdi + 48]",
    "mov r8, [rdi + 64]",
    "mov r9, [rdi + 72]",
    "mov r10, [rdi + 80]",
    "mov r11, [rdi + 88]",
    "mov r12, [rdi + 96]",
    "mov r13, [rdi + 104]",
    "mov r14, [rdi + 112]",
    "mov r15, [rdi + 120]",
    "mov rdi, [rdi + 56]",
    "call [rip + native_code]",
    "push rdi",
    "mov rdi, [rsp + 8]",
    "mov [rdi], rax",
    "mov [rdi + 8], rcx",
    "mov [rdi + 16], rdx",
    "mov [rdi + 24], rbx",
    "mov [rdi + 40], rbp",
    "mov [rdi + 48], rsi",
    "mov [rdi + 64], r8",
    "mov [rdi + 72], r9",
    "mov [rdi + 80], r10",
    "mov [rdi + 88], r11",
    "mov [rdi + 96], r12",
    "mov [rdi + 104], r13",
    "mov [rdi + 112], r14",
    "mov [rdi + 120], r15",
    "pop [rdi + 56]",
    "pushfq",
    "pop [rdi + 128]",
    "cld",
    "add rsp, 8",
    "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
    "ret",
    ".pushsection .data",
    ".balign 8",
    "native_code: .quad 0",
    ".popsection",
);

unsafe extern "C" {
    fn native_run(state: *mut State, code: *const u8);
}

/// Memory of the process at a fixed address.
fn map(address: u64, size: usize, protection: i32) -> &'static mut [u8] {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: an anonymous mapping where nothing is mapped (NOREPLACE) touches no memory of the program.
    let memory = unsafe { libc::mmap(address as *mut _, size, protection, flags, -1, 0) };
    assert_eq!(memory as u64, address, "cannot map the test window");
    // SAFETY: the mapping was made just now, has this size, is never unmapped, and nobody else knows of it.
    unsafe { std::slice::from_raw_parts_mut(memory.cast(), size) }
}

/// The window as a device.
struct Window(Vec<u8>);

impl Bus for Window {
    fn read(&mut self, address: u64, size: u8) -> u64 {
        let offset = (address - WINDOW) as usize;
        let mut bytes = [0; 8];
        bytes[..usize::from(size)].copy_from_slice(&self.0[offset..offset + usize::from(size)]);
        u64::from_le_bytes(bytes)
    }

    fn write(&mut self, address: u64, size: u8, value: u64) {
        let offset = (address - WINDOW) as usize;
        self.0[offset..offset + usize::from(size)].copy_from_slice(&value.to_le_bytes()[..usize::from(size)]);
    }
}

/// xorshift64*: the same cases each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Often a value at an edge.
    fn value(&mut self) -> u64 {
        const EDGES: [u64; 10] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000, u64::MAX];
        match self.below(3) {
            0 => EDGES[self.below(10) as usize],
            1 => self.next() >> self.below(64),
            _ => self.next(),
        }
    }
}

/// Opcode bytes and the extensions (ModRM.reg) that count; empty for a register.
fn forms() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut forms: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for operation in 0..8u8 {
        for form in 0..4u8 {
            forms.push((vec![operation << 3 | form], vec![]));
        }
    }
    for opcode in [0x63, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b] {
        forms.push((vec![opcode], vec![]));
    }
    for opcode in [0x80, 0x81, 0x83] {
        forms.push((vec![opcode], (0..8).collect()));
    }
    for opcode in [0xc6, 0xc7] {
        forms.push((vec![opcode], vec![0]));
    }
    for opcode in [0xf6, 0xf7] {
        forms.push((vec![opcode], vec![0, 1, 2, 3]));
    }
    for opcode in [0xfe, 0xff] {
        forms.push((vec![opcode], vec![0, 1]));
    }
    for opcode in
        (0x40..=0x4f).chain([0xa3, 0xab, 0xb3, 0xbb, 0xb0, 0xb1, 0xb6, 0xb7, 0xbe, 0xbf, 0xc0, 0xc1, 0xc3])
    {
        forms.push((vec![0x0f, opcode], vec![]));
    }
    for opcode in 0x90..=0x9f {
        forms.push((vec![0x0f, opcode], vec![0]));
    }
    forms.push((vec![0x0f, 0xba], vec![4, 5, 6, 7]));
    forms.push((vec![0x0f, 0xc7], vec![1]));
    if std::arch::is_x86_feature_detected!("movbe") {
        forms.push((vec![0x0f, 0x38, 0xf0], vec![]));
        forms.push((vec![0x0f, 0x38, 0xf1], vec![]));
    }
    forms
}

struct Bench {
    window: &'static mut [u8],
    code: &'static mut [u8],
    memory: Memory,
    random: Random,
}

impl Bench {
    fn new(code: u64, seed: u64) -> Self {
        Self {
            window: map(WINDOW, WINDOW_SIZE, libc::PROT_READ | libc::PROT_WRITE),
            code: map(code, 0x1000, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC),
            memory: Memory::identity(),
            random: Random(seed),
        }
    }

    /// Runs `code` both ways.
    fn compare(&mut self, code: &[u8], before: State) {
        for word in self.window.chunks_exact_mut(8) {
            word.copy_from_slice(&self.random.next().to_le_bytes());
        }
        // Make equal operands likely, for CMPXCHG and the flags.
        if self.random.below(3) == 0 {
            let at = (MIDDLE - WINDOW) as usize;
            self.window[at..at + 8].copy_from_slice(&before.gpr[0].to_le_bytes());
        }
        let mut device = Window(self.window.to_vec());

        self.code[..code.len()].copy_from_slice(code);
        self.code[code.len()] = 0xc3;
        let mut native = before.clone();
        // SAFETY: the code is one instruction of a known list and a RET. Its operands lie in the window, which is mapped;
        // it writes no RSP. `native_run` keeps what the calling convention wants kept.
        unsafe { native_run(&mut native, self.code.as_ptr()) };
        native.flags &= FLAGS;

        self.memory.write(0x1000, code).unwrap();
        let mut cpu = Cpu::long();
        (cpu.gpr, cpu.rflags) = (before.gpr, before.flags);
        while cpu.rip == 0x1000 {
            emulate(&mut cpu, &self.memory, &mut device, None)
                .unwrap_or_else(|error| panic!("{code:02x?}: {error:?}"));
        }
        assert_eq!(cpu.rip, 0x1000 + code.len() as u64, "{code:02x?}");
        let ours = State { gpr: cpu.gpr, flags: cpu.rflags & FLAGS };
        assert_eq!(ours, native, "{code:02x?} from {before:x?}");
        assert!(device.0 == *self.window, "{code:02x?}: memory differs, from {before:x?}");
    }

    fn state(&mut self) -> State {
        let mut gpr = [0; 16];
        for register in &mut gpr {
            *register = self.random.value();
        }
        State { gpr, flags: 0x202 | self.random.next() & FLAGS }
    }
}

#[test]
fn native_and_emulated_results_are_the_same() {
    // One test: both parts use the one window.
    let mut bench = Bench::new(0x3000_0000, 0x1234_5678_9abc_def1);
    for (opcode, extensions) in forms() {
        for _ in 0..120 {
            let mut before = bench.state();
            let rex = match bench.random.below(4) {
                0 => 0,
                1 => 0x40,
                _ => 0x40 | bench.random.below(16) as u8,
            };
            let reg = if extensions.is_empty() {
                bench.random.below(8) as u8
            } else {
                extensions[bench.random.below(extensions.len() as u64) as usize]
            };
            // RSP stays out of it: as a register operand it is 4 without REX.R.
            if extensions.is_empty() && reg == 4 && rex & 4 == 0 {
                continue;
            }
            // CMPXCHG16B is not done.
            if opcode == [0x0f, 0xc7] && rex & 8 != 0 {
                continue;
            }
            let mut code = Vec::new();
            if bench.random.below(4) == 0 && opcode != [0x0f, 0xc3] {
                code.push(0x66);
            }
            let narrow = bench.random.below(8) == 0;
            if narrow {
                code.push(0x67);
            }
            if rex != 0 {
                code.push(rex);
            }
            code.extend(&opcode);
            // [base + disp8], [base + disp32], or with an index; a base of 4 would be SIB or R12.
            let base = [0u8, 1, 2, 3, 5, 6, 7][bench.random.below(7) as usize];
            let base_number = usize::from(base | (rex & 1) << 3);
            let displacement = bench.random.below(256) as u8 as i8;
            let long_displacement = bench.random.below(2) == 0;
            let mode = if long_displacement { 0x80 } else { 0x40 };
            let mut target = MIDDLE.wrapping_sub(displacement as i64 as u64);
            match bench.random.below(3) {
                0 => code.push(mode | reg << 3 | base),
                _ => {
                    let index = [0u8, 1, 2, 3, 4, 5, 6, 7][bench.random.below(8) as usize];
                    let scale = bench.random.below(4) as u8;
                    code.push(mode | reg << 3 | 4);
                    code.push(scale << 6 | index << 3 | base);
                    let number = usize::from(index | (rex & 2) << 2);
                    if number == base_number {
                        continue;
                    }
                    if number != 4 {
                        before.gpr[number] = bench.random.value();
                        target = target.wrapping_sub(before.gpr[number] << scale);
                    }
                }
            }
            before.gpr[base_number] = target;
            if narrow {
                // The upper half does not count then.
                before.gpr[base_number] ^= bench.random.next() << 32;
            }
            match long_displacement {
                true => code.extend(i32::from(displacement).to_le_bytes()),
                false => code.push(displacement as u8),
            }
            if matches!(opcode[..], [0x0f, 0xa3 | 0xab | 0xb3 | 0xbb]) {
                // The bit must be in the window.
                let number = usize::from(reg | (rex & 4) << 1);
                let used = [base_number, usize::from(code[code.len() - 2] >> 3 & 7)];
                if used.contains(&number) || number == 4 || code.iter().any(|byte| *byte >> 3 & 7 == reg) {
                    continue;
                }
                before.gpr[number] = (bench.random.below(60_000) as i64 - 30_000) as u64;
                // An index register may have been the same one: then the address is not what was meant.
                let operand = decode_instruction(&[&code[..], &[0; 8]].concat(), CpuMode::Long64).unwrap();
                if operand.memory.is_some_and(|memory| memory.index.is_some_and(|i| i as usize == number)) {
                    continue;
                }
            }
            code.extend(bench.random.value().to_le_bytes());
            let length = decode_instruction(&code, CpuMode::Long64).unwrap().length;
            code.truncate(length.into());
            bench.compare(&code, before);
        }
    }

    for opcode in [0xa4u8, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf] {
        for _ in 0..200 {
            let mut code = Vec::new();
            match bench.random.below(3) {
                0 => code.push(0xf2),
                1 => code.push(0xf3),
                _ => {}
            }
            if bench.random.below(4) == 0 {
                code.push(0x66);
            }
            let narrow = bench.random.below(4) == 0;
            if narrow {
                code.push(0x67);
            }
            if bench.random.below(3) == 0 {
                code.push(0x48);
            }
            code.push(opcode);
            let mut before = bench.state();
            let most = if bench.random.below(4) == 0 { 300 } else { 6 };
            before.gpr[1] = bench.random.below(most);
            before.gpr[6] = MIDDLE + bench.random.below(16);
            before.gpr[7] = MIDDLE + bench.random.below(16) + 64 * bench.random.below(2);
            if narrow {
                // Without an iteration nothing comes to the emulator, and what becomes of the upper halves is the maker's choice:
                // Intel's processors clear some of them.
                before.gpr[1] = before.gpr[1].max(1);
                for register in [1, 6, 7] {
                    before.gpr[register] |= bench.random.next() << 32;
                }
            }
            bench.compare(&code, before);
        }
    }
}

//! Abuse of the processor: MSRs, CPUID, control registers, descriptors, page tables, and code of random instructions.

use super::Round;
use super::code::{Code, FLAG_INTERRUPT, FLAG_IOPL, FLAG_ONE, FLAG_TRAP, Level};
use super::quirks;
use super::sandbox::{self, CODE, DATA, STACK, TABLES, gpr};

/// Ranges of MSRs, first and last.
const MSRS: [(u32, u32); 24] = [
    (0x00, 0x01),
    (0x10, 0x1b),
    (0x3a, 0x3b),
    (0x48, 0x4f),
    (0x79, 0x8b),
    (0xc1, 0xc8),
    (0xe7, 0xe8),
    (0xfe, 0x10b),
    (0x174, 0x17b),
    (0x186, 0x19f),
    (0x1a0, 0x1a6),
    (0x1c8, 0x1de),
    (0x200, 0x26f),
    (0x277, 0x280),
    (0x2ff, 0x30b),
    (0x38d, 0x3f1),
    (0x480, 0x492),
    (0x6a0, 0x6a8),
    (0x6e0, 0x6e1),
    (0x800, 0x840),
    (0xd90, 0xda0),
    (0x4b56_4d00, 0x4b56_4d08),
    (0xc000_0080, 0xc000_0104),
    (0xc001_0000, 0xc001_0120),
];

/// MSRs that the processor itself switches: their accesses need not leave the guest, and are not counted.
fn passes_through(msr: u32) -> bool {
    matches!(msr, 0x10 | 0x48 | 0x49 | 0x174..=0x176 | 0x277 | 0x6a0..=0x6a8 | 0x802..=0x83f | 0xda0)
        || matches!(msr, 0xc000_0080..=0xc000_0084 | 0xc000_0100..=0xc000_0103)
}

fn msr(round: &mut Round) -> u32 {
    match round.random.below(16) {
        0 => round.random.bits() as u32,
        1 => {
            round.random.pick(&[0x2000, 0x1000, 0x4000_0000, 0xc000_2000, 0xc001_1000])
                | round.random.below(0x100) as u32
        }
        _ => {
            let (first, last) = round.random.pick(&MSRS);
            first + round.random.below(u64::from(last - first) + 1) as u32
        }
    }
}

/// RDMSR and WRMSR, mostly known ones and their neighbours.
pub fn msrs(round: &mut Round) {
    for _ in 0..6 {
        let mut code = Code::new();
        code.faults_count();
        if round.random.once_in(16) {
            code.level(round.random.pick(&[Level::Kernel32, Level::User]));
        }
        let msr = msr(round);
        code.load(1, msr);
        let write = round.random.once_in(2);
        if write {
            let mut value = if (0x800..0x840).contains(&msr) { round.message() } else { round.value() };
            // Where a hypervisor writes by itself: half of the time where it does no harm to this kernel.
            if msr >> 8 == 0x4b_564d && round.random.once_in(2) {
                value = sandbox::physical(DATA) + 0x4000 + (value & 0xfff);
            }
            code.load(0, value as u32).load(2, (value >> 32) as u32);
        }
        let bytes: &[u8] = if write { &[0x0f, 0x30] } else { &[0x0f, 0x32] };
        if passes_through(msr) {
            code.bytes(bytes)
        } else {
            code.exit(bytes)
        };
        round.run(&mut code);
        if write && matches!(msr, 0x1b | 0xc000_0080) {
            round.restore();
        }
    }
}

/// CPUID, hypercalls, cache and performance instructions: one byte string each.
const ALWAYS_EXIT: [&[u8]; 3] = [&[0x0f, 0xa2], &[0x0f, 0xa2], &[0x0f, 0xa2]];
const MAY_EXIT: [&[u8]; 10] = [
    &[0x0f, 0x01, 0xc1],
    &[0x0f, 0x01, 0xd9],
    &[0x0f, 0x08],
    &[0x0f, 0x09],
    &[0xf3, 0x90],
    &[0x0f, 0x31],
    &[0x0f, 0x01, 0xf9],
    &[0x0f, 0x01, 0xfd],
    &[0x0f, 0x33],
    &[0xf3, 0x0f, 0x09],
];

/// CPUID's leaves and subleaves; hypercalls; RDPMC, WBINVD and the like.
pub fn cpuid(round: &mut Round) {
    let mut code = Code::new();
    code.level(round.random.pick(&[Level::Kernel, Level::User, Level::Kernel32, Level::User32]));
    for _ in 0..12 {
        let leaf = match round.random.below(5) {
            0 => round.value() as u32,
            1 => 0x8000_0000 + round.random.below(0x30) as u32,
            2 => 0x4000_0000 + round.random.below(0x110) as u32,
            _ => round.random.below(0x24) as u32,
        };
        code.load(0, leaf).load(1, round.random.pick(&[0, 1, 2, 3, 9, 63, u32::MAX]));
        if round.random.once_in(6) {
            code.bytes(round.random.pick(&MAY_EXIT));
        } else {
            code.exit(round.random.pick(&ALWAYS_EXIT));
        }
    }
    if round.random.once_in(8) {
        code.registers.rflags |= FLAG_TRAP;
    }
    round.run(&mut code);
}

/// MOV to and from control and debug registers, CLTS, LMSW, XSETBV: one bit off, or anything.
pub fn control(round: &mut Round) {
    let mut code = Code::new();
    if round.random.once_in(16) {
        code.level(Level::User);
    }
    for _ in 0..4 {
        let value = round.value();
        code.load64(0, value).bytes(&[0x90]);
        match round.random.below(12) {
            0 => {
                let value = quirks::cr4(round.cr4 ^ 1 << round.random.below(64));
                code.load64(0, value).bytes(&[quirks::GOOD, 0x0f, 0x22, 0xe0])
            }
            1 => {
                let value = quirks::cr0(round.cr0 ^ 1 << round.random.below(64));
                code.load64(0, value).bytes(&[quirks::GOOD, 0x0f, 0x22, 0xc0])
            }
            2 => code.load64(0, quirks::cr0(value)).bytes(&[quirks::GOOD, 0x0f, 0x22, 0xc0]),
            3 => code.load64(0, quirks::cr4(value)).bytes(&[quirks::GOOD, 0x0f, 0x22, 0xe0]),
            // CR3: the same tables, with whatever flags and PCID; else the machine would be lost each time.
            4 => {
                let cr3 = sandbox::tables() | value & 0xfff | value & (1 << 63);
                code.load64(0, quirks::cr3(cr3)).bytes(&[quirks::GOOD, 0x0f, 0x22, 0xd8])
            }
            5 => code.bytes(&[0x44, 0x0f, 0x22, 0xc0, 0x44, 0x0f, 0x20, 0xc1]),
            6 => code.bytes(&[0x0f, 0x23, 0xc0 | (round.random.below(8) as u8) << 3]),
            7 => code.bytes(&[0x0f, 0x21, 0xc0 | (round.random.below(8) as u8) << 3]),
            8 => code.bytes(&[0x0f, 0x01, 0xf0]),
            9 => code.bytes(&[0x0f, 0x06, 0x0f, 0x01, 0xe0]),
            10 => {
                let value = round.random.pick(&[0, 1, 2, 3, 5, 7, 0xe7, 0x2e7, 0xff, u32::MAX]);
                code.load(0, value).load(2, 0).load(1, round.random.below(2) as u32);
                code.bytes(&[0x0f, 0x01, 0xd1])
            }
            // A control register that is not there.
            _ => code.bytes(&[0x0f, 0x22, round.random.pick(&[0xc8, 0xe8, 0xf0, 0xf8])]),
        };
        // An exit in whatever state that has made.
        code.load(0, 0).exit(&[0x0f, 0xa2]);
    }
    round.run_watched(&mut code);
    round.restore();
}

/// GDT, LDT, IDT, TSS and segment registers; far jumps and returns; software interrupts.
pub fn descriptors(round: &mut Round) {
    let mut code = Code::new();
    // A descriptor table in the data area, of this kernel's entries and random ones, and pointers to it.
    for index in sandbox::DESCRIPTORS..64 {
        let entry = if round.random.once_in(2) { round.random.bits() } else { round.value() };
        // SAFETY: the data area is there for this.
        unsafe { ((DATA + 0x2000 + index * 8) as *mut u64).write(entry | 1 << 47) };
    }
    sandbox::copy_descriptors(DATA + 0x2000);
    let wild = round.deadly && round.random.once_in(4);
    let base = if wild { round.value() } else { DATA + 0x2000 };
    // SAFETY: the same.
    unsafe {
        (DATA as *mut u16).write(if wild { round.value() as u16 } else { 0x1ff });
        ((DATA + 2) as *mut u64).write_unaligned(base);
        ((DATA + 0x10) as *mut u64).write(round.value());
        ((DATA + 0x18) as *mut u64).write(round.value());
    }
    for _ in 0..3 {
        let selector = (round.random.below(80) as u32) & !4 | round.random.below(8) as u32 & 4;
        code.load(0, selector).load(6, DATA as u32);
        match round.random.below(14) {
            // LGDT, SGDT, LLDT, LTR, SLDT, STR. A task register that is not the kernel's leaves it without stacks.
            0 => code.bytes(&[0x0f, 0x01, 0x16]),
            1 => code.bytes(&[0x0f, 0x01, 0x06, 0x0f, 0x01, 0x0e]),
            2 => code.bytes(&[0x0f, 0x00, 0xd0]),
            3 if round.deadly && quirks::task_register(selector) => {
                code.bytes(&[quirks::GOOD, 0x0f, 0x00, 0xd8])
            }
            4 => code.bytes(&[0x0f, 0x00, 0xc0, 0x0f, 0x00, 0xc8]),
            // LIDT: what follows is lost more often than not.
            5 if round.deadly => code.bytes(&[0x0f, 0x01, 0x1e]),
            // MOV to a segment register, LAR, LSL, VERR.
            6 => code.bytes(&[0x8e, 0xc0 | (round.random.below(6) as u8) << 3]),
            7 => code.bytes(&[0x0f, 0x02, 0xc8, 0x0f, 0x03, 0xc8, 0x0f, 0x00, 0xe0]),
            // JMP and CALL far through memory, RETF, IRET with what is on the stack.
            8 => code.bytes(&[0xff, 0x6e, 0x10]),
            9 => code.bytes(&[0xff, 0x5e, 0x10]),
            10 => code.bytes(&[0x50, 0x56, 0xcb]),
            11 => code.bytes(&[0x50, 0x56, 0x6a, 2, 0x50, 0x56, 0xcf]),
            12 => code.bytes(&[0xcd, round.random.bits() as u8]),
            _ => code.bytes(&[0x0f, 0x01, 0xf8]),
        };
        code.load(0, 0).exit(&[0x0f, 0xa2]);
    }
    // A start in a segment that is not one.
    if round.random.once_in(4) {
        code.registers.cs = round.random.below(96);
        code.registers.ss = round.random.below(96);
    }
    round.run_watched(&mut code);
    round.restore();
}

/// Loads, stores and string I/O through page tables full of garbage. Their levels are kept apart, so that a walk gets
/// somewhere; in a deadly round they may also lie in device memory.
pub fn tables(round: &mut Round) {
    let entry = |round: &mut Round, next: Option<u64>| {
        let mut entry = round.random.bits() & 0xfff | 1;
        if !round.random.once_in(4) {
            entry |= 0x67;
        }
        entry |= match next {
            Some(next) if !round.random.once_in(4) => {
                entry &= !0x80;
                next
            }
            // A leaf, anywhere: RAM that may be spoiled, devices, nothing.
            _ if round.random.once_in(2) => sandbox::physical(DATA) + (round.random.below(16) << 12),
            _ if round.random.once_in(2) => round.device_address() & !0xfff,
            _ => round.random.bits() & 0x3f_ffff_f000,
        };
        match round.random.below(12) {
            0 => entry |= 1 << (40 + round.random.below(24)),
            1 => entry &= !1,
            _ => {}
        }
        entry
    };
    let put = |table: u64, index: u64, entry: u64| {
        // SAFETY: the area is there for tables.
        unsafe { ((TABLES + table * 0x1000 + index * 8) as *mut u64).write(entry) };
    };
    let tables = sandbox::physical(TABLES);
    put(0, 0, sandbox::anchor());
    for index in 1..512 {
        put(0, index, 0);
    }
    for index in 0..8 {
        let [top, middle, low, leaf] = [
            entry(round, Some(tables + 0x1000)) & !0x80,
            entry(round, Some(tables + 0x2000)),
            entry(round, Some(tables + 0x3000)),
            entry(round, None),
        ];
        // A table where no RAM is ends the guest, and is for rounds that may.
        let tame = |entry: u64, next: u64| match entry & 0x80 {
            0 if !round.deadly => entry & (1 << 63 | 0xfff) | next,
            _ => entry,
        };
        put(0, 1 + index, tame(top, tables + 0x1000));
        put(1, index, tame(middle, tables + 0x2000));
        put(2, index, tame(low, tables + 0x3000));
        put(3, index, leaf);
    }
    let mut code = Code::new();
    if round.random.once_in(3) {
        code.level(Level::User);
        code.registers.rflags |= FLAG_IOPL;
    }
    for _ in 0..6 {
        let index = |round: &mut Round| round.random.below(8);
        let offset = round.random.pick(&[0, 0x310, 0x20, 0x80, 0xffe, 0xfff, 0x7f8]);
        let address =
            (1 + index(round)) << 39 | index(round) << 30 | index(round) << 21 | index(round) << 12 | offset;
        code.load64(7, address).load(0, round.message() as u32).load(1, 8).load(2, 0xe00);
        // Loads, stores, an exchange, a string instruction each; INS and OUTS last, which count.
        match round.random.below(6) {
            0 => code.bytes(&[0x8b, 0x07]),
            1 => code.bytes(&[0x89, 0x07]),
            2 => code.bytes(&[0x87, 0x07]),
            3 => code.bytes(&[0xf3, 0xab]),
            4 => code.exit(&[0xf3, 0x6c]),
            _ => code.bytes(&[0x48, 0x89, 0xfe]).exit(&[0xf3, 0x6e]),
        };
        code.load(0, 0).exit(&[0x0f, 0xa2]);
        // What faults ends the code, so that the next piece gets its turn.
        if round.random.once_in(3) {
            break;
        }
    }
    round.run_watched_on(&mut code, tables);
    round.restore();
}

/// Instructions that hypervisors care about, and what may follow them.
const SENSITIVE: [&[u8]; 52] = [
    &[0x0f, 0xa2],
    &[0x0f, 0x32],
    &[0x0f, 0x30],
    &[0x0f, 0x33],
    &[0x0f, 0x31],
    &[0x0f, 0x01],
    &[0x0f, 0x00],
    &[0x0f, 0x20],
    &[0x0f, 0x22],
    &[0x0f, 0x21],
    &[0x0f, 0x23],
    &[0x0f, 0x06],
    &[0x0f, 0x05],
    &[0x0f, 0x07],
    &[0x0f, 0x34],
    &[0x0f, 0x35],
    &[0x0f, 0x08],
    &[0x0f, 0x09],
    &[0x0f, 0x0b],
    &[0x0f, 0x37],
    &[0x0f, 0xaa],
    &[0x0f, 0xae],
    &[0x0f, 0xc7],
    &[0x0f, 0x78],
    &[0x0f, 0x79],
    &[0x0f, 0x38, 0x80],
    &[0x0f, 0x38, 0x81],
    &[0x66, 0x0f, 0x38, 0x82],
    &[0xf3, 0x0f, 0xc7],
    &[0xf3, 0x0f, 0xae],
    &[0xf4],
    &[0xfa],
    &[0xfb],
    &[0x9c],
    &[0x9d],
    &[0xcf],
    &[0xcb],
    &[0xcc],
    &[0xcd],
    &[0xf1],
    &[0x8e],
    &[0x8c],
    &[0xec],
    &[0xed],
    &[0xee],
    &[0xef],
    &[0x6c],
    &[0x6f],
    &[0xe4],
    &[0xe5],
    &[0xf3],
    &[0x48],
];

/// Random code at either level: sensitive instructions with random operands, or any bytes at all.
pub fn instructions(round: &mut Round) {
    let mut code = Code::new();
    let level =
        round.random.pick(&[Level::Kernel, Level::Kernel, Level::User, Level::Kernel32, Level::User32]);
    code.level(level);
    code.registers.rflags = FLAG_ONE;
    for (chance, flag) in
        [(2, FLAG_IOPL), (2, FLAG_INTERRUPT), (8, FLAG_TRAP), (32, round.random.bits() & 0x24_4dd5)]
    {
        if round.random.once_in(chance) {
            code.registers.rflags |= flag;
        }
    }
    for index in 0..15 {
        code.registers.gprs[index] = match round.random.below(6) {
            0 => DATA + round.random.below(0x1_0000),
            1 => CODE + round.random.below(256),
            2 if round.deadly => round.device_address(),
            3 => u64::from(msr(round)),
            _ => round.value(),
        };
    }
    // What is harmful in a tame round: writing a port that ends it.
    if !round.deadly {
        code.registers.gprs[gpr::RDX] = round.random.pick(&[0x80, 0x71, 0x40, 0xe00, 0x3ff, 0x608, u64::MAX]);
    }
    code.registers.rsp =
        if round.random.once_in(16) { round.value() } else { STACK - round.random.below(16) };
    for _ in 0..1 + round.random.below(24) {
        if round.random.once_in(4) {
            code.noise(&mut round.random, 12);
        } else {
            if round.random.once_in(4) {
                code.bytes(&[round
                    .random
                    .pick(&[0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x64, 0x48, 0x41, 0x4d])]);
            }
            code.bytes(round.random.pick(&SENSITIVE));
            let operand = if round.random.once_in(2) {
                0xc0 | round.random.bits() as u8
            } else {
                round.random.bits() as u8
            };
            code.bytes(&[operand]);
        }
    }
    // Any instruction on device memory is more than is emulated.
    if round.deadly {
        round.run_watched(&mut code);
    } else {
        code.tame();
        round.run_watched_on(&mut code, sandbox::ram_tables());
    }
    round.restore();
}

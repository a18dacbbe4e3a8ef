//! Abuse of ports, of device memory, of the interrupt controllers and the timers, and of PCI configuration.

use super::Round;
use super::code::{Code, FLAG_INTERRUPT, FLAG_IOPL, Level};
use super::sandbox::{DATA, WINDOW, gpr};
use super::second;
use crate::smp;

/// Ranges of ports with a device in them, first and last.
const PORTS: [(u16, u16); 24] = [
    (0x00, 0x0f),
    (0x20, 0x21),
    (0xa0, 0xa1),
    (0x40, 0x43),
    (0x60, 0x64),
    (0x70, 0x77),
    (0x80, 0x8f),
    (0x92, 0x92),
    (0xb2, 0xb3),
    (0xc0, 0xdf),
    (0xe0, 0xff),
    (0x1f0, 0x1f7),
    (0x2f8, 0x2ff),
    (0x3b0, 0x3df),
    (0x3f8, 0x3ff),
    (0x4d0, 0x4d1),
    (0x510, 0x51b),
    (0x600, 0x63f),
    (0xafe0, 0xaff0),
    (0xc000, 0xcfff),
    (0xcf8, 0xcff),
    (0x2000, 0x2020),
    (0x5650, 0x5660),
    (0xfff8, 0xffff),
];

/// Ports whose writing ends the guest, and what of the value does so; see [`Round::deadly`].
const DEADLY_PORTS: [u16; 6] = [0x60, 0x64, 0x92, 0x604, 0x605, 0xcf9];

fn port(round: &mut Round) -> u16 {
    if round.random.once_in(8) {
        return round.random.bits() as u16;
    }
    let (first, last) = round.random.pick(&PORTS);
    let port = first + round.random.below(u64::from(last - first) + 1) as u16;
    // Accesses that begin before the device or reach beyond it.
    if round.random.once_in(16) { port.wrapping_sub(round.random.below(4) as u16) } else { port }
}

fn writes_are_deadly(port: u16, size: u16) -> bool {
    DEADLY_PORTS.iter().any(|deadly| deadly.wrapping_sub(port) < size)
}

/// The opcodes of IN and OUT with DX, by size.
const IN: [(&[u8], u16); 3] = [(&[0xec], 1), (&[0x66, 0xed], 2), (&[0xed], 4)];
const OUT: [(&[u8], u16); 3] = [(&[0xee], 1), (&[0x66, 0xef], 2), (&[0xef], 4)];

/// Any code that touches ports may run at any level that has them.
fn level(round: &mut Round, code: &mut Code) {
    let level = round.random.pick(&[
        Level::Kernel,
        Level::Kernel,
        Level::Kernel,
        Level::User,
        Level::Kernel32,
        Level::User32,
    ]);
    code.level(level);
    if !round.random.once_in(32) {
        code.registers.rflags |= FLAG_IOPL;
    }
}

/// IN and OUT of every size, register and immediate forms.
pub fn ports(round: &mut Round) {
    let mut code = Code::new();
    level(round, &mut code);
    for _ in 0..16 {
        let port = port(round);
        code.load(2, u32::from(port)).load(0, round.value() as u32);
        if port < 0x100 && round.random.once_in(4) {
            let opcode = round.random.pick(&[0xe4, 0xe5, 0xe6, 0xe7]);
            if opcode < 0xe6 || round.deadly || !writes_are_deadly(port, 4) {
                code.exit(&[opcode, port as u8]);
            }
        } else if round.random.once_in(2) {
            code.exit(round.random.pick(&IN).0);
        } else {
            let (opcode, size) = round.random.pick(&OUT);
            if round.deadly || !writes_are_deadly(port, size) {
                code.exit(opcode);
            }
        }
    }
    round.run(&mut code);
}

/// INS and OUTS, repeated or not, up and down, from and to memory, device memory and nothing.
pub fn strings(round: &mut Round) {
    let mut code = Code::new();
    level(round, &mut code);
    for _ in 0..6 {
        let port = port(round);
        let memory = match round.random.below(8) {
            0 if round.deadly => round.device_address() as u32,
            1 => round.random.bits() as u32,
            2 => DATA as u32 + 0xffe,
            _ => DATA as u32 + round.random.below(0x8000) as u32,
        };
        let count = if round.random.once_in(64) { 3000 } else { round.random.below(24) as u32 };
        code.load(2, u32::from(port)).load(1, count).load(6, memory).load(7, memory);
        if round.random.once_in(8) {
            code.bytes(&[0xfd]);
        }
        let prefix: &[u8] = round.random.pick(&[&[0xf3][..], &[0xf2], &[], &[0x67, 0xf3], &[0x2e], &[0x64]]);
        let opcode = round.random.pick(&[0x6c, 0x6d, 0x6e, 0x6f]);
        if opcode >= 0x6e && !round.deadly && writes_are_deadly(port, 4) {
            continue;
        }
        let word: &[u8] = if round.random.once_in(2) { &[0x66] } else { &[] };
        let mut bytes = [0; 8];
        let mut length = 0;
        for byte in prefix.iter().chain(word).chain(&[opcode]) {
            bytes[length] = *byte;
            length += 1;
        }
        code.exit(&bytes[..length]).bytes(&[0xfc]);
    }
    round.run(&mut code);
}

/// Instructions with a memory operand `[rdi]`, and how many bytes of immediate follow.
const FORMS: [(&[u8], u8); 66] = [
    (&[0x8b, 0x07], 0),
    (&[0x8b, 0x07], 0),
    (&[0x89, 0x07], 0),
    (&[0x89, 0x07], 0),
    (&[0xc7, 0x07], 4),
    (&[0x8a, 0x07], 0),
    (&[0x88, 0x07], 0),
    (&[0x66, 0x8b, 0x07], 0),
    (&[0x66, 0x89, 0x07], 0),
    (&[0x48, 0x8b, 0x07], 0),
    (&[0x48, 0x89, 0x07], 0),
    (&[0xc6, 0x07], 1),
    (&[0x66, 0xc7, 0x07], 2),
    (&[0x48, 0xc7, 0x07], 4),
    (&[0x0f, 0xb6, 0x07], 0),
    (&[0x0f, 0xb7, 0x07], 0),
    (&[0x0f, 0xbe, 0x07], 0),
    (&[0x0f, 0xbf, 0x07], 0),
    (&[0x48, 0x63, 0x07], 0),
    (&[0x01, 0x07], 0),
    (&[0x03, 0x07], 0),
    (&[0x29, 0x07], 0),
    (&[0x2b, 0x07], 0),
    (&[0x21, 0x07], 0),
    (&[0x23, 0x07], 0),
    (&[0x09, 0x07], 0),
    (&[0x0b, 0x07], 0),
    (&[0x31, 0x07], 0),
    (&[0x33, 0x07], 0),
    (&[0x11, 0x07], 0),
    (&[0x1b, 0x07], 0),
    (&[0x39, 0x07], 0),
    (&[0x3a, 0x07], 0),
    (&[0x85, 0x07], 0),
    (&[0xf7, 0x07], 4),
    (&[0x81, 0x07], 4),
    (&[0x80, 0x0f], 1),
    (&[0x83, 0x27], 1),
    (&[0x81, 0x3f], 4),
    (&[0xf7, 0x17], 0),
    (&[0xf6, 0x1f], 0),
    (&[0xff, 0x07], 0),
    (&[0xff, 0x0f], 0),
    (&[0xfe, 0x07], 0),
    (&[0x87, 0x07], 0),
    (&[0x86, 0x07], 0),
    (&[0xf0, 0x0f, 0xc1, 0x07], 0),
    (&[0xf0, 0x0f, 0xb1, 0x07], 0),
    (&[0xf0, 0x09, 0x07], 0),
    (&[0x0f, 0xab, 0x07], 0),
    (&[0x0f, 0xb3, 0x07], 0),
    (&[0x0f, 0xbb, 0x07], 0),
    (&[0x0f, 0xba, 0x27], 1),
    (&[0x0f, 0xba, 0x2f], 1),
    (&[0x0f, 0xc3, 0x07], 0),
    (&[0x0f, 0x44, 0x07], 0),
    (&[0x0f, 0x94, 0x07], 0),
    (&[0xa4], 0),
    (&[0xa5], 0),
    (&[0xab], 0),
    (&[0xaf], 0),
    (&[0xf3, 0xab], 0),
    (&[0xf3, 0xa5], 0),
    (&[0xf3, 0xa6], 0),
    (&[0xff, 0x37], 0),
    (&[0x8f, 0x07], 0),
];

/// Forms that no driver uses on a device and that Monovisor does not emulate: the guest is stopped.
const ODD_FORMS: [&[u8]; 14] = [
    &[0x0f, 0x10, 0x07],
    &[0x0f, 0x11, 0x07],
    &[0x66, 0x0f, 0x6f, 0x07],
    &[0xf3, 0x0f, 0x7f, 0x07],
    &[0x0f, 0x6e, 0x07],
    &[0x0f, 0xc7, 0x0f],
    &[0x48, 0x0f, 0xc7, 0x0f],
    &[0xff, 0x17],
    &[0xff, 0x27],
    &[0x0f, 0xae, 0x07],
    &[0x0f, 0xae, 0x0f],
    &[0xdd, 0x07],
    &[0x0f, 0x01, 0x17],
    &[0xc5, 0xf8, 0x10, 0x07],
];

/// Loads, stores and read-modify-writes of device memory, in the forms that are emulated.
pub fn memory(round: &mut Round) {
    let mut code = Code::new();
    let level = round.random.pick(&[Level::Kernel, Level::Kernel, Level::User, Level::Kernel32]);
    code.level(level);
    code.registers.gprs[gpr::RSI] = DATA;
    for _ in 0..8 {
        let address = round.device_address();
        let odd = round.deadly && round.random.once_in(64);
        let far = level == Level::Kernel || level == Level::User;
        if far && round.random.once_in(8) {
            code.load64(7, WINDOW + address);
        } else {
            code.load(7, address as u32);
        }
        code.load(0, round.message() as u32).load(1, round.random.below(4) as u32);
        if odd {
            code.exit(round.random.pick(&ODD_FORMS));
            continue;
        }
        let (mut form, immediate) = round.random.pick(&FORMS);
        // In 32-bit code that is ARPL, which is not emulated.
        if !far && form == [0x48, 0x63, 0x07] {
            form = &[0x8b, 0x07];
        }
        let mut bytes = [0; 12];
        let size = form.len() + usize::from(immediate);
        bytes[..form.len()].copy_from_slice(form);
        let value = round.message().to_le_bytes();
        bytes[form.len()..size].copy_from_slice(&value[..usize::from(immediate)]);
        code.exit(&bytes[..size]);
    }
    round.run(&mut code);
}

/// Registers of the local APIC that matter most.
const APIC_REGISTERS: [u32; 22] = [
    0x20, 0x80, 0xb0, 0xd0, 0xe0, 0xf0, 0x280, 0x2f0, 0x300, 0x300, 0x300, 0x310, 0x320, 0x330, 0x340, 0x350,
    0x360, 0x370, 0x380, 0x380, 0x3e0, 0x3f0,
];

/// The local APIC and the I/O APIC as a driver would write them, with values that none would; interrupts come in.
pub fn apics(round: &mut Round) {
    let mut code = Code::new();
    if second::there() && round.random.once_in(4) {
        to_the_other(round, &mut code);
    }
    for _ in 0..10 {
        let register = round.random.pick(&APIC_REGISTERS);
        let value = round.message() as u32;
        match round.random.below(8) {
            // To itself, to all, to all others, and to one: any vector and delivery mode.
            0 | 1 => {
                let value = value & !(3 << 18) | (round.random.below(4) as u32) << 18 | 1 << 14;
                code.load(7, 0xfee0_0300).exit(&store(value));
            }
            2 => {
                let index = round.random.below(0x42) as u32;
                code.load(7, 0xfec0_0000).exit(&store(index));
                code.load(7, 0xfec0_0010).exit(&store(value));
            }
            // MSI to any destination.
            3 => {
                let address = 0xfee0_0000 | (round.random.bits() as u32 & 0xf_f00c);
                code.load(7, address).exit(&store(value));
            }
            4 => {
                code.load(7, 0xfee0_00b0).exit(&store(0));
            }
            _ => {
                code.load(7, 0xfee0_0000 + register).exit(&store(value));
            }
        }
        if round.random.once_in(4) {
            // STI and a moment for what is pending; the first interrupt ends the code.
            code.bytes(&[0xfb, 0x90, 0x90, 0xfa]);
        }
    }
    round.run(&mut code);
}

/// Messages from one processor to the other: NMI, and what takes the second one out of the middle of its work (SDM vol. 3,
/// 11.6.1). What does so to the first, or starts the second one somewhere, ends the guest.
fn to_the_other(round: &mut Round, code: &mut Code) {
    const OTHERS: u32 = 3 << 18;
    const ASSERT: u32 = 1 << 14;
    let kind = if round.is_second && !round.deadly { 0 } else { round.random.below(24) };
    let page = if round.deadly { round.random.bits() as u32 & 0xff } else { (smp::PAGE >> 12) as u32 };
    for command in match kind {
        0..=20 => [4 << 8, 4 << 8],
        21 => [5 << 8 | ASSERT, 4 << 8],
        22 => [5 << 8 | ASSERT, 6 << 8 | ASSERT | page],
        _ => [6 << 8 | ASSERT | page, 5 << 8],
    } {
        code.load(7, 0xfee0_0300).exit(&store(command | OTHERS));
    }
}

/// `mov dword ptr [rdi], value`
fn store(value: u32) -> [u8; 6] {
    let [a, b, c, d] = value.to_le_bytes();
    [0xc7, 0x07, a, b, c, d]
}

/// Timers as fast as they go, and waiting for them in every state of the interrupt flag.
pub fn timers(round: &mut Round) {
    let mut code = Code::new();
    for _ in 0..4 {
        let value = round.random.pick(&[1, 2, 16, 1000, 0x1_0000, u32::MAX]);
        match round.random.below(5) {
            0 => {
                let mode = round.random.below(256) as u32;
                code.load(2, 0x43).load(0, mode).exit(&[0xee]);
                code.load(2, 0x40 + (mode >> 6 & 3)).load(0, value).exit(&[0xee]).exit(&[0xee]);
            }
            1 => {
                for (index, value) in [(0x0a, round.value()), (0x0b, round.value()), (0x0c, 0)] {
                    code.load(2, 0x70).load(0, index).exit(&[0xee]);
                    code.load(2, 0x71).load(0, value as u32).exit(&[0xee]).exit(&[0xec]);
                }
            }
            2 => {
                let timer = round.random.below(3) as u32;
                let configuration = round.value() as u32;
                code.load(7, 0xfed0_0100 + timer * 0x20).exit(&store(configuration));
                code.load(7, 0xfed0_0108 + timer * 0x20).exit(&store(value));
                code.load(7, 0xfed0_0010).exit(&store(1 + (round.random.bits() as u32 & 2)));
            }
            3 => {
                let mode = (round.random.below(4) as u32) << 17;
                code.load(7, 0xfee0_03e0).exit(&store(round.random.below(16) as u32));
                code.load(7, 0xfee0_0320).exit(&store(mode | (0x20 + round.random.below(0xe0) as u32)));
                code.load(7, 0xfee0_0380).exit(&store(value));
            }
            _ => {
                // IA32_TSC_DEADLINE: now, soon, long ago.
                code.bytes(&[0x0f, 0x31]).bytes(&[0x05]).bytes(&value.to_le_bytes());
                code.load(1, 0x6e0).exit(&[0x0f, 0x30]);
            }
        }
    }
    round.run(&mut code);
    // The watchdog comes last: it takes the 8254's channel 0 and has the HPET let go of it.
    let mut code = Code::new();
    wait(round, &mut code);
    round.run_watched(&mut code);
}

/// HLT: with interrupts on, off, in the shadow of STI and of MOV SS, with a trap flag.
fn wait(round: &mut Round, code: &mut Code) {
    match round.random.below(6) {
        0 => code.bytes(&[0xfb]).exit(&[0xf4]),
        1 => code.bytes(&[0xfa]).exit(&[0xf4]),
        2 => code.bytes(&[0x8c, 0xd0, 0xfb, 0x8e, 0xd0]).exit(&[0xf4]),
        3 => code.bytes(&[0xfb, 0x90]).exit(&[0xf4]),
        4 => code.bytes(&[0x6a, 0x02, 0x9d]).exit(&[0xf4]),
        // PUSH of IF and TF, POPF.
        _ => code.bytes(&[0x68, 0x02, 0x03, 0, 0, 0x9d]).exit(&[0xf4]),
    };
}

/// HLT and interrupt states, with whatever is pending from before.
pub fn halts(round: &mut Round) {
    let mut code = Code::new();
    if round.random.once_in(2) {
        code.registers.rflags |= FLAG_INTERRUPT;
    }
    // Something to wake up by: an interrupt to itself, or the watchdog.
    if round.random.once_in(2) {
        let vector = round.random.below(256) as u32;
        code.load(7, 0xfee0_0300).exit(&store(1 << 18 | vector));
    }
    wait(round, &mut code);
    round.run_watched(&mut code);
}

/// PCI configuration: every register of every function, BARs and command registers too, and the mechanism itself.
pub fn pci(round: &mut Round) {
    let mut code = Code::new();
    for _ in 0..8 {
        let slot = if round.random.once_in(8) { round.random.below(32) } else { round.random.below(8) };
        let function = if round.random.once_in(2) { 0 } else { round.random.below(8) };
        let bus = if round.random.once_in(32) { round.random.below(256) } else { 0 };
        let register = if round.random.once_in(2) { round.random.below(64) } else { round.random.below(17) };
        let mut address = (1 << 31 | bus << 16 | slot << 11 | function << 8 | register << 2) as u32;
        if round.random.once_in(16) {
            address ^= 1 << round.random.below(32);
        }
        code.load(2, 0xcf8).load(0, address).exit(&[0xef]);
        let (opcode, size) = round.random.pick(&OUT);
        let data = 0xcfc + (round.random.below(4) as u32 & !(u32::from(size) - 1));
        code.load(2, data).load(0, round.value() as u32);
        if round.random.once_in(2) {
            code.exit(round.random.pick(&IN).0);
        } else {
            code.exit(opcode);
        }
    }
    round.run(&mut code);
}

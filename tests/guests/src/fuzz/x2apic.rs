//! The local APIC in x2APIC mode, where processors deliver interrupts by themselves: its MSRs as a driver would write them, with
//! values that none would, and interrupts that come in meanwhile.

use super::Round;
use super::code::Code;

const MODE: u32 = 0x400;

/// MSRs less 0x800 that WRMSR takes.
const WRITTEN: [u32; 16] =
    [0x08, 0x0b, 0x0f, 0x28, 0x2f, 0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x38, 0x3e, 0x3f];

/// Into x2APIC mode, some accesses, and back.
pub fn step(round: &mut Round) {
    // The first interrupt ends a piece, and stays in service for those behind it.
    for _ in 0..3 {
        piece(round);
    }
    round.restore();
}

fn piece(round: &mut Round) {
    let mut code = Code::new();
    // RDMSR, OR EAX, WRMSR.
    code.load(1, super::APIC_BASE).exit(&[0x0f, 0x32]);
    code.bytes(&[0x0d]).bytes(&MODE.to_le_bytes()).exit(&[0x0f, 0x30]);
    write(&mut code, 0x0f, 0x1ff);
    for _ in 0..12 {
        let vector = 0x20 + round.random.below(0xe0);
        match round.random.below(12) {
            // To itself, by both registers; to all and to all others.
            0 | 1 => write(&mut code, 0x3f, vector),
            2 => write(&mut code, 0x30, 1 << 18 | vector),
            3 => write(&mut code, 0x30, (2 + round.random.below(2)) << 18 | 1 << 14 | vector),
            4 => write(&mut code, 0x08, round.random.below(256)),
            5 | 10 | 11 => write(&mut code, 0x0b, 0),
            // MOV to CR8.
            6 => {
                let class = round.random.below(16) as u32;
                code.load(0, class).bytes(&[0x44, 0x0f, 0x22, 0xc0]);
            }
            // The timer: once, again and again, by deadline.
            7 => {
                write(&mut code, 0x32, round.random.below(3) << 17 | vector);
                write(&mut code, 0x38, round.random.below(1000));
            }
            8 => {
                code.load(1, 0x800 + round.random.below(0x40) as u32).bytes(&[0x0f, 0x32]);
            }
            _ => {
                let register = round.random.pick(&WRITTEN);
                let value = round.message();
                write(&mut code, register, value);
            }
        }
        if round.random.once_in(3) {
            // STI and a moment for what is pending; the first interrupt ends the code.
            code.bytes(&[0xfb, 0x90, 0x90, 0xfa]);
        }
    }
    // Interrupts stay on for what is left.
    code.bytes(&[0xfb, 0x90, 0x90]);
    round.run(&mut code);
}

/// WRMSR; of EOI and the task priority it leaves the guest on some processors only.
fn write(code: &mut Code, register: u32, value: u64) {
    code.load(1, 0x800 + register).load(0, value as u32).load(2, (value >> 32) as u32);
    if matches!(register, 0x08 | 0x0b | 0x3f) {
        code.bytes(&[0x0f, 0x30])
    } else {
        code.exit(&[0x0f, 0x30])
    };
}

//! MOVS, CMPS, STOS, LODS and SCAS with their repeat prefixes.

use monovisor_arch::state::bits::{RFLAGS_DF, RFLAGS_TF, RFLAGS_ZF};
use monovisor_arch::{Gpr, GuestMemory, SegmentName, VcpuState};

use crate::access::mask;
use crate::alu::{self, Operation};
use crate::decode::Repeat;
use crate::emulate::Emulator;
use crate::{Bus, Intent, Outcome};

/// Most iterations of a REP instruction in one call of [`crate::emulate`]: so that the monitor and interrupts get
/// their turn. The rest follows when the guest runs into the instruction again.
pub const ITERATIONS: u32 = 128;

/// Runs one string instruction (opcodes A4 to A7 and AA to AF) and moves RIP when it is finished.
pub(crate) fn run<C: VcpuState + ?Sized, M: GuestMemory, B: Bus>(
    emulator: &mut Emulator<'_, C, M, B>,
) -> Result<(), Outcome> {
    let instruction = emulator.instruction;
    let repeated = instruction.repeat != Repeat::No;
    let width = instruction.address_size;
    // Single-stepped, it traps after each iteration (SDM vol. 3, 18.3.1.4).
    let stepped = emulator.context.cpu.rflags() & RFLAGS_TF != 0;
    for _ in 0..if stepped { 1 } else { ITERATIONS } {
        let count = emulator.register(Gpr::Rcx as u8, width);
        if repeated && count == 0 {
            break;
        }
        iteration(emulator)?;
        if !repeated {
            break;
        }
        emulator.set_register(Gpr::Rcx as u8, width, count.wrapping_sub(1));
        // REPE and REPNE look at ZF after CMPS and SCAS (A6, A7, AE, AF).
        let compares = matches!(instruction.opcode, 0xa6 | 0xa7 | 0xae | 0xaf);
        if compares {
            let equal = emulator.context.cpu.rflags() & RFLAGS_ZF != 0;
            if equal != (instruction.repeat == Repeat::Equal) {
                emulator.context.retire(&instruction);
                return Ok(());
            }
        }
    }
    if !repeated || emulator.register(Gpr::Rcx as u8, width) == 0 {
        emulator.context.retire(&instruction);
    } else if stepped {
        emulator.context.step();
    }
    Ok(())
}

fn iteration<C: VcpuState + ?Sized, M: GuestMemory, B: Bus>(
    emulator: &mut Emulator<'_, C, M, B>,
) -> Result<(), Outcome> {
    let instruction = emulator.instruction;
    let size = if instruction.opcode & 1 == 0 { 1 } else { instruction.operand_size };
    let width = instruction.address_size;
    // Each operand is checked and translated before a device is touched: a fault must leave no trace.
    let operand = |emulator: &Emulator<'_, C, M, B>, register: Gpr, segment, intent| {
        let offset = emulator.context.cpu.gpr(register) & mask(width);
        let linear = emulator.context.linear(segment, offset, u64::from(size), intent)?;
        emulator.context.place(linear, size, intent)
    };
    let from = instruction.segment.unwrap_or(SegmentName::Ds);
    let (uses_source, uses_destination) = match instruction.opcode & !1 {
        0xa4 | 0xa6 => (true, true),
        0xac => (true, false),
        _ => (false, true),
    };
    match instruction.opcode & !1 {
        0xa4 => {
            let source = operand(emulator, Gpr::Rsi, from, Intent::Read)?;
            let destination = operand(emulator, Gpr::Rdi, SegmentName::Es, Intent::Write)?;
            let value = emulator.context.load(emulator.bus, source);
            emulator.context.store(emulator.bus, destination, value);
        }
        0xa6 => {
            let source = operand(emulator, Gpr::Rsi, from, Intent::Read)?;
            let destination = operand(emulator, Gpr::Rdi, SegmentName::Es, Intent::Read)?;
            let left = emulator.context.load(emulator.bus, source);
            let right = emulator.context.load(emulator.bus, destination);
            compare(emulator, left, right, size);
        }
        0xaa => {
            let destination = operand(emulator, Gpr::Rdi, SegmentName::Es, Intent::Write)?;
            let value = emulator.register(Gpr::Rax as u8, size);
            emulator.context.store(emulator.bus, destination, value);
        }
        0xac => {
            let source = operand(emulator, Gpr::Rsi, from, Intent::Read)?;
            let value = emulator.context.load(emulator.bus, source);
            emulator.set_register(Gpr::Rax as u8, size, value);
        }
        _ => {
            let destination = operand(emulator, Gpr::Rdi, SegmentName::Es, Intent::Read)?;
            let right = emulator.context.load(emulator.bus, destination);
            let left = emulator.register(Gpr::Rax as u8, size);
            compare(emulator, left, right, size);
        }
    }
    let step = if emulator.context.cpu.rflags() & RFLAGS_DF == 0 {
        u64::from(size)
    } else {
        u64::from(size).wrapping_neg()
    };
    for (register, used) in [(Gpr::Rsi, uses_source), (Gpr::Rdi, uses_destination)] {
        if used {
            let value = emulator.context.cpu.gpr(register).wrapping_add(step);
            emulator.set_register(register as u8, width, value);
        }
    }
    Ok(())
}

fn compare<C: VcpuState + ?Sized, M: GuestMemory, B: Bus>(
    emulator: &mut Emulator<'_, C, M, B>,
    left: u64,
    right: u64,
    size: u8,
) {
    let flags = emulator.context.cpu.rflags();
    let (_, flags) = alu::compute(Operation::Cmp, left, right, size, flags);
    emulator.context.cpu.set_rflags(flags);
}

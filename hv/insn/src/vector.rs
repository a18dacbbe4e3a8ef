//! Moves between memory and MMX, XMM and YMM registers (SDM vol. 2, MOVAPS to MOVUPS), with and without VEX.
//!
//! A device sees such an access as 64-bit ones from the lowest address on, as no PC device takes wider ones. What is left to
//! the processor, which has looked at it before it found that the memory is not there: CR0.EM and TS, CR4.OSFXSR, pending
//! x87 exceptions. EVEX forms are not done.

use monovisor_arch::{Event, GuestMemory, VcpuState, VectorRegister, vector};

use crate::access::Place;
use crate::decode::{Instruction, OpcodeMap, Repeat, Vex};
use crate::emulate::Emulator;
use crate::{Bus, Intent, Outcome};

/// What an instruction moves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The whole XMM register, or with VEX.L the YMM register.
    Whole,
    /// The same; an address that is no multiple of the size raises #GP(0).
    Aligned,
    /// So many low bytes of an XMM register; a load clears the others.
    Low(u8),
    /// This 64-bit half of an XMM register; a load keeps the other one.
    Half(usize),
    /// So many low bytes of an MMX register; a load clears the others.
    Mmx(u8),
}

/// The form of an instruction, and whether it stores; `None` for what is no move between memory and a vector register.
fn form(instruction: &Instruction) -> Option<(Part, bool)> {
    instruction.memory?;
    let (map, prefix) = match (instruction.vex, instruction.map) {
        (Some(vex), _) => (vex.map, vex.prefix),
        (None, OpcodeMap::Vex | OpcodeMap::One) => return None,
        // An F3 or F2 counts before a 66 (SDM vol. 2, 2.1.2).
        (None, map) => {
            let prefix = match instruction.repeat {
                Repeat::Equal => 2,
                Repeat::NotEqual => 3,
                Repeat::No => u8::from(instruction.operand_prefix),
            };
            // Of the third map only 0F 38 has any; 0F 3A has none with the opcode of one.
            (if map == OpcodeMap::Three { 2 } else { 1 }, prefix)
        }
    };
    let word = if instruction.rex & 8 != 0 { 8 } else { 4 };
    let part = match (map, instruction.opcode, prefix) {
        // MOVUPS, MOVUPD, LDDQU, MOVDQU.
        (1, 0x10 | 0x11, 0 | 1) | (1, 0xf0, 3) | (1, 0x6f | 0x7f, 2) => Part::Whole,
        // MOVSS; MOVSD, MOVQ.
        (1, 0x10 | 0x11, 2) => Part::Low(4),
        (1, 0x10 | 0x11, 3) | (1, 0x7e, 2) | (1, 0xd6, 1) => Part::Low(8),
        // MOVLPS, MOVLPD; MOVHPS, MOVHPD.
        (1, 0x12 | 0x13, 0 | 1) => Part::Half(0),
        (1, 0x16 | 0x17, 0 | 1) => Part::Half(1),
        // MOVAPS, MOVAPD, MOVNTPS, MOVNTPD, MOVDQA, MOVNTDQ, MOVNTDQA.
        (1, 0x28 | 0x29 | 0x2b, 0 | 1) | (1, 0x6f | 0x7f | 0xe7, 1) | (2, 0x2a, 1) => Part::Aligned,
        // MOVD and MOVQ of either kind of register, MOVNTQ.
        (1, 0x6e | 0x7e, 1) => Part::Low(word),
        (1, 0x6e | 0x7e, 0) => Part::Mmx(word),
        (1, 0x6f | 0x7f | 0xe7, 0) => Part::Mmx(8),
        _ => return None,
    };
    let vex_has_it = match instruction.vex {
        None => true,
        // Only whole registers, and moves of a scalar, take VEX.L; only halves take a second source.
        Some(Vex { wide, source, .. }) => {
            let whole = matches!(part, Part::Whole | Part::Aligned);
            let scalar = matches!(instruction.opcode, 0x10 | 0x11);
            let half_load = matches!(instruction.opcode, 0x12 | 0x16);
            !matches!(part, Part::Mmx(_)) && (!wide || whole || scalar) && (source == 0 || half_load)
        }
    };
    let store = matches!(instruction.opcode, 0x11 | 0x13 | 0x17 | 0x29 | 0x2b | 0x7f | 0xd6 | 0xe7)
        || (instruction.opcode == 0x7e && prefix != 2);
    vex_has_it.then_some((part, store))
}

/// Carries the instruction out, if it is one of these.
pub(crate) fn run<C: VcpuState + ?Sized, M: GuestMemory, B: Bus>(
    emulator: &mut Emulator<'_, C, M, B>,
) -> Result<(), Outcome> {
    let instruction = emulator.instruction;
    let Some((part, store)) = form(&instruction) else { return Err(emulator.unsupported()) };
    let wide = instruction.vex.is_some_and(|vex| vex.wide);
    let size = match part {
        Part::Whole | Part::Aligned if wide => 32,
        Part::Whole | Part::Aligned => 16,
        Part::Half(_) => 8,
        Part::Low(size) | Part::Mmx(size) => size,
    };
    let intent = if store { Intent::Write } else { Intent::Read };
    let mut places = [Place::whole(0, 0); 4];
    let places = places.get_mut(..usize::from(size).div_ceil(8)).unwrap_or_default();
    emulator.places(size, part == Part::Aligned, intent, places)?;

    let number = instruction.reg();
    let cpu = &mut *emulator.context.cpu;
    let register = match (part, instruction.vex) {
        (Part::Mmx(_), _) => VectorRegister::Mmx(number & 7),
        (_, None) => VectorRegister::Xmm(number),
        (_, Some(_)) => VectorRegister::Ymm(number),
    };
    // A guest that has AVX switched off gets #UD from the processor, unless another of its processors has just changed the code.
    let undefined = Outcome::exception(Event::exception(vector::UD));
    let mut value = cpu.vector(register).ok_or(undefined)?;
    if store {
        let from = if part == Part::Half(1) { 1 } else { 0 };
        for (place, &word) in places.iter().zip(value.iter().skip(from)) {
            emulator.context.store(emulator.bus, *place, word);
        }
        return Ok(());
    }
    let mut loaded = [0; 4];
    for (word, place) in loaded.iter_mut().zip(places.iter()) {
        *word = emulator.context.load(emulator.bus, *place);
    }
    match part {
        Part::Half(half) => {
            if let Some(vex) = instruction.vex {
                value = emulator.context.cpu.vector(VectorRegister::Xmm(vex.source)).ok_or(undefined)?;
            }
            if let Some(word) = value.get_mut(half) {
                *word = loaded[0];
            }
            value[2..].fill(0);
        }
        _ => value = loaded,
    }
    emulator.context.cpu.set_vector(register, value);
    Ok(())
}

//! Moves between memory and MMX, XMM, YMM and ZMM registers (SDM vol. 2, MOVAPS to MOVUPS), with and without VEX; with EVEX
//! those of whole registers, without masking.
//!
//! A device sees such an access as 64-bit ones from the lowest address on, as no PC device takes wider ones. What is left to
//! the processor, which has looked at it before it found that the memory is not there: CR0.EM and TS, CR4.OSFXSR, pending
//! x87 exceptions, EVEX.W.

use monovisor_arch::{Event, GuestMemory, VcpuState, VectorRegister, vector};

use crate::decode::{Instruction, OpcodeMap, Repeat, VectorLength};
use crate::emulate::Emulator;
use crate::{Bus, Intent, Outcome};

/// What an instruction moves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The whole XMM register, or as VEX and EVEX say the YMM or ZMM register.
    Whole,
    /// The same; an address that is no multiple of the size raises #GP(0).
    Aligned,
    /// So many low bytes of an XMM register, 0 for what REX.W says; a load clears the others.
    Low(u8),
    /// This 64-bit half of an XMM register; a load keeps the other one.
    Half(u8),
    /// So many low bytes of an MMX register, 0 for what REX.W says; a load clears the others.
    Mmx(u8),
}
use Part::{Aligned, Half, Low, Mmx, Whole};

/// An opcode in all its forms.
struct Row {
    opcode: u8,
    /// Opcode map, as VEX numbers them.
    map: u8,
    /// Prefixes that it is there with, bit n for that which VEX numbers n: none, 66, F3, F2.
    prefixes: u8,
    part: Part,
    store: bool,
    /// How it may be encoded.
    encodings: u8,
}

/// Without VEX; with it; with VEX.L; with VEX.vvvv; with EVEX.
const LEGACY: u8 = 1;
const VEX: u8 = 1 << 1;
const WIDE: u8 = 1 << 2;
const SOURCE: u8 = 1 << 3;
const EVEX: u8 = 1 << 4;
/// Whole registers have all, scalars have no EVEX here, for only whole ones are done.
const ALL: u8 = LEGACY | VEX | WIDE | EVEX;
const SCALAR: u8 = LEGACY | VEX | WIDE;

const fn row(opcode: u8, map: u8, prefixes: u8, part: Part, store: bool, encodings: u8) -> Row {
    Row { opcode, map, prefixes, part, store, encodings }
}

const ROWS: [Row; 31] = [
    // MOVUPS, MOVUPD; MOVSS; MOVSD.
    row(0x10, 1, 0b0011, Whole, false, ALL),
    row(0x11, 1, 0b0011, Whole, true, ALL),
    row(0x10, 1, 0b0100, Low(4), false, SCALAR),
    row(0x11, 1, 0b0100, Low(4), true, SCALAR),
    row(0x10, 1, 0b1000, Low(8), false, SCALAR),
    row(0x11, 1, 0b1000, Low(8), true, SCALAR),
    // MOVLPS, MOVLPD; MOVHPS, MOVHPD.
    row(0x12, 1, 0b0011, Half(0), false, LEGACY | VEX | SOURCE),
    row(0x13, 1, 0b0011, Half(0), true, LEGACY | VEX),
    row(0x16, 1, 0b0011, Half(1), false, LEGACY | VEX | SOURCE),
    row(0x17, 1, 0b0011, Half(1), true, LEGACY | VEX),
    // MOVAPS, MOVAPD; MOVNTPS, MOVNTPD; MOVNTDQA.
    row(0x28, 1, 0b0011, Aligned, false, ALL),
    row(0x29, 1, 0b0011, Aligned, true, ALL),
    row(0x2b, 1, 0b0011, Aligned, true, ALL),
    row(0x2a, 2, 0b0010, Aligned, false, ALL),
    // MOVD and MOVQ of either kind of register.
    row(0x6e, 1, 0b0001, Mmx(0), false, LEGACY),
    row(0x7e, 1, 0b0001, Mmx(0), true, LEGACY),
    row(0x6f, 1, 0b0001, Mmx(8), false, LEGACY),
    row(0x7f, 1, 0b0001, Mmx(8), true, LEGACY),
    row(0x6e, 1, 0b0010, Low(0), false, LEGACY | VEX),
    row(0x7e, 1, 0b0010, Low(0), true, LEGACY | VEX),
    row(0x7e, 1, 0b0100, Low(8), false, LEGACY | VEX),
    row(0xd6, 1, 0b0010, Low(8), true, LEGACY | VEX),
    // MOVDQA; MOVDQU; VMOVDQU8, VMOVDQU16.
    row(0x6f, 1, 0b0010, Aligned, false, ALL),
    row(0x7f, 1, 0b0010, Aligned, true, ALL),
    row(0x6f, 1, 0b0100, Whole, false, ALL),
    row(0x7f, 1, 0b0100, Whole, true, ALL),
    row(0x6f, 1, 0b1000, Whole, false, EVEX),
    row(0x7f, 1, 0b1000, Whole, true, EVEX),
    // MOVNTQ; MOVNTDQ; LDDQU.
    row(0xe7, 1, 0b0001, Mmx(8), true, LEGACY),
    row(0xe7, 1, 0b0010, Aligned, true, ALL),
    row(0xf0, 1, 0b1000, Whole, false, LEGACY | VEX | WIDE),
];

/// The form of an instruction, and whether it stores; `None` for what is no move between memory and a vector register.
fn form(instruction: &Instruction) -> Option<(Part, bool)> {
    instruction.memory?;
    let (map, prefix, needed) = match (instruction.vex, instruction.map) {
        (Some(vex), OpcodeMap::Evex) => {
            (vex.map, vex.prefix, if vex.source == 0 { EVEX } else { EVEX | SOURCE })
        }
        (Some(vex), _) => {
            let wide = if vex.length == VectorLength::Bits128 { 0 } else { WIDE };
            (vex.map, vex.prefix, VEX | wide | if vex.source == 0 { 0 } else { SOURCE })
        }
        (None, OpcodeMap::Vex | OpcodeMap::Evex | OpcodeMap::One) => return None,
        // An F3 or F2 counts before a 66 (SDM vol. 2, 2.1.2).
        (None, map) => {
            let prefix = match instruction.repeat {
                Repeat::Equal => 2,
                Repeat::NotEqual => 3,
                Repeat::No => u8::from(instruction.operand_prefix),
            };
            // Of the third map only 0F 38 has any; 0F 3A has none with the opcode of one.
            (if map == OpcodeMap::Three { 2 } else { 1 }, prefix, LEGACY)
        }
    };
    let row = ROWS.iter().find(|row| {
        (row.opcode, row.map) == (instruction.opcode, map)
            && row.prefixes >> prefix & 1 != 0
            && row.encodings & needed == needed
    })?;
    let word = if instruction.rex & 8 != 0 { 8 } else { 4 };
    let part = match row.part {
        Low(0) => Low(word),
        Mmx(0) => Mmx(word),
        part => part,
    };
    Some((part, row.store))
}

/// Carries the instruction out, if it is one of these.
pub(crate) fn run<C: VcpuState + ?Sized, M: GuestMemory, B: Bus>(
    emulator: &mut Emulator<'_, C, M, B>,
) -> Result<(), Outcome> {
    let instruction = emulator.instruction;
    let Some((part, store)) = form(&instruction) else { return Err(emulator.unsupported()) };
    let length = instruction.vex.map_or(0, |vex| vex.length as u8);
    let evex = instruction.map == OpcodeMap::Evex;
    if evex
        && instruction.modrm.is_some_and(|modrm| modrm >> 6 == 1)
        && let Some(memory) = &mut emulator.instruction.memory
    {
        // A displacement of 8 bits counts in sizes of the operand (SDM vol. 2, 2.7.5).
        memory.displacement <<= 4 + length;
    }
    let size = match part {
        Whole | Aligned => 16 << length,
        Half(_) => 8,
        Low(size) | Mmx(size) => size,
    };
    let intent = if store { Intent::Write } else { Intent::Read };
    let place = emulator.wide_place(size, part == Aligned, intent)?;

    let number = instruction.reg();
    let cpu = &mut *emulator.context.cpu;
    let register = match (part, instruction.vex) {
        (Mmx(_), _) => VectorRegister::Mmx(number & 7),
        (_, None) => VectorRegister::Xmm(number),
        _ if evex => VectorRegister::Zmm(number),
        (_, Some(_)) => VectorRegister::Ymm(number),
    };
    // A guest that has AVX or AVX-512 switched off gets #UD from the processor, unless another of its processors has just
    // changed the code.
    let undefined = Outcome::exception(Event::exception(vector::UD));
    let mut value = cpu.vector(register).ok_or(undefined)?;
    if store {
        let from = usize::from(part == Half(1));
        let mut offset = 0;
        for &word in value.iter().skip(from) {
            if offset < size {
                emulator.context.store(emulator.bus, place.piece(offset), word);
                offset += 8;
            }
        }
        return Ok(());
    }
    let mut loaded = [0; 8];
    let mut offset = 0;
    for word in &mut loaded {
        if offset < size {
            *word = emulator.context.load(emulator.bus, place.piece(offset));
            offset += 8;
        }
    }
    match part {
        Half(half) => {
            if let Some(vex) = instruction.vex {
                value = emulator.context.cpu.vector(VectorRegister::Xmm(vex.source)).ok_or(undefined)?;
            }
            if let Some(word) = value.get_mut(usize::from(half)) {
                *word = loaded[0];
            }
            value[2..].fill(0);
        }
        _ => value = loaded,
    }
    emulator.context.cpu.set_vector(register, value);
    Ok(())
}

//! The shape of one instruction: prefixes, opcode, ModRM, SIB, displacement, immediate (SDM vol. 2, chapter 2).
//!
//! All of the encoding space is measured (so that any instruction can be stepped over); what an opcode *does* is
//! for [`crate::emulate`] and [`crate::string_io`] to say. The opcode maps are two bitmaps and one match, because a
//! hypervisor looks at a few dozen forms: a full disassembler's tables weigh more than the rest of a board image.

use monovisor_arch::{CpuMode, Gpr, SegmentName};

/// The longest instruction; a longer one raises #GP(0) (SDM vol. 2, 2.3.11).
pub const MAX_LENGTH: usize = 15;

/// Why bytes are not an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end before the instruction does.
    Truncated,
    /// Longer than [`MAX_LENGTH`] bytes: #GP(0).
    TooLong,
}

/// Which opcode map the opcode is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpcodeMap {
    /// One byte.
    One,
    /// 0F and a byte.
    Two,
    /// 0F 38 or 0F 3A and a byte.
    Three,
    /// Behind a VEX prefix.
    Vex,
    /// Behind an EVEX prefix.
    Evex,
}

/// The length of vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VectorLength {
    Bits128,
    Bits256,
    Bits512,
}

/// A repeat prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// None.
    No,
    /// F3: REP, REPE.
    Equal,
    /// F2: REPNE.
    NotEqual,
}

/// A memory operand before the registers are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryOperand {
    /// Base register.
    pub base: Option<Gpr>,
    /// Index register.
    pub index: Option<Gpr>,
    /// Index is shifted left by this: 0 to 3.
    pub shift: u8,
    /// Displacement, sign-extended (the whole address for MOV with `moffs`).
    pub displacement: u64,
    /// Relative to the next instruction.
    pub rip_relative: bool,
}

/// What a VEX or EVEX prefix says besides the bits of REX (SDM vol. 2, 2.3.5, 2.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vex {
    /// Opcode map: 1 for 0F, 2 for 0F 38, 3 for 0F 3A.
    pub map: u8,
    /// The implied prefix (`pp`): 0 none, 1 for 66, 2 for F3, 3 for F2.
    pub prefix: u8,
    /// Vector length.
    pub length: VectorLength,
    /// The second source register (`vvvv`, inverted); 0 where there is none.
    pub source: u8,
}

/// One instruction, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Length in bytes, 1 to 15.
    pub length: u8,
    /// Opcode map.
    pub map: OpcodeMap,
    /// Last opcode byte.
    pub opcode: u8,
    /// ModRM byte, where the opcode has one.
    pub modrm: Option<u8>,
    /// REX prefix, 0 where there is none. VEX and EVEX have the same bits, and EVEX.R' (not inverted) is bit 4.
    pub rex: u8,
    /// Operand size in bytes by mode and prefixes: 2, 4 or 8. Byte forms of an opcode are the opcode's business.
    pub operand_size: u8,
    /// Address size in bytes: 2, 4 or 8.
    pub address_size: u8,
    /// VEX prefix, or EVEX prefix without masking, broadcast and rounding.
    pub vex: Option<Vex>,
    /// Repeat prefix.
    pub repeat: Repeat,
    /// 66 prefix.
    pub operand_prefix: bool,
    /// LOCK prefix.
    pub lock: bool,
    /// Segment override; in 64-bit mode only FS and GS count.
    pub segment: Option<SegmentName>,
    /// Memory operand of ModRM or of `moffs`.
    pub memory: Option<MemoryOperand>,
    /// Immediate, sign-extended; 0 where there is none.
    pub immediate: u64,
}

impl Instruction {
    /// The `reg` field of ModRM without REX.R: an opcode extension.
    pub fn extension(&self) -> u8 {
        self.modrm.unwrap_or(0) >> 3 & 7
    }

    /// The `reg` field of ModRM with REX.R, and R' of EVEX.
    pub fn reg(&self) -> u8 {
        self.extension() | (self.rex & 4) << 1 | self.rex & 0x10
    }

    /// The `rm` field of ModRM with REX.B; it names a register where `memory` is `None`.
    pub fn rm(&self) -> u8 {
        self.modrm.unwrap_or(0) & 7 | (self.rex & 1) << 3
    }

    /// The segment that the memory operand is in.
    pub fn data_segment(&self) -> SegmentName {
        if let Some(segment) = self.segment {
            return segment;
        }
        match self.memory {
            Some(MemoryOperand { base: Some(Gpr::Rsp | Gpr::Rbp), .. }) => SegmentName::Ss,
            _ => SegmentName::Ds,
        }
    }
}

/// Rows of 16 opcodes behind 0F: a bit is 1 where a ModRM byte follows (SDM vol. 2, table A-3).
const TWO_BYTE_MODRM: [u16; 16] = [
    0xa00f, 0xffff, 0xffff, 0x0000, 0xffff, 0xffff, 0xffff, 0xff7f, 0x0000, 0xffff, 0xf8f8, 0xffff, 0x00ff,
    0xffff, 0xffff, 0xffff,
];

/// Rows of 16 one-byte opcodes, the same (SDM vol. 2, table A-2). VEX and EVEX are taken out before.
const ONE_BYTE_MODRM: [u16; 16] = [
    0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0x0000, 0x0000, 0x0a0c, 0x0000, 0xffff, 0x0000, 0x0000, 0x0000, 0x00f3,
    0xff0f, 0x0000, 0xc0c0,
];

fn row_bit(rows: &[u16; 16], opcode: u8) -> bool {
    rows[usize::from(opcode >> 4)] >> (opcode & 15) & 1 != 0
}

/// The kinds of immediates (SDM vol. 2, appendix A.2.2): the size in bytes for an operand size.
fn immediate_size(map: OpcodeMap, opcode: u8, extension: u8, operand: u8, address: u8, long: bool) -> u8 {
    let z = if operand == 2 { 2 } else { 4 };
    match map {
        OpcodeMap::One => match opcode {
            0x00..=0x3f if opcode & 7 == 4 => 1,
            0x00..=0x3f if opcode & 7 == 5 => z,
            0x68 | 0x69 | 0x81 | 0xa9 | 0xc7 => z,
            // Near branches keep 32 bits in 64-bit mode.
            0xe8 | 0xe9 => {
                if long {
                    4
                } else {
                    z
                }
            }
            0x6a | 0x6b | 0x70..=0x80 | 0x82 | 0x83 | 0xa8 | 0xb0..=0xb7 => 1,
            0xc0 | 0xc1 | 0xc6 | 0xcd | 0xd4 | 0xd5 | 0xe0..=0xe7 | 0xeb => 1,
            0xb8..=0xbf => operand,
            0x9a | 0xea => z + 2,
            0xa0..=0xa3 => address,
            0xc2 | 0xca => 2,
            0xc8 => 3,
            0xf6 if extension < 2 => 1,
            0xf7 if extension < 2 => z,
            _ => 0,
        },
        OpcodeMap::Two => match opcode {
            0x80..=0x8f => {
                if long {
                    4
                } else {
                    z
                }
            }
            0x0f | 0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => 1,
            _ => 0,
        },
        // The callers know map 3 from map 2.
        OpcodeMap::Three | OpcodeMap::Vex | OpcodeMap::Evex => 0,
    }
}

/// The bytes not yet decoded.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Result<u8, DecodeError> {
        if self.position >= MAX_LENGTH {
            return Err(DecodeError::TooLong);
        }
        self.bytes.get(self.position).copied().ok_or(DecodeError::Truncated)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = self.peek()?;
        self.position += 1;
        Ok(byte)
    }

    /// Reads `size` bytes (0 to 8), little-endian, sign-extended.
    fn signed(&mut self, size: u8) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        let mut shift = 0u32;
        for _ in 0..size.min(8) {
            value |= u64::from(self.byte()?) << shift;
            shift += 8;
        }
        Ok(sign_extend(value, size))
    }
}

/// Extends the sign of a value of `size` bytes to 64 bits.
pub(crate) fn sign_extend(value: u64, size: u8) -> u64 {
    match size {
        1 => value as i8 as u64,
        2 => value as i16 as u64,
        4 => value as i32 as u64,
        _ => value,
    }
}

/// The register with encoding `number` (its low four bits).
pub(crate) fn gpr(number: u8) -> Gpr {
    Gpr::ALL[usize::from(number & 15)]
}

/// Decodes the instruction at the start of `bytes` as code of `mode`.
pub fn decode(bytes: &[u8], mode: CpuMode) -> Result<Instruction, DecodeError> {
    let long = mode == CpuMode::Long64;
    if long && let Some(instruction) = plain_mov(bytes) {
        return Ok(instruction);
    }
    let wide = matches!(mode, CpuMode::Protected32 | CpuMode::Compatibility32);
    let mut reader = Reader { bytes, position: 0 };
    let mut instruction = Instruction {
        length: 0,
        map: OpcodeMap::One,
        opcode: 0,
        modrm: None,
        rex: 0,
        operand_size: 0,
        address_size: 0,
        vex: None,
        repeat: Repeat::No,
        operand_prefix: false,
        lock: false,
        segment: None,
        memory: None,
        immediate: 0,
    };
    let mut address_prefix = false;
    let mut opcode;
    loop {
        opcode = reader.byte()?;
        match opcode {
            0x26 | 0x2e | 0x36 | 0x3e => {
                // ES, CS, SS and DS overrides do nothing in 64-bit mode (SDM vol. 2, 2.1.1).
                if !long {
                    instruction.segment = Some(match opcode {
                        0x26 => SegmentName::Es,
                        0x2e => SegmentName::Cs,
                        0x36 => SegmentName::Ss,
                        _ => SegmentName::Ds,
                    });
                }
            }
            0x64 => instruction.segment = Some(SegmentName::Fs),
            0x65 => instruction.segment = Some(SegmentName::Gs),
            0x66 => instruction.operand_prefix = true,
            0x67 => address_prefix = true,
            0xf0 => instruction.lock = true,
            0xf2 => instruction.repeat = Repeat::NotEqual,
            0xf3 => instruction.repeat = Repeat::Equal,
            0x40..=0x4f if long => {
                // A REX prefix counts only right before the opcode.
                instruction.rex = opcode;
                continue;
            }
            _ => break,
        }
        instruction.rex = 0;
    }
    instruction.operand_size = match (long, wide, instruction.operand_prefix) {
        (true, _, _) if instruction.rex & 8 != 0 => 8,
        (true, _, true) | (_, true, true) | (false, false, false) => 2,
        _ => 4,
    };
    instruction.address_size = match (long, wide, address_prefix) {
        (true, _, false) => 8,
        (false, true, true) | (false, false, false) => 2,
        _ => 4,
    };

    let mut trailing = 0;
    let has_modrm;
    match opcode {
        0x0f => {
            opcode = reader.byte()?;
            match opcode {
                0x38 | 0x3a => {
                    trailing = u8::from(opcode == 0x3a);
                    instruction.map = OpcodeMap::Three;
                    opcode = reader.byte()?;
                    has_modrm = true;
                }
                _ => {
                    instruction.map = OpcodeMap::Two;
                    has_modrm = row_bit(&TWO_BYTE_MODRM, opcode);
                }
            }
        }
        // LES, LDS and BOUND have a memory operand; with a register's ModRM (and always in 64-bit mode) these are VEX
        // and EVEX.
        0x62 | 0xc4 | 0xc5 if long || reader.peek()? >= 0xc0 => {
            let first = reader.byte()?;
            let map = match opcode {
                0xc5 => 1,
                0xc4 => first & 0x1f,
                _ => first & 7,
            };
            // R, X and B are inverted; outside 64-bit mode they are 1, or it is no VEX.
            instruction.rex = match (long, opcode) {
                (false, _) => 0,
                (true, 0xc5) => !first >> 5 & 4,
                (true, _) => !first >> 5 & 7,
            };
            let last = if opcode == 0xc5 { first } else { reader.byte()? };
            instruction.map = OpcodeMap::Vex;
            let mut length = last >> 2 & 1;
            if opcode == 0x62 {
                instruction.map = OpcodeMap::Evex;
                let rest = reader.byte()?;
                // No masking, no broadcast, and `vvvv` of no more than four bits; else there is nothing to do here.
                length = if rest & 0x9f == 8 { rest >> 5 & 3 } else { 3 };
                if long {
                    instruction.rex |= !first & 0x10;
                }
            }
            let length = match length {
                0 => Some(VectorLength::Bits128),
                1 => Some(VectorLength::Bits256),
                2 => Some(VectorLength::Bits512),
                _ => None,
            };
            instruction.vex =
                length.map(|length| Vex { map, prefix: last & 3, length, source: !last >> 3 & 15 });
            if opcode == 0xc4 && long {
                instruction.rex |= last >> 4 & 8;
            }
            opcode = reader.byte()?;
            has_modrm = map != 1 || opcode != 0x77;
            trailing = match map {
                1 => immediate_size(OpcodeMap::Two, opcode, 0, 4, 4, true).min(1),
                3 => 1,
                _ => 0,
            };
        }
        _ => has_modrm = row_bit(&ONE_BYTE_MODRM, opcode),
    }
    instruction.opcode = opcode;
    // EXTRQ and INSERTQ, which share an opcode with VMREAD, have two immediate bytes (APM vol. 4).
    if instruction.map == OpcodeMap::Two
        && opcode == 0x78
        && (instruction.operand_prefix || instruction.repeat == Repeat::NotEqual)
    {
        trailing = 2;
    }

    if has_modrm {
        let modrm = reader.byte()?;
        instruction.modrm = Some(modrm);
        // MOV to and from control and debug registers has no memory form (SDM vol. 2, MOV): `mod` is ignored.
        let register_only = instruction.map == OpcodeMap::Two && matches!(opcode, 0x20..=0x27);
        if modrm < 0xc0 && !register_only {
            instruction.memory = Some(memory_operand(&mut reader, &instruction, modrm, long)?);
        }
    }
    let size = trailing
        + immediate_size(
            instruction.map,
            opcode,
            instruction.extension(),
            instruction.operand_size,
            instruction.address_size,
            long,
        );
    // Far pointers and ENTER have more parts than one; nobody asks for their values.
    instruction.immediate = reader.signed(size)?;
    if instruction.map == OpcodeMap::One && matches!(opcode, 0xa0..=0xa3) {
        let mask = if instruction.address_size == 2 {
            0xffff
        } else if instruction.address_size == 4 {
            0xffff_ffff
        } else {
            u64::MAX
        };
        instruction.memory =
            Some(MemoryOperand { displacement: instruction.immediate & mask, ..MemoryOperand::default() });
    }
    instruction.length = reader.position as u8;
    Ok(instruction)
}

/// What drivers use on MMIO all day: MOV between a register and memory in 64-bit mode (88 to 8B), with REX or without,
/// no other prefix, no SIB. An eighth of the work of the whole decoder; `None` for everything else.
#[inline]
fn plain_mov(bytes: &[u8]) -> Option<Instruction> {
    let mut word = u64::from_le_bytes(*bytes.first_chunk()?);
    let (mut rex, mut length) = (0, 2);
    if word & 0xf0 == 0x40 {
        rex = word as u8;
        word >>= 8;
        length = 3;
    }
    let (opcode, modrm) = (word as u8, (word >> 8) as u8);
    let rm = modrm & 7;
    if opcode & 0xfc != 0x88 || modrm >= 0xc0 || rm == 4 {
        return None;
    }
    word >>= 16;
    let rip_relative = modrm & 0xc7 == 5;
    let mut displacement = 0;
    if modrm >= 0x80 || rip_relative {
        displacement = word as i32 as u64;
        length += 4;
    } else if modrm >= 0x40 {
        displacement = word as i8 as u64;
        length += 1;
    }
    let base = if rip_relative { None } else { Some(gpr(rm | (rex & 1) << 3)) };
    Some(Instruction {
        length,
        map: OpcodeMap::One,
        opcode,
        modrm: Some(modrm),
        rex,
        operand_size: if rex & 8 != 0 { 8 } else { 4 },
        address_size: 8,
        vex: None,
        repeat: Repeat::No,
        operand_prefix: false,
        lock: false,
        segment: None,
        memory: Some(MemoryOperand { base, index: None, shift: 0, displacement, rip_relative }),
        immediate: 0,
    })
}

/// ModRM with `mod` other than 3, SIB and displacement (SDM vol. 2, tables 2-1 to 2-3).
fn memory_operand(
    reader: &mut Reader<'_>,
    instruction: &Instruction,
    modrm: u8,
    long: bool,
) -> Result<MemoryOperand, DecodeError> {
    let mut operand = MemoryOperand::default();
    let mode = modrm >> 6;
    let rm = modrm & 7;
    if instruction.address_size == 2 {
        (operand.base, operand.index) = match rm {
            0 => (Some(Gpr::Rbx), Some(Gpr::Rsi)),
            1 => (Some(Gpr::Rbx), Some(Gpr::Rdi)),
            2 => (Some(Gpr::Rbp), Some(Gpr::Rsi)),
            3 => (Some(Gpr::Rbp), Some(Gpr::Rdi)),
            4 => (Some(Gpr::Rsi), None),
            5 => (Some(Gpr::Rdi), None),
            6 if mode == 0 => (None, None),
            6 => (Some(Gpr::Rbp), None),
            _ => (Some(Gpr::Rbx), None),
        };
        operand.displacement = match mode {
            0 if rm == 6 => reader.signed(2)?,
            0 => 0,
            1 => reader.signed(1)?,
            _ => reader.signed(2)?,
        };
        return Ok(operand);
    }
    let extend = |bit: u8| if instruction.rex & bit != 0 { 8 } else { 0 };
    let mut wide_displacement = mode == 2;
    if rm == 4 {
        let sib = reader.byte()?;
        operand.shift = sib >> 6;
        let index = (sib >> 3 & 7) | extend(2);
        if index != 4 {
            operand.index = Some(gpr(index));
        }
        if sib & 7 == 5 && mode == 0 {
            wide_displacement = true;
        } else {
            operand.base = Some(gpr(sib & 7 | extend(1)));
        }
    } else if rm == 5 && mode == 0 {
        wide_displacement = true;
        operand.rip_relative = long;
    } else {
        operand.base = Some(gpr(rm | extend(1)));
    }
    if wide_displacement {
        operand.displacement = reader.signed(4)?;
    } else if mode == 1 {
        operand.displacement = reader.signed(1)?;
    }
    Ok(operand)
}

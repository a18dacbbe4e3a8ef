//! Our decoder's lengths and operands against yaxpeax-x86, a maintained disassembler, and against junk.

use monovisor_arch::CpuMode;
use monovisor_insn::{DecodeError, MAX_LENGTH, OpcodeMap, decode_instruction};
use proptest::prelude::*;
use yaxpeax_arch::{AddressBase, Decoder, LengthedInstruction, U8Reader};

/// Length and text by yaxpeax; `None` where it knows no such instruction.
fn reference(bytes: &[u8], mode: CpuMode) -> Option<(usize, String)> {
    let mut reader = U8Reader::new(bytes);
    match mode {
        CpuMode::Long64 => {
            let instruction = yaxpeax_x86::long_mode::InstDecoder::default().decode(&mut reader).ok()?;
            Some((0u64.wrapping_offset(instruction.len()).to_linear(), instruction.to_string()))
        }
        CpuMode::Protected32 => {
            let instruction = yaxpeax_x86::protected_mode::InstDecoder::default().decode(&mut reader).ok()?;
            Some((0u32.wrapping_offset(instruction.len()).to_linear(), instruction.to_string()))
        }
        _ => {
            let instruction = yaxpeax_x86::real_mode::InstDecoder::default().decode(&mut reader).ok()?;
            Some((0u32.wrapping_offset(instruction.len()).to_linear(), instruction.to_string()))
        }
    }
}

fn check(bytes: &[u8], mode: CpuMode) -> Result<(), String> {
    let ours = decode_instruction(bytes, mode);
    // yaxpeax lets near branches outside 64-bit mode ignore a 66 prefix; the processor does not: 66 makes their offsets
    // 16 bits in 32-bit code and 32 bits in 16-bit code (SDM vol. 2, CALL, JMP, Jcc).
    if let Ok(instruction) = ours
        && mode != CpuMode::Long64
        && instruction.operand_prefix
        && matches!(
            (instruction.map, instruction.opcode),
            (OpcodeMap::One, 0xe8 | 0xe9) | (OpcodeMap::Two, 0x80..=0x8f)
        )
    {
        return Ok(());
    }
    let Some((length, text)) = reference(bytes, mode) else { return Ok(()) };
    match ours {
        Ok(instruction) if usize::from(instruction.length) == length => Ok(()),
        other => Err(format!("{mode:?} {bytes:02x?}: {text} has {length} bytes, not {other:?}")),
    }
}

#[test]
fn every_opcode_with_every_modrm_has_the_right_length() {
    let prefixes: [&[u8]; 8] =
        [&[], &[0x66], &[0x67], &[0xf2], &[0xf3], &[0x66, 0x67], &[0x48], &[0x66, 0x48]];
    let maps: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    let mut failures = Vec::new();
    for mode in [CpuMode::Long64, CpuMode::Protected32, CpuMode::Real] {
        for prefix in prefixes {
            for map in maps {
                for opcode in 0..=255u8 {
                    for modrm in 0..=255u8 {
                        let mut bytes = [0x24u8; 20];
                        let head: Vec<u8> = [prefix, map, &[opcode, modrm]].concat();
                        bytes[..head.len()].copy_from_slice(&head);
                        if let Err(text) = check(&bytes, mode) {
                            failures.push(text);
                            break;
                        }
                    }
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{}\n{} in all",
        failures[..failures.len().min(60)].join("\n"),
        failures.len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn junk_never_panics_and_lengths_hold(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        for mode in [CpuMode::Long64, CpuMode::Protected32, CpuMode::Real, CpuMode::Protected16,
            CpuMode::Compatibility32, CpuMode::Compatibility16, CpuMode::Virtual8086]
        {
            match decode_instruction(&bytes, mode) {
                Ok(instruction) => {
                    let length = usize::from(instruction.length);
                    prop_assert!(length >= 1 && length <= bytes.len().min(MAX_LENGTH));
                    // The same from exactly these bytes; cut off from fewer.
                    prop_assert_eq!(decode_instruction(&bytes[..length], mode), Ok(instruction));
                    prop_assert_eq!(
                        decode_instruction(&bytes[..length - 1], mode),
                        Err(DecodeError::Truncated)
                    );
                }
                Err(DecodeError::Truncated) => prop_assert!(bytes.len() < MAX_LENGTH),
                Err(DecodeError::TooLong) => prop_assert!(bytes.len() >= MAX_LENGTH),
            }
        }
    }
}

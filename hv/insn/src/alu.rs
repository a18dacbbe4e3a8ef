//! Two-operand arithmetic with the flags it leaves (SDM vol. 1, 3.4.3.1; vol. 2, each instruction).

use monovisor_arch::state::bits::{RFLAGS_AF, RFLAGS_CF, RFLAGS_OF, RFLAGS_PF, RFLAGS_SF, RFLAGS_ZF};

use crate::access::mask;

/// The flags that arithmetic sets.
pub(crate) const STATUS: u64 = RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF;

/// The eight operations of opcodes 00 to 3F and of group 1, in the order of their encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
}

impl Operation {
    /// The one with encoding `number` (its low three bits).
    pub fn new(number: u8) -> Self {
        match number & 7 {
            0 => Self::Add,
            1 => Self::Or,
            2 => Self::Adc,
            3 => Self::Sbb,
            4 => Self::And,
            5 => Self::Sub,
            6 => Self::Xor,
            _ => Self::Cmp,
        }
    }
}

/// SF, ZF and PF of a result.
fn result_flags(result: u64, size: u8) -> u64 {
    let mut flags = 0;
    if result & mask(size) == 0 {
        flags |= RFLAGS_ZF;
    }
    if result >> (8 * u32::from(size) - 1) & 1 != 0 {
        flags |= RFLAGS_SF;
    }
    if (result as u8).count_ones().is_multiple_of(2) {
        flags |= RFLAGS_PF;
    }
    flags
}

/// Computes `left op right` on operands of `size` bytes (1, 2, 4 or 8), both zero-extended. Returns the result and
/// the new RFLAGS. The result of CMP is that of SUB: not to be stored.
pub(crate) fn compute(operation: Operation, left: u64, right: u64, size: u8, flags: u64) -> (u64, u64) {
    let mask = mask(size);
    let top = 8 * u32::from(size) - 1;
    let (left, right) = (left & mask, right & mask);
    let carry = match operation {
        Operation::Adc | Operation::Sbb => flags & RFLAGS_CF,
        _ => 0,
    };
    let mut status = 0;
    let result = match operation {
        Operation::Add | Operation::Adc => {
            let result = left.wrapping_add(right).wrapping_add(carry) & mask;
            // The carries out of each bit.
            let carries = (left & right) | ((left | right) & !result);
            status |= carries >> top & 1;
            status |= carries >> 3 << 4 & RFLAGS_AF;
            status |= ((left ^ result) & (right ^ result)) >> top << 11 & RFLAGS_OF;
            result
        }
        Operation::Sub | Operation::Sbb | Operation::Cmp => {
            let result = left.wrapping_sub(right).wrapping_sub(carry) & mask;
            let borrows = (!left & right) | ((!left | right) & result);
            status |= borrows >> top & 1;
            status |= borrows >> 3 << 4 & RFLAGS_AF;
            status |= ((left ^ right) & (left ^ result)) >> top << 11 & RFLAGS_OF;
            result
        }
        // AF is undefined after these; processors clear it.
        Operation::Or => left | right,
        Operation::And => left & right,
        Operation::Xor => left ^ right,
    };
    (result, (flags & !STATUS) | status | result_flags(result, size))
}

/// INC (`down` false) and DEC: like ADD and SUB of 1, but CF stays.
pub(crate) fn step(value: u64, down: bool, size: u8, flags: u64) -> (u64, u64) {
    let operation = if down { Operation::Sub } else { Operation::Add };
    let (result, new) = compute(operation, value, 1, size, flags);
    (result, (new & !RFLAGS_CF) | (flags & RFLAGS_CF))
}

//! Guest instructions that the hypervisor carries out itself: page walks, decoding, MMIO, string I/O.
//!
//! Everything works on the vocabulary of `monovisor-arch`: a processor through [`VcpuState`], RAM through
//! [`GuestMemory`], devices through [`Bus`] and [`Ports`]. All input (code, tables, registers) is the guest's and
//! hostile: nothing here panics, loops are bounded, and what cannot be carried out is an [`Outcome`].
//!
//! | module | job |
//! |---|---|
//! | `walk` | guest-linear to guest-physical addresses by the guest's tables |
//! | `decode` | length and fields of one instruction, all modes |
//! | `fetch` | instruction bytes at RIP; RIP of the next instruction |
//! | `access` | segment rules, operands that cross pages, RAM or bus |
//! | `emulate` | the instructions that compilers and kernels use on MMIO |
//! | `string` | MOVS, CMPS, STOS, LODS, SCAS with REP |
//! | `string_io` | INS and OUTS with REP |
//! | `task` | hardware task switches |
//! | `vector` | moves of MMX, XMM and YMM registers |
//! | `alu` | results and flags |
#![no_std]
#![forbid(unsafe_code)]

mod access;
mod alu;
mod decode;
mod emulate;
mod fetch;
mod string;
mod string_io;
mod task;
mod vector;
mod walk;

use monovisor_arch::{Event, GuestMemory, VcpuState};

pub use decode::{
    DecodeError, Instruction, MAX_LENGTH, MemoryOperand, OpcodeMap, Repeat, Vex, decode as decode_instruction,
};
pub use emulate::{emulate, emulate_access};
pub use fetch::{Encoding, decoded_next_rip, instruction, instruction_length, usual_next_rip};
pub use string::ITERATIONS;
pub use string_io::{CHUNK, Ports, string_io};
pub use task::{TaskFault, task_switch};
pub use walk::{Intent, PageFault, Paging};

/// The guest-physical addresses that are not RAM: where devices answer.
pub trait Bus {
    /// Reads `size` bytes (1, 2, 4 or 8) at `address`, which may be unaligned. Where nothing answers: all ones.
    fn read(&mut self, address: u64, size: u8) -> u64;
    /// Writes the low `size` bytes (1, 2, 4 or 8) of `value`.
    fn write(&mut self, address: u64, size: u8, value: u64);
}

/// Why an instruction was not carried out. Nothing of it has happened then, but for REP iterations before the
/// failing one, which the registers show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest gets this exception. RIP is still at the instruction.
    Exception {
        /// To be queued.
        event: Event,
        /// For a page fault: what to put into CR2 first.
        cr2: Option<u64>,
    },
    /// An instruction that is not done here, on memory that only we can reach. The guest cannot go on as if it had
    /// been.
    Unsupported(Instruction),
    /// The guest runs code outside RAM.
    CodeOutsideRam {
        /// Guest-physical address of the code.
        address: u64,
    },
}

impl Outcome {
    const fn exception(event: Event) -> Self {
        Self::Exception { event, cr2: None }
    }

    const fn page_fault(fault: PageFault) -> Self {
        Self::Exception { event: fault.event(), cr2: Some(fault.cr2) }
    }
}

/// Reads guest memory by linear address as a debugger does: no permission is asked for, no table changes.
///
/// Returns how many bytes at the start of `buffer` could be read; fewer than all where a page is not mapped.
pub fn peek(
    cpu: &(impl VcpuState + ?Sized),
    memory: &impl GuestMemory,
    linear: u64,
    buffer: &mut [u8],
) -> usize {
    let paging = Paging::of(cpu);
    let mut done = 0usize;
    while let Some(rest) = buffer.get_mut(done..) {
        let address = linear.wrapping_add(done as u64);
        let room = (4096 - (address & 0xfff) as usize).min(rest.len());
        let Some(piece) = rest.get_mut(..room) else { break };
        if piece.is_empty() {
            break;
        }
        let Some(physical) = paging.probe(memory, address) else { break };
        if memory.read(physical, piece).is_err() {
            break;
        }
        done = done.saturating_add(room);
    }
    done
}

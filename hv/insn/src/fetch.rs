//! The bytes of the instruction at the guest's RIP, and how long it is.

use monovisor_arch::{Event, GuestMemory, InstructionBytes, SegmentName, VcpuState, vector};

use crate::access::Context;
use crate::decode::{DecodeError, Instruction, MAX_LENGTH, decode};
use crate::walk::{fetched, four_level};
use crate::{Intent, Outcome};

/// An instruction that makes a processor exit and that has one usual encoding, without prefixes.
///
/// For [`usual_next_rip`]: the encoding is compared first, and only another one is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// The bytes, little-endian.
    word: u32,
    /// Which of the four bytes count.
    mask: u32,
    /// How many of them: 1 to 4.
    length: u8,
}

#[allow(missing_docs)]
impl Encoding {
    pub const CPUID: Self = Self::new(0xa20f, 2);
    pub const RDMSR: Self = Self::new(0x320f, 2);
    pub const WRMSR: Self = Self::new(0x300f, 2);
    pub const RDPMC: Self = Self::new(0x330f, 2);
    pub const HLT: Self = Self::new(0xf4, 1);
    /// F3 90.
    pub const PAUSE: Self = Self::new(0x90f3, 2);
    pub const VMCALL: Self = Self::new(0xc1_010f, 3);
    pub const VMMCALL: Self = Self::new(0xd9_010f, 3);
    pub const XSETBV: Self = Self::new(0xd1_010f, 3);
    pub const INVD: Self = Self::new(0x080f, 2);
    pub const WBINVD: Self = Self::new(0x090f, 2);

    const fn new(word: u32, length: u8) -> Self {
        Self { word, mask: u32::MAX >> (32 - 8 * length as u32), length }
    }
}

/// RIP of the instruction behind the one that the processor exited for, where the CPU does not tell, if that is 64-bit
/// code under 4-level paging and `usual`, what the exit reason makes likely. `None` leaves the answer to
/// [`decoded_next_rip`].
#[inline(always)]
pub fn usual_next_rip(
    cpu: &(impl VcpuState + ?Sized),
    memory: &impl GuestMemory,
    usual: Encoding,
) -> Option<u64> {
    let control = cpu.control();
    if !cpu.runs_64_bit_code() || !four_level(&control) {
        return None;
    }
    let rip = cpu.rip();
    is_there(control.cr3, memory, rip, usual).then(|| rip.wrapping_add(u64::from(usual.length)))
}

/// `usual` is at `rip` in the tables at `cr3`, within one aligned quadword.
// Not to be inlined, but to be compiled where it is called from, with the settings of that package.
#[inline]
fn is_there(cr3: u64, memory: &impl GuestMemory, rip: u64, usual: Encoding) -> bool {
    if rip & 7 > 8 - u64::from(usual.length) {
        return false;
    }
    // The processor has just been there: whether the code may be run has been asked already.
    let Some(address) = fetched(cr3, memory, rip) else { return false };
    let Ok(quadword) = memory.read_u64(address & !7) else { return false };
    (quadword >> ((address & 7) * 8)) as u32 & usual.mask == usual.word
}

/// RIP of the instruction behind the one that the processor exited for, by decoding that. `Err` is what the guest sees
/// instead (its code page has gone, say).
pub fn decoded_next_rip(
    cpu: &mut (impl VcpuState + ?Sized),
    memory: &impl GuestMemory,
) -> Result<u64, Outcome> {
    let context = Context::new(cpu, memory);
    let next = context.cpu.rip().wrapping_add(u64::from(fetch(&context, None)?.length));
    // Outside 64-bit mode the instruction pointer has 32 bits.
    Ok(if context.long() { next } else { next & 0xffff_ffff })
}

/// Length in bytes of the instruction at the guest's RIP.
pub fn instruction_length(
    cpu: &mut (impl VcpuState + ?Sized),
    memory: &impl GuestMemory,
) -> Result<u8, Outcome> {
    Ok(instruction(cpu, memory, None)?.length)
}

/// Fetches (where `bytes` has none) and decodes the instruction at the guest's RIP.
pub fn instruction(
    cpu: &mut (impl VcpuState + ?Sized),
    memory: &impl GuestMemory,
    bytes: Option<InstructionBytes>,
) -> Result<Instruction, Outcome> {
    fetch(&Context::new(cpu, memory), bytes)
}

pub(crate) fn fetch<C: VcpuState + ?Sized, M: GuestMemory>(
    context: &Context<'_, C, M>,
    given: Option<InstructionBytes>,
) -> Result<Instruction, Outcome> {
    if let Some(given) = given
        && let Some(bytes) = given.bytes.get(..usize::from(given.len))
        && !bytes.is_empty()
        && let Ok(instruction) = decode(bytes, context.mode)
    {
        return Ok(instruction);
    }
    let rip = context.cpu.rip();
    let linear = if context.long() {
        rip
    } else {
        context.cpu.segment(SegmentName::Cs).base.wrapping_add(rip) & 0xffff_ffff
    };
    if !context.paging.canonical(linear) {
        return Err(Outcome::exception(Event::fault(vector::GP, 0)));
    }
    let mut buffer = [0u8; MAX_LENGTH];
    // What lies behind the page boundary is touched only if the instruction reaches there: it may not be mapped.
    let room = (4096 - (linear & 0xfff) as usize).min(MAX_LENGTH);
    let (first, second) = buffer.split_at_mut(room);
    read_code(context, linear, first)?;
    match decode(first, context.mode) {
        Ok(instruction) => return Ok(instruction),
        Err(DecodeError::Truncated) if !second.is_empty() => {}
        Err(_) => return Err(Outcome::exception(Event::fault(vector::GP, 0))),
    }
    let mut behind = linear.wrapping_add(room as u64);
    if !context.long() {
        behind &= 0xffff_ffff;
    } else if !context.paging.canonical(behind) {
        return Err(Outcome::exception(Event::fault(vector::GP, 0)));
    }
    read_code(context, behind, second)?;
    decode(&buffer, context.mode).map_err(|_| Outcome::exception(Event::fault(vector::GP, 0)))
}

fn read_code<C: VcpuState + ?Sized, M: GuestMemory>(
    context: &Context<'_, C, M>,
    linear: u64,
    buffer: &mut [u8],
) -> Result<(), Outcome> {
    let quick =
        if context.paging.four_level() { fetched(context.paging.cr3, context.memory, linear) } else { None };
    let address = match quick {
        Some(address) => address,
        None => {
            context.paging.walk(context.memory, linear, Intent::Fetch, true).map_err(Outcome::page_fault)?
        }
    };
    context.memory.read(address, buffer).map_err(|_| Outcome::CodeOutsideRam { address })
}

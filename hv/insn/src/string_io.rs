//! INS and OUTS: a port on one side, guest memory on the other.

use monovisor_arch::state::bits::{RFLAGS_DF, RFLAGS_TF};
use monovisor_arch::{Gpr, GuestMemory, IoExit, SegmentName, VcpuState};

use crate::access::{Context, mask};
use crate::decode::{Instruction, Repeat};
use crate::{Bus, Intent, Outcome, fetch};

/// Most bytes that one call of [`string_io`] moves. The rest follows when the guest runs into the instruction again.
pub const CHUNK: usize = 256;

/// The I/O ports.
pub trait Ports {
    /// Reads `size` bytes (1, 2 or 4) from `port`. Where nothing answers: all ones.
    fn input(&mut self, port: u16, size: u8) -> u32;
    /// Writes the low `size` bytes (1, 2 or 4) of `value` to `port`.
    fn output(&mut self, port: u16, size: u8, value: u32);
}

/// Carries out the INS or OUTS that the processor exited for, up to [`CHUNK`] bytes of it.
///
/// On `Ok(true)` RIP is behind the instruction; on `Ok(false)` RIP stays, the registers show how far it has come,
/// and the next entry goes on. Permissions of the port (IOPL, TSS bitmap) have been checked by the processor.
#[inline(never)] // As `emulate_access`.
pub fn string_io(
    cpu: &mut (impl VcpuState + ?Sized),
    memory: &impl GuestMemory,
    bus: &mut (impl Bus + Ports),
    io: &IoExit,
) -> Result<bool, Outcome> {
    let mut context = Context::new(cpu, memory);
    // The length is needed at the end in any case where the CPU does not tell the next RIP; a guest that does string
    // I/O does many bytes an exit, so one decode is cheap.
    let instruction = fetch::fetch(&context, None)?;
    let string = io.string;
    let width = string.and_then(|string| string.address_size).unwrap_or(instruction.address_size);
    let repeated = string.map_or(instruction.repeat != Repeat::No, |string| string.repeated);
    let (segment, pointer, intent) = if io.input {
        (SegmentName::Es, Gpr::Rdi, Intent::Write)
    } else {
        let segment = string.and_then(|string| string.segment).or(instruction.segment);
        (segment.unwrap_or(SegmentName::Ds), Gpr::Rsi, Intent::Read)
    };
    let size =
        if matches!(io.size, 1 | 2 | 4) { io.size } else { return Err(Outcome::Unsupported(instruction)) };

    let registers = mask(width);
    let mut count = if repeated { context.cpu.gpr(Gpr::Rcx) & registers } else { 1 };
    if count == 0 {
        return finish(&mut context, &instruction);
    }
    let down = context.cpu.rflags() & RFLAGS_DF != 0;
    // Single-stepped, it traps after each element (SDM vol. 3, 18.3.1.4).
    let stepped = context.cpu.rflags() & RFLAGS_TF != 0;
    let mut left = if stepped { 1 } else { CHUNK / usize::from(size) };
    while count != 0 && left != 0 {
        let offset = context.cpu.gpr(pointer) & registers;
        let linear = context.linear(segment, offset, u64::from(size), intent)?;
        // Upwards and within one page: many at once. The limit of the segment is checked for the whole piece; where
        // it does not hold, one at a time finds the element that faults.
        let room = (4096 - (linear & 0xfff)) / u64::from(size);
        let wrap = (registers - offset) / u64::from(size);
        let mut batch = room.min(wrap).min(count).min(left as u64);
        if down || batch < 2 || context.linear(segment, offset, batch * u64::from(size), intent).is_err() {
            batch = 1;
        }
        let moved = transfer(&context, bus, io, linear, batch, size, intent)?;
        let step = if down { u64::from(size).wrapping_neg() } else { moved * u64::from(size) };
        let value = context.cpu.gpr(pointer);
        context.cpu.set_gpr(pointer, advanced(value, step, width));
        count -= moved.min(count);
        left = left.saturating_sub(moved as usize);
        if repeated {
            let value = context.cpu.gpr(Gpr::Rcx);
            context.cpu.set_gpr(Gpr::Rcx, advanced(value, moved.wrapping_neg(), width));
        }
    }
    if count == 0 {
        return finish(&mut context, &instruction);
    }
    if stepped {
        context.step();
    }
    Ok(false)
}

/// Moves `batch` elements upwards from `linear`; they are in one page if there are several. Returns how many.
fn transfer<C: VcpuState + ?Sized, M: GuestMemory>(
    context: &Context<'_, C, M>,
    bus: &mut (impl Bus + Ports),
    io: &IoExit,
    linear: u64,
    batch: u64,
    size: u8,
    intent: Intent,
) -> Result<u64, Outcome> {
    let place = context.place(linear, size, intent)?;
    let bytes = batch as usize * usize::from(size);
    let mut buffer = [0u8; CHUNK];
    if batch > 1
        && let Some(buffer) = buffer.get_mut(..bytes)
        && context.memory.contiguous(place.first) >= bytes as u64
    {
        if io.input {
            for element in buffer.chunks_exact_mut(usize::from(size)) {
                let value = bus.input(io.port, size).to_le_bytes();
                for (to, from) in element.iter_mut().zip(value) {
                    *to = from;
                }
            }
            // RAM was there a moment ago and RAM does not go while its guest is stopped here.
            let _ = context.memory.write(place.first, buffer);
        } else if context.memory.read(place.first, buffer).is_ok() {
            for element in buffer.chunks_exact(usize::from(size)) {
                let value = element.iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
                bus.output(io.port, size, value);
            }
        }
        return Ok(batch);
    }
    if io.input {
        let value = bus.input(io.port, size);
        context.store(bus, place, u64::from(value));
    } else {
        let value = context.load(bus, place) as u32;
        bus.output(io.port, size, value);
    }
    Ok(1)
}

/// A pointer or counter register of `width` bytes after adding `step`: 16 bits leave the rest, 32 bits clear it.
fn advanced(value: u64, step: u64, width: u8) -> u64 {
    let sum = value.wrapping_add(step);
    match width {
        2 => value & !0xffff | sum & 0xffff,
        4 => sum & 0xffff_ffff,
        _ => sum,
    }
}

fn finish<C: VcpuState + ?Sized, M: GuestMemory>(
    context: &mut Context<'_, C, M>,
    instruction: &Instruction,
) -> Result<bool, Outcome> {
    context.retire(instruction);
    Ok(true)
}

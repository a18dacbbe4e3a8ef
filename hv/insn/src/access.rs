//! One memory operand: from segment and offset to bytes in RAM or on the bus.

use monovisor_arch::{CpuMode, Event, GuestMemory, Segment, SegmentName, VcpuState, vector};

use crate::decode::Instruction;
use crate::{Bus, Intent, Outcome, Paging};

/// Bytes of a page; translation is done once for each.
const PAGE: u64 = 4096;

/// A place in guest-physical memory, which can be in two pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Guest-physical address of the first byte.
    pub first: u64,
    /// Guest-physical address of the first byte behind the page boundary; unused where there is one piece.
    second: u64,
    /// Bytes in front of the boundary: `size` where the operand does not cross one.
    split: u8,
    /// Bytes in all: 1, 2, 4 or 8.
    size: u8,
}

impl Place {
    /// The 8 bytes (or all there are) at `offset`, which is below the size.
    #[inline(never)]
    pub fn piece(&self, offset: u8) -> Self {
        let size = (self.size - offset).min(8);
        match self.split.checked_sub(offset) {
            Some(split @ 1..) => Self {
                first: self.first + u64::from(offset),
                second: self.second,
                split: split.min(size),
                size,
            },
            _ => Self { first: self.second + u64::from(offset - self.split), second: 0, split: size, size },
        }
    }

    /// `size` bytes in one piece.
    pub fn whole(address: u64, size: u8) -> Self {
        Self { first: address, second: 0, split: size, size }
    }
}

/// A processor at one instruction, and the memory that it sees.
pub(crate) struct Context<'a, C: ?Sized, M> {
    pub cpu: &'a mut C,
    pub memory: &'a M,
    pub paging: Paging,
    pub mode: CpuMode,
    /// Guest-physical address of a data access that the processor has translated and found allowed, where it said
    /// so: taken instead of a walk by the one access that it can belong to.
    pub translated: Option<u64>,
}

impl<'a, C: VcpuState + ?Sized, M: GuestMemory> Context<'a, C, M> {
    pub fn new(cpu: &'a mut C, memory: &'a M) -> Self {
        let (paging, mode) = (Paging::of(cpu), cpu.mode());
        Self { cpu, memory, paging, mode, translated: None }
    }

    pub fn long(&self) -> bool {
        self.mode == CpuMode::Long64
    }

    /// Linear address of `size` bytes at `segment:offset`, after the checks of SDM vol. 3, 5.3 and 5.5 (protected
    /// mode), 20.1.1 (real mode) and vol. 1, 3.3.7.1 (64-bit mode).
    pub fn linear(&self, name: SegmentName, offset: u64, size: u64, intent: Intent) -> Result<u64, Outcome> {
        let last = size.wrapping_sub(1);
        if self.long() {
            let base = match name {
                SegmentName::Fs | SegmentName::Gs => self.cpu.segment(name).base,
                _ => 0,
            };
            let linear = base.wrapping_add(offset);
            if !self.paging.canonical(linear) || !self.paging.canonical(linear.wrapping_add(last)) {
                return Err(segment_fault(name));
            }
            return Ok(linear);
        }
        let segment = self.cpu.segment(name);
        let protected = !matches!(self.mode, CpuMode::Real | CpuMode::Virtual8086);
        if !within(&segment, offset, last) || (protected && !permits(&segment, intent)) {
            return Err(segment_fault(name));
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Translates `size` bytes (1 to 8) from `linear` on, on both sides of a page boundary.
    pub fn place(&self, linear: u64, size: u8, intent: Intent) -> Result<Place, Outcome> {
        let first = self.paging.translate(self.memory, linear, intent).map_err(Outcome::page_fault)?;
        let room = PAGE - (linear & (PAGE - 1));
        let mut place = Place { first, second: 0, split: size, size };
        if u64::from(size) > room {
            let mut behind = linear.wrapping_add(room);
            if !self.long() {
                behind &= 0xffff_ffff;
            }
            place.second = self.paging.translate(self.memory, behind, intent).map_err(Outcome::page_fault)?;
            place.split = room as u8;
        }
        Ok(place)
    }

    /// Reads the operand at `place`, zero-extended.
    pub fn load(&self, bus: &mut impl Bus, place: Place) -> u64 {
        if place.split == place.size {
            return self.load_piece(bus, place.first, place.size);
        }
        let low = self.load_piece(bus, place.first, place.split);
        let high = self.load_piece(bus, place.second, place.size - place.split);
        low | high << (8 * u32::from(place.split))
    }

    /// Writes the low bytes of `value` to `place`.
    pub fn store(&self, bus: &mut impl Bus, place: Place, value: u64) {
        if place.split == place.size {
            return self.store_piece(bus, place.first, place.size, value);
        }
        self.store_piece(bus, place.first, place.split, value);
        self.store_piece(bus, place.second, place.size - place.split, value >> (8 * u32::from(place.split)));
    }

    fn load_piece(&self, bus: &mut impl Bus, address: u64, size: u8) -> u64 {
        let mut bytes = [0u8; 8];
        if let Some(buffer) = bytes.get_mut(..usize::from(size))
            && self.memory.read(address, buffer).is_ok()
        {
            return u64::from_le_bytes(bytes);
        }
        if size.is_power_of_two() {
            return bus.read(address, size) & mask(size);
        }
        // Three, five, six or seven bytes in front of a page boundary: no bus cycle has that width.
        let mut value = 0;
        for index in 0..size {
            value |= (bus.read(address.wrapping_add(u64::from(index)), 1) & 0xff) << (8 * u32::from(index));
        }
        value
    }

    fn store_piece(&self, bus: &mut impl Bus, address: u64, size: u8, value: u64) {
        let bytes = value.to_le_bytes();
        if let Some(data) = bytes.get(..usize::from(size))
            && self.memory.write(address, data).is_ok()
        {
            return;
        }
        if size.is_power_of_two() {
            return bus.write(address, size, value & mask(size));
        }
        for (index, byte) in bytes.iter().enumerate().take(usize::from(size)) {
            bus.write(address.wrapping_add(index as u64), 1, u64::from(*byte));
        }
    }

    /// One iteration of a repeated instruction is done, RIP stays: with RFLAGS.TF set, a single step.
    pub fn step(&mut self) {
        let rip = self.cpu.rip();
        self.cpu.set_rip(rip);
    }

    /// Moves RIP behind the instruction and ends RF's one instruction of effect (SDM vol. 3, 17.3.1.1).
    pub fn retire(&mut self, instruction: &Instruction) {
        let next = self.cpu.rip().wrapping_add(u64::from(instruction.length));
        self.cpu.set_rip(if self.long() { next } else { next & 0xffff_ffff });
        let flags = self.cpu.rflags();
        if flags & monovisor_arch::state::bits::RFLAGS_RF != 0 {
            self.cpu.set_rflags(flags & !monovisor_arch::state::bits::RFLAGS_RF);
        }
    }
}

/// The low `size` bytes (1 to 8).
pub(crate) const fn mask(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// #SS(0) for the stack segment, #GP(0) for the others.
fn segment_fault(name: SegmentName) -> Outcome {
    Outcome::exception(Event::fault(if name == SegmentName::Ss { vector::SS } else { vector::GP }, 0))
}

/// Bytes `offset` to `offset + last` are inside the limit (SDM vol. 3, 5.3; expand-down data segments from the other
/// side).
fn within(segment: &Segment, offset: u64, last: u64) -> bool {
    let limit = u64::from(segment.limit);
    let end = offset.wrapping_add(last);
    if end < offset {
        return false;
    }
    // Type: bit 3 code, bit 2 expand-down (of data).
    if segment.access & 0xc == 4 {
        let top = if segment.big() { 0xffff_ffff } else { 0xffff };
        return offset > limit && end <= top;
    }
    end <= limit
}

/// The segment can be read or written at all (SDM vol. 3, 5.5, table 3-1).
fn permits(segment: &Segment, intent: Intent) -> bool {
    let code = segment.access & 8 != 0;
    let bit1 = segment.access & 2 != 0;
    segment.usable()
        && match intent {
            Intent::Write => !code && bit1,
            // Data can always be read; code where its R bit says so.
            _ => !code || bit1,
        }
}

//! The instructions that touch MMIO, carried out on the processor's state.

use monovisor_arch::state::bits::{RFLAGS_CF, RFLAGS_OF, RFLAGS_PF, RFLAGS_SF, RFLAGS_ZF};
use monovisor_arch::{
    CpuMode, Event, Gpr, GuestMemory, InstructionBytes, MemoryExit, SegmentName, VcpuState,
};

use crate::access::{Context, Place, mask};
use crate::alu::{self, Operation};
use crate::decode::{Instruction, MemoryOperand, OpcodeMap, Repeat, gpr, sign_extend};
use crate::{Bus, Intent, Outcome, fetch, string, vector};

/// Carries out the instruction at the guest's RIP, whose memory operand (or one of them) is not RAM.
///
/// `bytes` are those of the exit, where the CPU gave some. On `Ok` RIP is behind the instruction, or still at it
/// with some iterations of a long REP done: enter the guest again either way. LOCK is honoured in that a device
/// sees the read and the write in one call of ours; RAM operands of locked instructions do not get here.
///
/// Left to the caller: a #DB for RFLAGS.TF. Not checked: alignment (#AC), protection keys, CS limit.
pub fn emulate(
    cpu: &mut (impl VcpuState + ?Sized),
    memory: &impl GuestMemory,
    bus: &mut impl Bus,
    bytes: Option<InstructionBytes>,
) -> Result<(), Outcome> {
    let context = Context::new(cpu, memory);
    let instruction = fetch::fetch(&context, bytes)?;
    Emulator { context, bus, instruction }.run()
}

/// The same for an exit whose guest-physical address is known, which saves a walk of the guest's tables.
#[inline(never)] // One call more, and hundreds of bytes less in the caller.
pub fn emulate_access(
    cpu: &mut (impl VcpuState + ?Sized),
    memory: &impl GuestMemory,
    bus: &mut impl Bus,
    exit: &MemoryExit,
) -> Result<(), Outcome> {
    let mut context = Context::new(cpu, memory);
    if !exit.table_walk {
        context.translated = Some(exit.address);
    }
    let instruction = fetch::fetch(&context, Some(exit.instruction))?;
    Emulator { context, bus, instruction }.run()
}

/// An operand that ModRM names.
#[derive(Clone, Copy)]
enum Operand {
    Register(u8),
    Memory(Place),
}

pub(crate) struct Emulator<'a, C: ?Sized, M, B> {
    pub context: Context<'a, C, M>,
    pub bus: &'a mut B,
    pub instruction: Instruction,
}

impl<C: VcpuState + ?Sized, M: GuestMemory, B: Bus> Emulator<'_, C, M, B> {
    fn run(&mut self) -> Result<(), Outcome> {
        match self.instruction.map {
            OpcodeMap::One if matches!(self.instruction.opcode, 0xa4..=0xa7 | 0xaa..=0xaf) => {
                return string::run(self);
            }
            OpcodeMap::One => self.one_byte()?,
            OpcodeMap::Two => self.two_byte()?,
            OpcodeMap::Three => self.three_byte()?,
            OpcodeMap::Vex | OpcodeMap::Evex => vector::run(self)?,
        }
        self.context.retire(&self.instruction);
        Ok(())
    }

    pub fn unsupported(&self) -> Outcome {
        Outcome::Unsupported(self.instruction)
    }

    fn one_byte(&mut self) -> Result<(), Outcome> {
        let instruction = self.instruction;
        let opcode = instruction.opcode;
        // Bit 0 of most opcodes: 0 for the byte form.
        let size = if opcode & 1 == 0 { 1 } else { instruction.operand_size };
        match opcode {
            0x00..=0x3f if opcode & 7 < 4 => {
                self.arithmetic(Operation::new(opcode >> 3), size, opcode & 2 != 0)
            }
            0x63 if self.context.long() => {
                let value = self.read_rm(4)?;
                let value = if instruction.operand_size == 8 { sign_extend(value, 4) } else { value };
                self.set_register(instruction.reg(), instruction.operand_size, value);
                Ok(())
            }
            // 82 is an alias of 80 outside 64-bit mode.
            0x80 | 0x81 | 0x83 => {
                let operation = Operation::new(instruction.extension());
                self.modify(size, operation != Operation::Cmp, |value, flags| {
                    let (result, flags) = alu::compute(operation, value, instruction.immediate, size, flags);
                    (if operation == Operation::Cmp { value } else { result }, flags)
                })
            }
            0x84 | 0x85 => {
                let right = self.register(instruction.reg(), size);
                self.test(size, right)
            }
            0x86 | 0x87 => {
                let operand = self.rm(size, Intent::Write)?;
                let (old, new) = (self.get(operand, size), self.register(instruction.reg(), size));
                self.put(operand, size, new);
                self.set_register(instruction.reg(), size, old);
                Ok(())
            }
            0x88 | 0x89 => {
                let operand = self.rm(size, Intent::Write)?;
                let value = self.register(instruction.reg(), size);
                self.put(operand, size, value);
                Ok(())
            }
            0x8a | 0x8b => {
                let value = self.read_rm(size)?;
                self.set_register(instruction.reg(), size, value);
                Ok(())
            }
            0x8c => {
                let Some(name) = segment_name(instruction.extension()) else {
                    return Err(self.unsupported());
                };
                // To memory always 16 bits; to a register zero-extended.
                let size = if instruction.memory.is_some() { 2 } else { instruction.operand_size };
                let operand = self.rm(size, Intent::Write)?;
                let selector = self.context.cpu.segment(name).selector;
                self.put(operand, size, u64::from(selector));
                Ok(())
            }
            0x8e => self.load_segment(),
            0x8f if instruction.extension() == 0 => self.pop(),
            0xa0..=0xa3 => {
                let intent = if opcode & 2 == 0 { Intent::Read } else { Intent::Write };
                let operand = self.rm(size, intent)?;
                if opcode & 2 == 0 {
                    let value = self.get(operand, size);
                    self.set_register(0, size, value);
                } else {
                    let value = self.register(0, size);
                    self.put(operand, size, value);
                }
                Ok(())
            }
            0xc6 | 0xc7 if instruction.extension() == 0 => {
                let operand = self.rm(size, Intent::Write)?;
                self.put(operand, size, instruction.immediate);
                Ok(())
            }
            0xf6 | 0xf7 => match instruction.extension() {
                0 | 1 => self.test(size, instruction.immediate),
                2 => self.modify(size, true, |value, flags| (!value, flags)),
                3 => self
                    .modify(size, true, |value, flags| alu::compute(Operation::Sub, 0, value, size, flags)),
                _ => Err(self.unsupported()),
            },
            0xfe | 0xff => match instruction.extension() {
                extension @ (0 | 1) => {
                    self.modify(size, true, |value, flags| alu::step(value, extension == 1, size, flags))
                }
                6 if opcode == 0xff => self.push(),
                _ => Err(self.unsupported()),
            },
            _ => Err(self.unsupported()),
        }
    }

    fn two_byte(&mut self) -> Result<(), Outcome> {
        let instruction = self.instruction;
        let opcode = instruction.opcode;
        let size = instruction.operand_size;
        let byte_or = if opcode & 1 == 0 { 1 } else { size };
        match opcode {
            // PREFETCH and CLFLUSH, CLFLUSHOPT, CLWB: a device has no cache lines.
            0x0d | 0x18 if instruction.memory.is_some() => Ok(()),
            0xae if instruction.memory.is_some()
                && instruction.repeat == Repeat::No
                && (instruction.extension() == 7
                    || (instruction.extension() == 6 && instruction.operand_prefix)) =>
            {
                Ok(())
            }
            0x40..=0x4f => {
                let value = self.read_rm(size)?;
                let old = self.register(instruction.reg(), size);
                let taken = condition(opcode, self.context.cpu.rflags());
                // The load happens either way, and so does the zero-extension.
                self.set_register(instruction.reg(), size, if taken { value } else { old });
                Ok(())
            }
            0x90..=0x9f => {
                let operand = self.rm(1, Intent::Write)?;
                let value = condition(opcode, self.context.cpu.rflags());
                self.put(operand, 1, u64::from(value));
                Ok(())
            }
            0xa3 | 0xab | 0xb3 | 0xbb => {
                let index = sign_extend(self.register(instruction.reg(), size), size);
                self.bit(opcode >> 3 & 3, index, true)
            }
            0xba if instruction.extension() >= 4 => {
                self.bit(instruction.extension() & 3, instruction.immediate, false)
            }
            0xb0 | 0xb1 => self.compare_exchange(byte_or),
            0xb6 | 0xb7 | 0xbe | 0xbf => {
                let source = if opcode & 1 == 0 { 1 } else { 2 };
                let value = self.read_rm(source)?;
                let value = if opcode & 8 == 0 { value } else { sign_extend(value, source) };
                self.set_register(instruction.reg(), size, value);
                Ok(())
            }
            0xc0 | 0xc1 => {
                let operand = self.rm(byte_or, Intent::Write)?;
                let (left, right) = (self.get(operand, byte_or), self.register(instruction.reg(), byte_or));
                let flags = self.context.cpu.rflags();
                let (sum, flags) = alu::compute(Operation::Add, left, right, byte_or, flags);
                self.set_register(instruction.reg(), byte_or, left);
                self.put(operand, byte_or, sum);
                self.context.cpu.set_rflags(flags);
                Ok(())
            }
            // MOVNTI.
            0xc3 if instruction.memory.is_some() => {
                let operand = self.rm(size.max(4), Intent::Write)?;
                let value = self.register(instruction.reg(), size.max(4));
                self.put(operand, size.max(4), value);
                Ok(())
            }
            0xc7 if instruction.extension() == 1 && instruction.memory.is_some() && size != 8 => {
                self.compare_exchange_8()
            }
            _ => vector::run(self),
        }
    }

    fn three_byte(&mut self) -> Result<(), Outcome> {
        let instruction = self.instruction;
        let size = instruction.operand_size;
        // MOVBE; with F2 these are CRC32, and 0F 3A F0 is RORX only with VEX.
        if instruction.memory.is_none()
            || instruction.repeat != Repeat::No
            || !matches!(instruction.opcode, 0xf0 | 0xf1)
            || instruction.immediate != 0
        {
            return vector::run(self);
        }
        let swap = |value: u64| value.swap_bytes() >> (64 - 8 * u32::from(size));
        if instruction.opcode == 0xf0 {
            let value = self.read_rm(size)?;
            self.set_register(instruction.reg(), size, swap(value));
        } else {
            let operand = self.rm(size, Intent::Write)?;
            let value = self.register(instruction.reg(), size);
            self.put(operand, size, swap(value));
        }
        Ok(())
    }

    /// `op rm, reg` (or `op reg, rm`) of opcodes 00 to 3F.
    fn arithmetic(&mut self, operation: Operation, size: u8, to_register: bool) -> Result<(), Outcome> {
        let number = self.instruction.reg();
        let register = self.register(number, size);
        let store = operation != Operation::Cmp;
        if !to_register {
            return self.modify(size, store, |value, flags| {
                let (result, flags) = alu::compute(operation, value, register, size, flags);
                (if store { result } else { value }, flags)
            });
        }
        let value = self.read_rm(size)?;
        let flags = self.context.cpu.rflags();
        let (result, flags) = alu::compute(operation, register, value, size, flags);
        if store {
            self.set_register(number, size, result);
        }
        self.context.cpu.set_rflags(flags);
        Ok(())
    }

    /// Reads the ModRM operand, computes, writes it back if `store` says so, and sets the flags.
    fn modify(
        &mut self,
        size: u8,
        store: bool,
        compute: impl FnOnce(u64, u64) -> (u64, u64),
    ) -> Result<(), Outcome> {
        let operand = self.rm(size, if store { Intent::Write } else { Intent::Read })?;
        let value = self.get(operand, size);
        let flags = self.context.cpu.rflags();
        let (result, new) = compute(value, flags);
        if store {
            self.put(operand, size, result);
        }
        if new != flags {
            self.context.cpu.set_rflags(new);
        }
        Ok(())
    }

    fn test(&mut self, size: u8, right: u64) -> Result<(), Outcome> {
        self.modify(size, false, |value, flags| alu::compute(Operation::And, value, right, size, flags))
    }

    /// BT, BTS, BTR, BTC (`kind` 0 to 3). An index from a register reaches beyond the operand.
    fn bit(&mut self, kind: u8, index: u64, far: bool) -> Result<(), Outcome> {
        let size = self.instruction.operand_size;
        let width = 8 * u64::from(size);
        if far && let Some(operand) = &mut self.instruction.memory {
            let distance = (index as i64).div_euclid(width as i64).wrapping_mul(i64::from(size));
            operand.displacement = operand.displacement.wrapping_add(distance as u64);
        }
        let bit = 1u64 << (index & (width - 1));
        self.modify(size, kind != 0, |value, flags| {
            let result = match kind {
                1 => value | bit,
                2 => value & !bit,
                _ => value ^ bit,
            };
            (result, flags & !RFLAGS_CF | u64::from(value & bit != 0))
        })
    }

    fn compare_exchange(&mut self, size: u8) -> Result<(), Outcome> {
        let operand = self.rm(size, Intent::Write)?;
        let (old, accumulator) = (self.get(operand, size), self.register(0, size));
        let flags = self.context.cpu.rflags();
        let (_, flags) = alu::compute(Operation::Cmp, accumulator, old, size, flags);
        if flags & RFLAGS_ZF != 0 {
            let new = self.register(self.instruction.reg(), size);
            self.put(operand, size, new);
        } else {
            // The processor writes back what it read.
            self.put(operand, size, old);
            self.set_register(0, size, old);
        }
        self.context.cpu.set_rflags(flags);
        Ok(())
    }

    /// CMPXCHG8B: EDX:EAX against memory, ECX:EBX into it.
    fn compare_exchange_8(&mut self) -> Result<(), Outcome> {
        let operand = self.rm(8, Intent::Write)?;
        let old = self.get(operand, 8);
        let pair = |cpu: &C, high, low| cpu.gpr(high) << 32 | cpu.gpr(low) & 0xffff_ffff;
        let expected = pair(self.context.cpu, Gpr::Rdx, Gpr::Rax);
        let flags = self.context.cpu.rflags();
        if old == expected {
            let new = pair(self.context.cpu, Gpr::Rcx, Gpr::Rbx);
            self.put(operand, 8, new);
            self.context.cpu.set_rflags(flags | RFLAGS_ZF);
        } else {
            self.put(operand, 8, old);
            self.context.cpu.set_gpr(Gpr::Rax, old & 0xffff_ffff);
            self.context.cpu.set_gpr(Gpr::Rdx, old >> 32);
            self.context.cpu.set_rflags(flags & !RFLAGS_ZF);
        }
        Ok(())
    }

    /// MOV to a segment register: in real and virtual-8086 mode only, where no descriptor is read.
    fn load_segment(&mut self) -> Result<(), Outcome> {
        let name = segment_name(self.instruction.extension());
        let simple = matches!(self.context.mode, CpuMode::Real | CpuMode::Virtual8086);
        match name {
            Some(name) if simple && name != SegmentName::Cs => {
                let selector = self.read_rm(2)? as u16;
                let mut segment = self.context.cpu.segment(name);
                segment.selector = selector;
                segment.base = u64::from(selector) << 4;
                self.context.cpu.set_segment(name, segment);
                Ok(())
            }
            _ => Err(self.unsupported()),
        }
    }

    /// Size of a stack slot of PUSH and POP: 64 bits by default in 64-bit mode.
    fn slot(&self) -> u8 {
        match (self.context.long(), self.instruction.operand_prefix) {
            (true, false) => 8,
            (true, true) => 2,
            _ => self.instruction.operand_size,
        }
    }

    /// Size of the stack pointer: SS.B, or 64 bits.
    fn stack_size(&self) -> u8 {
        if self.context.long() {
            8
        } else if self.context.cpu.segment(SegmentName::Ss).big() {
            4
        } else {
            2
        }
    }

    fn push(&mut self) -> Result<(), Outcome> {
        self.context.translated = None;
        let (slot, width) = (self.slot(), self.stack_size());
        let value = self.read_rm(slot)?;
        let top = self.context.cpu.gpr(Gpr::Rsp).wrapping_sub(u64::from(slot)) & mask(width);
        let linear = self.context.linear(SegmentName::Ss, top, u64::from(slot), Intent::Write)?;
        let place = self.context.place(linear, slot, Intent::Write)?;
        self.context.store(self.bus, place, value);
        self.set_register(Gpr::Rsp as u8, width, top);
        Ok(())
    }

    fn pop(&mut self) -> Result<(), Outcome> {
        self.context.translated = None;
        let (slot, width) = (self.slot(), self.stack_size());
        let top = self.context.cpu.gpr(Gpr::Rsp) & mask(width);
        let linear = self.context.linear(SegmentName::Ss, top, u64::from(slot), Intent::Read)?;
        let place = self.context.place(linear, slot, Intent::Read)?;
        // An address by RSP is computed with RSP already moved (SDM vol. 2, POP).
        if let Some(MemoryOperand { base: Some(Gpr::Rsp), displacement, .. }) = &mut self.instruction.memory {
            *displacement = displacement.wrapping_add(u64::from(slot));
        }
        let operand = self.rm(slot, Intent::Write)?;
        let value = self.context.load(self.bus, place);
        self.set_register(Gpr::Rsp as u8, width, top.wrapping_add(u64::from(slot)));
        self.put(operand, slot, value);
        Ok(())
    }

    /// Offset of the memory operand in its segment.
    fn offset(&self, operand: &MemoryOperand) -> u64 {
        let cpu = &*self.context.cpu;
        let mut offset = operand.displacement;
        if let Some(base) = operand.base {
            offset = offset.wrapping_add(cpu.gpr(base));
        }
        if let Some(index) = operand.index {
            offset = offset.wrapping_add(cpu.gpr(index) << (operand.shift & 3));
        }
        if operand.rip_relative {
            offset = offset.wrapping_add(cpu.rip()).wrapping_add(u64::from(self.instruction.length));
        }
        offset & mask(self.instruction.address_size)
    }

    /// The ModRM operand, checked and translated.
    fn rm(&mut self, size: u8, intent: Intent) -> Result<Operand, Outcome> {
        let Some(operand) = self.instruction.memory else {
            return Ok(Operand::Register(self.instruction.rm()));
        };
        let offset = self.offset(&operand);
        let linear = self.context.linear(self.instruction.data_segment(), offset, u64::from(size), intent)?;
        // The exit's address is this operand's if the page offsets agree and there is no second page. (PUSH and POP, which
        // have a second operand, forget it first.)
        if let Some(address) = self.context.translated
            && (address ^ linear) & 0xfff == 0
            && (linear & 0xfff) + u64::from(size) <= 0x1000
        {
            return Ok(Operand::Memory(Place::whole(address, size)));
        }
        Ok(Operand::Memory(self.context.place(linear, size, intent)?))
    }

    /// The place of a memory operand of up to 64 bytes, of which [`Place::piece`] gives what can be accessed at once.
    pub fn wide_place(&self, size: u8, aligned: bool, intent: Intent) -> Result<Place, Outcome> {
        let Some(operand) = self.instruction.memory else { return Err(self.unsupported()) };
        let segment = self.instruction.data_segment();
        let linear = self.context.linear(segment, self.offset(&operand), u64::from(size), intent)?;
        if aligned && linear & (u64::from(size) - 1) != 0 {
            return Err(Outcome::exception(Event::fault(monovisor_arch::vector::GP, 0)));
        }
        self.context.place(linear, size, intent)
    }

    fn read_rm(&mut self, size: u8) -> Result<u64, Outcome> {
        let operand = self.rm(size, Intent::Read)?;
        Ok(self.get(operand, size))
    }

    fn get(&mut self, operand: Operand, size: u8) -> u64 {
        match operand {
            Operand::Register(number) => self.register(number, size),
            Operand::Memory(place) => self.context.load(self.bus, place),
        }
    }

    fn put(&mut self, operand: Operand, size: u8, value: u64) {
        match operand {
            Operand::Register(number) => self.set_register(number, size, value),
            Operand::Memory(place) => self.context.store(self.bus, place, value),
        }
    }

    /// Register `number` in the encoding of ModRM with REX; without REX the bytes 4 to 7 are AH, CH, DH and BH.
    pub fn register(&self, number: u8, size: u8) -> u64 {
        if size == 1 && self.instruction.rex == 0 && matches!(number, 4..=7) {
            return self.context.cpu.gpr(gpr(number & 3)) >> 8 & 0xff;
        }
        self.context.cpu.gpr(gpr(number)) & mask(size)
    }

    /// Sets a register: 8 and 16 bits leave the rest alone, 32 bits clear the upper half.
    pub fn set_register(&mut self, number: u8, size: u8, value: u64) {
        let value = value & mask(size);
        if size == 1 && self.instruction.rex == 0 && matches!(number, 4..=7) {
            let register = gpr(number & 3);
            let old = self.context.cpu.gpr(register);
            return self.context.cpu.set_gpr(register, old & !0xff00 | value << 8);
        }
        let register = gpr(number);
        let value = match size {
            1 | 2 => self.context.cpu.gpr(register) & !mask(size) | value,
            _ => value,
        };
        self.context.cpu.set_gpr(register, value);
    }
}

fn segment_name(number: u8) -> Option<SegmentName> {
    Some(match number {
        0 => SegmentName::Es,
        1 => SegmentName::Cs,
        2 => SegmentName::Ss,
        3 => SegmentName::Ds,
        4 => SegmentName::Fs,
        5 => SegmentName::Gs,
        _ => return None,
    })
}

/// The condition in the low four bits of an opcode (SDM vol. 1, appendix B).
fn condition(opcode: u8, flags: u64) -> bool {
    let set = |bit: u64| flags & bit != 0;
    let result = match opcode >> 1 & 7 {
        0 => set(RFLAGS_OF),
        1 => set(RFLAGS_CF),
        2 => set(RFLAGS_ZF),
        3 => set(RFLAGS_CF | RFLAGS_ZF),
        4 => set(RFLAGS_SF),
        5 => set(RFLAGS_PF),
        6 => set(RFLAGS_SF) != set(RFLAGS_OF),
        _ => set(RFLAGS_ZF) || set(RFLAGS_SF) != set(RFLAGS_OF),
    };
    result != (opcode & 1 != 0)
}

//! Hardware task switches (SDM vol. 3, 8.3), which VMX leaves to its host: CALL, JMP, IRET and task gates, through TSSs of
//! 32 and of 16 bits.
//!
//! The processor has checked the gate's and the descriptor's privilege before it exits (SDM vol. 3, 26.4.2). What is wrong with
//! the new task's segments is found when the switch has been made, and is the new task's exception.

use monovisor_arch::state::bits::{CR0_PG, CR0_TS, CR4_PAE, RFLAGS_FIXED, RFLAGS_VM};
use monovisor_arch::{
    DescriptorTable, Event, EventKind, GuestMemory, Segment, SegmentName, TaskSource, TaskSwitch, VcpuState,
    vector,
};

use crate::access::Context;
use crate::decode::gpr;
use crate::{Intent, Outcome, Paging};

/// RFLAGS: nested task.
const NT: u64 = 1 << 14;
/// RFLAGS bits that a TSS can hold: all that are defined.
const FLAGS: u64 = 0x3f_7fd5;

/// A descriptor's type: busy, of a TSS.
const BUSY: u64 = 1 << 41;
/// A descriptor's accessed bit, of code and data.
const ACCESSED: u64 = 1 << 40;

/// Why a task switch was not made, or not to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskFault {
    /// What the guest gets, or why it cannot go on.
    pub outcome: Outcome,
    /// The new task runs: the exception is its own. Else nothing has changed, and an event that was to be delivered has not
    /// been.
    pub switched: bool,
}

/// A TSS as its type lays it out: instruction pointer, flags, eight general registers, segment registers (six, or four), LDTR;
/// each as wide as the TSS is.
#[derive(Clone, Copy)]
struct Layout {
    /// Bytes of a member: 4 or 2.
    width: usize,
    /// Offset of the instruction pointer.
    first: usize,
    /// Segment registers.
    segments: usize,
    /// Bytes that there must be.
    size: usize,
}

const WIDE: Layout = Layout { width: 4, first: 0x20, segments: 6, size: 104 };
const NARROW: Layout = Layout { width: 2, first: 0xe, segments: 4, size: 44 };

/// Number of the first segment register among the members.
const SEGMENTS: usize = 10;
/// Offset of CR3 in a TSS of 32 bits, and of the debug trap flag.
const CR3: usize = 0x1c;
const TRAP: usize = 0x64;

impl Layout {
    /// By the access rights of a TSS.
    const fn of(access: u32) -> Self {
        if access & 8 != 0 { WIDE } else { NARROW }
    }

    fn get(&self, tss: &[u8; WIDE.size], member: usize) -> u64 {
        number(tss, self.first + member * self.width, self.width)
    }
}

/// Bytes of a TSS as a number.
fn number(tss: &[u8; WIDE.size], offset: usize, width: usize) -> u64 {
    let bytes = tss.get(offset..offset + width).unwrap_or_default();
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// What a descriptor says of a segment.
fn segment(selector: u16, descriptor: u64) -> Segment {
    let limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    let coarse = descriptor >> 55 & 1 != 0;
    Segment {
        selector,
        base: descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000,
        limit: if coarse { limit << 12 | 0xfff } else { limit },
        access: (descriptor >> 40) as u32 & 0xf0ff,
    }
}

/// The tables of the guest, reached as the processor reaches them: always as supervisor.
struct System<'a, M> {
    memory: &'a M,
    paging: Paging,
}

impl<M: GuestMemory> System<'_, M> {
    /// Calls `act` with the guest-physical address of each piece of `size` bytes, and where it begins and ends among them.
    fn pieces(
        &self,
        linear: u64,
        size: usize,
        intent: Intent,
        mut act: impl FnMut(u64, usize, usize) -> bool,
    ) -> Result<(), Outcome> {
        let mut done = 0;
        while done < size {
            let at = linear.wrapping_add(done as u64) & 0xffff_ffff;
            let end = size.min(done + (4096 - (at & 0xfff) as usize));
            let address = self.paging.translate(self.memory, at, intent).map_err(Outcome::page_fault)?;
            if !act(address, done, end) {
                return Err(Outcome::CodeOutsideRam { address });
            }
            done = end;
        }
        Ok(())
    }

    fn read(&self, linear: u64, into: &mut [u8]) -> Result<(), Outcome> {
        self.pieces(linear, into.len(), Intent::Read, |address, from, to| {
            into.get_mut(from..to).is_some_and(|piece| self.memory.read(address, piece).is_ok())
        })
    }

    fn write(&self, linear: u64, bytes: &[u8]) -> Result<(), Outcome> {
        self.pieces(linear, bytes.len(), Intent::Write, |address, from, to| {
            bytes.get(from..to).is_some_and(|piece| self.memory.write(address, piece).is_ok())
        })
    }

    /// These bytes can be written.
    fn probe(&self, linear: u64, size: usize) -> Result<(), Outcome> {
        self.pieces(linear, size, Intent::Write, |_, _, _| true)
    }

    /// Address and value of the descriptor of `selector` in a table; `fault` where the table ends before it.
    fn descriptor(
        &self,
        table: DescriptorTable,
        selector: u16,
        fault: Outcome,
    ) -> Result<(u64, u64), Outcome> {
        let offset = u64::from(selector & !7);
        if offset + 7 > u64::from(table.limit) {
            return Err(fault);
        }
        let (linear, mut bytes) = (table.base.wrapping_add(offset), [0; 8]);
        self.read(linear, &mut bytes)?;
        Ok((linear, u64::from_le_bytes(bytes)))
    }

    fn set_descriptor(&self, linear: u64, value: u64) -> Result<(), Outcome> {
        self.write(linear, &value.to_le_bytes())
    }
}

/// Makes the switch that the processor has exited for. True: the new task wants a debug trap before its first instruction.
///
/// Left to the caller: the local breakpoints of DR7, which a switch disables.
pub fn task_switch<C: VcpuState + ?Sized>(
    cpu: &mut C,
    memory: &impl GuestMemory,
    switch: &TaskSwitch,
) -> Result<bool, TaskFault> {
    let entered = enter(cpu, memory, switch).map_err(|outcome| TaskFault { outcome, switched: false })?;
    load(cpu, memory, switch, &entered).map_err(|outcome| TaskFault { outcome, switched: true })?;
    Ok(entered.wide && number(&entered.tss, TRAP, 2) & 1 != 0)
}

/// The new task's state, as its TSS has it.
struct Entered {
    tss: [u8; WIDE.size],
    wide: bool,
    /// EXT of the error codes: no instruction has asked for this.
    external: u32,
    /// The page directory pointers at its CR3 cannot be loaded.
    unpaged: bool,
}

/// The first part (steps 1 to 12 of 8.3): leaves the old task, and loads all of the new one but its segments.
#[inline(never)] // Inlined, it makes its caller 1.5 KB larger than it is itself.
fn enter<C: VcpuState + ?Sized>(
    cpu: &mut C,
    memory: &impl GuestMemory,
    switch: &TaskSwitch,
) -> Result<Entered, Outcome> {
    let system = System { memory, paging: Paging::of(cpu).system() };
    let by_hardware =
        |event: &Event| matches!(event.kind, EventKind::Interrupt | EventKind::Nmi | EventKind::Exception);
    let external = u32::from(switch.event.as_ref().is_some_and(by_hardware));
    let fault = |vector| Outcome::exception(Event::fault(vector, u32::from(switch.selector & !3) | external));
    let gdt = cpu.gdtr();
    let returns = switch.source == TaskSource::Return;
    let wrong = fault(if returns { vector::TS } else { vector::GP });
    if switch.selector & 4 != 0 {
        return Err(wrong);
    }
    let (place, descriptor) = system.descriptor(gdt, switch.selector, wrong)?;
    let new = segment(switch.selector, descriptor);
    // A TSS, available or, to come back to, busy.
    if new.access & 0x15 != 1 || (descriptor & BUSY != 0) != returns {
        return Err(wrong);
    }
    if new.access & 0x80 == 0 {
        return Err(fault(vector::NP));
    }
    let layout = Layout::of(new.access);
    if (new.limit as usize) < layout.size - 1 {
        return Err(fault(vector::TS));
    }
    let mut tss = [0; WIDE.size];
    system.read(new.base, tss.get_mut(..layout.size).unwrap_or_default())?;

    let old = cpu.segment(SegmentName::Tr);
    let (old_place, old_descriptor) = system.descriptor(gdt, old.selector, fault(vector::TS))?;
    let kept = Layout::of(old.access);
    let members = SEGMENTS + kept.segments;
    // Nothing has changed so far, and from here on nothing fails.
    for (linear, size) in [
        (old.base.wrapping_add(kept.first as u64), members * kept.width),
        (new.base, 2),
        (old_place, 8),
        (place, 8),
    ] {
        system.probe(linear, size)?;
    }

    let mut flags = cpu.rflags();
    if returns {
        flags &= !NT;
    }
    let mut image = [0; WIDE.size];
    for (member, bytes) in image.chunks_exact_mut(kept.width).take(members).enumerate() {
        let value = match member {
            0 => cpu.rip().wrapping_add(u64::from(switch.length)),
            1 => flags,
            2..SEGMENTS => cpu.gpr(gpr(member as u8 - 2)),
            _ => u64::from(cpu.segment(segment_register(member - SEGMENTS)).selector),
        };
        bytes.copy_from_slice(value.to_le_bytes().get(..kept.width).unwrap_or_default());
    }
    let image = image.get(..members * kept.width).unwrap_or_default();
    system.write(old.base.wrapping_add(kept.first as u64), image)?;
    if matches!(switch.source, TaskSource::Jump | TaskSource::Return) {
        system.set_descriptor(old_place, old_descriptor & !BUSY)?;
    }
    let nests = matches!(switch.source, TaskSource::Call | TaskSource::Gate);
    if nests {
        system.write(new.base, &old.selector.to_le_bytes())?;
    }
    if !returns {
        system.set_descriptor(place, descriptor | BUSY)?;
    }
    cpu.set_segment(SegmentName::Tr, Segment { access: new.access | 2, ..new });

    let mut control = cpu.control();
    control.cr0 |= CR0_TS;
    let mut unpaged = false;
    let cr3 = number(&tss, CR3, 4);
    if layout.width == 4 && control.cr0 & CR0_PG != 0 && control.cr3 != cr3 {
        if control.cr4 & CR4_PAE != 0 {
            unpaged = !load_page_directories(cpu, memory, cr3);
        }
        if !unpaged {
            control.cr3 = cr3;
        }
    }
    cpu.set_control(control);
    for member in 2..SEGMENTS {
        cpu.set_gpr(gpr(member as u8 - 2), layout.get(&tss, member));
    }
    let mut flags = layout.get(&tss, 1) & FLAGS | RFLAGS_FIXED;
    if nests {
        flags |= NT;
    }
    cpu.set_rflags(flags);
    cpu.set_rip(layout.get(&tss, 0));
    Ok(Entered { tss, wide: layout.width == 4, external, unpaged })
}

/// Loads the page directory pointers of PAE paging. What is not RAM reads as all ones, reserved bits and all.
#[inline(never)]
fn load_page_directories<C: VcpuState + ?Sized>(cpu: &mut C, memory: &impl GuestMemory, cr3: u64) -> bool {
    let mut table = [0; 32];
    if memory.read(cr3 & 0xffff_ffe0, &mut table).is_err() {
        table.fill(0xff);
    }
    cpu.load_pdptes(&table)
}

/// Segment register `number` of a TSS.
fn segment_register(number: usize) -> SegmentName {
    const ORDER: [SegmentName; 6] = [
        SegmentName::Es,
        SegmentName::Cs,
        SegmentName::Ss,
        SegmentName::Ds,
        SegmentName::Fs,
        SegmentName::Gs,
    ];
    ORDER.get(number).copied().unwrap_or(SegmentName::Gs)
}

/// The second part (step 13, table 8-1): loads and checks the segments, and delivers the error code of an exception.
#[inline(never)] // As `enter`.
fn load<C: VcpuState + ?Sized>(
    cpu: &mut C,
    memory: &impl GuestMemory,
    switch: &TaskSwitch,
    entered: &Entered,
) -> Result<(), Outcome> {
    let layout = if entered.wide { WIDE } else { NARROW };
    let selector = |member: usize| layout.get(&entered.tss, member) as u16;
    let fault = |vector, selector: u16| {
        Outcome::exception(Event::fault(vector, u32::from(selector & !3) | entered.external))
    };
    // A segment that is not loaded cannot be used; code and stack stay those of the old task until they are.
    let unusable = |selector| Segment { selector, access: Segment::UNUSABLE, ..Segment::default() };
    for name in [SegmentName::Ldtr, SegmentName::Es, SegmentName::Ds, SegmentName::Fs, SegmentName::Gs] {
        cpu.set_segment(name, unusable(0));
    }
    if entered.unpaged {
        // As MOV to CR3 does; CR3 and the registers stay the old task's (SDM vol. 3, 4.4.1).
        return Err(fault(vector::GP, 0));
    }
    let system = System { memory, paging: Paging::of(cpu).system() };
    let gdt = cpu.gdtr();
    let ldt = selector(SEGMENTS + layout.segments);
    let mut local = DescriptorTable::default();
    let mut has_local = false;
    if ldt & !3 != 0 {
        let wrong = fault(vector::TS, ldt);
        if ldt & 4 != 0 {
            return Err(wrong);
        }
        let table = segment(ldt, system.descriptor(gdt, ldt, wrong)?.1);
        if table.access & 0x9f != 0x82 {
            return Err(wrong);
        }
        cpu.set_segment(SegmentName::Ldtr, table);
        local = DescriptorTable { base: table.base, limit: table.limit.min(0xffff) as u16 };
        has_local = true;
    }
    if cpu.rflags() & RFLAGS_VM != 0 {
        for number in 0..layout.segments {
            let selector = selector(SEGMENTS + number);
            let base = u64::from(selector) << 4;
            cpu.set_segment(
                segment_register(number),
                Segment { selector, base, limit: 0xffff, access: 0xf3 },
            );
        }
        return push_error_code(cpu, memory, switch, layout.width);
    }

    let code_selector = selector(SEGMENTS + SegmentName::Cs as usize);
    let level = (code_selector & 3) as u8;
    let mut code = Segment::default();
    // Code before stack, stack before data: each is checked by what is there already.
    for number in [1, 2, 0, 3, 4, 5].into_iter().take_while(|number| *number < layout.segments) {
        let (name, selector) = (segment_register(number), selector(SEGMENTS + number));
        let is_data = !matches!(name, SegmentName::Cs | SegmentName::Ss);
        let wrong = fault(vector::TS, selector);
        if selector & !3 == 0 {
            if is_data {
                continue;
            }
            return Err(wrong);
        }
        let table = match (selector & 4 != 0, has_local) {
            (false, _) => gdt,
            (true, true) => local,
            (true, false) => return Err(wrong),
        };
        let (place, descriptor) = system.descriptor(table, selector, wrong)?;
        let mut found = segment(selector, descriptor);
        let (rpl, dpl) = ((selector & 3) as u8, found.dpl());
        // Type bits: 3 code, 2 conforming (of code), 1 readable or writable.
        let kind = found.access & 0x1f;
        let is_code = kind & 0x18 == 0x18;
        let conforming = kind & 0x1c == 0x1c;
        let right = match name {
            SegmentName::Cs => is_code && if conforming { dpl <= rpl } else { dpl == rpl },
            SegmentName::Ss => kind & 0x1a == 0x12 && dpl == rpl && rpl == level,
            _ => {
                let readable = kind & 0x10 != 0 && (kind & 8 == 0 || kind & 2 != 0);
                readable && (conforming || dpl >= rpl.max(level))
            }
        };
        if !right {
            return Err(wrong);
        }
        if found.access & 0x80 == 0 {
            return Err(fault(if name == SegmentName::Ss { vector::SS } else { vector::NP }, selector));
        }
        if descriptor & ACCESSED == 0 {
            system.set_descriptor(place, descriptor | ACCESSED)?;
            found.access |= 1;
        }
        match name {
            SegmentName::Cs => code = found,
            SegmentName::Ss => {
                cpu.set_segment(SegmentName::Cs, code);
                cpu.set_segment(name, found);
            }
            _ => cpu.set_segment(name, found),
        }
    }
    push_error_code(cpu, memory, switch, layout.width)
}

/// Puts the error code of an exception on the new task's stack (SDM vol. 3, 6.13), as wide as the TSS is.
fn push_error_code<C: VcpuState + ?Sized>(
    cpu: &mut C,
    memory: &impl GuestMemory,
    switch: &TaskSwitch,
    width: usize,
) -> Result<(), Outcome> {
    let Some(code) = switch.event.and_then(|event| event.error_code) else { return Ok(()) };
    let mask = if cpu.segment(SegmentName::Ss).big() { 0xffff_ffff } else { 0xffff };
    let stack = cpu.gpr(monovisor_arch::Gpr::Rsp);
    let top = stack.wrapping_sub(width as u64) & mask;
    let context = Context::new(cpu, memory);
    let linear = context.linear(SegmentName::Ss, top, width as u64, Intent::Write)?;
    let system = System { memory, paging: context.paging };
    system.write(linear, code.to_le_bytes().get(..width).unwrap_or_default())?;
    cpu.set_gpr(monovisor_arch::Gpr::Rsp, stack & !mask | top);
    Ok(())
}

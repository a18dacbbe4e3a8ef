//! Hardware task switches by SDM vol. 3, 8.3: what each kind does to the two TSSs, their descriptors and the processor.

mod common;

use common::{Cpu, Memory};
use monovisor_arch::state::bits;
use monovisor_arch::{
    DescriptorTable, Event, EventKind, Gpr, GuestMemory, SegmentName, TaskSource, TaskSwitch, VcpuState,
    vector,
};
use monovisor_insn::{Outcome, TaskFault, task_switch};

const GDT: u64 = 0x2000;
const OLD: u64 = 0x3000;
const NEW: u64 = 0x3100;
const NT: u64 = 1 << 14;

/// Selectors: flat code and data of both privileges, the two TSSs, one of 16 bits, and what is no TSS.
const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const USER_CODE: u16 = 0x1b;
const USER_DATA: u16 = 0x23;
const OLD_TSS: u16 = 0x28;
const NEW_TSS: u16 = 0x30;
const NARROW_TSS: u16 = 0x38;
const ABSENT_TSS: u16 = 0x40;
const SHORT_TSS: u16 = 0x48;
const ABSENT_DATA: u16 = 0x50;

/// A protected-mode processor in the old task, and its memory.
fn rig() -> (Cpu, Memory) {
    let memory = Memory::new(0x1_0000);
    let tss = |base: u64, limit: u64, access: u64| limit | base << 16 | access << 40;
    let descriptors = [
        0,
        0x00cf_9a00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        tss(OLD, 0x67, 0x8b),
        tss(NEW, 0x67, 0x89),
        tss(NEW, 0x2b, 0x81),
        tss(NEW, 0x67, 0x09),
        tss(NEW, 0x66, 0x89),
        0x00cf_1300_0000_ffff,
    ];
    for (index, descriptor) in (0..).zip(descriptors) {
        memory.put64(GDT + 8 * index, descriptor);
    }
    let mut cpu = Cpu::protected32();
    cpu.gdtr = DescriptorTable { base: GDT, limit: 8 * 11 - 1 };
    let task = &mut cpu.segments[SegmentName::Tr as usize];
    (task.selector, task.base, task.limit, task.access) = (OLD_TSS, OLD, 0x67, 0x8b);
    for name in [SegmentName::Es, SegmentName::Ss, SegmentName::Ds, SegmentName::Fs, SegmentName::Gs] {
        cpu.segments[name as usize].selector = DATA;
    }
    cpu.segments[SegmentName::Cs as usize].selector = CODE;
    for (index, register) in cpu.gpr.iter_mut().enumerate() {
        *register = 0x1000_0000 + index as u64;
    }
    cpu.rflags = 0x246;
    (cpu, memory)
}

fn get(memory: &Memory, address: u64, size: usize) -> u64 {
    let mut bytes = [0; 8];
    memory.read(address, &mut bytes[..size]).unwrap();
    u64::from_le_bytes(bytes)
}

/// Fills the new TSS of 32 bits: a task at 0x7000 with these code and data selectors and flags.
fn fill(memory: &Memory, code: u16, data: u16, flags: u32) {
    memory.put32(NEW + 0x1c, 0x5000);
    memory.put32(NEW + 0x20, 0x7000);
    memory.put32(NEW + 0x24, flags);
    for register in 0..8 {
        memory.put32(NEW + 0x28 + 4 * u64::from(register), 0x8000_0000 + register);
    }
    memory.put32(NEW + 0x38, 0x9000);
    for (offset, selector) in
        [(0x48, data), (0x4c, code), (0x50, data), (0x54, data), (0x58, 0), (0x5c, data)]
    {
        memory.put32(NEW + offset, selector.into());
    }
}

fn switch(selector: u16, source: TaskSource) -> TaskSwitch {
    let length = if source == TaskSource::Gate { 0 } else { 7 };
    TaskSwitch { selector, source, event: None, length }
}

fn busy(memory: &Memory, selector: u16) -> bool {
    get(memory, GDT + u64::from(selector), 8) >> 41 & 1 != 0
}

#[test]
fn call_nests_and_iret_comes_back() {
    let (mut cpu, memory) = rig();
    fill(&memory, CODE, DATA, 0x202);
    let before = cpu.clone();
    assert_eq!(task_switch(&mut cpu, &memory, &switch(NEW_TSS, TaskSource::Call)), Ok(false));
    // The old task as it was left, behind the instruction.
    assert_eq!((get(&memory, OLD + 0x20, 4), get(&memory, OLD + 0x24, 4)), (0x1007, 0x246));
    assert_eq!((get(&memory, OLD + 0x28, 4), get(&memory, OLD + 0x44, 4)), (0x1000_0000, 0x1000_0007));
    assert_eq!((get(&memory, OLD + 0x4c, 4), get(&memory, OLD + 0x5c, 4)), (CODE.into(), DATA.into()));
    // The new one.
    assert_eq!((cpu.rip, cpu.rflags), (0x7000, 0x202 | NT));
    assert_eq!((cpu.gpr(Gpr::Rax), cpu.gpr(Gpr::Rsp), cpu.gpr(Gpr::Rdi)), (0x8000_0000, 0x9000, 0x8000_0007));
    assert_eq!(cpu.segment(SegmentName::Tr).selector, NEW_TSS);
    assert_eq!(cpu.segment(SegmentName::Tr).access, 0x8b);
    assert!(cpu.segment(SegmentName::Cs).access == 0xc09b && !cpu.segment(SegmentName::Fs).usable());
    assert_eq!(get(&memory, GDT + 8, 8) >> 40 & 1, 1, "the code segment has been accessed");
    assert_eq!(get(&memory, NEW, 2), OLD_TSS.into());
    assert!(busy(&memory, OLD_TSS) && busy(&memory, NEW_TSS));
    assert_eq!(cpu.control.cr0 & bits::CR0_TS, bits::CR0_TS);
    assert_eq!(cpu.control.cr3, 0, "without paging CR3 stays");
    // And back, to behind the call.
    assert_eq!(task_switch(&mut cpu, &memory, &switch(OLD_TSS, TaskSource::Return)), Ok(false));
    assert_eq!((cpu.rip, cpu.rflags, cpu.gpr[..8].to_vec()), (0x1007, 0x246, before.gpr[..8].to_vec()));
    assert!(busy(&memory, OLD_TSS) && !busy(&memory, NEW_TSS));
    assert_eq!((get(&memory, NEW + 0x20, 4), get(&memory, NEW + 0x24, 4)), (0x7007, 0x202), "NT is not kept");
}

#[test]
fn jump_leaves_for_good() {
    let (mut cpu, memory) = rig();
    fill(&memory, USER_CODE, USER_DATA, 0x202);
    memory.put32(NEW + 0x64, 1);
    assert_eq!(task_switch(&mut cpu, &memory, &switch(NEW_TSS, TaskSource::Jump)), Ok(true), "the T flag");
    assert!(!busy(&memory, OLD_TSS) && busy(&memory, NEW_TSS));
    assert_eq!((cpu.rflags & NT, get(&memory, NEW, 2), cpu.cpl()), (0, 0, 3));
}

#[test]
fn an_exception_takes_its_error_code_along() {
    let (mut cpu, memory) = rig();
    fill(&memory, CODE, DATA, 2);
    let event = Some(Event::fault(vector::GP, 0x1234));
    let gate = TaskSwitch { event, ..switch(NEW_TSS, TaskSource::Gate) };
    assert_eq!(task_switch(&mut cpu, &memory, &gate), Ok(false));
    assert_eq!((cpu.gpr(Gpr::Rsp), get(&memory, 0x8ffc, 4)), (0x8ffc, 0x1234));
    assert_eq!(get(&memory, OLD + 0x20, 4), 0x1000, "the faulting instruction");
}

#[test]
fn sixteen_bits() {
    let (mut cpu, memory) = rig();
    memory.write(NEW + 0xe, &0x7000u16.to_le_bytes()).unwrap();
    memory.write(NEW + 0x10, &0x0202u16.to_le_bytes()).unwrap();
    memory.write(NEW + 0x12, &0xabcdu16.to_le_bytes()).unwrap();
    for (offset, selector) in [(0x22, DATA), (0x24, CODE), (0x26, DATA), (0x28, DATA)] {
        memory.write(NEW + offset, &selector.to_le_bytes()).unwrap();
    }
    assert_eq!(task_switch(&mut cpu, &memory, &switch(NARROW_TSS, TaskSource::Call)), Ok(false));
    assert_eq!((cpu.rip, cpu.rflags, cpu.gpr(Gpr::Rax)), (0x7000, 0x202 | NT, 0xabcd));
    assert!(!cpu.segment(SegmentName::Fs).usable() && cpu.segment(SegmentName::Ds).usable());
    assert_eq!(cpu.segment(SegmentName::Tr).access, 0x83);
    // Back to the one of 32 bits; what this one has is saved in 16.
    assert_eq!(task_switch(&mut cpu, &memory, &switch(OLD_TSS, TaskSource::Return)), Ok(false));
    assert_eq!((get(&memory, NEW + 0xe, 2), get(&memory, NEW + 0x2a, 2), cpu.rip), (0x7007, 0, 0x1007));
}

#[test]
fn to_virtual_8086_mode() {
    let (mut cpu, memory) = rig();
    fill(&memory, 0x1234, 0x2345, 0x2_0202);
    assert_eq!(task_switch(&mut cpu, &memory, &switch(NEW_TSS, TaskSource::Call)), Ok(false));
    let code = cpu.segment(SegmentName::Cs);
    assert_eq!((code.selector, code.base, code.limit, code.access), (0x1234, 0x1_2340, 0xffff, 0xf3));
    assert_eq!((cpu.cpl(), cpu.segment(SegmentName::Fs).base), (3, 0));
}

#[test]
fn nothing_happens_where_the_tss_is_no_good() {
    let hardware = Some(Event::exception(vector::DE));
    for (selector, source, event, fault) in [
        (0x100, TaskSource::Call, None, Event::fault(vector::GP, 0x100)),
        (0x34, TaskSource::Call, None, Event::fault(vector::GP, 0x34)),
        (DATA, TaskSource::Jump, None, Event::fault(vector::GP, 0x10)),
        (OLD_TSS, TaskSource::Jump, None, Event::fault(vector::GP, 0x28)),
        (NEW_TSS, TaskSource::Return, None, Event::fault(vector::TS, 0x30)),
        (ABSENT_TSS, TaskSource::Call, None, Event::fault(vector::NP, 0x40)),
        (SHORT_TSS, TaskSource::Call, None, Event::fault(vector::TS, 0x48)),
        (SHORT_TSS, TaskSource::Gate, hardware, Event::fault(vector::TS, 0x49)),
    ] {
        let (mut cpu, memory) = rig();
        fill(&memory, CODE, DATA, 2);
        let (before, bytes) = (cpu.clone(), memory.0.borrow().clone());
        let result = task_switch(&mut cpu, &memory, &TaskSwitch { event, ..switch(selector, source) });
        let outcome = Outcome::Exception { event: fault, cr2: None };
        assert_eq!(result, Err(TaskFault { outcome, switched: false }), "{selector:#x} {source:?}");
        assert!(cpu == before && *memory.0.borrow() == bytes);
    }
}

#[test]
fn what_is_wrong_with_a_segment_is_the_new_tasks_exception() {
    for (code, data, fault) in [
        (0, DATA, Event::fault(vector::TS, 0)),
        (DATA, DATA, Event::fault(vector::TS, 0x10)),
        (USER_CODE & !3, DATA, Event::fault(vector::TS, 0x18)),
        (CODE, 0, Event::fault(vector::TS, 0)),
        (CODE, USER_DATA, Event::fault(vector::TS, 0x20)),
        (CODE, ABSENT_DATA, Event::fault(vector::SS, 0x50)),
        (CODE, 0x14, Event::fault(vector::TS, 0x14)),
    ] {
        let (mut cpu, memory) = rig();
        fill(&memory, code, data, 2);
        let result = task_switch(&mut cpu, &memory, &switch(NEW_TSS, TaskSource::Call));
        let outcome = Outcome::Exception { event: fault, cr2: None };
        assert_eq!(result, Err(TaskFault { outcome, switched: true }), "{code:#x} {data:#x}");
        assert_eq!((cpu.rip, cpu.segment(SegmentName::Tr).selector), (0x7000, NEW_TSS));
    }
    // A data segment alone.
    let (mut cpu, memory) = rig();
    fill(&memory, CODE, DATA, 2);
    memory.put32(NEW + 0x5c, ABSENT_DATA.into());
    let result = task_switch(&mut cpu, &memory, &switch(NEW_TSS, TaskSource::Call));
    let outcome = Outcome::Exception { event: Event::fault(vector::NP, 0x50), cr2: None };
    assert_eq!(result, Err(TaskFault { outcome, switched: true }));
    assert!(!cpu.segment(SegmentName::Gs).usable() && cpu.segment(SegmentName::Ds).usable());
}

/// PAE paging (SDM vol. 3, 4.4.1): tables at 0xa000, that map the first 2 MiB one to one, are in force; the new task's are to
/// be at 0x5020.
fn paged() -> (Cpu, Memory) {
    let (mut cpu, memory) = rig();
    fill(&memory, CODE, DATA, 2);
    memory.put32(NEW + 0x1c, 0x5027);
    memory.put64(0xa000, 0xb001);
    memory.put64(0xb000, 0xe3);
    for (offset, entry) in [(0x20, 0xb001), (0x28, 0xc001), (0x30, 0), (0x38, 0xfff0_0000_0000_01e6)] {
        memory.put64(0x5000 + offset, entry);
    }
    cpu.control.cr0 |= bits::CR0_PG;
    cpu.control.cr4 |= bits::CR4_PAE;
    cpu.control.cr3 = 0xa000;
    cpu.pdptes = [0xb001, 0, 0, 0];
    (cpu, memory)
}

#[test]
fn the_new_tasks_page_directories_are_loaded() {
    let (mut cpu, memory) = paged();
    assert_eq!(task_switch(&mut cpu, &memory, &switch(NEW_TSS, TaskSource::Call)), Ok(false));
    assert_eq!(cpu.control.cr3, 0x5027);
    assert_eq!(cpu.pdptes, [0xb001, 0xc001, 0, 0xfff0_0000_0000_01e6], "what is not present may be anything");
    // With the CR3 that is there already, nothing is.
    let (mut cpu, memory) = paged();
    cpu.control.cr3 = 0x5027;
    assert_eq!(task_switch(&mut cpu, &memory, &switch(NEW_TSS, TaskSource::Call)), Ok(false));
    assert_eq!(cpu.pdptes, [0xb001, 0, 0, 0]);
}

#[test]
fn page_directories_that_cannot_be_are_the_new_tasks_exception() {
    // A reserved bit, and no RAM at all.
    for (cr3, third) in [(0x5027, 0xd003), (0xf_0000, 0)] {
        let (mut cpu, memory) = paged();
        memory.put32(NEW + 0x1c, cr3);
        memory.put64(0x5030, third);
        let result = task_switch(&mut cpu, &memory, &switch(NEW_TSS, TaskSource::Call));
        let outcome = Outcome::Exception { event: Event::fault(vector::GP, 0), cr2: None };
        assert_eq!(result, Err(TaskFault { outcome, switched: true }));
        assert_eq!((cpu.control.cr3, cpu.pdptes), (0xa000, [0xb001, 0, 0, 0]));
        assert_eq!((cpu.rip, cpu.segment(SegmentName::Tr).selector), (0x7000, NEW_TSS));
        assert!(!cpu.segment(SegmentName::Ds).usable());
    }
}

#[test]
fn software_interrupts_return_behind_themselves() {
    let (mut cpu, memory) = rig();
    fill(&memory, CODE, DATA, 2);
    let event = Event { kind: EventKind::SoftwareInterrupt, instruction_length: 2, ..Event::exception(0x30) };
    let gate = TaskSwitch { event: Some(event), length: 2, ..switch(NEW_TSS, TaskSource::Gate) };
    assert_eq!(task_switch(&mut cpu, &memory, &gate), Ok(false));
    assert_eq!((get(&memory, OLD + 0x20, 4), cpu.gpr(Gpr::Rsp)), (0x1002, 0x9000));
}

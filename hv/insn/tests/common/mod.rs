//! A processor and a memory made of plain fields, for the tests.
#![allow(dead_code)]

use std::cell::RefCell;

use monovisor_arch::state::bits;
use monovisor_arch::{
    Control, DescriptorTable, Gpr, GuestMemory, MemoryError, Segment, SegmentName, VcpuState, VectorRegister,
};
use monovisor_insn::{Bus, Encoding, Outcome, Ports, decoded_next_rip, usual_next_rip};

/// RIP behind the instruction as the machine looks for it: by the usual encoding, else by decoding.
pub fn next_rip(cpu: &mut Cpu, memory: &impl GuestMemory, usual: Encoding) -> Result<u64, Outcome> {
    match usual_next_rip(cpu, memory, usual) {
        Some(rip) => Ok(rip),
        None => decoded_next_rip(cpu, memory),
    }
}

/// Registers only.
#[derive(Clone, Debug, PartialEq)]
pub struct Cpu {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub segments: [Segment; 8],
    pub control: Control,
    pub gdtr: DescriptorTable,
    pub vectors: [[u64; 8]; 32],
    pub mmx: [u64; 8],
    pub pdptes: [u64; 4],
}

const FLAT_DATA: Segment = Segment { selector: 0x10, base: 0, limit: u32::MAX, access: 0xc093 };

impl Cpu {
    /// 64-bit mode without a page table: translation is off so that linear is physical below 4 GiB.
    pub fn protected32() -> Self {
        let mut cpu = Self {
            gpr: [0; 16],
            rip: 0x1000,
            rflags: 2,
            segments: [FLAT_DATA; 8],
            control: Control { cr0: bits::CR0_PE, ..Control::default() },
            gdtr: DescriptorTable::default(),
            vectors: [[0; 8]; 32],
            mmx: [0; 8],
            pdptes: [0; 4],
        };
        cpu.segments[SegmentName::Cs as usize].access = 0xc09b;
        cpu
    }

    /// 64-bit kernel with the identity tables that [`Memory::identity`] makes.
    pub fn long() -> Self {
        let mut cpu = Self::protected32();
        cpu.control.cr0 |= bits::CR0_PG | bits::CR0_WP;
        cpu.control.cr4 = bits::CR4_PAE;
        cpu.control.cr3 = TABLES;
        cpu.control.efer = bits::EFER_LMA | bits::EFER_LME | bits::EFER_NXE;
        cpu.segments[SegmentName::Cs as usize].access = 0xa09b;
        cpu
    }

    /// Real mode, all segments at base 0.
    pub fn real() -> Self {
        let mut cpu = Self::protected32();
        cpu.control.cr0 = 0;
        for segment in &mut cpu.segments {
            *segment = Segment { selector: 0, base: 0, limit: 0xffff, access: 0x93 };
        }
        cpu
    }
}

impl VcpuState for Cpu {
    fn gpr(&self, register: Gpr) -> u64 {
        self.gpr[register as usize]
    }
    fn set_gpr(&mut self, register: Gpr, value: u64) {
        self.gpr[register as usize] = value;
    }
    fn rip(&self) -> u64 {
        self.rip
    }
    fn set_rip(&mut self, value: u64) {
        self.rip = value;
    }
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn set_rflags(&mut self, value: u64) {
        self.rflags = value;
    }
    fn segment(&self, name: SegmentName) -> Segment {
        self.segments[name as usize]
    }
    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        self.segments[name as usize] = segment;
    }
    fn gdtr(&self) -> DescriptorTable {
        self.gdtr
    }
    fn set_gdtr(&mut self, _: DescriptorTable) {}
    fn idtr(&self) -> DescriptorTable {
        DescriptorTable::default()
    }
    fn set_idtr(&mut self, _: DescriptorTable) {}
    fn control(&self) -> Control {
        self.control
    }
    fn set_control(&mut self, control: Control) {
        self.control = control;
    }
    fn load_pdptes(&mut self, table: &[u8; 32]) -> bool {
        let entries = [0, 1, 2, 3].map(|index| u64::from_le_bytes(table.as_chunks().0[index]));
        let legal = entries.iter().all(|entry| entry & 1 == 0 || entry & 0xfff0_0000_0000_01e6 == 0);
        if legal {
            self.pdptes = entries;
        }
        legal
    }
    fn vector(&mut self, register: VectorRegister) -> Option<[u64; 8]> {
        Some(match register {
            VectorRegister::Mmx(number) => [self.mmx[usize::from(number)], 0, 0, 0, 0, 0, 0, 0],
            VectorRegister::Xmm(number) | VectorRegister::Ymm(number) => {
                self.vectors[usize::from(number & 15)]
            }
            VectorRegister::Zmm(number) => self.vectors[usize::from(number)],
        })
    }
    fn set_vector(&mut self, register: VectorRegister, value: [u64; 8]) {
        match register {
            VectorRegister::Mmx(number) => self.mmx[usize::from(number)] = value[0],
            VectorRegister::Xmm(number) => {
                self.vectors[usize::from(number)][..2].copy_from_slice(&value[..2])
            }
            VectorRegister::Ymm(number) => {
                self.vectors[usize::from(number)] = [value[0], value[1], value[2], value[3], 0, 0, 0, 0]
            }
            VectorRegister::Zmm(number) => self.vectors[usize::from(number)] = value,
        }
    }
}

/// Where [`Memory::identity`] puts its tables.
pub const TABLES: u64 = 0x10_0000;

/// RAM from 0 to the length of the bytes.
pub struct Memory(pub RefCell<Vec<u8>>);

impl Memory {
    pub fn new(size: usize) -> Self {
        Self(RefCell::new(vec![0; size]))
    }

    /// 2 MiB of RAM with 4-level tables at [`TABLES`]: identity for the first 4 GiB in 2 MiB pages.
    pub fn identity() -> Self {
        let memory = Self::new(0x20_0000);
        memory.put64(TABLES, (TABLES + 0x1000) | 0x7);
        for gib in 0..4 {
            let directory = TABLES + 0x2000 + 0x1000 * gib;
            memory.put64(TABLES + 0x1000 + 8 * gib, directory | 0x7);
            for index in 0..512 {
                memory.put64(directory + 8 * index, gib << 30 | index << 21 | 0xe7);
            }
        }
        memory
    }

    pub fn put64(&self, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes()).unwrap();
    }

    pub fn put32(&self, address: u64, value: u32) {
        self.write(address, &value.to_le_bytes()).unwrap();
    }
}

impl GuestMemory for Memory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let memory = self.0.borrow();
        let start = usize::try_from(address).map_err(|_| MemoryError { address })?;
        let end = start.checked_add(buffer.len()).ok_or(MemoryError { address })?;
        buffer.copy_from_slice(memory.get(start..end).ok_or(MemoryError { address })?);
        Ok(())
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let mut memory = self.0.borrow_mut();
        let start = usize::try_from(address).map_err(|_| MemoryError { address })?;
        let end = start.checked_add(data.len()).ok_or(MemoryError { address })?;
        memory.get_mut(start..end).ok_or(MemoryError { address })?.copy_from_slice(data);
        Ok(())
    }

    fn fill(&self, address: u64, value: u8, length: u64) -> Result<(), MemoryError> {
        self.write(address, &vec![value; length as usize])
    }

    fn contiguous(&self, address: u64) -> u64 {
        (self.0.borrow().len() as u64).saturating_sub(address)
    }
}

/// 64 KiB of registers at [`Device::BASE`], and a log of what was done to them and to ports.
#[derive(Default)]
pub struct Device {
    pub bytes: Vec<u8>,
    pub log: Vec<(char, u64, u8, u64)>,
    pub feed: Vec<u32>,
}

impl Device {
    pub const BASE: u64 = 0xfeb0_0000;

    pub fn new() -> Self {
        Self { bytes: (0..0x10000).map(|i| (i * 7 + 3) as u8).collect(), ..Self::default() }
    }

    pub fn peek(&self, offset: usize, size: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&self.bytes[offset..offset + size]);
        u64::from_le_bytes(bytes)
    }
}

impl Bus for Device {
    fn read(&mut self, address: u64, size: u8) -> u64 {
        assert!(matches!(size, 1 | 2 | 4 | 8));
        let offset = address.wrapping_sub(Self::BASE);
        let value = if offset < 0x10000 - 8 { self.peek(offset as usize, size as usize) } else { u64::MAX };
        self.log.push(('r', address, size, value));
        value
    }

    fn write(&mut self, address: u64, size: u8, value: u64) {
        assert!(matches!(size, 1 | 2 | 4 | 8));
        let offset = address.wrapping_sub(Self::BASE);
        self.log.push(('w', address, size, value));
        if offset < 0x10000 - 8 {
            let (offset, size) = (offset as usize, size as usize);
            self.bytes[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
    }
}

impl Ports for Device {
    fn input(&mut self, port: u16, size: u8) -> u32 {
        let value = if self.feed.is_empty() { u32::MAX } else { self.feed.remove(0) };
        self.log.push(('i', port.into(), size, value.into()));
        value
    }

    fn output(&mut self, port: u16, size: u8, value: u32) {
        self.log.push(('o', port.into(), size, value.into()));
    }
}

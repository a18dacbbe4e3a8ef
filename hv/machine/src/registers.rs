//! A copy of one virtual processor's registers.
//!
//! What VMX keeps of a processor can be read on the physical processor that runs it alone, so each one writes a copy for
//! the others to read.

use monovisor_arch::{Control, DescriptorTable, Gpr, Segment, SegmentName, Vcpu, VcpuState};

/// All segment registers, in the order of their numbers.
const SEGMENTS: [SegmentName; 8] = [
    SegmentName::Es,
    SegmentName::Cs,
    SegmentName::Ss,
    SegmentName::Ds,
    SegmentName::Fs,
    SegmentName::Gs,
    SegmentName::Ldtr,
    SegmentName::Tr,
];

/// Registers as they were when the copy was taken. Setting one changes the copy alone.
#[derive(Clone, Debug)]
pub struct Registers {
    gpr: [u64; 16],
    rip: u64,
    rflags: u64,
    segments: [Segment; 8],
    gdtr: DescriptorTable,
    idtr: DescriptorTable,
    control: Control,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// The legacy region of XSAVE.
    pub fpu: [u8; 512],
    /// The processor waits for an interrupt or a start-up.
    pub halted: bool,
}

impl Registers {
    /// All zeros.
    pub const fn new() -> Self {
        const NO_SEGMENT: Segment = Segment { selector: 0, base: 0, limit: 0, access: 0 };
        const NO_TABLE: DescriptorTable = DescriptorTable { base: 0, limit: 0 };
        Self {
            gpr: [0; 16],
            rip: 0,
            rflags: 0,
            segments: [NO_SEGMENT; 8],
            gdtr: NO_TABLE,
            idtr: NO_TABLE,
            control: Control { cr0: 0, cr2: 0, cr3: 0, cr4: 0, efer: 0 },
            debug: [0; 6],
            fpu: [0; 512],
            halted: false,
        }
    }

    /// Takes the registers of `cpu`.
    pub fn take(&mut self, cpu: &dyn Vcpu, halted: bool) {
        self.gpr = Gpr::ALL.map(|register| cpu.gpr(register));
        self.rip = cpu.rip();
        self.rflags = cpu.rflags();
        self.segments = SEGMENTS.map(|name| cpu.segment(name));
        self.gdtr = cpu.gdtr();
        self.idtr = cpu.idtr();
        self.control = cpu.control();
        self.debug = cpu.debug_registers();
        if let Some(legacy) = cpu.extended_state().first_chunk() {
            self.fpu = *legacy;
        }
        self.halted = halted;
    }

    /// Linear address of the next instruction.
    pub fn pc(&self) -> u64 {
        self.segment(SegmentName::Cs).base.wrapping_add(self.rip)
    }
}

impl Default for Registers {
    fn default() -> Self {
        Self::new()
    }
}

impl VcpuState for Registers {
    fn gpr(&self, register: Gpr) -> u64 {
        self.gpr[register as usize & 15]
    }

    fn set_gpr(&mut self, register: Gpr, value: u64) {
        self.gpr[register as usize & 15] = value;
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
        self.segments[name as usize & 7]
    }

    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        self.segments[name as usize & 7] = segment;
    }

    fn gdtr(&self) -> DescriptorTable {
        self.gdtr
    }

    fn set_gdtr(&mut self, table: DescriptorTable) {
        self.gdtr = table;
    }

    fn idtr(&self) -> DescriptorTable {
        self.idtr
    }

    fn set_idtr(&mut self, table: DescriptorTable) {
        self.idtr = table;
    }

    fn control(&self) -> Control {
        self.control
    }

    fn set_control(&mut self, control: Control) {
        self.control = control;
    }
}

//! `info registers`, line by line in QEMU 2.8's form, and the registers that expressions name (`$rip`).

use core::fmt::Write;

use monovisor_arch::state::bits;
use monovisor_arch::{Control, DescriptorTable, Gpr, Segment, SegmentName, VcpuState};

use super::{Line, Registers};

/// A processor's registers at one moment: a dump of many lines shows one state though the guest runs on.
#[derive(Clone, Debug)]
pub struct Snapshot {
    gpr: [u64; 16],
    rip: u64,
    rflags: u64,
    cpl: u8,
    segments: [Segment; 8],
    gdtr: DescriptorTable,
    idtr: DescriptorTable,
    control: Control,
    debug: [u64; 6],
    halted: bool,
    shadow: bool,
    /// The legacy region of XSAVE.
    fpu: [u8; 512],
}

const SEGMENTS: [(SegmentName, &str); 8] = [
    (SegmentName::Es, "ES "),
    (SegmentName::Cs, "CS "),
    (SegmentName::Ss, "SS "),
    (SegmentName::Ds, "DS "),
    (SegmentName::Fs, "FS "),
    (SegmentName::Gs, "GS "),
    (SegmentName::Ldtr, "LDT"),
    (SegmentName::Tr, "TR "),
];

/// System descriptor types by number (SDM vol. 3, table 3-2), named as QEMU names them: outside and inside IA-32e.
const SYSTEM_TYPES: [[&str; 16]; 2] = [
    [
        "Reserved",
        "TSS16-avl",
        "LDT",
        "TSS16-busy",
        "CallGate16",
        "TaskGate",
        "IntGate16",
        "TrapGate16",
        "Reserved",
        "TSS32-avl",
        "Reserved",
        "TSS32-busy",
        "CallGate32",
        "Reserved",
        "IntGate32",
        "TrapGate32",
    ],
    [
        "<hiword>",
        "Reserved",
        "LDT",
        "Reserved",
        "Reserved",
        "Reserved",
        "Reserved",
        "Reserved",
        "Reserved",
        "TSS64-avl",
        "Reserved",
        "TSS64-busy",
        "CallGate64",
        "Reserved",
        "IntGate64",
        "TrapGate64",
    ],
];

impl Snapshot {
    /// Takes the registers of `cpu`. `halted`: it waits in HLT; `shadow`: interrupts are held off for one
    /// instruction.
    pub fn take(cpu: &impl VcpuState, debug: [u64; 6], extended: &[u8], halted: bool, shadow: bool) -> Self {
        let mut fpu = [0; 512];
        if let Some(legacy) = extended.first_chunk() {
            fpu = *legacy;
        }
        Self {
            gpr: Gpr::ALL.map(|register| cpu.gpr(register)),
            rip: cpu.rip(),
            rflags: cpu.rflags(),
            cpl: cpu.cpl(),
            segments: SEGMENTS.map(|(name, _)| cpu.segment(name)),
            gdtr: cpu.gdtr(),
            idtr: cpu.idtr(),
            control: cpu.control(),
            debug,
            halted,
            shadow,
            fpu,
        }
    }

    fn long(&self) -> bool {
        self.control.efer & bits::EFER_LMA != 0
    }

    fn protected(&self) -> bool {
        self.control.cr0 & bits::CR0_PE != 0
    }

    fn code64(&self) -> bool {
        self.long() && self.segments[SegmentName::Cs as usize].long()
    }

    /// Line `index` of the dump, without its end. False behind the last one.
    pub fn line(&self, index: usize, line: &mut Line) -> bool {
        let wide = self.code64();
        // In 64-bit mode two lines more: R8 to R15.
        let index = if wide || index < 2 { index } else { index + 2 };
        let result = match index {
            0..=3 => self.general(index, wide, line),
            4 => self.flags(wide, line),
            5..=12 => self.segment(index - 5, line),
            13 => self.table("GDT", self.gdtr, line),
            14 => self.table("IDT", self.idtr, line),
            15 if self.long() => write!(
                line,
                "CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x}",
                self.control.cr0, self.control.cr2, self.control.cr3, self.control.cr4
            ),
            15 => write!(
                line,
                "CR0={:08x} CR2={:08x} CR3={:08x} CR4={:08x}",
                self.control.cr0, self.control.cr2, self.control.cr3, self.control.cr4
            ),
            16 => {
                let [dr0, dr1, dr2, dr3, ..] = self.debug;
                // QEMU ends this line with a space.
                write!(line, "DR0={dr0:016x} DR1={dr1:016x} DR2={dr2:016x} DR3={dr3:016x} ")
            }
            17 => {
                let [.., dr6, dr7] = self.debug;
                write!(line, "DR6={dr6:016x} DR7={dr7:016x}")
            }
            18 => write!(line, "EFER={:016x}", self.control.efer),
            19 => self.fpu_control(line),
            20..=23 => self.fpu_registers((index - 20) * 2, line),
            24..=27 => self.vectors((index - 24) * 2, line),
            28..=31 if wide => self.vectors((index - 24) * 2, line),
            _ => return false,
        };
        // A line is wider than any of these; a write cannot fail.
        result.is_ok()
    }

    fn general(&self, row: usize, wide: bool, line: &mut Line) -> core::fmt::Result {
        const ROWS: [[(Gpr, &str); 4]; 4] = [
            [(Gpr::Rax, "AX"), (Gpr::Rbx, "BX"), (Gpr::Rcx, "CX"), (Gpr::Rdx, "DX")],
            [(Gpr::Rsi, "SI"), (Gpr::Rdi, "DI"), (Gpr::Rbp, "BP"), (Gpr::Rsp, "SP")],
            [(Gpr::R8, "8 "), (Gpr::R9, "9 "), (Gpr::R10, "10"), (Gpr::R11, "11")],
            [(Gpr::R12, "12"), (Gpr::R13, "13"), (Gpr::R14, "14"), (Gpr::R15, "15")],
        ];
        for (column, (register, name)) in ROWS.get(row).into_iter().flatten().enumerate() {
            let space = if column == 0 { "" } else { " " };
            let value = self.gpr[*register as usize];
            if wide {
                write!(line, "{space}R{name}={value:016x}")?;
            } else {
                write!(line, "{space}E{name}={:08x}", value as u32)?;
            }
        }
        Ok(())
    }

    fn flags(&self, wide: bool, line: &mut Line) -> core::fmt::Result {
        if wide {
            write!(line, "RIP={:016x} RFL={:08x} [", self.rip, self.rflags)?;
        } else {
            write!(line, "EIP={:08x} EFL={:08x} [", self.rip as u32, self.rflags)?;
        }
        for (bit, letter) in [
            (bits::RFLAGS_DF, 'D'),
            (bits::RFLAGS_OF, 'O'),
            (bits::RFLAGS_SF, 'S'),
            (bits::RFLAGS_ZF, 'Z'),
            (bits::RFLAGS_AF, 'A'),
            (bits::RFLAGS_PF, 'P'),
            (bits::RFLAGS_CF, 'C'),
        ] {
            line.write_char(if self.rflags & bit != 0 { letter } else { '-' })?;
        }
        let (shadow, halted) = (u8::from(self.shadow), u8::from(self.halted));
        write!(line, "] CPL={} II={shadow} A20=1 SMM=0 HLT={halted}", self.cpl)
    }

    fn segment(&self, index: usize, line: &mut Line) -> core::fmt::Result {
        let (Some((_, name)), Some(segment)) = (SEGMENTS.get(index), self.segments.get(index)) else {
            return Ok(());
        };
        // QEMU shows a descriptor's second doubleword less its base: limit 19:16 and the access bits.
        let present = if segment.usable() { segment.access & 0xf0ff } else { 0 };
        let limit_high =
            if segment.access & 1 << 15 != 0 { segment.limit >> 28 } else { segment.limit >> 16 & 0xf };
        let descriptor = present << 8 | limit_high << 16;
        if self.code64() {
            write!(line, "{name}={:04x} {:016x}", segment.selector, segment.base)?;
        } else {
            write!(line, "{name}={:04x} {:08x}", segment.selector, segment.base as u32)?;
        }
        write!(line, " {:08x} {descriptor:08x}", segment.limit)?;
        let access = segment.access;
        if !self.protected() || !segment.usable() || access & 1 << 7 == 0 {
            return Ok(());
        }
        write!(line, " DPL={} ", segment.dpl())?;
        let mark = |bit: u32, letter: char| if access & bit != 0 { letter } else { '-' };
        if access & 1 << 4 == 0 {
            let names = &SYSTEM_TYPES[usize::from(self.long())];
            line.write_str(names[(access & 0xf) as usize])
        } else if access & 1 << 3 != 0 {
            let kind = match (segment.long(), segment.big()) {
                (true, _) => "CS64",
                (false, true) => "CS32",
                (false, false) => "CS16",
            };
            write!(line, "{kind} [{}{}{}]", mark(4, 'C'), mark(2, 'R'), mark(1, 'A'))
        } else {
            let kind = if segment.big() || self.long() { "DS  " } else { "DS16" };
            write!(line, "{kind} [{}{}{}]", mark(4, 'E'), mark(2, 'W'), mark(1, 'A'))
        }
    }

    fn table(&self, name: &str, table: DescriptorTable, line: &mut Line) -> core::fmt::Result {
        if self.long() {
            write!(line, "{name}=     {:016x} {:08x}", table.base, table.limit)
        } else {
            write!(line, "{name}=     {:08x} {:08x}", table.base as u32, table.limit)
        }
    }

    fn fpu_u16(&self, at: usize) -> u16 {
        self.fpu.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
    }

    fn fpu_u64(&self, at: usize) -> u64 {
        self.fpu.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    }

    /// SDM vol. 1, table 10-2: FCW at 0, FSW at 2, abridged FTW at 4, MXCSR at 24.
    fn fpu_control(&self, line: &mut Line) -> core::fmt::Result {
        let status = self.fpu_u16(2);
        let mxcsr = u32::from(self.fpu_u16(24)) | u32::from(self.fpu_u16(26)) << 16;
        write!(
            line,
            "FCW={:04x} FSW={:04x} [ST={}] FTW={:02x} MXCSR={mxcsr:08x}",
            self.fpu_u16(0),
            status & !(7 << 11),
            status >> 11 & 7,
            self.fpu_u16(4) & 0xff,
        )
    }

    /// ST/MM registers from 32 on, 16 bytes each.
    fn fpu_registers(&self, first: usize, line: &mut Line) -> core::fmt::Result {
        for register in first..first + 2 {
            // The area is in stack order; QEMU prints by physical number.
            let top = usize::from(self.fpu_u16(2) >> 11 & 7);
            let at = 32 + (register.wrapping_sub(top) & 7) * 16;
            let space = if register == first { "" } else { " " };
            write!(line, "{space}FPR{register}={:016x} {:04x}", self.fpu_u64(at), self.fpu_u16(at + 8))?;
        }
        Ok(())
    }

    /// XMM registers from 160 on, 16 bytes each.
    fn vectors(&self, first: usize, line: &mut Line) -> core::fmt::Result {
        for register in first..first + 2 {
            let at = 160 + register * 16;
            let space = if register == first { "" } else { " " };
            write!(line, "{space}XMM{register:02}={:016x}{:016x}", self.fpu_u64(at + 8), self.fpu_u64(at))?;
        }
        Ok(())
    }
}

impl Registers for Snapshot {
    fn register(&self, name: &str) -> Option<u64> {
        const NAMES: [(&str, &str, Gpr); 16] = [
            ("rax", "eax", Gpr::Rax),
            ("rcx", "ecx", Gpr::Rcx),
            ("rdx", "edx", Gpr::Rdx),
            ("rbx", "ebx", Gpr::Rbx),
            ("rsp", "esp", Gpr::Rsp),
            ("rbp", "ebp", Gpr::Rbp),
            ("rsi", "esi", Gpr::Rsi),
            ("rdi", "edi", Gpr::Rdi),
            ("r8", "r8", Gpr::R8),
            ("r9", "r9", Gpr::R9),
            ("r10", "r10", Gpr::R10),
            ("r11", "r11", Gpr::R11),
            ("r12", "r12", Gpr::R12),
            ("r13", "r13", Gpr::R13),
            ("r14", "r14", Gpr::R14),
            ("r15", "r15", Gpr::R15),
        ];
        if let Some((_, _, register)) =
            NAMES.iter().find(|(wide, narrow, _)| *wide == name || *narrow == name)
        {
            return Some(self.gpr[*register as usize]);
        }
        let segment = |name: SegmentName| &self.segments[name as usize];
        Some(match name {
            "sp" => self.gpr[Gpr::Rsp as usize],
            "fp" => self.gpr[Gpr::Rbp as usize],
            "eflags" | "rflags" => self.rflags,
            "pc" | "rip" | "eip" => segment(SegmentName::Cs).base.wrapping_add(self.rip),
            "cs" => segment(SegmentName::Cs).selector.into(),
            "ds" => segment(SegmentName::Ds).selector.into(),
            "es" => segment(SegmentName::Es).selector.into(),
            "ss" => segment(SegmentName::Ss).selector.into(),
            "fs" => segment(SegmentName::Fs).selector.into(),
            "gs" => segment(SegmentName::Gs).selector.into(),
            "cs.base" => segment(SegmentName::Cs).base,
            "fs.base" => segment(SegmentName::Fs).base,
            "gs.base" => segment(SegmentName::Gs).base,
            "cr0" => self.control.cr0,
            "cr2" => self.control.cr2,
            "cr3" => self.control.cr3,
            "cr4" => self.control.cr4,
            "efer" => self.control.efer,
            _ => return None,
        })
    }
}

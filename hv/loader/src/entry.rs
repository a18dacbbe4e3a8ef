//! The state in which a guest's first processor meets its kernel.

use monovisor_arch::state::bits;
use monovisor_arch::{Control, DescriptorTable, Gpr, Segment, SegmentName, VcpuState};

/// State of the boot processor at a guest's first instruction. What is not here is as after power-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// Instruction pointer.
    pub rip: u64,
    /// RAX (the magic number of multiboot).
    pub rax: u64,
    /// RBX (multiboot and PVH information).
    pub rbx: u64,
    /// RSI (boot parameters of Linux).
    pub rsi: u64,
    /// Control registers and EFER.
    pub control: Control,
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// Code segment.
    pub code: Segment,
    /// Data and stack segments.
    pub data: Segment,
}

/// Puts a processor, which has been reset before, into `entry`. Interrupts are off.
pub fn apply(entry: &EntryState, cpu: &mut impl VcpuState) {
    for register in Gpr::ALL {
        cpu.set_gpr(register, 0);
    }
    cpu.set_control(entry.control);
    cpu.set_gdtr(entry.gdtr);
    cpu.set_idtr(DescriptorTable::default());
    cpu.set_segment(SegmentName::Cs, entry.code);
    for name in [SegmentName::Ds, SegmentName::Es, SegmentName::Fs, SegmentName::Gs, SegmentName::Ss] {
        cpu.set_segment(name, entry.data);
    }
    // A busy 32-bit (in IA-32e mode: 64-bit) TSS is what VM entry wants in TR (SDM vol. 3, 27.3.1.2) and what PVH
    // promises; its base is 0, and a guest loads its own before it takes anything from it.
    cpu.set_segment(SegmentName::Tr, Segment { selector: 0, base: 0, limit: 0x67, access: 0x8b });
    cpu.set_segment(
        SegmentName::Ldtr,
        Segment { selector: 0, base: 0, limit: 0, access: Segment::UNUSABLE | 0x82 },
    );
    cpu.set_rflags(bits::RFLAGS_FIXED);
    cpu.set_gpr(Gpr::Rax, entry.rax);
    cpu.set_gpr(Gpr::Rbx, entry.rbx);
    cpu.set_gpr(Gpr::Rsi, entry.rsi);
    cpu.set_rip(entry.rip);
}

/// The descriptors of [`protected_mode`]: null, 32-bit code, data; accessed, so that no CPU has to write there (SDM
/// vol. 3, 3.4.5).
pub(crate) const FLAT_GDT: [u64; 3] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Flat 32-bit protected mode without paging, with [`FLAT_GDT`] at `gdt`: how multiboot (0.6.96, 3.2) and PVH kernels
/// start. FS and GS, which PVH leaves open, are data segments too.
pub(crate) const fn protected_mode(rip: u64, gdt: u64) -> EntryState {
    EntryState {
        rip,
        rax: 0,
        rbx: 0,
        rsi: 0,
        control: Control { cr0: bits::CR0_PE | bits::CR0_ET, cr2: 0, cr3: 0, cr4: 0, efer: 0 },
        gdtr: DescriptorTable { base: gdt, limit: FLAT_GDT.len() as u16 * 8 - 1 },
        code: Segment { selector: 8, base: 0, limit: u32::MAX, access: 0xc09b },
        data: Segment { selector: 16, base: 0, limit: u32::MAX, access: 0xc093 },
    }
}

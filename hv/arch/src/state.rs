//! The architectural state of one virtual processor, and what can be done with it.

use crate::event::Event;
use crate::exit::Exit;
use crate::posted::Inbox;

/// General-purpose registers in the order of their encoding in ModRM (SDM vol. 2, table 2-2 with REX).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Gpr {
    Rax = 0,
    Rcx = 1,
    Rdx = 2,
    Rbx = 3,
    Rsp = 4,
    Rbp = 5,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
}

impl Gpr {
    /// All of them, in encoding order.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];
}

/// Segment registers, LDTR and TR; the first six in the order of their encoding in ModRM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum SegmentName {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
    Ldtr = 6,
    Tr = 7,
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes (granularity already applied).
    pub limit: u32,
    /// Access rights in the VMX layout (SDM vol. 3, table 25-2): type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14,
    /// G 15, unusable 16.
    pub access: u32,
}

impl Segment {
    /// Bit 16 of the access rights: the register holds a null selector.
    pub const UNUSABLE: u32 = 1 << 16;

    /// The segment can be used for an access.
    pub const fn usable(&self) -> bool {
        self.access & Self::UNUSABLE == 0
    }

    /// Descriptor privilege level.
    pub const fn dpl(&self) -> u8 {
        ((self.access >> 5) & 3) as u8
    }

    /// L bit: 64-bit code.
    pub const fn long(&self) -> bool {
        self.access & (1 << 13) != 0
    }

    /// D/B bit: 32-bit default operand and stack size.
    pub const fn big(&self) -> bool {
        self.access & (1 << 14) != 0
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, less one.
    pub limit: u16,
}

/// Control registers as the guest sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
}

/// The operating mode that decides operand, address and paging rules (SDM vol. 3, 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuMode {
    /// Real-address mode.
    Real,
    /// Virtual-8086 mode.
    Virtual8086,
    /// Protected mode, 16-bit code segment.
    Protected16,
    /// Protected mode, 32-bit code segment.
    Protected32,
    /// IA-32e mode, 16-bit code segment.
    Compatibility16,
    /// IA-32e mode, 32-bit code segment.
    Compatibility32,
    /// 64-bit mode.
    Long64,
}

/// A register of the extended state that an instruction moves whole or in part. Numbers are 0 to 7 (MMX), 0 to 31 (ZMM) and
/// else 0 to 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorRegister {
    /// 64 bits, in the x87 registers.
    Mmx(u8),
    /// 128 bits; what is above them stays when these are written.
    Xmm(u8),
    /// 256 bits; what is above them is cleared when these are written, as by VEX-encoded instructions.
    Ymm(u8),
    /// 512 bits.
    Zmm(u8),
}

/// Interrupts of a local APIC, for a processor that delivers them by itself. A bit for each vector, in the order of the
/// APIC's own registers: vector n is bit n mod 32 of word n / 32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtualInterrupts {
    /// IRR: those that wait.
    pub requests: [u32; 8],
    /// ISR: those in service.
    pub in_service: [u32; 8],
    /// Those whose end has to be told: level-triggered ones, which have more to be done at their end.
    pub told: [u32; 8],
}

impl VirtualInterrupts {
    /// The highest vector of a set, 0 where it is empty.
    pub fn highest(words: &[u32; 8]) -> u8 {
        let index = words.iter().rposition(|word| *word != 0).unwrap_or(0);
        let word = words.get(index).copied().unwrap_or(0);
        (index << 5) as u8 | word.checked_ilog2().unwrap_or(0) as u8
    }
}

/// Bits of CR0, CR4, EFER and RFLAGS that are used in more than one place.
pub mod bits {
    #![allow(missing_docs)]
    pub const CR0_PE: u64 = 1;
    pub const CR0_MP: u64 = 1 << 1;
    pub const CR0_EM: u64 = 1 << 2;
    pub const CR0_TS: u64 = 1 << 3;
    pub const CR0_ET: u64 = 1 << 4;
    pub const CR0_NE: u64 = 1 << 5;
    pub const CR0_WP: u64 = 1 << 16;
    pub const CR0_AM: u64 = 1 << 18;
    pub const CR0_NW: u64 = 1 << 29;
    pub const CR0_CD: u64 = 1 << 30;
    pub const CR0_PG: u64 = 1 << 31;
    pub const CR4_VME: u64 = 1;
    pub const CR4_PVI: u64 = 1 << 1;
    pub const CR4_TSD: u64 = 1 << 2;
    pub const CR4_DE: u64 = 1 << 3;
    pub const CR4_PSE: u64 = 1 << 4;
    pub const CR4_PAE: u64 = 1 << 5;
    pub const CR4_MCE: u64 = 1 << 6;
    pub const CR4_PGE: u64 = 1 << 7;
    pub const CR4_PCE: u64 = 1 << 8;
    pub const CR4_OSFXSR: u64 = 1 << 9;
    pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
    pub const CR4_UMIP: u64 = 1 << 11;
    pub const CR4_LA57: u64 = 1 << 12;
    pub const CR4_VMXE: u64 = 1 << 13;
    pub const CR4_FSGSBASE: u64 = 1 << 16;
    pub const CR4_PCIDE: u64 = 1 << 17;
    pub const CR4_OSXSAVE: u64 = 1 << 18;
    pub const CR4_SMEP: u64 = 1 << 20;
    pub const CR4_SMAP: u64 = 1 << 21;
    pub const CR4_PKE: u64 = 1 << 22;
    pub const EFER_SCE: u64 = 1;
    pub const EFER_LME: u64 = 1 << 8;
    pub const EFER_LMA: u64 = 1 << 10;
    pub const EFER_NXE: u64 = 1 << 11;
    pub const EFER_SVME: u64 = 1 << 12;
    pub const RFLAGS_CF: u64 = 1;
    pub const RFLAGS_FIXED: u64 = 1 << 1;
    pub const RFLAGS_PF: u64 = 1 << 2;
    pub const RFLAGS_AF: u64 = 1 << 4;
    pub const RFLAGS_ZF: u64 = 1 << 6;
    pub const RFLAGS_SF: u64 = 1 << 7;
    pub const RFLAGS_TF: u64 = 1 << 8;
    pub const RFLAGS_IF: u64 = 1 << 9;
    pub const RFLAGS_DF: u64 = 1 << 10;
    pub const RFLAGS_OF: u64 = 1 << 11;
    pub const RFLAGS_RF: u64 = 1 << 16;
    pub const RFLAGS_VM: u64 = 1 << 17;
    pub const RFLAGS_AC: u64 = 1 << 18;
}

/// Reading and changing the registers of a virtual processor that is not running.
pub trait VcpuState {
    /// A general-purpose register.
    fn gpr(&self, register: Gpr) -> u64;
    /// Sets a general-purpose register, all 64 bits.
    fn set_gpr(&mut self, register: Gpr, value: u64);
    /// Instruction pointer (an offset into CS).
    fn rip(&self) -> u64;
    /// Sets the instruction pointer. Also ends an interrupt shadow (STI, MOV SS).
    fn set_rip(&mut self, value: u64);
    /// RFLAGS.
    fn rflags(&self) -> u64;
    /// Sets RFLAGS.
    fn set_rflags(&mut self, value: u64);
    /// A segment register.
    fn segment(&self, name: SegmentName) -> Segment;
    /// Sets a segment register with its hidden part.
    fn set_segment(&mut self, name: SegmentName, segment: Segment);
    /// GDTR.
    fn gdtr(&self) -> DescriptorTable;
    /// Sets GDTR.
    fn set_gdtr(&mut self, table: DescriptorTable);
    /// IDTR.
    fn idtr(&self) -> DescriptorTable;
    /// Sets IDTR.
    fn set_idtr(&mut self, table: DescriptorTable);
    /// Control registers and EFER, as the guest would read them.
    fn control(&self) -> Control;
    /// Sets control registers and EFER without the checks of a guest's MOV; for reset, start-up and restore.
    fn set_control(&mut self, control: Control);

    /// Loads the four registers of PAE paging (SDM vol. 3, 4.4.1) with a page-directory-pointer table, on a processor whose walks
    /// begin there. False, and nothing has changed, where a present entry has reserved bits set.
    fn load_pdptes(&mut self, _: &[u8; 32]) -> bool {
        true
    }

    /// A vector register, 64 bits an element from the lowest on; what is above its width is of no meaning. `None` where there is no
    /// such register, or the guest has not switched its state on in XCR0. With access to an MMX register the x87 state becomes
    /// what any MMX instruction leaves (SDM vol. 1, 9.5.1).
    fn vector(&mut self, _: VectorRegister) -> Option<[u64; 8]> {
        None
    }

    /// Sets a vector register; nothing happens where [`Self::vector`] has none.
    fn set_vector(&mut self, _: VectorRegister, _: [u64; 8]) {}

    /// Current privilege level (SS.DPL; SDM vol. 3, 25.4.1).
    fn cpl(&self) -> u8 {
        self.segment(SegmentName::Ss).dpl()
    }

    /// The processor runs 64-bit code: what [`Self::mode`] says, but quicker.
    fn runs_64_bit_code(&self) -> bool {
        self.mode() == CpuMode::Long64
    }

    /// Operating mode.
    fn mode(&self) -> CpuMode {
        let control = self.control();
        if control.cr0 & bits::CR0_PE == 0 {
            return CpuMode::Real;
        }
        if self.rflags() & bits::RFLAGS_VM != 0 {
            return CpuMode::Virtual8086;
        }
        let cs = self.segment(SegmentName::Cs);
        match (control.efer & bits::EFER_LMA != 0, cs.long(), cs.big()) {
            (true, true, _) => CpuMode::Long64,
            (true, false, true) => CpuMode::Compatibility32,
            (true, false, false) => CpuMode::Compatibility16,
            (false, _, true) => CpuMode::Protected32,
            (false, _, false) => CpuMode::Protected16,
        }
    }
}

/// One virtual processor: state, entry, event delivery. Implemented by VMX and by SVM; used through static
/// dispatch.
pub trait Vcpu: VcpuState {
    /// Enters the guest and returns at its next exit. Host interrupts are off before and after. Extended state
    /// (x87, SSE, AVX …) is switched both ways; an event whose delivery the exit interrupted is queued again.
    fn run(&mut self) -> Exit;

    /// The host has done something else than serve this guest's exits since the last entry: on a processor that leaks, the next
    /// entry leaves nothing of that behind.
    #[inline]
    fn begin_slice(&mut self)
    where
        Self: Sized,
    {
    }

    /// RIP of the instruction behind the one that exited, where the CPU says so; else the caller decodes it.
    fn next_rip(&self) -> Option<u64>;

    /// Queues an event for the next entry. The caller has checked that it can be taken (`interrupt_ready`,
    /// `nmi_ready`); exceptions can always be queued: with one already queued, or interrupted in delivery, they
    /// merge to #DF or shutdown as SDM vol. 3, table 6-5 says.
    fn inject(&mut self, event: Event);

    /// The event that waits for the next entry.
    fn pending_event(&self) -> Option<Event>;

    /// An external interrupt would be taken at the next entry: IF set, no shadow, nothing else queued.
    fn interrupt_ready(&self) -> bool;

    /// An NMI would be taken at the next entry: not blocked, no shadow, nothing else queued.
    fn nmi_ready(&self) -> bool;

    /// Asks for an `InterruptWindow` exit as soon as `interrupt_ready` holds.
    fn set_interrupt_window(&mut self, on: bool);

    /// Asks for an `NmiWindow` exit as soon as `nmi_ready` holds.
    fn set_nmi_window(&mut self, on: bool);

    /// Task priority as the guest's MOV CR8 last set it, in the local APIC's TPR format (class in bits 7:4).
    fn tpr(&self) -> u8;

    /// Sets the task priority that CR8 reads, after a change through the local APIC's own register.
    fn set_tpr(&mut self, value: u8);

    /// Asks for an `InterruptWindow` exit when the guest's CR8 drops below `class` (1 to 15), the priority class of an
    /// interrupt that only the task priority holds back; 0 asks for none.
    fn set_tpr_threshold(&mut self, class: u8);

    /// Has the processor deliver interrupts and take their ends by itself, for a guest whose local APIC is in x2APIC mode.
    /// False where it cannot: the caller injects each interrupt then, and WRMSR of the end exits.
    fn set_virtual_delivery(&mut self, _: bool) -> bool {
        false
    }

    /// Gives the processor the interrupts that it is to deliver from the next entry on.
    fn give_interrupts(&mut self, _: &VirtualInterrupts) {}

    /// Takes back what it has not delivered, and what it has in service now; `told` means nothing here. It delivers nothing
    /// more until the next [`Self::give_interrupts`].
    fn take_interrupts(&mut self) -> VirtualInterrupts {
        VirtualInterrupts::default()
    }

    /// Where others can post interrupts for this processor, while it delivers them by itself.
    fn inbox(&self) -> Option<Inbox> {
        None
    }

    /// A guest MSR that the CPU switches or that lives in the VMCS/VMCB (EFER, PAT, FS_BASE, STAR, SYSENTER_* …).
    fn guest_msr(&self, index: u32) -> Option<u64>;

    /// Sets such an MSR without a guest's checks. False when it is not one of them.
    fn set_guest_msr(&mut self, index: u32, value: u64) -> bool;

    /// Guest XCR0.
    fn xcr0(&self) -> u64;

    /// Sets guest XCR0; the caller has checked the value.
    fn set_xcr0(&mut self, value: u64);

    /// The guest's extended state as XSAVE lays it out in its standard form (SDM vol. 1, 13.4): at least the legacy
    /// region of 512 bytes, as it was at the last exit.
    fn extended_state(&self) -> &[u8];

    /// Guest TSC = host TSC + offset, modulo 2^64.
    fn set_tsc_offset(&mut self, offset: u64);

    /// Debug registers DR0-DR3, DR6, DR7.
    fn debug_registers(&self) -> [u64; 6];

    /// Sets the debug registers.
    fn set_debug_registers(&mut self, values: [u64; 6]);

    /// DR7 alone.
    fn debug_control(&self) -> u64;

    /// An instruction that was carried out in software has met these breakpoints (bits 3:0 of DR6): #DB comes behind it,
    /// as the trap of a single step would. To be called after `set_rip`.
    fn breakpoints_met(&mut self, breakpoints: u64);

    /// Drops every cached translation of this processor at the next entry.
    fn flush_tlb(&mut self);

    /// Back to the state after power-up (SDM vol. 3, table 10-1); extended state too.
    fn reset(&mut self);

    /// INIT (SDM vol. 3, table 10-1): as after power-up, but extended state, XCR0, CD and NW of CR0, and the MSRs that
    /// belong to no segment (PAT, SYSENTER, SYSCALL, KERNEL_GS_BASE, TSC_AUX) stay as they are.
    fn init(&mut self);
}

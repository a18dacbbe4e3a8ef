//! The virtual machine control block (APM vol. 2, appendix B): 4 KiB that VMRUN reads and #VMEXIT writes.

use core::mem::{offset_of, size_of};

/// A segment register in the state save area. `attributes` packs bits 47:40 and 55:52 of a descriptor into twelve bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmcbSegment {
    pub selector: u16,
    pub attributes: u16,
    pub limit: u32,
    pub base: u64,
}

/// Control area (APM vol. 2, table B-1).
#[repr(C)]
pub struct ControlArea {
    pub cr_intercepts: u32,
    pub dr_intercepts: u32,
    pub exception_intercepts: u32,
    pub intercepts: u32,
    pub intercepts_2: u32,
    pub intercepts_3: u32,
    _reserved_18: [u8; 0x28],
    pub iopm_base: u64,
    pub msrpm_base: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    pub tlb_control: u8,
    _reserved_5d: [u8; 3],
    pub interrupt_control: u64,
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info_1: u64,
    pub exit_info_2: u64,
    pub exit_interrupt_info: u64,
    pub nested_control: u64,
    /// AVIC APIC_BAR.
    pub apic_base: u64,
    _reserved_a0: u64,
    pub event_injection: u64,
    pub nested_cr3: u64,
    pub virtualization_extensions: u64,
    pub clean: u32,
    _reserved_c4: u32,
    pub next_rip: u64,
    pub instruction_length: u8,
    pub instruction: [u8; 15],
    /// vAPIC backing page.
    pub apic_page: u64,
    _reserved_e8: u64,
    /// AVIC's tables of logical and of physical APIC IDs; the largest index of the latter in bits 8:0.
    pub logical_ids: u64,
    pub physical_ids: u64,
    _reserved_100: [u8; 0x300],
}

/// State save area (APM vol. 2, table B-2).
#[repr(C)]
pub struct SaveArea {
    pub es: VmcbSegment,
    pub cs: VmcbSegment,
    pub ss: VmcbSegment,
    pub ds: VmcbSegment,
    pub fs: VmcbSegment,
    pub gs: VmcbSegment,
    pub gdtr: VmcbSegment,
    pub ldtr: VmcbSegment,
    pub idtr: VmcbSegment,
    pub tr: VmcbSegment,
    _reserved_a0: [u8; 0x2b],
    pub cpl: u8,
    _reserved_cc: u32,
    pub efer: u64,
    _reserved_d8: [u8; 0x70],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    _reserved_180: [u8; 0x58],
    pub rsp: u64,
    pub s_cet: u64,
    pub ssp: u64,
    pub isst_address: u64,
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    _reserved_248: [u8; 0x20],
    pub pat: u64,
    _reserved_270: [u8; 0x70],
    /// Where the processor has it virtual (CPUID 8000_000A EDX bit 20).
    pub spec_ctrl: u64,
    _reserved_2e8: [u8; 0x918],
}

/// The whole block.
#[repr(C, align(4096))]
pub struct Vmcb {
    pub control: ControlArea,
    pub save: SaveArea,
}

impl Vmcb {
    /// All zero.
    pub const fn new() -> Self {
        Self { control: ControlArea::new(), save: SaveArea::new() }
    }

    /// Makes it all zero where it is: a whole page more on the stack, and that aligned as one, takes four of them.
    #[inline]
    pub const fn clear(&mut self) {
        self.control = ControlArea::new();
        self.save = SaveArea::new();
    }
}

impl ControlArea {
    const fn new() -> Self {
        Self {
            cr_intercepts: 0,
            dr_intercepts: 0,
            exception_intercepts: 0,
            intercepts: 0,
            intercepts_2: 0,
            intercepts_3: 0,
            _reserved_18: [0; 0x28],
            iopm_base: 0,
            msrpm_base: 0,
            tsc_offset: 0,
            asid: 0,
            tlb_control: 0,
            _reserved_5d: [0; 3],
            interrupt_control: 0,
            interrupt_shadow: 0,
            exit_code: 0,
            exit_info_1: 0,
            exit_info_2: 0,
            exit_interrupt_info: 0,
            nested_control: 0,
            apic_base: 0,
            _reserved_a0: 0,
            event_injection: 0,
            nested_cr3: 0,
            virtualization_extensions: 0,
            clean: 0,
            _reserved_c4: 0,
            next_rip: 0,
            instruction_length: 0,
            instruction: [0; 15],
            apic_page: 0,
            _reserved_e8: 0,
            logical_ids: 0,
            physical_ids: 0,
            _reserved_100: [0; 0x300],
        }
    }
}

impl SaveArea {
    const fn new() -> Self {
        const SEGMENT: VmcbSegment = VmcbSegment { selector: 0, attributes: 0, limit: 0, base: 0 };
        Self {
            es: SEGMENT,
            cs: SEGMENT,
            ss: SEGMENT,
            ds: SEGMENT,
            fs: SEGMENT,
            gs: SEGMENT,
            gdtr: SEGMENT,
            ldtr: SEGMENT,
            idtr: SEGMENT,
            tr: SEGMENT,
            _reserved_a0: [0; 0x2b],
            cpl: 0,
            _reserved_cc: 0,
            efer: 0,
            _reserved_d8: [0; 0x70],
            cr4: 0,
            cr3: 0,
            cr0: 0,
            dr7: 0,
            dr6: 0,
            rflags: 0,
            rip: 0,
            _reserved_180: [0; 0x58],
            rsp: 0,
            s_cet: 0,
            ssp: 0,
            isst_address: 0,
            rax: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            cr2: 0,
            _reserved_248: [0; 0x20],
            pat: 0,
            _reserved_270: [0; 0x70],
            spec_ctrl: 0,
            _reserved_2e8: [0; 0x918],
        }
    }
}

macro_rules! layout {
    ($area:ty: $($field:ident = $offset:literal),+ $(,)?) => {
        $(const _: () = assert!(offset_of!($area, $field) == $offset);)+
    };
}

layout!(Vmcb: control = 0, save = 0x400);
layout!(ControlArea:
    cr_intercepts = 0x00, dr_intercepts = 0x04, exception_intercepts = 0x08, intercepts = 0x0c, intercepts_2 = 0x10,
    intercepts_3 = 0x14, iopm_base = 0x40, msrpm_base = 0x48, tsc_offset = 0x50, asid = 0x58, tlb_control = 0x5c,
    interrupt_control = 0x60, interrupt_shadow = 0x68, exit_code = 0x70, exit_info_1 = 0x78, exit_info_2 = 0x80,
    exit_interrupt_info = 0x88, nested_control = 0x90, apic_base = 0x98, event_injection = 0xa8, nested_cr3 = 0xb0,
    virtualization_extensions = 0xb8, clean = 0xc0, next_rip = 0xc8, instruction_length = 0xd0, instruction = 0xd1,
    apic_page = 0xe0, logical_ids = 0xf0, physical_ids = 0xf8,
);
layout!(SaveArea:
    es = 0x000, cs = 0x010, ss = 0x020, ds = 0x030, fs = 0x040, gs = 0x050, gdtr = 0x060, ldtr = 0x070, idtr = 0x080,
    tr = 0x090, cpl = 0x0cb, efer = 0x0d0, cr4 = 0x148, cr3 = 0x150, cr0 = 0x158, dr7 = 0x160, dr6 = 0x168,
    rflags = 0x170, rip = 0x178, rsp = 0x1d8, s_cet = 0x1e0, ssp = 0x1e8, isst_address = 0x1f0, rax = 0x1f8,
    star = 0x200, lstar = 0x208, cstar = 0x210, sfmask = 0x218, kernel_gs_base = 0x220, sysenter_cs = 0x228,
    sysenter_esp = 0x230, sysenter_eip = 0x238, cr2 = 0x240, pat = 0x268,
    spec_ctrl = 0x2e0,
);
const _: () = assert!(size_of::<ControlArea>() == 0x400 && size_of::<Vmcb>() == 4096);

/// Bits of `intercepts` (offset 0x0c).
pub mod intercept {
    pub const INTR: u32 = 1;
    pub const NMI: u32 = 1 << 1;
    pub const SMI: u32 = 1 << 2;
    pub const INIT: u32 = 1 << 3;
    pub const VINTR: u32 = 1 << 4;
    pub const RDPMC: u32 = 1 << 15;
    pub const CPUID: u32 = 1 << 18;
    pub const IRET: u32 = 1 << 20;
    pub const INVD: u32 = 1 << 22;
    pub const HLT: u32 = 1 << 24;
    pub const INVLPGA: u32 = 1 << 26;
    pub const IOIO: u32 = 1 << 27;
    pub const MSR: u32 = 1 << 28;
    pub const FERR_FREEZE: u32 = 1 << 30;
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// Bits of `intercepts_2` (offset 0x10).
pub mod intercept_2 {
    pub const VMRUN: u32 = 1;
    pub const VMMCALL: u32 = 1 << 1;
    pub const VMLOAD: u32 = 1 << 2;
    pub const VMSAVE: u32 = 1 << 3;
    pub const STGI: u32 = 1 << 4;
    pub const CLGI: u32 = 1 << 5;
    pub const SKINIT: u32 = 1 << 6;
    pub const RDTSCP: u32 = 1 << 7;
    pub const WBINVD: u32 = 1 << 9;
    pub const MONITOR: u32 = 1 << 10;
    pub const MWAIT: u32 = 1 << 11;
    pub const MWAIT_ARMED: u32 = 1 << 12;
    pub const XSETBV: u32 = 1 << 13;
    pub const RDPRU: u32 = 1 << 14;
}

/// Intercepts in the third word (offset 0x14).
pub mod intercept_3 {
    pub const INVPCID: u32 = 1 << 2;
}

/// Fields of `interrupt_control` (offset 0x60).
pub mod interrupt {
    /// V_TPR: what CR8 holds, in bits 3:0.
    pub const TPR: u64 = 0xff;
    /// V_IRQ: a virtual interrupt is pending.
    pub const IRQ: u64 = 1 << 8;
    /// V_NMI: a virtual NMI is pending.
    pub const NMI: u64 = 1 << 11;
    /// V_INTR_PRIO, four bits.
    pub const PRIORITY_SHIFT: u32 = 16;
    /// V_IGN_TPR: V_IRQ is taken whatever V_TPR says.
    pub const IGNORE_TPR: u64 = 1 << 20;
    /// V_INTR_MASKING: the guest's RFLAGS.IF and CR8 are virtual; the host's IF masks physical interrupts.
    pub const MASKING: u64 = 1 << 24;
    /// V_NMI_ENABLE.
    pub const NMI_ENABLE: u64 = 1 << 26;
    /// AVIC, for a guest in x2APIC mode: V_IRQ and what goes with it are ignored, V_TPR is not.
    pub const X2AVIC: u64 = 1 << 31 | 1 << 30;
}

/// Bits of `clean` (APM vol. 2, 15.15.3): set = unchanged since the last #VMEXIT.
pub mod clean {
    /// Intercepts, TSC offset, pause filter.
    pub const INTERCEPTS: u32 = 1;
    /// ASID.
    pub const ASID: u32 = 1 << 2;
    /// V_TPR, V_IRQ and the rest of offset 0x60.
    pub const INTERRUPT: u32 = 1 << 3;
    /// Nested paging: nCR3, G_PAT.
    pub const NESTED: u32 = 1 << 4;
    /// CR0, CR3, CR4, EFER.
    pub const CONTROL: u32 = 1 << 5;
    /// DR6, DR7.
    pub const DEBUG: u32 = 1 << 6;
    /// GDTR, IDTR.
    pub const TABLES: u32 = 1 << 7;
    /// CS, DS, SS, ES and CPL.
    pub const SEGMENTS: u32 = 1 << 8;
    /// CR2.
    pub const CR2: u32 = 1 << 9;
    /// Every bit defined here or reserved for what is not used (IOPM and MSRPM bases, LBR, AVIC's addresses, CET).
    pub const ALL: u32 = 0x1fff;
}

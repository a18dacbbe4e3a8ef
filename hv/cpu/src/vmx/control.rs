//! Bits of the VM-execution, VM-exit and VM-entry controls (SDM vol. 3, 25.6 to 25.8).

/// Pin-based VM-execution controls (table 25-5).
pub mod pin {
    /// A physical interrupt ends guest execution.
    pub const EXTERNAL_INTERRUPT_EXITING: u32 = 1;
    /// A physical NMI ends guest execution.
    pub const NMI_EXITING: u32 = 1 << 3;
    /// NMIs are virtual: "blocking by NMI" of the guest is its own.
    pub const VIRTUAL_NMIS: u32 = 1 << 5;
    /// The VMX-preemption timer counts down while the guest runs, and ends that at 0.
    pub const PREEMPTION_TIMER: u32 = 1 << 6;
    /// The notification vector is no exit: what is posted goes to the virtual-APIC page.
    pub const PROCESS_POSTED_INTERRUPTS: u32 = 1 << 7;
}

/// Primary processor-based VM-execution controls (table 25-6).
pub mod primary {
    /// Exit as soon as RFLAGS.IF is 1 and nothing blocks interrupts.
    pub const INTERRUPT_WINDOW_EXITING: u32 = 1 << 2;
    /// RDTSC, RDTSCP and RDMSR of the TSC add the TSC offset.
    pub const TSC_OFFSETTING: u32 = 1 << 3;
    /// HLT exits.
    pub const HLT_EXITING: u32 = 1 << 7;
    /// MWAIT exits.
    pub const MWAIT_EXITING: u32 = 1 << 10;
    /// RDPMC exits.
    pub const RDPMC_EXITING: u32 = 1 << 11;
    /// CR8 reads and writes the virtual-APIC page's TPR.
    pub const TPR_SHADOW: u32 = 1 << 21;
    /// Exit as soon as nothing blocks virtual NMIs.
    pub const NMI_WINDOW_EXITING: u32 = 1 << 22;
    /// The I/O bitmaps say which ports exit.
    pub const IO_BITMAPS: u32 = 1 << 25;
    /// The MSR bitmaps say which MSRs exit.
    pub const MSR_BITMAPS: u32 = 1 << 28;
    /// MONITOR exits.
    pub const MONITOR_EXITING: u32 = 1 << 29;
    /// The secondary controls are in force.
    pub const SECONDARY_CONTROLS: u32 = 1 << 31;
}

/// Secondary processor-based VM-execution controls (table 25-7).
pub mod secondary {
    /// Guest-physical addresses are translated by EPT.
    pub const EPT: u32 = 1 << 1;
    /// RDTSCP and RDPID work in the guest, else they raise #UD.
    pub const RDTSCP: u32 = 1 << 3;
    /// The x2APIC MSRs that the bitmap lets through are the virtual-APIC page's.
    pub const VIRTUALIZE_X2APIC: u32 = 1 << 4;
    /// Cached translations carry a VPID.
    pub const VPID: u32 = 1 << 5;
    /// WBINVD and WBNOINVD exit.
    pub const WBINVD_EXITING: u32 = 1 << 6;
    /// The guest may run without paging and in real-address mode.
    pub const UNRESTRICTED_GUEST: u32 = 1 << 7;
    /// The CPU delivers the interrupts of the virtual-APIC page, and takes their ends.
    pub const VIRTUAL_INTERRUPT_DELIVERY: u32 = 1 << 9;
    /// INVPCID works in the guest, else it raises #UD.
    pub const INVPCID: u32 = 1 << 12;
    /// XSAVES and XRSTORS work in the guest, else they raise #UD.
    pub const XSAVES: u32 = 1 << 20;
}

/// Primary VM-exit controls (table 25-13).
pub mod exit {
    /// DR7 and IA32_DEBUGCTL are saved.
    pub const SAVE_DEBUG_CONTROLS: u32 = 1 << 2;
    /// The host runs in 64-bit mode.
    pub const HOST_ADDRESS_SPACE_SIZE: u32 = 1 << 9;
    /// An external interrupt that ends guest execution is acknowledged; the exit's information has its vector.
    pub const ACKNOWLEDGE_INTERRUPT: u32 = 1 << 15;
    /// The guest's IA32_PAT is saved.
    pub const SAVE_PAT: u32 = 1 << 18;
    /// The host's IA32_PAT is loaded.
    pub const LOAD_PAT: u32 = 1 << 19;
    /// The guest's IA32_EFER is saved.
    pub const SAVE_EFER: u32 = 1 << 20;
    /// The host's IA32_EFER is loaded.
    pub const LOAD_EFER: u32 = 1 << 21;
}

/// VM-entry controls (table 25-15).
pub mod entry {
    /// DR7 and IA32_DEBUGCTL are loaded.
    pub const LOAD_DEBUG_CONTROLS: u32 = 1 << 2;
    /// The guest is in IA-32e mode.
    pub const IA32E_MODE_GUEST: u32 = 1 << 9;
    /// The guest's IA32_PAT is loaded.
    pub const LOAD_PAT: u32 = 1 << 14;
    /// The guest's IA32_EFER is loaded.
    pub const LOAD_EFER: u32 = 1 << 15;
}

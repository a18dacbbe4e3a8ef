//! The virtual processor on AMD SVM (APM vol. 2, chapter 15).
//!
//! - [`Svm`] implements [`Vcpu`] on one VMCB; `switch` is the way in and out, `exit` decodes, `check` explains refusals.
//! - Nested paging always; interrupts and CR8 are virtual (V_INTR_MASKING), so the guest can neither mask nor see
//!   the host's. Everything that reaches the host's hardware is intercepted: all ports, all MSRs but those that the
//!   VMCB switches.
//! - #DB and #AC are intercepted and handed on, because a guest can arrange for their delivery to raise them again
//!   without end, and in that loop no interrupt is ever taken (CVE-2015-8104, CVE-2015-5307).
//! - A virtual interrupt that is never delivered makes the windows (V_IRQ with VINTR intercepted). The threshold for CR8
//!   is made by intercepting its writes and stepping over them, as the register that is written is not known without
//!   decode assists. The same is done while a window is open: there QEMU's TCG (7.2) fails an assertion of its own
//!   when a guest writes CR8.
//! - Writes of CR4 are stepped over in the same way where the host has bits there that the guest's model has not: what has
//!   come of one is looked at before the next instruction, and taken back.
//! - DR0 to DR3 and TSC_AUX stay loaded while the host runs, which uses neither: at #VMEXIT the processor clears DR7,
//!   so a guest's breakpoints cannot fire in the host.
//! - An INIT that arrives in guest mode exits, but then stays pending and hits the host as soon as GIF is set (APM
//!   vol. 2, 15.21.8), unless VM_CR.R_INIT turns it into #SX. Nothing sends INITs to a running processor today.

mod avic;
mod bitmap;
mod check;
mod events;
mod exit;
mod features;
mod state;
mod switch;
#[cfg(test)]
mod tests;
mod vcpu;
mod vmcb;
mod window;

use core::arch::asm;

use monovisor_arch::{ApicPage, Event, Vcpu, vector};
use monovisor_host::{apic, interrupts};

pub use features::Features;

use crate::control::Allowed;
use crate::inject::EventQueue;
use crate::msr;
use crate::speculation::{Barriers, PRED_CMD, SPEC_CTRL};
use crate::xstate::XState;
use bitmap::{IoPermissions, MsrPermissions};
use switch::Context;
use vmcb::{ControlArea, SaveArea, Vmcb, intercept, intercept_2, intercept_3, interrupt};
use window::{NmiState, Step};

/// Why SVM cannot be used on this processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SvmError {
    /// No SVM at all.
    NotThere,
    /// VM_CR.SVMDIS is set and locked.
    LockedOff,
    /// VM_CR.SVMDIS is set.
    SwitchedOff,
    /// No nested paging.
    NoNestedPaging,
    /// No ASID for a guest.
    NoAsids,
}

impl core::fmt::Display for SvmError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotThere => "this processor has no AMD-V (SVM)",
            Self::LockedOff => {
                "AMD-V (SVM) is switched off and locked by the firmware: enable it in the BIOS set-up"
            }
            Self::SwitchedOff => "AMD-V (SVM) is switched off (VM_CR.SVMDIS): enable it in the BIOS set-up",
            Self::NoNestedPaging => "this processor's AMD-V (SVM) has no nested paging",
            Self::NoAsids => "this processor's AMD-V (SVM) has no address-space identifier for a guest",
        })
    }
}

/// A page that only the CPU reads and writes.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// All memory of one virtual processor: 44 KiB and the extended state. Lies at an address that is its physical address.
#[repr(C, align(4096))]
pub struct SvmMemory {
    own: Memory,
    apic: ApicPage,
    /// AVIC's tables of APIC IDs: no entry of them is valid.
    ids: Page,
}

/// The part of it that only this processor looks at.
#[repr(C, align(4096))]
struct Memory {
    vmcb: Vmcb,
    /// What VMSAVE keeps of the host.
    host: Vmcb,
    /// VM_HSAVE_PA.
    host_save: Page,
    ports: IoPermissions,
    msrs: MsrPermissions,
    xstate: XState,
    context: Context,
}

impl SvmMemory {
    /// Zeroed, for a `static`.
    pub const fn new() -> Self {
        let own = Memory {
            vmcb: Vmcb::new(),
            host: Vmcb::new(),
            host_save: Page([0; 4096]),
            ports: IoPermissions::new(),
            msrs: MsrPermissions::new(),
            xstate: XState::new(),
            context: Context { registers: [0; 16], guest: 0, host: 0, xstate: 0, barriers: Barriers::NONE },
        };
        Self { own, apic: ApicPage::new(), ids: Page([0; 4096]) }
    }
}

impl Default for SvmMemory {
    fn default() -> Self {
        Self::new()
    }
}

/// Intercepts that are always on. RSM outside of SMM, and SVM's own instructions in a guest that they are disabled for,
/// would fault by themselves; what is listed here would not, or must not depend on it.
const INTERCEPTS: u32 = intercept::INTR
    | intercept::NMI
    | intercept::SMI
    | intercept::INIT
    | intercept::RDPMC
    | intercept::CPUID
    | intercept::INVD
    | intercept::HLT
    | intercept::INVLPGA
    | intercept::IOIO
    | intercept::MSR
    | intercept::FERR_FREEZE
    | intercept::SHUTDOWN;

/// As [`INTERCEPTS`], second word. SVM needs VMRUN here (APM vol. 2, 15.5.1). The third word (INVLPGB, TLBSYNC, MCOMMIT) is
/// for instructions that are #UD as long as the VMCB and EFER do not enable them.
const INTERCEPTS_2: u32 = intercept_2::VMRUN
    | intercept_2::VMMCALL
    | intercept_2::VMLOAD
    | intercept_2::VMSAVE
    | intercept_2::STGI
    | intercept_2::CLGI
    | intercept_2::SKINIT
    | intercept_2::WBINVD
    | intercept_2::MONITOR
    | intercept_2::MWAIT
    | intercept_2::MWAIT_ARMED
    | intercept_2::XSETBV;

/// #DB, #AC (see the module's text) and #MC; #UD, since a guest may use the other vendor's hypercall instruction.
const EXCEPTION_INTERCEPTS: u32 = 1 << vector::DB | 1 << vector::UD | 1 << vector::AC | 1 << vector::MC;

/// MSRs that the guest reads and writes without an exit: VMLOAD and VMSAVE switch them (APM vol. 2, 15.5.2).
const OPEN_MSRS: [u32; 10] = [
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::FS_BASE,
    msr::GS_BASE,
    msr::KERNEL_GS_BASE,
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
];

/// TLB_CONTROL: flush everything; flush this guest's entries (APM vol. 2, 15.16.1).
const TLB_FLUSH_ALL: u8 = 1;
const TLB_FLUSH_GUEST: u8 = 3;

/// NP_ENABLE at offset 0x90.
const NESTED_PAGING: u64 = 1;

/// Write intercepts of control registers (APM vol. 2, table B-1, offset 0).
const CR4_WRITE: u32 = 1 << (16 + 4);
const CR8_WRITE: u32 = 1 << (16 + 8);

/// Valid bit of EXITINTINFO.
const INFO_VALID: u64 = 1 << 31;

/// One virtual processor on SVM.
pub struct Svm {
    memory: &'static mut Memory,
    /// What AVIC works on.
    apic: &'static ApicPage,
    ids: &'static Page,
    features: Features,
    allowed: Allowed,
    queue: EventQueue,
    /// A software interrupt injected at the last entry, with RIP moved behind it already: if its delivery is
    /// interrupted it is injected again, while one that the guest ran itself is run again.
    software: Option<Event>,
    nmi: NmiState,
    interrupt_window: bool,
    nmi_window: bool,
    tpr_threshold: u8,
    step: Option<Step>,
    /// The processor delivers interrupts by itself, unless something is in the way.
    virtual_delivery: bool,
    /// AVIC is on.
    avic: bool,
    /// RIP and RSP where an entry, or an instruction, was refused without a rule that says why.
    unexplained: Option<(u64, u64)>,
    /// Drop the guest's translations at the next entry.
    flush: bool,
    /// State was set from outside since the last entry: check it.
    touched: bool,
    /// The next entry is to end at once: see [`Features::injects_twice`].
    recoil: bool,
    /// Something is to be done before the next entry: an event, a flush, a check.
    attention: bool,
    /// Something is to be undone after the next exit: EVENTINJ, TLB_CONTROL; or an IRET is watched.
    cleanup: bool,
}

impl Svm {
    /// Switches SVM on for this processor and makes a virtual processor in the state after power-up, on the nested page
    /// tables at `root`.
    ///
    /// # Safety
    /// As for [`crate::Processor::new`].
    pub unsafe fn new(
        memory: &'static mut SvmMemory,
        root: u64,
        allowed: &Allowed,
        avic: bool,
    ) -> Result<Self, SvmError> {
        let mut features = Features::read();
        features.x2avic &= avic;
        features::enable(&features, core::ptr::from_ref(&memory.own.host_save) as u64)?;
        let mut svm = Self::assemble(memory, features, allowed);
        // SAFETY: CPL 0 by the caller, and these MSRs are nobody else's.
        svm.memory.context.barriers = unsafe { Barriers::begin(allowed) };
        svm.set_up(root);
        svm.set_up_host();
        if features.injects_twice {
            apic::park();
        }
        if features.x2avic {
            interrupts::notify_by_doorbell();
        }
        svm.reset();
        Ok(svm)
    }

    /// All but what needs the hardware.
    fn assemble(memory: &'static mut SvmMemory, features: Features, allowed: &Allowed) -> Self {
        let SvmMemory { own: memory, apic, ids } = memory;
        Self {
            memory,
            apic,
            ids,
            features,
            allowed: *allowed,
            queue: EventQueue::new(),
            software: None,
            nmi: NmiState::Open,
            interrupt_window: false,
            nmi_window: false,
            tpr_threshold: 0,
            step: None,
            virtual_delivery: false,
            avic: false,
            unexplained: None,
            flush: false,
            touched: false,
            recoil: false,
            attention: false,
            cleanup: false,
        }
    }

    /// Gives the virtual processor up and switches SVM off for this processor.
    pub fn give_up(self) {
        features::disable();
    }

    fn save(&self) -> &SaveArea {
        &self.memory.vmcb.save
    }

    fn save_mut(&mut self) -> &mut SaveArea {
        &mut self.memory.vmcb.save
    }

    fn control_mut(&mut self) -> &mut ControlArea {
        &mut self.memory.vmcb.control
    }

    /// What is to be set in the interrupt control field: without V_INTR_MASKING the guest's IF would keep the host's
    /// interrupts out.
    fn interrupt_basis(&self) -> u64 {
        interrupt::MASKING
            | if self.features.virtual_nmi { interrupt::NMI_ENABLE } else { 0 }
            | if self.avic { interrupt::X2AVIC } else { 0 }
    }

    /// Marks state that has been set from outside.
    fn touch(&mut self, changed: u32) {
        self.control_mut().clean &= !changed;
        self.touched = true;
        self.attention = true;
    }

    /// Gives the guest a port of the host: its accesses no longer exit.
    pub fn open_port(&mut self, port: u16) {
        self.memory.ports.open(port);
        // The map's contents count as the I/O map (APM vol. 2, 15.15.3, bit 1).
        self.control_mut().clean = 0;
    }

    /// What this processor's SVM can do.
    pub const fn features(&self) -> &Features {
        &self.features
    }

    #[inline]
    fn set_up(&mut self, nested_root: u64) {
        let basis = self.interrupt_basis();
        let allowed = self.allowed;
        let memory = &mut *self.memory;
        memory.ports.intercept_all();
        memory.msrs.intercept_all();
        for msr in OPEN_MSRS {
            memory.msrs.open(msr);
        }
        for (msr, open) in [
            (msr::TSC_AUX, self.features.tsc_aux && allowed.tsc_aux()),
            (PRED_CMD, allowed.predictor_commands),
            (SPEC_CTRL, allowed.spec_ctrl != 0 && memory.context.barriers.is_virtual()),
        ] {
            if open {
                memory.msrs.open(msr);
            }
        }
        memory.vmcb.clear();
        let control = &mut memory.vmcb.control;
        control.exception_intercepts = EXCEPTION_INTERCEPTS;
        control.intercepts = INTERCEPTS;
        control.intercepts_2 = INTERCEPTS_2
            | if allowed.rdtscp { 0 } else { intercept_2::RDTSCP }
            | if allowed.rdpru { 0 } else { intercept_2::RDPRU };
        if self.features.invpcid && !allowed.invpcid {
            control.intercepts_3 = intercept_3::INVPCID;
        }
        control.cr_intercepts = if allowed.cr4_checked { CR4_WRITE } else { 0 };
        control.iopm_base = core::ptr::from_ref(&memory.ports) as u64;
        control.msrpm_base = core::ptr::from_ref(&memory.msrs) as u64;
        control.asid = 1;
        // Whatever an earlier user of this ASID has left.
        control.tlb_control = TLB_FLUSH_ALL;
        control.interrupt_control = basis;
        control.nested_control = NESTED_PAGING;
        control.nested_cr3 = nested_root;
        memory.context.guest = &raw mut memory.vmcb as u64;
        memory.context.host = &raw mut memory.host as u64;
        memory.context.xstate = &raw mut memory.xstate as u64;
        self.set_up_avic();
    }

    /// Turns XSAVE on and keeps the host's half of what VMLOAD and VMSAVE switch.
    fn set_up_host(&mut self) {
        self.memory.xstate.init();
        // SAFETY: SVM is enabled, and `host` is a page of our own, physically addressed by its address. What VMSAVE
        // stores (FS, GS, TR, LDTR, SYSENTER and SYSCALL MSRs) the host does not change afterwards.
        unsafe { asm!("vmsave rax", in("rax") self.memory.context.host, options(nostack)) };
    }
}

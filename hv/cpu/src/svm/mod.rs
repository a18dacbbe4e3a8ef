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
//! - DR0 to DR3 and TSC_AUX stay loaded while the host runs, which uses neither: at #VMEXIT the processor clears DR7,
//!   so a guest's breakpoints cannot fire in the host.
//! - An INIT that arrives in guest mode exits, but then stays pending and hits the host as soon as GIF is set (APM
//!   vol. 2, 15.21.8), unless VM_CR.R_INIT turns it into #SX. Nothing sends INITs to a running processor today.

mod bitmap;
mod check;
mod exit;
mod features;
mod state;
mod switch;
mod vmcb;

use core::arch::asm;

use monovisor_arch::state::bits::*;
use monovisor_arch::{
    DescriptorTable, EntryFailure, Event, EventKind, Exit, Gpr, Segment, SegmentName, Vcpu, VcpuState, vector,
};
use x86_64::registers::model_specific::Msr;

pub use features::Features;

use crate::inject::{self, EventQueue};
use crate::msr;
use crate::xstate::XState;
use bitmap::{IoPermissions, MsrPermissions};
use switch::Context;
use vmcb::{ControlArea, SaveArea, Vmcb, clean, intercept, intercept_2, intercept_3, interrupt};

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

/// All memory of one virtual processor: 36 KiB and the extended state. Lies at an address that is its physical address.
#[repr(C, align(4096))]
pub struct SvmMemory {
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
        Self {
            vmcb: Vmcb::new(),
            host: Vmcb::new(),
            host_save: Page([0; 4096]),
            ports: IoPermissions::new(),
            msrs: MsrPermissions::new(),
            xstate: XState::new(),
            context: Context { registers: [0; 16], guest: 0, host: 0, xstate: 0 },
        }
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

/// As [`INTERCEPTS`], second word. SVM needs VMRUN here (APM vol. 2, 15.5.1).
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
    | intercept_2::XSETBV
    | intercept_2::RDPRU;

/// As [`INTERCEPTS`], third word: broadcast TLB maintenance and MCOMMIT.
const INTERCEPTS_3: u32 =
    intercept_3::INVLPGB | intercept_3::INVLPGB_ILLEGAL | intercept_3::MCOMMIT | intercept_3::TLBSYNC;

/// #DB, #AC (see the module's text) and #MC.
const EXCEPTION_INTERCEPTS: u32 = 1 << vector::DB | 1 << vector::AC | 1 << vector::MC;

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

/// Valid bit of EXITINTINFO.
const INFO_VALID: u64 = 1 << 31;

/// Blocking of NMIs by an NMI in service, for processors without virtual NMIs: EVENTINJ does not block, so it is
/// followed in software from the injection to the end of the next IRET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NmiState {
    Open,
    /// In service; IRET is intercepted.
    Blocked,
    /// IRET has been seen, at this RIP and RSP, but not been run yet. NMIs are open as soon as either has changed.
    Returning {
        rip: u64,
        rsp: u64,
    },
}

/// One instruction, MOV to CR8, is being stepped over by RFLAGS.TF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    /// The guest's own TF.
    trap: bool,
}

/// One virtual processor on SVM.
pub struct Svm {
    memory: &'static mut SvmMemory,
    features: Features,
    queue: EventQueue,
    /// A software interrupt injected at the last entry, with RIP moved behind it already: if its delivery is
    /// interrupted it is injected again, while one that the guest ran itself is run again.
    software: Option<Event>,
    nmi: NmiState,
    interrupt_window: bool,
    nmi_window: bool,
    tpr_threshold: u8,
    step: Option<Step>,
    /// The last entry was refused, or an instruction was (see [`Self::refused`]), without a rule that says why.
    unexplained: bool,
    /// Drop the guest's translations at the next entry.
    flush: bool,
    /// State was set from outside since the last entry: check it.
    touched: bool,
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
    pub unsafe fn new(memory: &'static mut SvmMemory, root: u64) -> Result<Self, SvmError> {
        let features = Features::read();
        features::enable(&features, core::ptr::from_ref(&memory.host_save) as u64)?;
        let mut svm = Self {
            memory,
            features,
            queue: EventQueue::new(),
            software: None,
            nmi: NmiState::Open,
            interrupt_window: false,
            nmi_window: false,
            tpr_threshold: 0,
            step: None,
            unexplained: false,
            flush: false,
            touched: false,
            attention: false,
            cleanup: false,
        };
        svm.set_up(root);
        svm.reset();
        Ok(svm)
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

    fn set_up(&mut self, nested_root: u64) {
        let memory = &mut *self.memory;
        memory.ports.intercept_all();
        memory.msrs.intercept_all();
        for msr in OPEN_MSRS {
            memory.msrs.open(msr);
        }
        if self.features.tsc_aux {
            memory.msrs.open(msr::TSC_AUX);
        }
        memory.vmcb = Vmcb::new();
        let control = &mut memory.vmcb.control;
        control.exception_intercepts = EXCEPTION_INTERCEPTS;
        control.intercepts = INTERCEPTS;
        control.intercepts_2 = INTERCEPTS_2;
        control.intercepts_3 = INTERCEPTS_3;
        control.iopm_base = core::ptr::from_ref(&memory.ports) as u64;
        control.msrpm_base = core::ptr::from_ref(&memory.msrs) as u64;
        control.asid = 1;
        // Whatever an earlier user of this ASID has left.
        control.tlb_control = TLB_FLUSH_ALL;
        control.interrupt_control = interrupt::MASKING;
        if self.features.virtual_nmi {
            control.interrupt_control |= interrupt::NMI_ENABLE;
        }
        control.nested_control = NESTED_PAGING;
        control.nested_cr3 = nested_root;
        memory.xstate.init();
        memory.context.guest = &raw mut memory.vmcb as u64;
        memory.context.host = &raw mut memory.host as u64;
        memory.context.xstate = &raw mut memory.xstate as u64;
        // SAFETY: SVM is enabled, and `host` is a page of our own, physically addressed by its address. What VMSAVE
        // stores (FS, GS, TR, LDTR, SYSENTER and SYSCALL MSRs) the host does not change afterwards.
        unsafe { asm!("vmsave rax", in("rax") memory.context.host, options(nostack)) };
    }

    /// Work before an entry; an exit instead of the entry where there is none to be had.
    #[cold]
    fn prepare(&mut self) -> Option<Exit> {
        self.attention = false;
        if self.queue.take_shutdown() {
            return Some(Exit::Shutdown);
        }
        if core::mem::take(&mut self.flush) {
            self.request_flush();
        }
        if let Some(event) = self.queue.take() {
            self.write_event(event);
        }
        if core::mem::take(&mut self.touched)
            && let Some(reason) = check::check(&self.memory.vmcb, self.features.physical_bits)
        {
            // Looked at again before any other try.
            self.touched = true;
            self.attention = true;
            return Some(Exit::EntryFailed(EntryFailure { reason, code: exit::INVALID }));
        }
        None
    }

    /// By ASID where the CPU can; else by a new ASID, and everything once they are used up.
    fn request_flush(&mut self) {
        let features = self.features;
        self.cleanup = true;
        let control = &mut self.memory.vmcb.control;
        if control.tlb_control == TLB_FLUSH_ALL {
            return;
        }
        if features.flush_by_asid {
            control.tlb_control = TLB_FLUSH_GUEST;
            return;
        }
        control.asid += 1;
        if control.asid >= features.asids {
            control.asid = 1;
            control.tlb_control = TLB_FLUSH_ALL;
        }
        control.clean &= !clean::ASID;
    }

    fn write_event(&mut self, event: Event) {
        self.cleanup = true;
        self.software = None;
        match event.kind {
            EventKind::Nmi if !self.features.virtual_nmi => {
                self.nmi = NmiState::Blocked;
                self.set_intercept(intercept::IRET, true);
            }
            EventKind::SoftwareInterrupt
            | EventKind::SoftwareException
            | EventKind::PrivilegedSoftwareException => {
                let wide = self.save().efer & EFER_LMA != 0 && self.segment(SegmentName::Cs).long();
                let next = self.save().rip.wrapping_add(u64::from(event.instruction_length));
                let next = if wide { next } else { next & 0xffff_ffff };
                // The address pushed is nRIP for INT n on processors that have it, else RIP (APM vol. 2, 15.20).
                self.save_mut().rip = next;
                self.control_mut().next_rip = next;
                self.software = Some(Event { instruction_length: 0, ..event });
            }
            _ => {}
        }
        let mut event = event;
        if self.save().cr0 & CR0_PE == 0 {
            // Real mode pushes no error codes.
            event.error_code = None;
        }
        let injection = inject::to_svm(&event);
        self.control_mut().event_injection = injection;
        if !check::injection_valid(injection) {
            self.touched = true;
        }
    }

    /// Work after an exit that followed an injection or flush, interrupted an event, or may have ended an NMI.
    #[cold]
    fn clean_up(&mut self) {
        let control = self.control_mut();
        control.event_injection = 0;
        control.tlb_control = 0;
        let info = control.exit_interrupt_info;
        if !matches!(control.exit_code, exit::INVALID | exit::INVALID_LOW) {
            self.unexplained = false;
        }
        let software = self.software.take();
        self.cleanup = false;
        if let NmiState::Returning { rip, rsp } = self.nmi {
            if (rip, rsp) != (self.save().rip, self.save().rsp) {
                self.nmi = NmiState::Open;
            } else {
                self.cleanup = true;
            }
        }
        match inject::from_svm(info) {
            None => {}
            Some(event)
                if matches!(event.kind, EventKind::SoftwareInterrupt | EventKind::SoftwareException) =>
            {
                // The guest's own: RIP is still at the instruction, which will be run again.
                if let Some(ours) = software.filter(|ours| ours.vector == event.vector) {
                    self.queue.push(ours);
                    self.attention = true;
                }
            }
            Some(event) => {
                self.queue.push(event);
                self.attention = true;
            }
        }
    }

    /// Exits that are this module's own business; `None` to go on in the guest.
    #[cold]
    fn internal_exit(&mut self, code: u64) -> Option<Exit> {
        match code {
            // DR6 and DR7 in the VMCB are as the handler must find them (APM vol. 2, 15.12.2); EVENTINJ leaves them.
            exit::EXCEPTION_DB => self.inject(Event::exception(vector::DB)),
            exit::EXCEPTION_AC => self.inject(Event::fault(vector::AC, 0)),
            exit::IRET => {
                self.set_intercept(intercept::IRET, false);
                self.nmi = NmiState::Returning { rip: self.save().rip, rsp: self.save().rsp };
                self.cleanup = true;
                self.update_virtual_interrupt();
            }
            exit::VINTR => {
                if self.nmi_window && self.nmi_ready() {
                    return Some(Exit::NmiWindow);
                }
                if self.interrupt_window {
                    return Some(Exit::InterruptWindow);
                }
                // For an NMI that is still blocked: an IRET with IF set around it has not run yet. Some other exit
                // will find it done.
                self.arm_virtual_interrupt(false);
            }
            exit::CR8_WRITE => self.begin_step(),
            _ => return self.refused(code),
        }
        None
    }

    /// VMEXIT_INVALID. With a reason that [`check`] knows, the entry was refused. Without one, it may be QEMU's TCG, which
    /// exits so where a chip raises #GP: a guest's MOV of reserved bits into CR3 or CR4. If that was not it, the next
    /// entry is refused as well.
    fn refused(&mut self, code: u64) -> Option<Exit> {
        let reason = match check::check(&self.memory.vmcb, self.features.physical_bits) {
            Some(reason) => reason,
            None if self.unexplained => "VMEXIT_INVALID: invalid guest state in VMCB",
            None => {
                self.unexplained = true;
                self.inject(Event::fault(vector::GP, 0));
                return None;
            }
        };
        self.unexplained = false;
        Some(Exit::EntryFailed(EntryFailure { reason, code }))
    }

    /// Steps over MOV to CR8: with TF set the guest comes back by #DB, which is intercepted anyway, or by #GP if the value is
    /// reserved, which is not to be delivered with TF in the saved RFLAGS.
    fn begin_step(&mut self) {
        self.step = Some(Step { trap: self.save().rflags & RFLAGS_TF != 0 });
        self.cleanup = true;
        self.arm_virtual_interrupt(false);
        self.intercept_cr8(false);
        self.save_mut().rflags |= RFLAGS_TF;
        let control = self.control_mut();
        control.exception_intercepts = EXCEPTION_INTERCEPTS | 1 << vector::GP;
        control.clean &= !clean::INTERCEPTS;
    }

    /// The exit after [`Self::begin_step`]. Any exit will do: if the instruction has not been run, it is intercepted again.
    fn end_step(&mut self, step: Step) -> Option<Exit> {
        const DR6_BS: u64 = 1 << 14;
        let control = self.control_mut();
        control.exception_intercepts = EXCEPTION_INTERCEPTS;
        control.clean &= !clean::INTERCEPTS;
        let (code, error_code) = (control.exit_code, control.exit_info_1 as u32);
        if !step.trap {
            self.save_mut().rflags &= !RFLAGS_TF;
        }
        self.update_virtual_interrupt();
        match code {
            exit::EXCEPTION_GP => self.inject(Event::fault(vector::GP, error_code)),
            exit::EXCEPTION_DB => {
                if step.trap {
                    self.inject(Event::exception(vector::DB));
                } else {
                    self.save_mut().dr6 &= !DR6_BS;
                    self.control_mut().clean &= !clean::DEBUG;
                }
                if self.tpr() >> 4 < self.tpr_threshold {
                    return Some(Exit::InterruptWindow);
                }
            }
            _ => {}
        }
        None
    }

    fn intercept_cr8(&mut self, on: bool) {
        const CR8_WRITE: u32 = 1 << (16 + 8);
        let control = self.control_mut();
        let wanted = if on { CR8_WRITE } else { 0 };
        if control.cr_intercepts != wanted {
            control.cr_intercepts = wanted;
            control.clean &= !clean::INTERCEPTS;
        }
    }

    fn set_intercept(&mut self, bit: u32, on: bool) {
        let control = self.control_mut();
        let wanted = if on { control.intercepts | bit } else { control.intercepts & !bit };
        if control.intercepts != wanted {
            control.intercepts = wanted;
            control.clean &= !clean::INTERCEPTS;
        }
    }

    /// Sets up the exits for the windows that are wanted.
    fn update_virtual_interrupt(&mut self) {
        let nmi = self.nmi_window && self.nmi != NmiState::Blocked;
        let window = self.interrupt_window || nmi;
        self.arm_virtual_interrupt(window);
        self.intercept_cr8(window || self.tpr_threshold != 0);
    }

    /// Makes a virtual interrupt pending, of which VINTR is intercepted: an exit as soon as IF and shadow would let it
    /// through (APM vol. 2, 15.21.4), whatever the task priority.
    fn arm_virtual_interrupt(&mut self, on: bool) {
        const PENDING: u64 = interrupt::IRQ | interrupt::IGNORE_TPR | 0xf << interrupt::PRIORITY_SHIFT;
        let control = self.control_mut();
        let wanted = (control.interrupt_control & !PENDING) | if on { PENDING } else { 0 };
        if control.interrupt_control != wanted {
            control.interrupt_control = wanted;
            control.clean &= !clean::INTERRUPT;
        }
        self.set_intercept(intercept::VINTR, on);
    }

    fn set_control_msr(&mut self, efer: u64) {
        let control = monovisor_arch::Control { efer, ..self.control() };
        self.set_control(control);
    }
}

impl Vcpu for Svm {
    fn run(&mut self) -> Exit {
        loop {
            if self.attention
                && let Some(exit) = self.prepare()
            {
                return exit;
            }
            // SAFETY: `new` has enabled SVM on this processor, to which this value is pinned, and set up everything
            // that the context points to, all of it inside `memory`, which nothing else can reach while this borrow
            // lasts. IF is clear and GIF set in the host, as `Vcpu::run` says. Intercepts and nested page tables
            // keep the guest in.
            unsafe { switch::enter(&raw mut self.memory.context) };
            let control = &mut self.memory.vmcb.control;
            control.clean = if self.features.clean_bits { clean::ALL } else { 0 };
            if self.cleanup || control.exit_interrupt_info & INFO_VALID != 0 {
                self.clean_up();
                if let Some(step) = self.step.take() {
                    if let Some(exit) = self.end_step(step) {
                        return exit;
                    }
                    if matches!(self.memory.vmcb.control.exit_code, exit::EXCEPTION_DB | exit::EXCEPTION_GP) {
                        continue;
                    }
                }
            }
            let control = &self.memory.vmcb.control;
            match control.exit_code {
                code @ (exit::CR8_WRITE
                | exit::EXCEPTION_DB
                | exit::EXCEPTION_AC
                | exit::IRET
                | exit::VINTR
                | exit::INVALID
                | exit::INVALID_LOW) => {
                    if let Some(exit) = self.internal_exit(code) {
                        return exit;
                    }
                }
                _ => return exit::decode(control, self.features.decode_assists),
            }
        }
    }

    fn next_rip(&self) -> Option<u64> {
        let control = &self.memory.vmcb.control;
        let rip = if self.features.next_rip {
            control.next_rip
        } else if control.exit_code == exit::IOIO {
            // EXITINFO2 of an IOIO intercept (APM vol. 2, 15.10.2), on every processor.
            control.exit_info_2
        } else {
            return None;
        };
        // Zero for exits that are not an instruction's.
        (rip != 0).then_some(rip)
    }

    fn inject(&mut self, event: Event) {
        if event.kind == EventKind::Nmi && self.features.virtual_nmi {
            let control = self.control_mut();
            control.interrupt_control |= interrupt::NMI;
            control.clean &= !clean::INTERRUPT;
            return;
        }
        self.queue.push(event);
        self.attention = true;
    }

    fn pending_event(&self) -> Option<Event> {
        self.queue.pending()
    }

    fn interrupt_ready(&self) -> bool {
        self.save().rflags & RFLAGS_IF != 0
            && self.memory.vmcb.control.interrupt_shadow & 1 == 0
            && self.queue.is_empty()
    }

    fn nmi_ready(&self) -> bool {
        let control = &self.memory.vmcb.control;
        if self.features.virtual_nmi {
            // The processor holds one back by itself while NMIs are blocked; a second one merges with it.
            return control.interrupt_control & interrupt::NMI == 0;
        }
        self.nmi == NmiState::Open && control.interrupt_shadow & 1 == 0 && self.queue.is_empty()
    }

    fn set_interrupt_window(&mut self, on: bool) {
        if self.interrupt_window != on {
            self.interrupt_window = on;
            self.update_virtual_interrupt();
        }
    }

    fn set_nmi_window(&mut self, on: bool) {
        if self.nmi_window != on {
            self.nmi_window = on;
            self.update_virtual_interrupt();
        }
    }

    fn tpr(&self) -> u8 {
        (self.memory.vmcb.control.interrupt_control as u8 & 0xf) << 4
    }

    fn set_tpr(&mut self, value: u8) {
        let control = self.control_mut();
        control.interrupt_control = (control.interrupt_control & !interrupt::TPR) | u64::from(value >> 4);
        control.clean &= !clean::INTERRUPT;
    }

    fn set_tpr_threshold(&mut self, class: u8) {
        if self.tpr_threshold != class {
            self.tpr_threshold = class;
            self.update_virtual_interrupt();
        }
    }

    fn guest_msr(&self, index: u32) -> Option<u64> {
        let save = self.save();
        Some(match index {
            msr::EFER => save.efer & !EFER_SVME,
            msr::PAT => save.pat,
            msr::STAR => save.star,
            msr::LSTAR => save.lstar,
            msr::CSTAR => save.cstar,
            msr::SFMASK => save.sfmask,
            msr::FS_BASE => save.fs.base,
            msr::GS_BASE => save.gs.base,
            msr::KERNEL_GS_BASE => save.kernel_gs_base,
            msr::SYSENTER_CS => save.sysenter_cs,
            msr::SYSENTER_ESP => save.sysenter_esp,
            msr::SYSENTER_EIP => save.sysenter_eip,
            // SAFETY: the processor has TSC_AUX; reading it changes nothing.
            msr::TSC_AUX if self.features.tsc_aux => unsafe { Msr::new(msr::TSC_AUX).read() },
            _ => return None,
        })
    }

    fn set_guest_msr(&mut self, index: u32, value: u64) -> bool {
        let save = self.save_mut();
        match index {
            msr::EFER => self.set_control_msr(value),
            msr::PAT => {
                save.pat = value;
                self.touch(clean::NESTED);
                self.flush = true;
            }
            msr::STAR => save.star = value,
            msr::LSTAR => save.lstar = value,
            msr::CSTAR => save.cstar = value,
            msr::SFMASK => save.sfmask = value,
            msr::FS_BASE => save.fs.base = value,
            msr::GS_BASE => save.gs.base = value,
            msr::KERNEL_GS_BASE => save.kernel_gs_base = value,
            msr::SYSENTER_CS => save.sysenter_cs = value,
            msr::SYSENTER_ESP => save.sysenter_esp = value,
            msr::SYSENTER_EIP => save.sysenter_eip = value,
            msr::TSC_AUX if self.features.tsc_aux => {
                // SAFETY: the processor has TSC_AUX and the host does not use it; its high half is reserved.
                unsafe { Msr::new(msr::TSC_AUX).write(value & 0xffff_ffff) };
            }
            _ => return false,
        }
        true
    }

    fn xcr0(&self) -> u64 {
        self.memory.xstate.xcr0()
    }

    fn set_xcr0(&mut self, value: u64) {
        self.memory.xstate.set_xcr0(value);
    }

    fn extended_state(&self) -> &[u8] {
        self.memory.xstate.image()
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        let control = self.control_mut();
        control.tsc_offset = offset;
        control.clean &= !clean::INTERCEPTS;
    }

    fn debug_registers(&self) -> [u64; 6] {
        let [dr0, dr1, dr2, dr3] = read_breakpoints();
        [dr0, dr1, dr2, dr3, self.save().dr6, self.save().dr7]
    }

    fn set_debug_registers(&mut self, values: [u64; 6]) {
        let [dr0, dr1, dr2, dr3, dr6, dr7] = values;
        write_breakpoints([dr0, dr1, dr2, dr3]);
        self.save_mut().dr6 = dr6;
        self.save_mut().dr7 = dr7;
        self.touch(clean::DEBUG);
    }

    fn flush_tlb(&mut self) {
        self.flush = true;
        self.attention = true;
    }

    fn reset(&mut self) {
        const CR0_RESET: u64 = CR0_CD | CR0_NW | CR0_ET;
        const DR6_RESET: u64 = 0xffff_0ff0;
        const DR7_RESET: u64 = 0x400;
        const PAT_RESET: u64 = 0x0007_0406_0007_0406;
        self.queue.clear();
        self.software = None;
        self.nmi = NmiState::Open;
        self.interrupt_window = false;
        self.nmi_window = false;
        self.tpr_threshold = 0;
        self.step = None;
        self.unexplained = false;
        self.arm_virtual_interrupt(false);
        self.set_intercept(intercept::IRET, false);
        let control = self.control_mut();
        control.interrupt_control &= !(interrupt::TPR | interrupt::NMI | interrupt::NMI_MASK);
        control.interrupt_shadow = 0;
        control.event_injection = 0;

        self.memory.context.registers = [0; 16];
        self.set_gpr(Gpr::Rax, 0);
        self.set_gpr(Gpr::Rsp, 0);
        // The processor's signature, as CPUID 1 has it in EAX.
        self.set_gpr(Gpr::Rdx, u64::from(core::arch::x86_64::__cpuid(1).eax));
        self.set_rip(0xfff0);
        self.set_rflags(RFLAGS_FIXED);
        let data = Segment { selector: 0, base: 0, limit: 0xffff, access: 0x93 };
        for name in [SegmentName::Es, SegmentName::Ss, SegmentName::Ds, SegmentName::Fs, SegmentName::Gs] {
            self.set_segment(name, data);
        }
        self.set_segment(
            SegmentName::Cs,
            Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, access: 0x9b },
        );
        self.set_segment(SegmentName::Ldtr, Segment { access: 0x82, ..data });
        self.set_segment(SegmentName::Tr, Segment { access: 0x8b, ..data });
        self.set_gdtr(DescriptorTable { base: 0, limit: 0xffff });
        self.set_idtr(DescriptorTable { base: 0, limit: 0xffff });
        self.set_control(monovisor_arch::Control { cr0: CR0_RESET, cr2: 0, cr3: 0, cr4: 0, efer: 0 });
        for msr in OPEN_MSRS {
            self.set_guest_msr(msr, 0);
        }
        self.set_guest_msr(msr::TSC_AUX, 0);
        self.set_guest_msr(msr::PAT, PAT_RESET);
        self.set_debug_registers([0, 0, 0, 0, DR6_RESET, DR7_RESET]);
        self.memory.xstate.reset();
        self.control_mut().clean = 0;
        self.flush_tlb();
    }
}

/// DR0 to DR3, which hold the guest's values (see the module's text).
fn read_breakpoints() -> [u64; 4] {
    let (dr0, dr1, dr2, dr3);
    // SAFETY: at CPL 0 with CR4.DE or not, reading DR0 to DR3 changes nothing; DR7.GD is clear in the host.
    unsafe {
        asm!(
            "mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
            out(reg) dr0, out(reg) dr1, out(reg) dr2, out(reg) dr3, options(nostack, nomem),
        );
    }
    [dr0, dr1, dr2, dr3]
}

fn write_breakpoints(values: [u64; 4]) {
    let [dr0, dr1, dr2, dr3] = values;
    // SAFETY: breakpoints are off in the host (#VMEXIT clears DR7), so the addresses have no effect there.
    unsafe {
        asm!(
            "mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
            in(reg) dr0, in(reg) dr1, in(reg) dr2, in(reg) dr3, options(nostack, nomem),
        );
    }
}

//! Running the guest: entries, exits, and events on their way in.

use monovisor_arch::state::bits::{CR0_CD, CR0_NW, CR0_PE, RFLAGS_IF};
use monovisor_arch::{
    EntryFailure, Event, EventKind, Exit, Inbox, Segment, SegmentName, TaskSource, TaskSwitch, Vcpu,
    VcpuState, VirtualInterrupts, vector,
};
use monovisor_host::interrupts;

use super::bitmap;
use super::capability::VIRTUAL_DELIVERY;
use super::check::{self, GuestState};
use super::control::{self, exit, pin, primary};
use super::decode::{self, ControlAccess, NMI_UNBLOCKED_BY_IRET, reason};
use super::error::{VmxError, failed_entry};
use super::field::Field;
use super::instruction::{
    dr0, dr1, dr2, dr3, dr6, invept, invvpid, set_dr0, set_dr1, set_dr2, set_dr3, set_dr6, take_nmi,
};
use super::setup::VIRTUAL_TPR;
use super::state::{DEBUGCTL_BTF, DEBUGCTL_LBR};
use super::vmcs::Slot;
use super::{Vmx, entry, interruptibility};
use crate::control::{cr0_write, cr4_write};
use crate::inject::{from_vmx, to_vmx};
use crate::speculation::SPEC_CTRL;

/// Exits in a row that `run` deals with by itself. A guest can have it do so for ever; after this many the caller gets a
/// turn, as if by a physical interrupt.
const EXITS_IN_A_ROW: u32 = 32;

/// Offsets of ISR and IRR in the virtual-APIC page.
const VIRTUAL_ISR: usize = 0x100;
const VIRTUAL_IRR: usize = 0x200;

/// Bit 31 of the exit reason: the entry failed.
const ENTRY_FAILED: u64 = 1 << 31;
/// Interruption information: type, "valid".
const TYPE: u64 = 7 << 8;
const TYPE_NMI: u64 = 2 << 8;
const TYPE_PRIVILEGED_SOFTWARE: u64 = 5 << 8;
const VALID: u64 = 1 << 31;
/// Interruption information: deliver an error code.
const ERROR_CODE: u32 = 1 << 11;
/// Exceptions with an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC (SDM vol. 3, 27.2.1.3).
const WITH_ERROR_CODE: u32 = 1 << 8 | 0x1f << 10 | 1 << 17;
/// Error-code bits that VM entry takes on every CPU.
const ERROR_CODE_BITS: u32 = 0x7fff;

/// DR6 bits that an exit's qualification has for a debug exception (table 28-1): B0 to B3, BD, BS.
const DR6_CAUSES: u64 = 0x600f;
/// DR6: B0 to B3 are cleared by the next debug exception, the other causes stay.
const DR6_BREAKPOINTS: u64 = 0xf;
/// DR7: general detect.
const DR7_GENERAL_DETECT: u64 = 1 << 13;
/// DR7: always 1. Bits 11, 12, 14, 15 and 63:32 are reserved or not for guests (RTM).
const DR7_FIXED: u64 = 1 << 10;
const DR7_DEFINED: u64 = 0xffff_27ff;
/// DR6 bits that are always 1, and those that can change.
const DR6_FIXED: u64 = 0xffff_0ff0;
const DR6_DEFINED: u64 = 0xe00f;

/// Guest interrupt status: the highest vectors that wait (RVI) and are in service (SVI).
fn status(interrupts: &VirtualInterrupts) -> u64 {
    let [requested, serviced] =
        [&interrupts.requests, &interrupts.in_service].map(VirtualInterrupts::highest);
    u64::from(serviced) << 8 | u64::from(requested)
}

impl Vmx {
    /// Makes the VMCS ready for the next entry. What an earlier call of this CPU's VMX has refused ends the guest here.
    #[inline]
    fn prepare(&mut self) -> Result<(), EntryFailure> {
        if let Some(field) = self.vmcs.fault() {
            return Err(EntryFailure {
                reason: "the CPU refused access to a VMCS component",
                code: u64::from(field.encoding()),
            });
        }
        if self.flush_physical || self.flush_linear {
            self.flush()?;
        }
        if self.posted.outstanding() {
            self.take_posted();
        }
        if let Some(event) = self.queue.pending() {
            self.write_event(&event);
        }
        Ok(())
    }

    /// What has been posted goes to the virtual IRR, as the CPU itself does it in the guest (30.6).
    #[cold]
    fn take_posted(&mut self) {
        let mut requests = self.virtual_words(VIRTUAL_IRR, None);
        for (word, posted) in requests.iter_mut().zip(self.posted.take()) {
            *word |= posted;
        }
        self.virtual_words(VIRTUAL_IRR, Some(&requests));
        let serviced = self.vmcs.read(Field::GUEST_INTERRUPT_STATUS) & !0xff;
        let requested = VirtualInterrupts::highest(&requests);
        self.vmcs.write(Field::GUEST_INTERRUPT_STATUS, serviced | u64::from(requested));
    }

    #[cold]
    fn flush(&mut self) -> Result<(), EntryFailure> {
        let capabilities = *self.capabilities();
        // Without VPIDs every entry and exit drops linear and combined translations anyway (SDM vol. 3, 29.4.3.1).
        // SAFETY: in VMX root operation, with types that the CPU has.
        let result = unsafe {
            if self.flush_physical {
                // Combined translations are tagged with the EPT pointer too, so this drops all there are.
                invept(capabilities.invept, self.ept_pointer)
            } else if capabilities.vpid() {
                invvpid(capabilities.invvpid, self.vpid)
            } else {
                Ok(())
            }
        };
        self.flush_physical = false;
        self.flush_linear = false;
        result.map_err(VmxError::entry_failure)
    }

    /// Writes an event for injection, by the rules of 27.2.1.3 and 27.3.1.5.
    fn write_event(&mut self, event: &Event) {
        let mut information = to_vmx(event) & !ERROR_CODE;
        match event.kind {
            EventKind::Exception => {
                let protected = self.vmcs.read(Field::GUEST_CR0) & CR0_PE != 0;
                if protected && event.vector < 32 && WITH_ERROR_CODE & 1 << event.vector != 0 {
                    information |= ERROR_CODE;
                    let code = event.error_code.unwrap_or(0) & ERROR_CODE_BITS;
                    self.vmcs.write(Field::ENTRY_ERROR_CODE, u64::from(code));
                }
            }
            EventKind::SoftwareInterrupt
            | EventKind::SoftwareException
            | EventKind::PrivilegedSoftwareException => {
                let length = event.instruction_length.clamp(1, 15);
                self.vmcs.write(Field::ENTRY_INSTRUCTION_LENGTH, u64::from(length));
            }
            EventKind::Interrupt | EventKind::Nmi => {}
        }
        self.vmcs.write(Field::ENTRY_INTERRUPTION, u64::from(information));
        // Delivery ends a shadow; entry refuses interrupts, and NMIs, with one. An NMI that was interrupted in delivery has
        // blocked further ones already, which entry refuses too and then does again.
        let ended = match event.kind {
            EventKind::Nmi => interruptibility::SHADOW | interruptibility::NMI,
            _ => interruptibility::SHADOW,
        };
        let state = self.vmcs.get(Slot::Interruptibility);
        if state & ended != 0 {
            self.vmcs.set(Slot::Interruptibility, state & !ended);
        }
    }

    /// Enters the guest once. `Some` is for the caller of `run`; after `None` the guest goes on.
    #[inline]
    fn step(&mut self) -> Option<Exit> {
        if let Err(failure) = self.prepare() {
            return Some(Exit::EntryFailed(failure));
        }
        self.vmcs.forget();
        self.length_valid = false;
        self.step_due = false;
        // SAFETY: `new` has set up the host state of the current VMCS, which nothing else writes, and the extended state;
        // interrupts are off by the contract of `Vmx::new`; the context lives through the call.
        match unsafe { entry::enter(&raw mut self.context) } {
            entry::LEFT => {}
            outcome => return Some(Exit::EntryFailed(self.refused(outcome))),
        }
        let full_reason = self.vmcs.read(Field::EXIT_REASON);
        self.reason = full_reason as u16;
        if full_reason & ENTRY_FAILED != 0 {
            return Some(self.entry_failed());
        }
        self.context.launched = 1;
        // It has been delivered, or the IDT-vectoring information has it.
        self.queue.take();
        self.length_valid = decode::has_instruction_length(self.reason);
        if decode::may_interrupt_delivery(self.reason) {
            self.requeue();
        }
        self.dispatch()
    }

    #[cold]
    fn refused(&self, outcome: u64) -> EntryFailure {
        // SAFETY: CPL 0, on the processor that they were made for.
        unsafe { self.context.barriers.protect_host() };
        let error = match outcome {
            entry::FAILED_VALID => VmxError::Valid(self.vmcs.read(Field::INSTRUCTION_ERROR) as u32),
            _ => VmxError::Invalid,
        };
        error.entry_failure()
    }

    #[cold]
    fn entry_failed(&self) -> Exit {
        if self.reason == reason::MACHINE_CHECK_ON_ENTRY {
            return Exit::MachineCheck;
        }
        let qualification = self.vmcs.read(Field::QUALIFICATION);
        let broken = check::broken_rule(&self.guest_state(), self.capabilities());
        match failed_entry(self.reason, qualification, broken) {
            Some(failure) => Exit::EntryFailed(failure),
            None => Exit::Unexpected(u64::from(self.reason)),
        }
    }

    /// What the CPU has found fault with.
    #[cold]
    #[inline(never)]
    fn guest_state(&self) -> GuestState {
        let controls = self.read_rarely(Field::ENTRY_CONTROLS) as u32;
        GuestState {
            cr0: self.read_rarely(Field::GUEST_CR0),
            cr3: self.read_rarely(Field::GUEST_CR3),
            cr4: self.read_rarely(Field::GUEST_CR4),
            efer: self.read_rarely(Field::GUEST_EFER),
            pat: self.read_rarely(Field::GUEST_PAT),
            dr7: self.read_rarely(Field::GUEST_DR7),
            debugctl: self.read_rarely(Field::GUEST_DEBUGCTL),
            sysenter: [Field::GUEST_SYSENTER_ESP, Field::GUEST_SYSENTER_EIP]
                .map(|field| self.read_rarely(field)),
            segments: check::SEGMENTS.map(|name| self.segment_rarely(name)),
            gdtr: self.gdtr(),
            idtr: self.idtr(),
            rip: self.rip(),
            rflags: self.rflags(),
            interruptibility: self.vmcs.get(Slot::Interruptibility),
            pending_debug: self.read_rarely(Field::GUEST_PENDING_DEBUG),
            pdptes: self.pdptes(),
            long: controls & control::entry::IA32E_MODE_GUEST != 0,
            event: self.read_rarely(Field::ENTRY_INTERRUPTION) as u32,
            physical_bits: check::physical_bits(),
            five_level: self.five_level(),
        }
    }

    // Called, where there is no hurry: what they do is many bytes each time.

    #[cold]
    #[inline(never)]
    fn read_rarely(&self, field: Field) -> u64 {
        self.vmcs.read(field)
    }

    #[cold]
    #[inline(never)]
    fn segment_rarely(&self, name: SegmentName) -> Segment {
        self.segment(name)
    }

    /// Queues the event again that this exit interrupted in delivery, and sets right what an IRET that faulted has left of
    /// the blocking of NMIs (28.2.3, 28.2.4).
    fn requeue(&mut self) {
        let information = self.vmcs.read(Field::VECTORING);
        if information & VALID != 0 {
            let code = self.vmcs.read(Field::VECTORING_ERROR_CODE) as u32;
            let length = self.vmcs.read(Field::INSTRUCTION_LENGTH) as u8;
            if let Some(event) = from_vmx(information as u32, code, length) {
                self.queue.push(event);
            }
            return;
        }
        let unblocked = match self.reason {
            reason::EXCEPTION_OR_NMI => {
                let exception = self.vmcs.read(Field::EXIT_INTERRUPTION);
                // Undefined for #DF.
                exception & NMI_UNBLOCKED_BY_IRET != 0 && exception as u8 != vector::DF
            }
            reason::EPT_VIOLATION => self.vmcs.read(Field::QUALIFICATION) & NMI_UNBLOCKED_BY_IRET != 0,
            _ => false,
        };
        if unblocked {
            let state = self.vmcs.get(Slot::Interruptibility);
            self.vmcs.set(Slot::Interruptibility, state | interruptibility::NMI);
        }
    }

    #[inline]
    fn dispatch(&mut self) -> Option<Exit> {
        Some(match self.reason {
            reason::CPUID => Exit::Cpuid,
            reason::EXTERNAL_INTERRUPT | reason::PREEMPTION_TIMER => {
                if self.takes_posted {
                    self.handle_acknowledged();
                }
                Exit::HostInterrupt
            }
            reason::IO => {
                let qualification = self.vmcs.read(Field::QUALIFICATION);
                const STRING: u64 = 1 << 4;
                let information = (qualification & STRING != 0 && self.capabilities().string_io)
                    .then(|| self.vmcs.read(Field::INSTRUCTION_INFORMATION) as u32);
                Exit::Io(decode::io(qualification, information))
            }
            reason::EPT_VIOLATION => Exit::Memory(decode::ept_violation(
                self.vmcs.read(Field::QUALIFICATION),
                self.vmcs.read(Field::GUEST_PHYSICAL_ADDRESS),
            )),
            reason::RDMSR => Exit::ReadMsr,
            reason::WRMSR => Exit::WriteMsr,
            reason::HLT => Exit::Halt,
            reason::VMCALL => Exit::Hypercall,
            reason::INTERRUPT_WINDOW => Exit::InterruptWindow,
            reason::TPR_BELOW_THRESHOLD => {
                // Entry refuses a threshold above the task priority.
                self.vmcs.write(Field::TPR_THRESHOLD, 0);
                Exit::InterruptWindow
            }
            reason::NMI_WINDOW => Exit::NmiWindow,
            reason::VIRTUALIZED_EOI => Exit::EndOfInterrupt(self.vmcs.read(Field::QUALIFICATION) as u8),
            reason::EXCEPTION_OR_NMI => return self.exception(),
            reason::CONTROL_REGISTER => return self.control_register(),
            reason::XSETBV => Exit::Xsetbv,
            reason::WBINVD => Exit::WritebackInvalidate,
            reason::INVD => Exit::Invalidate,
            reason::RDPMC => Exit::ReadPerformanceCounter,
            reason::PAUSE => Exit::Pause,
            reason::TRIPLE_FAULT => Exit::Shutdown,
            reason::INIT => Exit::Init,
            reason::SIPI => Exit::StartUp(self.vmcs.read(Field::QUALIFICATION) as u8),
            reason::TASK_SWITCH => Exit::TaskSwitch(self.task_switch()),
            // An entry of the tables that no CPU takes: ours is the mistake.
            reason::EPT_MISCONFIGURATION => Exit::Unexpected(u64::from(self.reason)),
            other if decode::is_undefined_instruction(other) => Exit::UndefinedInstruction,
            other => Exit::Unexpected(u64::from(other)),
        })
    }

    /// An interrupt that the CPU has acknowledged, as it has to where it takes posted ones: its handler runs now.
    #[cold]
    fn handle_acknowledged(&self) {
        let information = self.vmcs.read(Field::EXIT_INTERRUPTION);
        if self.reason == reason::EXTERNAL_INTERRUPT && information & VALID != 0 {
            interrupts::acknowledged(information as u8);
        }
    }

    /// An exception of the bitmap, or a physical NMI.
    fn exception(&mut self) -> Option<Exit> {
        let information = self.vmcs.read(Field::EXIT_INTERRUPTION);
        if information & TYPE == TYPE_NMI {
            // SAFETY: `new` was promised an NMI handler that returns.
            unsafe { take_nmi() };
            return Some(Exit::HostNmi);
        }
        let event = match information as u8 {
            vector::MC => return Some(Exit::MachineCheck),
            vector::UD => return Some(Exit::InvalidOpcode),
            vector::AC => Event::fault(vector::AC, self.vmcs.read(Field::EXIT_ERROR_CODE) as u32),
            vector::DB if information & TYPE == TYPE_PRIVILEGED_SOFTWARE => Event {
                kind: EventKind::PrivilegedSoftwareException,
                vector: vector::DB,
                error_code: None,
                // INT1 is one byte long, plus prefixes.
                instruction_length: self.vmcs.read(Field::INSTRUCTION_LENGTH) as u8,
            },
            vector::DB => {
                self.note_debug_exception();
                Event::exception(vector::DB)
            }
            _ => return Some(Exit::Unexpected(u64::from(self.reason))),
        };
        self.queue.push(event);
        None
    }

    /// What delivery of a debug exception changes besides (SDM vol. 3, 18.2.3, 18.3.1.1): the exit has come before all of
    /// it, and injection leaves it to us (27.6.1.1).
    fn note_debug_exception(&mut self) {
        let causes = self.vmcs.read(Field::QUALIFICATION) & DR6_CAUSES;
        // SAFETY: CPL 0 in VMX root operation; DR6 is the guest's, and bits 63:32 of what is written are 0.
        unsafe { set_dr6((dr6() & !DR6_BREAKPOINTS | causes) & 0xffff_ffff) };
        let dr7 = self.vmcs.read(Field::GUEST_DR7);
        self.vmcs.write(Field::GUEST_DR7, dr7 & !DR7_GENERAL_DETECT);
        let debugctl = self.vmcs.read(Field::GUEST_DEBUGCTL);
        self.vmcs.write(Field::GUEST_DEBUGCTL, debugctl & !(DEBUGCTL_LBR | DEBUGCTL_BTF));
    }

    /// A MOV that changes bits of CR0 or CR4 which the guest does not own. A legal one changes the read shadow, and runs
    /// again to have the CPU do the rest.
    fn control_register(&mut self) -> Option<Exit> {
        let qualification = self.vmcs.read(Field::QUALIFICATION);
        let ControlAccess::Write { register, from } = decode::control_access(qualification) else {
            return Some(Exit::Unexpected(u64::from(self.reason)));
        };
        let long = self.in_64_bit_mode();
        let value = if long { self.gpr(from) } else { self.gpr(from) & 0xffff_ffff };
        let old = self.control();
        match register {
            0 => match cr0_write(&old, value, long) {
                Ok(_) => self.vmcs.write(Field::CR0_SHADOW, value),
                Err(_) => return Some(Exit::ControlFault),
            },
            4 => match cr4_write(&old, value, &self.allowed) {
                Ok(_) => self.vmcs.write(Field::CR4_SHADOW, value),
                Err(_) => return Some(Exit::ControlFault),
            },
            _ => return Some(Exit::Unexpected(u64::from(self.reason))),
        }
        self.length_valid = false;
        None
    }

    /// What has asked for a task switch (28.2.1, table 28-2). An event that goes through a gate is the new task's: it is not to
    /// be delivered again.
    #[cold]
    fn task_switch(&mut self) -> TaskSwitch {
        let (selector, source) = decode::task_switch(self.vmcs.read(Field::QUALIFICATION));
        let state = self.vmcs.get(Slot::Interruptibility);
        let mut switch = TaskSwitch { selector, source, event: None, length: 0 };
        match source {
            TaskSource::Gate => {
                switch.event = self.queue.take();
                if let Some(event) = &switch.event {
                    switch.length = event.instruction_length;
                    if event.kind == EventKind::Nmi {
                        self.vmcs.set(Slot::Interruptibility, state | interruptibility::NMI);
                    }
                }
            }
            _ => {
                switch.length = self.vmcs.read(Field::INSTRUCTION_LENGTH) as u8;
                if source == TaskSource::Return {
                    self.vmcs.set(Slot::Interruptibility, state & !interruptibility::NMI);
                }
            }
        }
        switch
    }

    /// CS.L in IA-32e mode.
    fn in_64_bit_mode(&self) -> bool {
        const CS_L: u64 = 1 << 13;
        self.vmcs.get(Slot::Efer) & monovisor_arch::state::bits::EFER_LMA != 0
            && self.vmcs.get(Slot::CsAccess) & CS_L != 0
    }

    /// Reads one of the 256-bit registers of the virtual-APIC page (eight words, 16 bytes apart), and then sets it.
    fn virtual_words(&mut self, offset: usize, new: Option<&[u32; 8]>) -> [u32; 8] {
        let mut old = [0; 8];
        let registers = self.virtual_apic.0.as_chunks_mut::<16>().0.iter_mut().skip(offset / 16);
        for (index, (old, register)) in old.iter_mut().zip(registers).enumerate() {
            let word = core::ptr::from_mut(register).cast::<u32>();
            // SAFETY: the first four of 16 bytes of our own page, aligned as the page is; volatile since the CPU reads and
            // writes them while the guest runs.
            unsafe {
                *old = word.read_volatile();
                if let Some(new) = new.and_then(|words| words.get(index)) {
                    word.write_volatile(*new);
                }
            }
        }
        old
    }

    fn set_primary(&mut self, bit: u32, on: bool) {
        let setting = if on { self.primary | bit } else { self.primary & !bit };
        if setting != self.primary {
            self.primary = setting;
            self.vmcs.write(Field::PRIMARY_CONTROLS, u64::from(setting));
        }
    }
}

impl Vcpu for Vmx {
    fn run(&mut self) -> Exit {
        for _ in 0..EXITS_IN_A_ROW {
            if self.queue.take_shutdown() {
                return Exit::Shutdown;
            }
            if let Some(exit) = self.step() {
                return exit;
            }
        }
        Exit::HostInterrupt
    }

    #[inline]
    fn begin_slice(&mut self) {
        self.context.barriers.begin_slice();
    }

    fn next_rip(&self) -> Option<u64> {
        if !self.length_valid {
            return None;
        }
        let next = self.rip().wrapping_add(self.vmcs.read(Field::INSTRUCTION_LENGTH));
        // EIP wraps outside of 64-bit mode.
        if next >> 32 != 0 && !self.in_64_bit_mode() { Some(next & 0xffff_ffff) } else { Some(next) }
    }

    fn inject(&mut self, event: Event) {
        self.queue.push(event);
    }

    fn pending_event(&self) -> Option<Event> {
        self.queue.pending()
    }

    fn interrupt_ready(&self) -> bool {
        self.queue.is_empty()
            && !self.step_due
            && self.rflags() & RFLAGS_IF != 0
            && self.vmcs.get(Slot::Interruptibility) & interruptibility::SHADOW == 0
    }

    fn nmi_ready(&self) -> bool {
        const BLOCKED: u64 = interruptibility::SHADOW | interruptibility::NMI;
        self.queue.is_empty() && !self.step_due && self.vmcs.get(Slot::Interruptibility) & BLOCKED == 0
    }

    fn set_interrupt_window(&mut self, on: bool) {
        self.set_primary(primary::INTERRUPT_WINDOW_EXITING, on);
    }

    fn set_nmi_window(&mut self, on: bool) {
        self.set_primary(primary::NMI_WINDOW_EXITING, on);
    }

    fn tpr(&self) -> u8 {
        self.virtual_apic.0.get(VIRTUAL_TPR).map_or(0, |byte| {
            // SAFETY: a byte of our own page; volatile since the CPU writes it while the guest runs.
            unsafe { core::ptr::read_volatile(byte) }
        })
    }

    fn set_tpr(&mut self, value: u8) {
        if let Some(byte) = self.virtual_apic.0.get_mut(VIRTUAL_TPR) {
            // SAFETY: a byte of our own page; volatile since the CPU reads it.
            unsafe { core::ptr::write_volatile(byte, value) };
        }
        // Entry refuses a threshold above the task priority; the caller, who knows the new priority, sets another.
        self.vmcs.write(Field::TPR_THRESHOLD, 0);
    }

    fn set_tpr_threshold(&mut self, class: u8) {
        let class = class.min(self.tpr() >> 4);
        self.vmcs.write(Field::TPR_THRESHOLD, u64::from(class));
    }

    fn set_virtual_delivery(&mut self, on: bool) -> bool {
        let on = on && self.capabilities().virtual_delivery;
        if on != self.virtual_delivery {
            self.virtual_delivery = on;
            bitmap::open_end_of_interrupt(self.msr_bitmap, on);
            let bits = if on { VIRTUAL_DELIVERY } else { 0 };
            self.vmcs.write(Field::SECONDARY_CONTROLS, u64::from(self.secondary | bits));
            if self.takes_posted {
                let capabilities = *self.capabilities();
                for (field, setting, bit) in [
                    (Field::PIN_CONTROLS, capabilities.pin, pin::PROCESS_POSTED_INTERRUPTS),
                    (Field::EXIT_CONTROLS, capabilities.exit, exit::ACKNOWLEDGE_INTERRUPT),
                ] {
                    self.vmcs.write(field, u64::from(if on { setting | bit } else { setting }));
                }
            }
        }
        on
    }

    fn give_interrupts(&mut self, interrupts: &VirtualInterrupts) {
        self.virtual_words(VIRTUAL_IRR, Some(&interrupts.requests));
        self.virtual_words(VIRTUAL_ISR, Some(&interrupts.in_service));
        self.vmcs.write(Field::GUEST_INTERRUPT_STATUS, status(interrupts));
        if self.told != interrupts.told {
            self.told = interrupts.told;
            for (index, pair) in (0..).zip(interrupts.told.as_chunks::<2>().0) {
                let [low, high] = pair.map(u64::from);
                self.vmcs.write(Field::EOI_EXIT_BITMAP.of_segment(index), high << 32 | low);
            }
        }
    }

    fn inbox(&self) -> Option<Inbox> {
        self.virtual_delivery.then_some(Inbox::Descriptor(self.posted))
    }

    fn take_interrupts(&mut self) -> VirtualInterrupts {
        if self.posted.outstanding() {
            self.take_posted();
        }
        let in_service = self.virtual_words(VIRTUAL_ISR, None);
        let requests = self.virtual_words(VIRTUAL_IRR, Some(&[0; 8]));
        let left = VirtualInterrupts { requests: [0; 8], in_service, told: [0; 8] };
        self.vmcs.write(Field::GUEST_INTERRUPT_STATUS, status(&left));
        VirtualInterrupts { requests, ..left }
    }

    fn guest_msr(&self, index: u32) -> Option<u64> {
        self.read_msr(index).or_else(|| self.context.barriers.msr(index))
    }

    fn set_guest_msr(&mut self, index: u32, value: u64) -> bool {
        if index == SPEC_CTRL {
            return match self.context.barriers.set_spec_ctrl(value, &self.allowed) {
                Some(opens) => {
                    if opens {
                        bitmap::open_msr(self.msr_bitmap, SPEC_CTRL);
                    }
                    true
                }
                None => false,
            };
        }
        self.write_msr(index, value)
    }

    fn xcr0(&self) -> u64 {
        self.xstate.xcr0()
    }

    fn set_xcr0(&mut self, value: u64) {
        self.xstate.set_xcr0(value);
    }

    fn extended_state(&self) -> &[u8] {
        self.xstate.image()
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcs.write(Field::TSC_OFFSET, offset);
    }

    fn debug_registers(&self) -> [u64; 6] {
        // SAFETY: CPL 0 in VMX root operation, where DR7 is 0x400: no general detect.
        unsafe { [dr0(), dr1(), dr2(), dr3(), dr6(), self.vmcs.read(Field::GUEST_DR7)] }
    }

    fn set_debug_registers(&mut self, values: [u64; 6]) {
        let [address0, address1, address2, address3, status, control] = values;
        // SAFETY: CPL 0 in VMX root operation; the host makes no use of these, and with DR7 = 0x400 (SDM vol. 3, 28.5.1)
        // they do nothing to it. Bits 63:32 of DR6 are 0.
        unsafe {
            set_dr0(address0);
            set_dr1(address1);
            set_dr2(address2);
            set_dr3(address3);
            set_dr6(status & DR6_DEFINED | DR6_FIXED);
        }
        self.vmcs.write(Field::GUEST_DR7, control & DR7_DEFINED | DR7_FIXED);
    }

    fn debug_control(&self) -> u64 {
        self.vmcs.read(Field::GUEST_DR7)
    }

    fn breakpoints_met(&mut self, breakpoints: u64) {
        /// Pending debug exceptions: at least one breakpoint that was met is enabled (SDM vol. 3, table 25-4).
        const ENABLED_BREAKPOINT: u64 = 1 << 12;
        let pending = self.vmcs.read(Field::GUEST_PENDING_DEBUG);
        self.vmcs.write(Field::GUEST_PENDING_DEBUG, pending | breakpoints & 0xf | ENABLED_BREAKPOINT);
        self.step_due = true;
    }

    fn flush_tlb(&mut self) {
        self.flush_physical = true;
    }

    fn reset(&mut self) {
        self.power_up();
    }

    fn init(&mut self) {
        let kept = self.control().cr0 & (CR0_CD | CR0_NW);
        self.start_over(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_has_the_highest_vectors() {
        let mut interrupts = VirtualInterrupts::default();
        assert_eq!(status(&interrupts), 0);
        interrupts.requests[1] = 1 << 3 | 1;
        interrupts.in_service[7] = 1 << 31;
        interrupts.in_service[2] = 1;
        assert_eq!(status(&interrupts), 0xff23);
    }
}

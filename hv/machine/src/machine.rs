//! One guest: its processor, RAM, devices and clock, and the loop that runs it.
//!
//! [`Run::slice`] runs the guest until something outside it wants the processor: a physical interrupt, the
//! guest's HLT, or its end. Exits that the machine can serve itself never leave the slice.

mod emulation;
mod exits;
mod msrs;

pub use exits::host_cpuid;
use monovisor_arch::{EntryFailure, Event, Exit, Gpr, Vcpu};
use monovisor_cpu::control::Allowed;
use monovisor_cpu::svm::Svm;
use monovisor_cpu::vmx::Vmx;
use monovisor_devices::Pc;
use monovisor_devices::apic::LocalApic;
use monovisor_devices::kvmclock::KvmClock;
use monovisor_host::timer;

use crate::backend::Backend;
use crate::clock::Clock;
use crate::policy::cpuid;
use crate::policy::msr::Msrs;
use crate::ram::GuestRam;
use crate::trace;

/// Why a guest cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The processor shut down; a PC resets.
    TripleFault,
    /// The host's processor reported a machine check in guest mode.
    MachineCheck,
    /// The processor refused the VM entry.
    EntryFailed(EntryFailure),
    /// An exit that is not understood.
    Unexpected(u64),
    /// A task switch, which VMX leaves to its host and Monovisor does not emulate.
    TaskSwitch {
        /// Instruction pointer.
        rip: u64,
    },
    /// An instruction that touched a device and cannot be emulated.
    Emulation {
        /// Guest-physical address that was accessed.
        address: u64,
        /// Instruction pointer.
        rip: u64,
    },
}

/// What comes after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The guest goes on at once.
    Continue,
    /// The host wants the processor first.
    Service,
    /// The guest executed HLT.
    Halted,
    /// A device asked for something that the machine does not decide (reset, power-off).
    Request,
    /// The guest cannot go on.
    Stop(Halt),
}

/// Why a slice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SliceEnd {
    /// A physical interrupt is pending, or a service is due.
    Service,
    /// The guest waits for an interrupt.
    Idle,
    /// `Pc::take_request` has something.
    Request,
    /// The guest cannot go on.
    Stop(Halt),
}

/// Exits that one slice serves before the host's services are looked at, so that no guest can keep them out even if
/// the physical timer were late.
const SLICE_EXITS: u32 = 4096;

/// The PC has a keyboard controller with keyboard and mouse.
pub const HAS_I8042: bool = true;

/// The PC has an HPET.
pub const HAS_HPET: bool = true;

/// Most virtual processors.
pub const MAX_CPUS: u8 = 1;

/// The only virtual processor there is, so far.
const VCPU: usize = 0;

/// Runs a guest. Implemented for each vendor's machine, and not for all at once, so that the loop is compiled here, with
/// this package's settings.
pub trait Run {
    /// Runs the guest until something outside it wants the processor.
    fn slice(&mut self) -> SliceEnd;
}

impl Run for Machine<Svm> {
    fn slice(&mut self) -> SliceEnd {
        self.run_slice()
    }
}

impl Run for Machine<Vmx> {
    fn slice(&mut self) -> SliceEnd {
        self.run_slice()
    }
}

/// One guest.
///
/// The processor is the last field, so that a machine of either vendor is also a `Machine<dyn Vcpu>`: what is rare is
/// compiled once, for that.
pub struct Machine<V: ?Sized> {
    /// Devices and interrupt controllers.
    pub pc: &'static mut Pc,
    /// Guest RAM.
    pub ram: &'static GuestRam,
    /// The guest's time.
    pub clock: Clock,
    /// Back ends of the devices.
    pub backend: Backend,
    msrs: Msrs,
    cpuid: cpuid::Context,
    allowed: Allowed,
    intel: bool,
    kvm_clock: KvmClock,
    /// In HLT until an interrupt comes.
    halted: bool,
    /// An interrupt or priority window has been asked for.
    window: bool,
    /// What a guest added to its TSC by writing it.
    tsc_adjust: u64,
    /// Device deadline and service time that the physical timer is set for; `None` when it is to be set anew.
    armed: Option<(Option<u64>, Option<u64>)>,
    /// Host TSC at which the services want to run again.
    service_at: Option<u64>,
    /// The processor.
    pub vcpu: V,
}

impl<V: Vcpu + 'static> Machine<V> {
    /// A machine with a processor just powered up. `intel` says whose processor the host has.
    #[allow(clippy::too_many_arguments, reason = "each is a part of the machine, named where it is made")]
    pub fn new(
        vcpu: V,
        pc: &'static mut Pc,
        ram: &'static GuestRam,
        clock: Clock,
        backend: Backend,
        cpuid: cpuid::Context,
        allowed: Allowed,
        intel: bool,
    ) -> Self {
        let kvm_clock = KvmClock::new(clock.tsc_hz());
        Self {
            vcpu,
            pc,
            ram,
            clock,
            backend,
            msrs: Msrs::new(intel),
            cpuid,
            allowed,
            intel,
            kvm_clock,
            halted: false,
            window: false,
            tsc_adjust: 0,
            armed: None,
            service_at: None,
        }
    }

    fn run_slice(&mut self) -> SliceEnd {
        let now = self.now();
        self.pc.advance(now);
        if self.pc.has_request() {
            return SliceEnd::Request;
        }
        for _ in 0..SLICE_EXITS {
            self.deliver();
            self.arm_timer();
            if self.halted {
                return SliceEnd::Idle;
            }
            let exit = self.vcpu.run();
            if trace::enabled() {
                self.trace_exit(&exit);
            }
            match self.handle(exit) {
                Step::Continue | Step::Halted => {}
                Step::Service => return SliceEnd::Service,
                Step::Request => return SliceEnd::Request,
                Step::Stop(halt) => return SliceEnd::Stop(halt),
            }
        }
        SliceEnd::Service
    }

    /// The machine for what is rare: one copy of the code, for both vendors.
    fn cold(&mut self) -> &mut Machine<dyn Vcpu> {
        self
    }
}

impl<V: Vcpu + ?Sized> Machine<V> {
    /// Back to power-up: processor, devices, MSRs. RAM and clock stay, as on a PC.
    pub fn reset(&mut self) {
        let now = self.now();
        self.vcpu.reset();
        self.pc.reset(now);
        self.msrs = Msrs::new(self.intel);
        self.kvm_clock.reset();
        self.halted = false;
        self.window = false;
        self.tsc_adjust = 0;
        self.update_tsc_offset();
    }

    /// Asks for a slice to end at this host TSC.
    pub fn set_service(&mut self, tsc: Option<u64>) {
        self.service_at = tsc;
    }

    /// The physical timer has fired: it is not set any more.
    pub fn timer_fired(&mut self) {
        self.armed = None;
    }

    /// Virtual time in nanoseconds.
    #[inline]
    pub fn now(&self) -> u64 {
        self.clock.now(timer::now_tsc())
    }

    /// What the guest's RDTSC reads.
    pub fn guest_tsc(&self) -> u64 {
        self.clock.guest_tsc(timer::now_tsc()).wrapping_add(self.tsc_adjust)
    }

    /// The processor waits in HLT.
    pub fn halted(&self) -> bool {
        self.halted
    }

    /// Lets the guest's time pass from now on.
    pub fn start_clock(&mut self) {
        self.clock.start(timer::now_tsc());
        self.armed = None;
        self.update_tsc_offset();
        self.update_wall_clock();
        let now = self.now();
        self.kvm_clock.resume(now, self.ram);
    }

    /// Stops the guest's time.
    pub fn stop_clock(&mut self) {
        self.clock.stop(timer::now_tsc());
        self.armed = None;
    }

    fn update_tsc_offset(&mut self) {
        let now = self.now();
        self.vcpu.set_tsc_offset(self.clock.offset().wrapping_add(self.tsc_adjust));
        self.pc.set_tsc_offset(VCPU, self.tsc_adjust, now);
        self.kvm_clock.set_tsc_offset(VCPU, self.tsc_adjust, now, self.ram);
    }

    /// The guest's RTC goes on with the rig's time.
    fn update_wall_clock(&mut self) {
        let wall = self.backend.wall_clock_us().saturating_mul(1000);
        let now = self.now();
        self.pc.set_wall_clock(wall.cast_signed(), now);
        self.kvm_clock.set_wall_clock(wall.cast_signed(), now);
    }

    #[cold]
    fn trace_exit(&self, exit: &Exit) {
        let vcpu = &self.vcpu;
        trace::exit(VCPU, exit, vcpu.rip(), vcpu.gpr(Gpr::Rax), vcpu.gpr(Gpr::Rcx), vcpu.gpr(Gpr::Rdx));
    }

    /// Queues an event for the processor.
    #[inline]
    fn inject(&mut self, event: Event) {
        if trace::enabled() {
            trace::inject(VCPU, &event);
        }
        self.vcpu.inject(event);
    }

    /// Looks for a request of the devices after a guest's access to them.
    #[inline]
    fn after_device(&mut self) -> Step {
        if self.pc.has_request() { Step::Request } else { Step::Continue }
    }

    /// Queues what the interrupt controllers have for the processor, or asks to be told when it can take it.
    #[inline]
    fn deliver(&mut self) {
        if self.pc.nmi_pending(VCPU) {
            if self.vcpu.nmi_ready() {
                self.pc.acknowledge_nmi(VCPU);
                self.halted = false;
                self.inject(Event::nmi());
            }
            let waiting = self.pc.nmi_pending(VCPU);
            self.vcpu.set_nmi_window(waiting);
        }
        if self.pc.quiet(VCPU) {
            if self.window {
                self.close_window();
            }
            return;
        }
        self.deliver_interrupt();
    }

    fn close_window(&mut self) {
        self.window = false;
        self.vcpu.set_interrupt_window(false);
        self.vcpu.set_tpr_threshold(0);
    }

    fn deliver_interrupt(&mut self) {
        self.load_task_priority();
        if self.pc.interrupt_for(VCPU).is_some() && self.vcpu.interrupt_ready() {
            let vector = self.pc.acknowledge(VCPU);
            self.halted = false;
            self.inject(Event::interrupt(vector));
        }
        let waiting = self.pc.interrupt_for(VCPU).is_some();
        self.vcpu.set_interrupt_window(waiting);
        // What only the task priority holds back is looked at again when that falls.
        let class = match self.pc.local_apic(VCPU).and_then(LocalApic::highest_request) {
            Some(vector) if !waiting => (vector >> 4).min(self.vcpu.tpr() >> 4),
            _ => 0,
        };
        self.vcpu.set_tpr_threshold(class);
        self.window = waiting || class != 0;
    }

    /// The local APIC's task priority follows the guest's CR8, which it changes without an exit.
    pub(self) fn load_task_priority(&mut self) {
        self.pc.set_cr8(VCPU, self.vcpu.tpr() >> 4);
    }

    /// CR8 follows the local APIC's task priority, after an access to its registers.
    pub(self) fn store_task_priority(&mut self) {
        let cr8 = self.pc.cr8(VCPU);
        if self.vcpu.tpr() >> 4 != cr8 {
            self.vcpu.set_tpr(cr8 << 4);
        }
    }

    /// Sets the physical timer to the next thing that has its time.
    #[inline]
    fn arm_timer(&mut self) {
        let wanted = (self.pc.deadline(), self.service_at);
        if self.armed != Some(wanted) {
            self.set_timer(wanted);
        }
    }

    fn set_timer(&mut self, wanted: (Option<u64>, Option<u64>)) {
        self.armed = Some(wanted);
        let device = wanted.0.map(|deadline| self.clock.host_tsc_at(deadline));
        timer::set_deadline(match (device, wanted.1) {
            (Some(device), Some(service)) => Some(device.min(service)),
            (device, service) => device.or(service),
        });
    }
}

//! One virtual processor of a guest, and the loop that runs it.
//!
//! [`Machine::run_slice`] runs the guest until something outside it wants the processor: a physical interrupt, the guest's HLT, or
//! its end. Exits that the machine can serve itself never leave the slice. There is one [`Machine`] for each physical
//! processor that carries a virtual one; what they share is in [`Shared`].

mod emulation;
mod exits;
mod first;
mod msrs;
mod secondary;

pub use exits::host_cpuid;
use monovisor_arch::{EntryFailure, Event, Exit, Gpr, Segment, SegmentName, Vcpu};
use monovisor_cpu::control::Allowed;
use monovisor_devices::apic::{CpuRequest, LocalApic};
use monovisor_devices::clock::AT_ONCE;
use monovisor_host::{interrupts, timer};

use crate::clock::{self, Clock};
use crate::policy::cpuid::{self, Cpuid};
use crate::policy::msr::Msrs;
use crate::ram::GuestRam;
use crate::registers::Registers;
use crate::shared::{Devices, Shared, attention};
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
    /// The first processor has given an order.
    Order,
    /// The guest cannot go on.
    Stop(Halt),
}

/// What a processor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// It runs the guest's instructions.
    Running,
    /// It is in HLT until an interrupt comes.
    Halted,
    /// It waits for a start-up message.
    WaitForStartUp,
}

/// Exits that are served before physical interrupts are taken, should the processor not have noticed them by itself. It
/// does so at the VM entry (SDM vol. 3, 26.2; APM vol. 2, 15.13.1), but an emulator may be late, and a UART at full speed
/// waits for 130 us.
const EXITS_IN_A_ROW: u32 = 8;

/// Rounds of so many exits that one slice serves before the host's services are looked at, so that no guest can keep them
/// out even if the physical timer were late.
const SLICE_ROUNDS: u32 = 512;

/// The PC has a keyboard controller with keyboard and mouse.
pub const HAS_I8042: bool = true;

/// The PC has an HPET.
pub const HAS_HPET: bool = true;

/// Most virtual processors.
pub const MAX_CPUS: u8 = monovisor_arch::layout::MAX_VCPUS as u8;

/// What a processor is made with, besides its hardware.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// What its CPUID depends on.
    pub cpuid: cpuid::Context,
    /// Control-register bits that it has.
    pub allowed: Allowed,
    /// The host has Intel's processors.
    pub intel: bool,
}

/// One virtual processor of a guest.
///
/// The hardware's part is the last field, so that a machine of either vendor is also a `Machine<dyn Vcpu>`: what is rare
/// is compiled once, for that.
pub struct Machine<V: ?Sized> {
    /// Which processor this is: index of the virtual one, and of the physical one that carries it.
    index: usize,
    shared: &'static Shared,
    ram: &'static GuestRam,
    /// The guest's time, as it is as long as this processor runs.
    clock: Clock,
    msrs: Msrs,
    cpuid: Cpuid,
    allowed: Allowed,
    intel: bool,
    activity: Activity,
    /// Look at the devices before the next entry.
    look: bool,
    /// An interrupt or priority window has been asked for.
    window: bool,
    /// The local APIC is in x2APIC mode, as this was last seen.
    x2apic: bool,
    /// Interrupts are delivered by the processor itself in that mode.
    self_service: bool,
    /// It has them now: the local APIC has only those that have come since.
    handed_over: bool,
    /// What a guest added to its TSC by writing it.
    tsc_adjust: u64,
    /// Device deadline and service time that the physical timer is set for; `None` when it is to be set anew.
    armed: Option<(Option<u64>, Option<u64>)>,
    /// Host TSC at which the services want to run again.
    service_at: Option<u64>,
    /// The processor's hardware.
    pub vcpu: V,
}

impl<V: Vcpu + 'static> Machine<V> {
    /// Processor `index` of a guest, just powered up; to be made on the physical processor of that index.
    pub fn new(vcpu: V, index: usize, shared: &'static Shared, parts: &Parts) -> Self {
        Self {
            vcpu,
            index,
            shared,
            ram: shared.ram(),
            clock: shared.with(index, |devices| devices.clock.clone()),
            msrs: Msrs::new(parts.intel),
            cpuid: Cpuid::new(
                cpuid::Context { apic_id: monovisor_arch::layout::apic_id(index as u8), ..parts.cpuid },
                &host_cpuid,
            ),
            allowed: parts.allowed,
            intel: parts.intel,
            activity: if index == 0 { Activity::Running } else { Activity::WaitForStartUp },
            look: true,
            window: false,
            x2apic: false,
            self_service: false,
            handed_over: false,
            tsc_adjust: 0,
            armed: None,
            service_at: None,
        }
    }

    /// Runs the guest until something outside it wants the processor.
    ///
    /// What is generic here is compiled in `monovisor-run`, for speed.
    pub fn run_slice(&mut self) -> SliceEnd {
        self.vcpu.begin_slice();
        for _ in 0..SLICE_ROUNDS {
            for _ in 0..EXITS_IN_A_ROW {
                if (self.look || self.window || self.shared.wants(self.index))
                    && let Some(end) = self.cold().look()
                {
                    return end;
                }
                if self.activity != Activity::Running {
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
            if self.host_interrupt() != Step::Continue {
                break;
            }
        }
        SliceEnd::Service
    }
}

/// The machine for what is rare: one copy of the code, for both vendors.
pub trait Cold {
    /// The same machine.
    fn cold(&mut self) -> &mut Machine<dyn Vcpu>;
}

impl<V: Vcpu + 'static> Cold for Machine<V> {
    fn cold(&mut self) -> &mut Machine<dyn Vcpu> {
        self
    }
}

impl Cold for Machine<dyn Vcpu> {
    fn cold(&mut self) -> &mut Self {
        self
    }
}

impl<V: Vcpu + ?Sized> Machine<V> {
    /// Which processor this is.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What the processors share.
    pub fn shared(&self) -> &'static Shared {
        self.shared
    }

    /// Works on the devices, and calls the processors for which something changes by it.
    #[inline]
    pub fn with<R>(&self, act: impl FnOnce(&mut Devices) -> R) -> R {
        self.shared.with(self.index, act)
    }

    /// This processor back to power-up.
    pub fn reset(&mut self) {
        self.vcpu.reset();
        self.cpuid.set_apic(true, &host_cpuid);
        self.msrs = Msrs::new(self.intel);
        self.activity = if self.index == 0 { Activity::Running } else { Activity::WaitForStartUp };
        self.window = false;
        self.forget_virtual_delivery();
        self.look = true;
        self.tsc_adjust = 0;
        self.update_tsc_offset();
    }

    /// Asks for a slice to end at this host TSC.
    pub fn set_service(&mut self, tsc: Option<u64>) {
        if self.service_at != tsc {
            self.service_at = tsc;
            self.look = true;
        }
    }

    /// The physical timer has fired, or has been set by others: it is to be set anew.
    pub fn timer_fired(&mut self) {
        self.armed = None;
        self.look = true;
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

    /// The processor waits, in HLT or for a start-up.
    pub fn halted(&self) -> bool {
        self.activity != Activity::Running
    }

    /// Goes on by the clock as it is now.
    pub fn follow_clock(&mut self) {
        self.clock = self.with(|devices| devices.clock.clone());
        self.timer_fired();
        self.load_tsc_offset();
    }

    fn load_tsc_offset(&mut self) {
        self.vcpu.set_tsc_offset(self.clock.offset().wrapping_add(self.tsc_adjust));
    }

    fn update_tsc_offset(&mut self) {
        self.load_tsc_offset();
        let (index, ram, adjust) = (self.index, self.ram, self.tsc_adjust);
        self.with(|devices| {
            let now = devices.now();
            devices.pc.set_tsc_offset(index, adjust, now);
            devices.kvm_clock.set_tsc_offset(index, adjust, now, ram);
        });
    }

    #[cold]
    fn trace_exit(&self, exit: &Exit) {
        let vcpu = &self.vcpu;
        trace::exit(self.index, exit, vcpu.rip(), vcpu.gpr(Gpr::Rax), vcpu.gpr(Gpr::Rcx), vcpu.gpr(Gpr::Rdx));
    }

    /// Queues an event for the processor.
    #[inline]
    fn inject(&mut self, event: Event) {
        if trace::enabled() {
            trace::inject(self.index, &event);
        }
        self.vcpu.inject(event);
    }

    /// Looks at all that may have changed for this processor.
    fn look(&mut self) -> Option<SliceEnd> {
        let wanted = self.shared.take_attention(self.index);
        self.look = false;
        self.drop_translations(wanted);
        if wanted & attention::ORDER != 0 {
            self.look = true;
            return Some(SliceEnd::Order);
        }
        if wanted & attention::HALT != 0
            && let Some(halt) = self.shared.take_halt()
        {
            self.look = true;
            return Some(SliceEnd::Stop(halt));
        }
        let shared = self.shared;
        let (began, deadline, request) = shared.with_look(self.index, |devices| {
            let began = timer::now_tsc();
            let now = devices.clock.now(began);
            devices.pc.advance(self.index, now);
            self.deliver(devices);
            (began, devices.pc.deadline(self.index), self.index == 0 && devices.pc.has_request())
        });
        if request {
            self.look = true;
            return Some(SliceEnd::Request);
        }
        let wanted = (deadline, self.service_at);
        if self.armed != Some(wanted) {
            self.set_timer(wanted, began);
        }
        None
    }

    /// Does as the attention word says where the second-level tables have changed.
    fn drop_translations(&mut self, wanted: u32) {
        if wanted & attention::FLUSH != 0 {
            self.vcpu.flush_tlb();
            self.shared.will_flush(self.index);
        }
    }

    /// Queues what the interrupt controllers have for the processor, or asks to be told when it can take it.
    fn deliver(&mut self, devices: &mut Devices) {
        while let Some(request) = devices.pc.take_cpu_request(self.index) {
            self.carry_out(request);
        }
        // Until it is started, a processor takes no interrupt, not even an NMI (SDM vol. 3, 9.4.3).
        if self.activity == Activity::WaitForStartUp {
            return;
        }
        self.hand_over(devices);
        let pc = &mut devices.pc;
        if pc.nmi_pending(self.index) {
            if self.vcpu.nmi_ready() {
                pc.acknowledge_nmi(self.index);
                self.activity = Activity::Running;
                self.inject(Event::nmi());
            }
            self.vcpu.set_nmi_window(pc.nmi_pending(self.index));
        }
        let nmi_waits = pc.nmi_pending(self.index);
        if !pc.quiet(self.index) {
            self.deliver_interrupt(devices);
        } else if self.window {
            self.close_window();
        }
        // The window for an NMI may stay shut while it could be taken: SVM before virtual NMIs needs IF for it.
        self.window |= nmi_waits;
    }

    /// INIT or a start-up (SDM vol. 3, 9.4.4).
    fn carry_out(&mut self, request: CpuRequest) {
        match request {
            CpuRequest::Init => {
                self.vcpu.init();
                self.window = false;
                self.forget_virtual_delivery();
                self.load_tsc_offset();
                // The bootstrap processor goes to the reset vector at once.
                self.activity = if self.index == 0 { Activity::Running } else { Activity::WaitForStartUp };
            }
            CpuRequest::StartUp(page) => {
                if self.activity != Activity::WaitForStartUp {
                    return;
                }
                let (selector, base) = (u16::from(page) << 8, u64::from(page) << 12);
                self.vcpu
                    .set_segment(SegmentName::Cs, Segment { selector, base, limit: 0xffff, access: 0x9b });
                self.vcpu.set_rip(0);
                self.activity = Activity::Running;
            }
        }
    }

    /// Where the processor delivers interrupts by itself (SDM vol. 3, 30.1 to 30.2), gives it those that have come. After that
    /// the local APIC has none, and only the 8259's are left to be injected.
    fn hand_over(&mut self, devices: &mut Devices) {
        let Some(apic) = devices.pc.local_apic(self.index) else { return };
        let (x2apic, come) = (apic.x2apic(), apic.highest_request().is_some());
        if x2apic != self.x2apic {
            self.take_back(devices);
            self.x2apic = x2apic;
            self.self_service = self.vcpu.set_virtual_delivery(x2apic);
        }
        let running = self.activity == Activity::Running;
        if !self.self_service || (self.handed_over && running && !come) {
            return;
        }
        self.take_back(devices);
        if !running {
            // What ends a HLT is for us to see.
            self.load_task_priority(devices);
            let comes = devices.pc.local_apic(self.index).is_some_and(|apic| apic.pending().is_some());
            if comes && self.vcpu.interrupt_ready() {
                self.activity = Activity::Running;
            }
        }
        // A processor that is about to halt is called for each, so that it looks.
        let posted = if self.activity == Activity::Running { self.vcpu.inbox() } else { None };
        self.vcpu.give_interrupts(&devices.pc.hand_over(self.index, posted));
        self.handed_over = true;
    }

    /// Makes the local APIC whole again: before anybody looks at its requests or at what is in service.
    fn take_back(&mut self, devices: &mut Devices) {
        if self.handed_over {
            self.handed_over = false;
            devices.pc.take_back(self.index, &self.vcpu.take_interrupts());
        }
    }

    /// The processor has been reset, and delivers nothing by itself.
    fn forget_virtual_delivery(&mut self) {
        self.x2apic = false;
        self.self_service = false;
        self.handed_over = false;
    }

    fn close_window(&mut self) {
        self.window = false;
        self.vcpu.set_interrupt_window(false);
        self.vcpu.set_tpr_threshold(0);
    }

    fn deliver_interrupt(&mut self, devices: &mut Devices) {
        self.load_task_priority(devices);
        let pc = &mut devices.pc;
        if pc.interrupt_for(self.index).is_some() && self.vcpu.interrupt_ready() {
            let vector = pc.acknowledge(self.index);
            self.activity = Activity::Running;
            self.inject(Event::interrupt(vector));
        }
        let waiting = pc.interrupt_for(self.index).is_some();
        self.vcpu.set_interrupt_window(waiting);
        // What only the task priority holds back is looked at again when that falls.
        let class = match pc.local_apic(self.index).and_then(LocalApic::highest_request) {
            Some(vector) if !waiting => (vector >> 4).min(self.vcpu.tpr() >> 4),
            _ => 0,
        };
        self.vcpu.set_tpr_threshold(class);
        self.window = waiting || class != 0;
    }

    /// The local APIC's task priority follows the guest's CR8, which it changes without an exit.
    fn load_task_priority(&mut self, devices: &mut Devices) {
        devices.pc.set_cr8(self.index, self.vcpu.tpr() >> 4);
    }

    /// CR8 follows the local APIC's task priority, after an access to its registers.
    fn store_task_priority(&mut self, cr8: u8) {
        if self.vcpu.tpr() >> 4 != cr8 {
            self.vcpu.set_tpr(cr8 << 4);
        }
    }

    /// Sets the physical timer to the next thing that has its time, after a look at the devices that began at the TSC `looked`.
    fn set_timer(&mut self, wanted: (Option<u64>, Option<u64>), looked: u64) {
        self.armed = Some(wanted);
        let device = wanted.0.map(|deadline| self.clock.host_tsc_at(deadline));
        let next = match (device, wanted.1) {
            (Some(device), Some(service)) => Some(device.min(service)),
            (device, service) => device.or(service),
        };
        timer::set_deadline(match next {
            Some(next) if wanted.0 != Some(AT_ONCE) => {
                Some(next.max(clock::after_look(looked, timer::now_tsc())))
            }
            next => next,
        });
    }

    /// A physical interrupt has ended the guest's run: takes it. What only this processor's guest is called by, its timer
    /// and other processors, needs no service.
    fn host_interrupt(&mut self) -> Step {
        interrupts::window();
        let sources = interrupts::noted();
        if !(interrupts::Sources::TIMER | interrupts::Sources::IPI).contains(sources) {
            return Step::Service;
        }
        if interrupts::take().contains(interrupts::Sources::TIMER) {
            self.timer_fired();
            if self.service_at.is_some_and(|at| timer::now_tsc() >= at) {
                return Step::Service;
            }
        }
        Step::Continue
    }
}

impl Machine<dyn Vcpu> {
    /// The registers as they are now.
    pub fn take_registers(&self, registers: &mut Registers) {
        registers.take(&self.vcpu, self.halted());
    }
}

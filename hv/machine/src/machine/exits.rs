//! What the guest did, and what the machine does about it.
//!
//! The vendor modules have decoded the exit; everything here is the same on VMX and SVM.

use monovisor_arch::layout::PM_TIMER;
use monovisor_arch::state::bits;
use monovisor_arch::{Event, Exit, Gpr, IoExit, MemoryAccess, MemoryExit, Vcpu, vector};
use monovisor_cpu::control;
use monovisor_devices::Pc;
use monovisor_host::machine_check;
use monovisor_insn::{self as insn, Encoding, OpcodeMap};

use super::{Activity, Cold, Halt, Machine, Step};
use crate::policy::breakpoint;
use crate::policy::cpuid::{self, Leaf};

/// One CPUID of the host.
pub fn host_cpuid(leaf: u32, subleaf: u32) -> Leaf {
    let raw = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    Leaf { eax: raw.eax, ebx: raw.ebx, ecx: raw.ecx, edx: raw.edx }
}

impl<V: Vcpu + 'static> Machine<V> {
    /// Handles one exit.
    #[inline]
    pub(super) fn handle(&mut self, exit: Exit) -> Step {
        match exit {
            Exit::Cpuid => self.cpuid(),
            Exit::Io(io) if io.string.is_none() => self.io(io),
            Exit::HostInterrupt | Exit::HostNmi => self.host_interrupt(),
            Exit::Halt => self.halt(),
            Exit::InterruptWindow | Exit::NmiWindow => {
                self.look = true;
                Step::Continue
            }
            other => self.cold().rare(other),
        }
    }
}

impl Machine<dyn Vcpu> {
    /// Exits that are rare, or that cost much in any case.
    fn rare(&mut self, exit: Exit) -> Step {
        match exit {
            Exit::Memory(access) => self.memory(&access),
            Exit::ReadMsr => self.read_msr(),
            Exit::WriteMsr => self.write_msr(),
            Exit::Io(io) => self.string_io(&io),
            Exit::Hypercall => self.hypercall(),
            Exit::EndOfInterrupt(vector) => {
                let (shared, vcpu) = (self.shared, self.index);
                shared.with(vcpu, |devices| {
                    self.take_back(devices);
                    devices.pc.ended(vcpu, vector);
                });
                self.look = true;
                Step::Continue
            }
            Exit::Xsetbv => self.xsetbv(),
            // No device is assigned: nothing outside the guest can tell whether its caches were written back.
            Exit::WritebackInvalidate => self.advance(Some(Encoding::WBINVD)),
            Exit::Invalidate => self.advance(Some(Encoding::INVD)),
            Exit::Pause => self.advance(Some(Encoding::PAUSE)),
            // There are no performance counters to read.
            Exit::ReadPerformanceCounter | Exit::ControlFault => self.general_protection(),
            Exit::UndefinedInstruction => self.exception(Event::exception(vector::UD)),
            Exit::InvalidOpcode => self.invalid_opcode(),
            Exit::Shutdown => Step::Stop(Halt::TripleFault),
            // A physical INIT or SIPI is not the guest's business.
            Exit::Init | Exit::StartUp(_) => Step::Service,
            Exit::MachineCheck => self.machine_check(),
            Exit::EntryFailed(failure) => Step::Stop(Halt::EntryFailed(failure)),
            Exit::TaskSwitch(switch) => self.task_switch(&switch),
            Exit::Unexpected(code) => Step::Stop(Halt::Unexpected(code)),
            _ => Step::Continue,
        }
    }

    /// Queues an exception and goes on.
    fn exception(&mut self, event: Event) -> Step {
        self.inject(event);
        Step::Continue
    }

    /// A machine check is the guest's as long as the processor can go on: one that has not enabled it, or is busy with another one,
    /// shuts down (SDM vol. 3, 17.3.1.2; APM vol. 2, 9.3.1).
    #[cold]
    fn machine_check(&mut self) -> Step {
        if !machine_check::take() {
            return Step::Stop(Halt::MachineCheck);
        }
        let enabled = self.vcpu.control().cr4 & bits::CR4_MCE != 0;
        if !enabled || !self.msrs.begin_machine_check() {
            return Step::Stop(Halt::TripleFault);
        }
        self.exception(Event::exception(vector::MC))
    }

    fn general_protection(&mut self) -> Step {
        self.exception(Event::fault(vector::GP, 0))
    }

    #[inline(never)]
    fn changing_leaf(&mut self, eax: u32, ecx: u32) -> Leaf {
        let cr4 = self.vcpu.control().cr4;
        let context = &mut self.cpuid.context;
        context.osxsave = cr4 & bits::CR4_OSXSAVE != 0;
        context.pke = cr4 & bits::CR4_PKE != 0;
        context.xcr0 = self.vcpu.xcr0();
        cpuid::leaf(eax, ecx, context, &host_cpuid)
    }

    /// The processor leaves before it has looked for a breakpoint on the port (SDM vol. 3, 26.4.2: the trap comes behind the
    /// instruction, which has not been run).
    #[cold]
    #[inline(never)]
    pub(super) fn look_for_io_breakpoint(&mut self, io: &IoExit) {
        if self.vcpu.control().cr4 & bits::CR4_DE == 0 {
            return;
        }
        let met = breakpoint::on_port(&self.vcpu.debug_registers(), io.port, io.size);
        if met != 0 {
            self.vcpu.breakpoints_met(met);
        }
    }

    fn memory(&mut self, exit: &MemoryExit) -> Step {
        // A page that the guest has given away is its again when it touches it, whatever for.
        if self.shared.touch(exit.address) {
            return Step::Continue;
        }
        let delivery = self.vcpu.pending_event().is_some();
        if exit.table_walk || exit.access == MemoryAccess::Fetch || delivery {
            // Page tables, code, or the IDT or stack of an event, in device space: no PC has that, and nothing
            // sensible can follow.
            return Step::Stop(Halt::Emulation { address: exit.address, rip: self.vcpu.rip() });
        }
        self.emulate(exit)
    }

    fn read_msr(&mut self) -> Step {
        let index = self.vcpu.gpr(Gpr::Rcx) as u32;
        let Some(value) = self.msr(index) else { return self.general_protection() };
        self.vcpu.set_gpr(Gpr::Rax, value & 0xffff_ffff);
        self.vcpu.set_gpr(Gpr::Rdx, value >> 32);
        self.advance(Some(Encoding::RDMSR))
    }

    fn write_msr(&mut self) -> Step {
        let index = self.vcpu.gpr(Gpr::Rcx) as u32;
        let value = self.vcpu.gpr(Gpr::Rax) & 0xffff_ffff | self.vcpu.gpr(Gpr::Rdx) << 32;
        if self.set_msr(index, value).is_err() {
            return self.general_protection();
        }
        self.advance(Some(Encoding::WRMSR))
    }

    fn xsetbv(&mut self) -> Step {
        let value = self.vcpu.gpr(Gpr::Rax) & 0xffff_ffff | self.vcpu.gpr(Gpr::Rdx) << 32;
        let index = self.vcpu.gpr(Gpr::Rcx) as u32;
        match control::xcr0_write(self.vcpu.cpl(), index, value, &self.allowed) {
            Ok(value) => {
                self.vcpu.set_xcr0(value);
                self.advance(Some(Encoding::XSETBV))
            }
            Err(_) => self.general_protection(),
        }
    }

    /// No hypercall is offered (the KVM feature leaf says so). KVM's answer to an unknown one is -ENOSYS, and to one
    /// from user mode -EPERM.
    fn hypercall(&mut self) -> Step {
        self.answer_hypercall();
        // VMCALL and VMMCALL have the same length.
        self.advance(Some(Encoding::VMMCALL))
    }

    fn answer_hypercall(&mut self) {
        const ENOSYS: i64 = -1000;
        const EPERM: i64 = -1;
        let answer = if self.vcpu.cpl() == 0 { ENOSYS } else { EPERM };
        self.vcpu.set_gpr(Gpr::Rax, answer as u64);
    }

    /// #UD, unless the instruction is the hypercall of the other vendor's processors: guests pick one of the two by what
    /// they think of their processor, or by trying.
    fn invalid_opcode(&mut self) -> Step {
        /// ModRM of VMCALL and VMMCALL, 0F 01.
        const HYPERCALLS: [u8; 2] = [0xc1, 0xd9];
        let found = insn::instruction(&mut self.vcpu, self.ram, None).ok().filter(|found| {
            let known = found.modrm.is_some_and(|modrm| HYPERCALLS.contains(&modrm));
            found.map == OpcodeMap::Two && found.opcode == 0x01 && known && !found.lock
        });
        let Some(found) = found else { return self.exception(Event::exception(vector::UD)) };
        self.answer_hypercall();
        let next = self.vcpu.rip().wrapping_add(found.length.into());
        self.vcpu.set_rip(if self.vcpu.runs_64_bit_code() { next } else { next & 0xffff_ffff });
        Step::Continue
    }
}

impl<V: Vcpu + ?Sized> Machine<V>
where
    Self: Cold,
{
    /// Moves on to the next instruction, after one that was emulated; `usual` is how it is commonly encoded.
    #[inline]
    fn advance(&mut self, usual: Option<Encoding>) -> Step {
        let next = match (self.vcpu.next_rip(), usual) {
            (None, Some(usual)) => insn::usual_next_rip(&self.vcpu, self.ram, usual),
            (next, _) => next,
        };
        match next {
            Some(rip) => {
                self.vcpu.set_rip(rip);
                Step::Continue
            }
            None => self.cold().advance_decoded(),
        }
    }

    fn cpuid(&mut self) -> Step {
        let eax = self.vcpu.gpr(Gpr::Rax) as u32;
        let ecx = self.vcpu.gpr(Gpr::Rcx) as u32;
        let leaf = match self.cpuid.ready(eax) {
            Some(leaf) => *leaf,
            None => self.cold().changing_leaf(eax, ecx),
        };
        self.vcpu.set_gpr(Gpr::Rax, leaf.eax.into());
        self.vcpu.set_gpr(Gpr::Rbx, leaf.ebx.into());
        self.vcpu.set_gpr(Gpr::Rcx, leaf.ecx.into());
        self.vcpu.set_gpr(Gpr::Rdx, leaf.edx.into());
        self.advance(Some(Encoding::CPUID))
    }

    #[inline]
    fn io(&mut self, io: IoExit) -> Step {
        let rax = self.vcpu.gpr(Gpr::Rax);
        let request = if io.input {
            let (value, request) = if io.port == PM_TIMER && io.size == 4 {
                // The clock source of many guests needs no device, and so no lock.
                (Pc::pm_timer(self.now()), false)
            } else {
                self.with(|devices| {
                    let now = devices.now();
                    let value = devices.pc.io_read(io.port, io.size, now, &mut devices.backend);
                    (value, devices.pc.has_request())
                })
            };
            // A byte or word leaves the rest of RAX alone; a doubleword clears its upper half.
            let rax = match io.size {
                1 => rax & !0xff | u64::from(value & 0xff),
                2 => rax & !0xffff | u64::from(value & 0xffff),
                _ => value.into(),
            };
            self.vcpu.set_gpr(Gpr::Rax, rax);
            request
        } else {
            self.with(|devices| {
                let now = devices.now();
                devices.pc.io_write(io.port, io.size, rax as u32, now, &mut devices.backend);
                devices.pc.has_request()
            })
        };
        // Both vendors give the next RIP of an I/O instruction; there is no one encoding to expect.
        let step = self.advance(None);
        if self.vcpu.debug_control() & breakpoint::ENABLED != 0 {
            self.cold().look_for_io_breakpoint(&io);
        }
        match step {
            Step::Continue if request => Step::Request,
            step => step,
        }
    }

    fn halt(&mut self) -> Step {
        match self.advance(Some(Encoding::HLT)) {
            // A single-step trap behind HLT ends it at once.
            Step::Continue if self.vcpu.rflags() & bits::RFLAGS_TF != 0 => Step::Continue,
            Step::Continue => {
                self.activity = Activity::Halted;
                // One that the shadow of STI has kept back until now ends it at once.
                self.look |= self.handed_over;
                Step::Halted
            }
            stop => stop,
        }
    }
}

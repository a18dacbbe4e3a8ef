//! Instructions that the hypervisor carries out for the guest: MMIO, string I/O, and finding the next one.

use monovisor_arch::{Event, IoExit, MemoryExit, TaskSwitch, Vcpu, vector};
use monovisor_insn::{self as insn, Bus, Outcome, Ports, TaskFault};

use super::{Halt, Machine, Step};
use crate::policy::breakpoint;
use crate::shared::{Devices, Shared};

/// The devices as the emulator sees them; each access takes the device lock.
struct Accesses {
    shared: &'static Shared,
    vcpu: usize,
    /// The task priority class, which the local APIC and CR8 share.
    cr8: u8,
    /// A device has asked for something.
    request: bool,
}

impl Accesses {
    fn with<R>(&mut self, act: impl FnOnce(&mut Devices, u64) -> R) -> R {
        let (vcpu, cr8) = (self.vcpu, self.cr8);
        let result;
        (result, self.cr8, self.request) = self.shared.with(vcpu, |devices| {
            devices.pc.set_cr8(vcpu, cr8);
            let now = devices.now();
            (act(devices, now), devices.pc.cr8(vcpu), devices.pc.has_request())
        });
        result
    }

    /// What comes after the instruction.
    fn step(&self) -> Step {
        if self.request { Step::Request } else { Step::Continue }
    }
}

impl Bus for Accesses {
    fn read(&mut self, address: u64, size: u8) -> u64 {
        let vcpu = self.vcpu;
        // Nothing answers: the bus floats high.
        self.with(|devices, now| devices.pc.mmio_read(vcpu, address, size, now)).unwrap_or(u64::MAX)
    }

    fn write(&mut self, address: u64, size: u8, value: u64) {
        let vcpu = self.vcpu;
        // Nobody there: the write is lost, as on a bus.
        let _ = self.with(|devices, now| devices.pc.mmio_write(vcpu, address, size, value, now));
    }
}

impl Ports for Accesses {
    fn input(&mut self, port: u16, size: u8) -> u32 {
        self.with(|devices, now| devices.pc.io_read(port, size, now, &mut devices.backend))
    }

    fn output(&mut self, port: u16, size: u8, value: u32) {
        self.with(|devices, now| devices.pc.io_write(port, size, value, now, &mut devices.backend));
    }
}

impl Machine<dyn Vcpu> {
    /// Moves on where neither the CPU nor the usual encoding says where the next instruction is.
    #[cold]
    pub(super) fn advance_decoded(&mut self) -> Step {
        match insn::decoded_next_rip(&mut self.vcpu, self.ram) {
            Ok(rip) => {
                self.vcpu.set_rip(rip);
                Step::Continue
            }
            Err(outcome) => self.emulation_failed(outcome, None),
        }
    }

    pub(super) fn emulate(&mut self, exit: &MemoryExit) -> Step {
        let mut accesses = self.accesses();
        let done = insn::emulate_access(&mut self.vcpu, self.ram, &mut accesses, exit);
        self.store_task_priority(accesses.cr8);
        match done {
            Ok(()) => accesses.step(),
            Err(outcome) => self.emulation_failed(outcome, Some(exit.address)),
        }
    }

    pub(super) fn string_io(&mut self, io: &IoExit) -> Step {
        let mut accesses = self.accesses();
        match insn::string_io(&mut self.vcpu, self.ram, &mut accesses, io) {
            Ok(_) => {
                if self.vcpu.debug_control() & breakpoint::ENABLED != 0 {
                    self.look_for_io_breakpoint(io);
                }
                accesses.step()
            }
            Err(outcome) => self.emulation_failed(outcome, None),
        }
    }

    /// A hardware task switch, which VMX does not do.
    pub(super) fn task_switch(&mut self, switch: &TaskSwitch) -> Step {
        /// DR7: the local breakpoints and "local exact", which a task switch disables (SDM vol. 3, 18.2.4).
        const LOCAL: u64 = 0x155;
        /// DR6: a task switch.
        const BT: u64 = 1 << 15;
        match insn::task_switch(&mut self.vcpu, self.ram, switch) {
            Ok(trap) => {
                let mut registers = self.vcpu.debug_registers();
                registers[5] &= !LOCAL;
                if trap {
                    registers[4] |= BT;
                    self.inject(Event::exception(vector::DB));
                }
                self.vcpu.set_debug_registers(registers);
                Step::Continue
            }
            Err(TaskFault { outcome, switched }) => {
                if !switched && let Some(event) = switch.event {
                    // Its delivery goes on with the exception that it has raised.
                    self.inject(event);
                }
                self.emulation_failed(outcome, None)
            }
        }
    }

    fn accesses(&self) -> Accesses {
        Accesses { shared: self.shared, vcpu: self.index, cr8: self.vcpu.tpr() >> 4, request: false }
    }

    #[cold]
    fn emulation_failed(&mut self, outcome: Outcome, address: Option<u64>) -> Step {
        match outcome {
            Outcome::Exception { event, cr2 } => {
                if let Some(cr2) = cr2 {
                    let mut control = self.vcpu.control();
                    control.cr2 = cr2;
                    self.vcpu.set_control(control);
                }
                self.inject(event);
                Step::Continue
            }
            Outcome::Unsupported(instruction) => {
                monovisor_host::warn!(
                    "an instruction of the guest with opcode {:#04x} is not emulated",
                    instruction.opcode
                );
                Step::Stop(Halt::Emulation { address: address.unwrap_or(0), rip: self.vcpu.rip() })
            }
            Outcome::CodeOutsideRam { address } => {
                Step::Stop(Halt::Emulation { address, rip: self.vcpu.rip() })
            }
        }
    }
}

//! Instructions that the hypervisor carries out for the guest: MMIO, string I/O, and finding the next one.

use monovisor_arch::{IoExit, MemoryExit, Vcpu};
use monovisor_devices::Pc;
use monovisor_insn::{self as insn, Bus, Outcome, Ports};

use super::{Halt, Machine, Step};
use crate::backend::Backend;

/// The devices as the emulator sees them, at one moment of virtual time.
struct Devices<'a> {
    pc: &'a mut Pc,
    backend: &'a mut Backend,
    vcpu: usize,
    now: u64,
}

impl Bus for Devices<'_> {
    fn read(&mut self, address: u64, size: u8) -> u64 {
        // Nothing answers: the bus floats high.
        self.pc.mmio_read(self.vcpu, address, size, self.now).unwrap_or(u64::MAX)
    }

    fn write(&mut self, address: u64, size: u8, value: u64) {
        // Nobody there: the write is lost, as on a bus.
        let _ = self.pc.mmio_write(self.vcpu, address, size, value, self.now);
    }
}

impl Ports for Devices<'_> {
    fn input(&mut self, port: u16, size: u8) -> u32 {
        self.pc.io_read(port, size, self.now, self.backend)
    }

    fn output(&mut self, port: u16, size: u8, value: u32) {
        self.pc.io_write(port, size, value, self.now, self.backend);
    }
}

impl<V: Vcpu + ?Sized> Machine<V> {
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
        self.load_task_priority();
        let now = self.now();
        let mut devices = Devices { pc: self.pc, backend: &mut self.backend, vcpu: super::VCPU, now };
        match insn::emulate_access(&mut self.vcpu, self.ram, &mut devices, exit) {
            Ok(()) => {
                self.store_task_priority();
                self.after_device()
            }
            Err(outcome) => self.emulation_failed(outcome, Some(exit.address)),
        }
    }

    pub(super) fn string_io(&mut self, io: &IoExit) -> Step {
        let now = self.now();
        let mut devices = Devices { pc: self.pc, backend: &mut self.backend, vcpu: super::VCPU, now };
        match insn::string_io(&mut self.vcpu, self.ram, &mut devices, io) {
            Ok(_) => self.after_device(),
            Err(outcome) => self.emulation_failed(outcome, None),
        }
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

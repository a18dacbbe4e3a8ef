//! A guest as the rest of the hypervisor sees it: the same on VMX and SVM.

use monovisor_arch::{GuestMemory, SegmentName, Vcpu};
use monovisor_devices::Pc;
use monovisor_host::uart::UartConfig;
use monovisor_insn as insn;
use monovisor_loader::{EntryState, apply};

use crate::hmp::Snapshot;
use crate::machine::{Machine, Run, SliceEnd};
use crate::ram::GuestRam;

/// A guest behind one pointer: the monitor and the services do not care which vendor's processor runs it.
///
/// Only the way from an exit back to the guest is specialised; one call a slice is nothing to it.
pub trait Guest {
    /// Runs until something outside the guest wants the processor.
    fn slice(&mut self) -> SliceEnd;
    /// Asks for a slice to end at this host TSC.
    fn service_at(&mut self, tsc: Option<u64>);
    /// The physical timer has fired and is no longer set.
    fn timer_fired(&mut self);
    /// Back to power-up, RAM untouched.
    fn reset(&mut self);
    /// Starts the processor at a kernel's entry point.
    fn enter(&mut self, entry: &EntryState);
    /// Lets time pass.
    fn start_clock(&mut self);
    /// Stops time.
    fn stop_clock(&mut self);
    /// The devices.
    fn pc(&mut self) -> &mut Pc;
    /// Moves bytes between the guest's serial port and its back end.
    fn pump_console(&mut self);
    /// The host's line that the guest's serial port is wired to.
    fn console(&self) -> Option<UartConfig>;
    /// RAM.
    fn ram(&self) -> &'static GuestRam;
    /// Linear address of the next instruction, and whether the processor waits in HLT.
    fn cpu(&self, index: usize) -> Option<(u64, bool)>;
    /// All registers.
    fn snapshot(&self, index: usize) -> Option<Snapshot>;
    /// Copies memory by linear address as a debugger does; how many bytes could be read.
    fn peek(&self, index: usize, address: u64, buffer: &mut [u8]) -> usize;
    /// Reads an I/O port of the guest's machine.
    fn port_read(&mut self, port: u16, size: u8) -> u32;
    /// Writes an I/O port of the guest's machine.
    fn port_write(&mut self, port: u16, size: u8, value: u32);
    /// Presses the power button.
    fn power_button(&mut self);
    /// Sends an NMI to every processor.
    fn nmi(&mut self);
}

impl<V: Vcpu> Guest for Machine<V>
where
    Machine<V>: Run,
{
    fn slice(&mut self) -> SliceEnd {
        Run::slice(self)
    }

    fn service_at(&mut self, tsc: Option<u64>) {
        self.set_service(tsc);
    }

    fn timer_fired(&mut self) {
        Machine::timer_fired(self);
    }

    fn reset(&mut self) {
        Machine::reset(self);
    }

    fn enter(&mut self, entry: &EntryState) {
        apply(entry, &mut self.vcpu);
    }

    fn start_clock(&mut self) {
        Machine::start_clock(self);
    }

    fn stop_clock(&mut self) {
        Machine::stop_clock(self);
    }

    fn pc(&mut self) -> &mut Pc {
        self.pc
    }

    fn pump_console(&mut self) {
        let now = self.now();
        if self.pc.console_has_output() || self.backend.has_input() {
            self.pc.console_poll(now, &mut self.backend);
        }
    }

    fn console(&self) -> Option<UartConfig> {
        self.backend.console()
    }

    fn ram(&self) -> &'static GuestRam {
        self.ram
    }

    fn cpu(&self, index: usize) -> Option<(u64, bool)> {
        (index == 0).then(|| {
            let base = self.vcpu.segment(SegmentName::Cs).base;
            (base.wrapping_add(self.vcpu.rip()), self.halted())
        })
    }

    fn snapshot(&self, index: usize) -> Option<Snapshot> {
        (index == 0).then(|| {
            let vcpu = &self.vcpu;
            Snapshot::take(vcpu, vcpu.debug_registers(), vcpu.extended_state(), self.halted(), false)
        })
    }

    fn peek(&self, index: usize, address: u64, buffer: &mut [u8]) -> usize {
        if index == 0 { insn::peek(&self.vcpu, self.ram, address, buffer) } else { 0 }
    }

    fn port_read(&mut self, port: u16, size: u8) -> u32 {
        let now = self.now();
        self.pc.io_read(port, size, now, &mut self.backend)
    }

    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        let now = self.now();
        self.pc.io_write(port, size, value, now, &mut self.backend);
    }

    fn power_button(&mut self) {
        self.pc.power_button();
    }

    fn nmi(&mut self) {
        self.pc.nmi();
    }
}

/// Reads guest-physical memory as the monitor shows it: what is not RAM reads as zeros.
pub fn read_physical(ram: &GuestRam, address: u64, buffer: &mut [u8]) {
    if ram.read(address, buffer).is_ok() {
        return;
    }
    for (offset, byte) in buffer.iter_mut().enumerate() {
        let mut one = [0];
        *byte = match address.checked_add(offset as u64).map(|at| ram.read(at, &mut one)) {
            Some(Ok(())) => one[0],
            _ => 0,
        };
    }
}

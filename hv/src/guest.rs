//! A guest as the rest of the hypervisor sees it: the same on VMX and SVM.

use monovisor_arch::{GuestMemory, Vcpu};
use monovisor_host::uart::UartConfig;
use monovisor_insn as insn;
use monovisor_loader::{EntryState, apply};
use monovisor_machine::{Devices, Registers};
use monovisor_run::Run;

use crate::hmp::Snapshot;
use crate::machine::{Cold, Machine, SliceEnd};
use crate::ram::GuestRam;

/// A guest behind one pointer: the monitor and the services do not care which vendor's processors run it.
///
/// It is reached through its first processor, on which the monitor runs. Only the way from an exit back to the guest is
/// specialised; one call a slice is nothing to it.
pub trait Guest {
    /// Runs the first processor until something outside the guest wants it. The others run by themselves.
    fn slice(&mut self) -> SliceEnd;
    /// Asks for a slice to end at this host TSC.
    fn service_at(&mut self, tsc: Option<u64>);
    /// The physical timer has fired and is no longer set.
    fn timer_fired(&mut self);
    /// Back to power-up, RAM untouched; `running` says whether the guest runs.
    fn reset(&mut self, running: bool);
    /// Starts the first processor at a kernel's entry point.
    fn enter(&mut self, entry: &EntryState);
    /// Lets time pass, and all processors run.
    fn start(&mut self);
    /// Stops all processors, and time.
    fn stop(&mut self);
    /// Works on the devices.
    fn devices(&mut self, act: &mut dyn FnMut(&mut Devices));
    /// RAM.
    fn ram(&self) -> &'static GuestRam;
    /// How many processors there are.
    fn processors(&self) -> usize;
    /// The registers of a processor; `None` where there is no such processor.
    fn registers(&self, index: usize) -> Option<Registers>;
}

impl<V: Vcpu + 'static> Guest for Machine<V>
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

    fn reset(&mut self, running: bool) {
        self.cold().reset_all(running);
    }

    fn enter(&mut self, entry: &EntryState) {
        apply(entry, &mut self.vcpu);
    }

    fn start(&mut self) {
        self.cold().start_all();
    }

    fn stop(&mut self) {
        self.cold().stop_all();
    }

    fn devices(&mut self, act: &mut dyn FnMut(&mut Devices)) {
        self.with(act);
    }

    fn ram(&self) -> &'static GuestRam {
        self.shared().ram()
    }

    fn processors(&self) -> usize {
        self.shared().count()
    }

    fn registers(&self, index: usize) -> Option<Registers> {
        let machine: &Machine<dyn Vcpu> = self;
        machine.registers_of(index)
    }
}

impl dyn Guest + '_ {
    /// Moves bytes between the guest's serial port and its back end.
    pub fn pump_console(&mut self) {
        self.devices(&mut |devices| {
            if devices.pc.console_has_output() || devices.backend.has_input() {
                let now = devices.now();
                devices.pc.console_poll(now, &mut devices.backend);
            }
        });
    }

    /// Hands on what the guest has sent on its console; true while some of that has not left the line yet.
    pub fn flush_console(&mut self) -> bool {
        self.pump_console();
        let mut busy = false;
        self.devices(&mut |devices| {
            busy = devices.pc.console_has_output() || !devices.backend.console_is_idle()
        });
        busy
    }

    /// The host's line that the guest's serial port is wired to.
    pub fn console(&mut self) -> Option<UartConfig> {
        let mut console = None;
        self.devices(&mut |devices| console = devices.backend.console());
        console
    }

    /// The devices have a request.
    pub fn has_request(&mut self) -> bool {
        let mut request = false;
        self.devices(&mut |devices| request = devices.pc.has_request());
        request
    }

    /// Linear address of the next instruction, and whether the processor waits in HLT.
    pub fn cpu(&self, index: usize) -> Option<(u64, bool)> {
        self.registers(index).map(|registers| (registers.pc(), registers.halted))
    }

    /// All registers, as the human monitor shows them.
    pub fn snapshot(&self, index: usize) -> Option<Snapshot> {
        let registers = self.registers(index)?;
        Some(Snapshot::take(&registers, registers.debug, &registers.fpu, registers.halted, false))
    }

    /// Copies memory by linear address as a debugger does; how many bytes could be read.
    pub fn peek(&self, index: usize, address: u64, buffer: &mut [u8]) -> usize {
        self.registers(index).map_or(0, |registers| insn::peek(&registers, self.ram(), address, buffer))
    }

    /// Reads an I/O port of the guest's machine.
    pub fn port_read(&mut self, port: u16, size: u8) -> u32 {
        let mut value = 0;
        self.devices(&mut |devices| {
            let now = devices.now();
            value = devices.pc.io_read(port, size, now, &mut devices.backend);
        });
        value
    }

    /// Writes an I/O port of the guest's machine.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32) {
        self.devices(&mut |devices| {
            let now = devices.now();
            devices.pc.io_write(port, size, value, now, &mut devices.backend);
        });
    }

    /// Presses the power button.
    pub fn power_button(&mut self) {
        self.devices(&mut |devices| devices.pc.power_button());
    }

    /// Sends an NMI to every processor.
    pub fn nmi(&mut self) {
        self.devices(&mut |devices| devices.pc.nmi());
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

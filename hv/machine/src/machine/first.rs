//! What the first processor does for the whole guest: it serves the monitor.

use monovisor_arch::Vcpu;
use monovisor_host::timer;

use super::Machine;
use crate::registers::Registers;
use crate::shared::Order;

impl Machine<dyn Vcpu> {
    /// The whole machine back to power-up: processors, devices, MSRs. RAM and clock stay, as on a PC. `running` says
    /// whether the guest runs, and then goes on to do so.
    pub fn reset_all(&mut self, running: bool) {
        self.shared.order_others(Order::Park);
        self.with(|devices| {
            let now = devices.now();
            devices.pc.reset(now);
            devices.kvm_clock.reset();
        });
        self.reset();
        self.shared.order_others(Order::Reset);
        if running {
            // They wait for a start-up.
            self.shared.order_others(Order::Run);
        }
    }

    /// Lets the guest's time pass and its processors run.
    pub fn start_all(&mut self) {
        let ram = self.ram;
        self.with(|devices| {
            devices.clock.start(timer::now_tsc());
            // The guest's RTC goes on with the rig's time.
            let wall = devices.backend.wall_clock_us().saturating_mul(1000);
            let now = devices.now();
            devices.pc.set_wall_clock(wall.cast_signed(), now);
            devices.kvm_clock.set_wall_clock(wall.cast_signed(), now);
            devices.kvm_clock.resume(now, ram);
        });
        self.follow_clock();
        self.shared.order_others(Order::Run);
    }

    /// Stops all processors, and then the guest's time.
    pub fn stop_all(&mut self) {
        self.shared.order_others(Order::Park);
        self.with(|devices| devices.clock.stop(timer::now_tsc()));
        self.follow_clock();
    }

    /// The registers of a processor as they are now. `None` where there is no such processor.
    pub fn registers_of(&self, cpu: usize) -> Option<Registers> {
        if cpu != self.index {
            return self.shared.registers(cpu);
        }
        let mut registers = Registers::new();
        self.take_registers(&mut registers);
        Some(registers)
    }
}

//! MSR accesses, each to the part that owns the register.

use monovisor_arch::Vcpu;
use monovisor_arch::state::bits;
use monovisor_cpu::control;
use monovisor_devices::Pc;
use monovisor_devices::kvmclock::KvmClock;
use monovisor_host::timer;

use super::{Machine, host_cpuid};
use crate::policy::features;
use crate::policy::msr::Refused;
use crate::policy::words::Word;
use crate::shared::Devices;

const IA32_TSC: u32 = 0x10;
const IA32_APIC_BASE: u32 = 0x1b;
/// APIC_BASE.EN: the local APIC is there.
const APIC_BASE_ENABLE: u64 = 1 << 11;
/// APIC_BASE.EXTD: x2APIC mode.
const APIC_BASE_EXTD: u64 = 1 << 10;
const IA32_PAT: u32 = 0x277;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const X2APIC_ICR: u32 = 0x830;
const IA32_EFER: u32 = 0xc000_0080;

impl<V: Vcpu + ?Sized> Machine<V> {
    /// RDMSR. `None` is #GP.
    pub(super) fn msr(&mut self, index: u32) -> Option<u64> {
        match index {
            _ if !features::has_msr(&self.cpuid.context.features, index) => None,
            IA32_TSC => Some(self.guest_tsc()),
            _ if Pc::is_apic_msr(index) => {
                let (shared, vcpu) = (self.shared, self.index);
                shared.with(vcpu, |devices| {
                    self.open_local_apic(index, devices);
                    self.load_task_priority(devices);
                    let now = devices.now();
                    devices.pc.apic_msr_read(vcpu, index, now).ok()
                })
            }
            _ if KvmClock::is_msr(index) => {
                let vcpu = self.index;
                self.with(|devices| devices.kvm_clock.read_msr(vcpu, index).ok())
            }
            _ => self.vcpu.guest_msr(index).or_else(|| self.msrs.read(index).ok()),
        }
    }

    /// WRMSR. An error is #GP.
    pub(super) fn set_msr(&mut self, index: u32, value: u64) -> Result<(), Refused> {
        let features = &self.cpuid.context.features;
        match index {
            _ if !features::has_msr(features, index) => Err(Refused),
            // Without x2APIC its enable bit is reserved (SDM vol. 3, 11.12.1).
            IA32_APIC_BASE if value & APIC_BASE_EXTD != 0 && !features.has(Word::Ecx1, 21) => Err(Refused),
            IA32_TSC => {
                self.tsc_adjust = value.wrapping_sub(self.clock.guest_tsc(timer::now_tsc()));
                self.update_tsc_offset();
                Ok(())
            }
            _ if Pc::is_apic_msr(index) => {
                let (shared, vcpu) = (self.shared, self.index);
                let cr8 = shared.with(vcpu, |devices| {
                    self.open_local_apic(index, devices);
                    self.load_task_priority(devices);
                    let now = devices.now();
                    devices.pc.apic_msr_write(vcpu, index, value, now).map_err(|_| Refused)?;
                    Ok(devices.pc.cr8(vcpu))
                })?;
                if index == IA32_APIC_BASE {
                    self.cpuid.set_apic(value & APIC_BASE_ENABLE != 0, &host_cpuid);
                }
                self.store_task_priority(cr8);
                Ok(())
            }
            IA32_EFER => self.set_efer(value),
            IA32_PAT => {
                let value = control::pat_write(value).map_err(|_| Refused)?;
                if self.vcpu.set_guest_msr(index, value) { Ok(()) } else { Err(Refused) }
            }
            _ if KvmClock::is_msr(index) => {
                let (vcpu, ram) = (self.index, self.ram);
                self.with(|devices| {
                    let now = devices.now();
                    devices.kvm_clock.write_msr(vcpu, index, value, now, ram).map_err(|_| Refused)
                })
            }
            _ if self.vcpu.guest_msr(index).is_some() => {
                let la57 = self.vcpu.control().cr4 & bits::CR4_LA57 != 0;
                let canonical = !holds_address(index) || control::canonical(value, la57);
                if canonical && self.vcpu.set_guest_msr(index, value) { Ok(()) } else { Err(Refused) }
            }
            _ => self.msrs.write(index, value),
        }
    }

    /// Before an access to one of its MSRs; neither the deadline nor a command has to do with the interrupts that it has.
    fn open_local_apic(&mut self, index: u32, devices: &mut Devices) {
        if !matches!(index, IA32_TSC_DEADLINE | X2APIC_ICR) && self.handed_over {
            self.take_back(devices);
            self.look = true;
        }
    }

    fn set_efer(&mut self, value: u64) -> Result<(), Refused> {
        let mut control = self.vcpu.control();
        control.efer = control::efer_write(&control, value, &self.allowed).map_err(|_| Refused)?;
        self.vcpu.set_control(control);
        Ok(())
    }
}

/// The MSR holds a linear address, which WRMSR wants canonical (SDM vol. 2, WRMSR): SYSENTER_ESP and _EIP, LSTAR, CSTAR,
/// FS_BASE, GS_BASE, KERNEL_GS_BASE.
const fn holds_address(index: u32) -> bool {
    matches!(index, 0x175 | 0x176 | 0xc000_0082 | 0xc000_0083 | 0xc000_0100..=0xc000_0102)
}

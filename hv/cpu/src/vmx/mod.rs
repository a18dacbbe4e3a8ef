//! Intel VMX (SDM vol. 3, chapters 24 to 28): one virtual processor on one physical CPU.
//!
//! - [`Root`] switches VMX on and off on a CPU; [`Capabilities`] says what it can do and what follows for the controls.
//! - [`Vmx`] is the virtual processor. It owns the CPU's `Root`, so that there is never more than one VMCS to keep
//!   track of and none has to be switched.
//!
//! What is switched where: general registers and extended state by the world switch; what the VMCS has (segments, control
//! registers, RSP, RIP, RFLAGS, DR7, EFER, PAT, SYSENTER, FS and GS base) by the CPU. CR2, DR0 to DR3, DR6, and the MSRs
//! of SYSCALL, KERNEL_GS_BASE and TSC_AUX are not switched at all: the host has no use for them, so the guest's values stay
//! in the CPU.
//!
//! What the guest owns: PE, PG and all but NE, CD and NW of CR0, under "unrestricted guest"; all of CR4 that it may have,
//! but MCE; CR3 and, through the TPR shadow, CR8. A write to a bit that it does not own exits. A legal one only changes the
//! read shadow, and the instruction runs again: this time it finds nothing to exit for, and the CPU does all the rest
//! (PDPTEs, LMA, TLB, faults) as on bare metal.
//!
//! Not done: XSAVES components of IA32_XSS, and hiding RDTSCP, INVPCID and XSAVES from a guest whose CPUID does
//! not list them: they work wherever the CPU has them.

mod bitmap;
mod capability;
mod check;
mod control;
mod decode;
mod entry;
mod error;
mod field;
mod instruction;
mod root;
mod setup;
mod state;
mod vcpu;
mod vmcs;

use monovisor_arch::PostedInterrupts;
use monovisor_arch::state::bits::{CR0_CD, CR0_NE, CR0_NW, CR0_PE, CR0_PG, CR4_MCE, CR4_VMXE};

pub use capability::{Capabilities, Facts};
pub use decode::reason_name;
pub use error::{VmxError, instruction_error};
pub use instruction::{rdmsr, wrmsr};
pub use root::{EnableError, Page, Root};

use crate::control::Allowed;
use crate::inject::EventQueue;
use crate::xstate::XState;
use entry::Context;
use vmcs::Vmcs;

/// Memory that the CPU works on for one virtual processor: 20 KiB and the extended state. Zeroed, so that it can be a static.
#[repr(C)]
pub struct Memory {
    vmcs: Page,
    msr_bitmap: Page,
    io_bitmaps: [Page; 2],
    virtual_apic: Page,
    xstate: XState,
    posted: PostedInterrupts,
}

impl Memory {
    /// All zero.
    pub const fn new() -> Self {
        Self {
            vmcs: Page::new(),
            msr_bitmap: Page::new(),
            io_bitmaps: [const { Page::new() }; 2],
            virtual_apic: Page::new(),
            xstate: XState::new(),
            posted: PostedInterrupts::new(),
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

/// What a virtual processor is made for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Physical address of the root of the guest's extended page tables.
    pub ept_root: u64,
    /// Tag for cached translations, not 0, and different for each virtual processor that this physical CPU ever runs.
    pub vpid: u16,
    /// Control bits and instructions that the guest's CPU model has.
    pub allowed: Allowed,
    /// Let the CPU take posted interrupts without an exit, where it can.
    pub posted: bool,
}

/// Bits of the interruptibility state (SDM vol. 3, table 25-3).
mod interruptibility {
    pub const STI: u64 = 1;
    pub const MOV_SS: u64 = 1 << 1;
    pub const NMI: u64 = 1 << 3;
    /// The next instruction's shadow, either kind.
    pub const SHADOW: u64 = STI | MOV_SS;
}

/// One virtual processor. It stays on the physical CPU that it was made on.
pub struct Vmx {
    vmcs: Vmcs,
    context: Context,
    queue: EventQueue,
    xstate: &'static mut XState,
    msr_bitmap: &'static mut Page,
    io_bitmaps: &'static mut [Page; 2],
    virtual_apic: &'static mut Page,
    ept_pointer: u64,
    vpid: u16,
    allowed: Allowed,
    cr0_mask: u64,
    cr4_mask: u64,
    /// Primary controls as they are in the VMCS.
    primary: u32,
    /// Secondary controls without those for interrupts that the CPU delivers.
    secondary: u32,
    /// The CPU delivers interrupts by itself.
    virtual_delivery: bool,
    /// What others post for that.
    posted: &'static PostedInterrupts,
    /// It takes them by itself, too, when it delivers interrupts by itself.
    takes_posted: bool,
    /// The EOI-exit bitmap as it is in the VMCS.
    told: [u32; 8],
    /// Basic reason of the last exit.
    reason: u16,
    /// The last exit's instruction length leads to the next instruction: RIP has not been changed since.
    length_valid: bool,
    /// A single-step trap waits for the next entry. It comes before interrupts, and injecting one would lose it
    /// (SDM vol. 3, 6.9, 27.7.3).
    step_due: bool,
    /// Drop linear translations before the next entry.
    flush_linear: bool,
    /// Drop guest-physical translations before the next entry, and so all.
    flush_physical: bool,
    /// RDTSCP or RDPID, and so IA32_TSC_AUX, is there.
    tsc_aux: bool,
}

/// CR0 bits that the guest does not own: those VMX insists on, and those that VM entry never loads.
const fn cr0_mask(capabilities: &Capabilities) -> u64 {
    let insisted = capabilities.cr0_fixed0 & !(CR0_PE | CR0_PG) | !capabilities.cr0_fixed1;
    (insisted | CR0_NE | CR0_CD | CR0_NW) & 0xffff_ffff
}

/// CR4 bits that the guest does not own: those VMX insists on, those the guest's CPUID does not have, and MCE, which stays on
/// in the CPU whatever the guest says, since a machine check without it resets the rig.
const fn cr4_mask(capabilities: &Capabilities, allowed: &Allowed) -> u64 {
    capabilities.cr4_fixed0 | !capabilities.cr4_fixed1 | !allowed.cr4 | CR4_VMXE | CR4_MCE
}

impl Vmx {
    /// The CPU's VMX, for what it can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.vmcs.root().capabilities
    }

    /// Name of the last exit's reason (SDM vol. 3, appendix C).
    pub fn exit_name(&self) -> &'static str {
        reason_name(self.reason)
    }

    /// Lets the guest use `count` ports from `first` on without an exit. Only for ports of hardware that it is given.
    pub fn open_ports(&mut self, first: u16, count: u16) {
        bitmap::open_ports(self.io_bitmaps, first, count);
    }

    /// Gives the virtual processor up: the VMCS is cleared and the CPU can leave VMX operation.
    pub fn give_up(self) -> Root {
        self.vmcs.clear()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_what_the_guest_must_not_own() {
        let capabilities = Capabilities {
            cr0_fixed0: 0x8000_0021,
            cr0_fixed1: 0xffff_ffff,
            cr4_fixed0: 0x2000,
            cr4_fixed1: 0x0037_27ff,
            ..Default::default()
        };
        assert_eq!(cr0_mask(&capabilities), CR0_NE | CR0_CD | CR0_NW);
        let allowed = Allowed {
            efer: 0,
            cr4: 0x0037_07ff,
            cr4_checked: true,
            xcr0: 0,
            invpcid: true,
            rdtscp: true,
            rdpid: true,
            rdpru: false,
            spec_ctrl: 0,
            predictor_commands: false,
            flush_command: false,
        };
        assert_eq!(!cr4_mask(&capabilities, &allowed), 0x0037_07ff & !CR4_MCE);
    }
}

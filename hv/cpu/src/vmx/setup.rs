//! Making a virtual processor: controls, host state, and the guest's state after power-up.

use core::arch::x86_64::__cpuid;

use monovisor_arch::state::bits::{CR0_CD, CR0_ET, CR0_NW, RFLAGS_FIXED};
use monovisor_arch::{Control, DescriptorTable, Gpr, Segment, SegmentName, Vcpu, VcpuState, vector};
use monovisor_host::interrupts::NOTIFICATION_VECTOR;
use monovisor_host::timer;
use x86_64::instructions::tables::{sgdt, sidt};
use x86_64::registers::control::{Cr0, Cr3, Cr4};
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment as _};

use super::control::{pin, secondary};
use super::entry::{Context, exited, exited_guarded};
use super::field::Field;
use super::instruction::{rdmsr, task_register};
use super::root::{EnableError, Root};
use super::state::msr;
use super::vmcs::{Slot, Vmcs};
use super::{Memory, Settings, Vmx, bitmap, cr0_mask, cr4_mask};
use crate::control::Allowed;
use crate::inject::EventQueue;
use crate::speculation::{Barriers, FLUSH_CMD, PRED_CMD};

/// IA32_PAT after power-up (SDM vol. 3, 12.12.4).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// DR6 and DR7 after power-up (SDM vol. 3, table 10-1).
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;
/// Offset of the task priority in the virtual-APIC page.
pub(super) const VIRTUAL_TPR: usize = 0x80;

/// Exceptions that exit. #DB and #AC since a guest can arrange that delivering them raises them again for ever, with
/// no exit in between; #UD since it may be the other vendor's hypercall instruction; #MC since it is the host's.
const EXCEPTIONS: u64 = 1 << vector::DB | 1 << vector::UD | 1 << vector::AC | 1 << vector::MC;

/// A guest that runs for this part of a second without any exit has one, by the VMX-preemption timer: the host stays in
/// charge even where an interrupt of its own gets lost. (Bochs 2.7 does not see interrupts for a guest that is entered with
/// RFLAGS.IF clear until the guest writes it.) The CPU starts the timer anew at each entry, so that this costs nothing.
const SLICES_PER_SECOND: u64 = 100;

/// The host has no task, or one that cannot be a 64-bit TSS.
const NO_TASK: &str = "the host's task register holds no 64-bit TSS";

impl Vmx {
    /// Makes a virtual processor in the state after power-up, on the CPU that `root` is of.
    ///
    /// # Safety
    /// At CPL 0, in 64-bit mode, interrupts off; RAM is mapped identity and write-back. GDT, IDT and TSS of this CPU stay
    /// where they are, CR3 keeps its meaning, the IDT has an NMI handler that returns. Nothing on this CPU uses CR2 (but
    /// the handler of a fault that is fatal anyway), DR0 to DR3, DR6, the SYSCALL MSRs, KERNEL_GS_BASE or TSC_AUX. The pages
    /// that the tables at `settings.ept_root` map are RAM that no host code takes a Rust reference to.
    pub unsafe fn new(
        root: Root,
        memory: &'static mut Memory,
        settings: &Settings,
    ) -> Result<Self, (Root, EnableError)> {
        let capabilities = root.capabilities;
        let Memory { vmcs, msr_bitmap, io_bitmaps, virtual_apic, xstate, posted } = memory;
        if capabilities.regions_32_bit && virtual_apic.address() >> 32 != 0 {
            return Err((root, EnableError::RegionTooHigh));
        }
        // Turns XSAVE on, so before the host's CR4 is taken down.
        xstate.init();
        // SAFETY: the caller's promise about GDT and TSS.
        let Some(task) = (unsafe { host_task() }) else { return Err((root, EnableError::Failed(NO_TASK))) };
        let vmcs = match Vmcs::new(root, vmcs) {
            Ok(vmcs) => vmcs,
            Err((root, error)) => return Err((root, EnableError::Failed(error.reason()))),
        };
        // What the CPU has not, the guest has not.
        let allowed = Allowed { cr4: settings.allowed.cr4 & capabilities.cr4_fixed1, ..settings.allowed };
        let mut context = Context::new(core::ptr::from_mut(xstate));
        // SAFETY: CPL 0 by the caller, and these MSRs are nobody else's.
        context.barriers = unsafe { Barriers::begin(&allowed) };
        let mut vcpu = Self {
            vmcs,
            context,
            queue: EventQueue::new(),
            xstate,
            msr_bitmap,
            io_bitmaps,
            virtual_apic,
            ept_pointer: capabilities.ept_pointer | settings.ept_root,
            vpid: settings.vpid.max(1),
            allowed,
            cr0_mask: cr0_mask(&capabilities),
            cr4_mask: cr4_mask(&capabilities, &allowed),
            primary: capabilities.primary,
            secondary: secondary_controls(capabilities.secondary, &allowed),
            virtual_delivery: false,
            posted,
            takes_posted: capabilities.posted && settings.posted,
            told: [0; 8],
            reason: 0,
            length_valid: false,
            step_due: false,
            flush_linear: true,
            flush_physical: true,
            tsc_aux: has_tsc_aux() && allowed.tsc_aux(),
        };
        vcpu.write_controls();
        // SAFETY: CPL 0 by the caller.
        unsafe { vcpu.write_host_state(&task) };
        vcpu.reset();
        match vcpu.vmcs.fault() {
            None => Ok(vcpu),
            Some(field) => Err((vcpu.give_up(), EnableError::Failed(field.name()))),
        }
    }

    /// Everything in the VMCS that says what exits and where the CPU finds its tables.
    fn write_controls(&mut self) {
        let capabilities = *self.capabilities();
        bitmap::fill_msr(self.msr_bitmap, self.tsc_aux);
        if self.allowed.predictor_commands {
            bitmap::open_msr(self.msr_bitmap, PRED_CMD);
        }
        if self.allowed.flush_command {
            bitmap::open_msr(self.msr_bitmap, FLUSH_CMD);
        }
        bitmap::fill_io(self.io_bitmaps);
        let [low_ports, high_ports] = &*self.io_bitmaps;
        let addresses = [
            (Field::IO_BITMAP_A, low_ports.address()),
            (Field::IO_BITMAP_B, high_ports.address()),
            (Field::MSR_BITMAP, self.msr_bitmap.address()),
            (Field::VIRTUAL_APIC, self.virtual_apic.address()),
            (Field::EPT_POINTER, self.ept_pointer),
        ];
        for (field, address) in addresses {
            self.vmcs.write(field, address);
        }
        for (field, setting) in [
            (Field::PIN_CONTROLS, capabilities.pin),
            (Field::PRIMARY_CONTROLS, capabilities.primary),
            (Field::SECONDARY_CONTROLS, self.secondary),
            (Field::EXIT_CONTROLS, capabilities.exit),
            (Field::ENTRY_CONTROLS, capabilities.entry),
        ] {
            self.vmcs.write(field, u64::from(setting));
        }
        self.vmcs.write(Field::EXCEPTION_BITMAP, EXCEPTIONS);
        for field in [
            // Page faults exit if (error code & mask) = match and bit 14 is set: never.
            Field::PAGE_FAULT_MASK,
            Field::PAGE_FAULT_MATCH,
            Field::CR3_TARGET_COUNT,
            Field::EXIT_MSR_STORE_COUNT,
            Field::EXIT_MSR_LOAD_COUNT,
            Field::ENTRY_MSR_LOAD_COUNT,
            Field::ENTRY_INTERRUPTION,
            Field::TPR_THRESHOLD,
            Field::TSC_OFFSET,
        ] {
            self.vmcs.write(field, 0);
        }
        if capabilities.virtual_delivery {
            for index in 0..4 {
                self.vmcs.write(Field::EOI_EXIT_BITMAP.of_segment(index), 0);
            }
        }
        if self.takes_posted {
            self.vmcs.write(Field::NOTIFICATION_VECTOR, u64::from(NOTIFICATION_VECTOR));
            self.vmcs.write(Field::POSTED_INTERRUPTS, core::ptr::from_ref(self.posted) as u64);
        }
        if capabilities.vpid() {
            self.vmcs.write(Field::VPID, u64::from(self.vpid));
        }
        if capabilities.secondary & secondary::XSAVES != 0 {
            // IA32_XSS is 0 in host and guest; should it ever not be, XSAVES of such a component exits.
            self.vmcs.write(Field::XSS_EXITING_BITMAP, u64::MAX);
        }
        if capabilities.pin & pin::PREEMPTION_TIMER != 0 {
            let ticks = (timer::tsc_hz() / SLICES_PER_SECOND) >> capabilities.preemption_shift;
            self.vmcs.write(Field::PREEMPTION_TIMER, ticks.clamp(1, u64::from(u32::MAX)));
        }
        self.vmcs.write(Field::CR0_MASK, self.cr0_mask);
        self.vmcs.write(Field::CR4_MASK, self.cr4_mask);
        // No shadow VMCS.
        self.vmcs.write(Field::VMCS_LINK_POINTER, u64::MAX);
    }

    /// What a VM exit loads (SDM vol. 3, 25.5 and 27.2.2): the host as it is now.
    ///
    /// # Safety
    /// At CPL 0, and what is read here stays true for this CPU.
    unsafe fn write_host_state(&mut self, task: &Task) {
        // RPL and TI must be 0; a null DS, ES or SS is fine for 64-bit code at CPL 0, so FS and GS, whose bases have
        // fields of their own, are null.
        let selector = |value: u16| u64::from(value & !7);
        // SAFETY: CPL 0; these MSRs exist in every CPU with long mode.
        let (efer, pat, fs_base, gs_base) =
            unsafe { (rdmsr(msr::EFER), rdmsr(msr::PAT), rdmsr(msr::FS_BASE), rdmsr(msr::GS_BASE)) };
        let (page_table, flags) = Cr3::read_raw();
        let continuation = if self.context.barriers.after_exit() {
            exited_guarded as *const ()
        } else {
            exited as *const ()
        };
        for (field, value) in [
            (Field::HOST_CR0, Cr0::read_raw()),
            (Field::HOST_CR3, page_table.start_address().as_u64() | u64::from(flags)),
            (Field::HOST_CR4, Cr4::read_raw()),
            (Field::HOST_EFER, efer),
            (Field::HOST_PAT, pat),
            (Field::HOST_ES_SELECTOR, selector(ES::get_reg().0)),
            (Field::HOST_CS_SELECTOR, selector(CS::get_reg().0)),
            (Field::HOST_SS_SELECTOR, selector(SS::get_reg().0)),
            (Field::HOST_DS_SELECTOR, selector(DS::get_reg().0)),
            (Field::HOST_FS_SELECTOR, 0),
            (Field::HOST_GS_SELECTOR, 0),
            (Field::HOST_TR_SELECTOR, selector(task.selector)),
            (Field::HOST_TR_BASE, task.base),
            (Field::HOST_FS_BASE, fs_base),
            (Field::HOST_GS_BASE, gs_base),
            (Field::HOST_GDTR_BASE, sgdt().base.as_u64()),
            (Field::HOST_IDTR_BASE, sidt().base.as_u64()),
            // The host makes no system calls.
            (Field::HOST_SYSENTER_CS, 0),
            (Field::HOST_SYSENTER_ESP, 0),
            (Field::HOST_SYSENTER_EIP, 0),
            (Field::HOST_RIP, continuation as u64),
        ] {
            self.vmcs.write(field, value);
        }
    }

    /// The guest's state after power-up (SDM vol. 3, table 10-1).
    pub(super) fn power_up(&mut self) {
        self.start_over(CR0_CD | CR0_NW);
        for index in [
            msr::SYSENTER_CS,
            msr::SYSENTER_ESP,
            msr::SYSENTER_EIP,
            msr::DEBUGCTL,
            msr::STAR,
            msr::LSTAR,
            msr::CSTAR,
            msr::FMASK,
            msr::KERNEL_GS_BASE,
            msr::TSC_AUX,
        ] {
            // TSC_AUX is refused where the CPU has none.
            self.set_guest_msr(index, 0);
        }
        self.set_guest_msr(msr::PAT, PAT_RESET);
        self.context.barriers.reset();
        self.xstate.reset();
    }

    /// To the reset vector, with `caching` in CR0: what INIT does, too.
    pub(super) fn start_over(&mut self, caching: u64) {
        let data = Segment { selector: 0, base: 0, limit: 0xffff, access: 0x93 };
        for name in [SegmentName::Es, SegmentName::Ss, SegmentName::Ds, SegmentName::Fs, SegmentName::Gs] {
            self.set_segment(name, data);
        }
        let code = Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, access: 0x9b };
        self.set_segment(SegmentName::Cs, code);
        self.set_segment(SegmentName::Ldtr, Segment { access: 0x82, ..data });
        // VM entry wants TR busy.
        self.set_segment(SegmentName::Tr, Segment { access: 0x8b, ..data });
        let table = DescriptorTable { base: 0, limit: 0xffff };
        self.set_gdtr(table);
        self.set_idtr(table);
        self.set_control(Control { cr0: CR0_ET | caching, ..Default::default() });
        for register in Gpr::ALL {
            self.set_gpr(register, 0);
        }
        self.set_gpr(Gpr::Rdx, u64::from(__cpuid(1).eax));
        self.set_rflags(RFLAGS_FIXED);
        self.set_rip(0xfff0);
        self.set_debug_registers([0, 0, 0, 0, DR6_RESET, DR7_RESET]);
        self.vmcs.set(Slot::Interruptibility, 0);
        // Active, always: HLT exits, and what wakes a halted guest is the caller's to know.
        self.vmcs.write(Field::GUEST_ACTIVITY, 0);
        self.vmcs.write(Field::GUEST_PENDING_DEBUG, 0);
        self.step_due = false;
        self.vmcs.write(Field::ENTRY_INTERRUPTION, 0);
        self.queue.clear();
        self.context.barriers.restart();
        self.set_virtual_delivery(false);
        // Nobody posts now.
        self.posted.take();
        self.set_tpr(0);
        self.set_interrupt_window(false);
        self.set_nmi_window(false);
        self.flush_tlb();
    }
}

/// The secondary controls for this model: what it has not raises #UD.
const fn secondary_controls(possible: u32, allowed: &Allowed) -> u32 {
    let hidden = if allowed.invpcid { 0 } else { secondary::INVPCID }
        | if allowed.tsc_aux() { 0 } else { secondary::RDTSCP };
    possible & !hidden
}

/// RDTSCP (CPUID.80000001H:EDX bit 27) or RDPID (CPUID.07H:ECX bit 22).
fn has_tsc_aux() -> bool {
    __cpuid(0x8000_0001).edx & 1 << 27 != 0 || __cpuid(0).eax >= 7 && __cpuid(7).ecx & 1 << 22 != 0
}

/// The host's task register.
struct Task {
    selector: u16,
    base: u64,
}

/// Finds the TSS that the host runs on; `None` if the task register does not name a 64-bit TSS of the GDT.
///
/// # Safety
/// At CPL 0 with a GDT in place.
unsafe fn host_task() -> Option<Task> {
    // SAFETY: CPL 0 by the caller.
    let selector = unsafe { task_register() };
    let table = sgdt();
    let offset = selector & !7;
    // A null selector, one of the LDT, or a descriptor (16 bytes) that the table does not hold whole.
    if offset == 0 || selector & 4 != 0 || offset.checked_add(15)? > table.limit {
        return None;
    }
    // SAFETY: the descriptor lies within the GDT, as just checked; descriptors are aligned to 8 bytes as far as the table
    // is, and the read does not rely on it.
    let [low, high] = unsafe {
        core::ptr::read_unaligned(table.base.as_ptr::<u8>().add(usize::from(offset)).cast::<[u64; 2]>())
    };
    task_base(low, high).map(|base| Task { selector, base })
}

/// Base of a busy 64-bit TSS descriptor (SDM vol. 3, figure 8-4).
fn task_base(low: u64, high: u64) -> Option<u64> {
    const BUSY_TSS: u64 = 0x8b;
    if low >> 40 & 0x9f != BUSY_TSS {
        return None;
    }
    Some(low >> 16 & 0xff_ffff | low >> 32 & 0xff00_0000 | (high & 0xffff_ffff) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_base_is_put_together() {
        assert_eq!(task_base(0x1200_8b34_5678_0067, 0xffff_8000), Some(0xffff_8000_1234_5678));
        assert_eq!(task_base(0x1200_8934_5678_0067, 0), None, "available, not busy");
        assert_eq!(task_base(0, 0), None);
    }
}

//! The barriers around an entry of the guest.

use core::arch::naked_asm;
use core::mem::offset_of;

use monovisor_host::traps::{self, DATA_SELECTOR};

use super::{ARCH_CAPABILITIES, Chip, FLUSH_CMD, PRED_CMD, SHOWN_CAPABILITIES, SPEC_CTRL, decide, measure};
use crate::control::Allowed;
use crate::vmx::{rdmsr, wrmsr};

/// SPEC_CTRL of host and guest differ, or may come to: it is switched.
const SWITCH: u32 = 1 << 20;
/// The guest writes SPEC_CTRL without an exit: it is read on each.
const READ: u32 = 1 << 21;
/// The cache is to be flushed before the next entry.
const FLUSH_DUE: u32 = 1 << 22;

/// Either of these: [`before_entry`] is to be called.
pub const BEFORE_ENTRY: u32 = SWITCH | FLUSH_DUE;
/// This one: [`after_exit`] is to be called.
pub const AFTER_EXIT: u32 = SWITCH;

/// Operand of VERW. It clears the buffers with any, but a selector of a writable segment is the quickest (Intel's article on
/// MDS); in memory, as the register form clears nothing.
pub static SELECTOR: u16 = DATA_SELECTOR;

/// Measures that are bits of an MSR which stay set: EFER.AIBRSE (APM vol. 2, 3.1.7); RTM_DISABLE and TSX_CPUID_CLEAR of
/// IA32_TSX_CTRL; AMD's BP_CFG.BpSpecReduce and the bit of DE_CFG that has LFENCE wait.
const SET_ONCE: [(u32, u32, u64); 4] = [
    (measure::AUTO_IBRS, crate::msr::EFER, 1 << 21),
    (measure::TSX_OFF, 0x122, 0b11),
    (measure::SPEC_REDUCE, 0xc001_102e, 1 << 4),
    (measure::FENCE, 0xc001_1029, 1 << 1),
];
/// PRED_CMD: IBPB. FLUSH_CMD: L1D_FLUSH.
const COMMAND: u32 = 1;

/// What one processor does around its entries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Barriers {
    measures: u32,
    /// SPEC_CTRL that the guest runs with.
    guest: u32,
    /// SPEC_CTRL that the host runs with.
    host: u32,
}

impl Barriers {
    /// Nothing at all.
    pub const NONE: Self = Self { measures: 0, guest: 0, host: 0 };

    /// Where the measures are, for the assembly.
    pub const MEASURES: usize = offset_of!(Self, measures);
    /// VERW is the last instruction before an entry.
    pub const VERW: u32 = measure::VERW;

    /// Protects the host on this processor, from now on.
    ///
    /// # Safety
    /// At CPL 0, and nothing else in the host writes SPEC_CTRL, TSX_CTRL or EFER.AIBRSE.
    #[cold]
    pub unsafe fn begin(allowed: &Allowed) -> Self {
        // SAFETY: CPL 0 by the caller.
        let decision = decide(&unsafe { Chip::read() });
        let mut barriers = Self { measures: decision.measures, guest: 0, host: decision.host };
        let guests_own = allowed.spec_ctrl != 0 && !barriers.does(measure::VIRTUAL);
        if decision.host != 0 || guests_own {
            barriers.measures |= SWITCH;
        }
        // SAFETY: CPL 0 by the caller.
        unsafe { barriers.protect_host() };
        for (measure, msr, bits) in SET_ONCE {
            // The family alone tells of AMD's two: a hypervisor below may have taken them away.
            if barriers.does(measure)
                && let Some(value) = traps::read_msr(msr)
                && value & bits != bits
            {
                // SAFETY: CPL 0 by the caller. `decide` asks for what CPUID, IA32_ARCH_CAPABILITIES or the family says is
                // there, and the MSR could be read. These bits change how the processor predicts, and that TSX aborts, not
                // what instructions of the host do.
                unsafe { wrmsr(msr, value | bits) };
            }
        }
        barriers
    }

    const fn does(&self, measure: u32) -> bool {
        self.measures & measure != 0
    }

    /// The host's SPEC_CTRL, when an exit has not brought it.
    ///
    /// # Safety
    /// At CPL 0, and `self` is what [`Self::begin`] has made for this processor.
    #[inline(never)]
    pub unsafe fn protect_host(&self) {
        if self.does(SWITCH) {
            // SAFETY: CPL 0; there is the MSR, with these bits, where it is switched.
            unsafe { wrmsr(SPEC_CTRL, self.host.into()) };
        }
    }

    /// [`after_exit`] is to be called after each.
    pub const fn after_exit(&self) -> bool {
        self.does(AFTER_EXIT)
    }

    /// SVM switches SPEC_CTRL, and the guest may write it.
    pub const fn is_virtual(&self) -> bool {
        self.does(measure::VIRTUAL)
    }

    /// The host has run: before the next entry, nothing of that is to be left in the cache.
    #[inline]
    pub const fn begin_slice(&mut self) {
        if self.does(measure::FLUSH) {
            self.measures |= FLUSH_DUE;
        }
    }

    /// The guest's SPEC_CTRL as after power-up. Until the guest writes it, it runs with the host's where that costs it
    /// nothing, as it spares two writes for each exit.
    #[inline(never)]
    pub fn restart(&mut self) {
        self.guest = if self.does(READ | measure::ALWAYS) { 0 } else { self.host };
    }

    /// Has the guest begin anew: what ran before has not trained the branches of what comes.
    #[inline(never)]
    pub fn reset(&mut self) {
        self.restart();
        if self.does(measure::IBPB) {
            // SAFETY: measures are set by `begin` alone, at CPL 0, and this one where CPUID has the MSR.
            unsafe { wrmsr(PRED_CMD, COMMAND.into()) };
        }
    }

    /// A guest's MSR that is kept here.
    pub fn msr(&self, index: u32) -> Option<u64> {
        match index {
            SPEC_CTRL if self.does(SWITCH) => Some(if self.does(READ) { self.guest.into() } else { 0 }),
            ARCH_CAPABILITIES if self.does(measure::CAPABILITIES) => {
                // SAFETY: measures are set by `begin` alone, at CPL 0, and this one where CPUID has the MSR.
                Some(unsafe { rdmsr(index) } & SHOWN_CAPABILITIES)
            }
            _ => None,
        }
    }

    /// Sets the guest's SPEC_CTRL; `None` where the guest may not have the value. True says that from now on the guest is to
    /// reach the MSR without an exit: who writes it once does so often.
    pub const fn set_spec_ctrl(&mut self, value: u64, allowed: &Allowed) -> Option<bool> {
        if value & !(allowed.spec_ctrl as u64) != 0 || !self.does(SWITCH) {
            return None;
        }
        let opens = value != 0 && !self.does(READ);
        if opens {
            self.measures |= READ;
        }
        if self.does(READ) {
            self.guest = value as u32;
        }
        Some(opens)
    }
}

/// To be called from the assembly that enters the guest, with RDI = the [`Barriers`], where one of [`BEFORE_ENTRY`] is set;
/// changes RAX, RCX, RDX and flags. No branch of the host but direct ones, and one return, may come between this and the entry.
///
/// # Safety
/// At CPL 0; RDI points to what [`Barriers::begin`] has made for this processor.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn before_entry() {
    naked_asm!(
        "btr dword ptr [rdi + {measures}], {flush_due}",
        "jnc 2f",
        "mov ecx, {flush_cmd}",
        "mov eax, {command}",
        "xor edx, edx",
        "wrmsr",
        "2:",
        "mov eax, [rdi + {guest}]",
        "cmp eax, [rdi + {host}]",
        "je 3f",
        "mov ecx, {spec_ctrl}",
        "xor edx, edx",
        "wrmsr",
        "3:",
        "ret",
        measures = const offset_of!(Barriers, measures),
        guest = const offset_of!(Barriers, guest),
        host = const offset_of!(Barriers, host),
        flush_due = const FLUSH_DUE.trailing_zeros(),
        flush_cmd = const FLUSH_CMD,
        spec_ctrl = const SPEC_CTRL,
        command = const COMMAND,
    )
}

/// To be called from the assembly that has left the guest, with RDI = the [`Barriers`], where [`AFTER_EXIT`] is set, before
/// any return whose call came before the entry, and any indirect branch; changes RAX, RCX, RDX and flags.
///
/// The return stack is filled first, by calls that nothing returns from: with 32 entries more than any chip has, or with one,
/// which is what a chip with lasting IBRS needs before the first return (PBRSB). Whatever a return then runs ahead to is a
/// fence. Branches here may have been trained by the guest; the fence at the end is behind all of them.
///
/// # Safety
/// As for [`before_entry`].
#[unsafe(naked)]
pub unsafe extern "sysv64" fn after_exit() {
    naked_asm!(
        "mov ecx, 1",
        "test dword ptr [rdi + {measures}], {returns}",
        "jz 2f",
        "mov ecx, 33",
        "2:",
        "mov eax, ecx",
        "3:",
        "call 5f",
        "4:",
        "lfence",
        "jmp 4b",
        "5:",
        "dec eax",
        "jnz 3b",
        "lea rsp, [rsp + 8 * rcx]",
        "lfence",
        "mov ecx, {spec_ctrl}",
        "test dword ptr [rdi + {measures}], {read}",
        "jz 6f",
        "rdmsr",
        "mov [rdi + {guest}], eax",
        "6:",
        "mov eax, [rdi + {host}]",
        "test dword ptr [rdi + {measures}], {always}",
        "jnz 7f",
        "cmp eax, [rdi + {guest}]",
        "je 8f",
        "7:",
        "xor edx, edx",
        "wrmsr",
        "8:",
        "lfence",
        "ret",
        measures = const offset_of!(Barriers, measures),
        guest = const offset_of!(Barriers, guest),
        host = const offset_of!(Barriers, host),
        returns = const measure::RETURNS,
        read = const READ,
        always = const measure::ALWAYS,
        spec_ctrl = const SPEC_CTRL,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::arch::asm;

    fn allowed(spec_ctrl: u32) -> Allowed {
        Allowed {
            efer: 0,
            cr4: 0,
            cr4_checked: false,
            xcr0: 0,
            invpcid: false,
            rdtscp: false,
            rdpid: false,
            rdpru: false,
            spec_ctrl,
            predictor_commands: false,
            flush_command: false,
        }
    }

    /// Both ways, with nothing that takes CPL 0; the stack pointer must be where it was.
    fn go_round(barriers: &mut Barriers) {
        let (before, after): (u64, u64);
        // SAFETY: with equal values of SPEC_CTRL and no flush due no MSR is touched; what changes is named.
        unsafe {
            asm!(
                "mov {before}, rsp",
                "call {enter}",
                "verw word ptr [rip + {selector}]",
                "call {leave}",
                "mov {after}, rsp",
                before = out(reg) before,
                after = out(reg) after,
                enter = sym before_entry,
                leave = sym after_exit,
                selector = sym SELECTOR,
                in("rdi") core::ptr::from_mut(barriers),
                out("rax") _,
                out("rcx") _,
                out("rdx") _,
            );
        }
        assert_eq!(before, after);
    }

    #[test]
    fn filling_the_return_stack_leaves_the_stack_alone() {
        for measures in [0, measure::RETURNS, measure::VERW | SWITCH] {
            for _ in 0..3 {
                go_round(&mut Barriers { measures, guest: 5, host: 5 });
            }
        }
    }

    #[test]
    fn a_flush_is_due_once_a_slice_where_the_chip_needs_it() {
        let mut barriers = Barriers { measures: measure::FLUSH, guest: 0, host: 0 };
        assert_eq!(barriers.measures & BEFORE_ENTRY, 0);
        barriers.begin_slice();
        assert_eq!(barriers.measures, measure::FLUSH | FLUSH_DUE);
        let mut none = Barriers::NONE;
        none.begin_slice();
        assert_eq!(none.measures, 0);
    }

    #[test]
    fn the_guests_spec_ctrl_is_its_own() {
        // A chip with lasting IBRS: the guest begins with the host's value, and reads its own.
        let mut barriers = Barriers { measures: SWITCH, guest: 0, host: 1 };
        barriers.restart();
        assert_eq!((barriers.guest, barriers.msr(SPEC_CTRL)), (1, Some(0)));
        assert_eq!(barriers.set_spec_ctrl(0, &allowed(0b111)), Some(false));
        assert_eq!(barriers.guest, 1);
        assert_eq!(barriers.set_spec_ctrl(0b100, &allowed(0b111)), Some(true));
        assert_eq!((barriers.guest, barriers.msr(SPEC_CTRL)), (0b100, Some(0b100)));
        assert_eq!(barriers.set_spec_ctrl(0, &allowed(0b111)), Some(false));
        assert_eq!(barriers.guest, 0);
        assert_eq!(barriers.set_spec_ctrl(1 << 10, &allowed(0b111)), None);
        assert_eq!(barriers.set_spec_ctrl(1 << 32, &allowed(0b111)), None);
        barriers.restart();
        assert_eq!((barriers.guest, barriers.msr(SPEC_CTRL)), (0, Some(0)));
        // One where IBRS costs the guest something.
        let mut barriers = Barriers { measures: SWITCH | measure::ALWAYS, guest: 0, host: 1 };
        barriers.restart();
        assert_eq!(barriers.guest, 0);
        // None at all.
        let mut barriers = Barriers::NONE;
        assert_eq!((barriers.msr(SPEC_CTRL), barriers.msr(ARCH_CAPABILITIES)), (None, None));
        assert_eq!(barriers.set_spec_ctrl(0, &allowed(0)), None);
    }
}

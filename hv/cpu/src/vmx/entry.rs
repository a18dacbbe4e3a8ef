//! The world switch: from the host into the guest and back (SDM vol. 3, 27.2 and 28.5).

use core::arch::naked_asm;
use core::mem::offset_of;

use super::field::Field;
use crate::speculation::{BEFORE_ENTRY, Barriers, SELECTOR, after_exit, before_entry};
use crate::xstate::{self, XState};

/// What the world switch reads and writes.
#[repr(C)]
pub(super) struct Context {
    /// Guest registers in encoding order; RSP is in the VMCS and its place here unused.
    pub gprs: [u64; 16],
    /// The value that HOST_RSP of the VMCS has; it changes only when `enter` is called at another stack depth.
    host_rsp: u64,
    /// The VMCS has been launched: VMRESUME from now on.
    pub launched: u64,
    xstate: *mut XState,
    pub barriers: Barriers,
}

/// The measures of a [`Context`].
const MEASURES: usize = offset_of!(Context, barriers) + Barriers::MEASURES;

impl Context {
    pub const fn new(xstate: *mut XState) -> Self {
        Self { gprs: [0; 16], host_rsp: 0, launched: 0, xstate, barriers: Barriers::NONE }
    }
}

/// The guest has run, and left by a VM exit, or its entry failed with an exit reason.
pub(super) const LEFT: u64 = 0;
/// VMLAUNCH or VMRESUME failed, with a VM-instruction error number.
pub(super) const FAILED_VALID: u64 = 1;

/// Enters the guest of the current VMCS and comes back with [`LEFT`], [`FAILED_VALID`], or another value when there is no
/// current VMCS.
///
/// The stack while the guest runs, HOST_RSP at its top: the context's address, six registers that the ABI has us keep,
/// the return address. The guest's extended state is loaded as the last thing before its general registers, and stored
/// before any compiled code runs again.
///
/// # Safety
/// In VMX root operation with interrupts off; the current VMCS belongs to `context` alone, its host state is this host's
/// with HOST_RIP at [`exited`], and `context.xstate` points to initialised extended state of this processor.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn enter(context: *mut Context) -> u64 {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "cmp rsp, [rdi + {host_rsp}]",
        "je 2f",
        "mov eax, {host_rsp_field}",
        "vmwrite rax, rsp",
        "mov eax, 2",
        "jbe 6f",
        "mov [rdi + {host_rsp}], rsp",
        "2:",
        "mov rbx, rdi",
        "mov rdi, [rbx + {xstate}]",
        "call {load_extended}",
        "test dword ptr [rbx + {measures}], {before}",
        "jnz 7f",
        "8:",
        // ZF says that there is nothing to clear, CF that the VMCS has been launched: BT changes no ZF, the moves change
        // neither, and VERW changes ZF alone (SDM vol. 2, BT, VERW).
        "test dword ptr [rbx + {measures}], {verw}",
        "bt dword ptr [rbx + {launched}], 0",
        "mov rax, [rbx]",
        "mov rcx, [rbx + 8]",
        "mov rdx, [rbx + 16]",
        "mov rbp, [rbx + 40]",
        "mov rsi, [rbx + 48]",
        "mov rdi, [rbx + 56]",
        "mov r8, [rbx + 64]",
        "mov r9, [rbx + 72]",
        "mov r10, [rbx + 80]",
        "mov r11, [rbx + 88]",
        "mov r12, [rbx + 96]",
        "mov r13, [rbx + 104]",
        "mov r14, [rbx + 112]",
        "mov r15, [rbx + 120]",
        "mov rbx, [rbx + 24]",
        "jz 5f",
        "verw word ptr [rip + {selector}]",
        "5:",
        "jnc 3f",
        "vmresume",
        "jmp 4f",
        "3:",
        "vmlaunch",
        // Only a failure gets here: CF without a current VMCS, ZF with one. The context still has the guest's registers.
        "4:",
        "setc al",
        "movzx ebx, al",
        "mov rdi, [rsp]",
        "mov rdi, [rdi + {xstate}]",
        "call {store_extended}",
        "lea eax, [rbx + 1]",
        "6:",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        "7:",
        "lea rdi, [rbx + {barriers}]",
        "call {before_entry}",
        "jmp 8b",
        measures = const MEASURES,
        barriers = const offset_of!(Context, barriers),
        before = const BEFORE_ENTRY,
        verw = const Barriers::VERW,
        selector = sym SELECTOR,
        before_entry = sym before_entry,
        host_rsp = const offset_of!(Context, host_rsp),
        launched = const offset_of!(Context, launched),
        xstate = const offset_of!(Context, xstate),
        host_rsp_field = const Field::HOST_RSP.encoding(),
        load_extended = sym xstate::enter,
        store_extended = sym xstate::leave,
    )
}

/// Where a VM exit continues where the host has to protect itself first: there is no branch before that to be mispredicted. As
/// [`exited`], where it goes on.
///
/// # Safety
/// Never called: only a VM exit may get here.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn exited_guarded() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "push rdi",
        "mov rdi, [rsp + 32]",
        "add rdi, {barriers}",
        "call {after_exit}",
        "pop rdi",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "jmp {exited}",
        barriers = const offset_of!(Context, barriers),
        after_exit = sym after_exit,
        exited = sym exited,
    )
}

/// Where a VM exit continues in the host: HOST_RIP. RSP is HOST_RSP, RFLAGS is 2 (interrupts off), all other registers are
/// the guest's.
///
/// # Safety
/// Never called: only a VM exit may get here.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn exited() {
    naked_asm!(
        "push rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi], rax",
        "mov [rdi + 8], rcx",
        "mov [rdi + 16], rdx",
        "mov [rdi + 24], rbx",
        "mov [rdi + 40], rbp",
        "mov [rdi + 48], rsi",
        "mov [rdi + 64], r8",
        "mov [rdi + 72], r9",
        "mov [rdi + 80], r10",
        "mov [rdi + 88], r11",
        "mov [rdi + 96], r12",
        "mov [rdi + 104], r13",
        "mov [rdi + 112], r14",
        "mov [rdi + 120], r15",
        "pop qword ptr [rdi + 56]",
        "mov rdi, [rdi + {xstate}]",
        "call {store_extended}",
        // No guest value stays in a register where mispredicted host code could use it as an address. The kept registers
        // get the host's values below.
        "xor eax, eax",
        "xor esi, esi",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        xstate = const offset_of!(Context, xstate),
        store_extended = sym xstate::leave,
    )
}

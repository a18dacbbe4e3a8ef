//! The world switch: from the host into the guest and back.
//!
//! Order matters (APM vol. 2, 15.5, 15.17): GIF is clear from before the first register is the guest's until the last
//! one is the host's again, so that an NMI or machine check never finds a guest's TR, FS or GS in the host. The host's
//! IF is set across VMRUN, because with V_INTR_MASKING it is what lets a physical interrupt exit the guest; it is
//! clear again before GIF is set, so the interrupt itself waits for the host's window.
//!
//! Speculation ([`crate::speculation`]): behind the registers of an exit comes a fence, so that what a branch does for the
//! host's protection is done before anything goes on by a return that the guest could have trained.

use core::arch::asm;
use core::mem::offset_of;

use crate::speculation::{AFTER_EXIT, BEFORE_ENTRY, Barriers, SELECTOR, after_exit, before_entry};
use crate::xstate;

/// What the switch needs, and the guest registers that VMRUN does not switch.
#[repr(C)]
pub struct Context {
    /// General-purpose registers in encoding order. RAX and RSP are in the VMCB.
    pub registers: [u64; 16],
    /// Address of the guest's VMCB (virtual = physical).
    pub guest: u64,
    /// Address of the VMCB that holds the host's VMSAVE state.
    pub host: u64,
    /// Address of the guest's extended state.
    pub xstate: u64,
    /// What is done against leaks.
    pub barriers: Barriers,
}

/// The measures of a [`Context`].
const MEASURES: usize = offset_of!(Context, barriers) + Barriers::MEASURES;

/// Runs the guest until its next exit.
///
/// # Safety
/// As for [`switch`].
#[inline]
pub unsafe fn enter(context: *mut Context) {
    // SAFETY: the caller's promise. RBX, RBP and RDI are kept, all other registers named.
    unsafe {
        asm!(
            "call {switch}",
            switch = sym switch,
            in("rdi") context,
            out("r12") _,
            out("r13") _,
            out("r14") _,
            out("r15") _,
            clobber_abi("sysv64"),
        );
    }
}

/// The switch itself. Keeps RBX, RBP, RSP and RDI only.
///
/// # Safety
/// - SVM is enabled on this processor and VM_HSAVE_PA set; IF is clear and GIF is set.
/// - RDI points to a valid [`Context`], whose VMCBs and extended state are valid, physically addressed by the
///   same numbers and borrowed by nobody else; VMSAVE has filled `host` on this processor.
/// - The guest's VMCB intercepts what the host needs, and its nested page tables map only what the guest may have.
#[unsafe(naked)]
unsafe extern "sysv64" fn switch() {
    core::arch::naked_asm!(
        "push rbx",
        "push rbp",
        "push rdi",
        "mov rbx, rdi",
        "clgi",
        "sti",
        "mov rdi, [rbx + {xstate}]",
        "call {xstate_enter}",
        "test dword ptr [rbx + {measures}], {before}",
        "jnz 2f",
        "3:",
        "mov rax, [rbx + {guest}]",
        "vmload rax",
        // The moves keep ZF for the branch behind them.
        "test dword ptr [rbx + {measures}], {verw}",
        "mov rcx, [rbx + 1*8]",
        "mov rdx, [rbx + 2*8]",
        "mov rbp, [rbx + 5*8]",
        "mov rsi, [rbx + 6*8]",
        "mov rdi, [rbx + 7*8]",
        "mov r8,  [rbx + 8*8]",
        "mov r9,  [rbx + 9*8]",
        "mov r10, [rbx + 10*8]",
        "mov r11, [rbx + 11*8]",
        "mov r12, [rbx + 12*8]",
        "mov r13, [rbx + 13*8]",
        "mov r14, [rbx + 14*8]",
        "mov r15, [rbx + 15*8]",
        "mov rbx, [rbx + 3*8]",
        "jz 4f",
        "verw word ptr [rip + {selector}]",
        "4:",
        "vmrun rax",
        // RAX and RSP are the host's again: RAX still holds the guest's VMCB.
        "vmsave rax",
        "mov rax, [rsp]",
        "mov [rax + 3*8], rbx",
        "mov rbx, rax",
        "mov [rbx + 1*8], rcx",
        "mov [rbx + 2*8], rdx",
        "mov [rbx + 5*8], rbp",
        "mov [rbx + 6*8], rsi",
        "mov [rbx + 7*8], rdi",
        "mov [rbx + 8*8], r8",
        "mov [rbx + 9*8], r9",
        "mov [rbx + 10*8], r10",
        "mov [rbx + 11*8], r11",
        "mov [rbx + 12*8], r12",
        "mov [rbx + 13*8], r13",
        "mov [rbx + 14*8], r14",
        "mov [rbx + 15*8], r15",
        "test dword ptr [rbx + {measures}], {after}",
        "jnz 5f",
        "6:",
        "lfence",
        "mov rax, [rbx + {host}]",
        "vmload rax",
        "mov rdi, [rbx + {xstate}]",
        "call {xstate_leave}",
        "cli",
        "stgi",
        "pop rdi",
        "pop rbp",
        "pop rbx",
        "ret",
        "2:",
        "lea rdi, [rbx + {barriers}]",
        "call {before_entry}",
        "jmp 3b",
        "5:",
        "lea rdi, [rbx + {barriers}]",
        "call {after_exit}",
        "jmp 6b",
        measures = const MEASURES,
        barriers = const offset_of!(Context, barriers),
        before = const BEFORE_ENTRY,
        after = const AFTER_EXIT,
        verw = const Barriers::VERW,
        selector = sym SELECTOR,
        before_entry = sym before_entry,
        after_exit = sym after_exit,
        xstate = const offset_of!(Context, xstate),
        guest = const offset_of!(Context, guest),
        host = const offset_of!(Context, host),
        xstate_enter = sym xstate::enter,
        xstate_leave = sym xstate::leave,
    )
}

//! Instructions that exit, in every operating mode that a processor has (SDM vol. 3 chapter 2; APM vol. 2 chapter 1).
//!
//! A piece of code below 1 MiB goes from 64-bit mode down to real mode and up again, and leaves a note of each stop.

use crate::cpu::cpuid;
use crate::report::{check, equal};
use core::arch::{asm, global_asm};

/// Where the piece is copied to: real mode reaches the first MiB only. What is there (boot parameters, perhaps) is kept.
const PLACE: u64 = 0x1_0000;

/// Bytes from there on that are used.
const SIZE: usize = 0x6000;

/// What the stops leave, in order: offsets of 32-bit words at `PLACE` + 0xe00.
const NOTES: u64 = PLACE + 0xe00;

global_asm!(
    r#"
    .section .text.modes, "ax"
    .balign 16
    .set PLACE, 0x10000
    .set NOTE, PLACE + 0xe00
    .set WINDOW, 0x200ff8
    .global modes_start
modes_start:
    .code64
    // Called with interrupts off. RBX, RBP, R12 to R15 are the caller's.
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [PLACE + 0xf00], rsp
    mov rax, cr3
    mov [PLACE + 0xf08], rax
    mov rax, cr0
    mov [PLACE + 0xf10], rax
    mov rax, cr4
    mov [PLACE + 0xf18], rax
    sgdt [PLACE + 0xf20]
    sidt [PLACE + 0xf30]
    lgdt [at_gdt_pointer]
    // 2.2: compatibility mode: 32-bit code under long mode's tables.
    push 0x08
    push offset at_compatibility
    retfq

    .code32
modes_compatibility:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, PLACE + 0xd00
    xor eax, eax
    xor ecx, ecx
    cpuid
    mov [NOTE], ebx
    .byte 0x66                  // a prefix that changes nothing but the length
    cpuid
    in al, 0x61
    mov ecx, 0xc0000080
    rdmsr
    mov [NOTE + 4], eax
    mov eax, [0xfee00030]
    mov [NOTE + 8], eax
    // 10.8.5.4: out of long mode: paging off, LME off.
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, 0xc0000080
    rdmsr
    mov [NOTE + 12], eax
    and eax, ~0x100
    wrmsr
    // 2.2: protected mode without paging.
    mov eax, 1
    cpuid
    mov [NOTE + 16], eax
    mov edx, 0x608
    in eax, dx
    mov edi, PLACE + 0xe80
    mov dx, 0x71
    mov al, 0x0d
    out 0x70, al
    mov ecx, 2
    cld
    rep insb
    mov eax, [0xfee00030]
    mov [NOTE + 20], eax
    // 2.2: 16-bit protected mode.
    .byte 0xea
    .long offset_protected_16
    .word 0x18

    .code16
modes_protected_16:
    mov ax, 0x20
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0xd00
    mov eax, 0
    cpuid
    mov [0xe18], ebx
    in al, 0x61
    // 20.1: real mode.
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    .byte 0xea
    .word offset_real
    .word PLACE >> 4
modes_real:
    mov ax, PLACE >> 4
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0xd00
    // An interrupt table of our own.
    lidt [offset_real_idt]
    mov eax, 0
    cpuid
    mov [0xe1c], ebx
    mov ecx, 0x1b
    rdmsr
    mov [0xe20], eax
    mov dx, 0x61
    in al, dx
    mov di, 0xe90
    mov cx, 3
    mov dx, 0x80
    rep insb
    mov [0xe24], di
    int 0x21
    sti
    cli
    ud2
modes_after_fault:
    // 20.2: virtual-8086 mode takes a TSS, paging or not.
    smsw ax
    mov [0xe30], ax
    // Up again: protected mode.
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long at_protected_32
    .word 0x08

modes_int_21:
    mov word ptr cs:[0xe28], 0x2121
    iret
modes_int_06:
    push bp
    mov bp, sp
    // IP of the fault.
    mov word ptr cs:[0xe2c], 0x0606
    mov word ptr [bp + 2], offset offset_after_fault
    pop bp
    iret

    .code32
modes_protected_32:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, PLACE + 0xd00
    // 20.2: virtual-8086 mode by IRET, with a TSS for the way back.
    mov eax, PLACE + 0xd00
    mov [PLACE + 0xc04], eax    // ESP0
    mov eax, 0x10
    mov [PLACE + 0xc08], eax    // SS0
    mov word ptr [PLACE + 0xc66], 104   // I/O map behind the limit: no port at all
    lidt [at_idt_pointer]
    mov ax, 0x28
    ltr ax
    // 8.3: a task of its own, by CALL and by an interrupt through a task gate, and back by IRET. 4.4.1: each task has its own
    // page directory pointers, of PAE paging.
    mov eax, PLACE + 0xac0
    mov cr3, eax
    mov [PLACE + 0xc1c], eax
    mov dword ptr [PLACE + 0xb1c], PLACE + 0xae0
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    mov dword ptr [PLACE + 0xb20], offset at_task
    mov dword ptr [PLACE + 0xb24], 2
    mov dword ptr [PLACE + 0xb28], 0x12345678   // EAX
    mov dword ptr [PLACE + 0xb38], PLACE + 0x980 // ESP
    mov dword ptr [PLACE + 0xb44], 0x87654321   // EDI
    mov dword ptr [PLACE + 0xb48], 0x10
    mov dword ptr [PLACE + 0xb4c], 0x08
    mov dword ptr [PLACE + 0xb50], 0x10
    mov dword ptr [PLACE + 0xb54], 0x10
    mov ebp, 0x55aa55aa
    .byte 0x9a
    .long 0
    .word 0x38
    mov [NOTE + 0x58], ebp
    str eax
    mov [NOTE + 0x5c], eax
    mov eax, [at_gdt + 0x3c]
    mov [NOTE + 0x60], eax
    int 3
    pushfd
    pop eax
    mov [NOTE + 0x64], eax
    clts
    mov eax, [WINDOW]
    mov [NOTE + 0x78], eax
    mov eax, cr3
    mov [NOTE + 0x7c], eax
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    xor eax, eax
    mov ecx, PLACE >> 4
    push eax                    // GS
    push eax                    // FS
    push ecx                    // DS
    push ecx                    // ES
    push ecx                    // SS
    mov edx, 0xa00
    push edx                    // SP
    mov edx, 0x23002            // VM, IOPL 3
    push edx
    push ecx                    // CS
    mov edx, offset offset_virtual
    push edx
    iretd

modes_task:
    mov [NOTE + 0x48], eax
    mov [NOTE + 0x4c], edi
    str edx
    mov [NOTE + 0x50], edx
    pushfd
    pop edx
    mov [NOTE + 0x54], edx
    smsw edx
    mov [NOTE + 0x68], edx
    movzx edx, word ptr [PLACE + 0xb00]
    mov [NOTE + 0x6c], edx
    inc dword ptr [NOTE + 0x70]
    mov edx, [WINDOW]
    mov [NOTE + 0x74], edx
    mov eax, 0x11112222
    iretd
    jmp modes_task

    .code16
modes_virtual:
    mov eax, 0
    mov ecx, 0
    cpuid
    mov [0xe34], ebx
    pushf
    pop ax
    mov [0xe38], ax
    // A port that the map does not allow, in spite of IOPL 3: #GP.
    in al, 0x61
modes_virtual_rest:
    // CLTS is privileged: #GP, and the way back.
    clts

    .code32
modes_fault:
    // Error code, EIP, CS, EFLAGS, ESP, SS, ES, DS, FS, GS.
    mov ax, 0x10
    mov ds, ax
    mov eax, [esp + 4]
    cmp eax, offset offset_virtual_rest
    je 1f
    mov [NOTE + 0x3c], eax
    mov dword ptr [esp + 4], offset offset_virtual_rest
    add esp, 4
    iretd
1:
    mov [NOTE + 0x40], eax
    mov eax, [esp + 12]
    mov [NOTE + 0x44], eax
    mov esp, PLACE + 0xd00
    // And back to long mode.
    mov eax, [PLACE + 0xf18]
    mov cr4, eax
    mov eax, [PLACE + 0xf08]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, [PLACE + 0xf10]
    mov cr0, eax
    .byte 0xea
    .long at_long
    .word 0x30

    .code64
modes_long:
    lgdt [PLACE + 0xf20]
    lidt [PLACE + 0xf30]
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov rsp, [PLACE + 0xf00]
    // The kernel's code segment.
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop rax
    push 8
    push rax
    // The task register's descriptor is busy in the old table.
    retfq

    .balign 8
modes_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    // 08: 32-bit code
    .quad 0x00cf93000000ffff    // 10: data
    .quad 0x00009b010000ffff    // 18: 16-bit code at PLACE
    .quad 0x000093010000ffff    // 20: 16-bit data at PLACE
    .quad 0x000089010c000067 // 28: TSS at PLACE + 0xc00
    .quad 0x00209b0000000000    // 30: 64-bit code
    .quad 0x000089010b000067 // 38: TSS at PLACE + 0xb00
modes_gdt_end:
modes_gdt_pointer:
    .word gdt_limit
    .quad at_gdt
modes_real_idt:
    .word 0x3ff
    .long PLACE + 0x1000
modes_idt_pointer:
    .word 14 * 8 - 1
    .long PLACE + 0x1800
    .global modes_offsets
modes_offsets:
    .word offset_int_21, offset_int_06, offset_fault
    .word offset_virtual, offset_virtual_rest
    .global modes_end
modes_end:
    // Intel syntax takes one symbol an operand.
    .set gdt_limit, modes_gdt_end - modes_gdt - 1
    .set offset_after_fault, modes_after_fault - modes_start
    .set at_after_fault, modes_after_fault - modes_start + PLACE
    .set offset_compatibility, modes_compatibility - modes_start
    .set at_compatibility, modes_compatibility - modes_start + PLACE
    .set offset_fault, modes_fault - modes_start
    .set at_fault, modes_fault - modes_start + PLACE
    .set offset_gdt, modes_gdt - modes_start
    .set at_gdt, modes_gdt - modes_start + PLACE
    .set offset_gdt_pointer, modes_gdt_pointer - modes_start
    .set at_gdt_pointer, modes_gdt_pointer - modes_start + PLACE
    .set offset_idt_pointer, modes_idt_pointer - modes_start
    .set at_idt_pointer, modes_idt_pointer - modes_start + PLACE
    .set offset_int_06, modes_int_06 - modes_start
    .set at_int_06, modes_int_06 - modes_start + PLACE
    .set offset_int_21, modes_int_21 - modes_start
    .set at_int_21, modes_int_21 - modes_start + PLACE
    .set offset_long, modes_long - modes_start
    .set at_long, modes_long - modes_start + PLACE
    .set offset_protected_16, modes_protected_16 - modes_start
    .set at_protected_16, modes_protected_16 - modes_start + PLACE
    .set offset_protected_32, modes_protected_32 - modes_start
    .set at_protected_32, modes_protected_32 - modes_start + PLACE
    .set offset_real, modes_real - modes_start
    .set at_real, modes_real - modes_start + PLACE
    .set offset_real_idt, modes_real_idt - modes_start
    .set at_real_idt, modes_real_idt - modes_start + PLACE
    .set at_task, modes_task - modes_start + PLACE
    .set offset_virtual, modes_virtual - modes_start
    .set at_virtual, modes_virtual - modes_start + PLACE
    .set offset_virtual_rest, modes_virtual_rest - modes_start
    .set at_virtual_rest, modes_virtual_rest - modes_start + PLACE
"#
);

unsafe extern "C" {
    static modes_start: u8;
    static modes_end: u8;
    static modes_offsets: [u16; 5];
}

/// What was at `PLACE`.
static mut KEPT: [u8; SIZE] = [0; SIZE];

/// Runs the suite.
pub fn run() {
    let [_, vendor, ..] = cpuid(0, 0);
    let signature = cpuid(1, 0)[0];
    let version = crate::apic::read(crate::apic::register::VERSION);
    // Real mode opens for interrupts: there is to be none.
    crate::apic::init_pic(!0);
    // SAFETY: the offsets are constants of the code.
    let [int_21, int_06, fault, virtual_start, virtual_rest] =
        unsafe { (&raw const modes_offsets).read_unaligned() };
    // SAFETY: the pages at PLACE are RAM that nobody uses; the code returns to where it was called from, with
    // everything but the task register as it was, which is loaded again.
    unsafe {
        let length = (&raw const modes_end).offset_from(&raw const modes_start) as usize;
        core::ptr::copy_nonoverlapping(PLACE as *const u8, (&raw mut KEPT).cast(), SIZE);
        core::ptr::write_bytes(PLACE as *mut u8, 0, SIZE);
        core::ptr::copy_nonoverlapping(&raw const modes_start, PLACE as *mut u8, length);
        let real = (PLACE + 0x1000) as *mut u32;
        real.add(0x21).write_unaligned(u32::from(int_21) | (PLACE as u32 >> 4) << 16);
        real.add(0x06).write_unaligned(u32::from(int_06) | (PLACE as u32 >> 4) << 16);
        // A 32-bit interrupt gate for #GP.
        let target = PLACE + u64::from(fault);
        let gate = target & 0xffff | 8 << 16 | 0x8e00 << 32 | (target >> 16 & 0xffff) << 48;
        ((PLACE + 0x1800) as *mut u64).add(13).write_unaligned(gate);
        // A task gate for the breakpoint.
        ((PLACE + 0x1800) as *mut u64).add(3).write_unaligned(0x38 << 16 | 0x8500 << 32);
        // Two sets of PAE tables: the first 2 MiB one to one, then a page that is not the same.
        for set in 0..2 {
            let (directory, table, seen) =
                (PLACE + 0x2000 + 0x2000 * set, PLACE + 0x3000 + 0x2000 * set, PLACE + 0x1000 * set);
            ((PLACE + 0xac0 + 0x20 * set) as *mut u64).write(directory | 1);
            (directory as *mut u64).write(0x83);
            (directory as *mut u64).add(1).write(table | 3);
            (table as *mut u64).write(seen | 3);
            ((seen + 0xff8) as *mut u32).write(0xaced_0000 | set as u32);
        }
        asm!(
            "call {place}",
            place = in(reg) PLACE,
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _, out("r10") _,
            out("r11") _
        );
    }
    crate::boot::reload_task();
    let mut notes = [0u32; 32];
    // SAFETY: the notes are there; then what was there before is put back.
    unsafe {
        core::ptr::copy_nonoverlapping(NOTES as *const u32, notes.as_mut_ptr(), notes.len());
        core::ptr::copy_nonoverlapping((&raw const KEPT).cast(), PLACE as *mut u8, SIZE);
    }
    let note = |offset: usize| notes[offset / 4];
    equal("2.2: cpuid in compatibility mode", note(0), vendor);
    check("2.2: efer in compatibility mode", note(4) & 0x500 == 0x500, format_args!("{:#x}", note(4)));
    equal("2.2: local apic in compatibility mode", note(8), version);
    check("10.8.5.4: efer.lma ends with paging", note(12) & 0x500 == 0x100, format_args!("{:#x}", note(12)));
    equal("2.2: cpuid in protected mode", note(16), signature);
    equal("2.2: local apic in protected mode", note(20), version);
    equal("2.2: cpuid in 16-bit protected mode", note(0x18), vendor);
    equal("20.1: cpuid in real mode", note(0x1c), vendor);
    equal("20.1: rdmsr in real mode", note(0x20) & 0xffff_f900, 0xfee0_0900);
    equal("20.1: rep insb in real mode", note(0x24), 0xe93);
    equal("20.1.4: int n in real mode", note(0x28), 0x2121);
    equal("20.1.4: #UD in real mode", note(0x2c), 0x0606);
    equal("20.1: smsw in real mode", note(0x30) & 1, 0);
    equal("20.2: cpuid in virtual-8086 mode", note(0x34), vendor);
    check(
        "20.2.1: flags in virtual-8086 mode",
        note(0x38) & 0x3000 == 0x3000,
        format_args!("{:#x}", note(0x38)),
    );
    check(
        "20.2.8.1: the i/o map counts in virtual-8086 mode",
        note(0x3c) > u32::from(virtual_start) && note(0x3c) < u32::from(virtual_rest),
        format_args!("{:#x}", note(0x3c)),
    );
    equal("20.2.8: clts in virtual-8086 mode", note(0x40), virtual_rest.into());
    equal("20.3.1: VM on the stack", note(0x44) >> 17 & 1, 1);
    // The second time EAX is what the task left in it.
    equal("8.3: registers of the new task", (note(0x48), note(0x4c)), (0x1111_2222, 0x8765_4321));
    equal("8.3: task register and back link", (note(0x50) & 0xffff, note(0x6c)), (0x38, 0x28));
    equal("8.3: the new task is nested, and CR0.TS set", (note(0x54) >> 14 & 1, note(0x68) >> 3 & 1), (1, 1));
    equal("8.3: registers of the old task", (note(0x58), note(0x5c) & 0xffff), (0x55aa_55aa, 0x28));
    equal("8.3: IRET leaves the task available", note(0x60) >> 9 & 1, 0);
    equal("8.3: IRET ends the nesting", note(0x64) >> 14 & 1, 0);
    equal("8.3: by CALL and by task gate", note(0x70), 2);
    equal("4.4.1: page directories of the new task", note(0x74), 0xaced_0001);
    equal(
        "4.4.1: page directories of the old task",
        (note(0x78), note(0x7c)),
        (0xaced_0000, PLACE as u32 + 0xac0),
    );
    equal("2.2: cpuid in 64-bit mode again", cpuid(0, 0)[1], vendor);
}

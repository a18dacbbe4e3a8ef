//! The image's entry points: 32-bit protected mode, paging off, to 64-bit Rust.
//!
//! This is a macro, expanded in the board's binary, and not an item of this crate: 32-bit code at fixed addresses
//! cannot be linked into the hosted programs that test the crates above.

/// Emits the multiboot2 header, the PVH note, both 32-bit entry points and the switch to long mode.
///
/// Both loaders hand over in 32-bit protected mode with paging off and flat segments, EBX pointing to their data
/// (multiboot2 1.6, 3.3; Xen `pvh.pandoc`). Registers up to the call of `start`: EDI the magic of the loader, ESI its
/// data; the time stamp counter at entry waits on the stack.
#[doc(hidden)]
#[macro_export]
macro_rules! entry_asm {
    ($start:path) => {
        ::core::arch::global_asm!(
            r#"
    .section .boot.multiboot2, "a", @progbits
    .balign 8
2:  .long 0xe85250d6                    // magic
    .long 0                             // architecture: i386, protected mode
    .long 3f - 2b
    .long -(0xe85250d6 + 0 + (3f - 2b)) // checksum
    .short 6, 0                         // modules on page boundaries
    .long 8
    .short 0, 0                         // end
    .long 8
3:

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18                      // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad monovisor_entry_pvh

    .section .bss.boot_tables, "aw", @nobits
    .balign 4096
monovisor_boot_pml4: .skip 4096
monovisor_boot_pdpt: .skip 4096
monovisor_boot_pd:   .skip 4 * 4096

    .section .rodata.boot_gdt, "a", @progbits
    .balign 8
monovisor_boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            // 0x08: 64-bit code
    .quad 0x00cf93000000ffff            // 0x10: data
monovisor_boot_gdtr:
    .short 23
    .long monovisor_boot_gdt
monovisor_no_long_mode:
    .asciz "Monovisor: this processor has no 64-bit mode; nothing can be run.\n"

    .section .text.boot, "ax", @progbits
    .code32
    .globl monovisor_entry_pvh
monovisor_entry_pvh:
    mov edi, 0x336ec578
    jmp 2f
    .globl monovisor_entry_multiboot2
monovisor_entry_multiboot2:
    mov edi, eax
2:  cli
    cld
    mov esi, ebx
    mov esp, offset {stack} + {stack_size}
    rdtsc
    push edx                            // time of entry, read back in 64-bit mode
    push eax

    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb 5f
    mov eax, 0x80000001
    cpuid
    bt edx, 29                          // LM
    jnc 5f
    mov ebp, edx

    // Identity map of the first 4 GiB in 2 MiB pages, present and writable. Only until Rust has built the real one.
    mov dword ptr [monovisor_boot_pml4], offset monovisor_boot_pdpt + 3
    mov eax, offset monovisor_boot_pd + 3
    xor ecx, ecx
3:  mov [monovisor_boot_pdpt + ecx * 8], eax
    add eax, 4096
    inc ecx
    cmp ecx, 4
    jb 3b
    mov eax, 0x83
    xor ecx, ecx
4:  mov [monovisor_boot_pd + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 2048
    jb 4b

    mov eax, offset monovisor_boot_pml4
    mov cr3, eax
    mov eax, 0x620                      // CR4: PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov ecx, 0xc0000080                 // EFER
    rdmsr
    or eax, 0x100                       // LME
    bt ebp, 20                          // NX
    jnc 3f
    or eax, 0x800                       // NXE
3:  wrmsr
    mov eax, 0x80010033                 // CR0: PG, WP, NE, ET, MP, PE
    mov cr0, eax
    lgdt [monovisor_boot_gdtr]
    push 0x08
    mov eax, offset monovisor_entry_long
    push eax
    retf

    // No 64-bit mode: say so where a person may look (debug port, VGA text) and stop.
5:  mov esi, offset monovisor_no_long_mode
    mov edi, 0xb8000
    mov ah, 0x0f
6:  lodsb
    test al, al
    jz 7f
    out 0xe9, al
    stosw
    jmp 6b
7:  hlt
    jmp 7b

    .code64
monovisor_entry_long:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov edi, edi                        // arguments: magic, data, time of entry
    mov esi, esi
    pop rdx
    xor ebp, ebp
    call {start}
    ud2
"#,
            start = sym $start,
            stack = sym $crate::stack::BOOT_STACK,
            stack_size = const $crate::stack::BOOT_STACK_TOP,
        );
    };
}

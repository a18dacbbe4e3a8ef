//! Entry points, first page tables, GDT, TSS; and what the loader told us.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18              // name and content size; XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

    .section .text.entry, "ax"
    // Linux boot protocol, 64-bit: paging on, RSI = boot_params.
    .code64
    .global linux_entry
linux_entry:
    cli
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov [rip + FIRST_TSC], rax
    mov [rip + BOOT_PARAMS], rsi
    lea rax, [rip + PML4]
    mov cr3, rax
    lgdt [rip + gdt_pointer]
    lea rsp, [rip + boot_stack_top]
    push 8
    lea rax, [rip + long_entry]
    push rax
    retfq

    // PVH: 32-bit protected mode, paging off, EBX = start info.
    .code32
pvh_entry:
    cli
    cld
    rdtsc
    mov [FIRST_TSC], eax
    mov [FIRST_TSC + 4], edx
    mov [PVH_START], ebx
    lgdt [gdt_pointer]
    mov eax, cr4
    or eax, 0x20                // PAE
    mov cr4, eax
    mov eax, offset PML4
    mov cr3, eax
    mov ecx, 0xc0000080         // EFER
    rdmsr
    or eax, 0x100               // LME
    wrmsr
    mov eax, cr0
    or eax, 0x80000001          // PG, PE
    mov cr0, eax
    .byte 0xea                  // far jump
    .long long_entry
    .word 8

    .code64
long_entry:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    lea rsp, [rip + boot_stack_top]
    mov rax, cr0
    and rax, ~0xc               // no EM, no TS
    or rax, 0x10022             // WP, NE, MP
    mov cr0, rax
    mov rax, cr4
    or rax, 0x600               // OSFXSR, OSXMMEXCPT
    mov cr4, rax
    mov ecx, 0xc0000080         // EFER.NXE, for the paging cases
    rdmsr
    or eax, 0x800
    wrmsr
    fninit
    // The TSS descriptor's base: the linker cannot split an address over its fields.
    lea rax, [rip + TSS]
    lea rcx, [rip + gdt_tss]
    mov [rcx + 2], ax
    shr rax, 16
    mov [rcx + 4], al
    mov [rcx + 7], ah
    lea rax, [rip + trap_stack_top]
    mov [rip + TSS + 36], rax   // IST 1
    mov eax, 24
    ltr ax
    xor ebp, ebp
    call guest_main
    ud2

    .section .data.boot, "aw"
    .balign 8
    .global GDT
GDT:
    .quad 0
    .quad 0x00209b0000000000    // 8: 64-bit code, accessed
    .quad 0x00cf93000000ffff    // 16: data
gdt_tss:
    .quad 0x0000890000000067, 0 // 24: TSS, base filled in
    .quad 0x00cf9b000000ffff    // 40: 32-bit code
    .quad 0x00cffb000000ffff    // 48: 32-bit user code
    .quad 0x00cff3000000ffff    // 56: user data
    .quad 0x0020fb0000000000    // 64: 64-bit user code
gdt_end:
gdt_pointer:
    .word gdt_end - GDT - 1
    .quad GDT

    .balign 8
    .global TSS
TSS:
    .fill 104, 1, 0

    // Identity map of 4 GiB by 2 MiB pages; the last GiB, where devices are, uncached.
    .balign 4096
    .global PML4
PML4:
    .quad PDPT + 3
    .fill 511, 8, 0
PDPT:
    .quad PD + 3, PD + 0x1003, PD + 0x2003, PD + 0x3003
    .fill 508, 8, 0
    .global PD
PD:
    .set page, 0
    .rept 1536
    .quad (page << 21) | 0x83
    .set page, page + 1
    .endr
    .rept 512
    .quad (page << 21) | 0x9b
    .set page, page + 1
    .endr

    .section .bss.boot, "aw", @nobits
    .balign 16
    .fill 65536
boot_stack_top:
    .fill 16384
trap_stack_top:
"#
);

/// TSC at the guest's first instructions.
#[unsafe(no_mangle)]
static mut FIRST_TSC: u64 = 0;
/// Address of the Linux boot parameters, or 0.
#[unsafe(no_mangle)]
static mut BOOT_PARAMS: u64 = 0;
/// Address of the PVH start info, or 0.
#[unsafe(no_mangle)]
static mut PVH_START: u64 = 0;

unsafe extern "C" {
    /// The page directories of the identity map: 2,048 entries of 2 MiB.
    pub static mut PD: [u64; 2048];
    /// The top-level page table.
    pub static mut PML4: [u64; 512];
    static image_end: u8;
}

/// First address after this kernel's image.
pub fn end_of_image() -> u64 {
    (&raw const image_end) as u64
}

/// TSC at the guest's first instructions.
pub fn first_tsc() -> u64 {
    // SAFETY: written once by the entry code, before any Rust ran.
    unsafe { FIRST_TSC }
}

/// True when the loader spoke the Linux boot protocol.
pub fn by_linux_protocol() -> bool {
    // SAFETY: written once by the entry code, before any Rust ran.
    unsafe { BOOT_PARAMS != 0 }
}

/// Longest command line that is looked at, as Linux has it.
const COMMAND_LINE_MAX: usize = 2048;

/// The kernel command line; empty when there is none.
pub fn command_line() -> &'static str {
    // SAFETY: both were written once by the entry code. The loader keeps its structures and the command line in RAM
    // below 4 GiB, mapped one to one, and nothing here writes there. Offsets: cmd_line_ptr is at 0x228 of boot_params
    // (Linux boot protocol), cmdline_paddr at 24 of hvm_start_info (PVH).
    let text = unsafe {
        let address = if BOOT_PARAMS != 0 {
            u64::from(((BOOT_PARAMS + 0x228) as *const u32).read_unaligned())
        } else if PVH_START != 0 {
            ((PVH_START + 24) as *const u64).read_unaligned()
        } else {
            0
        };
        if address == 0 {
            return "";
        }
        let start = address as *const u8;
        let length = (0..COMMAND_LINE_MAX).find(|at| start.add(*at).read() == 0).unwrap_or(COMMAND_LINE_MAX);
        core::slice::from_raw_parts(start, length)
    };
    core::str::from_utf8(text).unwrap_or("")
}

/// The value of `name=value` on the command line.
pub fn option(name: &str) -> Option<&'static str> {
    command_line()
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')))
}

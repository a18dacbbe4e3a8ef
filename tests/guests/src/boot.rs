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

    // PVH and multiboot: 32-bit protected mode, paging off; EBX = start info, or EAX = magic and EBX = information.
    .code32
pvh_entry:
    mov [ENTRY], eax
    mov [ENTRY + 4], ebx
    mov esp, offset boot_stack_top
    pushfd
    pop dword ptr [ENTRY + 8]
    cli
    cld
    rdtsc
    mov [FIRST_TSC], eax
    mov [FIRST_TSC + 4], edx
    mov eax, cr0
    mov [ENTRY + 12], eax
    mov eax, cr4
    mov [ENTRY + 16], eax
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
    .global PDPT
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
    .global boot_stack_top
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
/// What the 32-bit entry found: EAX, EBX, EFLAGS, CR0, CR4.
#[unsafe(no_mangle)]
static mut ENTRY: [u32; 5] = [0; 5];

unsafe extern "C" {
    /// The page directories of the identity map: 2,048 entries of 2 MiB.
    pub static mut PD: [u64; 2048];
    /// The top-level page table.
    pub static mut PML4: [u64; 512];
    /// The page-directory-pointer table of the identity map.
    pub static mut PDPT: [u64; 512];
    static image_end: u8;
    static mut GDT: [u64; 9];
    static mut TSS: [u16; 52];
}

/// Where the TSS says that its I/O permission map begins; from 104 on there is none. The TSS holds zeros in the places of the first
/// ports, which allow them.
pub fn set_io_map(base: u16) {
    // SAFETY: CPL 3 alone is held to the map.
    unsafe { (&raw mut TSS[51]).write_volatile(base) };
}

/// Loads the task register again, after another table of descriptors has been in use.
pub fn reload_task() {
    // SAFETY: the TSS is in place; only its descriptor is marked as busy, which LTR refuses.
    unsafe {
        let descriptor = (&raw mut GDT).cast::<u64>().add(3);
        descriptor.write_volatile(descriptor.read_volatile() & !(1 << 41));
        core::arch::asm!("ltr {0:x}", in(reg) 24u16);
    }
}

/// First address of this kernel's image, as it is linked.
pub const fn start_of_image() -> u64 {
    0x100_0000
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

/// What a multiboot loader leaves in EAX.
const MULTIBOOT: u32 = 0x2bad_b002;

/// How the loader started this kernel, and the address of what it told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Linux, 64-bit entry: boot parameters.
    Linux(u64),
    /// PVH: `hvm_start_info`.
    Pvh(u64),
    /// Multiboot, version 1: its information.
    Multiboot(u64),
}

/// Registers at the 32-bit entry: EAX, EBX, EFLAGS, CR0, CR4.
pub fn entry_registers() -> [u32; 5] {
    // SAFETY: written once by the entry code, before any Rust ran.
    unsafe { ENTRY }
}

/// How this kernel was started.
pub fn protocol() -> Protocol {
    // SAFETY: written once by the entry code, before any Rust ran.
    let parameters = unsafe { BOOT_PARAMS };
    let [eax, ebx, ..] = entry_registers();
    match (parameters, eax) {
        (0, MULTIBOOT) => Protocol::Multiboot(ebx.into()),
        (0, _) => Protocol::Pvh(ebx.into()),
        _ => Protocol::Linux(parameters),
    }
}

/// Reads a field of what the loader told.
pub fn field<T: Copy>(address: u64) -> T {
    // SAFETY: the loader keeps its structures in RAM below 4 GiB, mapped one to one, and nothing here writes there.
    unsafe { (address as *const T).read_unaligned() }
}

/// A string of the loader's, which a zero ends; empty for address 0.
pub fn string(address: u64) -> &'static str {
    if address == 0 {
        return "";
    }
    let length = (0..STRING_MAX).find(|at| field::<u8>(address + at) == 0).unwrap_or(STRING_MAX);
    // SAFETY: as in `field`.
    let text = unsafe { core::slice::from_raw_parts(address as *const u8, length as usize) };
    core::str::from_utf8(text).unwrap_or("")
}

/// Longest string that is looked at: Linux's command line.
const STRING_MAX: u64 = 2048;

/// The kernel command line; empty when there is none.
pub fn command_line() -> &'static str {
    // cmd_line_ptr of boot_params, cmdline_paddr of hvm_start_info, cmdline of the multiboot information.
    string(match protocol() {
        Protocol::Linux(parameters) => field::<u32>(parameters + 0x228).into(),
        Protocol::Pvh(0) => 0,
        Protocol::Pvh(info) => field::<u64>(info + 24),
        Protocol::Multiboot(info) if field::<u32>(info) & 1 << 2 != 0 => field::<u32>(info + 16).into(),
        Protocol::Multiboot(_) => 0,
    })
}

/// The value of `name=value` on the command line.
pub fn option(name: &str) -> Option<&'static str> {
    command_line()
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')))
}

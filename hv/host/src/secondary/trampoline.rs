//! From a start-up message, in real mode below 1 MiB, to 64-bit Rust.
//!
//! Two pages at a multiple of 4 KiB below 640 KiB: code, which the start-up message names, and the data that it reads. The
//! code is copied there, so it knows no address of its own: CS tells where it is, and [`Data`] has what else it needs.

use core::arch::global_asm;

use super::StartError;
use crate::paging::{self, Access};
use crate::traps::{CODE_SELECTOR, DATA_SELECTOR};
use crate::{features, frames};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// EFER: long mode, no-execute pages.
const EFER_LME: u64 = 1 << 8;
const EFER_NXE: u64 = 1 << 11;
/// Selector of the 32-bit code segment that is passed through.
const CODE_32: u16 = 0x18;

global_asm!(
    r#"
    .section .text.monovisor_trampoline, "ax", @progbits
    .balign 16
    .globl monovisor_trampoline
monovisor_trampoline:
    .code16
    cli
    cld
    mov ax, cs
    mov ds, ax
    xor ebx, ebx
    mov bx, ax
    shl ebx, 4                          // where the code lies; the data is a page behind it
    .byte 0x66, 0x0f, 0x01, 0x16        // LGDT with a 32-bit base
    .short 0x1020
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xff, 0x2e              // JMP far to a 32-bit offset
    .short 0x1028
    .globl monovisor_trampoline_32
monovisor_trampoline_32:
    .code32
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, 0x620                      // CR4: PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, [ebx + 0x1038]
    mov cr3, eax
    mov ecx, 0xc0000080                 // EFER
    rdmsr
    or eax, [ebx + 0x1050]
    wrmsr
    mov eax, 0x80010033                 // CR0: PG, WP, NE, ET, MP, PE; caches on
    mov cr0, eax
    .byte 0xff, 0xab                    // JMP far
    .long 0x1030
    .globl monovisor_trampoline_64
monovisor_trampoline_64:
    .code64
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov ebx, ebx
    mov rdi, [rbx + 0x1058]
    mov rsp, [rbx + 0x1040]
    xor ebp, ebp
    call [rbx + 0x1048]
    ud2
    .globl monovisor_trampoline_end
monovisor_trampoline_end:
    .text
"#
);

unsafe extern "C" {
    static monovisor_trampoline: u8;
    static monovisor_trampoline_32: u8;
    static monovisor_trampoline_64: u8;
    static monovisor_trampoline_end: u8;
}

/// What the code reads, at the offsets that stand in it.
#[repr(C)]
struct Data {
    /// 0x00: nothing, 64-bit code, data, 32-bit code.
    gdt: [u64; 4],
    /// 0x20: limit and base of the GDT, 6 bytes.
    gdtr: [u16; 4],
    /// 0x28, 0x30: offset and selector of the 32-bit and the 64-bit code.
    far_32: [u32; 2],
    far_64: [u32; 2],
    /// 0x38.
    cr3: u64,
    /// 0x40.
    stack: u64,
    /// 0x48.
    entry: u64,
    /// 0x50: bits to set.
    efer: u64,
    /// 0x58: the entry's argument.
    index: u64,
}

/// The two pages, ready for a start-up message.
pub(super) struct Trampoline {
    base: u64,
}

impl Trampoline {
    /// Takes two pages of low memory, for good, and puts the code there.
    pub fn new() -> Result<Self, StartError> {
        let range = frames::carve_low(2 * PAGE).ok_or(StartError::NoLowMemory)?;
        let start = &raw const monovisor_trampoline;
        let length = &raw const monovisor_trampoline_end as usize - start as usize;
        // SAFETY: the pages have just been carved, for nobody else, and RAM is mapped to itself; the code is shorter than a
        // page.
        unsafe { core::ptr::copy_nonoverlapping(start, range.start as usize as *mut u8, length) };
        // SAFETY: nobody has used this page but for the copy; it is read and executed from now on.
        unsafe { paging::change(range.start, Some(Access::Code)) }.map_err(|_| StartError::NoPageTables)?;
        Ok(Self { base: range.start })
    }

    /// The page that a start-up message names.
    pub fn vector(&self) -> u32 {
        (self.base >> 12) as u32
    }

    /// Says where the next processor goes: to `entry` with `index`, on the stack whose top is `stack`.
    pub fn aim(&self, index: usize, stack: u64, entry: extern "C" fn(usize) -> !) {
        let start = &raw const monovisor_trampoline as u64;
        let at = |label: *const u8| (self.base + (label as u64 - start)) as u32;
        let gdt = self.base + PAGE;
        let data = Data {
            gdt: [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_9b00_0000_ffff],
            gdtr: [31, gdt as u16, (gdt >> 16) as u16, 0],
            far_32: [at(&raw const monovisor_trampoline_32), CODE_32.into()],
            far_64: [at(&raw const monovisor_trampoline_64), CODE_SELECTOR.into()],
            cr3: paging::root(),
            stack,
            entry: entry as usize as u64,
            efer: EFER_LME | if features().no_execute { EFER_NXE } else { 0 },
            index: index as u64,
        };
        const { assert!(DATA_SELECTOR == 0x10 && core::mem::offset_of!(Data, index) == 0x58) };
        // SAFETY: the second page is this trampoline's; no processor reads it now, for they are started one after the
        // other and have left it when they say that they are there.
        unsafe { ((self.base + PAGE) as usize as *mut Data).write_volatile(data) };
    }

    /// No processor is started any more: no low memory is code.
    pub fn close(self) {
        // SAFETY: all processors that were started have left the page.
        let _ = unsafe { paging::change(self.base, Some(Access::Data)) };
    }
}

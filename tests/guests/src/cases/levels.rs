//! Paging with five levels (SDM vol. 3, 4.5; APM vol. 2, 5.3), which is switched on outside long mode only.

use crate::boot::PML4;
use crate::cpu::cpuid;
use crate::read_cr;
use crate::report::{equal, skip};
use crate::trap::Trap;
use core::arch::{asm, global_asm};

/// CR4.LA57.
const LA57: u64 = 1 << 12;
/// What the second entry of the top table maps.
const SECOND: u64 = 1 << 48;

global_asm!(
    r#"
    .section .text.levels, "ax"
    // EDI: the top table; ESI: CR4 from then on. All of this is below 4 GiB, mapped one to one, and so are the stacks.
    .code64
    .global change_levels
change_levels:
    push 40
    lea rax, [rip + levels_compatibility]
    push rax
    retfq
    .code32
levels_compatibility:
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov cr4, esi
    mov cr3, edi
    or eax, 0x80000000
    mov cr0, eax
    .byte 0xea
    .long levels_long
    .word 8
    .code64
levels_long:
    ret
"#
);

unsafe extern "C" {
    fn change_levels(top: u32, cr4: u32);
}

#[repr(align(4096))]
struct Table([u64; 512]);

static mut TOP: Table = Table([0; 512]);

fn read(address: u64) -> (Option<Trap>, u32) {
    let mut value = 0u64;
    let trap = crate::attempt!(["mov eax, [{a}]"], a = in(reg) address, inout("rax") value);
    (trap, value as u32)
}

/// Runs the cases.
pub fn run() {
    let cr4 = read_cr!("cr4");
    let set = |value: u64| crate::attempt!(["mov cr4, {v}"], v = in(reg) value).map(|trap| trap.vector);
    if cpuid(7, 0)[2] >> 16 & 1 == 0 {
        equal("2.5: la57 is not there", set(cr4 | LA57), Some(13));
        return;
    }
    if crate::cpu::is_amd() {
        skip("2.5: la57 in long mode", "QEMU's TCG does not check it");
    } else {
        equal("2.5: la57 in long mode", set(cr4 | LA57), Some(13));
    }
    let levels = || read_cr!("cr4") & LA57;
    let old = read_cr!("cr3");
    static WORD: u32 = 0x5a5a_1234;
    let word = &raw const WORD as u64;
    let version = crate::apic::LOCAL + 0x30;
    // SAFETY: both entries lead to the map that is in force; it comes back below. Interrupts are off.
    let (seen, canonical, beyond, apic, written) = unsafe {
        TOP.0[0] = &raw const PML4 as u64 + 3;
        TOP.0[1] = &raw const PML4 as u64 + 3;
        change_levels(&raw const TOP as u32, (cr4 | LA57) as u32);
        let seen = (levels(), read(word), cpuid(0, 0)[1]);
        let canonical = read(SECOND + word);
        let beyond = (read(2 * SECOND).0, read(1 << 56).0.map(|trap| trap.vector));
        // The emulator of device accesses walks the same tables.
        let apic = (read(version), read(SECOND + version));
        let task = SECOND + crate::apic::LOCAL + 0x80;
        asm!("mov dword ptr [{}], 0x30", in(reg) task);
        let written = crate::apic::read(crate::apic::register::TPR);
        crate::apic::write(crate::apic::register::TPR, 0);
        change_levels(old as u32, cr4 as u32);
        (seen, canonical, beyond, apic, written)
    };
    equal("4.5: five levels", seen, (LA57, (None, WORD), cpuid(0, 0)[1]));
    equal("4.5: an address of 57 bits", canonical, (None, WORD));
    equal(
        "4.5: not mapped, and not canonical",
        beyond,
        (Some(Trap { vector: 14, error: 0, cr2: 2 * SECOND }), Some(13)),
    );
    equal("4.5: a device by five levels", (apic.0 == apic.1, apic.0.0, written), (true, None, 0x30));
    equal("4.5: four levels again", (levels(), read(word)), (0, (None, WORD)));
}

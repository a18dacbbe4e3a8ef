//! The guest's own page tables: sizes, rights, accessed and dirty bits, invalidation.

use crate::boot::{PD, PML4};
use crate::report::equal;
use crate::trap::Trap;
use crate::{attempt, read_cr};
use core::arch::asm;

const ENTRIES: usize = 512;

#[repr(align(4096))]
struct Table([u64; ENTRIES]);

static mut TOP: Table = Table([0; ENTRIES]);
static mut MIDDLE: Table = Table([0; ENTRIES]);
static mut LAST: Table = Table([0; ENTRIES]);
static mut PAGES: [Table; 2] = [const { Table([0; ENTRIES]) }; 2];

/// Where the pages of this suite are mapped: entry 1 of the top table.
const BASE: u64 = 1 << 39;

fn at(table: *const Table) -> u64 {
    table as u64
}

fn entry(index: usize) -> u64 {
    // SAFETY: the walker changes it: a volatile read; the table is static.
    unsafe { (&raw const LAST.0[index]).read_volatile() }
}

fn set_entry(index: usize, value: u64) {
    // SAFETY: it maps an address that only this suite uses.
    unsafe { (&raw mut LAST.0[index]).write_volatile(value) };
}

fn invalidate(address: u64) {
    // SAFETY: drops a translation.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack)) };
}

fn load(address: u64) -> (Option<Trap>, u64) {
    let mut value = 0u64;
    let trap = attempt!(["mov rax, [{a}]"], a = in(reg) address, inout("rax") value);
    (trap, value)
}

fn store(address: u64, value: u64) -> Option<Trap> {
    attempt!(["mov [{a}], {v}"], a = in(reg) address, v = in(reg) value)
}

/// Runs the suite.
pub fn run() {
    // SAFETY: the entry was empty; the tables are static and hold what is set below.
    unsafe {
        TOP.0[0] = at(&raw const MIDDLE) + 7;
        MIDDLE.0[0] = at(&raw const LAST) + 7;
        PAGES[0].0[0] = 0x1111;
        PAGES[1].0[0] = 0x2222;
        PML4[1] = at(&raw const TOP) + 7;
    }
    let pages = [at((&raw const PAGES).cast()), at((&raw const PAGES).cast()) + 4096];
    set_entry(0, pages[0] | 3);
    equal("4 KiB page", load(BASE), (None, 0x1111));
    equal("accessed and not dirty", entry(0) & 0x60, 0x20);
    equal("store and dirty", (store(BASE + 8, 5), entry(0) & 0x60), (None, 0x60));
    set_entry(0, pages[1] | 3);
    invalidate(BASE);
    equal("invlpg shows the new page", load(BASE), (None, 0x2222));
    set_entry(0, pages[0] | 3);
    // SAFETY: the same value again: drops all translations that are not global.
    unsafe { asm!("mov {v}, cr3", "mov cr3, {v}", v = out(reg) _) };
    equal("loading cr3 shows the new page", load(BASE), (None, 0x1111));
    set_entry(0, 0);
    invalidate(BASE);
    equal("not present", load(BASE).0, Some(Trap { vector: 14, error: 0, cr2: BASE }));
    set_entry(0, pages[0] | 1);
    equal("read-only with WP", store(BASE + 16, 1), Some(Trap { vector: 14, error: 3, cr2: BASE + 16 }));
    let cr0 = read_cr!("cr0");
    let _ = attempt!(["mov cr0, {v}"], v = in(reg) cr0 & !0x10000);
    equal("read-only without WP", store(BASE + 16, 1), None);
    let _ = attempt!(["mov cr0, {v}"], v = in(reg) cr0);
    set_entry(0, pages[0] | 3 | 1 << 63);
    invalidate(BASE);
    equal(
        "no-execute",
        attempt!(["jmp {a}"], a = in(reg) BASE),
        Some(Trap { vector: 14, error: 0x11, cr2: BASE }),
    );
    set_entry(0, pages[0] | 3 | 1 << 51);
    invalidate(BASE);
    equal("reserved bit", load(BASE).0, Some(Trap { vector: 14, error: 9, cr2: BASE }));
    // A global page outlives a load of CR3 where CR4.PGE is on; toggling PGE ends it.
    let cr4 = read_cr!("cr4");
    let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4 | 0x80);
    set_entry(0, pages[0] | 0x103);
    invalidate(BASE);
    let first = load(BASE).1;
    set_entry(0, pages[1] | 0x103);
    let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4);
    equal("toggling pge flushes global pages", (first, load(BASE).1), (0x1111, 0x2222));
    // 2 MiB and 1 GiB pages.
    // SAFETY: maps what the identity map maps, at another address.
    unsafe { MIDDLE.0[1] = at((&raw const PAGES).cast()) & !0x1f_ffff | 0x83 };
    let offset = pages[1] & 0x1f_ffff;
    equal("2 MiB page", load(BASE + 0x20_0000 + offset), (None, 0x2222));
    if crate::cpu::cpuid(0x8000_0001, 0)[3] >> 26 & 1 == 1 {
        // SAFETY: maps what the identity map maps, at another address.
        unsafe { TOP.0[1] = 0x83 };
        equal("1 GiB page", load(BASE + 0x4000_0000 + pages[1]), (None, 0x2222));
    }
    supervisor_bits(pages[0]);
    // SAFETY: nothing is left that uses the mapping.
    unsafe {
        PML4[1] = 0;
        asm!("mov {v}, cr3", "mov cr3, {v}", v = out(reg) _);
        core::hint::black_box((&raw const PD).read_volatile()[0]);
    }
}

/// SMEP and SMAP keep the supervisor away from user pages.
fn supervisor_bits(page: u64) {
    let cr4 = read_cr!("cr4");
    let features = crate::cpu::cpuid(7, 0)[1];
    set_entry(0, page | 7);
    invalidate(BASE);
    if features >> 20 & 1 == 1 {
        let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4 | 1 << 21);
        equal("smap", load(BASE).0, Some(Trap { vector: 14, error: 1, cr2: BASE }));
        let mut value = 0u64;
        let trap = attempt!(["stac", "mov rax, [{a}]", "clac"], a = in(reg) BASE, inout("rax") value);
        equal("smap with AC set", (trap, value), (None, 0x1111));
    }
    if features >> 7 & 1 == 1 {
        let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4 | 1 << 20);
        equal(
            "smep",
            attempt!(["jmp {a}"], a = in(reg) BASE),
            Some(Trap { vector: 14, error: 0x11, cr2: BASE }),
        );
    }
    let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4);
}

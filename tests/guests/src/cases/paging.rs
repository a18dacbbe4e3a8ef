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
    equal("4.5: 4 KiB page", load(BASE), (None, 0x1111));
    equal("4.8: accessed and not dirty", entry(0) & 0x60, 0x20);
    equal("4.8: store and dirty", (store(BASE + 8, 5), entry(0) & 0x60), (None, 0x60));
    set_entry(0, pages[1] | 3);
    invalidate(BASE);
    equal("4.10.4.1: invlpg shows the new page", load(BASE), (None, 0x2222));
    set_entry(0, pages[0] | 3);
    // SAFETY: the same value again: drops all translations that are not global.
    unsafe { asm!("mov {v}, cr3", "mov cr3, {v}", v = out(reg) _) };
    equal("4.10.4.1: loading cr3 shows the new page", load(BASE), (None, 0x1111));
    set_entry(0, 0);
    invalidate(BASE);
    equal("4.7: not present", load(BASE).0, Some(Trap { vector: 14, error: 0, cr2: BASE }));
    set_entry(0, pages[0] | 1);
    equal(
        "4.6.1: read-only with WP",
        store(BASE + 16, 1),
        Some(Trap { vector: 14, error: 3, cr2: BASE + 16 }),
    );
    let cr0 = read_cr!("cr0");
    let _ = attempt!(["mov cr0, {v}"], v = in(reg) cr0 & !0x10000);
    equal("4.6.1: read-only without WP", store(BASE + 16, 1), None);
    let _ = attempt!(["mov cr0, {v}"], v = in(reg) cr0);
    set_entry(0, pages[0] | 3 | 1 << 63);
    invalidate(BASE);
    equal(
        "4.6.1: no-execute",
        attempt!(["jmp {a}"], a = in(reg) BASE),
        Some(Trap { vector: 14, error: 0x11, cr2: BASE }),
    );
    set_entry(0, pages[0] | 3 | 1 << 51);
    invalidate(BASE);
    equal("4.7: reserved bit", load(BASE).0, Some(Trap { vector: 14, error: 9, cr2: BASE }));
    // A global page outlives a load of CR3 where CR4.PGE is on; toggling PGE ends it.
    let cr4 = read_cr!("cr4");
    let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4 | 0x80);
    set_entry(0, pages[0] | 0x103);
    invalidate(BASE);
    let first = load(BASE).1;
    set_entry(0, pages[1] | 0x103);
    let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4);
    equal("4.10.4.1: toggling pge flushes global pages", (first, load(BASE).1), (0x1111, 0x2222));
    // 2 MiB and 1 GiB pages.
    // SAFETY: maps what the identity map maps, at another address.
    unsafe { MIDDLE.0[1] = at((&raw const PAGES).cast()) & !0x1f_ffff | 0x83 };
    let offset = pages[1] & 0x1f_ffff;
    equal("4.5: 2 MiB page", load(BASE + 0x20_0000 + offset), (None, 0x2222));
    if crate::cpu::cpuid(0x8000_0001, 0)[3] >> 26 & 1 == 1 {
        // SAFETY: maps what the identity map maps, at another address.
        unsafe { TOP.0[1] = 0x83 };
        equal("4.5: 1 GiB page", load(BASE + 0x4000_0000 + pages[1]), (None, 0x2222));
    }
    supervisor_bits(pages[0]);
    protection_keys(pages[0]);
    process_contexts(pages);
    set_entry(0, 0);
    // SAFETY: nothing is left that uses the mapping.
    unsafe {
        PML4[1] = 0;
        asm!("mov {v}, cr3", "mov cr3, {v}", v = out(reg) _);
        core::hint::black_box((&raw const PD).read_volatile()[0]);
    }
    super::levels::run();
}

/// 4.6.2: protection keys of user pages, for the supervisor as well.
fn protection_keys(page: u64) {
    const PKE: u64 = 1 << 22;
    /// Access and writes by key 1 disabled.
    const AD: u32 = 1 << 2;
    const WD: u32 = 1 << 3;
    let cr4 = read_cr!("cr4");
    let write = |value: u32| attempt!([".byte 0x0f, 0x01, 0xef"], in("eax") value, in("ecx") 0, in("edx") 0);
    let vector = |trap: Option<Trap>| trap.map(|trap| trap.vector);
    if crate::cpu::cpuid(7, 0)[2] >> 3 & 1 == 0 {
        return equal("4.6.2: no protection keys, no wrpkru", vector(write(0)), Some(6));
    }
    equal("4.6.2: wrpkru without cr4.pke", vector(write(0)), Some(6));
    set_entry(0, page | 7 | 1 << 59);
    let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4 | PKE);
    let ospke = crate::cpu::cpuid(7, 0)[2] >> 4 & 1;
    let free = (write(0), load(BASE));
    let kept: u32;
    let fault = |error: u32, offset: u64| Some(Trap { vector: 14, error, cr2: BASE + offset });
    let none = (write(AD), load(BASE).0, store(BASE + 24, 1));
    // An exit between: the register is the guest's own.
    let _ = crate::cpu::cpuid(0, 0);
    // SAFETY: RDPKRU, which CR4.PKE allows.
    unsafe { asm!(".byte 0x0f, 0x01, 0xee", in("ecx") 0, out("eax") kept, out("edx") _) };
    let read_only = (write(WD), load(BASE).0, store(BASE + 24, 1));
    let _ = write(0);
    let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4);
    equal("4.6.2: ospke and a key that nothing is kept from", (ospke, free), (1, (None, (None, 0x1111))));
    equal("4.6.2: access disabled", none, (None, fault(0x21, 0), fault(0x23, 24)));
    equal("4.6.2: pkru after an exit", kept, AD);
    equal("4.6.2: writes disabled", read_only, (None, None, fault(0x23, 24)));
}

/// 4.10.1: process-context identifiers; INVPCID (SDM vol. 2).
fn process_contexts(pages: [u64; 2]) {
    const PCIDE: u64 = 1 << 17;
    const KEEP: u64 = 1 << 63;
    let (cr3, cr4) = (read_cr!("cr3"), read_cr!("cr4"));
    let plain = |trap: Option<Trap>| trap.map(|trap| trap.vector);
    let set_cr4 = |value: u64| plain(attempt!(["mov cr4, {v}"], v = in(reg) value));
    let set_cr3 = |value: u64| plain(attempt!(["mov cr3, {v}"], v = in(reg) value));
    let invalidate_context = |kind: u64, context: u64, address: u64| {
        let descriptor = [context, address];
        plain(attempt!(["invpcid {k}, [{d}]"], k = in(reg) kind, d = in(reg) &descriptor))
    };
    let invpcid = crate::cpu::cpuid(7, 0)[1] >> 10 & 1 == 1;
    let show = |page: u64| set_entry(0, page | 3);
    if !invpcid {
        equal("4.10.4.1: INVPCID is not there", invalidate_context(2, 0, 0), Some(6));
    }
    if crate::cpu::cpuid(1, 0)[2] >> 17 & 1 == 0 {
        equal("4.10.1: no pcids, no cr4.pcide", set_cr4(cr4 | PCIDE), Some(13));
    } else {
        let refused = (set_cr3(cr3 | 0x18), set_cr4(cr4 | PCIDE), set_cr3(cr3));
        equal("4.10.1: cr4.pcide with another context than 0", refused, (None, Some(13), None));
        equal("4.10.1: cr4.pcide", (set_cr4(cr4 | PCIDE), read_cr!("cr4") & PCIDE), (None, PCIDE));
        show(pages[0]);
        let first = (set_cr3(cr3 | 1), read_cr!("cr3"), load(BASE).1);
        equal("4.10.4.1: context 1", first, (None, cr3 | 1, 0x1111));
        show(pages[1]);
        let second = (set_cr3(cr3 | 2), load(BASE).1);
        equal("4.10.4.1: context 2 has nothing of context 1", second, (None, 0x2222));
        let kept = (set_cr3(cr3 | 2 | KEEP), read_cr!("cr3"), load(BASE).1);
        equal("4.10.4.1: bit 63 is not stored", kept, (None, cr3 | 2, 0x2222));
        let back = (set_cr3(cr3 | 1), load(BASE).1);
        equal("4.10.4.1: without bit 63 the context is flushed", back, (None, 0x2222));
        if invpcid {
            for kind in 0..4 {
                let page = pages[kind as usize & 1];
                show(page);
                let done = (invalidate_context(kind, 1, BASE), load(BASE).1);
                equal(
                    "4.10.4.1: INVPCID shows the new page",
                    done,
                    (None, [0x1111, 0x2222][kind as usize & 1]),
                );
            }
            let wrong = [(4, 0, 0), (0, 1, 1 << 63), (1, 1 << 12, 0)];
            let wrong = wrong.map(|(kind, context, address)| invalidate_context(kind, context, address));
            equal("4.10.4.1: INVPCID of another type, address or context", wrong, [Some(13); 3]);
        }
        let _ = set_cr3(cr3);
        equal("4.10.1: cr4.pcide off", (set_cr4(cr4), read_cr!("cr4") & PCIDE), (None, 0));
        if invpcid {
            let other = (invalidate_context(0, 0, BASE), invalidate_context(0, 1, BASE));
            equal("4.10.4.1: INVPCID of context 1 without cr4.pcide", other, (None, Some(13)));
        }
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
        equal("4.6.1: smap", load(BASE).0, Some(Trap { vector: 14, error: 1, cr2: BASE }));
        let mut value = 0u64;
        let trap = attempt!(["stac", "mov rax, [{a}]", "clac"], a = in(reg) BASE, inout("rax") value);
        equal("4.6.1: smap with AC set", (trap, value), (None, 0x1111));
    }
    if features >> 7 & 1 == 1 {
        let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4 | 1 << 20);
        equal(
            "4.6.1: smep",
            attempt!(["jmp {a}"], a = in(reg) BASE),
            Some(Trap { vector: 14, error: 0x11, cr2: BASE }),
        );
    }
    let _ = attempt!(["mov cr4, {v}"], v = in(reg) cr4);
}

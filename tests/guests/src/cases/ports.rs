//! Port I/O: widths, the string forms (SDM vol. 1, 19.3), PCI configuration (PCI Local Bus 3.0, 3.2.2.3.2).

use crate::cpu::{inp, outp};
use crate::report::{check, equal, under};
use crate::{attempt, println};
use core::arch::asm;

/// A port where nothing is, on QEMU's PC and on ours.
const NOWHERE: u16 = 0x0e00;

/// Runs the suite.
pub fn run() {
    under(&"vol. 1, 19.3", || {
        widths();
        strings();
    });
    under(&"PCI 3.2.2.3.2", pci);
}

fn widths() {
    let seed = 0x1122_3344_5566_7788u64;
    let mut byte = seed;
    let mut word = seed;
    let mut double = seed;
    // SAFETY: nothing answers at the port.
    unsafe {
        asm!("in al, dx", in("dx") NOWHERE, inout("rax") byte);
        asm!("in ax, dx", in("dx") NOWHERE, inout("rax") word);
        asm!("in eax, dx", in("dx") NOWHERE, inout("rax") double);
    }
    equal("in al keeps the rest of rax", byte, seed | 0xff);
    equal("in ax keeps the rest of rax", word, seed | 0xffff);
    equal("in eax clears the upper half", double, 0xffff_ffff);
    let mut immediate = seed;
    // SAFETY: port 0xef is free.
    unsafe { asm!("in al, 0xef", inout("rax") immediate) };
    equal("in al, imm8", immediate, seed | 0xff);
    // SAFETY: nothing answers at the port.
    unsafe {
        asm!("out 0xef, al", "out 0xef, ax", "out 0xef, eax", in("eax") 0x5555_5555);
        asm!("out dx, al", "out dx, ax", "out dx, eax", in("dx") NOWHERE, in("eax") 0x5555_5555);
    }
    check("out of every width to nowhere", true, "");
    // A prefix that does nothing still has to be stepped over.
    let mut value = seed;
    // SAFETY: nothing answers at the port.
    unsafe { asm!(".byte 0x2e, 0xec", in("dx") NOWHERE, inout("rax") value) };
    equal("in with a segment prefix", value, seed | 0xff);
    // A 16-bit access to two 8-bit registers is two accesses: CMOS index and data.
    outp(0x70, 0x0du8);
    let valid: u8 = inp(0x71);
    check("cmos register d says valid", valid & 0x80 != 0, format_args!("{valid:#x}"));
    outp(console_scratch(), 0x5au8);
    equal("uart scratch register", inp::<u8>(console_scratch()), 0x5a);
    outp(console_scratch(), 0xa5u8);
    equal("uart scratch register again", inp::<u8>(console_scratch()), 0xa5);
}

const fn console_scratch() -> u16 {
    crate::console::PORT + 7
}

/// Where the string forms put their bytes: it crosses page boundaries.
static mut BUFFER: [u8; 12288] = [0; 12288];

fn buffer() -> &'static mut [u8; 12288] {
    let buffer = &raw mut BUFFER;
    // SAFETY: one CPU, one user at a time, no interrupt handler uses it.
    unsafe { &mut *buffer }
}

fn strings() {
    let buffer = buffer();
    for (name, width) in [("rep insb", 1usize), ("rep insw", 2), ("rep insd", 4)] {
        buffer.fill(0);
        // Six elements and a bit lie before a page boundary, the rest behind it.
        let start = buffer.as_ptr().align_offset(4096) + 4096 - 6 * width - 1;
        let (mut count, mut to) = (10usize, buffer[start..].as_mut_ptr());
        // SAFETY: ten elements fit behind `start`.
        unsafe {
            match width {
                1 => asm!("rep insb", in("dx") NOWHERE, inout("rcx") count, inout("rdi") to),
                2 => asm!("rep insw", in("dx") NOWHERE, inout("rcx") count, inout("rdi") to),
                _ => asm!("rep insd", in("dx") NOWHERE, inout("rcx") count, inout("rdi") to),
            }
        }
        let end = start + 10 * width;
        let filled = buffer[start..end].iter().all(|byte| *byte == 0xff);
        let around = buffer[start - 1] == 0 && buffer[end] == 0;
        let moved = to as usize - buffer[start..].as_ptr() as usize;
        check(
            name,
            filled && around && count == 0 && moved == 10 * width,
            format_args!("filled {filled} around {around} count {count} moved {moved}"),
        );
    }
    buffer.fill(0);
    let mut to = buffer[100..].as_mut_ptr();
    // SAFETY: one byte.
    unsafe { asm!("insb", in("dx") NOWHERE, inout("rdi") to) };
    equal("insb once", (buffer[100], buffer[101], to as usize - buffer.as_ptr() as usize), (0xff, 0, 101));
    let (mut count, mut to) = (5usize, buffer[200..].as_mut_ptr());
    // SAFETY: five bytes backwards; the direction flag is put back.
    unsafe { asm!("std", "rep insb", "cld", in("dx") NOWHERE, inout("rcx") count, inout("rdi") to) };
    equal(
        "rep insb backwards",
        (count, to as usize - buffer.as_ptr() as usize, buffer[196] & buffer[200], buffer[195] | buffer[201]),
        (0, 195, 0xff, 0),
    );
    buffer.fill(0);
    let (mut count, mut to) = (0usize, buffer.as_mut_ptr());
    // SAFETY: no byte at all.
    unsafe { asm!("rep insb", in("dx") NOWHERE, inout("rcx") count, inout("rdi") to) };
    equal("rep insb of nothing", (count, to as usize - buffer.as_ptr() as usize, buffer[0]), (0, 0, 0));
    // 32-bit addresses: ECX and EDI count, upper halves of RCX are cleared only by what was executed.
    let (mut count, mut to) = (3u64, buffer.as_mut_ptr() as u64);
    // SAFETY: three bytes below 4 GiB.
    unsafe { asm!(".byte 0x67", "rep insb", in("dx") NOWHERE, inout("rcx") count, inout("rdi") to) };
    equal(
        "rep insb with 32-bit addresses",
        (count, to - buffer.as_ptr() as u64, buffer[2], buffer[3]),
        (0, 3, 0xff, 0),
    );
    let text = b"PASS vol. 1, 19.3: rep outsb reaches the console\r\n";
    let (mut count, mut from) = (text.len(), text.as_ptr());
    // The transmitter is ready for each byte on an emulated UART; on a real one this is more than its FIFO holds.
    wait_empty();
    // SAFETY: reads the text only.
    unsafe { asm!("rep outsb", in("dx") crate::console::PORT, inout("rcx") count, inout("rsi") from) };
    wait_empty();
    equal("rep outsb counts", (count, from as usize - text.as_ptr() as usize), (0, text.len()));
    // FS as the source segment (OUTS may be overridden, INS may not).
    let byte = 0x3cu8;
    // SAFETY: FS base is 0 after; the port is the UART's scratch register.
    unsafe {
        crate::cpu::wrmsr(0xc000_0100, &raw const byte as u64 - 0x1000);
        asm!(".byte 0x64", "outsb", in("dx") console_scratch(), inout("rsi") 0x1000u64 => _);
        crate::cpu::wrmsr(0xc000_0100, 0);
    }
    equal("outsb from fs", inp::<u8>(console_scratch()), 0x3c);
    for (name, trap) in [
        ("insb to nowhere faults", attempt!(["insb"], in("dx") NOWHERE, inout("rdi") 0x80_0000_0000u64 => _)),
        (
            "outsb from nowhere faults",
            attempt!(["outsb"], in("dx") NOWHERE, inout("rsi") 0x80_0000_0000u64 => _),
        ),
    ] {
        let want = if name.starts_with("ins") { 2 } else { 0 };
        equal(name, trap.map(|trap| (trap.vector, trap.error, trap.cr2)), Some((14, want, 0x80_0000_0000)));
    }
    partial_fault();
}

fn wait_empty() {
    while inp::<u8>(crate::console::PORT + 5) & 0x40 == 0 {
        core::hint::spin_loop();
    }
}

/// REP INSB that runs into an unmapped page: what came before it is done, and the registers say so.
fn partial_fault() {
    // The identity map ends at 4 GiB; its last page is RAM on no machine here, but a fault at its end is what counts.
    let (mut count, mut to) = (16u64, (1u64 << 32) - 4);
    let trap = attempt!(["rep insb"], in("dx") NOWHERE, inout("rcx") count, inout("rdi") to);
    equal(
        "rep insb stops at a fault",
        (trap.map(|trap| (trap.vector, trap.error, trap.cr2)), count, to),
        (Some((14, 2, 1 << 32)), 12, 1 << 32),
    );
}

fn pci() {
    let read = |address: u32| {
        outp(0xcf8, address);
        inp::<u32>(0xcfc)
    };
    let bridge = read(0x8000_0000);
    println!("host bridge {bridge:#x}");
    equal("pci host bridge", bridge, 0x1237_8086);
    equal("pci address reads back", inp::<u32>(0xcf8), 0x8000_0000);
    equal("pci nothing in slot 31", read(0x8000_f800), !0);
    outp(0xcf8, 0x8000_0000u32);
    equal("pci bytes of a register", (inp::<u8>(0xcfc), inp::<u16>(0xcfe)), (0x86, 0x1237));
    outp(0xcf8, 0u32);
    equal("pci without the enable bit", inp::<u32>(0xcfc), !0);
}

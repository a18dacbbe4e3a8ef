//! What a loader leaves: the processor's state and what it tells, by PVH, by multiboot, and by Linux's protocol.

use crate::boot::{Protocol, entry_registers, field, option, protocol, string};
use crate::println;
use crate::report::{check, equal};

const MIB: u64 = 1 << 20;

/// Runs the suite. `protocol=` on the command line says what is expected, `modules=` how many.
pub fn run() {
    let (name, memory, modules) = match protocol() {
        Protocol::Linux(parameters) => ("linux", linux(parameters), None),
        Protocol::Pvh(info) => ("pvh", pvh(info), Some(pvh_modules(info))),
        Protocol::Multiboot(info) => ("multiboot", multiboot(info), Some(multiboot_modules(info))),
    };
    if let Some(wanted) = option("protocol") {
        equal("boot protocol", name, wanted);
    }
    if let (Some(wanted), Some(found)) = (option("modules").and_then(|text| text.parse().ok()), modules) {
        equal("number of modules", found, wanted);
    }
    check("ram from 1 MiB on in the memory map", memory > MIB, format_args!("{memory:#x}"));
    println!("ram ends at {memory:#x}");
}

/// End of the RAM that starts at 1 MiB, of `count` entries of a map that are `stride` apart: address, length, type.
fn ram_end(map: u64, count: u64, stride: u64) -> u64 {
    let mut entries = (0..count).map(|index| map + index * stride);
    let found = entries.rfind(|at| field::<u64>(*at) == MIB && field::<u32>(at + 16) == 1);
    found.map_or(0, |at| MIB + field::<u64>(at + 8))
}

/// Protected mode without paging and interrupts, which both 32-bit protocols promise.
fn protected_mode() {
    let [_, _, flags, cr0, _] = entry_registers();
    equal("entry in protected mode without paging", cr0 & 0x8000_0001, 1);
    equal("entry without interrupts, single steps and VM86", flags & (1 << 17 | 1 << 9 | 1 << 8), 0);
}

fn linux(parameters: u64) -> u64 {
    equal("setup header", field::<u32>(parameters + 0x202), u32::from_le_bytes(*b"HdrS"));
    ram_end(parameters + 0x2d0, field::<u8>(parameters + 0x1e8).into(), 20)
}

fn pvh(info: u64) -> u64 {
    protected_mode();
    let [.., cr0, cr4] = entry_registers();
    equal("pvh entry: the rest of CR0 and CR4", (cr0 & !0x11, cr4), (0, 0));
    equal("pvh magic", field::<u32>(info), 0x336e_c578);
    check("pvh version", field::<u32>(info + 4) >= 1, field::<u32>(info + 4));
    let rsdp = field::<u64>(info + 32);
    check("pvh rsdp", rsdp != 0 && field::<[u8; 8]>(rsdp) == *b"RSD PTR ", format_args!("{rsdp:#x}"));
    ram_end(field(info + 40), field::<u32>(info + 48).into(), 24)
}

fn pvh_modules(info: u64) -> u32 {
    let (count, list) = (field::<u32>(info + 12), field::<u64>(info + 16));
    for at in (list..).step_by(32).take(count as usize) {
        content(field(at), field(at + 8));
    }
    count
}

fn multiboot(info: u64) -> u64 {
    protected_mode();
    let flags = field::<u32>(info);
    equal("multiboot: memory, command line and memory map", flags & 0x45, 0x45);
    let (lower, upper) = (field::<u32>(info + 4), field::<u32>(info + 8));
    check("multiboot lower memory", (636..=640).contains(&lower), lower);
    let (length, map) = (field::<u32>(info + 44), field::<u32>(info + 48));
    // The entries' size, which does not count itself, comes before each.
    equal("multiboot size of a map entry", field::<u32>(map.into()), 20);
    let end = ram_end(u64::from(map) + 4, u64::from(length) / 24, 24);
    equal("multiboot upper memory", MIB + (u64::from(upper) << 10), end);
    end
}

fn multiboot_modules(info: u64) -> u32 {
    if field::<u32>(info) & 1 << 3 == 0 {
        return 0;
    }
    let (count, list) = (field::<u32>(info + 20), u64::from(field::<u32>(info + 24)));
    for at in (list..).step_by(16).take(count as usize) {
        let (from, to): (u32, u32) = (field(at), field(at + 4));
        println!("module string: {}", string(field::<u32>(at + 8).into()));
        equal("module starts a page", from & 0xfff, 0);
        content(from.into(), u64::from(to.wrapping_sub(from)));
    }
    count
}

/// Shows a module, which is a line of text.
fn content(address: u64, length: u64) {
    let mut text = [0; 64];
    for (place, at) in text.iter_mut().zip(0..length) {
        *place = field(address + at);
    }
    println!(
        "module of {length} bytes: {}",
        core::str::from_utf8(&text).unwrap_or("?").trim_end_matches(['\0', '\n'])
    );
}

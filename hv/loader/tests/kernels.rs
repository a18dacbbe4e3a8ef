//! Kernels other than Linux's own formats, with files made here: PVH and multiboot, and which kind a file is.

mod common;

use common::Ram;
use monovisor_arch::GuestMemory;
use monovisor_loader::kernel::{self, MAX_MODULES};
use monovisor_loader::{EntryState, Image, KernelGuest, Kind, Problem};

const MIB: u64 = 1 << 20;
const BASE: u32 = 0x20_0000;

/// An ELF32 file: one segment of `memory` bytes at [`BASE`] with `payload`, entered at [`BASE`] + 0x10, and a note.
/// What is in `extra` comes right behind the headers.
fn elf32(payload: &[u8], memory: u32, extra: &[u8], note: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2u16, 3].map(u16::to_le_bytes).concat());
    file.extend([1u32, BASE + 0x10, 52, 0, 0].map(u32::to_le_bytes).concat());
    file.extend([52u16, 32, 2, 40, 0, 0].map(u16::to_le_bytes).concat());
    let length = payload.len() as u32;
    // p_vaddr is far from p_paddr: the latter counts.
    file.extend([1, 0x1000, BASE, BASE, length, memory, 5, 4096].map(u32::to_le_bytes).concat());
    let at = 52 + 64 + extra.len() as u32;
    file.extend([4, at, 0, 0, note.len() as u32, note.len() as u32, 4, 4].map(u32::to_le_bytes).concat());
    file.extend(extra);
    file.extend(note);
    file.resize(0x1000, 0);
    file.extend(payload);
    file
}

fn note(content: &[u8]) -> Vec<u8> {
    // Another note comes first; name and content are padded.
    let mut note = [3u32, 2, 7].map(u32::to_le_bytes).concat();
    note.extend(b"ab\0\0xy\0\0");
    note.extend([4, content.len() as u32, 18].map(u32::to_le_bytes).concat());
    note.extend(b"Xen\0");
    note.extend(content);
    note
}

fn header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    let words = [magic, flags, 0u32.wrapping_sub(magic).wrapping_sub(flags)];
    words.iter().chain(addresses).flat_map(|word| word.to_le_bytes()).collect()
}

fn boot(kernel: &[u8], modules: &[Image<'_>], megabytes: u64) -> Result<(Ram, EntryState), String> {
    let ram = Ram::new(megabytes * MIB);
    // What was there before must not shine through.
    ram.fill(0x1_0000, 0xee, 0x1_0000).unwrap();
    let guest = KernelGuest {
        kernel: Image { name: "kernel", data: kernel },
        modules,
        command_line: "one two",
        memory_size: megabytes * MIB,
        rsdp: 0xe_0000,
    };
    kernel::load(&ram, &guest).map(|entry| (ram, entry)).map_err(|error| error.to_string())
}

fn word(ram: &Ram, address: u64) -> u64 {
    ram.read_u32(address).unwrap().into()
}

fn string(ram: &Ram, address: u64) -> String {
    let bytes = ram.bytes(address, 64);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

/// Flat 32-bit protected mode without paging, and a GDT that agrees with the hidden parts.
fn check_mode(ram: &Ram, entry: &EntryState) {
    assert_eq!(entry.control.cr0 & !0x10, 1);
    assert_eq!((entry.control.cr3, entry.control.cr4, entry.control.efer), (0, 0, 0));
    for (segment, kind) in [(entry.code, 0xb), (entry.data, 3)] {
        assert_eq!((segment.base, segment.limit, segment.access), (0, u32::MAX, 0xc090 | kind));
        let descriptor = ram.read_u64(entry.gdtr.base + u64::from(segment.selector)).unwrap();
        assert_eq!(descriptor >> 40 & 0xf0ff, u64::from(segment.access));
        assert!(u64::from(entry.gdtr.limit) >= u64::from(segment.selector) + 7);
    }
}

#[test]
fn kinds_are_told_apart_in_qemus_order() {
    let multiboot = header(0, &[]);
    let pvh = note(&(BASE + 0x20).to_le_bytes());
    for (file, kind) in [
        (elf32(&[0; 32], 32, &multiboot, &[]), Ok(Kind::Multiboot)),
        (elf32(&[0; 32], 32, &[], &pvh), Ok(Kind::Pvh)),
        (elf32(&[0; 32], 32, &multiboot, &pvh), Ok(Kind::Multiboot)),
        (elf32(&[0; 32], 32, &[], &[]), Err(Problem::PlainElf32)),
        (multiboot.clone(), Ok(Kind::Multiboot)),
        (b"#!/bin/sh\n".repeat(100), Err(Problem::NotAKernel)),
        (Vec::new(), Err(Problem::NotAKernel)),
    ] {
        assert_eq!(Kind::of(&file), kind);
    }
    // The header has to be aligned, whole, and in the first 8 KiB.
    for (at, found) in [(0, true), (8180, true), (8184, false), (2, false)] {
        let mut file = vec![0; at];
        file.extend(&multiboot);
        assert_eq!(Kind::of(&file).is_ok(), found, "{at}");
    }
    assert!(Kind::of(&multiboot[..11]).is_err());
}

#[test]
fn a_pvh_kernel_finds_its_start_info() {
    let payload: Vec<u8> = (0..=255).collect();
    for content in [(BASE + 0x20).to_le_bytes().to_vec(), u64::from(BASE + 0x20).to_le_bytes().to_vec()] {
        let kernel = elf32(&payload, 0x3000, &[], &note(&content));
        let initrd = [0x5a; 5000];
        let (ram, entry) = boot(&kernel, &[Image { name: "initrd", data: &initrd }], 64).unwrap();
        check_mode(&ram, &entry);
        assert_eq!(entry.rip, u64::from(BASE) + 0x20);
        assert_eq!(ram.bytes(BASE.into(), 256), payload);
        let info = entry.rbx;
        assert_eq!((word(&ram, info), word(&ram, info + 4)), (0x336e_c578, 1));
        assert_eq!((word(&ram, info + 8), word(&ram, info + 12)), (0, 1));
        let field = |offset| ram.read_u64(info + offset).unwrap();
        assert_eq!(string(&ram, field(24)), "one two");
        assert_eq!(field(32), 0xe_0000);
        let (module, length) = (ram.read_u64(field(16)).unwrap(), ram.read_u64(field(16) + 8).unwrap());
        assert_eq!((module, length), (64 * MIB - 0x2000, 5000));
        assert_eq!(ram.bytes(module, 5000), initrd);
        assert_eq!(ram.bytes(field(16) + 16, 16), [0; 16]);
        assert_eq!(word(&ram, info + 48), 4);
        assert_eq!(ram.read_u64(field(40) + 3 * 24), Ok(MIB));
        assert_eq!(ram.read_u64(field(40) + 3 * 24 + 8), Ok(63 * MIB));
        assert_eq!(word(&ram, field(40) + 3 * 24 + 16), 1);
    }
    let (ram, entry) =
        boot(&elf32(&payload, 0x3000, &[], &note(&(BASE + 0x20).to_le_bytes())), &[], 64).unwrap();
    assert_eq!((word(&ram, entry.rbx + 12), ram.read_u64(entry.rbx + 16)), (0, Ok(0)));
}

/// Checks the multiboot information; returns its address.
fn check_information(ram: &Ram, entry: &EntryState, modules: u64) -> u64 {
    check_mode(ram, entry);
    assert_eq!(entry.rax, 0x2bad_b002);
    let info = entry.rbx;
    assert_eq!(word(ram, info), if modules == 0 { 0x247 } else { 0x24f });
    assert_eq!((word(ram, info + 4), word(ram, info + 8)), (639, 63 * 1024));
    assert_eq!(string(ram, word(ram, info + 16)), "kernel one two");
    assert_eq!(word(ram, info + 20), modules);
    let (length, map) = (word(ram, info + 44), word(ram, info + 48));
    assert_eq!((length, word(ram, map)), (4 * 24, 20));
    let last = map + 3 * 24;
    assert_eq!(
        (ram.read_u64(last + 4), ram.read_u64(last + 12), word(ram, last + 20)),
        (Ok(MIB), Ok(63 * MIB), 1)
    );
    assert_eq!(string(ram, word(ram, info + 64)), "Monovisor");
    info
}

#[test]
fn a_multiboot_elf_gets_its_modules() {
    let kernel = elf32(&[7; 100], 0x3000, &header(3, &[]), &[]);
    let (a, b) = ([1; 10], [2; 5000]);
    let modules = [
        Image { name: "a.bin arg x", data: &a },
        Image { name: "b.bin", data: &b },
        Image { name: "c", data: &[] },
    ];
    let (ram, entry) = boot(&kernel, &modules, 64).unwrap();
    // The entry is given as a virtual address.
    assert_eq!(entry.rip, u64::from(BASE) + 0x10);
    assert_eq!(ram.bytes(BASE.into(), 100), [7; 100]);
    let info = check_information(&ram, &entry, 3);
    let list = word(&ram, info + 24);
    let mut next = u64::from(BASE) + 0x3000;
    for (index, module) in (0..).zip(modules) {
        let at = list + 16 * index;
        assert_eq!(word(&ram, at), next);
        assert_eq!(word(&ram, at + 4), next + module.data.len() as u64);
        assert_eq!(string(&ram, word(&ram, at + 8)), module.name);
        assert_eq!(ram.bytes(next, module.data.len()), module.data);
        next = (next + module.data.len() as u64).next_multiple_of(4096);
    }
    let (ram, entry) = boot(&kernel, &[], 64).unwrap();
    check_information(&ram, &entry, 0);
}

#[test]
fn initrd_names_modules() {
    let names = |kind: Kind, text| kind.modules(text).collect::<Vec<_>>();
    assert_eq!(names(Kind::Multiboot, "a.elf x y,b"), [("a.elf", "a.elf x y"), ("b", "b")]);
    assert_eq!(names(Kind::BzImage, "a.elf x,b"), [("a.elf x,b", "a.elf x,b")]);
}

#[test]
fn load_addresses_of_the_header_count_before_the_elf_file() {
    let (base, kernel) = (0x10_0000u32, [0x90; 300]);
    // The header is 64 bytes into what is loaded, and 96 into the file.
    let file = |addresses: [u32; 5]| {
        let mut file = vec![0xcc; 32];
        file.extend(&kernel[..64]);
        file.extend(header(0x1_0000, &addresses));
        file.extend(&kernel[..200]);
        file
    };
    let good = [base + 64, base, base + 200, base + 0x5000, base + 0x40];
    let (ram, entry) = boot(&file(good), &[], 64).unwrap();
    assert_eq!(entry.rip, u64::from(base) + 0x40);
    check_information(&ram, &entry, 0);
    assert_eq!(ram.bytes(base.into(), 64), [0x90; 64]);
    assert_eq!(ram.bytes(u64::from(base) + 96, 104), [0x90; 104]);
    assert_eq!(ram.bytes(u64::from(base) + 200, 300), [0; 300]);
    // No load_end_addr: all of the file. No bss_end_addr: no bss.
    let (ram, _) = boot(&file([base + 64, base, 0, 0, base]), &[], 64).unwrap();
    assert_eq!(ram.bytes(u64::from(base) + 96, 200), [0x90; 200]);
    for (index, value, says) in [
        (0, base + 200, "header_addr"),
        (1, base + 65, "load_addr"),
        (2, base + 400, "cut off"),
        (2, base - 1, "load_end_addr"),
        (3, base + 100, "bss_end_addr"),
        (3, 0xffff_ffff, "too little memory"),
        (4, base - 1, "entry_addr"),
        (4, base + 0x5000, "entry_addr"),
    ] {
        let mut bad = good;
        bad[index] = value;
        let error = boot(&file(bad), &[], 64).err().unwrap();
        assert!(error.starts_with("-kernel kernel: ") && error.contains(says), "{index}: {error}");
    }
    // In conventional memory it leaves no room there for what it is told; the ROMs' place is no RAM.
    let low = [0x8040, 0x8000, 0, 0x2_0000, 0x8000];
    let (ram, entry) = boot(&file(low), &[Image { name: "m", data: &[9; 9] }], 64).unwrap();
    assert_eq!(check_information(&ram, &entry, 1), MIB + 0x1100);
    assert_eq!(ram.bytes(MIB, 9), [9; 9]);
    let rom = boot(&file([0x9_f040, 0x9_f000, 0, 0xa_0000, 0x9_f000]), &[], 64).err().unwrap();
    assert_eq!(rom, "-kernel kernel: the kernel is to lie at 0x9fc00, where no RAM is");
}

#[test]
fn what_is_wrong_is_said() {
    let multiboot = header(0, &[]);
    let error = |kernel: &[u8]| boot(kernel, &[], 64).err().unwrap();
    let mut video = header(4, &[]);
    video.resize(100, 0);
    assert_eq!(
        error(&elf32(&[0; 32], 32, &video, &[])),
        "-kernel kernel: the multiboot header asks for what is not there (flags 0x4)"
    );
    assert!(error(&multiboot).contains("neither"));
    let mut wide = elf32(&[0; 32], 32, &multiboot, &[]);
    (wide[4], wide[18]) = (2, 62);
    wide[54..58].copy_from_slice(&[56, 0, 1, 0]);
    wide[32..40].copy_from_slice(&64u64.to_le_bytes());
    assert!(error(&wide).contains("has to be a 32-bit ELF file"), "{}", error(&wide));
    let outside = note(&(BASE + 0x4000).to_le_bytes());
    assert!(error(&elf32(&[0; 32], 32, &[], &outside)).contains("entry point"));
    let kernel = elf32(&[0; 32], 32, &multiboot, &[]);
    let big = vec![0; 63 << 20];
    let text = boot(&kernel, &[Image { name: "big", data: &big }], 64).err().unwrap();
    assert!(text.starts_with("-initrd big: the guest has too little memory"), "{text}");
    let many = [Image { name: "m", data: &[] }; MAX_MODULES + 1];
    assert!(boot(&kernel, &many[1..], 64).is_ok());
    assert_eq!(boot(&kernel, &many, 64).err().unwrap(), "-initrd: there can be 32 modules at most");
    let long = "x".repeat(100_000);
    let guest = KernelGuest {
        kernel: Image { name: "k", data: &kernel },
        modules: &[],
        command_line: &long,
        memory_size: 64 * MIB,
        rsdp: 0,
    };
    let text = kernel::load(&Ram::new(64 * MIB), &guest).unwrap_err().to_string();
    assert_eq!(text, "-append: 100002 bytes, the kernel takes 61440 at most");
}

#[test]
fn damaged_headers_are_survived() {
    let multiboot = header(0x1_0003, &[BASE + 128, BASE, 0, 0, BASE + 200]);
    let images = [
        elf32(&[0; 64], 0x1000, &header(3, &[]), &[]),
        elf32(&[0; 64], 0x1000, &[], &note(&(BASE + 0x20).to_le_bytes())),
        multiboot.iter().copied().chain([0; 300]).collect(),
    ];
    for image in images {
        for index in 0..200 {
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut bad = image.clone();
                bad[index] = value;
                let _ = boot(&bad, &[Image { name: "m", data: &[1, 2, 3] }], 8);
            }
        }
        for length in 0..300 {
            let _ = boot(&image[..length], &[], 8);
        }
    }
}

//! The Linux boot protocol, with files made here: what is accepted, where it goes, what is refused.

mod common;

use common::Ram;
use monovisor_arch::GuestMemory;
use monovisor_loader::linux::load;
use monovisor_loader::{EntryState, Image, LinuxGuest, Problem};

const MIB: u64 = 1 << 20;

/// A bzImage: 4 KiB of set-up code, then `payload`.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0u8; 4096];
    file[0x1f1] = 7;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x211] = 1;
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    file[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
    file[0x234] = 1;
    file[0x236..0x238].copy_from_slice(&0x7fu16.to_le_bytes());
    file[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    file[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
    file[0x260..0x264].copy_from_slice(&0x100_0000u32.to_le_bytes());
    file.extend(payload);
    file
}

/// A vmlinux with one segment of `memory_size` bytes at `physical`, linked at -2 GiB.
fn vmlinux(physical: u64, memory_size: u64, entry: u64, payload: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    for word in [entry, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    file.extend(5u32.to_le_bytes());
    for word in [
        0x1000,
        0xffff_ffff_8000_0000u64.wrapping_add(physical),
        physical,
        payload.len() as u64,
        memory_size,
        0x20_0000,
    ] {
        file.extend(word.to_le_bytes());
    }
    file.resize(0x1000, 0);
    file.extend(payload);
    file
}

fn guest<'a>(kernel: &'a [u8], initrd: Option<&'a [u8]>, memory_size: u64) -> LinuxGuest<'a> {
    LinuxGuest {
        kernel: Image { name: "vmlinuz", data: kernel },
        initrd: initrd.map(|data| Image { name: "initrd.img", data }),
        command_line: "console=ttyS0",
        memory_size,
        rsdp: 0xe0000,
    }
}

fn boot(guest: &LinuxGuest<'_>) -> Result<(Ram, EntryState), String> {
    let ram = Ram::new(guest.memory_size);
    load(&ram, guest).map(|entry| (ram, entry)).map_err(|error| error.to_string())
}

fn u32_at(ram: &Ram, address: u64) -> u64 {
    u64::from(ram.read_u32(address).unwrap())
}

#[test]
fn a_bzimage_comes_to_lie_at_its_preferred_address() {
    let payload: Vec<u8> = (0..0x4321u32).map(|i| (i * 13) as u8).collect();
    let initrd = vec![0x5a; 0x1234];
    let kernel = bzimage(&payload);
    let (ram, entry) = boot(&guest(&kernel, Some(&initrd), 64 * MIB)).unwrap();
    assert_eq!(ram.bytes(0x100_0000, payload.len()), payload);
    assert_eq!(entry.rip, 0x100_0200);
    let page = entry.rsi;
    assert_eq!(u32_at(&ram, page + 0x202), u64::from(u32::from_le_bytes(*b"HdrS")));
    assert_eq!(ram.bytes(page + 0x210, 1), [0xff]);
    assert_eq!(u32_at(&ram, page + 0x214), 0x100_0000);
    let at = u32_at(&ram, page + 0x218);
    assert_eq!(at, 64 * MIB - 0x2000);
    assert_eq!(u32_at(&ram, page + 0x21c), 0x1234);
    assert_eq!(ram.bytes(at, 0x1234), initrd);
    let line = u32_at(&ram, page + 0x228);
    assert_eq!(ram.bytes(line, 14), b"console=ttyS0\0");
    assert_eq!(ram.read_u64(page + 0x70), Ok(0xe0000));
    // Nothing of the boot sector comes along, and nothing behind the header (0x202 + 0x6a).
    assert_eq!(ram.bytes(page + 0x26c, 100), [0; 100]);
    // e820: four entries, the last one RAM from 1 MiB to the end.
    assert_eq!(ram.bytes(page + 0x1e8, 1), [4]);
    assert_eq!(ram.read_u64(page + 0x2d0 + 60), Ok(MIB));
    assert_eq!(ram.read_u64(page + 0x2d0 + 68), Ok(63 * MIB));
    assert_eq!(u32_at(&ram, page + 0x2d0 + 76), 1);
}

#[test]
fn the_entry_state_maps_four_gib_one_to_one() {
    let kernel = bzimage(&[0; 0x1000]);
    let (ram, entry) = boot(&guest(&kernel, None, 64 * MIB)).unwrap();
    for address in [0u64, 0x7123, 0x100_0200, 0xfee0_0000, 0xffff_ffff] {
        let mut table = entry.control.cr3;
        for shift in [39, 30, 21] {
            let slot = ram.read_u64(table + 8 * (address >> shift & 511)).unwrap();
            assert_eq!(slot & 3, 3);
            assert_eq!(slot & 0x80 != 0, shift == 21);
            table = slot & 0xf_ffff_ffff_f000;
        }
        assert_eq!(table | address & 0x1f_ffff, address);
    }
    // The descriptors agree with the hidden parts.
    let code = ram.read_u64(entry.gdtr.base + 0x10).unwrap();
    assert_eq!(code >> 40 & 0xf0ff, u64::from(entry.code.access));
    let data = ram.read_u64(entry.gdtr.base + 0x18).unwrap();
    assert_eq!(data >> 40 & 0xf0ff, u64::from(entry.data.access));
}

#[test]
fn little_memory_moves_a_relocatable_kernel_down() {
    let kernel = bzimage(&[1; 0x1000]);
    let (ram, entry) = boot(&guest(&kernel, None, 20 * MIB)).unwrap();
    assert_eq!(entry.rip, 2 * MIB + 0x200);
    assert_eq!(ram.bytes(2 * MIB, 4), [1; 4]);
    let mut fixed = bzimage(&[1; 0x1000]);
    fixed[0x234] = 0;
    assert_eq!(
        boot(&guest(&fixed, None, 20 * MIB)).err().unwrap(),
        "-kernel vmlinuz: the guest has too little memory: the kernel needs 32 MiB, there are 20 MiB (-m)"
    );
    assert_eq!(
        boot(&guest(&kernel, None, 4 * MIB)).err().unwrap(),
        "-kernel vmlinuz: the guest has too little memory: the kernel needs 18 MiB, there are 4 MiB (-m)"
    );
}

#[test]
fn ram_above_four_gib_is_in_the_map() {
    let kernel = bzimage(&[0; 0x1000]);
    let initrd = [1; 5000];
    let (ram, entry) = boot(&guest(&kernel, Some(&initrd), 5 << 30)).unwrap();
    assert_eq!(ram.bytes(entry.rsi + 0x1e8, 1), [5]);
    let last = entry.rsi + 0x2d0 + 80;
    assert_eq!((ram.read_u64(last), ram.read_u64(last + 8)), (Ok(4 << 30), Ok(2 << 30)));
    // The initrd stays below the kernel's limit of 2 GiB.
    assert_eq!(u32_at(&ram, entry.rsi + 0x218), 0x8000_0000 - 0x2000);
}

#[test]
fn a_vmlinux_is_loaded_by_physical_addresses() {
    let payload = vec![7; 0x2345];
    for entry in [0x100_0040, 0xffff_ffff_8100_0040] {
        let kernel = vmlinux(0x100_0000, 0x8_0000, entry, &payload);
        let ram = Ram::new(64 * MIB);
        ram.write(0x100_2345, &[0xee; 16]).unwrap();
        let state = load(&ram, &guest(&kernel, None, 64 * MIB)).unwrap();
        assert_eq!(state.rip, 0x100_0040);
        assert_eq!(ram.bytes(0x100_0000, payload.len()), payload);
        assert_eq!(ram.bytes(0x100_2345, 16), [0; 16]);
        assert_eq!(ram.bytes(state.rsi + 0x202, 4), b"HdrS");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let good = bzimage(&[0; 0x1000]);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut kernel = good.clone();
        change(&mut kernel);
        boot(&guest(&kernel, None, 64 * MIB)).err().unwrap()
    };
    let name = "-kernel vmlinuz: ";
    assert_eq!(with(&|k| k.clear()), format!("{name}neither a Linux bzImage nor an ELF or multiboot kernel"));
    assert_eq!(with(&|k| k.truncate(4096)), format!("{name}the file is cut off"));
    assert_eq!(with(&|k| k[0x206] = 0x0a), format!("{name}boot protocol 2.10 is too old, 2.12 is needed"));
    assert_eq!(with(&|k| k[0x236] = 0), format!("{name}a 32-bit kernel: it has no 64-bit entry point"));
    assert_eq!(
        with(&|k| k[0x231] = 1),
        format!("{name}the kernel's header field kernel_alignment makes no sense")
    );
    let elf = vmlinux(0x100_0000, 0x1000, 0x100_0000, &[0; 16]);
    let mut wrong = elf.clone();
    wrong[4] = 1;
    assert!(boot(&guest(&wrong, None, 64 * MIB)).err().unwrap().contains("not an x86 ELF executable"));
    let outside = vmlinux(0x100_0000, 0x1000, 0x50, &[0; 16]);
    assert!(boot(&guest(&outside, None, 64 * MIB)).err().unwrap().contains("entry point"));

    let big = vec![0; 50 << 20];
    assert_eq!(
        boot(&guest(&good, Some(&big), 64 * MIB)).err().unwrap(),
        "-initrd initrd.img: the guest has too little memory (-m): 51200 KiB do not fit in the 32768 KiB beside the kernel"
    );
    let long = "x".repeat(2048);
    let mut request = guest(&good, None, 64 * MIB);
    request.command_line = &long;
    assert_eq!(boot(&request).err().unwrap(), "-append: 2048 bytes, the kernel takes 2047 at most");
}

#[test]
fn damaged_headers_are_survived() {
    let ram = Ram::new(32 * MIB);
    let images = [bzimage(&[0; 0x300]), vmlinux(0x20_0000, 0x1000, 0x20_0000, &[0; 64])];
    for (image, fields) in images.iter().zip([0x1f0..0x270, 0..0x78]) {
        for index in fields {
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut bad = image.clone();
                bad[index] = value;
                let _ = load(&ram, &guest(&bad, None, 32 * MIB));
            }
        }
        for length in (0..image.len()).step_by(7) {
            let result = load(&ram, &guest(&image[..length], None, 32 * MIB));
            if length < 0x270.min(image.len()) && length < 0x78 {
                assert!(matches!(
                    result.unwrap_err().problem,
                    Problem::NotAKernel | Problem::Truncated | Problem::WrongElf
                ));
            }
        }
    }
}

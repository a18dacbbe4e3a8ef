//! The ACPI tables: structure and checksums here; what they mean by Intel's own disassembler where it is installed.

mod common;

use std::process::Command;

use common::Ram;
use monovisor_arch::GuestMemory;
use monovisor_loader::acpi::{Machine, RSDP, build};

const MACHINES: [Machine; 3] = [
    Machine { cpus: 1, i8042: false, hpet: false },
    Machine { cpus: 2, i8042: true, hpet: false },
    Machine { cpus: 8, i8042: true, hpet: true },
];

/// All tables by signature.
fn tables(machine: &Machine) -> Vec<(String, Vec<u8>)> {
    let ram = Ram::new(1 << 20);
    build(&ram, machine).unwrap();
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let rsdp = ram.bytes(RSDP, 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
    let table = |address: u64| {
        let length = ram.read_u32(address + 4).unwrap();
        let bytes = ram.bytes(address, length as usize);
        let name = String::from_utf8(bytes[..4].to_vec()).unwrap();
        assert!(name == "FACS" || sum(&bytes) == 0, "{name}");
        (name, bytes)
    };
    let xsdt = table(ram.read_u64(RSDP + 24).unwrap());
    let mut all: Vec<_> = xsdt.1[36..]
        .chunks_exact(8)
        .map(|pointer| table(u64::from_le_bytes(pointer.try_into().unwrap())))
        .collect();
    let fadt = all.iter().find(|table| table.0 == "FACP").unwrap().1.clone();
    let long = |at: usize| u64::from_le_bytes(fadt[at..at + 8].try_into().unwrap());
    let short = |at: usize| u64::from(u32::from_le_bytes(fadt[at..at + 4].try_into().unwrap()));
    assert_eq!((fadt.len(), long(132), short(40)), (244, 0, long(140)));
    assert_eq!(short(36) % 64, 0);
    all.push(table(short(36)));
    all.push(table(long(140)));
    all.push(xsdt);
    all
}

#[test]
fn all_tables_are_linked_and_sum_to_zero() {
    for machine in MACHINES {
        let mut names: Vec<_> = tables(&machine).into_iter().map(|table| table.0).collect();
        names.sort();
        let mut expected = vec!["APIC", "DSDT", "FACP", "FACS", "XSDT"];
        if machine.hpet {
            expected.insert(4, "HPET");
        }
        assert_eq!(names, expected);
    }
}

#[test]
fn the_disassembler_finds_nothing_wrong() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("iasl (Debian: acpica-tools) is not installed: skipped");
        return;
    }
    let directory = std::env::temp_dir().join(format!("monovisor-acpi-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for (index, machine) in MACHINES.iter().enumerate() {
        for (name, bytes) in tables(machine) {
            if name == "XSDT" {
                // iasl wants the tables that it points to in memory.
                continue;
            }
            let path = directory.join(format!("{name}{index}.dat"));
            std::fs::write(&path, bytes).unwrap();
            let output = Command::new("iasl").arg("-d").arg(&path).current_dir(&directory).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {text}");
            for bad in ["Warning", "Error", "Invalid", "Unknown", "Incorrect"] {
                assert!(!text.contains(bad), "{name}: {text}");
            }
            let source = path.with_extension("dsl");
            let listing = std::fs::read_to_string(&source).unwrap();
            for bad in ["Invalid", "Incorrect", "**** "] {
                assert!(!listing.contains(bad), "{name}: {listing}");
            }
            if name != "FACS" {
                // And back: the compiler checks the meaning (names, types, resources).
                let output = Command::new("iasl").arg(&source).current_dir(&directory).output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{name}: {text}\n{listing}");
                if name == "DSDT" {
                    assert!(text.contains("0 Errors, 0 Warnings"), "{text}\n{listing}");
                }
            }
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

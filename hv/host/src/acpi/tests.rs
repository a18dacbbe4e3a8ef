use super::*;
use crate::physical::test::Pieces;

fn leak(bytes: Vec<u8>) -> &'static [u8] {
    Box::leak(bytes.into_boxed_slice())
}

fn sealed(mut table: Vec<u8>, checksum_at: usize) -> &'static [u8] {
    table[checksum_at] = 0;
    table[checksum_at] = checksum(&table).wrapping_neg();
    leak(table)
}

fn sdt(signature: &[u8; 4], body: &[u8]) -> &'static [u8] {
    let mut table = signature.to_vec();
    table.extend((HEADER as u32 + body.len() as u32).to_le_bytes());
    table.resize(HEADER, 0);
    table.extend(body);
    sealed(table, 9)
}

const MADT: &[u8] = &[
    0, 0, 0xe0, 0xfe, 1, 0, 0, 0, // local APIC address, flags
    0, 8, 0, 0, 1, 0, 0, 0, // processor 0
    0, 8, 1, 1, 0, 0, 0, 0, // processor 1, disabled
    1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0, // I/O APIC
    2, 10, 0, 0, 2, 0, 0, 0, 0, 0, // IRQ 0 on GSI 2
    2, 10, 0, 9, 9, 0, 0, 0, 0x0f, 0, // IRQ 9 low, level
    9, 16, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, // processor 0 again
    9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, // x2APIC 0x100
    3, 1, // too short: the end
];

fn fadt() -> Vec<u8> {
    let mut body = vec![0; 244 - HEADER];
    let mut put =
        |at: usize, bytes: &[u8]| body[at - HEADER..at - HEADER + bytes.len()].copy_from_slice(bytes);
    put(40, &0x7000u32.to_le_bytes());
    put(48, &0xb2u32.to_le_bytes());
    put(52, &[0xf1]);
    put(64, &0x604u32.to_le_bytes());
    put(76, &0x608u32.to_le_bytes());
    put(108, &[0x32]);
    put(112, &(1u32 << 10).to_le_bytes());
    put(116, &[1, 8, 0, 1, 0xf9, 0x0c]);
    put(128, &[6]);
    body
}

const S5: &[u8] = &[0x08, b'_', b'S', b'5', b'_', 0x12, 0x06, 0x04, 0x0a, 5, 1, 0, 0];

fn tables(wide: bool) -> Pieces {
    let mut rsdp = b"RSD PTR \0OEMID!".to_vec();
    rsdp.push(if wide { 2 } else { 0 });
    rsdp.extend(0x2000u32.to_le_bytes());
    let rsdp = sealed(rsdp, 8);
    let mut rsdp = rsdp.to_vec();
    rsdp.extend(36u32.to_le_bytes());
    rsdp.extend(0x3000u64.to_le_bytes());
    rsdp.extend([0; 4]);
    let (mut narrow_root, mut wide_root) = (vec![], vec![]);
    for address in [0x5000u64, 0x6000, 0xdead_0000] {
        narrow_root.extend((address as u32).to_le_bytes());
        wide_root.extend(address.to_le_bytes());
    }
    Pieces(vec![
        (0xf0010, sealed(rsdp, 32)),
        (0x2000, if wide { b"none" } else { sdt(b"RSDT", &narrow_root) }),
        (0x3000, if wide { sdt(b"XSDT", &wide_root) } else { b"none" }),
        (0x5000, sdt(b"APIC", MADT)),
        (0x6000, sdt(b"FACP", &fadt())),
        (0x7000, sdt(b"DSDT", S5)),
    ])
}

#[test]
fn reads_both_kinds_of_root() {
    for wide in [false, true] {
        let memory = tables(wide);
        let address = find_rsdp(&memory).unwrap();
        assert_eq!(address, 0xf0010);
        let acpi = Acpi::read(address, &memory).unwrap();
        let madt = acpi.madt.unwrap();
        assert_eq!(madt.lapic_address, 0xfee0_0000);
        assert_eq!(madt.cpus, [0, 0x100]);
        assert_eq!(madt.ioapics[0], IoApic { address: 0xfec0_0000, gsi_base: 0 });
        assert_eq!(madt.isa(0), IsaOverride { irq: 0, gsi: 2, active_low: false, level: false });
        assert_eq!(madt.isa(9), IsaOverride { irq: 9, gsi: 9, active_low: true, level: true });
        assert_eq!(madt.isa(4), IsaOverride { irq: 4, gsi: 4, active_low: false, level: false });
        let fadt = acpi.fadt.unwrap();
        assert_eq!((fadt.pm1a_control, fadt.pm1b_control, fadt.pm_timer), (0x604, 0, Some(0x608)));
        assert_eq!((fadt.smi_command, fadt.acpi_enable, fadt.century), (0xb2, 0xf1, 0x32));
        assert_eq!(fadt.reset, Some((GenericAddress { space: 1, address: 0xcf9 }, 6)));
        assert_eq!(acpi.s5, Some(SleepState { pm1a: 5, pm1b: 1 }));
    }
}

#[test]
fn s5_may_be_beside_the_dsdt() {
    let mut memory = tables(true);
    let mut entries = vec![];
    for address in [0x5000u64, 0x6000, 0x8000, 0x9000] {
        entries.extend(address.to_le_bytes());
    }
    memory.0[2].1 = sdt(b"XSDT", &entries);
    memory.0[5].1 = sdt(b"DSDT", b"no such name");
    memory.0.extend([(0x8000, sdt(b"SSDT", b"nor here")), (0x9000, sdt(b"SSDT", S5))]);
    let s5 = |memory: &Pieces| Acpi::read(0xf0010, memory).unwrap().s5;
    assert_eq!(s5(&memory), Some(SleepState { pm1a: 5, pm1b: 1 }));
    // The DSDT's own counts.
    let mut own = S5.to_vec();
    own[9] = 7;
    memory.0[5].1 = sdt(b"DSDT", &own);
    assert_eq!(s5(&memory), Some(SleepState { pm1a: 7, pm1b: 1 }));
}

#[test]
fn a_wrong_checksum_is_no_table() {
    let mut memory = tables(true);
    let mut madt = memory.0[3].1.to_vec();
    madt[40] ^= 1;
    memory.0[3].1 = leak(madt);
    assert!(Acpi::read(0xf0010, &memory).unwrap().madt.is_none());
    let mut rsdp = memory.0[0].1.to_vec();
    rsdp[9] ^= 1;
    memory.0[0].1 = leak(rsdp);
    assert!(find_rsdp(&memory).is_none());
}

#[test]
fn s5_is_told_from_its_name_alone() {
    assert_eq!(find_s5(b"_S5_"), None);
    assert_eq!(find_s5(b"_S5_\x12"), None);
    assert_eq!(find_s5(b"_S5_\x12\xc0"), None);
    let mut twice = b"xx_S5_yy".to_vec();
    twice.extend(S5);
    assert_eq!(find_s5(&twice), Some(SleepState { pm1a: 5, pm1b: 1 }));
    // A longer length field, and word constants.
    assert_eq!(
        find_s5(&[b'_', b'S', b'5', b'_', 0x12, 0x4a, 0, 2, 0x0b, 7, 0, 0x0a, 3]),
        Some(SleepState { pm1a: 7, pm1b: 3 })
    );
}

#[test]
fn survives_any_damage() {
    let good = tables(true);
    for piece in [3, 4, 5] {
        for at in HEADER..good.0[piece].1.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = good.0[piece].1.to_vec();
                bad[at] = value;
                let mut memory = tables(true);
                memory.0[piece].1 = sealed(bad, 9);
                let _ = Acpi::read(0xf0010, &memory);
            }
        }
    }
}

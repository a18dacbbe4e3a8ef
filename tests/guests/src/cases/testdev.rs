//! QEMU's pc-testdev: ports, memory window, interrupt lines.

use crate::apic;
use crate::cpu::{inp, outp, wait};
use crate::report::{check, equal};
use crate::trap::{self, PIC_FIRST};

/// The ports that read back.
const DATA: u16 = 0xe0;
const DATA_BYTES: u16 = 0xe8;
const FLUSH: u16 = 0xe4;
/// The interrupt lines.
const LINES: u16 = 0x2000;
/// The memory window.
const WINDOW: u64 = 0xff00_0000;
/// An ISA interrupt that is an edge and that nothing here uses.
const LINE: u8 = 14;
/// QEMU's fw_cfg: selector, and data behind it.
const FW_CFG: u16 = 0x510;
/// RAM that a test program is given (`-m 64`).
const RAM: u64 = 64 << 20;
/// Its vector by way of the I/O APIC.
const VECTOR: u8 = 0x51;

/// Runs the suite.
pub fn run() {
    ports();
    memory();
    lines();
    configuration();
}

fn ports() {
    outp(DATA, 0x1234_5678u32);
    equal("testdev doubleword port", inp::<u32>(DATA), 0x1234_5678);
    equal("testdev words of it", (inp::<u16>(DATA), inp::<u16>(DATA + 2)), (0x5678, 0x1234));
    equal("testdev bytes of it", (inp::<u8>(DATA + 1), inp::<u8>(DATA + 3)), (0x56, 0x12));
    outp(DATA + 1, 0xabu8);
    outp(DATA + 2, 0xcdefu16);
    equal("testdev partial writes", inp::<u32>(DATA), 0xcdef_ab78);
    equal("testdev byte ports are the same", inp::<u32>(DATA_BYTES), 0xcdef_ab78);
    outp(DATA_BYTES, 0x0102_0304u32);
    equal("testdev writes through the byte ports", inp::<u32>(DATA), 0x0102_0304);
    static PAGE: [u8; 4096] = [7; 4096];
    outp(FLUSH, &raw const PAGE as u32);
    // SAFETY: a static of this kernel.
    equal("testdev memory after a flush", unsafe { (&raw const PAGE[5]).read_volatile() }, 7);
}

/// The first bytes of an item of QEMU's fw_cfg.
fn item<const N: usize>(number: u16) -> [u8; N] {
    outp(FW_CFG, number);
    core::array::from_fn(|_| inp(FW_CFG + 1))
}

/// What test programs ask for before anything else: a program that waits for more processors than there are waits forever.
fn configuration() {
    equal("fw_cfg signature", item(0), *b"QEMU");
    equal("fw_cfg processors", usize::from(u16::from_le_bytes(item(5))), crate::smp::count());
    let ram = u64::from_le_bytes(item(3));
    check("fw_cfg ram", ram == RAM, format_args!("{ram:#x}"));
}

fn write<T>(offset: u64, value: T) {
    // SAFETY: the window holds nothing of ours.
    unsafe { ((WINDOW + offset) as *mut T).write_volatile(value) };
}

fn read<T>(offset: u64) -> T {
    // SAFETY: reading the window changes nothing.
    unsafe { ((WINDOW + offset) as *const T).read_volatile() }
}

fn memory() {
    write(0, 0x1122_3344u32);
    write(4, 0x5566u16);
    write(6, 0x77u8);
    write(7, 0x88u8);
    equal("testdev memory by doublewords", (read::<u32>(0), read::<u32>(4)), (0x1122_3344, 0x8877_5566));
    equal("testdev memory by words", (read::<u16>(2), read::<u16>(6)), (0x1122, 0x8877));
    equal("testdev memory by bytes", (read::<u8>(0), read::<u8>(5)), (0x44, 0x55));
    equal("testdev memory by quadwords", read::<u64>(0), 0x8877_5566_1122_3344);
    write(0xfff8, 0x0102_0304_0506_0708u64);
    equal("testdev memory up to its end", (read::<u8>(0xffff), read::<u32>(0xfff8)), (1, 0x0506_0708));
}

fn pulse() {
    outp(LINES + u16::from(LINE), 1u8);
    wait();
    outp(LINES + u16::from(LINE), 0u8);
}

fn lines() {
    apic::init_pic(!(1 << 2 | 1 << LINE));
    let before = trap::count(PIC_FIRST + LINE);
    for _ in 0..3 {
        pulse();
    }
    equal("testdev line through the 8259", trap::count(PIC_FIRST + LINE) - before, 3);
    apic::init_pic(!0);
    apic::enable();
    apic::io_redirect(LINE.into(), VECTOR.into());
    let before = trap::count(VECTOR);
    for _ in 0..3 {
        pulse();
    }
    equal("testdev line through the I/O APIC", trap::count(VECTOR) - before, 3);
    apic::io_redirect(LINE.into(), 1 << 16);
}

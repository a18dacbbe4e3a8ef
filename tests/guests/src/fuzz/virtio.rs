//! Abuse of virtio devices over PCI: common configuration, ring addresses, descriptors, notifications, MSI-X.
//!
//! Devices are found by their vendor number; whatever kind they are, they are treated alike (virtio 1.2, 4.1 and 2.7).
//! What a device is told to write goes where this kernel has nothing, or where no RAM is.

use super::Round;
use super::random::Random;
use super::sandbox::{ARENA_END, RINGS};
use crate::cpu::{inp, outp};

/// Most devices that are looked at.
const DEVICES: usize = 16;
/// Red Hat's number, of every virtio device.
const VENDOR: u32 = 0x1af4;
/// Base address registers of a function.
const BARS: usize = 6;

/// Structures that vendor capabilities point to (virtio 1.2, 4.1.4): common, notify, ISR, device; pci-cfg is apart.
const STRUCTURES: usize = 4;
const COMMON: usize = 0;
const NOTIFY: usize = 1;

/// Fields of the common configuration (virtio 1.2, 4.1.4.3).
mod field {
    pub const DEVICE_FEATURE_SELECT: u64 = 0;
    pub const DEVICE_FEATURE: u64 = 4;
    pub const DRIVER_FEATURE_SELECT: u64 = 8;
    pub const DRIVER_FEATURE: u64 = 12;
    pub const STATUS: u64 = 20;
    pub const QUEUE_SELECT: u64 = 22;
    pub const QUEUE_SIZE: u64 = 24;
    pub const QUEUE_VECTOR: u64 = 26;
    pub const QUEUE_ENABLE: u64 = 28;
    pub const QUEUE_NOTIFY_OFF: u64 = 30;
    pub const QUEUE_DESCRIPTORS: u64 = 32;
    pub const QUEUE_DRIVER: u64 = 40;
    pub const QUEUE_DEVICE: u64 = 48;
}

/// A place in ports or in memory.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    base: u64,
    length: u64,
    ports: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Device {
    /// Configuration address of the function, register 0.
    config: u32,
    bars: [u32; BARS],
    structures: [Window; STRUCTURES],
    /// Bytes that a queue's notification address is apart from the next one's.
    multiplier: u64,
    /// Offsets of the MSI-X and pci-cfg capabilities, or 0.
    msix: u32,
    pci_cfg: u32,
    /// Base of the MSI-X table.
    table: u64,
}

/// All that were found.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    devices: [Device; DEVICES],
    count: usize,
}

fn read_config(config: u32, offset: u32) -> u32 {
    outp(0xcf8, config | offset & 0xfc);
    inp::<u32>(0xcfc)
}

fn write_config(config: u32, offset: u32, value: u32) {
    outp(0xcf8, config | offset & 0xfc);
    outp(0xcfc, value);
}

impl Device {
    /// What the function at `config` says of itself.
    fn new(config: u32) -> Self {
        let mut device = Self { config, ..Self::default() };
        for (index, bar) in device.bars.iter_mut().enumerate() {
            *bar = read_config(config, 0x10 + 4 * index as u32);
        }
        let mut at = read_config(config, 0x34) & 0xfc;
        // As many capabilities as there is room for: a list that goes round ends there.
        for _ in 0..48 {
            if at == 0 {
                break;
            }
            let header = read_config(config, at);
            match header & 0xff {
                0x09 => {
                    let window = device.window(
                        read_config(config, at + 4),
                        read_config(config, at + 8),
                        read_config(config, at + 12),
                    );
                    match (header >> 24) as usize {
                        kind @ 1..=STRUCTURES => {
                            device.structures[kind - 1] = window;
                            if kind - 1 == NOTIFY {
                                device.multiplier = read_config(config, at + 16).into();
                            }
                        }
                        5 => device.pci_cfg = at,
                        _ => {}
                    }
                }
                0x11 => {
                    let table = read_config(config, at + 4);
                    device.msix = at;
                    device.table = device.window(table & 7, table & !7, 0).base;
                }
                _ => {}
            }
            at = header >> 8 & 0xfc;
        }
        device
    }

    fn window(&self, bar: u32, offset: u32, length: u32) -> Window {
        let index = bar as usize & 7;
        let Some(low) = self.bars.get(index) else { return Window::default() };
        let (offset, length) = (u64::from(offset), u64::from(length));
        if low & 1 == 1 {
            return Window { base: u64::from(low & !3) + offset, length, ports: true };
        }
        let high = match self.bars.get(index + 1) {
            Some(high) if low & 6 == 4 => u64::from(*high) << 32,
            _ => 0,
        };
        Window { base: (high | u64::from(low & !15)) + offset, length, ports: false }
    }

    /// Where it was, with memory, ports and bus mastering on.
    fn restore(&self) {
        for (index, bar) in self.bars.iter().enumerate() {
            write_config(self.config, 0x10 + 4 * index as u32, *bar);
        }
        write_config(self.config, 0x04, 7);
    }

    fn write(&self, round: &mut Round, structure: usize, offset: u64, size: u64, value: u64) {
        self.structures[structure].write(offset, size, value);
        round.count(1);
    }

    fn read(&self, round: &mut Round, structure: usize, offset: u64, size: u64) -> u64 {
        round.count(1);
        self.structures[structure].read(offset, size)
    }
}

impl Window {
    fn write(self, offset: u64, size: u64, value: u64) {
        if self.base == 0 {
            return;
        }
        let at = self.base + offset;
        if self.ports {
            let port = at as u16;
            return match size {
                1 => outp(port, value as u8),
                2 => outp(port, value as u16),
                _ => outp(port, value as u32),
            };
        }
        if at >= 1 << 32 {
            return;
        }
        // SAFETY: addresses of devices, or where a BAR was that has been moved: no RAM of this kernel.
        unsafe {
            match size {
                1 => (at as *mut u8).write_volatile(value as u8),
                2 => (at as *mut u16).write_volatile(value as u16),
                4 => (at as *mut u32).write_volatile(value as u32),
                _ => (at as *mut u64).write_volatile(value),
            }
        }
    }

    fn read(self, offset: u64, size: u64) -> u64 {
        if self.base == 0 {
            return 0;
        }
        let at = self.base + offset;
        if self.ports {
            let port = at as u16;
            return match size {
                1 => inp::<u8>(port).into(),
                2 => inp::<u16>(port).into(),
                _ => inp::<u32>(port).into(),
            };
        }
        if at >= 1 << 32 {
            return 0;
        }
        // SAFETY: reading a device touches no memory of this kernel.
        unsafe {
            match size {
                1 => (at as *const u8).read_volatile().into(),
                2 => (at as *const u16).read_volatile().into(),
                4 => (at as *const u32).read_volatile().into(),
                _ => (at as *const u64).read_volatile(),
            }
        }
    }
}

impl Devices {
    /// Looks through bus 0.
    pub fn find() -> Self {
        let mut found = Self::default();
        for slot in 0..32u32 {
            for function in 0..8 {
                let config = 1 << 31 | slot << 11 | function << 8;
                if read_config(config, 0) & 0xffff == VENDOR
                    && let Some(place) = found.devices.get_mut(found.count)
                {
                    *place = Device::new(config);
                    found.count += 1;
                }
            }
        }
        found
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Puts them where they were found.
    pub fn restore(&self) {
        for device in &self.devices[..self.count] {
            device.restore();
        }
    }

    /// An address in one of their memory windows.
    pub fn address(&self, random: &mut Random) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let device = &self.devices[random.below(self.count as u64) as usize];
        let window = random.pick(&device.structures);
        let base = if random.once_in(6) { device.table } else { window.base };
        (!window.ports && (1..1 << 32).contains(&base)).then(|| base + random.below(0x1000))
    }
}

/// An address that a device may be given: of the arena, of nothing, or at an edge; never of this kernel.
fn address(random: &mut Random) -> u64 {
    match random.below(16) {
        0 => u64::MAX - random.below(0x1000),
        1 => random.bits() | 1 << 40,
        2 => 0xc000_0000 + random.below(0x4000_0000),
        3 => ARENA_END - random.below(32),
        _ => RINGS + random.below(0x10_0000),
    }
}

/// Where the rings of the device's queues are, so that descriptors that are written there are found.
const RING: u64 = RINGS + 0x10_0000;
/// Bytes of each.
const RING_SIZE: u64 = 0x8000;
/// Offsets of driver and device area in it.
const DRIVER: u64 = 0x4000;
const DEVICE: u64 = 0x5000;
/// Queues whose rings have a place of their own.
const QUEUES: u64 = 8;

fn ring(queue: u64) -> u64 {
    RING + queue % QUEUES * RING_SIZE
}

fn poke16(address: u64, value: u64) {
    // SAFETY: ring memory, which nothing else uses.
    unsafe { (address as *mut u16).write_volatile(value as u16) };
}

/// One piece of abuse of one device.
pub fn step(round: &mut Round) {
    if round.devices.count == 0 {
        return;
    }
    let index = round.random.below(round.devices.count as u64) as usize;
    let device = round.devices.devices[index];
    match round.random.below(10) {
        0 => negotiate(round, &device),
        1 => configure(round, &device),
        2 => anything(round, &device),
        3 => registers_of_pci(round, &device),
        _ => traffic(round, &device),
    }
}

/// A driver's start, right or nearly so: features, queues, status.
fn negotiate(round: &mut Round, device: &Device) {
    let status = |round: &mut Round, value| device.write(round, COMMON, field::STATUS, 1, value);
    status(round, 0);
    status(round, 1);
    status(round, 3);
    for select in 0..2 {
        device.write(round, COMMON, field::DEVICE_FEATURE_SELECT, 4, select);
        let offered = device.read(round, COMMON, field::DEVICE_FEATURE, 4);
        let mut chosen = match round.random.below(4) {
            0 => offered & round.random.bits(),
            1 => round.value(),
            _ => offered,
        };
        // VERSION_1, without which nothing goes on.
        if select == 1 && !round.random.once_in(16) {
            chosen |= 1;
        }
        device.write(round, COMMON, field::DRIVER_FEATURE_SELECT, 4, select);
        device.write(round, COMMON, field::DRIVER_FEATURE, 4, chosen);
    }
    status(round, 11);
    for queue in 0..1 + round.random.below(QUEUES) {
        device.write(round, COMMON, field::QUEUE_SELECT, 2, queue);
        let most = device.read(round, COMMON, field::QUEUE_SIZE, 2);
        let size = match round.random.below(8) {
            0 => round.value(),
            1 => 0,
            2..=4 => 1 << round.random.below(8),
            _ => most,
        };
        device.write(round, COMMON, field::QUEUE_SIZE, 2, size);
        let vector = round.random.pick(&[0, 0, 1, 2, 0xffff, 0x7fff]);
        device.write(round, COMMON, field::QUEUE_VECTOR, 2, vector);
        let base = ring(queue);
        for (register, good) in [
            (field::QUEUE_DESCRIPTORS, base),
            (field::QUEUE_DRIVER, base + DRIVER),
            (field::QUEUE_DEVICE, base + DEVICE),
        ] {
            let value = if round.random.once_in(12) { address(&mut round.random) } else { good };
            if round.random.once_in(2) {
                device.write(round, COMMON, register, 4, value);
                device.write(round, COMMON, register + 4, 4, value >> 32);
            } else {
                device.write(round, COMMON, register, 8, value);
            }
        }
        // Indices where a fresh queue has them.
        poke16(base + DRIVER + 2, 0);
        device.write(round, COMMON, field::QUEUE_ENABLE, 2, 1);
    }
    let last = round.random.pick(&[15, 15, 15, 15, 7, 0x4f, 0x8f, 0xff]);
    status(round, last);
}

/// The common configuration's registers in any order, with any value and size.
fn configure(round: &mut Round, device: &Device) {
    for _ in 0..12 {
        let offset = round.random.below(64);
        let size = round.random.pick(&[1, 2, 4, 8]);
        if round.random.once_in(3) {
            device.read(round, COMMON, offset, size);
        } else {
            // Ring addresses keep off this kernel: their upper halves and lower halves come as they may.
            let value = match offset {
                27..64 => match offset & 4 {
                    0 => address(&mut round.random),
                    _ => round.random.pick(&[0, 0, 1, 0xffff_ffff]),
                },
                _ => round.value(),
            };
            let aligned = if offset >= 32 && !round.deadly { offset & !3 } else { offset };
            let size = if offset >= 32 && !round.deadly { 4 } else { size };
            device.write(round, COMMON, aligned, size, value);
        }
    }
}

/// Any structure at any offset, beyond its end too.
fn anything(round: &mut Round, device: &Device) {
    for _ in 0..8 {
        let structure = 1 + round.random.below(STRUCTURES as u64 - 1) as usize;
        let offset = round.random.below(device.structures[structure].length.max(16) + 8);
        let size = round.random.pick(&[1, 2, 4, 8]);
        if round.random.once_in(2) {
            device.read(round, structure, offset, size);
        } else {
            let value = round.value();
            device.write(round, structure, offset, size, value);
        }
    }
}

/// MSI-X: control, table; and the window in configuration space.
fn registers_of_pci(round: &mut Round, device: &Device) {
    if device.msix != 0 {
        let control = round.random.pick(&[0, 0x8000_0000, 0xc000_0000, 0x4000_0000]);
        write_config(device.config, device.msix, control);
        round.count(2);
        for _ in 0..4 {
            let offset = round.random.below(0x80) << 2;
            let mut value = round.message();
            if offset & 12 == 0 && !round.random.once_in(4) {
                value = 0xfee0_0000 | value & 0xf_f00c;
            }
            if device.table != 0 && device.table < 1 << 32 {
                Window { base: device.table, length: 0, ports: false }.write(offset, 4, value);
                round.count(1);
            }
        }
    }
    if device.pci_cfg != 0 {
        // BAR, offset, length; then the data register.
        let bar = if round.random.once_in(4) { round.value() } else { 4 };
        write_config(device.config, device.pci_cfg + 4, bar as u32);
        let offset = if round.random.once_in(4) { round.value() } else { round.random.below(0x4000) };
        write_config(device.config, device.pci_cfg + 8, offset as u32);
        let length = round.random.pick(&[1, 2, 4, 4, 4, 3, 8, u32::MAX]);
        write_config(device.config, device.pci_cfg + 12, length);
        if round.random.once_in(2) {
            read_config(device.config, device.pci_cfg + 16);
        } else {
            // Not a ring's address: those are told apart nowhere else.
            write_config(device.config, device.pci_cfg + 16, 0x8000_0000 | round.value() as u32);
        }
        round.count(8);
    }
    if round.random.once_in(8) {
        // Command register: bus mastering, memory, ports and INTx on and off.
        write_config(device.config, 4, round.value() as u32 & 0x7ff);
        device.restore();
        round.count(18);
    }
}

/// Descriptor flags (virtio 1.2, 2.7.5).
const NEXT: u64 = 1;
const WRITE: u64 = 2;
const INDIRECT: u64 = 4;

/// A descriptor: good, long, empty, looping, indirect in indirect, somewhere else.
fn descriptor(random: &mut Random, at: u64, index: u64, entries: u64) {
    let length = match random.below(8) {
        0 => random.value() & 0xffff_ffff,
        1 => 0,
        2 => 16 * random.below(40),
        3 => random.below(0x2_0000),
        _ => random.pick(&[1, 4, 8, 12, 16, 512, 1024, 4096]),
    };
    let mut flags = random.pick(&[0, NEXT, NEXT, NEXT | WRITE, WRITE, WRITE, INDIRECT, INDIRECT | NEXT]);
    if random.once_in(24) {
        flags = random.bits() & 0xffff;
    }
    let next = match random.below(8) {
        0 => random.bits() & 0xffff,
        1 => index,
        2 => random.below(entries),
        _ => (index + 1) % entries,
    };
    let mut address = address(random);
    // The head of many devices' requests: a type that they know, at the start of a buffer.
    if random.once_in(3) && (RINGS..ARENA_END - 0x100).contains(&address) {
        // SAFETY: ring memory, which nothing else uses.
        unsafe {
            (address as *mut u32).write_unaligned(random.pick(&[0, 1, 4, 8, 11, 13, 0x100, 0x401]));
            ((address + 8) as *mut u64).write_unaligned(random.value());
        }
    }
    if flags & INDIRECT != 0 && !random.once_in(4) {
        address = RINGS + random.below(64) * 0x400;
    }
    // SAFETY: the same.
    unsafe {
        ((at + index * 16) as *mut u64).write_unaligned(address);
        ((at + index * 16 + 8) as *mut u64).write_unaligned(length | flags << 32 | next << 48);
    }
}

/// Descriptors and tables of them, made available in order or not, and notified.
fn traffic(round: &mut Round, device: &Device) {
    let queue = if round.random.once_in(3) { round.random.below(QUEUES) } else { round.random.below(2) };
    let base = ring(queue);
    let random = &mut round.random;
    for _ in 0..24 {
        let index = random.below(64);
        descriptor(random, base, index, 64);
    }
    // Tables that indirect descriptors point to.
    for _ in 0..16 {
        let table = RINGS + random.below(64) * 0x400;
        let index = random.below(32);
        descriptor(random, table, index, 32);
    }
    for slot in 0..256 {
        let head = if random.once_in(32) { random.bits() } else { random.below(64) };
        poke16(base + DRIVER + 4 + 2 * slot, head);
    }
    let event = random.value();
    poke16(base + DRIVER, random.pick(&[0, 0, 0, 1, 0xffff]));
    let notify_offset = device.multiplier * queue;
    for _ in 0..8 {
        // SAFETY: ring memory, which nothing else uses.
        let available = unsafe { ((base + DRIVER + 2) as *const u16).read_volatile() };
        let more = match round.random.below(12) {
            0 => round.random.bits(),
            1 => 300,
            2 => 0,
            _ => 1 + round.random.below(4),
        };
        poke16(base + DRIVER + 2, u64::from(available).wrapping_add(more));
        // used_event, wherever the queue's size puts it.
        poke16(base + DRIVER + 4 + 2 * (1 << round.random.below(9)), event);
        let value = if round.random.once_in(16) { round.value() } else { queue };
        let offset = if round.random.once_in(16) { round.random.below(0x1000) } else { notify_offset };
        device.write(round, NOTIFY, offset, 2, value);
        // A reset, or a queue's, while the device may be at work; or the driver goes on as if nothing were.
        if round.random.once_in(64) {
            device.write(round, COMMON, field::STATUS, 1, 0);
        }
    }
    device.write(round, COMMON, field::QUEUE_SELECT, 2, queue);
    device.read(round, COMMON, field::QUEUE_NOTIFY_OFF, 2);
    if round.random.once_in(4) {
        device.read(round, 2, 0, 1);
    }
}

//! Guest RAM and a driver for tests of devices.

use std::sync::Mutex;

use super::{Device, VirtioPci, feature};
use crate::pci::config::header;
use monovisor_arch::{GuestMemory, MemoryError};

/// Bytes of the test's guest RAM.
pub const RAM: usize = 1 << 20;

/// Guest RAM from address 0 on.
pub struct Ram(Mutex<Vec<u8>>);

impl Ram {
    /// RAM that lives as long as the test.
    pub fn leak() -> &'static Self {
        Box::leak(Box::new(Self(Mutex::new(vec![0; RAM]))))
    }

    fn range(address: u64, length: usize) -> Result<std::ops::Range<usize>, MemoryError> {
        let start = usize::try_from(address).unwrap_or(usize::MAX);
        match start.checked_add(length) {
            Some(end) if end <= RAM => Ok(start..end),
            _ => Err(MemoryError { address }),
        }
    }
}

impl GuestMemory for Ram {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let range = Self::range(address, buffer.len())?;
        buffer.copy_from_slice(&self.0.lock().unwrap()[range]);
        Ok(())
    }
    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let range = Self::range(address, data.len())?;
        self.0.lock().unwrap()[range].copy_from_slice(data);
        Ok(())
    }
    fn fill(&self, address: u64, value: u8, length: u64) -> Result<(), MemoryError> {
        let range = Self::range(address, usize::try_from(length).unwrap_or(usize::MAX))?;
        self.0.lock().unwrap()[range].fill(value);
        Ok(())
    }
    fn contiguous(&self, address: u64) -> u64 {
        (RAM as u64).saturating_sub(address)
    }
}

/// Where the registers of a function under test are.
pub const REGISTERS: u64 = 0xf000_0000;
/// Where its MSI-X table is.
pub const TABLE: u64 = 0xf800_0000;
/// Its notification port.
pub const PORT: u16 = 0xc100;

/// Descriptor flags.
pub const NEXT: u16 = 1;
/// The device writes.
pub const WRITE: u16 = 2;
/// A table of descriptors.
pub const INDIRECT: u16 = 4;

/// A well-behaved driver with one function, whose rings lie from [`Driver::ring`] on and whose buffers lie behind them.
pub struct Driver {
    pub function: &'static mut VirtioPci,
    pub ram: &'static Ram,
    pub size: u16,
    /// How far behind [`Driver::ring`] its rings lie.
    pub offset: u64,
    available: [u16; 16],
    used: [u16; 16],
    pub now: u64,
}

impl Driver {
    /// A function with its BARs set, not started.
    pub fn new(device: impl Device) -> Self {
        Self::beside(device, Ram::leak(), 0)
    }

    /// One in RAM that others have, too, with its rings `offset` behind the usual place.
    pub fn beside(device: impl Device, ram: &'static Ram, offset: u64) -> Self {
        let device: &'static mut dyn Device = Box::leak(Box::new(device));
        let function = Box::leak(Box::new(VirtioPci::new(3, "d0", ram, device)));
        let mut driver = Self { function, ram, size: 8, offset, available: [0; 16], used: [0; 16], now: 0 };
        driver.place(7);
        driver
    }

    /// Sets the BARs and the command register.
    pub fn place(&mut self, command: u32) {
        for (bar, address) in [(0, u32::from(PORT)), (1, TABLE as u32), (4, REGISTERS as u32)] {
            self.function.config_write(header::BAR0 + 4 * bar, 4, address, 0);
        }
        self.function.config_write(header::COMMAND, 2, command, 0);
    }

    pub fn read(&mut self, offset: u64, size: u8) -> u64 {
        self.function.memory_read(REGISTERS + offset, size).unwrap()
    }
    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        assert!(self.function.memory_write(REGISTERS + offset, size, value, self.now));
    }
    pub fn status(&mut self) -> u64 {
        self.read(20, 1)
    }
    /// What the device offers.
    pub fn offered(&mut self) -> u64 {
        self.write(0, 4, 0);
        let low = self.read(4, 4);
        self.write(0, 4, 1);
        low | self.read(4, 4) << 32
    }
    /// Resets, negotiates `features`, sets up all queues with `self.size` entries (or fewer), and says DRIVER_OK.
    pub fn start(&mut self, features: u64) {
        self.write(20, 1, 0);
        self.available = [0; 16];
        self.used = [0; 16];
        self.write(20, 1, 3);
        let features = features | feature::VERSION_1;
        self.write(8, 4, 0);
        self.write(12, 4, features & 0xffff_ffff);
        self.write(8, 4, 1);
        self.write(12, 4, features >> 32);
        self.write(20, 1, 11);
        assert_eq!(self.status(), 11, "features accepted");
        for queue in 0..self.read(18, 2) {
            self.write(22, 2, queue);
            let size = u64::from(self.size).min(self.read(24, 2));
            self.write(24, 2, size);
            self.write(26, 2, queue);
            let base = self.rings(queue as u16);
            self.ram.fill(base, 0, 0x2000).unwrap();
            self.write(32, 4, base);
            self.write(40, 8, base + 0x1000);
            self.write(48, 4, base + 0x1800);
            self.write(28, 2, 1);
            assert_eq!(self.read(28, 2), 1, "queue enabled");
        }
        self.write(20, 1, 15);
        assert_eq!(self.status(), 15);
    }
    /// The rings of a queue: descriptors, at +0x1000 available, at +0x1800 used.
    pub const fn ring(queue: u16) -> u64 {
        0x10_000 + queue as u64 * 0x2000
    }
    /// The rings of a queue of this one.
    pub const fn rings(&self, queue: u16) -> u64 {
        Self::ring(queue) + self.offset
    }
    /// Writes descriptor `index` of a queue.
    pub fn descriptor(&self, table: u64, index: u16, (address, length, flags, next): (u64, u32, u16, u16)) {
        let at = table + 16 * u64::from(index);
        self.ram.write(at, &address.to_le_bytes()).unwrap();
        self.ram.write_u32(at + 8, length).unwrap();
        self.ram.write_u16(at + 12, flags).unwrap();
        self.ram.write_u16(at + 14, next).unwrap();
    }
    /// Writes a chain that begins at descriptor `head`: address, length, written by the device.
    pub fn chain(&self, queue: u16, head: u16, buffers: &[(u64, u32, bool)]) {
        for (index, (address, length, write)) in buffers.iter().enumerate() {
            let last = index + 1 == buffers.len();
            let flags = if *write { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let number = head + index as u16;
            self.descriptor(self.rings(queue), number, (*address, *length, flags, number + 1));
        }
    }
    /// Makes a chain available.
    pub fn offer(&mut self, queue: u16, head: u16) {
        let ring = self.rings(queue) + 0x1000;
        let index = &mut self.available[usize::from(queue)];
        self.ram.write_u16(ring + 4 + 2 * u64::from(*index % self.size), head).unwrap();
        *index = index.wrapping_add(1);
        self.ram.write_u16(ring + 2, *index).unwrap();
    }
    pub fn kick(&mut self, queue: u16) {
        assert!(self.function.is_notify_port(PORT));
        self.function.notify(queue, self.now);
    }
    /// Sends a chain and expects it to be given back at once: what has been written.
    pub fn request(&mut self, queue: u16, buffers: &[(u64, u32, bool)]) -> u32 {
        self.chain(queue, 0, buffers);
        self.offer(queue, 0);
        self.kick(queue);
        let (head, written) = self.take_used(queue).expect("given back");
        assert_eq!(head, 0);
        written
    }
    /// The next chain that was given back, and how much was written to it.
    pub fn take_used(&mut self, queue: u16) -> Option<(u32, u32)> {
        let ring = self.rings(queue) + 0x1800;
        let index = &mut self.used[usize::from(queue)];
        if self.ram.read_u16(ring + 2).unwrap() == *index {
            return None;
        }
        let at = ring + 4 + 8 * u64::from(*index % self.size);
        *index = index.wrapping_add(1);
        Some((self.ram.read_u32(at).unwrap(), self.ram.read_u32(at + 4).unwrap()))
    }
    /// Interrupt status, which reading clears.
    pub fn isr(&mut self) -> u64 {
        self.read(0x1000, 1)
    }
    pub fn fill(&self, address: u64, bytes: &[u8]) {
        self.ram.write(address, bytes).unwrap();
    }
    pub fn bytes<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.ram.read(address, &mut bytes).unwrap();
        bytes
    }
}

/// Numbers from a seed (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A driver that breaks every rule it can: random register accesses, rings, tables and notifications from a seed, with a
/// proper start now and then so that something happens. The device may do what it likes, but must come back.
pub fn abuse(driver: &mut Driver, seed: u64, rounds: u32) {
    abuse_and(driver, seed, rounds, &mut |_, _| {});
}

/// The same, with something else done in each round, which is given a random number.
pub fn abuse_and(driver: &mut Driver, seed: u64, rounds: u32, and: &mut dyn FnMut(&mut Driver, u64)) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let queues = driver.read(18, 2);
    for _ in 0..rounds {
        match random.below(16) {
            0 => {
                let features = if random.below(2) == 0 { driver.offered() } else { 0 };
                driver.size = 1 << random.below(7);
                driver.place(7);
                driver.start(features);
            }
            1..4 => {
                let (offset, size) = (random.below(0x4000), 1 << random.below(4));
                let offset = if random.below(2) == 0 { offset & 0x3f } else { offset };
                // Set-up survives most rounds, so that there are rings to abuse.
                if random.below(4) == 0 || offset != 20 {
                    let value = random.next() >> random.below(64);
                    assert!(driver.function.memory_write(REGISTERS + offset, size, value, 0));
                }
                driver.function.memory_read(REGISTERS + offset, size);
            }
            4 => {
                let offset = random.below(256) as u8;
                let value = random.next() as u32;
                driver.function.config_write(offset, 1 << random.below(3), value, 0);
                driver.function.config_read(offset, 4);
                // So that further accesses hit something.
                driver.place(3 | random.below(8) as u32);
            }
            5 => driver.function.poll(0),
            _ => {
                let queue = random.below(queues) as u16;
                let ring = driver.rings(queue);
                let size = u64::from(driver.size);
                for _ in 0..random.below(8) {
                    let near = |random: &mut Random| match random.below(8) {
                        0 => random.next(),
                        1 => (RAM as u64).wrapping_sub(random.below(64)),
                        2 => u64::MAX - random.below(64),
                        3 => ring + random.below(0x2000),
                        _ => 0x80_000 + random.below(0x4000),
                    };
                    let length = match random.below(8) {
                        0 => random.next() as u32,
                        1 => 16 * random.below(300) as u32,
                        2 => 0,
                        _ => random.below(1024) as u32,
                    };
                    let flags = random.below(16) as u16;
                    let table = if random.below(4) == 0 { near(&mut random) & 0xf_fff0 } else { ring };
                    let next =
                        if random.below(8) == 0 { random.next() as u16 } else { random.below(size) as u16 };
                    let index = random.below(size) as u16;
                    if table < RAM as u64 - 0x2000 {
                        let address = near(&mut random);
                        driver.descriptor(table, index, (address, length, flags, next));
                    }
                    let head = if random.below(16) == 0 { random.next() } else { random.below(size) };
                    driver.offer(queue, head as u16);
                }
                if random.below(32) == 0 {
                    driver.ram.write_u16(ring + 0x1002, random.next() as u16).unwrap();
                }
                // Plausible beginnings of requests.
                driver.fill(0x80_000 + random.below(0x4000), &(random.below(16) as u32).to_le_bytes());
                let notified = if random.below(8) == 0 { random.next() as u16 } else { queue };
                driver.function.notify(notified, 0);
            }
        }
        and(driver, random.next());
        while driver.function.take_message().is_some() {}
    }
    // And it still works.
    driver.size = 8;
    driver.place(7);
    driver.start(0);
}

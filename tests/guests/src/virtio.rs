//! A driver of a virtio disk, as small as one can be: one queue, MSI-X, indirect descriptors, event indices.

use crate::cpu::{inp, outp};
use core::ptr;
use core::sync::atomic::{Ordering, fence};

/// Entries of the queue.
pub const SIZE: usize = 64;
/// Bytes that a request reads.
pub const BLOCK: usize = 4096;

pub(crate) const VERSION_1: u32 = 1;
const INDIRECT_DESC: u32 = 1 << 28;
pub(crate) const EVENT_IDX: u32 = 1 << 29;

const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A descriptor (virtio 1.2, 2.7.5).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    pub(crate) const NONE: Self = Self { address: 0, length: 0, flags: 0, next: 0 };

    pub(crate) fn new(address: usize, length: usize, flags: u16, next: u16) -> Self {
        Self { address: address as u64, length: length as u32, flags, next }
    }
}

/// The three parts of a split queue of `SIZE` entries (virtio 1.2, 2.7), with what event indices add.
#[repr(C, align(4096))]
pub(crate) struct Rings<const SIZE: usize> {
    pub(crate) descriptors: [Descriptor; SIZE],
    pub(crate) available_flags: u16,
    pub(crate) available: u16,
    pub(crate) available_ring: [u16; SIZE],
    pub(crate) used_event: u16,
    pad: [u8; 2],
    pub(crate) used_flags: u16,
    pub(crate) used: u16,
    pub(crate) used_ring: [[u32; 2]; SIZE],
    pub(crate) available_event: u16,
}

impl<const SIZE: usize> Rings<SIZE> {
    pub(crate) const NEW: Self = Self {
        descriptors: [Descriptor::NONE; SIZE],
        available_flags: 0,
        available: 0,
        available_ring: [0; SIZE],
        used_event: 0,
        pad: [0; 2],
        used_flags: 0,
        used: 0,
        used_ring: [[0; 2]; SIZE],
        available_event: 0,
    };
}

/// What the device reads and writes for one request besides its data.
#[repr(C, align(128))]
#[derive(Clone, Copy)]
struct Request {
    table: [Descriptor; 3],
    kind: u32,
    reserved: u32,
    sector: u64,
    status: u8,
}

#[repr(C, align(4096))]
struct Memory {
    rings: Rings<SIZE>,
    requests: [Request; SIZE],
    data: [[u8; BLOCK]; SIZE],
}

static mut MEMORY: Memory = Memory {
    rings: Rings::NEW,
    requests: [Request { table: [Descriptor::NONE; 3], kind: 0, reserved: 0, sector: 0, status: 0 }; SIZE],
    data: [[0; BLOCK]; SIZE],
};

/// A disk that has been started.
pub struct Disk {
    memory: *mut Memory,
    port: u16,
    next: u16,
    seen: u16,
    /// The available index that the device has been told of.
    told: u16,
    /// Sectors of the disk.
    pub capacity: u64,
}

pub(crate) fn config_read(slot: u8, offset: u8) -> u32 {
    outp(0xcf8, 1u32 << 31 | u32::from(slot) << 11 | u32::from(offset & 0xfc));
    inp(0xcfc)
}

pub(crate) fn config_write(slot: u8, offset: u8, value: u32) {
    outp(0xcf8, 1u32 << 31 | u32::from(slot) << 11 | u32::from(offset & 0xfc));
    outp(0xcfc, value);
}

pub(crate) fn write32(address: u64, value: u32) {
    // SAFETY: the callers name device registers, which hold nothing of ours.
    unsafe { (address as *mut u32).write_volatile(value) };
}

pub(crate) fn write16(address: u64, value: u16) {
    // SAFETY: as above.
    unsafe { (address as *mut u16).write_volatile(value) };
}

pub(crate) fn write8(address: u64, value: u8) {
    // SAFETY: as above.
    unsafe { (address as *mut u8).write_volatile(value) };
}

pub(crate) fn read16(address: u64) -> u16 {
    // SAFETY: as above; reading these registers changes nothing.
    unsafe { (address as *const u16).read_volatile() }
}

pub(crate) fn read32(address: u64) -> u32 {
    // SAFETY: as above; reading these registers changes nothing.
    unsafe { (address as *const u32).read_volatile() }
}

impl Disk {
    /// Starts the first virtio disk on the bus; its interrupts come as `vector` to this processor. May be called once.
    pub fn start(vector: u8) -> Option<Self> {
        let slot = (0..32).find(|slot| config_read(*slot, 0) == 0x1042_1af4)?;
        // I/O, memory, bus master.
        config_write(slot, 4, config_read(slot, 4) | 7);
        let port = (config_read(slot, 0x10) & !3) as u16;
        let table = u64::from(config_read(slot, 0x14) & !15);
        let registers = u64::from(config_read(slot, 0x20) & !15);
        // MSI-X is the first capability here: vector 0 to this processor, and on.
        let msix = config_read(slot, 0x34) as u8;
        for (offset, value) in [(0, 0xfee0_0000), (4, 0), (8, u32::from(vector)), (12, 0)] {
            write32(table + offset, value);
        }
        config_write(slot, msix, config_read(slot, msix) | 1 << 31);

        let memory = &raw mut MEMORY;
        write8(registers + 20, 0);
        write8(registers + 20, 3);
        for (select, features) in [(0, INDIRECT_DESC | EVENT_IDX), (1, VERSION_1)] {
            write32(registers + 8, select);
            write32(registers + 12, features);
        }
        write8(registers + 20, 11);
        write16(registers + 22, 0);
        write16(registers + 24, SIZE as u16);
        write16(registers + 26, 0);
        // SAFETY: only the addresses of fields of a static are taken; all lies below 4 GiB, mapped one to one.
        let rings = unsafe {
            let rings = &raw mut (*memory).rings;
            [
                &raw mut (*rings).descriptors as u64,
                &raw mut (*rings).available_flags as u64,
                &raw mut (*rings).used_flags as u64,
            ]
        };
        for (offset, address) in [32, 40, 48].into_iter().zip(rings) {
            write32(registers + offset, address as u32);
            write32(registers + offset + 4, 0);
        }
        write16(registers + 28, 1);
        write8(registers + 20, 15);
        let config = registers + 0x2000;
        let capacity = u64::from(read32(config)) | u64::from(read32(config + 4)) << 32;
        Some(Self { memory, port, next: 0, seen: 0, told: 0, capacity })
    }

    /// Puts a read of block `block` into the ring; at most [`SIZE`] at once.
    pub fn submit(&mut self, block: u64) {
        let slot = usize::from(self.next) % SIZE;
        // SAFETY: the slot is not in use: no more requests than slots are on their way. All accesses are to fields of the
        // static that this disk has for itself; the device only looks at them by the rules of the ring.
        unsafe {
            let request = &raw mut (*self.memory).requests[slot];
            let data = &raw mut (*self.memory).data[slot];
            (*request).kind = 0;
            (*request).sector = block * (BLOCK / 512) as u64;
            (*request).status = 0xff;
            (*request).table = [
                Descriptor::new(&raw const (*request).kind as usize, 16, NEXT, 1),
                Descriptor::new(data as usize, BLOCK, NEXT | WRITE, 2),
                Descriptor::new(&raw const (*request).status as usize, 1, WRITE, 0),
            ];
            let rings = &raw mut (*self.memory).rings;
            (*rings).descriptors[slot] =
                Descriptor::new(&raw const (*request).table as usize, 48, INDIRECT, 0);
            (*rings).available_ring[slot] = slot as u16;
        }
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the device what has been put into the ring, and notifies it if it wants that.
    pub fn kick(&mut self) {
        // SAFETY: fields of the static; volatile, for the device looks at them at any time.
        let event = unsafe {
            let rings = &raw mut (*self.memory).rings;
            fence(Ordering::Release);
            (&raw mut (*rings).available).write_volatile(self.next);
            fence(Ordering::SeqCst);
            (&raw const (*rings).available_event).read_volatile()
        };
        let (old, new) = (self.told, self.next);
        self.told = new;
        if new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old) {
            outp(self.port, 0u16);
        }
    }

    /// Takes the requests that are done: how many. The next interrupt comes with the next one that is.
    ///
    /// # Panics
    /// Where a request failed.
    pub fn reap(&mut self) -> usize {
        let mut count = 0;
        // SAFETY: as in `submit` and `kick`.
        unsafe {
            let rings = &raw mut (*self.memory).rings;
            let used = (&raw const (*rings).used).read_volatile();
            fence(Ordering::Acquire);
            while self.seen != used {
                let head = (*rings).used_ring[usize::from(self.seen) % SIZE][0] as usize % SIZE;
                assert_eq!(ptr::read_volatile(&raw const (*self.memory).requests[head].status), 0, "status");
                self.seen = self.seen.wrapping_add(1);
                count += 1;
            }
            (&raw mut (*rings).used_event).write_volatile(self.seen);
        }
        count
    }

    /// The first bytes of what the request submitted last has read.
    pub fn last(&self) -> u64 {
        let slot = usize::from(self.next.wrapping_sub(1)) % SIZE;
        // SAFETY: as in `submit`.
        unsafe { ptr::read_volatile((&raw const (*self.memory).data[slot]).cast()) }
    }
}

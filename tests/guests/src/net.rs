//! A driver of two virtio network cards on one hub, as small as one can be: one sends, the other one receives, with one queue
//! each, MSI-X for what is received, event indices and mergeable buffers.

use crate::cpu::outp;
use crate::virtio::{
    Descriptor, EVENT_IDX, Rings, VERSION_1, WRITE, config_read, config_write, read16, read32, write8,
    write16, write32,
};
use core::ptr;
use core::sync::atomic::{Ordering, fence};

/// Entries of a queue.
pub const SIZE: usize = 256;
/// Bytes of a buffer for what is received: what Linux takes for streams.
pub const BUFFER: usize = 4096;
/// Bytes before each frame.
pub const HEADER: usize = 12;
/// Most frames that are on their way at once.
pub const FRAMES: usize = 64;
/// Room of a frame with its header.
pub const ROOM: usize = 65536;

/// Features, by their bits in the lower half: checksums, TSO, mergeable buffers, several buffers.
const CSUM: u32 = 1 << 0;
const GUEST_CSUM: u32 = 1 << 1;
const GUEST_TSO4: u32 = 1 << 7;
const HOST_TSO4: u32 = 1 << 11;
const MRG_RXBUF: u32 = 1 << 15;

/// The vector that is none.
const NO_VECTOR: u16 = 0xffff;

#[repr(C, align(4096))]
struct Memory {
    sending: Rings<SIZE>,
    receiving: Rings<SIZE>,
    buffers: [[u8; BUFFER]; SIZE],
    frame: [u8; ROOM],
}

static mut MEMORY: Memory =
    Memory { sending: Rings::NEW, receiving: Rings::NEW, buffers: [[0; BUFFER]; SIZE], frame: [0; ROOM] };

/// How a device is notified: Monovisor's devices have a port for that, QEMU's a place in memory.
#[derive(Clone, Copy)]
enum Notify {
    Port(u16),
    Memory(u64),
}

/// One queue, with its rings.
struct Queue {
    rings: *mut Rings<SIZE>,
    notify: Notify,
    number: u16,
    next: u16,
    seen: u16,
    /// The available index that the device has been told of.
    told: u16,
}

/// Two cards that have been started.
pub struct Cards {
    sending: Queue,
    receiving: Queue,
    /// What both have agreed to.
    features: u32,
}

/// Starts the card in a slot with one of its queues; where `vector` is not 0, its interrupts come as that one.
/// The features that were accepted come with it.
fn start(slot: u8, number: u16, rings: *mut Rings<SIZE>, vector: u8) -> (Queue, u32) {
    // I/O, memory, bus master.
    config_write(slot, 4, config_read(slot, 4) | 7);
    let port = (config_read(slot, 0x10) & !3) as u16;
    let table = u64::from(config_read(slot, 0x14) & !15);
    let registers = u64::from(config_read(slot, 0x20) & !15);
    // MSI-X: vector 0 to this processor, and on.
    let mut msix = config_read(slot, 0x34) as u8;
    while config_read(slot, msix) & 0xff != 0x11 {
        msix = (config_read(slot, msix) >> 8) as u8;
    }
    for (offset, value) in [(0, 0xfee0_0000), (4, 0), (8, u32::from(vector)), (12, 0)] {
        write32(table + offset, value);
    }
    config_write(slot, msix, config_read(slot, msix) | 1 << 31);
    write8(registers + 20, 0);
    write8(registers + 20, 3);
    write32(registers, 0);
    let wanted = CSUM | GUEST_CSUM | GUEST_TSO4 | HOST_TSO4 | MRG_RXBUF | EVENT_IDX;
    let features = wanted & read32(registers + 4);
    for (select, features) in [(0, features), (1, VERSION_1)] {
        write32(registers + 8, select);
        write32(registers + 12, features);
    }
    write8(registers + 20, 11);
    write16(registers + 22, number);
    write16(registers + 24, SIZE as u16);
    write16(registers + 26, if vector == 0 { NO_VECTOR } else { 0 });
    // SAFETY: only the addresses of fields of a static are taken; all lies below 4 GiB, mapped one to one.
    let parts = unsafe {
        [
            &raw mut (*rings).descriptors as u64,
            &raw mut (*rings).available_flags as u64,
            &raw mut (*rings).used_flags as u64,
        ]
    };
    for (offset, address) in [32, 40, 48].into_iter().zip(parts) {
        write32(registers + offset, address as u32);
        write32(registers + offset + 4, 0);
    }
    write16(registers + 28, 1);
    let offset = u64::from(read16(registers + 30));
    write8(registers + 20, 15);
    let notify = if port == 0 { Notify::Memory(registers + 0x3000 + 4 * offset) } else { Notify::Port(port) };
    (Queue { rings, notify, number, next: 0, seen: 0, told: 0 }, features)
}

impl Queue {
    /// Puts a buffer into the ring, as the descriptor `head`.
    fn put(&mut self, head: u16, buffer: Descriptor) {
        let slot = usize::from(self.next) % SIZE;
        // SAFETY: the descriptor is not in use, as the caller sees to; the device only looks at it by the rules of the ring.
        unsafe {
            (*self.rings).descriptors[usize::from(head) % SIZE] = buffer;
            (*self.rings).available_ring[slot] = head;
        }
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the device what has been put into the ring, and notifies it if it wants that.
    fn kick(&mut self) {
        // SAFETY: fields of the static; volatile, for the device looks at them at any time.
        let event = unsafe {
            fence(Ordering::Release);
            (&raw mut (*self.rings).available).write_volatile(self.next);
            fence(Ordering::SeqCst);
            (&raw const (*self.rings).available_event).read_volatile()
        };
        let (old, new) = (self.told, self.next);
        self.told = new;
        if new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old) {
            match self.notify {
                Notify::Port(port) => outp(port, self.number),
                Notify::Memory(address) => write16(address, self.number),
            }
        }
    }

    /// Something has been given back.
    fn has(&self) -> bool {
        // SAFETY: as in `kick`.
        self.seen != unsafe { (&raw const (*self.rings).used).read_volatile() }
    }

    /// What has been given back next: descriptor and bytes.
    fn take(&mut self) -> Option<(u16, u32)> {
        if !self.has() {
            return None;
        }
        // SAFETY: as in `kick`.
        unsafe {
            fence(Ordering::Acquire);
            let [head, written] = (*self.rings).used_ring[usize::from(self.seen) % SIZE];
            self.seen = self.seen.wrapping_add(1);
            Some((head as u16, written))
        }
    }

    /// The device interrupts for the next that it gives back after `more` others.
    fn want(&mut self, more: u16) {
        // SAFETY: as in `kick`.
        unsafe { (&raw mut (*self.rings).used_event).write_volatile(self.seen.wrapping_add(more)) };
    }
}

impl Cards {
    /// Starts the first two cards on the bus; interrupts for what is received come as `vector` to this processor. May be
    /// called once.
    pub fn start(vector: u8) -> Option<Self> {
        let mut slots = (0..32).filter(|slot| config_read(*slot, 0) == 0x1041_1af4);
        let (first, second) = (slots.next()?, slots.next()?);
        let memory = &raw mut MEMORY;
        // SAFETY: only addresses of fields are taken.
        let (sending, receiving) = unsafe { (&raw mut (*memory).sending, &raw mut (*memory).receiving) };
        let (sending, sender) = start(first, 1, sending, 0);
        let (receiving, receiver) = start(second, 0, receiving, vector);
        let mut cards = Self { sending, receiving, features: sender & receiver };
        // Nobody wants to hear that a frame has been sent.
        cards.sending.want(SIZE as u16 * 2);
        for index in 0..SIZE as u16 {
            cards.offer(index);
        }
        cards.receiving.kick();
        Some(cards)
    }

    /// Frames need not be cut into segments.
    pub const fn long(&self) -> bool {
        self.features & (HOST_TSO4 | GUEST_TSO4) == HOST_TSO4 | GUEST_TSO4
    }

    /// Frames need no checksum.
    pub const fn unchecked(&self) -> bool {
        self.features & (CSUM | GUEST_CSUM) == CSUM | GUEST_CSUM
    }

    /// Gives the receiver a buffer.
    fn offer(&mut self, index: u16) {
        // SAFETY: only an address is taken.
        let at = unsafe { &raw mut MEMORY.buffers[usize::from(index) % SIZE] as usize };
        self.receiving.put(index, Descriptor::new(at, BUFFER, WRITE, 0));
    }

    /// The frame to send, with its header; it is the same each time.
    pub fn frame(&mut self) -> &mut [u8; ROOM] {
        // SAFETY: nothing is on its way while this is borrowed: `send` returns when all has arrived.
        unsafe {
            let frame = &raw mut MEMORY.frame;
            &mut *frame
        }
    }

    /// Sends the first `length` bytes of the frame `count` times, up to [`FRAMES`], with one notification.
    pub fn send(&mut self, length: usize, count: usize) {
        // SAFETY: only an address is taken.
        let at = unsafe { &raw mut MEMORY.frame as usize };
        self.receiving.want(0);
        for index in 0..count {
            self.sending.put(index as u16, Descriptor::new(at, length, 0, 0));
        }
        self.sending.kick();
    }

    /// Takes what has been received, gives its buffers back, and waits for more: how many frames. `check` is given each piece of
    /// one with its offset there.
    pub fn receive(&mut self, check: &mut dyn FnMut(usize, &[u8])) -> usize {
        let mut frames = 0;
        loop {
            let Some((head, written)) = self.receiving.take() else {
                self.receiving.want(0);
                // One that has come before the device could see that.
                fence(Ordering::SeqCst);
                if self.receiving.has() { continue } else { break }
            };
            let piece = |head: u16, written: u32| {
                // SAFETY: the device has given the buffer back, and does not write to it.
                unsafe {
                    let buffer = &raw const MEMORY.buffers[usize::from(head) % SIZE];
                    let buffer = &*buffer;
                    &buffer[..(written as usize).min(BUFFER)]
                }
            };
            let first = piece(head, written);
            let buffers = u16::from_le_bytes([first[10], first[11]]);
            check(0, first);
            let mut length = first.len();
            self.offer(head);
            for _ in 1..buffers {
                let (head, written) = self.receiving.take().expect("all buffers of a frame");
                let next = piece(head, written);
                check(length, next);
                length += next.len();
                self.offer(head);
            }
            frames += 1;
        }
        self.receiving.kick();
        while self.sending.take().is_some() {}
        self.sending.want(SIZE as u16 * 2);
        // SAFETY: makes the compiler forget what it knows of the buffers.
        unsafe { ptr::read_volatile(&raw const MEMORY.buffers[0][0]) };
        frames
    }
}

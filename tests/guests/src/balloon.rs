//! A driver of a virtio balloon that only gives pages away (virtio 1.2, 5.5): one queue, no interrupts.

use crate::cpu::{outp, tsc};
use crate::virtio::{Descriptor, Rings, VERSION_1, config_read, config_write, write8, write16, write32};
use core::sync::atomic::{Ordering, fence};

const SIZE: usize = 8;
/// Vendor and device number of a balloon (virtio 1.2, 4.1.2.1).
const ID: u32 = 0x1045_1af4;

#[repr(C, align(4096))]
struct Memory {
    rings: Rings<SIZE>,
    page: u32,
}

static mut MEMORY: Memory = Memory { rings: Rings::NEW, page: 0 };

/// A balloon that has been started.
pub struct Balloon {
    port: u16,
    count: u16,
}

impl Balloon {
    /// Starts the first balloon on the bus.
    pub fn start() -> Option<Self> {
        let slot = (0..32).find(|slot| config_read(*slot, 0) == ID)?;
        config_write(slot, 4, config_read(slot, 4) | 7);
        let port = (config_read(slot, 0x10) & !3) as u16;
        let registers = u64::from(config_read(slot, 0x20) & !15);
        write8(registers + 20, 0);
        write8(registers + 20, 3);
        for (select, features) in [(0, 0), (1, VERSION_1)] {
            write32(registers + 8, select);
            write32(registers + 12, features);
        }
        write8(registers + 20, 11);
        write16(registers + 22, 0);
        write16(registers + 24, SIZE as u16);
        // SAFETY: only the addresses of fields of a static are taken, which the device does not use any more; all lies below 4 GiB,
        // mapped one to one.
        let rings = unsafe {
            let rings = &raw mut MEMORY.rings;
            rings.write_volatile(Rings::NEW);
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
        Some(Self { port, count: 0 })
    }

    /// Gives away the page at an address; true when the device has taken it.
    pub fn take(&mut self, page: u64) -> bool {
        // SAFETY: fields of the static; volatile, for the device looks at them at any time.
        unsafe {
            let memory = &raw mut MEMORY;
            (&raw mut (*memory).page).write_volatile((page >> 12) as u32);
            let rings = &raw mut (*memory).rings;
            let slot = usize::from(self.count) % SIZE;
            (&raw mut (*rings).descriptors[slot]).write_volatile(Descriptor::new(
                &raw const (*memory).page as usize,
                4,
                0,
                0,
            ));
            (&raw mut (*rings).available_ring[slot]).write_volatile(slot as u16);
            self.count = self.count.wrapping_add(1);
            fence(Ordering::SeqCst);
            (&raw mut (*rings).available).write_volatile(self.count);
            fence(Ordering::SeqCst);
            outp(self.port, 0u16);
            let start = tsc();
            while (&raw const (*rings).used).read_volatile() != self.count {
                if tsc() - start > 4_000_000_000 {
                    return false;
                }
                core::hint::spin_loop();
            }
        }
        true
    }
}

//! Measures what reading a virtio disk costs, driver and interrupt included, and prints `FIGURE name value` lines.
//!
//! The disk's image holds the number of each block at its start.
#![no_std]
#![no_main]

use monovisor_guests::cpu::{self, tsc};
use monovisor_guests::virtio::{BLOCK, Disk};
use monovisor_guests::{apic, entry, power, println, trap};

entry!(main);

/// Vector of the disk's interrupt.
const VECTOR: u8 = 0x60;
/// Requests that are measured.
const ROUNDS: u64 = 4096;

/// Blocks in an order that no read-ahead would guess.
struct Order(u64, u64);

impl Order {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % self.1
    }
}

fn main() -> ! {
    apic::init_pic(0xffff);
    apic::enable_x2apic();
    let Some(mut disk) = Disk::start(VECTOR) else {
        println!("FAIL no disk");
        power::off()
    };
    let mut order = Order(1, disk.capacity * 512 / BLOCK as u64);
    for (name, depth) in [("blk-1", 1), ("blk-32", 32)] {
        run(&mut disk, &mut order, depth, 64);
        let start = tsc();
        run(&mut disk, &mut order, depth, ROUNDS);
        println!("FIGURE {name} {}", (tsc() - start) / ROUNDS);
    }
    println!("FIGURE done 0");
    power::off()
}

/// Reads `count` blocks, `depth` at once, and waits for the interrupt of each batch.
fn run(disk: &mut Disk, order: &mut Order, depth: u64, count: u64) {
    for _ in 0..count / depth {
        let before = trap::count(VECTOR);
        let mut block = 0;
        for _ in 0..depth {
            block = order.next();
            disk.submit(block);
        }
        cpu::enable_interrupts();
        disk.kick();
        cpu::disable_interrupts();
        let mut done = 0;
        while done < depth as usize {
            while trap::count(VECTOR) == before {
                cpu::wait();
            }
            done += disk.reap();
        }
        assert_eq!(disk.last(), block, "the block that was asked for");
    }
}

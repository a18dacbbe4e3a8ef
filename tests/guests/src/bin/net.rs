//! Measures what it costs to move bytes from one virtio network card to another, drivers and interrupts included, and prints
//! `FIGURE name value` lines: bytes for each 1,000 instructions.
#![no_std]
#![no_main]

use monovisor_guests::cpu::{self, tsc};
use monovisor_guests::net::{Cards, HEADER, ROOM};
use monovisor_guests::{apic, entry, power, println, trap};

entry!(main);

/// Vector of the receiver's interrupt.
const VECTOR: u8 = 0x60;

/// Bytes that are moved for each figure.
const BYTES: usize = 64 << 20;

/// Bytes of headers: Ethernet, IPv4, TCP with a time stamp.
const HEADERS: usize = 14 + 20 + 32;
/// Bytes of data of a segment.
const SEGMENT: u16 = 1448;
/// Data of a long frame: 45 segments.
const LONG: usize = 45 * SEGMENT as usize;

fn main() -> ! {
    apic::init_pic(0xffff);
    apic::enable_x2apic();
    let Some(mut cards) = Cards::start(VECTOR) else {
        println!("FAIL there are no two cards");
        power::off()
    };
    for (name, data, at_once) in [("net-long", LONG, 8), ("net-short", usize::from(SEGMENT), 32)] {
        // QEMU's hub knows nothing of long frames.
        if data == LONG && !cards.long() {
            continue;
        }
        let length = HEADER + HEADERS + data;
        let unchecked = cards.unchecked();
        write_frame(cards.frame(), data, unchecked);
        // All bytes arrive.
        let mut sum = 0u64;
        run(&mut cards, length, 1, &mut |offset, piece| {
            // Behind the header, which says how many buffers there are.
            let skip = HEADER.saturating_sub(offset);
            sum = piece.iter().skip(skip).fold(sum, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
        });
        let frame = &cards.frame()[HEADER..length];
        let expected = frame.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
        if sum != expected {
            println!("FAIL {name}: what arrives is not what was sent");
            power::off();
        }
        let rounds = BYTES / data / at_once;
        let start = tsc();
        for _ in 0..rounds {
            run(&mut cards, length, at_once, &mut |_, _| {});
        }
        let moved = (rounds * at_once * data) as u64;
        println!("FIGURE {name} {}", moved * 1000 / (tsc() - start));
    }
    println!("FIGURE done 0");
    power::off()
}

/// Sends a frame `count` times and waits until all have arrived.
fn run(cards: &mut Cards, length: usize, count: usize, check: &mut dyn FnMut(usize, &[u8])) {
    let mut done = 0;
    let mut before = trap::count(VECTOR);
    cpu::enable_interrupts();
    cards.send(length, count);
    cpu::disable_interrupts();
    while done < count {
        while trap::count(VECTOR) == before {
            cpu::wait();
        }
        before = trap::count(VECTOR);
        done += cards.receive(check);
    }
}

/// A frame of TCP with `data` bytes, which lacks its checksum, if the cards take it so, and, where it is long, its segments.
fn write_frame(frame: &mut [u8; ROOM], data: usize, unchecked: bool) {
    let size = if data > usize::from(SEGMENT) { SEGMENT } else { 0 };
    let [s0, s1] = size.to_le_bytes();
    let header = if unchecked {
        [1, u8::from(size != 0), HEADERS as u8, 0, s0, s1, 34, 0, 16, 0, 0, 0]
    } else {
        [0; HEADER]
    };
    for (index, place) in frame.iter_mut().enumerate() {
        *place = (index * 7 + index / 256) as u8;
    }
    frame[..HEADER].copy_from_slice(&header);
    let [l0, l1] = ((HEADERS - 14 + data) as u16).to_be_bytes();
    let ip = [0x45, 0, l0, l1, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    frame[HEADER + 12..HEADER + 14].copy_from_slice(&[8, 0]);
    frame[HEADER + 14..HEADER + 34].copy_from_slice(&ip);
    // Eight words of TCP header, ACK.
    frame[HEADER + 34 + 12..HEADER + 34 + 14].copy_from_slice(&[0x80, 0x10]);
}

//! /init of the Linux guest that measures its disk: 4 KiB random reads past the page cache, one at a time and 32 at once.
//!
//! The TSC counts instructions there, so the figures are instructions from the system call to its return, driver and
//! hypervisor included.

use std::arch::{asm, x86_64::_rdtsc};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

const BLOCK: usize = 4096;
const DEPTH: usize = 32;
const SINGLE: u64 = 1000;
const BATCHES: u64 = 100;

const O_DIRECT: i32 = 0o40000;
const SYS_MOUNT: u64 = 165;
const SYS_IO_SETUP: u64 = 206;
const SYS_IO_GETEVENTS: u64 = 208;
const SYS_IO_SUBMIT: u64 = 209;
const SYS_FINIT_MODULE: u64 = 313;

/// Modules in the order in which they need each other.
const MODULES: [&str; 6] =
    ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"];

/// A system call of Linux.
///
/// # Safety
/// The arguments are what the call wants.
unsafe fn syscall(number: u64, arguments: [u64; 5]) -> i64 {
    let result: i64;
    // SAFETY: the registers are those of the system call convention; the kernel changes RAX, RCX and R11 alone.
    unsafe {
        asm!("syscall", inlateout("rax") number as i64 => result, in("rdi") arguments[0], in("rsi") arguments[1],
            in("rdx") arguments[2], in("r10") arguments[3], in("r8") arguments[4], lateout("rcx") _, lateout("r11") _);
    }
    result
}

fn ticks() -> u64 {
    // SAFETY: RDTSC is there on every 64-bit processor.
    unsafe { _rdtsc() }
}

/// A request of `io_submit`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Iocb {
    data: u64,
    key: u32,
    flags: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    more_flags: u32,
    event: u32,
}

#[repr(C, align(4096))]
struct Buffers([[u8; BLOCK]; DEPTH]);

/// Blocks in an order that no read-ahead would guess.
struct Order(u64, u64);

impl Order {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % self.1
    }
}

fn open() -> File {
    let (none, devtmpfs) = (CString::new("none").unwrap(), CString::new("devtmpfs").unwrap());
    let dev = CString::new("/dev").unwrap();
    // SAFETY: three strings, no flags and no data.
    unsafe {
        let (from, at, kind) = (none.as_ptr() as u64, dev.as_ptr() as u64, devtmpfs.as_ptr() as u64);
        syscall(SYS_MOUNT, [from, at, kind, 0, 0]);
    }
    let empty = CString::new("").unwrap();
    for name in MODULES {
        let file = File::open(format!("/lib/{name}.ko")).expect("the module is there");
        // SAFETY: a file, its parameters as a string, and no flags.
        let result =
            unsafe { syscall(SYS_FINIT_MODULE, [file.as_raw_fd() as u64, empty.as_ptr() as u64, 0, 0, 0]) };
        assert_eq!(result, 0, "{name}");
    }
    loop {
        if let Ok(file) = OpenOptions::new().read(true).custom_flags(O_DIRECT).open("/dev/vda") {
            return file;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn main() {
    let disk = open();
    let size = std::fs::read_to_string("/sys/block/vda/size").ok().and_then(|text| text.trim().parse().ok());
    let blocks = size.unwrap_or(8u64 << 11) * 512 / BLOCK as u64;
    let mut order = Order(1, blocks);
    let mut buffers = Box::new(Buffers([[0; BLOCK]; DEPTH]));

    for warm in [true, false] {
        let before = ticks();
        for _ in 0..SINGLE {
            let offset = order.next() * BLOCK as u64;
            disk.read_exact_at(&mut buffers.0[0], offset).expect("the disk can be read");
        }
        if !warm {
            println!("FIGURE blk-1 {}", (ticks() - before) / SINGLE);
        }
    }

    let mut context = 0u64;
    // SAFETY: room for a context's number.
    let made = unsafe { syscall(SYS_IO_SETUP, [DEPTH as u64, &raw mut context as u64, 0, 0, 0]) };
    assert_eq!(made, 0, "io_setup");
    let mut requests = [Iocb::default(); DEPTH];
    let mut events = [[0u64; 4]; DEPTH];
    for warm in [true, false] {
        let before = ticks();
        for _ in 0..BATCHES {
            for (request, buffer) in requests.iter_mut().zip(&mut buffers.0) {
                request.file = disk.as_raw_fd() as u32;
                request.buffer = buffer.as_mut_ptr() as u64;
                request.bytes = BLOCK as u64;
                request.offset = (order.next() * BLOCK as u64) as i64;
            }
            let list: [u64; DEPTH] = std::array::from_fn(|index| &raw const requests[index] as u64);
            // SAFETY: requests and buffers stay where they are until their events have come.
            let (sent, came) = unsafe {
                let sent = syscall(SYS_IO_SUBMIT, [context, DEPTH as u64, list.as_ptr() as u64, 0, 0]);
                let (most, place) = (DEPTH as u64, events.as_mut_ptr() as u64);
                (sent, syscall(SYS_IO_GETEVENTS, [context, most, most, place, 0]))
            };
            assert_eq!((sent, came), (DEPTH as i64, DEPTH as i64));
            assert!(events.iter().all(|event| event[2] == BLOCK as u64), "whole blocks");
        }
        if !warm {
            println!("FIGURE blk-32 {}", (ticks() - before) / (BATCHES * DEPTH as u64));
        }
    }
    println!("FIGURE done");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

//! The runtime of the guest kernels: entry, console, traps, ports, reports.
//!
//! A guest is started by PVH, both by Monovisor and by plain QEMU (`qemu-system-x86_64 -kernel GUEST`), so that each case
//! can be checked against a machine that has no hypervisor of ours in it; the entry points for multiboot and for the
//! 64-bit Linux boot protocol (as an uncompressed `vmlinux`) are there to test those. It runs at ring 0 in long mode, all memory below 4 GiB mapped one to one.
#![no_std]
// `attempt!` is made to run the instructions that its caller writes.
#![allow(clippy::macro_metavars_in_unsafe)]

pub mod apic;
pub mod balloon;
pub mod boot;
pub mod cases;
pub mod console;
pub mod cpu;
pub mod fuzz;
pub mod mem;
pub mod net;
pub mod power;
pub mod report;
pub mod smp;
pub mod trap;
pub mod virtio;

use core::panic::PanicInfo;

/// Names the function that a guest starts with.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        /// Called by the entry code, once.
        #[unsafe(no_mangle)]
        extern "C" fn guest_main() -> ! {
            let main: fn() -> ! = $main;
            $crate::console::init();
            $crate::trap::init();
            main()
        }
    };
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    println!("FAIL panic: {}", info.message());
    power::off()
}

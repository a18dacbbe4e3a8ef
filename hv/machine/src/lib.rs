//! One guest: its processors, RAM, devices and time, and the loop that runs it.
//!
//! This is where a guest waits for its hypervisor, so the package is built for speed; the monitor side in `monovisor-hv`,
//! where a serial line waits, is built for size.
//!
//! | module | job |
//! |---|---|
//! | `machine` | one processor: exits, interrupts, MSRs, emulation, the loop |
//! | `shared`, `registers` | what the processors share, and how they call each other |
//! | `policy` | CPUID, MSRs and control bits that a guest has |
//! | `clock`, `ram`, `backend` | time, memory, and what the devices are connected to |
//! | `balloon` | pages of RAM that the guest has given away |
//! | `trace` | the tracepoints |
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod backend;
pub mod balloon;
pub mod clock;
mod machine;
pub mod policy;
pub mod ram;
pub mod registers;
pub mod shared;
pub mod trace;

pub use machine::{Cold, HAS_HPET, HAS_I8042, Halt, MAX_CPUS, Machine, Parts, Run, SliceEnd, host_cpuid};
pub use registers::Registers;
pub use shared::{Devices, Order, Shared, Slot, Slots};

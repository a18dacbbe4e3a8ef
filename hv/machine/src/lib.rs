//! One guest: its processors, RAM, devices and time, and the loop that runs it.
//!
//! The package is built for size. What a guest waits for often is generic over the processor, and so compiled where it is
//! used: in `monovisor-run`, which is built for speed. What is rare is compiled here, once for both vendors, for
//! `Machine<dyn Vcpu>`.
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

pub use machine::{Cold, HAS_HPET, HAS_I8042, Halt, MAX_CPUS, Machine, Parts, SliceEnd, host_cpuid};
pub use registers::Registers;
pub use shared::{Devices, Order, Shared, Slot, Slots};

//! Host set-up on bare metal: from a boot loader's hand-over to a machine that a hypervisor can run on.
//!
//! A board's binary names its parts in a [`board::Board`] and its main function, and [`entry!`] does the rest: when main
//! runs, the first processor is in long mode on page tables of its own ([`paging`]), exceptions are reported
//! ([`traps`]), free memory can be carved ([`frames`]), interrupts are polled sources ([`interrupts`]), the time is known
//! ([`timer`]) and there is a log ([`mod@log`]). Serial lines are opened by whoever uses them ([`uart`]).
//!
//! All of physical RAM is mapped at its own address. `unsafe` is here because hardware is; each parser of what firmware,
//! loaders and tables say is safe code over slices and runs under `cargo test`.
#![cfg_attr(not(test), no_std)]

pub mod acpi;
pub mod apic;
pub mod board;
pub mod boot;
mod bytes;
pub mod cpu;
pub mod entropy;
pub mod frames;
pub mod interrupts;
pub mod log;
pub mod machine_check;
pub mod mem;
mod mtrr;
pub mod paging;
pub mod physical;
mod port;
pub mod power;
mod rtc;
pub mod secondary;
pub mod stack;
pub mod start;
pub mod timer;
pub mod traps;
pub mod uart;

pub use board::{Board, PowerOff};
pub use boot::{BootInfo, Module};
pub use physical::PhysRange;
pub use start::{boot_info, features};

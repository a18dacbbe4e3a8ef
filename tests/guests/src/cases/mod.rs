//! The cases, one module a topic.

pub mod boot;
pub mod clocks;
pub mod cpu;
pub mod debug;
pub mod delivery;
pub mod exceptions;
pub mod interrupts;
pub mod last;
pub mod levels;
pub mod mmio;
pub mod modes;
pub mod paging;
pub mod ports;
pub mod smp;
pub mod testdev;
pub mod time;
pub mod user;
pub mod xstate;

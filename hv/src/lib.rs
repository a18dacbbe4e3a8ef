//! The hypervisor: what glues monitor core, virtual processor and devices into a machine that QMP drives.
//!
//! | module | job |
//! |---|---|
//! | `boot` | from a board's main function to the services |
//! | `launch` | command line and files, and how they become a guest |
//! | `services` | the loop: monitor sessions, console, slices of the guest |
//! | `machine` | one guest: exits, interrupts, MSRs, emulation |
//! | `policy` | CPUID, MSRs and control bits that a guest has |
//! | `hypervisor`, `state` | what the monitor drives, and its run state |
//! | `handlers` | the QMP commands |
//! | `hmp` | the human monitor |
//! | `trace` | tracepoints |
//! | `qom` | the machine as a tree of objects |
//! | `clock`, `ram`, `store`, `port`, `backend` | time, memory, files and lines |
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

mod backend;
mod boot;
pub mod clock;
mod guest;
mod handlers;
pub mod hmp;
mod hypervisor;
mod launch;
mod machine;
pub mod policy;
mod port;
mod qom;
pub mod ram;
mod services;
mod state;
mod store;
mod trace;

pub use boot::run;

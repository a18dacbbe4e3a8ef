//! The hypervisor: what glues monitor core, virtual processor and devices into a machine that QMP drives.
//!
//! | module | job |
//! |---|---|
//! | `boot` | from a board's main function to the services |
//! | `configure` | devices from the options that ask for them |
//! | `virtio`, `frontends` | virtio devices from their options, and what their ports are connected to |
//! | `launch` | command line and files, and how they become a guest |
//! | `services` | the loop: monitor sessions, console, slices of the guest |
//! | `hypervisor`, `state` | what the monitor drives, and its run state |
//! | `handlers` | the QMP commands |
//! | `hmp` | the human monitor |
//! | `qom` | the machine as a tree of objects |
//! | `store`, `lines`, `port` | files, and what each serial line is for |
//!
//! The guest itself is in `monovisor-machine`.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

mod boot;
mod configure;
mod frontends;
mod guest;
mod handlers;
pub mod hmp;
mod hypervisor;
mod launch;
mod lines;
mod port;
mod qom;
mod services;
mod state;
mod store;
mod virtio;

use monovisor_machine as machine;
use monovisor_machine::{backend, balloon, clock, policy, ram, trace};

pub use boot::run;

//! The hypervisor: glues monitor, vCPUs and devices.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod clock;
pub mod hmp;
pub mod policy;
pub mod ram;

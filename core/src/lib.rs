//! QMP, the QEMU Machine Protocol, as QEMU 2.8 speaks it: bytes in, typed commands, bytes out.
//!
//! This crate knows nothing of virtual machines. It has no heap, does not recurse on what it receives and does not panic;
//! the constants that bound it are public and documented where they apply.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod error;
pub mod json;
pub mod schema;

pub use error::{Error, ErrorClass};

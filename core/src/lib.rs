//! QMP, the QEMU Machine Protocol, as QEMU 2.8 speaks it: bytes in, typed commands, bytes out.
//!
//! This crate knows nothing of virtual machines. It has no heap, does not recurse on what it receives and does not panic;
//! the constants that bound it are public and documented where they apply.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod base64;
pub mod chardev;
pub mod dispatch;
pub mod error;
pub mod handlers;
pub mod json;
pub mod monitor;
pub mod port;
pub mod schema;
mod text;
pub mod trace;

pub use dispatch::Context;
pub use error::{Error, ErrorClass};
pub use handlers::Handlers;
pub use monitor::{Monitor, Now, Product};
pub use port::{LineError, Port};
pub use text::{PIECE_BYTES, Text};

//! From a boot loader's command line and modules to a guest that can be entered.
//!
//! | module | job |
//! |---|---|
//! | `options` | the command line in QEMU's vocabulary |
//! | `bundle` | the newc cpio archive that holds kernel, initrd and other files |
//! | `e820` | where guest RAM is, and the map of it that a guest is given |
//! | `linux` | the Linux boot protocol: bzImage and vmlinux, 64-bit entry |
//! | `acpi`, `aml` | the tables that describe the guest's PC |
//!
//! All input is hostile: files, command line and sizes are checked before they are used, errors name the option
//! that they come from, nothing panics.
#![no_std]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod aml;
pub mod bundle;
pub mod e820;
pub mod linux;
pub mod options;

pub use bundle::{Bundle, BundleError, Member};
pub use linux::{EntryState, Image, LinuxGuest, LoadError, apply};
pub use options::{OptionError, Options};

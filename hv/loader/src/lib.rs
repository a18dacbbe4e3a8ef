//! From a boot loader's command line and modules to a guest that can be entered.
//!
//! | module | job |
//! |---|---|
//! | `options` | the command line in QEMU's vocabulary |
//! | `bundle` | the newc cpio archive that holds kernel, initrd and other files |
//! | `e820` | where guest RAM is, and the map of it that a guest is given |
//! | `kernel` | which kind of kernel a file is |
//! | `linux` | the Linux boot protocol: bzImage and vmlinux, 64-bit entry |
//! | `pvh` | ELF kernels with a PVH note |
//! | `multiboot` | multiboot kernels, version 1 |
//! | `elf`, `area`, `entry`, `error` | what these share |
//! | `acpi`, `aml` | the tables that describe the guest's PC |
//!
//! All input is hostile: files, command line and sizes are checked before they are used, errors name the option
//! that they come from, nothing panics.
#![no_std]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod aml;
mod area;
pub mod bundle;
mod bytes;
pub mod e820;
mod elf;
pub mod entry;
pub mod error;
pub mod kernel;
pub mod linux;
mod multiboot;
pub mod options;
mod pvh;

pub use bundle::{Bundle, BundleError, Member};
pub use entry::{EntryState, apply};
pub use error::{LoadError, Problem};
pub use kernel::{Image, KernelGuest, Kind};
pub use linux::LinuxGuest;
pub use options::{OptionError, Options};

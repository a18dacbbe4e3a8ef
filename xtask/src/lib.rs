//! The host side of Monovisor: what `cargo xtask` is made of, and what the boot tests use too.
//!
//! Each subcommand is one module; the rest are the parts they share: supervised child processes, the boot bundle,
//! emulators, the QMP bridge and client.
#![forbid(unsafe_code)]

pub mod bench;
pub mod board;
pub mod bridge;
pub mod budget;
pub mod build;
pub mod commands;
pub mod core_alone;
pub mod cpio;
pub mod emulator;
pub mod ending;
pub mod fuzz;
pub mod guest;
pub mod image;
pub mod iso;
pub mod line;
pub mod monitor;
pub mod paths;
pub mod payload;
pub mod process;
pub mod progress;
pub mod pull;
pub mod qmp;
pub mod run;
pub mod setup;
pub mod size;
pub mod stack;
pub mod stdio;
pub mod terminal;
pub mod test;

//! The devices that a guest sees: one PC.
//!
//! Everything here is pure: the time comes in as `now`, nanoseconds of the guest's virtual clock; interrupts are
//! levels on [`lines::Lines`] and come out of [`Pc::interrupt_for`]; what a device needs from outside is the
//! [`Backend`]. A device is one file, takes plain values, and holds no reference to another one; [`Pc`] wires
//! them. No value that a guest writes can make any of this panic, overflow or run long; the README has the table
//! of what a hostile guest can try.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod apic;
pub mod clock;
pub mod disk;
pub mod fwcfg;
pub mod hpet;
pub mod input;
pub mod kvmclock;
pub mod lines;
pub mod pc;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod ports;
pub mod ps2;
pub mod rtc;
pub mod testdev;
pub mod uart;
pub mod virtio;

pub use apic::{CpuRequest, GeneralProtection};
pub use kvmclock::KvmClock;
pub use pc::{Backend, DebugExit, Pc, PcConfig, Request, ResetCause};

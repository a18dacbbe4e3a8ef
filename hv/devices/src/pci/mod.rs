//! PCI: configuration mechanism #1, configuration spaces, and the functions every PC has.

pub mod bus;
pub mod chipset;
pub mod config;

pub use bus::{Address, ConfigPort};
pub use config::{ConfigSpace, Region};

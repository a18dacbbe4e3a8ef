//! PCI: configuration mechanism #1, configuration spaces, message-signalled interrupts, and the functions every PC has.

pub mod bus;
pub mod chipset;
pub mod config;
pub mod msix;

pub use bus::{Address, ConfigPort};
pub use config::{ConfigSpace, Region};
pub use msix::MsiX;

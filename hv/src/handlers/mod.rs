//! What each QMP command does: the monitor core's handler traits, implemented by the hypervisor.

mod human;
pub(crate) mod machine;
mod memory;
mod nothing;
mod offered;
pub(crate) mod pci;
mod run_control;
mod trace;

use monovisor_core::handlers::{Base, Chardevs, Media, Migration, Network, Objects};
use monovisor_core::schema::Offered;

use crate::hypervisor::Hypervisor;

pub use offered::OFFERED;

impl Base for Hypervisor<'_> {
    const OFFERED: &'static Offered = &OFFERED;
}

impl Chardevs for Hypervisor<'_> {}
impl Objects for Hypervisor<'_> {}
impl Media for Hypervisor<'_> {}
impl Network for Hypervisor<'_> {}
impl Migration for Hypervisor<'_> {}

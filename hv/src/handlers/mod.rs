//! What each QMP command does: the monitor core's handler traits, implemented by the hypervisor.

mod human;
mod introspection;
mod memory;
mod offered;
mod run_control;

use monovisor_core::handlers::{
    Block, BlockJobs, Chardevs, Display, Extras, Media, Migration, Network, Objects,
};

use crate::hypervisor::Hypervisor;

pub use offered::OFFERED;

impl Chardevs for Hypervisor<'_> {}
impl Objects for Hypervisor<'_> {}
impl Block for Hypervisor<'_> {}
impl Media for Hypervisor<'_> {}
impl BlockJobs for Hypervisor<'_> {}
impl Network for Hypervisor<'_> {}
impl Migration for Hypervisor<'_> {}
impl Display for Hypervisor<'_> {}
impl Extras for Hypervisor<'_> {}

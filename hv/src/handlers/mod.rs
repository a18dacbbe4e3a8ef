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

impl Chardevs for Hypervisor<'_> {
    const BUILT: bool = false;
}
impl Objects for Hypervisor<'_> {
    const BUILT: bool = false;
}
impl Block for Hypervisor<'_> {
    const BUILT: bool = false;
}
impl Media for Hypervisor<'_> {
    const BUILT: bool = false;
}
impl BlockJobs for Hypervisor<'_> {
    const BUILT: bool = false;
}
impl Network for Hypervisor<'_> {
    const BUILT: bool = false;
}
impl Migration for Hypervisor<'_> {
    const BUILT: bool = false;
}
impl Display for Hypervisor<'_> {
    const BUILT: bool = false;
}
impl Extras for Hypervisor<'_> {
    const BUILT: bool = false;
}

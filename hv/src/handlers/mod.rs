//! What each QMP command does: the monitor core's handler traits, implemented by the hypervisor.

pub(crate) mod block;
pub(crate) mod chardevs;
mod fixed;
mod human;
mod input;
pub(crate) mod machine;
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod objects;
pub(crate) mod pci;
mod run_control;
mod tracing;

use monovisor_core::Context;
use monovisor_core::handlers::{Base, Media, Migration};
use monovisor_core::schema::{Command, Offered};

use crate::hypervisor::Hypervisor;
use crate::trace::{self, Point};

/// The commands and events that are built.
pub static OFFERED: Offered = Offered::product();

impl Base for Hypervisor<'_> {
    const OFFERED: &'static Offered = &OFFERED;

    fn observe(&mut self, command: Command, cx: &Context<'_>) {
        if trace::enabled() {
            trace::record(
                Point::QmpCommand,
                None,
                format_args!("session={} command={}", cx.session, command.name()),
            );
        }
    }
}

impl Media for Hypervisor<'_> {}
impl Migration for Hypervisor<'_> {}

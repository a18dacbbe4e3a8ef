//! What an image may cost. `cargo xtask size` compares, and what is over its budget fails the build.

use crate::board::Board;

/// Limits of one board's image.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Code, constants and initialised data: what is in the file and loaded, in bytes.
    pub image: u64,
    /// Zero-initialised memory: stacks, buffers, tables, in bytes.
    pub zeroed: u64,
    /// All RAM that Monovisor takes besides guest RAM and store: both of the above and what is carved at boot, in bytes.
    pub host_ram: u64,
    /// The deepest chain of calls on the main stack, in bytes.
    pub stack: u64,
    /// The same on a further processor's main stack, from [`OTHER_MAIN`] on, in bytes.
    pub other_stack: u64,
}

/// The main stack's symbol.
pub const MAIN_STACK: &str = "monovisor_stack_main";

/// Part of the symbols of the function that a further processor runs, on a stack of its own.
pub const OTHER_MAIN: &str = "4boot9run_other";

/// What is in the file and loaded, in bytes. A guest with one processor and no virtio fitted 384 KiB; each of the device models,
/// and the monitor's commands for them, needs room of its own.
pub const IMAGE: u64 = 512 << 10;

/// The budget of a board. They share their code, and so their limits.
pub const fn of(_board: Board) -> Budget {
    Budget { image: IMAGE, zeroed: 2 << 20, host_ram: 4 << 20, stack: 88 << 10, other_stack: 56 << 10 }
}

/// Code and constants of the monitor core with every command that is declared, in bytes.
pub const CORE: u64 = 256 << 10;

/// The deepest chain of calls from the core's entry ([`Monitor::poll`](monovisor_core::Monitor::poll)) through parser and
/// dispatcher down to where a handler is called or text is formatted, in bytes. What a handler uses comes on top.
pub const CORE_STACK: u64 = 12 << 10;

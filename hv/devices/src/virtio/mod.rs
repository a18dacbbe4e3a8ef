//! Virtio 1.x over PCI: the transport and the queues that all devices share, and the devices.
//!
//! | module | what |
//! |---|---|
//! | `queue` | the split virtqueue and the chains of buffers in it |
//! | `context` | what a device may do while it is called |
//! | `registers` | status, features and queue set-up: the common configuration structure |
//! | `transport` | the PCI function: capabilities, BARs, MSI-X, INTx |
//! | `blk` | the disk |
//! | `net` | the network card, and the hub that joins several |
//!
//! # What a device implements
//!
//! A device is a value that implements [`Device`]; [`VirtioPci`] puts it on the bus and does all that is the same for
//! every device. Devices are modern only (virtio 1.x, PCI revision 1); the transport offers VIRTIO_F_VERSION_1, indirect
//! descriptors and event indices on its own, and refuses FEATURES_OK without VERSION_1.
//!
//! **Queues.** [`Device::notify`] is called when the driver has put something into a queue. The device takes chains by
//! [`Context::next`], works on [`Context::chain`] by offsets into its readable and writable part, gives each back by
//! [`Context::complete`], and calls [`Context::signal`] once at the end of a batch: that shows the driver all of them and
//! interrupts it if it wants that. Chains may be given back in any order and at any later call; the number that `next`
//! returned is all that has to be kept, [`Context::reload`] reads its buffers again. A device that gets data from outside
//! (a packet, a key) takes a chain when it has something to put there, from [`Device::poll`] or from a closure given to
//! `Pc::with_virtio`; before it takes one that it may not need, it asks [`Context::available`].
//!
//! **Long work.** No call may run long. A device that has more to do calls [`Context::again`] and returns: it is polled
//! again after the guest and the monitor have had a turn. One that waits for a time says so by [`Device::deadline`].
//!
//! **The outside.** A device whose driver has something for the back end that only the services can take (a line, an
//! event) calls [`Context::tell`]; they are told by `Request::Devices` and come back with `Pc::with_virtio`.
//!
//! **Other devices.** A frame goes from one network card straight to another. A device cannot reach another one while it is
//! called; it asks to be forwarded, and `net::hub` is called with all devices when the call is over.
//!
//! **Configuration.** [`Device::config`] fills the structure as the driver reads it; [`Device::set_config`] is told of
//! writes; [`Context::config_changed`] counts the generation on and interrupts.
//!
//! **Features.** [`Device::features`] are those of its type; what the driver has accepted is [`Context::has`]. They are
//! final when [`Device::start`] is called, at DRIVER_OK.
//!
//! **Reset** can come at any time: [`Device::reset`] forgets chains that have not been given back and all that was
//! negotiated. The device is never called between a reset and the next DRIVER_OK, but for `config` and `set_config`.
//!
//! **A driver that breaks the rules**, or names memory that is not there, is answered by DEVICE_NEEDS_RESET and a
//! configuration interrupt (2.1.2): [`Context::fail`]. The methods of [`Context`] do this themselves for what they find;
//! after it they give no more chains, so that a device's loop ends without looking. What a device's own specification
//! calls an error of a request is answered in that request.
//!
//! # A hostile driver
//!
//! | a driver can try | what stops it |
//! |---|---|
//! | rings, tables or buffers outside RAM, at its end, wrapping around 2^64 | every access goes through `GuestMemory`, which checks it; addresses wrap on purpose; the device needs a reset |
//! | misaligned rings, sizes that are no power of two or too large | the queue is not enabled, and the device needs a reset |
//! | chains with loops, endless chains, tables in tables | a chain has as many buffers as the queue can have entries, one level of indirection, and no more |
//! | an available index that runs ahead | more than the queue's size is an error |
//! | changing descriptors while they are worked on | each is read once and copied; data is copied once |
//! | buffers that overlap each other, the rings, or the tables | they are the guest's own memory: only what is read there gets wrong, and it is checked again |
//! | endless work: 2^32 bytes in each buffer, queues that are always full | devices work in bounded steps and are continued later; guest and monitor have turns between |
//! | moving rings, sizes or features of a queue that is in use | ignored from `queue_enable` or FEATURES_OK on, until a reset |
//! | resets, notifications and register accesses at any moment, of any width | registers are checked one by one; a reset forgets everything |
//! | MSI-X messages to anywhere | only an interrupt's address is one; there is no other memory write by an MSI |
//! | interrupt storms | an interrupt costs the driver an exit; vectors are bits, never queues |
//! | the configuration access capability, with any BAR, offset and length | it is another way to the same registers, with the same checks |

pub mod balloon;
pub mod blk;
pub mod console;
mod context;
pub mod input;
pub mod net;
mod queue;
mod registers;
pub mod rng;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transport;

pub use context::Context;
pub use queue::{Chain, MAX_QUEUE_SIZE, Mark, Part, QueueError, Segment};
pub use transport::VirtioPci;

use core::any::Any;

/// Most queues of a device: a network card with seven pairs and a control queue has 15.
pub const MAX_QUEUES: usize = 16;

/// Bytes of the largest device configuration: an input device's (5.8.4), rounded up.
pub const CONFIG_SIZE: usize = 144;

/// No MSI-X vector (4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

/// Feature bits of all devices (chapter 6).
pub mod feature {
    /// VIRTIO_F_INDIRECT_DESC.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// VIRTIO_F_EVENT_IDX.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// VIRTIO_F_VERSION_1.
    pub const VERSION_1: u64 = 1 << 32;
}

/// A type of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Device ID (chapter 5).
    pub id: u16,
    /// PCI class code, as in `0x010000`.
    pub class: u32,
}

/// A virtio device; see the module's documentation.
pub trait Device: Any + Send {
    /// What it is.
    fn kind(&self) -> Kind;

    /// Feature bits of its type that it offers: 0 to 23 and 50 up.
    fn features(&self) -> u64;

    /// How many queues it has, 1 to [`MAX_QUEUES`].
    fn queues(&self) -> u16;

    /// Most entries of a queue, a power of two up to [`MAX_QUEUE_SIZE`].
    fn queue_size(&self, queue: u16) -> u16;

    /// Bytes of its configuration structure, up to [`CONFIG_SIZE`].
    fn config_size(&self) -> u16 {
        0
    }

    /// Fills its configuration structure; the bytes are zero before.
    fn config(&self, _config: &mut [u8; CONFIG_SIZE]) {}

    /// The driver has written `bytes` at `offset` of the configuration structure.
    fn set_config(&mut self, _offset: u16, _bytes: &[u8], _cx: &mut Context<'_>) {}

    /// The driver is ready (DRIVER_OK).
    fn start(&mut self, _cx: &mut Context<'_>) {}

    /// The driver has put chains into a queue.
    fn notify(&mut self, queue: u16, cx: &mut Context<'_>);

    /// The device asked to be called, by [`Context::again`] or [`Device::deadline`]; or something happened that makes it
    /// worth to look at all queues.
    fn poll(&mut self, _cx: &mut Context<'_>) {}

    /// When the device wants to be polled, in nanoseconds of the virtual clock. Asked after each call of it.
    fn deadline(&self) -> Option<u64> {
        None
    }

    /// Back to power-up, but for what the operator has set.
    fn reset(&mut self);
}

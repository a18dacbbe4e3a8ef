//! The virtual processor on AMD SVM and Intel VMX, and what the two share.
//!
//! [`Processor`] is what the machine above is generic over; it extends the neutral [`Vcpu`] by how a virtual
//! processor is made. [`svm::Svm`] implements it. The shared parts are pure and tested on the host:
//!
//! - [`paging`]: second-level page tables, one radix builder with an entry format for each vendor;
//! - [`inject`]: how events merge, and how they are written into EVENTINJ or the VM-entry interruption information;
//! - [`control`]: which writes to CR0, CR4, EFER, PAT and XCR0 a guest may make;
//! - [`preflight`]: what this CPU lacks, in plain words;
//! - [`xstate`]: switching x87, SSE, AVX and later state.
#![cfg_attr(not(test), no_std)]

pub mod control;
pub mod inject;
pub mod msr;
pub mod paging;
pub mod preflight;
pub mod svm;
pub mod vmx;
pub mod xstate;

use monovisor_arch::Vcpu;

/// A virtual processor as the machine makes and uses it, by static dispatch.
///
/// One value is pinned to the physical processor on which [`Self::new`] ran: it must be used and reset there only.
pub trait Processor: Vcpu + Sized {
    /// All memory that one virtual processor needs besides the page tables: zeroed, aligned by its type, at an address
    /// that is its physical address.
    type Memory: 'static;
    /// Entry format of the second-level page tables.
    type Format: paging::Format;
    /// Why this processor cannot run guests, in plain words.
    type Error: core::fmt::Display + core::fmt::Debug;

    /// Largest page that second-level tables may use on this processor.
    fn largest_page() -> paging::PageSize;

    /// Switches virtualisation on for the physical processor this runs on and makes a virtual processor, in its state
    /// after power-up, on the second-level tables at `root` ([`paging::Tables::root`]). The host's GDT, TR and
    /// segment bases must be final.
    fn new(memory: &'static mut Self::Memory, root: u64) -> Result<Self, Self::Error>;

    /// Switches virtualisation off for the physical processor this runs on, before a reset or power-off. No virtual
    /// processor may be run there afterwards.
    fn disable();
}

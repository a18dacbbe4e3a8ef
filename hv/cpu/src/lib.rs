//! The virtual processor on AMD SVM and Intel VMX, and what the two share.
//!
//! [`Processor`] is what the machine above is generic over; it extends the neutral [`monovisor_arch::Vcpu`] by how a
//! virtual processor is made. [`svm::Svm`] and [`vmx::Vmx`] implement it. The shared parts are pure and tested on the host:
//!
//! - [`paging`]: second-level page tables, one radix builder with an entry format for each vendor;
//! - [`inject`]: how events merge, and how they are written into EVENTINJ or the VM-entry interruption information;
//! - [`control`]: which writes to CR0, CR4, EFER, PAT and XCR0 a guest may make;
//! - [`speculation`]: what a guest must not learn of the host through a processor that leaks;
//! - [`preflight`]: what this CPU lacks, in plain words;
//! - [`xstate`]: switching x87, SSE, AVX and later state.
#![cfg_attr(not(test), no_std)]

pub mod control;
pub mod inject;
pub mod msr;
pub mod paging;
pub mod preflight;
mod processor;
mod rules;
pub mod speculation;
pub mod svm;
pub mod vmx;
pub mod xstate;

pub use processor::{Processor, ProcessorError, Settings, VmxMemory};

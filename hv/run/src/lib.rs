//! The way from a guest's exit back to the guest.
//!
//! Its code is in `monovisor-machine`, generic over the processor; here it is compiled for each vendor's. A package of its
//! own has settings of its own: this is where a guest waits for its hypervisor, so it is built for speed, and all else in an
//! image for size.
#![no_std]
#![forbid(unsafe_code)]

use monovisor_cpu::svm::Svm;
use monovisor_cpu::vmx::Vmx;
use monovisor_machine::{Machine, SliceEnd};

/// Runs a guest. Implemented for each vendor's machine and not for all at once, so that the loop is compiled here.
pub trait Run {
    /// Runs the guest until something outside it wants the processor.
    fn slice(&mut self) -> SliceEnd;
}

impl Run for Machine<Svm> {
    fn slice(&mut self) -> SliceEnd {
        self.run_slice()
    }
}

impl Run for Machine<Vmx> {
    fn slice(&mut self) -> SliceEnd {
        self.run_slice()
    }
}

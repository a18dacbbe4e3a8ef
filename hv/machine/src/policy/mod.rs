//! What the virtual processor is: CPUID leaves and MSRs, the same for VMX and SVM.

pub mod breakpoint;
pub mod cpuid;
pub mod features;
pub mod model;
pub mod msr;
pub mod words;

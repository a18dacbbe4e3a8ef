//! The words that the parts of the hypervisor share: registers, segments, events, exits, guest memory.
//!
//! Nothing here touches hardware. The vendor modules of `monovisor-cpu` decode VMX and SVM state into these
//! types, the instruction emulator and the policy in `monovisor-hv` work on them alone, and so both are tested
//! on the host. Names are those of the Intel SDM.
#![no_std]
#![forbid(unsafe_code)]

pub mod apic_page;
pub mod event;
pub mod exit;
pub mod layout;
pub mod memory;
pub mod posted;
pub mod state;

pub use apic_page::ApicPage;
pub use event::{Event, EventKind, vector};
pub use exit::{
    EntryFailure, Exit, InstructionBytes, IoExit, MemoryAccess, MemoryExit, StringIo, TaskSource, TaskSwitch,
};
pub use memory::{GuestMemory, MemoryError};
pub use posted::{Inbox, PostedInterrupts};
pub use state::{
    Control, CpuMode, DescriptorTable, Gpr, Segment, SegmentName, Vcpu, VcpuState, VectorRegister,
    VirtualInterrupts,
};

//! Interrupts and exceptions on their way into a guest.

/// Exception vectors with a name of their own (SDM vol. 3, table 6-1).
pub mod vector {
    /// Divide error.
    pub const DE: u8 = 0;
    /// Debug exception.
    pub const DB: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// Breakpoint (INT3).
    pub const BP: u8 = 3;
    /// Overflow (INTO).
    pub const OF: u8 = 4;
    /// BOUND range exceeded.
    pub const BR: u8 = 5;
    /// Invalid opcode.
    pub const UD: u8 = 6;
    /// Device not available.
    pub const NM: u8 = 7;
    /// Double fault.
    pub const DF: u8 = 8;
    /// Invalid TSS.
    pub const TS: u8 = 10;
    /// Segment not present.
    pub const NP: u8 = 11;
    /// Stack fault.
    pub const SS: u8 = 12;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
    /// x87 floating-point error.
    pub const MF: u8 = 16;
    /// Alignment check.
    pub const AC: u8 = 17;
    /// Machine check.
    pub const MC: u8 = 18;
    /// SIMD floating-point exception.
    pub const XM: u8 = 19;
    /// Virtualization exception.
    pub const VE: u8 = 20;
    /// Control protection.
    pub const CP: u8 = 21;
}

/// How an event reaches the guest (the interruption types of SDM vol. 3, 25.8.3; APM vol. 2, 15.20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// External interrupt from the virtual interrupt controllers.
    Interrupt,
    /// Non-maskable interrupt.
    Nmi,
    /// Hardware exception.
    Exception,
    /// `INT n`: returns behind the instruction, whose length must be known.
    SoftwareInterrupt,
    /// `INT1` (ICEBP).
    PrivilegedSoftwareException,
    /// `INT3` or `INTO`.
    SoftwareException,
}

/// One event to deliver at the next VM entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// How it is delivered.
    pub kind: EventKind,
    /// Vector in the guest's IDT.
    pub vector: u8,
    /// Error code pushed on the guest's stack, for the exceptions that have one.
    pub error_code: Option<u32>,
    /// Length in bytes of the instruction that raised a software interrupt or exception; 0 for the others.
    pub instruction_length: u8,
}

impl Event {
    /// An external interrupt.
    pub const fn interrupt(vector: u8) -> Self {
        Self { kind: EventKind::Interrupt, vector, error_code: None, instruction_length: 0 }
    }

    /// A non-maskable interrupt.
    pub const fn nmi() -> Self {
        Self { kind: EventKind::Nmi, vector: vector::NMI, error_code: None, instruction_length: 0 }
    }

    /// A hardware exception without error code.
    pub const fn exception(vector: u8) -> Self {
        Self { kind: EventKind::Exception, vector, error_code: None, instruction_length: 0 }
    }

    /// A hardware exception with an error code.
    pub const fn fault(vector: u8, error_code: u32) -> Self {
        Self { kind: EventKind::Exception, vector, error_code: Some(error_code), instruction_length: 0 }
    }
}

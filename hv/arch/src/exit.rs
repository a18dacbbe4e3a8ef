//! Why a guest stopped running, in words that VMX and SVM share.

use crate::event::Event;
use crate::state::SegmentName;

/// Bytes of the instruction at the guest's RIP where the CPU hands them over (SVM decode assists).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstructionBytes {
    /// The bytes, from the first one of the instruction on.
    pub bytes: [u8; 15],
    /// How many of them are valid; 0 where the CPU gave none and they must be fetched from guest memory.
    pub len: u8,
}

/// An intercepted IN, OUT, INS or OUTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoExit {
    /// First port.
    pub port: u16,
    /// Width of one access in bytes: 1, 2 or 4.
    pub size: u8,
    /// True for IN and INS.
    pub input: bool,
    /// Set for INS and OUTS.
    pub string: Option<StringIo>,
}

/// The string form of an I/O instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringIo {
    /// A REP prefix was there: RCX counts.
    pub repeated: bool,
    /// Address size in bytes (2, 4 or 8); `None` where the CPU does not say and the instruction must be decoded.
    pub address_size: Option<u8>,
    /// Segment of the OUTS source; `None` where the CPU does not say. INS always uses ES.
    pub segment: Option<SegmentName>,
}

/// What a guest did to a guest-physical address that is not mapped for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryAccess {
    /// A data read.
    Read,
    /// A data write, or a read-modify-write.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// An EPT violation or a nested page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryExit {
    /// Guest-physical address.
    pub address: u64,
    /// What was tried.
    pub access: MemoryAccess,
    /// True when the CPU was walking the guest's own page tables, not accessing the operand.
    pub table_walk: bool,
    /// Instruction bytes, where the CPU gives them.
    pub instruction: InstructionBytes,
}

/// What has asked for a task switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSource {
    /// CALL.
    Call,
    /// IRET with NT set.
    Return,
    /// JMP.
    Jump,
    /// An event, through a task gate in the IDT.
    Gate,
}

/// A task switch that the CPU leaves to its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskSwitch {
    /// Selector of the new task's TSS.
    pub selector: u16,
    /// What asks for it.
    pub source: TaskSource,
    /// The event that goes through the gate.
    pub event: Option<Event>,
    /// Bytes of the instruction that is to be returned behind; 0 where the old task goes on with the instruction at RIP.
    pub length: u8,
}

/// A VM entry that the CPU refused. The guest cannot go on; the hypervisor can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryFailure {
    /// What failed, in the manual's words, e.g. `VM entry with invalid control field(s)`.
    pub reason: &'static str,
    /// VMX: VM-instruction error or exit qualification; SVM: the exit code.
    pub code: u64,
}

/// Why the guest stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A physical interrupt is pending; it is taken as soon as the host opens its interrupt window.
    HostInterrupt,
    /// A physical NMI arrived and has been taken.
    HostNmi,
    /// CPUID.
    Cpuid,
    /// RDMSR of the MSR in ECX.
    ReadMsr,
    /// WRMSR to the MSR in ECX.
    WriteMsr,
    /// Port I/O.
    Io(IoExit),
    /// Access to guest-physical memory that is not mapped.
    Memory(MemoryExit),
    /// HLT.
    Halt,
    /// PAUSE, when spinning is intercepted.
    Pause,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// XSETBV: index in ECX, value in EDX:EAX.
    Xsetbv,
    /// WBINVD or WBNOINVD.
    WritebackInvalidate,
    /// INVD.
    Invalidate,
    /// RDPMC.
    ReadPerformanceCounter,
    /// The guest can take an interrupt now and a window had been asked for, or its task priority fell below the
    /// threshold asked for.
    InterruptWindow,
    /// The guest can take an NMI now and a window had been asked for.
    NmiWindow,
    /// The guest has ended the interrupt with this vector, which the processor had delivered by itself and was to tell of
    /// (`VirtualInterrupts::told`).
    EndOfInterrupt(u8),
    /// A triple fault, or another state that shuts a processor down.
    Shutdown,
    /// An INIT signal (VMX; SVM keeps it pending in the host).
    Init,
    /// A start-up IPI with this vector (VMX in wait-for-SIPI state).
    StartUp(u8),
    /// The guest ran an instruction that its virtual CPU does not have (VMX and SVM instructions, MONITOR …).
    UndefinedInstruction,
    /// The processor has raised #UD for the instruction at RIP, and it has not been delivered.
    InvalidOpcode,
    /// The guest's write to a control register breaks a rule: #GP(0).
    ControlFault,
    /// A task switch through a TSS or a task gate (VMX; SVM runs it in hardware).
    TaskSwitch(TaskSwitch),
    /// A physical machine check happened in guest mode.
    MachineCheck,
    /// The CPU refused the VM entry.
    EntryFailed(EntryFailure),
    /// An exit that no control of ours should have caused: the raw reason or exit code.
    Unexpected(u64),
}

impl Exit {
    /// What happened, in a word.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::HostInterrupt => "host-interrupt",
            Self::HostNmi => "host-nmi",
            Self::Cpuid => "cpuid",
            Self::ReadMsr => "rdmsr",
            Self::WriteMsr => "wrmsr",
            Self::Io(_) => "io",
            Self::Memory(_) => "memory",
            Self::Halt => "hlt",
            Self::Pause => "pause",
            Self::Hypercall => "hypercall",
            Self::Xsetbv => "xsetbv",
            Self::WritebackInvalidate => "wbinvd",
            Self::Invalidate => "invd",
            Self::ReadPerformanceCounter => "rdpmc",
            Self::InterruptWindow => "interrupt-window",
            Self::NmiWindow => "nmi-window",
            Self::EndOfInterrupt(_) => "end-of-interrupt",
            Self::Shutdown => "shutdown",
            Self::Init => "init",
            Self::StartUp(_) => "start-up",
            Self::UndefinedInstruction => "undefined-instruction",
            Self::InvalidOpcode => "invalid-opcode",
            Self::ControlFault => "control-fault",
            Self::TaskSwitch(_) => "task-switch",
            Self::MachineCheck => "machine-check",
            Self::EntryFailed(_) => "entry-failed",
            Self::Unexpected(_) => "unexpected",
        }
    }
}

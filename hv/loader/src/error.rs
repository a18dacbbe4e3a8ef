//! Why a guest cannot be loaded.

use core::fmt;

/// One clear line by `Display`, which names the option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadError<'a> {
    /// The option that the operator has to change, without its `-`.
    pub option: &'static str,
    /// Its value, where it is a file name.
    pub name: &'a str,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a file or with a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Neither a bzImage nor an ELF file nor a multiboot kernel.
    NotAKernel,
    /// The file ends before the part that its header announces.
    Truncated,
    /// A bzImage of an older boot protocol.
    OldProtocol(u16),
    /// A bzImage without 64-bit entry point.
    NoEntry64,
    /// An ELF file that is not an x86 executable, or whose class and machine do not agree.
    WrongElf,
    /// A 32-bit ELF file without what a loader can start it by.
    PlainElf32,
    /// A multiboot header in a 64-bit ELF file without load addresses of its own.
    Multiboot64,
    /// The multiboot header asks for what there is not: these of its flags.
    MultibootFlags(u32),
    /// An ELF file without a loadable segment, or whose entry point is in none.
    NoEntry,
    /// A header field has a value that makes no sense.
    BadHeader(&'static str),
    /// The kernel is to lie where a PC has no RAM: this address.
    InRom(u64),
    /// The kernel does not fit: the address in bytes up to which RAM is needed.
    TooLittleMemory {
        /// RAM must reach up to here.
        needed: u64,
        /// RAM ends here.
        available: u64,
    },
    /// The initrd does not fit between the end of the kernel and this address.
    NoRoomForInitrd {
        /// Length of the initrd in bytes.
        length: u64,
        /// Room in bytes.
        room: u64,
    },
    /// More modules than there is room for.
    TooManyModules(usize),
    /// The command line is longer than the kernel accepts.
    LongCommandLine {
        /// Its length in bytes.
        length: usize,
        /// The kernel's limit in bytes.
        limit: usize,
    },
    /// Guest RAM has a hole at this address.
    Memory(u64),
}

impl fmt::Display for LoadError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-{}", self.option)?;
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        f.write_str(": ")?;
        match self.problem {
            Problem::NotAKernel => f.write_str("neither a Linux bzImage nor an ELF or multiboot kernel"),
            Problem::Truncated => f.write_str("the file is cut off"),
            Problem::OldProtocol(version) => {
                write!(f, "boot protocol {}.{:02} is too old, 2.12 is needed", version >> 8, version & 0xff)
            }
            Problem::NoEntry64 => f.write_str("a 32-bit kernel: it has no 64-bit entry point"),
            Problem::WrongElf => f.write_str("not an x86 ELF executable"),
            Problem::PlainElf32 => {
                f.write_str("a 32-bit ELF file with neither a multiboot header nor a PVH note")
            }
            Problem::Multiboot64 => {
                f.write_str("a multiboot kernel has to be a 32-bit ELF file, or its header to hold addresses")
            }
            Problem::MultibootFlags(flags) => {
                write!(f, "the multiboot header asks for what is not there (flags {flags:#x})")
            }
            Problem::NoEntry => f.write_str("the ELF file has no loadable segment with its entry point"),
            Problem::BadHeader(field) => write!(f, "the kernel's header field {field} makes no sense"),
            Problem::InRom(address) => write!(f, "the kernel is to lie at {address:#x}, where no RAM is"),
            Problem::TooLittleMemory { needed, available } => write!(
                f,
                "the guest has too little memory: the kernel needs {} MiB, there are {} MiB (-m)",
                needed.div_ceil(1 << 20),
                available >> 20
            ),
            Problem::NoRoomForInitrd { length, room } => write!(
                f,
                "the guest has too little memory (-m): {} KiB do not fit in the {} KiB beside the kernel",
                length.div_ceil(1024),
                room / 1024
            ),
            Problem::TooManyModules(limit) => write!(f, "there can be {limit} modules at most"),
            Problem::LongCommandLine { length, limit } => {
                write!(f, "{length} bytes, the kernel takes {limit} at most")
            }
            Problem::Memory(address) => write!(f, "no guest RAM at {address:#x}"),
        }
    }
}

//! What the guest is made from: the command line, the boot bundle, and how they become a guest's memory and registers.

use core::fmt::{self, Write};

use monovisor_arch::{GuestMemory, MemoryError};
use monovisor_host::boot::BootError;
use monovisor_host::{BootInfo, interrupts};
use monovisor_loader::bundle::plain;
use monovisor_loader::kernel::{self, MAX_MODULES};
use monovisor_loader::options::MAX_LINE;
use monovisor_loader::{Bundle, BundleError, Image, KernelGuest, Kind, LoadError, Options, Problem, acpi};
use spin::{Mutex, MutexGuard};

use crate::configure;
use crate::guest::Guest;
use crate::lines;
use crate::machine::{HAS_HPET, HAS_I8042};
use crate::ram::GuestRam;

/// Length of a UUID in text form.
const UUID_TEXT: usize = 36;

/// The command line is split in place here. One byte more than the parser takes, so that it can tell a longer one.
static LINE: Mutex<[u8; MAX_LINE + 1]> = Mutex::new([0; MAX_LINE + 1]);

/// Why the guest's memory could not be filled: one line that names the option.
#[derive(Debug)]
pub enum LaunchError {
    /// No `-kernel` on the command line.
    NoKernel,
    /// A file that is neither in the bundle nor a module.
    NoFile {
        /// The option that names it.
        option: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The kernel or initrd cannot be used.
    Load(LoadError<'static>),
    /// The ACPI tables found no room.
    Acpi(acpi::AcpiError),
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKernel => f.write_str("-kernel: no kernel is named on the command line"),
            Self::NoFile { option, name } => {
                write!(
                    f,
                    "-{option} {name}: there is no such file in the boot bundle or among the boot modules"
                )
            }
            Self::Load(error) => write!(f, "{error}"),
            Self::Acpi(error) => write!(f, "-m: {error}"),
        }
    }
}

/// Guest RAM that is filled in pieces, between which interrupts are taken: the monitor's line keeps sending while a kernel
/// is copied.
struct Interruptible(&'static GuestRam);

/// Bytes of a piece: a few microseconds.
const PIECE: usize = 64 << 10;

impl GuestMemory for Interruptible {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.0.read(address, buffer)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let mut at = address;
        for piece in data.chunks(PIECE) {
            self.0.write(at, piece)?;
            at = at.checked_add(piece.len() as u64).ok_or(MemoryError { address })?;
            interrupts::window();
        }
        Ok(())
    }

    fn fill(&self, address: u64, value: u8, length: u64) -> Result<(), MemoryError> {
        let mut done = 0;
        while done < length {
            let piece = (length - done).min(PIECE as u64);
            let at = address.checked_add(done).ok_or(MemoryError { address })?;
            self.0.fill(at, value, piece)?;
            done += piece;
            interrupts::window();
        }
        Ok(())
    }

    fn contiguous(&self, address: u64) -> u64 {
        self.0.contiguous(address)
    }
}

/// Command line and files.
pub struct Launch {
    /// What the command line asks for.
    pub options: Options<'static>,
    /// Files of the bundle.
    pub bundle: Bundle<'static>,
    /// The bundle is there but broken.
    pub bundle_error: Option<BundleError>,
    /// What is wrong with the serial lines.
    pub line_problems: lines::Problems,
    /// A device that was asked for could not be made.
    pub incomplete: bool,
    boot: &'static BootInfo,
    uuid: heapless::String<UUID_TEXT>,
}

impl Launch {
    /// Reads the command line and finds the bundle. May be called once; nothing here fails, errors are kept.
    pub fn new(boot: &'static BootInfo) -> Self {
        let line = MutexGuard::leak(LINE.lock());
        for (target, source) in line.iter_mut().zip(boot.command_line) {
            *target = *source;
        }
        let options = Options::parse(line);
        let (mut bundle, mut bundle_error) = (Bundle::EMPTY, None);
        if let Some(module) = boot.modules.iter().find(|module| Bundle::is_archive(module.data)) {
            match Bundle::new(module.data) {
                Ok(found) => bundle = found,
                Err(error) => bundle_error = Some(error),
            }
        }
        let mut uuid = heapless::String::new();
        for (index, byte) in options.uuid.unwrap_or_default().iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            // 32 digits and four dashes fit.
            let _ = write!(uuid, "{dash}{byte:02x}");
        }
        Self {
            options,
            bundle,
            bundle_error,
            line_problems: lines::Problems::new(),
            incomplete: false,
            boot,
            uuid,
        }
    }

    /// What was wrong with the loader's hand-over, where the machine could be started all the same: a module or the command
    /// line is missing.
    pub fn boot_problem(&self) -> Option<BootError> {
        self.boot.problem
    }

    /// The command line or the bundle has errors: whatever starts is not what the operator asked for.
    pub fn is_flawed(&self) -> bool {
        self.options.errors.count > 0
            || configure::check(&self.options).is_err()
            || self.bundle_error.is_some()
            || self.incomplete
            || !self.line_problems.is_empty()
    }

    /// The guest's UUID in text form; zeros where none was given, as QEMU says.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// A file that came with the boot: a member of the bundle, or a module of its own, named by the first word of its
    /// command line.
    pub fn file(&self, name: &str) -> Option<&'static [u8]> {
        if let Some(member) = self.bundle.find(name) {
            return Some(member.data);
        }
        self.files().find(|(file, _)| *file == plain(name)).map(|(_, data)| data)
    }

    /// All files that came with the boot.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &'static [u8])> + '_ {
        let modules =
            self.boot.modules.iter().filter(|module| !Bundle::is_archive(module.data)).filter_map(|module| {
                let first = module.command_line.split(|byte| *byte == b' ').next()?;
                let name = core::str::from_utf8(first).ok().filter(|name| !name.is_empty())?;
                Some((plain(name), module.data))
            });
        self.bundle.members().map(|member| (member.name, member.data)).chain(modules)
    }

    fn image(&self, option: &'static str, name: &'static str) -> Result<Image<'static>, LaunchError> {
        let data = self.file(name).ok_or(LaunchError::NoFile { option, name })?;
        Ok(Image { name, data })
    }

    /// Fills the guest's memory with tables and kernel and starts its processor at the kernel.
    pub fn load(&self, guest: &mut dyn Guest) -> Result<(), LaunchError> {
        let options = &self.options;
        let kernel = self.image("kernel", options.kernel.ok_or(LaunchError::NoKernel)?)?;
        let wrong = |problem| LoadError { option: "kernel", name: kernel.name, problem };
        let kind = Kind::of(kernel.data).map_err(|problem| LaunchError::Load(wrong(problem)))?;
        let mut modules = heapless::Vec::<_, MAX_MODULES>::new();
        for (file, name) in options.initrd.into_iter().flat_map(|initrd| kind.modules(initrd)) {
            let data = self.image("initrd", file)?.data;
            if modules.push(Image { name, data }).is_err() {
                let problem = Problem::TooManyModules(MAX_MODULES);
                return Err(LaunchError::Load(LoadError { option: "initrd", name: "", problem }));
            }
        }
        let ram = &Interruptible(guest.ram());
        let machine = acpi::Machine { cpus: options.cpus, i8042: HAS_I8042, hpet: HAS_HPET };
        acpi::build(ram, &machine).map_err(LaunchError::Acpi)?;
        let request = KernelGuest {
            kernel,
            modules: &modules,
            command_line: options.append,
            memory_size: options.memory,
            rsdp: acpi::RSDP,
        };
        guest.enter(&kernel::load(ram, &request).map_err(LaunchError::Load)?);
        Ok(())
    }
}

//! From a board's main function to the services: options, RAM, second-level tables, processor, guest.
//!
//! Whatever is wrong, the monitor comes up: the reason is on the log, `query-status` says `internal-error` and `cont` tells
//! why.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use monovisor_cpu::paging::{Access, Format, Frame, MemoryType, PageSize, PagingError, Tables};
use monovisor_cpu::preflight::{self, Vendor};
use monovisor_cpu::speculation::{self, Chip};
use monovisor_cpu::svm::{Svm, SvmMemory};
use monovisor_cpu::vmx::Vmx;
use monovisor_cpu::{Processor, ProcessorError, Settings, VmxMemory};
use monovisor_devices::{Pc, PcConfig};
use monovisor_host::secondary::{self, StartError};
use monovisor_host::uart::Uart;
use monovisor_host::{BootInfo, error, frames, info, timer, warn};
use monovisor_loader::options::CpuBase;
use monovisor_loader::{Options, e820};
use monovisor_run::Run;
use spin::{Mutex, MutexGuard, Once};

use crate::backend::Backend;
use crate::balloon::RamMapping;
use crate::clock::Clock;
use crate::configure;
use crate::guest::Guest;
use crate::hypervisor::Hypervisor;
use crate::launch::Launch;
use crate::lines::{self, Ports};
use crate::machine::{Cold, MAX_CPUS, Machine, Parts, Shared, Slot, Slots, host_cpuid};
use crate::policy::model::{Base, Complaint, Features, Instructions};
use crate::policy::{cpuid, features};
use crate::ram::GuestRam;
use crate::services;
use crate::state::Change;
use crate::store::{self, Files};
use crate::virtio;

/// Frames for second-level tables: one for each GiB of guest RAM that has to be mapped by 2 MiB pages, and a few for the
/// upper levels and odd ends. A processor with 1 GiB pages needs them for the ends alone.
const TABLE_FRAMES: usize = 72;

/// Least guest RAM: the first MiB with its holes, and a kernel behind it.
const MIN_RAM: u64 = 2 << 20;

/// Large pages of guest RAM start at multiples of these.
const LARGE: u64 = 2 << 20;
const HUGE: u64 = 1 << 30;

static TABLES: [Frame; TABLE_FRAMES] = [const { Frame::new() }; TABLE_FRAMES];
static RAM: Once<GuestRam> = Once::new();
static SVM: Mutex<SvmMemory> = Mutex::new(SvmMemory::new());
static VMX: Mutex<VmxMemory> = Mutex::new(VmxMemory::new());
static SHARED: Once<Shared> = Once::new();
static SLOTS: Slots = [const { Slot::new() }; monovisor_arch::layout::MAX_VCPUS];
static LAUNCH: Place<Launch> = Place::new();
static HYPERVISOR: Place<Hypervisor<'static>> = Place::new();

/// The place of something that is made once and stays, and is too large for the stack that everything else runs on.
struct Place<T> {
    taken: AtomicBool,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: `put` gives the value to its first caller alone.
unsafe impl<T> Sync for Place<T> {}

impl<T> Place<T> {
    const fn new() -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// Makes the value; once. Never inlined, so that what it is made from leaves the stack.
    #[inline(never)]
    #[allow(clippy::mut_from_ref, reason = "it is given once")]
    fn put(&'static self, make: impl FnOnce() -> T) -> &'static mut T {
        assert!(!self.taken.swap(true, Ordering::AcqRel), "there is one");
        // SAFETY: the flag was clear, so nobody has had a reference to the value before, and nobody will.
        unsafe { (*self.value.get()).write(make()) }
    }
}

/// Runs the hypervisor on a host that has been set up.
pub fn run(boot: &'static BootInfo) -> ! {
    let launch = LAUNCH.put(|| Launch::new(boot));
    let (ports, console, problems) = lines::open_all(&launch.options);
    launch.line_problems = problems;
    // SAFETY: this runs at CPL 0.
    match unsafe { preflight::check() } {
        Ok(Vendor::Svm) => start::<Svm>(launch, ports, console, MutexGuard::leak(SVM.lock()), false),
        Ok(Vendor::Vmx) => start::<Vmx>(launch, ports, console, MutexGuard::leak(VMX.lock()), true),
        Err(lacks) => {
            let files = store::open(launch);
            let hypervisor = HYPERVISOR.put(|| Hypervisor::new(None, launch, files));
            for lack in lacks.as_slice() {
                hypervisor.fail(format_args!("{lack}"));
            }
            services::serve(hypervisor, ports)
        }
    }
}

/// Makes a guest on a vendor's processor and serves it.
fn start<P: Processor + 'static>(
    launch: &'static mut Launch,
    ports: Ports,
    console: Option<Uart>,
    memory: &'static mut P::Memory,
    intel: bool,
) -> !
where
    Machine<P>: Run,
{
    // SAFETY: this runs at CPL 0.
    info!("against leaks of the processor:{}", speculation::decide(&unsafe { Chip::read() }));
    let made = make::<P>(launch, console, memory, intel);
    // The store has what the guest and its devices have left.
    virtio::reserve(&launch.options);
    let files = store::open(launch);
    match made {
        Ok((mut machine, tables)) => {
            let place = &raw mut machine;
            // SAFETY: this function does not return, and nothing else names the machine again.
            let machine: &'static mut Machine<P> = unsafe { &mut *place };
            let shared = machine.shared();
            // Where it finds no place, the balloon's own will not either, and that is said.
            if virtio::wants_balloon(&launch.options)
                && let Some(mapping) = virtio::place(RamMapping::new(tables, shared.ram()))
            {
                shared.set_mapping(mapping);
            }
            serve_guest(machine, shared, launch, files, ports)
        }
        Err(error) => serve_none(&error, launch, files, ports),
    }
}

/// Gives a guest its devices and its kernel, starts it and serves it: the same for both vendors.
fn serve_guest(
    guest: &'static mut dyn Guest,
    shared: &'static Shared,
    launch: &'static mut Launch,
    files: Files,
    ports: Ports,
) -> ! {
    let mut links = virtio::Links::new();
    let attached =
        shared.with(0, |devices| virtio::attach(&mut devices.pc, shared, &launch.options, files, &mut links));
    launch.incomplete = attached.is_err();
    let loaded = launch.load(guest);
    let hypervisor = HYPERVISOR.put(|| Hypervisor::new(Some(guest), launch, files));
    report_options(hypervisor);
    if let Err(error) = attached {
        hypervisor.fail(format_args!("{error}"));
    }
    if let Err((group, error)) = hypervisor.connect(links) {
        let (option, driver) = (group.kind().option(), group.driver());
        hypervisor.launch.incomplete = true;
        hypervisor.fail(format_args!("-{option} {driver}: {}", error.description()));
    }
    if let Err(error) = loaded {
        hypervisor.fail(format_args!("{error}"));
    }
    begin(hypervisor);
    services::serve(hypervisor, ports)
}

/// Serves the monitor alone, where there is no guest because of `error`.
fn serve_none(error: &dyn core::fmt::Display, launch: &'static mut Launch, files: Files, ports: Ports) -> ! {
    let hypervisor = HYPERVISOR.put(|| Hypervisor::new(None, launch, files));
    report_options(hypervisor);
    hypervisor.fail(format_args!("{error}"));
    services::serve(hypervisor, ports)
}

/// What is wrong with the command line keeps the guest from starting: it is not the one that was asked for.
fn report_options(hypervisor: &mut Hypervisor<'_>) {
    if let Some(problem) = hypervisor.launch.boot_problem() {
        hypervisor.fail(format_args!("{problem}"));
    }
    let errors = hypervisor.launch.options.errors;
    let mut more = errors.count;
    for error in errors.iter() {
        hypervisor.fail(format_args!("{error}"));
        more = more.saturating_sub(1);
    }
    if more > 0 {
        warn!("the command line has {more} more errors");
    }
    if let Err(error) = configure::check(&hypervisor.launch.options) {
        hypervisor.fail(format_args!("{error}"));
    }
    for problem in hypervisor.launch.line_problems.clone() {
        hypervisor.fail(format_args!("{problem}"));
    }
    if let Some(error) = hypervisor.launch.bundle_error {
        hypervisor.fail(format_args!("the boot bundle cannot be read: {error}"));
    }
}

/// Starts the guest unless `-S` says to wait.
fn begin(hypervisor: &mut Hypervisor<'_>) {
    if hypervisor.launch.options.paused {
        return;
    }
    // A guest that cannot run has said so already.
    if let Ok(Change::Resumed) = hypervisor.cont() {
        info!("guest started");
    }
}

/// Why there is no guest: one line that names the option to change.
#[derive(Debug)]
enum MakeError {
    TooManyCpus { asked: u8, there: usize },
    NoStart { asked: u8, index: usize, error: StartError },
    Refused { asked: u8 },
    TooLittleRam,
    NoRam { asked: u64, free: u64 },
    Tables(PagingError),
    Processor(ProcessorError),
    Cpu(Complaint<'static>),
}

impl core::fmt::Display for MakeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooManyCpus { asked, .. } if *asked > MAX_CPUS => {
                write!(f, "-smp {asked}: a guest can have {MAX_CPUS} processors at most")
            }
            Self::TooManyCpus { asked, there } => {
                write!(
                    f,
                    "-smp {asked}: this machine has only {there} processor{}",
                    if *there == 1 { "" } else { "s" }
                )
            }
            Self::NoStart { asked, index, error } => {
                write!(f, "-smp {asked}: processor {index} cannot be started: {error}")
            }
            Self::Refused { asked } => {
                write!(f, "-smp {asked}: not all processors can run a guest (see the log)")
            }
            Self::TooLittleRam => write!(f, "-m: a guest needs at least {} MiB", MIN_RAM >> 20),
            Self::NoRam { asked, free } => write!(
                f,
                "-m {}: this machine has only {} MiB of free RAM in one piece for its guest",
                asked >> 20,
                free >> 20
            ),
            Self::Tables(error) => write!(f, "-m: {error}"),
            Self::Processor(error) => write!(f, "{error}"),
            Self::Cpu(complaint) => write!(f, "{complaint}"),
        }
    }
}

/// The CPU model that `-cpu` asks for. Of what it cannot have a guest is warned, as QEMU does; what makes no sense is an
/// error.
fn model(options: &Options<'static>, (invpcid, rdtscp): (bool, bool)) -> Result<Features, MakeError> {
    let cpu = &options.cpu;
    let base = match cpu.base {
        CpuBase::Host => Base::Host,
        CpuBase::Base => Base::Base,
    };
    let hidden = Instructions { invpcid: !invpcid, rdtscp: !rdtscp };
    let mut error = None;
    let features = Features::choose(base, &cpu.features, hidden, &host_cpuid, &mut |complaint| {
        if complaint.is_error() {
            error.get_or_insert(complaint);
        } else {
            warn!("{complaint}");
        }
    });
    error.map_or(Ok(features), |complaint| Err(MakeError::Cpu(complaint)))
}

/// A guest's first processor, and the tables that its RAM is mapped by.
type Made<P> = (Machine<P>, Tables<'static>);

// Not part of its caller's frame, which stays on the stack for good: what is built here and moved to its place is large.
#[inline(never)]
fn make<P: Processor + 'static>(
    launch: &Launch,
    console: Option<Uart>,
    memory: &'static mut P::Memory,
    intel: bool,
) -> Result<Made<P>, MakeError>
where
    Machine<P>: Run,
{
    let options = &launch.options;
    let Prepared { tables, ram, clock, plan } =
        prepare(options, P::FORMAT, P::largest_page, P::invpcid_and_rdtscp, intel)?;
    // SAFETY: this is the first processor at CPL 0 with interrupts off; `host` has set up GDT, IDT (with an NMI
    // handler that returns), TSS and the identity map for good and uses none of the registers named. The tables
    // map what was carved for the guest and nothing else.
    let vcpu = unsafe { P::new(memory, &plan.settings) }.map_err(MakeError::Processor)?;
    let shared = share(options, ram, clock, console);
    let mut machine = Machine::new(vcpu, 0, shared, &plan.parts);
    start_others(options.cpus, plan, run_other::<P>)?;
    machine.cold().reset_all(false);
    Ok((machine, tables))
}

/// What a guest is made from, besides its processors.
struct Prepared {
    tables: Tables<'static>,
    ram: &'static GuestRam,
    clock: Clock,
    plan: Plan,
}

/// Takes a guest's RAM and chooses its CPU model: the same for both vendors, who differ in the format of their tables, the
/// largest page there, and whether the guest may run INVPCID and RDTSCP.
fn prepare(
    options: &Options<'static>,
    format: Format,
    largest: fn() -> PageSize,
    invpcid_and_rdtscp: fn() -> (bool, bool),
    intel: bool,
) -> Result<Prepared, MakeError> {
    let there = secondary::count();
    if options.cpus > MAX_CPUS || usize::from(options.cpus) > there {
        return Err(MakeError::TooManyCpus { asked: options.cpus, there });
    }
    let size = ram_size(options);
    if size < MIN_RAM {
        return Err(MakeError::TooLittleRam);
    }
    let no_ram = || MakeError::NoRam { asked: size, free: frames::largest(LARGE) };
    let pool = table_pool(options, size).ok_or_else(no_ram)?;
    let mut tables = Tables::new(pool, largest(), format).map_err(MakeError::Tables)?;
    let everything = Access::READ | Access::WRITE | Access::EXECUTE;
    let mut ram = GuestRam::new();
    for (base, length) in e820::ram(size) {
        if length == 0 {
            continue;
        }
        let align = if length >= HUGE && frames::largest(HUGE) >= length { HUGE } else { LARGE };
        let host = frames::carve(length, align).ok_or_else(no_ram)?;
        frames::zero(host);
        tables.map(base, host.start, length, everything, MemoryType::WriteBack).map_err(MakeError::Tables)?;
        // SAFETY: the range has just been carved for the guest, and all of RAM is mapped to itself.
        let added = unsafe { ram.add(base, length, host.start as *mut u8) };
        debug_assert!(added);
    }
    let ram = RAM.call_once(|| ram);

    let clock = Clock::new(timer::tsc_hz());
    let features = model(options, invpcid_and_rdtscp())?;
    let context = cpuid::Context {
        apic_id: 0,
        processors: options.cpus,
        osxsave: false,
        pke: false,
        xcr0: 1,
        tsc_khz: u32::try_from(clock.tsc_hz() / 1000).unwrap_or(u32::MAX),
        features,
    };
    let allowed = features::allowed(&features, &host_cpuid);
    let (posted, avic) = (!options.cpu.no_posted, !options.cpu.no_avic);
    let settings = Settings { root: tables.root(), allowed, posted, avic };
    let parts = Parts { cpuid: context, allowed, intel };
    Ok(Prepared { tables, ram, clock, plan: Plan { settings, parts } })
}

/// Bytes of RAM that a guest gets: whole pages.
const fn ram_size(options: &Options<'_>) -> u64 {
    options.memory & !0xfff
}

/// Makes what the processors of a guest with this RAM share: the same for both vendors.
fn share(
    options: &Options<'_>,
    ram: &'static GuestRam,
    clock: Clock,
    console: Option<Uart>,
) -> &'static Shared {
    let address_bits = host_cpuid(0x8000_0008, 0).eax as u8;
    let [(_, low_ram), (_, high_ram)] = e820::ram(ram_size(options));
    let config = PcConfig {
        vcpus: options.cpus,
        tsc_hz: clock.tsc_hz(),
        address_bits,
        low_ram,
        high_ram,
        debug_exit: configure::debug_exit(options),
    };
    SHARED.call_once(|| {
        let mut pc = Pc::new(&config);
        configure::add(options, &mut pc);
        Shared::new(pc, &SLOTS, ram, clock, Backend::new(console))
    })
}

/// Frames for the second-level tables of a guest with so much RAM. Where pages can be taken from the guest, there is one
/// for each 2 MiB of RAM, which has to be mapped by pages of 4 KiB then.
fn table_pool(options: &Options<'_>, ram: u64) -> Option<&'static [Frame]> {
    if !virtio::wants_balloon(options) {
        return Some(&TABLES);
    }
    // RAM may begin and end within 2 MiB twice.
    let count = TABLE_FRAMES + usize::try_from(ram / LARGE).ok()? + 4;
    let bytes = frames::carve_slice((count * size_of::<Frame>()) as u64, align_of::<Frame>() as u64)?;
    // SAFETY: the slice is exclusive, for good, aligned, and as long as said; a frame consists of atomic numbers, for which
    // all bytes are valid.
    Some(unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast(), count) })
}

/// What the processors beside the first make theirs from.
struct Plan {
    settings: Settings,
    parts: Parts,
}

static PLAN: Once<Plan> = Once::new();
/// Processors beside the first that are ready for their guest's, and those that never will be.
static READY: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// Microseconds that a processor has for making its part of the guest.
const READY_LIMIT_US: u64 = 1_000_000;

/// Starts the processors beside the first, each with its own part of the guest; they wait for orders.
#[inline(never)]
fn start_others(asked: u8, plan: Plan, main: fn(usize) -> !) -> Result<(), MakeError> {
    let others = usize::from(asked).saturating_sub(1);
    PLAN.call_once(|| plan);
    secondary::start(others + 1, main).map_err(|(index, error)| MakeError::NoStart {
        asked,
        index,
        error,
    })?;
    let start = timer::since_entry_us();
    while READY.load(Ordering::Acquire) < others {
        let late = timer::since_entry_us().saturating_sub(start) > READY_LIMIT_US;
        if late || REFUSED.load(Ordering::Acquire) > 0 {
            return Err(MakeError::Refused { asked });
        }
        core::hint::spin_loop();
    }
    if others > 0 {
        info!("{asked} processors");
    }
    Ok(())
}

/// Main function of a processor beside the first.
fn run_other<P: Processor + 'static>(index: usize) -> !
where
    Machine<P>: Run,
{
    if let (Some(plan), Some(shared)) = (PLAN.get(), SHARED.get()) {
        match make_other::<P>(&plan.settings) {
            Ok(vcpu) => {
                let machine = Machine::new(vcpu, index, shared, &plan.parts);
                READY.fetch_add(1, Ordering::Release);
                machine.follow(Run::slice)
            }
            Err(Some(error)) => error!("processor {index} cannot run a guest: {error}"),
            Err(None) => error!("processor {index} cannot run a guest: there is no memory for it"),
        }
    }
    REFUSED.fetch_add(1, Ordering::Release);
    monovisor_host::cpu::stop()
}

/// The hardware's part of a virtual processor on a processor beside the first. An error without words: no memory.
#[inline(never)]
fn make_other<P: Processor + 'static>(settings: &Settings) -> Result<P, Option<ProcessorError>> {
    // Some processors take their structures below 4 GiB only.
    let range = frames::carve_below(size_of::<P::Memory>() as u64, 4096, 1 << 32).ok_or(None)?;
    frames::zero(range);
    // SAFETY: carved for this alone, for good, page-aligned, as long as the type, mapped at its own address, and zeroed,
    // which is a value of the type (`Processor::Memory`).
    let memory = unsafe { &mut *(range.start as usize as *mut P::Memory) };
    // SAFETY: as for the first processor: `host` has set this one up in the same way.
    unsafe { P::new(memory, settings) }.map_err(Some)
}

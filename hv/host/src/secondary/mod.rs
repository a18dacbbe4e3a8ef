//! The processors beside the first: starting them (SDM vol. 3, 9.4.4), and telling whether they are like the first.
//!
//! Each gets stacks of its own with a guard page below each, and a TSS; GDT, IDT and page tables are those of the first.

mod trampoline;

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use spin::Once;
use trampoline::Trampoline;
use x86_64::registers::model_specific::Msr;

use crate::cpu::MAX_CPUS;
use crate::mtrr::MemoryTypes;
use crate::stack::{SECONDARY, Stack};
use crate::traps::TrapStacks;
use crate::{apic, cpu, features, frames, interrupts, paging, power, timer, traps};

/// Why a processor did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// There are fewer processors.
    Absent,
    /// No memory below 640 KiB to start it in.
    NoLowMemory,
    /// No memory for its stacks.
    NoMemory,
    /// The host's page tables are all in use.
    NoPageTables,
    /// It does not answer.
    Silent,
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Absent => "there is no such processor",
            Self::NoLowMemory => "there is no memory below 640 KiB to start it in",
            Self::NoMemory => "there is no memory for its stacks",
            Self::NoPageTables => "the host's page tables are all in use",
            Self::Silent => "it does not answer",
        })
    }
}

/// Microseconds from INIT to the first start-up, and from that to the second (SDM vol. 3, 9.4.4.1).
const INIT_US: u64 = 10_000;
const START_UP_US: u64 = 200;
/// Microseconds that a processor has to come up.
const UP_LIMIT_US: u64 = 1_000_000;
/// Comparisons of two TSCs.
const TSC_ROUNDS: u32 = 16;

/// The stacks of one processor.
#[repr(C, align(4096))]
struct Stacks {
    main: Stack<SECONDARY>,
    traps: TrapStacks,
}

impl Stacks {
    fn guards(&self) -> impl Iterator<Item = u64> {
        [self.main.guard()].into_iter().chain(self.traps.guards())
    }
}

/// Addresses of the `Stacks` of each processor that has been started.
static STACKS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

/// How far the processor that is being started has come.
static PROGRESS: AtomicU32 = AtomicU32::new(OFF);
const OFF: u32 = 0;
/// It runs, on its own stack.
const HERE: u32 = 1;
/// From here on it is asked for its TSC: odd numbers ask, even ones answer.
const READY: u32 = 2;
/// Its TSC at the last question.
static TSC: AtomicU64 = AtomicU64::new(0);
/// IA32_TSC_ADJUST, where there is one: what software has added to the TSC since reset.
const IA32_TSC_ADJUST: u32 = 0x3b;
/// That of the first.
static TSC_ADJUST: Once<u64> = Once::new();
/// The MTRRs of the first.
static MEMORY_TYPES: Once<MemoryTypes> = Once::new();
/// Where it goes when it is set up: a `fn(usize) -> !`.
static MAIN: AtomicUsize = AtomicUsize::new(0);

/// How many processors there are, as far as they are used.
pub fn count() -> usize {
    power::acpi().and_then(|acpi| acpi.madt.as_ref()).map_or(1, |madt| madt.cpus.len().clamp(1, MAX_CPUS))
}

/// The local APIC identifier of processor `index`, from 1 on: the first is the one that runs this.
fn identifier(index: usize) -> Option<u32> {
    let (madt, first) = (power::acpi()?.madt.as_ref()?, apic::id());
    madt.cpus.iter().copied().filter(|id| *id != first).nth(index.checked_sub(1)?)
}

/// The address is in the guard page of a stack.
pub(crate) fn is_guard(address: u64) -> bool {
    STACKS.iter().any(|stacks| {
        let stacks = stacks.load(Ordering::Relaxed) as *const Stacks;
        // SAFETY: the pointer is null or to stacks that live for good; only addresses within them are worked out.
        unsafe { stacks.as_ref() }
            .is_some_and(|stacks| stacks.guards().any(|guard| (guard..guard + 4096).contains(&address)))
    })
}

/// Starts the processors with the indices 1 to `count` - 1, one after the other; each goes to `main`, on its own stack, with
/// interrupts off. An error says which one did not start.
pub fn start(count: usize, main: fn(usize) -> !) -> Result<(), (usize, StartError)> {
    if count < 2 {
        return Ok(());
    }
    let trampoline = Trampoline::new().map_err(|error| (1, error))?;
    MEMORY_TYPES.call_once(MemoryTypes::read);
    if let Some(adjust) = traps::read_msr(IA32_TSC_ADJUST) {
        TSC_ADJUST.call_once(|| adjust);
    }
    MAIN.store(main as usize, Ordering::Relaxed);
    let result =
        (1..count).try_for_each(|index| start_one(index, &trampoline).map_err(|error| (index, error)));
    // One that has not answered may still come: it must not find other code.
    if !matches!(result, Err((_, StartError::Silent))) {
        trampoline.close();
    }
    result
}

fn start_one(index: usize, trampoline: &Trampoline) -> Result<(), StartError> {
    let id = identifier(index).filter(|_| index < MAX_CPUS).ok_or(StartError::Absent)?;
    let stacks = make_stacks()?;
    if let Some(entry) = STACKS.get(index) {
        entry.store(core::ptr::from_ref(stacks) as usize, Ordering::Relaxed);
    }
    interrupts::set_apic_id(index, id);
    PROGRESS.store(OFF, Ordering::SeqCst);
    trampoline.aim(index, stacks.main.top(), enter);
    apic::send(id, apic::INIT);
    timer::delay_us(INIT_US);
    for _ in 0..2 {
        apic::send(id, apic::START_UP | trampoline.vector());
        timer::delay_us(START_UP_US);
        if PROGRESS.load(Ordering::Acquire) != OFF {
            break;
        }
    }
    reached(READY)?;
    compare_tsc(index)
}

/// Waits until the processor that is being started has come this far.
fn reached(progress: u32) -> Result<(), StartError> {
    let start = timer::since_entry_us();
    while PROGRESS.load(Ordering::Acquire) < progress {
        if timer::since_entry_us().wrapping_sub(start) > UP_LIMIT_US {
            return Err(StartError::Silent);
        }
        core::hint::spin_loop();
    }
    Ok(())
}

fn make_stacks() -> Result<&'static Stacks, StartError> {
    let range = frames::carve(size_of::<Stacks>() as u64, 4096).ok_or(StartError::NoMemory)?;
    frames::zero(range);
    // SAFETY: carved for this alone, aligned to pages, mapped at its own address; all zeros is what unused stacks hold.
    let stacks = unsafe { &*(range.start as usize as *const Stacks) };
    for guard in stacks.guards() {
        // SAFETY: nothing lies in a guard page.
        unsafe { paging::change(guard, None) }.map_err(|_| StartError::NoPageTables)?;
    }
    Ok(stacks)
}

/// Asks the new processor for its TSC again and again. Guests take it that all TSCs are the same (their own offset is), so
/// one must never read less than another has read before.
fn compare_tsc(index: usize) -> Result<(), StartError> {
    let mut apart = 0u64;
    for round in 0..TSC_ROUNDS {
        let before = timer::now_tsc();
        PROGRESS.store(READY + 2 * round + 1, Ordering::Release);
        reached(READY + 2 * round + 2)?;
        let after = timer::now_tsc();
        let theirs = TSC.load(Ordering::Acquire);
        apart = apart.max(before.saturating_sub(theirs)).max(theirs.saturating_sub(after));
    }
    if apart > 0 {
        crate::warn!("the TSC of processor {index} is {apart} ticks apart from the first's");
    }
    Ok(())
}

/// First Rust code of a further processor.
extern "C" fn enter(index: usize) -> ! {
    PROGRESS.store(HERE, Ordering::Release);
    cpu::init(&features());
    let stacks = STACKS.get(index).map_or(0, |stacks| stacks.load(Ordering::Acquire)) as *const Stacks;
    // SAFETY: null, or what `make_stacks` has made for this processor, for good.
    if let Some(stacks) = unsafe { stacks.as_ref() } {
        // SAFETY: index and stacks are this processor's; the first has run this long ago.
        unsafe { traps::init(index, &stacks.traps) };
    }
    paging::init_secondary();
    interrupts::init_secondary();
    timer::init_secondary();
    if let Some(types) = MEMORY_TYPES.get()
        && *types != MemoryTypes::read()
    {
        // SAFETY: those of the first processor; interrupts are off.
        unsafe { types.write() };
    }
    // The TSCs have run from one reset; what firmware has added since to one and not to the other is taken back (SDM vol. 3,
    // 18.17.3).
    if let Some(first) = TSC_ADJUST.get()
        && traps::read_msr(IA32_TSC_ADJUST).is_some_and(|own| own != *first)
    {
        // SAFETY: the MSR is there, since it was read; nothing on this processor depends on its TSC yet.
        unsafe { Msr::new(IA32_TSC_ADJUST).write(*first) };
    }
    let main = MAIN.load(Ordering::Relaxed);
    PROGRESS.store(READY, Ordering::Release);
    for round in 0..TSC_ROUNDS {
        if reached(READY + 2 * round + 1).is_err() {
            // The first processor has given up.
            cpu::stop();
        }
        TSC.store(timer::now_tsc(), Ordering::Release);
        PROGRESS.store(READY + 2 * round + 2, Ordering::Release);
    }
    // SAFETY: `start` stored a function of this type.
    let main = unsafe { core::mem::transmute::<usize, fn(usize) -> !>(main) };
    main(index)
}

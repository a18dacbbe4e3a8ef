//! From the entry code to the board's main function.

use spin::Once;

use crate::acpi::{self, Acpi};
use crate::board::Board;
use crate::boot::{BootInfo, MemoryKind};
use crate::cpu::Features;
use crate::paging::Image;
use crate::physical::{EarlyMemory, PhysRange};
use crate::{cpu, frames, interrupts, log, paging, power, stack, timer, traps, uart};

static BOOT: Once<BootInfo> = Once::new();
static FEATURES: Once<Features> = Once::new();

/// Baud rate of a log UART.
const LOG_BAUD: u32 = 115_200;

/// Sets up the host and returns what the loader gave. Called by the entry code alone, through [`crate::entry!`].
///
/// # Safety
///
/// Must be called once, on the first processor, on the boot stack, with the first 4 GiB mapped to themselves, with what
/// the loader left (`magic`, `data`), the TSC at entry, and the image's sections.
pub unsafe fn start(
    board: &'static Board,
    magic: u32,
    data: u32,
    entry_tsc: u64,
    image: &Image,
) -> &'static BootInfo {
    timer::set_entry(entry_tsc);
    power::set_board(board);
    log::set_sinks(board.log_port, None);
    let features = FEATURES.call_once(Features::detect);
    cpu::init(features);
    // SAFETY: first processor, once, and these stacks are nobody else's.
    unsafe { traps::init(0, &traps::BOOT_TRAP_STACKS) };
    if let Some(config) = board.log_uart
        && uart::open_for_log(config, LOG_BAUD)
    {
        log::set_sinks(board.log_port, Some(config.base));
    }
    crate::info!("Monovisor {} on board {}", env!("CARGO_PKG_VERSION"), board.name);

    let (boot, acpi) = {
        // SAFETY: the entry code's tables map the first 4 GiB until `paging::init`, and this ends before. Boot
        // structures and modules are kept out of `frames`, so what stays referred to is not written.
        let memory = unsafe { EarlyMemory::new() };
        let boot = match BootInfo::parse(magic, data.into(), &memory) {
            Ok(boot) => BOOT.call_once(|| boot),
            Err(error) => {
                crate::error!("cannot start: {error}");
                power::fail()
            }
        };
        let rsdp = boot.rsdp.or_else(|| acpi::find_rsdp(&memory));
        (boot, rsdp.and_then(|rsdp| Acpi::read(rsdp, &memory)))
    };

    let mut guards: heapless::Vec<u64, { paging::MAX_GUARDS }> = heapless::Vec::new();
    let _ = guards.push(stack::BOOT_STACK.guard());
    let _ = guards.extend_from_slice(&traps::BOOT_TRAP_STACKS.guards());
    // SAFETY: `image` is the running image (contract); the guard pages are never accessed.
    let limit = match unsafe { paging::init(boot, image, &guards, features) } {
        Ok(limit) => limit,
        Err(error) => {
            crate::error!("cannot start: the image cannot be mapped ({error:?})");
            power::fail()
        }
    };
    frames::init(boot, image.range(), limit);
    match acpi {
        Some(acpi) => power::set_acpi(acpi),
        None => crate::warn!("no ACPI tables found"),
    }
    interrupts::init(power::acpi().and_then(|acpi| acpi.madt.as_ref()));
    timer::init(features, power::acpi().and_then(|acpi| acpi.fadt.as_ref()));
    describe(boot, limit);
    boot
}

fn describe(boot: &BootInfo, limit: u64) {
    crate::info!("started by {:?}, {} MiB of RAM", boot.loader, boot.memory.usable() >> 20);
    for region in boot.memory.iter() {
        crate::info!(
            "memory {:#013x}-{:#013x} {:?}",
            region.range.start,
            region.range.end() - 1,
            region.kind
        );
    }
    if boot.memory.dropped() > 0 {
        crate::warn!("{} memory regions found no room and are not used", boot.memory.dropped());
    }
    let out_of_reach = |r: &&crate::boot::MemoryRegion| r.kind == MemoryKind::Usable && r.range.end() > limit;
    if boot.memory.iter().any(|region| out_of_reach(&region)) {
        crate::warn!("RAM from {limit:#x} on is not used: there are not enough page tables");
    }
    if let Some(problem) = &boot.problem {
        crate::error!("{problem}");
    }
    for module in &boot.modules {
        crate::info!("module of {} bytes at {:#x}", module.data.len(), module.data.as_ptr() as usize);
    }
}

/// The features of the processor; all absent before `start`.
pub fn features() -> Features {
    FEATURES.get().copied().unwrap_or_default()
}

/// What the loader gave; `None` before `start`.
pub fn boot_info() -> Option<&'static BootInfo> {
    BOOT.get()
}

/// A section of the image from two symbols of the link script.
#[doc(hidden)]
pub fn section(start: *const u8, end: *const u8) -> PhysRange {
    PhysRange::new(start as u64, (end as u64).saturating_sub(start as u64))
}

/// Reports a panic and stops. Panics are defects; none should be reachable.
pub fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    log::break_lock();
    let (file, line) = info.location().map_or(("?", 0), |location| (location.file(), location.line()));
    crate::error!("defect at {file}:{line}: {}", info.message());
    power::fail()
}

/// Makes a binary a board image: entry points, memory functions, panic handler. `$board` is a `Board` constant, `$main`
/// a `fn(&'static BootInfo) -> !` that runs when the host is set up.
///
/// The binary's build script sets `cfg(image)` when it builds an image; otherwise it is a program that says so.
#[macro_export]
macro_rules! entry {
    ($board:expr, $main:path) => {
        static MONOVISOR_BOARD: $crate::board::Board = $board;

        fn monovisor_main(boot: &'static $crate::boot::BootInfo) -> ! {
            $main(boot)
        }

        #[cfg(not(image))]
        fn main() {
            let _ = monovisor_main as fn(_) -> !;
            eprintln!(
                "this is the image of board {}, built for no machine: build it with --target x86_64-unknown-linux-gnu",
                MONOVISOR_BOARD.name
            );
            std::process::exit(2);
        }

        #[cfg(image)]
        mod monovisor_image {
            unsafe extern "C" {
                static __rodata_start: u8;
                static __rodata_end: u8;
                static __text_start: u8;
                static __text_end: u8;
                static __data_start: u8;
                static __data_end: u8;
            }

            unsafe extern "C" fn start(magic: u32, data: u32, entry_tsc: u64) -> ! {
                let image = $crate::paging::Image {
                    constants: $crate::start::section(&raw const __rodata_start, &raw const __rodata_end),
                    code: $crate::start::section(&raw const __text_start, &raw const __text_end),
                    data: $crate::start::section(&raw const __data_start, &raw const __data_end),
                };
                // SAFETY: the entry code calls this once, on the boot stack, with its own page tables and what the
                // loader left; the sections are those of the link script.
                let boot = unsafe { $crate::start::start(&super::MONOVISOR_BOARD, magic, data, entry_tsc, &image) };
                super::monovisor_main(boot)
            }

            $crate::entry_asm!(start);
            $crate::memory_functions!();

            #[panic_handler]
            fn panic(info: &::core::panic::PanicInfo<'_>) -> ! {
                $crate::start::panic(info)
            }
        }
    };
}

//! Switching the machine off, resetting it, ending a test.

use spin::Once;

use crate::acpi::{Acpi, Fadt, SleepState};
use crate::board::{Board, PowerOff};
use crate::{cpu, log, port, timer, uart};

static BOARD: Once<&'static Board> = Once::new();
static ACPI: Once<Acpi> = Once::new();

/// PM1 control (ACPI 6.5, table 4.15): ACPI mode is on; sleep enable.
const SCI_ENABLE: u16 = 1;
const SLEEP_ENABLE: u16 = 1 << 13;
/// Polls of PM1 control for the switch to ACPI mode, which firmware does in SMM.
const ENABLE_POLLS: u32 = 300_000;
/// How long a power-off or reset that was written may take before the next way is tried, in milliseconds.
const PATIENCE_MS: u64 = 500;
/// Turns of that wait at most, should the TSC's rate not be known yet.
const PATIENCE_TURNS: u64 = 50_000_000;

pub(crate) fn set_board(board: &'static Board) {
    BOARD.call_once(|| board);
}

pub(crate) fn set_acpi(acpi: Acpi) {
    ACPI.call_once(|| acpi);
}

/// The board that runs.
pub fn board() -> Option<&'static Board> {
    BOARD.get().copied()
}

/// What ACPI tables say; `None` where there are none.
pub fn acpi() -> Option<&'static Acpi> {
    ACPI.get()
}

/// Switches the machine off by the board's ways; stops the processor where none works.
pub fn power_off() -> ! {
    for way in board().map_or(&[][..], |board| board.power_off) {
        match way {
            PowerOff::Acpi => {
                if let Some(Acpi { fadt: Some(fadt), s5: Some(s5), .. }) = acpi() {
                    soft_off(fadt, s5);
                }
            }
            PowerOff::Word { port, value } => port::out16(*port, *value),
            PowerOff::Text { port, text } => text.bytes().for_each(|byte| port::out8(*port, byte)),
        }
        be_patient();
    }
    crate::error!("the machine does not switch itself off; it is safe to do so by hand");
    cpu::stop()
}

/// ACPI 6.5, 7.4.2.5 and 16.1.7: sleep type first, then with sleep enable, PM1a before PM1b.
fn soft_off(fadt: &Fadt, s5: &SleepState) {
    if fadt.pm1a_control == 0 {
        return;
    }
    if port::in16(fadt.pm1a_control) & SCI_ENABLE == 0 && fadt.smi_command != 0 && fadt.acpi_enable != 0 {
        port::out8(fadt.smi_command, fadt.acpi_enable);
        let _ = (0..ENABLE_POLLS).find(|_| port::in16(fadt.pm1a_control) & SCI_ENABLE != 0);
    }
    for enable in [0, SLEEP_ENABLE] {
        for (port, kind) in [(fadt.pm1a_control, s5.pm1a), (fadt.pm1b_control, s5.pm1b)] {
            if port != 0 {
                let kept = port::in16(port) & !(7 << 10 | SLEEP_ENABLE);
                port::out16(port, kept | u16::from(kind) << 10 | enable);
            }
        }
    }
}

/// Resets the machine: by the ACPI reset register, the chip set's port 0xCF9, the keyboard controller, and last by a
/// triple fault.
pub fn reset() -> ! {
    if let Some(Acpi { fadt: Some(Fadt { reset: Some((register, value)), .. }), .. }) = acpi()
        && register.space == 1
        && let Ok(port) = u16::try_from(register.address)
    {
        port::out8(port, *value);
        be_patient();
    }
    // Full reset, in two steps: the processor must see the rising edge of bit 2.
    port::out8(0xcf9, 0x02);
    port::out8(0xcf9, 0x06);
    be_patient();
    port::out8(0x64, 0xfe);
    be_patient();
    let nothing = x86_64::structures::DescriptorTablePointer { limit: 0, base: x86_64::VirtAddr::zero() };
    // SAFETY: the processor is to shut down: no gate can be read, neither for the breakpoint nor for what follows.
    unsafe {
        x86_64::instructions::tables::lidt(&nothing);
        core::arch::asm!("int3", options(nostack));
    }
    cpu::stop()
}

/// Ends a test with a status: by the board's exit port where there is one, else by power-off.
pub fn exit(status: u8) -> ! {
    if let Some(port) = board().and_then(|board| board.exit_port) {
        port::out8(port, status);
    }
    power_off()
}

/// Exit status of a defect: QEMU ends with 255.
const FAILED: u8 = 0x7f;

/// Baud rate of the last words.
const FAILURE_BAUD: u32 = 115_200;

/// Bytes of the log that a failing board sends to the console: the report of an exception and what led to it.
const LAST_WORDS: u64 = 4096;

/// Stops for good because of a defect, as the board says. Where the log has no line of its own, its end goes to the
/// guest's console: there is no guest any more.
pub fn fail() -> ! {
    let Some(board) = board() else { cpu::stop() };
    if board.log_port.is_none()
        && board.log_uart.is_none()
        && let Some(console) = board.console.and_then(|console| board.com.get(console).copied())
        && uart::open_for_log(console, FAILURE_BAUD)
    {
        log::last_words(console.base, LAST_WORDS);
    }
    if board.off_on_failure { exit(FAILED) } else { cpu::stop() }
}

fn be_patient() {
    let ticks = timer::tsc_hz() / 1000 * PATIENCE_MS;
    let start = timer::now_tsc();
    for _ in 0..PATIENCE_TURNS {
        if timer::now_tsc().wrapping_sub(start) > ticks {
            return;
        }
        core::hint::spin_loop();
    }
}

//! The processor's local APIC (SDM vol. 3, chapter 11), as xAPIC or x2APIC, whichever the firmware left on.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use x86_64::registers::model_specific::Msr;

use crate::paging::{self, MapError};

const IA32_APIC_BASE: u32 = 0x1b;
const APIC_ENABLE: u64 = 1 << 11;
const X2APIC_ENABLE: u64 = 1 << 10;

/// Registers by their xAPIC offset divided by 16, which is also the x2APIC MSR less 0x800.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Register {
    Id = 0x02,
    TaskPriority = 0x08,
    Eoi = 0x0b,
    Spurious = 0x0f,
    Command = 0x30,
    CommandHigh = 0x31,
    LvtTimer = 0x32,
    LvtThermal = 0x33,
    LvtPerformance = 0x34,
    Lint0 = 0x35,
    Lint1 = 0x36,
    LvtError = 0x37,
    InitialCount = 0x38,
    CurrentCount = 0x39,
    DivideConfiguration = 0x3e,
}

/// Interrupt command: delivery modes with the level bit set (SDM vol. 3, 11.6.1).
pub(crate) const FIXED: u32 = 1 << 14;
pub(crate) const INIT: u32 = 5 << 8 | 1 << 14;
pub(crate) const START_UP: u32 = 6 << 8 | 1 << 14;
/// Interrupt command bit 12, xAPIC only: the last one has not been sent yet.
const SEND_PENDING: u32 = 1 << 12;
/// Polls of that bit before the bus is taken for dead.
const SEND_POLLS: u32 = 100_000;

/// LVT bit 16: masked.
pub(crate) const MASKED: u32 = 1 << 16;
const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_EXTINT: u32 = 7 << 8;
/// Spurious-interrupt register bit 8: the APIC is on.
const SOFTWARE_ENABLE: u32 = 1 << 8;

const NONE: u8 = 0;
const XAPIC: u8 = 1;
const X2APIC: u8 = 2;

static MODE: AtomicU8 = AtomicU8::new(NONE);
static BASE: AtomicU64 = AtomicU64::new(0);

/// Reads a register; 0 without an APIC.
pub(crate) fn read(register: Register) -> u32 {
    match MODE.load(Ordering::Relaxed) {
        // SAFETY: BASE is the register page, mapped uncached in `init`; all registers here can be read at any time.
        XAPIC => unsafe {
            ((BASE.load(Ordering::Relaxed) + register as u64 * 16) as *const u32).read_volatile()
        },
        // SAFETY: in x2APIC mode these MSRs are there; reading them has no effect on memory.
        X2APIC => unsafe { Msr::new(0x800 + register as u32).read() as u32 },
        _ => 0,
    }
}

/// Writes a register.
pub(crate) fn write(register: Register, value: u32) {
    match MODE.load(Ordering::Relaxed) {
        // SAFETY: as for `read`. What is written decides about interrupts only, which the IDT takes whatever they are.
        XAPIC => unsafe {
            ((BASE.load(Ordering::Relaxed) + register as u64 * 16) as *mut u32).write_volatile(value)
        },
        // SAFETY: as above.
        X2APIC => unsafe { Msr::new(0x800 + register as u32).write(value.into()) },
        _ => {}
    }
}

/// Turns the local APIC of the first processor on. `external` lets the 8259 through on LINT0, for machines without I/O
/// APIC.
pub(crate) fn init(spurious_vector: u8, external: bool) -> Result<(), MapError> {
    let base = enable();
    if base & X2APIC_ENABLE != 0 {
        MODE.store(X2APIC, Ordering::Relaxed);
    } else {
        let address = base & 0x000f_ffff_ffff_f000;
        paging::map_device(address, 4096)?;
        BASE.store(address, Ordering::Relaxed);
        MODE.store(XAPIC, Ordering::Relaxed);
    }
    set_up(spurious_vector, external);
    Ok(())
}

/// Turns the local APIC of a further processor on, in the first one's mode and at its address.
pub(crate) fn init_secondary(spurious_vector: u8) {
    let base = enable();
    let mut wanted = base | APIC_ENABLE;
    if is_x2apic() {
        wanted |= X2APIC_ENABLE;
    } else {
        wanted = wanted & 0xfff | BASE.load(Ordering::Relaxed);
    }
    if wanted != base {
        // SAFETY: the APIC stays on; from xAPIC to x2APIC mode is a transition that there is (SDM vol. 3, 11.12.5), and the
        // address is the one that all processors have their registers at.
        unsafe { Msr::new(IA32_APIC_BASE).write(wanted) };
    }
    set_up(spurious_vector, false);
}

/// Switches the APIC on where it is not; IA32_APIC_BASE.
fn enable() -> u64 {
    // SAFETY: every processor with long mode has this MSR (SDM vol. 3, 11.4.4); reading it has no side effect.
    let mut base = unsafe { Msr::new(IA32_APIC_BASE).read() };
    if base & APIC_ENABLE == 0 {
        base |= APIC_ENABLE;
        // SAFETY: turns the APIC on at the address that it has; its registers are set up afterwards.
        unsafe { Msr::new(IA32_APIC_BASE).write(base) };
    }
    base
}

fn set_up(spurious_vector: u8, external: bool) {
    write(Register::TaskPriority, 0);
    write(Register::LvtTimer, MASKED);
    write(Register::LvtThermal, MASKED);
    write(Register::LvtPerformance, MASKED);
    write(Register::LvtError, MASKED);
    // While the APIC is off, as INIT leaves it, no entry can be unmasked (SDM vol. 3, 11.4.7.2).
    write(Register::Spurious, SOFTWARE_ENABLE | u32::from(spurious_vector));
    write(Register::Lint0, if external { DELIVER_EXTINT } else { MASKED });
    write(Register::Lint1, DELIVER_NMI);
    // Whatever the firmware left in service: at most one a priority class.
    for _ in 0..16 {
        end_of_interrupt();
    }
}

/// There is a local APIC and it is on.
pub(crate) fn present() -> bool {
    MODE.load(Ordering::Relaxed) != NONE
}

/// Ends the interrupt in service.
pub(crate) fn end_of_interrupt() {
    write(Register::Eoi, 0);
}

/// Sends an interrupt command to the processor whose local APIC has the identifier `id`.
pub(crate) fn send(id: u32, command: u32) {
    match MODE.load(Ordering::Relaxed) {
        XAPIC => {
            let _ = (0..SEND_POLLS).find(|_| read(Register::Command) & SEND_PENDING == 0);
            write(Register::CommandHigh, id << 24);
            write(Register::Command, command);
        }
        X2APIC => {
            // A WRMSR to an x2APIC register does not wait for stores before it (SDM vol. 3, 11.12.3): what the other
            // processor is to see goes first.
            // SAFETY: fences only order.
            unsafe {
                core::arch::x86_64::_mm_mfence();
                core::arch::x86_64::_mm_lfence();
            }
            // SAFETY: in x2APIC mode this MSR is the whole interrupt command register. What is sent are the host's own
            // vectors, which each processor's IDT takes, or the start-up of a processor.
            unsafe { Msr::new(0x830).write(u64::from(id) << 32 | u64::from(command)) };
        }
        _ => {}
    }
}

/// Identifier of this processor's local APIC.
pub fn id() -> u32 {
    let id = read(Register::Id);
    if MODE.load(Ordering::Relaxed) == X2APIC { id } else { id >> 24 }
}

/// The local APIC is in x2APIC mode.
pub fn is_x2apic() -> bool {
    MODE.load(Ordering::Relaxed) == X2APIC
}

/// Vector of the parked interrupt: the highest of the lowest class that there is (SDM vol. 3, 11.8.3).
const PARKED: u32 = 0x1f;
/// The task priority, as CR8, that holds that class back and no other.
const PARKING: u64 = 1;

/// Leaves an interrupt pending on this processor that its task priority holds back for good: what [`release_parked`] is for.
pub fn park() {
    hold_parked();
    send(id(), FIXED | PARKED);
}

/// Makes the parked interrupt pending at the processor: the next entry to a guest ends at once, by a physical interrupt.
///
/// Interrupts are to stay off until [`hold_parked`] is called: the host has no handler for it.
#[inline]
pub fn release_parked() {
    // SAFETY: CR8 decides about interrupts only, and the caller keeps them off.
    unsafe { core::arch::asm!("mov cr8, {}", in(reg) 0u64, options(nostack, nomem, preserves_flags)) };
}

/// Holds the parked interrupt back again.
#[inline]
pub fn hold_parked() {
    // SAFETY: CR8 decides about interrupts only; all that the host takes are of a higher class.
    unsafe { core::arch::asm!("mov cr8, {}", in(reg) PARKING, options(nostack, nomem, preserves_flags)) };
}

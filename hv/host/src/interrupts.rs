//! Physical interrupts, as polled sources.
//!
//! The host runs with interrupts off. Where it wants them it opens a [`window`], or waits for one with [`wait`]. The
//! handlers do what cannot wait (they empty a UART's receive FIFO) and note the source; [`take`] tells the caller.
//!
//! ISA interrupts come through the I/O APIC that the MADT names, or, without one, through the 8259 pair and LINT0.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use bitflags::bitflags;
use spin::Mutex;
use x86_64::registers::model_specific::Msr;

use crate::acpi::{IoApic, Madt};
use crate::cpu::MAX_CPUS;
use crate::traps::{FIRST_INTERRUPT, cpu_index};
use crate::{apic, paging, port, uart};

/// ISA interrupt `n` has vector `ISA + n`.
const ISA: u8 = FIRST_INTERRUPT;
const TIMER: u8 = 0x30;
const IPI: u8 = 0x31;
const NOTIFICATION: u8 = 0x32;
/// The low four bits are set, as early APICs need.
const SPURIOUS: u8 = 0x3f;

pub(crate) const TIMER_VECTOR: u8 = TIMER;
/// Vector of the interrupt that one processor sends another to make it look around.
pub const IPI_VECTOR: u8 = IPI;
/// Vector of the interrupt that tells a processor of an interrupt posted for its guest.
pub const NOTIFICATION_VECTOR: u8 = NOTIFICATION;

bitflags! {
    /// What has interrupted.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Sources: u32 {
        /// The deadline set with `timer::set_deadline` has passed.
        const TIMER = 1;
        /// Another processor.
        const IPI = 1 << 1;
        /// An interrupt that nobody asked for.
        const SPURIOUS = 1 << 2;
        /// COM1 has received bytes, can send again, or a modem line changed.
        const UART0 = 1 << 3;
        /// COM2, likewise.
        const UART1 = 1 << 4;
        /// COM3, likewise.
        const UART2 = 1 << 5;
        /// COM4, likewise.
        const UART3 = 1 << 6;
        /// Any serial line.
        const UARTS = Self::UART0.bits() | Self::UART1.bits() | Self::UART2.bits() | Self::UART3.bits();
    }
}

impl Sources {
    /// What a line is here, by its place among the lines.
    pub fn uart(index: usize) -> Option<Self> {
        [Self::UART0, Self::UART1, Self::UART2, Self::UART3].get(index).copied()
    }
}

/// Local APIC identifier of each processor.
static APIC_IDS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
/// See [`notify_by_doorbell`].
static DOORBELL: AtomicBool = AtomicBool::new(false);
static PENDING: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static SPURIOUS_COUNT: AtomicU64 = AtomicU64::new(0);

/// How ISA interrupts arrive.
struct Wiring {
    ioapic: Option<IoApic>,
    /// Redirection entries of the I/O APIC.
    entries: u32,
    madt: Option<Madt>,
}

static WIRING: Mutex<Wiring> = Mutex::new(Wiring { ioapic: None, entries: 0, madt: None });

/// Sets up the interrupt controllers: everything masked, this processor's local APIC on.
pub(crate) fn init(madt: Option<&Madt>) {
    let ioapic = madt.and_then(|madt| madt.ioapics.iter().find(|ioapic| ioapic.gsi_base == 0)).copied();
    let ioapic = ioapic.filter(|ioapic| paging::map_device(ioapic.address, 0x20).is_ok());
    pic_init();
    if !crate::features().apic {
        crate::error!("the processor has no local APIC, or the firmware switched it off: there is no timer");
    } else if apic::init(SPURIOUS, ioapic.is_none()).is_err() {
        crate::error!("the local APIC's registers cannot be mapped: there is no timer");
    }
    set_apic_id(0, apic::id());
    let mut wiring = WIRING.lock();
    wiring.madt = madt.cloned();
    if let Some(ioapic) = ioapic {
        // Version register, bits 23:16: highest redirection entry (82093AA data sheet, 3.2.2).
        wiring.entries = (ioapic_read(&ioapic, 1) >> 16 & 0xff) + 1;
        wiring.ioapic = Some(ioapic);
        for entry in 0..wiring.entries {
            ioapic_write(&ioapic, 0x10 + 2 * entry, apic::MASKED);
        }
    } else {
        crate::warn!("no I/O APIC found; interrupts come through the 8259 pair");
    }
}

/// Sets up the local APIC of a further processor.
pub(crate) fn init_secondary() {
    apic::init_secondary(SPURIOUS);
}

/// Lets ISA interrupt `irq` through to the first processor.
pub(crate) fn enable_isa(irq: u8) {
    if irq >= 16 {
        return;
    }
    let wiring = WIRING.lock();
    match (&wiring.ioapic, &wiring.madt) {
        (Some(ioapic), Some(madt)) => {
            let line = madt.isa(irq);
            if line.gsi >= wiring.entries {
                crate::warn!("ISA interrupt {irq} is on line {}, which the I/O APIC does not have", line.gsi);
                return;
            }
            // Redirection entry: vector, fixed delivery, physical destination, polarity bit 13, trigger bit 15.
            let low = u32::from(ISA + irq) | u32::from(line.active_low) << 13 | u32::from(line.level) << 15;
            ioapic_write(ioapic, 0x11 + 2 * line.gsi, apic::id() << 24);
            ioapic_write(ioapic, 0x10 + 2 * line.gsi, low);
        }
        _ => {
            let (port, bit) = if irq < 8 { (0x21, irq) } else { (0xa1, irq - 8) };
            port::out8(port, port::in8(port) & !(1 << bit));
            if irq >= 8 {
                port::out8(0x21, port::in8(0x21) & !(1 << 2));
            }
        }
    }
}

/// Initialises the 8259 pair (8259A data sheet, ICW1 to ICW4) away from the exceptions, everything masked: even masked
/// it can deliver its spurious interrupts 7 and 15.
fn pic_init() {
    for (command, data, vector, cascade) in [(0x20, 0x21, ISA, 4), (0xa0, 0xa1, ISA + 8, 2)] {
        port::out8(command, 0x11);
        port::out8(data, vector);
        port::out8(data, cascade);
        port::out8(data, 1);
        port::out8(data, 0xff);
    }
}

fn ioapic_read(ioapic: &IoApic, register: u32) -> u32 {
    // SAFETY: the address is that of the I/O APIC's registers, mapped uncached in `init`: select at 0, window at 0x10.
    unsafe {
        (ioapic.address as *mut u32).write_volatile(register);
        ((ioapic.address + 0x10) as *const u32).read_volatile()
    }
}

fn ioapic_write(ioapic: &IoApic, register: u32, value: u32) {
    // SAFETY: as for `ioapic_read`; what is written decides about interrupts only, which the IDT takes in any case.
    unsafe {
        (ioapic.address as *mut u32).write_volatile(register);
        ((ioapic.address + 0x10) as *mut u32).write_volatile(value);
    }
}

/// Notes sources for this processor's next [`take`]. Lines are served by the first processor: it is called where another
/// one has found that there is something.
pub(crate) fn note(sources: Sources) {
    let cpu = cpu_index();
    let target = if sources.intersects(Sources::UARTS) { 0 } else { cpu };
    if let Some(pending) = PENDING.get(target) {
        pending.fetch_or(sources.bits(), Ordering::Relaxed);
    }
    if target != cpu {
        kick(target);
    }
}

/// The processor of this index has the local APIC `id`.
pub(crate) fn set_apic_id(index: usize, id: u32) {
    if let Some(entry) = APIC_IDS.get(index) {
        entry.store(id, Ordering::Relaxed);
    }
}

/// Interrupts another processor: it leaves its guest, or wakes from [`wait`].
pub fn kick(index: usize) {
    send(index, IPI);
}

/// Tells another processor of an interrupt posted for its guest: the same, unless the processor deals with that by itself.
pub fn notify(index: usize) {
    if DOORBELL.load(Ordering::Relaxed) {
        ring(index);
    } else {
        send(index, NOTIFICATION);
    }
}

/// Processors are notified by AVIC's doorbell from now on: all of them have it.
pub fn notify_by_doorbell() {
    DOORBELL.store(true, Ordering::Relaxed);
}

/// A processor that runs its guest looks for interrupts in the page of its APIC's registers; any other does so when it enters
/// (APM vol. 2, 15.29.2.4).
#[cold]
fn ring(index: usize) {
    const AVIC_DOORBELL: u32 = 0xc001_011b;
    if let Some(id) = APIC_IDS.get(index) {
        // SAFETY: the caller of `notify_by_doorbell` has found AVIC, and so this MSR, which takes a physical APIC ID.
        unsafe { Msr::new(AVIC_DOORBELL).write(id.load(Ordering::Relaxed).into()) };
    }
}

fn send(index: usize, vector: u8) {
    if let Some(id) = APIC_IDS.get(index) {
        apic::send(id.load(Ordering::Relaxed), apic::FIXED | u32::from(vector));
    }
}

/// An interrupt that the processor has acknowledged for a VM exit, and so does not deliver itself. Interrupts are off.
#[cold]
pub fn acknowledged(vector: u8) {
    handle(vector);
}

/// Takes an interrupt. Runs on its own stack with interrupts off.
pub(crate) fn handle(vector: u8) {
    match vector {
        TIMER => {
            note(Sources::TIMER);
            apic::end_of_interrupt();
        }
        IPI | NOTIFICATION => {
            note(Sources::IPI);
            apic::end_of_interrupt();
        }
        _ if (ISA..ISA + 16).contains(&vector) => {
            let irq = vector - ISA;
            let sources = uart::interrupt(irq);
            note(sources);
            let with_pic = WIRING.lock().ioapic.is_none();
            if with_pic {
                // Spurious ones (7 and 15) are not in service: a non-specific EOI must not end another.
                if !sources.is_empty() || pic_in_service(irq) {
                    if irq >= 8 {
                        port::out8(0xa0, 0x20);
                    }
                    port::out8(0x20, 0x20);
                }
            } else {
                apic::end_of_interrupt();
            }
        }
        SPURIOUS => {
            // No EOI (SDM vol. 3, 11.9).
            SPURIOUS_COUNT.fetch_add(1, Ordering::Relaxed);
            note(Sources::SPURIOUS);
        }
        _ => {
            // A message that a device was set up for before we came.
            SPURIOUS_COUNT.fetch_add(1, Ordering::Relaxed);
            note(Sources::SPURIOUS);
            apic::end_of_interrupt();
        }
    }
}

/// OCW3: read the in-service register.
fn pic_in_service(irq: u8) -> bool {
    let (command, bit) = if irq < 8 { (0x20, irq) } else { (0xa0, irq - 8) };
    port::out8(command, 0x0b);
    port::in8(command) & 1 << bit != 0
}

/// Takes whatever interrupts are pending.
#[inline]
pub fn window() {
    // SAFETY: handlers save general registers; they may use vector registers, which `clobber_abi` gives up. They run on
    // stacks of their own, so the red zone stays whole. STI takes effect after the NOP: the window is open once.
    unsafe { asm!("sti", "nop", "cli", clobber_abi("C")) };
}

/// Sources noted since the last call, on this processor.
#[inline]
pub fn take() -> Sources {
    PENDING.get(cpu_index()).map_or(Sources::empty(), |pending| {
        Sources::from_bits_truncate(if pending.load(Ordering::Relaxed) == 0 {
            0
        } else {
            pending.swap(0, Ordering::Relaxed)
        })
    })
}

/// Sources noted and not yet taken, on this processor.
#[inline]
pub fn noted() -> Sources {
    PENDING
        .get(cpu_index())
        .map_or(Sources::empty(), |pending| Sources::from_bits_truncate(pending.load(Ordering::Relaxed)))
}

/// Halts until an interrupt has been taken; where a source is noted already it does not halt, but takes what is pending, or
/// a source that is noted again and again would keep all others out. None is missed: STI lets the HLT begin before the
/// first interrupt is taken (SDM vol. 2, STI).
pub fn wait() {
    let pending = PENDING.get(cpu_index()).map_or(0, |pending| pending.load(Ordering::Relaxed));
    if pending == 0 {
        // SAFETY: as for `window`.
        unsafe { asm!("sti", "hlt", "cli", clobber_abi("C")) };
    } else {
        window();
    }
}

/// Interrupts that nobody asked for.
pub fn spurious_count() -> u64 {
    SPURIOUS_COUNT.load(Ordering::Relaxed)
}

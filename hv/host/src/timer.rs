//! Time: the TSC and its rate, the local APIC timer, the rig's clock.

use core::arch::x86_64::{__cpuid, _rdtsc};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use x86_64::registers::model_specific::Msr;

use crate::acpi::Fadt;
use crate::apic::{self, Register};
use crate::cpu::Features;
use crate::interrupts::TIMER_VECTOR;
use crate::{port, rtc, traps};

const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// LVT timer bits 18:17: TSC-deadline mode (SDM vol. 3, 11.5.4.1).
const TSC_DEADLINE_MODE: u32 = 2 << 17;
/// Divide configuration: by 1.
const DIVIDE_BY_1: u32 = 0b1011;

/// Rate of the ACPI PM timer (ACPI 6.5, 4.8.3.3) and of the 8254 (its data sheet on the PC's 14.318 MHz), in Hz.
const PM_TIMER_HZ: u64 = 3_579_545;
const PIT_HZ: u64 = 1_193_182;

/// Reference ticks from one checkpoint to the next: 1 ms.
const PM_TIMER_STEP: u32 = 3_580;
const PIT_STEP: u32 = 1_193;
/// Checkpoints at most: calibration takes 5 ms, or ends as soon as two give the same rate within one part in `AGREE`.
const CHECKPOINTS: u32 = 5;
const AGREE: u64 = 20_000;
/// Further measurements at most, of which one has to agree with that before it within one part in `SAME`: undisturbed ones of
/// a millisecond differ by a port read at each end, which is less.
const MEASUREMENTS: u32 = 8;
const SAME: u64 = 1_000;
/// Tries to read the reference without something (an SMI, an emulator's host) coming between.
const TRIES: u32 = 8;
/// Polls of a reference before it is taken for dead.
const POLLS: u32 = 200_000;

static TSC_HZ: AtomicU64 = AtomicU64::new(0);
static ENTRY: AtomicU64 = AtomicU64::new(0);
/// Local APIC timer ticks a TSC tick, in 1/2^32.
static LAPIC_RATIO: AtomicU64 = AtomicU64::new(0);
static LAPIC_HZ: AtomicU64 = AtomicU64::new(0);
static DEADLINE_MODE: AtomicBool = AtomicBool::new(false);
/// Microseconds since 1970 at entry, 0 for no clock.
static WALL_AT_ENTRY: AtomicU64 = AtomicU64::new(0);

/// The time stamp counter now.
#[inline]
pub fn now_tsc() -> u64 {
    // SAFETY: RDTSC is there on every processor with long mode and allowed at privilege level 0.
    unsafe { _rdtsc() }
}

/// TSC ticks a second.
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed)
}

/// Local APIC timer ticks a second; 0 in TSC-deadline mode, where it is not needed.
pub fn lapic_hz() -> u64 {
    LAPIC_HZ.load(Ordering::Relaxed)
}

/// The TSC when the image was entered.
pub fn entry_tsc() -> u64 {
    ENTRY.load(Ordering::Relaxed)
}

pub(crate) fn set_entry(tsc: u64) {
    ENTRY.store(tsc, Ordering::Relaxed);
}

/// Microseconds since entry; 0 as long as the TSC's rate is not known.
pub fn since_entry_us() -> u64 {
    let ticks = now_tsc().wrapping_sub(entry_tsc());
    // Whole MHz would be wrong by up to 0.1 %: split into seconds and rest instead.
    let hz = tsc_hz();
    let (Some(seconds), Some(rest)) = (ticks.checked_div(hz), ticks.checked_rem(hz)) else { return 0 };
    seconds
        .saturating_mul(1_000_000)
        .saturating_add(rest.saturating_mul(1_000_000).checked_div(hz).unwrap_or(0))
}

/// The rig's clock: microseconds since 1970 (UTC), or `None` where there is none.
pub fn wall_clock() -> Option<u64> {
    match WALL_AT_ENTRY.load(Ordering::Relaxed) {
        0 => None,
        at_entry => Some(at_entry.saturating_add(since_entry_us())),
    }
}

/// Asks for `Sources::TIMER` when the TSC reaches `deadline`, at once where it has; `None` asks for nothing more.
///
/// Without TSC-deadline mode a far deadline (more than 2^32 ticks of the APIC timer) comes early: look at the TSC and
/// set it again.
#[inline]
pub fn set_deadline(deadline: Option<u64>) {
    if DEADLINE_MODE.load(Ordering::Relaxed) {
        // 0 disarms; a deadline that has passed interrupts at once (SDM vol. 3, 11.5.4.1).
        let value = deadline.map_or(0, |deadline| deadline.max(1));
        // SAFETY: the MSR is there (CPUID) and only starts the timer, whose vector the IDT has.
        unsafe { Msr::new(IA32_TSC_DEADLINE).write(value) };
        return;
    }
    let count = deadline.map_or(0, |deadline| {
        let left = u128::from(deadline.saturating_sub(now_tsc()));
        // A 64 by 64 bit multiplication, one instruction.
        let ticks = (left * u128::from(LAPIC_RATIO.load(Ordering::Relaxed))) >> 32;
        // Rounded up, so that the deadline has passed when the interrupt comes; 0 would stop the timer.
        u32::try_from(ticks.saturating_add(1)).unwrap_or(u32::MAX)
    });
    apic::write(Register::InitialCount, count);
}

/// A counter of known rate to measure others by.
#[derive(Clone, Copy)]
enum Reference {
    /// The ACPI PM timer at this port.
    PmTimer { port: u16 },
    /// Channel 2 of the 8254, which port 0x61 gates and no firmware uses for time.
    Pit,
}

/// The reference, the TSC and the count-down of the local APIC timer at one moment.
#[derive(Clone, Copy)]
struct Checkpoint {
    reference: u32,
    tsc: u64,
    lapic: u32,
}

impl Reference {
    fn hz(self) -> u64 {
        match self {
            Self::PmTimer { .. } => PM_TIMER_HZ,
            Self::Pit => PIT_HZ,
        }
    }

    /// The counter, upwards, modulo 2^16 or 2^24.
    fn read(self) -> u32 {
        match self {
            Self::PmTimer { port } => port::in32(port),
            Self::Pit => {
                // Latch channel 2, then low and high byte (8254 data sheet, counter latch command).
                port::out8(0x43, 0x80);
                let low = port::in8(0x42);
                !(u32::from(low) | u32::from(port::in8(0x42)) << 8)
            }
        }
    }

    fn mask(self) -> u32 {
        if matches!(self, Self::Pit) { 0xffff } else { 0xff_ffff }
    }

    /// Waits until the counter is `ticks` past `from`, and on for its next change: read right there, the moment is
    /// known to a port read, not to a tick. `fastest` is the shortest such read so far, in TSC ticks.
    fn checkpoint(self, from: u32, ticks: u32, fastest: &mut u64) -> Option<Checkpoint> {
        let mask = self.mask();
        let mut last = (0..POLLS).map(|_| self.read()).find(|now| now.wrapping_sub(from) & mask >= ticks)?;
        let mut tries = 0;
        for _ in 0..POLLS {
            let before = now_tsc();
            let reference = self.read();
            let after = now_tsc();
            if reference == last {
                continue;
            }
            last = reference;
            let took = after.wrapping_sub(before);
            *fastest = took.min(*fastest);
            tries += 1;
            if took <= fastest.saturating_mul(2) || tries >= TRIES {
                return Some(Checkpoint { reference, tsc: after, lapic: apic::read(Register::CurrentCount) });
            }
        }
        None
    }

    /// TSC and local APIC timer rates in Hz, of one measurement.
    fn calibrate(self) -> Option<(u64, u64)> {
        let step = match self {
            Self::PmTimer { .. } => PM_TIMER_STEP,
            Self::Pit => {
                // Gate on, speaker off; mode 0 from 0xffff down.
                port::out8(0x61, port::in8(0x61) & !2 | 1);
                port::out8(0x43, 0xb0);
                port::out8(0x42, 0xff);
                port::out8(0x42, 0xff);
                PIT_STEP
            }
        };
        apic::write(Register::InitialCount, u32::MAX);
        // Known before the first checkpoint, which all others are measured from: one that something came in between of, be
        // it for longer than the whole calibration takes, is not it.
        let mut fastest = (0..TRIES)
            .map(|_| {
                let before = now_tsc();
                self.read();
                now_tsc().wrapping_sub(before)
            })
            .min()
            .unwrap_or(u64::MAX);
        let start = self.checkpoint(self.read(), 1, &mut fastest)?;
        let mut rates: Option<(u64, u64)> = None;
        for n in 1..=CHECKPOINTS {
            let now = self.checkpoint(start.reference, n * step, &mut fastest)?;
            let reference = u64::from(now.reference.wrapping_sub(start.reference) & self.mask());
            let rate = |ticks: u64| ticks.saturating_mul(self.hz()).checked_div(reference).unwrap_or(0);
            let new =
                (rate(now.tsc.wrapping_sub(start.tsc)), rate(start.lapic.wrapping_sub(now.lapic).into()));
            let agree = rates.is_some_and(|old| old.0.abs_diff(new.0) <= new.0 / AGREE);
            rates = Some(new);
            if agree {
                break;
            }
        }
        apic::write(Register::InitialCount, 0);
        rates
    }
}

/// Measures again and again until two measurements that have nothing in common agree within one part in `SAME`: all that
/// lasts is scaled by the result, and one that a system-management interrupt, or an emulator's host, has stood still in is
/// wrong as a whole. False with the last one where no two in a row do.
fn agreeing(mut measure: impl FnMut() -> Option<(u64, u64)>) -> Option<((u64, u64), bool)> {
    let mut last = measure()?;
    for _ in 0..MEASUREMENTS {
        let Some(next) = measure() else { break };
        let agree = last.0.abs_diff(next.0) <= next.0 / SAME;
        last = next;
        if agree {
            return Some((last, true));
        }
    }
    Some((last, false))
}

/// TSC rate that the processor, or a hypervisor below us, tells; and the rate of the APIC timer with it.
fn told() -> (Option<u64>, Option<u64>) {
    let max = __cpuid(0).eax;
    let basic = __cpuid(1);
    if basic.ecx >> 31 != 0 {
        // Hypervisors that give the rates do it in kHz in this leaf: TSC, and the APIC timer's bus.
        let leaf = 0x4000_0010;
        if (leaf..0x4001_0000).contains(&__cpuid(0x4000_0000).eax) {
            let rates = __cpuid(leaf);
            let khz = |value: u32| (value != 0).then_some(u64::from(value) * 1000);
            return (khz(rates.eax), khz(rates.ebx));
        }
    }
    if max >= 0x15 {
        // SDM vol. 2, CPUID leaf 15H: the TSC runs at crystal × EBX / EAX; the APIC timer at the crystal's rate.
        let leaf = __cpuid(0x15);
        if leaf.eax != 0 && leaf.ebx != 0 && leaf.ecx != 0 {
            let crystal = u64::from(leaf.ecx);
            return (Some(crystal * u64::from(leaf.ebx) / u64::from(leaf.eax)), Some(crystal));
        }
    }
    (None, None)
}

/// AMD's families 0FH to 11H stop the local APIC timer when all cores have halted and the firmware has C1E on (erratum 400;
/// BKDG of family 10H, MSRC001_0055): it is switched off there.
fn stay_out_of_c1e() {
    const INTERRUPT_PENDING: u32 = 0xc001_0055;
    /// SmiOnCmpHalt and C1eOnCmpHalt.
    const C1E: u64 = 3 << 27;
    if stops_in_c1e(__cpuid(0).ebx, __cpuid(1).eax)
        && let Some(value) = traps::read_msr(INTERRUPT_PENDING)
        && value & C1E != 0
    {
        // SAFETY: the MSR is there, since it was read; the bits only say what halting does.
        unsafe { Msr::new(INTERRUPT_PENDING).write(value & !C1E) };
    }
}

/// By EBX of CPUID leaf 0 and EAX of leaf 1.
const fn stops_in_c1e(vendor: u32, signature: u32) -> bool {
    vendor == u32::from_le_bytes(*b"Auth") && signature >> 8 & 0xf == 0xf && signature >> 20 & 0xff <= 2
}

/// Sets up the timer of a further processor, off. All have the rates of the first.
pub(crate) fn init_secondary() {
    stay_out_of_c1e();
    apic::write(Register::DivideConfiguration, DIVIDE_BY_1);
    set_mode();
}

fn set_mode() {
    if DEADLINE_MODE.load(Ordering::Relaxed) {
        apic::write(Register::LvtTimer, TSC_DEADLINE_MODE | u32::from(TIMER_VECTOR));
        // The mode must be set before the first deadline is: a memory write and an MSR write are not ordered by
        // themselves (SDM vol. 3, 11.5.4.1).
        // SAFETY: MFENCE only orders.
        unsafe { core::arch::x86_64::_mm_mfence() };
    } else {
        apic::write(Register::LvtTimer, u32::from(TIMER_VECTOR));
    }
}

/// Waits for some microseconds.
pub(crate) fn delay_us(microseconds: u64) {
    let start = now_tsc();
    let ticks = tsc_hz().saturating_mul(microseconds) / 1_000_000;
    while now_tsc().wrapping_sub(start) < ticks {
        core::hint::spin_loop();
    }
}

/// Finds the rates and sets up the timer, off.
pub(crate) fn init(features: &Features, fadt: Option<&Fadt>) {
    stay_out_of_c1e();
    apic::write(Register::DivideConfiguration, DIVIDE_BY_1);
    apic::write(Register::LvtTimer, apic::MASKED | u32::from(TIMER_VECTOR));
    let (mut tsc, mut lapic) = told();
    let deadline_mode = features.tsc_deadline && apic::present();
    let mut how = "as the processor says";
    if tsc.is_none() || (lapic.is_none() && !deadline_mode) {
        let pm_timer = fadt.and_then(|fadt| fadt.pm_timer).map(|port| Reference::PmTimer { port });
        for (reference, name) in
            [(pm_timer, "measured by the ACPI PM timer"), (Some(Reference::Pit), "measured by the 8254")]
        {
            let Some(reference) = reference else { continue };
            let Some(((measured_tsc, measured_lapic), sure)) = agreeing(|| reference.calibrate()) else {
                continue;
            };
            how = name;
            tsc = tsc.or(Some(measured_tsc));
            lapic = lapic.or(Some(measured_lapic));
            if !sure {
                crate::warn!("no two measurements of the TSC agree: time may run wrong");
            }
            break;
        }
    }
    let hz = tsc.filter(|&hz| hz != 0).unwrap_or_else(|| {
        // The base frequency in MHz, which the TSC's is within half a percent of (SDM vol. 2, CPUID leaf 16H).
        let base = if __cpuid(0).eax >= 0x16 { u64::from(__cpuid(0x16).eax & 0xffff) } else { 0 };
        let hz = if base == 0 { 1_000_000_000 } else { base * 1_000_000 };
        crate::error!("no clock to measure the TSC by: it is taken for one of {} MHz", hz / 1_000_000);
        hz
    });
    TSC_HZ.store(hz, Ordering::Relaxed);
    DEADLINE_MODE.store(deadline_mode, Ordering::Relaxed);
    if !deadline_mode {
        let lapic = lapic.unwrap_or(0);
        LAPIC_HZ.store(lapic, Ordering::Relaxed);
        LAPIC_RATIO.store(((u128::from(lapic) << 32) / u128::from(hz)) as u64, Ordering::Relaxed);
    }
    set_mode();
    if !fadt.is_some_and(|fadt| fadt.no_cmos_clock)
        && let Some(now) = rtc::read(fadt.map_or(0, |fadt| fadt.century))
    {
        WALL_AT_ENTRY.store((now * 1_000_000).saturating_sub(since_entry_us()), Ordering::Relaxed);
    }
    crate::info!(
        "TSC {}.{:06} MHz {how}{}; timer {}",
        hz / 1_000_000,
        hz % 1_000_000,
        if features.invariant_tsc { ", invariant" } else { "" },
        if deadline_mode { "in TSC-deadline mode" } else { "one-shot" },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcome for measurements of the TSC that give these rates, one after the other.
    fn of(rates: &[u64]) -> Option<(u64, bool)> {
        let mut rates = rates.iter();
        agreeing(|| rates.next().map(|&rate| (rate, 1))).map(|((rate, _), sure)| (rate, sure))
    }

    #[test]
    fn a_disturbed_measurement_is_not_taken() {
        assert_eq!(of(&[2_594_000_000, 2_594_100_000]), Some((2_594_100_000, true)));
        assert_eq!(of(&[168_000_000, 2_594_000_000, 2_594_100_000, 7]), Some((2_594_100_000, true)));
        assert_eq!(
            of(&[2_594_000_000, 168_000_000, 2_594_000_000, 2_594_000_001]),
            Some((2_594_000_001, true))
        );
    }

    #[test]
    fn c1e_is_a_matter_of_old_families() {
        let [amd, intel] = [*b"Auth", *b"Genu"].map(u32::from_le_bytes);
        // Athlon 64 X2, Phenom II; Trinity, Zen 3; Pentium 4.
        assert!(stops_in_c1e(amd, 0x0006_0fb1) && stops_in_c1e(amd, 0x0010_0f43));
        assert!(!stops_in_c1e(amd, 0x0061_0f01) && !stops_in_c1e(amd, 0x00a2_0f10));
        assert!(!stops_in_c1e(intel, 0x0000_0f29));
    }

    #[test]
    fn what_never_agrees_is_told() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[5_000]), Some((5_000, false)));
        let wild: Vec<u64> = (1..100).map(|n| n * 1_000_000).collect();
        assert_eq!(of(&wild), Some((u64::from(MEASUREMENTS + 1) * 1_000_000, false)));
    }
}

//! kvmclock: the paravirtual clock that Linux guests know from KVM (Linux, Documentation/virt/kvm/x86/msr.rst).
//!
//! The guest names a place in its RAM by an MSR; the clock's parameters are written there once, for the guest's TSC
//! follows from the virtual clock by a fixed rate and both stand still together. Only a stop that the guest should
//! know of, or a TSC that the guest moves, needs them written again.

use crate::GeneralProtection;
use crate::clock::{SECOND, ticks};
use monovisor_arch::GuestMemory;
use monovisor_arch::layout::MAX_VCPUS;

/// CPUID.40000001H:EAX bits for what is here: the clock at its old MSRs (0), at its new ones (3), stable (24).
pub const FEATURES: u32 = 1 | 1 << 3 | 1 << 24;

/// Wall clock at boot, old number.
const MSR_WALL_OLD: u32 = 0x11;
/// System time, old number.
const MSR_SYSTEM_OLD: u32 = 0x12;
/// Wall clock at boot.
const MSR_WALL: u32 = 0x4b56_4d00;
/// System time.
const MSR_SYSTEM: u32 = 0x4b56_4d01;

/// Flag: the clock is the same on all processors.
const TSC_STABLE: u8 = 1;
/// Flag: the guest was stopped; its watchdogs should not bark.
const GUEST_STOPPED: u8 = 1 << 1;

/// Bit 0 of the system time MSR: on.
const ENABLED: u64 = 1;

/// How to turn a difference of TSCs into nanoseconds: `((delta << shift) * multiplier) >> 32`, with a right shift
/// where `shift` is negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// 32-bit fraction.
    pub multiplier: u32,
    /// Power of two.
    pub shift: i8,
}

impl Scale {
    /// For a TSC of `hz`, from 1 Hz up.
    pub const fn new(hz: u64) -> Self {
        let mut hz = if hz == 0 { 1 } else { hz };
        let mut shift = 0i8;
        // Bring the rate into (1, 2] GHz: then the fraction uses all of its bits and fits into 32.
        while hz > 2 * SECOND {
            // Rounding to nearest keeps the error below the fraction's own.
            hz = (hz >> 1) + (hz & 1);
            shift -= 1;
        }
        while hz <= SECOND {
            hz <<= 1;
            shift += 1;
        }
        Self { multiplier: ((SECOND << 32) / hz) as u32, shift }
    }
}

/// The structure behind the system time MSR.
pub fn system_time(version: u32, tsc: u64, now: u64, scale: Scale, flags: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0..4].copy_from_slice(&version.to_le_bytes());
    bytes[8..16].copy_from_slice(&tsc.to_le_bytes());
    bytes[16..24].copy_from_slice(&now.to_le_bytes());
    bytes[24..28].copy_from_slice(&scale.multiplier.to_le_bytes());
    bytes[28] = scale.shift as u8;
    bytes[29] = flags;
    bytes
}

/// The structure behind the wall clock MSR: the wall time at the virtual clock's zero.
pub fn wall_clock(version: u32, unix: i64) -> [u8; 12] {
    let mut bytes = [0; 12];
    let second = SECOND as i64;
    bytes[0..4].copy_from_slice(&version.to_le_bytes());
    bytes[4..8].copy_from_slice(&(unix.div_euclid(second) as u32).to_le_bytes());
    bytes[8..12].copy_from_slice(&(unix.rem_euclid(second) as u32).to_le_bytes());
    bytes
}

/// The clocks of one machine.
#[derive(Clone, Debug)]
pub struct KvmClock {
    tsc_hz: u64,
    scale: Scale,
    /// Nanoseconds since 1970 at the virtual clock's zero.
    wall: i64,
    wall_msr: u64,
    wall_version: u32,
    system_msr: [u64; MAX_VCPUS],
    tsc_offset: [u64; MAX_VCPUS],
    version: u32,
}

impl KvmClock {
    /// Clocks that are off, for a guest TSC of `tsc_hz`.
    pub const fn new(tsc_hz: u64) -> Self {
        Self {
            tsc_hz,
            scale: Scale::new(tsc_hz),
            wall: 0,
            wall_msr: 0,
            wall_version: 0,
            system_msr: [0; MAX_VCPUS],
            tsc_offset: [0; MAX_VCPUS],
            version: 0,
        }
    }

    /// Off again, as at power-up.
    pub fn reset(&mut self) {
        *self = Self { wall: self.wall, ..Self::new(self.tsc_hz) };
    }

    /// Sets the rig's wall time: `unix` nanoseconds since 1970 at `now`.
    pub fn set_wall_clock(&mut self, unix: i64, now: u64) {
        self.wall = unix.wrapping_sub(now as i64);
    }

    /// The MSR is one of these clocks'.
    pub const fn is_msr(index: u32) -> bool {
        matches!(index, MSR_WALL_OLD | MSR_SYSTEM_OLD | MSR_WALL | MSR_SYSTEM)
    }

    /// RDMSR.
    pub fn read_msr(&self, vcpu: usize, index: u32) -> Result<u64, GeneralProtection> {
        match index {
            MSR_WALL | MSR_WALL_OLD => Ok(self.wall_msr),
            MSR_SYSTEM | MSR_SYSTEM_OLD => self.system_msr.get(vcpu).copied().ok_or(GeneralProtection),
            _ => Err(GeneralProtection),
        }
    }

    /// WRMSR: the structure is written at once. A place that is not RAM is a #GP.
    pub fn write_msr<M: GuestMemory + ?Sized>(
        &mut self,
        vcpu: usize,
        index: u32,
        value: u64,
        now: u64,
        memory: &M,
    ) -> Result<(), GeneralProtection> {
        match index {
            MSR_WALL | MSR_WALL_OLD => {
                self.wall_version = self.wall_version.wrapping_add(2);
                publish(memory, value, &wall_clock(self.wall_version, self.wall))?;
                self.wall_msr = value;
                Ok(())
            }
            MSR_SYSTEM | MSR_SYSTEM_OLD => {
                let msr = self.system_msr.get_mut(vcpu).ok_or(GeneralProtection)?;
                let before = core::mem::replace(msr, value);
                let done = self.update(vcpu, now, 0, memory);
                if let (Err(_), Some(msr)) = (done, self.system_msr.get_mut(vcpu)) {
                    *msr = before;
                }
                done
            }
            _ => Err(GeneralProtection),
        }
    }

    /// The guest has moved its TSC: it is `offset` ticks ahead of the virtual clock now.
    pub fn set_tsc_offset<M: GuestMemory + ?Sized>(
        &mut self,
        vcpu: usize,
        offset: u64,
        now: u64,
        memory: &M,
    ) {
        if let Some(entry) = self.tsc_offset.get_mut(vcpu) {
            *entry = offset;
            // The place was RAM when the guest named it; if it is no more, there is nobody to tell.
            let _ = self.update(vcpu, now, 0, memory);
        }
    }

    /// The machine goes on after a stop: tells every guest processor so.
    pub fn resume<M: GuestMemory + ?Sized>(&mut self, now: u64, memory: &M) {
        for vcpu in 0..MAX_VCPUS {
            let _ = self.update(vcpu, now, GUEST_STOPPED, memory);
        }
    }

    fn update<M: GuestMemory + ?Sized>(
        &mut self,
        vcpu: usize,
        now: u64,
        flags: u8,
        memory: &M,
    ) -> Result<(), GeneralProtection> {
        let (Some(msr), Some(offset)) = (self.system_msr.get(vcpu), self.tsc_offset.get(vcpu)) else {
            return Ok(());
        };
        if msr & ENABLED == 0 {
            return Ok(());
        }
        self.version = self.version.wrapping_add(2);
        // Processors with different TSC offsets have clocks that are right, but not the same by TSC alone.
        let stable = if self.tsc_offset.iter().all(|other| other == offset) { TSC_STABLE } else { 0 };
        let tsc = ticks(now, self.tsc_hz).wrapping_add(*offset);
        publish(memory, msr & !ENABLED, &system_time(self.version, tsc, now, self.scale, stable | flags))
    }
}

/// Writes a structure that begins with its version: odd while the rest changes.
fn publish<M: GuestMemory + ?Sized>(memory: &M, address: u64, bytes: &[u8]) -> Result<(), GeneralProtection> {
    let Some((version, rest)) = bytes.split_first_chunk::<4>() else { return Ok(()) };
    let changing = u32::from_le_bytes(*version).wrapping_sub(1).to_le_bytes();
    let rest_at = address.checked_add(4).ok_or(GeneralProtection)?;
    if address & 3 != 0 || memory.contiguous(address) < bytes.len() as u64 {
        return Err(GeneralProtection);
    }
    memory
        .write(address, &changing)
        .and_then(|()| memory.write(rest_at, rest))
        .and_then(|()| memory.write(address, version))
        .map_err(|_| GeneralProtection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use monovisor_arch::MemoryError;
    use std::cell::RefCell;

    struct Ram(RefCell<Vec<u8>>, RefCell<Vec<(u64, Vec<u8>)>>);

    impl Ram {
        fn new() -> Self {
            Self(RefCell::new(vec![0; 0x2000]), RefCell::default())
        }
        fn u32(&self, at: usize) -> u32 {
            u32::from_le_bytes(self.0.borrow()[at..at + 4].try_into().unwrap())
        }
        fn u64(&self, at: usize) -> u64 {
            u64::from_le_bytes(self.0.borrow()[at..at + 8].try_into().unwrap())
        }
    }

    impl GuestMemory for Ram {
        fn read(&self, _: u64, _: &mut [u8]) -> Result<(), MemoryError> {
            unreachable!()
        }
        fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
            self.1.borrow_mut().push((address, data.to_vec()));
            let at = address as usize;
            let mut ram = self.0.borrow_mut();
            ram.get_mut(at..at + data.len()).ok_or(MemoryError { address })?.copy_from_slice(data);
            Ok(())
        }
        fn fill(&self, _: u64, _: u8, _: u64) -> Result<(), MemoryError> {
            unreachable!()
        }
        fn contiguous(&self, address: u64) -> u64 {
            0x2000u64.saturating_sub(address)
        }
    }

    /// What the guest computes.
    fn guest(ram: &Ram, at: usize, tsc: u64) -> u64 {
        let delta = tsc - ram.u64(at + 8);
        let shift = ram.0.borrow()[at + 28] as i8;
        let delta = if shift >= 0 { delta << shift } else { delta >> -shift };
        ram.u64(at + 16) + ((u128::from(delta) * u128::from(ram.u32(at + 24))) >> 32) as u64
    }

    #[test]
    fn the_guest_gets_the_virtual_clock() {
        for hz in [
            1_000_000,
            999_999_999,
            1_000_000_000,
            2_000_000_000,
            2_000_000_001,
            2_893_437_512,
            5_000_000_000,
        ] {
            let ram = Ram::new();
            let mut clock = KvmClock::new(hz);
            clock.write_msr(0, MSR_SYSTEM, 0x1001, 5_000_000, &ram).unwrap();
            for now in [5_000_000, 6_000_000, 3_600_000_000_000] {
                let seen = guest(&ram, 0x1000, ticks(now, hz));
                let error = seen.abs_diff(now);
                assert!(error <= 1 + SECOND / hz + now / 200_000_000, "{hz} {now} {seen}");
            }
            assert_eq!(ram.0.borrow()[0x1000 + 29], TSC_STABLE);
        }
    }

    #[test]
    fn the_version_is_odd_while_the_rest_changes() {
        let ram = Ram::new();
        let mut clock = KvmClock::new(1_000_000_000);
        clock.write_msr(0, MSR_SYSTEM_OLD, 0x101, 0, &ram).unwrap();
        let writes = ram.1.borrow();
        assert_eq!(
            writes.iter().map(|(at, data)| (*at, data.len())).collect::<Vec<_>>(),
            [(0x100, 4), (0x104, 28), (0x100, 4)]
        );
        assert_eq!((writes[0].1[0], writes[2].1[0]), (1, 2));
    }

    #[test]
    fn wall_time_at_boot() {
        let ram = Ram::new();
        let mut clock = KvmClock::new(1_000_000_000);
        clock.set_wall_clock(1_700_000_000_500_000_000, 2_000_000_000);
        clock.write_msr(0, MSR_WALL, 0x200, 9_000_000_000, &ram).unwrap();
        assert_eq!((ram.u32(0x204), ram.u32(0x208)), (1_699_999_998, 500_000_000));
        assert_eq!(clock.read_msr(0, MSR_WALL_OLD), Ok(0x200));
        assert_eq!(ram.u32(0x200) & 1, 0);
    }

    #[test]
    fn bad_places_and_processors() {
        let ram = Ram::new();
        let mut clock = KvmClock::new(0);
        let gp = Err(GeneralProtection);
        assert_eq!(clock.write_msr(0, MSR_SYSTEM, 0x1fe1, 0, &ram), Ok(()));
        assert_eq!(clock.write_msr(0, MSR_SYSTEM, 0x1fe5, 0, &ram), gp, "beyond the end of RAM");
        assert_eq!(clock.write_msr(0, MSR_SYSTEM, 0x1003, 0, &ram), gp, "not aligned");
        assert_eq!(clock.write_msr(0, MSR_SYSTEM, u64::MAX, 0, &ram), gp);
        assert_eq!(clock.write_msr(0, MSR_WALL, u64::MAX - 3, 0, &ram), gp);
        assert_eq!(clock.write_msr(99, MSR_SYSTEM, 0x1001, 0, &ram), gp);
        assert_eq!(clock.write_msr(0, MSR_SYSTEM, 0, 0, &ram), Ok(()), "off");
        clock.resume(5, &ram);
    }

    #[test]
    fn stops_and_moved_tscs() {
        let ram = Ram::new();
        let mut clock = KvmClock::new(1_000_000_000);
        clock.write_msr(0, MSR_SYSTEM, 0x101, 0, &ram).unwrap();
        clock.write_msr(1, MSR_SYSTEM, 0x201, 0, &ram).unwrap();
        clock.resume(1000, &ram);
        assert_eq!(ram.0.borrow()[0x100 + 29], TSC_STABLE | GUEST_STOPPED);
        clock.set_tsc_offset(1, 500, 2000, &ram);
        assert_eq!((ram.u64(0x208), ram.0.borrow()[0x200 + 29]), (2500, 0));
        clock.reset();
        assert_eq!(clock.read_msr(0, MSR_SYSTEM), Ok(0));
    }
}

//! Random bytes of the processor's own generator: RDSEED, or RDRAND where that is all there is
//! (SDM vol. 1, 7.3.17; APM vol. 3, RDRAND and RDSEED).
#![allow(unsafe_code)]

use core::arch::x86_64::{__cpuid, __cpuid_count, _rdrand64_step, _rdseed64_step};
use core::sync::atomic::{AtomicU8, Ordering};

/// How often an instruction that has nothing is tried again. RDRAND succeeds within ten, the manual says, unless the
/// generator is broken; RDSEED may be exhausted by others, and then RDRAND is asked.
const TRIES: u32 = 10;

/// What the processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Generator {
    None = 1,
    Random,
    RandomAndSeed,
}

/// [`Generator`] of this machine, once it has been looked for; 0 before.
static FOUND: AtomicU8 = AtomicU8::new(0);

fn detect() -> Generator {
    let random = __cpuid(1).ecx & 1 << 30 != 0;
    let seed = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & 1 << 18 != 0;
    match (random, seed) {
        (true, true) => Generator::RandomAndSeed,
        (true, false) => Generator::Random,
        // No processor has RDSEED alone.
        (false, _) => Generator::None,
    }
}

fn generator() -> Generator {
    match FOUND.load(Ordering::Relaxed) {
        found if found == Generator::RandomAndSeed as u8 => Generator::RandomAndSeed,
        found if found == Generator::Random as u8 => Generator::Random,
        found if found == Generator::None as u8 => Generator::None,
        _ => {
            let found = detect();
            FOUND.store(found as u8, Ordering::Relaxed);
            found
        }
    }
}

/// The processor has a generator.
pub fn available() -> bool {
    generator() != Generator::None
}

/// Fills `bytes`. False: there is no generator, or it has nothing now; then `bytes` are in part as they were.
pub fn fill<const N: usize>(bytes: &mut [u8; N]) -> bool {
    let generator = generator();
    for place in bytes.chunks_mut(8) {
        let Some(word) = word(generator) else { return false };
        for (place, byte) in place.iter_mut().zip(word.to_le_bytes()) {
            *place = byte;
        }
    }
    true
}

fn word(generator: Generator) -> Option<u64> {
    let mut word = 0;
    if generator == Generator::RandomAndSeed {
        for _ in 0..TRIES {
            // SAFETY: CPUID says that the processor has RDSEED.
            if unsafe { _rdseed64_step(&mut word) } == 1 {
                return Some(word);
            }
            core::hint::spin_loop();
        }
    }
    if generator == Generator::None {
        return None;
    }
    for _ in 0..TRIES {
        // SAFETY: CPUID says that the processor has RDRAND.
        if unsafe { _rdrand64_step(&mut word) } == 1 {
            return Some(word);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_differ_where_there_are_any() {
        let (mut first, mut second) = ([0; 20], [0; 20]);
        assert_eq!(fill(&mut first), available());
        assert_eq!(fill(&mut second), available());
        assert_eq!(first != second, available());
    }
}

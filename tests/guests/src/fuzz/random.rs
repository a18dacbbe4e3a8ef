//! Random numbers from a seed (splitmix64), and values that are more often interesting than random.

/// A generator; the same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for one round of one seed.
    pub const fn new(seed: u64, round: u64) -> Self {
        Self(seed ^ round.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// True once in `count` times.
    pub fn once_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// One of `choices`, which is not empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Zero, ones, a single bit, a run of bits, a small number, near a power of two, a page's address, or random.
    pub fn value(&mut self) -> u64 {
        let bit = self.below(64);
        match self.below(9) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << bit,
            3 => (1u64 << bit).wrapping_sub(1),
            4 => self.below(256),
            5 => (1u64 << bit).wrapping_add(self.below(9)).wrapping_sub(4),
            6 => self.bits() & 0x000f_ffff_ffff_f000,
            7 => self.bits() & 0xffff_ffff,
            _ => self.bits(),
        }
    }
}

//! The order in which members of an object leave the monitor.
//!
//! QEMU 2.8 keeps the members of an object in a hash of 512 buckets and prints them bucket by bucket, so that order is
//! part of the wire format: clients and recorded transcripts see it. It depends on nothing but the names, which lets a
//! structure's order be computed when it is compiled.

/// Number of buckets of the hash.
pub const BUCKETS: u16 = 512;

/// Start of the sum over a name of `len` bytes; every byte then adds [`step`].
pub(super) const fn start(len: u32) -> u32 {
    0x238F_13AF_u32.wrapping_mul(len)
}

/// What a byte adds to the sum: it is shifted by five bits more than the one before, modulo 24.
pub(super) const fn step(shift: u32, byte: u8) -> u32 {
    (byte as u32) << shift
}

/// The shift for the byte after one that was shifted by `shift`.
pub(super) const fn next(shift: u32) -> u32 {
    if shift < 19 { shift + 5 } else { shift - 19 }
}

/// The bucket, 0 to 511, for a finished sum.
pub(super) const fn finish(sum: u32) -> u16 {
    (sum.wrapping_mul(1_103_515_243).wrapping_add(12345) % BUCKETS as u32) as u16
}

/// The bucket, 0 to 511, of a member's name.
#[must_use]
pub const fn bucket(key: &str) -> u16 {
    let bytes = key.as_bytes();
    let mut sum = start(bytes.len() as u32);
    let mut shift = 0;
    let mut i = 0;
    while i < bytes.len() {
        sum = sum.wrapping_add(step(shift, bytes[i]));
        shift = next(shift);
        i += 1;
    }
    finish(sum)
}

/// The order in which members that are inserted as listed in `keys` are printed: `order[0]` is the index of the first.
///
/// Ascending bucket; within one bucket the key inserted last comes first. Meant for constants; `N` is at most 255.
#[must_use]
pub const fn order<const N: usize>(keys: &[&str; N]) -> [u8; N] {
    let mut order = [0_u8; N];
    let mut i = 0;
    while i < N {
        // Insertion sort. Going past equal buckets puts a later key before an earlier one.
        let mut at = i;
        while at > 0 && bucket(keys[order[at - 1] as usize]) >= bucket(keys[i]) {
            order[at] = order[at - 1];
            at -= 1;
        }
        order[at] = i as u8;
        i += 1;
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted<'a, const N: usize>(keys: &[&'a str; N]) -> [&'a str; N] {
        order(keys).map(|i| keys[usize::from(i)])
    }

    #[test]
    fn captured_orders() {
        assert_eq!(sorted(&["id", "return"]), ["return", "id"]);
        assert_eq!(sorted(&["error", "id"]), ["id", "error"]);
        assert_eq!(sorted(&["event", "data", "timestamp"]), ["timestamp", "event", "data"]);
        assert_eq!(sorted(&["running", "singlestep", "status"]), ["status", "singlestep", "running"]);
        assert_eq!(sorted(&["major", "minor", "micro"]), ["micro", "minor", "major"]);
        assert_eq!(
            sorted(&["one", "two", "three", "four", "five", "six"]),
            ["four", "one", "three", "two", "six", "five"]
        );
    }
}

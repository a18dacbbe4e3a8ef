//! What QEMU tells its guests by fw_cfg, as far as test programs ask: without it they do not know how many processors to wait
//! for (QEMU, docs/specs/fw_cfg: selector at port 0x510, 16 bits; data at port 0x511, a byte at a time).
//!
//! | item | content |
//! |---|---|
//! | 0 | "QEMU", by which software knows the interface |
//! | 1 | 1, 32 bits: this interface, without DMA |
//! | 3 | RAM in bytes, 64 bits |
//! | 5, 15 | processors, 16 bits: those there are, and the most there could be |
//!
//! Numbers are little-endian. Behind the end of an item, and of one that is not there, come zeros; so the list of files (25) is
//! empty.

/// Selector register: the item to be read, from its beginning.
pub const SELECTOR: u16 = 0x510;
/// Data register: the item's next byte.
pub const DATA: u16 = SELECTOR + 1;

/// The registers.
#[derive(Clone, Debug)]
pub struct FwCfg {
    item: u16,
    /// Bytes of the item that have been read.
    offset: u8,
}

impl FwCfg {
    /// State after power-up.
    pub const fn new() -> Self {
        Self { item: 0, offset: 0 }
    }

    /// OUT of a byte of the selector, which is at two ports: one OUT of 16 bits comes here as two.
    pub fn select(&mut self, port: u16, value: u8) {
        let [low, high] = self.item.to_le_bytes();
        let item = if port == SELECTOR { [value, high] } else { [low, value] };
        *self = Self { item: u16::from_le_bytes(item), offset: 0 };
    }

    /// IN of a byte, on a machine with so many processors and bytes of RAM.
    pub fn read(&mut self, processors: usize, ram: u64) -> u8 {
        let content = match self.item {
            0 => u32::from_le_bytes(*b"QEMU").into(),
            1 => 1,
            3 => ram,
            5 | 15 => processors as u64,
            _ => 0,
        };
        let byte = content.checked_shr(8 * u32::from(self.offset)).unwrap_or(0) as u8;
        self.offset = self.offset.saturating_add(1);
        byte
    }
}

impl Default for FwCfg {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of an item.
    fn item<const N: usize>(number: u16) -> [u8; N] {
        let mut device = FwCfg::new();
        let [low, high] = number.to_le_bytes();
        device.select(SELECTOR, low);
        device.select(DATA, high);
        core::array::from_fn(|_| device.read(3, 0x1_2345_6000))
    }

    #[test]
    fn items_end_with_zeros() {
        assert_eq!(item(0), *b"QEMU\0\0");
        assert_eq!(item(1), [1, 0, 0, 0, 0]);
        assert_eq!(item(3), [0, 0x60, 0x45, 0x23, 1, 0, 0, 0, 0, 0]);
        assert_eq!(item(5), [3, 0, 0]);
        assert_eq!(item(15), [3, 0]);
        assert_eq!(item::<300>(3)[5..], [0; 295]);
        for nothing in [2, 25, 0x0105, 0xffff] {
            assert_eq!(item(nothing), [0; 8]);
        }
    }

    #[test]
    fn a_selection_begins_anew() {
        let mut device = FwCfg::new();
        assert_eq!([device.read(1, 0), device.read(1, 0)], *b"QE");
        device.select(SELECTOR, 0);
        assert_eq!(device.read(1, 0), b'Q');
    }
}

//! The permission maps of I/O ports and MSRs (APM vol. 2, 15.10.1 and 15.11): a set bit makes an access exit.

/// One bit a port, and three more beyond port 65535 for accesses that run over the end; 12 KiB (APM vol. 2, 15.10.1).
#[repr(C, align(4096))]
pub struct IoPermissions([u8; 3 * 4096]);

impl IoPermissions {
    /// All zero, which would let everything through: [`Self::intercept_all`] comes first.
    pub const fn new() -> Self {
        Self([0; 3 * 4096])
    }

    /// Every port exits.
    pub fn intercept_all(&mut self) {
        self.0.fill(0xff);
    }

    /// Gives the guest a port of the host.
    pub fn open(&mut self, port: u16) {
        self.0[usize::from(port / 8)] &= !(1 << (port % 8));
    }
}

/// Two bits an MSR (read, write) in three ranges of 8192; 8 KiB (APM vol. 2, 15.11).
#[repr(C, align(4096))]
pub struct MsrPermissions([u8; 2 * 4096]);

impl MsrPermissions {
    /// All zero, which would let everything through: [`Self::intercept_all`] comes first.
    pub const fn new() -> Self {
        Self([0; 2 * 4096])
    }

    /// Every MSR exits.
    pub fn intercept_all(&mut self) {
        self.0.fill(0xff);
    }

    /// Gives the guest an MSR that the CPU switches; false when it is in none of the ranges (those always exit).
    #[inline(never)]
    pub fn open(&mut self, msr: u32) -> bool {
        let Some((byte, shift)) = position(msr) else { return false };
        self.0[byte] &= !(0b11 << shift);
        true
    }

    /// Lets the guest write an MSR without an exit, or not; reading it exits as before.
    pub fn open_write(&mut self, msr: u32, open: bool) {
        if let Some((byte, shift)) = position(msr)
            && let Some(byte) = self.0.get_mut(byte)
        {
            let bit = 0b10 << shift;
            *byte = if open { *byte & !bit } else { *byte | bit };
        }
    }
}

#[cfg(test)]
impl MsrPermissions {
    pub fn exits_on_write(&self, msr: u32) -> bool {
        position(msr).is_none_or(|(byte, shift)| self.0[byte] & 0b10 << shift != 0)
    }
}

/// Byte in the map and bit of the read permission; the write permission is the next bit.
const fn position(msr: u32) -> Option<(usize, u32)> {
    let start = match msr {
        0..=0x1fff => 0,
        0xc000_0000..=0xc000_1fff => 0x800,
        0xc001_0000..=0xc001_1fff => 0x1000,
        _ => return None,
    };
    let offset = msr & 0x1fff;
    Some((start + (offset / 4) as usize, offset % 4 * 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_port_is_one_bit() {
        let mut map = Box::new(IoPermissions::new());
        map.intercept_all();
        map.open(0);
        map.open(0xffff);
        map.open(0x3f9);
        assert_eq!((map.0[0], map.0[8191], map.0[8192], map.0[0x7f]), (0xfe, 0x7f, 0xff, 0xfd));
        assert_eq!(map.0.iter().map(|byte| byte.count_zeros()).sum::<u32>(), 3);
    }

    #[test]
    fn a_write_is_opened_and_closed_alone() {
        let mut map = Box::new(MsrPermissions::new());
        map.intercept_all();
        map.open_write(0x80b, true);
        assert_eq!(map.0[0x80b / 4], !(2 << 6));
        map.open_write(0x80b, false);
        map.open_write(0x4000_0000, true);
        assert!(map.0.iter().all(|byte| *byte == 0xff));
    }

    #[test]
    fn an_open_msr_is_two_bits() {
        let mut map = Box::new(MsrPermissions::new());
        map.intercept_all();
        assert!(map.open(0x174) && map.open(0xc000_0101) && map.open(0xc001_0117));
        assert!(!map.open(0x2000) && !map.open(0xc000_2000) && !map.open(0x4000_0000) && !map.open(u32::MAX));
        assert_eq!(map.0[0x174 / 4], 0xfc);
        assert_eq!(map.0[0x800 + 0x40], !(3 << 2));
        assert_eq!(map.0[0x1000 + 0x45], !(3 << 6));
        assert_eq!(map.0.iter().map(|byte| byte.count_zeros()).sum::<u32>(), 6);
    }
}

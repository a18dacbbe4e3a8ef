//! Baud rates that a UART's clock gives.

use super::UartConfig;

/// Two UARTs understand each other while they differ by less than half a bit at the end of a character of ten bits: 5 %
/// for both together, of which each may take this part.
const TOLERANCE_PERCENT: u64 = 3;

/// The rates next to one that a line cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// The next slower one; `None` where the divisor would not fit its 16 bits.
    pub slower: Option<u32>,
    /// The next faster one; `None` where there is none: the line is as fast as its clock.
    pub faster: Option<u32>,
}

impl UartConfig {
    /// The divisor nearest to a baud rate, and the rate that it gives, where that is within 3 %.
    pub fn divisor(&self, baud: u32) -> Option<(u16, u32)> {
        let nearest = self.base_baud.checked_add(baud / 2)?.checked_div(baud)?;
        let divisor = u16::try_from(nearest).ok().filter(|&divisor| divisor > 0)?;
        let real = self.base_baud / u32::from(divisor);
        let off = u64::from(real.abs_diff(baud)) * 100 > u64::from(baud) * TOLERANCE_PERCENT;
        (!off).then_some((divisor, real))
    }

    /// The rates on both sides of one that the line cannot do.
    pub fn nearest(&self, baud: u32) -> Nearest {
        let divisor = self.base_baud.checked_div(baud).unwrap_or(u32::MAX);
        let rate = |divisor: u32| {
            (1..=u32::from(u16::MAX))
                .contains(&divisor)
                .then(|| self.base_baud.checked_div(divisor))
                .flatten()
        };
        Nearest { slower: rate(divisor.saturating_add(1)), faster: rate(divisor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PC: UartConfig = UartConfig::COM1;
    const FAST: UartConfig = UartConfig { base_baud: 921_600, ..PC };

    #[test]
    fn baud_rates() {
        assert_eq!(PC.divisor(115_200), Some((1, 115_200)));
        assert_eq!(PC.divisor(9_600), Some((12, 9_600)));
        assert_eq!(PC.divisor(38_400), Some((3, 38_400)));
        assert_eq!(FAST.divisor(921_600), Some((1, 921_600)));
        assert_eq!(FAST.divisor(115_200), Some((8, 115_200)));
        for baud in [0, 1, 100_000, 230_400, 921_600, u32::MAX] {
            assert_eq!(PC.divisor(baud), None, "{baud}");
        }
    }

    #[test]
    fn rates_next_to_one_that_cannot_be() {
        assert_eq!(PC.nearest(921_600), Nearest { slower: Some(115_200), faster: None });
        assert_eq!(PC.nearest(100_000), Nearest { slower: Some(57_600), faster: Some(115_200) });
        assert_eq!(PC.nearest(1), Nearest { slower: None, faster: None });
        assert_eq!(PC.nearest(0), Nearest { slower: None, faster: None });
        assert_eq!(FAST.nearest(600_000), Nearest { slower: Some(460_800), faster: Some(921_600) });
    }
}

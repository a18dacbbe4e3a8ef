//! Extended state that a guest may enable (SDM vol. 1, 13.3; XSETBV's faults in vol. 2).

/// x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM, PKRU.
const ALLOWED: u64 = 1 | 1 << 1 | 1 << 2 | AVX512 | 1 << 9;
const X87: u64 = 1;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
const AVX512: u64 = 0b111 << 5;

/// The components that a guest sees, of those that the host's CPUID leaf 0xD offers.
pub const fn offered(host: u64) -> u64 {
    host & ALLOWED
}

/// True when XSETBV with `value` does not fault, `offered` being what the guest's CPUID leaf 0xD says.
pub const fn valid(value: u64, offered: u64) -> bool {
    value & X87 != 0
        && value & !offered == 0
        && (value & AVX == 0 || value & SSE != 0)
        && (value & AVX512 == 0 || (value & AVX512 == AVX512 && value & AVX != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_of_sdm_13_3() {
        let all = offered(u64::MAX);
        for (value, ok) in [
            (0, false),
            (1, true),
            (3, true),
            (5, false),
            (7, true),
            (0x27, false),
            (0xe7, true),
            (0xe3, false),
        ] {
            assert_eq!(valid(value, all), ok, "{value:#x}");
        }
        assert!(valid(0x207, all));
        assert!(!valid(7, 3));
        assert!(!valid(1 << 62 | 7, all));
        assert!(!valid(0x1f, all), "MPX is not offered");
    }
}

//! Breakpoints of the debug registers, for what the hypervisor does in a guest's place (SDM vol. 3, 18.2).

/// The bits of DR7 that enable breakpoints: L0, G0 to L3, G3.
pub const ENABLED: u64 = 0xff;

/// DR7, R/W field: I/O reads and writes (with CR4.DE set).
const ON_IO: u64 = 0b10;

/// Which breakpoints (bits 3:0 of DR6) an access to `size` ports from `port` on meets. `registers` are DR0 to DR3, DR6
/// and DR7; CR4.DE is set.
pub fn on_port(registers: &[u64; 6], port: u16, size: u8) -> u64 {
    let [addresses @ .., _, control] = registers;
    let mut met = 0;
    for (number, address) in addresses.iter().enumerate() {
        let enabled = control >> (2 * number) & 0b11 != 0;
        let kind = control >> (16 + 4 * number) & 0b11;
        // Lengths 1, 2, 8, 4; the low bits of the address do not count (18.2.5).
        let length = match control >> (18 + 4 * number) & 0b11 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        };
        let first = address & !(length - 1);
        let (from, to) = (u64::from(port), u64::from(port) + u64::from(size));
        if enabled && kind == ON_IO && from < first.saturating_add(length) && first < to {
            met |= 1 << number;
        }
    }
    met
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_compared_as_ranges() {
        // DR0: port 0x80, one byte. DR1: 0x84 to 0x87, by an address inside. DR2: not enabled. DR3: data, not I/O.
        let control = 1 | 1 << 3 | 1 << 6 | ON_IO << 16 | (ON_IO | 0b1100) << 20 | ON_IO << 24 | 0b11 << 28;
        let registers = [0x80, 0x86, 0x80, 0x80, 0, control];
        assert_eq!(on_port(&registers, 0x80, 1), 1);
        assert_eq!(on_port(&registers, 0x7f, 2), 1);
        assert_eq!(on_port(&registers, 0x81, 2), 0);
        assert_eq!(on_port(&registers, 0x81, 4), 2);
        assert_eq!(on_port(&registers, 0x87, 1), 2);
        assert_eq!(on_port(&registers, 0x88, 1), 0);
        assert_eq!(on_port(&[u64::MAX, 0, 0, 0, 0, 1 | ON_IO << 16 | 0b1000 << 16], 0xffff, 4), 0);
    }
}

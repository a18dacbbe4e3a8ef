//! Ports that need no device of their own: DMA page registers, POST code, and the ways to reset the machine.

/// First DMA page register; the POST code port 0x80 is one of them.
pub const DMA_PAGE: u16 = 0x80;
/// System control port A: fast reset and A20.
pub const CONTROL_A: u16 = 0x92;

const CONTROL_A_RESET: u8 = 1;
const CONTROL_A_A20: u8 = 1 << 1;

/// Reset control register: a hard reset, when one is made.
const RESET_HARD: u8 = 1 << 1;
/// Reset control register: a hard reset cycles the power.
const RESET_FULL: u8 = 1 << 3;
/// Reset control register: the change to 1 resets.
const RESET_CPU: u8 = 1 << 2;

/// The registers behind these ports.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Nothing moves by ISA DMA here; software finds the registers that it writes and reads back.
    pages: [u8; 16],
    control_a: u8,
    reset_control: u8,
}

impl Ports {
    /// State after power-up. A20 is open, and cannot be closed.
    pub const fn new() -> Self {
        Self { pages: [0; 16], control_a: CONTROL_A_A20, reset_control: 0 }
    }

    /// Reads a DMA page register (0x80 to 0x8f).
    pub fn read_page(&self, port: u16) -> u8 {
        self.pages[usize::from(port & 15)]
    }

    /// Writes a DMA page register.
    pub fn write_page(&mut self, port: u16, value: u8) {
        self.pages[usize::from(port & 15)] = value;
    }

    /// Reads port 0x92.
    pub const fn read_control_a(&self) -> u8 {
        self.control_a
    }

    /// Writes port 0x92. True when bit 0 has gone to 1: reset.
    pub fn write_control_a(&mut self, value: u8) -> bool {
        let before = core::mem::replace(&mut self.control_a, value & !0xc0 | CONTROL_A_A20);
        value & !before & CONTROL_A_RESET != 0
    }

    /// Reads port 0xcf9.
    pub const fn read_reset(&self) -> u8 {
        self.reset_control
    }

    /// Writes port 0xcf9. True when RST_CPU has gone to 1: reset. Hard and soft are the same here.
    pub fn write_reset(&mut self, value: u8) -> bool {
        self.reset_control = value & (RESET_HARD | RESET_FULL);
        value & RESET_CPU != 0
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_control() {
        let mut ports = Ports::new();
        assert!(!ports.write_reset(0x02));
        assert_eq!(ports.read_reset(), 0x02);
        assert!(ports.write_reset(0x06));
        assert_eq!(ports.read_reset(), 0x02, "the bit clears itself by resetting");
    }

    #[test]
    fn fast_reset_is_an_edge_and_a20_stays_open() {
        let mut ports = Ports::new();
        assert!(!ports.write_control_a(0));
        assert_eq!(ports.read_control_a(), 2);
        assert!(ports.write_control_a(1));
        assert!(!ports.write_control_a(3));
    }

    #[test]
    fn page_registers_read_back() {
        let mut ports = Ports::new();
        ports.write_page(0x87, 0x12);
        assert_eq!(ports.read_page(0x87), 0x12);
    }
}

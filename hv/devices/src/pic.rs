//! The pair of 8259A interrupt controllers with the edge/level control registers of the PIIX3.
//!
//! Rules are those of the Intel 8259A data sheet (231468) and, for ELCR, of the 82371SB data sheet (290550).
//! 8080/85 mode and buffered mode are not there: no PC uses them.

/// Command port of the master; its data port is the next one.
pub const MASTER: u16 = 0x20;
/// Command port of the slave; its data port is the next one.
pub const SLAVE: u16 = 0xa0;
/// Edge/level control register of the master; the slave's is the next port.
pub const ELCR: u16 = 0x4d0;

/// Input of the master that the slave's output is wired to.
const CASCADE: u8 = 2;

/// The initialisation word that a write to the data port is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Debug)]
struct Chip {
    /// Levels of the inputs.
    inputs: u8,
    /// Inputs that rose and were not acknowledged since.
    edges: u8,
    /// Inputs that are level-triggered (ELCR).
    level: u8,
    /// Inputs whose ELCR bit is wired to edge.
    edge_only: u8,
    in_service: u8,
    mask: u8,
    vector_base: u8,
    /// The input with the lowest priority.
    lowest: u8,
    expect: Expect,
    single: bool,
    needs_icw4: bool,
    auto_eoi: bool,
    rotate_in_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    poll: bool,
    read_in_service: bool,
    /// Input of the special fully nested mode's slave, as a bit; 0 in the slave.
    cascade: u8,
}

impl Chip {
    const fn new(master: bool) -> Self {
        Self {
            inputs: 0,
            edges: 0,
            level: 0,
            edge_only: if master { 0b0000_0111 } else { 0b0010_0001 },
            in_service: 0,
            mask: 0,
            vector_base: 0,
            lowest: 7,
            expect: Expect::Mask,
            single: false,
            needs_icw4: false,
            auto_eoi: false,
            rotate_in_auto_eoi: false,
            special_fully_nested: false,
            special_mask: false,
            poll: false,
            read_in_service: false,
            cascade: if master { 1 << CASCADE } else { 0 },
        }
    }

    /// Interrupt request register: a level input asks while it is high; an edge input from its rising edge until it
    /// is acknowledged, and only while it stays high (data sheet, "Edge and level triggered modes").
    const fn requests(&self) -> u8 {
        self.inputs & (self.level | self.edges)
    }

    fn set_input(&mut self, input: u8, high: bool) {
        let bit = 1u8 << (input & 7);
        if high {
            if self.inputs & bit == 0 {
                self.edges |= bit;
            }
            self.inputs |= bit;
        } else {
            self.inputs &= !bit;
            self.edges &= !bit;
        }
    }

    /// Highest-priority input of a set of them.
    const fn first(&self, set: u8) -> Option<u8> {
        if set == 0 {
            return None;
        }
        let top = (self.lowest + 1) & 7;
        Some((top + set.rotate_right(top as u32).trailing_zeros() as u8) & 7)
    }

    /// Place of an input in the order of priority; 0 is the highest.
    const fn rank(&self, input: u8) -> u8 {
        input.wrapping_sub(self.lowest + 1) & 7
    }

    /// The request that the INT output stands for.
    fn pending(&self) -> Option<u8> {
        let request = self.first(self.requests() & !self.mask)?;
        let mut blocking = self.in_service;
        if self.special_mask {
            blocking &= !self.mask;
        }
        match self.first(blocking) {
            // In special fully nested mode the slave's requests nest in its own service, in nothing higher.
            Some(service) if service == request && self.special_fully_nested => {
                (self.cascade & 1 << request != 0).then_some(request)
            }
            Some(service) if self.rank(service) <= self.rank(request) => None,
            _ => Some(request),
        }
    }

    /// What the acknowledge cycle does to the registers.
    fn accept(&mut self, input: u8) {
        let bit = 1u8 << (input & 7);
        self.edges &= !bit;
        if self.auto_eoi {
            if self.rotate_in_auto_eoi {
                self.lowest = input & 7;
            }
        } else {
            self.in_service |= bit;
        }
    }

    fn end(&mut self, input: u8, rotate: bool) {
        self.in_service &= !(1u8 << (input & 7));
        if rotate {
            self.lowest = input & 7;
        }
    }

    /// End of interrupt without a number: the highest in service; in special mask mode not one that is masked.
    fn end_highest(&mut self, rotate: bool) {
        let candidates = if self.special_mask { self.in_service & !self.mask } else { self.in_service };
        if let Some(input) = self.first(candidates) {
            self.end(input, rotate);
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.initialise(value);
        } else if value & 0x08 != 0 {
            // OCW3.
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
            self.poll = value & 0x04 != 0;
            if value & 0x02 != 0 {
                self.read_in_service = value & 0x01 != 0;
            }
        } else {
            let input = value & 7;
            match value >> 5 {
                0b000 => self.rotate_in_auto_eoi = false,
                0b001 => self.end_highest(false),
                0b011 => self.end(input, false),
                0b100 => self.rotate_in_auto_eoi = true,
                0b101 => self.end_highest(true),
                0b110 => self.lowest = input,
                0b111 => self.end(input, true),
                _ => {}
            }
        }
    }

    /// ICW1. LTIM is not looked at: the PIIX3 has ELCR in its place.
    fn initialise(&mut self, value: u8) {
        self.edges = 0;
        self.in_service = 0;
        self.mask = 0;
        self.lowest = 7;
        self.special_mask = false;
        self.read_in_service = false;
        self.poll = false;
        self.auto_eoi = false;
        self.rotate_in_auto_eoi = false;
        self.special_fully_nested = false;
        self.single = value & 0x02 != 0;
        self.needs_icw4 = value & 0x01 != 0;
        self.expect = Expect::Icw2;
    }

    fn write_data(&mut self, value: u8) {
        let after_icw3 = if self.needs_icw4 { Expect::Icw4 } else { Expect::Mask };
        match self.expect {
            Expect::Mask => self.mask = value,
            Expect::Icw2 => {
                self.vector_base = value & 0xf8;
                self.expect = if self.single { after_icw3 } else { Expect::Icw3 };
            }
            // The wiring of the cascade is fixed.
            Expect::Icw3 => self.expect = after_icw3,
            Expect::Icw4 => {
                self.special_fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 0x02 != 0;
                self.expect = Expect::Mask;
            }
        }
    }

    /// The read that a poll command announced: acknowledges like the CPU would.
    fn poll_word(&mut self) -> u8 {
        self.poll = false;
        match self.pending() {
            Some(input) => {
                self.accept(input);
                0x80 | input
            }
            None => 0,
        }
    }
}

/// Master and slave, wired as on every PC.
#[derive(Clone, Debug)]
pub struct Pic {
    master: Chip,
    slave: Chip,
}

impl Pic {
    /// State after power-up: not initialised; nothing is masked, so initialise before enabling interrupts.
    pub const fn new() -> Self {
        Self { master: Chip::new(true), slave: Chip::new(false) }
    }

    /// What firmware leaves behind: vectors 0x08 and 0x70, everything masked, `level` in the ELCRs.
    pub fn firmware(&mut self, level: u16) {
        for (chip, vector) in [(&mut self.master, 0x08), (&mut self.slave, 0x70)] {
            let inputs = chip.inputs;
            chip.initialise(0x11);
            chip.inputs = inputs;
            chip.vector_base = vector;
            chip.expect = Expect::Mask;
            chip.mask = 0xff;
        }
        let [low, high] = level.to_le_bytes();
        self.master.level = low & !self.master.edge_only;
        self.slave.level = high & !self.slave.edge_only;
        self.update();
    }

    /// Back to power-up; the inputs keep their levels.
    pub fn reset(&mut self) {
        for (chip, fresh) in [(&mut self.master, Chip::new(true)), (&mut self.slave, Chip::new(false))] {
            let inputs = chip.inputs;
            *chip = fresh;
            chip.inputs = inputs;
        }
        self.update();
    }

    /// Sets the level of an ISA interrupt line; line 2 is the cascade and 16 and up do not exist.
    #[inline]
    pub fn set_line(&mut self, line: u8, high: bool) {
        match line {
            CASCADE => return,
            0..=7 => self.master.set_input(line, high),
            8..=15 => self.slave.set_input(line - 8, high),
            _ => return,
        }
        self.update();
    }

    fn update(&mut self) {
        let request = self.slave.pending().is_some();
        self.master.set_input(CASCADE, request);
    }

    /// The INT output: the CPU is asked to acknowledge an interrupt.
    #[inline]
    pub fn output(&self) -> bool {
        self.master.pending().is_some()
    }

    /// The vector that [`Pic::acknowledge`] would give now.
    pub fn vector(&self) -> u8 {
        match self.master.pending() {
            Some(CASCADE) => self.slave.vector_base | self.slave.pending().unwrap_or(7),
            Some(input) => self.master.vector_base | input,
            None => self.master.vector_base | 7,
        }
    }

    /// The CPU's acknowledge cycle. Without a request that is the spurious interrupt 7 of the chip that was asked,
    /// whose in-service bit stays clear.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = self.vector();
        if let Some(input) = self.master.pending() {
            self.master.accept(input);
            if input == CASCADE {
                if let Some(input) = self.slave.pending() {
                    self.slave.accept(input);
                }
                // INT of the slave goes low in the cycle: what waits there is a new edge.
                self.master.set_input(CASCADE, false);
                self.update();
            }
        }
        vector
    }

    /// Reads a byte from port 0x20, 0x21, 0xa0, 0xa1, 0x4d0 or 0x4d1.
    pub fn read(&mut self, port: u16) -> u8 {
        match port {
            0x4d0 => return self.master.level,
            0x4d1 => return self.slave.level,
            _ => {}
        }
        let slave = port & 0x80 != 0;
        let chip = if slave { &mut self.slave } else { &mut self.master };
        if chip.poll {
            let word = chip.poll_word();
            if slave {
                self.master.set_input(CASCADE, false);
            }
            self.update();
            return word;
        }
        match (port & 1 != 0, chip.read_in_service) {
            (true, _) => chip.mask,
            (false, true) => chip.in_service,
            (false, false) => chip.requests(),
        }
    }

    /// Writes a byte to one of these ports.
    pub fn write(&mut self, port: u16, value: u8) {
        let chip = if port & 0x80 != 0 { &mut self.slave } else { &mut self.master };
        match port {
            0x4d0 => self.master.level = value & !self.master.edge_only,
            0x4d1 => self.slave.level = value & !self.slave.edge_only,
            _ if port & 1 != 0 => chip.write_data(value),
            _ => chip.write_command(value),
        }
        self.update();
    }
}

impl Default for Pic {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initialised() -> Pic {
        let mut pic = Pic::new();
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 0x04),
            (0x21, 0x01),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 0x02),
            (0xa1, 0x01),
        ] {
            pic.write(port, value);
        }
        pic
    }

    #[test]
    fn an_edge_is_delivered_once() {
        let mut pic = initialised();
        pic.set_line(0, true);
        assert!(pic.output());
        assert_eq!(pic.vector(), 0x30);
        assert_eq!(pic.acknowledge(), 0x30);
        assert!(!pic.output());
        pic.write(0x20, 0x20);
        assert!(!pic.output(), "still high, but no new edge");
        pic.set_line(0, false);
        pic.set_line(0, true);
        assert!(pic.output());
    }

    #[test]
    fn a_request_that_goes_away_is_spurious() {
        let mut pic = initialised();
        pic.set_line(4, true);
        pic.set_line(4, false);
        assert!(!pic.output());
        assert_eq!(pic.acknowledge(), 0x37);
        pic.write(0x20, 0x0b);
        assert_eq!(pic.read(0x20), 0, "no in-service bit for a spurious interrupt");
    }

    #[test]
    fn a_level_is_delivered_again_after_the_end_of_interrupt() {
        let mut pic = initialised();
        pic.write(0x4d1, 0xff);
        assert_eq!(pic.read(0x4d1), 0xde, "IRQ 8 and 13 are always edge-triggered");
        pic.write(0x4d0, 0xff);
        assert_eq!(pic.read(0x4d0), 0xf8, "IRQ 0, 1 and 2 too");
        pic.set_line(10, true);
        assert_eq!(pic.acknowledge(), 0x3a);
        assert!(!pic.output());
        pic.write(0xa0, 0x20);
        pic.write(0x20, 0x20);
        assert!(pic.output());
        pic.set_line(10, false);
        assert!(!pic.output());
    }

    #[test]
    fn priorities_nest() {
        let mut pic = initialised();
        pic.set_line(5, true);
        assert_eq!(pic.acknowledge(), 0x35);
        pic.set_line(6, true);
        assert!(!pic.output());
        pic.set_line(3, true);
        assert_eq!(pic.acknowledge(), 0x33);
        pic.write(0x20, 0x20);
        assert!(!pic.output());
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), 0x36);
    }

    #[test]
    fn the_slave_keeps_asking_while_it_has_more() {
        let mut pic = initialised();
        pic.set_line(12, true);
        pic.set_line(8, true);
        assert_eq!(pic.acknowledge(), 0x38);
        pic.write(0xa0, 0x20);
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), 0x3c);
        pic.write(0xa0, 0x20);
        pic.write(0x20, 0x20);
        assert!(!pic.output());
    }

    #[test]
    fn special_fully_nested_lets_the_slave_nest() {
        let mut pic = initialised();
        pic.write(0x20, 0x11);
        for value in [0x30, 0x04, 0x11] {
            pic.write(0x21, value);
        }
        pic.set_line(12, true);
        assert_eq!(pic.acknowledge(), 0x3c);
        pic.set_line(5, true);
        assert!(!pic.output(), "lower priorities still wait");
        pic.set_line(8, true);
        assert_eq!(pic.acknowledge(), 0x38);
    }

    #[test]
    fn special_mask_mode_lets_lower_priorities_in() {
        let mut pic = initialised();
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge(), 0x31);
        pic.set_line(6, true);
        assert!(!pic.output());
        pic.write(0x21, 0x02);
        pic.write(0x20, 0x68);
        assert_eq!(pic.acknowledge(), 0x36);
        pic.write(0x20, 0x20);
        pic.write(0x20, 0x0b);
        assert_eq!(pic.read(0x20), 0x02, "a masked service is not ended by a non-specific EOI");
        pic.write(0x20, 0x48);
    }

    #[test]
    fn rotation_makes_the_last_one_the_lowest() {
        let mut pic = initialised();
        pic.set_line(3, true);
        assert_eq!(pic.acknowledge(), 0x33);
        pic.write(0x20, 0xa0);
        pic.set_line(3, false);
        pic.set_line(3, true);
        pic.set_line(7, true);
        assert_eq!(pic.acknowledge(), 0x37, "4 is the highest now");
        pic.write(0x20, 0xe7);
        pic.write(0x20, 0xc0 | 2);
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge(), 0x33);
    }

    #[test]
    fn automatic_end_of_interrupt() {
        let mut pic = initialised();
        pic.write(0x20, 0x11);
        for value in [0x30, 0x04, 0x03] {
            pic.write(0x21, value);
        }
        pic.write(0x20, 0x80);
        pic.set_line(4, true);
        pic.acknowledge();
        pic.write(0x20, 0x0b);
        assert_eq!(pic.read(0x20), 0);
        pic.set_line(4, false);
        pic.set_line(4, true);
        pic.set_line(5, true);
        assert_eq!(pic.acknowledge(), 0x35, "rotated: 5 is the highest");
    }

    #[test]
    fn a_poll_acknowledges() {
        let mut pic = initialised();
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0);
        pic.set_line(3, true);
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0x83);
        pic.write(0x20, 0x0b);
        assert_eq!(pic.read(0x20), 0x08);
        pic.write(0x20, 0x0a);
        assert_eq!(pic.read(0x20), 0);
    }

    #[test]
    fn the_mask_holds_requests_back_but_keeps_them() {
        let mut pic = initialised();
        pic.write(0x21, 0xff);
        pic.set_line(1, true);
        assert!(!pic.output());
        assert_eq!(pic.read(0x20), 0x02);
        pic.write(0x21, 0xfd);
        assert!(pic.output());
        assert_eq!(pic.read(0x21), 0xfd);
    }

    #[test]
    fn single_mode_and_no_icw4() {
        let mut pic = Pic::new();
        pic.write(0x20, 0x12);
        pic.write(0x21, 0x47);
        pic.write(0x21, 0xfe);
        assert_eq!(pic.read(0x21), 0xfe);
        pic.set_line(0, true);
        assert_eq!(pic.acknowledge(), 0x40);
    }

    #[test]
    fn firmware_leaves_everything_masked() {
        let mut pic = Pic::new();
        pic.set_line(0, true);
        pic.firmware(0x0e20);
        assert!(!pic.output());
        assert_eq!((pic.read(0x21), pic.read(0xa1)), (0xff, 0xff));
        assert_eq!((pic.read(0x4d0), pic.read(0x4d1)), (0x20, 0x0e));
    }
}

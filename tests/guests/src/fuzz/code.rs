//! A piece of code that is being written, and the running of it.

use super::random::Random;
use super::sandbox::{self, CODE, CODE_SIZE, DATA, Registers, STACK, Trap, gpr};
use super::watchdog;

/// Most instructions of one piece whose exits are counted.
const MARKS: usize = 64;

/// How the code is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 64-bit code at CPL 0.
    Kernel,
    /// 64-bit code at CPL 3.
    User,
    /// 32-bit code at CPL 0, in compatibility mode.
    Kernel32,
    /// 32-bit code at CPL 3, in compatibility mode.
    User32,
}

impl Level {
    /// CS, and SS and DS.
    const fn selectors(self) -> (u64, u64) {
        match self {
            Self::Kernel => (8, 16),
            Self::User => (64 | 3, 56 | 3),
            Self::Kernel32 => (40, 16),
            Self::User32 => (48 | 3, 56 | 3),
        }
    }
}

/// RFLAGS: reserved bit, trap flag, interrupt flag, I/O privilege level 3.
pub const FLAG_ONE: u64 = 2;
/// Trap flag.
pub const FLAG_TRAP: u64 = 1 << 8;
/// Interrupt flag.
pub const FLAG_INTERRUPT: u64 = 1 << 9;
/// I/O privilege level 3.
pub const FLAG_IOPL: u64 = 3 << 12;

/// A piece of code.
pub struct Code {
    length: usize,
    marks: [u16; MARKS],
    marked: usize,
    /// An instruction that raises an exception has left the guest all the same.
    faults_count: bool,
    /// What ends the guest for sure is taken out.
    tame: bool,
    /// What it starts with.
    pub registers: Registers,
}

impl Code {
    /// Nothing yet; runs at CPL 0 with interrupts off.
    pub fn new() -> Self {
        let mut registers = Registers { rip: CODE, rflags: FLAG_ONE, rsp: STACK, ..Registers::default() };
        (registers.cs, registers.ss) = Level::Kernel.selectors();
        registers.ds = registers.ss;
        registers.gprs[gpr::RSI] = DATA;
        registers.gprs[gpr::RDI] = DATA + 0x1000;
        Self { length: 0, marks: [0; MARKS], marked: 0, faults_count: false, tame: false, registers }
    }

    /// Chooses the privilege level.
    pub fn level(&mut self, level: Level) {
        (self.registers.cs, self.registers.ss) = level.selectors();
        self.registers.ds = self.registers.ss;
    }

    /// Counts an instruction whose exception comes from the machine, not from the processor.
    pub fn faults_count(&mut self) {
        self.faults_count = true;
    }

    /// Takes out what leaves the processor without tables, and so without a way back.
    pub fn tame(&mut self) {
        self.tame = true;
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            if self.length < CODE_SIZE - 16 {
                // SAFETY: within the page that is there for code.
                unsafe { ((CODE + self.length as u64) as *mut u8).write_volatile(*byte) };
                self.length += 1;
            }
        }
        self
    }

    /// Adds an instruction that leaves the guest.
    pub fn exit(&mut self, bytes: &[u8]) -> &mut Self {
        if let Some(mark) = self.marks.get_mut(self.marked) {
            *mark = self.length as u16;
            self.marked += 1;
        }
        self.bytes(bytes)
    }

    /// `mov` of a 32-bit value to a register by its number (0 to 7); the upper half becomes 0.
    pub fn load(&mut self, register: u8, value: u32) -> &mut Self {
        let [a, b, c, d] = value.to_le_bytes();
        self.bytes(&[0xb8 + (register & 7), a, b, c, d])
    }

    /// `mov` of a 64-bit value; not for 32-bit code.
    pub fn load64(&mut self, register: u8, value: u64) -> &mut Self {
        if let Ok(value) = u32::try_from(value) {
            return self.load(register, value);
        }
        self.bytes(&[0x48, 0xb8 + (register & 7)]).bytes(&value.to_le_bytes())
    }

    /// Adds a random number of random bytes.
    pub fn noise(&mut self, random: &mut Random, most: u64) -> &mut Self {
        for _ in 0..random.below(most) {
            self.bytes(&[random.bits() as u8]);
        }
        self
    }

    /// Takes out of the code what must not be executed on this machine; see [`super::quirks`].
    fn sift(&mut self) {
        let mut before = 0;
        for index in 0..self.length.saturating_sub(2) {
            let at = (CODE + index as u64) as *mut u8;
            // SAFETY: within the code.
            let opcode = unsafe { [at.read(), at.add(1).read(), at.add(2).read()] };
            if super::quirks::forbidden(before, opcode) || self.tame && is_wild(opcode) {
                // SAFETY: the same. UD2 has 0F as its first byte as well.
                unsafe { at.add(1).write(0x0b) };
            }
            before = opcode[0];
        }
    }

    /// Runs it; gives what ended it and how many of its instructions left the guest.
    pub fn run_on(&mut self, cr3: u64) -> (Trap, u64) {
        self.sift();
        let end = CODE + self.length as u64;
        // What follows the code ends it: INT3, and more of it where the last instruction was cut short.
        for _ in 0..16 {
            self.bytes_at_end(0xcc);
        }
        let trap = sandbox::run(&self.registers, cr3);
        let behind = if (CODE..=end + 16).contains(&trap.rip) { trap.rip - CODE } else { 0 };
        let counts = |mark: &u16| {
            let mark = u64::from(*mark);
            mark < behind || self.faults_count && mark == behind && trap.vector == 13
        };
        let exits = self.marks[..self.marked].iter().filter(|mark| counts(mark)).count() as u64;
        (trap, exits)
    }

    fn bytes_at_end(&mut self, byte: u8) {
        // SAFETY: `bytes` leaves room for 16.
        unsafe { ((CODE + self.length as u64) as *mut u8).write_volatile(byte) };
        self.length += 1;
    }

    /// Runs it on the usual tables.
    pub fn run(&mut self) -> (Trap, u64) {
        self.run_on(sandbox::tables())
    }

    /// Runs it with the watchdog on: for code that may not end by itself.
    pub fn run_watched(&mut self) -> (Trap, u64) {
        self.run_watched_on(sandbox::tables())
    }

    /// The same, on other tables.
    pub fn run_watched_on(&mut self, cr3: u64) -> (Trap, u64) {
        let before = watchdog::arm();
        let (trap, exits) = self.run_on(cr3);
        (trap, exits + before + watchdog::disarm())
    }
}

/// LGDT, LIDT, LTR, MOV to CR0, CR3 and CR4.
const fn is_wild(opcode: [u8; 3]) -> bool {
    let [escape, opcode, operand] = opcode;
    escape == 0x0f
        && match opcode {
            0x00 => operand >> 3 & 7 == 3,
            0x01 => operand < 0xc0 && matches!(operand >> 3 & 7, 2 | 3),
            0x22 => matches!(operand >> 3 & 7, 0 | 3 | 4),
            _ => false,
        }
}

impl Default for Code {
    fn default() -> Self {
        Self::new()
    }
}

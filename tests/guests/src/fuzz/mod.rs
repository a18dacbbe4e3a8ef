//! A hostile guest: whatever a driver, a kernel or a program should not do to the machine, at random from a seed.
//!
//! Work is cut into rounds of about [`EXITS`] exits. A round's random numbers come from the seed and the round's number
//! alone, so each can be repeated by itself. Who drives the guest says where to begin, and begins anew behind a round
//! that has ended the guest: the guest keeps nothing, since nothing in it is safe from itself.
//!
//! Exits are counted low: only instructions that leave the guest on every processor and that were passed.

pub mod code;
pub mod devices;
pub mod processor;
pub mod quirks;
pub mod random;
pub mod sandbox;
pub mod second;
pub mod virtio;
pub mod watchdog;
pub mod x2apic;

use crate::cpu::{outp, rdmsr, wrmsr};
use crate::{apic, console, print, println};
use code::Code;
use random::Random;
use sandbox::{DATA, Trap};

/// Exits of a round.
pub const EXITS: u64 = 2000;

/// Steps after which a round ends in any case.
const STEPS: u32 = 3000;

/// One round in so many may end the guest: resets, power off, what cannot be emulated.
const DEADLY: u64 = 24;

const APIC_BASE: u32 = 0x1b;
const EFER: u32 = 0xc000_0080;
/// IA32_APIC_BASE after reset: address, enabled; and the bit of the bootstrap processor.
const APIC_BASE_RESET: u64 = 0xfee0_0800;
const APIC_BASE_FIRST: u64 = 1 << 8;
/// EFER of this kernel, as the entry code makes it: LMA, LME, NXE.
const EFER_GOOD: u64 = 1 << 10 | 1 << 8 | 1 << 11;

/// What one round is, and what has come of it so far.
pub struct Round {
    /// Its random numbers.
    pub random: Random,
    /// It may end the guest.
    pub deadly: bool,
    /// The second processor plays it, while the first one plays the same number of its own.
    pub is_second: bool,
    /// CR0 of this kernel.
    pub cr0: u64,
    /// CR4 of this kernel.
    pub cr4: u64,
    trace: bool,
    devices: virtio::Devices,
    exits: u64,
    traps: u64,
}

/// What is found once, before anything is spoiled.
#[derive(Clone, Debug, Default)]
pub struct Found {
    devices: virtio::Devices,
    /// `trace` on the command line names each step as it begins, to find the one that ends the guest.
    trace: bool,
}

/// A kind of abuse, and how often it gets its turn.
type Step = (u64, &'static str, fn(&mut Round));

const STEPS_OF_A_ROUND: [Step; 15] = [
    (24, "ports", devices::ports),
    (6, "strings", devices::strings),
    (24, "memory", devices::memory),
    (8, "apics", devices::apics),
    (6, "x2apic", x2apic::step),
    (2, "timers", devices::timers),
    (2, "halts", devices::halts),
    (6, "pci", devices::pci),
    (20, "virtio", virtio::step),
    (12, "msrs", processor::msrs),
    (12, "cpuid", processor::cpuid),
    (4, "control", processor::control),
    (3, "descriptors", processor::descriptors),
    (3, "tables", processor::tables),
    (8, "instructions", processor::instructions),
];

impl Round {
    /// The round `number` of `seed`.
    fn new(seed: u64, number: u64, found: &Found, is_second: bool) -> Self {
        let random = Random::new(if is_second { !seed } else { seed }, number);
        let Found { devices, trace } = found.clone();
        let deadly = number % DEADLY == DEADLY - 1;
        let (cr0, cr4) = (crate::read_cr!("cr0"), crate::read_cr!("cr4"));
        Self { random, deadly, is_second, cr0, cr4, trace, devices, exits: 0, traps: 0 }
    }

    /// A value for a register.
    pub fn value(&mut self) -> u64 {
        self.random.value()
    }

    /// A value that may be an interrupt message; one that is an INIT ends the guest and is left to deadly rounds.
    pub fn message(&mut self) -> u64 {
        let value = self.random.value();
        if !self.deadly && value >> 8 & 7 == 5 { value ^ 1 << 8 } else { value }
    }

    /// A guest-physical address below 4 GiB with a device at it, or nothing.
    pub fn device_address(&mut self) -> u64 {
        let random = &mut self.random;
        let align = random.pick(&[0u64, 3, 3, 3, 7, 15]);
        let address = match random.below(12) {
            0..=2 => 0xfee0_0000 + (random.below(0x40) << 4) + random.below(2) * random.below(16),
            3 => 0xfee0_0000 + random.below(0x1000),
            4 => 0xfec0_0000 + random.pick(&[0, 0x10, 0x40, 0x20]) + random.below(2) * random.below(4),
            5 | 6 => 0xfed0_0000 + random.below(0x400),
            7 => 0xe000_0000 + random.below(0x1ec0_0000),
            8 => 0xd000_0000 + random.below(0x1000_0000),
            9 => 0xff00_0000 + random.below(0x100_0000),
            10 => self.devices.address(random).unwrap_or(0xfeb0_0000),
            _ => 0xfef0_0000 + random.below(0x10_0000),
        };
        address & !align
    }

    /// Counts exits.
    pub fn count(&mut self, exits: u64) {
        self.exits += exits;
    }

    fn ended(&mut self, (trap, exits): (Trap, u64)) -> Trap {
        self.exits += exits;
        self.traps += 1;
        if trap.vector >= 0x20 {
            // Whatever is in service: interrupts are to come again.
            apic::write(apic::register::EOI, 0);
            outp(0x20, 0x20u8);
            outp(0xa0, 0x20u8);
            self.exits += 3;
        }
        trap
    }

    /// Runs a piece of code that ends by itself.
    pub fn run(&mut self, code: &mut Code) -> Trap {
        let ended = code.run();
        self.ended(ended)
    }

    /// Runs a piece of code that may not.
    pub fn run_watched(&mut self, code: &mut Code) -> Trap {
        let ended = code.run_watched();
        self.ended(ended)
    }

    /// The same, on other page tables.
    pub fn run_watched_on(&mut self, code: &mut Code, cr3: u64) -> Trap {
        let ended = code.run_watched_on(cr3);
        self.ended(ended)
    }

    /// Puts back what the handler does not.
    pub fn restore(&mut self) {
        let base = APIC_BASE_RESET | if self.is_second { 0 } else { APIC_BASE_FIRST };
        // SAFETY: the values are those that this kernel was started with.
        unsafe {
            if rdmsr(EFER) != EFER_GOOD {
                wrmsr(EFER, EFER_GOOD);
            }
            if rdmsr(APIC_BASE) != base {
                // From x2APIC mode the way leads through being off (SDM vol. 3, 11.12.5).
                wrmsr(APIC_BASE, base & !0x800);
                wrmsr(APIC_BASE, base);
                apic::enable();
            }
        }
        self.exits += 1;
    }

    /// Puts the devices where a round begins: interrupts masked and off, PCI functions where they were.
    fn clean(&mut self) {
        self.restore();
        apic::enable();
        if !self.is_second {
            apic::init_pic(0xffff);
            self.devices.restore();
        }
        // SAFETY: the arena is there for hostile code alone.
        unsafe { core::ptr::write_bytes(DATA as *mut u8, 0, 0x8000) };
    }

    /// Plays the round; `ended` says that it is to end before its time.
    fn play(&mut self, ended: impl Fn() -> bool) {
        let all: u64 = STEPS_OF_A_ROUND.iter().map(|step| step.0).sum();
        for _ in 0..STEPS {
            if self.exits >= EXITS || ended() {
                return;
            }
            let mut at = self.random.below(all);
            for (weight, name, step) in STEPS_OF_A_ROUND {
                if at < weight {
                    if self.trace && !self.is_second {
                        console::init();
                        println!("{name}");
                    }
                    step(self);
                    break;
                }
                at -= weight;
            }
        }
    }
}

/// Reads `SEED FIRST LAST` from the console, again and again, and plays those rounds.
pub fn serve() -> ! {
    quirks::set_tcg(crate::boot::option("quirks") == Some("tcg"));
    sandbox::init(!quirks::tcg());
    let found =
        Found { devices: virtio::Devices::find(), trace: crate::boot::command_line().contains("trace") };
    println!("VIRTIO {}", found.devices.count());
    // What everything rests on: code that waits for good comes back.
    let mut code = Code::new();
    let trap = code.exit(&[0xfa, 0xf4]).run_watched().0;
    println!("WATCHDOG {}", if trap.vector == 2 { "good" } else { "bad" });
    println!("PROCESSORS {}", second::init(&found));
    let mut line = [0; 80];
    println!("READY");
    loop {
        let text = console::read_line(&mut line);
        let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
        let (Some(Ok(seed)), Some(Ok(first)), Some(Ok(last))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            println!("what is {text:?}?");
            println!("AGAIN");
            continue;
        };
        println!("seed {seed}");
        for number in first..=last {
            let mut round = Round::new(seed, number, &found, false);
            round.clean();
            second::begin(seed, number);
            round.play(|| false);
            let (exits, lost) = second::end();
            console::init();
            print!("\nROUND {number} {} {} {} END\n", round.exits + exits, round.traps, u8::from(lost));
        }
        println!("FINISHED");
    }
}

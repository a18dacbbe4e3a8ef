//! The human monitor: what `human-monitor-command` runs, in QEMU 2.8's words.
//!
//! A command's answer is made line by line, by number, so that an answer of any length leaves through a small buffer
//! while the guest runs. A new command is a row of `COMMANDS` and an arm of [`Hmp::start`].

mod expression;
mod memory;
mod registers;

use core::fmt::Write;

use expression::evaluate;
use memory::{Dump, Format, Radix};
use monovisor_devices::pc::{MAX_FUNCTIONS, Pointer};
pub use registers::Snapshot;

/// The longest line of any answer, in bytes: `help`'s.
pub const LINE_BYTES: usize = 192;

/// Pointing devices.
pub type Pointers = heapless::Vec<Pointer, { MAX_FUNCTIONS + 1 }>;

/// One line of an answer, without its end.
pub type Line = heapless::String<LINE_BYTES>;

/// The registers that an expression may name.
pub trait Registers {
    /// The value of `$name`.
    fn register(&self, name: &str) -> Option<u64>;
}

/// No processor, no registers.
struct NoRegisters;

impl Registers for NoRegisters {
    fn register(&self, _: &str) -> Option<u64> {
        None
    }
}

/// Things that a command does to the machine, each as the QMP command of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// `stop`
    Stop,
    /// `cont`
    Continue,
    /// `system_reset`
    Reset,
    /// `system_powerdown`
    Powerdown,
    /// `inject-nmi`
    Nmi,
    /// `quit`
    Quit,
    /// `memsave` (`physical` false) and `pmemsave`
    Save {
        /// By guest-physical address.
        physical: bool,
        /// First address.
        address: u64,
        /// Bytes.
        size: u64,
        /// Name in the store.
        file: &'a str,
    },
    /// `balloon`, in bytes
    Balloon(i64),
    /// Choose the pointing device that gets what several take.
    ChoosePointer(i64),
    /// `send-key`
    Keys {
        /// Names, `-` between them.
        names: &'a str,
        /// Milliseconds between one and the next.
        hold: i64,
    },
}

/// The machine as the human monitor sees it.
pub trait Target {
    /// `VM status: …` in full, e.g. `paused (prelaunch)`.
    fn status(&self, line: &mut Line);
    /// The virtual machine's name.
    fn name(&self) -> Option<&str>;
    /// The virtual machine's UUID in its text form.
    fn uuid(&self, line: &mut Line);
    /// Linear address of the next instruction, and whether the processor waits in HLT.
    fn cpu(&self, index: usize) -> Option<(u64, bool)>;
    /// All registers of a processor.
    fn snapshot(&self, index: usize) -> Option<Snapshot>;
    /// Copies memory by the linear addresses of a processor. False where some of it is not mapped.
    fn read_linear(&self, cpu: usize, address: u64, buffer: &mut [u8]) -> bool;
    /// Copies memory by guest-physical address; what is not RAM reads as zeros, as QEMU's unassigned memory does.
    fn read_physical(&self, address: u64, buffer: &mut [u8]);
    /// Sets the processor that commands mean when none is named. False: there is no such processor.
    fn set_default_cpu(&mut self, index: i64) -> bool;
    /// Reads an I/O port of the guest's machine.
    fn port_read(&mut self, port: u16, size: u8) -> u32;
    /// Writes an I/O port of the guest's machine.
    fn port_write(&mut self, port: u16, size: u8, value: u32);
    /// Bytes of RAM that the balloon leaves to the guest.
    fn balloon(&mut self) -> Option<u64>;
    /// The pointing devices; the first one gets what several take.
    fn pointers(&mut self) -> Pointers;
    /// Does something; on an error its text goes to `line`.
    fn act(&mut self, action: Action<'_>, line: &mut Line) -> bool;
}

struct Command {
    /// Names, `|` between them.
    name: &'static str,
    parameters: &'static str,
    help: &'static str,
}

const fn command(name: &'static str, parameters: &'static str, help: &'static str) -> Command {
    Command { name, parameters, help }
}

const COMMANDS: &[Command] = &[
    command("balloon", "target", "request VM to change its memory allocation (in MB)"),
    command("c|cont", "", "resume emulation"),
    command("cpu", "index", "set the default CPU"),
    command("help|?", "[cmd]", "show the help"),
    command("i", "/fmt addr", "I/O port read"),
    command("info", "[subcommand]", "show various information about the system state"),
    command(
        "memsave",
        "addr size file",
        "save to disk virtual memory dump starting at 'addr' of size 'size'",
    ),
    command("mouse_set", "index", "set which mouse device receives events"),
    command("nmi", "", "inject an NMI"),
    command("o", "/fmt addr value", "I/O port write"),
    command("p|print", "/fmt expr", "print expression value (use $reg for CPU register access)"),
    command(
        "pmemsave",
        "addr size file",
        "save to disk physical memory dump starting at 'addr' of size 'size'",
    ),
    command("q|quit", "", "quit the emulator"),
    command("s|stop", "", "stop emulation"),
    command(
        "sendkey",
        "keys [hold_ms]",
        "send keys to the VM (e.g. 'sendkey ctrl-alt-f1', default hold time=100 ms)",
    ),
    command("sum", "addr size", "compute the checksum of a memory region"),
    command("system_powerdown", "", "send system power down event"),
    command("system_reset", "", "reset the system"),
    command("x", "/fmt addr", "virtual memory dump starting at 'addr'"),
    command("xp", "/fmt addr", "physical memory dump starting at 'addr'"),
];

const INFO: &[Command] = &[
    command("balloon", "", "show balloon information"),
    command("block", "", "show info of all block devices"),
    command("blockstats", "", "show block device statistics"),
    command("cpus", "", "show infos for each CPU"),
    command("history", "", "show the command line history"),
    command("kvm", "", "show KVM information"),
    command("mice", "", "show which guest mouse is receiving events"),
    command("name", "", "show the current VM name"),
    command("network", "", "show the network state"),
    command("registers", "", "show the cpu registers"),
    command("status", "", "show the current VM status (running|paused)"),
    command("uuid", "", "show the current VM UUID"),
    command("version", "", "show the version of QEMU"),
];

fn find<'c>(commands: &'c [Command], name: &str) -> Option<&'c Command> {
    commands.iter().find(|command| command.name.split('|').any(|one| one == name))
}

/// What the devices answer themselves, since its lines have no longest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// `info block`
    Block,
    /// `info blockstats`
    BlockStats,
    /// `info network`
    Network,
}

/// What is still to be written.
#[derive(Clone)]
enum Pending {
    Nothing,
    Listing(Listing),
    One(Line),
    Two(Line, Line),
    Help(&'static [Command], &'static str),
    Cpus { current: usize },
    Mice(Pointers),
    Registers(Snapshot),
    Memory { format: Format, address: u64, physical: bool, cpu: usize, failed: Option<usize> },
    Sum { address: u64, left: u64, sum: u16 },
}

/// The human monitor of one session.
pub struct Hmp {
    pending: Pending,
    format: Format,
}

/// Bytes that `sum` reads in one step.
const SUM_STEP: u64 = 4096;

impl Hmp {
    /// A monitor with nothing to say.
    pub const fn new() -> Self {
        Self { pending: Pending::Nothing, format: Format::DEFAULT }
    }

    /// Runs a command. `cpu` is the processor it is for; its answer comes from [`Self::line`].
    pub fn start(&mut self, text: &str, cpu: usize, target: &mut impl Target) {
        self.pending = Pending::Nothing;
        let text = text.trim_ascii();
        if text.is_empty() {
            return;
        }
        let (name, arguments) = cut(text, |byte| byte == b'/' || byte.is_ascii_whitespace());
        let Some(command) = find(COMMANDS, name) else { return self.unknown(name) };
        if let Err(fault) = self.run(command, arguments.trim_ascii_start(), cpu, target) {
            let mut second = Line::new();
            let _ = write!(second, "Try \"help {}\" for more information", command.name);
            self.pending = Pending::Two(fault, second);
        }
    }

    fn unknown(&mut self, name: &str) {
        let mut line = Line::new();
        // A name too long for the line is cut, as by no means a command.
        let mut shown = name;
        while write!(line, "unknown command: '{shown}'").is_err() {
            line.clear();
            let half = shown.floor_char_boundary(shown.len() / 2);
            shown = shown.get(..half).unwrap_or_default();
        }
        self.pending = Pending::One(line);
    }

    /// Runs `command`. An error is the first line of a complaint about its arguments.
    fn run(
        &mut self,
        command: &'static Command,
        arguments: &str,
        cpu: usize,
        target: &mut impl Target,
    ) -> Result<(), Line> {
        let action = match command.name {
            "c|cont" => Some(Action::Continue),
            "nmi" => Some(Action::Nmi),
            "q|quit" => Some(Action::Quit),
            "s|stop" => Some(Action::Stop),
            "system_powerdown" => Some(Action::Powerdown),
            "system_reset" => Some(Action::Reset),
            _ => None,
        };
        if let Some(action) = action {
            self.done(command, arguments)?;
            self.act(action, target);
            return Ok(());
        }
        let registers = target.snapshot(cpu);
        let registers: &dyn Registers = match &registers {
            Some(snapshot) => snapshot,
            None => &NoRegisters,
        };
        match command.name {
            "help|?" => self.help(arguments),
            "info" => return self.info(command, arguments, cpu, target),
            "cpu" => {
                let (index, rest) = number(arguments, registers)?;
                self.done(command, rest)?;
                if !target.set_default_cpu(index) {
                    self.pending = Pending::One(text("invalid CPU index"));
                }
            }
            "x" | "xp" => {
                let (format, rest) = self.take_format(arguments)?;
                let (address, rest) = number(rest, registers)?;
                self.done(command, rest)?;
                if format.radix == Radix::Instruction {
                    self.pending =
                        Pending::One(text("instructions cannot be shown: no disassembler is built in"));
                    return Ok(());
                }
                self.format = Format { count: 1, ..format };
                self.pending = Pending::Memory {
                    format,
                    address: address as u64,
                    physical: command.name == "xp",
                    cpu,
                    failed: None,
                };
            }
            "p|print" => {
                let (format, rest) = self.take_format(arguments)?;
                let default = !arguments.starts_with('/');
                let (value, rest) = number(rest, registers)?;
                self.done(command, rest)?;
                let mut line = Line::new();
                let written = match format.radix {
                    Radix::Hexadecimal if !default => write!(line, "{value:#x}"),
                    Radix::Unsigned => write!(line, "{}", value as u64),
                    Radix::Octal => write!(line, "{}{value:o}", if value == 0 { "" } else { "0" }),
                    Radix::Character => match u8::try_from(value) {
                        Ok(byte @ 32..=126) => write!(line, "'{}'", char::from(byte)),
                        _ => write!(line, "'\\x{:02x}'", value as u8),
                    },
                    _ => write!(line, "{value}"),
                };
                if written.is_ok() {
                    self.pending = Pending::One(line);
                }
            }
            "i" => {
                let (format, rest) = self.take_format(arguments)?;
                let size = if arguments.starts_with('/') { format.size.min(4) } else { 1 };
                let (port, rest) = number(rest, registers)?;
                self.done(command, rest)?;
                let value = target.port_read(port as u16, size);
                let mut line = Line::new();
                let (suffix, width) = suffix(size);
                let _ = write!(line, "port{suffix}[0x{:04x}] = 0x{value:0width$x}", port as u16);
                self.pending = Pending::One(line);
            }
            "o" => {
                let (format, rest) = self.take_format(arguments)?;
                let size = if arguments.starts_with('/') { format.size.min(4) } else { 1 };
                let (port, rest) = number(rest, registers)?;
                let (value, rest) = number(rest, registers)?;
                self.done(command, rest)?;
                target.port_write(port as u16, size, value as u32);
            }
            "balloon" => {
                let (target_mib, rest) = number(arguments, registers)?;
                self.done(command, rest)?;
                self.act(Action::Balloon(target_mib.saturating_mul(1 << 20)), target);
            }
            "mouse_set" => {
                let (index, rest) = number(arguments, registers)?;
                self.done(command, rest)?;
                self.act(Action::ChoosePointer(index), target);
            }
            "sendkey" => {
                let (names, rest) = word(arguments);
                if names.is_empty() {
                    return Err(usage(command, "string expected"));
                }
                let (hold, rest) = if rest.trim_ascii().is_empty() {
                    (0, rest)
                } else {
                    number(rest.trim_ascii_start(), registers)?
                };
                self.done(command, rest)?;
                self.act(Action::Keys { names, hold }, target);
            }
            "sum" => {
                let (address, rest) = number(arguments, registers)?;
                let (size, rest) = number(rest, registers)?;
                self.done(command, rest)?;
                self.pending = Pending::Sum { address: address as u64, left: size.max(0) as u64, sum: 0 };
            }
            _ => {
                // memsave and pmemsave.
                let (address, rest) = number(arguments, registers)?;
                let (size, rest) = number(rest, registers)?;
                let file = rest.trim_ascii().trim_matches('"');
                if file.is_empty() {
                    return Err(usage(command, "string expected"));
                }
                let physical = command.name == "pmemsave";
                let size = u64::try_from(size).map_err(|_| usage(command, "integer is for 64-bit values"))?;
                self.act(Action::Save { physical, address: address as u64, size, file }, target);
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action<'_>, target: &mut impl Target) {
        let mut line = Line::new();
        if !target.act(action, &mut line) {
            self.pending = Pending::One(line);
        }
    }

    /// Lets the answer be what went wrong with an action that takes its time.
    pub fn complain(&mut self, words: &str) {
        let mut line = Line::new();
        for letter in words.chars() {
            // A line that is too long is cut.
            if line.push(letter).is_err() {
                break;
            }
        }
        self.pending = Pending::One(line);
    }

    fn done(&self, command: &Command, rest: &str) -> Result<(), Line> {
        if rest.trim_ascii().is_empty() {
            Ok(())
        } else {
            Err(usage(command, "extraneous characters at the end of line"))
        }
    }

    /// The `/fmt` in front of an argument.
    fn take_format<'t>(&self, arguments: &'t str) -> Result<(Format, &'t str), Line> {
        let Some(format) = arguments.strip_prefix('/') else {
            return Ok((self.format, arguments));
        };
        let (format, rest) = word(format);
        match Format::parse(format, self.format) {
            Some(format) => Ok((format, rest.trim_ascii_start())),
            None => {
                let mut line = Line::new();
                let letter =
                    format.trim_start_matches(|c: char| c.is_ascii_digit()).chars().last().unwrap_or(' ');
                let _ = write!(line, "invalid char in format: '{letter}'");
                Err(line)
            }
        }
    }

    fn help(&mut self, topic: &str) {
        let mut words = topic.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (None, _) => self.pending = Pending::Help(COMMANDS, ""),
            (Some("info"), None) => self.pending = Pending::Help(INFO, "info "),
            (Some("info"), Some(name)) => self.help_one(INFO, "info ", name),
            (Some(name), _) => self.help_one(COMMANDS, "", name),
        }
    }

    fn help_one(&mut self, commands: &'static [Command], prefix: &str, name: &str) {
        let mut line = Line::new();
        if let Some(command) = find(commands, name)
            && describe(prefix, command, &mut line).is_ok()
        {
            self.pending = Pending::One(line);
        }
    }

    fn info(
        &mut self,
        command: &Command,
        arguments: &str,
        cpu: usize,
        target: &mut impl Target,
    ) -> Result<(), Line> {
        if arguments.is_empty() {
            self.pending = Pending::Help(INFO, "info ");
            return Ok(());
        }
        let (name, rest) = word(arguments);
        let Some(topic) = find(INFO, name) else {
            self.unknown(name);
            return Ok(());
        };
        self.done(command, rest)?;
        let listing = match topic.name {
            "block" => Some(Listing::Block),
            "blockstats" => Some(Listing::BlockStats),
            "network" => Some(Listing::Network),
            _ => None,
        };
        if let Some(listing) = listing {
            self.pending = Pending::Listing(listing);
            return Ok(());
        }
        let mut line = Line::new();
        match topic.name {
            "status" => {
                let _ = line.push_str("VM status: ");
                target.status(&mut line);
            }
            "version" => {
                let _ = write!(line, "2.8.0 (Monovisor {})", env!("CARGO_PKG_VERSION"));
            }
            "kvm" => {
                let _ = line.push_str("kvm support: not compiled");
            }
            "uuid" => target.uuid(&mut line),
            "name" => match target.name() {
                Some(name) if line.push_str(name).is_ok() => {}
                _ => return Ok(()),
            },
            "cpus" => {
                self.pending = Pending::Cpus { current: cpu };
                return Ok(());
            }
            "mice" => {
                self.pending = match target.pointers() {
                    none if none.is_empty() => Pending::One(text("No mouse devices connected")),
                    pointers => Pending::Mice(pointers),
                };
                return Ok(());
            }
            "balloon" => match target.balloon() {
                Some(actual) => {
                    let _ = write!(line, "balloon: actual={}", actual >> 20);
                }
                None => line = text("No balloon device has been activated"),
            },
            "registers" => {
                if let Some(snapshot) = target.snapshot(cpu) {
                    self.pending = Pending::Registers(snapshot);
                }
                return Ok(());
            }
            // No history: a client keeps its own.
            _ => return Ok(()),
        }
        self.pending = Pending::One(line);
        Ok(())
    }

    /// Line `index` of the answer.
    pub fn line(&mut self, index: usize, target: &impl Target, line: &mut Line) -> Progress {
        line.clear();
        let there = match &mut self.pending {
            Pending::Nothing => false,
            Pending::Listing(listing) => return Progress::Listing(*listing),
            Pending::One(text) => {
                line.clone_from(text);
                index == 0
            }
            Pending::Two(first, second) => {
                line.clone_from(if index == 0 { first } else { second });
                index < 2
            }
            Pending::Help(commands, prefix) => {
                commands.get(index).is_some_and(|command| describe(prefix, command, line).is_ok())
            }
            Pending::Cpus { current } => target.cpu(index).is_some_and(|(pc, halted)| {
                let mark = if index == *current { '*' } else { ' ' };
                let halted = if halted { " (halted)" } else { "" };
                write!(line, "{mark} CPU #{index}: pc=0x{pc:016x}{halted} thread_id={}", index + 1).is_ok()
            }),
            Pending::Mice(pointers) => pointers.get(index).is_some_and(|pointer| {
                let mark = if index == 0 { '*' } else { ' ' };
                let absolute = if pointer.absolute { " (absolute)" } else { "" };
                write!(line, "{mark} Mouse #{}: {}{absolute}", pointer.index, pointer.name).is_ok()
            }),
            Pending::Registers(snapshot) => snapshot.line(index, line),
            Pending::Memory { format, address, physical, cpu, failed } => {
                if failed.is_some_and(|failed| index > failed) {
                    return Progress::Done;
                }
                let dump = format.line(*address, index, line, |at, buffer| {
                    if *physical {
                        target.read_physical(at, buffer);
                        true
                    } else {
                        target.read_linear(*cpu, at, buffer)
                    }
                });
                if dump == Dump::LastLine {
                    *failed = Some(index);
                }
                dump != Dump::End
            }
            Pending::Sum { address, left, sum } => {
                if index != 0 {
                    return Progress::Done;
                }
                let step = (*left).min(SUM_STEP);
                let mut buffer = [0; 64];
                let mut done = 0;
                while done < step {
                    let piece = (step - done).min(buffer.len() as u64) as usize;
                    let bytes = &mut buffer[..piece];
                    target.read_physical(address.wrapping_add(done), bytes);
                    for &byte in bytes.iter() {
                        // BSD's checksum: rotate right by one, then add.
                        *sum = sum.rotate_right(1).wrapping_add(byte.into());
                    }
                    done += piece as u64;
                }
                *address = address.wrapping_add(step);
                *left -= step;
                if *left != 0 {
                    return Progress::Working;
                }
                write!(line, "{sum:05}").is_ok()
            }
        };
        if there { Progress::Line } else { Progress::Done }
    }
}

impl Default for Hmp {
    fn default() -> Self {
        Self::new()
    }
}

/// What [`Hmp::line`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// `line` holds a line of the answer.
    Line,
    /// The line is the devices' to write, until they have none left.
    Listing(Listing),
    /// Nothing yet: ask again.
    Working,
    /// The answer has ended.
    Done,
}

/// The text before the first byte that ends it, and the rest from there on.
fn cut(text: &str, ends: fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(ends).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// The first word, and the rest.
fn word(text: &str) -> (&str, &str) {
    cut(text, |byte| byte.is_ascii_whitespace())
}

fn text(words: &str) -> Line {
    let mut line = Line::new();
    let _ = line.push_str(words);
    line
}

fn usage(command: &Command, fault: &str) -> Line {
    let mut line = Line::new();
    let _ = write!(line, "{}: {fault}", command.name);
    line
}

fn describe(prefix: &str, command: &Command, line: &mut Line) -> core::fmt::Result {
    write!(line, "{prefix}{} {} -- {}", command.name, command.parameters, command.help)
}

fn number<'t>(arguments: &'t str, registers: &dyn Registers) -> Result<(i64, &'t str), Line> {
    evaluate(arguments, registers).map_err(|error| text(error.text()))
}

const fn suffix(size: u8) -> (char, usize) {
    match size {
        1 => ('b', 2),
        2 => ('w', 4),
        _ => ('l', 8),
    }
}

#[cfg(test)]
mod tests;

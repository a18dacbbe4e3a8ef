//! The hypervisor's command line, in the words of QEMU's.
//!
//! Words are split as a shell does it, because a QEMU user writes this line as if to a shell and GRUB adds quotes and
//! backslashes of its own: blanks separate, `'…'` keeps everything, `"…"` keeps everything but `\"`, `\\` and `\'`,
//! and elsewhere a backslash keeps the next character. Of an option that is given twice the last one counts.
//!
//! No error ends the parsing: the monitor has to come up so that the operator can be told. The first few are kept,
//! the others are counted.

mod group;
mod table;
mod words;

use core::fmt;

use heapless::Vec;

pub use group::{Group, GroupError, GroupKind, GroupProblem, MAX_GROUPS};
pub use table::{CHARDEV, DRIVE, OPTIONS, OptionInfo, Parameter, ParameterType, groups};

use table::Action;
use words::split_words;

/// Longest command line in bytes. Linux takes 2047 in `-append`; the rest is ours.
pub const MAX_LINE: usize = 4096;
/// Most `+feature` and `-feature` words of `-cpu`: as many as a person types.
pub const MAX_CPU_FEATURES: usize = 16;
/// Host serial ports that `-serial` can name: COM1 to COM4.
pub const MAX_SERIAL: usize = 4;
/// Most errors of a command line that are told one by one: as many as somebody mends at once.
pub const MAX_ERRORS: usize = 8;
/// Guest RAM without `-m`, as QEMU has it.
pub const DEFAULT_MEMORY: u64 = 128 << 20;

/// What is wrong with the command line: one clear line by `Display`, which names the option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionError<'a> {
    /// The word that is wrong, or the option, without `-`, whose value is.
    pub option: &'a str,
    /// The value, or the part of it that is wrong; empty where there is none.
    pub value: &'a str,
    /// What is wrong.
    pub problem: OptionProblem,
}

/// Kinds of errors in the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionProblem {
    /// There is no such option.
    Unknown,
    /// QEMU's, but not here yet.
    NotYet,
    /// A word that does not start with `-`, where an option is expected.
    NotAnOption,
    /// The option's argument is missing.
    NoArgument,
    /// The value is not one of this kind.
    Not(&'static str),
    /// No such key.
    UnknownParameter,
    /// More of them than there is room for.
    TooMany(usize),
    /// The line is longer than [`MAX_LINE`]; the rest of it is not looked at.
    TooLong,
    /// The value holds a character that no value of this option can.
    ControlCharacter,
    /// A quote is not closed.
    OpenQuote,
    /// A word that is not UTF-8.
    NotUtf8,
}

impl fmt::Display for OptionError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { option, value, problem } = self;
        match problem {
            OptionProblem::Unknown => write!(f, "-{option}: no such option"),
            OptionProblem::NotYet if value.is_empty() => write!(f, "-{option}: not supported yet"),
            OptionProblem::NotYet => write!(f, "-{option} {value}: not supported yet"),
            OptionProblem::NotAnOption => write!(f, "{option}: not an option (they start with -)"),
            OptionProblem::NoArgument => write!(f, "-{option}: its argument is missing"),
            OptionProblem::Not(what) => write!(f, "-{option}: '{value}' is not {what}"),
            OptionProblem::UnknownParameter => write!(f, "-{option}: no such property: '{value}'"),
            OptionProblem::TooMany(limit) => write!(f, "-{option}: '{value}': {limit} at most"),
            OptionProblem::TooLong => write!(f, "the command line is longer than {MAX_LINE} bytes"),
            OptionProblem::ControlCharacter => write!(f, "-{option}: a control character in its argument"),
            OptionProblem::OpenQuote => f.write_str("the command line has a quote that is not closed"),
            OptionProblem::NotUtf8 => f.write_str("the command line is not UTF-8"),
        }
    }
}

/// The errors of one command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Errors<'a> {
    kept: [Option<OptionError<'a>>; MAX_ERRORS],
    /// How many there are.
    pub count: u32,
}

impl<'a> Errors<'a> {
    fn add(&mut self, option: &'a str, value: &'a str, problem: OptionProblem) {
        if let Some(place) = self.kept.iter_mut().find(|place| place.is_none()) {
            *place = Some(OptionError { option, value, problem });
        }
        self.count = self.count.saturating_add(1);
    }

    /// The first [`MAX_ERRORS`] of them.
    pub fn iter(&self) -> impl Iterator<Item = OptionError<'a>> {
        self.kept.into_iter().flatten()
    }

    /// The first one.
    pub const fn first(&self) -> Option<OptionError<'a>> {
        self.kept[0]
    }
}

/// Which CPU the guest sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuBase {
    /// What the rig's CPU has and virtualization can pass on.
    #[default]
    Host,
    /// The least that 64-bit systems expect.
    Base,
}

/// `-cpu`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuOption<'a> {
    /// The model.
    pub base: CpuBase,
    /// Features to switch on or off, in the order given.
    pub features: Vec<(&'a str, bool), MAX_CPU_FEATURES>,
    /// `x-posted=off`: the rig's processor is not to take posted interrupts by itself.
    pub no_posted: bool,
    /// `x-avic=off`: the rig's processor is not to deliver interrupts by AVIC.
    pub no_avic: bool,
}

/// `-serial`: what is said about one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SerialOption {
    /// Bits per second, where given.
    pub baud: Option<u32>,
    /// `baudbase`: the rate at divisor 1, where it is not that of a PC.
    pub base: Option<u32>,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options<'a> {
    /// `-m`: guest RAM in bytes.
    pub memory: u64,
    /// `-smp`: number of virtual processors, at least 1.
    pub cpus: u8,
    /// `-kernel`.
    pub kernel: Option<&'a str>,
    /// `-initrd`.
    pub initrd: Option<&'a str>,
    /// `-append`; empty where it is not given.
    pub append: &'a str,
    /// `-name`.
    pub name: Option<&'a str>,
    /// `-uuid`: its 16 bytes in the order they are written.
    pub uuid: Option<[u8; 16]>,
    /// `-S`.
    pub paused: bool,
    /// `-no-reboot`.
    pub no_reboot: bool,
    /// `-no-shutdown`.
    pub no_shutdown: bool,
    /// `-serial`: how COM1 to COM4 are set.
    pub serial: [SerialOption; MAX_SERIAL],
    /// `-qmp`: which of COM1 to COM4 carry a monitor, besides the board's own.
    pub qmp: [bool; MAX_SERIAL],
    /// `-cpu`.
    pub cpu: CpuOption<'a>,
    groups: Vec<Group<'a>, MAX_GROUPS>,
    /// What was wrong with the first list of keys and values that has an error.
    pub group_error: Option<GroupError<'a>>,
    /// What was wrong.
    pub errors: Errors<'a>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            memory: DEFAULT_MEMORY,
            cpus: 1,
            kernel: None,
            initrd: None,
            append: "",
            name: None,
            uuid: None,
            paused: false,
            no_reboot: false,
            no_shutdown: false,
            serial: [SerialOption::default(); MAX_SERIAL],
            qmp: [false; MAX_SERIAL],
            cpu: CpuOption::default(),
            groups: Vec::new(),
            group_error: None,
            errors: Errors::default(),
        }
    }
}

impl<'a> Options<'a> {
    /// Parses `line`, which is changed on the way: quotes and backslashes are taken out in place, so that values are
    /// plain slices of it. A first word that is no option is the image's own file name and is skipped.
    pub fn parse(line: &'a mut [u8]) -> Self {
        let mut options = Self::default();
        let length = line.iter().position(|byte| *byte == 0).unwrap_or(line.len());
        let split = split_words(line.get_mut(..length.min(MAX_LINE)).unwrap_or_default());
        if length > MAX_LINE {
            options.errors.add("", "", OptionProblem::TooLong);
        }
        if split.open_quote {
            options.errors.add("", "", OptionProblem::OpenQuote);
        }
        let used = split.length.min(line.len());
        let mut rest = line.get_mut(..used).unwrap_or_default();
        let mut first = true;
        while let Some(word) = next_word(&mut rest) {
            let Ok(word) = core::str::from_utf8(word) else {
                options.errors.add("", "", OptionProblem::NotUtf8);
                continue;
            };
            let skip = core::mem::take(&mut first) && !word.starts_with('-');
            let Some(name) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                if !skip {
                    options.errors.add(word, "", OptionProblem::NotAnOption);
                }
                continue;
            };
            let Some((action, argument)) = table::find(name) else {
                options.errors.add(name, "", OptionProblem::Unknown);
                continue;
            };
            let mut value = "";
            if argument {
                let Some(word) = next_word(&mut rest) else {
                    options.errors.add(name, "", OptionProblem::NoArgument);
                    continue;
                };
                let whole = !matches!(action, Action::Group(_)) || group::split(word);
                match core::str::from_utf8(word) {
                    Ok(word) if whole => value = word,
                    Ok(_) => {
                        options.errors.add(name, "", OptionProblem::ControlCharacter);
                        continue;
                    }
                    Err(_) => {
                        options.errors.add(name, "", OptionProblem::NotUtf8);
                        continue;
                    }
                }
            }
            if let Err((value, problem)) = options.set(action, value)
                && !(problem == OptionProblem::NotYet && table::is_as_it_is(name, value))
            {
                options.errors.add(name, value, problem);
            }
        }
        options
    }

    /// The lists of an option that is one of keys and values, in the order given.
    pub fn groups(&self, kind: GroupKind) -> impl Iterator<Item = Group<'a>> {
        self.groups.iter().copied().filter(move |group| group.kind() == kind)
    }

    /// `-device`.
    pub fn devices(&self) -> impl Iterator<Item = Group<'a>> {
        self.groups(GroupKind::Device)
    }

    /// The list of an option that has this `id`.
    pub fn find(&self, kind: GroupKind, id: &str) -> Option<Group<'a>> {
        self.groups(kind).find(|group| group.id() == Some(id))
    }

    fn add_group(&mut self, kind: GroupKind, text: &'a str) {
        let group = Group::new(kind, text);
        let checked = group.check_id(&self.groups).and_then(|()| {
            self.groups.push(group).map_err(|_| {
                group.error(kind.implied().unwrap_or_default(), GroupProblem::TooMany(MAX_GROUPS))
            })
        });
        if let Err(error) = checked {
            self.group_error.get_or_insert(error);
        }
    }

    fn set(&mut self, action: Action, value: &'a str) -> Result<(), (&'a str, OptionProblem)> {
        match action {
            Action::Memory => {
                let text = single(value, "size")?;
                let bytes = group::size(text, 20).filter(|bytes| *bytes != 0);
                self.memory = bytes.ok_or((text, OptionProblem::Not("a size (as 256, 512M, 1G)")))?;
            }
            Action::Cpus => self.set_cpus(value)?,
            Action::Kernel => self.kernel = Some(value),
            Action::Initrd => self.initrd = Some(value),
            Action::Append => self.append = value,
            Action::Name => self.name = Some(single(value, "guest")?),
            Action::Uuid => {
                self.uuid = Some(uuid(value).ok_or((
                    value,
                    OptionProblem::Not("a UUID (as 6ba7b810-9dad-11d1-80b4-00c04fd430c8)"),
                ))?);
            }
            Action::Paused => self.paused = true,
            Action::NoReboot => self.no_reboot = true,
            Action::NoShutdown => self.no_shutdown = true,
            Action::Serial => self.set_serial(value)?,
            Action::Qmp => self.set_qmp(value)?,
            Action::Cpu => self.set_cpu(value)?,
            Action::Group(kind) => self.add_group(kind, value),
            Action::NotYet => return Err((value, OptionProblem::NotYet)),
            Action::Nothing => {}
        }
        Ok(())
    }

    fn set_cpus(&mut self, value: &'a str) -> Result<(), (&'a str, OptionProblem)> {
        const KEYS: [&str; 5] = ["cpus", "maxcpus", "sockets", "cores", "threads"];
        let mut counts = [None::<u8>; KEYS.len()];
        for (index, part) in value.split(',').enumerate() {
            let (key, text) = match part.split_once('=') {
                Some(pair) => pair,
                None if index == 0 => (KEYS[0], part),
                None => return Err((part, OptionProblem::UnknownParameter)),
            };
            let slot = KEYS.iter().position(|known| *known == key).and_then(|place| counts.get_mut(place));
            let slot = slot.ok_or((key, OptionProblem::UnknownParameter))?;
            let count = number(text).and_then(|count| u8::try_from(count).ok()).filter(|count| *count != 0);
            *slot = Some(count.ok_or((text, OptionProblem::Not("a number of processors from 1 to 255")))?);
        }
        let [cpus, most, sockets, cores, threads] = counts;
        let cpus = cpus.or(most).or(cores).unwrap_or(1);
        if most.is_some_and(|most| most != cpus) {
            return Err((
                value,
                OptionProblem::Not("as many processors as there will be: none is added later"),
            ));
        }
        if (sockets.unwrap_or(1), threads.unwrap_or(1), cores.unwrap_or(cpus)) != (1, 1, cpus) {
            return Err((value, OptionProblem::Not("one socket whose cores have one thread each")));
        }
        self.cpus = cpus;
        Ok(())
    }

    fn set_serial(&mut self, value: &'a str) -> Result<(), (&'a str, OptionProblem)> {
        let mut parts = value.split(',');
        let first = parts.next().unwrap_or_default();
        let (port, baud) = first.split_once(':').unwrap_or((first, ""));
        let index = serial_port(port).ok_or((value, OptionProblem::Not("a serial port (as com1:115200)")))?;
        let mut serial = SerialOption { baud: None, base: None };
        if !baud.is_empty() {
            serial.baud = Some(speed(baud)?);
        }
        for part in parts {
            match part.split_once('=') {
                Some(("baudbase", base)) => serial.base = Some(speed(base)?),
                Some((key, _)) => return Err((key, OptionProblem::UnknownParameter)),
                None => return Err((part, OptionProblem::UnknownParameter)),
            }
        }
        if let Some(slot) = self.serial.get_mut(index) {
            *slot = serial;
        }
        Ok(())
    }

    fn set_qmp(&mut self, value: &'a str) -> Result<(), (&'a str, OptionProblem)> {
        let port = serial_port(value).ok_or((value, OptionProblem::Not("a serial port (as com3)")))?;
        if let Some(slot) = self.qmp.get_mut(port) {
            *slot = true;
        }
        Ok(())
    }

    fn set_cpu(&mut self, value: &'a str) -> Result<(), (&'a str, OptionProblem)> {
        let mut parts = value.split(',');
        let model = parts.next().unwrap_or_default();
        let mut cpu = CpuOption {
            base: match model {
                "host" | "max" => CpuBase::Host,
                "base" => CpuBase::Base,
                _ => return Err((model, OptionProblem::Not("a CPU model (host or base)"))),
            },
            features: Vec::new(),
            no_posted: false,
            no_avic: false,
        };
        for part in parts {
            let feature = if let Some(name) = part.strip_prefix('+') {
                (name, true)
            } else if let Some(name) = part.strip_prefix('-') {
                (name, false)
            } else {
                match part.split_once('=') {
                    Some((name, "on")) => (name, true),
                    Some((name, "off")) => (name, false),
                    _ => return Err((part, OptionProblem::Not("a feature (as +x2apic or x2apic=on)"))),
                }
            };
            if feature.0 == "x-posted" {
                cpu.no_posted = !feature.1;
                continue;
            }
            if feature.0 == "x-avic" {
                cpu.no_avic = !feature.1;
                continue;
            }
            cpu.features.push(feature).map_err(|_| (part, OptionProblem::TooMany(MAX_CPU_FEATURES)))?;
        }
        self.cpu = cpu;
        Ok(())
    }
}

/// Takes the next word off `line`, in which a zero byte follows each.
fn next_word<'a>(line: &mut &'a mut [u8]) -> Option<&'a mut [u8]> {
    let rest = core::mem::take(line);
    if rest.is_empty() {
        return None;
    }
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let (word, behind) = rest.split_at_mut(end);
    *line = behind.get_mut(1..).unwrap_or_default();
    Some(word)
}

/// The value of an option that takes `key=value` with one key only, which can be left out.
fn single<'a>(value: &'a str, key: &str) -> Result<&'a str, (&'a str, OptionProblem)> {
    let mut parts = value.split(',');
    let first = parts.next().unwrap_or_default();
    if let Some(other) = parts.next() {
        return Err((other, OptionProblem::UnknownParameter));
    }
    match first.split_once('=') {
        Some((name, value)) if name == key => Ok(value),
        Some((name, _)) => Err((name, OptionProblem::UnknownParameter)),
        None => Ok(first),
    }
}

/// A serial port's place among `com1` to `com4`.
fn serial_port(name: &str) -> Option<usize> {
    match name.strip_prefix("com").map(str::as_bytes) {
        Some([digit @ b'1'..=b'4']) => Some(usize::from(digit - b'1')),
        _ => None,
    }
}

/// Bits per second. The divisor of a 16550 has 16 bits and its clock gives 115200, or up to 4 million on fast ones.
fn speed(text: &str) -> Result<u32, (&str, OptionProblem)> {
    number(text)
        .and_then(|baud| u32::try_from(baud).ok())
        .filter(|baud| (2..=4_000_000).contains(baud))
        .ok_or((text, OptionProblem::Not("a speed in bits per second")))
}

/// A decimal number, or a hexadecimal one behind `0x`.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // from_str_radix would take a sign.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return None;
    }
    let mut uuid = [0u8; 16];
    let mut digits = 0usize;
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 8 | 13 | 18 | 23) {
            if *byte != b'-' {
                return None;
            }
            continue;
        }
        let digit = char::from(*byte).to_digit(16)? as u8;
        let place = uuid.get_mut(digits / 2)?;
        *place = *place << 4 | digit;
        digits += 1;
    }
    Some(uuid)
}

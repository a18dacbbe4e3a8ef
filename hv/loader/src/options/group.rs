//! Options that are lists of `key=value`: `-device`, `-drive`, `-netdev`, `-chardev`, `-object`.
//!
//! The syntax is QEMU's: parts are separated by commas, `,,` is a comma within a value, the key of the first part may
//! be left out where the option has one for it, a key alone is `on` and with `no` before it `off`, and of a key that is
//! given twice the last one counts. Whoever makes the device knows which keys there are, and asks for them here; errors
//! are QEMU's sentences.

use core::fmt;

use super::table::Parameter;

/// Most `-device`, `-drive`, `-netdev`, `-chardev` and `-object` together: a device with what is behind it for
/// each PCI slot that is free.
pub const MAX_GROUPS: usize = 64;

/// What stands for a separating comma once a value has been split in place: the character that ASCII has for it.
const SEPARATOR: char = '\x1f';

/// Which option a list belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// `-device driver,…`.
    Device,
    /// `-drive …`.
    Drive,
    /// `-netdev type,…`.
    Netdev,
    /// `-chardev backend,…`.
    Chardev,
    /// `-object qom-type,…`.
    Object,
}

impl GroupKind {
    /// The option without `-`.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Drive => "drive",
            Self::Netdev => "netdev",
            Self::Chardev => "chardev",
            Self::Object => "object",
        }
    }

    /// The key that the first part has when it names none.
    pub const fn implied(self) -> Option<&'static str> {
        match self {
            Self::Device => Some("driver"),
            Self::Drive => None,
            Self::Netdev => Some("type"),
            Self::Chardev => Some("backend"),
            Self::Object => Some("qom-type"),
        }
    }
}

/// What is wrong with a list: one line by `Display`, which names option and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupError<'a> {
    /// The list.
    pub group: Group<'a>,
    /// The key that is meant.
    pub key: &'a str,
    /// What is wrong.
    pub problem: GroupProblem,
}

/// Kinds of errors in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProblem {
    /// The key has to be given.
    Missing,
    /// There is no such key.
    Unknown,
    /// The value is not what the key takes, which is this.
    Expects(&'static str),
    /// The value names a driver, type or back end that there is none of.
    NoSuch(&'static str),
    /// The value is QEMU's, but not here yet.
    NotYet,
    /// Another list of this option has that `id`.
    Duplicate,
    /// More of them than there is room for.
    TooMany(usize),
}

impl fmt::Display for GroupError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, key) = (self.group, self.key);
        write!(f, "-{}", group.kind.option())?;
        let name = group.name();
        if !name.is_empty() {
            write!(f, " {name}")?;
        }
        f.write_str(": ")?;
        let value = group.str(key).unwrap_or_default();
        match self.problem {
            GroupProblem::Missing => write!(f, "Parameter '{key}' is missing"),
            GroupProblem::Unknown if group.kind == GroupKind::Device => {
                write!(f, "Property '.{key}' not found")
            }
            GroupProblem::Unknown => write!(f, "Invalid parameter '{key}'"),
            GroupProblem::Expects(what) => write!(f, "Parameter '{key}' expects {what}"),
            GroupProblem::NoSuch(what) => write!(f, "'{value}' is not a valid {what}"),
            GroupProblem::NotYet => write!(f, "'{value}' is not supported yet"),
            GroupProblem::Duplicate => write!(f, "Duplicate ID '{value}' for {}", group.kind.option()),
            GroupProblem::TooMany(limit) => write!(f, "there can be {limit} at most"),
        }
    }
}

/// One list: a slice of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group<'a> {
    kind: GroupKind,
    /// `key=value` parts, [`SEPARATOR`] between them and perhaps behind the last.
    text: &'a str,
}

impl<'a> Group<'a> {
    /// A list whose text [`split`] has made.
    pub(super) const fn new(kind: GroupKind, text: &'a str) -> Self {
        Self { kind, text }
    }

    /// The option that it belongs to.
    pub const fn kind(&self) -> GroupKind {
        self.kind
    }

    /// All keys and values in the order given, `id` and the implied key among them.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let implied = self.kind.implied();
        let text = self.text.trim_end_matches(SEPARATOR);
        let parts = text.split(SEPARATOR).take(if text.is_empty() { 0 } else { usize::MAX });
        parts.enumerate().map(move |(index, part)| match (part.split_once('='), implied) {
            // A comma of the value comes before the `=`: that is the value's, too.
            (Some((key, _)), Some(implied)) if index == 0 && key.contains(',') => (implied, part),
            (Some(pair), _) => pair,
            (None, Some(implied)) if index == 0 => (implied, part),
            (None, _) => match part.strip_prefix("no") {
                Some(key) => (key, "off"),
                None => (part, "on"),
            },
        })
    }

    /// The value of a key as it stands there.
    pub fn str(&self, key: &str) -> Option<&'a str> {
        self.pairs().filter(|(name, _)| *name == key).last().map(|(_, value)| value)
    }

    /// What kind of device, back end … this is: the value of the implied key. Empty where there is none.
    pub fn driver(&self) -> &'a str {
        self.kind.implied().and_then(|key| self.str(key)).unwrap_or_default()
    }

    /// The value of `id`.
    pub fn id(&self) -> Option<&'a str> {
        self.str("id")
    }

    /// What the list is called in messages.
    fn name(&self) -> &'a str {
        if self.kind.implied().is_some() { self.driver() } else { self.id().unwrap_or_default() }
    }

    /// The error `problem` of `key`.
    pub const fn error(&self, key: &'a str, problem: GroupProblem) -> GroupError<'a> {
        GroupError { group: *self, key, problem }
    }

    /// The value of a key that has to be there.
    ///
    /// # Errors
    /// Where it is not.
    pub fn required(&self, key: &'a str) -> Result<&'a str, GroupError<'a>> {
        self.str(key).ok_or_else(|| self.error(key, GroupProblem::Missing))
    }

    /// Checks that there is no other key than the option's own, `id` and those of `keys`.
    ///
    /// # Errors
    /// Names the first one that is not known.
    pub fn only(&self, keys: &[&str]) -> Result<(), GroupError<'a>> {
        self.known(&|key| keys.contains(&key))
    }

    /// The same with the option's table of parameters.
    ///
    /// # Errors
    /// Names the first one that is not known.
    pub fn only_parameters(&self, parameters: &[Parameter]) -> Result<(), GroupError<'a>> {
        self.known(&|key| parameters.iter().any(|parameter| parameter.name == key))
    }

    fn known(&self, known: &dyn Fn(&str) -> bool) -> Result<(), GroupError<'a>> {
        let known = |key: &str| key == "id" || self.kind.implied() == Some(key) || known(key);
        match self.pairs().find(|(key, _)| !known(key)) {
            Some((key, _)) => Err(self.error(key, GroupProblem::Unknown)),
            None => Ok(()),
        }
    }

    /// A truth value.
    ///
    /// # Errors
    /// Where the value is neither `on` nor `off`.
    pub fn bool(&self, key: &'a str) -> Result<Option<bool>, GroupError<'a>> {
        match self.str(key) {
            None => Ok(None),
            Some("on") => Ok(Some(true)),
            Some("off") => Ok(Some(false)),
            Some(_) => Err(self.error(key, GroupProblem::Expects("'on' or 'off'"))),
        }
    }

    /// A number: decimal, hexadecimal behind `0x`, octal behind `0`.
    ///
    /// # Errors
    /// Where the value is none, or does not fit into 64 bits.
    pub fn number(&self, key: &'a str) -> Result<Option<u64>, GroupError<'a>> {
        self.parsed(key, "a number", number)
    }

    /// A number that fits into `bits` bits: 8, 16, 32 or 64.
    ///
    /// # Errors
    /// Where the value is none, or is greater.
    pub fn unsigned(&self, key: &'a str, bits: u32) -> Result<Option<u64>, GroupError<'a>> {
        let what = match bits {
            0..=8 => "uint8_t",
            9..=16 => "uint16_t",
            17..=32 => "uint32_t",
            _ => "uint64_t",
        };
        self.parsed(key, what, |text| number(text).filter(|value| value.checked_shr(bits).unwrap_or(0) == 0))
    }

    /// A size in bytes: a number, perhaps with a suffix `k`, `M`, `G` or `T` (powers of 1024), or `b`.
    ///
    /// # Errors
    /// Where the value is none, or does not fit into 64 bits.
    pub fn size(&self, key: &'a str) -> Result<Option<u64>, GroupError<'a>> {
        self.parsed(key, "a size", |text| size(text, 0))
    }

    fn parsed(
        &self,
        key: &'a str,
        what: &'static str,
        parse: impl Fn(&str) -> Option<u64>,
    ) -> Result<Option<u64>, GroupError<'a>> {
        match self.str(key).map(parse) {
            None => Ok(None),
            Some(Some(value)) => Ok(Some(value)),
            Some(None) => Err(self.error(key, GroupProblem::Expects(what))),
        }
    }

    /// Checks the `id` by itself and against the lists before this one.
    pub(super) fn check_id(&self, others: &[Self]) -> Result<(), GroupError<'a>> {
        let Some(id) = self.id() else { return Ok(()) };
        let mut bytes = id.bytes();
        let well_formed = bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        if !well_formed {
            return Err(self.error("id", GroupProblem::Expects("an identifier")));
        }
        if others.iter().any(|other| other.kind == self.kind && other.id() == Some(id)) {
            return Err(self.error("id", GroupProblem::Duplicate));
        }
        Ok(())
    }
}

/// Splits the text of a list in place: a doubled comma becomes one, a single one [`SEPARATOR`], and what is left
/// over at the end is filled with that. False: the text has such a character of its own, and cannot be split.
pub(super) fn split(text: &mut [u8]) -> bool {
    const SEPARATOR_BYTE: u8 = SEPARATOR as u8;
    if text.contains(&SEPARATOR_BYTE) {
        return false;
    }
    let (mut read, mut write) = (0usize, 0usize);
    while let Some(&byte) = text.get(read) {
        read += 1;
        let byte = match (byte, text.get(read)) {
            (b',', Some(b',')) => {
                read += 1;
                b','
            }
            (b',', _) => SEPARATOR_BYTE,
            _ => byte,
        };
        if let Some(place) = text.get_mut(write) {
            *place = byte;
        }
        write += 1;
    }
    text.get_mut(write..).unwrap_or_default().fill(SEPARATOR_BYTE);
    true
}

/// A number as `strtoull` with base 0 reads it, without sign and blanks.
fn number(text: &str) -> Option<u64> {
    match text.as_bytes() {
        [b'0', b'x' | b'X', ..] | [b'0'] => super::number(text),
        [b'0', octal @ ..] if octal.iter().all(|digit| matches!(digit, b'0'..=b'7')) => {
            u64::from_str_radix(text, 8).ok()
        }
        [b'1'..=b'9', ..] if text.bytes().all(|digit| digit.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// A number of bytes with an optional suffix; without one, `shift` is the power of two that it counts in.
pub(super) fn size(text: &str, shift: u32) -> Option<u64> {
    let hexadecimal = text.starts_with("0x") || text.starts_with("0X");
    let (digits, shift) = match text.as_bytes().last()? {
        b'b' | b'B' if !hexadecimal => (text.get(..text.len() - 1)?, 0),
        b'k' | b'K' => (text.get(..text.len() - 1)?, 10),
        b'm' | b'M' => (text.get(..text.len() - 1)?, 20),
        b'g' | b'G' => (text.get(..text.len() - 1)?, 30),
        b't' | b'T' => (text.get(..text.len() - 1)?, 40),
        _ => (text, shift),
    };
    if !hexadecimal && !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    super::number(digits)?.checked_mul(1 << shift)
}

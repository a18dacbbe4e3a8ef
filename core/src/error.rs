//! Errors as the client sees them, with the texts of QEMU 2.8.

use core::fmt::{self, Write};

use crate::json::{Emit, SyntaxError, Writer};

/// Longest description, in bytes. QEMU has no limit; here a longer one, which takes a name of this length in the
/// client's own command, ends in `...`.
pub const DESCRIPTION_BYTES: usize = 240;

/// Error classes of QMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Everything that has no class of its own.
    GenericError,
    /// No such command, or not now.
    CommandNotFound,
    /// An encrypted device has no key.
    DeviceEncrypted,
    /// A device is not ready for this.
    DeviceNotActive,
    /// No such device.
    DeviceNotFound,
    /// KVM lacks a capability.
    KvmMissingCap,
}

impl ErrorClass {
    /// The class's name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceEncrypted => "DeviceEncrypted",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::KvmMissingCap => "KVMMissingCap",
        }
    }
}

/// Why a command failed.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    class: ErrorClass,
    text: heapless::String<DESCRIPTION_BYTES>,
}

/// Result of most things that a client asks for.
pub type Result<T> = core::result::Result<T, Error>;

impl Error {
    /// An error of this class and description.
    #[must_use]
    #[cold]
    pub fn new(class: ErrorClass, description: fmt::Arguments<'_>) -> Self {
        let mut error = Self { class, text: heapless::String::new() };
        // Cannot fail: what is too long is cut.
        let _ = Cut(&mut error.text).write_fmt(description);
        error
    }

    /// An error without a class of its own.
    #[must_use]
    #[cold]
    pub fn generic(description: fmt::Arguments<'_>) -> Self {
        Self::new(ErrorClass::GenericError, description)
    }

    /// An error without a class of its own and with a fixed description.
    #[must_use]
    #[cold]
    pub fn text(description: &str) -> Self {
        Self::generic(format_args!("{description}"))
    }

    /// The class.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.class
    }

    /// The description.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.text
    }

    /// What was received is no message; `keyword` is the word that is not known, where that is the reason.
    #[must_use]
    pub fn syntax(error: SyntaxError, keyword: &str) -> Self {
        Self::text(match error {
            SyntaxError::Invalid => "Invalid JSON syntax",
            SyntaxError::Value => "JSON parse error, expecting value",
            SyntaxError::MissingValue => "JSON parse error, Missing value in dict",
            SyntaxError::Colon => "JSON parse error, missing : in object pair",
            SyntaxError::Key => "JSON parse error, key is not a string in object",
            SyntaxError::ObjectSeparator => "JSON parse error, expected separator in dict",
            SyntaxError::ArraySeparator => "JSON parse error, expected separator in list",
            SyntaxError::Keyword => {
                return Self::generic(format_args!("JSON parse error, invalid keyword '{keyword}'"));
            }
            SyntaxError::TooLong => {
                return Self::generic(format_args!(
                    "Message is longer than {} bytes",
                    crate::json::MESSAGE_BYTES
                ));
            }
        })
    }

    /// A required parameter is not there.
    #[must_use]
    pub fn missing_parameter(name: &str) -> Self {
        Self::generic(format_args!("Parameter '{name}' is missing"))
    }

    /// A parameter has the wrong JSON type. `expected` is QEMU's word: `boolean`, `integer`, `QDict` …
    #[must_use]
    pub fn invalid_parameter_type(name: &str, expected: &str) -> Self {
        Self::generic(format_args!("Invalid parameter type for '{name}', expected: {expected}"))
    }

    /// A parameter, or the value of an enumeration, is not known.
    #[must_use]
    pub fn invalid_parameter(name: &str) -> Self {
        Self::generic(format_args!("Invalid parameter '{name}'"))
    }

    /// A parameter's value will not do.
    #[must_use]
    pub fn expects(name: &str, what: &str) -> Self {
        Self::generic(format_args!("Parameter '{name}' expects {what}"))
    }

    /// A member that does not belong there.
    #[must_use]
    pub fn unexpected_member(name: &str) -> Self {
        Self::generic(format_args!("QMP input object member '{name}' is unexpected"))
    }

    /// A member of the input object itself has the wrong type.
    #[must_use]
    pub fn member_expects(name: &str, what: &str) -> Self {
        Self::generic(format_args!("QMP input object member '{name}' expects '{what}'"))
    }

    /// No such command.
    #[must_use]
    pub fn command_not_found(name: &str) -> Self {
        Self::new(ErrorClass::CommandNotFound, format_args!("The command {name} has not been found"))
    }

    /// No such device.
    #[must_use]
    pub fn device_not_found(name: &str) -> Self {
        Self::new(ErrorClass::DeviceNotFound, format_args!("Device '{name}' not found"))
    }

    /// There is a device but it is not active. `kind` is what it is: `balloon` …
    #[must_use]
    pub fn device_not_active(kind: &str) -> Self {
        Self::new(ErrorClass::DeviceNotActive, format_args!("No {kind} device has been activated"))
    }

    /// There is no such file descriptor.
    #[must_use]
    pub fn no_file_descriptor(name: fmt::Arguments<'_>) -> Self {
        Self::generic(format_args!("File descriptor named '{name}' not found"))
    }

    /// The machine cannot do this.
    #[must_use]
    pub fn unsupported() -> Self {
        Self::text("this feature or command is not currently supported")
    }

    /// A file cannot be opened, for this reason.
    #[must_use]
    pub fn cannot_open(path: &str, reason: &str) -> Self {
        Self::generic(format_args!("Could not open '{path}': {reason}"))
    }

    /// Reading or writing a file failed.
    #[must_use]
    pub fn io() -> Self {
        Self::text("An IO error has occurred")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class.name(), self.text)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl core::error::Error for Error {}

/// Writes the value of the reply's member `error`.
impl Emit for Error {
    fn emit(&self, w: &mut Writer<'_>) {
        w.begin_object();
        w.key("class");
        w.string(self.class.name());
        w.key("desc");
        w.string(&self.text);
        w.end_object();
    }
}

/// Writes as much as fits and marks where it was cut.
struct Cut<'a>(&'a mut heapless::String<DESCRIPTION_BYTES>);

impl Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const MARK: &str = "...";
        if self.0.push_str(text).is_ok() {
            return Ok(());
        }
        let limit = DESCRIPTION_BYTES - MARK.len();
        let mut keep = limit.saturating_sub(self.0.len());
        while !text.is_char_boundary(keep) {
            keep = keep.saturating_sub(1);
        }
        let mut end = limit.min(self.0.len());
        while !self.0.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        self.0.truncate(end);
        let _ = self.0.push_str(text.get(..keep).unwrap_or_default());
        let _ = self.0.push_str(MARK);
        // Nothing more is wanted.
        Err(fmt::Error)
    }
}

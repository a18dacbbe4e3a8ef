//! Character devices: the table of them, and those that need nothing but memory.
//!
//! The table answers the `chardev` family. `null`, `ringbuf` (and its old name `memory`) and `mux` live here; whatever has
//! hardware behind it is opened by the product, which then enters it in the table.

use heapless::{Deque, String, Vec};

use crate::{
    Error, Text, base64,
    error::Result,
    handlers::{Element, Poll},
    schema::char::{
        ChardevAddArgs, ChardevBackend, ChardevBackendInfo, ChardevInfo, DataFormat, RingbufReadArgs,
        RingbufWriteArgs,
    },
};

/// Most character devices.
pub const CHARDEVS: usize = 12;

/// Longest identifier and longest file name, in bytes.
pub const NAME_BYTES: usize = 64;

/// Most ring buffers at a time, and the most that one holds; 64 KiB is also QEMU's default.
pub const RINGBUFS: usize = 2;
/// See [`RINGBUFS`].
pub const RINGBUF_BYTES: usize = 64 * 1024;

/// Backends that every product has, in the order in which `query-chardev-backends` gives them.
pub const BACKENDS: &[&str] = &["memory", "mux", "ringbuf", "null"];

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Takes everything, gives nothing.
    Null,
    /// Keeps what was written last: the number of its buffer.
    Ringbuf(usize),
    /// Shares another device among several users.
    Mux,
    /// A device of the product's own; the number is the product's.
    Own(usize),
}

/// A character device.
#[derive(Debug)]
pub struct Chardev {
    id: String<NAME_BYTES>,
    filename: String<NAME_BYTES>,
    /// The device that a mux shares; empty for others.
    base: String<NAME_BYTES>,
    kind: Kind,
    /// Somebody uses it.
    pub busy: bool,
    /// Its user is there.
    pub open: bool,
}

impl Chardev {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its identifier.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it is a device for.
    #[must_use]
    pub fn filename(&self) -> &str {
        &self.filename
    }
}

#[derive(Debug)]
struct Ringbuf {
    used: bool,
    size: usize,
    bytes: Deque<u8, RINGBUF_BYTES>,
}

impl Ringbuf {
    /// All zero, so that a table in static memory takes nothing of an image.
    const fn new() -> Self {
        Self { used: false, size: 0, bytes: Deque::new() }
    }

    fn push(&mut self, byte: u8) {
        if self.bytes.len() >= self.size {
            self.bytes.pop_front();
        }
        // Cannot fail: there is room now.
        let _ = self.bytes.push_back(byte);
    }
}

/// The table of character devices.
#[derive(Debug)]
pub struct Chardevs {
    devices: Vec<Chardev, CHARDEVS>,
    ringbufs: [Ringbuf; RINGBUFS],
}

impl Default for Chardevs {
    fn default() -> Self {
        Self::new()
    }
}

impl Chardevs {
    /// An empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self { devices: Vec::new(), ringbufs: [const { Ringbuf::new() }; RINGBUFS] }
    }

    /// Enters a device of the product's own, or one that it starts with.
    ///
    /// # Errors
    /// The identifier is taken or too long, or the table is full.
    pub fn enter(&mut self, id: &str, filename: &str, kind: Kind, busy: bool, open: bool) -> Result<()> {
        self.check(id)?;
        let device =
            Chardev { id: name(id)?, filename: name(filename)?, base: String::new(), kind, busy, open };
        // There is room: `check` has looked.
        self.devices.push(device).map_err(|_| Error::io())
    }

    /// Whether a device of this identifier could be entered: for a product that has something to open before it does.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub fn check(&self, id: &str) -> Result<()> {
        if self.find(id).is_some() {
            return Err(Error::generic(format_args!("Chardev '{id}' already exists")));
        }
        name(id)?;
        if self.devices.is_full() {
            return Err(Error::generic(format_args!(
                "No room for chardev '{id}': there are {CHARDEVS} of them already"
            )));
        }
        Ok(())
    }

    /// The device of this file name.
    #[must_use]
    pub fn find_filename(&self, filename: &str) -> Option<&Chardev> {
        self.devices.iter().find(|device| device.filename == filename)
    }

    /// The device of this identifier.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&Chardev> {
        self.devices.iter().find(|device| device.id == id)
    }

    /// The device of this identifier.
    pub fn find_mut(&mut self, id: &str) -> Option<&mut Chardev> {
        self.devices.iter_mut().find(|device| device.id == id)
    }

    /// The device that really moves the bytes of the one of this identifier: what a mux shares.
    #[must_use]
    pub fn resolve(&self, id: &str) -> Option<&Chardev> {
        let device = self.find(id)?;
        // A mux shares no mux: it would be busy.
        if device.kind == Kind::Mux { self.find(&device.base) } else { Some(device) }
    }

    /// Connects a user with the device of this identifier; one that is no mux has one.
    ///
    /// # Errors
    /// There is no such device, or it has its user.
    pub fn connect(&mut self, id: &str, open: bool) -> Result<()> {
        let Some(device) = self.find_mut(id) else {
            return Err(Error::generic(format_args!("Property 'chardev' can't find value '{id}'")));
        };
        if device.busy && device.kind != Kind::Mux {
            return Err(Error::generic(format_args!(
                "Property 'chardev' can't take value '{id}', it's in use"
            )));
        }
        device.busy = true;
        device.open |= open;
        Ok(())
    }

    /// Answers `query-chardev`.
    ///
    /// # Errors
    /// None.
    pub fn query(&self, index: usize) -> Element<ChardevInfo<'_>> {
        Ok(self.devices.iter().rev().nth(index).map(|device| ChardevInfo {
            label: &device.id,
            filename: &device.filename,
            frontend_open: device.open,
        }))
    }

    /// Answers `query-chardev-backends`; `own` are those that the product adds.
    ///
    /// # Errors
    /// None.
    pub fn backends(&self, own: &[&'static str], index: usize) -> Element<ChardevBackendInfo<'static>> {
        let name = own.iter().chain(BACKENDS).nth(index);
        Ok(name.map(|name| ChardevBackendInfo { name }))
    }

    /// Answers `chardev-add` for the devices that live here. `None`: the product's business.
    ///
    /// # Errors
    /// As [`enter`](Self::enter); no buffer is left, or its size is wrong; the device to be shared is not there or is in
    /// use.
    pub fn add(&mut self, arguments: &ChardevAddArgs<'_>) -> Result<Option<()>> {
        let id = arguments.id;
        self.check(id)?;
        let kind = match arguments.backend {
            ChardevBackend::Null(_) => Kind::Null,
            ChardevBackend::Ringbuf(ringbuf) | ChardevBackend::Memory(ringbuf) => {
                let size = ringbuf.size.unwrap_or(RINGBUF_BYTES as i64);
                let size = usize::try_from(size).unwrap_or(0);
                if !size.is_power_of_two() {
                    return Err(Error::text("size of ringbuf chardev must be power of two"));
                }
                if size > RINGBUF_BYTES {
                    return Err(Error::generic(format_args!(
                        "size of ringbuf chardev must not be beyond {RINGBUF_BYTES}"
                    )));
                }
                let free = self.ringbufs.iter_mut().enumerate().find(|(_, ringbuf)| !ringbuf.used);
                let Some((number, ringbuf)) = free else {
                    return Err(Error::generic(format_args!(
                        "There are {RINGBUFS} ringbuf chardevs already"
                    )));
                };
                ringbuf.bytes.clear();
                ringbuf.size = size;
                Kind::Ringbuf(number)
            }
            ChardevBackend::Mux(mux) => match self.find(mux.chardev) {
                Some(shared) if shared.busy => {
                    return Err(Error::generic(format_args!("Device '{}' is in use", mux.chardev)));
                }
                Some(_) => Kind::Mux,
                None => {
                    return Err(Error::generic(format_args!("mux: base chardev {} not found", mux.chardev)));
                }
            },
            _ => return Ok(None),
        };
        self.enter(id, arguments.backend.kind().as_str(), kind, false, false)?;
        match (kind, arguments.backend) {
            (Kind::Ringbuf(number), _) => {
                if let Some(ringbuf) = self.ringbufs.get_mut(number) {
                    ringbuf.used = true;
                }
            }
            (_, ChardevBackend::Mux(mux)) => {
                if let Some(shared) = self.find_mut(mux.chardev) {
                    shared.busy = true;
                }
                if let Some(device) = self.find_mut(id) {
                    device.base = name(mux.chardev)?;
                }
            }
            _ => {}
        }
        Ok(Some(()))
    }

    /// Answers `chardev-remove`. Returns what it was, for the product to close what is its own.
    ///
    /// # Errors
    /// There is no such device, or it is in use.
    pub fn remove(&mut self, id: &str) -> Result<Kind> {
        let Some(at) = self.devices.iter().position(|device| device.id == id) else {
            return Err(Error::generic(format_args!("Chardev '{id}' not found")));
        };
        if self.devices.get(at).is_some_and(|device| device.busy) {
            return Err(Error::generic(format_args!("Chardev '{id}' is busy")));
        }
        if at >= self.devices.len() {
            return Err(Error::io());
        }
        let Chardev { kind, base, .. } = self.devices.remove(at);
        if let Some(shared) = self.find_mut(&base) {
            shared.busy = false;
        }
        if let Kind::Ringbuf(number) = kind
            && let Some(ringbuf) = self.ringbufs.get_mut(number)
        {
            ringbuf.used = false;
        }
        Ok(kind)
    }

    /// Writes to a device that lives here, as its user does.
    pub fn write(&mut self, kind: Kind, bytes: &[u8]) {
        if let Kind::Ringbuf(number) = kind
            && let Some(ringbuf) = self.ringbufs.get_mut(number)
        {
            for &byte in bytes {
                ringbuf.push(byte);
            }
        }
    }

    fn ringbuf(&mut self, id: &str) -> Result<&mut Ringbuf> {
        match self.find(id).map(|device| device.kind) {
            None => Err(Error::generic(format_args!("Device '{id}' not found"))),
            Some(Kind::Ringbuf(number)) => self.ringbufs.get_mut(number).ok_or_else(Error::io),
            Some(_) => Err(Error::generic(format_args!("{id} is not a ringbuf device"))),
        }
    }

    /// Answers `ringbuf-write`.
    ///
    /// # Errors
    /// There is no such device, or what is to be written is not base64 though it should be.
    pub fn ringbuf_write(&mut self, arguments: &RingbufWriteArgs<'_>) -> Result<()> {
        let ringbuf = self.ringbuf(arguments.device)?;
        let data = arguments.data.as_bytes();
        if arguments.format == Some(DataFormat::Base64) {
            if !base64::decode(data, |_| {}) {
                return Err(Error::text("Base64 data is not valid base64"));
            }
            base64::decode(data, |byte| ringbuf.push(byte));
        } else {
            for &byte in data {
                ringbuf.push(byte);
            }
        }
        Ok(())
    }

    /// Answers `ringbuf-read`: takes bytes out, a piece at a time. `progress` is [`Context::progress`](crate::Context).
    ///
    /// Bytes that are no UTF-8 are given as U+FFFD.
    ///
    /// # Errors
    /// There is no such device, or the size is not positive.
    pub fn ringbuf_read(
        &mut self,
        arguments: &RingbufReadArgs<'_>,
        text: &mut Text<'_, '_>,
        progress: &mut u64,
    ) -> Poll<()> {
        let ringbuf = self.ringbuf(arguments.device)?;
        let size = usize::try_from(arguments.size).unwrap_or(0);
        if size == 0 {
            return Err(nb::Error::Other(Error::text("size must be greater than zero")));
        }
        text.resume();
        // What was there at the first call is read, and not what comes in meanwhile.
        if *progress == 0 {
            *progress = (size.min(ringbuf.bytes.len()) as u64).saturating_add(1);
        }
        while *progress > 1 {
            let left = usize::try_from(progress.saturating_sub(1)).unwrap_or(0);
            let mut piece = [0; PIECE];
            let mut len: usize = 0;
            for (byte, from) in piece.iter_mut().zip(ringbuf.bytes.iter().take(left)) {
                *byte = *from;
                len = len.saturating_add(1);
            }
            let mut piece = piece.get(..len).unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            if arguments.format == Some(DataFormat::Base64) {
                let mut coded: String<{ PIECE / 3 * 4 }> = String::new();
                base64::encode(piece, |group| {
                    let _ = coded.push_str(core::str::from_utf8(group).unwrap_or_default());
                });
                text.raw(&coded)?;
            } else {
                match core::str::from_utf8(piece) {
                    Ok(valid) => text.raw(valid)?,
                    Err(error) if error.valid_up_to() > 0 => {
                        piece = piece.get(..error.valid_up_to()).unwrap_or_default();
                        text.raw(core::str::from_utf8(piece).unwrap_or_default())?;
                    }
                    Err(error) => {
                        piece = piece.get(..error.error_len().unwrap_or(1)).unwrap_or_default();
                        text.raw("\u{FFFD}")?;
                    }
                }
            }
            *progress = progress.saturating_sub(piece.len() as u64);
            for _ in piece {
                ringbuf.bytes.pop_front();
            }
        }
        Ok(())
    }
}

/// Bytes of a ring buffer that are read at a time: whole groups of base64.
const PIECE: usize = 192;

fn name(text: &str) -> Result<String<NAME_BYTES>> {
    let mut name = String::new();
    match name.push_str(text) {
        Ok(()) => Ok(name),
        Err(_) => Err(Error::generic(format_args!("A name is longer than {NAME_BYTES} bytes: '{text}'"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::char::{ChardevCommon, ChardevMux};

    const COMMON: ChardevCommon<'static> = ChardevCommon { logfile: None, logappend: None };

    fn add<'a>(table: &mut Chardevs, id: &'a str, backend: ChardevBackend<'a>) -> std::string::String {
        match table.add(&ChardevAddArgs { id, backend }) {
            Ok(made) => std::format!("{made:?}"),
            Err(error) => error.description().into(),
        }
    }

    #[test]
    fn a_shared_device_is_busy_until_the_mux_goes() {
        let mut table = std::boxed::Box::new(Chardevs::new());
        let mux = ChardevBackend::Mux(ChardevMux { logfile: None, logappend: None, chardev: "n" });
        assert_eq!(add(&mut table, "m", mux), "mux: base chardev n not found");
        assert_eq!(add(&mut table, "n", ChardevBackend::Null(COMMON)), "Some(())");
        assert_eq!(add(&mut table, "n", ChardevBackend::Null(COMMON)), "Chardev 'n' already exists");
        assert_eq!(add(&mut table, "m", mux), "Some(())");
        assert_eq!(add(&mut table, "m2", mux), "Device 'n' is in use");
        assert_eq!(table.remove("n").unwrap_err().description(), "Chardev 'n' is busy");
        assert_eq!(table.remove("m"), Ok(Kind::Mux));
        assert_eq!(table.remove("n"), Ok(Kind::Null));
        assert_eq!(table.remove("n").unwrap_err().description(), "Chardev 'n' not found");
    }

    #[test]
    fn a_device_has_one_user_and_a_mux_many() {
        let mut table = std::boxed::Box::new(Chardevs::new());
        assert_eq!(add(&mut table, "n", ChardevBackend::Null(COMMON)), "Some(())");
        let mux = ChardevBackend::Mux(ChardevMux { logfile: None, logappend: None, chardev: "n" });
        assert_eq!(add(&mut table, "m", mux), "Some(())");
        let mut connect = |id: &str| {
            table.connect(id, true).map_err(|error| std::string::String::from(error.description()))
        };
        assert_eq!((connect("m"), connect("m")), (Ok(()), Ok(())));
        assert_eq!(connect("n"), Err("Property 'chardev' can't take value 'n', it's in use".into()));
        assert_eq!(connect("o"), Err("Property 'chardev' can't find value 'o'".into()));
        assert_eq!(table.resolve("m").map(Chardev::id), Some("n"));
        assert_eq!(table.remove("m").unwrap_err().description(), "Chardev 'm' is busy");
    }

    #[test]
    fn a_full_table_says_so() {
        let mut table = std::boxed::Box::new(Chardevs::new());
        for number in 0..CHARDEVS {
            assert_eq!(add(&mut table, &std::format!("n{number}"), ChardevBackend::Null(COMMON)), "Some(())");
        }
        assert!(
            add(&mut table, "more", ChardevBackend::Null(COMMON)).starts_with("No room for chardev 'more'")
        );
        assert!(add(&mut table, &"x".repeat(65), ChardevBackend::Null(COMMON)).contains("longer than 64"));
    }
}

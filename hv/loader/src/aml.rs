//! A writer of ACPI machine language (ACPI 6.5, chapter 20), for tables that are made once at boot.

use heapless::Vec;

/// Bytes appended to a buffer of fixed capacity. One that did not fit is remembered by [`Writer::overflowed`]: a table
/// that is cut off is not to be used.
#[derive(Clone, Debug, Default)]
pub struct Writer<const N: usize> {
    bytes: Vec<u8, N>,
    overflowed: bool,
}

/// Where a package length is to be filled in.
#[must_use]
#[derive(Debug)]
pub struct Open(usize);

/// Where a resource template's buffer size is to be filled in.
#[must_use]
#[derive(Debug)]
pub struct OpenBuffer(Open, usize);

impl<const N: usize> Writer<N> {
    /// An empty one.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), overflowed: false }
    }

    /// What has been written.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Something did not fit.
    pub const fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Plain bytes.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.overflowed |= self.bytes.extend_from_slice(bytes).is_err();
    }

    /// Overwrites bytes written before.
    pub fn patch(&mut self, offset: usize, bytes: &[u8]) {
        if let Some(place) = offset.checked_add(bytes.len()).and_then(|end| self.bytes.get_mut(offset..end)) {
            place.copy_from_slice(bytes);
        }
    }

    fn open(&mut self, opcode: &[u8]) -> Open {
        self.raw(opcode);
        let open = Open(self.bytes.len());
        self.raw(&[0, 0]);
        open
    }

    /// Ends what was opened. Package lengths are always written in two bytes (4095 at most; 20.2.4).
    pub fn close(&mut self, open: Open) {
        let length = self.bytes.len() - open.0.min(self.bytes.len());
        self.overflowed |= length > 0xfff;
        self.patch(open.0, &[0x40 | (length & 15) as u8, (length >> 4) as u8]);
    }

    /// `Scope (\SEG)` in the root.
    pub fn scope(&mut self, segment: &[u8; 4]) -> Open {
        let open = self.open(&[0x10]);
        self.raw(b"\\");
        self.raw(segment);
        open
    }

    /// `Device (SEG)`.
    pub fn device(&mut self, segment: &[u8; 4]) -> Open {
        let open = self.open(&[0x5b, 0x82]);
        self.raw(segment);
        open
    }

    /// `Name (SEG, …)`: the value follows.
    pub fn name(&mut self, segment: &[u8; 4]) {
        self.raw(&[0x08]);
        self.raw(segment);
    }

    /// An integer in its shortest form.
    pub fn integer(&mut self, value: u64) {
        let bytes = value.to_le_bytes();
        match value {
            0 => self.raw(&[0x00]),
            1 => self.raw(&[0x01]),
            2..=0xff => self.raw(&[0x0a, bytes[0]]),
            0x100..=0xffff => self.raw(&[0x0b, bytes[0], bytes[1]]),
            0x1_0000..=0xffff_ffff => {
                self.raw(&[0x0c]);
                self.raw(&(value as u32).to_le_bytes());
            }
            _ => {
                self.raw(&[0x0e]);
                self.raw(&bytes);
            }
        }
    }

    /// A string of ASCII characters.
    pub fn string(&mut self, text: &str) {
        self.raw(&[0x0d]);
        self.raw(text.as_bytes());
        self.raw(&[0]);
    }

    /// An EISA identifier as `PNP0A03` (19.3.4): three letters, four hexadecimal digits.
    pub fn eisa_id(&mut self, id: &[u8; 7]) {
        let [a, b, c, digits @ ..] = *id;
        let letters = u16::from(a & 31) << 10 | u16::from(b & 31) << 5 | u16::from(c & 31);
        let product = digits
            .iter()
            .fold(0u16, |value, digit| value << 4 | char::from(*digit).to_digit(16).unwrap_or(0) as u16);
        self.raw(&[0x0c]);
        self.raw(&letters.to_be_bytes());
        self.raw(&product.to_be_bytes());
    }

    /// `Package () {…}` of `count` elements, which follow.
    pub fn package(&mut self, count: u8) -> Open {
        let open = self.open(&[0x12]);
        self.raw(&[count]);
        open
    }

    /// `ResourceTemplate () {…}`: descriptors follow.
    pub fn resources(&mut self) -> OpenBuffer {
        let open = self.open(&[0x11]);
        self.raw(&[0x0b]);
        let size = self.bytes.len();
        self.raw(&[0, 0]);
        OpenBuffer(open, size)
    }

    /// Ends a resource template with an end tag, whose checksum of 0 stands for a good one (6.4.2.9).
    pub fn close_resources(&mut self, open: OpenBuffer) {
        self.raw(&[0x79, 0]);
        let OpenBuffer(open, size) = open;
        let length = self.bytes.len().saturating_sub(size).saturating_sub(2);
        self.patch(size, &(length as u16).to_le_bytes());
        self.close(open);
    }

    /// `IO (Decode16, …)`: `length` ports from `port` on (6.4.2.5).
    pub fn io(&mut self, port: u16, length: u8) {
        let [low, high] = port.to_le_bytes();
        self.raw(&[0x47, 1, low, high, low, high, 1, length]);
    }

    /// `IRQNoFlags () {irq}`: edge-triggered, active high (6.4.2.1).
    pub fn irq(&mut self, irq: u8) {
        let [low, high] = (1u16 << (irq & 15)).to_le_bytes();
        self.raw(&[0x22, low, high]);
    }

    /// `Memory32Fixed (ReadWrite, …)` (6.4.3.4).
    pub fn memory32(&mut self, address: u32, length: u32) {
        self.raw(&[0x86, 9, 0, 1]);
        self.raw(&address.to_le_bytes());
        self.raw(&length.to_le_bytes());
    }

    /// `WordBusNumber`: buses `first` to `last` that a bridge makes (6.4.3.5.3).
    pub fn bus_numbers(&mut self, first: u16, last: u16) {
        self.word_space(2, 0, first, last);
    }

    /// `WordIO`: ports `first` to `last` that a bridge passes on.
    pub fn io_window(&mut self, first: u16, last: u16) {
        // Type-specific flags: the entire range, ISA and non-ISA (6.4.3.5.5).
        self.word_space(1, 3, first, last);
    }

    fn word_space(&mut self, kind: u8, specific: u8, first: u16, last: u16) {
        // General flags: minimum and maximum fixed, positive decode, producer.
        self.raw(&[0x88, 13, 0, kind, 0x0c, specific]);
        let length = last.wrapping_sub(first).wrapping_add(1);
        for value in [0, first, last, 0, length] {
            self.raw(&value.to_le_bytes());
        }
    }

    /// `DWordMemory`: addresses `first` to `last` that a bridge passes on, read and write, not cacheable.
    pub fn memory_window(&mut self, first: u32, last: u32) {
        self.raw(&[0x87, 23, 0, 0, 0x0c, 1]);
        for value in [0, first, last, 0, last.wrapping_sub(first).wrapping_add(1)] {
            self.raw(&value.to_le_bytes());
        }
    }
}

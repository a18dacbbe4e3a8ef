//! Character devices: the ones every machine has, and null, ring buffer and file.

use std::collections::VecDeque;

use monovisor_core::handlers::{Chardevs, Element, Poll};
use monovisor_core::schema::char::{
    ChardevAddArgs, ChardevBackend, ChardevBackendInfo, ChardevInfo, ChardevRemoveArgs, ChardevReturn,
    DataFormat, RingbufReadArgs, RingbufWriteArgs,
};
use monovisor_core::{Context, Error, Text, base64};

use super::Model;

/// What is behind a device.
#[derive(Debug)]
enum Back {
    /// Part of the machine.
    Machine,
    Null,
    File,
    Ring {
        bytes: VecDeque<u8>,
        size: usize,
    },
}

/// A character device.
#[derive(Debug)]
pub(super) struct Chardev {
    pub(super) id: String,
    pub(super) filename: String,
    /// Whether something listens at its other end.
    open: bool,
    back: Back,
}

/// Size of a ring buffer where none is given, in bytes.
const RING_BYTES: usize = 65536;
/// Largest ring buffer that the model makes, in bytes.
const MAX_RING_BYTES: usize = 1 << 24;
/// How many devices the model makes.
const MAX_CHARDEVS: usize = 64;

/// The devices at the start; a device that is made comes first.
pub(super) fn at_start() -> Vec<Chardev> {
    [("parallel0", "vc", false), ("serial0", "vc", true), ("compat_monitor0", "serial", true)]
        .map(|(id, filename, open)| Chardev {
            id: id.into(),
            filename: filename.into(),
            open,
            back: Back::Machine,
        })
        .into()
}

/// The kinds of devices that can be made.
const KINDS: [&str; 4] = ["memory", "file", "ringbuf", "null"];

fn refused<T>(error: Error) -> Poll<T> {
    Err(nb::Error::Other(error))
}

impl Model {
    fn ring(&mut self, id: &str) -> Result<(&mut VecDeque<u8>, usize), Error> {
        let Some(chardev) = self.chardevs.iter_mut().find(|chardev| chardev.id == id) else {
            return Err(Error::generic(format_args!("Device '{id}' not found")));
        };
        match &mut chardev.back {
            Back::Ring { bytes, size } => Ok((bytes, *size)),
            _ => Err(Error::generic(format_args!("{id} is not a ringbuf device"))),
        }
    }
}

impl Chardevs for Model {
    fn query_chardev(&mut self, index: usize, _: &mut Context<'_>) -> Element<ChardevInfo<'_>> {
        Ok(self.chardevs.get(index).map(|chardev| ChardevInfo {
            label: &chardev.id,
            filename: &chardev.filename,
            frontend_open: chardev.open,
        }))
    }

    fn query_chardev_backends(
        &mut self,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<ChardevBackendInfo<'_>> {
        Ok(KINDS.get(index).map(|name| ChardevBackendInfo { name }))
    }

    fn chardev_add(&mut self, arguments: ChardevAddArgs<'_>, _: &mut Context<'_>) -> Poll<ChardevReturn<'_>> {
        let id = arguments.id;
        if self.chardevs.iter().any(|chardev| chardev.id == id) {
            return refused(Error::generic(format_args!("Chardev '{id}' already exists")));
        }
        if self.chardevs.len() >= MAX_CHARDEVS {
            return refused(Error::generic(format_args!(
                "There are {MAX_CHARDEVS} character devices already"
            )));
        }
        let (back, filename) = match arguments.backend {
            ChardevBackend::Null(_) => (Back::Null, "null"),
            ChardevBackend::File(file) => {
                self.save(file.out, Vec::new())?;
                (Back::File, "file")
            }
            ChardevBackend::Ringbuf(ring) | ChardevBackend::Memory(ring) => {
                let size = ring.size.map_or(Ok(RING_BYTES), usize::try_from).unwrap_or(0);
                if !size.is_power_of_two() {
                    return refused(Error::text("size of ringbuf chardev must be power of two"));
                }
                if size > MAX_RING_BYTES {
                    return refused(Error::generic(format_args!("The model has no room for {size} bytes")));
                }
                (Back::Ring { bytes: VecDeque::new(), size }, "ringbuf")
            }
            other => {
                return refused(Error::generic(format_args!(
                    "chardev backend '{}' is not supported",
                    other.kind().as_str()
                )));
            }
        };
        let chardev = Chardev { id: id.into(), filename: filename.into(), open: false, back };
        self.chardevs.insert(0, chardev);
        Ok(ChardevReturn { pty: None })
    }

    fn chardev_remove(&mut self, arguments: ChardevRemoveArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        let id = arguments.id;
        let Some(at) = self.chardevs.iter().position(|chardev| chardev.id == id) else {
            return refused(Error::generic(format_args!("Chardev '{id}' not found")));
        };
        if matches!(self.chardevs[at].back, Back::Machine) {
            return refused(Error::generic(format_args!("Chardev '{id}' is busy")));
        }
        self.chardevs.remove(at);
        Ok(())
    }

    fn ringbuf_write(&mut self, arguments: RingbufWriteArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        let (ring, size) = self.ring(arguments.device)?;
        let data = match arguments.format.unwrap_or(DataFormat::Utf8) {
            DataFormat::Utf8 => arguments.data.as_bytes().to_vec(),
            DataFormat::Base64 => decode(arguments.data)?,
        };
        for byte in data {
            if ring.len() == size {
                ring.pop_front();
            }
            ring.push_back(byte);
        }
        Ok(())
    }

    fn ringbuf_read(
        &mut self,
        arguments: RingbufReadArgs<'_>,
        text: &mut Text<'_, '_>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        /// Bytes that are sent at a time; a multiple of three, so that pieces of base64 join.
        const PIECE: usize = 192;
        let (ring, _) = self.ring(arguments.device)?;
        let Some(size) = usize::try_from(arguments.size).ok().filter(|&size| size > 0) else {
            return refused(Error::expects("size", "a size larger than zero"));
        };
        text.resume();
        // `progress` counts what was taken out by earlier calls.
        loop {
            let left = size.saturating_sub(cx.progress as usize).min(ring.len());
            if left == 0 {
                return Ok(());
            }
            let mut piece: Vec<u8> = ring.iter().copied().take(left.min(PIECE)).collect();
            if arguments.format == Some(DataFormat::Base64) {
                let mut encoded = Vec::new();
                base64::encode(&piece, |group| encoded.extend_from_slice(group));
                text.write(format_args!("{}", String::from_utf8_lossy(&encoded)))?;
            } else {
                if let Err(error) = str::from_utf8(&piece)
                    && error.valid_up_to() > 0
                {
                    piece.truncate(error.valid_up_to());
                }
                text.write(format_args!("{}", String::from_utf8_lossy(&piece)))?;
            }
            ring.drain(..piece.len());
            cx.progress += piece.len() as u64;
        }
    }
}

/// The bytes of base64.
fn decode(text: &str) -> Result<Vec<u8>, Error> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for symbol in text.bytes().filter(|&symbol| symbol != b'=') {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(Error::text("Base64 data is not valid")),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Ok(bytes)
}

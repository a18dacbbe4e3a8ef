//! What is connected to the character devices: the ports of virtio-serial.
//!
//! Bytes go straight between a port's queues and its character device, as far as both have room: a guest whose output
//! nobody takes waits, and input stays where it is until the guest has buffers. Output that a file has no room for is lost.

use monovisor_core::Error;
use monovisor_core::chardev::{CHARDEVS, Chardevs, Kind};
use monovisor_core::schema::char::{
    ChardevAddArgs, ChardevBackend, ChardevCommon, ChardevFile, ChardevHostdev, ChardevMux, ChardevRingbuf,
    VserportChange,
};
use monovisor_devices::virtio::console::Console;
use monovisor_host::uart::{LINES, Uart};
use monovisor_loader::options::{Group, GroupError, GroupKind, GroupProblem};
use monovisor_store::FileId;

use crate::handlers::chardevs::line_of;
use crate::hypervisor::Hypervisor;
use crate::store::Files;
use crate::virtio::Links;

/// Bytes of input that are moved at a time.
const PIECE: usize = 256;

/// Pieces of input for one port in one turn.
const STEP: u32 = 16;

/// Back ends of QEMU that there are none of here.
const NOT_YET: [&str; 12] = [
    "braille",
    "console",
    "msmouse",
    "parallel",
    "pipe",
    "pty",
    "socket",
    "spiceport",
    "spicevmc",
    "stdio",
    "udp",
    "vc",
];

/// A file that is a character device.
#[derive(Clone, Copy, Debug)]
pub struct OpenFile {
    /// Where output goes, and how much of it is there.
    output: (FileId, u64),
    /// Where input comes from, and how much of it has been taken.
    input: Option<(FileId, u64)>,
}

/// The ports and the files behind them.
pub struct Frontends {
    links: Links,
    files: [Option<OpenFile>; CHARDEVS],
    /// There is more to move.
    more: bool,
}

impl Frontends {
    /// None.
    pub const fn new() -> Self {
        Self { links: Links::new(), files: [None; CHARDEVS], more: false }
    }

    /// Keeps a file that is open; its place. `None`: there is none left, which the table of devices does not let happen.
    pub fn keep(&mut self, files: Files, output: FileId, input: Option<FileId>) -> Option<usize> {
        let end = files.lock().stat(output).map_or(0, |stat| stat.size);
        let (place, free) = self.files.iter_mut().enumerate().find(|(_, file)| file.is_none())?;
        *free = Some(OpenFile { output: (output, end), input: input.map(|input| (input, 0)) });
        Some(place)
    }

    /// Forgets a file.
    pub fn forget(&mut self, place: usize) {
        if let Some(file) = self.files.get_mut(place) {
            *file = None;
        }
    }
}

/// Checks a `-chardev` list.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_chardev<'a>(group: &Group<'a>) -> Result<(), GroupError<'a>> {
    group.required("backend")?;
    backend(group)?;
    group.required("id").map(|_| ())
}

/// The back end that a list describes.
fn backend<'a>(group: &Group<'a>) -> Result<ChardevBackend<'a>, GroupError<'a>> {
    let only = |keys: &[&str]| group.only(keys);
    let size = || {
        let size = group.size("size")?;
        Ok(size.map(|size| i64::try_from(size).unwrap_or(i64::MAX)))
    };
    let (logfile, logappend) = (None, None);
    Ok(match group.driver() {
        "null" => {
            only(&[])?;
            ChardevBackend::Null(ChardevCommon { logfile, logappend })
        }
        "ringbuf" | "memory" => {
            only(&["size"])?;
            ChardevBackend::Ringbuf(ChardevRingbuf { logfile, logappend, size: size()? })
        }
        "file" => {
            only(&["path", "input-path", "append"])?;
            ChardevBackend::File(ChardevFile {
                logfile,
                logappend,
                input: group.str("input-path"),
                out: group.required("path")?,
                append: group.bool("append")?,
            })
        }
        "serial" | "tty" => {
            only(&["path"])?;
            ChardevBackend::Serial(ChardevHostdev { logfile, logappend, device: group.required("path")? })
        }
        "mux" => {
            only(&["chardev"])?;
            ChardevBackend::Mux(ChardevMux { logfile, logappend, chardev: group.required("chardev")? })
        }
        kind if NOT_YET.contains(&kind) => return Err(group.error("backend", GroupProblem::NotYet)),
        _ => return Err(group.error("backend", GroupProblem::NoSuch("char driver name"))),
    })
}

/// What the bytes of a port go through.
struct Sink<'h> {
    chardevs: &'h mut Chardevs,
    lines: &'h mut [Option<Uart>; LINES],
    files: &'h mut [Option<OpenFile>; CHARDEVS],
    store: Files,
}

impl Sink<'_> {
    /// Writes to the device behind an identifier; how much it has taken.
    fn write(&mut self, id: &str, bytes: &[u8]) -> usize {
        let Some(device) = self.chardevs.resolve(id) else { return bytes.len() };
        match device.kind() {
            Kind::Null | Kind::Mux => {}
            Kind::Ringbuf(_) => {
                let kind = device.kind();
                self.chardevs.write(kind, bytes);
            }
            Kind::Own(0) => {
                let line = line_of(device).and_then(|line| self.lines.get_mut(line));
                if let Some(Some(line)) = line {
                    return line.write_slice(bytes);
                }
            }
            Kind::Own(place) => {
                if let Some(Some(file)) = self.files.get_mut(place - 1) {
                    let (id, end) = file.output;
                    if self.store.lock().write_at(id, end, bytes).is_ok() {
                        file.output.1 = end.saturating_add(bytes.len() as u64);
                    }
                }
            }
        }
        bytes.len()
    }

    /// Input of the device behind an identifier, as far as there is any now.
    fn read(&mut self, id: &str, buffer: &mut [u8]) -> usize {
        let Some(device) = self.chardevs.resolve(id) else { return 0 };
        match device.kind() {
            Kind::Own(0) => {
                let line = line_of(device).and_then(|line| self.lines.get_mut(line));
                let Some(Some(line)) = line else { return 0 };
                let mut count = 0;
                for place in buffer {
                    loop {
                        match line.read() {
                            Ok(byte) => {
                                *place = byte;
                                count += 1;
                                break;
                            }
                            Err(nb::Error::WouldBlock) => return count,
                            // A character that came in broken is left out.
                            Err(nb::Error::Other(_)) => {}
                        }
                    }
                }
                count
            }
            Kind::Own(place) => {
                let Some(Some(file)) = self.files.get_mut(place - 1) else { return 0 };
                let Some((id, at)) = &mut file.input else { return 0 };
                let count = self.store.lock().read_at(*id, *at, buffer).unwrap_or(0);
                *at = at.saturating_add(count as u64);
                count
            }
            Kind::Null | Kind::Ringbuf(_) | Kind::Mux => 0,
        }
    }

    /// Whether there may be input.
    fn has_input(&self, id: &str) -> bool {
        self.chardevs.resolve(id).is_some_and(|device| match device.kind() {
            Kind::Own(0) => line_of(device)
                .and_then(|line| self.lines.get(line)?.as_ref())
                .is_some_and(|line| line.available() != 0),
            Kind::Own(place) => {
                self.files.get(place - 1).is_some_and(|file| file.is_some_and(|file| file.input.is_some()))
            }
            _ => false,
        })
    }
}

impl Hypervisor<'_> {
    /// Makes the character devices of the command line, and connects the ports with theirs.
    ///
    /// # Errors
    /// The first one that cannot be made or connected, with the option that it is from.
    pub fn connect(&mut self, links: Links) -> Result<(), (Group<'static>, Error)> {
        let mut index = 0;
        loop {
            let group = self.launch.options.groups(GroupKind::Chardev).nth(index);
            let Some(group) = group else { break };
            index += 1;
            // What is wrong with the list itself has been said.
            let Ok(backend) = backend(&group) else { continue };
            let arguments = ChardevAddArgs { id: group.id().unwrap_or_default(), backend };
            self.add_chardev(&arguments).map_err(|error| (group, error))?;
        }
        for link in &links {
            if let Some(id) = link.chardev() {
                self.chardevs.connect(id, link.console).map_err(|error| (link.group, error))?;
            }
        }
        self.frontends.links = links;
        Ok(())
    }

    /// Moves bytes between ports and what they are connected to. `told`: a guest has output, or room for input. True: there
    /// is more to move.
    pub fn move_bytes(&mut self, told: bool) -> bool {
        let Self { guest, chardevs, lines, files, frontends, .. } = self;
        let Some(guest) = guest else { return false };
        let Frontends { links, files: open, more } = frontends;
        if links.is_empty() {
            return false;
        }
        let all = told || core::mem::take(more);
        let mut sink = Sink { chardevs, lines, files: open, store: *files };
        for link in links.iter() {
            let (Some(slot), id) = (link.slot, link.chardev()) else { continue };
            // What a port sends that nothing is connected to is gone.
            let input = id.filter(|id| sink.has_input(id));
            if !all && input.is_none() {
                continue;
            }
            guest.devices(&mut |devices| {
                let now = devices.now();
                let _ = devices.pc.with_virtio(slot, now, |console: &mut Console, cx| {
                    *more |= console.output(link.port, cx, &mut |bytes| {
                        id.map_or(bytes.len(), |id| sink.write(id, bytes))
                    });
                    let Some(id) = input else { return };
                    for _ in 0..STEP {
                        let mut piece = [0; PIECE];
                        let room = console.room(link.port, cx).min(PIECE);
                        let Some(place) = piece.get_mut(..room) else { return };
                        let count = if room == 0 { 0 } else { sink.read(id, place) };
                        if count == 0 {
                            return;
                        }
                        // All of it has room.
                        console.input(link.port, place.get(..count).unwrap_or_default(), cx);
                    }
                    *more = true;
                });
            });
        }
        *more
    }

    /// The next port with a name that the guest has opened or closed since the last question.
    pub fn port_change(&mut self) -> Option<VserportChange<'static>> {
        let Self { guest, chardevs, frontends, .. } = self;
        let guest = guest.as_mut()?;
        for link in &frontends.links {
            let mut change = None;
            guest.devices(&mut |devices| {
                let now = devices.now();
                let slot = link.slot.unwrap_or(0);
                change = devices
                    .pc
                    .with_virtio(slot, now, |console: &mut Console, _| console.take_change(link.port))
                    .flatten();
            });
            let Some(open) = change else { continue };
            // A console's other end is always there for its device.
            if let Some(device) = link.chardev().and_then(|id| chardevs.find_mut(id))
                && !link.console
            {
                device.open = open;
            }
            if !link.id().is_empty() {
                return Some(VserportChange { id: link.id(), open });
            }
        }
        None
    }
}

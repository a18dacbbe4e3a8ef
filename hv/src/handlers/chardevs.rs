//! Character devices: the rig's lines, files of the store, and those that need nothing but memory.

use monovisor_core::chardev::{Chardev, Chardevs as Table, Kind};
use monovisor_core::handlers::{Chardevs, Element, Poll};
use monovisor_core::schema::char::{
    ChardevAddArgs, ChardevBackend, ChardevBackendInfo, ChardevFile, ChardevInfo, ChardevRemoveArgs,
    ChardevReturn, RingbufReadArgs, RingbufWriteArgs,
};
use monovisor_core::schema::extensions::SerialPortInfo;
use monovisor_core::{Context, Error, Text};
use monovisor_host::power;
use monovisor_host::uart::{self, LINES};
use monovisor_store::IfExists;
use spin::{Mutex, MutexGuard};

use crate::hypervisor::{Hypervisor, SESSIONS};
use crate::lines;
use crate::store::open_error;

/// The kinds of devices that can be made, in QEMU's order.
const BACKENDS: [&str; 6] = ["memory", "mux", "serial", "file", "ringbuf", "null"];

/// The lines of the monitor, by the names that QEMU gives them.
const MONITORS: [&str; LINES] = ["compat_monitor0", "compat_monitor1", "compat_monitor2", "compat_monitor3"];

/// The guest's first serial port.
const SERIAL: &str = "serial0";

/// [`Kind::Own`] of the rig's lines.
const LINE: Kind = Kind::Own(0);
/// [`Kind::Own`] of files of the store begin here.
const FILES: usize = 1;

/// The rig's serial ports, as a client names them and as QEMU names what is open.
const PORTS: [(&str, &str); LINES] =
    [("com1", "serial:com1"), ("com2", "serial:com2"), ("com3", "serial:com3"), ("com4", "serial:com4")];

static DEVICES: Mutex<Table> = Mutex::new(Table::new());

/// The table of devices. May be called once.
pub(crate) fn table() -> &'static mut Table {
    MutexGuard::leak(DEVICES.lock())
}

/// A line's name among the files.
fn file_name(line: usize) -> &'static str {
    PORTS.get(line).map_or("serial", |(_, name)| name)
}

/// The line that a device is for.
pub(crate) fn line_of(device: &Chardev) -> Option<usize> {
    PORTS.iter().position(|(_, name)| *name == device.filename())
}

/// The file that a backend is to log to, as every kind but a mux may.
fn logfile<'a>(backend: &ChardevBackend<'a>) -> Option<&'a str> {
    match backend {
        ChardevBackend::Null(common) => common.logfile,
        ChardevBackend::Ringbuf(ringbuf) | ChardevBackend::Memory(ringbuf) => ringbuf.logfile,
        ChardevBackend::File(file) => file.logfile,
        ChardevBackend::Serial(device) => device.logfile,
        ChardevBackend::Mux(mux) => mux.logfile,
        _ => None,
    }
}

impl Hypervisor<'_> {
    /// Enters the lines that are there from the start. `console` says whether the guest's serial port has one.
    pub(crate) fn enter_lines(&mut self, console: bool) {
        let Some(board) = power::board() else { return };
        let options = &self.launch.options;
        // None of this can fail: the table is empty and has room.
        if self.guest.is_some() {
            let line = lines::console(board, options).filter(|_| console);
            let _ = self.chardevs.enter(SERIAL, line.map_or("null", file_name), LINE, true, true);
        }
        for (name, line) in MONITORS.iter().take(SESSIONS).zip(lines::monitors(board, options)) {
            let _ = self.chardevs.enter(name, file_name(line), LINE, true, true);
        }
    }

    /// Opens a file of the store as a device; its place among the front ends' files.
    fn open_file(&mut self, file: &ChardevFile<'_>) -> Result<usize, Error> {
        let open = |name| self.files.lock().open(name).map_err(|error| open_error(name, error));
        let input = file.input.map(open).transpose()?;
        let if_exists = if file.append == Some(true) { IfExists::Keep } else { IfExists::Truncate };
        let output =
            self.files.lock().create(file.out, if_exists).map_err(|error| open_error(file.out, error))?;
        // There are as many places as devices.
        self.frontends.keep(self.files, output, input).ok_or_else(Error::io)
    }

    /// Opens a serial port of the rig that nothing else uses; gives its name among the files.
    fn open_port(&mut self, name: &str) -> Result<&'static str, Error> {
        let Some((index, (_, file))) = PORTS.iter().enumerate().find(|(_, (port, _))| *port == name) else {
            return Err(Error::cannot_open(name, "No such file or directory"));
        };
        let absent = || Error::cannot_open(name, "No such device or address");
        if self.chardevs.find_filename(file).is_some() {
            return Err(Error::cannot_open(name, "Device or resource busy"));
        }
        let line = self.lines.get_mut(index).ok_or_else(absent)?;
        if line.is_none() {
            *line = power::board().and_then(|board| lines::open(board, &self.launch.options, index));
        }
        if line.is_some() { Ok(file) } else { Err(absent()) }
    }
}

impl Hypervisor<'_> {
    /// Makes a device.
    pub(crate) fn add_chardev(&mut self, arguments: &ChardevAddArgs<'_>) -> Result<(), Error> {
        let id = arguments.id;
        if logfile(&arguments.backend).is_some() {
            return Err(Error::text("logfile is not supported: the store keeps no logs yet"));
        }
        if self.chardevs.add(arguments)?.is_some() {
            return Ok(());
        }
        self.chardevs.check(id)?;
        match arguments.backend {
            ChardevBackend::File(file) => {
                let place = self.open_file(&file)?;
                self.chardevs.enter(id, "file", Kind::Own(FILES + place), false, false)
            }
            ChardevBackend::Serial(port) => {
                let name = self.open_port(port.device)?;
                self.chardevs.enter(id, name, LINE, false, false)
            }
            _ => Err(Error::text("chardev backend not available")),
        }
    }
}

impl Chardevs for Hypervisor<'_> {
    fn query_chardev(&mut self, index: usize, _: &mut Context<'_>) -> Element<ChardevInfo<'_>> {
        self.chardevs.query(index)
    }

    fn query_chardev_backends(
        &mut self,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<ChardevBackendInfo<'_>> {
        Ok(BACKENDS.get(index).map(|name| ChardevBackendInfo { name }))
    }

    fn x_query_serial(&mut self, index: usize, _: &mut Context<'_>) -> Element<SerialPortInfo<'_>> {
        let mut open =
            PORTS.iter().enumerate().filter_map(|(line, port)| Some((port.0, uart::counters(line)?)));
        Ok(open.nth(index).map(|(port, counters)| SerialPortInfo {
            port,
            chip: counters.chip.name(),
            baud: counters.baud,
            received: counters.received,
            sent: counters.sent,
            overruns: counters.overruns,
            framing: counters.framing,
            parity: counters.parity,
            breaks: counters.breaks,
            throttled: counters.throttled,
        }))
    }

    fn chardev_add(&mut self, arguments: ChardevAddArgs<'_>, _: &mut Context<'_>) -> Poll<ChardevReturn<'_>> {
        self.add_chardev(&arguments)?;
        Ok(ChardevReturn { pty: None })
    }

    fn chardev_remove(&mut self, arguments: ChardevRemoveArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        // A file stays in the store, and a line stays open for the next who asks for it.
        if let Kind::Own(kind) = self.chardevs.remove(arguments.id)?
            && let Some(place) = kind.checked_sub(FILES)
        {
            self.frontends.forget(place);
        }
        Ok(())
    }

    fn ringbuf_write(&mut self, arguments: RingbufWriteArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        Ok(self.chardevs.ringbuf_write(&arguments)?)
    }

    fn ringbuf_read(
        &mut self,
        arguments: RingbufReadArgs<'_>,
        text: &mut Text<'_, '_>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        self.chardevs.ringbuf_read(&arguments, text, &mut cx.progress)
    }
}

//! Character devices: the rig's lines, files of the store, and those that need nothing but memory.

use monovisor_core::chardev::{Chardevs as Table, Kind};
use monovisor_core::handlers::{Chardevs, Element, Poll};
use monovisor_core::schema::char::{
    ChardevAddArgs, ChardevBackend, ChardevBackendInfo, ChardevFile, ChardevInfo, ChardevRemoveArgs,
    ChardevReturn, RingbufReadArgs, RingbufWriteArgs,
};
use monovisor_core::{Context, Error, Text};
use monovisor_host::power;
use monovisor_host::uart::{Uart, UartConfig};
use monovisor_store::IfExists;
use spin::{Mutex, MutexGuard};

use crate::hypervisor::Hypervisor;
use crate::store::open_error;

/// The kinds of devices that can be made, in QEMU's order.
const BACKENDS: [&str; 6] = ["memory", "mux", "serial", "file", "ringbuf", "null"];

/// The line of the monitor, by the name that QEMU gives it.
const MONITOR: &str = "compat_monitor0";

/// The guest's first serial port.
const SERIAL: &str = "serial0";

/// [`Kind::Own`] of the rig's lines.
const LINE: Kind = Kind::Own(0);
/// [`Kind::Own`] of files of the store.
const FILE: Kind = Kind::Own(1);

/// The host's line that a board without a guest console leaves free.
const FREE_LINE: usize = 1;

/// Speed at which a line is opened, in bits per second.
const BAUD: u32 = 115_200;

/// The serial ports of a PC: ports and ISA interrupts by long convention.
const PORTS: [(&str, &str, UartConfig); 4] = [
    ("com1", "serial:com1", UartConfig::COM1),
    ("com2", "serial:com2", UartConfig::COM2),
    ("com3", "serial:com3", UartConfig { base: 0x3e8, irq: 4, base_baud: 115_200 }),
    ("com4", "serial:com4", UartConfig { base: 0x2e8, irq: 3, base_baud: 115_200 }),
];

static DEVICES: Mutex<Table> = Mutex::new(Table::new());

/// The table of devices. May be called once.
pub(crate) fn table() -> &'static mut Table {
    MutexGuard::leak(DEVICES.lock())
}

/// A line's name among the files.
fn file_name(line: UartConfig) -> &'static str {
    PORTS.iter().find(|(.., port)| port.base == line.base).map_or("serial", |(_, name, _)| name)
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
    /// Enters the lines that are there from the start. `console` is that of the guest's serial port.
    pub(crate) fn enter_lines(&mut self, console: Option<UartConfig>) {
        // Cannot fail: the table is empty.
        if self.guest.is_some() {
            let _ = self.chardevs.enter(SERIAL, console.map_or("null", file_name), LINE, true, true);
        }
        if let Some(board) = power::board() {
            let _ = self.chardevs.enter(MONITOR, file_name(board.qmp), LINE, true, true);
        }
    }

    fn open_file(&mut self, file: &ChardevFile<'_>) -> Result<(), Error> {
        if let Some(input) = file.input {
            self.files.open(input).map_err(|error| open_error(input, error))?;
        }
        let if_exists = if file.append == Some(true) { IfExists::Keep } else { IfExists::Truncate };
        self.files.create(file.out, if_exists).map_err(|error| open_error(file.out, error))?;
        Ok(())
    }

    /// Opens a serial port of the rig that nothing else uses. The host drives two lines, and once opened the second stays
    /// at its port.
    fn open_port(&mut self, name: &str) -> Result<(), Error> {
        let Some((.., config)) = PORTS.iter().find(|(port, ..)| *port == name) else {
            return Err(Error::cannot_open(name, "No such file or directory"));
        };
        let busy = || Error::cannot_open(name, "Device or resource busy");
        if let Some(line) = &self.line {
            let free =
                line.config() == Some(*config) && self.chardevs.find_filename(file_name(*config)).is_none();
            return if free { Ok(()) } else { Err(busy()) };
        }
        let Some(board) = power::board() else {
            return Err(Error::cannot_open(name, "No such device or address"));
        };
        if board.qmp.base == config.base || board.console.is_some() {
            return Err(busy());
        }
        match Uart::open(FREE_LINE, *config, BAUD) {
            Some(line) => self.line = Some(line),
            None => return Err(Error::cannot_open(name, "No such device or address")),
        }
        Ok(())
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

    fn chardev_add(&mut self, arguments: ChardevAddArgs<'_>, _: &mut Context<'_>) -> Poll<ChardevReturn<'_>> {
        const MADE: ChardevReturn<'_> = ChardevReturn { pty: None };
        let id = arguments.id;
        if logfile(&arguments.backend).is_some() {
            return Err(nb::Error::Other(Error::text(
                "logfile is not supported: the store keeps no logs yet",
            )));
        }
        if self.chardevs.add(&arguments)?.is_some() {
            return Ok(MADE);
        }
        self.chardevs.check(id)?;
        match arguments.backend {
            ChardevBackend::File(file) => {
                self.open_file(&file)?;
                self.chardevs.enter(id, "file", FILE, false, false)?;
            }
            ChardevBackend::Serial(port) => {
                self.open_port(port.device)?;
                let name =
                    PORTS.iter().find(|(name, ..)| *name == port.device).map_or("serial", |port| port.1);
                self.chardevs.enter(id, name, LINE, false, false)?;
            }
            _ => return Err(nb::Error::Other(Error::text("chardev backend not available"))),
        }
        Ok(MADE)
    }

    fn chardev_remove(&mut self, arguments: ChardevRemoveArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        // A file stays in the store, and a line stays open for the next who asks for it.
        self.chardevs.remove(arguments.id)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_names_of_their_ports() {
        assert_eq!(file_name(UartConfig::COM1), "serial:com1");
        assert_eq!(file_name(UartConfig { base: 0x2e8, irq: 11, base_baud: 1 }), "serial:com4");
        assert_eq!(file_name(UartConfig { base: 0x1000, irq: 4, base_baud: 1 }), "serial");
    }
}

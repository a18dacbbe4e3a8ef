//! The back ends of the devices on the bare metal: the console's UART, the rig's wall clock.

use monovisor_host::timer;
use monovisor_host::uart::{Uart, UartConfig};

use crate::trace::{self, Point};

/// What the guest's devices are connected to.
pub struct Backend {
    console: Option<Uart>,
}

impl Backend {
    /// A guest whose serial port is wired to `console`; without one, what it sends is dropped.
    pub fn new(console: Option<Uart>) -> Self {
        Self { console }
    }

    /// Wall-clock time in microseconds since 1970-01-01 UTC; 0 where the rig has no clock.
    pub fn wall_clock_us(&self) -> u64 {
        timer::wall_clock().unwrap_or(0)
    }
}

impl monovisor_devices::Backend for Backend {
    fn console_write(&mut self, byte: u8) -> bool {
        let taken = self.console.as_mut().is_none_or(|console| console.write(byte).is_ok());
        if taken && trace::enabled() {
            trace::record(Point::SerialWrite, None, format_args!("byte={byte:#04x}"));
        }
        taken
    }

    fn console_read(&mut self) -> Option<u8> {
        let console = self.console.as_mut()?;
        loop {
            match console.read() {
                Ok(byte) => {
                    if trace::enabled() {
                        trace::record(Point::SerialRead, None, format_args!("byte={byte:#04x}"));
                    }
                    return Some(byte);
                }
                Err(nb::Error::WouldBlock) => return None,
                // A broken character on a console is noise: a person sees it and types again.
                Err(nb::Error::Other(_)) => {}
            }
        }
    }
}

impl Backend {
    /// The line of the guest's serial port.
    pub fn console(&self) -> Option<UartConfig> {
        self.console.as_ref()?.config()
    }

    /// All that the guest has sent has left the line.
    pub fn console_is_idle(&self) -> bool {
        self.console.as_ref().is_none_or(Uart::is_idle)
    }

    /// Something has been typed.
    pub fn has_input(&self) -> bool {
        self.console.as_ref().is_some_and(|console| console.available() > 0)
    }
}

//! A host UART as a monitor session's line.

use core::convert::Infallible;

use monovisor_core::port::{LineError, Port};
use monovisor_host::uart::{self, Uart};

/// The serial line of one session.
pub struct SerialPort {
    uart: Uart,
}

impl SerialPort {
    /// A session on `uart`.
    pub fn new(uart: Uart) -> Self {
        Self { uart }
    }

    /// Everything that was sent has left the chip.
    pub fn is_idle(&self) -> bool {
        self.uart.is_idle()
    }

    /// Looks whether a client has come: DCD or DSR has risen since the last time.
    pub fn connected(&mut self) -> bool {
        self.uart.connected()
    }
}

impl Port for SerialPort {
    fn read(&mut self) -> nb::Result<u8, LineError> {
        self.uart.read().map_err(|error| {
            error.map(|error| match error {
                uart::LineError::Overrun => LineError::Overrun,
                uart::LineError::Break => LineError::Break,
                _ => LineError::Framing,
            })
        })
    }

    fn read_some(&mut self, bytes: &mut [u8]) -> nb::Result<usize, LineError> {
        match self.uart.read_slice(bytes) {
            0 => {
                let byte = self.read()?;
                let Some(place) = bytes.first_mut() else { return Err(nb::Error::WouldBlock) };
                *place = byte;
                Ok(1)
            }
            count => Ok(count),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> nb::Result<usize, Infallible> {
        match self.uart.write_slice(bytes) {
            0 => Err(nb::Error::WouldBlock),
            count => Ok(count),
        }
    }
}

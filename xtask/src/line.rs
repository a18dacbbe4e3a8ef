//! A serial line as an emulator offers it: a stream socket.

use anyhow::{Context, Result, bail};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A two-way byte stream to one UART.
#[derive(Debug)]
pub enum Line {
    /// QEMU's.
    Unix(UnixStream),
    /// Bochs's.
    Tcp(TcpStream),
}

impl Line {
    /// A second handle to the same line.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }

    /// Ends both directions, for every handle.
    pub fn shutdown(&self) {
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(std::net::Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(std::net::Shutdown::Both),
        };
    }

    /// Makes a read that finds nothing for so long fail with `WouldBlock`; `None` waits for ever.
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(limit),
            Self::Tcp(stream) => stream.set_read_timeout(limit),
        }
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

/// The end that we keep and that an emulator connects to: no byte is lost before somebody listens.
#[derive(Debug)]
pub enum Socket {
    /// For QEMU: `-serial unix:PATH`.
    Unix(UnixListener, PathBuf),
    /// For Bochs: `mode=socket-client`.
    Tcp(TcpListener),
}

impl Socket {
    /// Listens on a Unix socket; an old file of that name goes.
    pub fn unix(path: &Path) -> Result<Self> {
        Ok(Self::Unix(listen(path)?, path.to_owned()))
    }

    /// Listens on a free TCP port of this machine.
    pub fn tcp() -> Result<Self> {
        Ok(Self::Tcp(TcpListener::bind("127.0.0.1:0")?))
    }

    /// Where the emulator has to connect to: a path, or HOST:PORT.
    pub fn address(&self) -> Result<String> {
        Ok(match self {
            Self::Unix(_, path) => path.display().to_string(),
            Self::Tcp(listener) => listener.local_addr()?.to_string(),
        })
    }

    /// Waits for the emulator; `alive` says whether it is still worth it.
    pub fn accept(&self, limit: Duration, mut alive: impl FnMut() -> Result<bool>) -> Result<Line> {
        let end = Instant::now() + limit;
        loop {
            let taken = match self {
                Self::Unix(listener, _) => {
                    listener.set_nonblocking(true)?;
                    listener.accept().map(|(stream, _)| Line::Unix(stream))
                }
                Self::Tcp(listener) => {
                    listener.set_nonblocking(true)?;
                    listener.accept().map(|(stream, _)| Line::Tcp(stream))
                }
            };
            match taken {
                Ok(line) => {
                    match &line {
                        Line::Unix(stream) => stream.set_nonblocking(false)?,
                        Line::Tcp(stream) => {
                            stream.set_nonblocking(false)?;
                            stream.set_nodelay(true)?;
                        }
                    }
                    return Ok(line);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("cannot take the emulator's serial line"),
            }
            if !alive()? {
                bail!("the emulator ended before it opened its serial lines");
            }
            if Instant::now() >= end {
                bail!("the emulator did not open its serial lines within {} s", limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Listens on a Unix socket; a stale one of that name is removed, one that is in use is an error.
pub fn listen(path: &Path) -> Result<UnixListener> {
    if path.exists() {
        if UnixStream::connect(path).is_ok() {
            bail!("{} is in use by another run", path.display());
        }
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))
}

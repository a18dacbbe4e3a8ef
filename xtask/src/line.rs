//! A serial line as an emulator offers it: a stream socket, or a terminal.

use anyhow::{Context, Result, bail};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{self, OptionalActions};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
    /// Our end of a pseudo-terminal. It ends when the emulator does.
    Terminal(File),
}

impl Line {
    /// A second handle to the same line.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Terminal(file) => Self::Terminal(file.try_clone()?),
        })
    }

    /// Ends both directions, for every handle; nothing for a terminal.
    pub fn shutdown(&self) {
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(std::net::Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(std::net::Shutdown::Both),
            Self::Terminal(_) => Ok(()),
        };
    }

    /// Makes a read that finds nothing for so long fail with `WouldBlock`; `None` waits for ever.
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(limit),
            Self::Tcp(stream) => stream.set_read_timeout(limit),
            Self::Terminal(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
            // This error is how a terminal says that nobody has its other end any more.
            Self::Terminal(file) => match file.read(buffer) {
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(0),
                result => result,
            },
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
            Self::Terminal(file) => file.write(bytes),
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
            Self::Terminal(file) => file.as_fd(),
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
    /// For Bochs: `mode=term`. Our end, and the name of the other.
    Terminal(File, PathBuf),
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

    /// Makes a pseudo-terminal, which does nothing to what passes.
    pub fn terminal() -> Result<Self> {
        let ours: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let path = PathBuf::from(ptsname(&ours, Vec::new())?.into_string()?);
        let mut modes = termios::tcgetattr(&ours)?;
        modes.make_raw();
        termios::tcsetattr(&ours, OptionalActions::Now, &modes)?;
        Ok(Self::Terminal(File::from(ours), path))
    }

    /// Where the emulator has to connect to: a path, or HOST:PORT.
    pub fn address(&self) -> Result<String> {
        Ok(match self {
            Self::Unix(_, path) | Self::Terminal(_, path) => path.display().to_string(),
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
                Self::Terminal(ours, _) => ours.try_clone().map(Line::Terminal),
            };
            match taken {
                Ok(line) => {
                    match &line {
                        Line::Unix(stream) => stream.set_nonblocking(false)?,
                        Line::Tcp(stream) => {
                            stream.set_nonblocking(false)?;
                            stream.set_nodelay(true)?;
                        }
                        Line::Terminal(_) => {}
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

//! Sockets in front of a rig's serial lines.
//!
//! A UART has no notion of a connection, a socket has. The bridge serves any number of clients one after the other.
//! For QMP it sends byte 0xFF for each new client, which makes the monitor drop what it was reading and greet again,
//! and throws away all that is still on its way from an earlier session: each client's first byte is the greeting's.

use crate::line::{self, Line};
use anyhow::{Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// How a greeting starts. It cannot be part of another message: inside a string the quotes would be escaped.
const GREETING: &[u8] = b"{\"QMP\": {";
/// Asks the monitor for a new session.
const RESYNC: u8 = 0xff;
/// A greeting takes this long at most, or 0xFF is sent again: it may have been lost, or taken as part of a string.
const GREETING_LIMIT: Duration = Duration::from_secs(5);
/// After a repeated 0xFF two greetings may come; when the line is quiet for so long, the last one counts.
const SETTLE: Duration = Duration::from_millis(300);
/// A client that takes no bytes for so long is dropped.
const CLIENT_STALL: Duration = Duration::from_secs(30);

/// Bytes that may wait for the line before the client is left to wait. They wait in a thread of their own: a client that
/// sends many commands at once gets the answers to the first while the last have not left, and the line would take no
/// more if those were not read.
const WAITING: usize = 1 << 20;
/// How often it is looked whether there is room again.
const LOOK: Duration = Duration::from_millis(5);

/// A client that has said all it had to say (`echo … | socat - UNIX:…`) is answered until the line is quiet for so long.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What the line carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// QMP: each client is given a session of its own.
    Qmp,
    /// Bytes: a console.
    Raw,
}

/// A bridge at work; its socket goes when this is dropped.
#[derive(Debug)]
pub struct Bridge {
    path: PathBuf,
    line: Line,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Bridge {
    /// Serves `line` on a Unix socket at `path`.
    pub fn start(line: Line, path: &Path, protocol: Protocol) -> Result<Self> {
        let listener = line::listen(path)?;
        let ours = line.try_clone()?;
        let thread = std::thread::spawn(move || {
            let Ok(outgoing) = Outgoing::start(&line) else { return };
            let _ = Server { line, outgoing, listener, protocol, string: StringState::default() }.run();
        });
        Ok(Self { path: path.to_owned(), line: ours, thread: Some(thread) })
    }

    /// Where clients connect to.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.line.shutdown();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Why serving one client ended.
enum End {
    /// The client went away: the next one may come.
    Client,
    /// The line is gone: the rig has ended.
    Line,
}

/// What is on its way to the line.
struct Outgoing {
    queue: Sender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

impl Outgoing {
    fn start(line: &Line) -> Result<Self> {
        let mut line = line.try_clone()?;
        let (queue, pieces) = channel::<Vec<u8>>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = waiting.clone();
        std::thread::spawn(move || {
            for piece in pieces {
                if line.write_all(&piece).is_err() {
                    return;
                }
                left.fetch_sub(piece.len(), Ordering::Relaxed);
            }
        });
        Ok(Self { queue, waiting })
    }

    /// # Errors
    /// The line has ended.
    fn send(&self, bytes: &[u8]) -> Result<()> {
        self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        self.queue.send(bytes.to_vec()).map_err(|_| anyhow!("the line has ended"))
    }

    fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > WAITING
    }
}

struct Server {
    line: Line,
    outgoing: Outgoing,
    listener: UnixListener,
    protocol: Protocol,
    string: StringState,
}

/// Whether a JSON string is open in what a client has sent: there 0xFF is a bad byte, and only ends the message.
#[derive(Default)]
struct StringState {
    quote: Option<u8>,
    escaped: bool,
}

impl StringState {
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match self.quote {
                Some(_) if self.escaped => self.escaped = false,
                Some(_) if byte == b'\\' => self.escaped = true,
                Some(quote) if byte == quote => self.quote = None,
                None if matches!(byte, b'"' | b'\'') => self.quote = Some(byte),
                _ => {}
            }
        }
    }
}

impl Server {
    fn run(mut self) -> Result<()> {
        // A monitor that is still coming up would lose the 0xFF or greet twice: its first greeting says that it is up.
        if self.protocol == Protocol::Qmp && !self.await_monitor()? {
            return Ok(());
        }
        while let Some(client) = self.next_client()? {
            client.set_write_timeout(Some(CLIENT_STALL))?;
            if matches!(self.serve(client)?, End::Line) {
                break;
            }
        }
        Ok(())
    }

    /// Reads until the first greeting; false when the line ends before.
    fn await_monitor(&mut self) -> Result<bool> {
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = self.line.read(&mut buffer)?;
            if count == 0 {
                return Ok(false);
            }
            seen.extend_from_slice(&buffer[..count]);
            if find(&seen, GREETING).is_some() {
                return Ok(true);
            }
            let keep = seen.len().min(GREETING.len());
            seen.drain(..seen.len() - keep);
        }
    }

    /// Waits for a client and drops what the line says meanwhile; `None` when the line has ended.
    fn next_client(&mut self) -> Result<Option<UnixStream>> {
        let mut buffer = [0; 4096];
        loop {
            let [line, knock] = ready([&self.line, &self.listener], None)?;
            if line && self.line.read(&mut buffer)? == 0 {
                return Ok(None);
            }
            if knock {
                return Ok(Some(self.listener.accept()?.0));
            }
        }
    }

    fn serve(&mut self, mut client: UnixStream) -> Result<End> {
        if self.protocol == Protocol::Qmp {
            match self.greet(&client)? {
                Ok(start) if client.write_all(&start).is_err() => return Ok(End::Client),
                Ok(_) => {}
                Err(end) => return Ok(end),
            }
        }
        let mut buffer = [0; 65536];
        let mut listens_only = false;
        loop {
            let [line, asked] = if listens_only {
                [ready([&self.line, &self.line], Some(LAST_ANSWERS))?[0], false]
            } else if self.outgoing.is_full() {
                [ready([&self.line, &self.line], Some(LOOK))?[0], false]
            } else {
                ready([&self.line, &client], None)?
            };
            if listens_only && !line {
                return Ok(End::Client);
            }
            if line {
                match self.line.read(&mut buffer)? {
                    0 => return Ok(End::Line),
                    count => {
                        if client.write_all(&buffer[..count]).is_err() {
                            return Ok(End::Client);
                        }
                    }
                }
            }
            if asked {
                match client.read(&mut buffer) {
                    Ok(0) if still_there(&client) => listens_only = true,
                    Ok(0) | Err(_) => return Ok(End::Client),
                    Ok(count) => {
                        self.string.feed(&buffer[..count]);
                        self.outgoing.send(&buffer[..count])?;
                    }
                }
            }
        }
    }

    /// Opens a session: the greeting and what came after it.
    fn greet(&mut self, client: &UnixStream) -> Result<std::result::Result<Vec<u8>, End>> {
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        // The first one ends an open string, the second one is heard.
        let open = std::mem::take(&mut self.string).quote.is_some();
        self.outgoing.send(if open { &[RESYNC; 2] } else { &[RESYNC] })?;
        let (mut again, mut asked) = (Instant::now() + GREETING_LIMIT, 1);
        let mut gone = false;
        loop {
            let found = find_last(&seen, GREETING);
            let limit = match found {
                // Its greeting had to be waited for all the same: the next client must not get it.
                Some(_) if gone => return Ok(Err(End::Client)),
                Some(at) if asked == 1 => return Ok(Ok(seen.split_off(at))),
                Some(_) => SETTLE,
                None => again.saturating_duration_since(Instant::now()),
            };
            let [line, hung_up] = ready([&self.line, client], Some(limit))?;
            if line {
                match self.line.read(&mut buffer)? {
                    0 => return Ok(Err(End::Line)),
                    count => seen.extend_from_slice(&buffer[..count]),
                }
                continue;
            }
            if let Some(at) = found {
                return Ok(Ok(seen.split_off(at)));
            }
            gone |= hung_up && !still_there(client);
            if Instant::now() >= again {
                if gone {
                    return Ok(Err(End::Client));
                }
                self.outgoing.send(&[RESYNC])?;
                (again, asked) = (Instant::now() + GREETING_LIMIT, asked + 1);
            } else if hung_up {
                // The client spoke first, which is allowed: its bytes wait in the socket until the greeting is out.
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// True unless the other side has closed the socket, or its end of it for both directions.
fn still_there(client: &UnixStream) -> bool {
    let mut fds = [PollFd::new(client, PollFlags::HUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(poll(&mut fds, Some(&now)), Ok(count) if count > 0)
}

/// Waits until one of two descriptors can be read (or has ended), or `limit` has passed.
fn ready(fds: [&dyn std::os::fd::AsFd; 2], limit: Option<Duration>) -> Result<[bool; 2]> {
    let limit = limit.map(Timespec::try_from).transpose()?;
    let [first, second] = fds.map(|fd| fd.as_fd());
    let mut polled = [PollFd::new(&first, PollFlags::IN), PollFd::new(&second, PollFlags::IN)];
    loop {
        match poll(&mut polled, limit.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            result => {
                result?;
                return Ok([!polled[0].revents().is_empty(), !polled[1].revents().is_empty()]);
            }
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn find_last(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).rposition(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    const HELLO: &[u8] = b"{\"QMP\": {\"version\": 1}}\r\n";

    /// A monitor that greets at its start and on 0xFF, and echoes the rest.
    fn monitor(mut line: UnixStream) {
        line.write_all(HELLO).unwrap();
        let mut byte = [0];
        while matches!(line.read(&mut byte), Ok(1)) {
            let answer: &[u8] = if byte[0] == RESYNC { HELLO } else { &byte };
            if line.write_all(answer).is_err() {
                return;
            }
        }
    }

    #[test]
    fn every_client_starts_at_the_greeting() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || monitor(theirs));
        let path = std::env::temp_dir().join(format!("bridge-{}", std::process::id()));
        let bridge = Bridge::start(Line::Unix(ours), &path, Protocol::Qmp).unwrap();
        for round in 0..20 {
            let mut client = UnixStream::connect(bridge.path()).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            // Half a message stays behind: the next client must not see a byte of it.
            client.write_all(format!("round {round}\nleft over").as_bytes()).unwrap();
            let mut lines = BufReader::new(client).lines();
            assert_eq!(lines.next().unwrap().unwrap().as_bytes(), HELLO.trim_ascii_end());
            assert_eq!(lines.next().unwrap().unwrap(), format!("round {round}"));
        }
    }

    #[test]
    fn a_client_that_sends_no_more_is_answered() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || monitor(theirs));
        let path = std::env::temp_dir().join(format!("bridge-half-{}", std::process::id()));
        let bridge = Bridge::start(Line::Unix(ours), &path, Protocol::Qmp).unwrap();
        for _ in 0..2 {
            let mut client = UnixStream::connect(bridge.path()).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            client.write_all(b"all\n").unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut came = Vec::new();
            client.read_to_end(&mut came).unwrap();
            assert_eq!(came, [HELLO, b"all\n"].concat());
        }
    }

    #[test]
    fn a_client_may_send_more_than_the_line_holds() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || monitor(theirs));
        let path = std::env::temp_dir().join(format!("bridge-much-{}", std::process::id()));
        let bridge = Bridge::start(Line::Unix(ours), &path, Protocol::Qmp).unwrap();
        let client = UnixStream::connect(bridge.path()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // The monitor reads no more while its answers are not read, and all that there is between is full.
        let sent = vec![b'x'; 2 << 20];
        let mut sender = client.try_clone().unwrap();
        let sending = std::thread::spawn({
            let sent = sent.clone();
            move || sender.write_all(&sent)
        });
        let mut reader = BufReader::new(client);
        let mut greeting = String::new();
        reader.read_line(&mut greeting).unwrap();
        let mut came = vec![0; sent.len()];
        reader.read_exact(&mut came).unwrap();
        assert!(came == sent);
        sending.join().unwrap().unwrap();
    }
}

//! Instructions between the last byte of a command and the first byte of its answer.
//!
//! Neither end can say: the client has no view of the rig's time, and Monovisor's own word would have to be believed.
//! So QEMU is made to log each instruction, and each access to the serial port, while one byte is sent to an idle rig.

use super::runs::{read_until, rig};
use crate::bridge::{Bridge, Protocol};
use crate::build;
use crate::emulator::{Machine, Member};
use crate::qmp::Client;
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// All but the last byte of the command.
const COMMAND: &[u8] = b"{\"execute\": \"query-status\"";
/// For what was sent to take effect, and for the rig to be idle again.
const SETTLE: Duration = Duration::from_millis(500);

/// Measures `query-status` on an idle link, its guest halted.
pub fn query_status(image: &Path) -> Result<f64> {
    let _progress = crate::progress::Progress::start("measuring query-status");
    let kernel = build::freestanding("monovisor-guests", "cases", &[])?;
    let member = Member { name: "cases".into(), path: kernel };
    let options = ["-m", "64", "-no-shutdown", "-kernel", "cases", "-append", "run=halt"];
    let mut rig = rig(image, "latency", &options, vec![member])?;
    // Instructions are counted one by one here; time may pass as it likes.
    rig.deterministic = false;
    std::fs::create_dir_all(&rig.directory)?;
    let (monitor, log) = (rig.directory.join("hmp.sock"), rig.directory.join("instructions.log"));
    let _ = std::fs::remove_file(&log);
    rig.extra = vec![
        "-monitor".into(),
        format!("unix:{},server=on,wait=off", monitor.display()).into(),
        "-D".into(),
        log.clone().into(),
    ];
    let Machine { process: mut qemu, qmp, mut console, .. } = rig.start()?;
    read_until(&mut console, "LAST halt")?;
    let bridge = Bridge::start(qmp, &rig.directory.join("qmp.sock"), Protocol::Qmp)?;
    let mut client = Client::connect(bridge.path())?;
    client.negotiate()?;
    client.send(COMMAND)?;
    std::thread::sleep(SETTLE);
    let mut human = Human::connect(&monitor)?;
    for line in
        ["singlestep on", "trace-event serial_read on", "trace-event serial_write on", "log exec,nochain"]
    {
        human.run(line)?;
    }
    client.send(b"}")?;
    client.reply(Duration::from_secs(60))?;
    human.run("log none")?;
    qemu.kill();
    count(&log)
}

/// Instructions from the byte's arrival to the first write of the transmit register.
fn count(log: &Path) -> Result<f64> {
    let file = std::fs::File::open(log).with_context(|| format!("QEMU wrote no {}", log.display()))?;
    let mut instructions = 0u64;
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        if line.starts_with(b"Trace ") {
            instructions += 1;
        } else if find(&line, b"serial_write") && find(&line, b"addr 0x00") {
            return Ok(instructions as f64);
        }
    }
    anyhow::bail!("no answer in QEMU's log of {instructions} instructions")
}

fn find(line: &[u8], part: &[u8]) -> bool {
    line.windows(part.len()).any(|window| window == part)
}

/// QEMU's own human monitor.
struct Human(UnixStream);

impl Human {
    fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut human = Self(stream);
        human.prompt()?;
        Ok(human)
    }

    fn prompt(&mut self) -> Result<()> {
        let mut heard = Vec::new();
        let mut byte = [0];
        while !heard.ends_with(b"(qemu) ") {
            self.0.read_exact(&mut byte).context("QEMU's monitor does not answer")?;
            heard.push(byte[0]);
        }
        Ok(())
    }

    fn run(&mut self, line: &str) -> Result<()> {
        writeln!(self.0, "{line}")?;
        self.prompt()
    }
}

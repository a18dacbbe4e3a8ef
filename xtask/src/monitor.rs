//! `cargo xtask monitor`: the monitor over a model machine, on a socket, without an emulator.

use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use monovisor_tests::model;

/// How the machine is made and where it is served.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Where clients connect, one after the other; each is greeted
    #[arg(long, value_name = "PATH", default_value = "target/monitor.sock")]
    socket: PathBuf,
    /// The guest's name
    #[arg(long)]
    name: Option<String>,
    /// CPUs of the machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    smp: usize,
    /// Memory in MiB
    #[arg(short, value_name = "MIB", default_value_t = 16)]
    memory: usize,
}

/// How often the machine is looked after while its client is silent.
const TICK: Duration = Duration::from_millis(20);

/// Serves clients until one of them says `quit`.
///
/// # Errors
/// Where the socket cannot be made.
pub fn main(options: &Options) -> Result<()> {
    let path = &options.socket;
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        if UnixStream::connect(path).is_ok() {
            bail!("{} is in use", path.display());
        }
        std::fs::remove_file(path)?;
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let _remove = Remove(path);
    println!("A model machine listens on {}; `quit` ends it.", path.display());
    println!("    cargo xtask qmp --socket {} query-status", path.display());
    let mut rig = model::Rig::new(model::Options {
        name: options.name.clone(),
        cpus: options.smp.max(1),
        max_cpus: options.smp.max(1),
        memory: options.memory.saturating_mul(1 << 20),
        package: concat!(" (Monovisor ", env!("CARGO_PKG_VERSION"), ", model)"),
        ..model::Options::default()
    });
    rig.output(0);
    while !rig.model.ended() {
        let (client, _) = listener.accept()?;
        rig.restart(0);
        // A client that goes away is no reason to end.
        if let Err(error) = serve(&mut rig, client) {
            eprintln!("client: {error}");
        }
    }
    Ok(())
}

fn serve(rig: &mut model::Rig, mut client: UnixStream) -> std::io::Result<()> {
    client.set_read_timeout(Some(TICK))?;
    client.write_all(&rig.output(0))?;
    let mut buffer = [0; 4096];
    let mut before = Instant::now();
    loop {
        let read = client.read(&mut buffer);
        let now = Instant::now();
        rig.wait(u64::try_from((now - before).as_nanos()).unwrap_or(u64::MAX));
        before = now;
        match read {
            Ok(0) => return Ok(()),
            Ok(count) => rig.feed(0, buffer.get(..count).unwrap_or_default()),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        client.write_all(&rig.output(0))?;
        if rig.model.ended() {
            return Ok(());
        }
    }
}

/// Removes the socket at the end.
struct Remove<'a>(&'a Path);

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

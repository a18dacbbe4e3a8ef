//! Child processes that never outlive us.
//!
//! Every child is the leader of a process group of its own and dies with us: on drop, on Ctrl-C, SIGTERM or SIGHUP
//! its whole group is killed, and `setpriv --pdeathsig` asks the kernel to do it should we be killed outright.

use crate::terminal;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Process groups that are alive and ours.
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// How often a waiting loop looks.
const POLL: Duration = Duration::from_millis(10);

fn groups() -> std::sync::MutexGuard<'static, Vec<Pid>> {
    GROUPS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Kills every group that is ours.
pub fn kill_all() {
    for pid in groups().drain(..) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// From now on a signal that ends us first puts the terminal back and kills the children.
pub fn handle_signals() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            terminal::restore();
            kill_all();
            // What a shell reports for a program that a signal ended.
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// A command whose process is killed by the kernel when the thread that started it ends.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A running child in a group of its own.
#[derive(Debug)]
pub struct Supervised {
    child: Child,
    group: Pid,
    name: String,
}

impl Supervised {
    /// Starts `command`; `name` is used in messages.
    pub fn spawn(command: &mut Command, name: &str) -> Result<Self> {
        let child = command.process_group(0).spawn().with_context(|| format!("cannot start {name}"))?;
        let group = Pid::from_child(&child);
        groups().push(group);
        Ok(Self { child, group, name: name.to_owned() })
    }

    /// What the child is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The child's process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status if it has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits for the end until `limit` has passed; `None` when it still runs then.
    pub fn wait_for(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Ends the whole group now.
    pub fn kill(&mut self) {
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.child.wait();
        groups().retain(|group| *group != self.group);
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command to its end, within `limit`, its output shown; an exit status other than 0 is an error.
pub fn run(command: &mut Command, name: &str, limit: Duration) -> Result<()> {
    let mut child = Supervised::spawn(command.stdin(Stdio::null()), name)?;
    match child.wait_for(limit)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{name} failed: {status}"),
        None => bail!("{name} took longer than {} s and was ended", limit.as_secs()),
    }
}

/// Runs a command to its end, within `limit`, and returns what it printed; the status is the caller's to judge.
pub fn output(command: &mut Command, name: &str, limit: Duration) -> Result<Output> {
    use std::io::Read;
    let mut child =
        Supervised::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()), name)?;
    let (mut out, mut err) = (child.child.stdout.take(), child.child.stderr.take());
    let collect = |pipe: Option<&mut dyn Read>| -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    };
    let (status, stdout, stderr) = std::thread::scope(|scope| {
        let stdout = scope.spawn(|| collect(out.as_mut().map(|pipe| pipe as &mut dyn Read)));
        let stderr = scope.spawn(|| collect(err.as_mut().map(|pipe| pipe as &mut dyn Read)));
        let status = child.wait_for(limit);
        child.kill();
        (status, stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default())
    });
    match status? {
        Some(status) => Ok(Output { status, stdout, stderr }),
        None => bail!(
            "{name} took longer than {} s and was ended\n{}{}",
            limit.as_secs(),
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        ),
    }
}

/// Runs a command to its end, within `limit`; each line of its standard output is shown and handed to `each`.
pub fn tee(
    command: &mut Command,
    name: &str,
    limit: Duration,
    mut each: impl FnMut(&str),
) -> Result<ExitStatus> {
    use std::io::BufRead;
    let mut child = Supervised::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()), name)?;
    let out = child.child.stdout.take();
    let (lines, taken) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in out.into_iter().flat_map(|out| std::io::BufReader::new(out).lines()) {
            if line.map(|line| lines.send(line)).is_err() {
                return;
            }
        }
    });
    let end = Instant::now() + limit;
    while let Ok(line) = taken.recv_timeout(end.saturating_duration_since(Instant::now())) {
        println!("{line}");
        each(&line);
    }
    let status = child.wait_for(end.saturating_duration_since(Instant::now()).max(Duration::from_secs(1)))?;
    child.kill();
    let _ = reader.join();
    status.with_context(|| format!("{name} took longer than {} s and was ended", limit.as_secs()))
}

/// Like [`output`], but a failure is an error that shows what the command printed; returns standard output.
pub fn capture(command: &mut Command, name: &str, limit: Duration) -> Result<String> {
    let output = output(command, name, limit)?;
    if !output.status.success() {
        bail!(
            "{name} failed: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

//! A hostile guest: a million exits and more of abuse, while the monitor answers and the host does not falter.
//!
//! The guest (`tests/guests/src/fuzz`) plays rounds of a seed. It may end itself: by a reset, by going off, by hanging,
//! or by what is documented as not emulated. Then it is started anew behind that round. What it may not do is stop the
//! monitor from answering, make the host fault, or stop itself for a reason that is not documented.

use crate::report::Report;
use crate::rig::{self, Running, member, words};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use xtask::board::Board;
use xtask::qmp::{Client, QmpError};

/// What the command line asks for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Where the random numbers come from.
    pub seed: u64,
    /// Exits on each board.
    pub exits: u64,
    /// The longest that it may take.
    limit: Duration,
    /// The round to begin with.
    pub round: u64,
}

/// Exits on each board where nothing else is asked for, as far as [`LIMIT`] lets it.
pub const EXITS: u64 = 1_000_000;

/// On a machine that is slow or busy, what has been done by then has to do; a number that was asked for has no limit.
const LIMIT: Duration = Duration::from_secs(600);

/// But never less than this.
const LEAST: u64 = 50_000;

static SETTINGS: OnceLock<Settings> = OnceLock::new();

/// Takes over what the command line asks for; a seed of its own where it names none.
pub fn configure(seed: Option<u64>, exits: Option<u64>, round: u64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = seed.unwrap_or(now.as_secs());
    let limit = if exits.is_some() { Duration::MAX } else { LIMIT };
    let _ = SETTINGS.set(Settings { seed, exits: exits.unwrap_or(EXITS), limit, round });
}

/// How often the monitor is asked.
const POLL: Duration = Duration::from_millis(500);

/// A guest that has said nothing for so long gets an NMI from outside, and if it goes on saying nothing for as long again, a
/// reset; on Bochs three times that.
const SILENCE: Duration = Duration::from_secs(8);

/// Rounds may end badly, but most must be played: so many in a hundred at least; with two processors, half of that.
const PLAYED: u64 = 80;

/// The reason for `internal-error` that is documented: what no PC's software does and Monovisor does not emulate.
const DOCUMENTED: &str = "cannot be emulated";

/// Bytes of the disk.
const DISK: usize = 256 << 10;

/// Devices that the guest abuses besides those of every PC: one of each kind, and two network cards that reach each other.
const DEVICES: &str = "-drive file=disk.img,format=raw,if=virtio,snapshot=on \
                       -drive file=disk.img,format=raw,if=none,id=d1,readonly=on \
                       -device virtio-blk-pci,drive=d1,num-queues=2 \
                       -object rng-random,id=r0 -device virtio-rng-pci,rng=r0 \
                       -device virtio-balloon-pci \
                       -chardev ringbuf,id=console,size=4k -chardev ringbuf,id=port,size=4k \
                       -device virtio-serial-pci,id=vs0 -device virtconsole,chardev=console,bus=vs0.0 \
                       -device virtserialport,chardev=port,name=org.monovisor.fuzz,bus=vs0.0 \
                       -netdev hubport,id=n0,hubid=0,queues=2 -device virtio-net-pci,netdev=n0,mq=on \
                       -netdev hubport,id=n1,hubid=0 -device virtio-net-pci,netdev=n1,guest_csum=off \
                       -device virtio-keyboard-pci -device virtio-mouse-pci -device virtio-tablet-pci \
                       -device pc-testdev";

/// What the exits are shared out in: nine to the guest with one processor, one to that with two.
const SHARES: u64 = 10;

/// Lines of the guest's that are kept for messages.
const RECENT: usize = 8;

/// On QEMU this is one, too: its TCG loads registers with what a processor raises #GP for, and its VMRUN then refuses it.
const LAX: &str = "the processor refused to enter the guest";

/// What came of it.
#[derive(Default)]
struct Outcome {
    exits: u64,
    rounds: u64,
    traps: u64,
    resets: u64,
    off: u64,
    unemulated: u64,
    /// Its second processor had to be started anew.
    lost: u64,
    /// It stood for long, and an NMI from outside had it go on.
    woken: u64,
    /// It was reset from outside, in HLT.
    halted: u64,
    /// The same, while it ran.
    loops: u64,
    answers: u64,
    slowest: Duration,
}

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let settings = *SETTINGS.get().context("no settings")?;
    println!("fuzz on {}: seed {}", board.name(), settings.seed);
    let kinds = [("hostile guest", 1, SHARES - 1), ("hostile guest with two processors", 2, 1)];
    for (name, processors, share) in kinds {
        let (exits, limit) = (settings.exits / SHARES * share, settings.limit / processors);
        let settings = Settings { exits, limit, ..settings };
        report.check(board, &format!("fuzz::{name}"), || {
            play(board, settings, processors).with_context(|| format!("seed {}", settings.seed))
        });
    }
    Ok(())
}

fn play(board: Board, settings: Settings, processors: u32) -> Result<()> {
    let kernel = rig::guest("fuzz")?;
    let options = words(&format!("-m 64 -smp {processors} -no-shutdown -name fuzz -kernel fuzz"));
    let mut options = rig::with_x2apic(board, options);
    if board == Board::Qemu {
        options.extend(words("-append quirks=tcg"));
    }
    // Whatever can be plugged in.
    let directory = xtask::paths::cache("boot-tests")?;
    let disk = directory.join(format!("{}-fuzz.img", board.name()));
    std::fs::write(&disk, vec![0x5a; DISK])?;
    options.extend(words(DEVICES));
    let mut rig = rig::describe(
        board,
        &format!("fuzz-{processors}"),
        options,
        vec![member("fuzz", &kernel), member("disk.img", &disk)],
    )?;
    rig.processors = processors;
    rig.parallel = rig::parallel();
    let mut driver = Driver {
        rig: Running::start(&rig)?,
        settings,
        next: settings.round,
        outcome: Outcome::default(),
        heard: String::new(),
        recent: Vec::new(),
    };
    let start = Instant::now();
    let played = driver.play();
    let Outcome {
        exits,
        rounds,
        traps,
        resets,
        off,
        unemulated,
        lost,
        woken,
        halted,
        loops,
        answers,
        slowest,
    } = driver.outcome;
    println!(
        "fuzz on {}: seed {}: {exits} exits in {rounds} rounds, {traps} traps, {:.0} s; {resets} resets, {off} times \
         off, {unemulated} times not emulated, {lost} times without its second processor, {woken} times woken up, {halted} times halted for good, {loops} times \
         in a loop for good; {answers} answers, the slowest after {:.2} s",
        board.name(),
        settings.seed,
        start.elapsed().as_secs_f64(),
        slowest.as_secs_f64()
    );
    played.with_context(|| format!("in round {} or behind it", driver.next))?;
    driver.host_is_well()?;
    let tried = driver.next - settings.round;
    ensure!(
        rounds * 100 >= tried * PLAYED / u64::from(processors),
        "only {rounds} of {tried} rounds were played to their end"
    );
    driver.rig.quit()
}

/// Who drives the guest, and looks after it.
struct Driver {
    rig: Running,
    settings: Settings,
    /// The round that is played now.
    next: u64,
    outcome: Outcome,
    /// The end of what the console said, not looked through yet.
    heard: String,
    /// The latest lines, for messages.
    recent: Vec<String>,
}

impl Driver {
    fn play(&mut self) -> Result<()> {
        let board = self.rig.board;
        let mut client = self.rig.qmp()?;
        let mut progress = Instant::now();
        let mut started = false;
        let mut called = false;
        let silence = SILENCE * if board == Board::Bochs { 3 } else { 1 };
        let start = Instant::now();
        while self.outcome.exits < self.settings.exits {
            if start.elapsed() > self.settings.limit && self.outcome.exits >= LEAST {
                println!("fuzz on {}: cut short, for want of time", board.name());
                break;
            }
            let end = Instant::now() + POLL;
            while Instant::now() < end {
                let fresh = self.rig.console.read(POLL / 5);
                self.heard.push_str(&fresh);
                if self.listen(&mut started)? {
                    progress = Instant::now();
                    self.outcome.woken += u64::from(core::mem::take(&mut called));
                }
            }
            self.operate(&mut client)?;
            let asked = Instant::now();
            let status = client.execute("query-status", json!({})).context("the monitor is silent")?;
            self.outcome.answers += 1;
            self.outcome.slowest = self.outcome.slowest.max(asked.elapsed());
            client.events.clear();
            match status["status"].as_str().unwrap_or_default() {
                "running" if progress.elapsed() < silence => continue,
                "running" if !called => {
                    self.note("stands", &registers(&mut client)?);
                    client.execute("inject-nmi", json!({}))?;
                    called = true;
                    progress = Instant::now();
                    continue;
                }
                "running" => {
                    let registers = registers(&mut client)?;
                    self.note("hangs", &registers);
                    match registers.contains("HLT=1") {
                        true => self.outcome.halted += 1,
                        false => self.outcome.loops += 1,
                    }
                }
                "shutdown" => self.outcome.off += 1,
                "internal-error" => {
                    self.outcome.unemulated += 1;
                    self.was_documented()?;
                }
                other => bail!("status {other:?}"),
            }
            client.execute("system_reset", json!({}))?;
            if status["status"] != "running" {
                client.execute("cont", json!({}))?;
            }
            called = false;
            progress = Instant::now();
        }
        Ok(())
    }

    /// Gives the devices something to do from the monitor's side: bytes for a port, a key, another size for the balloon. What the
    /// guest has made of them decides whether that comes through.
    fn operate(&mut self, client: &mut Client) -> Result<()> {
        let key = json!({"keys": [{"type": "qcode", "data": "a"}]});
        let (command, arguments) = match self.outcome.answers % 4 {
            0 => ("ringbuf-write", json!({"device": "port", "data": "monovisor"})),
            1 => ("send-key", key),
            2 => ("balloon", json!({"value": (48 + self.outcome.answers % 16) << 20})),
            _ => ("ringbuf-read", json!({"device": "console", "size": 4096})),
        };
        match client.execute(command, arguments) {
            Err(error) if error.downcast_ref::<QmpError>().is_none() => Err(error),
            _ => Ok(()),
        }
    }

    /// Looks for what the guest has said; true when there was something.
    fn listen(&mut self, started: &mut bool) -> Result<bool> {
        let mut something = false;
        while let Some(end) = self.heard.find('\n') {
            let line: String = self.heard.drain(..=end).collect();
            self.recent.push(line.trim().to_owned());
            if self.recent.len() > RECENT {
                self.recent.remove(0);
            }
            let line = line.trim();
            if line.ends_with("READY") {
                // It has started: behind the round that ended it, if one did.
                if *started {
                    self.outcome.resets += 1;
                    self.next += 1;
                }
                *started = true;
                self.begin()?;
                something = true;
            } else if line.ends_with("AGAIN") {
                // Something that was typed for the round before came to it first.
                self.begin()?;
            } else if line.starts_with("FAIL") || line.starts_with("LOST") {
                // The guest's own failure is not the machine's, but it is to be seen.
                println!("fuzz on {}: round {}: {line}", self.rig.board.name(), self.next);
            } else if let Some(at) = line.find("ROUND ") {
                let mut numbers = line[at + 6..].split(' ');
                let mut number = || numbers.next()?.parse::<u64>().ok();
                if let (Some(round), Some(exits), Some(traps), Some(lost)) =
                    (number(), number(), number(), number())
                    && numbers.next() == Some("END")
                {
                    self.outcome.lost += lost;
                    ensure!(round >= self.next, "round {round} after round {}", self.next);
                    self.next = round + 1;
                    self.outcome.rounds += 1;
                    self.outcome.exits += exits;
                    self.outcome.traps += traps;
                    something = true;
                }
            }
        }
        // A guest may fill its console with lines that never end.
        if self.heard.len() > 1 << 16 {
            self.heard.clear();
        }
        Ok(something)
    }

    /// Says which rounds are to be played.
    fn begin(&mut self) -> Result<()> {
        let line = format!("\n{} {} {}\n", self.settings.seed, self.next, u32::MAX);
        self.rig.console.send(&line)
    }

    /// A line for whoever looks for the reason; `trace` on the guest's command line has it name each step.
    fn note(&self, what: &str, registers: &str) {
        let (board, round, said) = (self.rig.board.name(), self.next, self.said());
        println!("fuzz on {board}: round {round} {what}: {registers}; it said {said:?}");
    }

    /// The end of what the guest said.
    fn said(&self) -> String {
        format!("{} | {}", self.recent.join(" | "), self.heard)
    }

    /// The guest was stopped: the log must say that it was for a documented reason.
    fn was_documented(&self) -> Result<()> {
        let log = self.rig.log();
        let last = log.lines().rev().find(|line| line.contains("guest")).unwrap_or_default();
        let lax = self.rig.board == Board::Qemu && last.contains(LAX);
        ensure!(
            lax || last.contains(DOCUMENTED),
            "the guest was stopped for a reason that is not documented: {last}; it said {:?}; {}",
            self.said(),
            self.rig.tail()
        );
        Ok(())
    }

    /// Nothing on the log says that the host itself was in trouble.
    fn host_is_well(&self) -> Result<()> {
        let log = self.rig.log();
        let bad = ["host exception", "panic", "guard page", "machine check"];
        match log.lines().find(|line| bad.iter().any(|word| line.contains(word))) {
            None => Ok(()),
            Some(line) => bail!("on the log: {line}; {}", self.rig.tail()),
        }
    }
}

/// Where the processors are, what their flags are, and whether they are in HLT: what tells a guest that has put itself
/// to sleep from one that has lost an interrupt.
fn registers(client: &mut Client) -> Result<String> {
    let answer = client.execute("human-monitor-command", json!({"command-line": "info registers"}))?;
    let lines = answer.as_str().unwrap_or_default().lines();
    let wanted: Vec<&str> =
        lines.filter(|line| ["RIP", "CS", "CR0"].iter().any(|name| line.starts_with(name))).collect();
    Ok(wanted.join(" "))
}

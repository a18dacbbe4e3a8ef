//! Starts a rig in QEMU or in Bochs: image, options and bundle in; serial lines and a log file out.

use crate::board::Board;
use crate::cpio::Archive;
use crate::iso::{self, Contents, Firmware};
use crate::line::{Line, Socket};
use crate::process::{self, Supervised};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The emulator opens its serial lines within this time, or something is wrong with it.
const START_LIMIT: Duration = Duration::from_secs(60);

/// RAM of the rig besides the guest's, in MiB: Monovisor itself, the boot modules and the file store.
pub const HOST_EXTRA_MIB: u32 = 128;

/// The processor of a guest in Bochs, where nothing else is said: without what Bochs 2.7 does wrong.
///
/// - XSAVEC writes everything beyond SSE 160 bytes below the place where XRSTOR reads it (SDM vol. 1, 13.4.3), with
///   Monovisor or without: a guest that uses both loses its vector registers at every switch of tasks.
/// - A physical interrupt that comes while a virtual one waits for RFLAGS.IF has the virtual one delivered at once, IF or
///   not (against SDM vol. 3, 30.2.2), in place of the exit: a Linux that is in an interrupt handler then enters it again,
///   and waits for its own lock for good. Monovisor has the processor deliver to guests in x2APIC mode only.
const BOCHS_CPU: [&str; 2] = ["-cpu", "host,-xsavec,-x2apic"];

/// A file of the boot bundle.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name in the bundle.
    pub name: String,
    /// Where its content comes from.
    pub path: PathBuf,
}

/// A rig to be started.
#[derive(Clone, Debug)]
pub struct Rig {
    /// Which board; [`Board::Pc`] runs its disc image in QEMU.
    pub board: Board,
    /// The board's ELF file, or for [`Board::Pc`] a finished disc image.
    pub image: PathBuf,
    /// The words of Monovisor's command line.
    pub options: Vec<String>,
    /// What the boot bundle holds; none at all makes a rig without a bundle.
    pub members: Vec<Member>,
    /// The rig's RAM in MiB.
    pub memory_mib: u32,
    /// QEMU's `-cpu`.
    pub cpu: String,
    /// The rig's processors.
    pub processors: u32,
    /// QEMU: each processor has a thread of its own, and they really run at the same time. The host then may be ended by a
    /// fault of QEMU's, see [`qemu`]: with our own guests, on some machines in seconds.
    pub parallel: bool,
    /// QEMU: time is counted in instructions (one a nanosecond), so that a run can be repeated.
    pub deterministic: bool,
    /// A second monitor, on COM3.
    pub second: bool,
    /// Bochs: the UART of QMP loses what is not fetched in time, as a real one does. Else it waits.
    pub merciless: bool,
    /// QEMU: Ctrl-A b on the line of QMP is a break, as often as it is sent; what finds no room in the FIFO is an overrun.
    pub breaks: bool,
    /// More arguments for the emulator.
    pub extra: Vec<OsString>,
    /// A directory of this rig alone: sockets, the log, the bundle.
    pub directory: PathBuf,
}

impl Rig {
    /// A rig with 256 MiB more than what Monovisor and its bundle need, and no options.
    pub fn new(board: Board, image: PathBuf, directory: PathBuf) -> Self {
        Self {
            board,
            image,
            options: Vec::new(),
            members: Vec::new(),
            memory_mib: 256 + HOST_EXTRA_MIB,
            cpu: "max".into(),
            processors: 1,
            parallel: false,
            deterministic: false,
            second: false,
            merciless: false,
            breaks: false,
            extra: Vec::new(),
            directory,
        }
    }

    /// Starts the emulator and waits until both serial lines are there.
    pub fn start(&self) -> Result<Machine> {
        std::fs::create_dir_all(&self.directory)
            .with_context(|| format!("cannot make {}", self.directory.display()))?;
        let log = self.directory.join("monovisor.log");
        let _ = std::fs::remove_file(&log);
        let bundle = self.write_bundle()?;
        let (sockets, mut command) = match self.board {
            Board::Qemu | Board::Pc => self.qemu(bundle.as_deref(), &log)?,
            Board::Bochs => self.bochs(bundle.as_deref(), &log)?,
        };
        let name = if self.board == Board::Bochs { "bochs" } else { "qemu-system-x86_64" };
        let mut process = Supervised::spawn(command.stdin(Stdio::null()), name)?;
        let errors = self.directory.join("emulator.err");
        let mut alive = || match process.try_wait()? {
            None => Ok(true),
            Some(status) => {
                let said = std::fs::read_to_string(&errors).unwrap_or_default();
                bail!("{name} ended at once: {status}\n{said}")
            }
        };
        let qmp = sockets.qmp.accept(START_LIMIT, &mut alive)?;
        let console = sockets.console.accept(START_LIMIT, &mut alive)?;
        let second = sockets.second.map(|socket| socket.accept(START_LIMIT, &mut alive)).transpose()?;
        Ok(Machine { process, qmp, console, second, log })
    }

    /// The words of Monovisor's command line, with those for what the rig has and is.
    fn words(&self) -> Vec<String> {
        let mut words = self.options.clone();
        if self.second && !words.iter().any(|word| word == "com3") {
            words.extend(["-qmp", "com3"].map(String::from));
        }
        if self.board == Board::Bochs && !words.iter().any(|word| word == "-cpu") {
            words.splice(0..0, BOCHS_CPU.map(String::from));
        }
        words
    }

    /// Packs the members; `None` when there are none.
    pub fn write_bundle(&self) -> Result<Option<PathBuf>> {
        if self.members.is_empty() {
            return Ok(None);
        }
        let mut archive = Archive::new();
        for member in &self.members {
            let data = std::fs::read(&member.path)
                .with_context(|| format!("cannot read {}", member.path.display()))?;
            archive.file(&member.name, 0o644, &data);
        }
        let path = self.directory.join("bundle.cpio");
        std::fs::write(&path, archive.finish())?;
        Ok(Some(path))
    }

    fn errors(&self) -> Result<Stdio> {
        Ok(std::fs::File::create(self.directory.join("emulator.err"))?.into())
    }

    fn qemu(&self, bundle: Option<&Path>, log: &Path) -> Result<(Sockets, Command)> {
        let sockets = Sockets::new(self.second, |name| Socket::unix(&self.directory.join(name)))?;
        let mut command = if self.parallel { with_accelerator("tcg,thread=multi") } else { qemu() };
        command.args(["-cpu", &self.cpu, "-m", &self.memory_mib.to_string()]);
        command.args(["-smp", &self.processors.to_string()]);
        for (com, address) in sockets.addresses()? {
            if com == "com1" && self.breaks {
                command.args(["-chardev", &format!("socket,id={com},path={address},mux=on")]);
                command.args(["-serial", &format!("chardev:{com}")]);
            } else {
                command.args(["-serial", &format!("unix:{address}")]);
            }
        }
        command.args(["-debugcon", &format!("file:{}", log.display())]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        if self.deterministic {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        if self.board == Board::Pc {
            command.arg("-cdrom").arg(&self.image);
        } else {
            command.arg("-kernel").arg(&self.image);
            command.args(["-append", &command_line(&self.words())]);
            if let Some(bundle) = bundle {
                command.arg("-initrd").arg(bundle);
            }
        }
        command.args(&self.extra);
        command.stdout(self.errors()?).stderr(self.errors()?);
        Ok((sockets, command))
    }

    fn bochs(&self, bundle: Option<&Path>, log: &Path) -> Result<(Sockets, Command)> {
        // From a socket Bochs takes a character only when its UART has been emptied, from a terminal when it has come.
        let sockets = Sockets::new(self.second, |name| match name {
            "com1" if self.merciless => Socket::terminal(),
            _ => Socket::tcp(),
        })?;
        let disc = self.directory.join("boot.iso");
        let contents = Contents {
            monitor: self.image.clone(),
            bundle: bundle.map(Path::to_owned),
            options: self.words(),
        };
        iso::make(&contents, Firmware::Bios, &self.directory, &disc)?;
        let pc = BochsPc {
            processors: self.processors,
            memory_mib: self.memory_mib,
            disc: &disc,
            lines: &sockets.addresses()?,
        };
        let mut command = pc.command(&self.directory)?;
        command.args(&self.extra);
        // Port 0xe9 comes out on standard output, between Bochs's own words.
        command.stdout(std::fs::File::create(log)?).stderr(self.errors()?);
        Ok((sockets, command))
    }
}

/// Where the emulator's serial lines come in.
struct Sockets {
    qmp: Socket,
    console: Socket,
    second: Option<Socket>,
}

impl Sockets {
    fn new(second: bool, mut make: impl FnMut(&str) -> Result<Socket>) -> Result<Self> {
        Ok(Self {
            qmp: make("com1")?,
            console: make("com2")?,
            second: if second { Some(make("com3")?) } else { None },
        })
    }

    /// Each port and the address that it has to connect to.
    fn addresses(&self) -> Result<Vec<(&'static str, String)>> {
        let mut addresses = vec![("com1", self.qmp.address()?), ("com2", self.console.address()?)];
        if let Some(second) = &self.second {
            addresses.push(("com3", second.address()?));
        }
        Ok(addresses)
    }
}

/// QEMU with its PC and nothing in it, without a window: what rigs and their comparison with plain QEMU have in common.
///
/// One thread emulates all processors. With a thread for each, QEMU (7.2 and 10.0) loses its way now and then:
///
/// - On SVM the first processor may be left with nested paging on after an exit, and the host ends by a triple fault.
///   `cpu_clear_ignne`, part of XRSTOR and FXRSTOR on every processor, changes the first one's `hflags2` from its own thread,
///   not atomically, and so undoes what `do_vmexit` or `helper_vmrun` changes there at the same time.
/// - 7.2 also does in a Linux that changes its own code, without Monovisor too.
pub fn qemu() -> Command {
    with_accelerator("tcg,thread=single")
}

fn with_accelerator(accelerator: &str) -> Command {
    let mut command = process::command("qemu-system-x86_64");
    command.args(["-M", "pc", "-accel", accelerator, "-nodefaults", "-display", "none", "-no-reboot"]);
    command
}

/// A PC of Bochs's: what rigs and their comparison with plain Bochs have in common.
pub struct BochsPc<'a> {
    /// How many processors.
    pub processors: u32,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// The CD that it starts from.
    pub disc: &'a Path,
    /// Its serial ports, and where each connects to: a TCP address, or a terminal's path.
    pub lines: &'a [(&'static str, String)],
}

impl BochsPc<'_> {
    /// The command that starts it, with its files in `directory`.
    pub fn command(&self, directory: &Path) -> Result<Command> {
        let lines = self.lines.iter();
        let lines: String = lines
            .map(|(com, address)| {
                let mode = if address.starts_with('/') { "term" } else { "socket-client" };
                format!("{com}: enabled=1, mode={mode}, dev={address}\n")
            })
            .collect();
        // Without a sound card its ALSA driver takes the size of a buffer from memory that nobody has written, and may
        // abort Bochs at the start: no sound.
        let configuration = format!(
            "cpu: model=corei7_skylake_x, count={processors}, ips=50000000, reset_on_triple_fault=0\n\
             memory: guest={memory}, host={memory}\n\
             romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
             vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest\n\
             ata0-master: type=cdrom, path=\"{disc}\", status=inserted\n\
             boot: cdrom\n\
             {lines}\
             port_e9_hack: enabled=1\n\
             display_library: rfb, options=\"timeout=0\"\n\
             clock: sync=none\n\
             sound: driver=dummy\n\
             log: {log}\n\
             panic: action=fatal\n",
            memory = self.memory_mib,
            processors = self.processors,
            disc = self.disc.display(),
            log = directory.join("bochs.log").display(),
        );
        let (file, script) = (directory.join("bochsrc"), directory.join("bochs.debugger"));
        std::fs::write(&file, configuration)?;
        // Debian's Bochs is the debugger build: it has to be told to go on.
        std::fs::write(&script, "c\n")?;
        let mut command = process::command("bochs");
        command.arg("-q").arg("-f").arg(&file).arg("-rc").arg(&script);
        Ok(command)
    }
}

/// Joins words into one command line: what holds a space, a quote or a backslash is quoted.
pub fn command_line(words: &[String]) -> String {
    let quoted: Vec<String> = words
        .iter()
        .map(|word| {
            if !word.is_empty() && !word.contains([' ', '"', '\'', '\\', '\t']) {
                return word.clone();
            }
            format!("\"{}\"", word.replace('\\', r"\\").replace('"', "\\\""))
        })
        .collect();
    quoted.join(" ")
}

/// A rig that runs.
#[derive(Debug)]
pub struct Machine {
    /// The emulator.
    pub process: Supervised,
    /// COM1: QMP.
    pub qmp: Line,
    /// COM2: the guest's console.
    pub console: Line,
    /// COM3: a second QMP session, where the rig has one.
    pub second: Option<Line>,
    /// The file that Monovisor's log grows in.
    pub log: PathBuf,
}

impl Machine {
    /// The log so far.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_spaces_are_quoted() {
        let words = ["-m", "64", "-append", "a b \"c\" \\"].map(String::from);
        assert_eq!(command_line(&words), r#"-m 64 -append "a b \"c\" \\""#);
    }
}

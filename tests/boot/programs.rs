//! Guest programs run as a script runs them: `cargo xtask run --console stdio`, what they print, and how they end.

use crate::report::Report;
use crate::rig::{self, limit};
use crate::{formats, rig::words};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;
use xtask::board::Board;
use xtask::{build, paths, process};

/// The devices of a test program, as such programs' own scripts name them.
const DEVICES: &str = "-device isa-debug-exit,iobase=0xf4,iosize=4 -device pc-testdev";
/// The same among all else that such a script says to QEMU.
const SCRIPT: &str = "--no-reboot -nodefaults -device pc-testdev -device isa-debug-exit,iobase=0xf4,iosize=0x4 -vnc none \
    -serial stdio -machine accel=kvm -cpu max";

/// The kernel files.
struct Files {
    pvh: PathBuf,
    vmlinux: PathBuf,
    multiboot: PathBuf,
    /// Modules of it.
    modules: [PathBuf; 2],
    /// No kernel at all.
    text: PathBuf,
}

impl Files {
    fn make(board: Board) -> Result<Self> {
        let directory = paths::cache("boot-tests")?.join(format!("{}-programs", board.name()));
        std::fs::create_dir_all(&directory)?;
        let made = |name: &str, content: &[u8]| -> Result<PathBuf> {
            let path = directory.join(name);
            paths::write_if_changed(&path, content)?;
            Ok(path)
        };
        let pvh = rig::guest("cases")?;
        let elf = std::fs::read(&pvh)?;
        Ok(Self {
            vmlinux: made("vmlinux", &formats::without_note(&elf)?)?,
            multiboot: made("cases.elf", &formats::multiboot(&elf)?)?,
            modules: [made("first.txt", b"the first module\n")?, made("second.txt", b"and the second\n")?],
            text: made("text", b"no kernel\n")?,
            pvh,
        })
    }
}

/// Runs the group.
pub fn run(board: Board, report: &Report) -> Result<()> {
    let files = Files::make(board)?;
    let check = |name: &str, check: &dyn Fn() -> Result<()>| {
        report.check(board, &format!("programs::{name}"), check);
    };
    check("pvh", &|| {
        let run =
            ["--append", "run=boot protocol=pvh modules=1 exit=failed", "--initrd", text(&files.modules[0])?];
        let said = program(board, &files.pvh, &run, DEVICES, 1)?;
        ensure!(said.contains("module of 17 bytes: the first module\r\n"), "{said}");
        Ok(())
    });
    check("vmlinux", &|| {
        let run = ["--append", "run=boot protocol=linux exit=failed"];
        program(board, &files.vmlinux, &run, DEVICES, 1).map(|_| ())
    });
    check("multiboot", &|| multiboot(board, &files));
    check("pc-testdev", &|| {
        program(board, &files.multiboot, &["--append", "run=testdev exit=failed"], DEVICES, 1).map(|_| ())
    });
    check("power off is status 0", &|| {
        program(board, &files.pvh, &["--append", "run=boot"], "", 0).map(|_| ())
    });
    if board == Board::Qemu {
        check("values of isa-debug-exit", &|| {
            for (value, status) in [(16, 33), (127, 255), (128, 1)] {
                let run = ["--append", &format!("run=boot exit={value}")];
                program(board, &files.multiboot, &run, DEVICES, status)?;
            }
            Ok(())
        });
        check("keys from standard input", &|| keys(board, &files));
        check("no kernel is one line and status 2", &|| {
            let output = start(board, &files.text, &[], "", None)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.code() == Some(2) && output.stdout.is_empty(), "{}: {said}", output.status);
            let line = said.lines().last().unwrap_or_default();
            ensure!(
                line.starts_with("xtask: --kernel ") && line.contains("neither a Linux bzImage"),
                "{said}"
            );
            Ok(())
        });
        check("a guest that cannot run is status 2", &|| {
            for (more, complaint) in [
                ("-device nope", "-device nope: 'nope' is not a valid device model name"),
                ("-device virtio-rng-pci,nope=1", "-device virtio-rng-pci: Property '.nope' not found"),
                ("-netdev hubport,id=a,nope=1", "-netdev hubport: Invalid parameter 'nope'"),
                ("-smp 4", "-smp 4: this machine has only 1 processor"),
            ] {
                let output = start(board, &files.pvh, &[], more, None)?;
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                ensure!(output.status.code() == Some(2), "{}: {said}", output.status);
                ensure!(said.contains(&format!("xtask: {complaint}")), "{said}");
            }
            Ok(())
        });
        check("a guest that hangs is status 124", &|| {
            let run = ["--append", "run=spin", "--timeout", "5"];
            program(board, &files.pvh, &run, "", 124).map(|_| ())
        });
        check("a triple fault with -no-reboot is status 0", &|| {
            program(board, &files.pvh, &["--append", "run=triple"], "-no-reboot", 0).map(|_| ())
        });
    } else {
        check("values of isa-debug-exit", &|| {
            program(board, &files.multiboot, &["--append", "run=boot exit=16"], DEVICES, 33).map(|_| ())
        });
    }
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("not a name in UTF-8")
}

fn multiboot(board: Board, files: &Files) -> Result<()> {
    let [first, second] = &files.modules;
    let modules = format!("{} with words,{}", text(first)?, text(second)?);
    let append = "run=boot protocol=multiboot modules=2 exit=failed";
    let said = program(board, &files.multiboot, &["--append", append, "--initrd", &modules], SCRIPT, 1)?;
    for line in [
        &format!("module string: {} with words\r\n", text(first)?),
        &format!("module string: {}\r\n", text(second)?),
        "module of 17 bytes: the first module\r\n",
        "module of 15 bytes: and the second\r\n",
    ] {
        ensure!(said.contains(line), "no {line:?}:\n{said}");
    }
    Ok(())
}

fn keys(board: Board, files: &Files) -> Result<()> {
    let output = start(board, &files.pvh, &[], "", Some("boot\ns5\n"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(0) && said.contains("LAST s5"), "{}: {said}", output.status);
    Ok(())
}

/// Runs a program whose cases must all pass, and which must end with `status`; gives what it printed.
fn program(board: Board, kernel: &Path, arguments: &[&str], devices: &str, status: i32) -> Result<String> {
    let output = start(board, kernel, arguments, devices, None)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(status), "{}, not {status}:\n{said}\n{errors}", output.status);
    ensure!(!said.contains("FAIL"), "{said}");
    // All of it came, the last line too.
    ensure!(said.contains("DONE ") || said.contains("LAST "), "{said}\n{errors}");
    Ok(said)
}

/// One run, with `input` typed.
fn start(
    board: Board,
    kernel: &Path,
    arguments: &[&str],
    more: &str,
    input: Option<&'static str>,
) -> Result<Output> {
    let mut command = build::cargo();
    if let Some(input) = input {
        let cargo = command.get_program().to_owned();
        let before: Vec<_> = command.get_args().map(|word| word.to_owned()).collect();
        command = process::command("sh");
        command.args(["-c", "printf %s \"$0\" | exec \"$@\"", input]).arg(cargo).args(before);
        command.current_dir(paths::root());
    }
    command.args(["run", "--quiet", "--package", "xtask", "--", "run", "--console", "stdio"]);
    command.args(["--board", board.name(), "-m", "64", "--kernel"]).arg(kernel);
    if !arguments.contains(&"--timeout") {
        command.args(["--timeout", &limit(board, 30).as_secs().to_string()]);
    }
    command.args(arguments).arg("--").args(words(more));
    process::output(&mut command, "cargo xtask run", limit(board, 60) + Duration::from_secs(300))
}

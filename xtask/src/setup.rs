//! `cargo xtask setup`: the Debian packages that running and testing take.

use crate::process;
use crate::progress::Progress;
use anyhow::{Result, bail};
use clap::Args;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// `cargo xtask setup`.
#[derive(Args, Debug)]
pub struct Options {
    /// Only say what is missing, and end with status 1 if anything is
    #[arg(long)]
    check: bool,
}

/// A package, and a file or a program by which one sees that it is there.
struct Package(&'static str, &'static str);

const PACKAGES: [Package; 13] = [
    Package("qemu-system-x86", "qemu-system-x86_64"),
    Package("bochs", "bochs"),
    Package("bochsbios", "/usr/share/bochs/BIOS-bochs-latest"),
    Package("vgabios", "/usr/share/vgabios"),
    Package("grub-common", "grub-mkrescue"),
    Package("grub-pc-bin", "/usr/lib/grub/i386-pc/multiboot2.mod"),
    Package("grub-efi-amd64-bin", "/usr/lib/grub/x86_64-efi/multiboot2.mod"),
    Package("xorriso", "xorriso"),
    Package("mtools", "mformat"),
    Package("ovmf", "/usr/share/OVMF/OVMF_CODE.fd"),
    Package("busybox-static", "busybox"),
    Package("cpio", "cpio"),
    Package("python3-venv", "/usr/share/doc/python3-venv"),
];

/// The longest that installing may take.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);

/// Runs the subcommand.
pub fn main(options: Options) -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        println!("everything is installed");
        return Ok(());
    }
    if options.check {
        bail!("missing: {}\n  {}", missing.join(" "), advice(&missing));
    }
    install(&missing)
}

/// Makes sure that all is there: installs what is missing when it may, else says how.
pub fn ensure() -> Result<()> {
    let missing = missing();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

/// An error unless all these programs are there.
pub fn need(programs: &[&str]) -> Result<()> {
    let absent: Vec<&str> = programs.iter().copied().filter(|program| !present(program)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    bail!("not on this machine: {} (this needs Debian or a relative of it)", absent.join(", "))
}

/// True when the program is on the PATH, or the file is there.
pub fn present(what: &str) -> bool {
    if what.starts_with('/') {
        return Path::new(what).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(what).is_file())
}

fn missing() -> Vec<&'static str> {
    let mut names: Vec<_> =
        PACKAGES.iter().filter(|Package(_, sign)| !present(sign)).map(|Package(name, _)| *name).collect();
    // The dynamic busybox answers to the same name; in an initramfs it is of no use.
    if !names.contains(&"busybox-static") && present("/usr/share/doc/busybox/copyright") {
        names.push("busybox-static");
    }
    names
}

fn advice(missing: &[&str]) -> String {
    format!("sudo apt-get update && sudo apt-get install --no-install-recommends {}", missing.join(" "))
}

fn install(missing: &[&str]) -> Result<()> {
    if !rustix::process::geteuid().is_root() || !present("apt-get") {
        bail!("these Debian packages are missing; install them with\n  {}", advice(missing));
    }
    eprintln!("xtask: installing {}", missing.join(" "));
    if apt_install(missing).is_err() {
        refresh_package_lists()?;
        apt_install(missing)?;
    }
    Ok(())
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = process::command("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq").args(arguments);
    command
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let _progress = Progress::start("installing Debian packages");
    let mut command = apt(&["install", "--yes", "--no-install-recommends"]);
    process::capture(command.args(packages), "apt-get install", INSTALL_LIMIT).map(drop)
}

/// Runs `apt-get update`, which takes root.
pub fn refresh_package_lists() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the package lists are missing or old; run\n  sudo apt-get update");
    }
    let _progress = Progress::start("fetching Debian's package lists");
    process::capture(&mut apt(&["update"]), "apt-get update", INSTALL_LIMIT).map(drop)
}

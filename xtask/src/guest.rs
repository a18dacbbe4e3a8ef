//! Guests to run: our own demo kernel, and Debian's kernels with a busybox initramfs.

use crate::cpio::Archive;
use crate::progress::Progress;
use crate::{build, paths, process, setup};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `--guest` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Guest {
    /// A tiny kernel of our own: banner, ticks, key echo, power button. No download.
    Demo,
    /// Debian's cloud kernel with a busybox initramfs.
    Linux,
    /// Debian's generic kernel, which probes everything, with the same initramfs.
    LinuxGeneric,
}

/// A package of Debian's that depends on its newest kernel of a kind, and where we keep what we take of that.
#[derive(Clone, Copy, Debug)]
struct Kernel {
    package: &'static str,
    cache: &'static str,
}

const CLOUD: Kernel = Kernel { package: "linux-image-cloud-amd64", cache: "linux" };
const GENERIC: Kernel = Kernel { package: "linux-image-amd64", cache: "linux-generic" };

/// A kernel, and what goes with it.
#[derive(Clone, Debug)]
pub struct Files {
    /// The kernel file.
    pub kernel: PathBuf,
    /// The initial RAM disk, where the guest has one.
    pub initrd: Option<PathBuf>,
    /// The kernel command line.
    pub append: String,
}

/// Kernel modules that the guest's /init loads: the power button and the input events that it makes, and for virtio
/// devices the transport and the drivers, each behind those that it needs.
const MODULES: [&str; 15] = [
    "drivers/acpi/button.ko",
    "drivers/input/evdev.ko",
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
    "drivers/char/hw_random/virtio-rng.ko",
    "drivers/char/virtio_console.ko",
    "drivers/virtio/virtio_balloon.ko",
    "drivers/virtio/virtio_input.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
];

/// What tries every device of the guest, as /bin/devices.
const DEVICES: &str = include_str!("../../tests/guests/linux/devices.sh");

/// Builds or finds the files of a guest.
pub fn files(guest: Guest) -> Result<Files> {
    match guest {
        Guest::Demo => Ok(Files {
            kernel: build::freestanding("monovisor-guests", "demo", &[])?,
            initrd: None,
            append: String::new(),
        }),
        Guest::Linux | Guest::LinuxGeneric => {
            let tree = debian_kernel(if guest == Guest::Linux { CLOUD } else { GENERIC })?;
            Ok(Files {
                kernel: tree.join("vmlinuz"),
                initrd: Some(initramfs(&tree)?),
                append: "console=ttyS0".into(),
            })
        }
    }
}

/// Fetches a kernel of Debian's by package name, once; returns the directory with `vmlinuz` and `modules/`.
fn debian_kernel(kernel: Kernel) -> Result<PathBuf> {
    let directory = paths::cache(kernel.cache)?;
    let module = |path: &str| directory.join("modules").join(Path::new(path).file_name().unwrap_or_default());
    if directory.join("vmlinuz").exists() && MODULES.iter().all(|path| module(path).exists()) {
        return Ok(directory);
    }
    setup::need(&["apt-get", "dpkg-deb"])?;
    let _progress = Progress::start(format!("fetching {}", kernel.package));
    let package = match kernel_package(kernel) {
        Ok(package) => package,
        Err(_) => {
            setup::refresh_package_lists()?;
            kernel_package(kernel)?
        }
    };
    if let Err(error) = download(&directory, &package) {
        // The lists may be older than the archive; they are renewed once.
        setup::refresh_package_lists().with_context(|| format!("after: {error:#}"))?;
        download(&directory, &kernel_package(kernel)?)?;
    }
    Ok(directory)
}

/// The package with the kernel itself, e.g. `linux-image-6.1.0-56-cloud-amd64`.
fn kernel_package(kernel: Kernel) -> Result<String> {
    let mut command = process::command("apt-cache");
    command.args(["depends", "--no-recommends", "--no-suggests", kernel.package]);
    let text = process::capture(&mut command, "apt-cache", Duration::from_secs(60))?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .with_context(|| format!("apt knows no kernel for {}", kernel.package))
}

fn download(directory: &Path, package: &str) -> Result<()> {
    let scratch = directory.join("download");
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch)?;
    let mut command = process::command("apt-get");
    command.args(["-q", "download", package]).current_dir(&scratch);
    process::capture(&mut command, "apt-get download", Duration::from_secs(300))?;
    let deb = std::fs::read_dir(&scratch)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded nothing")?;
    let mut command = process::command("dpkg-deb");
    command.arg("--extract").arg(&deb).arg(scratch.join("tree"));
    process::capture(&mut command, "dpkg-deb", Duration::from_secs(120))?;
    let release = package.trim_start_matches("linux-image-");
    let tree = scratch.join("tree");
    std::fs::create_dir_all(directory.join("modules"))?;
    for module in MODULES {
        let name = Path::new(module).file_name().unwrap_or_default();
        let from = tree.join("lib/modules").join(release).join("kernel").join(module);
        std::fs::copy(&from, directory.join("modules").join(name))
            .with_context(|| format!("{package} has no {module}"))?;
    }
    // The kernel comes last: that it is there says that all is.
    std::fs::rename(tree.join(format!("boot/vmlinuz-{release}")), directory.join("vmlinuz"))
        .with_context(|| format!("{package} has no vmlinuz"))?;
    let _ = std::fs::remove_dir_all(&scratch);
    Ok(())
}

/// Makes the initramfs: busybox, our /init, the modules that it loads, and the script that tries all devices.
fn initramfs(tree: &Path) -> Result<PathBuf> {
    let path = tree.join("initrd.cpio");
    write_initramfs(&path, tree, include_str!("init.sh"))?;
    Ok(path)
}

/// Makes an initramfs with an /init of one's own at `path`.
pub fn write_initramfs(path: &Path, tree: &Path, init: &str) -> Result<()> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("busybox is not installed (package busybox-static)")?;
    let busybox = std::fs::read(busybox)?;
    if busybox.windows(11).any(|window| window == b"/ld-linux-x") {
        bail!("busybox is the dynamic one; install busybox-static");
    }
    let mut archive = Archive::new();
    for directory in ["bin", "dev", "proc", "sys", "tmp", "etc", "etc/acpi", "lib"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1).device("dev/null", 1, 3);
    archive.file("bin/busybox", 0o755, &busybox).link("bin/sh", "busybox");
    for module in MODULES {
        let name = Path::new(module).file_name().unwrap_or_default();
        let data = std::fs::read(tree.join("modules").join(name))?;
        archive.file(&format!("lib/{}", name.to_string_lossy()), 0o644, &data);
    }
    archive.file("bin/devices", 0o755, DEVICES.as_bytes());
    archive.file("init", 0o755, init.as_bytes());
    paths::write_if_changed(path, &archive.finish())
}

/// Builds the program `tests/guests/linux/NAME.rs` at `output`; it needs no libraries.
pub fn program(name: &str, output: &Path) -> Result<()> {
    let source = paths::root().join("tests/guests/linux").join(name).with_extension("rs");
    let mut command = process::command(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "panic=abort"]);
    command.args(["-C", "strip=symbols", "-o"]).arg(output).arg(source);
    process::capture(&mut command, "rustc", Duration::from_secs(120))?;
    Ok(())
}

/// An initramfs at `path` that is `initrd` and a program more in /bin: Linux unpacks one archive behind the other.
pub fn with_program(initrd: &Path, name: &str, program: &Path, path: &Path) -> Result<()> {
    let mut archive = Archive::new();
    archive.file(&format!("bin/{name}"), 0o755, &std::fs::read(program)?);
    let mut whole = std::fs::read(initrd)?;
    whole.resize(whole.len().next_multiple_of(4), 0);
    whole.extend(archive.finish());
    paths::write_if_changed(path, &whole)
}

/// The cloud kernel's tree, for tests that make an initramfs of their own.
pub fn linux_tree() -> Result<PathBuf> {
    debian_kernel(CLOUD)
}

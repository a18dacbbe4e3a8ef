//! Builds board images and guest kernels with Cargo.

use crate::board::Board;
use crate::{paths, process};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Images are built for the host's own target, named all the same: else RUSTFLAGS would reach build scripts too.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The longest that a build may take.
const LIMIT: Duration = Duration::from_secs(1200);

/// A `cargo` command at the top of the tree, without what the `cargo` that started us put in the environment.
pub fn cargo() -> Command {
    let mut command = process::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO_BIN_NAME" {
            command.env_remove(&name);
        }
    }
    command
}

/// What makes an image smaller, besides what its profile says: arguments for the step that generates the code of all packages
/// at once, and for that alone.
///
/// - An image runs where it is linked, so addresses are constants.
/// - A switch of few cases is comparisons: a table has 8 bytes for each.
/// - A function's body stands where it is called only if that takes hardly more room than the call.
/// - What comes more than once becomes a function, in what is compiled for size alone and in what is marked cold: this is
///   what `optimistic-pgo` comes to without a profile.
/// - Functions that differ in constants alone are one, with an argument more.
/// - Two blocks that end in the same two instructions end in one place.
const SMALLER: [&str; 7] = [
    "-Crelocation-model=static",
    "-Cllvm-args=-min-jump-table-entries=14",
    "-Cllvm-args=-inline-threshold=15",
    "-Cllvm-args=-enable-machine-outliner=optimistic-pgo",
    "-Cllvm-args=-enable-global-merge-func",
    "-Cllvm-args=-tail-merge-size=2",
    "-Cllvm-args=-disable-early-taildup",
];

/// Builds one freestanding binary, optimised; returns the ELF file. `code` are arguments for its compiler.
pub fn freestanding(package: &str, binary: &str, code: &[&str]) -> Result<PathBuf> {
    let mut command = cargo();
    command.args([
        "rustc",
        "--quiet",
        "--release",
        "--target",
        TARGET,
        "--package",
        package,
        "--bin",
        binary,
    ]);
    command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    command.arg("--").args(code);
    let _progress = crate::progress::Progress::start(format!("building {binary}"));
    let output = process::output(&mut command, &format!("cargo build of {binary}"), LIMIT)?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        bail!("{binary} does not build");
    }
    // One JSON object a line; the artifact of a binary carries its path.
    let artifact = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == binary)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    artifact.with_context(|| format!("cargo did not say where it put {binary}"))
}

/// Builds the image of a board; returns the ELF file.
pub fn board(board: Board) -> Result<PathBuf> {
    freestanding(&board.package(), &board.package(), &SMALLER)
}

//! `cargo xtask image`: one hybrid image that boots a real machine from CD or USB, by BIOS or by UEFI.

use crate::board::Board;
use crate::emulator::Rig;
use crate::iso::{self, Contents, Firmware};
use crate::payload::Payload;
use crate::{build, paths, setup};
use anyhow::Result;
use clap::Args;
use std::path::{Path, PathBuf};

/// `cargo xtask image`.
#[derive(Args, Debug)]
pub struct Options {
    /// The board that the image is for
    #[arg(long, default_value = "pc")]
    board: Board,
    /// Where to write it [default: target/monovisor-BOARD.iso]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    payload: Payload,
}

/// Runs the subcommand.
pub fn main(options: Options) -> Result<()> {
    setup::ensure()?;
    let output = match options.output {
        Some(path) => path,
        None => paths::target().join(format!("monovisor-{}.iso", options.board.name())),
    };
    let (words, members) = options.payload.prepare()?;
    make(options.board, words, members, &output)?;
    let size = std::fs::metadata(&output)?.len();
    println!("{}: {:.1} MiB", output.display(), size as f64 / 1048576.0);
    println!("write it to a USB stick with: dd if={} of=/dev/sdX bs=4M conv=fsync", output.display());
    Ok(())
}

/// Builds the board and makes its image.
pub fn make(
    board: Board,
    options: Vec<String>,
    members: Vec<crate::emulator::Member>,
    output: &Path,
) -> Result<()> {
    let scratch = paths::cache("image")?.join(board.name());
    std::fs::create_dir_all(&scratch)?;
    let mut rig = Rig::new(board, build::board(board)?, scratch.clone());
    rig.members = members;
    let contents = Contents { monitor: rig.image.clone(), bundle: rig.write_bundle()?, options };
    iso::make(&contents, Firmware::Both, &scratch, output)
}

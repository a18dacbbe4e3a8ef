//! `cargo xtask commands`: which QMP commands and events there are.

use anyhow::Result;
use monovisor_core::schema::{Offered, docs};

/// What to show.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Describe every command, event and type that is declared, as Markdown
    #[arg(long)]
    reference: bool,
}

/// Prints the lists, or the reference.
///
/// # Errors
/// Where printing fails.
pub fn main(options: Options) -> Result<()> {
    let mut text = String::new();
    if options.reference {
        docs::reference(&mut text)?;
    } else {
        docs::status(&mut text, &Offered::product())?;
    }
    print!("{text}");
    Ok(())
}

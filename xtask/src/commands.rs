//! `cargo xtask commands`: which QMP commands and events there are.

use anyhow::Result;
use monovisor_core::schema::docs;

// The hypervisor's own list. It is made of the schema alone, so the rest of the hypervisor need not be built here.
#[path = "../../hv/src/handlers/offered.rs"]
mod offered;

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
        docs::status(&mut text, &offered::OFFERED)?;
    }
    print!("{text}");
    Ok(())
}

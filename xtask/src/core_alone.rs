//! The monitor core on its own: what of it a panic could reach, what it costs and how deep its stack gets.
//!
//! `tests/no-panic` links all of `core`, every command included, over handlers that the compiler cannot see through, and
//! nothing else. So what is in that file is what `core` needs.

use crate::{budget, build, paths, process, size, stack};
use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol};
use std::time::Duration;

/// The longest that building may take.
const LIMIT: Duration = Duration::from_secs(1200);

/// Panics that are left in the core, each by a part of its function's name and with the reason why it is never reached.
/// There are none.
const PANICS_LEFT: [(&str, &str); 0] = [];

/// Links the core; returns the file's content.
pub fn build() -> Result<Vec<u8>> {
    let target = paths::target().join("no-panic");
    let mut command = build::cargo();
    command.args(["build", "--quiet", "--release", "--target", build::TARGET]);
    command.args(["--manifest-path", "tests/no-panic/Cargo.toml", "--target-dir"]).arg(&target);
    command.env("RUSTFLAGS", "-C relocation-model=static");
    let _progress = crate::progress::Progress::start("linking the core on its own".to_owned());
    process::run(&mut command, "cargo build of tests/no-panic", LIMIT)?;
    let file = target.join(build::TARGET).join("release/no-panic");
    std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// Functions by which a panic starts that are in the file and not in the list of those that may be.
pub fn panics(data: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(data)?;
    let mut found = Vec::new();
    let (mut core, mut listed) = (false, [false; PANICS_LEFT.len()]);
    for symbol in file.symbols() {
        let name = symbol.name().unwrap_or_default();
        core |= name.contains("monovisor_core");
        // Every panic goes through the module `core::panicking`, which is part of its functions' names however mangled.
        if !name.contains("9panicking") {
            continue;
        }
        let readable = format!("{:#}", rustc_demangle::demangle(name));
        match PANICS_LEFT.iter().position(|(part, _)| readable.contains(part)) {
            Some(at) => {
                if let Some(listed) = listed.get_mut(at) {
                    *listed = true;
                }
            }
            None => found.push(format!("{readable} is linked: something in the core can panic")),
        }
    }
    for ((part, _), listed) in PANICS_LEFT.iter().zip(listed) {
        if !listed {
            found.push(format!("{part} is in the list of panics that are left, and is not left"));
        }
    }
    if !core {
        found.push("the file has no symbols of the core".to_owned());
    }
    Ok(found)
}

/// What the core costs: code and constants, and the deepest chain of calls, in bytes.
pub fn cost(data: &[u8]) -> Result<(u64, stack::Deepest)> {
    // Unwind tables are for debuggers; a board's link script leaves them out.
    let file = object::File::parse(data)?;
    let tables =
        file.sections().filter(|section| section.name().is_ok_and(|name| name.starts_with(".eh_frame")));
    let tables: u64 = tables.map(|section| section.size()).sum();
    Ok((size::measure(data)?.image() - tables, stack::analyse(data)?))
}

/// What is over its budget.
pub fn over_budget(data: &[u8]) -> Result<Vec<String>> {
    let (bytes, deepest) = cost(data)?;
    let mut over = Vec::new();
    if bytes > budget::CORE {
        over.push(format!("core: code and constants: {bytes} of {} bytes", budget::CORE));
    }
    if deepest.bytes > budget::CORE_STACK {
        over.push(format!("core: deepest stack: {} of {} bytes", deepest.bytes, budget::CORE_STACK));
    }
    Ok(over)
}

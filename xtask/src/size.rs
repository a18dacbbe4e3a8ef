//! `cargo xtask size`: what an image costs, against its budget; and that nothing in it can allocate.

use crate::board::Board;
use crate::budget::{self, Budget};
use crate::{build, core_alone, process, stack};
use anyhow::{Context, Result, bail};
use clap::Args;
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SectionKind, SegmentFlags};
use std::path::Path;
use std::time::Duration;

/// `cargo xtask size`.
#[derive(Args, Debug)]
pub struct Options {
    /// Only this board
    #[arg(long)]
    board: Option<Board>,
    /// Only the monitor core on its own, with every command that is declared
    #[arg(long, conflicts_with = "board")]
    core: bool,
    /// Show the largest functions, and the deepest chain of calls
    #[arg(short, long)]
    verbose: bool,
}

/// Names that only a heap brings with it.
const HEAP_SYMBOLS: [&str; 6] =
    ["__rust_alloc", "__rust_realloc", "__rust_dealloc", "__rg_alloc", "__rdl_alloc", "handle_alloc_error"];

/// Runs the subcommand.
pub fn main(options: Options) -> Result<()> {
    let boards = match options.board {
        Some(board) => vec![board],
        None if options.core => Vec::new(),
        None => vec![Board::Qemu, Board::Bochs, Board::Pc],
    };
    let mut over = Vec::new();
    for board in boards {
        let path = build::board(board)?;
        over.extend(report(board, &path, options.verbose)?);
    }
    if options.board.is_none() {
        over.extend(report_core(options.verbose)?);
    }
    if over.is_empty() {
        return Ok(());
    }
    bail!("over budget:\n  {}", over.join("\n  "))
}

/// Sizes of an image's parts, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// Code.
    pub code: u64,
    /// Constants.
    pub constants: u64,
    /// Initialised data.
    pub data: u64,
    /// Zero-initialised memory.
    pub zeroed: u64,
}

impl Sizes {
    /// What a loader reads: all but the zeroes.
    pub fn image(&self) -> u64 {
        self.code + self.constants + self.data
    }
}

/// Measures an image.
pub fn measure(data: &[u8]) -> Result<Sizes> {
    let file = object::File::parse(data)?;
    let mut sizes = Sizes::default();
    for section in file.sections() {
        match section.kind() {
            SectionKind::Text => sizes.code += section.size(),
            SectionKind::Data => sizes.data += section.size(),
            SectionKind::UninitializedData => sizes.zeroed += section.size(),
            SectionKind::ReadOnlyData | SectionKind::ReadOnlyString | SectionKind::Note => {
                sizes.constants += section.size();
            }
            _ => {}
        }
    }
    Ok(sizes)
}

/// Prints what an image costs; returns what is over its budget.
fn report(board: Board, path: &Path, verbose: bool) -> Result<Vec<String>> {
    let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let Budget { image, zeroed, stack: stack_budget, other_stack, .. } = budget::of(board);
    let sizes = measure(&data)?;
    let deepest = stack::analyse(&data)?;
    let other = stack::analyse_from(&data, budget::OTHER_MAIN)?;
    println!("{}", board.name());
    let mut over = Vec::new();
    let mut line = |what: &str, bytes: u64, budget: u64| {
        let verdict = if bytes <= budget { "" } else { "  OVER" };
        println!("  {what:<34} {bytes:>9} of {budget:>9} bytes{verdict}");
        if bytes > budget {
            over.push(format!("{}: {what}: {bytes} of {budget} bytes", board.name()));
        }
    };
    line("image, code and data", sizes.image(), image);
    line("static RAM (zeroed)", sizes.zeroed, zeroed);
    line("deepest stack", deepest.bytes, stack_budget);
    line("deepest stack, further processors", other.bytes, other_stack);
    println!("  code {}, constants {}, data {}", sizes.code, sizes.constants, sizes.data);
    println!("  {} functions behind pointers, {} calls that close a cycle", deepest.pointers, deepest.cyclic);
    if verbose {
        println!("  deepest chain of calls:");
        for (name, frame) in &deepest.chain {
            println!("    {frame:>6}  {}", readable(name));
        }
        println!("  deepest chain of calls, further processors:");
        for (name, frame) in &other.chain {
            println!("    {frame:>6}  {}", readable(name));
        }
        println!("  largest symbols:");
        for (name, size) in largest(&data, 40)? {
            println!("    {size:>6}  {}", readable(&name));
        }
    }
    over.extend(faults(board, &data)?);
    Ok(over)
}

/// Prints what the core costs on its own, with all commands; returns what is over its budget.
fn report_core(verbose: bool) -> Result<Vec<String>> {
    let data = core_alone::build()?;
    let (bytes, deepest) = core_alone::cost(&data)?;
    println!("core, with every command that is declared");
    println!("  {:<34} {bytes:>9} of {:>9} bytes", "code and constants", budget::CORE);
    println!("  {:<34} {:>9} of {:>9} bytes", "deepest stack", deepest.bytes, budget::CORE_STACK);
    if verbose {
        println!("  deepest chain of calls:");
        for (name, frame) in &deepest.chain {
            println!("    {frame:>6}  {}", readable(name));
        }
    }
    core_alone::over_budget(&data)
}

/// A symbol's name as it stands in the source.
fn readable(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

fn largest(data: &[u8], count: usize) -> Result<Vec<(String, u64)>> {
    let file = object::File::parse(data)?;
    let mut symbols: Vec<(String, u64)> =
        file.symbols().map(|symbol| (symbol.name().unwrap_or("?").to_owned(), symbol.size())).collect();
    symbols.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    symbols.truncate(count);
    Ok(symbols)
}

/// What must not be in an image: a heap, a segment that is both writable and executable.
pub fn faults(board: Board, data: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(data)?;
    let mut faults = Vec::new();
    for symbol in file.symbols() {
        let name = symbol.name().unwrap_or("");
        if HEAP_SYMBOLS.iter().any(|heap| name.contains(heap)) || name.starts_with("_ZN5alloc") {
            faults.push(format!("{}: the image holds {name}: there is no heap", board.name()));
        }
    }
    for segment in file.segments() {
        if let SegmentFlags::Elf { p_flags, .. } = segment.flags() {
            // PF_X is bit 0, PF_W bit 1 (ELF-64, program header).
            if p_flags.0 & 3 == 3 {
                faults.push(format!(
                    "{}: the segment at {:#x} is writable and executable",
                    board.name(),
                    segment.address()
                ));
            }
        }
    }
    faults.extend(heap_dependencies(board)?);
    Ok(faults)
}

/// Crates of the board's dependency graph that are built with what would need a heap.
fn heap_dependencies(board: Board) -> Result<Vec<String>> {
    // Normal dependencies only, with their features: build scripts and macros run on the host.
    let mut command = build::cargo();
    command.args(["tree", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p} [{f}]"]);
    command.args(["--target", build::TARGET, "--package", &board.package()]);
    let text = process::capture(&mut command, "cargo tree", Duration::from_secs(60))?;
    let mut faults = Vec::new();
    for line in text.lines() {
        let Some((package, features)) = line.split_once(" [") else { continue };
        let features = features.trim_end_matches([']', ' ', '(', '*', ')']);
        for feature in features.split(',').filter(|feature| ["alloc", "std", "use_std"].contains(feature)) {
            faults.push(format!("{}: {package} is built with its feature `{feature}`", board.name()));
        }
    }
    faults.sort();
    faults.dedup();
    Ok(faults)
}

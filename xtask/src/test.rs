//! `cargo xtask test`: everything that says whether the tree is good.

use crate::board::Board;
use crate::{budget, build, core_alone, fuzz, process, setup, size, stack};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::process::Command;
use std::time::Duration;

/// `cargo xtask test`.
#[derive(Args, Debug)]
pub struct Options {
    /// Only what needs no emulator: format, lints, unit tests, image checks
    #[arg(long, conflicts_with = "boot")]
    host: bool,
    /// Only the boot tests
    #[arg(long)]
    boot: bool,
    /// Boot tests on these boards only
    #[arg(long)]
    board: Vec<Board>,
    /// Boot tests whose group's name contains this only
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Exits that the hostile guest makes on each board [default: 1000000, or what 10 minutes allow]
    #[arg(long, value_name = "N")]
    exits: Option<u64>,
    /// Seed of the hostile guest's random numbers [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Round of its seed that the hostile guest begins with
    #[arg(long, value_name = "N")]
    round: Option<u64>,
    /// QEMU emulates each processor of our own guests' rigs by a thread of its own: on a QEMU without the fault that the README names
    #[arg(long)]
    parallel: bool,
}

/// One step of Cargo: build, lint, test.
const STEP_LIMIT: Duration = Duration::from_secs(1800);
/// All boot tests; they have a limit of their own that is a little shorter.
const BOOT_LIMIT: Duration = Duration::from_secs(46 * 60);

/// How long each fuzz target runs.
const FUZZ_TIME: Duration = Duration::from_secs(60);
/// How many of them run at a time.
const FUZZ_JOBS: usize = 2;

/// What passed and what did not.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    /// The line of each failure, to be said again at the end: a log of the whole run is thousands of lines long.
    failures: Vec<String>,
}

impl Tally {
    /// Runs one check of ours and prints what came of it.
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        match check() {
            Ok(()) => {
                self.passed += 1;
                println!("test {name} ... ok");
            }
            Err(error) => {
                self.failed += 1;
                println!("test {name} ... FAILED\n    {}", format!("{error:#}").replace('\n', "\n    "));
                self.failures.push(format!("test {name} ... FAILED"));
            }
        }
    }

    /// Remembers a test runner's line if it tells of a failure.
    fn note(&mut self, line: &str) {
        if is_failure(line) {
            self.failures.push(line.to_owned());
        }
    }

    /// Takes over what a test runner counted.
    fn add(&mut self, counts: Option<(u64, u64)>) {
        if let Some((passed, failed)) = counts {
            self.passed += passed;
            self.failed += failed;
        }
    }
}

/// Runs the subcommand; the status is 0 only when all passed and anything was run.
pub fn main(options: Options) -> Result<u8> {
    let mut tally = Tally::default();
    if !options.boot {
        host(&mut tally);
    }
    if !options.host {
        setup::ensure()?;
        boot(&options, &mut tally);
    }
    for failure in &tally.failures {
        println!("{failure}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(u8::from(tally.failed > 0 || tally.passed == 0))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = build::cargo();
    command.args(arguments);
    command
}

fn host(tally: &mut Tally) {
    tally.check("format", || process::run(&mut cargo(&["fmt", "--check"]), "cargo fmt --check", STEP_LIMIT));
    let lint = |arguments: &[&str]| {
        let mut command = cargo(&["clippy", "--quiet"]);
        command.args(arguments).args(["--", "-D", "warnings"]);
        process::run(&mut command, "cargo clippy", STEP_LIMIT)
    };
    tally.check("lints of the workspace", || lint(&["--workspace", "--all-targets"]));
    tally.check("lints of the boot tests", || lint(&["--package", "monovisor-tests", "--test", "boot"]));
    tally.check("lints of the images", || {
        let mut arguments = vec!["--release", "--target", build::TARGET];
        let packages = [Board::Qemu, Board::Bochs, Board::Pc].map(Board::package);
        for package in &packages {
            arguments.extend(["--package", package]);
        }
        arguments.extend(["--package", "monovisor-guests"]);
        lint(&arguments)
    });
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
    let mut counted = (0, 0);
    let status = process::tee(&mut command, "cargo test", STEP_LIMIT, |line| {
        tally.note(line);
        if let Some((passed, failed)) = cargo_counts(line) {
            counted = (counted.0 + passed, counted.1 + failed);
        }
    });
    tally.add(Some(counted));
    // A test that does not compile or a runner that dies is a failure that nobody counted.
    tally.check("cargo test", || {
        let status = status?;
        ensure!(status.success() || counted.1 > 0, "{status}");
        ensure!(counted.0 > 0, "no test ran");
        Ok(())
    });
    core(tally);
    for board in [Board::Qemu, Board::Bochs, Board::Pc] {
        let name = board.name();
        let image = build::board(board).and_then(|path| Ok(std::fs::read(path)?));
        tally.check(&format!("image {name}: no heap, no writable code"), || {
            let faults = size::faults(board, image.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?)?;
            ensure!(faults.is_empty(), "{}", faults.join("\n"));
            Ok(())
        });
        tally.check(&format!("image {name}: within its budget"), || {
            let image = image.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let (sizes, limits) = (size::measure(image)?, budget::of(board));
            ensure!(sizes.image() <= limits.image, "{} of {} bytes", sizes.image(), limits.image);
            ensure!(
                sizes.zeroed <= limits.zeroed,
                "{} of {} bytes of static RAM",
                sizes.zeroed,
                limits.zeroed
            );
            let deepest = stack::analyse(image)?;
            ensure!(deepest.bytes <= limits.stack, "{} of {} bytes of stack", deepest.bytes, limits.stack);
            Ok(())
        });
    }
}

/// What can be said of the monitor core alone.
fn core(tally: &mut Tally) {
    let alone = core_alone::build();
    let alone = || alone.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"));
    tally.check("core: no panic can be reached", || {
        let panics = core_alone::panics(alone()?)?;
        ensure!(panics.is_empty(), "{}", panics.join("\n"));
        Ok(())
    });
    tally.check("core: within its budgets", || {
        let over = core_alone::over_budget(alone()?)?;
        ensure!(over.is_empty(), "{}", over.join("\n"));
        Ok(())
    });
    let targets = fuzz::all();
    let outcomes = fuzz::run(&targets, fuzz::best_engine(), FUZZ_TIME, FUZZ_JOBS);
    for (at, target) in targets.iter().enumerate() {
        tally.check(&format!("core: fuzzed by {target}"), || {
            let outcomes = outcomes.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let outcome = outcomes.get(at).context("it did not run")?;
            ensure!(outcome.finding.is_none(), "{outcome}");
            Ok(())
        });
    }
}

fn boot(options: &Options, tally: &mut Tally) {
    let mut command = cargo(&["test", "--quiet", "--package", "monovisor-tests", "--test", "boot", "--"]);
    for board in &options.board {
        command.args(["--board", board.name()]);
    }
    if let Some(only) = &options.only {
        command.args(["--only", only]);
    }
    for (name, number) in [("--exits", options.exits), ("--seed", options.seed), ("--round", options.round)] {
        if let Some(number) = number {
            command.args([name, &number.to_string()]);
        }
    }
    if options.parallel {
        command.arg("--parallel");
    }
    let mut counted = None;
    let status = process::tee(&mut command, "boot tests", BOOT_LIMIT, |line| {
        tally.note(line);
        counted = plain_counts(line).or(counted);
    });
    tally.add(counted);
    if counted.is_none() {
        tally.check("boot tests", || bail!("they did not end: {}", status.context("no status")?));
    }
}

/// `test result: ok. 12 passed; 0 failed; …`
fn cargo_counts(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut parts = rest.split("; ");
    let mut number = |word: &str| parts.next()?.strip_suffix(word)?.trim().parse().ok();
    Some((number(" passed")?, number(" failed")?))
}

/// `test NAME ... FAILED`, with or without the time it took.
fn is_failure(line: &str) -> bool {
    line.starts_with("test ") && line.contains(" ... FAILED")
}

/// `12 passed, 0 failed`
fn plain_counts(line: &str) -> Option<(u64, u64)> {
    let (passed, failed) = line.split_once(", ")?;
    Some((passed.strip_suffix(" passed")?.parse().ok()?, failed.strip_suffix(" failed")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_understood() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(cargo_counts(line), Some((12, 3)));
        assert_eq!(cargo_counts("running 4 tests"), None);
        assert_eq!(plain_counts("40 passed, 2 failed"), Some((40, 2)));
        assert_eq!(plain_counts("test qemu::x ... ok"), None);
        assert!(is_failure("test qemu::x ... FAILED (1.0 s)") && is_failure("test a::b ... FAILED"));
        assert!(!is_failure("test qemu::x ... ok (1.0 s)") && !is_failure("test result: FAILED. 1 passed"));
    }
}

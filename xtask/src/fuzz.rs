//! `cargo xtask fuzz`: hostile input for the monitor core.
//!
//! The targets are in `monovisor_tests::fuzz`. Guided by coverage they are run by LLVM's libFuzzer, which the crate
//! `libfuzzer-sys` brings along as C++ source: the instrumentation is a pass of the stable compiler, so neither a nightly one
//! nor a tool is needed, only a C++ compiler. Without one, `--plain` runs the same targets on random input.

use crate::{build, paths, process};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use monovisor_tests::fuzz::TARGETS;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// `cargo xtask fuzz`.
#[derive(Args, Debug)]
pub struct Options {
    /// Targets to run: bytes, json, commands, chunks [default: all of them]
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 1)]
    minutes: u64,
    /// How many targets run at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Random inputs without guidance by coverage: needs no C++ compiler and finds less
    #[arg(long)]
    plain: bool,
}

/// What makes inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// libFuzzer, by coverage.
    Guided,
    /// Chance.
    Plain,
}

/// How a target did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The target.
    pub target: &'static str,
    /// Inputs that were tried.
    pub executions: u64,
    /// Edges of the program's flow that were reached, and libFuzzer's finer features; none where nothing was measured.
    pub coverage: Option<(u64, u64)>,
    /// What was found, with the way to the input; none is good.
    pub finding: Option<String>,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} executions", self.target, self.executions)?;
        if let Some((edges, features)) = self.coverage {
            write!(f, ", {edges} edges and {features} features covered")?;
        }
        match &self.finding {
            None => f.write_str(", nothing found"),
            Some(finding) => write!(f, "; FOUND:\n{finding}"),
        }
    }
}

/// The instrumentation that libFuzzer needs: counters on edges, their addresses, and what is compared with what.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Longest input, in bytes.
const INPUT_BYTES: u64 = 4096;
/// One input that takes longer than this, in seconds, is a finding.
const INPUT_LIMIT: u64 = 60;
/// Memory beyond this, in MiB, is a finding.
const MEMORY_LIMIT: u64 = 2048;
/// The longest that building may take.
const BUILD_LIMIT: Duration = Duration::from_secs(1200);
/// What a target may take beyond its time, for its last input and for the end.
const GRACE: Duration = Duration::from_secs(90);

/// Runs the subcommand; the status is 0 only where nothing was found.
pub fn main(options: Options) -> Result<u8> {
    let engine = if options.plain { Engine::Plain } else { Engine::Guided };
    ensure!(
        engine == Engine::Plain || has_compiler(),
        "there is no C++ compiler, which libFuzzer is built with: install g++, or run with --plain"
    );
    let mut targets = Vec::new();
    for name in &options.targets {
        let known = TARGETS.iter().find(|(target, _)| target == name);
        targets.push(known.map(|(target, _)| *target).with_context(|| format!("no target '{name}'"))?);
    }
    if targets.is_empty() {
        targets = all();
    }
    let time = Duration::from_secs(options.minutes.max(1) * 60);
    let outcomes = run(&targets, engine, time, options.jobs)?;
    Ok(u8::from(outcomes.iter().any(|outcome| outcome.finding.is_some())))
}

/// All targets.
pub fn all() -> Vec<&'static str> {
    TARGETS.iter().map(|(name, _)| *name).collect()
}

/// The better engine of those that this machine can build.
pub fn best_engine() -> Engine {
    if has_compiler() { Engine::Guided } else { Engine::Plain }
}

fn has_compiler() -> bool {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    std::process::Command::new(compiler).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Runs targets, `jobs` at a time, each for `time`, and prints how they did.
pub fn run(targets: &[&'static str], engine: Engine, time: Duration, jobs: usize) -> Result<Vec<Outcome>> {
    let folder = build(engine)?;
    let (waiting, done) = (Mutex::new(targets.to_vec()), Mutex::new(Vec::new()));
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.pop());
    let _progress = crate::progress::Progress::start(format!("fuzzing for {} s a target", time.as_secs()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, targets.len().max(1)) {
            scope.spawn(|| {
                while let Some(target) = next() {
                    let outcome = fuzz(&folder, target, engine, time).unwrap_or_else(|error| Outcome {
                        target,
                        executions: 0,
                        coverage: None,
                        finding: Some(format!("{error:#}")),
                    });
                    println!("{outcome}");
                    if let Ok(mut done) = done.lock() {
                        done.push(outcome);
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|outcome| targets.iter().position(|target| *target == outcome.target));
    ensure!(done.len() == targets.len(), "a target has no outcome");
    Ok(done)
}

/// Builds the targets; returns the folder with the programs.
fn build(engine: Engine) -> Result<PathBuf> {
    let target = paths::target().join(if engine == Engine::Guided { "fuzz" } else { "fuzz-plain" });
    let mut command = build::cargo();
    command.args(["build", "--quiet", "--release", "--target", build::TARGET]);
    command.args(["--manifest-path", "tests/fuzz/Cargo.toml", "--target-dir"]).arg(&target);
    match engine {
        Engine::Guided => {
            command.env("RUSTFLAGS", INSTRUMENTATION);
            command.args(all().iter().flat_map(|target| ["--bin", target]));
        }
        Engine::Plain => {
            command.env("RUSTFLAGS", "").args(["--no-default-features", "--bin", "plain"]);
        }
    }
    let _progress = crate::progress::Progress::start("building the fuzzers".to_owned());
    process::run(&mut command, "cargo build of the fuzzers", BUILD_LIMIT)?;
    Ok(target.join(build::TARGET).join("release"))
}

/// Runs one target.
fn fuzz(folder: &std::path::Path, target: &'static str, engine: Engine, time: Duration) -> Result<Outcome> {
    let work = paths::target().join("fuzz-work").join(target);
    let (corpus, found) = (work.join("corpus"), work.join("found"));
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&found)?;
    let mut command = match engine {
        Engine::Guided => {
            let mut command = process::command(folder.join(target));
            command.args([
                format!("-max_total_time={}", time.as_secs()),
                format!("-max_len={INPUT_BYTES}"),
                format!("-timeout={INPUT_LIMIT}"),
                format!("-rss_limit_mb={MEMORY_LIMIT}"),
                format!("-report_slow_units={INPUT_LIMIT}"),
                "-print_final_stats=1".to_owned(),
                format!("-artifact_prefix={}/", found.display()),
            ]);
            command.arg(&corpus);
            command
        }
        Engine::Plain => {
            let mut command = process::command(folder.join("plain"));
            command.args([target, &time.as_secs().to_string()]);
            command
        }
    };
    let output = process::output(&mut command, target, time + GRACE)?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let mut outcome = Outcome { target, executions: 0, coverage: None, finding: None };
    for line in said.lines() {
        if let Some(number) = line.strip_prefix("stat::number_of_executed_units:") {
            outcome.executions = number.trim().parse()?;
        }
        outcome.coverage = coverage(line).or(outcome.coverage);
    }
    if !output.status.success() {
        let lines: Vec<_> = said.lines().collect();
        let last = lines.iter().skip(lines.len().saturating_sub(40)).copied().collect::<Vec<_>>().join("\n");
        outcome.finding = Some(format!("{last}\n({}; inputs are in {})", output.status, found.display()));
    } else if outcome.executions == 0 {
        bail!("it ran no input:\n{said}");
    }
    Ok(outcome)
}

/// `#123 NEW cov: 879 ft: 4155 corp: …`
fn coverage(line: &str) -> Option<(u64, u64)> {
    let mut words = line.strip_prefix('#')?.split_whitespace().skip_while(|word| *word != "cov:").skip(1);
    let edges = words.next()?.parse().ok()?;
    (words.next()? == "ft:").then_some(())?;
    Some((edges, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_libfuzzer_are_understood() {
        let line =
            "#740501\tREDUCE cov: 879 ft: 4155 corp: 1348/129Kb lim: 1040 exec/s: 993 rss: 32Mb L: 42/1030";
        assert_eq!(coverage(line), Some((879, 4155)));
        assert_eq!(coverage("#2\tINITED exec/s: 0 rss: 30Mb"), None);
        assert_eq!(coverage("Done 109491 runs in 13 second(s)"), None);
    }
}

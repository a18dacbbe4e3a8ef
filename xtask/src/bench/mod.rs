//! `cargo xtask bench`: how fast and how small, measured under QEMU with one instruction a nanosecond.
//!
//! `-icount shift=0` makes the TSC count instructions, so a run gives the same figures twice. What the emulator's
//! wall clock would say has no meaning and is not measured.

mod idle;
mod latency;
mod runs;

use crate::board::Board;
use crate::{budget, build, setup, size};
use anyhow::Result;
use clap::Args;
use serde_json::json;

/// `cargo xtask bench`.
#[derive(Args, Debug)]
pub struct Options {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What must be reached.
#[derive(Clone, Copy, Debug)]
struct Target {
    name: &'static str,
    unit: &'static str,
    limit: f64,
    /// More is better.
    at_least: bool,
    comparison: &'static str,
}

const fn target(name: &'static str, unit: &'static str, limit: f64, comparison: &'static str) -> Target {
    Target { name, unit, limit, at_least: false, comparison }
}

const fn at_least(name: &'static str, unit: &'static str, limit: f64, comparison: &'static str) -> Target {
    Target { at_least: true, ..target(name, unit, limit, comparison) }
}

const ENTRY: Target = target(
    "entry to the guest's first instruction",
    "instructions",
    20e6,
    "Linux and QEMU/KVM: 3,800 million",
);
const BOOT: Target =
    target("power-on to /init, against no hypervisor", "ratio", 1.15, "Linux and QEMU/KVM: 3.5");
const CPUID: Target = target("CPUID exit", "instructions", 400.0, "KVM: 2,943");
const PORT: Target = target("PM timer read", "instructions", 700.0, "QEMU/KVM: 5,325");
const TIMER: Target = target("guest timer interrupt: deadline to handler", "instructions", 2500.0, "");
const DISK: Target = target("virtio-blk, 4 KiB read, one at a time", "instructions", 15_000.0, "");
const DISK_DEEP: Target = target("virtio-blk, 4 KiB read, 32 at once", "instructions", 5_000.0, "");
const NET: Target = at_least(
    "virtio-net, long frames, per 1,000 instructions",
    "bytes",
    144.0,
    "QEMU/KVM: 96; its hub has no long frames",
);
const NET_SHORT: Target = at_least("virtio-net, 1,514-byte frames, the same", "bytes", 144.0, "QEMU/KVM: 96");
const IPI: Target = target("interrupt between processors, send to handler", "instructions", 5_000.0, "");
const IPI_WAKE: Target = target("the same, to a processor that halts", "instructions", 5_000.0, "");
const IDLE: Target = target("extra exits of an idle Linux, a virtual second", "exits", 50.0, "");
const RAM: Target = target("host RAM besides guest and store", "bytes", (4 << 20) as f64, "about 110 MiB");
const IMAGE: Target = target("board image, code and data", "bytes", crate::budget::IMAGE as f64, "");
const STATUS: Target = target("query-status, last byte in to first byte out", "instructions", 100_000.0, "");

impl Target {
    fn reached(&self, value: f64) -> bool {
        if self.at_least { value >= self.limit } else { value <= self.limit }
    }
}

/// A target and what was measured; an error says why nothing was.
struct Figure {
    target: Target,
    value: Result<f64>,
}

/// Runs the subcommand; the status is 0 only when every target is reached.
pub fn main(options: Options) -> Result<u8> {
    setup::ensure()?;
    let mut figures = Vec::new();
    let mut add = |target, value| figures.push(Figure { target, value });
    let image = build::board(Board::Qemu)?;
    match runs::exits(&image) {
        Ok(exits) => {
            add(ENTRY, Ok(exits.entry));
            add(CPUID, Ok(exits.cpuid));
            add(PORT, Ok(exits.pm_timer));
            add(TIMER, Ok(exits.timer));
            add(RAM, exits.host_ram);
        }
        Err(error) => {
            let text = format!("{error:#}");
            for target in [ENTRY, CPUID, PORT, TIMER, RAM] {
                add(target, Err(anyhow::anyhow!(text.clone())));
            }
        }
    }
    match runs::disk(&image) {
        Ok((one, deep)) => {
            add(DISK, Ok(one));
            add(DISK_DEEP, Ok(deep));
        }
        Err(error) => {
            let text = format!("{error:#}");
            for target in [DISK, DISK_DEEP] {
                add(target, Err(anyhow::anyhow!(text.clone())));
            }
        }
    }
    match runs::network(&image) {
        Ok((long, short)) => {
            add(NET, Ok(long));
            add(NET_SHORT, Ok(short));
        }
        Err(error) => {
            let text = format!("{error:#}");
            for target in [NET, NET_SHORT] {
                add(target, Err(anyhow::anyhow!(text.clone())));
            }
        }
    }
    match runs::between_processors(&image) {
        Ok((running, halted)) => {
            add(IPI, Ok(running));
            add(IPI_WAKE, Ok(halted));
        }
        Err(error) => add(IPI, Err(error)),
    }
    add(BOOT, runs::boot_ratio(&image));
    let idle = idle::linux(&image);
    let exits = idle.as_ref().ok().map(ToString::to_string);
    add(IDLE, idle.map(|idle| idle.extra));
    add(STATUS, latency::query_status(&image));
    let bytes = std::fs::read(&image)?;
    add(IMAGE, size::measure(&bytes).map(|sizes| sizes.image() as f64));
    debug_assert_eq!(budget::of(Board::Qemu).image as f64, IMAGE.limit);
    if options.json {
        print_json(&figures);
    } else {
        print_table(&figures);
        if let Some(exits) = exits {
            println!("idle Linux: {exits}");
        }
    }
    Ok(u8::from(figures.iter().any(|figure| !figure.passed())))
}

impl Figure {
    fn passed(&self) -> bool {
        self.value.as_ref().is_ok_and(|value| self.target.reached(*value))
    }
}

/// Thousands apart; ratios with three digits.
fn number(value: f64, unit: &str) -> String {
    if unit == "ratio" {
        return format!("{value:.3}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn print_table(figures: &[Figure]) {
    for Figure { target, value } in figures {
        let shown = match value {
            Ok(value) => number(*value, target.unit),
            Err(_) => "-".into(),
        };
        let verdict = match value {
            Ok(value) if target.reached(*value) => "pass".into(),
            Ok(_) => "MISSED".into(),
            Err(error) => format!("NOT MEASURED: {error:#}"),
        };
        let limit = number(target.limit, target.unit);
        println!("{:<46} {shown:>13} of {limit:>11} {:<13} {verdict}", target.name, target.unit);
        if !target.comparison.is_empty() {
            println!("{:<46} {:>13}    {}", "", "", target.comparison);
        }
    }
}

fn print_json(figures: &[Figure]) {
    let list: Vec<_> = figures
        .iter()
        .map(|figure| {
            let Figure { target, value } = figure;
            json!({
                "name": target.name,
                "unit": target.unit,
                "limit": target.limit,
                "value": value.as_ref().ok(),
                "error": value.as_ref().err().map(|error| format!("{error:#}")),
                "passed": figure.passed(),
            })
        })
        .collect();
    println!("{:#}", serde_json::Value::from(list));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(1_234_567.0, "instructions"), "1,234,567");
        assert_eq!(number(600.0, "instructions"), "600");
        assert_eq!(number(1.0512, "ratio"), "1.051");
    }
}

//! Runs the fuzz targets without any tool: random inputs, no guidance by coverage.
//!
//! `cargo run --release -p monovisor-tests --bin fuzz -- [TARGET|all] [SECONDS] [SEED]`

use std::time::{Duration, Instant};

use monovisor_tests::fuzz::{Random, TARGETS};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let wanted = arguments.next().unwrap_or_else(|| "all".into());
    let number =
        |text: Option<String>, otherwise| text.and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let seconds = number(arguments.next(), 60);
    let seed = number(arguments.next(), 1);
    let chosen: Vec<_> = TARGETS.iter().filter(|(name, _)| wanted == "all" || wanted == *name).collect();
    if chosen.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("no target '{wanted}'; there are: all, {}", names.join(", "));
        std::process::exit(2);
    }
    for (name, target) in chosen {
        let (mut random, start, mut count) = (Random::new(seed), Instant::now(), 0_u64);
        while start.elapsed() < Duration::from_secs(seconds) {
            let input = random.input();
            // What a panic was about.
            let outcome = std::panic::catch_unwind(|| target(&input));
            if outcome.is_err() {
                eprintln!(
                    "{name}: seed {seed}, execution {count}, input {:?}",
                    input.escape_ascii().to_string()
                );
                std::process::exit(1);
            }
            count += 1;
        }
        println!("{name}: {count} executions in {seconds} s from seed {seed}, nothing found");
    }
}

//! Runs a fuzz target on random inputs, without guidance by coverage and without any tool: `plain TARGET SECONDS [SEED]`.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use monovisor_tests::fuzz::{Random, TARGETS};

/// The input that is being tried.
static INPUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn main() {
    let mut arguments = std::env::args().skip(1);
    let wanted = arguments.next().unwrap_or_default();
    let mut number = |otherwise| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (seconds, seed) = (number(60), number(1));
    let Some((_, target)) = TARGETS.iter().find(|(name, _)| *name == wanted) else {
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: plain TARGET SECONDS [SEED]; targets are {}", names.join(", "));
        std::process::exit(2);
    };
    std::panic::set_hook(Box::new(|panic| {
        let input = INPUT.lock().unwrap_or_else(PoisonError::into_inner);
        eprintln!("{panic}\ninput: \"{}\"", input.escape_ascii());
    }));
    let (mut random, start, mut count) = (Random::new(seed), Instant::now(), 0_u64);
    while start.elapsed() < Duration::from_secs(seconds) {
        let input = random.input();
        INPUT.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&input);
        target(&input);
        count += 1;
    }
    println!("stat::number_of_executed_units: {count}");
}

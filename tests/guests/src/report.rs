//! `PASS name` and `FAIL name: …` lines on the console, for a harness to count.

use crate::println;
use core::fmt::Display;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

/// Reports one case; `detail` is shown when it failed.
pub fn check(name: &str, good: bool, detail: impl Display) {
    if good {
        PASSED.fetch_add(1, Relaxed);
        println!("PASS {name}");
    } else {
        FAILED.fetch_add(1, Relaxed);
        println!("FAIL {name}: {detail}");
    }
}

/// Reports whether a value is the one that it must be.
pub fn equal<T: PartialEq + core::fmt::Debug>(name: &str, got: T, want: T) {
    let good = got == want;
    check(name, good, format_args!("got {got:x?}, want {want:x?}"));
}

/// Says that a case cannot run here, and why.
pub fn skip(name: &str, why: &str) {
    println!("SKIP {name}: {why}");
}

/// How many cases have failed.
pub fn failed() -> u32 {
    FAILED.load(Relaxed)
}

/// Ends the report.
pub fn finish() {
    println!("DONE {} passed, {} failed", PASSED.load(Relaxed), FAILED.load(Relaxed));
}

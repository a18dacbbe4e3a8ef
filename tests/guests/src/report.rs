//! `PASS name` and `FAIL name | …` lines on the console, for a harness to count. A name begins with the manual's section.

use crate::println;
use core::fmt::Display;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};

static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);
static SECTION: AtomicPtr<&'static str> = AtomicPtr::new(null_mut());

/// Runs cases whose names all begin with a section of the manual.
pub fn under(section: &'static &'static str, cases: impl FnOnce()) {
    let outer = SECTION.swap(core::ptr::from_ref(section).cast_mut(), Relaxed);
    cases();
    SECTION.store(outer, Relaxed);
}

/// The section and what is between it and the name.
fn section() -> (&'static str, &'static str) {
    // SAFETY: null or what `under` was given, which lives as long as the program and is not written to.
    match unsafe { SECTION.load(Relaxed).as_ref() } {
        Some(section) => (section, ": "),
        None => ("", ""),
    }
}

/// Reports one case; `detail` is shown when it failed.
pub fn check(name: &str, good: bool, detail: impl Display) {
    let (section, colon) = section();
    if good {
        PASSED.fetch_add(1, Relaxed);
        println!("PASS {section}{colon}{name}");
    } else {
        FAILED.fetch_add(1, Relaxed);
        println!("FAIL {section}{colon}{name} | {detail}");
    }
}

/// Reports whether a value is the one that it must be.
pub fn equal<T: PartialEq + core::fmt::Debug>(name: &str, got: T, want: T) {
    let good = got == want;
    check(name, good, format_args!("got {got:x?}, want {want:x?}"));
}

/// Says that a case cannot run here, and why.
pub fn skip(name: &str, why: &str) {
    let (section, colon) = section();
    println!("SKIP {section}{colon}{name} | {why}");
}

/// How many cases have failed.
pub fn failed() -> u32 {
    FAILED.load(Relaxed)
}

/// Ends the report.
pub fn finish() {
    println!("DONE {} passed, {} failed", PASSED.load(Relaxed), FAILED.load(Relaxed));
}

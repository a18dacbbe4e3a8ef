//! Nothing that a client sends can make the monitor core panic: there is no panic in it.
//!
//! `tests/no-panic` links all of `core`, every command included, and nothing else. If anything in it could panic, the linker
//! would have had to bring in the panic machinery.

use std::{path::Path, process::Command};

#[test]
#[ignore = "builds core for release, which takes a minute: cargo test -p monovisor-tests --test no_panic -- --ignored"]
fn core_has_no_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("no-panic");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-panic");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--target", "x86_64-unknown-linux-gnu"])
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", "-C relocation-model=static")
        .current_dir(&folder)
        .status()
        .expect("cargo runs");
    assert!(status.success());
    let file = target.join("x86_64-unknown-linux-gnu/release/no-panic");
    let bytes = std::fs::read(file).expect("the linked file");
    let has = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    assert!(has(b"monovisor_core"), "the file has its symbols");
    // The module of the functions that every panic goes through; it is part of their names however they are mangled.
    assert!(!has(b"9panicking"), "a panic is linked: look for calls of core::panicking in the disassembly");
}

//! Makes the board a freestanding image when it is built for an explicit target.
//!
//! Without `--target`, a build of the whole workspace gives all its members one set of dependencies, with the standard
//! library that the host tools need. Then the board is an ordinary program that says how to build it.
use std::path::Path;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(image)");
    println!("cargo::rerun-if-changed=../build.rs");
    let (out, target) = (std::env::var_os("OUT_DIR"), std::env::var_os("TARGET"));
    let (Some(out), Some(target)) = (out, target) else { return };
    // Cargo puts what is built for an explicit target into a folder of the target's name.
    if !Path::new(&out).iter().any(|part| part == target) {
        return;
    }
    println!("cargo::rustc-cfg=image");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../image.ld");
    println!("cargo::rerun-if-changed={script}");
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    // Whole pages by section, so that the image's own page tables can be W^X; no build id, so that the same source
    // gives the same image.
    println!(
        "cargo::rustc-link-arg-bins=-Wl,-T{script},-z,max-page-size=4096,-z,norelro,--build-id=none,--gc-sections,--icf=all"
    );
}

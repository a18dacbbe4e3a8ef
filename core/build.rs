//! Tells an image from a program of the host: `cfg(image)` is set when the package is built for an explicit target.
use std::path::Path;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(image)");
    println!("cargo::rerun-if-changed=build.rs");
    let (out, target) = (std::env::var_os("OUT_DIR"), std::env::var_os("TARGET"));
    let (Some(out), Some(target)) = (out, target) else { return };
    // Cargo puts what is built for an explicit target into a folder of the target's name.
    if Path::new(&out).iter().any(|part| part == target) {
        println!("cargo::rustc-cfg=image");
    }
}

//! Links the board as a freestanding image.
fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../image.ld");
    println!("cargo:rerun-if-changed={script}");
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    // Whole pages by section, so that the image's own page tables can be W^X; no build id, so that the same source
    // gives the same image.
    println!(
        "cargo:rustc-link-arg-bins=-Wl,-T{script},-z,max-page-size=4096,-z,norelro,--build-id=none,--gc-sections"
    );
}

//! Links each guest as a freestanding kernel.
fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/guest.ld");
    println!("cargo:rerun-if-changed={script}");
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!(
        "cargo:rustc-link-arg-bins=-Wl,-T{script},-z,max-page-size=4096,-z,norelro,--build-id=none,--gc-sections"
    );
}

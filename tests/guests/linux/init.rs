//! /init of the measured Linux guest: says what the TSC is as its first act, and stays.
fn main() {
    // SAFETY: RDTSC is there on every 64-bit processor.
    let ticks = unsafe { core::arch::x86_64::_rdtsc() };
    println!("FIGURE init-tsc {ticks}");
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}

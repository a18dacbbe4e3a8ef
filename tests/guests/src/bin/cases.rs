//! Cases for each exit reason and instruction form. What is to be run is read from the console, one name a line:
//! a suite (`cpu`, `clocks`, `debug`, `interrupts`, `modes`, `ports`, `mmio`, `time`, `paging`, `exceptions`, `smp`, `user`, `all`;
//! `boot`; `testdev`, which takes that device), or one of the ways to end or to misbehave (see `cases::last`).
//! `run=NAME` on the command line runs that one and powers off; with `exit=VALUE` it ends by isa-debug-exit instead,
//! `exit=failed` with the number of cases that failed.
#![no_std]
#![no_main]

use monovisor_guests::{boot, cases, console, entry, power, println, report};

entry!(main);

fn main() -> ! {
    println!("guest: cases");
    if let Some(name) = boot::option("run") {
        run(name);
        report::finish();
        match boot::option("exit") {
            None => power::off(),
            Some("failed") => power::exit(report::failed()),
            Some(value) => power::exit(value.parse().unwrap_or(u32::MAX)),
        }
    }
    let mut line = [0; 64];
    loop {
        println!("READY");
        run(console::read_line(&mut line));
        report::finish();
    }
}

fn run(name: &str) {
    match name {
        "boot" => cases::boot::run(),
        "testdev" => cases::testdev::run(),
        "cpu" => cases::cpu::run(),
        "clocks" => cases::clocks::run(),
        "debug" => cases::debug::run(),
        "interrupts" => cases::interrupts::run(),
        "modes" => cases::modes::run(),
        "exceptions" => cases::exceptions::run(),
        "paging" => cases::paging::run(),
        "ports" => cases::ports::run(),
        "mmio" => cases::mmio::run(),
        "time" => cases::time::run(),
        "smp" => cases::smp::run(),
        "user" => cases::user::run(),
        "all" => {
            cases::cpu::run();
            cases::clocks::run();
            cases::debug::run();
            cases::interrupts::run();
            cases::modes::run();
            cases::exceptions::run();
            cases::paging::run();
            cases::ports::run();
            cases::mmio::run();
            cases::time::run();
            cases::smp::run();
            cases::user::run();
        }
        other => cases::last::run(other),
    }
}

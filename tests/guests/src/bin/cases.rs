//! Cases for each exit reason and instruction form. What is to be run is read from the console, one name a line:
//! a suite (`cpu`, `debug`, `ports`, `mmio`, `time`, `paging`, `exceptions`, `all`), or one of the ways to end or to misbehave
//! (see `cases::last`). `run=NAME` on the command line runs that one and powers off.
#![no_std]
#![no_main]

use monovisor_guests::{boot, cases, console, entry, power, println, report};

entry!(main);

fn main() -> ! {
    println!("guest: cases");
    if let Some(name) = boot::option("run") {
        run(name);
        report::finish();
        power::off()
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
        "cpu" => cases::cpu::run(),
        "debug" => cases::debug::run(),
        "exceptions" => cases::exceptions::run(),
        "paging" => cases::paging::run(),
        "ports" => cases::ports::run(),
        "mmio" => cases::mmio::run(),
        "time" => cases::time::run(),
        "all" => {
            cases::cpu::run();
            cases::debug::run();
            cases::exceptions::run();
            cases::paging::run();
            cases::ports::run();
            cases::mmio::run();
            cases::time::run();
        }
        other => cases::last::run(other),
    }
}

//! A hostile guest: see `monovisor_guests::fuzz`. Which rounds of which seed it plays is read from the console.
#![no_std]
#![no_main]

use monovisor_guests::{entry, fuzz};

entry!(main);

fn main() -> ! {
    fuzz::serve()
}

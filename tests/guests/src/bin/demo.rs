//! The guest of `cargo xtask run`: says hello, counts seconds, echoes keys, goes off when the power button is pressed.
#![no_std]
#![no_main]

use monovisor_guests::cpu::{cpuid, disable_interrupts, inp, outp, wait};
use monovisor_guests::{apic, boot, console, entry, power, print, println, trap};

entry!(main);

/// Interrupts of the 8254 a second.
const HZ: u32 = 100;
/// Input clock of the 8254.
const PIT_HZ: u32 = 1_193_182;
/// PM1a status and control (ACPI 6.5, 4.8.3).
const PM1_STATUS: u16 = 0x600;
const PM1_CONTROL: u16 = 0x604;
/// PWRBTN_STS.
const POWER_BUTTON: u16 = 1 << 8;

fn main() -> ! {
    let vendor = cpuid(0, 0);
    let mut name = [0; 12];
    for (part, value) in name.chunks_mut(4).zip([vendor[1], vendor[3], vendor[2]]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    println!();
    println!("Monovisor demo guest, {} CPU", core::str::from_utf8(&name).unwrap_or("unnamed"));
    println!("command line: {:?}", boot::command_line());
    println!("keys are echoed; the power button (system_powerdown) or Ctrl-D ends this");

    // Timer on input 0, COM1 on 4. The SCI stays masked: with each tick the button is looked at.
    apic::init_pic(!(1 << 0 | 1 << 4));
    let divisor = PIT_HZ / HZ;
    outp(0x43, 0x34u8);
    outp(0x40, divisor as u8);
    outp(0x40, (divisor >> 8) as u8);
    outp(console::PORT + 1, 1u8);
    if inp::<u16>(PM1_CONTROL) & 1 == 0 {
        outp(0xb2, 0xf1u8);
    }
    outp(PM1_STATUS, POWER_BUTTON);

    let mut second = 0;
    loop {
        wait();
        disable_interrupts();
        while let Some(key) = console::get() {
            match key {
                0x04 => end("Ctrl-D"),
                b'\r' => println!(),
                _ => console::put(key),
            }
        }
        if inp::<u16>(PM1_STATUS) & POWER_BUTTON != 0 {
            outp(PM1_STATUS, POWER_BUTTON);
            end("power button");
        }
        let now = trap::count(trap::PIC_FIRST) / HZ;
        if now != second {
            second = now;
            print!("tick {second}\r\n");
        }
    }
}

fn end(why: &str) -> ! {
    println!("{why}: going off");
    power::off()
}

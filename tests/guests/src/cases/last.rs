//! What ends the guest: ways to reset and to go off, and what a hostile guest would try. Each needs a start of its own.

use crate::boot::PML4;
use crate::power;
use crate::println;
use core::arch::asm;

/// Runs what `name` says; an unknown name is reported.
pub fn run(name: &str) {
    println!("LAST {name}");
    match name {
        "s5" => power::off(),
        "cf9" => power::reset_cf9(),
        "keyboard" => power::reset_keyboard(),
        "port92" => {
            crate::cpu::outp(0x92, 0x01u8);
            power::halt()
        }
        "triple" => power::triple_fault(),
        // The same on another processor, while this one runs and while it waits.
        "triple-other" | "triple-other-alone" => {
            crate::cpu::disable_interrupts();
            crate::apic::enable();
            crate::smp::start(1, |_| power::triple_fault());
            if name == "triple-other" {
                loop {
                    core::hint::spin_loop();
                }
            }
            power::halt()
        }
        "halt" => power::halt(),
        "spin" => loop {
            core::hint::spin_loop();
        },
        // For a look at what an exit costs, instruction by instruction.
        "cpuid" => loop {
            crate::cpu::cpuid(0, 0);
        },
        // Interrupts on, nothing to wait for: the guest is idle and yet alive.
        "idle" => loop {
            crate::cpu::wait();
        },
        "fetch-hole" => jump(0xd000_0000),
        "fetch-mmio" => jump(crate::apic::LOCAL),
        "tables-in-hole" => load_tables(0xd000_0000),
        "tables-in-mmio" => load_tables(crate::apic::LOCAL),
        "tables-beyond-ram" => load_tables(1 << 38),
        "idt-in-mmio" => {
            let pointer: [u16; 5] = [4095, 0, 0xfee0, 0, 0];
            // SAFETY: it is meant to go wrong; this guest ends here.
            unsafe { asm!("lidt [{}]", "int3", in(reg) &pointer) };
            power::halt()
        }
        "stack-in-hole" => {
            // SAFETY: it is meant to go wrong; this guest ends here. Exceptions have their own stack.
            unsafe {
                asm!("mov rsp, {}", "push rax", "call {}", in(reg) 0xd000_0800u64, sym power::off, options(noreturn))
            }
        }
        "beyond-ram" => beyond_ram(),
        "every-port" => every_port(),
        "many-msrs" => many_msrs(),
        other => println!("FAIL unknown case {other}"),
    }
}

fn jump(address: u64) -> ! {
    // SAFETY: it is meant to go wrong; this guest ends here.
    unsafe { asm!("jmp {}", in(reg) address, options(noreturn)) }
}

/// CR3 points where no RAM is.
fn load_tables(address: u64) -> ! {
    // SAFETY: it is meant to go wrong; this guest ends here.
    unsafe { asm!("mov cr3, {}", "ud2", in(reg) address, options(noreturn)) }
}

/// Reads and writes guest-physical addresses up to 512 GiB, in steps that find whatever is mapped by mistake.
fn beyond_ram() {
    // A second window: 1 GiB pages that map physical 0 to 512 GiB at 1 << 39.
    #[repr(align(4096))]
    struct Table([u64; 512]);
    static mut WINDOW: Table = Table([0; 512]);
    // SAFETY: the slot of the top table is free; the window is static.
    unsafe {
        for index in 0..512u64 {
            WINDOW.0[index as usize] = index << 30 | 0x83;
        }
        PML4[1] = &raw const WINDOW as u64 + 3;
    }
    let mut touched = 0u32;
    let mut other = 0u32;
    let mut address = 4u64 << 30;
    while address < 512 << 30 {
        let mut value = 0u64;
        let trap = crate::attempt!(["mov rax, [{a}]", "mov qword ptr [{a}], 0x55"], a = in(reg) (1u64 << 39) + address,
                                   inout("rax") value);
        touched += 1;
        if trap.is_some() || value != !0 {
            other += 1;
            if other < 4 {
                println!("at {address:#x}: {trap:?} {value:#x}");
            }
        }
        address += 0x1234_5000;
    }
    crate::report::check("nothing beyond RAM", other == 0, format_args!("{other} of {touched}"));
}

/// Every port is read and written, but for those that end the guest or silence this console.
fn every_port() {
    for port in 0..=0xffffu16 {
        if matches!(port, 0x60..=0x64 | 0x92 | 0xb2 | 0xf4..=0xf7 | 0x3f8..=0x3ff | 0x600..=0x63f | 0xcf8..=0xcff)
        {
            continue;
        }
        let byte: u8 = crate::cpu::inp(port);
        crate::cpu::outp(port, byte);
        let word: u16 = crate::cpu::inp(port);
        crate::cpu::outp(port, word);
        let double: u32 = crate::cpu::inp(port);
        crate::cpu::outp(port, double);
    }
    crate::report::check("every port touched", true, "");
}

/// Reads the MSR ranges, and writes back what could be read with one bit turned, but for those that this code needs.
fn many_msrs() {
    let mut there = 0u32;
    for range in [
        0..0x1000u32,
        0x4000_0000..0x4000_0200,
        0x4b56_4d00..0x4b56_4d10,
        0xc000_0000..0xc000_1000,
        0xc001_0000..0xc001_0400,
    ] {
        for index in range {
            let (low, high): (u64, u64);
            let trap = crate::attempt!(["rdmsr"], in("ecx") index, inout("rax") 0u64 => low, inout("rdx") 0u64 => high);
            if trap.is_some() {
                continue;
            }
            there += 1;
            // EFER and the APIC base are needed as they are; the time-stamp counter is read by the host's checks.
            if matches!(index, 0xc000_0080 | 0x1b | 0x10) {
                continue;
            }
            let _ = crate::attempt!(["wrmsr"], in("ecx") index, in("rax") low ^ 1, in("rdx") high);
            let _ = crate::attempt!(["wrmsr"], in("ecx") index, in("rax") low, in("rdx") high);
        }
    }
    crate::report::check("msrs read and written", there > 10, there);
}

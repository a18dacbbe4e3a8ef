//! Monovisor for any PC.
#![cfg_attr(image, no_std)]
#![cfg_attr(image, no_main)]

use monovisor_host::uart::UartConfig;
use monovisor_host::{Board, BootInfo, PowerOff};

monovisor_host::entry!(
    Board {
        name: "pc",
        qmp: UartConfig::COM1,
        console: Some(UartConfig::COM2),
        log_port: None,
        log_uart: None,
        power_off: &[PowerOff::Acpi],
        exit_port: None,
        off_on_failure: false,
    },
    run
);

/// Until there is a hypervisor to run: shows that timer and serial line work.
fn run(_boot: &'static BootInfo) -> ! {
    use monovisor_host::uart::Uart;
    use monovisor_host::{info, interrupts, power, timer};
    info!("entered at TSC {}, now {}", timer::entry_tsc(), timer::now_tsc());
    let mut line = Uart::open(0, UartConfig::COM1, 115_200);
    let tick = timer::tsc_hz() / 10;
    let mut next = timer::now_tsc() + tick;
    timer::set_deadline(Some(next));
    let mut ticks = 0;
    loop {
        interrupts::wait();
        let sources = interrupts::take();
        if sources.contains(interrupts::Sources::TIMER) && timer::now_tsc() >= next {
            ticks += 1;
            info!("tick {ticks} {:?} us", timer::wall_clock());
            next += tick;
            timer::set_deadline(Some(next));
        }
        if let Some(line) = &mut line {
            while let Ok(byte) = line.read() {
                let _ = line.write(byte);
                if byte == b'q' {
                    power::exit(0);
                }
            }
        }
        if ticks == 50 {
            power::exit(1);
        }
    }
}

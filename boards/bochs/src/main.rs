//! Monovisor for Bochs (VMX).
#![cfg_attr(image, no_std)]
#![cfg_attr(image, no_main)]

use monovisor_host::uart::UartConfig;
use monovisor_host::{Board, PowerOff};

monovisor_host::entry!(
    Board {
        name: "bochs",
        com: UartConfig::PC,
        qmp: 0,
        console: Some(1),
        log_port: Some(0xe9),
        log_uart: None,
        power_off: &[PowerOff::Text { port: 0x8900, text: "Shutdown" }, PowerOff::Acpi],
        exit_port: None,
        off_on_failure: true,
    },
    monovisor_hv::run
);

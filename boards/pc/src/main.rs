//! Monovisor for any PC.
#![cfg_attr(image, no_std)]
#![cfg_attr(image, no_main)]

use monovisor_host::uart::UartConfig;
use monovisor_host::{Board, PowerOff};

monovisor_host::entry!(
    Board {
        name: "pc",
        com: UartConfig::PC,
        qmp: 0,
        console: Some(1),
        log_port: None,
        log_uart: None,
        power_off: &[PowerOff::Acpi],
        exit_port: None,
        off_on_failure: false,
    },
    monovisor_hv::run
);

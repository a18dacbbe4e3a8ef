//! Monovisor for QEMU's PC (SVM under TCG).
#![cfg_attr(image, no_std)]
#![cfg_attr(image, no_main)]

use monovisor_host::uart::UartConfig;
use monovisor_host::{Board, PowerOff};

monovisor_host::entry!(
    Board {
        name: "qemu",
        com: UartConfig::PC,
        qmp: 0,
        console: Some(1),
        log_port: Some(0xe9),
        log_uart: None,
        power_off: &[PowerOff::Acpi, PowerOff::Word { port: 0x604, value: 0x2000 }],
        exit_port: Some(0xf4),
        off_on_failure: true,
    },
    monovisor_hv::run
);

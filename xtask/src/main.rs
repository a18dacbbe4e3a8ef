//! `cargo xtask`: builds Monovisor, runs it in emulators, talks to it, tests and measures it.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xtask::{bench, commands, fuzz, image, monitor, process, pull, qmp, run, setup, size, test};

/// Build, run, test and measure Monovisor, a bare-metal hypervisor managed by QMP.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand, Debug)]
enum Subcommands {
    /// Install the Debian packages that running and testing take, or say which are missing
    Setup(setup::Options),
    /// Build, pack and boot a rig in an emulator: console on the terminal, QMP on a socket
    #[command(after_help = "\
Examples:
  cargo xtask run                              a tiny kernel of our own, in QEMU
  cargo xtask run --guest linux                Debian's cloud kernel to a shell; linux-generic the other
  cargo xtask run --board bochs --guest linux  the same on VMX (takes about a minute)
  cargo xtask run -- -S                        do not start the guest: `cargo xtask qmp cont` does
  cargo xtask run --console stdio --kernel test.elf --timeout 60 -- \\
      -device isa-debug-exit,iobase=0xf4,iosize=4 -device pc-testdev
                                               a test program: its console on standard output,
                                               its value in the exit status

Keys on the console: Ctrl-A x ends the run, Ctrl-A Ctrl-A sends Ctrl-A.
Exit status: 2n + 1 where the guest wrote n to its isa-debug-exit, as with QEMU; 0 after `quit`;
124 when --timeout has passed; else the emulator's own. With `--console stdio` alone also 0 when
the guest has switched itself off, and 2 when it cannot run.")]
    Run(run::Options),
    /// Send QMP commands to a rig: one, or an interactive prompt
    #[command(after_help = "\
Examples:
  cargo xtask qmp query-status
  cargo xtask qmp pmemsave val=0 size=4096 filename=/tmp/page
  cargo xtask qmp human-monitor-command '{\"command-line\": \"info registers\"}'
  cargo xtask qmp --tty /dev/ttyUSB0 --baud 115200        an interactive prompt on a real rig")]
    Qmp(qmp::Options),
    /// Make a disc image that boots a real PC from CD or USB, by BIOS and by UEFI
    Image(image::Options),
    /// Run all tests, or a part of them; ends with a line `N passed, N failed`
    Test(test::Options),
    /// Measure speed and size under QEMU, in instructions, against what must be reached
    Bench(bench::Options),
    /// Measure the images against their budgets, and check that nothing in them can allocate
    Size(size::Options),
    /// Try hostile input on the monitor core: raw bytes, broken JSON, commands by schema, any chunking
    #[command(after_help = "\
Examples:
  cargo xtask fuzz                            each target for a minute, two at a time
  cargo xtask fuzz --minutes 60 --jobs 4      each for an hour
  cargo xtask fuzz commands --minutes 10      one target

What an earlier run has learnt is in target/fuzz-work and is used again; an input that breaks something is kept there too.
Exit status: 0 where nothing was found.")]
    Fuzz(fuzz::Options),
    /// List the QMP commands and events that are built, and those that are declared only
    Commands(commands::Options),
    /// Serve the monitor over a model machine on a socket: to try clients without an emulator
    Monitor(monitor::Options),
    /// Fetch a file of the rig's store, e.g. what memsave wrote
    Pull(pull::Options),
}

fn main() -> ExitCode {
    match go(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            xtask::terminal::restore();
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn go(cli: Cli) -> Result<u8> {
    process::handle_signals()?;
    match cli.command {
        Subcommands::Setup(options) => setup::main(options).map(|()| 0),
        Subcommands::Run(options) => run::main(options),
        Subcommands::Qmp(options) => qmp::main(options).map(|()| 0),
        Subcommands::Image(options) => image::main(options).map(|()| 0),
        Subcommands::Size(options) => size::main(options).map(|()| 0),
        Subcommands::Test(options) => test::main(options),
        Subcommands::Bench(options) => bench::main(options),
        Subcommands::Fuzz(options) => fuzz::main(options),
        Subcommands::Commands(options) => commands::main(options).map(|()| 0),
        Subcommands::Monitor(options) => monitor::main(&options).map(|()| 0),
        Subcommands::Pull(options) => pull::main(options).map(|()| 0),
    }
}

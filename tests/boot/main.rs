//! Boots rigs in both emulators and drives them from outside: `cargo xtask test --boot`, or by hand
//! `cargo test -p monovisor-tests --test boot -- --board qemu --only guests`.
//!
//! Each group starts one rig and checks many things on it, since starting is the long part. Every wait has a limit
//! and the whole run has one; no emulator outlives it.
#![forbid(unsafe_code)]

mod bad_input;
mod clients;
mod console;
mod devices;
mod disks;
mod dmesg;
mod firmware;
mod formats;
mod fuzz;
mod generic;
mod guests;
mod linux;
mod machine;
mod network;
mod peripherals;
mod preflight;
mod programs;
mod report;
mod rig;
mod serial;
mod sessions;
mod smp;

use clap::Parser;
use report::Report;
use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use xtask::board::Board;
use xtask::process;

/// The whole run ends by then, whatever happens.
const RUN_LIMIT: Duration = Duration::from_secs(45 * 60);

/// Boot tests of Monovisor.
#[derive(Parser, Debug)]
struct Options {
    /// Only these boards
    #[arg(long)]
    board: Vec<Board>,
    /// Only groups whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Seed of the hostile guest's random numbers [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// Exits of the hostile guest on each board
    #[arg(long)]
    exits: Option<u64>,
    /// Round of its seed that the hostile guest begins with
    #[arg(long, default_value = "0")]
    round: u64,
    /// QEMU emulates each processor of our own guests' rigs by a thread of its own
    #[arg(long)]
    parallel: bool,
    /// Name the groups and end
    #[arg(long)]
    list: bool,
}

/// A group of checks on one board.
struct Group {
    board: Board,
    name: &'static str,
    run: fn(Board, &Report) -> anyhow::Result<()>,
}

/// The groups; each board works through its own in this order.
const GROUPS: &[Group] = &[
    Group { board: Board::Qemu, name: "guests", run: guests::run },
    Group { board: Board::Qemu, name: "programs", run: programs::run },
    Group { board: Board::Qemu, name: "linux", run: linux::run },
    Group { board: Board::Qemu, name: "generic", run: generic::run },
    Group { board: Board::Qemu, name: "disks", run: disks::run },
    Group { board: Board::Qemu, name: "peripherals", run: peripherals::run },
    Group { board: Board::Qemu, name: "network", run: network::run },
    Group { board: Board::Qemu, name: "devices", run: devices::run },
    Group { board: Board::Qemu, name: "smp", run: smp::run },
    Group { board: Board::Qemu, name: "dmesg", run: dmesg::run },
    Group { board: Board::Qemu, name: "clients", run: clients::run },
    Group { board: Board::Qemu, name: "machine", run: machine::run },
    Group { board: Board::Qemu, name: "sessions", run: sessions::run },
    Group { board: Board::Qemu, name: "serial", run: serial::run },
    Group { board: Board::Qemu, name: "bad-input", run: bad_input::run },
    Group { board: Board::Qemu, name: "preflight", run: preflight::run },
    Group { board: Board::Qemu, name: "fuzz", run: fuzz::run },
    Group { board: Board::Pc, name: "firmware", run: firmware::run },
    Group { board: Board::Bochs, name: "guests", run: guests::run },
    Group { board: Board::Bochs, name: "programs", run: programs::run },
    Group { board: Board::Bochs, name: "machine", run: machine::run },
    Group { board: Board::Bochs, name: "sessions", run: sessions::run },
    Group { board: Board::Bochs, name: "serial", run: serial::run },
    Group { board: Board::Bochs, name: "bad-input", run: bad_input::run },
    Group { board: Board::Bochs, name: "fuzz", run: fuzz::run },
    Group { board: Board::Bochs, name: "linux", run: linux::run },
    Group { board: Board::Bochs, name: "disks", run: disks::run },
    Group { board: Board::Bochs, name: "peripherals", run: peripherals::run },
    Group { board: Board::Bochs, name: "smp", run: smp::run },
    Group { board: Board::Bochs, name: "dmesg", run: dmesg::run },
    Group { board: Board::Bochs, name: "generic", run: generic::run },
    Group { board: Board::Bochs, name: "devices", run: devices::run },
];

fn main() -> ExitCode {
    // Cargo adds options of its own test harness; they mean nothing here.
    let options = Options::parse_from(std::env::args().filter(|word| word != "--nocapture"));
    let wanted = |group: &&Group| {
        (options.board.is_empty() || options.board.contains(&group.board))
            && group.name.contains(&options.only)
    };
    fuzz::configure(options.seed, options.exits, options.round);
    rig::set_parallel(options.parallel);
    if options.list {
        for group in GROUPS.iter().filter(wanted) {
            println!("{}::{}", group.board.name(), group.name);
        }
        return ExitCode::SUCCESS;
    }
    if let Err(error) = process::handle_signals().and_then(|()| xtask::setup::ensure()) {
        eprintln!("boot tests: {error:#}");
        return ExitCode::FAILURE;
    }
    std::thread::spawn(|| {
        std::thread::sleep(RUN_LIMIT);
        process::kill_all();
        println!("boot tests took longer than {} s and were ended", RUN_LIMIT.as_secs());
        std::process::exit(1);
    });
    let report = Report::default();
    let (bochs, others): (Vec<&Group>, Vec<&Group>) =
        GROUPS.iter().filter(wanted).partition(|group| group.board == Board::Bochs);
    let (bochs, others) = (Mutex::new(VecDeque::from(bochs)), Mutex::new(VecDeque::from(others)));
    // Two emulators at most. Bochs is the slower one: who is through with QEMU's groups takes Bochs's from the end.
    let next = |bochs_first: bool| {
        if bochs_first {
            pop(&bochs, VecDeque::pop_front)
        } else {
            pop(&others, VecDeque::pop_front).or_else(|| pop(&bochs, VecDeque::pop_back))
        }
    };
    std::thread::scope(|scope| {
        for bochs_first in [false, true] {
            let (next, report) = (&next, &report);
            scope.spawn(move || {
                while let Some(group) = next(bochs_first) {
                    report.group(group.board, group.name, || (group.run)(group.board, report));
                }
            });
        }
    });
    let (passed, failed) = report.counts();
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Takes one group off one end.
fn pop<'a>(
    groups: &Mutex<VecDeque<&'a Group>>,
    end: fn(&mut VecDeque<&'a Group>) -> Option<&'a Group>,
) -> Option<&'a Group> {
    end(&mut groups.lock().unwrap_or_else(PoisonError::into_inner))
}

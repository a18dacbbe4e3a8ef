//! The machine that the monitor drives: a guest or none, its run state, and what has been asked of it.

use core::fmt::Write;

use monovisor_core::chardev::Chardevs;
use monovisor_core::schema::run_state::{self, RunState};
use monovisor_core::{Context, Error};
use monovisor_host::uart::{LINES, Uart};
use monovisor_host::{error, info};

use crate::frontends::Frontends;
use crate::guest::Guest;
use crate::handlers::block::Disk;
use crate::handlers::chardevs;
use crate::handlers::machine::Parameters;
use crate::handlers::memory::Save;
use crate::handlers::network::Filtered;
use crate::handlers::objects::Reply;
use crate::handlers::pci::Functions;
use crate::hmp::Hmp;
use crate::launch::Launch;
use crate::machine::Halt;
use crate::services::trace_event;
use crate::state::{self, Change, RunControl};
use crate::store::Files;
use crate::trace::{self, Point};

/// Sessions of the monitor: one a QMP line. A PC has four lines, and each session takes 150 KiB of RAM; two are what a rig
/// with a console uses.
pub const SESSIONS: usize = 2;

/// Bytes of the log that one `x-query-log` gives: a part of what a reply has room for, escapes included.
pub const LOG_PIECE_BYTES: usize = 1024;

/// Longest reason for having no guest, in bytes.
const REASON_BYTES: usize = 240;

/// What a command asked for that happens after its reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// `system_reset`.
    pub reset: bool,
    /// `system_powerdown`.
    pub powerdown: bool,
    /// `quit`.
    pub quit: bool,
}

/// Everything that the monitor's commands work on.
pub struct Hypervisor<'g> {
    /// The guest, once it has been made.
    pub guest: Option<&'g mut dyn Guest>,
    /// What the guest was made from.
    pub launch: &'static mut Launch,
    /// Whether it runs.
    pub run: RunControl,
    /// The files.
    pub files: Files,
    /// What is to happen when the current command has been answered.
    pub requests: Requests,
    /// The memory that each session saves.
    pub(crate) saving: [Option<Save>; SESSIONS],
    /// The human monitor of each session.
    pub(crate) hmp: [Hmp; SESSIONS],
    /// The piece of the log that is being sent.
    pub(crate) log_piece: [u8; LOG_PIECE_BYTES],
    /// The parameters of the option that is being sent.
    pub(crate) parameters: Parameters,
    /// The PCI functions that are being sent.
    pub(crate) pci: &'static mut Functions,
    /// The object or property that is being sent.
    pub(crate) reply: Reply,
    /// The filter of a network card that is being sent.
    pub(crate) rx_filter: &'static mut Filtered,
    /// The drive that is being shown.
    pub(crate) disk: Disk,
    /// The character devices.
    pub(crate) chardevs: &'static mut Chardevs,
    /// The lines that character devices have opened.
    pub(crate) lines: [Option<Uart>; LINES],
    /// What is connected to them.
    pub(crate) frontends: Frontends,
    /// Why there is no guest, or why it cannot go on.
    reason: heapless::String<REASON_BYTES>,
}

impl<'g> Hypervisor<'g> {
    /// A hypervisor whose guest does not run yet.
    pub fn new(mut guest: Option<&'g mut dyn Guest>, launch: &'static mut Launch, files: Files) -> Self {
        let console = guest.as_mut().is_some_and(|guest| guest.console().is_some());
        let mut hypervisor = Self {
            guest,
            launch,
            run: RunControl::new(),
            files,
            requests: Requests::default(),
            saving: [const { None }; SESSIONS],
            hmp: [const { Hmp::new() }; SESSIONS],
            log_piece: [0; LOG_PIECE_BYTES],
            parameters: Parameters::NONE,
            pci: Functions::take(),
            reply: Reply::NONE,
            rx_filter: Filtered::take(),
            disk: Disk::default(),
            chardevs: chardevs::table(),
            lines: [const { None }; LINES],
            frontends: Frontends::new(),
            reason: heapless::String::new(),
        };
        hypervisor.enter_lines(console);
        hypervisor
    }

    /// There is no guest to run, because of `reason`: the state says so, and `cont` tells why.
    pub fn fail(&mut self, reason: core::fmt::Arguments<'_>) {
        error!("{reason}");
        // The first reason is the one to mend.
        if self.reason.is_empty() && self.reason.write_fmt(reason).is_err() {
            let _ = self.reason.push_str("…");
        }
        let _ = self.stop(RunState::InternalError);
    }

    /// Lets the guest run. The caller sends RESUME where this says so.
    pub fn cont(&mut self) -> Result<Change, Error> {
        if !self.reason.is_empty() && self.run.state() == RunState::InternalError {
            return Err(Error::generic(format_args!("{}", self.reason)));
        }
        let change = self
            .run
            .cont()
            .map_err(|_| Error::generic(format_args!("Resetting the Virtual Machine is required")))?;
        if change == Change::Resumed
            && let Some(guest) = &mut self.guest
        {
            guest.start();
        }
        self.trace_state(change);
        Ok(change)
    }

    /// How many processors the guest has.
    pub(crate) fn processors(&self) -> usize {
        self.guest.as_ref().map_or(0, |guest| guest.processors())
    }

    fn trace_state(&self, change: Change) {
        if trace::enabled() && change != Change::None {
            trace::record(
                Point::VmStateNotify,
                None,
                format_args!("state={}", state::name(self.run.state())),
            );
        }
    }

    /// Stops the guest in `state`. The caller sends STOP where this says so.
    pub fn stop(&mut self, state: RunState) -> Change {
        let change = self.run.stop(state);
        if change == Change::Stopped
            && let Some(guest) = &mut self.guest
        {
            guest.stop();
        }
        self.trace_state(change);
        change
    }

    /// Sends the event that belongs to a change, ahead of a reply.
    pub(crate) fn announce(change: Change, cx: &mut Context<'_>) {
        match change {
            Change::None => {}
            Change::Resumed => {
                trace_event::<run_state::Resume>();
                cx.event(&run_state::Resume {});
            }
            Change::Stopped => {
                trace_event::<run_state::Stop>();
                cx.event(&run_state::Stop {});
            }
        }
    }

    /// Resets the machine and loads the kernel again.
    pub fn reset(&mut self) {
        if trace::enabled() {
            trace::record(Point::SystemReset, None, format_args!(""));
        }
        let Some(guest) = &mut self.guest else { return };
        guest.reset(self.run.running());
        match self.launch.load(*guest) {
            // A guest that was never the one asked for does not become it by a reset.
            Ok(()) if self.launch.is_flawed() => {}
            Ok(()) => {
                self.reason.clear();
                self.run.reset();
            }
            Err(problem) => self.fail(format_args!("{problem}")),
        }
    }

    /// Why the guest cannot go on, in words.
    pub fn guest_stopped(&mut self, halt: Halt) {
        match halt {
            Halt::TripleFault => info!("the guest's processor shut down (triple fault)"),
            Halt::MachineCheck => {
                self.guest_failed(format_args!("a machine check happened while the guest ran"))
            }
            Halt::EntryFailed(failure) => {
                self.guest_failed(format_args!(
                    "the processor refused to enter the guest: {} ({:#x})",
                    failure.reason, failure.code
                ));
            }
            Halt::Unexpected(code) => {
                self.guest_failed(format_args!("unexpected exit {code:#x} of the guest"))
            }
            Halt::Emulation { address, rip } => self.guest_failed(format_args!(
                "the guest's instruction at {rip:#x} on the device address {address:#x} cannot be emulated"
            )),
        }
    }

    fn guest_failed(&mut self, reason: core::fmt::Arguments<'_>) {
        error!("{reason}");
    }
}

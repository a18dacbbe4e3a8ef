//! The run state of the virtual machine and the rules for changing it, as QEMU 2.8 has them.
//!
//! Only the state is here; who starts and stops the guest asks [`RunControl`] whether it may and what to announce.

use monovisor_core::schema::run_state::RunState;

/// The machine has to be reset before it can run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetRequired;

/// What changed, for the one who has to start or stop the guest and to send events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// From standing to running: RESUME.
    Resumed,
    /// From running to standing: STOP.
    Stopped,
}

/// The run state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunControl {
    state: RunState,
}

impl RunControl {
    /// Before the first instruction.
    pub const fn new() -> Self {
        Self { state: RunState::Prelaunch }
    }

    /// The state.
    pub const fn state(&self) -> RunState {
        self.state
    }

    /// The guest is to run.
    pub const fn running(&self) -> bool {
        matches!(self.state, RunState::Running)
    }

    /// `cont`.
    pub fn cont(&mut self) -> Result<Change, ResetRequired> {
        match self.state {
            RunState::InternalError | RunState::Shutdown => Err(ResetRequired),
            RunState::Running => Ok(Change::None),
            _ => {
                self.state = RunState::Running;
                Ok(Change::Resumed)
            }
        }
    }

    /// `stop`, or a stop for the reason that `state` names. A guest that stands already keeps its state for
    /// `Paused`, as with QEMU.
    pub fn stop(&mut self, state: RunState) -> Change {
        if self.running() {
            self.state = state;
            return Change::Stopped;
        }
        if state != RunState::Paused {
            self.state = state;
        }
        Change::None
    }

    /// A reset happened: a guest that stood is back before its first instruction.
    pub fn reset(&mut self) {
        if !self.running() {
            self.state = RunState::Prelaunch;
        }
    }
}

impl Default for RunControl {
    fn default() -> Self {
        Self::new()
    }
}

/// The human monitor's words for a state (`info status`).
pub const fn name(state: RunState) -> &'static str {
    match state {
        RunState::Debug => "debug",
        RunState::Inmigrate => "inmigrate",
        RunState::InternalError => "internal-error",
        RunState::IoError => "io-error",
        RunState::Paused => "paused",
        RunState::Postmigrate => "postmigrate",
        RunState::Prelaunch => "prelaunch",
        RunState::FinishMigrate => "finish-migrate",
        RunState::RestoreVm => "restore-vm",
        RunState::Running => "running",
        RunState::SaveVm => "save-vm",
        RunState::Shutdown => "shutdown",
        RunState::Suspended => "suspended",
        RunState::Watchdog => "watchdog",
        RunState::GuestPanicked => "guest-panicked",
        RunState::Colo => "colo",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions_of_the_recorded_sessions() {
        let mut run = RunControl::new();
        assert_eq!(run.stop(RunState::Paused), Change::None);
        assert_eq!(run.state(), RunState::Prelaunch);
        assert_eq!(run.cont(), Ok(Change::Resumed));
        assert_eq!(run.cont(), Ok(Change::None));
        assert_eq!(run.stop(RunState::Paused), Change::Stopped);
        assert_eq!(run.stop(RunState::Paused), Change::None);
        assert_eq!(run.cont(), Ok(Change::Resumed));
        run.reset();
        assert!(run.running());
        assert_eq!(run.stop(RunState::Shutdown), Change::Stopped);
        assert_eq!(run.cont(), Err(ResetRequired));
        run.reset();
        assert_eq!(run.state(), RunState::Prelaunch);
        assert_eq!(run.stop(RunState::InternalError), Change::None);
        assert_eq!(run.cont(), Err(ResetRequired));
        // An error of a disk: the guest can go on with it, or from the start.
        run.reset();
        assert_eq!(run.cont(), Ok(Change::Resumed));
        assert_eq!(run.stop(RunState::IoError), Change::Stopped);
        assert_eq!(run.stop(RunState::Paused), Change::None);
        assert_eq!(run.state(), RunState::IoError);
        run.reset();
        assert_eq!(run.state(), RunState::Prelaunch);
        assert_eq!(run.cont(), Ok(Change::Resumed));
    }
}

//! Running and stopping.

use monovisor_core::handlers::{Poll, RunControl};
use monovisor_core::schema::run_state::{RunState, StatusInfo, Stop};
use monovisor_core::{Context, Error};

use super::{Later, Model, RESUME};

impl RunControl for Model {
    fn query_status(&mut self, cx: &mut Context<'_>) -> Poll<StatusInfo> {
        self.wait(cx)?;
        Ok(StatusInfo { running: self.state == RunState::Running, singlestep: false, status: self.state })
    }

    fn stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wait(cx)?;
        if self.state == RunState::Running {
            self.state = RunState::Paused;
            cx.event(&Stop {});
        }
        Ok(())
    }

    fn cont(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wait(cx)?;
        match self.state {
            RunState::Running | RunState::Suspended => {}
            RunState::Shutdown | RunState::InternalError => {
                return Err(nb::Error::Other(Error::text("Resetting the Virtual Machine is required")));
            }
            _ => {
                self.state = RunState::Running;
                self.trace.record("vm_run", None, &[]);
                cx.event(&RESUME);
            }
        }
        Ok(())
    }

    fn system_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wait(cx)?;
        self.later.push(Later::Reset);
        if self.state == RunState::Shutdown {
            self.state = RunState::Prelaunch;
        }
        Ok(())
    }

    fn system_powerdown(&mut self, _: &mut Context<'_>) -> Poll<()> {
        self.later.push(Later::Powerdown);
        Ok(())
    }

    fn system_wakeup(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if self.state == RunState::Suspended {
            self.state = RunState::Running;
            self.later.extend([Later::Wakeup, Later::Reset]);
        }
        Ok(())
    }

    fn inject_nmi(&mut self, _: &mut Context<'_>) -> Poll<()> {
        self.trace.record("vcpu_nmi", Some(0), &[]);
        Ok(())
    }

    fn quit(&mut self, _: &mut Context<'_>) -> Poll<()> {
        self.ended = true;
        self.later.push(Later::Shutdown);
        Ok(())
    }
}

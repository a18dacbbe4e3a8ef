//! Stopping, going on, resetting and switching off.

use monovisor_core::Context;
use monovisor_core::handlers::{Poll, RunControl};
use monovisor_core::schema::run_state::{RunState, StatusInfo};

use crate::hypervisor::Hypervisor;

impl RunControl for Hypervisor<'_> {
    fn query_status(&mut self, _: &mut Context<'_>) -> Poll<StatusInfo> {
        Ok(StatusInfo { running: self.run.running(), singlestep: false, status: self.run.state() })
    }

    fn stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Self::announce(Hypervisor::stop(self, RunState::Paused), cx);
        Ok(())
    }

    fn cont(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let change = Hypervisor::cont(self).map_err(nb::Error::Other)?;
        Self::announce(change, cx);
        Ok(())
    }

    fn system_reset(&mut self, _: &mut Context<'_>) -> Poll<()> {
        self.requests.reset = true;
        Ok(())
    }

    fn system_powerdown(&mut self, _: &mut Context<'_>) -> Poll<()> {
        self.requests.powerdown = true;
        Ok(())
    }

    fn inject_nmi(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if let Some(guest) = &mut self.guest {
            guest.nmi();
        }
        Ok(())
    }

    fn quit(&mut self, _: &mut Context<'_>) -> Poll<()> {
        self.requests.quit = true;
        Ok(())
    }
}

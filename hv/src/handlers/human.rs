//! `human-monitor-command`.

use core::fmt::Write;

use monovisor_core::Context;
use monovisor_core::Error;
use monovisor_core::Text;
use monovisor_core::handlers::{Human, Poll};
use monovisor_core::schema::misc::HumanMonitorCommandArgs;
use monovisor_core::schema::run_state::RunState;

use crate::guest::read_physical;
use crate::handlers::memory::Source;
use crate::hmp::{Action, Line, Listing, Pointers, Progress, Snapshot, Target};
use crate::hypervisor::Hypervisor;
use crate::state;

impl Human for Hypervisor<'_> {
    fn human_monitor_command(
        &mut self,
        arguments: HumanMonitorCommandArgs<'_>,
        text: &mut Text<'_, '_>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let cpu = match arguments.cpu_index {
            // As in QEMU 2.8, what `cpu` set does not count here: each command starts at the first processor.
            None => 0,
            Some(index) => match usize::try_from(index) {
                Ok(index) if index < self.processors() => index,
                _ => return Err(nb::Error::Other(Error::expects("cpu-index", "a CPU number"))),
            },
        };
        let Some(slot) = self.hmp.get_mut(cx.session) else { return Ok(()) };
        let mut hmp = core::mem::take(slot);
        if cx.first
            && let Some(saving) = self.saving.get_mut(cx.session)
        {
            *saving = None;
        }
        let mut target = View { hypervisor: self, cx, cpu };
        if target.cx.first {
            hmp.start(arguments.command_line, cpu, &mut target);
        }
        // Lines that have left are not made again.
        let mut line = Line::new();
        if let Err(error) = target.hypervisor.save_step(target.cx.session) {
            match error {
                nb::Error::Other(error) => hmp.complain(error.description()),
                nb::Error::WouldBlock => {
                    if let Some(slot) = self.hmp.get_mut(cx.session) {
                        *slot = hmp;
                    }
                    return Err(nb::Error::WouldBlock);
                }
            }
        }
        let result = loop {
            let number = text.resume();
            match hmp.line(number, &target, &mut line) {
                Progress::Done => break Ok(()),
                Progress::Working => break Err(nb::Error::WouldBlock),
                Progress::Listing(listing) => {
                    let hypervisor = &mut *target.hypervisor;
                    let more = match listing {
                        Listing::Network => hypervisor.list_network(number, text),
                        Listing::Block => hypervisor.list_disk(number, false, text),
                        Listing::BlockStats => hypervisor.list_disk(number, true, text),
                    };
                    match more {
                        Ok(true) => {}
                        Ok(false) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                }
                Progress::Line => {
                    if let Err(error) = text.write(format_args!("{line}\n")) {
                        break Err(error);
                    }
                }
            }
        };
        if let Some(slot) = self.hmp.get_mut(cx.session) {
            *slot = hmp;
        }
        result
    }
}

/// The hypervisor as the human monitor sees it, during one command.
struct View<'v, 'g, 'c> {
    hypervisor: &'v mut Hypervisor<'g>,
    cx: &'v mut Context<'c>,
    /// The processor that the command is for.
    cpu: usize,
}

impl Target for View<'_, '_, '_> {
    fn status(&self, line: &mut Line) {
        let run = &self.hypervisor.run;
        let _ = match run.state() {
            RunState::Running => line.write_str("running"),
            RunState::Paused => line.write_str("paused"),
            other => write!(line, "paused ({})", state::name(other)),
        };
    }

    fn name(&self) -> Option<&str> {
        self.hypervisor.launch.options.name
    }

    fn uuid(&self, line: &mut Line) {
        let _ = line.push_str(self.hypervisor.launch.uuid());
    }

    fn cpu(&self, index: usize) -> Option<(u64, bool)> {
        self.hypervisor.guest.as_ref()?.cpu(index)
    }

    fn snapshot(&self, index: usize) -> Option<Snapshot> {
        self.hypervisor.guest.as_ref()?.snapshot(index)
    }

    fn read_linear(&self, cpu: usize, address: u64, buffer: &mut [u8]) -> bool {
        let wanted = buffer.len();
        self.hypervisor.guest.as_ref().is_some_and(|guest| guest.peek(cpu, address, buffer) == wanted)
    }

    fn read_physical(&self, address: u64, buffer: &mut [u8]) {
        match &self.hypervisor.guest {
            Some(guest) => read_physical(guest.ram(), address, buffer),
            None => buffer.fill(0),
        }
    }

    fn set_default_cpu(&mut self, index: i64) -> bool {
        match usize::try_from(index) {
            Ok(index) if index < self.hypervisor.processors() => {
                self.cx.cpu = index;
                true
            }
            _ => false,
        }
    }

    fn port_read(&mut self, port: u16, size: u8) -> u32 {
        self.hypervisor.guest.as_mut().map_or(u32::MAX, |guest| guest.port_read(port, size))
    }

    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        if let Some(guest) = &mut self.hypervisor.guest {
            guest.port_write(port, size, value);
        }
    }

    fn balloon(&mut self) -> Option<u64> {
        self.hypervisor.with_balloon(|balloon, _| balloon.actual()).ok()
    }

    fn pointers(&mut self) -> Pointers {
        let mut pointers = Pointers::new();
        if let Some(guest) = &mut self.hypervisor.guest {
            guest.devices(&mut |devices| pointers = devices.pc.pointers().collect());
        }
        pointers
    }

    fn act(&mut self, action: Action<'_>, line: &mut Line) -> bool {
        let hypervisor = &mut *self.hypervisor;
        match action {
            Action::Stop => Hypervisor::announce(hypervisor.stop(RunState::Paused), self.cx),
            Action::Continue => match hypervisor.cont() {
                Ok(change) => Hypervisor::announce(change, self.cx),
                Err(error) => {
                    let _ = write!(line, "{}", error.description());
                    return false;
                }
            },
            Action::Reset => hypervisor.requests.reset = true,
            Action::Powerdown => hypervisor.requests.powerdown = true,
            Action::Nmi => {
                if let Some(guest) = &mut hypervisor.guest {
                    guest.nmi();
                }
            }
            Action::Quit => hypervisor.requests.quit = true,
            Action::Balloon(bytes) => return said(hypervisor.set_balloon(bytes), line),
            Action::Keys { names, hold } => return said(hypervisor.press_named(names, hold), line),
            Action::ChoosePointer(index) => {
                let mut chosen = false;
                if let (Some(guest), Ok(index)) = (&mut hypervisor.guest, u8::try_from(index)) {
                    guest.devices(&mut |devices| chosen = devices.pc.choose_pointer(index));
                }
                if !chosen {
                    let _ = line.push_str("Mouse at given index not found");
                }
                return chosen;
            }
            Action::Save { physical, address, size, file } => {
                let source = if physical { Source::Physical } else { Source::Linear(self.cpu) };
                if let Err(error) = hypervisor.save_begin(self.cx.session, source, address, size, file) {
                    let _ = write!(line, "{}", error.description());
                    return false;
                }
            }
        }
        true
    }
}

/// Whether something has been done; what went wrong goes to `line`.
fn said(result: Result<(), Error>, line: &mut Line) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => {
            let _ = write!(line, "{}", error.description());
            false
        }
    }
}

//! The loop that everything runs in: monitor sessions, the guest's console, and slices of the guest between them.
//!
//! One pass looks at what has interrupted, lets each service make a few bounded steps, and gives the rest of the time to
//! the guest, or sleeps.

use monovisor_core::Monitor;
use monovisor_core::monitor::{Now, Product};
use monovisor_core::schema::EventData;
use monovisor_core::schema::block_core::BlockIoError;
use monovisor_core::schema::machine::RtcChange;
use monovisor_core::schema::memory::BalloonChange;
use monovisor_core::schema::net::NicRxFilterChanged;
use monovisor_core::schema::run_state::{Powerdown, Reset, RunState, Shutdown, Stop};
use monovisor_devices::Request;
use monovisor_devices::virtio::blk::Action;
use monovisor_host::{boot_info, frames, info, interrupts, power, timer, uart};
use spin::{Mutex, MutexGuard};

use crate::clock::Clock;
use crate::handlers::OFFERED;
use crate::hypervisor::{Hypervisor, SESSIONS};
use crate::lines::Ports;
use crate::machine::{Halt, SliceEnd};
use crate::port::SerialPort;
use crate::state::Change;
use crate::trace::{self, Point};
use crate::virtio::MAX_DRIVES;

/// How this product shows itself in the greeting.
const PRODUCT: Product =
    Product { package: concat!(" (Monovisor ", env!("CARGO_PKG_VERSION"), ")"), offered: &OFFERED };

static MONITOR: Mutex<Monitor<SESSIONS>> = Mutex::new(Monitor::new());

/// Steps that a session makes before the guest has its turn again.
const MONITOR_STEPS: u32 = 32;

/// Time that the guest gets between two turns of services that have more to do, in nanoseconds.
const TURN_NS: u64 = 200_000;

/// How long a line may take to send the last bytes before the rig is switched off, in nanoseconds.
const FAREWELL_NS: u64 = 2_000_000_000;

/// The services and what they work on.
struct Services {
    monitor: &'static mut Monitor<SESSIONS>,
    /// The line of each session.
    ports: Ports,
    hypervisor: &'static mut Hypervisor<'static>,
    /// Converts the host's TSC to time since start; never stops.
    clock: Clock,
}

/// Runs the guest and the services. `ports` are the lines of the monitor's sessions.
pub fn serve(hypervisor: &'static mut Hypervisor<'static>, ports: Ports) -> ! {
    let mut clock = Clock::new(timer::tsc_hz());
    clock.start(timer::entry_tsc());
    let monitor = MutexGuard::leak(MONITOR.lock());
    monitor.start(PRODUCT);
    let mut services = Services { monitor, ports, hypervisor, clock };
    services.report();
    loop {
        services.turn();
    }
}

impl Services {
    /// What an operator wants to know about the start, on the log.
    fn report(&self) {
        let hypervisor = &self.hypervisor;
        let guest = hypervisor.guest.as_ref().map_or(0, |guest| guest.ram().size());
        if let Some(boot) = boot_info() {
            let modules: u64 = boot.modules.iter().map(|module| module.data.len() as u64).sum();
            let (_, store) = hypervisor.files.lock().usage();
            let others = guest + store + modules + frames::available();
            info!("{} bytes of RAM for Monovisor itself", boot.memory.usable().saturating_sub(others));
        }
        if hypervisor.run.running() {
            let entry = timer::entry_tsc();
            let ticks = timer::now_tsc().wrapping_sub(entry);
            info!(
                "entered at TSC {entry}; guest of {} MiB starts {ticks} TSC ticks after entry",
                guest >> 20
            );
        }
    }

    fn now(&self) -> Now {
        Now { monotonic: self.clock.now(timer::now_tsc()), wall: timer::wall_clock() }
    }

    /// Sends an event to every session.
    fn event<E: EventData>(&mut self, event: &E) {
        trace_event::<E>();
        let now = self.now();
        self.monitor.event(event, now);
    }

    /// One pass.
    fn turn(&mut self) {
        let sources = interrupts::take();
        if sources.contains(interrupts::Sources::TIMER)
            && let Some(guest) = &mut self.hypervisor.guest
        {
            guest.timer_fired();
        }
        let polled = uart::poll();
        let busy = self.monitor_turn() | self.hypervisor.move_bytes(false);
        let running = self.hypervisor.run.running();
        let host_tsc = timer::now_tsc();
        let service_at = if busy {
            Some(host_tsc.wrapping_add(self.clock.ticks(TURN_NS)))
        } else {
            self.monitor.deadline().map(|deadline| self.clock.host_tsc_at(deadline))
        };
        let poll_at = polled.then(|| host_tsc.wrapping_add(self.clock.ticks(uart::POLL_NS)));
        let service_at = service_at.into_iter().chain(poll_at).min();
        let end = match &mut self.hypervisor.guest {
            Some(guest) if running => {
                guest.pump_console();
                guest.service_at(service_at);
                guest.slice()
            }
            guest => {
                timer::set_deadline(service_at);
                // The human monitor reaches ports while the guest stands.
                let request = guest.as_mut().is_some_and(|guest| guest.has_request());
                if request { SliceEnd::Request } else { SliceEnd::Idle }
            }
        };
        match end {
            SliceEnd::Service | SliceEnd::Order => interrupts::window(),
            SliceEnd::Idle if busy => interrupts::window(),
            SliceEnd::Idle => interrupts::wait(),
            SliceEnd::Request => {
                // A guest that makes one request after the other leaves no other place for interrupts.
                interrupts::window();
                self.device_request();
            }
            SliceEnd::Stop(halt) => self.guest_stopped(halt),
        }
    }

    /// Lets the monitor work. True when there is more to do at once.
    fn monitor_turn(&mut self) -> bool {
        for (session, port) in self.ports.iter_mut().enumerate() {
            if port.as_mut().is_some_and(SerialPort::connected) {
                self.monitor.restart(session);
            }
        }
        // The sessions take turns, so that none waits for another's long reply.
        for _ in 0..MONITOR_STEPS {
            let mut more = false;
            for session in 0..SESSIONS {
                more |= self.step(session);
            }
            if !more {
                return (0..SESSIONS).any(|session| self.monitor.is_working(session));
            }
        }
        true
    }

    /// One step of a session. True when there may be more to do at once.
    fn step(&mut self, session: usize) -> bool {
        let now = self.now();
        let Some(Some(port)) = self.ports.get_mut(session) else { return false };
        let more = self.monitor.poll(session, port, &mut *self.hypervisor, now);
        if more {
            self.carry_out();
            // A step may take longer than the lines' FIFOs have room for.
            interrupts::window();
        }
        more
    }

    /// Does what a command asked for, now that it has been answered.
    fn carry_out(&mut self) {
        let requests = core::mem::take(&mut self.hypervisor.requests);
        if requests.reset {
            self.machine_reset();
        }
        if requests.powerdown {
            if trace::enabled() {
                trace::record(Point::SystemPowerdown, None, format_args!(""));
            }
            if let Some(guest) = &mut self.hypervisor.guest {
                guest.power_button();
            }
            self.event(&Powerdown {});
        }
        if requests.quit {
            self.quit();
        }
    }

    fn reset(&mut self) {
        let running = self.hypervisor.run.running();
        self.hypervisor.reset();
        self.event(&Reset {});
        if running && !self.hypervisor.run.running() {
            self.event(&Stop {});
        }
    }

    /// The guest ends: reported, and the monitor stays.
    fn shut_down(&mut self) {
        info!("the guest has ended");
        self.event(&Shutdown {});
        self.stop(RunState::Shutdown);
    }

    fn stop(&mut self, state: RunState) {
        if self.hypervisor.stop(state) == Change::Stopped {
            self.event(&Stop {});
        }
    }

    fn machine_reset(&mut self) {
        if self.hypervisor.launch.options.no_reboot {
            self.shut_down();
        } else {
            self.reset();
        }
    }

    fn device_request(&mut self) {
        let mut request = None;
        if let Some(guest) = &mut self.hypervisor.guest {
            guest.devices(&mut |devices| request = devices.take_request());
        }
        let Some(request) = request else { return };
        if trace::enabled() {
            trace::record(Point::DeviceRequest, None, format_args!("{}", request_name(&request)));
        }
        match request {
            Request::Reset(cause) => {
                info!("the guest resets the machine ({cause:?})");
                self.machine_reset();
            }
            Request::PowerOff => {
                info!("the guest has switched itself off");
                self.shut_down();
            }
            Request::Sleep(kind) => {
                info!("the guest wrote sleep type {kind}, which its tables do not announce")
            }
            Request::DebugExit(value) => {
                info!("the guest ends the run with {value}");
                self.farewell();
                power::exit(value as u8);
            }
            Request::RtcChange(offset) => self.event(&RtcChange { offset }),
            Request::Devices => self.devices_told(),
        }
    }

    /// A device has something for what is behind it.
    fn devices_told(&mut self) {
        self.hypervisor.move_bytes(true);
        while let Some(change) = self.hypervisor.port_change() {
            self.event(&change);
        }
        if let Ok(Some(actual)) = self.hypervisor.with_balloon(|balloon, _| balloon.take_change()) {
            self.event(&BalloonChange { actual: actual.cast_signed() });
        }
        while let Some(nic) = self.hypervisor.filter_change() {
            self.event(&NicRxFilterChanged { name: nic.id(), path: &nic.path() });
        }
        // One for each disk at most: whatever comes meanwhile is told again.
        for _ in 0..MAX_DRIVES {
            let now = self.now();
            let Some(failure) = self.hypervisor.disk_failure() else { return };
            if let Some(event) = self.hypervisor.disk.error_event(failure) {
                trace_event::<BlockIoError<'_>>();
                self.monitor.event(&event, now);
            }
            if failure.action == Action::Stop {
                self.stop(RunState::IoError);
            }
        }
    }

    fn guest_stopped(&mut self, halt: Halt) {
        self.hypervisor.guest_stopped(halt);
        if halt == Halt::TripleFault {
            self.machine_reset();
        } else {
            self.stop(RunState::InternalError);
        }
    }

    /// `quit` has been answered: SHUTDOWN, and off.
    fn quit(&mut self) -> ! {
        self.event(&Shutdown {});
        self.farewell();
        info!("switching off");
        power::power_off()
    }

    /// Sends what is still to be sent on all lines, for as long as the other sides take it.
    fn farewell(&mut self) {
        let end = self.now().monotonic.saturating_add(FAREWELL_NS);
        loop {
            let now = self.now();
            let mut busy = false;
            for (session, port) in self.ports.iter_mut().enumerate() {
                let Some(port) = port else { continue };
                self.monitor.poll(session, port, &mut *self.hypervisor, now);
                busy |= self.monitor.wants_to_send(session) || !port.is_idle();
            }
            if let Some(guest) = &mut self.hypervisor.guest {
                busy |= guest.flush_console();
            }
            if !busy || now.monotonic > end {
                return;
            }
            // Nothing may keep a line from sending: the transmit interrupt is taken here.
            interrupts::window();
        }
    }
}

/// Records that an event is sent, if that is traced.
pub(crate) fn trace_event<E: EventData>() {
    if trace::enabled() {
        trace::record(Point::ProtocolEvent, None, format_args!("event={}", E::EVENT.name()));
    }
}

/// A device's request in a word, for the trace.
const fn request_name(request: &Request) -> &'static str {
    match request {
        Request::Reset(_) => "reset",
        Request::PowerOff => "power-off",
        Request::Sleep(_) => "sleep",
        Request::DebugExit(_) => "debug-exit",
        Request::RtcChange(_) => "rtc-change",
        Request::Devices => "devices",
    }
}

//! The hypervisor's tracepoints: `trace-event-set-state` switches them, `x-query-trace` reads what they said.
//!
//! A record is a line `seconds.microseconds:name words`, the time since the image was entered. While no tracepoint is on, one
//! costs the load and the test of one byte ([`enabled`]); everything else is out of line.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use monovisor_arch::{Event, EventKind, Exit};
use monovisor_core::Error;
use monovisor_core::handlers::Element;
use monovisor_core::schema::trace::{TraceEventGetStateArgs, TraceEventInfo, TraceEventSetStateArgs};
use monovisor_core::trace::{Reading, TextRing, Tracepoint, Tracepoints};
use monovisor_host::timer;
use spin::Mutex;

/// Bytes of records that are kept: some 1000 of them.
const RING_BYTES: usize = 64 * 1024;

macro_rules! points {
    ($( $(#[$doc:meta])* $point:ident = $name:literal, vcpu: $vcpu:literal; )*) => {
        /// A tracepoint.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point { $( $(#[$doc])* $point, )* }

        /// All of them, in the order of [`Point`].
        static POINTS: &[Tracepoint] = &[ $( Tracepoint { name: $name, vcpu: $vcpu }, )* ];
    };
}

points! {
    /// CPUID.
    ExitCpuid = "vcpu_exit_cpuid", vcpu: true;
    /// IN, OUT, INS, OUTS.
    ExitIo = "vcpu_exit_io", vcpu: true;
    /// Device memory.
    ExitMemory = "vcpu_exit_memory", vcpu: true;
    /// RDMSR.
    ExitReadMsr = "vcpu_exit_rdmsr", vcpu: true;
    /// WRMSR.
    ExitWriteMsr = "vcpu_exit_wrmsr", vcpu: true;
    /// HLT.
    ExitHalt = "vcpu_exit_hlt", vcpu: true;
    /// A physical interrupt.
    ExitHostInterrupt = "vcpu_exit_host_interrupt", vcpu: true;
    /// The guest has become ready for an interrupt or NMI.
    ExitWindow = "vcpu_exit_window", vcpu: true;
    /// VMCALL, VMMCALL.
    ExitHypercall = "vcpu_exit_hypercall", vcpu: true;
    /// Every other exit, by its name.
    ExitOther = "vcpu_exit_other", vcpu: true;
    /// An interrupt goes in.
    InjectInterrupt = "vcpu_inject_interrupt", vcpu: true;
    /// An NMI goes in.
    InjectNmi = "vcpu_inject_nmi", vcpu: true;
    /// An exception goes in.
    InjectException = "vcpu_inject_exception", vcpu: true;
    /// The guest's serial port sends a byte.
    SerialWrite = "serial_write", vcpu: false;
    /// The guest's serial port gets a byte.
    SerialRead = "serial_read", vcpu: false;
    /// A device asks for reset, power-off or the like.
    DeviceRequest = "device_request", vcpu: false;
    /// The run state has changed.
    VmStateNotify = "vm_state_notify", vcpu: false;
    /// The machine is reset.
    SystemReset = "system_reset", vcpu: false;
    /// The power button is pressed.
    SystemPowerdown = "system_powerdown", vcpu: false;
    /// A QMP command begins.
    QmpCommand = "handle_qmp_command", vcpu: false;
    /// A QMP event is sent.
    ProtocolEvent = "monitor_protocol_event_emit", vcpu: false;
}

/// Some tracepoint is on.
static ENABLED: AtomicBool = AtomicBool::new(false);

static STATES: Mutex<Tracepoints> = Mutex::new(Tracepoints::new(POINTS));

/// Apart from the states, so that nothing but zeros is in static memory of this size.
static RECORDS: Mutex<TextRing<RING_BYTES>> = Mutex::new(TextRing::new());

/// Whether any tracepoint is on: what to ask before [`record`].
#[inline(always)]
pub fn enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// Records that a point was passed, if it is on; `vcpu` for the points that belong to a processor.
#[cold]
#[inline(never)]
pub fn record(point: Point, vcpu: Option<usize>, words: fmt::Arguments<'_>) {
    let on = {
        let states = STATES.lock();
        match vcpu {
            Some(vcpu) => states.is_on_for(point as usize, vcpu),
            None => states.is_on(point as usize),
        }
    };
    let Some(info) = POINTS.get(point as usize).filter(|_| on) else { return };
    let (seconds, microseconds) =
        since_entry(timer::now_tsc().wrapping_sub(timer::entry_tsc()), timer::tsc_hz());
    let mut records = RECORDS.lock();
    // The ring takes everything.
    let _ = write!(records, "{seconds}.{microseconds:06}:{}", info.name);
    if let Some(vcpu) = vcpu {
        let _ = write!(records, " cpu={vcpu}");
    }
    let _ = writeln!(records, "{}{words}", if words.as_str() == Some("") { "" } else { " " });
}

/// TSC ticks as seconds and microseconds; 0 where the TSC's speed is not known.
fn since_entry(ticks: u64, hz: u64) -> (u64, u64) {
    let seconds = ticks.checked_div(hz).unwrap_or(0);
    let rest = ticks.checked_rem(hz).unwrap_or(0);
    // Below one second of ticks, and no processor makes 2^44 of them in one.
    let microseconds = rest.saturating_mul(1_000_000).checked_div(hz).unwrap_or(0);
    (seconds, microseconds)
}

/// Records an exit; `rax`, `rcx` and `rdx` are the guest's.
#[cold]
#[inline(never)]
pub fn exit(vcpu: usize, exit: &Exit, rip: u64, rax: u64, rcx: u64, rdx: u64) {
    let cpu = Some(vcpu);
    let (eax, ecx, edx) = (rax as u32, rcx as u32, rdx as u32);
    match exit {
        Exit::Cpuid => {
            record(Point::ExitCpuid, cpu, format_args!("rip={rip:#x} leaf={eax:#x} subleaf={ecx:#x}"))
        }
        Exit::Io(io) if io.string.is_some() => {
            let name = if io.input { "ins" } else { "outs" };
            record(
                Point::ExitIo,
                cpu,
                format_args!("rip={rip:#x} {name} port={:#x} size={}", io.port, io.size),
            );
        }
        Exit::Io(io) if io.input => {
            record(Point::ExitIo, cpu, format_args!("rip={rip:#x} in port={:#x} size={}", io.port, io.size));
        }
        Exit::Io(io) => {
            let value = eax & (u32::MAX >> (32 - 8 * u32::from(io.size.clamp(1, 4))));
            record(
                Point::ExitIo,
                cpu,
                format_args!("rip={rip:#x} out port={:#x} size={} value={value:#x}", io.port, io.size),
            );
        }
        Exit::Memory(memory) => record(
            Point::ExitMemory,
            cpu,
            format_args!("rip={rip:#x} {:?} address={:#x}", memory.access, memory.address),
        ),
        Exit::ReadMsr => record(Point::ExitReadMsr, cpu, format_args!("rip={rip:#x} msr={ecx:#x}")),
        Exit::WriteMsr => record(
            Point::ExitWriteMsr,
            cpu,
            format_args!("rip={rip:#x} msr={ecx:#x} value={:#x}", u64::from(edx) << 32 | u64::from(eax)),
        ),
        Exit::Halt => record(Point::ExitHalt, cpu, format_args!("rip={rip:#x}")),
        Exit::HostInterrupt => record(Point::ExitHostInterrupt, cpu, format_args!("rip={rip:#x}")),
        Exit::InterruptWindow | Exit::NmiWindow => {
            record(Point::ExitWindow, cpu, format_args!("rip={rip:#x} {}", exit.name()));
        }
        Exit::Hypercall => record(Point::ExitHypercall, cpu, format_args!("rip={rip:#x} rax={rax:#x}")),
        other => record(Point::ExitOther, cpu, format_args!("rip={rip:#x} {}", other.name())),
    }
}

/// Records an event that goes into the guest.
#[cold]
#[inline(never)]
pub fn inject(vcpu: usize, event: &Event) {
    let (cpu, vector) = (Some(vcpu), event.vector);
    match event.kind {
        EventKind::Interrupt => record(Point::InjectInterrupt, cpu, format_args!("vector={vector:#x}")),
        EventKind::Nmi => record(Point::InjectNmi, cpu, format_args!("")),
        _ => match event.error_code {
            Some(code) => {
                record(Point::InjectException, cpu, format_args!("vector={vector} error={code:#x}"));
            }
            None => record(Point::InjectException, cpu, format_args!("vector={vector}")),
        },
    }
}

/// Answers `trace-event-get-state` for a machine of `vcpus` processors.
pub fn get(
    arguments: &TraceEventGetStateArgs<'_>,
    vcpus: usize,
    index: usize,
) -> Element<TraceEventInfo<'static>> {
    STATES.lock().get(arguments, vcpus, index)
}

/// Answers `trace-event-set-state` for a machine of `vcpus` processors.
pub fn set(arguments: &TraceEventSetStateArgs<'_>, vcpus: usize) -> Result<(), Error> {
    let mut states = STATES.lock();
    states.set(arguments, vcpus)?;
    ENABLED.store(states.any(), Ordering::Relaxed);
    Ok(())
}

/// Reads records from an offset, or from the oldest one that is kept.
pub fn read(offset: Option<u64>, out: &mut [u8]) -> Reading {
    RECORDS.lock().read(offset, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use monovisor_arch::IoExit;
    use monovisor_core::trace::TRACEPOINTS;

    #[test]
    fn times() {
        assert_eq!(since_entry(5, 0), (0, 0));
        assert_eq!(since_entry(3_000_000_500, 1_000_000_000), (3, 0));
        assert_eq!(since_entry(7_499_999_999, 3_000_000_000), (2, 499_999));
    }

    #[test]
    fn names_are_words_and_unique() {
        assert!(POINTS.len() <= TRACEPOINTS);
        for (at, point) in POINTS.iter().enumerate() {
            assert!(
                point.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{}",
                point.name
            );
            assert!(POINTS[..at].iter().all(|other| other.name != point.name), "{}", point.name);
        }
        assert_eq!(POINTS[Point::ProtocolEvent as usize].name, "monitor_protocol_event_emit");
    }

    /// One test for all that uses the one ring and the one set of states.
    #[test]
    fn only_what_is_on_is_recorded() {
        let switch = |name, enable, vcpu| {
            set(&TraceEventSetStateArgs { name, enable, ignore_unavailable: None, vcpu }, 2).unwrap();
        };
        assert!(!enabled());
        exit(0, &Exit::Cpuid, 1, 2, 3, 4);
        switch("vcpu_exit_*", true, Some(0));
        assert!(enabled());
        exit(0, &Exit::Cpuid, 0x1000, 0x8000_0000, 0, 0);
        exit(1, &Exit::Cpuid, 0x2000, 1, 0, 0);
        let io = IoExit { port: 0x80, size: 1, input: false, string: None };
        exit(0, &Exit::Io(io), 0x1002, 0x1234, 0, 0);
        exit(0, &Exit::WriteMsr, 0x1004, 0x5566_7788, 0x10, 0x1122_3344);
        inject(0, &Event::interrupt(0x30));
        switch("vcpu_inject_*", true, None);
        inject(0, &Event::interrupt(0x31));
        inject(1, &Event::nmi());
        switch("*", false, None);
        inject(0, &Event::interrupt(0x32));
        assert!(!enabled());

        let mut out = [0; 1024];
        let reading = read(None, &mut out);
        let text = core::str::from_utf8(&out[..reading.len]).unwrap();
        let records: Vec<&str> = text.lines().map(|line| line.split_once(':').unwrap().1).collect();
        assert_eq!(
            records,
            [
                "vcpu_exit_cpuid cpu=0 rip=0x1000 leaf=0x80000000 subleaf=0x0",
                "vcpu_exit_io cpu=0 rip=0x1002 out port=0x80 size=1 value=0x34",
                "vcpu_exit_wrmsr cpu=0 rip=0x1004 msr=0x10 value=0x1122334455667788",
                "vcpu_inject_interrupt cpu=0 vector=0x31",
                "vcpu_inject_nmi cpu=1",
            ]
        );
        assert_eq!(read(Some(reading.next), &mut out).len, 0);
    }
}

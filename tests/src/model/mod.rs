//! A model machine: all of the monitor, with nothing but variables behind it.
//!
//! It answers like QEMU's `-M pc` with no drive and no network, as far as that needs no guest. Clients can be tried against it,
//! transcripts are replayed on it, fuzzers drive it; what a real machine has to do is in the hypervisor. It is the
//! second implementation of the monitor's handler traits: what only works with the first is not the monitor's.

mod block;
mod chardevs;
mod human;
mod machine;
mod memory;
mod objects;
mod outside;
mod rig;
mod run;
mod trace;

use std::collections::BTreeMap;

use monovisor_core::handlers::{Base, Poll};
use monovisor_core::schema::run_state::{
    Powerdown, Reset, Resume, RunState, Shutdown, Stop, Suspend, Wakeup,
};
use monovisor_core::schema::{
    Command, Event, EventData, Offered, dump::DumpCompleted, dump::DumpQueryResult, dump::DumpStatus,
};
use monovisor_core::{Context, Monitor, Now, Product};

pub use rig::{Line, Rig, SESSIONS};

/// What the model offers.
pub static OFFERED: Offered = Offered::new(
    &[
        Command::ADD_FD,
        Command::ADD_CLIENT,
        Command::BALLOON,
        Command::BLOCK_JOB_CANCEL,
        Command::BLOCK_JOB_COMPLETE,
        Command::BLOCK_JOB_PAUSE,
        Command::BLOCK_JOB_RESUME,
        Command::BLOCK_JOB_SET_SPEED,
        Command::BLOCK_RESIZE,
        Command::BLOCK_SET_IO_THROTTLE,
        Command::BLOCK_SET_WRITE_THRESHOLD,
        Command::BLOCKDEV_ADD,
        Command::BLOCKDEV_CLOSE_TRAY,
        Command::BLOCKDEV_OPEN_TRAY,
        Command::BLOCKDEV_SNAPSHOT_SYNC,
        Command::CHANGE,
        Command::CHARDEV_ADD,
        Command::CHARDEV_REMOVE,
        Command::CLOSEFD,
        Command::CONT,
        Command::CPU,
        Command::CPU_ADD,
        Command::DEVICE_ADD,
        Command::DEVICE_DEL,
        Command::DRIVE_MIRROR,
        Command::DUMP_GUEST_MEMORY,
        Command::EJECT,
        Command::EXPIRE_PASSWORD,
        Command::GETFD,
        Command::HUMAN_MONITOR_COMMAND,
        Command::INJECT_NMI,
        Command::INPUT_SEND_EVENT,
        Command::MEMSAVE,
        Command::MIGRATE,
        Command::MIGRATE_INCOMING,
        Command::MIGRATE_SET_CACHE_SIZE,
        Command::MIGRATE_SET_CAPABILITIES,
        Command::MIGRATE_SET_DOWNTIME,
        Command::MIGRATE_SET_PARAMETERS,
        Command::MIGRATE_SET_SPEED,
        Command::MIGRATE_CANCEL,
        Command::NETDEV_ADD,
        Command::NETDEV_DEL,
        Command::OBJECT_ADD,
        Command::OBJECT_DEL,
        Command::PMEMSAVE,
        Command::QMP_CAPABILITIES,
        Command::QOM_GET,
        Command::QOM_LIST,
        Command::QOM_LIST_TYPES,
        Command::QOM_SET,
        Command::QUERY_ACPI_OSPM_STATUS,
        Command::QUERY_BALLOON,
        Command::QUERY_BLOCK,
        Command::QUERY_BLOCK_JOBS,
        Command::QUERY_CHARDEV,
        Command::QUERY_CHARDEV_BACKENDS,
        Command::QUERY_COMMANDS,
        Command::QUERY_COMMAND_LINE_OPTIONS,
        Command::QUERY_CPU_DEFINITIONS,
        Command::QUERY_MACHINES,
        Command::QUERY_GIC_CAPABILITIES,
        Command::DUMP_SKEYS,
        Command::QUERY_CPUS,
        Command::QUERY_DUMP,
        Command::QUERY_DUMP_GUEST_MEMORY_CAPABILITY,
        Command::QUERY_EVENTS,
        Command::QUERY_FDSETS,
        Command::QUERY_HOTPLUGGABLE_CPUS,
        Command::QUERY_IOTHREADS,
        Command::QUERY_KVM,
        Command::QUERY_MEMDEV,
        Command::QUERY_MEMORY_DEVICES,
        Command::QUERY_MICE,
        Command::QUERY_MIGRATE,
        Command::QUERY_MIGRATE_CACHE_SIZE,
        Command::QUERY_MIGRATE_CAPABILITIES,
        Command::QUERY_MIGRATE_PARAMETERS,
        Command::QUERY_NAME,
        Command::QUERY_QMP_SCHEMA,
        Command::QUERY_ROCKER,
        Command::QUERY_ROCKER_OF_DPA_FLOWS,
        Command::QUERY_ROCKER_OF_DPA_GROUPS,
        Command::QUERY_ROCKER_PORTS,
        Command::QUERY_RX_FILTER,
        Command::QUERY_STATUS,
        Command::QUERY_TARGET,
        Command::QUERY_TPM,
        Command::QUERY_TPM_MODELS,
        Command::QUERY_TPM_TYPES,
        Command::QUERY_UUID,
        Command::QUERY_VERSION,
        Command::QUERY_VNC,
        Command::QUERY_VNC_SERVERS,
        Command::QUIT,
        Command::REMOVE_FD,
        Command::RINGBUF_READ,
        Command::RINGBUF_WRITE,
        Command::RTC_RESET_REINJECTION,
        Command::SEND_KEY,
        Command::SET_LINK,
        Command::SET_PASSWORD,
        Command::STOP,
        Command::SYSTEM_POWERDOWN,
        Command::SYSTEM_RESET,
        Command::SYSTEM_WAKEUP,
        Command::TRACE_EVENT_GET_STATE,
        Command::TRACE_EVENT_SET_STATE,
        Command::TRANSACTION,
        Command::X_BLOCKDEV_CHANGE,
        Command::X_BLOCKDEV_DEL,
        Command::X_BLOCKDEV_INSERT_MEDIUM,
        Command::X_BLOCKDEV_REMOVE_MEDIUM,
        Command::X_COLO_LOST_HEARTBEAT,
        Command::X_QUERY_EVENTS_LOST,
        Command::X_QUERY_LOG,
        Command::X_QUERY_TRACE,
        Command::X_STORE_LIST,
        Command::X_STORE_READ,
    ],
    &[
        Event::DEVICE_DELETED,
        Event::DEVICE_TRAY_MOVED,
        Event::DUMP_COMPLETED,
        Event::MIGRATION,
        Event::POWERDOWN,
        Event::RESET,
        Event::RESUME,
        Event::SHUTDOWN,
        Event::STOP,
        Event::SUSPEND,
        Event::WAKEUP,
    ],
);

impl Base for Model {
    const OFFERED: &'static Offered = &OFFERED;
}

/// How a model is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// `-name`
    pub name: Option<String>,
    /// `-uuid`
    pub uuid: String,
    /// `-m`, in bytes.
    pub memory: usize,
    /// `-smp`: CPUs at the start.
    pub cpus: usize,
    /// `-smp maxcpus=`
    pub max_cpus: usize,
    /// `-S`
    pub stopped: bool,
    /// `-no-shutdown`
    pub no_shutdown: bool,
    /// `package` of the version.
    pub package: &'static str,
    /// How often commands that are long on a real machine answer that they are not ready; 0 for never.
    pub delay: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: None,
            uuid: "00000000-0000-0000-0000-000000000000".into(),
            memory: 1 << 20,
            cpus: 1,
            max_cpus: 1,
            stopped: true,
            no_shutdown: false,
            package: "",
            delay: 0,
        }
    }
}

/// Something that is reported when the command's reply is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Later {
    Reset,
    Powerdown,
    Shutdown,
    Stop,
    Wakeup,
    Suspend,
    DumpCompleted,
}

/// The machine.
#[derive(Debug)]
pub struct Model {
    options: Options,
    state: RunState,
    later: Vec<Later>,
    /// `quit` was given, or the guest has shut down.
    ended: bool,
    cpus: Vec<machine::Cpu>,
    memory: Vec<u8>,
    store: BTreeMap<String, Vec<u8>>,
    dump: DumpQueryResult,
    chardevs: Vec<chardevs::Chardev>,
    trace: trace::Trace,
    objects: Vec<objects::Object>,
    block: block::Blocks,
    outside: outside::Outside,
}

impl Model {
    /// A machine that has just been started.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            state: if options.stopped { RunState::Prelaunch } else { RunState::Running },
            later: Vec::new(),
            ended: false,
            cpus: machine::cpus(options.cpus),
            memory: vec![0; options.memory],
            store: BTreeMap::new(),
            dump: DumpQueryResult { status: DumpStatus::None, completed: 0, total: 0 },
            chardevs: chardevs::at_start(),
            trace: trace::Trace::default(),
            objects: Vec::new(),
            block: block::Blocks::default(),
            outside: outside::Outside::default(),
            options,
        }
    }

    /// Whether the machine is gone: `quit` was given, or the guest has shut down.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The guest runs `HLT` in ACPI S3.
    pub fn guest_suspends(&mut self) {
        if self.state == RunState::Running {
            self.state = RunState::Suspended;
            self.later.push(Later::Suspend);
        }
    }

    /// The guest powers itself off.
    pub fn guest_shuts_down(&mut self) {
        if self.state == RunState::Running {
            self.later.push(Later::Shutdown);
            if self.options.no_shutdown {
                self.state = RunState::Shutdown;
                self.later.push(Later::Stop);
            } else {
                self.ended = true;
            }
        }
    }

    /// The guest resets itself.
    pub fn guest_resets(&mut self) {
        if self.state == RunState::Running {
            self.later.push(Later::Reset);
        }
    }

    /// Reports what waited for a reply to go out.
    fn report<const S: usize>(&mut self, monitor: &mut Monitor<S>, now: Now) {
        fn tell<const S: usize>(monitor: &mut Monitor<S>, event: &impl EventData, now: Now) {
            monitor.event(event, now);
        }
        for later in self.later.drain(..) {
            match later {
                Later::Reset => tell(monitor, &Reset {}, now),
                Later::Powerdown => tell(monitor, &Powerdown {}, now),
                Later::Shutdown => tell(monitor, &Shutdown {}, now),
                Later::Stop => tell(monitor, &Stop {}, now),
                Later::Wakeup => tell(monitor, &Wakeup {}, now),
                Later::Suspend => tell(monitor, &Suspend {}, now),
                Later::DumpCompleted => {
                    tell(monitor, &DumpCompleted { result: self.dump, error: None }, now);
                }
            }
        }
    }

    /// The beginning of a long command: it is not ready as often as the options say.
    fn wait(&self, cx: &mut Context<'_>) -> Poll<()> {
        if cx.progress >= self.options.delay {
            return Ok(());
        }
        cx.progress += 1;
        Err(nb::Error::WouldBlock)
    }

    /// What this product is.
    #[must_use]
    pub fn product(&self) -> Product {
        Product { package: self.options.package, offered: &OFFERED }
    }
}

/// What `RESUME` is made of, for handlers.
const RESUME: Resume = Resume {};

//! The schema: every command, event and type of QMP as QEMU 2.8 knows them, and our own extensions.
//!
//! One file a QAPI module declares them, in the notation of `macros.rs`. From that one source come
//! - typed structures for arguments and results ([`block_core`], [`machine`], … and [`value`]),
//! - the argument visitor, with QEMU's errors ([`arguments`]),
//! - what `query-commands`, `query-events` and `query-qmp-schema` answer ([`CommandList`], [`EventList`],
//!   [`SchemaList`]), for exactly the commands that a product offers ([`Offered`]),
//! - the reference documentation ([`docs`]).

#[macro_use]
mod macros;

pub mod decl;
pub mod docs;
mod introspection;
mod link;
mod offered;
pub mod product;
mod reduce;
mod tables;
#[cfg(test)]
mod tests;
pub mod value;
mod visit;

pub mod block;
pub mod block_core;
pub mod block_job;
pub mod blockdev;
pub mod char;
pub mod common;
pub mod cpu;
pub mod crypto;
pub mod dump;
pub mod extensions;
pub mod introspect;
pub mod machine;
pub mod memory;
pub mod migration;
pub mod misc;
pub mod net;
pub mod pci;
pub mod qom;
pub mod rocker;
pub mod run_state;
pub mod sockets;
pub mod tpm;
pub mod trace;
pub mod transaction;
pub mod ui;

pub use decl::Throttle;
pub use introspection::{CommandList, EventList, SchemaList};
pub use offered::Offered;
pub(crate) use tables::Words;
pub use value::{Any, Boxed, Items, List, Made, Source};
pub(crate) use visit::unreadable;
pub use visit::{MAX_DEPTH, arguments, check_arguments};

use crate::json::Emit;

/// What a module declares.
macro_rules! module {
    ($module:ident, $name:literal) => {
        decl::Module {
            name: $name,
            types: $module::TYPES,
            commands: $module::COMMANDS,
            events: $module::EVENTS,
        }
    };
}

/// All modules.
pub const MODULES: &[decl::Module] = &[
    module!(block, "block"),
    module!(block_core, "block-core"),
    module!(block_job, "block-job"),
    module!(blockdev, "blockdev"),
    module!(char, "char"),
    module!(common, "common"),
    module!(cpu, "cpu"),
    module!(crypto, "crypto"),
    module!(dump, "dump"),
    module!(extensions, "extensions"),
    module!(introspect, "introspect"),
    module!(machine, "machine"),
    module!(memory, "memory"),
    module!(migration, "migration"),
    module!(misc, "misc"),
    module!(net, "net"),
    module!(pci, "pci"),
    module!(qom, "qom"),
    module!(rocker, "rocker"),
    module!(run_state, "run-state"),
    module!(sockets, "sockets"),
    module!(tpm, "tpm"),
    module!(trace, "trace"),
    module!(transaction, "transaction"),
    module!(ui, "ui"),
];

/// A command that is declared. Commands are numbered by name; in an image, those that are not of the [`product`] come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Command(u8);

impl Command {
    /// How many commands are declared; in an image, how many the [`product`] has.
    pub const COUNT: usize = tables::COMMAND_COUNT;

    /// The command of this name; the build stops where there is none.
    pub(crate) const fn named(name: &str) -> Self {
        Self(tables::command_index(name))
    }

    /// The command of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::of_bytes(name.as_bytes())
    }

    /// The command whose name is these bytes.
    pub(crate) fn of_bytes(name: &[u8]) -> Option<Self> {
        // A chain of the commands whose names have the same hash.
        let mut next = INDEX.first.get(hash(name, 0, name.len())).copied().unwrap_or(0);
        while let Some(index) = next.checked_sub(1) {
            let entity = tables::COMMANDS.get(usize::from(index))?;
            if tables::bytes(entity.name) == name {
                return Some(Self(index));
            }
            next = INDEX.next.get(usize::from(index)).copied().unwrap_or(0);
        }
        None
    }

    /// Every command, by name.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        tables::COMMANDS.get(self.index()).map_or("", |entity| tables::text(entity.name))
    }

    /// Its number.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether its arguments are free options, which no visitor checks.
    pub fn takes_free_options(self) -> bool {
        tables::COMMANDS.get(self.index()).is_some_and(|entity| entity.free)
    }
}

/// An event that is declared. Events are numbered by name; in an image, those that are not of the [`product`] come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event(u8);

impl Event {
    /// How many events are declared; in an image, how many the [`product`] has.
    pub const COUNT: usize = tables::EVENT_COUNT;

    /// The event of this name; the build stops where there is none.
    pub(crate) const fn named(name: &str) -> Self {
        Self(tables::event_index(name))
    }

    /// The event of this name.
    pub fn find(name: &str) -> Option<Self> {
        search(&tables::EVENTS, name).map(Self)
    }

    /// Every event, by name.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        tables::EVENTS.get(self.index()).map_or("", |entity| tables::text(entity.name))
    }

    /// Its number.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// How often it may be sent.
    pub fn throttle(self) -> Throttle {
        match tables::EVENTS.get(self.index()) {
            Some(entity) if entity.throttled => match tables::text(entity.throttle_key) {
                "" => Throttle::Rate,
                key => Throttle::RatePerKey(key),
            },
            _ => Throttle::None,
        }
    }
}

/// The data of an event. The structure of an event without data has no members and is not printed.
pub trait EventData: Emit {
    /// Which event it is of.
    const EVENT: Event;
    /// Whether the event has data at all.
    const HAS_DATA: bool;
    /// What the event's rate limit is by, where that is [`Throttle::RatePerKey`].
    fn throttle_key(&self) -> &str {
        ""
    }
}

/// Slots of the hash table of commands.
const SLOTS: usize = 256;

/// Where commands are by the hash of their names. Numbers are one more than the command's; 0 ends a chain.
struct Index {
    first: [u8; SLOTS],
    next: [u8; Command::COUNT],
}

/// The slot of the name that is the bytes `from` to `to`, the latter excluded. Length and five bytes tell most of them apart.
const fn hash(bytes: &[u8], from: usize, to: usize) -> usize {
    let length = to.saturating_sub(from);
    let places = [0, length / 4, length / 2, length.saturating_sub(5), length.saturating_sub(2)];
    let (mut sum, mut i) = (length, 0);
    while i < places.len() {
        let at = from.saturating_add(places[i]);
        let byte = if at < bytes.len() { bytes[at] } else { 0 };
        sum = sum.wrapping_mul(23).wrapping_add(byte as usize);
        i += 1;
    }
    (sum ^ sum >> 8) % SLOTS
}

static INDEX: Index = {
    let mut index = Index { first: [0; SLOTS], next: [0; Command::COUNT] };
    let mut i = 0;
    while i < Command::COUNT {
        let (from, to) = tables::extent(tables::COMMANDS[i].name);
        let slot = hash(tables::POOL.as_bytes(), from, to);
        index.next[i] = index.first[slot];
        index.first[slot] = i as u8 + 1;
        i += 1;
    }
    index
};

/// Finds a name in a table that is sorted by name.
fn search(entities: &[tables::Entity], name: &str) -> Option<u8> {
    let found = entities.binary_search_by(|entity| tables::text(entity.name).cmp(name)).ok()?;
    u8::try_from(found).ok()
}

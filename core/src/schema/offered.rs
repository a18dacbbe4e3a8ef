//! Which commands and events a product offers.

use super::tables::{self, EMPTY, Kind, MEMBERS, NO_TAG, Ref, TYPE_COUNT, TYPES, introspected};
use super::{Command, Event, product};

/// Bits in a word of a set.
const WORD: usize = 64;
/// Words of the set of commands.
const COMMAND_WORDS: usize = Command::COUNT.div_ceil(WORD);
/// Words of the set of events.
const EVENT_WORDS: usize = Event::COUNT.div_ceil(WORD);
/// Words of a set of types.
const TYPE_WORDS: usize = TYPE_COUNT.div_ceil(WORD);

/// The commands and events that a product has built, and the types that a client can meet in them.
///
/// Made at compile time:
///
/// ```
/// use monovisor_core::schema::{Command, Event, Offered};
/// static OFFERED: Offered = Offered::new(&[Command::QUERY_STATUS, Command::STOP], &[Event::STOP]);
/// assert!(OFFERED.has(Command::STOP) && !OFFERED.has(Command::CONT));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Offered {
    commands: [u64; COMMAND_WORDS],
    events: [u64; EVENT_WORDS],
    types: [u64; TYPE_WORDS],
    lists: [u64; TYPE_WORDS],
}

const fn set(words: &mut [u64], bit: usize) -> bool {
    let before = words[bit / WORD];
    words[bit / WORD] = before | 1 << (bit % WORD);
    before != words[bit / WORD]
}

const fn test(words: &[u64], bit: usize) -> bool {
    bit / WORD < words.len() && words[bit / WORD] >> (bit % WORD) & 1 != 0
}

impl Offered {
    /// Offers these. Meant for constants: it walks through all types that they use.
    pub const fn new(commands: &[Command], events: &[Event]) -> Self {
        let mut offered = Self {
            commands: [0; COMMAND_WORDS],
            events: [0; EVENT_WORDS],
            types: [0; TYPE_WORDS],
            lists: [0; TYPE_WORDS],
        };
        let mut queue = [0u16; TYPE_COUNT];
        let mut queued = 0;
        let mut i = 0;
        while i < events.len() {
            set(&mut offered.events, events[i].index());
            queued = offered.reach(tables::EVENTS[events[i].index()].arguments, &mut queue, queued);
            i += 1;
        }
        let mut i = 0;
        while i < commands.len() {
            set(&mut offered.commands, commands[i].index());
            let command = tables::COMMANDS[commands[i].index()];
            queued = offered.reach(command.arguments, &mut queue, queued);
            queued = offered.reach(command.returns, &mut queue, queued);
            i += 1;
        }
        let mut at = 0;
        while at < queued {
            let ty = TYPES[queue[at] as usize];
            if matches!(ty.kind, Kind::Object | Kind::Alternate) {
                let mut i = 0;
                while i < ty.count as usize {
                    queued = offered.reach(MEMBERS[ty.first as usize + i].ty, &mut queue, queued);
                    i += 1;
                }
                let mut i = 0;
                while ty.tag != NO_TAG && i < ty.branches as usize {
                    queued = offered.reach(MEMBERS[ty.first_branch as usize + i].ty, &mut queue, queued);
                    i += 1;
                }
            }
            at += 1;
        }
        offered
    }

    /// Offers what the [`product`] has.
    pub const fn product() -> Self {
        let mut commands = [Command(0); product::COMMANDS.len()];
        let mut i = 0;
        while i < commands.len() {
            commands[i] = Command::named(product::COMMANDS[i]);
            i += 1;
        }
        let mut events = [Event(0); product::EVENTS.len()];
        let mut i = 0;
        while i < events.len() {
            events[i] = Event::named(product::EVENTS[i]);
            i += 1;
        }
        Self::new(&commands, &events)
    }

    /// Marks a type that is used, and queues it where it is new.
    const fn reach(&mut self, ty: Ref, queue: &mut [u16; TYPE_COUNT], queued: usize) -> usize {
        let ty = if ty.is_none() { EMPTY } else { ty };
        let index = introspected(ty.index(), &TYPES);
        if ty.is_list() {
            set(&mut self.lists, index);
        }
        if set(&mut self.types, index) {
            queue[queued] = index as u16;
            return queued + 1;
        }
        queued
    }

    /// Offers everything that is declared.
    pub const fn all() -> Self {
        let mut commands = [Command(0); Command::COUNT];
        let mut i = 0;
        while i < commands.len() {
            commands[i] = Command(i as u8);
            i += 1;
        }
        let mut events = [Event(0); Event::COUNT];
        let mut i = 0;
        while i < events.len() {
            events[i] = Event(i as u8);
            i += 1;
        }
        Self::new(&commands, &events)
    }

    /// Whether the command is offered.
    pub const fn has(&self, command: Command) -> bool {
        test(&self.commands, command.index())
    }

    /// Whether the event can be sent.
    pub const fn has_event(&self, event: Event) -> bool {
        test(&self.events, event.index())
    }

    /// Whether the type (or the list of it) is used.
    pub(super) fn has_type(&self, ty: Ref) -> bool {
        test(if ty.is_list() { &self.lists } else { &self.types }, ty.index())
    }
}

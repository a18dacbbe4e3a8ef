//! The declarations of all modules, linked at compile time into small tables of numbers.
//!
//! A type, a string or a member is an index here; strings lie in one pool, each once. The tables are all that a board
//! image holds of the schema (12 KiB, as it has only what the product uses; a test has the limits), and everything at run time (visitor, introspection, offered sets) works
//! on them. An error in the declarations (a name that nobody declares, a name declared twice, a union without a branch
//! for a word) stops the build here.

use super::link::{Linker, link};
use super::product;
use super::reduce::reduce;

/// Index of a string.
pub(super) type StrId = u16;

/// A type in a member, branch or list: its index and two marks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Ref(u16);

impl Ref {
    const LIST: u16 = 0x8000;
    const OPTIONAL: u16 = 0x4000;
    /// What stands where there is no type.
    pub(super) const NONE: Self = Self(0x3fff);

    pub(super) const fn new(index: u16, list: bool, optional: bool) -> Self {
        Self(index | if list { Self::LIST } else { 0 } | if optional { Self::OPTIONAL } else { 0 })
    }
    /// The type, or the type of the list's elements.
    pub(super) const fn index(self) -> usize {
        (self.0 & 0x3fff) as usize
    }
    pub(super) const fn is_none(self) -> bool {
        self.0 == Self::NONE.0
    }
    pub(super) const fn is_list(self) -> bool {
        self.0 & Self::LIST != 0
    }
    pub(super) const fn is_optional(self) -> bool {
        self.0 & Self::OPTIONAL != 0
    }
    pub(super) const fn same(self, other: Self) -> bool {
        self.0 == other.0
    }
    /// The type of an element of this list.
    pub(super) const fn element(self) -> Self {
        Self(self.0 & 0x3fff)
    }
}

/// The form of a type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Builtin(Builtin),
    Enum,
    Object,
    Alternate,
}

/// The types that are not declared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Builtin {
    Str,
    Int,
    Int8,
    Int16,
    Int32,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Number,
    Bool,
    Any,
}

/// Index of `int`, which stands for all its sizes in the introspection.
const INT: u16 = 1;

/// No tag: the object is no union.
pub(super) const NO_TAG: u8 = 0xff;
/// The type has no number in the introspection.
pub(super) const NO_NUMBER: u16 = 0xffff;

/// A type.
#[derive(Clone, Copy)]
pub(super) struct Type {
    pub(super) kind: Kind,
    /// Which member is the tag, or [`NO_TAG`].
    pub(super) tag: u8,
    /// How many members, words or alternatives.
    pub(super) count: u8,
    /// How many branches.
    pub(super) branches: u8,
    /// The first of its members (objects, alternatives) or of its words.
    pub(super) first: u16,
    /// The first of its branches.
    pub(super) first_branch: u16,
    /// The name of a builtin type or of an alternate; no other is ever shown.
    pub(super) name: StrId,
    /// The number that stands for it in the introspection.
    pub(super) number: u16,
}

/// A member of an object (its key), a branch of a union (its word), or an alternative (no name).
#[derive(Clone, Copy)]
pub(super) struct Member {
    pub(super) name: StrId,
    pub(super) ty: Ref,
}

/// A command or an event.
#[derive(Clone, Copy)]
pub(super) struct Entity {
    pub(super) name: StrId,
    /// Arguments or data.
    pub(super) arguments: Ref,
    /// The result.
    pub(super) returns: Ref,
    /// The key that an event's rate limit is by; index of the empty string: no key.
    pub(super) throttle_key: StrId,
    /// Whether the event has a rate limit.
    pub(super) throttled: bool,
    /// A command whose arguments are not visited.
    pub(super) free: bool,
    /// Not of QEMU: numbered and listed after all that is.
    pub(super) extension: bool,
}

pub(super) const NO_ENTITY: Entity = Entity {
    name: 0,
    arguments: Ref::NONE,
    returns: Ref::NONE,
    throttle_key: 0,
    throttled: false,
    free: false,
    extension: false,
};

/// The type that the introspection shows for this one: `int` for every size of it.
pub(super) const fn introspected(index: usize, types: &[Type]) -> usize {
    match types[index].kind {
        Kind::Builtin(
            Builtin::Int8
            | Builtin::Int16
            | Builtin::Int32
            | Builtin::Uint8
            | Builtin::Uint16
            | Builtin::Uint32
            | Builtin::Uint64,
        ) => INT as usize,
        _ => index,
    }
}

#[allow(long_running_const_eval)]
const LINKED: &Linker = if cfg!(all(image, not(feature = "inspect"))) {
    &reduce(&link(), product::COMMANDS, product::EVENTS)
} else {
    &link()
};

/// Cuts a table to the size it needs.
macro_rules! cut {
    ($name:ident: $ty:ty, $field:expr, $count:expr, $none:expr, $doc:literal) => {
        #[doc = $doc]
        pub(super) static $name: [$ty; $count] = {
            let mut table = [$none; $count];
            let mut i = 0;
            while i < $count {
                table[i] = $field[i];
                i += 1;
            }
            table
        };
    };
}

cut!(TYPES: Type, LINKED.types, LINKED.type_count, LINKED.types[0], "The types.");
cut!(MEMBERS: Member, LINKED.members, LINKED.member_count, LINKED.members[0], "Members, branches and alternatives.");
cut!(WORDS: StrId, LINKED.words, LINKED.word_count, 0, "Words of enumerations.");
cut!(COMMANDS: Entity, LINKED.commands, LINKED.command_count, NO_ENTITY, "The commands by name.");
cut!(EVENTS: Entity, LINKED.events, LINKED.event_count, NO_ENTITY, "The events by name.");
cut!(ORDER: Ref, LINKED.order, LINKED.order_count, Ref::NONE, "The types in the order of the introspection.");
cut!(STARTS: u16, LINKED.strings.starts, LINKED.string_count + 1, 0, "Where each string starts, and the end.");

/// How many bytes the pool has.
const POOL_LEN: usize = LINKED.strings.starts[LINKED.string_count] as usize;

static POOL_BYTES: [u8; POOL_LEN] = {
    let mut pool = [0; POOL_LEN];
    let mut i = 0;
    while i < POOL_LEN {
        pool[i] = LINKED.strings.bytes[i];
        i += 1;
    }
    pool
};

/// All strings, one after the other.
pub(super) static POOL: &str = match core::str::from_utf8(&POOL_BYTES) {
    Ok(pool) => pool,
    Err(_) => panic!("the names are text"),
};

/// The empty object, which stands for no arguments and for no result.
pub(super) const EMPTY: Ref = LINKED.empty;

/// How many types there are.
pub(super) const TYPE_COUNT: usize = LINKED.type_count;
/// How many commands there are.
pub(super) const COMMAND_COUNT: usize = LINKED.command_count;
/// How many events there are.
pub(super) const EVENT_COUNT: usize = LINKED.event_count;

/// Where a string is in the pool: its start and end.
pub(super) const fn extent(id: StrId) -> (usize, usize) {
    (STARTS[id as usize] as usize, STARTS[id as usize + 1] as usize)
}

/// The bytes of the string of an index.
pub(super) fn bytes(id: StrId) -> &'static [u8] {
    let at = usize::from(id);
    match STARTS.get(at..) {
        Some([start, end, ..]) => POOL.as_bytes().get(usize::from(*start)..usize::from(*end)).unwrap_or(b""),
        _ => b"",
    }
}

/// The string of an index.
pub(super) fn text(id: StrId) -> &'static str {
    let at = usize::from(id);
    match (STARTS.get(at), STARTS.get(at + 1)) {
        (Some(&start), Some(&end)) => POOL.get(usize::from(start)..usize::from(end)).unwrap_or(""),
        _ => "",
    }
}

/// The index of a command in [`COMMANDS`]; a name that is not declared stops the build.
pub(super) const fn command_index(name: &str) -> u8 {
    find(&LINKED.commands, name)
}

/// The index of an event in [`EVENTS`]; a name that is not declared stops the build.
pub(super) const fn event_index(name: &str) -> u8 {
    find(&LINKED.events, name)
}

/// The words of an enumeration. The type that is declared for it has its values in the same order, and no words of its own.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    first: u16,
    count: u8,
}

impl Words {
    /// The words of the type of this name; a name that is not declared stops the build.
    pub(crate) const fn of(name: &str) -> Self {
        match LINKED.by_name[LINKED.type_names.find(name) as usize] {
            // Nothing that the product offers uses it.
            0 => Self { first: 0, count: 0 },
            index => {
                let ty = LINKED.types[index as usize - 1];
                Self { first: ty.first, count: ty.count }
            }
        }
    }

    /// The word of this place.
    pub(crate) fn word(self, place: usize) -> &'static str {
        slice(&WORDS, self.first, self.count).get(place).map_or("", |&word| text(word))
    }

    /// The place of a word.
    pub(crate) fn find(self, word: &str) -> Option<usize> {
        slice(&WORDS, self.first, self.count).iter().position(|&known| bytes(known) == word.as_bytes())
    }
}

const fn find(entities: &[Entity], name: &str) -> u8 {
    let name = LINKED.strings.find(name);
    let mut i = 0;
    while i < entities.len() {
        if entities[i].name == name {
            return i as u8;
        }
        i += 1;
    }
    panic!("no such command or event is declared")
}

impl Type {
    /// Its members; of an alternate, its types.
    pub(super) fn members(&self) -> &'static [Member] {
        slice(&MEMBERS, self.first, self.count)
    }

    /// Its branches, if it is a union.
    pub(super) fn branches(&self) -> &'static [Member] {
        slice(&MEMBERS, self.first_branch, self.branches)
    }

    /// Its words, if it is an enumeration.
    pub(super) fn words(&self) -> &'static [StrId] {
        slice(&WORDS, self.first, self.count)
    }
}

fn slice<T>(table: &'static [T], first: u16, count: u8) -> &'static [T] {
    let first = usize::from(first);
    table.get(first..first + usize::from(count)).unwrap_or(&[])
}

/// Bytes of all tables, in the order types, members, words, commands, events, order, string starts, strings.
#[cfg(test)]
pub(super) fn sizes() -> [usize; 8] {
    [
        size_of_val(&TYPES),
        size_of_val(&MEMBERS),
        size_of_val(&WORDS),
        size_of_val(&COMMANDS),
        size_of_val(&EVENTS),
        size_of_val(&ORDER),
        size_of_val(&STARTS),
        POOL.len(),
    ]
}

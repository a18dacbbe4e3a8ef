//! The declarations of all modules, linked at compile time into small tables of numbers.
//!
//! A type, a string or a member is an index here; strings lie in one pool, each once. The tables are all that a board
//! image holds of the schema (about 25 KiB), and everything at run time (visitor, introspection, offered sets) works
//! on them. An error in the declarations (a name that nobody declares, a name declared twice, a union without a branch
//! for a word) stops the build here.

use super::MODULES;
use super::decl::{CommandDecl, EventDecl, MemberDecl, Module, Shape, Throttle, TypeDecl, TypeRef};

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

    const fn new(index: u16, list: bool, optional: bool) -> Self {
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

/// Names of the types that are not declared, in the order of their indices.
const BUILTINS: [(&str, Builtin); 12] = [
    ("str", Builtin::Str),
    ("int", Builtin::Int),
    ("int8", Builtin::Int8),
    ("int16", Builtin::Int16),
    ("int32", Builtin::Int32),
    ("uint8", Builtin::Uint8),
    ("uint16", Builtin::Uint16),
    ("uint32", Builtin::Uint32),
    ("uint64", Builtin::Uint64),
    ("number", Builtin::Number),
    ("bool", Builtin::Bool),
    ("any", Builtin::Any),
];
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
    /// Its name (of use in one error text).
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

/// Room while linking. The linked tables have exactly the size they need.
const MAX_TYPES: usize = 512;
const MAX_MEMBERS: usize = 2560;
const MAX_WORDS: usize = 1024;
const MAX_STRINGS: usize = 2048;
const MAX_POOL: usize = 32768;
const MAX_COMMANDS: usize = 192;
const MAX_EVENTS: usize = 64;
const SLOTS: usize = 8192;

/// Strings, each once.
struct Interner {
    bytes: [u8; MAX_POOL],
    /// Where each string starts; the end of the last as well.
    starts: [u16; MAX_STRINGS],
    count: usize,
    /// Open hash table of string indices plus one.
    slots: [u16; SLOTS],
}

impl Interner {
    const fn add(&mut self, text: &str) -> StrId {
        let text = text.as_bytes();
        let mut hash = 0x811c_9dc5_u32;
        let mut i = 0;
        while i < text.len() {
            hash = (hash ^ text[i] as u32).wrapping_mul(0x0100_0193);
            i += 1;
        }
        let mut slot = hash as usize % SLOTS;
        while self.slots[slot] != 0 {
            let known = self.slots[slot] - 1;
            if self.is(known, text) {
                return known;
            }
            slot = (slot + 1) % SLOTS;
        }
        let id = self.count as u16;
        self.slots[slot] = id + 1;
        let mut at = self.starts[self.count] as usize;
        let mut i = 0;
        while i < text.len() {
            self.bytes[at] = text[i];
            at += 1;
            i += 1;
        }
        self.count += 1;
        self.starts[self.count] = at as u16;
        id
    }

    const fn is(&self, id: StrId, text: &[u8]) -> bool {
        let start = self.starts[id as usize] as usize;
        let end = self.starts[id as usize + 1] as usize;
        if end - start != text.len() {
            return false;
        }
        let mut i = 0;
        while i < text.len() {
            if self.bytes[start + i] != text[i] {
                return false;
            }
            i += 1;
        }
        true
    }
}

/// Everything, while it is put together.
struct Linker {
    strings: Interner,
    types: [Type; MAX_TYPES],
    type_count: usize,
    /// The type that a string names, plus one.
    by_name: [u16; MAX_STRINGS],
    members: [Member; MAX_MEMBERS],
    member_count: usize,
    words: [StrId; MAX_WORDS],
    word_count: usize,
    commands: [Entity; MAX_COMMANDS],
    command_count: usize,
    events: [Entity; MAX_EVENTS],
    event_count: usize,
    /// Types and lists of types in the order of the introspection.
    order: [Ref; MAX_TYPES],
    order_count: usize,
    listed: [bool; MAX_TYPES],
    plain: [bool; MAX_TYPES],
    numbers: u16,
}

const NO_ENTITY: Entity = Entity {
    name: 0,
    arguments: Ref::NONE,
    returns: Ref::NONE,
    throttle_key: 0,
    throttled: false,
    free: false,
    extension: false,
};

impl Linker {
    const fn new() -> Self {
        let none = Type {
            kind: Kind::Object,
            tag: NO_TAG,
            count: 0,
            branches: 0,
            first: 0,
            first_branch: 0,
            name: 0,
            number: NO_NUMBER,
        };
        let mut linker = Self {
            strings: Interner { bytes: [0; MAX_POOL], starts: [0; MAX_STRINGS], count: 0, slots: [0; SLOTS] },
            types: [none; MAX_TYPES],
            type_count: 0,
            by_name: [0; MAX_STRINGS],
            members: [Member { name: 0, ty: Ref::NONE }; MAX_MEMBERS],
            member_count: 0,
            words: [0; MAX_WORDS],
            word_count: 0,
            commands: [NO_ENTITY; MAX_COMMANDS],
            command_count: 0,
            events: [NO_ENTITY; MAX_EVENTS],
            event_count: 0,
            order: [Ref::NONE; MAX_TYPES],
            order_count: 0,
            listed: [false; MAX_TYPES],
            plain: [false; MAX_TYPES],
            numbers: 0,
        };
        linker.strings.add("");
        let mut i = 0;
        while i < BUILTINS.len() {
            linker.name_type(BUILTINS[i].0, Kind::Builtin(BUILTINS[i].1));
            i += 1;
        }
        linker
    }

    /// A new type of this name.
    const fn name_type(&mut self, name: &str, kind: Kind) -> usize {
        let name = self.strings.add(name);
        assert!(self.by_name[name as usize] == 0, "a type is declared twice");
        let index = self.type_count;
        self.type_count += 1;
        self.by_name[name as usize] = self.type_count as u16;
        self.types[index].name = name;
        self.types[index].kind = kind;
        index
    }

    const fn resolve(&mut self, ty: TypeRef, optional: bool) -> Ref {
        let name = self.strings.add(ty.name);
        let index = self.by_name[name as usize];
        assert!(index != 0, "a type is used that is not declared");
        Ref::new(index - 1, ty.list, optional)
    }

    const fn resolve_option(&mut self, ty: Option<TypeRef>) -> Ref {
        match ty {
            Some(ty) => self.resolve(ty, false),
            None => Ref::NONE,
        }
    }

    const fn push_member(&mut self, name: &str, ty: Ref) {
        let name = self.strings.add(name);
        self.members[self.member_count] = Member { name, ty };
        self.member_count += 1;
    }

    const fn push_members(&mut self, members: &[MemberDecl]) {
        let mut i = 0;
        while i < members.len() {
            let ty = self.resolve(members[i].ty, members[i].optional);
            self.push_member(members[i].name, ty);
            i += 1;
        }
    }

    /// Gives a declared type its index.
    const fn declare(&mut self, decl: &TypeDecl) {
        let kind = match decl.shape {
            Shape::Enum(_) => Kind::Enum,
            Shape::Struct(_) | Shape::Union { .. } | Shape::Simple { .. } => Kind::Object,
            Shape::Alternate(_) => Kind::Alternate,
        };
        self.name_type(decl.name, kind);
    }

    /// Fills in a declared type. All types have their index by now.
    const fn define(&mut self, decl: &TypeDecl) {
        let name = self.strings.add(decl.name);
        let index = self.by_name[name as usize] as usize - 1;
        let mut ty = self.types[index];
        match decl.shape {
            Shape::Enum(words) => {
                ty.first = self.word_count as u16;
                ty.count = words.len() as u8;
                let mut i = 0;
                while i < words.len() {
                    self.words[self.word_count] = self.strings.add(words[i].word);
                    self.word_count += 1;
                    i += 1;
                }
            }
            Shape::Struct(members) => {
                ty.first = self.member_count as u16;
                ty.count = members.len() as u8;
                self.push_members(members);
            }
            Shape::Union { members, tag, branches } => {
                ty.first = self.member_count as u16;
                ty.count = members.len() as u8;
                self.push_members(members);
                let tag = self.strings.add(tag);
                let mut i = 0;
                while i < members.len() {
                    if self.members[ty.first as usize + i].name == tag {
                        ty.tag = i as u8;
                    }
                    i += 1;
                }
                assert!(ty.tag != NO_TAG, "a union's tag is none of its members");
                ty.first_branch = self.member_count as u16;
                ty.branches = branches.len() as u8;
                let mut i = 0;
                while i < branches.len() {
                    let branch = self.resolve(branches[i].ty, false);
                    self.push_member(branches[i].word, branch);
                    i += 1;
                }
            }
            Shape::Simple { kind, branches } => {
                ty.first = self.member_count as u16;
                ty.count = 1;
                ty.tag = 0;
                let kind = self.resolve(kind, false);
                self.push_member("type", kind);
                ty.first_branch = self.member_count as u16;
                ty.branches = branches.len() as u8;
                // The wrappers below add members of their own, so the branches' places are taken first.
                self.member_count += branches.len();
                let mut i = 0;
                while i < branches.len() {
                    let data = self.resolve(branches[i].ty, false);
                    let wrapper = self.wrapper(data);
                    self.members[ty.first_branch as usize + i] =
                        Member { name: self.strings.add(branches[i].word), ty: wrapper };
                    i += 1;
                }
            }
            Shape::Alternate(types) => {
                ty.first = self.member_count as u16;
                ty.count = types.len() as u8;
                let mut i = 0;
                while i < types.len() {
                    let one = self.resolve(types[i], false);
                    self.push_member("", one);
                    i += 1;
                }
            }
        }
        self.types[index] = ty;
    }

    /// The nameless object `{data: T}` of simple unions; one for each `T`, as in QEMU.
    const fn wrapper(&mut self, data: Ref) -> Ref {
        let mut i = BUILTINS.len();
        while i < self.type_count {
            let ty = self.types[i];
            if ty.name == 0 && self.members[ty.first as usize].ty.0 == data.0 {
                return Ref::new(i as u16, false, false);
            }
            i += 1;
        }
        let index = self.type_count;
        self.type_count += 1;
        self.types[index].first = self.member_count as u16;
        self.types[index].count = 1;
        self.push_member("data", data);
        Ref::new(index as u16, false, false)
    }

    const fn command(&mut self, decl: &CommandDecl, extension: bool) {
        let name = self.strings.add(decl.name);
        let entity = Entity {
            name,
            arguments: self.resolve_option(decl.arguments),
            returns: self.resolve_option(decl.returns),
            throttle_key: 0,
            throttled: false,
            free: decl.free,
            extension,
        };
        insert(&mut self.commands, self.command_count, entity, &self.strings);
        self.command_count += 1;
    }

    const fn event(&mut self, decl: &EventDecl, extension: bool) {
        let name = self.strings.add(decl.name);
        let (throttled, key) = match decl.throttle {
            Throttle::None => (false, ""),
            Throttle::Rate => (true, ""),
            Throttle::RatePerKey(key) => (true, key),
        };
        let has_data = !matches!(decl.data.shape, Shape::Struct([]));
        let entity = Entity {
            name,
            arguments: if has_data { self.resolve(TypeRef::one(decl.data.name), false) } else { Ref::NONE },
            returns: Ref::NONE,
            throttle_key: self.strings.add(key),
            throttled,
            free: false,
            extension,
        };
        insert(&mut self.events, self.event_count, entity, &self.strings);
        self.event_count += 1;
    }

    /// Takes a type into the introspection if it is not there yet, and gives it its number: QEMU numbers types in
    /// the order in which it first meets them.
    const fn use_type(&mut self, ty: Ref, empty: Ref) {
        let ty = if ty.0 == Ref::NONE.0 { empty } else { ty };
        let index = introspected(ty.index(), &self.types);
        if ty.is_list() && !self.listed[index] {
            self.listed[index] = true;
            self.order[self.order_count] = Ref::new(index as u16, true, false);
            self.order_count += 1;
        }
        if self.plain[index] {
            return;
        }
        self.plain[index] = true;
        self.order[self.order_count] = Ref::new(index as u16, false, false);
        self.order_count += 1;
        if !matches!(self.types[index].kind, Kind::Builtin(_)) {
            self.types[index].number = self.numbers;
            self.numbers += 1;
        }
    }

    const fn number(&mut self, empty: Ref) {
        let mut extensions = false;
        loop {
            let mut i = 0;
            while i < self.event_count {
                if self.events[i].extension == extensions {
                    self.use_type(self.events[i].arguments, empty);
                }
                i += 1;
            }
            let mut i = 0;
            while i < self.command_count {
                let command = self.commands[i];
                if command.extension == extensions {
                    self.use_type(command.arguments, empty);
                    self.use_type(command.returns, empty);
                }
                i += 1;
            }
            // The queue grows while it is worked off.
            let mut at = 0;
            while at < self.order_count {
                let ty = self.order[at];
                if !ty.is_list() {
                    self.use_parts(ty.index(), empty);
                }
                at += 1;
            }
            if extensions {
                return;
            }
            extensions = true;
        }
    }

    const fn use_parts(&mut self, index: usize, empty: Ref) {
        let ty = self.types[index];
        if !matches!(ty.kind, Kind::Object | Kind::Alternate) {
            return;
        }
        let mut i = 0;
        while i < ty.count as usize {
            self.use_type(self.members[ty.first as usize + i].ty, empty);
            i += 1;
        }
        let mut i = 0;
        while i < ty.branches as usize {
            self.use_type(self.members[ty.first_branch as usize + i].ty, empty);
            i += 1;
        }
    }
}

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

/// Puts an entity into its place by name.
const fn insert(entities: &mut [Entity], count: usize, entity: Entity, strings: &Interner) {
    let mut at = count;
    while at > 0 && sorts_before(strings, entity.name, entities[at - 1].name) {
        entities[at] = entities[at - 1];
        at -= 1;
    }
    entities[at] = entity;
}

const fn sorts_before(strings: &Interner, a: StrId, b: StrId) -> bool {
    let (mut i, a_end) = (strings.starts[a as usize] as usize, strings.starts[a as usize + 1] as usize);
    let (mut k, b_end) = (strings.starts[b as usize] as usize, strings.starts[b as usize + 1] as usize);
    while i < a_end && k < b_end {
        if strings.bytes[i] != strings.bytes[k] {
            return strings.bytes[i] < strings.bytes[k];
        }
        i += 1;
        k += 1;
    }
    i == a_end && k < b_end
}

/// The name under which extensions are declared.
const EXTENSIONS: &str = "extensions";

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

const fn declare_all(linker: &mut Linker, decls: &[TypeDecl]) {
    let mut i = 0;
    while i < decls.len() {
        linker.declare(&decls[i]);
        i += 1;
    }
}

const fn define_all(linker: &mut Linker, decls: &[TypeDecl]) {
    let mut i = 0;
    while i < decls.len() {
        linker.define(&decls[i]);
        i += 1;
    }
}

const fn declare_module(linker: &mut Linker, module: &Module) {
    declare_all(linker, module.types);
    let mut i = 0;
    while i < module.commands.len() {
        if let Some(arguments) = &module.commands[i].inline {
            linker.declare(arguments);
        }
        i += 1;
    }
    let mut i = 0;
    while i < module.events.len() {
        if !matches!(module.events[i].data.shape, Shape::Struct([])) {
            linker.declare(&module.events[i].data);
        }
        i += 1;
    }
}

const fn define_module(linker: &mut Linker, module: &Module) {
    let extension = same(module.name, EXTENSIONS);
    define_all(linker, module.types);
    let mut i = 0;
    while i < module.events.len() {
        if !matches!(module.events[i].data.shape, Shape::Struct([])) {
            linker.define(&module.events[i].data);
        }
        linker.event(&module.events[i], extension);
        i += 1;
    }
    let mut i = 0;
    while i < module.commands.len() {
        if let Some(arguments) = &module.commands[i].inline {
            linker.define(arguments);
        }
        linker.command(&module.commands[i], extension);
        i += 1;
    }
}

const fn link() -> Linker {
    let mut linker = Linker::new();
    let mut i = 0;
    while i < MODULES.len() {
        declare_module(&mut linker, &MODULES[i]);
        i += 1;
    }
    let mut i = 0;
    while i < MODULES.len() {
        define_module(&mut linker, &MODULES[i]);
        i += 1;
    }
    let empty = linker.resolve(TypeRef::one("Empty"), false);
    linker.number(empty);
    linker
}

#[allow(long_running_const_eval)]
const LINKED: Linker = link();

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
cut!(STARTS: u16, LINKED.strings.starts, LINKED.strings.count + 1, 0, "Where each string starts, and the end.");

/// How many bytes the pool has.
const POOL_LEN: usize = LINKED.strings.starts[LINKED.strings.count] as usize;

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
static POOL: &str = match core::str::from_utf8(&POOL_BYTES) {
    Ok(pool) => pool,
    Err(_) => panic!("the names are text"),
};

/// The empty object, which stands for no arguments and for no result.
pub(super) const EMPTY: Ref = {
    let mut i = 0;
    loop {
        let ty = LINKED.types[i];
        if LINKED.strings.is(ty.name, b"Empty") {
            break Ref::new(i as u16, false, false);
        }
        i += 1;
    }
};

/// How many types, commands and events there are.
pub(super) const TYPE_COUNT: usize = LINKED.type_count;
/// How many commands there are.
pub(super) const COMMAND_COUNT: usize = LINKED.command_count;
/// How many events there are.
pub(super) const EVENT_COUNT: usize = LINKED.event_count;

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
    find(&LINKED.commands, LINKED.command_count, name)
}

/// The index of an event in [`EVENTS`]; a name that is not declared stops the build.
pub(super) const fn event_index(name: &str) -> u8 {
    find(&LINKED.events, LINKED.event_count, name)
}

const fn find(entities: &[Entity], count: usize, name: &str) -> u8 {
    let mut i = 0;
    while i < count {
        if LINKED.strings.is(entities[i].name, name.as_bytes()) {
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

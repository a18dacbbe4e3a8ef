//! The linking of all declarations into tables. It runs at compile time only.

use super::MODULES;
use super::decl::{CommandDecl, EventDecl, MemberDecl, Module, Shape, Throttle, TypeDecl, TypeRef};
use super::tables::{
    Builtin, Entity, Kind, Member, NO_ENTITY, NO_NUMBER, NO_TAG, Ref, StrId, Type, introspected,
};

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
/// Room while linking. The linked tables have exactly the size they need.
pub(super) const MAX_TYPES: usize = 512;
const MAX_MEMBERS: usize = 2560;
const MAX_WORDS: usize = 1024;
const MAX_STRINGS: usize = 2048;
const MAX_POOL: usize = 32768;
const MAX_COMMANDS: usize = 192;
const MAX_EVENTS: usize = 64;
const SLOTS: usize = 8192;

/// Strings, each once.
#[derive(Clone, Copy)]
pub(super) struct Interner {
    pub(super) bytes: [u8; MAX_POOL],
    /// Where each string starts; the end of the last as well.
    pub(super) starts: [u16; MAX_STRINGS],
    pub(super) count: usize,
    /// Open hash table of string indices plus one.
    pub(super) slots: [u16; SLOTS],
}

impl Interner {
    const NEW: Self = Self { bytes: [0; MAX_POOL], starts: [0; MAX_STRINGS], count: 0, slots: [0; SLOTS] };

    /// The slot of a text that is known, or the one for a text that is not.
    const fn slot(&self, text: &[u8]) -> usize {
        let mut hash = 0x811c_9dc5_u32;
        let mut i = 0;
        while i < text.len() {
            hash = (hash ^ text[i] as u32).wrapping_mul(0x0100_0193);
            i += 1;
        }
        let mut slot = hash as usize % SLOTS;
        while self.slots[slot] != 0 && !self.is(self.slots[slot] - 1, text) {
            slot = (slot + 1) % SLOTS;
        }
        slot
    }

    /// The index of a text that was added; the build stops where it was not.
    pub(super) const fn find(&self, text: &str) -> StrId {
        self.slots[self.slot(text.as_bytes())] - 1
    }

    /// The text of an index.
    pub(super) const fn get(&self, id: StrId) -> &[u8] {
        let (start, end) = (self.starts[id as usize] as usize, self.starts[id as usize + 1] as usize);
        self.bytes.split_at(end).0.split_at(start).1
    }

    const fn add(&mut self, text: &str) -> StrId {
        self.add_bytes(text.as_bytes())
    }

    pub(super) const fn add_bytes(&mut self, text: &[u8]) -> StrId {
        let slot = self.slot(text);
        if self.slots[slot] != 0 {
            return self.slots[slot] - 1;
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

    pub(super) const fn is(&self, id: StrId, text: &[u8]) -> bool {
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
#[derive(Clone, Copy)]
pub(super) struct Linker {
    pub(super) strings: Interner,
    /// How many of the strings the tables hold.
    pub(super) string_count: usize,
    /// Names of types, which no table holds.
    pub(super) type_names: Interner,
    pub(super) types: [Type; MAX_TYPES],
    pub(super) type_count: usize,
    /// How many types there are before the nameless ones.
    pub(super) named_count: usize,
    /// The type of each name, plus one.
    pub(super) by_name: [u16; MAX_STRINGS],
    pub(super) members: [Member; MAX_MEMBERS],
    pub(super) member_count: usize,
    pub(super) words: [StrId; MAX_WORDS],
    pub(super) word_count: usize,
    pub(super) commands: [Entity; MAX_COMMANDS],
    /// How many of the commands the tables hold.
    pub(super) command_count: usize,
    pub(super) events: [Entity; MAX_EVENTS],
    /// How many of the events the tables hold.
    pub(super) event_count: usize,
    /// Types and lists of types in the order of the introspection.
    pub(super) order: [Ref; MAX_TYPES],
    pub(super) order_count: usize,
    pub(super) listed: [bool; MAX_TYPES],
    pub(super) plain: [bool; MAX_TYPES],
    pub(super) numbers: u16,
    /// The type of no members.
    pub(super) empty: Ref,
}

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
            strings: Interner::NEW,
            string_count: 0,
            type_names: Interner::NEW,
            types: [none; MAX_TYPES],
            type_count: 0,
            named_count: 0,
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
            empty: Ref::NONE,
        };
        linker.strings.add("");
        let mut i = 0;
        while i < BUILTINS.len() {
            linker.name_type(BUILTINS[i].0, Kind::Builtin(BUILTINS[i].1));
            i += 1;
        }
        linker
    }

    /// The same commands and events, names of types and numbers, but no types and no strings.
    pub(super) const fn without_types(&self) -> Self {
        let mut new = *self;
        new.strings = Interner::NEW;
        new.strings.add("");
        (new.type_count, new.member_count, new.word_count, new.order_count) = (0, 0, 0, 0);
        new
    }

    /// A new type of this name.
    const fn name_type(&mut self, name: &str, kind: Kind) -> usize {
        let id = self.type_names.add(name);
        assert!(self.by_name[id as usize] == 0, "a type is declared twice");
        let index = self.type_count;
        self.type_count += 1;
        self.named_count = self.type_count;
        self.by_name[id as usize] = self.type_count as u16;
        if matches!(kind, Kind::Builtin(_) | Kind::Alternate) {
            self.types[index].name = self.strings.add(name);
        }
        self.types[index].kind = kind;
        index
    }

    pub(super) const fn resolve(&mut self, ty: TypeRef, optional: bool) -> Ref {
        let index = self.by_name[self.type_names.add(ty.name) as usize];
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
        let index = self.by_name[self.type_names.add(decl.name) as usize] as usize - 1;
        let mut ty = self.types[index];
        match decl.shape {
            Shape::Enum(words) => {
                ty.first = self.word_count as u16;
                ty.count = small(words.len());
                let mut i = 0;
                while i < words.len() {
                    self.words[self.word_count] = self.strings.add(words[i].word);
                    self.word_count += 1;
                    i += 1;
                }
            }
            Shape::Struct(members) => {
                ty.first = self.member_count as u16;
                ty.count = small(members.len());
                self.push_members(members);
            }
            Shape::Union { members, tag, branches } => {
                ty.first = self.member_count as u16;
                ty.count = small(members.len());
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
                ty.branches = small(branches.len());
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
                ty.branches = small(branches.len());
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
                ty.count = small(types.len());
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
        let mut i = self.named_count;
        while i < self.type_count {
            if self.members[self.types[i].first as usize].ty.same(data) {
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
        let ty = if ty.is_none() { empty } else { ty };
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

/// A count that fits its field in the tables; the build stops where it does not.
const fn small(count: usize) -> u8 {
    assert!(count < NO_TAG as usize, "a type has too many parts");
    count as u8
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

/// Gives every declared type its index.
const fn link_names() -> Linker {
    let mut linker = Linker::new();
    let mut i = 0;
    while i < MODULES.len() {
        declare_module(&mut linker, &MODULES[i]);
        i += 1;
    }
    linker
}

pub(super) const fn link() -> Linker {
    let mut linker = link_names();
    let mut i = 0;
    while i < MODULES.len() {
        define_module(&mut linker, &MODULES[i]);
        i += 1;
    }
    linker.empty = linker.resolve(TypeRef::one("Empty"), false);
    linker.number(linker.empty);
    linker.string_count = linker.strings.count;
    linker
}

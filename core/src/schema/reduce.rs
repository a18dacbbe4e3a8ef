//! Takes out of the linked declarations what a product does not use. It runs at compile time only.
//!
//! Types keep the numbers that the introspection shows for them, so a client cannot tell.

use super::link::{Linker, MAX_TYPES};
use super::tables::{Entity, Kind, Ref, StrId};

/// The place of a type that is left out.
const GONE: u16 = 0xffff;

/// The types that are used.
struct Used {
    is: [bool; MAX_TYPES],
    /// Those whose parts are still to be looked at.
    queue: [u16; MAX_TYPES],
    queued: usize,
}

impl Used {
    const fn mark(&mut self, ty: Ref) {
        if !ty.is_none() && !self.is[ty.index()] {
            self.is[ty.index()] = true;
            self.queue[self.queued] = ty.index() as u16;
            self.queued += 1;
        }
    }

    /// What these commands and events use, and all that is not declared.
    const fn by(full: &Linker, commands: &[Entity], events: &[Entity]) -> Self {
        let mut used = Self { is: [false; MAX_TYPES], queue: [0; MAX_TYPES], queued: 0 };
        used.mark(full.empty);
        let mut i = 0;
        while i < full.type_count {
            if matches!(full.types[i].kind, Kind::Builtin(_)) {
                used.mark(Ref::new(i as u16, false, false));
            }
            i += 1;
        }
        let mut i = 0;
        while i < commands.len() {
            used.mark(commands[i].arguments);
            used.mark(commands[i].returns);
            i += 1;
        }
        let mut i = 0;
        while i < events.len() {
            used.mark(events[i].arguments);
            i += 1;
        }
        let mut at = 0;
        while at < used.queued {
            let ty = full.types[used.queue[at] as usize];
            if matches!(ty.kind, Kind::Object | Kind::Alternate) {
                used.mark_parts(full, ty.first, ty.count);
                used.mark_parts(full, ty.first_branch, ty.branches);
            }
            at += 1;
        }
        used
    }

    const fn mark_parts(&mut self, full: &Linker, first: u16, count: u8) {
        let mut i = 0;
        while i < count as usize {
            self.mark(full.members[first as usize + i].ty);
            i += 1;
        }
    }
}

/// The part of the declarations that these commands and events use; the build stops where one is not declared. Commands and
/// events that are left out keep a number each, beyond those of the tables.
pub(super) const fn reduce(full: &Linker, commands: &[&str], events: &[&str]) -> Linker {
    let mut new = full.without_types();
    new.command_count = sift(full, commands, &mut new.commands, full.command_count);
    new.event_count = sift(full, events, &mut new.events, full.event_count);
    let used =
        Used::by(full, new.commands.split_at(new.command_count).0, new.events.split_at(new.event_count).0);

    let mut places = [GONE; MAX_TYPES];
    let mut i = 0;
    while i < full.type_count {
        if used.is[i] {
            places[i] = new.type_count as u16;
            new.type_count += 1;
        }
        i += 1;
    }
    let mut i = 0;
    while i < full.type_count {
        if used.is[i] {
            let mut ty = full.types[i];
            ty.name = new.take_string(full, ty.name);
            if matches!(ty.kind, Kind::Enum) {
                ty.first = take_words(&mut new, full, ty.first, ty.count);
            } else {
                ty.first = take_members(&mut new, full, &places, ty.first, ty.count);
                ty.first_branch = take_members(&mut new, full, &places, ty.first_branch, ty.branches);
            }
            new.types[places[i] as usize] = ty;
        }
        i += 1;
    }
    let mut i = 0;
    while i < full.order_count {
        let ty = moved(full.order[i], &places);
        if !ty.is_none() {
            new.order[new.order_count] = ty;
            new.order_count += 1;
        }
        i += 1;
    }
    // Types are found by name as before.
    let mut i = 0;
    while i < full.type_names.count {
        let place = match full.by_name[i] {
            0 => GONE,
            index => places[index as usize - 1],
        };
        new.by_name[i] = if place == GONE { 0 } else { place + 1 };
        i += 1;
    }
    new.empty = moved(full.empty, &places);
    take_entities(&mut new, full, &places);
    new
}

/// Puts the entities of these names before all others, each part in the order that it has. Returns how many come first.
const fn sift(full: &Linker, names: &[&str], entities: &mut [Entity], count: usize) -> usize {
    let mut ids = [0 as StrId; 256];
    let mut i = 0;
    while i < names.len() {
        ids[i] = full.strings.find(names[i]);
        i += 1;
    }
    let ids = ids.split_at(names.len()).0;
    let mut first = 0;
    let mut i = 0;
    while i < count {
        let entity = entities[i];
        if contains(ids, entity.name) {
            // Those before it that are not wanted move up.
            let mut at = i;
            while at > first {
                entities[at] = entities[at - 1];
                at -= 1;
            }
            entities[first] = entity;
            first += 1;
        }
        i += 1;
    }
    assert!(
        first == names.len(),
        "a command or an event is offered that is not declared, or is offered twice"
    );
    first
}

const fn contains(ids: &[StrId], id: StrId) -> bool {
    let mut i = 0;
    while i < ids.len() {
        if ids[i] == id {
            return true;
        }
        i += 1;
    }
    false
}

/// The same type in its new place; of one that is left out, [`Ref::NONE`].
const fn moved(ty: Ref, places: &[u16; MAX_TYPES]) -> Ref {
    if ty.is_none() || places[ty.index()] == GONE {
        return Ref::NONE;
    }
    Ref::new(places[ty.index()], ty.is_list(), ty.is_optional())
}

const fn take_words(new: &mut Linker, full: &Linker, first: u16, count: u8) -> u16 {
    let start = new.word_count as u16;
    let mut i = 0;
    while i < count as usize {
        new.words[new.word_count] = new.take_string(full, full.words[first as usize + i]);
        new.word_count += 1;
        i += 1;
    }
    start
}

const fn take_members(
    new: &mut Linker,
    full: &Linker,
    places: &[u16; MAX_TYPES],
    first: u16,
    count: u8,
) -> u16 {
    let start = new.member_count as u16;
    let mut i = 0;
    while i < count as usize {
        let mut member = full.members[first as usize + i];
        member.name = new.take_string(full, member.name);
        member.ty = moved(member.ty, places);
        new.members[new.member_count] = member;
        new.member_count += 1;
        i += 1;
    }
    start
}

/// Gives all entities the strings and types that they have now. The names of those that are left out come last, behind what
/// a table holds.
const fn take_entities(new: &mut Linker, full: &Linker, places: &[u16; MAX_TYPES]) {
    let (commands, events) = (new.command_count, new.event_count);
    let mut i = 0;
    while i < commands {
        new.commands[i] = new.take_entity(full, new.commands[i], places);
        i += 1;
    }
    let mut i = 0;
    while i < events {
        new.events[i] = new.take_entity(full, new.events[i], places);
        i += 1;
    }
    new.string_count = new.strings.count;
    let mut i = commands;
    while i < full.command_count {
        new.commands[i] = new.take_entity(full, new.commands[i], places);
        i += 1;
    }
    let mut i = events;
    while i < full.event_count {
        new.events[i] = new.take_entity(full, new.events[i], places);
        i += 1;
    }
}

impl Linker {
    const fn take_string(&mut self, full: &Self, id: StrId) -> StrId {
        self.strings.add_bytes(full.strings.get(id))
    }

    const fn take_entity(&mut self, full: &Self, mut entity: Entity, places: &[u16; MAX_TYPES]) -> Entity {
        entity.name = self.take_string(full, entity.name);
        entity.throttle_key = self.take_string(full, entity.throttle_key);
        entity.arguments = moved(entity.arguments, places);
        entity.returns = moved(entity.returns, places);
        entity
    }
}

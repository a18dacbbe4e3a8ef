//! What an image's tables hold is all that the product uses, and says the same.

use crate::schema::link::{Linker, link};
use crate::schema::product;
use crate::schema::reduce::reduce;
use crate::schema::tables::{Entity, Kind, Ref};

fn text(linker: &Linker, id: u16) -> &str {
    str::from_utf8(linker.strings.get(id)).unwrap()
}

fn found<'a>(linker: &Linker, entities: &'a [Entity], name: &str) -> &'a Entity {
    entities.iter().find(|entity| text(linker, entity.name) == name).unwrap()
}

/// Compares what a type of the one is with a type of the other, and all that is inside.
fn compare(full: &Linker, new: &Linker, a: Ref, b: Ref, seen: &mut Vec<usize>) {
    assert_eq!((a.is_none(), a.is_list(), a.is_optional()), (b.is_none(), b.is_list(), b.is_optional()));
    if a.is_none() || seen.contains(&a.index()) {
        return;
    }
    seen.push(a.index());
    let (a, b) = (&full.types[a.index()], &new.types[b.index()]);
    assert!(a.kind == b.kind);
    assert_eq!((a.tag, a.count, a.branches, a.number), (b.tag, b.count, b.branches, b.number));
    assert_eq!(text(full, a.name), text(new, b.name));
    if a.kind == Kind::Enum {
        for i in 0..usize::from(a.count) {
            let (a, b) = (full.words[usize::from(a.first) + i], new.words[usize::from(b.first) + i]);
            assert_eq!(text(full, a), text(new, b));
        }
        return;
    }
    for (from, to, count) in [(a.first, b.first, a.count), (a.first_branch, b.first_branch, a.branches)] {
        for i in 0..usize::from(count) {
            let (a, b) = (full.members[usize::from(from) + i], new.members[usize::from(to) + i]);
            assert_eq!(text(full, a.name), text(new, b.name));
            compare(full, new, a.ty, b.ty, seen);
        }
    }
}

#[test]
fn an_image_has_all_that_the_product_uses() {
    static FULL: Linker = link();
    static NEW: Linker = reduce(&FULL, product::COMMANDS, product::EVENTS);
    let mut seen = Vec::new();
    let commands = &NEW.commands[..NEW.command_count];
    assert_eq!(commands.len(), product::COMMANDS.len());
    assert!(commands.is_sorted_by_key(|command| text(&NEW, command.name)));
    for name in product::COMMANDS {
        let (a, b) = (found(&FULL, &FULL.commands, name), found(&NEW, commands, name));
        assert_eq!((a.free, a.extension), (b.free, b.extension));
        compare(&FULL, &NEW, a.arguments, b.arguments, &mut seen);
        compare(&FULL, &NEW, a.returns, b.returns, &mut seen);
    }
    let events = &NEW.events[..NEW.event_count];
    assert_eq!(events.len(), product::EVENTS.len());
    for name in product::EVENTS {
        let (a, b) = (found(&FULL, &FULL.events, name), found(&NEW, events, name));
        assert_eq!((a.throttled, a.extension), (b.throttled, b.extension));
        assert_eq!(text(&FULL, a.throttle_key), text(&NEW, b.throttle_key));
        compare(&FULL, &NEW, a.arguments, b.arguments, &mut seen);
    }
    compare(&FULL, &NEW, FULL.empty, NEW.empty, &mut seen);
    // Types that are used stand in the same order.
    let numbers = |linker: &Linker| -> Vec<(u16, bool)> {
        let order = &linker.order[..linker.order_count];
        order.iter().map(|ty| (linker.types[ty.index()].number, ty.is_list())).collect()
    };
    let (all, kept) = (numbers(&FULL), numbers(&NEW));
    let mut rest = all.iter();
    assert!(kept.iter().all(|number| rest.any(|other| other == number)));
    // Nothing else is there, apart from the builtin types.
    let builtin = NEW.types[..NEW.type_count].iter().filter(|ty| matches!(ty.kind, Kind::Builtin(_))).count();
    let declared = seen.iter().filter(|&&index| !matches!(FULL.types[index].kind, Kind::Builtin(_))).count();
    assert_eq!(NEW.type_count, builtin + declared);
    assert!(NEW.strings.starts[NEW.string_count] <= 6 * 1024, "{}", NEW.strings.starts[NEW.string_count]);
}

#[test]
fn what_is_left_out_keeps_a_number_of_its_own() {
    static NEW: Linker = reduce(&link(), &["stop", "cont"], &["STOP"]);
    assert_eq!((NEW.command_count, NEW.event_count), (2, 1));
    assert_eq!(text(&NEW, NEW.commands[0].name), "cont");
    assert_eq!(text(&NEW, NEW.events[0].name), "STOP");
    let mut names: Vec<&str> = crate::schema::Command::all().map(|command| command.name()).collect();
    let mut there: Vec<&str> =
        NEW.commands[..names.len()].iter().map(|command| text(&NEW, command.name)).collect();
    names.sort_unstable();
    there.sort_unstable();
    assert_eq!(names, there);
}

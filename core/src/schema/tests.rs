//! The schema against what a real QEMU 2.8.0 answered.

use super::*;

const SCHEMA: &str = include_str!("../../tests/data/query-qmp-schema.json");

/// The value of `return` in a captured reply.
fn result(reply: &str) -> &str {
    let reply = reply.trim_end();
    reply.strip_prefix("{\"return\": ").and_then(|rest| rest.strip_suffix('}')).unwrap()
}

fn is_extension(name: &str) -> bool {
    extensions::COMMANDS.iter().any(|command| command.name == name)
}

/// What the commands that QEMU has add up to: all of the schema.
fn everything() -> Offered {
    let commands: Vec<Command> = Command::all().filter(|command| !is_extension(command.name())).collect();
    let events: Vec<Event> = Event::all().collect();
    Offered::new(&commands, &events)
}

fn collect(mut fill: impl FnMut(&mut [u8]) -> usize, room: usize) -> String {
    let mut text = Vec::new();
    let mut buffer = vec![0; room];
    loop {
        let len = fill(&mut buffer);
        if len == 0 {
            return String::from_utf8(text).unwrap();
        }
        text.extend_from_slice(&buffer[..len]);
    }
}

fn schema(offered: &Offered, room: usize) -> String {
    let mut list = SchemaList::new();
    collect(|out| list.fill(offered, out), room)
}

#[test]
fn schema_is_that_of_qemu_to_the_byte() {
    let ours = schema(&everything(), 4096);
    let theirs = result(SCHEMA);
    if let Some(at) = ours.bytes().zip(theirs.bytes()).position(|(a, b)| a != b) {
        let from = at.saturating_sub(200);
        panic!("ours:   {}\ntheirs: {}", &ours[from..at + 60], &theirs[from..at + 60]);
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn schema_is_the_same_through_any_buffer() {
    let whole = schema(&everything(), 1 << 17);
    for room in [1, 2, 7, 191, 192, 193, 500] {
        assert!(schema(&everything(), room) == whole, "through {room} bytes");
    }
}

//! The schema against what a real QEMU 2.8.0 answered.

use crate::schema::*;

const COMMANDS: &str = include_str!("../../../tests/data/query-commands.json");
const EVENTS: &str = include_str!("../../../tests/data/query-events.json");
const SCHEMA: &str = include_str!("../../../tests/data/query-qmp-schema.json");

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

#[test]
fn lists_of_names_are_those_of_qemu() {
    let offered = offered_by_x86();
    let mut commands = CommandList::new();
    assert_eq!(collect(|out| commands.fill(&offered, out), 100), result(COMMANDS));
    let mut events = EventList::new();
    assert_eq!(collect(|out| events.fill(&offered, out), 3000), result(EVENTS));
}

/// The commands that the captured x86 machine had.
fn offered_by_x86() -> Offered {
    let names: Vec<&str> = COMMANDS.split('"').filter_map(Command::find).map(Command::name).collect();
    let commands: Vec<Command> = Command::all().filter(|command| names.contains(&command.name())).collect();
    assert_eq!(commands.len(), 140);
    let events: Vec<Event> = Event::all().collect();
    Offered::new(&commands, &events)
}

#[test]
fn nothing_offered_is_an_empty_list() {
    static NOTHING: Offered = Offered::new(&[], &[]);
    let mut commands = CommandList::new();
    assert_eq!(collect(|out| commands.fill(&NOTHING, out), 100), "[]");
    let mut events = EventList::new();
    assert_eq!(collect(|out| events.fill(&NOTHING, out), 1), "[]");
    assert_eq!(schema(&NOTHING, 300), "[]");
}

/// The entities of a schema, each as its text. They begin alike and hold no braces of that kind inside.
fn entities(schema: &str) -> Vec<&str> {
    let inner = schema.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap();
    let (mut found, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            b'{' if depth == 0 => (depth, start) = (1, at),
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    found.push(&inner[start..=at]);
                }
            }
            _ => {}
        }
    }
    found
}

/// The types that an entity mentions.
fn mentioned(entity: &str) -> Vec<&str> {
    ["\"type\": \"", "\"arg-type\": \"", "\"ret-type\": \"", "\"element-type\": \""]
        .iter()
        .flat_map(|key| {
            entity.match_indices(key).map(|(at, key)| entity[at + key.len()..].split('"').next().unwrap())
        })
        .collect()
}

#[test]
fn each_command_alone_has_its_part_of_the_schema() {
    let theirs = entities(result(SCHEMA));
    assert_eq!(theirs.len(), 620);
    for command in Command::all().filter(|command| !is_extension(command.name())) {
        let ours = schema(&Offered::new(&[command], &[]), 1 << 17);
        let ours = entities(&ours);
        assert!(ours.iter().all(|entity| theirs.contains(entity)), "{}", command.name());
        // All types that are mentioned are there, and all that are there are mentioned.
        let names: Vec<&str> = ours.iter().map(|entity| entity[10..].split('"').next().unwrap()).collect();
        assert_eq!(names[0], command.name());
        let used: Vec<&str> = ours.iter().flat_map(|entity| mentioned(entity)).collect();
        assert!(used.iter().all(|ty| names.contains(ty)), "{}: {used:?} {names:?}", command.name());
        assert!(names[1..].iter().all(|ty| used.contains(ty)), "{}: {used:?} {names:?}", command.name());
    }
}

#[test]
fn extensions_are_numbered_after_all_of_qemu() {
    let offered = Offered::new(&Command::all().collect::<Vec<_>>(), &Event::all().collect::<Vec<_>>());
    let all = schema(&offered, 1 << 17);
    let ours = entities(&all);
    for entity in entities(result(SCHEMA)) {
        assert!(ours.contains(&entity), "{entity}");
    }
    assert!(ours.iter().any(|entity| entity.starts_with("{\"name\": \"x-store-list\", \"ret-type\": \"[37")));
}

#[test]
fn reference_documentation_is_current() {
    let mut text = String::new();
    docs::reference(&mut text).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/COMMANDS.md");
    if std::env::var_os("MONOVISOR_WRITE_DOCS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).is_ok_and(|file| file == text),
        "core/COMMANDS.md is out of date: MONOVISOR_WRITE_DOCS=1 cargo test -p monovisor-core reference"
    );
}

#[test]
fn names_are_found_and_numbered() {
    for command in Command::all() {
        assert_eq!(Command::find(command.name()), Some(command));
    }
    for event in Event::all() {
        assert_eq!(Event::find(event.name()), Some(event));
    }
    assert_eq!(Command::find("query-statu"), None);
    assert_eq!(Command::find(""), None);
    assert_eq!(Command::QUERY_STATUS.name(), "query-status");
    assert!(Command::DEVICE_ADD.takes_free_options() && !Command::DEVICE_DEL.takes_free_options());
    assert_eq!(Event::QUORUM_REPORT_BAD.throttle(), Throttle::RatePerKey("node-name"));
    assert_eq!(Event::RTC_CHANGE.throttle(), Throttle::Rate);
    assert_eq!(Event::STOP.throttle(), Throttle::None);
}

#[test]
#[ignore = "a measurement: cargo test --release -p monovisor-core speed -- --ignored --nocapture"]
fn speed_and_size() {
    let offered = everything();
    let mut buffer = vec![0u8; 4096];
    let (mut total, start) = (0, std::time::Instant::now());
    for _ in 0..2000 {
        let mut list = SchemaList::new();
        while !list.is_complete() {
            total += list.fill(&offered, &mut buffer);
        }
    }
    let speed = total as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!("query-qmp-schema: {speed:.0} MB/s");
    let sizes = crate::schema::tables::sizes();
    println!("tables: {} bytes, {sizes:?}", sizes.iter().sum::<usize>());
    assert!(speed >= 500.0);
}

#[test]
fn tables_are_small() {
    let sizes = crate::schema::tables::sizes();
    assert!(sizes.iter().sum::<usize>() <= 32 * 1024, "{sizes:?}");
}

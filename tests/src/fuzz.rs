//! Fuzz targets: what must hold for any bytes that a client can send.
//!
//! Each takes raw bytes, so that a coverage-guided fuzzer (`tests/fuzz`) and the plain runner (`cargo run -p monovisor-tests
//! --bin fuzz`) can both drive it. A target panics where something does not hold.

use monovisor_core::schema::{
    Command, MODULES,
    decl::{MemberDecl, Shape, TypeDecl, TypeRef},
};

use crate::model::{Options, Rig};

/// A target: from bytes to nothing, or a panic.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: &[(&str, Target)] =
    &[("bytes", bytes), ("json", json), ("commands", commands), ("chunks", chunks)];

const NEGOTIATE: &[u8] = br#"{"execute":"qmp_capabilities"}"#;

fn rig(options: Options) -> Rig {
    let mut rig = Rig::new(options);
    assert!(rig.say(0, NEGOTIATE).ends_with("{\"return\": {}}\r\n"));
    rig
}

/// Whatever was answered is a sequence of whole messages; only a new client's greeting may come behind one that is cut short.
fn check(answer: &str) {
    let Some(messages) = answer.strip_suffix("\r\n") else {
        assert!(answer.is_empty(), "an unfinished line: {answer}");
        return;
    };
    let mut lines = messages.split("\r\n").peekable();
    while let Some(message) = lines.next() {
        if lines.peek().is_some_and(|next| next.starts_with("{\"QMP\": ")) {
            continue;
        }
        assert!(message.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{message}");
        if let Err(error) = serde_json::from_str::<serde_json::Value>(message) {
            // An `id` may be more than this parser takes.
            let text = error.to_string();
            assert!(text.contains("recursion limit") || text.contains("out of range"), "{text}: {message}");
        }
    }
}

/// After anything at all, a new client gets a session that works.
fn still_usable(rig: &mut Rig) {
    // The first 0xFF may end a string; after others, moments before, it would say nothing new.
    rig.wait(10_000_000);
    let greeting = rig.say(0, b"\xFF\xFF");
    assert!(greeting.ends_with("\"capabilities\": []}}\r\n"), "{greeting}");
    assert_eq!(rig.say(0, NEGOTIATE), "{\"return\": {}}\r\n");
    assert!(rig.say(0, br#"{"execute":"query-status","id":"end"}"#).ends_with("}, \"id\": \"end\"}\r\n"));
}

/// Raw bytes.
pub fn bytes(data: &[u8]) {
    let mut rig = rig(Options::default());
    check(&rig.say(0, data));
    still_usable(&mut rig);
}

/// The same bytes, however they are cut and however long commands take, are answered the same.
pub fn chunks(data: &[u8]) {
    let (seed, data) = data.split_at_checked(8).unwrap_or((&[0; 8], data));
    let (delay, cuts) = seed.split_last().map_or((0, seed), |(last, cuts)| (u64::from(last % 4), cuts));
    // A byte 0xFF ends a command that is not ready, and none that is.
    let data: Vec<u8> = data.iter().copied().filter(|byte| delay == 0 || *byte != 0xFF).collect();
    let expected = rig(Options::default()).say(0, &data);
    let mut cut = rig(Options { delay, ..Options::default() });
    let (mut rest, mut turn) = (&data[..], 0_usize);
    while !rest.is_empty() {
        let choice = usize::from(cuts.get(turn % 7).copied().unwrap_or(0));
        let (now, later) = rest.split_at((choice % 64 + 1).min(rest.len()));
        cut.feed_for(0, now, choice / 64);
        rest = later;
        turn += 1;
    }
    assert_eq!(cut.say(0, b""), expected);
}

/// Choices made from bytes; zeros when they are used up.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()])) % limit.max(1)
    }

    fn pick<'s, T>(&mut self, from: &'s [T]) -> &'s T {
        &from[self.below(from.len())]
    }
}

/// Pieces of messages, put together in any order: mostly not JSON, but close to it.
pub fn json(data: &[u8]) {
    const PIECES: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        " ",
        "\n",
        "\"",
        "'",
        "\\",
        "\"a\"",
        "'b'",
        "\"execute\":",
        "\"id\":",
        "\"arguments\":{",
        "\"query-status\"",
        "\"qmp_capabilities\"",
        "null",
        "true",
        "false",
        "nope",
        "0",
        "-",
        "1",
        "9223372036854775807",
        "9223372036854775808",
        "1.5",
        "1e3",
        "-0.0",
        "%d",
        "%s",
        "\\u",
        "\\u0000",
        "\\ud834",
        "\\n",
        "é",
        "\u{1d11e}",
        "{\"execute\":\"query-status\"}",
        "{\"execute\":\"query-name\",\"id\":",
        "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"",
        "]]]]",
        "[[[[",
        "{\"a\":{\"b\":",
    ];
    let mut choices = Choices(data);
    let mut text = Vec::new();
    while !choices.0.is_empty() {
        match choices.byte() {
            0xFF => text.push(choices.byte()),
            choice => text.extend_from_slice(PIECES[usize::from(choice) % PIECES.len()].as_bytes()),
        }
    }
    bytes(&text);
}

/// Commands whose arguments follow the schema, now and then with something wrong.
pub fn commands(data: &[u8]) {
    let mut choices = Choices(data);
    let mut rig = rig(Options::default());
    let all: Vec<_> = MODULES.iter().flat_map(|module| module.commands).collect();
    let mut number = 0;
    while !choices.0.is_empty() && number < 50 {
        let command = choices.pick(&all);
        if Command::find(command.name) == Some(Command::QUIT) {
            continue;
        }
        let arguments = match (command.inline, command.arguments) {
            (Some(ty), _) => of_type(&mut choices, &ty, 0),
            (None, Some(ty)) => value(&mut choices, ty, 0),
            (None, None) => "{}".to_string(),
        };
        number += 1;
        let message =
            format!("{{\"execute\":\"{}\",\"arguments\":{arguments},\"id\":{number}}}", command.name);
        let answer = rig.say(0, message.as_bytes());
        check(&answer);
        let id = format!("\"id\": {number}");
        let own = answer.matches(&id).count();
        // A mistake in the arguments' form is found before the `id` is known.
        assert!(own == 1 || (own == 0 && answer.starts_with("{\"error\"")), "{message}\n{answer}");
    }
    still_usable(&mut rig);
}

fn find(name: &str) -> Option<&'static TypeDecl> {
    MODULES.iter().flat_map(|module| module.types).find(|ty| ty.name == name)
}

fn members(
    choices: &mut Choices<'_>,
    members: &[MemberDecl],
    skip: Option<&str>,
    depth: usize,
    out: &mut Vec<String>,
) {
    for member in members {
        let left_out = if member.optional { choices.byte() & 1 == 0 } else { choices.byte() == 0xFF };
        if !left_out && Some(member.name) != skip {
            out.push(format!("\"{}\":{}", member.name, value(choices, member.ty, depth + 1)));
        }
    }
}

fn of_type(choices: &mut Choices<'_>, ty: &TypeDecl, depth: usize) -> String {
    let mut out = Vec::new();
    match ty.shape {
        Shape::Enum(words) => return format!("\"{}\"", choices.pick(words).word),
        Shape::Alternate(types) => {
            let ty = *choices.pick(types);
            return value(choices, ty, depth + 1);
        }
        Shape::Struct(fields) => members(choices, fields, None, depth, &mut out),
        Shape::Union { members: base, tag, branches } => {
            members(choices, base, Some(tag), depth, &mut out);
            let branch = choices.pick(branches);
            out.push(format!("\"{tag}\":\"{}\"", branch.word));
            if let Some(TypeDecl { shape: Shape::Struct(fields), .. }) = find(branch.ty.name) {
                members(choices, fields, None, depth, &mut out);
            }
        }
        Shape::Simple { branches, .. } => {
            let branch = choices.pick(branches);
            out.push(format!("\"type\":\"{}\"", branch.word));
            out.push(format!("\"data\":{}", value(choices, branch.ty, depth + 1)));
        }
    }
    if choices.byte() == 0xFE {
        out.push("\"unexpected\":1".into());
    }
    format!("{{{}}}", out.join(","))
}

fn value(choices: &mut Choices<'_>, ty: TypeRef, depth: usize) -> String {
    if depth > 12 {
        return "null".into();
    }
    if ty.list {
        let count = choices.below(4);
        let element = TypeRef { name: ty.name, list: false };
        let elements: Vec<_> = (0..count).map(|_| value(choices, element, depth + 1)).collect();
        return format!("[{}]", elements.join(","));
    }
    if choices.byte() == 0xFD {
        return (*choices.pick(&["null", "1", "\"x\"", "[]", "{}", "1.5", "true"])).into();
    }
    match ty.name {
        "bool" => if choices.byte() & 1 == 0 { "true" } else { "false" }.into(),
        "str" => {
            const TEXTS: &[&str] = &[
                "",
                "x",
                "/tmp/x",
                "info status",
                "ide1-cd0",
                "nope",
                "*",
                "e1000",
                "m0",
                "compat_monitor0",
                "/",
                "type",
                "MDEyMw==",
                "tcp:1:2",
                "rng-random",
                "\\u00e9",
                "a b c d e f g h i j k l m n o p q r s t u v w x y z",
            ];
            format!("\"{}\"", choices.pick(TEXTS))
        }
        "number" => "0.5".into(),
        "any" => (*choices.pick(&["null", "1", "{\"size\":1024}", "{}", "[1,{\"a\":[]}]", "\"x\""])).into(),
        name => match find(name) {
            Some(ty) => of_type(choices, ty, depth),
            // The integers.
            None => match choices.byte() {
                0..0x80 => choices.below(4).to_string(),
                0x80..0xC0 => choices.below(65536).to_string(),
                _ => (*choices.pick(&["-1", "9223372036854775807", "-9223372036854775808", "4294967296"]))
                    .into(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    /// A few thousand inputs of every target; more with the runner.
    #[test]
    fn targets_hold() {
        let mut random = super::Random::new(1);
        for (name, target) in super::TARGETS {
            for _ in 0..300 {
                let input = random.input();
                println!("{name} {input:?}");
                target(&input);
            }
        }
    }
}

/// Random inputs from a seed (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Inputs that are the same for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// The next input: noise, or a message with a few bytes changed.
    pub fn input(&mut self) -> Vec<u8> {
        const SEEDS: &[&[u8]] = &[
            br#"{"execute":"query-status","id":{"a":[1,2.5,"x\u00e9",null,true]}}"#,
            br#"{"execute":"memsave","arguments":{"val":0,"size":16,"filename":"/tmp/x"}} {"execute":"stop"}"#,
            br#"{'execute':'human-monitor-command','arguments':{'command-line':'info status'}}"#,
            br#"{"execute":"blockdev-add","arguments":{"driver":"qcow2","node-name":"n","file":{"driver":"file"}}}"#,
            br#"[[[[{"a":{"b":{}}}]]]] 1 "x" nope }"#,
        ];
        let mut input = Vec::new();
        if self.next().is_multiple_of(2) {
            let length = self.next() % 400;
            input.extend((0..length).map(|_| (self.next() >> 32) as u8));
        } else {
            for _ in 0..self.next() % 4 + 1 {
                input.extend_from_slice(SEEDS[(self.next() >> 32) as usize % SEEDS.len()]);
            }
            for _ in 0..self.next() % 6 {
                let at = (self.next() >> 32) as usize % input.len().max(1);
                if input.is_empty() {
                    break;
                }
                match self.next() >> 60 {
                    0..4 => input[at] = (self.next() >> 32) as u8,
                    4..8 => {
                        input.remove(at);
                    }
                    8..12 => {
                        let from = (self.next() >> 32) as usize % input.len();
                        input.insert(at, input[from]);
                    }
                    _ => input.truncate(at.max(1)),
                }
            }
        }
        input
    }
}

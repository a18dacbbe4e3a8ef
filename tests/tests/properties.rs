//! What holds for any value and any bytes, tried on random ones; a failure is cut down to the smallest that still fails.

use std::collections::BTreeMap;

use monovisor_core::LineError;
use monovisor_core::json::{Array, Emit, Object, Outcome, Receiver, Value, Writer};
use monovisor_tests::model::{Options, Rig};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Null,
    Bool(bool),
    Int(i64),
    /// As it was written.
    Number(String),
    Text(String),
    Array(Vec<Tree>),
    Object(BTreeMap<String, Tree>),
}

/// Text that comes back: none of what QEMU takes for no character, no U+0000, which ends a string there, and nothing beyond
/// U+FFFF, which it prints as two escapes but does not read back from them.
fn text() -> impl Strategy<Value = String> {
    let is_character = |c: &char| {
        let code = u32::from(*c);
        (1..0x1_0000).contains(&code) && code & 0xFFFE != 0xFFFE && !(0xFDD0..=0xFDEF).contains(&code)
    };
    vec(prop_oneof![any::<char>(), prop::char::range(' ', '~'), Just('"'), Just('\\'), Just('\n')], 0..12)
        .prop_map(move |text| text.into_iter().filter(is_character).collect())
}

/// What fits 64 bits is an integer, however long it is written.
fn number() -> impl Strategy<Value = Tree> {
    let written = prop_oneof![
        "-?[1-9][0-9]{18,40}",
        "-?(0|[1-9][0-9]{0,20})\\.[0-9]{1,20}",
        "-?[1-9][0-9]{0,5}[eE][+-]?[0-9]{1,3}"
    ];
    prop_oneof![
        any::<i64>().prop_map(Tree::Int),
        (-20_i64..20).prop_map(Tree::Int),
        written.prop_map(|text| text.parse().map_or(Tree::Number(text), Tree::Int)),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Tree::Bool),
        number(),
        text().prop_map(Tree::Text)
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Tree::Array),
            btree_map(text(), inner, 0..6).prop_map(Tree::Object),
        ]
    })
}

/// How a client writes a value: with which quotes, white space and escapes, turn by turn.
struct Style<'a> {
    choices: &'a [u8],
    at: usize,
}

impl Style<'_> {
    fn choice(&mut self, of: u8) -> u8 {
        self.at += 1;
        self.choices.get(self.at % self.choices.len().max(1)).copied().unwrap_or(0) % of
    }

    fn space(&mut self, out: &mut String) {
        out.push_str(["", "", " ", "\r\n", "\t \n"][usize::from(self.choice(5))]);
    }

    fn text(&mut self, text: &str, out: &mut String) {
        let quote = if self.choice(3) == 0 { '\'' } else { '"' };
        out.push(quote);
        for c in text.chars() {
            match (c, self.choice(6)) {
                ('\n', 1) => out.push_str("\\n"),
                ('"' | '\'' | '\\', _) => out.extend(['\\', c]),
                (_, 2) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                _ => out.push(c),
            }
        }
        out.push(quote);
    }

    fn value(&mut self, tree: &Tree, out: &mut String) {
        self.space(out);
        match tree {
            Tree::Null => out.push_str("null"),
            Tree::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
            Tree::Int(number) => out.push_str(&number.to_string()),
            Tree::Number(text) => out.push_str(text),
            Tree::Text(text) => self.text(text, out),
            Tree::Array(elements) => {
                out.push('[');
                for (at, element) in elements.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    self.value(element, out);
                }
                self.space(out);
                out.push(']');
            }
            Tree::Object(members) => {
                out.push('{');
                for (at, (key, value)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    self.space(out);
                    self.text(key, out);
                    self.space(out);
                    out.push(':');
                    self.value(value, out);
                }
                self.space(out);
                out.push('}');
            }
        }
        self.space(out);
    }
}

fn of_array(array: Array<'_>) -> Tree {
    Tree::Array(array.iter().map(of_value).collect())
}

fn of_object(object: Object<'_>) -> Tree {
    Tree::Object(object.iter().map(|(key, value)| (key.to_string(), of_value(value))).collect())
}

fn of_value(value: Value<'_>) -> Tree {
    match value {
        Value::Null => Tree::Null,
        Value::Bool(truth) => Tree::Bool(truth),
        Value::Int(number) => Tree::Int(number),
        Value::Double(number) => Tree::Number(number.text().into()),
        Value::Str(text) => Tree::Text(text.into()),
        Value::Array(array) => of_array(array),
        Value::Object(object) => of_object(object),
    }
}

/// Parses the value of the only member of an object, and prints it.
fn parse(message: &str) -> (Tree, String) {
    let mut receiver = Box::new(Receiver::new());
    let fed = receiver.feed(message.as_bytes());
    assert_eq!(fed, (message.len(), Some(Outcome::Message)), "{message}");
    let value = receiver.message().and_then(|object| object.get("v")).expect("the member");
    let mut buffer = vec![0; 1 << 20];
    let mut w = Writer::new(&mut buffer);
    value.emit(&mut w);
    assert!(!w.overflowed());
    let printed = String::from_utf8(w.written().to_vec()).expect("what is printed is ASCII");
    (of_value(value), printed)
}

const NEGOTIATE: &[u8] = br#"{"execute":"qmp_capabilities"}"#;
const STATUS: &[u8] = br#"{"execute":"query-status","id":"next"}"#;

fn rig() -> Rig {
    let mut rig = Rig::new(Options::default());
    assert!(rig.say(0, NEGOTIATE).ends_with("{\"return\": {}}\r\n"));
    rig
}

/// Whether a command is answered as it should be.
fn is_answered(rig: &mut Rig) -> bool {
    let answer = rig.say(0, STATUS);
    answer.starts_with("{\"return\": {\"status\"") && answer.ends_with("\"id\": \"next\"}\r\n")
}

/// Bytes that come close to messages.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let pieces: [&[u8]; 14] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b"'",
        b"\\",
        b":",
        b",",
        b"\n",
        b"{\"execute\":",
        b"\"stop\"",
        b"{\"execute\":\"stop\"}",
        b"\"id\":1e5",
    ];
    let piece = prop_oneof![
        3 => (0..pieces.len()).prop_map(move |at| pieces[at].to_vec()),
        1 => vec(any::<u8>(), 1..8)
    ];
    vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

#[test]
fn beyond_the_basic_plane() {
    let (parsed, printed) = parse("{\"v\": \"\u{1d11e}\"}");
    assert_eq!((parsed, printed.as_str()), (Tree::Text("\u{1d11e}".into()), "\"\\uD834\\uDD1E\""));
    assert_eq!(parse(&format!("{{\"v\": {printed}}}")).0, Tree::Text("\u{fffd}\u{fffd}".into()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// What is parsed is what was written, and so is what is printed and parsed again; printing that changes nothing more.
    #[test]
    fn parse_print_parse(tree in tree(), choices in vec(any::<u8>(), 1..40)) {
        let mut written = String::from("{\"v\":");
        Style { choices: &choices, at: 0 }.value(&tree, &mut written);
        written.push('}');
        let (parsed, printed) = parse(&written);
        prop_assert_eq!(&parsed, &tree, "{}", written);
        prop_assert!(printed.is_ascii());
        let (again, reprinted) = parse(&format!("{{\"v\": {printed}}}"));
        prop_assert_eq!(&again, &tree, "{}", &printed);
        // Members of one bucket change places whenever they are parsed.
        let (_, twice) = parse(&format!("{{\"v\": {reprinted}}}"));
        prop_assert_eq!(printed, twice);
    }

    /// An `id` comes back as the value that was sent, with its numbers as they were written.
    #[test]
    fn ids_come_back(tree in tree(), choices in vec(any::<u8>(), 1..40)) {
        let mut written = String::from("{\"execute\":\"query-name\",\"id\":");
        Style { choices: &choices, at: 0 }.value(&tree, &mut written);
        written.push('}');
        let answer = rig().say(0, written.as_bytes());
        let id = answer.strip_prefix("{\"return\": {}, \"id\": ").and_then(|rest| rest.strip_suffix("}\r\n"));
        prop_assert!(id.is_some(), "{}", answer);
        prop_assert_eq!(parse(&format!("{{\"v\":{}}}", id.unwrap_or_default())).0, tree);
    }

    /// Whatever came before, two bytes 0xFF begin a session that works.
    #[test]
    fn any_garbage_leaves_a_usable_session(garbage in garbage()) {
        let mut rig = rig();
        rig.say(0, &garbage);
        rig.wait(10_000_000);
        let greeting = rig.say(0, b"\xFF\xFF");
        prop_assert!(greeting.ends_with("\"capabilities\": []}}\r\n"), "{}", greeting);
        prop_assert_eq!(rig.say(0, NEGOTIATE), "{\"return\": {}}\r\n");
        prop_assert!(is_answered(&mut rig));
    }

    /// A message that is refused as a whole needs nothing: the next one is answered.
    #[test]
    fn a_refused_message_leaves_a_usable_session(tree in tree(), choices in vec(any::<u8>(), 1..40)) {
        let mut rig = rig();
        let mut written = String::from("{\"execute\":[");
        Style { choices: &choices, at: 0 }.value(&tree, &mut written);
        written.push_str(" nope]}");
        let answer = rig.say(0, written.as_bytes());
        prop_assert!(answer.starts_with("{\"error\""), "{}", answer);
        prop_assert_eq!(answer.matches("\r\n").count(), 1);
        prop_assert!(is_answered(&mut rig));
    }

    /// The same bytes are answered the same however they arrive.
    #[test]
    fn chunks_do_not_matter(garbage in garbage(), cuts in vec(1_usize..40, 1..20)) {
        let expected = rig().say(0, &garbage);
        let (mut cut, mut said, mut rest) = (rig(), String::new(), &garbage[..]);
        for size in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*size).min(rest.len()));
            said.push_str(&cut.say(0, now));
            rest = later;
        }
        prop_assert_eq!(said, expected);
    }

    /// Bytes lost on the line never make a command of what is left, and the next line is understood.
    #[test]
    fn what_is_lost_is_never_a_command(at in 0_usize..70, lost in 0_usize..20, error in 0_usize..3) {
        // Without its beginning, and without its end, this is a message.
        let message = br#"[{"execute":"quit"},{"x":{"execute":"stop"}},"{\"execute\":\"quit\"}"] "#;
        let mut rig = rig();
        let at = at.min(message.len());
        rig.say(0, &message[..at]);
        rig.disturb(0, [LineError::Overrun, LineError::Framing, LineError::Break][error]);
        let rest = &message[(at + lost).min(message.len())..];
        let mut said = rig.say(0, rest);
        said.push_str(&rig.say(0, b"\r\n"));
        prop_assert_eq!(said.matches("Input lost on the serial line").count(), 1, "{}", said);
        prop_assert!(!said.contains("return") && !said.contains("event"), "{}", said);
        prop_assert!(is_answered(&mut rig));
    }
}

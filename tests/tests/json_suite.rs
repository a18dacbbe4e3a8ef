//! JSONTestSuite through the parser: what RFC 8259 says against what QEMU 2.8's dialect does.
//!
//! A name that begins with `y_` must be accepted by any parser, `n_` refused, `i_` is up to it. Inputs stand as the value of a
//! member, since a message is an object; one is accepted if that makes exactly one message. What the dialect does otherwise is in
//! `data/json/differs.txt` with its reason, and everything there must still differ.

use std::fmt::Write as _;
use std::path::Path;

use monovisor_core::json::{Outcome, Receiver};

/// The bytes of a line of `suite.txt`.
fn bytes(text: &str) -> Vec<u8> {
    let (times, text) = match text.strip_prefix('*').and_then(|text| text.split_once(' ')) {
        Some((times, text)) if times.bytes().all(|byte| byte.is_ascii_digit()) => {
            (times.parse().expect("a number"), text)
        }
        _ => (1, text),
    };
    let mut once = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            once.push(byte);
            continue;
        }
        match rest.next().expect("an escape") {
            b'n' => once.push(b'\n'),
            b'r' => once.push(b'\r'),
            b't' => once.push(b'\t'),
            b'x' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                once.push(u8::from_str_radix(&digits, 16).expect("two hexadecimal digits"));
            }
            other => once.push(other),
        }
    }
    once.repeat(times)
}

fn is_accepted(input: &[u8]) -> bool {
    let message = [b"{\"v\": ", input, b"}"].concat();
    let mut receiver = Box::new(Receiver::new());
    let mut used = 0;
    while used < message.len() {
        let (count, outcome) = receiver.feed(&message[used..]);
        used += count;
        if let Some(outcome) = outcome {
            return outcome == Outcome::Message && used == message.len();
        }
    }
    false
}

#[test]
fn suite() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/json");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a file of data");
    let mut inputs: Vec<(String, Vec<u8>)> = Vec::new();
    for line in read("suite.txt").lines().filter(|line| !line.starts_with('#')) {
        let (name, text) = line.split_once('\t').expect("a name and an input");
        // A second line of a name goes on with the first.
        match inputs.last_mut().filter(|(last, _)| last == name) {
            Some((_, input)) => input.extend(bytes(text)),
            None => inputs.push((name.into(), bytes(text))),
        }
    }
    assert!(inputs.len() >= 316, "{} inputs", inputs.len());
    let known = read("differs.txt");
    let known: Vec<&str> = known.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let (mut counts, mut differs, mut wrong) = ([[0; 2]; 3], Vec::new(), String::new());
    for (name, input) in &inputs {
        let accepted = is_accepted(input);
        let kind = ["y_", "n_", "i_"].iter().position(|kind| name.starts_with(kind)).expect("a kind");
        counts[kind][usize::from(!accepted)] += 1;
        if (kind == 0 && !accepted) || (kind == 1 && accepted) {
            differs.push(name.as_str());
            if !known.contains(&name.as_str()) {
                let did = if accepted { "accepted" } else { "refused" };
                writeln!(wrong, "{name}\t{did}\t{}", input.escape_ascii()).expect("memory");
            }
        }
    }
    println!("{:28}{:>9}{:>9}", "", "accepted", "refused");
    for (kind, counts) in ["must be accepted", "must be refused", "either"].iter().zip(counts) {
        println!("{kind:28}{:>9}{:>9}", counts[0], counts[1]);
    }
    println!("differs from RFC 8259: {}", differs.len());
    for name in known {
        if !differs.contains(&name) {
            writeln!(wrong, "{name} is in differs.txt and does not differ").expect("memory");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

//! What a real QEMU 2.8.0 was sent, sent to the monitor over the model machine, and the answers compared byte for byte.
//!
//! `data/qmp/probes.txt` has single inputs, each on a fresh connection; `data/qmp/transcripts/` has whole sessions on
//! machines of many kinds. The table that this prints (`cargo test -p monovisor-tests --test replay -- --nocapture`)
//! has three columns: replayed, differs, and not reachable: what the model has no command or no part for. Everything
//! that differs must be in `data/qmp/differs.txt` with its reason, and everything there must still differ.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use monovisor_tests::model::{Options, Rig};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/qmp")
}

/// The bytes of a literal as Python prints them, and what comes after it.
fn bytes(text: &str) -> (Vec<u8>, &str) {
    let text = text.strip_prefix('b').expect("a literal");
    let quote = text.chars().next().expect("a quote");
    let (mut found, mut rest) = (Vec::new(), &text[1..]);
    loop {
        let next = rest.chars().next().expect("a closing quote");
        rest = &rest[next.len_utf8()..];
        if next == quote {
            return (found, rest);
        }
        if next != '\\' {
            found.extend_from_slice(next.to_string().as_bytes());
            continue;
        }
        let escape = rest.chars().next().expect("an escape");
        rest = &rest[1..];
        match escape {
            'n' => found.push(b'\n'),
            'r' => found.push(b'\r'),
            't' => found.push(b'\t'),
            'x' => {
                found.push(u8::from_str_radix(&rest[..2], 16).expect("a hexadecimal escape"));
                rest = &rest[2..];
            }
            other => found.push(other as u8),
        }
    }
}

/// Leaves out what is different in every run: the moment of an event, the number of a thread, a socket's name.
fn masked(text: &str) -> String {
    let mut text = text.to_string();
    for key in ["\"seconds\": ", "\"microseconds\": ", "\"thread_id\": ", "\"thread-id\": ", "\"pc\": "] {
        let mut from = 0;
        while let Some(at) = text[from..].find(key) {
            let start = from + at + key.len();
            let end = text[start..]
                .find(|c: char| !c.is_ascii_digit() && c != '-')
                .map_or(text.len(), |end| start + end);
            text.replace_range(start..end, "N");
            from = start;
        }
    }
    text.replace("unix:/tmp/probe-28.sock,server", "serial").replace("unix:/tmp/sc-28.sock,server", "serial")
}

/// How an exchange went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Replayed,
    Differs,
    NotReachable,
}

/// Texts by which the model says that it lacks a command or a part. Where the other machine did not say the same, the
/// exchange is not within reach.
const LACKS: [&str; 8] = [
    "has not been found",
    "unknown command: ",
    "is not a valid device model name",
    "unknown event ",
    "expects a valid migration protocol",
    "invalid object type: ",
    "No balloon device",
    "chardev backend",
];

fn not_reachable(ours: &str, theirs: &str) -> bool {
    LACKS.iter().any(|text| ours.contains(text) && !theirs.contains(text))
}

#[derive(Default)]
struct Table {
    rows: BTreeMap<String, [usize; 3]>,
    /// What differs, as the lines of `differs.txt` name it.
    differs: Vec<(String, String)>,
}

impl Table {
    fn count(&mut self, row: &str, name: String, verdict: Verdict, ours: &str, theirs: &str) {
        self.rows.entry(row.into()).or_default()[verdict as usize] += 1;
        if verdict == Verdict::Differs {
            self.differs.push((name, format!("ours:   {ours}\n    theirs: {theirs}")));
        }
    }

    fn print(&self) -> String {
        let mut text = format!("{:34}{:>9}{:>9}{:>15}\n", "", "replayed", "differs", "not reachable");
        let mut sum = [0; 3];
        for (row, counts) in &self.rows {
            writeln!(text, "{row:34}{:>9}{:>9}{:>15}", counts[0], counts[1], counts[2]).unwrap();
            for (sum, count) in sum.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        write!(text, "{:34}{:>9}{:>9}{:>15}", "all", sum[0], sum[1], sum[2]).unwrap();
        text
    }

    /// Compares what differs with what is known to differ.
    fn check(&self, kind: &str) {
        println!("{}", self.print());
        let known = std::fs::read_to_string(data().join("differs.txt")).expect("the list of differences");
        let known: Vec<&str> =
            known.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ')).collect();
        let mut wrong = String::new();
        for (name, what) in &self.differs {
            if !known.contains(&name.as_str()) {
                writeln!(wrong, "{kind} {name}\n    {what}").unwrap();
            }
        }
        for name in known {
            if !self.differs.iter().any(|(differs, _)| differs == name) {
                writeln!(wrong, "{kind} {name}\n    is in differs.txt and does not differ").unwrap();
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    }
}

#[test]
fn probes() {
    let text = std::fs::read_to_string(data().join("probes.txt")).expect("the probes");
    let mut table = Table::default();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(probe) = line.strip_prefix("[neg=") else { continue };
        let (negotiated, literal) = probe.split_once("] IN  ").expect("an input");
        let answer = lines.next().and_then(|line| line.strip_prefix("   2.8  ")).expect("an answer");
        let (input, _) = bytes(literal);
        let (expected, _) = bytes(answer);
        let expected = String::from_utf8(expected).expect("answers are ASCII");
        let (expected, after) = match expected.split_once("  ||after newline+sync cmd: ") {
            Some((expected, after)) => (expected, Some(after)),
            None => (expected.as_str(), None),
        };
        let mut rig = Rig::new(Options::default());
        rig.output(0);
        if negotiated == "1" {
            rig.say(0, b"{'execute':'qmp_capabilities'}");
        }
        let ours = masked(&rig.say(0, &input));
        let mut verdict = if ours == masked(expected) {
            Verdict::Replayed
        } else if not_reachable(&ours, expected) {
            Verdict::NotReachable
        } else {
            Verdict::Differs
        };
        let (mut ours, mut theirs) = (ours, masked(expected));
        if let Some(after) = after.filter(|_| verdict == Verdict::Replayed) {
            ours = masked(&rig.say(0, b"\n{\"execute\":\"query-name\",\"id\":\"sync\"}"));
            theirs = masked(after);
            if ours.trim_end() != theirs.trim_end() {
                verdict = Verdict::Differs;
            }
        }
        table.count("probes", literal.into(), verdict, &ours, &theirs);
    }
    table.check("probe");
}

/// The options of a transcript's machine that the model has.
fn options(header: &str) -> Options {
    let mut options = Options { memory: 128 << 20, ..Options::default() };
    let words: Vec<&str> = header.split_whitespace().collect();
    for pair in words.windows(2) {
        match pair {
            ["-name", name] => options.name = Some((*name).into()),
            ["-uuid", uuid] => options.uuid = (*uuid).into(),
            ["-smp", smp] => {
                let mut parts = smp.split(',');
                options.cpus = parts.next().and_then(|cpus| cpus.parse().ok()).expect("a number of CPUs");
                options.max_cpus = parts
                    .find_map(|part| part.strip_prefix("maxcpus="))
                    .map_or(options.cpus, |cpus| cpus.parse().expect("a number of CPUs"));
            }
            _ => {}
        }
    }
    options.no_shutdown = words.contains(&"-no-shutdown");
    options.stopped = words.contains(&"-S");
    options
}

/// Whether the machine of a transcript has drives, network or guest software that the model lacks.
fn is_beyond(header: &str) -> bool {
    ["-drive", "-device", "-netdev", "-object", "-vnc", "-incoming", "-kernel", "-chardev", "-monitor"]
        .iter()
        .any(|option| header.contains(option))
}

#[test]
fn transcripts() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(data().join("transcripts"))
        .expect("the transcripts")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let mut table = Table::default();
    for file in files {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).expect("a transcript");
        let mut lines = text.lines().peekable();
        let header = lines.next().expect("a header").to_string();
        let mut rig = Rig::new(options(&header));
        let mut ours = String::from_utf8(rig.output(0)).expect("answers are ASCII");
        let mut sent = "(greeting)".to_string();
        let mut number = 0;
        let mut ask = Some(());
        while ask.is_some() {
            let mut theirs = String::new();
            let next = loop {
                match lines.next() {
                    None => break None,
                    Some(line) => {
                        if let Some(answer) = line.strip_prefix("<- ") {
                            if answer != "<EOF>" {
                                theirs.push_str(answer);
                                theirs.push_str("\r\n");
                            }
                        } else if let Some(command) = line.strip_prefix("-> ") {
                            break Some(command);
                        }
                    }
                }
            };
            let (ours_masked, theirs) = (masked(&ours), masked(&theirs));
            let verdict = if ours_masked == theirs {
                Verdict::Replayed
            } else if not_reachable(&ours_masked, &theirs) || is_beyond(&header) || sent.starts_with("(with")
            {
                Verdict::NotReachable
            } else {
                Verdict::Differs
            };
            table.count(&name, format!("{name} {number} {sent}"), verdict, &ours_masked, &theirs);
            ask = next.map(|command| {
                number += 1;
                sent = command.into();
                ours = if command.starts_with('{') { rig.say(0, command.as_bytes()) } else { String::new() };
            });
        }
    }
    table.check("transcript");
}

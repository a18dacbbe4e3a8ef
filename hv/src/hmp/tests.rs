use std::borrow::ToOwned;
use std::string::String;
use std::vec::Vec;

use super::*;

#[derive(Default)]
struct Model {
    actions: Vec<String>,
    cpu: usize,
}

impl Target for Model {
    fn status(&self, line: &mut Line) {
        line.push_str("paused (prelaunch)").unwrap();
    }
    fn name(&self) -> Option<&str> {
        Some("vm1")
    }
    fn uuid(&self, line: &mut Line) {
        line.push_str("00000000-0000-0000-0000-000000000000").unwrap();
    }
    fn cpu(&self, index: usize) -> Option<(u64, bool)> {
        [(0xffff_fff0, false), (0xfd406, true)].get(index).copied()
    }
    fn snapshot(&self, _: usize) -> Option<Snapshot> {
        None
    }
    fn read_linear(&self, _: usize, address: u64, buffer: &mut [u8]) -> bool {
        buffer.fill(address as u8);
        address < 0x1000
    }
    fn read_physical(&self, address: u64, buffer: &mut [u8]) {
        buffer.fill(address as u8);
    }
    fn set_default_cpu(&mut self, index: i64) -> bool {
        let known = (0..2).contains(&index);
        if known {
            self.cpu = index as usize;
        }
        known
    }
    fn port_read(&mut self, port: u16, _: u8) -> u32 {
        port.into()
    }
    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        self.actions.push(std::format!("out {port:#x} {size} {value:#x}"));
    }
    fn balloon(&mut self) -> Option<u64> {
        Some(128 << 20)
    }
    fn pointers(&mut self) -> Pointers {
        let mouse = |index, absolute| Pointer { name: "QEMU PS/2 Mouse", index, absolute };
        Pointers::from_slice(&[mouse(2, false), mouse(3, true)]).unwrap()
    }
    fn act(&mut self, action: Action<'_>, line: &mut Line) -> bool {
        self.actions.push(std::format!("{action:?}"));
        if action == Action::Nmi {
            line.push_str("no").unwrap();
        }
        action != Action::Nmi
    }
}

fn answer(model: &mut Model, command: &str) -> Vec<String> {
    let mut hmp = Hmp::new();
    hmp.start(command, model.cpu, model);
    let mut lines = Vec::new();
    let mut line = Line::new();
    for _ in 0..1_000_000 {
        match hmp.line(lines.len(), model, &mut line) {
            Progress::Line => lines.push(line.as_str().to_owned()),
            Progress::Working => {}
            Progress::Listing(listing) => return vec![format!("{listing:?}")],
            Progress::Done => return lines,
        }
    }
    panic!("no end");
}

#[test]
fn answers_of_a_real_2_8() {
    let model = &mut Model::default();
    for (command, lines) in [
        ("info status", &["VM status: paused (prelaunch)"][..]),
        ("info uuid", &["00000000-0000-0000-0000-000000000000"]),
        ("info kvm", &["kvm support: not compiled"]),
        ("info name", &["vm1"]),
        ("info history", &[]),
        ("info balloon", &["balloon: actual=128"]),
        ("info mice", &["* Mouse #2: QEMU PS/2 Mouse", "  Mouse #3: QEMU PS/2 Mouse (absolute)"]),
        ("stop", &[]),
        ("", &[]),
        ("print 1+2", &["3"]),
        ("print 1+", &["unexpected end of expression", "Try \"help p|print\" for more information"]),
        ("sum 0 16", &["00000"]),
        ("nosuch", &["unknown command: 'nosuch'"]),
        ("info nope", &["unknown command: 'nope'"]),
        ("cpu 9", &["invalid CPU index"]),
        ("i 0x71", &["portb[0x0071] = 0x71"]),
        (
            "quit now",
            &["q|quit: extraneous characters at the end of line", "Try \"help q|quit\" for more information"],
        ),
        ("x /1xw 0x2000", &["0000000000002000: Cannot access memory"]),
        ("xp /2xb 0xff", &["00000000000000ff: 0xff 0xff"]),
        ("help nmi", &["nmi  -- inject an NMI"]),
    ] {
        assert_eq!(answer(model, command), lines, "{command}");
    }
    let cpus = answer(model, "info cpus");
    assert_eq!(cpus[0], "* CPU #0: pc=0x00000000fffffff0 thread_id=1");
    assert_eq!(cpus[1], "  CPU #1: pc=0x00000000000fd406 (halted) thread_id=2");
}

#[test]
fn actions_reach_the_machine() {
    let model = &mut Model::default();
    assert!(answer(model, "cont").is_empty());
    assert_eq!(answer(model, "nmi"), ["no"]);
    assert!(answer(model, "o /w 0x70 1").is_empty());
    assert!(answer(model, "balloon 64").is_empty());
    assert!(answer(model, "mouse_set 3").is_empty());
    assert!(answer(model, "sendkey ctrl-alt-f1").is_empty());
    assert!(answer(model, "sendkey a 5").is_empty());
    assert_eq!(answer(model, "sendkey a 5 6").len(), 2);
    assert!(answer(model, "pmemsave 0x1000 16 \"/tmp/a\"").is_empty());
    assert_eq!(
        model.actions,
        [
            "Continue",
            "Nmi",
            "out 0x70 4 0x1",
            "Balloon(67108864)",
            "ChoosePointer(3)",
            "Keys { names: \"ctrl-alt-f1\", hold: 0 }",
            "Keys { names: \"a\", hold: 5 }",
            "Save { physical: true, address: 4096, size: 16, file: \"/tmp/a\" }"
        ]
    );
}

#[test]
fn hostile_lines_end() {
    let model = &mut Model::default();
    let long = "é".repeat(100_000);
    assert_eq!(answer(model, &long).len(), 1);
    assert!(answer(model, &std::format!("info {long}")).len() == 1);
    assert_eq!(answer(model, "x /4294967295xb 0x2000").len(), 1);
    assert_eq!(answer(model, "x /99999999999xb 0").len(), 2);
    assert_eq!(answer(model, "x /\u{e9} 0").len(), 2);
    assert_eq!(answer(model, "help").len(), COMMANDS.len());
    assert_eq!(answer(model, "info").len(), INFO.len());
    assert_eq!(answer(model, "sum 0 100000").len(), 1);
}

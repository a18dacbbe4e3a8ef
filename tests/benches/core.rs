//! How fast the monitor core is on the machine that builds it.
//!
//! `cargo bench -p monovisor-tests --bench core` prints a line a figure and fails where one is missed.

use std::{
    convert::Infallible,
    hint::black_box,
    time::{Duration, Instant},
};

use monovisor_core::{LineError, Monitor, Now, Port, json};
use monovisor_tests::model::{Model, Options};

/// A line that gives the same message over and over and counts what comes back.
struct Line<'a> {
    message: &'a [u8],
    at: usize,
    left: usize,
    sent: u64,
}

impl Port for Line<'_> {
    #[inline]
    fn read(&mut self) -> nb::Result<u8, LineError> {
        if self.at == self.message.len() {
            if self.left == 0 {
                return Err(nb::Error::WouldBlock);
            }
            self.left -= 1;
            self.at = 0;
        }
        let byte = self.message[self.at];
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn read_some(&mut self, bytes: &mut [u8]) -> nb::Result<usize, LineError> {
        if self.at == self.message.len() {
            if self.left == 0 {
                return Err(nb::Error::WouldBlock);
            }
            self.left -= 1;
            self.at = 0;
        }
        let count = bytes.len().min(self.message.len() - self.at);
        bytes[..count].copy_from_slice(&self.message[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) -> nb::Result<usize, Infallible> {
        self.sent += black_box(bytes).len() as u64;
        Ok(bytes.len())
    }
}

/// Time for `count` answers to a message, and the bytes of them.
fn answer(monitor: &mut Monitor<1>, model: &mut Model, message: &[u8], count: usize) -> (Duration, u64) {
    let mut line = Line { message, at: message.len(), left: count, sent: 0 };
    let now = Now::default();
    let start = Instant::now();
    while monitor.poll(0, &mut line, model, now) {}
    (start.elapsed(), line.sent)
}

/// The best of several runs, as anything slower was disturbed.
fn best(runs: usize, mut run: impl FnMut() -> Duration) -> Duration {
    (0..runs).map(|_| run()).min().unwrap_or_default()
}

/// The same for two that are compared: in turns, so that what disturbs one disturbs the other.
fn best_of_two(
    runs: usize,
    mut one: impl FnMut() -> Duration,
    mut other: impl FnMut() -> Duration,
) -> (Duration, Duration) {
    (0..runs).fold((Duration::MAX, Duration::MAX), |best, _| (best.0.min(one()), best.1.min(other())))
}

fn main() {
    const QUERY: &[u8] = br#"{"execute":"query-status","id":1}"#;
    const REPLY: &str =
        r#"{"return": {"status": "prelaunch", "singlestep": false, "running": false}, "id": 1}"#;
    const COUNT: usize = 5_000;
    let mut model = Model::new(Options::default());
    let mut monitor = Box::new(Monitor::<1>::new());
    monitor.start(model.product());
    answer(&mut monitor, &mut model, br#"{"execute":"qmp_capabilities"}"#, 1);

    let (_, sent) = answer(&mut monitor, &mut model, QUERY, 1);
    assert_eq!(sent as usize, REPLY.len() + 2, "the answer is the expected one");
    let reply: serde_json::Value = serde_json::from_str(REPLY).expect("JSON");
    let (ours, theirs) = best_of_two(
        200,
        || answer(&mut monitor, &mut model, QUERY, COUNT).0,
        || {
            let start = Instant::now();
            for _ in 0..COUNT {
                let parsed: serde_json::Value = serde_json::from_slice(black_box(QUERY)).expect("JSON");
                black_box(parsed);
                black_box(serde_json::to_string(black_box(&reply)).expect("a string"));
            }
            start.elapsed()
        },
    );
    let (ours, theirs) = (ours / COUNT as u32, theirs / COUNT as u32);
    let ratio = ours.as_nanos() as f64 / theirs.as_nanos() as f64;
    println!(
        "query-status: {ours:?}; serde_json parsing and printing the same: {theirs:?}; ratio {ratio:.2} (at most 1.0)"
    );

    let (_, bytes) = answer(&mut monitor, &mut model, br#"{"execute":"query-qmp-schema"}"#, 1);
    let schema =
        best(20, || answer(&mut monitor, &mut model, br#"{"execute":"query-qmp-schema"}"#, 20).0) / 20;
    let rate = bytes as f64 / schema.as_secs_f64() / 1e6;
    println!("query-qmp-schema: {bytes} bytes in {schema:?}: {rate:.0} MB/s (at least 500)");

    let mut long = Vec::from(&b"{\"execute\":\"query-name\",\"id\":["[..]);
    while long.len() < json::MESSAGE_BYTES - 100 {
        long.extend_from_slice(br#"{"key":"some text","n":[1,2.5,true,null]},"#);
    }
    long.extend_from_slice(b"0]}");
    let mut receiver = Box::new(json::Receiver::new());
    let parse = best(20, || {
        let start = Instant::now();
        black_box(receiver.feed(black_box(&long)));
        start.elapsed()
    });
    let rate = long.len() as f64 / parse.as_secs_f64() / 1e6;
    println!("a message of {} bytes: {parse:?} to parse: {rate:.0} MB/s", long.len());
    println!("memory of a session: {} bytes", size_of::<Monitor<2>>() - size_of::<Monitor<1>>());
    let missed = ratio > 1.0 || bytes as f64 / schema.as_secs_f64() < 500e6;
    std::process::exit(i32::from(missed));
}

//! Exits of a Linux guest that has nothing to do.
//!
//! An idle kernel sleeps in HLT until a timer of its own is due, handles that, sets the next one and sleeps again. What
//! this takes at the very least without hardware that delivers interrupts is needed: the HLT, the write that sets the timer, and
//! the end-of-interrupt write of each interrupt. **Extra** is every exit beyond that: ports that are polled, physical interrupts
//! that end the guest's run, windows, MSRs, CPUID, device memory.
//!
//! Time is counted in instructions as in the other runs, but waits for the world's time while the rig is idle: else
//! ten virtual seconds of it would be over before any client could ask.

use super::runs::{read_until, rig};
use crate::bridge::{Bridge, Protocol};
use crate::emulator::{Machine, Member};
use crate::guest::{self, Guest};
use crate::qmp::Client;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// For what the guest's start leaves to be done.
const SETTLE: Duration = Duration::from_secs(10);
/// Virtual seconds that are measured.
const SECONDS: f64 = 10.0;
/// Virtual seconds in front of them and behind, in which the client's commands are served.
const MARGIN: f64 = 0.5;
/// The longest in the world's seconds, should virtual time be slower than that.
const LIMIT: f64 = 120.0;

/// Local APIC registers as xAPIC pages and x2APIC MSRs have them: end of interrupt, and the timer's initial count.
const EOI: [&str; 2] = ["address=0xfee000b0", "msr=0x80b"];
const TIMER: [&str; 3] = ["address=0xfee00380", "msr=0x838", "msr=0x6e0"];

/// What was counted, a virtual second.
#[derive(Debug)]
pub struct Idle {
    /// All exits.
    pub total: f64,
    /// Those beyond what the guest's own sleeping and waking needs.
    pub extra: f64,
    /// Exits by their reason.
    pub reasons: BTreeMap<String, f64>,
}

/// Measures Debian's cloud kernel at its shell.
pub fn linux(image: &Path) -> Result<Idle> {
    let files = guest::files(Guest::Linux)?;
    let _progress = crate::progress::Progress::start("measuring an idle Linux");
    let initrd = files.initrd.context("the Linux guest has no initramfs")?;
    let members = vec![
        Member { name: "vmlinuz".into(), path: files.kernel },
        Member { name: "initrd".into(), path: initrd },
    ];
    let options = ["-m", "256", "-kernel", "vmlinuz", "-initrd", "initrd", "-append", &files.append];
    let mut rig = rig(image, "idle", &options, members)?;
    rig.deterministic = false;
    rig.extra = vec!["-icount".into(), "shift=0".into()];
    let Machine { process: mut qemu, qmp, mut console, .. } = rig.start()?;
    read_until(&mut console, "guest: ready")?;
    let bridge = Bridge::start(qmp, &rig.directory.join("qmp.sock"), Protocol::Qmp)?;
    let mut client = Client::connect(bridge.path())?;
    client.negotiate()?;
    std::thread::sleep(SETTLE);
    let mut wait = SECONDS + 4.0 * MARGIN;
    let text = loop {
        let from = client.execute("x-query-trace", json!({}))?["next"].clone();
        let switch = |client: &mut Client, name: &str, enable: bool| {
            client.execute("trace-event-set-state", json!({ "name": name, "enable": enable }))
        };
        for name in ["vcpu_*", "handle_qmp_command"] {
            switch(&mut client, name, true)?;
        }
        std::thread::sleep(Duration::from_secs_f64(wait));
        switch(&mut client, "*", false)?;
        let text = trace(&mut client, from)?;
        if span(&text).is_some_and(|(first, last)| last - first >= SECONDS + 2.0 * MARGIN) {
            break text;
        }
        // Virtual time was slower than the world's.
        wait *= 2.0;
        if wait > LIMIT {
            bail!("virtual time hardly passes");
        }
    };
    qemu.kill();
    std::fs::write(rig.directory.join("trace.txt"), &text)?;
    count(&text)
}

/// All records that are kept whole, from an offset on; none is added meanwhile.
fn trace(client: &mut Client, from: Value) -> Result<String> {
    let mut text = String::new();
    let mut next = from;
    loop {
        let part = client.execute("x-query-trace", json!({ "offset": next }))?;
        if part["next"] == next {
            // A ring that is full has lost what its first record began with.
            return Ok(text.split_once('\n').map(|(_, whole)| whole.to_owned()).unwrap_or_default());
        }
        text.push_str(part["text"].as_str().context("no text of a trace")?);
        next = part["next"].clone();
    }
}

/// Time of a record in seconds, its name and its words.
fn record(line: &str) -> Option<(f64, &str, &str)> {
    let (time, rest) = line.split_once(':')?;
    let (name, words) = rest.split_once(' ').unwrap_or((rest, ""));
    Some((time.parse().ok()?, name, words))
}

/// When the record began and ended.
fn span(text: &str) -> Option<(f64, f64)> {
    let mut times = text.lines().filter_map(record).map(|(time, _, _)| time);
    let first = times.next()?;
    Some((first, times.next_back()?))
}

impl fmt::Display for Idle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.1} exits a virtual second:", self.total)?;
        for (reason, count) in &self.reasons {
            write!(out, " {count:.1} {reason},")?;
        }
        write!(out, " {:.1} of them extra", self.extra)
    }
}

fn count(text: &str) -> Result<Idle> {
    let (start, _) = span(text).context("no record in the trace")?;
    let window = start + MARGIN..start + MARGIN + SECONDS;
    let mut reasons = BTreeMap::<String, f64>::new();
    let (mut total, mut interrupts, mut halts, mut ends, mut timers) = (0.0, 0.0f64, 0.0, 0.0f64, 0.0f64);
    for (_, name, words) in text.lines().filter_map(record).filter(|(time, ..)| window.contains(time)) {
        if name == "handle_qmp_command" {
            bail!("the ring of records is too small for {SECONDS} virtual seconds");
        }
        let is = |registers: &[&str]| words.split(' ').any(|word| registers.contains(&word));
        if name == "vcpu_inject_interrupt" {
            interrupts += 1.0;
        }
        let Some(reason) = name.strip_prefix("vcpu_exit_") else { continue };
        total += 1.0;
        let reason = match reason {
            "hlt" => {
                halts += 1.0;
                "hlt".to_owned()
            }
            _ if is(&EOI) => {
                ends += 1.0;
                "end of interrupt".to_owned()
            }
            _ if is(&TIMER) => {
                timers += 1.0;
                "timer".to_owned()
            }
            // Which port, register or address it was.
            reason => match words
                .split(' ')
                .find(|word| ["port=", "msr=", "address=", "leaf="].iter().any(|key| word.starts_with(key)))
            {
                Some(word) => format!("{reason} {word}"),
                None => reason.to_owned(),
            },
        };
        *reasons.entry(reason).or_default() += 1.0 / SECONDS;
    }
    if halts == 0.0 {
        bail!("the guest never slept while it was measured");
    }
    // One of each for an interrupt; more than that nobody needs.
    let needed = halts + ends.min(interrupts) + timers.min(interrupts);
    Ok(Idle { total: total / SECONDS, extra: (total - needed) / SECONDS, reasons })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
        7.900000:handle_qmp_command session=0 command=trace-event-set-state\n\
        8.350000:vcpu_exit_io cpu=0 rip=0x1 in port=0x3fd size=1\n\
        8.500000:vcpu_inject_interrupt cpu=0 vector=0xec\n\
        8.500100:vcpu_exit_wrmsr cpu=0 rip=0x1 msr=0x80b value=0x0\n\
        8.500200:vcpu_exit_wrmsr cpu=0 rip=0x1 msr=0x838 value=0x77\n\
        8.500300:vcpu_exit_wrmsr cpu=0 rip=0x1 msr=0x838 value=0x99\n\
        8.500400:vcpu_exit_io cpu=0 rip=0x1 in port=0x608 size=4\n\
        8.500500:vcpu_exit_hlt cpu=0 rip=0x1\n\
        19.000000:handle_qmp_command session=0 command=trace-event-set-state\n";

    #[test]
    fn what_sleeping_needs_is_not_extra() {
        let idle = count(TRACE).unwrap();
        let close = |value: f64, wanted: f64| (value - wanted).abs() < 1e-9;
        assert!(close(idle.total, 0.5) && close(idle.extra, 0.2), "{idle}");
        assert!(close(idle.reasons["io port=0x608"], 0.1) && close(idle.reasons["timer"], 0.2), "{idle}");
    }

    #[test]
    fn a_ring_that_was_too_small_is_an_error() {
        let short = TRACE.replace("19.0", "9.0");
        assert!(count(&short).is_err());
    }
}

//! Tracepoints: which there are, which are on, and the ring that keeps what they said.
//!
//! A product lists its tracepoints in a table and asks [`Tracepoints::is_on`] before it records anything, which is one
//! test of one bit. `trace-event-get-state` and `-set-state` are [`Tracepoints::get`] and [`Tracepoints::set`].

use core::fmt::{self, Write};

use crate::{
    Error,
    handlers::Element,
    schema::trace::{TraceEventGetStateArgs, TraceEventInfo, TraceEventSetStateArgs, TraceEventState},
};

/// Most tracepoints of a product.
pub const TRACEPOINTS: usize = 128;

/// Most processors whose tracepoints are switched one by one.
pub const VCPUS: usize = 8;

/// A place in the code that can say that it was passed.
#[derive(Clone, Copy, Debug)]
pub struct Tracepoint {
    /// Its name: lower-case words and underscores.
    pub name: &'static str,
    /// Whether it belongs to a virtual processor, so that it can be on for one and off for another.
    pub vcpu: bool,
}

/// The tracepoints of a product and their states. All are off at first.
#[derive(Debug)]
pub struct Tracepoints {
    points: &'static [Tracepoint],
    /// A bit a tracepoint: on for everything, or for at least one processor.
    on: u128,
    /// The same for the tracepoints of each processor.
    vcpus: [u128; VCPUS],
}

impl Tracepoints {
    /// The tracepoints of a table; those beyond [`TRACEPOINTS`] cannot be switched on.
    #[must_use]
    pub const fn new(points: &'static [Tracepoint]) -> Self {
        Self { points, on: 0, vcpus: [0; VCPUS] }
    }

    /// Whether any tracepoint is on.
    #[inline]
    #[must_use]
    pub fn any(&self) -> bool {
        self.on != 0
    }

    /// Whether the tracepoint with this index in the table is on.
    #[inline]
    #[must_use]
    pub fn is_on(&self, point: usize) -> bool {
        self.on & bit(point) != 0
    }

    /// Whether the tracepoint with this index in the table is on for a processor.
    #[inline]
    #[must_use]
    pub fn is_on_for(&self, point: usize, vcpu: usize) -> bool {
        self.is_on(point) && self.vcpus.get(vcpu).is_some_and(|on| on & bit(point) != 0)
    }

    /// Answers `trace-event-get-state`; `vcpus` is how many processors there are.
    ///
    /// # Errors
    /// Those of QEMU: no such processor, no such event, not an event of processors.
    pub fn get(
        &self,
        arguments: &TraceEventGetStateArgs<'_>,
        vcpus: usize,
        index: usize,
    ) -> Element<TraceEventInfo<'static>> {
        let vcpu = check_vcpu(arguments.vcpu, vcpus)?;
        self.check_name(arguments.name, vcpu)?;
        let found = self.selected(arguments.name, vcpu).rev().nth(index);
        Ok(found.map(|(number, point)| {
            let on = match vcpu {
                Some(vcpu) => self.is_on_for(number, vcpu),
                None => self.is_on(number),
            };
            let state = if on { TraceEventState::Enabled } else { TraceEventState::Disabled };
            TraceEventInfo { name: point.name, state, vcpu: point.vcpu }
        }))
    }

    /// Answers `trace-event-set-state`; `vcpus` is how many processors there are.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn set(&mut self, arguments: &TraceEventSetStateArgs<'_>, vcpus: usize) -> Result<(), Error> {
        let vcpu = check_vcpu(arguments.vcpu, vcpus)?;
        self.check_name(arguments.name, vcpu)?;
        let chosen = self.selected(arguments.name, vcpu).fold(0, |set, (number, _)| set | bit(number));
        let of_vcpus = self
            .points
            .iter()
            .enumerate()
            .filter(|(_, point)| point.vcpu)
            .fold(0, |set, (number, _)| set | bit(number));
        for (number, on) in self.vcpus.iter_mut().enumerate() {
            if vcpu.is_none_or(|vcpu| vcpu == number) {
                *on = if arguments.enable { *on | chosen } else { *on & !chosen };
            }
        }
        let some = self.vcpus.iter().take(vcpus).fold(0, |set, on| set | on) & of_vcpus;
        let global = if arguments.enable { self.on | chosen } else { self.on & !chosen };
        self.on = (global & !of_vcpus) | some;
        Ok(())
    }

    fn check_name(&self, name: &str, vcpu: Option<usize>) -> Result<(), Error> {
        if name.contains('*') {
            return Ok(());
        }
        match self.points.iter().find(|point| point.name == name) {
            None => Err(Error::generic(format_args!("unknown event \"{name}\""))),
            Some(point) if vcpu.is_some() && !point.vcpu => {
                Err(Error::generic(format_args!("event \"{name}\" is not vCPU-specific")))
            }
            Some(_) => Ok(()),
        }
    }

    fn selected(
        &self,
        pattern: &str,
        vcpu: Option<usize>,
    ) -> impl DoubleEndedIterator<Item = (usize, &'static Tracepoint)> {
        self.points
            .iter()
            .enumerate()
            .filter(move |(_, point)| (vcpu.is_none() || point.vcpu) && matches(pattern, point.name))
    }
}

fn bit(point: usize) -> u128 {
    u32::try_from(point).ok().and_then(|point| 1_u128.checked_shl(point)).unwrap_or(0)
}

fn check_vcpu(vcpu: Option<i64>, vcpus: usize) -> Result<Option<usize>, Error> {
    let Some(number) = vcpu else { return Ok(None) };
    match usize::try_from(number) {
        Ok(index) if index < vcpus => Ok(Some(index)),
        _ => Err(Error::generic(format_args!("invalid vCPU index {}", number as u32))),
    }
}

/// Whether a name matches a pattern in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.as_bytes(), name.as_bytes());
    // What is behind the last star, and the text that the star has not taken.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, name) {
            ([b'*', behind @ ..], _) => {
                pattern = behind;
                star = Some((behind, name));
            }
            ([], []) => return true,
            ([wanted, behind @ ..], [found, left @ ..]) if wanted == found => {
                (pattern, name) = (behind, left);
            }
            _ => {
                // The star takes one byte more.
                let Some((behind, [_, left @ ..])) = star else { return false };
                (pattern, name) = (behind, left);
                star = Some((behind, left));
            }
        }
    }
}

/// A ring of text that remembers how much was ever written, so that a reader can go on where it stopped.
#[derive(Debug)]
pub struct TextRing<const N: usize> {
    bytes: [u8; N],
    /// Bytes ever written.
    end: u64,
}

/// What was read from a [`TextRing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Bytes read.
    pub len: usize,
    /// Where to go on.
    pub next: u64,
    /// Bytes between the place asked for and the oldest that is still there.
    pub lost: u64,
}

impl<const N: usize> Default for TextRing<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> TextRing<N> {
    /// An empty ring.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; N], end: 0 }
    }

    /// Reads from `offset` (the oldest byte for `None`) as much as fits `out`, whole ASCII characters only: bytes beyond are
    /// given as `?`.
    pub fn read(&self, offset: Option<u64>, out: &mut [u8]) -> Reading {
        let oldest = self.end.saturating_sub(N as u64);
        let from = offset.unwrap_or(oldest).clamp(oldest, self.end);
        let mut at = from;
        let mut len: usize = 0;
        for byte in out.iter_mut() {
            if at >= self.end {
                break;
            }
            let stored = self.bytes.get(self.place(at)).copied().unwrap_or(b'?');
            *byte = if stored.is_ascii() { stored } else { b'?' };
            at = at.saturating_add(1);
            len = len.saturating_add(1);
        }
        Reading { len, next: at, lost: from.saturating_sub(offset.unwrap_or(from)) }
    }

    fn place(&self, at: u64) -> usize {
        at.checked_rem(N as u64).unwrap_or(0) as usize
    }
}

impl<const N: usize> Write for TextRing<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            let place = self.place(self.end);
            if let Some(slot) = self.bytes.get_mut(place) {
                *slot = byte;
            }
            self.end = self.end.saturating_add(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static POINTS: &[Tracepoint] = &[
        Tracepoint { name: "exit_cpuid", vcpu: true },
        Tracepoint { name: "exit_io", vcpu: true },
        Tracepoint { name: "uart_write", vcpu: false },
    ];

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxc", false),
            ("*b", "abc", false),
            ("abc", "abc", true),
            ("ab", "abc", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn switching() {
        let mut points = Tracepoints::new(POINTS);
        let set =
            |name, enable, vcpu| TraceEventSetStateArgs { name, enable, ignore_unavailable: None, vcpu };
        points.set(&set("exit*", true, Some(1)), 2).unwrap();
        assert!(points.is_on_for(0, 1) && !points.is_on_for(0, 0) && points.is_on(1) && !points.is_on(2));
        points.set(&set("*", true, None), 2).unwrap();
        assert!(points.is_on(2) && points.is_on_for(0, 0));
        points.set(&set("exit_cpuid", false, None), 2).unwrap();
        assert!(!points.is_on(0) && points.is_on(1));
        points.set(&set("*", false, None), 2).unwrap();
        assert!(!points.any());
        let get = |name, vcpu| TraceEventGetStateArgs { name, vcpu };
        let text = |name, vcpu| std::format!("{}", points.get(&get(name, vcpu), 2, 0).unwrap_err());
        assert_eq!(text("nope", None), "unknown event \"nope\"");
        assert_eq!(text("uart_write", Some(0)), "event \"uart_write\" is not vCPU-specific");
        assert_eq!(text("uart_write", Some(9)), "invalid vCPU index 9");
        assert!(points.get(&get("nope*", None), 2, 0).unwrap().is_none());
        assert_eq!(points.get(&get("*", None), 2, 0).unwrap().unwrap().name, "uart_write");
    }

    #[test]
    fn a_ring_knows_what_it_lost() {
        let mut ring = TextRing::<8>::new();
        ring.write_str("abcdef").unwrap();
        let mut out = [0; 4];
        assert_eq!(ring.read(None, &mut out), Reading { len: 4, next: 4, lost: 0 });
        assert_eq!(&out, b"abcd");
        ring.write_str("ghijkl").unwrap();
        assert_eq!(ring.read(Some(1), &mut out), Reading { len: 4, next: 8, lost: 3 });
        assert_eq!(&out, b"efgh");
        assert_eq!(ring.read(Some(100), &mut out), Reading { len: 0, next: 12, lost: 0 });
    }
}

//! Events on their way into a guest: how they merge, and how the vendors write them.
//!
//! A virtual processor holds at most one event for its next entry. A second one arrives when the first could not be
//! delivered: the exit happened in the middle of it (EXITINTINFO, IDT-vectoring information), or the hypervisor adds
//! an exception of its own. What then happens is what a processor does (SDM vol. 3, tables 6-4 and 6-5; APM vol. 2,
//! 8.2.9): some pairs make a double fault, a fault on top of that shuts the processor down, and all other pairs are
//! handled one after the other, the later one first. The earlier one is then gone, as on a processor: a faulting or
//! software event comes again when its instruction is run again.

use monovisor_arch::{Event, EventKind, vector};

/// What became of an event that was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It waits for the next entry (in the place of an earlier one, if there was one).
    Queued,
    /// It merged with an earlier one to a double fault, which waits.
    DoubleFault,
    /// It was a fault in the delivery of a double fault: the processor shuts down.
    Shutdown,
    /// An interrupt or NMI that cannot be taken now, because something else waits already: not queued.
    Refused,
}

/// The event that waits for the next entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventQueue {
    pending: Option<Event>,
    shutdown: bool,
}

/// Classes of SDM vol. 3, table 6-4.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(event: &Event) -> Class {
    if event.kind != EventKind::Exception {
        return Class::Benign;
    }
    match event.vector {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP | vector::CP => Class::Contributory,
        vector::PF | vector::VE => Class::PageFault,
        vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

impl EventQueue {
    /// Nothing waits.
    pub const fn new() -> Self {
        Self { pending: None, shutdown: false }
    }

    /// Adds an event behind what waits.
    pub fn push(&mut self, event: Event) -> Outcome {
        if self.shutdown {
            return Outcome::Shutdown;
        }
        let Some(first) = self.pending else {
            self.pending = Some(event);
            return Outcome::Queued;
        };
        if matches!(event.kind, EventKind::Interrupt | EventKind::Nmi) {
            return Outcome::Refused;
        }
        match (class(&first), class(&event)) {
            (Class::Contributory, Class::Contributory)
            | (Class::PageFault, Class::Contributory | Class::PageFault) => {
                self.pending = Some(Event::fault(vector::DF, 0));
                Outcome::DoubleFault
            }
            (Class::DoubleFault, Class::Contributory | Class::PageFault | Class::DoubleFault) => {
                self.pending = None;
                self.shutdown = true;
                Outcome::Shutdown
            }
            _ => {
                self.pending = Some(event);
                Outcome::Queued
            }
        }
    }

    /// The event that waits.
    pub const fn pending(&self) -> Option<Event> {
        self.pending
    }

    /// Nothing waits, neither an event nor a shutdown.
    pub const fn is_empty(&self) -> bool {
        self.pending.is_none() && !self.shutdown
    }

    /// Takes the event out for the entry.
    pub const fn take(&mut self) -> Option<Event> {
        self.pending.take()
    }

    /// True, once, after a fault in the delivery of a double fault: the processor must not enter the guest.
    pub const fn take_shutdown(&mut self) -> bool {
        core::mem::replace(&mut self.shutdown, false)
    }

    /// Forgets everything (reset).
    pub const fn clear(&mut self) {
        *self = Self::new();
    }
}

/// "Valid", in both vendors' formats.
const VALID: u32 = 1 << 31;
/// "Error code valid", in both.
const ERROR_CODE: u32 = 1 << 11;
/// Event type, bits 10:8 in both.
const TYPE_SHIFT: u32 = 8;

/// EVENTINJ (APM vol. 2, 15.20): the low half as in VMX with fewer types, the error code in the high half. INT1, INT3
/// and INTO are exceptions here.
pub const fn to_svm(event: &Event) -> u64 {
    let kind: u32 = match event.kind {
        EventKind::Interrupt => 0,
        EventKind::Nmi => 2,
        EventKind::Exception | EventKind::SoftwareException | EventKind::PrivilegedSoftwareException => 3,
        EventKind::SoftwareInterrupt => 4,
    };
    encode(kind, event) as u64 | (error_code(event) as u64) << 32
}

/// EXITINTINFO (APM vol. 2, 15.7.2): the event that the exit interrupted in delivery. `None` when there is none, or
/// its type is reserved.
pub const fn from_svm(info: u64) -> Option<Event> {
    let low = info as u32;
    if low & VALID == 0 {
        return None;
    }
    let vector = low as u8;
    let kind = match low >> TYPE_SHIFT & 7 {
        0 => EventKind::Interrupt,
        2 => EventKind::Nmi,
        // INT3 and INTO raise these; nothing else does.
        3 if vector == vector::BP || vector == vector::OF => EventKind::SoftwareException,
        3 => EventKind::Exception,
        4 => EventKind::SoftwareInterrupt,
        _ => return None,
    };
    Some(decode(kind, low, (info >> 32) as u32, 0))
}

/// VM-entry interruption-information field (SDM vol. 3, table 25-17). The error code and the instruction length have
/// fields of their own, to be written from the event.
pub const fn to_vmx(event: &Event) -> u32 {
    let kind: u32 = match event.kind {
        EventKind::Interrupt => 0,
        EventKind::Nmi => 2,
        EventKind::Exception => 3,
        EventKind::SoftwareInterrupt => 4,
        EventKind::PrivilegedSoftwareException => 5,
        EventKind::SoftwareException => 6,
    };
    encode(kind, event)
}

/// IDT-vectoring information with its error code and the VM-exit instruction length (SDM vol. 3, 25.9.3, 27.2.4).
/// `None` when it is not valid, or its type is reserved.
pub const fn from_vmx(info: u32, error_code: u32, instruction_length: u8) -> Option<Event> {
    if info & VALID == 0 {
        return None;
    }
    let kind = match info >> TYPE_SHIFT & 7 {
        0 => EventKind::Interrupt,
        2 => EventKind::Nmi,
        3 => EventKind::Exception,
        4 => EventKind::SoftwareInterrupt,
        5 => EventKind::PrivilegedSoftwareException,
        6 => EventKind::SoftwareException,
        _ => return None,
    };
    Some(decode(kind, info, error_code, instruction_length))
}

const fn encode(kind: u32, event: &Event) -> u32 {
    let code = if event.error_code.is_some() { ERROR_CODE } else { 0 };
    VALID | code | kind << TYPE_SHIFT | event.vector as u32
}

const fn error_code(event: &Event) -> u32 {
    match event.error_code {
        Some(code) => code,
        None => 0,
    }
}

const fn decode(kind: EventKind, info: u32, error_code: u32, length: u8) -> Event {
    let software = matches!(
        kind,
        EventKind::SoftwareInterrupt | EventKind::SoftwareException | EventKind::PrivilegedSoftwareException
    );
    Event {
        kind,
        vector: info as u8,
        error_code: if info & ERROR_CODE != 0 { Some(error_code) } else { None },
        instruction_length: if software { length } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GP: Event = Event::fault(vector::GP, 8);
    const PF: Event = Event::fault(vector::PF, 2);
    const UD: Event = Event::exception(vector::UD);
    const DF: Event = Event::fault(vector::DF, 0);

    fn merge(first: Event, second: Event) -> (Outcome, Option<Event>) {
        let mut queue = EventQueue::new();
        assert_eq!(queue.push(first), Outcome::Queued);
        let outcome = queue.push(second);
        (outcome, queue.pending())
    }

    #[test]
    fn pairs_merge_as_sdm_table_6_5() {
        use Outcome::{DoubleFault, Queued, Shutdown};
        for (first, second, outcome, left) in [
            // Benign first, or benign second: one after the other.
            (UD, UD, Queued, Some(UD)),
            (UD, GP, Queued, Some(GP)),
            (UD, PF, Queued, Some(PF)),
            (GP, UD, Queued, Some(UD)),
            (PF, UD, Queued, Some(UD)),
            (DF, UD, Queued, Some(UD)),
            // Contributory first.
            (GP, GP, DoubleFault, Some(DF)),
            (GP, PF, Queued, Some(PF)),
            // Page fault first.
            (PF, GP, DoubleFault, Some(DF)),
            (PF, PF, DoubleFault, Some(DF)),
            // Double fault first.
            (DF, GP, Shutdown, None),
            (DF, PF, Shutdown, None),
            // Interrupts are benign, even on a vector that is an exception's.
            (Event::interrupt(vector::GP), GP, Queued, Some(GP)),
            (Event::nmi(), PF, Queued, Some(PF)),
        ] {
            assert_eq!(merge(first, second), (outcome, left), "{first:?} then {second:?}");
        }
        for contributory in [vector::DE, vector::TS, vector::NP, vector::SS, vector::GP, vector::CP] {
            assert_eq!(merge(Event::exception(contributory), GP).0, DoubleFault);
        }
        for benign in
            [vector::DB, vector::BP, vector::OF, vector::BR, vector::NM, vector::MF, vector::AC, vector::MC]
        {
            assert_eq!(merge(Event::exception(benign), GP).0, Queued);
        }
    }

    #[test]
    fn a_shutdown_is_told_once_and_ends_with_reset() {
        let mut queue = EventQueue::new();
        queue.push(DF);
        queue.push(GP);
        assert!(!queue.is_empty());
        assert_eq!(queue.push(UD), Outcome::Shutdown);
        assert!(queue.take_shutdown());
        assert!(!queue.take_shutdown());
        assert!(queue.is_empty());
        queue.push(UD);
        queue.clear();
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn an_interrupt_never_replaces_what_waits() {
        assert_eq!(merge(GP, Event::interrupt(32)), (Outcome::Refused, Some(GP)));
        assert_eq!(merge(Event::interrupt(32), Event::nmi()), (Outcome::Refused, Some(Event::interrupt(32))));
    }

    #[test]
    fn the_vendors_formats_go_both_ways() {
        assert_eq!(to_svm(&Event::interrupt(0x31)), 0x8000_0031);
        assert_eq!(to_svm(&Event::nmi()), 0x8000_0202);
        assert_eq!(to_svm(&Event::fault(vector::PF, 7)), 0x7_8000_0b0e);
        assert_eq!(to_vmx(&Event::fault(vector::PF, 7)), 0x8000_0b0e);
        let int3 = Event { kind: EventKind::SoftwareException, ..Event::exception(vector::BP) };
        assert_eq!(to_svm(&int3), 0x8000_0303);
        assert_eq!(to_vmx(&int3), 0x8000_0603);

        for event in [Event::interrupt(255), Event::nmi(), UD, PF, Event::fault(vector::DF, 0)] {
            assert_eq!(from_svm(to_svm(&event)), Some(event));
            assert_eq!(from_vmx(to_vmx(&event), event.error_code.unwrap_or(0), 3), Some(event));
        }
        assert_eq!(from_svm(0x8000_0303), Some(int3));
        let int80 =
            Event { kind: EventKind::SoftwareInterrupt, instruction_length: 2, ..Event::exception(0x80) };
        assert_eq!(from_vmx(to_vmx(&int80), 0, 2), Some(int80));
        // Not valid, and reserved types.
        assert_eq!(from_svm(0x0000_0b0e), None);
        assert_eq!(from_svm(0x8000_0131), None);
        assert_eq!(from_vmx(0x0b0e, 0, 0), None);
        assert_eq!(from_vmx(0x8000_0131, 0, 0), None);
        assert_eq!(from_vmx(0x8000_0700, 0, 0), None);
    }
}

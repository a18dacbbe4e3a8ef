//! Posted interrupts (SDM vol. 3, 30.6): how one processor gives another an interrupt while that runs its guest, without a
//! look at each other's registers.
//!
//! Each virtual processor has a descriptor. Whoever has an interrupt for it sets its bit there, then ON, and where ON was 0
//! sends the notification, a physical interrupt. A processor that can takes the notification without an exit: it clears ON,
//! and the bits go to the virtual IRR. Any other leaves its guest by it. Its host does the same as that: before each entry,
//! where ON is 1, it clears ON and takes the bits. So no interrupt stays behind:
//!
//! - A bit is set before ON, and ON is cleared before the bits are taken: a bit that has come too late for that has found ON 0,
//!   and is notified of.
//! - Interrupts are off between the host's look at ON and the entry: a notification that comes in between waits, and is the first
//!   thing that happens in the guest.
//! - What has to see all interrupts, a processor in HLT above all, takes the descriptor out of use first. That is done, as
//!   posting is, with the device lock held.
//!
//! A processor with AVIC has no descriptor: others leave interrupts in the IRR of the page that it delivers from ([`ApicPage`]).
//! Each entry looks at that page, and so does a doorbell in the guest, so that what was left before one of them is seen.

use crate::apic_page::ApicPage;
use core::sync::atomic::{AtomicU32, Ordering};

/// Where others leave interrupts for a processor that delivers them by itself.
#[derive(Clone, Copy, Debug)]
pub enum Inbox {
    /// A descriptor, on VMX.
    Descriptor(&'static PostedInterrupts),
    /// The page of its registers, on SVM.
    Page(&'static ApicPage),
}

impl Inbox {
    /// Leaves an interrupt. True: the processor is to be notified.
    pub fn post(self, vector: u8) -> bool {
        match self {
            Self::Descriptor(posted) => posted.post(vector),
            Self::Page(page) => {
                page.post(vector);
                true
            }
        }
    }
}

/// ON: outstanding notification.
const OUTSTANDING: u32 = 1;

/// A posted-interrupt descriptor (SDM vol. 3, table 30-1). Zero is a value of it: nothing is posted.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct PostedInterrupts {
    /// PIR: vector n is bit n mod 32 of word n / 32.
    requests: [AtomicU32; 8],
    control: AtomicU32,
    _unused: [u32; 7],
}

impl PostedInterrupts {
    /// Nothing is posted.
    pub const fn new() -> Self {
        Self { requests: [const { AtomicU32::new(0) }; 8], control: AtomicU32::new(0), _unused: [0; 7] }
    }

    /// Posts an interrupt. True: the processor is to be notified.
    pub fn post(&self, vector: u8) -> bool {
        self.request(vector);
        self.announce()
    }

    /// Something may have been posted.
    #[inline]
    pub fn outstanding(&self) -> bool {
        self.control.load(Ordering::Relaxed) & OUTSTANDING != 0
    }

    /// Takes all that has been posted.
    #[inline(never)]
    pub fn take(&self) -> [u32; 8] {
        self.begin();
        self.drain()
    }

    // The steps of these, each of which others may come between.

    fn request(&self, vector: u8) {
        if let Some(word) = self.requests.get(usize::from(vector >> 5)) {
            word.fetch_or(1 << (vector & 31), Ordering::AcqRel);
        }
    }

    fn announce(&self) -> bool {
        self.control.fetch_or(OUTSTANDING, Ordering::AcqRel) & OUTSTANDING == 0
    }

    fn begin(&self) {
        self.control.fetch_and(!OUTSTANDING, Ordering::AcqRel);
    }

    fn drain(&self) -> [u32; 8] {
        let mut taken = [0; 8];
        for (taken, word) in taken.iter_mut().zip(&self.requests) {
            *taken = word.swap(0, Ordering::AcqRel);
        }
        taken
    }
}

impl Default for PostedInterrupts {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::collections::HashSet;
    use std::vec::Vec;

    #[test]
    fn the_layout_is_that_of_the_manual() {
        let posted = PostedInterrupts::new();
        assert_eq!((size_of_val(&posted), align_of_val(&posted)), (64, 64));
        assert_eq!(core::mem::offset_of!(PostedInterrupts, control), 32);
        assert!(!posted.outstanding());
        assert!(posted.post(0x21) && posted.outstanding());
        assert!(!posted.post(0xff), "notified of already");
        assert_eq!(posted.take(), [0, 2, 0, 0, 0, 0, 0, 1 << 31]);
        assert!(!posted.outstanding() && posted.take() == [0; 8]);
        assert!(posted.post(0x21), "and once more");
    }

    /// Where a processor is that posts one interrupt.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    enum Sender {
        Begin,
        Locked,
        Requested,
        /// The device lock has been let go; what is to be sent.
        Notify,
        Attend,
        Kick,
        Done,
    }

    /// Where the processor is that is posted to.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    enum Target {
        /// In the host: the look at the attention word.
        Look,
        /// With the device lock: its interrupts go back to its local APIC, by two steps.
        TakeBack,
        TakeBackDrain,
        /// The look at ON, and the two steps of taking what is posted.
        Check,
        Sync,
        SyncDrain,
        Guest,
        /// What the processor does by itself in the guest.
        Hardware,
        /// Interrupts are taken.
        Window,
        /// HLT of the host.
        Asleep,
    }

    /// What is wrong on purpose, for the search to find.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fault {
        None,
        /// ON is cleared when the bits have been taken.
        ClearsLate,
        /// ON is not looked at before an entry.
        NoLook,
        /// The descriptor, or the page, stays in use while the processor halts.
        PostedInHalt,
        /// The doorbell comes before the bit.
        RingsEarly,
    }

    /// Everything there is, between two steps.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct World {
        requests: u32,
        on: bool,
        /// The virtual IRR, the local APIC's own, and what the guest has got.
        virtual_requests: u32,
        /// What of the page's IRR the processor has seen: at the entry, and when the doorbell last rang in the guest.
        seen: u32,
        model: u32,
        delivered: u32,
        /// The descriptor is in use.
        posting: bool,
        /// Physical interrupts that wait: notification and kick.
        notification: bool,
        kick: bool,
        attention: bool,
        locked: bool,
        halted: bool,
        /// Exits and HLTs of the guest that are left.
        exits: u8,
        halts: u8,
        senders: [Sender; 2],
        target: Target,
    }

    /// How the processor gets what is left for it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Kind {
        /// From a descriptor, by its host.
        Host,
        /// From a descriptor, in its guest by itself.
        Hardware,
        /// From the page of its registers, at an entry or a doorbell; one that rings elsewhere has no effect.
        Page,
    }

    struct Search {
        vectors: [u8; 2],
        kind: Kind,
        fault: Fault,
    }

    impl Search {
        fn with<R>(world: &mut World, act: impl FnOnce(&PostedInterrupts) -> R) -> R {
            let posted = PostedInterrupts::new();
            posted.requests[1].store(world.requests, Ordering::Relaxed);
            posted.control.store(world.on.into(), Ordering::Relaxed);
            let result = act(&posted);
            world.requests = posted.requests[1].load(Ordering::Relaxed);
            world.on = posted.outstanding();
            result
        }

        /// The first step of taking, and the second.
        fn first(&self, world: &mut World) {
            if self.fault == Fault::ClearsLate {
                world.virtual_requests |= Self::with(world, |posted| posted.drain())[1];
            } else {
                Self::with(world, PostedInterrupts::begin);
            }
        }

        fn second(&self, world: &mut World) {
            if self.fault == Fault::ClearsLate {
                Self::with(world, PostedInterrupts::begin);
            } else {
                world.virtual_requests |= Self::with(world, |posted| posted.drain())[1];
            }
        }

        fn send(&self, world: &World, index: usize) -> Option<World> {
            let mut next = world.clone();
            let vector = self.vectors[index];
            next.senders[index] = match world.senders[index] {
                Sender::Begin if world.locked => return None,
                Sender::Begin => {
                    next.locked = true;
                    Sender::Locked
                }
                Sender::Locked if world.posting && self.kind == Kind::Page => {
                    if self.fault == Fault::RingsEarly && world.target == Target::Guest {
                        next.seen = next.virtual_requests;
                    }
                    next.virtual_requests |= 1 << (vector & 31);
                    next.locked = false;
                    if self.fault == Fault::RingsEarly { Sender::Done } else { Sender::Notify }
                }
                Sender::Locked if world.posting => {
                    Self::with(&mut next, |posted| posted.request(vector));
                    Sender::Requested
                }
                Sender::Locked => {
                    next.model |= 1 << (vector & 31);
                    next.locked = false;
                    Sender::Attend
                }
                Sender::Requested => {
                    let first = Self::with(&mut next, PostedInterrupts::announce);
                    next.locked = false;
                    if first { Sender::Notify } else { Sender::Done }
                }
                Sender::Notify if self.kind == Kind::Page => {
                    if world.target == Target::Guest {
                        next.seen = next.virtual_requests;
                    }
                    Sender::Done
                }
                Sender::Notify => {
                    next.notification = true;
                    Sender::Done
                }
                Sender::Attend => {
                    next.attention = true;
                    if world.attention { Sender::Done } else { Sender::Kick }
                }
                Sender::Kick => {
                    next.kick = true;
                    Sender::Done
                }
                Sender::Done => return None,
            };
            Some(next)
        }

        /// What the processor delivers in its guest.
        fn taken(&self, world: &World) -> u32 {
            if self.kind == Kind::Page { world.seen } else { world.virtual_requests }
        }

        fn target(&self, world: &World) -> Vec<World> {
            let mut next = world.clone();
            let to = |mut next: World, target| {
                next.target = target;
                next.seen = if target == Target::Guest { next.virtual_requests } else { 0 };
                std::vec![next]
            };
            match world.target {
                Target::Look if world.attention || (world.halted && world.posting) => {
                    if world.locked {
                        return Vec::new();
                    }
                    (next.attention, next.locked) = (false, true);
                    to(next, Target::TakeBack)
                }
                Target::Look if world.halted => to(next, Target::Asleep),
                Target::Look => to(next, Target::Check),
                Target::TakeBack => {
                    self.first(&mut next);
                    to(next, Target::TakeBackDrain)
                }
                Target::TakeBackDrain => {
                    self.second(&mut next);
                    let all = next.virtual_requests | next.model;
                    (next.virtual_requests, next.model, next.locked) = (all, 0, false);
                    next.halted &= all == 0;
                    next.posting = !next.halted;
                    to(next, Target::Look)
                }
                Target::Check if world.on && self.fault != Fault::NoLook => to(next, Target::Sync),
                Target::Check => to(next, Target::Guest),
                Target::Sync => {
                    self.first(&mut next);
                    to(next, Target::SyncDrain)
                }
                Target::SyncDrain => {
                    self.second(&mut next);
                    to(next, Target::Guest)
                }
                Target::Hardware => {
                    self.second(&mut next);
                    to(next, Target::Guest)
                }
                Target::Guest if world.kick || (world.notification && self.kind != Kind::Hardware) => {
                    to(next, Target::Window)
                }
                Target::Guest if world.notification => {
                    next.notification = false;
                    self.first(&mut next);
                    to(next, Target::Hardware)
                }
                Target::Guest => {
                    let mut all = Vec::new();
                    if self.taken(world) != 0 {
                        let mut next = world.clone();
                        next.delivered |= self.taken(world);
                        next.virtual_requests &= !self.taken(world);
                        next.seen = 0;
                        all.push(next);
                    }
                    if world.exits != 0 {
                        next.exits -= 1;
                        all.extend(to(next.clone(), Target::Look));
                        all.extend(to(next, Target::Window));
                    }
                    if world.halts != 0 {
                        let mut next = world.clone();
                        next.halts -= 1;
                        next.halted = true;
                        next.target =
                            if self.fault == Fault::PostedInHalt { Target::Asleep } else { Target::Look };
                        all.push(next);
                    }
                    all
                }
                Target::Window => {
                    (next.notification, next.kick) = (false, false);
                    to(next, Target::Look)
                }
                Target::Asleep if world.notification || world.kick => {
                    (next.notification, next.kick) = (false, false);
                    let after = if self.fault == Fault::PostedInHalt { Target::Asleep } else { Target::Look };
                    to(next, after)
                }
                Target::Asleep => Vec::new(),
            }
        }

        /// Goes through every order of all steps; how many states there are, or one in which an interrupt stays behind.
        fn run(&self) -> Result<usize, World> {
            let all = self.vectors.iter().fold(0, |all, vector| all | 1 << (vector & 31));
            let begin = World {
                requests: 0,
                on: false,
                virtual_requests: 0,
                seen: 0,
                model: 0,
                delivered: 0,
                posting: true,
                notification: false,
                kick: false,
                attention: false,
                locked: false,
                halted: false,
                exits: 2,
                halts: 2,
                senders: [Sender::Begin; 2],
                target: Target::Look,
            };
            let mut seen = HashSet::from([begin.clone()]);
            let mut open = std::vec![begin];
            while let Some(world) = open.pop() {
                let mut next: Vec<World> = (0..2).filter_map(|index| self.send(&world, index)).collect();
                let all_sent = next.is_empty() && !world.locked;
                next.extend(self.target(&world));
                // Nothing more happens unless the guest wants it to.
                let rests = match world.target {
                    Target::Guest => !world.notification && !world.kick,
                    Target::Asleep => !world.notification && !world.kick,
                    _ => false,
                };
                let got =
                    world.delivered | if world.target == Target::Guest { self.taken(&world) } else { 0 };
                if all_sent && rests && got != all {
                    return Err(world);
                }
                open.extend(next.into_iter().filter(|next| seen.insert(next.clone())));
            }
            Ok(seen.len())
        }
    }

    #[test]
    fn no_interrupt_stays_behind_in_any_order_of_steps() {
        for kind in [Kind::Host, Kind::Hardware, Kind::Page] {
            for vectors in [[0x21, 0x32], [0x2f, 0x2f]] {
                let states = Search { vectors, kind, fault: Fault::None }.run();
                assert!(matches!(states, Ok(500..)), "{kind:?} {states:?}");
            }
        }
    }

    #[test]
    fn the_search_finds_what_is_wrong() {
        let descriptor = [Fault::ClearsLate, Fault::NoLook, Fault::PostedInHalt];
        let page = [Fault::RingsEarly, Fault::PostedInHalt];
        for (kind, faults) in
            [(Kind::Host, &descriptor[..]), (Kind::Hardware, &descriptor), (Kind::Page, &page)]
        {
            for &fault in faults {
                let found = Search { vectors: [0x21, 0x32], kind, fault }.run();
                assert!(found.is_err(), "{fault:?} {kind:?}: {found:?}");
            }
        }
    }
}

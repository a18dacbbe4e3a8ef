//! What a disk has been asked to do, and what has gone wrong with it, as `query-blockstats` shows it.

use crate::disk::DiskError;

/// A kind of operation that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Data to the guest.
    Read,
    /// Data from the guest, and zeros that it wants written.
    Write,
    /// What has been written is to outlive the power.
    Flush,
}

/// What has become of the operations of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes of those that succeeded.
    pub bytes: u64,
    /// Those that succeeded.
    pub operations: u64,
    /// Those that the medium could not do.
    pub failed: u64,
    /// Those that cannot be done: beyond the end, or no whole blocks.
    pub invalid: u64,
    /// What all that were begun took, in ticks of [`Disk::ticks`](crate::disk::Disk::ticks).
    pub ticks: u64,
}

/// All counts of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// By [`Operation`].
    tallies: [Tally; 3],
    /// End of the write that has come furthest, in bytes.
    pub highest: u64,
    /// When the last operation ended, in ticks of [`Disk::ticks`](crate::disk::Disk::ticks).
    pub last: Option<u64>,
}

impl Statistics {
    /// The counts of a kind.
    pub fn of(&self, operation: Operation) -> Tally {
        self.tallies.get(operation as usize).copied().unwrap_or_default()
    }

    /// Counts an operation that took from tick `start` to tick `end`, with `bytes` of data where it succeeded.
    pub(super) fn done(&mut self, operation: Operation, bytes: Option<u64>, start: u64, end: u64) {
        self.last = Some(end);
        let Some(tally) = self.tallies.get_mut(operation as usize) else { return };
        match bytes {
            Some(bytes) => {
                tally.operations = tally.operations.wrapping_add(1);
                tally.bytes = tally.bytes.wrapping_add(bytes);
            }
            None => tally.failed = tally.failed.wrapping_add(1),
        }
        tally.ticks = tally.ticks.wrapping_add(end.wrapping_sub(start));
    }

    /// Counts an operation that cannot be done.
    pub(super) fn invalid(&mut self, operation: Operation, now: u64) {
        self.last = Some(now);
        if let Some(tally) = self.tallies.get_mut(operation as usize) {
            tally.invalid = tally.invalid.wrapping_add(1);
        }
    }
}

/// What is to be done about errors of the medium (QEMU's `rerror` and `werror`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The guest gets the error.
    Report,
    /// The guest is told that all went well.
    Ignore,
    /// The guest stops where there is no room, and gets other errors.
    NoSpace,
    /// The guest stops.
    Stop,
}

/// What has been done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The guest got it.
    Report,
    /// Nothing.
    Ignore,
    /// The request waits: the guest is to be stopped, and it is tried again when that goes on.
    Stop,
}

impl OnError {
    /// What is to be done about an error.
    pub(super) fn action(self, error: DiskError) -> Action {
        match (self, error) {
            (Self::Ignore, _) => Action::Ignore,
            (Self::Stop, _) | (Self::NoSpace, DiskError::NoSpace) => Action::Stop,
            (Self::Report | Self::NoSpace, _) => Action::Report,
        }
    }
}

/// An error of the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What failed.
    pub operation: Operation,
    /// Why.
    pub error: DiskError,
    /// What has been done about it.
    pub action: Action,
}

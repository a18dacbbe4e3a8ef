//! What a disk device has behind it.

use monovisor_arch::{GuestMemory, MemoryError};

/// Bytes of a sector, the unit of a virtio disk whatever its block size (virtio 1.2, 5.2.4).
pub const SECTOR: u64 = 512;

/// Why a disk could not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The guest's buffer is not in RAM.
    Memory(MemoryError),
    /// There is no room to keep what is written.
    NoSpace,
    /// The medium does not work, or is gone.
    Io,
}

impl From<MemoryError> for DiskError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

/// A medium of a fixed size. The caller keeps within it, and does not write to one that is read-only.
///
/// Data goes straight between the medium and guest RAM. Every call is short: callers ask for pieces.
pub trait Disk: Send {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// It cannot be written to.
    fn read_only(&self) -> bool;

    /// Bytes of room that its content takes, of which what has never been written may take none.
    fn allocated(&self) -> u64;

    /// A clock that only goes forward, in a unit of its own: what requests take is measured by it.
    fn ticks(&self) -> u64;

    /// Copies `length` bytes from byte `offset` on to guest-physical `address`.
    fn read(
        &mut self,
        offset: u64,
        memory: &dyn GuestMemory,
        address: u64,
        length: u32,
    ) -> Result<(), DiskError>;

    /// Copies `length` bytes from guest-physical `address` to byte `offset` and on.
    fn write(
        &mut self,
        offset: u64,
        memory: &dyn GuestMemory,
        address: u64,
        length: u32,
    ) -> Result<(), DiskError>;

    /// Makes `length` bytes from byte `offset` on read as zeros.
    fn write_zeroes(&mut self, offset: u64, length: u64) -> Result<(), DiskError>;

    /// The content of these bytes is not needed any more.
    fn discard(&mut self, offset: u64, length: u64) -> Result<(), DiskError>;

    /// What has been written is to outlive the power.
    fn flush(&mut self) -> Result<(), DiskError>;
}

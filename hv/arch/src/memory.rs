//! Guest-physical memory as the devices, the loader and the emulator see it.

/// A guest-physical range that is not RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryError {
    /// First address that could not be reached.
    pub address: u64,
}

/// Byte access to guest RAM. Every access is checked; none can reach host memory.
///
/// Methods take `&self`: guest RAM is shared with running vCPUs, so there is no exclusive borrow of it to give.
/// Widths that matter for atomicity (page-table entries, ring indices) use the sized accessors, which access
/// naturally aligned values in one piece.
pub trait GuestMemory {
    /// Copies guest RAM at `address` into `buffer`.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError>;

    /// Copies `data` into guest RAM at `address`. On an error nothing, or only a leading part, has been written.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError>;

    /// Fills `length` bytes with `value`.
    fn fill(&self, address: u64, value: u8, length: u64) -> Result<(), MemoryError>;

    /// Copies `length` bytes of guest RAM from `source` to `target`. On an error nothing, or only a leading part, has
    /// been written. Where the two overlap, what is written there may be of either.
    fn copy(&self, target: u64, source: u64, length: u64) -> Result<(), MemoryError> {
        let mut buffer = [0; 256];
        let mut done = 0;
        while done < length {
            let piece = (length - done).min(buffer.len() as u64);
            let bytes = buffer.get_mut(..piece as usize).unwrap_or_default();
            self.read(source.wrapping_add(done), bytes)?;
            self.write(target.wrapping_add(done), bytes)?;
            done += piece;
        }
        Ok(())
    }

    /// Bytes of RAM reachable from `address` on without a gap (0 where there is no RAM).
    fn contiguous(&self, address: u64) -> u64;

    /// Reads a little-endian `u16`.
    fn read_u16(&self, address: u64) -> Result<u16, MemoryError> {
        let mut bytes = [0; 2];
        self.read(address, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// Reads a little-endian `u32`.
    fn read_u32(&self, address: u64) -> Result<u32, MemoryError> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a little-endian `u64`.
    fn read_u64(&self, address: u64) -> Result<u64, MemoryError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a little-endian `u16`: in one piece where it is naturally aligned.
    fn write_u16(&self, address: u64, value: u16) -> Result<(), MemoryError> {
        self.write(address, &value.to_le_bytes())
    }

    /// Writes a little-endian `u32`: in one piece where it is naturally aligned.
    fn write_u32(&self, address: u64, value: u32) -> Result<(), MemoryError> {
        self.write(address, &value.to_le_bytes())
    }

    /// Sets bits in a `u32` (a page-table entry's accessed and dirty bits), atomically where the memory is shared.
    fn set_bits_u32(&self, address: u64, bits: u32) -> Result<(), MemoryError> {
        let value = self.read_u32(address)? | bits;
        self.write(address, &value.to_le_bytes())
    }

    /// Sets bits in a `u64`, atomically where the memory is shared.
    fn set_bits_u64(&self, address: u64, bits: u64) -> Result<(), MemoryError> {
        let value = self.read_u64(address)? | bits;
        self.write(address, &value.to_le_bytes())
    }
}

//! Guest RAM: physical frames of the host that a guest sees from address 0 on.
//!
//! The only module of this package with `unsafe`: guest RAM is shared with running vCPUs, so it is reached through
//! raw pointers and never borrowed.
#![allow(unsafe_code)]

use core::ptr;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use monovisor_arch::{GuestMemory, MemoryError};

/// A PC's RAM is in two pieces at most: below the PCI hole and from 4 GiB on.
const MAX_BLOCKS: usize = 2;

#[derive(Clone, Copy, Debug)]
struct Block {
    base: u64,
    length: u64,
    host: *mut u8,
}

impl Block {
    /// Host pointer for the guest-physical `address`, if it is inside.
    #[inline(always)]
    fn at(&self, address: u64) -> Option<*mut u8> {
        // No block wraps around, so an address below one is far beyond its end; an unused one has no length.
        let offset = address.wrapping_sub(self.base);
        // SAFETY: the offset is below the length of the block, which `GuestRam::add` was promised to be mapped.
        (offset < self.length).then(|| unsafe { self.host.add(offset as usize) })
    }
}

/// The RAM of one guest.
#[derive(Debug)]
pub struct GuestRam {
    blocks: [Block; MAX_BLOCKS],
    count: usize,
}

// SAFETY: the pointers are to physical frames that belong to the guest for good; all access is by copies of plain
// bytes, whose tearing between CPUs a guest sees on hardware as well.
unsafe impl Send for GuestRam {}
// SAFETY: as above; no method hands out a reference into the frames.
unsafe impl Sync for GuestRam {}

impl GuestRam {
    /// A guest without RAM.
    pub const fn new() -> Self {
        Self { blocks: [Block { base: 0, length: 0, host: ptr::null_mut() }; MAX_BLOCKS], count: 0 }
    }

    /// Adds `length` bytes at guest-physical `base`, backed by `host`. False when there is no room for a block, it does
    /// not lie behind the last one, or base, length and host are not all multiples of 8.
    ///
    /// # Safety
    /// `host` points to `length` bytes of mapped, writable memory that nothing else uses for the rest of the run;
    /// it is 8-byte aligned, and so is `base`.
    pub unsafe fn add(&mut self, base: u64, length: u64, host: *mut u8) -> bool {
        let end = self.blocks[..self.count].last().map_or(0, |last| last.base + last.length);
        let aligned = (base | length | host as u64).is_multiple_of(8);
        let (Some(slot), true) = (self.blocks.get_mut(self.count), base >= end && aligned) else {
            return false;
        };
        *slot = Block { base, length, host };
        self.count += 1;
        true
    }

    /// The pieces: guest-physical base, length, host address.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.blocks.iter().take(self.count).map(|block| (block.base, block.length, block.host as u64))
    }

    /// Bytes of RAM in all.
    pub fn size(&self) -> u64 {
        self.blocks.iter().take(self.count).map(|block| block.length).sum()
    }

    /// Host pointer for the RAM at `address`, and the bytes that follow it in the same block.
    #[inline]
    fn locate(&self, address: u64) -> Option<(*mut u8, u64)> {
        self.blocks.iter().find_map(|block| Some((block.at(address)?, block.length - (address - block.base))))
    }

    /// Calls `step` with host pointer and length for each contiguous piece of the range.
    #[inline]
    fn pieces(
        &self,
        address: u64,
        length: u64,
        mut step: impl FnMut(*mut u8, usize, usize),
    ) -> Result<(), MemoryError> {
        let mut done = 0;
        while done < length {
            let at = address.checked_add(done).ok_or(MemoryError { address })?;
            let (host, room) = self.locate(at).ok_or(MemoryError { address: at })?;
            let piece = room.min(length - done);
            step(host, done as usize, piece as usize);
            done += piece;
        }
        Ok(())
    }

    /// Reads what is not aligned, or not in one block.
    #[cold]
    fn read_pieces<const N: usize>(&self, address: u64) -> Result<[u8; N], MemoryError> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// The cell of `size` bytes (4 or 8) at `address`, if that is its natural alignment.
    #[inline(always)]
    fn cell(&self, address: u64, size: u64) -> Option<*mut u8> {
        // Blocks begin and end at multiples of 8: a cell of which the first byte is inside is inside as a whole.
        if !address.is_multiple_of(size) {
            return None;
        }
        // Tried one after the other by hand: page walks come through here, and a loop costs half as much again.
        let [low, high] = &self.blocks;
        low.at(address).or_else(|| high.at(address))
    }
}

impl Default for GuestRam {
    fn default() -> Self {
        Self::new()
    }
}

impl GuestMemory for GuestRam {
    #[inline]
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let target = buffer.as_mut_ptr();
        self.pieces(address, buffer.len() as u64, |host, done, length| {
            // SAFETY: `pieces` gives mapped RAM of `length` bytes and `done + length` within the buffer; guest
            // frames and host buffers never overlap.
            unsafe { ptr::copy_nonoverlapping(host, target.add(done), length) };
        })
    }

    #[inline]
    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let source = data.as_ptr();
        self.pieces(address, data.len() as u64, |host, done, length| {
            // SAFETY: as in `read`, the other way.
            unsafe { ptr::copy_nonoverlapping(source.add(done), host, length) };
        })
    }

    fn fill(&self, address: u64, value: u8, length: u64) -> Result<(), MemoryError> {
        self.pieces(address, length, |host, _, length| {
            // SAFETY: `pieces` gives mapped RAM of `length` bytes.
            unsafe { ptr::write_bytes(host, value, length) };
        })
    }

    fn copy(&self, target: u64, source: u64, length: u64) -> Result<(), MemoryError> {
        let mut error = Ok(());
        self.pieces(source, length, |from, done, length| {
            if error.is_err() {
                return;
            }
            error = self.pieces(target.wrapping_add(done as u64), length as u64, |to, at, length| {
                // SAFETY: `pieces` gives mapped RAM of `length` bytes behind `to`, and `at + length` is not beyond the
                // piece that it has given behind `from`; the two may overlap.
                unsafe { ptr::copy(from.add(at), to, length) };
            });
        })?;
        error
    }

    fn contiguous(&self, address: u64) -> u64 {
        let mut length = 0;
        while let Some((_, room)) = address.checked_add(length).and_then(|at| self.locate(at)) {
            length += room;
        }
        length
    }

    #[inline]
    fn read_u64(&self, address: u64) -> Result<u64, MemoryError> {
        match self.cell(address, 8) {
            // SAFETY: `cell` gives an aligned pointer to 8 bytes of mapped RAM; an atomic access is sound with
            // vCPUs that write there.
            Some(host) => Ok(unsafe { AtomicU64::from_ptr(host.cast()) }.load(Ordering::Relaxed)),
            None => self.read_pieces(address).map(u64::from_le_bytes),
        }
    }

    #[inline]
    fn read_u32(&self, address: u64) -> Result<u32, MemoryError> {
        match self.cell(address, 4) {
            // SAFETY: as in `read_u64`, 4 bytes.
            Some(host) => Ok(unsafe { AtomicU32::from_ptr(host.cast()) }.load(Ordering::Relaxed)),
            None => self.read_pieces(address).map(u32::from_le_bytes),
        }
    }

    #[inline]
    fn read_u16(&self, address: u64) -> Result<u16, MemoryError> {
        if let Some(host) = self.cell(address, 2) {
            // SAFETY: as in `read_u64`, 2 bytes.
            return Ok(unsafe { AtomicU16::from_ptr(host.cast()) }.load(Ordering::Relaxed));
        }
        let mut bytes = [0; 2];
        self.read(address, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    #[inline]
    fn write_u16(&self, address: u64, value: u16) -> Result<(), MemoryError> {
        if let Some(host) = self.cell(address, 2) {
            // SAFETY: as in `read_u16`.
            unsafe { AtomicU16::from_ptr(host.cast()) }.store(value, Ordering::Relaxed);
            return Ok(());
        }
        self.write(address, &value.to_le_bytes())
    }

    #[inline]
    fn write_u32(&self, address: u64, value: u32) -> Result<(), MemoryError> {
        if let Some(host) = self.cell(address, 4) {
            // SAFETY: as in `read_u32`.
            unsafe { AtomicU32::from_ptr(host.cast()) }.store(value, Ordering::Relaxed);
            return Ok(());
        }
        self.write(address, &value.to_le_bytes())
    }

    fn set_bits_u32(&self, address: u64, bits: u32) -> Result<(), MemoryError> {
        let host = self.cell(address, 4).ok_or(MemoryError { address })?;
        // SAFETY: as in `read_u32`.
        unsafe { AtomicU32::from_ptr(host.cast()) }.fetch_or(bits, Ordering::Relaxed);
        Ok(())
    }

    fn set_bits_u64(&self, address: u64, bits: u64) -> Result<(), MemoryError> {
        let host = self.cell(address, 8).ok_or(MemoryError { address })?;
        // SAFETY: as in `read_u64`.
        unsafe { AtomicU64::from_ptr(host.cast()) }.fetch_or(bits, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram(low: &mut [u64], high: &mut [u64], gap: u64) -> GuestRam {
        let mut ram = GuestRam::new();
        let low_length = low.len() as u64 * 8;
        // SAFETY: the slices outlive the value in these tests.
        unsafe {
            assert!(ram.add(0, low_length, low.as_mut_ptr().cast()));
            assert!(ram.add(low_length + gap, high.len() as u64 * 8, high.as_mut_ptr().cast()));
        }
        ram
    }

    #[test]
    fn accesses_stay_within_ram() {
        let (mut low, mut high) = (vec![0; 512], vec![0; 512]);
        let ram = ram(&mut low, &mut high, 4096);
        assert!(ram.write(4090, &[1; 6]).is_ok());
        assert_eq!(ram.write(4090, &[1; 7]), Err(MemoryError { address: 4096 }));
        assert_eq!(ram.read_u64(8191), Err(MemoryError { address: 8191 }));
        assert!(ram.write(8192, &[7; 4096]).is_ok());
        assert!(ram.read(12288, &mut [0]).is_err());
        assert!(ram.read(u64::MAX, &mut [0; 2]).is_err());
        assert!(ram.read(u64::MAX - 7, &mut [0; 16]).is_err());
        assert_eq!(ram.contiguous(8192), 4096);
        assert_eq!(ram.contiguous(4096), 0);
        assert_eq!(ram.size(), 8192);
    }

    #[test]
    fn copies_cross_blocks_and_stay_within_them() {
        let (mut low, mut high) = (vec![0; 4], vec![0; 4]);
        let ram = ram(&mut low, &mut high, 0);
        ram.write(0, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).unwrap();
        // From one block across the border of both.
        assert_eq!(ram.copy(27, 0, 10), Ok(()));
        let mut bytes = [0; 10];
        ram.read(27, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        // And from there to where it overlaps.
        assert_eq!(ram.copy(29, 27, 10), Ok(()));
        assert_eq!(ram.copy(60, 0, 5), Err(MemoryError { address: 64 }));
        assert_eq!(ram.copy(0, 60, 5), Err(MemoryError { address: 64 }));
        assert_eq!(ram.copy(u64::MAX, 0, 2), Err(MemoryError { address: u64::MAX }));
    }

    #[test]
    fn adjacent_blocks_are_one() {
        let (mut low, mut high) = (vec![0; 2], vec![0; 2]);
        let ram = ram(&mut low, &mut high, 0);
        ram.write(12, &0x1122_3344_5566_7788u64.to_le_bytes()).unwrap();
        assert_eq!(ram.read_u64(12), Ok(0x1122_3344_5566_7788));
        assert_eq!(ram.contiguous(0), 32);
        ram.set_bits_u64(8, 1 << 63).unwrap();
        assert_eq!(ram.read_u32(12), Ok(0xD566_7788));
        ram.write_u16(14, 0xabcd).unwrap();
        ram.write_u32(15, 0x0102_03ef).unwrap();
        assert_eq!((ram.read_u16(14), ram.read_u16(15)), (Ok(0xefcd), Ok(0x03ef)));
        assert!(ram.write_u16(31, 1).is_err() && ram.write_u32(29, 1).is_err());
        assert!(ram.set_bits_u64(4, 1).is_err());
    }

    #[test]
    fn blocks_are_in_order_and_limited() {
        let mut cells = [0u64; 8];
        let mut ram = GuestRam::new();
        let host = cells.as_mut_ptr().cast::<u8>();
        // SAFETY: the blocks lie within `cells`.
        unsafe {
            assert!(ram.add(64, 16, host));
            assert!(!ram.add(72, 8, host));
            assert!(ram.add(128, 16, host));
            assert!(!ram.add(256, 16, host));
        }
    }
}

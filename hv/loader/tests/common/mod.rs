//! Guest RAM for the tests.
#![allow(dead_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;

use monovisor_arch::{GuestMemory, MemoryError};
use monovisor_loader::e820;

/// RAM that is zero until it is written, of any size.
pub struct Ram {
    size: u64,
    pages: RefCell<BTreeMap<u64, Box<[u8; 4096]>>>,
}

impl Ram {
    pub fn new(size: u64) -> Self {
        Self { size, pages: RefCell::default() }
    }

    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.read(address, &mut bytes).unwrap();
        bytes
    }

    fn check(&self, address: u64, length: u64) -> Result<(), MemoryError> {
        if self.contiguous(address) >= length { Ok(()) } else { Err(MemoryError { address }) }
    }
}

impl GuestMemory for Ram {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.check(address, buffer.len() as u64)?;
        let pages = self.pages.borrow();
        let mut address = address;
        let mut rest = buffer;
        while !rest.is_empty() {
            let offset = (address & 4095) as usize;
            let (piece, behind) = rest.split_at_mut((4096 - offset).min(rest.len()));
            match pages.get(&(address >> 12)) {
                Some(page) => piece.copy_from_slice(&page[offset..offset + piece.len()]),
                None => piece.fill(0),
            }
            address += piece.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.check(address, data.len() as u64)?;
        let mut pages = self.pages.borrow_mut();
        let mut address = address;
        let mut rest = data;
        while !rest.is_empty() {
            let offset = (address & 4095) as usize;
            let (piece, behind) = rest.split_at((4096 - offset).min(rest.len()));
            let page = pages.entry(address >> 12).or_insert_with(|| Box::new([0; 4096]));
            page[offset..offset + piece.len()].copy_from_slice(piece);
            address += piece.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    fn fill(&self, address: u64, value: u8, length: u64) -> Result<(), MemoryError> {
        self.check(address, length)?;
        let (mut address, end) = (address, address + length);
        let page = [value; 4096];
        while address < end {
            let piece = (4096 - (address & 4095)).min(end - address);
            self.write(address, &page[..piece as usize])?;
            address += piece;
        }
        Ok(())
    }

    fn contiguous(&self, address: u64) -> u64 {
        for (start, length) in e820::ram(self.size) {
            if address >= start && address - start < length {
                return start + length - address;
            }
        }
        0
    }
}

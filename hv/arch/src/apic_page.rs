//! A page of a local APIC's registers, which a processor with AVIC (APM vol. 2, 15.29) reads and writes while it runs its guest:
//! the vAPIC backing page.
//!
//! Its IRR is where other processors leave interrupts for this one, too: they set the bit, then ring the doorbell. A processor
//! that runs its guest looks at the page when that rings, and each entry looks at it anyway, so no bit is missed.

use core::sync::atomic::{AtomicU32, Ordering};

/// Registers by their number: the offset in the page by 16, or the x2APIC MSR less 0x800.
pub mod register {
    /// Task priority.
    pub const TPR: usize = 0x08;
    /// Processor priority.
    pub const PPR: usize = 0x0a;
    /// Interrupts in service, the first of eight registers.
    pub const ISR: usize = 0x10;
    /// Trigger modes (1: level), the first of eight registers.
    pub const TMR: usize = 0x18;
    /// Interrupt requests, the first of eight registers.
    pub const IRR: usize = 0x20;
}

/// The page: each register is the first 4 of 16 bytes. Zero is a value of it.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct ApicPage([[AtomicU32; 4]; 256]);

impl ApicPage {
    /// All zero.
    pub const fn new() -> Self {
        Self([const { [const { AtomicU32::new(0) }; 4] }; 256])
    }

    fn register(&self, number: usize) -> Option<&AtomicU32> {
        self.0.get(number)?.first()
    }

    /// Reads a register.
    pub fn read(&self, number: usize) -> u32 {
        self.register(number).map_or(0, |register| register.load(Ordering::Relaxed))
    }

    /// Writes a register.
    pub fn write(&self, number: usize, value: u32) {
        if let Some(register) = self.register(number) {
            register.store(value, Ordering::Relaxed);
        }
    }

    /// Exchanges eight registers, a bit for each vector.
    pub fn swap(&self, first: usize, words: &[u32; 8]) -> [u32; 8] {
        let mut before = *words;
        for (word, number) in before.iter_mut().zip(first..) {
            if let Some(register) = self.register(number) {
                *word = register.swap(*word, Ordering::AcqRel);
            }
        }
        before
    }

    /// The interrupt with this vector is no longer in service.
    pub fn end(&self, vector: u8) {
        if let Some(word) = self.register(register::ISR + usize::from(vector >> 5)) {
            word.fetch_and(!(1 << (vector & 31)), Ordering::AcqRel);
        }
    }

    /// Leaves an interrupt in the IRR; the processor is to be notified of it.
    pub fn post(&self, vector: u8) {
        if let Some(word) = self.register(register::IRR + usize::from(vector >> 5)) {
            word.fetch_or(1 << (vector & 31), Ordering::AcqRel);
        }
    }
}

impl Default for ApicPage {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_where_the_manual_has_them() {
        let page = ApicPage::new();
        assert_eq!((size_of_val(&page), align_of_val(&page)), (4096, 4096));
        page.write(register::TPR, 0x30);
        assert_eq!((page.0[0x80 / 16][0].load(Ordering::Relaxed), page.read(register::TPR)), (0x30, 0x30));
        page.post(0x21);
        page.post(0xff);
        assert_eq!(page.0[0x210 / 16][0].load(Ordering::Relaxed), 2);
        assert_eq!(page.swap(register::IRR, &[0; 8]), [0, 2, 0, 0, 0, 0, 0, 1 << 31]);
        assert_eq!(page.swap(register::IRR, &[0; 8]), [0; 8]);
        page.swap(register::ISR, &[0, 3, 0, 0, 0, 0, 0, 0]);
        page.end(0x21);
        page.end(0x95);
        assert_eq!(page.swap(register::ISR, &[0; 8]), [0, 1, 0, 0, 0, 0, 0, 0]);
        page.write(256, 1);
        assert_eq!(page.read(256), 0);
    }
}

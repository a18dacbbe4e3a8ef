//! Stacks, each above a page that is never mapped: running off the end is a page fault, not silent damage.

use core::cell::UnsafeCell;

/// Bytes of the unmapped page below each stack.
pub const GUARD: usize = 4096;

/// Bytes of the first processor's main stack. The monitor and the devices run on it, and the guest is built there; nothing
/// recurses on input, and `cargo xtask size` reports the deepest chain of calls.
pub const MAIN: usize = 96 * 1024;

/// Bytes of a further processor's main stack: exits of its guest are served there, but no monitor runs.
pub const SECONDARY: usize = 64 * 1024;

/// Bytes of each stack that an exception or interrupt switches to. The deepest user is the exception report, which
/// formats text.
pub const TRAP: usize = 8 * 1024;

/// A stack of `SIZE` bytes above its guard page.
#[repr(C, align(4096))]
pub struct Stack<const SIZE: usize> {
    guard: [u8; GUARD],
    bytes: UnsafeCell<[u8; SIZE]>,
}

// SAFETY: the bytes are only ever used by the processor as its stack, never through this type.
unsafe impl<const SIZE: usize> Sync for Stack<SIZE> {}

impl<const SIZE: usize> Stack<SIZE> {
    /// An unused stack.
    pub const fn new() -> Self {
        Self { guard: [0; GUARD], bytes: UnsafeCell::new([0; SIZE]) }
    }

    /// First address above the stack: the value of RSP when it is empty.
    pub fn top(&self) -> u64 {
        self.bytes.get() as u64 + SIZE as u64
    }

    /// Address of the guard page.
    pub fn guard(&self) -> u64 {
        self.guard.as_ptr() as u64
    }
}

impl<const SIZE: usize> Default for Stack<SIZE> {
    fn default() -> Self {
        Self::new()
    }
}

/// Main stack of the first processor.
#[unsafe(export_name = "monovisor_stack_main")]
pub static BOOT_STACK: Stack<MAIN> = Stack::new();

/// Offset of the stack's top within `BOOT_STACK`, for the entry code.
pub const BOOT_STACK_TOP: usize = GUARD + MAIN;

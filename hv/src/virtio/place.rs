//! Places for what a machine is made of: RAM that is carved at start-up, before the store gets what is left.
#![allow(unsafe_code)]

use core::alloc::Layout;

use monovisor_host::frames;
use spin::Mutex;

/// What is left of the RAM set aside: address of the first free byte, and bytes from there on.
static LEFT: Mutex<(usize, usize)> = Mutex::new((0, 0));

/// Sets RAM aside. May be called once; a second call is ignored.
pub fn reserve(bytes: usize) {
    let mut left = LEFT.lock();
    if *left == (0, 0)
        && bytes != 0
        && let Some(range) = frames::carve(bytes as u64, 4096)
    {
        *left = (range.start as usize, range.len as usize);
    }
}

/// Gives a value a place for the rest of the run. `None` where the RAM set aside is used up.
pub fn place<T: 'static>(value: T) -> Option<&'static mut T> {
    let layout = Layout::new::<T>();
    let mut left = LEFT.lock();
    let (free, length) = *left;
    let skip = free.checked_next_multiple_of(layout.align())? - free;
    let taken = skip.checked_add(layout.size()).filter(|taken| free != 0 && *taken <= length)?;
    *left = (free + taken, length - taken);
    let at = (free + skip) as *mut T;
    // SAFETY: `at` is aligned for T and has room for it within RAM that `reserve` has carved for nobody else; all of RAM
    // is mapped to itself and stays so. What has been taken is never given again, so the reference is the only one.
    unsafe {
        at.write(value);
        Some(&mut *at)
    }
}

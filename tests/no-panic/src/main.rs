//! The monitor core with all its commands, over handlers that the compiler cannot see through.
//!
//! Linked without anything around it, so that what is in the file is what `core` needs. A panic anywhere in it would pull in
//! the panic handler below.
#![no_std]
#![no_main]

use core::{convert::Infallible, hint::black_box, panic::PanicInfo};
use monovisor_core::{LineError, Monitor, Now, Port, Product, handlers::*, schema::*};

static OFFERED: Offered = Offered::all();

struct Nobody;
struct Line;

impl Port for Line {
    fn read(&mut self) -> nb::Result<u8, LineError> {
        black_box(Err(nb::Error::WouldBlock))
    }
    fn write(&mut self, bytes: &[u8]) -> nb::Result<usize, Infallible> {
        black_box(Ok(black_box(bytes).len()))
    }
}

macro_rules! nothing {
    ($($family:ident)*) => { $( impl $family for Nobody {} )* };
}
nothing!(RunControl Machine Cpus Memory Human Trace Store StoreFiles Chardevs Objects Block Media BlockJobs Network
    Migration Display Extras);

impl Base for Nobody {
    const OFFERED: &'static Offered = &OFFERED;
}

/// Where the linker starts.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    static mut MONITOR: Monitor<2> = Monitor::new();
    // SAFETY: this runs once, and nothing else refers to it.
    let monitor = unsafe { &mut *(&raw mut MONITOR) };
    monitor.start(Product { package: "", offered: &OFFERED });
    loop {
        let now = black_box(Now { monotonic: 0, wall: None });
        monitor.poll(black_box(0), &mut Line, &mut Nobody, now);
        monitor.event(&machine::RtcChange { offset: black_box(1) }, now);
        monitor.restart(black_box(1));
        black_box((monitor.deadline(), monitor.is_flushed(0)));
    }
}

#[panic_handler]
#[inline(never)]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        black_box(());
    }
}

/// What the compiler calls for copies and comparisons.
mod memory {
    use core::arch::asm;

    /// Copies upwards.
    ///
    /// # Safety
    /// As C's.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        // SAFETY: the caller vouches for both ranges.
        unsafe { asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _) };
        to
    }

    /// Copies; only upwards, as nothing here is ever run.
    ///
    /// # Safety
    /// As C's.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        // SAFETY: the caller vouches for both ranges.
        unsafe { memcpy(to, from, count) }
    }

    /// Fills.
    ///
    /// # Safety
    /// As C's.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
        // SAFETY: the caller vouches for the range.
        unsafe { asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") value as u8) };
        to
    }

    /// Compares.
    ///
    /// # Safety
    /// As C's.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn memcmp(one: *const u8, two: *const u8, count: usize) -> i32 {
        for at in 0..count {
            // SAFETY: the caller vouches for both ranges.
            let (one, two) = unsafe { (one.add(at).read_volatile(), two.add(at).read_volatile()) };
            if one != two {
                return i32::from(one) - i32::from(two);
            }
        }
        0
    }

    /// Compares for equality.
    ///
    /// # Safety
    /// As C's.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn bcmp(one: *const u8, two: *const u8, count: usize) -> i32 {
        // SAFETY: the caller vouches for both ranges.
        unsafe { memcmp(one, two, count) }
    }
}

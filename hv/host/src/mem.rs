//! Copying, filling and comparing memory.
//!
//! The compiler calls `memcpy` and its kin by name, and an image has no C library to give them. They are written with
//! 16-byte vector moves: `rep movsb` has a start-up cost on every chip and, where instructions are counted, costs one
//! for every byte. What is long (guest images, guest RAM) takes 32-byte moves where the CPU has AVX.

use core::arch::asm;
use core::arch::x86_64::{
    __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8, _mm_storeu_si128,
};
use core::sync::atomic::{AtomicBool, Ordering};

/// 32-byte moves can be used: the CPU has AVX, and XCR0 has it on whenever host code runs.
static AVX: AtomicBool = AtomicBool::new(false);

/// Bytes from which on a copy is long.
const LONG: usize = 1024;

/// Allows 32-byte moves, in [`zero_pages`] and for long copies.
pub(crate) fn set_avx(on: bool) {
    AVX.store(on, Ordering::Relaxed);
}

/// Copies `len` bytes from the first to the last.
///
/// # Safety
///
/// `source` must be readable and `target` writable for `len` bytes. Where they overlap, `target` must lie below
/// `source`.
#[inline(always)]
pub unsafe fn copy_forward(target: *mut u8, source: *const u8, len: usize) {
    // SAFETY: every access is at an offset below `len` and so within what the caller vouches for. Within a step all
    // loads come before the stores, and steps go upwards, so an overlap with `target` below `source` is copied right.
    unsafe {
        let mut at =
            if len >= LONG && AVX.load(Ordering::Relaxed) { copy_long(target, source, len) } else { 0 };
        while len - at >= 64 {
            let a = load(source.add(at));
            let b = load(source.add(at + 16));
            let c = load(source.add(at + 32));
            let d = load(source.add(at + 48));
            store(target.add(at), a);
            store(target.add(at + 16), b);
            store(target.add(at + 32), c);
            store(target.add(at + 48), d);
            at += 64;
        }
        while len - at >= 16 {
            let a = load(source.add(at));
            store(target.add(at), a);
            at += 16;
        }
        if len - at >= 8 {
            let a = source.add(at).cast::<u64>().read_unaligned();
            target.add(at).cast::<u64>().write_unaligned(a);
            at += 8;
        }
        if len - at >= 4 {
            let a = source.add(at).cast::<u32>().read_unaligned();
            target.add(at).cast::<u32>().write_unaligned(a);
            at += 4;
        }
        // Volatile: the compiler must not make a call of `memcpy` out of the body of `memcpy`.
        while at < len {
            target.add(at).write_volatile(source.add(at).read_volatile());
            at += 1;
        }
    }
}

/// Copies from the first byte on in blocks of 256, with 32-byte moves; returns how many bytes that were.
///
/// # Safety
///
/// As for `copy_forward`; `len` must be at least 256, and AVX on.
#[cold]
unsafe fn copy_long(target: *mut u8, source: *const u8, len: usize) -> usize {
    let whole = len & !255;
    // SAFETY: reads and writes `whole` bytes, not more than `len`; in each block the loads come before the stores.
    unsafe {
        asm!(
            "2:",
            "vmovdqu ymm0, [{source}]",
            "vmovdqu ymm1, [{source} + 32]",
            "vmovdqu ymm2, [{source} + 64]",
            "vmovdqu ymm3, [{source} + 96]",
            "vmovdqu ymm4, [{source} + 128]",
            "vmovdqu ymm5, [{source} + 160]",
            "vmovdqu ymm6, [{source} + 192]",
            "vmovdqu ymm7, [{source} + 224]",
            "vmovdqu [{target}], ymm0",
            "vmovdqu [{target} + 32], ymm1",
            "vmovdqu [{target} + 64], ymm2",
            "vmovdqu [{target} + 96], ymm3",
            "vmovdqu [{target} + 128], ymm4",
            "vmovdqu [{target} + 160], ymm5",
            "vmovdqu [{target} + 192], ymm6",
            "vmovdqu [{target} + 224], ymm7",
            "add {source}, 256",
            "add {target}, 256",
            "cmp {source}, {end}",
            "jne 2b",
            "vzeroupper",
            source = inout(reg) source => _,
            target = inout(reg) target => _,
            end = in(reg) source.wrapping_add(whole),
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            options(nostack),
        );
    }
    whole
}

/// Copies `len` bytes from the last to the first.
///
/// # Safety
///
/// `source` must be readable and `target` writable for `len` bytes. Where they overlap, `target` must lie above
/// `source`.
#[inline(always)]
pub unsafe fn copy_backward(target: *mut u8, source: *const u8, len: usize) {
    // SAFETY: as for `copy_forward`, with steps downwards.
    unsafe {
        let mut at = len;
        while at >= 64 {
            at -= 64;
            let a = load(source.add(at));
            let b = load(source.add(at + 16));
            let c = load(source.add(at + 32));
            let d = load(source.add(at + 48));
            store(target.add(at + 48), d);
            store(target.add(at + 32), c);
            store(target.add(at + 16), b);
            store(target.add(at), a);
        }
        while at >= 16 {
            at -= 16;
            let a = load(source.add(at));
            store(target.add(at), a);
        }
        while at > 0 {
            at -= 1;
            target.add(at).write_volatile(source.add(at).read_volatile());
        }
    }
}

/// Sets `len` bytes.
///
/// # Safety
///
/// `target` must be writable for `len` bytes.
#[inline(always)]
pub unsafe fn fill(target: *mut u8, value: u8, len: usize) {
    // SAFETY: every access is at an offset below `len`.
    unsafe {
        let wide = _mm_set1_epi8(value as i8);
        let mut at = 0;
        while len - at >= 64 {
            store(target.add(at), wide);
            store(target.add(at + 16), wide);
            store(target.add(at + 32), wide);
            store(target.add(at + 48), wide);
            at += 64;
        }
        while len - at >= 16 {
            store(target.add(at), wide);
            at += 16;
        }
        while at < len {
            target.add(at).write_volatile(value);
            at += 1;
        }
    }
}

/// Compares `len` bytes as `memcmp` does: negative, zero or positive.
///
/// # Safety
///
/// `left` and `right` must be readable for `len` bytes.
#[inline(always)]
pub unsafe fn compare(left: *const u8, right: *const u8, len: usize) -> i32 {
    // SAFETY: every access is at an offset below `len`; where vectors differ, at the first differing byte of them.
    unsafe {
        let mut at = 0;
        while len - at >= 16 {
            let equal = _mm_movemask_epi8(_mm_cmpeq_epi8(load(left.add(at)), load(right.add(at)))) as u32;
            if equal != 0xffff {
                let at = at + (!equal).trailing_zeros() as usize;
                return i32::from(left.add(at).read()) - i32::from(right.add(at).read());
            }
            at += 16;
        }
        while at < len {
            let difference =
                i32::from(left.add(at).read_volatile()) - i32::from(right.add(at).read_volatile());
            if difference != 0 {
                return difference;
            }
            at += 1;
        }
        0
    }
}

#[inline(always)]
unsafe fn load(from: *const u8) -> __m128i {
    // SAFETY: the caller gives 16 readable bytes; no alignment is needed.
    unsafe { _mm_loadu_si128(from.cast()) }
}

#[inline(always)]
unsafe fn store(to: *mut u8, value: __m128i) {
    // SAFETY: the caller gives 16 writable bytes; no alignment is needed.
    unsafe { _mm_storeu_si128(to.cast(), value) }
}

/// Zeroes whole pages, 1024 bytes a turn.
///
/// # Safety
///
/// `start` must be a multiple of 4096, `len` too, and the memory writable.
pub unsafe fn zero_pages(start: *mut u8, len: usize) {
    if len == 0 {
        return;
    }
    if AVX.load(Ordering::Relaxed) {
        // SAFETY: writes `len` bytes from `start` on, which the caller gives; AVX is on as `set_avx` said.
        unsafe {
            asm!(
                "vpxor xmm0, xmm0, xmm0",
                "2:",
                // 32 stores: `offset` counts in the assembler.
                ".set monovisor_offset, 0",
                ".rept 32",
                "vmovdqa [{at} + monovisor_offset], ymm0",
                ".set monovisor_offset, monovisor_offset + 32",
                ".endr",
                "add {at}, 1024",
                "cmp {at}, {end}",
                "jb 2b",
                "vzeroupper",
                at = inout(reg) start => _,
                end = in(reg) start.wrapping_add(len),
                out("xmm0") _,
                options(nostack),
            );
        }
    } else {
        // SAFETY: as the caller vouches.
        unsafe { fill(start, 0, len) };
    }
}

/// Defines the functions that compiled code calls by name. Expanded in a board's binary only: a hosted program has its
/// C library's.
#[doc(hidden)]
#[macro_export]
macro_rules! memory_functions {
    () => {
        mod memory_functions {
            use $crate::mem;

            #[unsafe(no_mangle)]
            unsafe extern "C" fn memcpy(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
                // SAFETY: the C contract of memcpy: both are valid for `len` bytes and do not overlap.
                unsafe { mem::copy_forward(target, source, len) };
                target
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn memmove(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
                // SAFETY: the C contract of memmove: both are valid for `len` bytes. The direction is chosen by which
                // of them is lower; where `target` is `len` or more above `source` they do not overlap at all.
                unsafe {
                    if (target as usize).wrapping_sub(source as usize) >= len {
                        mem::copy_forward(target, source, len);
                    } else {
                        mem::copy_backward(target, source, len);
                    }
                }
                target
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn memset(target: *mut u8, value: i32, len: usize) -> *mut u8 {
                // SAFETY: the C contract of memset: `target` is valid for `len` bytes.
                unsafe { mem::fill(target, value as u8, len) };
                target
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
                // SAFETY: the C contract of memcmp: both are valid for `len` bytes.
                unsafe { mem::compare(left, right, len) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
                // SAFETY: as for memcmp.
                unsafe { mem::compare(left, right, len) }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_any_length_and_overlap() {
        for len in 0..200 {
            for shift in 1..40 {
                let start: Vec<u8> = (0..300).map(|n| (n * 7) as u8).collect();
                let (mut up, mut down, mut want) = (start.clone(), start.clone(), start.clone());
                // SAFETY: 40 + 40 + 200 is within 300 bytes; each direction with the overlap that it allows.
                unsafe {
                    let at = down.as_mut_ptr().add(40);
                    copy_forward(at, at.add(shift), len);
                    let at = up.as_mut_ptr().add(40);
                    copy_backward(at.add(shift), at, len);
                }
                want.copy_within(40 + shift..40 + shift + len, 40);
                assert_eq!(down, want);
                want = start.clone();
                want.copy_within(40..40 + len, 40 + shift);
                assert_eq!(up, want);
            }
        }
    }

    #[test]
    fn copies_what_is_long() {
        let source: Vec<u8> = (0..9000u32).map(|n| (n ^ (n >> 3)) as u8).collect();
        for avx in [false, std::is_x86_feature_detected!("avx")] {
            set_avx(avx);
            for len in [1023, 1024, 1025, 1279, 1280, 8191, 8990] {
                let mut target = vec![0xee; 9001];
                // SAFETY: `len` is below both lengths, less the one byte of shift.
                unsafe { copy_forward(target.as_mut_ptr().add(1), source.as_ptr(), len) };
                assert_eq!(target[1..1 + len], source[..len]);
                assert!(target[0] == 0xee && target[1 + len..].iter().all(|&b| b == 0xee));
                let mut moved = source.clone();
                // SAFETY: 7 + `len` is within 9000 bytes; the target is below the source.
                unsafe { copy_forward(moved.as_mut_ptr(), moved.as_ptr().add(1), len) };
                assert_eq!(moved[..len], source[1..1 + len]);
            }
            set_avx(false);
        }
    }

    #[test]
    fn fills_and_compares() {
        for len in 0..150 {
            let mut bytes = vec![1u8; 200];
            // SAFETY: 10 + 150 is within 200 bytes.
            unsafe { fill(bytes.as_mut_ptr().add(10), 9, len) };
            assert!(bytes[..10].iter().all(|&b| b == 1) && bytes[10 + len..].iter().all(|&b| b == 1));
            assert!(bytes[10..10 + len].iter().all(|&b| b == 9));
            for at in 0..len {
                let mut other = bytes.clone();
                other[10 + at] = 200;
                // SAFETY: both have 200 bytes.
                let (less, more) = unsafe {
                    (
                        compare(bytes.as_ptr().add(10), other.as_ptr().add(10), len),
                        compare(other.as_ptr().add(10), bytes.as_ptr().add(10), len),
                    )
                };
                assert!(less < 0 && more > 0);
            }
            // SAFETY: both have 200 bytes.
            assert_eq!(unsafe { compare(bytes.as_ptr(), bytes.clone().as_ptr(), 200) }, 0);
        }
    }

    #[test]
    fn zeroes_pages() {
        #[repr(align(4096))]
        struct Page([u8; 8192]);
        for avx in [false, std::is_x86_feature_detected!("avx")] {
            set_avx(avx);
            let mut page = Box::new(Page([5; 8192]));
            // SAFETY: one whole page of two.
            unsafe { zero_pages(page.0.as_mut_ptr(), 4096) };
            assert!(page.0[..4096].iter().all(|&b| b == 0) && page.0[4096..].iter().all(|&b| b == 5));
        }
        set_avx(false);
    }
}

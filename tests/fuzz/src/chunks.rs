//! See `monovisor_tests::fuzz::chunks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| monovisor_tests::fuzz::chunks(data));

//! See `monovisor_tests::fuzz::json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| monovisor_tests::fuzz::json(data));

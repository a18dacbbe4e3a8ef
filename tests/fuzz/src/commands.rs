//! See `monovisor_tests::fuzz::commands`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| monovisor_tests::fuzz::commands(data));

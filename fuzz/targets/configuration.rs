//! See `headgate_tests::hostile::configuration`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headgate_tests::hostile::configuration(data));

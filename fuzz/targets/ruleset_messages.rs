//! See `headgate_tests::hostile::ruleset_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headgate_tests::hostile::ruleset_messages(data));

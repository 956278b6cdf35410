//! See `headgate_tests::hostile::kernel_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headgate_tests::hostile::kernel_messages(data));

//! See `headgate_tests::hostile::boot_files`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headgate_tests::hostile::boot_files(data));

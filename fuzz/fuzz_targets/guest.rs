#![no_main]

#[path = "../guests.rs"]
mod guests;

libfuzzer_sys::fuzz_target!(|data: &[u8]| guests::guest(data));

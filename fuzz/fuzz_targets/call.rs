#![no_main]

#[path = "../callers.rs"]
#[allow(dead_code)]
mod callers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| callers::call(data));

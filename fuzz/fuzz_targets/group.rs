#![no_main]

#[path = "../account_files.rs"]
#[allow(dead_code)]
mod account_files;

libfuzzer_sys::fuzz_target!(|data: &[u8]| account_files::group_file(data));

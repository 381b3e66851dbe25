#![no_main]

#[path = "../homes.rs"]
mod homes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let dir = std::env::temp_dir().join(format!("fuzz-home-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("made");
    homes::home(&dir, data);
});

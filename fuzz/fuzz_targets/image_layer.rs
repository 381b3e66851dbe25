#![no_main]

#[path = "../images.rs"]
#[allow(dead_code)]
mod images;

libfuzzer_sys::fuzz_target!(|data: &[u8]| images::image_layer(data));

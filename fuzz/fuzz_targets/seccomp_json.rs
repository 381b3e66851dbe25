//! Any bytes as a seccomp profile: whatever compiles is a program the kernel takes, and the floor holds under it.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../floor_holds.rs"]
mod floor_holds;

fuzz_target!(|json: &[u8]| {
    let _met = floor_holds::floor_holds(json);
});

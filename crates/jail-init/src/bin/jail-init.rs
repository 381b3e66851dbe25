//! Makes a jail from sections.

#![forbid(unsafe_code)]

fn main() {}

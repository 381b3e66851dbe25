//! Man pages and completions; never installed.

#![forbid(unsafe_code)]

fn main() {}

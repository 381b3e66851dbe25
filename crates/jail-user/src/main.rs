//! Puts accounts into jails and takes them out again.

#![forbid(unsafe_code)]

fn main() {}

//! The set-uid login shell.

#![forbid(unsafe_code)]

fn main() {}

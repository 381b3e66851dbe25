//! Runs a command in a jail, with or without root.

#![forbid(unsafe_code)]

fn main() {}

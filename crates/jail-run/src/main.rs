//! Runs a command in a jail, with or without root.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

fn main() {}

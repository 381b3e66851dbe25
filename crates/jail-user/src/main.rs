//! Puts accounts into jails and takes them out again.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

fn main() {}

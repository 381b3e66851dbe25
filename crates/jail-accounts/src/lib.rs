//! passwd and group files, byte for byte, and the naming convention of jailed accounts.

#![forbid(unsafe_code)]

pub mod convention;

//! passwd and group files, byte for byte, and the naming convention of jailed accounts.
//!
//! The set-uid login shell reads accounts through [`passwd`] and [`group`]: functions of bytes, which open nothing,
//! never panic and never allocate more than they return.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod convention;
mod fields;
pub mod group;
pub mod lock;
pub mod passwd;
pub mod placement;
pub mod replace;
pub mod table;

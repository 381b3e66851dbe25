//! profile, wanted, plan, apply, manifest: what goes into a jail and why.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod elf;
pub mod host;
pub mod ldcache;
pub mod package;
pub mod resolve;
pub mod script;

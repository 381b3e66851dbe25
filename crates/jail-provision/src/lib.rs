//! profile, wanted, plan, apply, manifest: what goes into a jail and why.

#![forbid(unsafe_code)]

pub mod elf;
pub mod host;
pub mod ldcache;
pub mod resolve;
pub mod script;

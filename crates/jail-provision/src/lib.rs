//! profile, wanted, plan, apply, manifest: what goes into a jail and why.
//!
//! Every stage is a value that can be printed, saved and compared:
//!
//! ```text
//! sections --load--> Wanted --grow(host)--> Tree --plan(manifest, jail)--> Plan --apply(JailRoot)--> Manifest
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod adopt;
pub mod apply;
pub mod base;
pub mod check;
mod crew;
pub mod digest;
pub mod elf;
pub mod entry;
pub mod error;
pub mod glob;
pub mod host;
pub mod import;
pub mod inventory;
pub mod jailroot;
mod keep;
pub mod kept;
pub mod ldcache;
mod loader_cache;
pub mod manifest;
mod needs;
pub mod newc;
pub mod package;
pub mod plan;
pub mod profiles;
pub mod provision;
pub mod recording;
pub mod resolve;
pub mod sbom;
pub mod script;
pub mod section;
pub mod sshd;
pub mod state;
pub mod takedown;
pub mod text;
pub mod throwaway;
pub mod toml_text;
pub mod tree;
pub mod wanted;

pub use crew::Processors;
pub use error::{Error, Result};
pub use throwaway::{ThrowawayJail, ThrowawayRequest, throwaway};

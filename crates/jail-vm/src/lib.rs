//! A jail as a throw-away virtual machine, seen from the host.
//!
//! ```text
//! kernel     which kernel, and which of its drivers have to be loaded
//! boot       kernel and initramfs, laid out once a kernel and kept
//! image      the jail's tree as a read-only file system image, made once a state of the tree and kept
//! machine    QEMU's command line
//! relay      between the caller and the guest, who is the attacker
//! ```
//!
//! QEMU itself runs in a cell like any other program that is not trusted; `jail-run` puts it there.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod boot;
mod cpio;
mod erofs;
mod files;
pub mod image;
pub mod kernel;
pub mod machine;
pub mod relay;

/// Why there is no machine: what, where, why, and what to do.
pub type Result<T> = std::result::Result<T, String>;

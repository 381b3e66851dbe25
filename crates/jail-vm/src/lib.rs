//! A jail as a throw-away virtual machine, seen from the host.
//!
//! ```text
//! kernel     which kernel, and which of its drivers have to be loaded
//! boot       kernel and initramfs, laid out once a kernel and kept
//! image      the jail's tree as a read-only file system image, made once a state of the tree and kept
//! machine    QEMU's command line
//! home       the user's home, served to the guest
//! cell       QEMU's own cell: it is one more program that is not trusted
//! accelerator  whether the processor runs the guest, or QEMU
//! launch     all of these, in the order in which rights are given up
//! login      what jail-sh hands over (the program jail-machine)
//! relay      between the caller and the guest, who is the attacker
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod accelerator;
pub mod boot;
pub mod cell;
mod erofs;
mod files;
pub mod home;
pub mod image;
pub mod kernel;
pub mod launch;
pub mod login;
pub mod machine;
pub mod relay;

/// Why there is no machine: what, where, why, and what to do.
pub type Result<T> = std::result::Result<T, String>;

//! policy, admission, cell, confinement, exec: getting a process into a jail.
//!
//! Read `enter.rs` first: it is the whole story, and each line of it names the attack that its place in the order
//! stops. This crate is the privileged part of the set-uid login shell, so it is kept small, has few dependencies and
//! refuses whatever it does not understand.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::let_underscore_must_use
    )
)]

pub mod admission;
mod agent;
pub mod announce;
pub mod base;
pub mod cell;
pub mod cgroup;
pub mod chroot;
pub mod commands;
mod confined;
mod dbus;
mod deadline;
mod directory;
pub mod enter;
pub mod environment;
pub mod explain;
pub mod filter;
pub mod invocation;
mod landlock;
pub mod learn;
pub mod log;
pub mod machine;
mod own_etc;
pub mod policy;
mod programs;
pub mod refusal;
mod rlimit;
pub mod rootless;
mod scope;
pub mod seccomp;
pub mod service;
mod session;
pub mod trusted;
mod waiter;

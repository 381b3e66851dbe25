//! The administrator's tools around a jail: each binary is one call into here.
//!
//! A tool reads its command line, asks `jail-provision` for the work, and says what became of it. The definitions of the
//! command lines are public so that man pages and completions come from them.

#![forbid(unsafe_code)]

mod adopt;
mod cells;
pub mod check;
pub mod cp;
mod diff;
pub mod export;
pub mod host;
pub mod image;
mod import;
pub mod init;
pub mod list;
mod oci;
mod progress;
mod remove;
mod report;
mod run;
mod say;
pub mod update;

pub use say::finish;

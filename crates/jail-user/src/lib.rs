//! Putting accounts into jails and taking them out again: the library behind `jail-user`.

#![forbid(unsafe_code)]

#[macro_use]
mod talk;

pub mod books;
pub mod cli;
pub mod compat;
pub mod create;
pub mod dir;
pub mod home;
pub mod host;
pub mod jail;
pub mod jailkit;
pub mod keys;
pub mod manager;
pub mod migrate;
pub mod plan;
pub mod processes;
pub mod record;
pub mod report;
pub mod run;
pub mod session;
pub mod text;
pub mod trouble;
pub mod view;

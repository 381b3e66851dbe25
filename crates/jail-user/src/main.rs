//! Puts accounts into jails and takes them out again.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

use std::process::ExitCode;

use clap::Parser;
use jail_user::cli::Cli;

fn main() -> ExitCode {
    ExitCode::from(jail_user::run::run(&Cli::parse()))
}

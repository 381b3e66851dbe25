//! Runs a command in a jail, with or without root. A library only so that man page and completions can be made from
//! the very flags that the program reads.

#![forbid(unsafe_code)]

pub mod cli;
pub mod launch;
mod learn;
pub mod run;
mod vm;

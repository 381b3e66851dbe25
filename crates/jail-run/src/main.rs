//! jail-run: a command in a jail, with or without root; never set-uid.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

fn main() {
    std::process::exit(jail_run::run::main());
}

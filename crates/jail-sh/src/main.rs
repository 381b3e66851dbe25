//! The set-uid login shell: an SSH login goes in here and comes out inside a jail.
//!
//! Nothing but the call: the story is `jail_confine::enter`.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

fn main() {
    std::process::exit(jail_confine::enter::login_shell());
}

//! Makes a jail from sections.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

fn main() -> std::process::ExitCode {
    jail_init::init::main()
}

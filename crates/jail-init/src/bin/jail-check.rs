//! Says what is wrong with a jail.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    jail_init::check::main()
}

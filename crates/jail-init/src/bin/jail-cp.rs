//! Brings more of the host's files into a jail.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    jail_init::cp::main()
}

//! Brings jails in step with their host.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    jail_init::update::main()
}

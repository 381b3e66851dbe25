//! Lists the jails of this host.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    jail_init::list::main()
}

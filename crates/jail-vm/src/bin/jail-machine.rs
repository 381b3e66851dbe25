//! What jail-sh becomes for an account with `isolation = "vm"`: the process beside the machine. See `jail_vm::login`.

#![forbid(unsafe_code)]

fn main() {
    std::process::exit(jail_vm::login::main());
}

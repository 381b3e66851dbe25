//! Exports a jail as an image, an archive or a Pod.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    jail_init::export::main()
}

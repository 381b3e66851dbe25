//! jailkit's commands in terms of ours, for scripts that know nothing else: installed by `make install-compat` alone, as the
//! target of links named `jk_init`, `jk_cp` and so on. What it was called by says what it does.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(jail_user::compat::main())
}

//! Logins into virtual machines: everything that works for a jailed account has to work with `isolation = "vm"`.
//!
//! Each takes seconds, since nothing but emulation can be counted on, and a kernel to boot: `tests/vm` brings one and runs
//! this (`JAIL_VM_KERNEL`). Without one each test says that it skips.

mod faults;
mod home;
mod login;

use std::process::ExitCode;
use std::time::Duration;

use jailwright_tests::user::Under;
use jailwright_tests::{Scratch, Skip, User};

/// An emulated machine on a busy host.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    jailwright_tests::suite(&[login::TESTS, home::TESTS, faults::TESTS])
}

/// An account whose logins go into machines.
#[track_caller]
pub(crate) fn in_machines(host: &Scratch) -> Result<User<'_>, Skip> {
    with_policy(host, "")
}

/// The same with more lines of policy.
#[track_caller]
pub(crate) fn with_policy<'h>(host: &'h Scratch, lines: &str) -> Result<User<'h>, Skip> {
    if Under::test() != Under::Ours {
        return Err(Skip("the policy is ours".to_owned()));
    }
    let Some(kernel) = std::env::var_os("JAIL_VM_KERNEL") else {
        return Err(Skip("JAIL_VM_KERNEL names no kernel to boot; make test-vm brings one".to_owned()));
    };
    if !jailwright_tests::command::have("qemu-system-x86_64") {
        return Err(Skip("qemu-system-x86_64 is not installed; make test-vm installs it".to_owned()));
    }
    let user = host.jailed_user(&["basicshell", "extendedshell", "scp", "sftp", "rsync"]);
    let kernel = kernel.to_str().expect("UTF-8");
    host.add_policy(&format!("[user.{}]\nisolation = \"vm\"\nvm.kernel = \"{kernel}\"\n{lines}", user.name));
    Ok(user)
}

//! Attempts to get out of a cell, to see what is outside, or to be more than an ordinary user inside.
//!
//! One file a class; each test says in its comment what it is modelled on. All run as a jailed account over a real
//! login. `JAIL_UNDER_TEST=jailkit` and `=bwrap` hold others against the same attempts (`tests/attack-table`), and
//! `JAIL_VARIANT` runs them under other policies of ours: `writable` (root = "writable"), `discard`, `private`, and
//! `rootless`: from a cell that the account makes itself by jail-run, without root. The whole suite under ours goes through
//! all of them. `vm` runs them inside a virtual machine (`JAIL_VM_KERNEL` names its kernel), by hand: each takes seconds.

mod chroot;
mod credentials;
mod descriptors;
mod environment;
mod faults;
mod files;
mod ipc;
mod kernel;
mod mounts;
mod namespaces;
mod network;
mod policies;
mod processes;
mod provisioning;
mod resources;
mod rootless;
mod sshd;
mod terminals;

use std::process::ExitCode;

use jailwright_tests::user::Under;
use jailwright_tests::{Scratch, Skip, User};

fn main() -> ExitCode {
    let default = run();
    let everything = std::env::args().len() == 1 && std::env::var_os("JAIL_VARIANT").is_none();
    let outside = !jailwright_tests::scratch::is_inside();
    if !(everything && outside && Under::test() == Under::Ours && rustix::process::geteuid().is_root()) {
        return default;
    }
    let variants = ["writable", "discard", "private", "rootless"].map(again_under);
    if variants.iter().all(|ok| *ok) { default } else { ExitCode::FAILURE }
}

/// Runs the classes that a policy could weaken once more, under another policy.
fn again_under(variant: &str) -> bool {
    println!("\nattack, once more with JAIL_VARIANT={variant}");
    // Behind a user namespace of its own the same kernel has other doors.
    let more: &[&str] =
        if variant == "rootless" { &["kernel::", "ipc::", "terminals::", "network::"] } else { &[] };
    let exe = std::env::current_exe().expect("this program's path");
    std::process::Command::new(exe)
        .args(["mounts::", "namespaces::", "credentials::", "processes::", "files::", "descriptors::"])
        .args(more)
        .env("JAIL_VARIANT", variant)
        .status()
        .is_ok_and(|status| status.success())
}

fn run() -> ExitCode {
    jailwright_tests::suite(&[
        mounts::TESTS,
        namespaces::TESTS,
        kernel::TESTS,
        terminals::TESTS,
        chroot::TESTS,
        credentials::TESTS,
        processes::TESTS,
        ipc::TESTS,
        files::TESTS,
        descriptors::TESTS,
        environment::TESTS,
        provisioning::TESTS,
        policies::TESTS,
        network::TESTS,
        resources::TESTS,
        sshd::TESTS,
        rootless::TESTS,
        faults::TESTS,
    ])
}

/// A jailed account with the probe, under the policy of the variant.
#[track_caller]
fn attacker(host: &Scratch) -> User<'_> {
    let user = host.attacker();
    if Under::test() == Under::Ours {
        let policy = match std::env::var("JAIL_VARIANT").as_deref() {
            Err(_) | Ok("default") => return user,
            Ok("writable") => "root = \"writable\"".to_owned(),
            Ok("discard") => "root = \"discard\"".to_owned(),
            Ok("private") => "session = \"private\"".to_owned(),
            Ok("rootless") => return user.rootless(),
            Ok("vm") => virtual_machine(),
            Ok(other) => {
                panic!("JAIL_VARIANT={other}: one of default, writable, discard, private, rootless, vm")
            }
        };
        host.add_policy(&format!("[user.{}]\n{policy}\n", user.name));
    }
    user
}

/// Logins into machines that boot the kernel of `make test-vm`.
fn virtual_machine() -> String {
    let kernel = std::env::var("JAIL_VM_KERNEL").expect("JAIL_VM_KERNEL names the kernel to boot");
    format!("isolation = \"vm\"\nvm.kernel = \"{kernel}\"")
}

/// For attempts on a login and its jail, which a cell of the account's own making does not have.
fn of_a_login() -> Result<(), Skip> {
    match std::env::var("JAIL_VARIANT").as_deref() {
        Ok("rootless") => Err(Skip("a login and its jail are meant".to_owned())),
        _ => Ok(()),
    }
}

/// Whether the suite runs with the policy as it is built in.
fn default_policy() -> bool {
    matches!(std::env::var("JAIL_VARIANT").as_deref(), Err(_) | Ok("default" | "private"))
}

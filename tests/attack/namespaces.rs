//! Namespaces: a new one would bring capabilities over new kernel code, an old one the host.

use jailwright_tests::{Done, Scratch, Test, test};

use crate::attacker;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch unshare_a_user_namespace),
    test!(scratch clone_a_user_namespace),
    test!(scratch unshare_others),
    test!(scratch enter_those_of_process_1),
];

/// CVE-2022-0185, CVE-2024-1086, CVE-2026-43284: unprivileged user namespaces open the network and mount code.
fn unshare_a_user_namespace(host: &Scratch) -> Done {
    attacker(host).cannot(&["unshare_user"]);
    Ok(())
}

/// The same by clone(2), and by clone3(2), whose flags no filter can read.
fn clone_a_user_namespace(host: &Scratch) -> Done {
    let user = attacker(host);
    user.cannot(&["clone_newuser", "clone3_newuser"]);
    Ok(())
}

/// CVE-2022-0492 unshared a cgroup and a mount namespace.
fn unshare_others(host: &Scratch) -> Done {
    attacker(host).cannot(&["unshare_mount", "unshare_pid", "unshare_net", "unshare_time"]);
    Ok(())
}

/// setns(2) into what process 1 has, by name and by pidfd.
fn enter_those_of_process_1(host: &Scratch) -> Done {
    attacker(host).cannot(&["setns_init_mount", "setns_init_user", "setns_by_pidfd:1"]);
    Ok(())
}

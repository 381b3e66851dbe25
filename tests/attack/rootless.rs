//! The same attempts from a cell that an ordinary user made himself: jail-run without root, behind a user namespace.

use jailwright_tests::user::Under;
use jailwright_tests::{Done, Scratch, Test, skip, test};

use crate::attacker;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch the_kernels_doors_stay_shut),
    test!(scratch nothing_of_the_host_is_there),
    test!(scratch another_user_namespace),
];

/// Attempts of the probe in a throw-away jail of the account's own; gives back those that succeeded.
#[track_caller]
fn possible(host: &Scratch, attempts: &[String]) -> Vec<String> {
    let user = attacker(host);
    jailwright_tests::user::bring_probe(std::path::Path::new("/"));
    host.product();
    let out = user
        .outside("/usr/local/bin/jail-run")
        .args(["basicshell", "--with", "/usr/bin/probe", "--", "/usr/bin/probe"])
        .args(attempts)
        .env("HOME", &user.home)
        .without_env("XDG_CACHE_HOME")
        .dir("/")
        .run();
    let text = out.text();
    assert_eq!(text.lines().count(), attempts.len(), "{text}{}", out.errors());
    text.lines()
        .filter(|line| line.split_once(' ').is_some_and(|(_, answer)| answer.starts_with("OK")))
        .map(str::to_owned)
        .collect()
}

/// Inside a user namespace the caller once had every capability: none may be left, and no call that would use it.
fn the_kernels_doors_stay_shut(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-run is meant");
    }
    let attempts = [
        "mount_tmpfs",
        "mount_proc",
        "mount_bind_root",
        "remount_root",
        "umount_proc",
        "pivot_root",
        "chroot",
        "chroot_escape",
        "fsopen",
        "open_tree",
        "move_mount",
        "mount_setattr",
        "open_by_handle_at",
        "setns_init_mount",
        "bpf",
        "perf_event_open",
        "io_uring_setup",
        "userfaultfd",
        "keyctl_join",
        "add_key",
        "vmsplice",
        "socket_alg",
        "socket_packet",
        "socket_raw",
        "socket_netfilter",
        "i386_getpid",
        "x32_getpid",
        "sethostname",
        "personality_exec",
        "unix_oob",
        "setuid_0",
        "capset_all",
        "ambient_raise",
        "no_new_privs_off",
        "mknod_null",
        "mknod_disk",
        "write:/new",
        "write:/usr/bin/new",
        "write:/run/new",
        "write:/dev/new",
        "write:/etc/passwd",
    ];
    let found = possible(host, &attempts.map(str::to_owned));
    assert!(found.is_empty(), "{found:?}");
    Ok(())
}

/// Files, processes and sockets.
fn nothing_of_the_host_is_there(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-run is meant");
    }
    let secret = format!("/srv/{}", host.unique("secret"));
    std::fs::write(&secret, "host").expect("write");
    let service = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = service.local_addr().expect("address").port();
    jailwright_tests::Run::sh("for n in $(seq 60); do /bin/true; done").run().ok();
    // A pid that the few processes of a cell never have; of the caller's own uid where that is the question.
    let outside = jailwright_tests::Run::new("sleep").arg("300").background();
    let pid = outside.pid();
    assert!(pid > 50, "{pid} may be a pid of the cell's own");
    let attempts = [
        format!("read:{secret}"),
        "read:/etc/shadow".to_owned(),
        format!("connect_tcp:127.0.0.1:{port}"),
        format!("kill:{pid}"),
        format!("ptrace:{pid}"),
        "read:/proc/kallsyms".to_owned(),
        "write:/proc/sys/kernel/core_pattern".to_owned(),
    ];
    let found: Vec<String> =
        possible(host, &attempts).into_iter().filter(|line| line != "read OK 0 bytes").collect();
    assert!(found.is_empty(), "{found:?}");
    Ok(())
}

/// CVE-2022-0185's class: a second namespace would bring the capabilities back.
fn another_user_namespace(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-run is meant");
    }
    let found = possible(
        host,
        &["unshare_user", "clone_newuser", "clone3_newuser", "unshare_mount", "unshare_net"]
            .map(str::to_owned),
    );
    assert!(found.is_empty(), "{found:?}");
    Ok(())
}

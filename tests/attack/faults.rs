//! Each confining system call made to fail in turn: a refusal, never a shell with less around it.
//!
//! strace(1) answers for the kernel: the call is not made, and jail-sh is told the error. Modelled on the class of
//! setuid(2) whose failure nobody looked at, and on bubblewrap's own fault tests.

use std::time::Duration;

use jailwright_tests::command::have;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, User, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch namespaces_that_fail),
    test!(scratch mounts_that_fail),
    test!(scratch credentials_that_fail),
    test!(scratch filters_that_fail),
    test!(scratch limits_and_descriptors_that_fail),
    test!(scratch not_dumpable_before_anything_is_done),
];

/// What the session says of itself, if it ever starts; by the shell alone, since strace counts a call for each process
/// and the session's own would fail too. `/*` shows whose root it is.
const REPORT: &str = "echo started; show() { while read -r line; do echo \"$line\"; done <$1; }; show /proc/self/status; \
                      show /proc/net/dev; printf '%s\\n' /* /proc/[0-9]*";

/// How often a call may occur in one entry and still be tried each time; later ones are tried together.
const EACH: usize = 8;

/// One entry with `call` failing; strace writes what it did to `log`.
fn enter(user: &User<'_>, log: &str, inject: &str) -> jailwright_tests::Output {
    Run::new("strace")
        .args(["-f", "-qq", "-o", log, "-u", &user.name, "-e", "signal=none", "-e"])
        .arg(inject)
        .arg(user.scratch().product().jail_sh())
        .args(["-c", REPORT])
        .env("USER", &user.name)
        .dir("/")
        .within(Duration::from_secs(20))
        .run()
}

#[track_caller]
fn assert_whole_or_refused(out: &jailwright_tests::Output, what: &str) {
    let text = out.text();
    if !text.contains("started") {
        assert_ne!(out.status, 0, "{what}: nothing ran, and yet all is well");
        return;
    }
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(text.contains(line), "{what}: a shell without '{line}':\n{text}");
    }
    assert!(!text.lines().any(|line| line == "/boot"), "{what}: a shell with the host's root:\n{text}");
    let processes = text.lines().filter(|line| line.starts_with("/proc/")).count();
    assert!(processes <= 6, "{what}: a shell that sees {processes} processes:\n{text}");
    assert!(!text.contains("eth0"), "{what}: a shell with the host's network:\n{text}");
}

fn fail_each(host: &Scratch, calls: &[&str]) -> Done {
    if !have("strace") {
        return skip("no strace on this machine");
    }
    if Under::test() != Under::Ours {
        return skip("jail-sh is meant");
    }
    let user = host.jailed_user(&["basicshell"]);
    let log = format!("/tmp/strace-{}", user.name);
    let mut tried = 0;
    for call in calls {
        enter(&user, &log, &format!("trace={call}")).ok();
        let trace = std::fs::read_to_string(&log).expect("strace's log");
        let count = trace.lines().filter(|line| line.contains(&format!(" {call}("))).count();
        let mut faults: Vec<String> =
            (1..=count.min(EACH)).map(|n| format!("error=EPERM:when={n}")).collect();
        if count > 0 {
            faults.extend(["ENOSYS", "EINVAL", "ENOMEM"].map(|error| format!("error={error}:when=1")));
            faults.push("error=EPERM".to_owned());
        }
        for fault in faults {
            let what = format!("{call} with {fault}");
            let out = enter(&user, &log, &format!("inject={call}:{fault}"));
            assert_whole_or_refused(&out, &what);
            tried += 1;
        }
    }
    assert!(tried > calls.len(), "only {tried} faults: jail-sh makes none of {calls:?}");
    drop(std::fs::remove_file(&log));
    Ok(())
}

fn namespaces_that_fail(host: &Scratch) -> Done {
    fail_each(host, &["unshare", "setns", "clone3", "clone", "sethostname"])
}

fn mounts_that_fail(host: &Scratch) -> Done {
    fail_each(
        host,
        &[
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "fsopen",
            "fsconfig",
            "fsmount",
            "open_tree",
            "move_mount",
            "mount_setattr",
            "openat2",
            "fchdir",
        ],
    )
}

fn credentials_that_fail(host: &Scratch) -> Done {
    fail_each(
        host,
        &[
            "setgroups",
            "setresgid",
            "setresuid",
            "setgid",
            "setuid",
            "capset",
            "capget",
            "getresuid",
            "prctl",
        ],
    )
}

fn filters_that_fail(host: &Scratch) -> Done {
    fail_each(host, &["seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"])
}

fn limits_and_descriptors_that_fail(host: &Scratch) -> Done {
    fail_each(host, &["close_range", "setrlimit", "prlimit64", "keyctl", "setsid", "fcntl", "pidfd_open"])
}

/// The kernel makes a set-uid program undumpable by itself, but where it is started by root (su, sshd) it does not; so it is done
/// by hand, before anything else is done. From outside the two cannot be told apart.
fn not_dumpable_before_anything_is_done(host: &Scratch) -> Done {
    if !have("strace") {
        return skip("no strace on this machine");
    }
    if Under::test() != Under::Ours {
        return skip("jail-sh is meant");
    }
    let user = host.jailed_user(&["basicshell"]);
    let log = format!("/tmp/strace-dumpable-{}", user.name);
    enter(&user, &log, "trace=prctl,close_range").ok();
    let trace = std::fs::read_to_string(&log).expect("strace's log");
    let at = |what: &str| trace.lines().position(|line| line.contains(what));
    let (shut, first) = (at("PR_SET_DUMPABLE, SUID_DUMP_DISABLE"), at("close_range(3"));
    assert!(shut.is_some() && first.is_some() && shut < first, "{shut:?} {first:?}\n{trace}");
    Ok(())
}

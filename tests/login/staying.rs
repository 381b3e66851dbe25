//! The two processes that stay with a session, the cell's first and the waiter: each has a filter of its own, and does all
//! that it is there for under it.

use std::time::Duration;

use jailwright_tests::command::wait_until;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, User, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch both_have_a_filter),
    test!(scratch the_waiter_of_a_chroot_has_a_filter),
    test!(scratch both_have_a_filter_without_root),
    test!(scratch orphans_are_reaped_and_signals_passed_on),
];

fn ours() -> bool {
    Under::test() == Under::Ours
}

/// The process of that name, and its line `Seccomp:`.
fn seccomp_of(user: &User<'_>, name: &str) -> Option<String> {
    user.processes().into_iter().find_map(|(pid, _)| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        (field("Name:")? == name).then(|| field("Seccomp:").map(str::to_owned))?
    })
}

/// 2 is a filter. It is loaded while the session's program starts already, so it is waited for.
#[track_caller]
fn assert_filtered(user: &User<'_>, names: &[&str]) {
    for name in names {
        wait_until(
            &format!("{name} has its filter: {:?}", seccomp_of(user, name)),
            Duration::from_secs(10),
            || seccomp_of(user, name).as_deref() == Some("2"),
        );
    }
}

fn both_have_a_filter(host: &Scratch) -> Done {
    if !ours() {
        return skip("the processes are ours");
    }
    let user = host.jailed_user(&["basicshell"]);
    for (seccomp, session) in [("default", "shared"), ("off", "private")] {
        host.add_policy(&format!("[user.{}]\nseccomp = \"{seccomp}\"\nsession = \"{session}\"\n", user.name));
        let mut login = user.jail_sh("echo in; exec sleep 60").background();
        assert_eq!(login.first_line(), "in");
        assert_filtered(&user, &["jail-init", "jail-waiter"]);
        Run::sh(&format!("pkill -x -u {} sleep", user.uid)).run().ok();
        user.wait_for_the_end();
    }
    Ok(())
}

fn the_waiter_of_a_chroot_has_a_filter(host: &Scratch) -> Done {
    if !ours() {
        return skip("the processes are ours");
    }
    let user = host.jailed_user(&["basicshell"]);
    host.add_policy(&format!("[user.{}]\nisolation = \"chroot\"\n", user.name));
    let mut login = user.jail_sh("(trap '' HUP; exec sleep 61) & echo in; exec sleep 60").background();
    assert_eq!(login.first_line(), "in");
    assert_filtered(&user, &["jail-waiter"]);
    Run::sh(&format!("pkill -f -u {} '^sleep 60'", user.uid)).run().ok();
    // Under it the waiter still finds and ends what the session left.
    user.wait_for_the_end();
    Ok(())
}

fn both_have_a_filter_without_root(host: &Scratch) -> Done {
    if !ours() {
        return skip("jail-run is meant");
    }
    let user = host.plain_user();
    host.product();
    let mut run = user
        .outside("/usr/local/bin/jail-run")
        .args(["basicshell", "--", "/bin/sh", "-c", "echo in; exec sleep 60"])
        .env("HOME", &user.home)
        .without_env("XDG_CACHE_HOME")
        .dir("/")
        .within(Duration::from_secs(60))
        .background();
    assert_eq!(run.first_line(), "in");
    assert_filtered(&user, &["jail-init", "jail-waiter"]);
    Run::sh(&format!("pkill -x -u {} sleep", user.uid)).run().ok();
    user.wait_for_the_end();
    Ok(())
}

fn orphans_are_reaped_and_signals_passed_on(host: &Scratch) -> Done {
    if !ours() {
        return skip("the processes are ours");
    }
    let user = host.jailed_user(&["basicshell"]);
    let script = "for i in 1 2 3 4 5 6 7 8; do (true & true &); done; trap 'echo heard; exit 9' TERM; echo in; \
                  while :; do sleep 0.1; done";
    let mut login = user.jail_sh(script).background();
    assert_eq!(login.first_line(), "in");
    assert_filtered(&user, &["jail-init", "jail-waiter"]);
    wait_until("no zombie is left to the first process", Duration::from_secs(10), || {
        Run::sh(&format!("ps -o stat= -u {} | grep -c ^Z", user.uid)).run().text() == "0"
    });
    Run::sh(&format!("pkill -TERM -x -u {} jail-waiter", user.uid)).run().ok();
    assert_eq!(login.wait(Duration::from_secs(10)), Some(9), "the signal went in and the status came out");
    user.wait_for_the_end();
    Ok(())
}

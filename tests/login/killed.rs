//! SIGKILL at every stage of an entry: whatever stood by then, one sweep later nothing of it is left.

use std::collections::BTreeMap;
use std::time::Duration;

use jailwright_tests::command::{have, wait_until};
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, User, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch an_entry_killed_at_any_of_its_calls),
    test!(scratch an_entry_killed_with_all_it_started),
    test!(scratch a_run_directory_that_is_full),
];

/// One entry under strace with what `what` says, and which calls it made; `with_children`: and what it started.
fn enter(user: &User<'_>, what: &str, with_children: bool) -> (i32, String) {
    let follow: &[&str] = if with_children { &["-f"] } else { &[] };
    let log = format!("/tmp/killed-{}", user.name);
    let out = Run::new("strace")
        .args(follow)
        .args(["-qq", "-o", &log, "-u", &user.name, "-e", "signal=none", "-e", what])
        .arg(user.scratch().product().jail_sh())
        .args(["-c", "exit 7"])
        .env("USER", &user.name)
        .dir("/")
        .within(Duration::from_secs(30))
        .run();
    let calls = std::fs::read_to_string(&log).unwrap_or_default();
    drop(std::fs::remove_file(&log));
    (out.status, calls)
}

/// Some calls of an entry, by name and how often that has been made until then, as strace counts them.
fn stages(calls: &str, step: usize) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut stages = Vec::new();
    for line in calls.lines() {
        let Some((before, _)) = line.split_once('(') else { continue };
        let mut words = before.split_whitespace().rev();
        let (Some(call), process) = (words.next(), words.next().unwrap_or_default()) else { continue };
        if call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let count = counts.entry((process, call)).or_default();
            *count += 1;
            stages.push((call.to_owned(), *count));
        }
    }
    stages.into_iter().step_by(step).collect()
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table")
}

/// Directories of cells and control groups that bear the user's number.
fn left_of(user: &User<'_>) -> Vec<String> {
    let uid = user.uid;
    let find = format!(
        "find /run/jailwright -name '{uid}-*' 2>/dev/null; find /sys/fs/cgroup -mindepth 2 -type d -path '*jailwright/{uid}/*' 2>/dev/null; true"
    );
    Run::sh(&find).run().ok().text().lines().map(str::to_owned).collect()
}

fn killed_everywhere(host: &Scratch, with_children: bool) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-sh is meant");
    }
    if !have("strace") {
        return skip("no strace on this machine");
    }
    let user = host.jailed_user(&["basicshell"]);
    assert_eq!(user.jail_sh("exit 7").run().status, 7, "the control");
    user.wait_for_the_end();
    let before = mounts();
    let mut killed = 0;
    let (status, calls) = enter(&user, "trace=all", with_children);
    assert_eq!(status, 7, "the control, traced: {calls}");
    user.wait_for_the_end();
    for (call, count) in stages(&calls, 5) {
        let (status, _) = enter(&user, &format!("inject={call}:signal=KILL:when={count}"), with_children);
        killed += usize::from(status != 7);
        let stage = format!("killed at {call} {count}");
        wait_until(&stage, Duration::from_secs(15), || user.processes().is_empty());
        assert_eq!(mounts(), before, "{stage}");
    }
    assert!(killed > 20, "only {killed} kills met the entry");
    host.product().command("jail-list").arg("--sweep").run().ok();
    assert_eq!(left_of(&user), Vec::<String>::new());
    // Nobody is in the next one's way.
    assert_eq!(user.jail_sh("exit 7").run().status, 7);
    Ok(())
}

fn an_entry_killed_at_any_of_its_calls(host: &Scratch) -> Done {
    killed_everywhere(host, false)
}

fn an_entry_killed_with_all_it_started(host: &Scratch) -> Done {
    killed_everywhere(host, true)
}

/// No room to write a cell down: a refusal, not a cell that nobody knows of; and when there is room again, all is well.
fn a_run_directory_that_is_full(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-sh is meant");
    }
    let user = host.jailed_user(&["basicshell"]);
    let jail_sh = host.product().jail_sh().display().to_string();
    // In a mount namespace of this test's own: others need theirs. One page of room, and no more inodes.
    let script = format!(
        "mount -t tmpfs -o size=4k,nr_inodes=3,mode=755 full /run/jailwright && \
         (: >/run/jailwright/a; : >/run/jailwright/b) 2>/dev/null; \
         setpriv --reuid {uid} --regid {uid} --clear-groups {jail_sh} -c 'echo ran'; echo status $?; \
         rm -f /run/jailwright/a /run/jailwright/b; mount -o remount,size=1m,nr_inodes=100 /run/jailwright; \
         setpriv --reuid {uid} --regid {uid} --clear-groups {jail_sh} -c 'echo ran later'",
        uid = user.uid
    );
    user.jail_sh("true").run().ok();
    user.wait_for_the_end();
    let out =
        Run::new("unshare").args(["--mount", "sh", "-c", &script]).env("USER", &user.name).dir("/").run();
    assert_eq!(out.text(), "status 125\nran later", "{}", out.errors());
    user.wait_for_the_end();
    Ok(())
}

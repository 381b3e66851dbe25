//! Using things up: only the session may suffer, never the host or the next login of another user.

use std::time::{Duration, Instant};

use jailwright_tests::command::wait_until;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, skip, test};

use crate::attacker;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch fork_bomb),
    test!(scratch open_files),
    test!(scratch terminals_by_the_thousand),
    test!(scratch core_dumps),
    test!(scratch groups_of_cells_that_ended),
];

/// Built-in `processes` has to hold it, by cgroup or by RLIMIT_NPROC.
fn fork_bomb(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("a host without limits would not survive it");
    }
    let (user, other) = (attacker(host), attacker(host));
    other.ssh("true").run().ok();
    // Not the classic one-liner: bounded, so that a failing test does not take the machine with it.
    let bomb = user
        .sshd()
        .client("ssh")
        .args([&user.at_host(), "for i in $(seq 1 1500); do sleep 20 & done; wait"])
        .background();
    std::thread::sleep(Duration::from_secs(2));
    let count = user.processes().len();
    let started = Instant::now();
    other.ssh("true").run().ok();
    let took = started.elapsed();
    drop(bomb);
    user.outside("kill").args(["-KILL", "-1"]).run();
    assert!(count < 1200, "{count} processes");
    assert!(took < Duration::from_secs(20), "the other user's login took {took:?}");
    Ok(())
}

/// A limit on open files stands, and the caller can't raise it.
fn open_files(host: &Scratch) -> Done {
    let out = attacker(host).ssh("ulimit -Hn; ulimit -n 1000000 2>&1 >/dev/null | wc -l").run().text();
    let hard: u64 = out.lines().next().and_then(|n| n.parse().ok()).unwrap_or(u64::MAX);
    assert!(hard <= 1_048_576, "{out}");
    Ok(())
}

/// The host's pseudo-terminals are a shared, finite number.
fn terminals_by_the_thousand(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("a host without limits would run out of them");
    }
    let user = attacker(host);
    let before = std::fs::read_to_string("/proc/sys/kernel/pty/nr").expect("read");
    let out = user.ssh("ulimit -n 900; n=10; while [ $n -lt 800 ]; do eval \"exec $n<>/dev/ptmx\" || break; n=$((n+1)); done; echo $n").run();
    assert_ne!(out.text(), "800", "790 terminals could be opened: {}", out.errors());
    let after = std::fs::read_to_string("/proc/sys/kernel/pty/nr").expect("read");
    let (before, after): (i64, i64) =
        (before.trim().parse().expect("a number"), after.trim().parse().expect("a number"));
    assert!(after - before < 10, "{before} before, {after} after");
    Ok(())
}

/// CVE-2025-4598's class: a core of a process that was set-uid a moment ago, written where the pattern says.
fn core_dumps(host: &Scratch) -> Done {
    let out = attacker(host).ssh("ulimit -Hc").run().text();
    assert_eq!(out, "0");
    Ok(())
}

/// Control groups are the host's to run out of. Nobody with privilege stays behind to remove a cell's, so the next entry of
/// anyone does, one without limits too.
fn groups_of_cells_that_ended(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the groups are ours");
    }
    let (limited, other) = (attacker(host), attacker(host));
    host.add_policy(&format!("[user.{}]\nprocesses = 50\n", limited.name));
    let uid = limited.uid.to_string();
    let groups = || Run::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &uid]).run().text();
    let mut terminal = limited.terminal();
    terminal.expect("$ ");
    if groups().is_empty() {
        return skip("there is no pids controller here");
    }
    terminal.kill();
    limited.outside("kill").args(["-KILL", "-1"]).run();
    limited.wait_for_the_end();
    wait_until("its groups are gone", Duration::from_secs(20), || {
        // A cell of its own each time: joining one that is there clears nothing.
        other.outside("kill").args(["-KILL", "-1"]).run();
        other.wait_for_the_end();
        other.ssh("true").run().ok();
        groups().is_empty()
    });
    Ok(())
}

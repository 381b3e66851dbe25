//! Using things up: only the session may suffer, never the host or the next login of another user.

use std::time::{Duration, Instant};

use jailwright_tests::command::wait_until;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Skip, Test, User, skip, test};

use crate::attacker;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch fork_bomb),
    test!(scratch processes_beyond_the_limit),
    test!(scratch memory_beyond_the_limit),
    test!(scratch processors_beyond_the_limit),
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

/// An account with one more limit; `None` where this host has nothing to hold it by, which is a refusal.
fn limited<'s>(host: &'s Scratch, limit: &str) -> Result<User<'s>, Skip> {
    if Under::test() != Under::Ours {
        return Err(Skip("the limits are ours".to_owned()));
    }
    let user = attacker(host);
    host.add_policy(&format!("[user.{}]\n{limit}\n", user.name));
    if user.ssh("true").run().status == 125 {
        return Err(Skip(format!("no controller holds '{limit}' on this host")));
    }
    Ok(user)
}

fn processes_beyond_the_limit(host: &Scratch) -> Done {
    let user = limited(host, "processes = 20")?;
    let mut many = user.ssh("for i in $(seq 60); do sleep 60 & done 2>/dev/null").background();
    // A shell that cannot fork tries again for a while: it is there long enough to be looked at.
    let sleeps = || user.processes().iter().filter(|(_, command)| command == "sleep 60").count();
    wait_until("some are there", Duration::from_secs(15), || sleeps() > 8);
    std::thread::sleep(Duration::from_secs(1));
    let count = sleeps();
    many.kill();
    user.outside("kill").args(["-KILL", "-1"]).run();
    assert!(count <= 20, "{count} processes");
    Ok(())
}

fn memory_beyond_the_limit(host: &Scratch) -> Done {
    let user = limited(host, "memory = \"64M\"")?;
    // tail(1) keeps what it is to show; /tmp is memory, too.
    for hog in [
        "head -c 200000000 /dev/zero | tail -c 200000000",
        "head -c 200000000 /dev/zero >/tmp/hog; cat /tmp/hog",
    ] {
        let out = user.ssh(&format!("({hog}) | wc -c")).run();
        assert_ne!(out.text(), "200000000", "'{hog}' had 200 MB");
    }
    Ok(())
}

fn processors_beyond_the_limit(host: &Scratch) -> Done {
    let user = limited(host, "cpus = 0.2")?;
    let busy = "(while :; do :; done) & a=$!; (while :; do :; done) & b=$!; start=${EPOCHREALTIME/./}; sleep 3; \
                end=${EPOCHREALTIME/./}; kill $a $b; wait; times | tail -n 1; echo $((end - start))";
    let out = user.ssh(busy).run();
    let text = out.text();
    // `1m2.345s` of the user's and of the kernel's.
    let seconds = |word: &str| -> f64 {
        let (minutes, seconds) = word.trim_end_matches('s').split_once('m').expect("a time");
        minutes.parse::<f64>().expect("minutes") * 60.0 + seconds.parse::<f64>().expect("seconds")
    };
    let (times, lasted) = text.split_once('\n').expect("two lines");
    let used: f64 = times.split_whitespace().map(seconds).sum();
    let lasted = lasted.trim().parse::<f64>().expect("microseconds") / 1e6;
    assert!(used < 0.4 * lasted, "{used} s of processors in {lasted} s: {text}");
    Ok(())
}

/// A limit on open files stands, and the caller can't raise it.
fn open_files(host: &Scratch) -> Done {
    if Under::test() == Under::Ours {
        let user = limited(host, "open_files = 64")?;
        let out = user.ssh("ulimit -Hn; ulimit -n 65 2>/dev/null || echo stays").run();
        assert_eq!(out.text(), "64\nstays", "{}", out.errors());
    }
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

//! Many logins at once, and cells that come, go and break under them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jailwright_tests::command::{Background, wait_until};
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, User, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch two_hundred_logins_of_one_user_share_one_cell),
    test!(scratch forty_users_at_once_again_and_again),
    test!(scratch a_hundred_users_with_many_sessions_each),
    test!(scratch a_policy_edited_while_logins_come),
    test!(scratch the_first_process_is_killed),
    test!(scratch a_waiter_is_killed),
    test!(scratch what_a_reboot_leaves_is_in_nobodys_way),
    test!(scratch a_jail_removed_while_a_cell_lives),
];

/// With many at once, each takes its time.
fn jail_sh(user: &User<'_>, command: &str) -> Run {
    user.jail_sh(command).within(Duration::from_secs(120))
}

fn waiting(user: &User<'_>) -> Background {
    jail_sh(user, "readlink /proc/self/ns/pid; exec sleep 600").background()
}

fn cell_of(login: &mut Background) -> String {
    login.first_line().trim().to_owned()
}

fn ours() -> bool {
    Under::test() == Under::Ours
}

/// Ends what [`waiting`] started. A waiter that is killed is not the end: its session lives on in the shared cell.
fn ended(user: &User<'_>) {
    wait_until("the cell ends", Duration::from_secs(20), || {
        let left = user.processes();
        // Again and again: a shell may not have become its sleep yet.
        for (pid, _) in left.iter().filter(|(_, line)| line == "sleep 600") {
            drop(Run::new("kill").arg(pid.to_string()).run());
        }
        left.is_empty()
    });
}

fn two_hundred_logins_of_one_user_share_one_cell(host: &Scratch) -> Done {
    if !ours() {
        return skip("cells are ours");
    }
    let user = host.jailed_user(&["basicshell"]);
    host.add_policy(&format!("[user.{}]\nprocesses = 2000\n", user.name));
    let mut logins: Vec<Background> = (0..200).map(|_| waiting(&user)).collect();
    let cells: Vec<String> = logins.iter_mut().map(cell_of).collect();
    assert_eq!(cells.iter().filter(|cell| cell.is_empty()).count(), 0, "logins were lost");
    assert_eq!(cells.into_iter().collect::<BTreeSet<_>>().len(), 1);
    drop(logins);
    ended(&user);
    Ok(())
}

/// Every first login clears away what others left: none may clear away what another has just begun.
fn forty_users_at_once_again_and_again(host: &Scratch) -> Done {
    if !ours() {
        return skip("cells are ours");
    }
    let users: Vec<User<'_>> = (0..40).map(|_| host.jailed_user(&["basicshell"])).collect();
    for round in 0..8 {
        let logins: Vec<_> = users
            .iter()
            .map(|user| (user, jail_sh(user, "echo in").into_command()))
            .map(|(user, mut command)| {
                command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
                (user, command.spawn().expect("spawn"))
            })
            .collect();
        for (user, login) in logins {
            let out = login.wait_with_output().expect("wait");
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.success() && out.stdout == b"in\n", "round {round}, {}: {said}", user.name);
        }
    }
    Ok(())
}

/// A hundred users at once, each with so many sessions as `JAILWRIGHT_CROWD` says (`make test-crowd`: one and ten): a cell for
/// each user, none lost, and the figures. Accounts alone take a minute, so it is no part of `make test`.
fn a_hundred_users_with_many_sessions_each(host: &Scratch) -> Done {
    const USERS: usize = 100;
    let Some(sessions) = std::env::var("JAILWRIGHT_CROWD").ok().and_then(|n| n.parse::<usize>().ok()) else {
        return skip("slow: make test-crowd");
    };
    if !ours() {
        return skip("cells are ours");
    }
    let jail = host.shared_jail_at("/srv/crowd", &["basicshell"]);
    let users: Vec<User<'_>> = (0..USERS).map(|_| host.plain_user().moved_into(&jail)).collect();
    let available = || {
        let text = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).expect("MemAvailable");
        line.split_whitespace().next().and_then(|kib| kib.parse::<i64>().ok()).expect("a number")
    };
    let (before, begun) = (available(), Instant::now());
    let mut logins: Vec<(&User<'_>, Background)> =
        (0..sessions).flat_map(|_| users.iter().map(|user| (user, waiting(user)))).collect();
    let mut cells: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (user, login) in &mut logins {
        let cell = cell_of(login);
        assert!(cell.starts_with("pid:["), "a login of {} was lost", user.name);
        cells.entry(user.name.clone()).or_default().insert(cell);
    }
    let (took, used) = (begun.elapsed(), before - available());
    assert!(cells.values().all(|cells| cells.len() == 1), "logins of one user are apart: {cells:?}");
    let all: BTreeSet<_> = cells.values().flatten().collect();
    assert_eq!(all.len(), USERS, "users share a cell");
    let begun = Instant::now();
    jail_sh(&users[0], "true").run().ok();
    let count = logins.len();
    let next = begun.elapsed();
    println!(
        "{count} sessions of {USERS} users stood after {took:.1?}, {} KiB each of all memory, shell and sleep included; \
         the next login took {next:.1?}",
        used / i64::try_from(count).expect("small")
    );
    drop(logins);
    for user in &users {
        ended(user);
    }
    let left = Run::sh("ls /run/jailwright/cells").run().ok();
    host.product().command("jail-list").arg("--sweep").run().ok();
    let cells = Run::sh("ls /run/jailwright/cells").run().ok().text();
    for user in &users {
        assert!(!cells.contains(&format!("{}-", user.uid)), "left of {}: {}", user.name, left.text());
    }
    Ok(())
}

/// As jail-list has it.
fn ages_of_cells(host: &Scratch, user: &User<'_>) -> Vec<String> {
    let text = host.product().command("jail-list").arg("--json").run().ok().text();
    let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let jails = list.as_array().or_else(|| list["jails"].as_array()).expect("jails");
    let cells = jails.iter().filter_map(|jail| jail["cells"].as_array()).flatten();
    let ours = cells.filter(|cell| cell["uid"].as_u64() == Some(user.uid.into()));
    let mut ages: Vec<String> = ours.filter_map(|cell| cell["age"].as_str().map(str::to_owned)).collect();
    ages.sort();
    ages
}

fn a_policy_edited_while_logins_come(host: &Scratch) -> Done {
    if !ours() {
        return skip("cells are ours");
    }
    for (stale, joins) in [("join", true), ("new", false)] {
        let user = host.jailed_user(&["basicshell"]);
        host.add_policy(&format!("[user.{}]\nstale = \"{stale}\"\n", user.name));
        let mut first = waiting(&user);
        let old = cell_of(&mut first);
        assert_eq!(ages_of_cells(host, &user), ["current"]);
        host.add_policy(&format!("[user.{}]\nhostname = \"other\"\n", user.name));
        assert_eq!(ages_of_cells(host, &user), ["older"]);
        // Several at once: the cell that is too old is set aside once.
        let mut later: Vec<Background> = (0..10).map(|_| waiting(&user)).collect();
        let cells: BTreeSet<String> = later.iter_mut().map(cell_of).collect();
        assert_eq!(cells.len(), 1, "{stale}: {cells:?}");
        assert_eq!(cells.contains(&old), joins, "{stale}");
        let expected: &[&str] = if joins { &["older"] } else { &["current", "older"] };
        assert_eq!(ages_of_cells(host, &user), expected, "{stale}");
        drop((first, later));
        ended(&user);
    }
    let user = host.jailed_user(&["basicshell"]);
    host.add_policy(&format!("[user.{}]\nstale = \"refuse\"\n", user.name));
    let mut first = waiting(&user);
    assert!(!cell_of(&mut first).is_empty());
    host.add_policy(&format!("[user.{}]\nhostname = \"other\"\n", user.name));
    let refused = jail_sh(&user, "true").run();
    assert_eq!(refused.status, 125);
    host.syslog().expect(&["jail-sh", &user.uid.to_string(), "stale = \"refuse\""]);
    drop(first);
    ended(&user);
    jail_sh(&user, "true").run().ok();
    Ok(())
}

fn pid_of(user: &User<'_>, name: &str) -> Option<u32> {
    user.processes().into_iter().map(|(pid, _)| pid).find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    })
}

fn kill(pid: u32) {
    Run::new("kill").args(["-KILL", &pid.to_string()]).run().ok();
}

fn the_first_process_is_killed(host: &Scratch) -> Done {
    if !ours() {
        return skip("cells are ours");
    }
    let user = host.jailed_user(&["basicshell"]);
    let mut login = waiting(&user);
    let old = cell_of(&mut login);
    kill(pid_of(&user, "jail-init").expect("the first process"));
    // With it the kernel ends everything in its pid namespace, and the login hears of it.
    assert_eq!(login.wait(Duration::from_secs(10)), Some(137));
    ended(&user);
    let again = jail_sh(&user, "readlink /proc/self/ns/pid").run().ok().text();
    assert_ne!(again, old);
    Ok(())
}

fn a_waiter_is_killed(host: &Scratch) -> Done {
    if !ours() {
        return skip("cells are ours");
    }
    let user = host.jailed_user(&["basicshell"]);
    let mut login = waiting(&user);
    let old = cell_of(&mut login);
    kill(pid_of(&user, "jail-waiter").expect("the waiter"));
    assert_eq!(login.wait(Duration::from_secs(10)), Some(137));
    // The session goes on, as it would for a shell whose sshd was killed; the next login finds it.
    let next = jail_sh(&user, "readlink /proc/self/ns/pid; for p in /proc/[0-9]*; do read c <$p/comm; [ $c != sleep ] || kill ${p#/proc/}; done")
        .run()
        .ok();
    assert_eq!(next.text().lines().next(), Some(old.as_str()));
    ended(&user);
    Ok(())
}

fn what_a_reboot_leaves_is_in_nobodys_way(host: &Scratch) -> Done {
    if !ours() {
        return skip("cells are ours");
    }
    let user = host.jailed_user(&["basicshell"]);
    let mut login = waiting(&user);
    assert!(!cell_of(&mut login).is_empty());
    let name = user.place_of_the_cell();
    drop(login);
    ended(&user);
    // A pid that is somebody else's now, of another boot, and a file that was cut off.
    for state in ["boot=0\npid=1\nstarted=1\nown_network=true\nmade_from=1\n", "boot=", ""] {
        // Another test's login may have swept it away.
        std::fs::create_dir_all(&name).expect("mkdir");
        std::fs::write(name.join("state"), state).expect("write");
        let out = jail_sh(&user, "echo in").run();
        assert_eq!((out.status, out.text().as_str()), (0, "in"), "{state:?}: {}", out.errors());
        ended(&user);
    }
    Ok(())
}

fn a_jail_removed_while_a_cell_lives(host: &Scratch) -> Done {
    if !ours() {
        return skip("cells are ours");
    }
    let at = format!("/srv/{}", host.unique("removed"));
    let jail = host.jail(&at, &["basicshell"]);
    let user = host.plain_user().moved_into(&jail);
    let mut login = waiting(&user);
    assert!(!cell_of(&mut login).is_empty());
    std::fs::rename(&jail, format!("{at}-gone")).expect("rename");
    let out = jail_sh(&user, "true").run();
    assert_eq!(out.status, 125, "no login into a jail that is not there");
    assert_eq!(login.wait(Duration::from_millis(100)), None, "the session goes on");
    std::fs::rename(format!("{at}-gone"), &jail).expect("rename");
    jail_sh(&user, "true").run().ok();
    drop(login);
    ended(&user);
    Ok(())
}

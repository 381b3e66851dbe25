//! jail-list while somebody is inside: who, with which processes, how much memory, since when; and what `--sweep` clears away.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jailwright_tests::command::wait_until;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, User, skip, test};
use serde_json::Value;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch a_running_cell_is_listed_with_all_that_is_in_it),
    test!(scratch a_sweep_clears_what_a_killed_cell_left_and_nothing_else),
];

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// The cells of an account, as `jail-list --json` tells them.
fn cells_of(user: &User<'_>) -> Vec<Value> {
    let out = user.scratch().product().command("jail-list").arg("--json").run().ok();
    let jails: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let cells = jails.as_array().expect("a list").iter().flat_map(|jail| jail["cells"].as_array().cloned());
    cells.flatten().filter(|cell| cell["uid"] == user.uid).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn a_running_cell_is_listed_with_all_that_is_in_it(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("cells are ours");
    }
    let user = host.jailed_user(&["basicshell"]);
    assert!(cells_of(&user).is_empty(), "nobody is in it yet");
    let before = now();
    let session = user.jail_sh("sleep 3571 & sleep 3572 & wait").background();
    let sleeping = || -> Vec<u32> {
        let mine = user.processes().into_iter();
        mine.filter(|(_, line)| line.starts_with("sleep 357")).map(|(pid, _)| pid).collect()
    };
    wait_until("both sleep", Duration::from_secs(30), || sleeping().len() == 2);
    let after = now();

    let cells = cells_of(&user);
    let [cell] = &cells[..] else { panic!("one cell: {cells:?}") };
    assert_eq!(cell["user"], user.name);
    let pids: Vec<u64> = cell["pids"].as_array().expect("pids").iter().map(number).collect();
    for pid in sleeping() {
        assert!(pids.contains(&pid.into()), "{pid} in {pids:?}");
    }
    // Its first process, a shell and what that started; all of this account, and the session's waiter stays outside.
    let mine: Vec<u64> = user.processes().into_iter().map(|(pid, _)| pid.into()).collect();
    assert!(pids.len() >= 4 && pids.iter().all(|pid| mine.contains(pid)), "{pids:?} of {mine:?}");
    assert!(!pids.contains(&session.pid().into()), "the waiter is not in the cell");
    // Some pages each, and no more than such small programs can have.
    let memory = number(&cell["memory"]);
    assert!((100 << 10..100 << 20).contains(&memory), "{memory} bytes");
    // The kernel rounds the moment of boot to a second.
    let since = number(&cell["since"]);
    assert!((before.saturating_sub(2)..=after + 2).contains(&since), "{since} is not in {before}..{after}");

    let text = host.product().command("jail-list").run().ok().text();
    let line = text.lines().find(|line| line.trim().starts_with(&format!("cell       {}:", user.name)));
    let line = line.expect("a line for the cell");
    let listed = pids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    assert!(line.contains(" in memory, since ") && line.ends_with(&format!("pids {listed}")), "{line}");

    drop(session);
    for pid in sleeping() {
        drop(Run::new("kill").args(["-9", &pid.to_string()]).run());
    }
    user.wait_for_the_end();
    assert!(cells_of(&user).is_empty(), "it has ended");
    Ok(())
}

/// In a run directory of this test's own, where no other entry clears anything meanwhile.
fn a_sweep_clears_what_a_killed_cell_left_and_nothing_else(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("cells are ours");
    }
    let (gone, stays) = (host.jailed_user(&["basicshell"]), host.jailed_user(&["basicshell"]));
    let jail_list = host.product().command("jail-list").into_command().get_program().to_owned();
    let script = format!(
        r#"mount -t tmpfs -o mode=755 own /run/jailwright || exit 1
        enter() {{ USER=$2 setpriv --reuid $1 --regid $1 --clear-groups {jail_sh} -c 'sleep 3573' & }}
        wait_for() {{ for _ in $(seq 600); do eval "$1" && return; sleep 0.1; done; echo "never: $1"; exit 1; }}
        enter {gone} {gone_name}; enter {stays} {stays_name}
        wait_for 'pgrep -u {gone} -x sleep >/dev/null && pgrep -u {stays} -x sleep >/dev/null'
        # All at once, as the kernel does when memory runs out: nobody is left to tidy up.
        wait_for 'pkill -KILL -u {gone}; ! ps -o stat= -u {gone} | grep -qv Z'
        echo "left: $(ls /run/jailwright/cells | grep -c '^{gone}-')"
        {jail_list} --sweep || exit 1
        echo "left: $(ls /run/jailwright/cells | grep -c '^{gone}-')"
        echo "groups: $(find /sys/fs/cgroup -mindepth 2 -type d -path '*jailwright/{gone}/*' 2>/dev/null | wc -l)"
        echo "running: $({jail_list} --json | grep -c '"uid": *{stays}') $(pgrep -u {stays} -x sleep | wc -l)"
        wait_for 'pkill -KILL -u {stays}; ! ps -o stat= -u {stays} | grep -qv Z'
        {jail_list} --sweep"#,
        jail_sh = host.product().jail_sh().display(),
        jail_list = jail_list.to_string_lossy(),
        gone = gone.uid,
        gone_name = gone.name,
        stays = stays.uid,
        stays_name = stays.name,
    );
    let out = Run::new("unshare").args(["--mount", "sh", "-c", &script]).dir("/").run();
    assert_eq!(
        out.text(),
        "left: 1\n1 cell running; what others left is cleared away.\nleft: 0\ngroups: 0\nrunning: 1 1\n\
         0 cells running; what others left is cleared away.",
        "{}",
        out.errors()
    );
    gone.wait_for_the_end();
    stays.wait_for_the_end();
    Ok(())
}

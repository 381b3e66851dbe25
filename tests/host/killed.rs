//! A run of a suite that is killed half-way leaves no process, no cgroup and no mount.
//!
//! The scratch host of this suite starts a second run of it, with a scratch host of its own, and kills that one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jailwright_tests::command::wait_until;
use jailwright_tests::{Done, Run, Scratch, Test, test};

pub(crate) const TESTS: &[Test] =
    &[test!(scratch a_killed_run_leaves_nothing), test!(scratch waits_to_be_killed)];

/// Set for the second run only.
const VICTIM: &str = "JAILWRIGHT_TO_BE_KILLED";

/// The second run's only test: a login with a process that would run for an hour. In any other run it has no part.
fn waits_to_be_killed(host: &Scratch) -> Done {
    if std::env::var_os(VICTIM).is_none() {
        return Ok(());
    }
    let user = host.jailed_user(&["basicshell"]);
    host.add_policy(&format!("[user.{}]\nprocesses = 50\n", user.name));
    let _session = user.ssh("echo in; exec sleep 3600").background();
    wait_until("it is inside", Duration::from_secs(60), || {
        processes().iter().any(|(_, line)| line.contains("sleep\u{0}3600"))
    });
    std::fs::write(std::env::var_os(VICTIM).expect("set"), "ready").expect("say so");
    std::thread::sleep(Duration::from_secs(120));
    panic!("it should have been killed");
}

fn a_killed_run_leaves_nothing(host: &Scratch) -> Done {
    if std::env::var_os(VICTIM).is_some() {
        return Ok(());
    }
    // Seen from both scratch hosts: a directory that neither covers.
    let dir = jailwright_tests::product::target_dir().join(host.unique("killed-run"));
    std::fs::create_dir_all(&dir).expect("mkdir");
    let ready = dir.join("ready");
    let before = (cgroups(), mounts());
    let exe = std::env::current_exe().expect("this program's path");
    let run = Run::new(exe).args(["--exact", "host::killed::waits_to_be_killed"]).env(VICTIM, &ready);
    let mut child =
        run.without_env("JAILWRIGHT_SCRATCH").into_command().spawn().expect("start the second run");
    wait_until("the second run has a user inside", Duration::from_secs(120), || ready.exists());
    let started = processes().len();
    child.kill().expect("kill the second run");
    child.wait().expect("reap it");
    assert!(started > 0, "nothing was there to be left behind");
    wait_until("its processes are gone", Duration::from_secs(30), || {
        !processes().iter().any(|(_, line)| line.contains("sleep\u{0}3600"))
            && !processes().iter().any(|(pid, _)| has_variable(pid, VICTIM))
    });
    wait_until("its cgroups are gone", Duration::from_secs(30), || cgroups() == before.0);
    assert_eq!(mounts(), before.1, "mounts");
    std::fs::remove_dir_all(&dir).expect("remove");
    Ok(())
}

/// Pid and command line of every process that can be seen.
fn processes() -> Vec<(String, String)> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).into_owned()))
        })
        .collect()
}

fn has_variable(pid: &str, name: &str) -> bool {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|b| *b == 0).any(|variable| variable.starts_with(name.as_bytes()))
}

/// Every group of a test run.
fn cgroups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with("jailwright") {
                    found.push(entry.path());
                }
                left.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table")
}

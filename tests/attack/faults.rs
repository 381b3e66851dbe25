//! Every system call of an entry made to fail in turn: a refusal, never a shell with less around it.
//!
//! strace(1) answers for the kernel: the call is not made, and jail-sh is told the error. Modelled on the class of
//! setuid(2) whose failure nobody looked at, and on bubblewrap's own fault tests. No list of calls is kept here: what an
//! entry calls is read from an entry, on each of the ways in. By default each call fails once by EPERM and the first of each
//! name by the other three; `JAILWRIGHT_FAULTS=all` (`make test-faults`) fails each by all four.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use jailwright_tests::command::{Background, have, wait_until};
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Output, Run, Scratch, Skip, Test, User, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch a_new_cell_that_fails),
    test!(scratch a_private_cell_that_fails),
    test!(scratch joining_that_fails),
    test!(scratch a_chroot_that_fails),
    test!(scratch jail_run_by_root_that_fails),
    test!(scratch jail_run_without_root_that_fails),
    test!(scratch not_dumpable_before_anything_is_done),
    test!(scratch the_order_of_an_entry),
];

/// What the session says of itself, if it ever starts; by the shell alone, since strace counts a call for each process
/// and the session's own would fail too. `/*` shows whose root it is.
const REPORT: &str = "echo started; show() { while read -r line; do echo \"$line\"; done <$1; }; show /proc/self/status; \
                      show /proc/self/limits; show /proc/net/dev; printf '%s\\n' /* /proc/[0-9]* /proc/self/fd/*; \
                      ulimit -S -c; echo whole";

/// The ways into a cell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The first login of a user.
    New,
    /// `session = "private"`.
    Private,
    /// A login beside one that runs.
    Join,
    /// `isolation = "chroot"`.
    Chroot,
    /// jail-run as root, for the user.
    RootRun,
    /// jail-run as the user, in a jail of his own.
    Rootless,
}

/// An account and what leads into its cell.
struct Door<'s> {
    user: User<'s>,
    way: Way,
    log: String,
    jail: String,
    /// The login that is joined.
    _held: Option<Background>,
}

impl<'s> Door<'s> {
    fn new(host: &'s Scratch, way: Way) -> Result<Self, Skip> {
        if !have("strace") {
            return Err(Skip("no strace on this machine".to_owned()));
        }
        if Under::test() != Under::Ours {
            return Err(Skip("jail-sh is meant".to_owned()));
        }
        let own_jail = format!("/srv/{}", host.unique("faults"));
        let user = match way {
            Way::Chroot => {
                let jail = host.jail(&own_jail, &["basicshell"]);
                let user = host.plain_user().moved_into(&jail);
                host.add_policy(&format!("[user.{}]\nisolation = \"chroot\"\n", user.name));
                // For the report alone.
                Run::new("mount").args(["-t", "proc", "proc"]).arg(jail.join("proc")).run().ok();
                user
            }
            Way::Rootless => {
                let user = host.plain_user();
                std::fs::create_dir_all(&own_jail).expect("mkdir");
                user.owns(Path::new(&own_jail));
                host.product();
                user.outside("/usr/local/sbin/jail-init")
                    .args(["-j", &format!("{own_jail}/jail"), "basicshell"])
                    .env("HOME", &user.home)
                    .env("XDG_STATE_HOME", format!("{own_jail}/state"))
                    .dir("/")
                    .run()
                    .ok();
                user
            }
            _ => host.jailed_user(&["basicshell"]),
        };
        if way == Way::Private {
            host.add_policy(&format!("[user.{}]\nsession = \"private\"\n", user.name));
        }
        let held = (way == Way::Join).then(|| {
            let mut held = user.jail_sh("echo in; exec sleep 3000").background();
            assert_eq!(held.first_line(), "in");
            held
        });
        let jail = match way {
            Way::Rootless => format!("{own_jail}/jail"),
            _ => user.jail.clone().unwrap_or_default().display().to_string(),
        };
        let log = format!("/tmp/strace-{}", user.name);
        Ok(Self { user, way, log, jail, _held: held })
    }

    /// One entry; strace does what `inject` says and writes down what it saw.
    fn enter(&self, inject: &str) -> Output {
        let user = &self.user;
        let strace = Run::new("strace")
            .args(["-f", "-qq", "-o", &self.log, "-e", "signal=none", "-e", inject])
            .dir("/")
            .within(Duration::from_secs(30));
        let strace = match self.way {
            Way::RootRun => strace.args(["/usr/local/bin/jail-run", "-j", &self.jail, "--user", &user.name]),
            Way::Rootless => strace
                .args(["-u", &user.name, "/usr/local/bin/jail-run", "-j", &self.jail])
                .env("HOME", &user.home)
                .env("XDG_STATE_HOME", self.jail.replace("/jail", "/state"))
                .without_env("XDG_CONFIG_HOME"),
            _ => strace
                .args(["-u", &user.name])
                .arg(user.scratch().product().jail_sh())
                .env("USER", &user.name),
        };
        let out = match self.way {
            Way::RootRun | Way::Rootless => strace.args(["--", "/bin/bash", "-c", REPORT]).run(),
            _ => strace.args(["-c", REPORT]).run(),
        };
        if self.way == Way::New {
            // Or the next would join. A first process that is told nothing looks twice a second only.
            user.outside("kill").args(["-KILL", "-1"]).run();
            wait_until("the cell ends", Duration::from_secs(20), || user.processes().is_empty());
        }
        out
    }

    /// Whether a shell started; what it lacks around it is an error.
    fn whole_or_refused(&self, out: &Output) -> Result<bool, String> {
        let text = out.text();
        // The waiter, too, may fail when the shell is there already: it ends it and refuses.
        if !text.contains("started") || out.status == 125 {
            return if out.status == 0 {
                Err("nothing ran, and yet all is well".to_owned())
            } else {
                Ok(false)
            };
        }
        let uid = self.user.uid;
        let same = |key: &str| format!("{key}:\t{uid}\t{uid}\t{uid}\t{uid}");
        let none = "0000000000000000";
        let mut due: Vec<String> = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk"]
            .map(|key| format!("{key}:\t{none}"))
            .to_vec();
        due.extend(["NoNewPrivs:\t1".to_owned(), "Seccomp:\t2".to_owned(), same("Uid"), same("Gid")]);
        if let Some(line) = due.iter().find(|line| !text.lines().any(|own| own == *line)) {
            return Err(format!("a shell without '{line}', status {}: {text} {}", out.status, out.errors()));
        }
        let core = |line: &str| {
            line.starts_with("Max core file size") && line.split_whitespace().nth(4) == Some("0")
        };
        if !text.lines().any(core) {
            return Err("a shell that may dump core".to_owned());
        }
        if text.lines().any(|line| line == "/boot") {
            return Err("a shell with the host's root".to_owned());
        }
        // 0 to 2, the directory that is listed, and 255, which is bash's own.
        let fds = text.lines().filter_map(|line| line.strip_prefix("/proc/self/fd/")?.parse::<u32>().ok());
        let count = fds.filter(|fd| *fd != 255).count();
        if count > 4 {
            return Err(format!("a shell with {count} descriptors"));
        }
        let processes =
            text.lines().filter(|line| line.starts_with("/proc/") && !line.contains("fd")).count();
        if self.way != Way::Chroot && processes > 6 {
            return Err(format!("a shell that sees {processes} processes"));
        }
        if self.way != Way::Chroot && text.contains("eth0") {
            return Err("a shell with the host's network".to_owned());
        }
        Ok(true)
    }
}

/// Calls that give memory, wait, or tell what cannot fail: nothing is decided by them, and an error is not in their contract.
const LEFT_OUT: [&str; 34] = [
    "access",
    "arch_prctl",
    "brk",
    "clock_gettime",
    "close",
    "execve",
    "exit",
    "exit_group",
    "futex",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getppid",
    "getrandom",
    "gettid",
    "getuid",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "poll",
    "ppoll",
    "pread64",
    "restart_syscall",
    "rseq",
    "rt_sigreturn",
    "rt_sigtimedwait",
    "sched_getaffinity",
    "set_robust_list",
    "set_tid_address",
    "umask",
    "wait4",
];

/// What an entry calls before the shell is there, and how often at most in one process.
fn calls_of(trace: &str) -> BTreeMap<String, usize> {
    let mut before: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut shells: BTreeSet<&str> = BTreeSet::new();
    let mut of_shells: BTreeSet<&str> = BTreeSet::new();
    for line in trace.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        if !call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') || call.is_empty() {
            continue;
        }
        if call == "execve" && arguments.split(',').next().is_some_and(|path| path.ends_with("bash\"")) {
            shells.insert(pid);
        } else if shells.contains(pid) {
            of_shells.insert(call);
        } else {
            *before.entry((pid, call)).or_default() += 1;
        }
    }
    let mut calls: BTreeMap<String, usize> = BTreeMap::new();
    for ((pid, call), count) in &before {
        // The shell's own calls go on counting where those of its process stopped.
        let is_shared = of_shells.contains(call);
        let of_its_process =
            shells.iter().map(|shell| before.get(&(*shell, *call)).copied().unwrap_or(0)).max();
        let count = if is_shared { (*count).min(of_its_process.unwrap_or(0)) } else { *count };
        if count > 0 && !LEFT_OUT.contains(call) && !pid.is_empty() {
            let most = calls.entry((*call).to_owned()).or_default();
            *most = (*most).max(count);
        }
    }
    calls
}

fn fail_each(host: &Scratch, way: Way) -> Done {
    let door = Door::new(host, way)?;
    let whole = door.enter("trace=all");
    assert_eq!(door.whole_or_refused(&whole), Ok(true), "{} {}", whole.text(), whole.errors());
    assert!(whole.text().contains("whole"), "{}", whole.text());
    let trace = std::fs::read_to_string(&door.log).expect("strace's log");
    let everything = std::env::var("JAILWRIGHT_FAULTS").as_deref() == Ok("all");
    let (mut tried, mut refused, mut borne, mut wrong) = (0, 0, BTreeSet::new(), Vec::new());
    for (call, count) in calls_of(&trace) {
        for n in 1..=count {
            for error in ["EPERM", "ENOSYS", "EINVAL", "ENOMEM"] {
                // EINVAL ends the row of capabilities.
                let usual = error == "EPERM" || n == 1 || (call == "prctl" && error == "EINVAL");
                if !usual && !everything {
                    continue;
                }
                let out = door.enter(&format!("inject={call}:error={error}:when={n}"));
                tried += 1;
                match door.whole_or_refused(&out) {
                    Ok(false) => refused += 1,
                    // How a kernel says that it has no Landlock.
                    Ok(true) if call == "landlock_create_ruleset" && error == "ENOSYS" => {}
                    Ok(true) => drop(borne.insert(call.clone())),
                    Err(why) => wrong.push(format!("{call}, call {n}, {error}: {why}")),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "of {tried} faults:\n{}", wrong.join("\n"));
    println!("{tried} faults, {refused} refused; borne by some: {borne:?}");
    assert!(tried > 100, "only {tried} faults");
    // A layer that shows in no line of the report is one whose calls must all refuse.
    let open: Vec<&str> = MUST_REFUSE.into_iter().filter(|call| borne.contains(*call)).collect();
    assert!(open.is_empty(), "{open:?} failed, and a shell started all the same");
    drop(std::fs::remove_file(&door.log));
    // The login that was joined: a shared cell outlives its waiter.
    door.user.outside("kill").args(["-KILL", "-1"]).run();
    Ok(())
}

/// What gives up rights and shuts doors. Not landlock_add_rule: a rule allows, and is tried again with fewer rights.
const MUST_REFUSE: [&str; 19] = [
    "capset",
    "chroot",
    "fchdir",
    "fsmount",
    "fsopen",
    "keyctl",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "mount",
    "mount_setattr",
    "pivot_root",
    "seccomp",
    "setgroups",
    "sethostname",
    "setns",
    "setresgid",
    "umount2",
    "unshare",
    "clone",
];

fn a_new_cell_that_fails(host: &Scratch) -> Done {
    fail_each(host, Way::New)
}

fn a_private_cell_that_fails(host: &Scratch) -> Done {
    fail_each(host, Way::Private)
}

fn joining_that_fails(host: &Scratch) -> Done {
    fail_each(host, Way::Join)
}

fn a_chroot_that_fails(host: &Scratch) -> Done {
    let done = fail_each(host, Way::Chroot);
    Run::sh("umount /srv/faults*/proc").run();
    done
}

fn jail_run_by_root_that_fails(host: &Scratch) -> Done {
    fail_each(host, Way::RootRun)
}

fn jail_run_without_root_that_fails(host: &Scratch) -> Done {
    fail_each(host, Way::Rootless)
}

/// The kernel makes a set-uid program undumpable by itself, but where it is started by root (su, sshd) it does not; so it is done
/// by hand, before anything else is done. From outside the two cannot be told apart.
fn not_dumpable_before_anything_is_done(host: &Scratch) -> Done {
    let door = Door::new(host, Way::New)?;
    door.enter("trace=prctl,close_range").ok();
    let trace = std::fs::read_to_string(&door.log).expect("strace's log");
    let at = |what: &str| trace.lines().position(|line| line.contains(what));
    let (shut, first) = (at("PR_SET_DUMPABLE, SUID_DUMP_DISABLE"), at("close_range(3"));
    assert!(shut.is_some() && first.is_some() && shut < first, "{shut:?} {first:?}\n{trace}");
    Ok(())
}

/// Rights are given up in the one order that works, and looked at afterwards: `docs/entry-order.md`, as the kernel sees it.
fn the_order_of_an_entry(host: &Scratch) -> Done {
    let door = Door::new(host, Way::New)?;
    let profile = format!("/srv/{}.json", host.unique("profile"));
    std::fs::copy(jailwright_tests::product::checkout().join("share/seccomp/default.json"), &profile)
        .expect("copy");
    // A checkout may be its group's to write, which no profile may be.
    std::fs::set_permissions(&profile, PermissionsExt::from_mode(0o644)).expect("chmod");
    host.add_policy(&format!("[user.{}]\nseccomp = \"{profile}\"\n", door.user.name));
    door.enter("trace=all").ok();
    let trace = std::fs::read_to_string(&door.log).expect("strace's log");
    let calls: Vec<(&str, &str)> = trace
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(pid, rest)| (pid, rest.trim_start()))
        .collect();
    let name = profile.rsplit('/').next().expect("a name");
    let main = calls.first().expect("a trace").0;
    in_order(
        &calls,
        main,
        &[
            "prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE",
            "close_range(3",
            "rt_sigprocmask(SIG_",
            "setgroups(0",
            "setresgid(0, 0, 0",
            "setresuid(0, 0, 0",
            "prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE",
            "\"passwd\"",
            name,
            "keyctl(KEYCTL_JOIN_SESSION_KEYRING",
            "prctl(PR_CAPBSET_DROP",
            "clone3(",
            "setns(",
            // The waiter gives up its own.
            "prctl(PR_SET_SECUREBITS",
            "setresuid(",
            "capset(",
            "capget(",
            "prctl(PR_SET_NO_NEW_PRIVS, 1",
            "prctl(PR_SET_PDEATHSIG, SIGHUP",
            "close_range(",
        ],
    );
    let shell = calls
        .iter()
        .find(|(_, call)| call.starts_with("execve(") && call.contains("bash\""))
        .expect("a shell")
        .0;
    let uid = door.user.uid;
    in_order(
        &calls,
        shell,
        &[
            "setsid(",
            "landlock_create_ruleset(",
            "prctl(PR_SET_SECUREBITS",
            "setgroups(",
            &format!("setresgid({uid}, {uid}, {uid}"),
            &format!("setresuid({uid}, {uid}, {uid}"),
            "capset(",
            "capget(",
            "prctl(PR_CAPBSET_READ",
            "getresuid(",
            // Root is tried for.
            "setresuid(0, 0, 0",
            "prctl(PR_SET_NO_NEW_PRIVS, 1",
            "prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE",
            "chdir(",
            "landlock_restrict_self(",
            "rt_sigprocmask(SIG_",
            "seccomp(SECCOMP_SET_MODE_FILTER",
            "execve(",
        ],
    );
    let first = calls.iter().find(|(_, call)| call.starts_with("pivot_root(")).expect("a new root").0;
    in_order(
        &calls,
        first,
        &[
            "setsid(",
            "MS_REC|MS_PRIVATE",
            "move_mount(",
            "pivot_root(",
            "umount2(\".\", MNT_DETACH",
            "prctl(PR_SET_SECUREBITS",
            "setresuid(",
            "capset(",
            "prctl(PR_SET_NO_NEW_PRIVS, 1",
            "seccomp(SECCOMP_SET_MODE_FILTER",
        ],
    );
    drop(std::fs::remove_file(&door.log));
    Ok(())
}

/// Whether one process makes calls that begin with, or hold, these words in this order.
#[track_caller]
fn in_order(calls: &[(&str, &str)], process: &str, due: &[&str]) {
    let mut left = due.iter().peekable();
    let own: Vec<&str> = calls.iter().filter(|(pid, _)| *pid == process).map(|(_, call)| *call).collect();
    for call in &own {
        left.next_if(|words| call.contains(**words));
    }
    let missing = left.next();
    assert!(missing.is_none(), "no {missing:?} after those before it in {due:#?}:\n{}", own.join("\n"));
}

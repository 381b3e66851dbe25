//! Killed at any moment, or out of space: never a lost account, never a lost home, never a torn file.

use std::path::Path;

use jailwright_tests::{Done, Run, Scratch, Test, product, test};

use crate::homes::fill;
use crate::setting::{Account, Dice, LOGIN_SHELL, account, jail, jail_user, jail_user_in, picture};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch killed_while_moving_across_file_systems),
    test!(scratch killed_while_renaming),
    test!(scratch killed_while_releasing),
    test!(scratch a_full_disk_in_the_jail),
    test!(scratch a_full_disk_under_etc),
    test!(scratch each_call_failing_in_turn),
    test!(scratch a_lock_that_cannot_be_tidied_away_does_not_stop_ourselves),
    test!(scratch a_home_that_cannot_go_back_is_not_lost),
    test!(scratch one_account_that_resists_holds_up_nobody),
];

/// The calls that change something, and so are moments worth dying at.
const CALLS: [&str; 10] = [
    "renameat",
    "renameat2",
    "fsync",
    "unlinkat",
    "mkdirat",
    "write",
    "pwrite64",
    "fchown",
    "fchmod",
    "linkat",
];

/// `jail-user …` under strace, which does something to one of its calls.
pub(crate) fn traced(call: &str, what: &str, args: &[&str]) -> Run {
    Run::new("strace")
        .args([
            "-f",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={call}"),
            "-e",
            &format!("inject={call}:{what}"),
        ])
        .arg(product::built("jail-user"))
        .args(["--login-shell", LOGIN_SHELL])
        .args(args)
}

/// How often each call is made by a run that is left alone.
pub(crate) fn counts(args: &[&str], scratch: &Scratch) -> Vec<(&'static str, u64)> {
    let log = format!("/tmp/{}", scratch.unique("counts"));
    Run::new("strace")
        .args(["-f", "--seccomp-bpf", "-o", &log, "-e", &format!("trace={}", CALLS.join(","))])
        .arg(product::built("jail-user"))
        .args(["--login-shell", LOGIN_SHELL])
        .args(args)
        .run()
        .ok();
    let log = std::fs::read_to_string(log).expect("read");
    let count = |call: &str| {
        log.lines()
            .filter(|line| {
                line.split_whitespace().nth(1).is_some_and(|rest| rest.starts_with(&format!("{call}(")))
            })
            .count()
    };
    CALLS.iter().map(|call| (*call, count(call) as u64)).filter(|(_, count)| *count > 0).collect()
}

/// After any death the account is either as it was or jailed, in passwd as well as with its home.
#[track_caller]
fn is_whole(user: &Account, line: &str, context: &str) {
    for file in ["/etc/passwd", "/etc/group", "/etc/gshadow"] {
        let text = std::fs::read_to_string(file).expect("read");
        assert!(text.ends_with('\n') && text.contains("root:"), "{context}: {file} is torn");
    }
    let now = user.line_in("/etc/passwd").unwrap_or_else(|| panic!("{context}: the account is lost"));
    assert!(now == line || now.ends_with(LOGIN_SHELL), "{context}: {now}");
}

#[track_caller]
fn killed(scratch: &Scratch, what: &str, below: &str, deaths: usize, after_jailing: bool) {
    let mut dice = Dice::new(what);
    let jail = jail(scratch, below);
    let jail_text = jail.to_str().expect("text").to_owned();
    let sample = account();
    fill(&sample);
    let command = |user: &Account| -> Vec<String> {
        match after_jailing {
            true => vec!["--release".into(), user.name.clone()],
            false => vec!["-m".into(), "-j".into(), jail_text.clone(), user.name.clone()],
        }
    };
    if after_jailing {
        jail_user_in(&jail, &["-m", &sample.name]).ok();
    }
    let args = command(&sample);
    let known = counts(&args.iter().map(String::as_str).collect::<Vec<_>>(), scratch);
    let mut died = 0;
    for round in 0..deaths {
        let user = account();
        fill(&user);
        let (before, line) = (picture(&user.home), user.line_in("/etc/passwd").expect("there"));
        if after_jailing {
            jail_user_in(&jail, &["-m", &user.name]).ok();
        }
        let (call, count) = known[round % known.len()];
        let moment = 1 + dice.below(count);
        let args = command(&user);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let said = traced(call, &format!("signal=KILL:when={moment}"), &args).run();
        let context = format!("{what}, {call} number {moment} of {count}");
        died += usize::from(said.status == 137);
        is_whole(&user, &line, &context);
        // The next run, of the same command or (every third) of the opposite one, brings it to an end.
        let there = jail.join(user.home.strip_prefix("/").expect("absolute"));
        let opposite = round % 3 == 2;
        if after_jailing != opposite {
            let out = jail_user().args(["--release", "-j", &jail_text, &user.name]).run();
            assert_eq!(out.status, 0, "{context}: {}", out.errors());
            assert_eq!(
                user.line_in("/etc/passwd").as_deref(),
                Some(line.as_str()),
                "{context}: {}",
                out.errors()
            );
            assert_eq!(picture(&user.home), before, "{context}");
            assert!(!there.exists(), "{context}");
        } else {
            let out = jail_user_in(&jail, &["-m", &user.name]);
            assert_eq!(out.status, 0, "{context}: {}", out.errors());
            assert_eq!(picture(&there), before, "{context}");
            assert!(!user.home.exists(), "{context}");
            assert!(user.line_in("/etc/passwd").expect("there").ends_with(LOGIN_SHELL), "{context}");
        }
        let left = Run::sh(&format!("ls -a /home {jail_text}/home | grep 'jailwright-{}' || :", user.uid))
            .run()
            .ok();
        assert_eq!(left.text(), "", "{context}: stages are left");
    }
    assert!(died * 10 >= deaths * 8, "{what}: only {died} of {deaths} runs died");
}

fn killed_while_moving_across_file_systems(scratch: &Scratch) -> Done {
    killed(scratch, "copying", "/srv", 20, false);
    Ok(())
}

fn killed_while_renaming(scratch: &Scratch) -> Done {
    killed(scratch, "renaming", "/home", 14, false);
    Ok(())
}

fn killed_while_releasing(scratch: &Scratch) -> Done {
    killed(scratch, "releasing", "/srv", 20, true);
    Ok(())
}

fn a_full_disk_in_the_jail(scratch: &Scratch) -> Done {
    let small = format!("/srv/{}", scratch.unique("small"));
    Run::sh(&format!("mkdir {small}; mount -t tmpfs -o size=4m,mode=755 x {small}")).run().ok();
    let jail = jail(scratch, &small);
    let user = account();
    user.sh("head -c 6000000 /dev/urandom >big; echo small >small").run().ok();
    let (before, line) = (picture(&user.home), user.line_in("/etc/passwd"));
    let said = jail_user_in(&jail, &["-m", &user.name]);
    assert_eq!(said.status, 1);
    assert!(said.errors().contains("No space left") && said.errors().contains("big"), "{}", said.errors());
    assert_eq!((picture(&user.home), user.line_in("/etc/passwd")), (before.clone(), line));
    assert!(!jail.join(format!("home/{}", user.name)).exists());
    let left = Run::sh(&format!("du -sk {} | cut -f1", jail.join("home").display())).run().ok().text();
    assert!(left.parse::<u32>().expect("a number") < 100, "the half copy was removed: {left} KiB");
    // Room made, the same command goes through.
    Run::sh(&format!("mount -o remount,size=40m {small}")).run().ok();
    jail_user_in(&jail, &["-m", &user.name]).ok();
    assert_eq!(picture(&jail.join(format!("home/{}", user.name))), before);
    jail_user().args(["--release", &user.name]).run().ok();
    Run::new("umount").arg(&small).run().ok();
    Ok(())
}

fn a_full_disk_under_etc(scratch: &Scratch) -> Done {
    // An /etc of its own, nearly full, in a mount namespace of its own.
    let user = account();
    let jail = jail(scratch, "/srv");
    let line = user.line_in("/etc/passwd").expect("there");
    let script = format!(
        "set -e
        mkdir /tmp/etc-$$; mount -t tmpfs -o size=1m,mode=755 x /tmp/etc-$$
        cp -a /etc/passwd /etc/group /etc/gshadow /etc/shadow /etc/login.defs /tmp/etc-$$/
        mount --bind /tmp/etc-$$ /etc
        head -c 2000000 /dev/zero >/etc/filler 2>/dev/null || :
        set +e; {program} --login-shell {LOGIN_SHELL} -m -j {jail} {name}; echo rc $?
        grep '^{name}:' /etc/passwd; ls /etc /home/{name}/.profile; rm /etc/filler
        {program} --login-shell {LOGIN_SHELL} -m -j {jail} {name}; echo rc $?
        grep '^{name}:' /etc/passwd",
        program = product::built("jail-user").display(),
        jail = jail.display(),
        name = user.name
    );
    let said = Run::new("unshare").args(["-m", "sh", "-c", &script]).run();
    let text = said.text();
    assert!(text.contains(&format!("rc 1\n{line}\n")), "{text}{}", said.errors());
    assert!(
        said.errors().contains("No space left on device") || said.errors().contains("os error 28"),
        "{}",
        said.errors()
    );
    assert!(text.contains("/.profile"), "the home is where it was: {text}");
    assert!(
        text.contains("rc 0") && text.contains(LOGIN_SHELL),
        "with room it works: {text}{}",
        said.errors()
    );
    Ok(())
}

fn each_call_failing_in_turn(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let jail_text = jail.to_str().expect("text").to_owned();
    let mut dice = Dice::new("failing");
    let sample = account();
    fill(&sample);
    let known = counts(&["-m", "-j", &jail_text, &sample.name], scratch);
    for (call, count) in known {
        let user = account();
        fill(&user);
        let (before, line) = (picture(&user.home), user.line_in("/etc/passwd").expect("there"));
        let moment = 1 + dice.below(count);
        let args = ["-m", "-j", &jail_text, &user.name];
        let said = traced(call, &format!("error=ENOSPC:when={moment}"), &args).run();
        let context = format!("{call} number {moment} of {count}: {} {}", said.status, said.errors());
        is_whole(&user, &line, &context);
        let there = jail.join(user.home.strip_prefix("/").expect("absolute"));
        match said.status {
            0 => {}
            1 => assert!(said.errors().contains("jail-user: "), "{context}"),
            other => panic!("{context}: {other}"),
        }
        let again = jail_user_in(Path::new(&jail_text), &["-m", &user.name]);
        assert_eq!(again.status, 0, "{context}, then {}", again.errors());
        assert_eq!(picture(&there), before, "{context}");
        assert!(!user.home.exists(), "{context}");
    }
    Ok(())
}

/// A lock is made by a link and the removal of its first name. Where that fails the lock must not stay, with the number of
/// a process that lives: the very same run would wait for itself when it undoes what it did.
fn a_lock_that_cannot_be_tidied_away_does_not_stop_ourselves(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let jail_text = jail.to_str().expect("text");
    let log = format!("/tmp/{}", scratch.unique("tidied"));
    let mut hit = 0;
    for moment in 1..=12 {
        let user = account();
        let inject = format!("inject=unlinkat:error=ENOSPC:when={moment}");
        let said = Run::new("strace")
            .args(["-f", "-o", &log, "-e", "trace=unlinkat", "-e", &inject])
            .arg(product::built("jail-user"))
            .args(["--login-shell", LOGIN_SHELL, "--bind-home", "-j", jail_text, &user.name])
            .run();
        let traced = std::fs::read_to_string(&log).expect("read");
        hit += usize::from(traced.contains(".lock.") && traced.contains("(INJECTED)") && said.status != 0);
        let own = traced.split_whitespace().next().expect("a pid");
        let waited_for_itself = format!("jail-user (process {own}) (waited");
        assert!(!said.errors().contains(&waited_for_itself), "unlinkat {moment}: {}", said.errors());
    }
    assert!(hit > 0, "no lock was hit");
    Ok(())
}

/// `--release --force` gives up the move of the home, never the home.
fn a_home_that_cannot_go_back_is_not_lost(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    for (call, errno, force) in
        [("fchown", "ENOSPC", true), ("pwrite64", "ENOSPC", true), ("fchown", "ENOSPC", false)]
    {
        let user = account();
        fill(&user);
        let (before, line) = (picture(&user.home), user.line_in("/etc/passwd"));
        jail_user_in(&jail, &["-m", &user.name]).ok();
        let (there, jailed) = (jail.join("home").join(&user.name), user.line_in("/etc/passwd"));
        let mut args = vec!["--release", &user.name];
        args.extend(force.then_some("--force"));
        // The calls before the copy's own are left alone.
        let said = traced(call, &format!("error={errno}:when=3"), &args).run();
        let context = format!("{call} {errno} {args:?}: {} {}", said.status, said.errors());
        assert_eq!(picture(&there), before, "{context}");
        assert!(!user.home.exists(), "no half of it is anywhere else: {context}");
        let now = user.line_in("/etc/passwd");
        if force && said.status == 0 {
            assert!(said.errors().contains("stays in the jail"), "{context}");
            assert_eq!(now, line, "{context}");
        } else {
            assert_eq!((said.status, now), (1, jailed), "{context}");
            jail_user().args(["--release", &user.name]).run().ok();
            assert_eq!((user.line_in("/etc/passwd"), picture(&user.home)), (line, before), "{context}");
        }
        let left =
            Run::sh(&format!("ls -a /home {}/home | grep 'jailwright-{}' || :", jail.display(), user.uid));
        assert_eq!(left.run().ok().text(), "", "{context}: stages are left");
    }
    Ok(())
}

/// What a killed run began with one account, and what cannot be ended now, is told; the others are worked on.
fn one_account_that_resists_holds_up_nobody(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let (user, other) = (account(), account());
    let before = user.line_in("/etc/passwd");
    jail_user_in(&jail, &["-m", &user.name]).ok();
    // Killed when the release is noted and the home not yet touched.
    let said = traced("renameat2", "signal=KILL:when=1", &["--release", &user.name]).run();
    assert_eq!(said.status, 137, "{}", said.errors());
    let mut runs = user.sh("echo up; exec sleep 100").dir("/").background();
    assert_eq!(runs.first_line(), "up");
    let said = jail_user_in(&jail, &[&other.name]);
    assert_eq!(said.status, 0, "{}", said.errors());
    let told = format!("cannot end what an earlier run had begun with '{}': ", user.name);
    assert!(
        said.errors().contains(&told) && said.errors().contains("has processes running"),
        "{}",
        said.errors()
    );
    let refused = jail_user_in(&jail, &[&user.name]);
    assert_eq!(refused.status, 1);
    assert!(refused.errors().contains("an earlier run is not done with"), "{}", refused.errors());
    let refused =
        jail_user().arg("--move-to").arg(crate::setting::jail(scratch, "/srv")).arg(&user.name).run();
    assert_eq!(refused.status, 1, "{}", refused.errors());
    assert!(refused.errors().contains("an earlier run on the jail"), "{}", refused.errors());
    runs.kill();
    jail_user().args(["--release", &user.name]).run();
    assert_eq!(user.line_in("/etc/passwd"), before);
    assert!(user.home.join(".profile").exists());
    Ok(())
}

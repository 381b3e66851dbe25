//! The commands that do more than jail and release (`--create`, `--remove`, `--bind-home`, `--from-jailkit`, `--back`):
//! killed, or out of space, at each kind of step. The same command again brings it to its end.

use std::path::Path;

use jailwright_tests::user::shadow;
use jailwright_tests::{Done, Run, Scratch, Test, test};

use crate::faults::{counts, traced};
use crate::setting::{Account, Dice, LOGIN_SHELL, account, jail, jail_user, line_of};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch while_making_an_account),
    test!(scratch while_deleting_one),
    test!(scratch while_binding_a_home),
    test!(scratch while_coming_from_jailkit),
    test!(scratch while_going_back),
];

/// For each kind of call a death and a full disk at some moment of it. `prepare` gives the arguments of one run and what
/// must hold of the account after any end of it (`midway`) and after the same command again (`in_the_end`).
struct Case<'a> {
    args: Vec<String>,
    midway: Box<dyn Fn(&str) + 'a>,
    in_the_end: Box<dyn Fn(&str) + 'a>,
}

#[track_caller]
fn at_each_step<'a>(scratch: &Scratch, what: &str, prepare: &dyn Fn() -> Case<'a>) {
    let mut dice = Dice::new(what);
    let sample = prepare();
    let known = counts(&sample.args.iter().map(String::as_str).collect::<Vec<_>>(), scratch);
    let (mut hit, mut rounds) = (0, 0);
    for (call, count) in known {
        for effect in ["signal=KILL", "error=ENOSPC"] {
            let run = prepare();
            let args: Vec<&str> = run.args.iter().map(String::as_str).collect();
            let moment = 1 + dice.below(count);
            let said = traced(call, &format!("{effect}:when={moment}"), &args).run();
            let context =
                format!("{what}, {effect} at {call} {moment} of {count}: {} {}", said.status, said.errors());
            rounds += 1;
            hit += usize::from(said.status != 0);
            for file in ["/etc/passwd", "/etc/group", "/etc/gshadow", "/etc/shadow"] {
                let text = std::fs::read_to_string(file).expect("read");
                assert!(text.ends_with('\n') && text.contains("root:"), "{context}: {file} is torn");
            }
            (run.midway)(&context);
            // A run that another test has just killed seems to hold its lock until somebody has reaped it.
            let mut again = jail_user().args(&args).run();
            let mut advice = String::new();
            for _ in 0..50 {
                // Half of useradd's own work: we say what to do. A useradd that outlived the run may have made the
                // account by now; groupdel then says whose group it is, and the next try finds the account.
                if let Some((_, rest)) = again.errors().split_once("hint: if nobody needs that group: ") {
                    advice = Run::sh(rest.lines().next().unwrap_or_default()).run().errors();
                } else if !again.errors().contains("try again") {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(200));
                again = jail_user().args(&args).run();
            }
            let context =
                format!("{context}, then {} {}{}{advice}", again.status, again.text(), again.errors());
            assert_eq!(again.status, 0, "{context}");
            (run.in_the_end)(&context);
            for name in &run.args {
                mend_group(name);
            }
        }
    }
    println!("{what}: {hit} of {rounds} runs did not end well");
    assert!(hit * 3 >= rounds, "{what}: only {hit} of {rounds} runs were hit");
}

/// A useradd killed between passwd and group leaves an account whose primary group does not exist. Its number would go to
/// somebody else's group, which userdel then keeps and groupdel refuses, since it is the primary group of two.
fn mend_group(name: &str) {
    let Some(line) = line_of("/etc/passwd", name) else { return };
    let gid = line.split(':').nth(3).expect("a gid");
    let groups = std::fs::read_to_string("/etc/group").expect("read");
    if !groups.lines().any(|line| line.split(':').nth(2) == Some(gid)) {
        shadow("groupadd", &["--gid", gid, name]);
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn inner(jail: &Path, name: &str) -> Option<String> {
    line_of(jail.join("etc/passwd").to_str().expect("text"), name)
}

fn while_making_an_account(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let jail = jail.as_path();
    at_each_step(scratch, "create", &|| {
        let name = scratch.unique("made");
        let (one, two) = (name.clone(), name.clone());
        Case {
            args: words(&["--create", "-j", jail.to_str().expect("text"), &name]),
            midway: Box::new(move |context| {
                // There or not; outside of the jail it has neither a password nor a home to have a key in.
                let Some(line) = line_of("/etc/passwd", &one) else { return };
                if !line.ends_with(LOGIN_SHELL) {
                    assert!(!Path::new("/home").join(&one).exists(), "{context}: {line}");
                    let shadow = line_of("/etc/shadow", &one).unwrap_or_default();
                    assert!(
                        shadow.is_empty() || shadow.starts_with(&format!("{one}:!")),
                        "{context}: {shadow}"
                    );
                }
            }),
            in_the_end: Box::new(move |context| {
                let line = line_of("/etc/passwd", &two).unwrap_or_else(|| panic!("{context}"));
                assert!(
                    line.ends_with(&format!("{}/./home/{two}:{LOGIN_SHELL}", jail.display())),
                    "{context}: {line}"
                );
                assert!(jail.join("home").join(&two).exists() && inner(jail, &two).is_some(), "{context}");
                let all = std::fs::read_to_string("/etc/passwd").expect("read");
                let lines = all.lines().filter(|line| line.starts_with(&format!("{two}:"))).count();
                assert_eq!(lines, 1, "{context}: made twice");
            }),
        }
    });
    Ok(())
}

fn while_deleting_one(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let jail = jail.as_path();
    at_each_step(scratch, "remove", &|| {
        let user = account();
        jail_user().args(["-m", "-j"]).arg(jail).arg(&user.name).run().ok();
        let home = jail.join("home").join(&user.name);
        let (name, kept) = (user.name.clone(), home.clone());
        Case {
            args: words(&["--remove", &user.name]),
            midway: Box::new(move |context| {
                assert!(kept.join(".profile").exists(), "{context}: a home that nobody asked to delete");
                let line = line_of("/etc/passwd", &user.name);
                assert!(line.is_none_or(|line| line.ends_with(LOGIN_SHELL)), "{context}: unjailed");
            }),
            in_the_end: Box::new(move |context| {
                assert_eq!(line_of("/etc/passwd", &name), None, "{context}");
                assert!(!line_of("/etc/group", "jailed").unwrap_or_default().contains(&name), "{context}");
                // userdel goes through its files in turn; where it stopped it says so, and the line is nobody's.
                let told = context.contains("userdel failed") || context.contains("signal=KILL");
                assert!(told || line_of("/etc/shadow", &name).is_none(), "{context}");
                assert_eq!(inner(jail, &name), None, "{context}");
                assert!(home.join(".profile").exists(), "{context}");
            }),
        }
    });
    Ok(())
}

fn while_binding_a_home(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let jail = jail.as_path();
    at_each_step(scratch, "bind", &|| {
        let user = account();
        let before = user.line_in("/etc/passwd").expect("there");
        let (one, two) = (user, before.clone());
        let name = one.name.clone();
        let placed = format!("{name}:{}:/home/{name}", jail.display());
        let (args, last) = (words(&["--bind-home", "-j", jail.to_str().expect("text"), &name]), name.clone());
        let there = placed.clone();
        Case {
            args,
            midway: Box::new(move |context| {
                assert!(one.home.join(".profile").exists(), "{context}: the home never moves");
                let now = one.line_in("/etc/passwd").unwrap_or_else(|| panic!("{context}: lost"));
                assert!(now == before || now.ends_with(LOGIN_SHELL), "{context}: {now}");
                // With our shell it must be known where to, or the account could not log in.
                let known = line_of("/etc/jailwright/accounts", &one.name);
                assert!(now == before || known.as_ref() == Some(&there), "{context}: {now}, {known:?}");
            }),
            in_the_end: Box::new(move |context| {
                assert_eq!(line_of("/etc/jailwright/accounts", &last).as_ref(), Some(&placed), "{context}");
                assert!(inner(jail, &last).is_some(), "{context}");
                jail_user().args(["--release", &last]).run().ok();
                assert_eq!(line_of("/etc/passwd", &last).as_ref(), Some(&two), "{context}");
                assert_eq!(line_of("/etc/jailwright/accounts", &last), None, "{context}");
            }),
        }
    });
    Ok(())
}

/// An account as jk_jailuser leaves it.
fn theirs(jail: &Path) -> (Account, String) {
    let user = account();
    let (home, name) = (jail.join("home").join(&user.name), &user.name);
    Run::sh(&format!(
        "set -e; mkdir -p {0}/home; cp -a /home/{name} {1}; grep '^{name}:' /etc/passwd >>{0}/etc/passwd",
        jail.display(),
        home.display()
    ))
    .run()
    .ok();
    let there = format!("{}/./home/{name}", jail.display());
    shadow("usermod", &["-d", &there, "-s", "/usr/sbin/jk_chrootsh", name]);
    let line = user.line_in("/etc/passwd").expect("there");
    (user, line)
}

/// Settings of each user in jailkit's file, so that something is carried over.
fn say(user: &Account) {
    std::fs::create_dir_all("/etc/jailkit").expect("mkdir");
    let line = format!("printf '[%s]\\nenv = TERM, OWN\\n' {} >>/etc/jailkit/jk_chrootsh.ini", user.name);
    Run::sh(&line).run().ok();
}

fn carried(name: &str) -> bool {
    std::fs::read_to_string("/etc/jailwright/from-jailkit.toml")
        .unwrap_or_default()
        .contains(&format!("[user.\"{name}\"]"))
}

fn while_coming_from_jailkit(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let jail = jail.as_path();
    at_each_step(scratch, "from jailkit", &|| {
        let (user, line) = theirs(jail);
        say(&user);
        let ours = line.replace("/usr/sbin/jk_chrootsh", LOGIN_SHELL);
        let (name, last, now) = (user.name.clone(), user.name.clone(), ours.clone());
        Case {
            args: words(&["--from-jailkit", &user.name]),
            midway: Box::new(move |context| {
                let found = line_of("/etc/passwd", &name).unwrap_or_else(|| panic!("{context}: lost"));
                assert!(found == line || found == now, "{context}: {found}");
                // With our shell and without its settings it would be let in otherwise than under jailkit.
                assert!(found == line || carried(&name), "{context}: {found}");
                assert!(jail.join("home").join(&name).join(".profile").exists(), "{context}");
            }),
            in_the_end: Box::new(move |context| {
                assert_eq!(line_of("/etc/passwd", &last).as_ref(), Some(&ours), "{context}");
                assert!(carried(&last), "{context}");
            }),
        }
    });
    Ok(())
}

fn while_going_back(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let jail = jail.as_path();
    at_each_step(scratch, "back", &|| {
        let (user, line) = theirs(jail);
        say(&user);
        // Another test's ten thousand accounts may hold the account files for longer than anybody waits.
        for _ in 0..5 {
            if jail_user().args(["--from-jailkit", &user.name]).run().status == 0 {
                break;
            }
        }
        let ours = user.line_in("/etc/passwd").expect("there");
        let (name, last, then) = (user.name.clone(), user.name.clone(), line.clone());
        Case {
            args: words(&["--back", &user.name]),
            midway: Box::new(move |context| {
                let found = line_of("/etc/passwd", &name).unwrap_or_else(|| panic!("{context}: lost"));
                assert!(found == then || found == ours, "{context}: {found}");
                assert!(found == then || carried(&name), "{context}: {found}");
            }),
            in_the_end: Box::new(move |context| {
                assert_eq!(line_of("/etc/passwd", &last).as_ref(), Some(&line), "{context}");
                assert!(!carried(&last), "{context}: what was carried over is left");
                assert!(jail.join("home").join(&last).join(".profile").exists(), "{context}");
            }),
        }
    });
    Ok(())
}

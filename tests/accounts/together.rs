//! Several programs at once, and the locks between them.

use std::time::{Duration, Instant};

use jailwright_tests::command::wait_until;
use jailwright_tests::{Done, Run, Scratch, Test, product, test};

use crate::faults::traced;
use crate::setting::{Account, LOGIN_SHELL, account, jail, jail_user_in, line_of};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch eight_runs_at_once),
    test!(scratch a_locked_passwd_is_waited_for_and_named),
    test!(scratch a_dead_lock_is_cleared),
    test!(scratch what_is_set_while_a_home_is_copied_holds),
    test!(scratch what_is_set_before_a_dead_run_is_undone_holds),
];

fn eight_runs_at_once(scratch: &Scratch) -> Done {
    let jails = [jail(scratch, "/srv"), jail(scratch, "/home")];
    let users: Vec<_> = (0..8).map(|_| account()).collect();
    let mut runs: Vec<_> = (users.iter().enumerate())
        .map(|(i, user)| {
            Run::new(product::built("jail-user"))
                .args(["--login-shell", LOGIN_SHELL, "-m", "-j"])
                .arg(&jails[i % 2])
                .arg(&user.name)
                .background()
        })
        .collect();
    // The host's own tools in the midst of it.
    for round in 0..6 {
        let other = account();
        Run::new("usermod").args(["-c", &format!("round {round}"), &other.name]).run().ok();
    }
    for (run, user) in runs.iter_mut().zip(&users) {
        assert_eq!(run.wait(Duration::from_secs(60)), Some(0), "{}", user.name);
    }
    let members = line_of("/etc/group", "jailed").expect("the group");
    for (i, user) in users.iter().enumerate() {
        let line = user.line_in("/etc/passwd").expect("nobody is lost");
        assert!(
            line.ends_with(&format!("{}/./home/{}:{LOGIN_SHELL}", jails[i % 2].display(), user.name)),
            "{line}"
        );
        assert!(user.line_in(jails[i % 2].join("etc/passwd").to_str().expect("text")).is_some());
        assert!(line_of(jails[i % 2].join("etc/group").to_str().expect("text"), &user.name).is_some());
        assert!(members.contains(&user.name), "{members}");
        assert!(jails[i % 2].join("home").join(&user.name).join(".profile").exists());
    }
    Run::new("pwck").args(["-q", "-r", "/etc/passwd"]).run();
    // Other tests kill useradd and userdel halfway: only what is said of these users counts.
    let check = Run::new("grpck").arg("-r").run();
    let said = format!("{}\n{}", check.text(), check.errors());
    assert!(!said.lines().any(|line| users.iter().any(|user| line.contains(&user.name))), "{said}");
    Ok(())
}

/// Holds the lock that usermod holds, as usermod does: a POSIX record lock.
const HOLDER: &str = r#"
use Fcntl; open(F, ">>", "/etc/.pwd.lock") or die; my $lock = pack("s s x4 l! l! i x4", F_WRLCK, 0, 0, 0, 0);
fcntl(F, F_SETLKW, $lock) or die $!;
$| = 1; print "held\n"; sleep shift;
"#;

fn a_locked_passwd_is_waited_for_and_named(scratch: &Scratch) -> Done {
    // In a mount namespace of its own, so that other tests do not wait along.
    let user = account();
    let jail = jail(scratch, "/srv");
    let script = format!(
        "set -e; mkdir /tmp/etc-$$; cp -a /etc /tmp/etc-$$/etc; mount --bind /tmp/etc-$$/etc /etc
        perl -e '{HOLDER}' 40 >/tmp/etc-$$/held & holder=$!
        until [ -s /tmp/etc-$$/held ]; do sleep 0.05; done
        set +e; {program} --login-shell {LOGIN_SHELL} -m -j {jail} {name}; echo rc $?; ls -d /home/{name}
        kill $holder; wait $holder
        perl -e '{HOLDER}' 2 & sleep 0.5
        {program} --login-shell {LOGIN_SHELL} -m -j {jail} {name}; echo rc $?; wait",
        program = product::built("jail-user").display(),
        jail = jail.display(),
        name = user.name
    );
    let started = Instant::now();
    let said = Run::new("unshare").args(["-m", "sh", "-c", &script]).run();
    assert!(said.text().contains("rc 1\n/home/"), "{}{}", said.text(), said.errors());
    assert!(started.elapsed() > Duration::from_secs(15), "as long as lckpwdf waits");
    let errors = said.errors();
    assert!(errors.contains("the account files are locked by perl (process "), "{errors}");
    assert!(
        said.text().ends_with("rc 0"),
        "a lock that is given up in time is only waited for: {}{errors}",
        said.text()
    );
    Ok(())
}

fn a_dead_lock_is_cleared(scratch: &Scratch) -> Done {
    let user = account();
    let jail = jail(scratch, "/srv");
    let script = format!(
        "set -e; mkdir /tmp/etc-$$; cp -a /etc /tmp/etc-$$/etc; mount --bind /tmp/etc-$$/etc /etc
        sleep 0 & dead=$!; wait $dead; printf '%s\\0' $dead >/etc/passwd.lock; : >/etc/group.lock
        {} --login-shell {LOGIN_SHELL} -j {} {}; ls /etc | grep -c '[.]lock$' || :",
        product::built("jail-user").display(),
        jail.display(),
        user.name
    );
    let said = Run::new("unshare").args(["-m", "sh", "-c", &script]).run().ok();
    assert!(said.text().ends_with('0'), "locks are left: {}", said.text());
    assert!(jail_user_in(&jail, &["--dry-run", &user.name]).status <= 1);
    Ok(())
}

const SHUT: &str = "/usr/sbin/nologin";

fn shut_out(user: &Account) -> String {
    Run::new("usermod").args(["-s", SHUT, &user.name]).run().ok();
    let line = user.line_in("/etc/passwd").expect("there");
    assert!(line.ends_with(&format!(":{SHUT}")), "{line}");
    line
}

/// An account that is closed while its home is on its way stays closed, whichever way the home goes.
fn what_is_set_while_a_home_is_copied_holds(scratch: &Scratch) -> Done {
    let (one, two) = (jail(scratch, "/srv"), jail(scratch, "/home"));
    let (one_text, two_text) = (one.to_str().expect("text"), two.to_str().expect("text"));
    let (into, between, repaired) = (account(), account(), account());
    jail_user_in(&one, &["-m", &between.name, &repaired.name]).ok();
    let cases = [
        (&into, vec!["-m", "-j", one_text], into.home.clone()),
        (&between, vec!["--move-to", two_text], one.join("home").join(&between.name)),
        (&repaired, vec!["-j", one_text, "-s", "/bin/sh"], one.join("home").join(&repaired.name)),
    ];
    for (user, args, home) in cases {
        // It sleeps when it has planned and noted its plan, long before it takes the lock of the account files.
        let args = [&args[..], &[&user.name]].concat();
        let run = traced("fsync", "delay_exit=8000000:when=1", &args);
        let (said, shut) = std::thread::scope(|scope| {
            let run = scope.spawn(|| run.run());
            wait_until("the plan is noted", Duration::from_secs(30), || {
                let told = format!("grep -ls '{}' /var/lib/jailwright/*/accounts.json.jailwright", user.name);
                !Run::sh(&told).run().text().is_empty()
            });
            let shut = shut_out(user);
            (run.join().expect("joins"), shut)
        });
        assert_eq!(said.status, 1, "{args:?}: {}", said.errors());
        assert!(said.errors().contains("was changed meanwhile"), "{args:?}: {}", said.errors());
        assert_eq!(user.line_in("/etc/passwd"), Some(shut), "{args:?}: what the administrator set is lost");
        assert!(home.join(".profile").exists(), "{args:?}: the home is where passwd says");
    }
    Ok(())
}

/// The same if the run is killed and the next one clears up after it.
fn what_is_set_before_a_dead_run_is_undone_holds(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let jail_text = jail.to_str().expect("text");
    let (user, other) = (account(), account());
    let said = traced("renameat2", "signal=KILL:when=1", &["-m", "-j", jail_text, &user.name]).run();
    assert_eq!(said.status, 137, "{}", said.errors());
    let shut = shut_out(&user);
    let next = jail_user_in(&jail, &[&other.name]);
    assert_eq!(next.status, 0, "{}", next.errors());
    assert!(next.errors().contains("undid what an earlier run had begun"), "{}", next.errors());
    assert_eq!(user.line_in("/etc/passwd"), Some(shut));
    assert!(user.home.join(".profile").exists());

    // Killed after passwd was switched over, and closed since: it is in the jail, and closed.
    let late = account();
    let said = traced("renameat2", "signal=KILL:when=3", &["-m", "-j", jail_text, &late.name]).run();
    assert_eq!(said.status, 137, "{}", said.errors());
    assert!(late.line_in("/etc/passwd").expect("there").ends_with(LOGIN_SHELL), "it was switched over");
    let shut = shut_out(&late);
    let next = jail_user_in(&jail, &["-s", "/bin/sh", &other.name]).ok();
    assert!(next.errors().contains("finished putting"), "{}", next.errors());
    assert_eq!(late.line_in("/etc/passwd"), Some(shut));
    assert!(jail.join("home").join(&late.name).join(".profile").exists() && !late.home.exists());
    Ok(())
}

//! Several programs at once, and the locks between them.

use std::time::{Duration, Instant};

use jailwright_tests::{Done, Run, Scratch, Test, product, test};

use crate::setting::{LOGIN_SHELL, account, jail, jail_user_in, line_of};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch eight_runs_at_once),
    test!(scratch a_locked_passwd_is_waited_for_and_named),
    test!(scratch a_dead_lock_is_cleared),
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
    let check = Run::new("grpck").arg("-r").run();
    assert_eq!(check.status, 0, "{}{}", check.text(), check.errors());
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

//! Where it would lead: the policy file, the jail and the home must be root's word.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use jailwright_tests::scratch::POLICY;
use jailwright_tests::{Done, Run, Scratch, Test, User, test};

use crate::{assert_refused, jail_sh};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch policy_writable_by_others),
    test!(scratch policy_of_another_owner),
    test!(scratch policy_that_is_a_link),
    test!(scratch policy_with_an_unknown_key),
    test!(scratch jail_missing),
    test!(scratch jail_writable_by_others),
    test!(scratch jail_of_an_ordinary_owner),
    test!(scratch jail_below_a_writable_directory),
    test!(scratch jail_that_is_a_link),
    test!(scratch jail_made_anew),
    test!(scratch home_outside_a_jail),
    test!(scratch home_with_dots),
    test!(scratch home_of_another_owner),
    test!(scratch home_that_is_a_link),
    test!(scratch shell_missing_in_the_jail),
    test!(scratch two_names_of_one_uid),
    test!(scratch private_network_without_pasta),
    test!(scratch chroot_with_what_it_cannot_give),
];

fn enter(user: &User<'_>) -> jailwright_tests::Output {
    jail_sh(user, &["-c", "echo ran"]).run()
}

#[track_caller]
fn assert_enters(user: &User<'_>) {
    let out = enter(user);
    assert_eq!((out.status, out.text().as_str()), (0, "ran"), "{}", out.errors());
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("chmod");
}

fn set_home(user: &User<'_>, home: &str) {
    let line = format!("s#^({}:.*:)[^:]*(:[^:]*)$#\\1{home}\\2#", user.name);
    Run::new("sed").args(["-E", "-i", &line, "/etc/passwd"]).run().ok();
}

/// A jail of the test's own, at a place of its own, so that it may be spoiled.
fn user_of_own_jail<'s>(host: &'s Scratch, at: &str) -> User<'s> {
    let jail = host.jail(at, &["basicshell"]);
    let user = host.plain_user().moved_into(&jail);
    assert_enters(&user);
    user
}

/// Puts the policy file back as it was, also when the test fails.
struct PolicyKept(Vec<u8>);

impl PolicyKept {
    fn keep(host: &Scratch) -> PolicyKept {
        host.add_policy("");
        PolicyKept(std::fs::read(POLICY).expect("read"))
    }
}

impl Drop for PolicyKept {
    fn drop(&mut self) {
        drop(std::fs::remove_file(POLICY));
        std::fs::write(POLICY, &self.0).expect("write");
        set_mode(Path::new(POLICY), 0o644);
        set_mode(Path::new(POLICY).parent().expect("a directory"), 0o755);
    }
}

fn policy_writable_by_others(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let kept = PolicyKept::keep(host);
    for mode in [0o646, 0o664] {
        set_mode(Path::new(POLICY), mode);
        assert_refused(&user, &enter(&user), "jail-sh.toml");
    }
    set_mode(Path::new(POLICY), 0o644);
    let dir = Path::new(POLICY).parent().expect("a directory");
    set_mode(dir, 0o777);
    assert_refused(&user, &enter(&user), "/etc/jailwright");
    drop(kept);
    assert_enters(&user);
    Ok(())
}

fn policy_of_another_owner(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let kept = PolicyKept::keep(host);
    chown(POLICY, Some(user.uid), None).expect("chown");
    assert_refused(&user, &enter(&user), "jail-sh.toml");
    drop(kept);
    assert_enters(&user);
    Ok(())
}

fn policy_that_is_a_link(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let kept = PolicyKept::keep(host);
    let elsewhere = format!("{POLICY}.elsewhere");
    std::fs::rename(POLICY, &elsewhere).expect("rename");
    symlink(&elsewhere, POLICY).expect("symlink");
    assert_refused(&user, &enter(&user), "jail-sh.toml");
    drop(kept);
    assert_enters(&user);
    Ok(())
}

fn policy_with_an_unknown_key(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let kept = PolicyKept::keep(host);
    for (text, word) in [
        ("[default]\nnetwrk = \"none\"\n", "netwrk"),
        ("[default]\nnetwork = \"non", "jail-sh.toml"),
        ("\u{0}\u{fffd}", "jail-sh.toml"),
    ] {
        std::fs::write(POLICY, text).expect("write");
        assert_refused(&user, &enter(&user), word);
    }
    drop(kept);
    assert_enters(&user);
    Ok(())
}

fn jail_missing(host: &Scratch) -> Done {
    let user = user_of_own_jail(host, "/srv/missing");
    std::fs::rename("/srv/missing", "/srv/elsewhere").expect("rename");
    assert_refused(&user, &enter(&user), "/srv/missing");
    std::fs::rename("/srv/elsewhere", "/srv/missing").expect("rename");
    assert_enters(&user);
    Ok(())
}

fn jail_writable_by_others(host: &Scratch) -> Done {
    let user = user_of_own_jail(host, "/srv/writable");
    for mode in [0o757, 0o775] {
        set_mode(Path::new("/srv/writable"), mode);
        assert_refused(&user, &enter(&user), "/srv/writable");
    }
    Ok(())
}

fn jail_of_an_ordinary_owner(host: &Scratch) -> Done {
    let user = user_of_own_jail(host, "/srv/owned");
    user.owns(Path::new("/srv/owned"));
    assert_refused(&user, &enter(&user), "/srv/owned");
    Ok(())
}

fn jail_below_a_writable_directory(host: &Scratch) -> Done {
    std::fs::create_dir("/srv/above").expect("mkdir");
    let user = user_of_own_jail(host, "/srv/above/jail");
    set_mode(Path::new("/srv/above"), 0o777);
    assert_refused(&user, &enter(&user), "/srv/above");
    Ok(())
}

fn jail_that_is_a_link(host: &Scratch) -> Done {
    let user = user_of_own_jail(host, "/srv/linked");
    std::fs::rename("/srv/linked", "/srv/real").expect("rename");
    symlink("/srv/real", "/srv/linked").expect("symlink");
    assert_refused(&user, &enter(&user), "/srv/linked");
    Ok(())
}

/// Ruling 23: state that belongs to another directory of the same name is not used.
fn jail_made_anew(host: &Scratch) -> Done {
    let user = user_of_own_jail(host, "/srv/anew");
    Run::sh("cp -a /srv/anew /srv/anew.copy && rm -rf /srv/anew && mv /srv/anew.copy /srv/anew").run().ok();
    assert_refused(&user, &enter(&user), "--moved-from");
    Ok(())
}

fn home_outside_a_jail(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    for home in ["/home/nowhere", "/", "/srv"] {
        set_home(&user, home);
        assert_refused(&user, &enter(&user), home);
    }
    Ok(())
}

fn home_with_dots(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let jail = user.jail.clone().expect("jailed");
    for inner in ["/../../etc", "/home/../../..", "/"] {
        set_home(&user, &format!("{}/.{inner}", jail.display()));
        let out = enter(&user);
        assert_eq!((out.status, out.text().as_str()), (125, ""), "{inner}: {}", out.errors());
    }
    Ok(())
}

fn home_of_another_owner(host: &Scratch) -> Done {
    let (user, other) = (host.jailed_user(&["basicshell"]), host.jailed_user(&["basicshell"]));
    set_home(
        &user,
        &format!("{}/.{}", user.jail.clone().expect("jailed").display(), other.inner_home.display()),
    );
    assert_refused(&user, &enter(&user), &other.name);
    Ok(())
}

fn home_that_is_a_link(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let moved = user.home.with_extension("moved");
    std::fs::rename(&user.home, &moved).expect("rename");
    symlink("/etc", &user.home).expect("symlink");
    assert_refused(&user, &enter(&user), &user.name);
    Ok(())
}

fn shell_missing_in_the_jail(host: &Scratch) -> Done {
    let user = user_of_own_jail(host, "/srv/shell-less");
    Run::sh("rm -f /srv/shell-less/bin/bash /srv/shell-less/usr/bin/bash").run().ok();
    let out = enter(&user);
    assert!(matches!(out.status, 125..=127), "{out:?}");
    assert_eq!(out.errors().lines().count(), 1, "{}", out.errors());
    Ok(())
}

/// Ruling 21: two names of one uid that lead into two jails.
fn two_names_of_one_uid(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    host.jail("/srv/second", &["basicshell"]);
    let line = format!(
        "echo '{0}b:x:{1}:{1}::/srv/second/./home/{0}:{2}' >>/etc/passwd",
        user.name,
        user.uid,
        host.product().jail_sh().display()
    );
    Run::sh(&line).run().ok();
    let home = Path::new("/srv/second/home").join(&user.name);
    std::fs::create_dir_all(&home).expect("mkdir");
    user.owns(&home);
    assert_refused(&user, &enter(&user), &format!("share uid {}", user.uid));
    Ok(())
}

/// A network that a program of the host's makes, and the host has not got it: said before anything is made.
fn private_network_without_pasta(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    assert_enters(&user);
    host.add_policy(&format!("[user.{}]\nnetwork = \"private\"\n", user.name));
    let there = Path::new("/usr/bin/pasta").exists();
    if there {
        Run::new("mount").args(["--bind", "/dev/null", "/usr/bin/pasta"]).run().ok();
    }
    let out = enter(&user);
    if there {
        Run::new("umount").arg("/usr/bin/pasta").run().ok();
    }
    assert_refused(&user, &out, "passt");
    Ok(())
}

/// No namespace, no such network; what an administrator wrote is not taken for less.
fn chroot_with_what_it_cannot_give(host: &Scratch) -> Done {
    for (keys, word) in [
        ("network = \"none\"", "network"),
        ("root = \"discard\"", "discard"),
        ("commands = [\"ls\"]", "noexec"),
        ("capabilities = [\"sys_chroot\"]", "net_bind_service"),
    ] {
        let user = host.jailed_user(&["basicshell"]);
        host.add_policy(&format!("[user.{}]\nisolation = \"chroot\"\n{keys}\n", user.name));
        assert_refused(&user, &enter(&user), word);
    }
    Ok(())
}

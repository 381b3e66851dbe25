//! What jail-user refuses: a sentence, the status of its kind, and nothing changed.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use jailwright_tests::user::shadow;
use jailwright_tests::{Done, Run, Scratch, Test, test};

use crate::setting::{Account, account, jail, jail_user, jail_user_in};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch accounts_that_are_no_users),
    test!(scratch unsafe_jails),
    test!(scratch shells_that_the_jail_lacks),
    test!(scratch homes_that_cannot_be_moved),
    test!(scratch a_user_with_processes),
    test!(scratch one_bad_name_does_not_stop_the_others),
    test!(scratch command_lines_that_make_no_sense),
];

/// Asserts a refusal that left the account and the jail as they were.
#[track_caller]
fn refused(jail: &Path, args: &[&str], user: &str, status: i32, because: &str) {
    let facts = || {
        // The host's own passwd is changed by the tests beside this one.
        let jail_passwd = (jail != Path::new("/")).then(|| std::fs::read(jail.join("etc/passwd")).ok());
        (crate::setting::line_of("/etc/passwd", user), jail_passwd, jail.join("home").exists())
    };
    let before = facts();
    let said = jail_user_in(jail, &[args, &["--", user]].concat());
    assert_eq!(said.status, status, "{}{}", said.text(), said.errors());
    assert!(said.errors().contains(because), "not '{because}' but: {}", said.errors());
    assert_eq!(facts(), before, "something was changed");
}

fn accounts_that_are_no_users(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    refused(&jail, &[], "nosuchuser", 1, "there is no user 'nosuchuser'");
    refused(&jail, &[], "root", 4, "is root (uid 0)");
    refused(&jail, &[], "daemon", 4, "is a system account (uid 1, below UID_MIN");
    refused(&jail, &[], "nobody", 4, "is nobody");
    refused(&jail, &[], "../etc", 2, "is no user name");
    refused(&jail, &[], "-x", 1, "there is no user '-x'");
    refused(&jail, &[], "bad\nname\u{1b}", 1, "there is no user 'bad\\nname\\u{1b}'");
    let user = account();
    shadow("usermod", &["-g", "0", &user.name]);
    refused(&jail, &[], &user.name, 4, "has root's group");
    let locked = account();
    shadow("usermod", &["-s", "/usr/sbin/nologin", &locked.name]);
    refused(&jail, &[], &locked.name, 1, "so it may not log in");
    jail_user_in(&jail, &["-s", "/bin/bash", &locked.name]).ok();
    Ok(())
}

fn unsafe_jails(scratch: &Scratch) -> Done {
    let user = account();
    let name = user.name.as_str();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod")
    };
    let good = jail(scratch, "/srv");
    mode(&good, 0o777);
    refused(&good, &[], name, 4, "can be written by others (mode 0777); ".split("; ").next().expect("part"));
    mode(&good, 0o755);
    chown(&good, Some(user.uid), None).expect("chown");
    refused(&good, &[], name, 4, "is owned by uid");
    chown(&good, Some(0), None).expect("chown");
    mode(&good.join("etc"), 0o775);
    refused(&good, &[], name, 4, "can be written by others");
    mode(&good.join("etc"), 0o755);
    let link = good.with_extension("link");
    symlink(&good, &link).expect("symlink");
    refused(&link, &[], name, 4, "is a symbolic link");
    // A directory above is anyone's.
    let open = good.with_extension("open");
    std::fs::create_dir(&open).expect("mkdir");
    mode(&open, 0o1777);
    let below = jail(scratch, open.to_str().expect("text"));
    refused(&below, &[], name, 4, "can be written by others");
    // The jail's etc is a link out of it, its home is the user's.
    let planted = jail(scratch, "/srv");
    std::fs::rename(planted.join("etc"), planted.join("etc.real")).expect("rename");
    symlink("/etc", planted.join("etc")).expect("symlink");
    refused(&planted, &[], name, 4, "is a symbolic link");
    let theirs = jail(scratch, "/srv");
    std::fs::create_dir(theirs.join("home")).expect("mkdir");
    chown(theirs.join("home"), Some(user.uid), None).expect("chown");
    refused(&theirs, &["-m"], name, 4, "is owned by uid");
    refused(Path::new("/"), &[], name, 4, "the jail cannot be '/'");
    refused(Path::new("/srv/no/such/jail"), &[], name, 1, "cannot open '/srv/no'");
    refused(Path::new("/etc/passwd"), &[], name, 4, "is not a directory");
    refused(Path::new("srv/relative"), &[], name, 2, "not an absolute path");
    refused(Path::new("/srv/../srv"), &[], name, 2, "without `..`");
    Ok(())
}

fn shells_that_the_jail_lacks(scratch: &Scratch) -> Done {
    let user = account();
    let jail = jail(scratch, "/srv");
    refused(&jail, &["-s", "/bin/zsh"], &user.name, 1, "lacks the shell '/bin/zsh'");
    std::fs::write(jail.join("bin/readme"), "x").expect("write");
    refused(&jail, &["-s", "/bin/readme"], &user.name, 1, "it is not executable");
    refused(&jail, &["-s", "/bin"], &user.name, 1, "it is not a file");
    refused(&jail, &["-s", "bash"], &user.name, 2, "is not an absolute path");
    // A link that leads out of the jail leads to the jail's own file of that name, or nowhere.
    symlink("/bin/zsh-of-the-host", jail.join("bin/zsh")).expect("symlink");
    refused(&jail, &["-s", "/bin/zsh"], &user.name, 1, "lacks the shell");
    std::fs::copy("/bin/true", jail.join("bin/mine")).expect("copy");
    chown(jail.join("bin/mine"), Some(user.uid), None).expect("chown");
    refused(&jail, &["-s", "/bin/mine"], &user.name, 4, "can be changed by others");
    let missing =
        jail_user().args(["--login-shell", "/srv/no-such-shell", "-j"]).arg(&jail).arg(&user.name).run();
    assert_eq!(missing.status, 2, "named twice");
    let missing = Run::new(jailwright_tests::product::built("jail-user"))
        .args(["--login-shell", "/srv/no-such-shell", "-j"])
        .arg(&jail)
        .arg(&user.name)
        .run();
    assert_eq!(missing.status, 1);
    assert!(
        missing.errors().contains("the login shell '/srv/no-such-shell' cannot be found"),
        "{}",
        missing.errors()
    );
    Ok(())
}

fn set_home(user: &Account, home: &str) {
    shadow("usermod", &["-d", home, &user.name]);
}

fn homes_that_cannot_be_moved(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let user = account();
    set_home(&user, "/");
    refused(&jail, &["-m"], &user.name, 4, "is no usable path");
    set_home(&user, "/home/../etc");
    refused(&jail, &["-m"], &user.name, 4, "is no usable path");
    // Somebody else's, a link, a file.
    set_home(&user, "/etc");
    refused(&jail, &["-m"], &user.name, 4, "belongs to uid 0");
    let link = format!("/home/{}", scratch.unique("link"));
    symlink("/etc", &link).expect("symlink");
    set_home(&user, &link);
    refused(&jail, &["-m"], &user.name, 4, "is a symbolic link");
    // In a directory that others may write, anything can be put in its place.
    set_home(&user, "/tmp/acc-home");
    std::fs::create_dir_all("/tmp/acc-home").expect("mkdir");
    chown("/tmp/acc-home", Some(user.uid), None).expect("chown");
    refused(&jail, &["-m"], &user.name, 4, "'/tmp' can be written by others");
    // Two users, one home.
    let (one, two) = (account(), account());
    set_home(&two, one.home.to_str().expect("text"));
    refused(&jail, &["-m"], &one.name, 1, "is also the home of");
    set_home(&two, one.home.join("sub").to_str().expect("text"));
    refused(&jail, &["-m"], &one.name, 1, "is also the home of");
    // A mount point, and one with a mount in it.
    let mounted = account();
    Run::sh(&format!("mount -t tmpfs -o uid={} x {}", mounted.uid, mounted.home.display())).run().ok();
    refused(&jail, &["-m"], &mounted.name, 1, "is a mount point");
    let holding = account();
    std::fs::create_dir(holding.home.join("m")).expect("mkdir");
    Run::sh(&format!("mount -t tmpfs x {}/m", holding.home.display())).run().ok();
    refused(&jail, &["-m"], &holding.name, 1, "has one in it");
    assert!(holding.home.join("m").exists());
    Run::new("umount").arg(&mounted.home).arg(holding.home.join("m")).run().ok();
    Ok(())
}

fn a_user_with_processes(scratch: &Scratch) -> Done {
    let user = account();
    let jail = jail(scratch, "/srv");
    let mut process = user.sh("echo up; exec sleep 100").background();
    assert_eq!(process.first_line(), "up");
    refused(&jail, &["-m"], &user.name, 1, "has processes running: ");
    jail_user_in(&jail, &["-m", "--force", &user.name]).ok();
    assert!(jail.join("home").join(&user.name).join(".profile").exists());
    let stays = jail_user().args(["--release", &user.name]).run();
    assert_eq!(stays.status, 1, "{}", stays.errors());
    process.kill();
    jail_user().args(["--release", &user.name]).run().ok();
    Ok(())
}

fn one_bad_name_does_not_stop_the_others(scratch: &Scratch) -> Done {
    let (one, two) = (account(), account());
    let jail = jail(scratch, "/srv");
    let said = jail_user_in(&jail, &["-m", "--json", &one.name, "nosuchuser", "root", &two.name]);
    assert_eq!(said.status, 4, "the worst of them");
    let json: serde_json::Value = serde_json::from_slice(&said.stdout).expect("JSON");
    let users = json["users"].as_array().expect("a list");
    let of = |name: &str| users.iter().find(|user| user["user"] == name).expect("told");
    assert_eq!((&of(&one.name)["changed"], &of(&two.name)["changed"]), (&true.into(), &true.into()));
    assert_eq!(of("root")["status"], 4);
    assert_eq!(of("nosuchuser")["changed"], false);
    // A name given twice is one account.
    let three = account();
    jail_user_in(&jail, &["-m", &three.name, &three.name]).ok();
    Ok(())
}

fn command_lines_that_make_no_sense(scratch: &Scratch) -> Done {
    let user = account();
    let jail = jail(scratch, "/srv");
    for (args, because) in [
        (vec![user.name.as_str()], "no jail is named"),
        (vec!["-j", "/srv"], "no user is named"),
        (vec!["--release", "-m", user.name.as_str()], "cannot be used with"),
        (vec!["--move-to", "/srv", "--key", "/k", user.name.as_str()], "cannot be used with"),
        (vec!["--from-jailkit", "--key", "/k", user.name.as_str()], "cannot be used with"),
        (vec!["--back", "--key", "/k", user.name.as_str()], "cannot be used with"),
        (vec!["--back", "--shell", "/bin/sh", user.name.as_str()], "cannot be used with"),
        (vec!["--group", "nosuchgroup", "-j", "/srv"], "there is no group 'nosuchgroup'"),
    ] {
        let said = jail_user().args(&args).run();
        assert!(matches!(said.status, 1 | 2), "{args:?}: {}", said.status);
        assert!(said.errors().contains(because), "{args:?}: {}", said.errors());
    }
    let as_user = Run::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups"])
        .arg(jailwright_tests::product::built("jail-user"));
    let said = as_user.args(["-j"]).arg(&jail).arg(&user.name).run();
    assert_ne!(said.status, 0);
    for flag in ["--help", "--version"] {
        jail_user().arg(flag).run().ok();
    }
    Ok(())
}

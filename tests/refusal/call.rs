//! How it was called, and by whom.

use std::os::unix::ffi::OsStrExt;

use jailwright_tests::{Done, Run, Scratch, Test, test};

use crate::{assert_refused, jail_sh};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch a_plain_call_works),
    test!(scratch called_by_root),
    test!(scratch called_by_someone_in_no_jail),
    test!(scratch called_by_a_uid_without_an_account),
    test!(scratch unknown_options),
    test!(scratch closed_descriptors),
    test!(scratch hostile_environment),
    test!(scratch another_users_name_in_the_environment),
    test!(scratch huge_arguments),
    test!(scratch no_name_at_all),
];

/// The control: what the refusals below differ from.
fn a_plain_call_works(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let out = jail_sh(&user, &["-c", "echo $LOGNAME; exit 3"]).run();
    assert_eq!((out.status, out.text()), (3, user.name.clone()), "{}", out.errors());
    host.syslog().expect(&["jail-sh", &user.name]);
    Ok(())
}

fn called_by_root(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let out = Run::new(host.product().jail_sh()).args(["-c", "id"]).env("USER", &user.name).run();
    assert_refused(&user, &out, "root");
    Ok(())
}

fn called_by_someone_in_no_jail(host: &Scratch) -> Done {
    host.product();
    let user = host.plain_user();
    let out = jail_sh(&user, &["-c", "id"]).run();
    assert_refused(&user, &out, &user.uid.to_string());
    Ok(())
}

fn called_by_a_uid_without_an_account(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let out = Run::new("setpriv")
        .args(["--reuid", "999999", "--regid", "999999", "--clear-groups"])
        .arg(host.product().jail_sh())
        .args(["-c", "id"])
        .env("USER", &user.name)
        .run();
    assert_refused(&user, &out, "999999");
    Ok(())
}

/// The jail comes from root's files alone (CVE-2005-3345).
fn unknown_options(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    for args in [&["--root", "/tmp"][..], &["-j", "/tmp"], &["--policy=/tmp/x"], &["-x"], &["script"]] {
        let out = jail_sh(&user, args).run();
        assert_eq!((out.status, out.text().as_str()), (125, ""), "{args:?}: {}", out.errors());
    }
    Ok(())
}

/// With 0 to 2 closed, the next file opened would become one of them.
fn closed_descriptors(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let id = user.uid;
    let jail_sh = host.product().jail_sh().display();
    let mark = user.home.join("ran");
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let line = format!(
            "exec setpriv --reuid {id} --regid {id} --clear-groups {jail_sh} -c 'for n in 0 1 2; do readlink /proc/self/fd/$n; done >~/ran' {closed}"
        );
        let out = Run::sh(&line).run();
        assert!(out.status == 0 || out.status == 125, "{closed}: {out:?}");
        if let Ok(seen) = std::fs::read_to_string(&mark) {
            assert!(
                !seen.contains("/etc") && !seen.contains("/srv") && !seen.contains("socket"),
                "{closed}: {seen}"
            );
            std::fs::remove_file(&mark).expect("rm");
        }
    }
    Ok(())
}

fn hostile_environment(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let mut run = jail_sh(&user, &["-c", "export -p | wc -c"]);
    for n in 0..500 {
        run = run.env(&format!("JUNK{n}"), "x".repeat(3000));
    }
    let raw = std::ffi::OsStr::from_bytes(b"\xff\xfe=\x1b[2J");
    let out = run.env("LANG", raw).env("TERM", raw).env("TZ", "../../../etc/shadow\n").env("IFS", "/").run();
    assert_eq!(out.status, 0, "{}", out.errors());
    let size: usize = out.text().trim().parse().expect("a number");
    assert!(size < 1000, "{size} bytes of environment came in");
    Ok(())
}

/// USER is the caller's word; the account is that of the uid.
fn another_users_name_in_the_environment(host: &Scratch) -> Done {
    let (user, other) = (host.jailed_user(&["basicshell"]), host.jailed_user(&["basicshell"]));
    for name in [other.name.as_str(), "root", "../../etc", ""] {
        let out = jail_sh(&user, &["-c", "id -u; echo $HOME; echo $LOGNAME"])
            .env("USER", name)
            .env("LOGNAME", name)
            .run();
        if out.status == 125 {
            continue;
        }
        let expected = format!("{}\n{}\n{}", user.uid, user.inner_home.display(), user.name);
        assert_eq!(out.text(), expected, "with USER={name}");
    }
    Ok(())
}

fn huge_arguments(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let long = "x".repeat(100_000);
    let mut args = vec!["-c", "echo ran"];
    args.extend(std::iter::repeat_n(long.as_str(), 15));
    let out = jail_sh(&user, &args).run();
    assert_refused(&user, &out, "arguments");
    Ok(())
}

/// CVE-2021-4034: a program that takes argv[0] for granted.
fn no_name_at_all(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let id = user.uid.to_string();
    let line = format!("exec -a '' {} -c 'echo ran'", host.product().jail_sh().display());
    let out = Run::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "bash", "-c", &line])
        .run();
    assert!(matches!((out.status, out.text().as_str()), (0, "ran") | (125, "")), "{out:?}");
    Ok(())
}

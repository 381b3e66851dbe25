//! Accounts made, given a key and deleted in one step: `--create`, `--key`, `--remove`; and homes that stay: `--bind-home`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jailwright_tests::{Done, Run, Scratch, Test, test};

use crate::edits::json;
use crate::faults::{counts, traced};
use crate::setting::{account, jail, jail_user, jail_user_in, line_of};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch made_jailed_and_let_in_by_one_command),
    test!(scratch what_create_refuses),
    test!(scratch removed_whole),
    test!(scratch keys_go_nowhere_else),
    test!(scratch a_long_list_of_keys_is_not_cut),
    test!(scratch a_bound_home_stays_and_logs_in),
    test!(scratch a_bound_home_comes_and_goes),
    test!(scratch a_bound_home_that_cannot_go_stays_where_it_is),
];

fn made_jailed_and_let_in_by_one_command(scratch: &Scratch) -> Done {
    let jail = scratch.jail(&format!("/srv/{}", scratch.unique("created")), &["basicshell"]);
    let sshd = scratch.sshd();
    let key = format!("/tmp/{}", scratch.unique("key"));
    std::fs::write(&key, sshd.public_key()).expect("write");
    let name = scratch.unique("new");
    let command =
        || scratch.product().command("jail-user").arg("-j").arg(&jail).args(["--create", "--key", &key]);

    let shown = command().args(["--dry-run", &name]).run().ok();
    assert!(shown.text().contains("useradd --no-create-home"), "{}", shown.text());
    assert_eq!(line_of("/etc/passwd", &name), None, "a dry run makes nobody");

    let said = command().args(["--json", &name]).run().ok();
    assert_eq!(json(&said)["changed"], true);
    let line = line_of("/etc/passwd", &name).expect("made");
    let home = jail.join("home").join(&name);
    assert!(line.ends_with(&format!(":{}/./home/{name}:/usr/local/sbin/jail-sh", jail.display())), "{line}");
    let keys = std::fs::metadata(home.join(".ssh/authorized_keys")).expect("there");
    assert_eq!((keys.mode() & 0o7777, keys.uid()), (0o600, std::fs::metadata(&home).expect("there").uid()));
    assert!(!Path::new("/home").join(&name).exists(), "the home is in the jail alone");
    // '!' is "locked" to an sshd without PAM; the key alone lets in.
    let came = sshd.client("ssh").arg(format!("{name}@jail")).arg("pwd; ls -a /home").run().ok();
    assert_eq!(came.text(), format!("/home/{name}\n.\n..\n{name}"));

    let again = command().args(["--json", &name]).run().ok();
    assert_eq!(json(&again)["changed"], false, "{}", again.text());

    let gone = scratch.product().command("jail-user").args(["--remove", "--with-home", &name]).run().ok();
    assert_eq!((line_of("/etc/passwd", &name), home.exists()), (None, false), "{}", gone.errors());
    Ok(())
}

fn what_create_refuses(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let there = account();
    let said = jail_user_in(&jail, &["--create", &there.name]);
    assert_eq!(said.status, 1);
    assert!(said.errors().contains("is there already and has a home"), "{}", said.errors());
    assert!(there.line_in("/etc/passwd").expect("there").ends_with(":/bin/bash"), "it is left alone");

    // No shell ever sees a name, and useradd's own word is passed on.
    let said = jail_user_in(&jail, &["--create", "x;touch /tmp/owned"]);
    assert_eq!(said.status, 1);
    assert!(said.errors().contains("useradd failed"), "{}", said.errors());
    assert!(!Path::new("/tmp/owned").exists());

    // One that cannot be jailed is not left behind unjailed: its name is another's inside.
    let name = scratch.unique("clash");
    let passwd = jail.join("etc/passwd");
    let mut text = std::fs::read_to_string(&passwd).expect("read");
    text.push_str(&format!("{name}:x:7:7::/:/bin/sh\n"));
    std::fs::write(&passwd, text).expect("write");
    let said = jail_user_in(&jail, &["--create", &name]);
    assert_eq!(said.status, 1);
    assert_eq!(line_of("/etc/passwd", &name), None, "{}", said.errors());
    Ok(())
}

fn removed_whole(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let (user, stays) = (account(), account());
    jail_user_in(&jail, &["-m", &user.name, &stays.name]).ok();
    let home = jail.join("home").join(&user.name);
    let mut runs = user.sh("exec sleep 60").dir("/").background();
    let limit = std::time::Duration::from_secs(10);
    let processes = || jailwright_tests::user::processes_of(user.uid);
    jailwright_tests::command::wait_until("it runs", limit, || {
        processes().iter().any(|p| p.1.contains("sleep"))
    });
    let refused = jail_user().args(["--remove", &user.name]).run();
    assert_eq!(refused.status, 1);
    assert!(refused.errors().contains("has processes running: sleep"), "{}", refused.errors());
    runs.kill();
    // Killed is not yet gone: userdel looks through /proc.
    jailwright_tests::command::wait_until("it is gone", limit, || processes().is_empty());

    let shown = jail_user().args(["--remove", "--dry-run", &user.name]).run().ok();
    assert!(shown.text().contains("userdel") && user.line_in("/etc/passwd").is_some());
    jail_user().args(["--remove", &user.name]).run().ok();
    for file in ["/etc/passwd", "/etc/shadow", jail.join("etc/passwd").to_str().expect("text")] {
        assert_eq!(user.line_in(file), None, "{file}");
    }
    let members = |file: &str| line_of(file, "jailed").unwrap_or_default();
    for file in ["/etc/group", "/etc/gshadow"] {
        assert!(!members(file).contains(&user.name) && members(file).contains(&stays.name), "{file}");
    }
    assert!(home.join(".profile").exists(), "the home stays unless asked");
    let again = jail_user().args(["--remove", "--json", &user.name]).run().ok();
    assert_eq!(json(&again)["changed"], false);
    assert!(stays.line_in(jail.join("etc/passwd").to_str().expect("text")).is_some());
    Ok(())
}

fn keys_go_nowhere_else(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let user = account();
    let target = format!("/srv/{}", scratch.unique("victim"));
    std::fs::create_dir(&target).expect("mkdir");
    user.sh(&format!("ln -s {target} .ssh")).run().ok();
    let key = format!("/tmp/{}", scratch.unique("key"));
    std::fs::write(&key, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB me\n").expect("write");
    let said = jail_user_in(&jail, &["-m", "--key", &key, &user.name]);
    assert_eq!(said.status, 1, "{}", said.errors());
    assert_eq!(std::fs::read_dir(&target).expect("read").count(), 0, "nothing was written through the link");
    std::fs::remove_file(jail.join("home").join(&user.name).join(".ssh")).expect("remove");
    for expected in [true, false] {
        let said = jail_user_in(&jail, &["-m", "--key", &key, "--json", &user.name]).ok();
        assert_eq!(json(&said)["changed"], expected, "{}", said.text());
    }
    std::fs::write(&key, "-----BEGIN OPENSSH PRIVATE KEY-----\n").expect("write");
    let said = jail_user_in(&jail, &["--key", &key, &user.name]);
    assert_eq!(said.status, 2);
    assert!(said.errors().contains("private key"), "{}", said.errors());
    Ok(())
}

/// More than we read of a file whose size is the user's to choose.
fn a_long_list_of_keys_is_not_cut(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let user = account();
    let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB me\n";
    let long = "# a comment\n".repeat(100_000) + line;
    user.sh("mkdir .ssh").run().ok();
    user.sh("cat >.ssh/authorized_keys").input(long.as_str()).run().ok();
    let key = format!("/tmp/{}", scratch.unique("key"));
    std::fs::write(&key, line.replace("IB", "IC")).expect("write");
    let said = jail_user_in(&jail, &["-m", "--key", &key, &user.name]);
    let kept = jail.join("home").join(&user.name).join(".ssh/authorized_keys");
    assert!(std::fs::read_to_string(kept).expect("read") == long, "the user's own keys were cut off");
    assert_eq!(said.status, 1);
    assert!(said.errors().contains("authorized_keys' is longer than"), "{}", said.errors());
    std::fs::write(&key, &long).expect("write");
    let said = jail_user_in(&jail, &["--key", &key, &user.name]);
    assert_eq!(said.status, 1, "half a file of keys is none: {}", said.errors());
    Ok(())
}

fn a_bound_home_stays_and_logs_in(scratch: &Scratch) -> Done {
    let jail = scratch.jail(&format!("/srv/{}", scratch.unique("bound")), &["basicshell", "scp"]);
    let user = scratch.plain_user();
    let before = line_of("/etc/passwd", &user.name).expect("there");
    let run = |args: &[&str]| scratch.product().command("jail-user").args(args).arg(&user.name).run().ok();
    run(&["-j", jail.to_str().expect("text"), "--bind-home"]);
    let line = line_of("/etc/passwd", &user.name).expect("there");
    assert!(
        line.ends_with(&format!(":/home/{}:/usr/local/sbin/jail-sh", user.name)),
        "passwd's home: {line}"
    );

    let came =
        user.ssh("pwd; echo inside >mark; ls /home; ls /etc/shadow 2>&1 | grep -c 'No such'").run().ok();
    assert_eq!(came.text(), format!("/home/{0}\n{0}\n1", user.name), "{}", came.errors());
    let written = std::fs::read_to_string(user.home.join("mark")).expect("in the home outside");
    assert_eq!(written, "inside\n");

    // The administrator's own word comes before what jail-user wrote.
    let other = scratch.jail(&format!("/srv/{}", scratch.unique("other")), &["basicshell"]);
    std::fs::write(other.join("etc/other"), "").expect("write");
    scratch.add_policy(&format!("[user.{}]\njail = \"{}\"\n", user.name, other.display()));
    user.ssh("test -e /etc/other").run().ok();
    let told = Run::new(scratch.product().jail_sh()).args(["--explain", &user.name]).run().ok();
    assert!(told.text().contains(&format!("jail   {}", other.display())), "{}", told.text());

    run(&["--release"]);
    assert_eq!(line_of("/etc/passwd", &user.name), Some(before));
    assert_eq!(line_of("/etc/jailwright/accounts", &user.name), None);
    Ok(())
}

/// Under the lock that jail-user takes: other tests have lines in that file.
fn take_out_by_hand(name: &str) {
    let lock = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open("/etc/.pwd.lock");
    let lock = lock.expect("open");
    rustix::fs::fcntl_lock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    let path = "/etc/jailwright/accounts";
    let text = std::fs::read_to_string(path).expect("read");
    let rest: String = text
        .lines()
        .filter(|line| !line.starts_with(&format!("{name}:")))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(format!("{path}.new"), rest).expect("write");
    std::fs::rename(format!("{path}.new"), path).expect("rename");
}

fn a_bound_home_comes_and_goes(scratch: &Scratch) -> Done {
    let (one, two) = (jail(scratch, "/srv"), jail(scratch, "/srv"));
    let user = account();
    let before = user.line_in("/etc/passwd");
    jail_user_in(&one, &["--bind-home", &user.name]).ok();
    let placed = |jail: &Path| Some(format!("{0}:{1}:/home/{0}", user.name, jail.display()));
    let now = || line_of("/etc/jailwright/accounts", &user.name);
    assert_eq!(now(), placed(&one));
    let point = std::fs::metadata(one.join("home").join(&user.name)).expect("a mount point");
    assert_eq!((point.uid(), point.mode() & 0o7777), (0, 0o755));
    for args in [&["--bind-home", "--json"][..], &["--json"]] {
        let again = jail_user_in(&one, &[args, &[&user.name]].concat()).ok();
        assert_eq!(json(&again)["changed"], false, "{args:?}: {}", again.text());
    }
    // By hand, as an editor would: the next run puts it right.
    take_out_by_hand(&user.name);
    let again = jail_user_in(&one, &["--json", &user.name]).ok();
    assert_eq!((json(&again)["changed"] == true, now()), (true, placed(&one)));
    let refused = jail_user_in(&two, &["--bind-home", &user.name]);
    assert_eq!(refused.status, 1);
    assert!(refused.errors().contains("is in the jail"), "{}", refused.errors());

    jail_user().arg("--move-to").arg(&two).arg(&user.name).run().ok();
    assert_eq!(now(), placed(&two));
    assert!(!one.join("home").join(&user.name).exists(), "the old mount point is gone");
    assert_eq!(user.line_in(one.join("etc/passwd").to_str().expect("text")), None);
    assert!(user.home.join(".profile").exists());
    jail_user().args(["--release", &user.name]).run().ok();
    assert_eq!((user.line_in("/etc/passwd"), now()), (before, None));

    let moved = account();
    jail_user_in(&one, &["-m", &moved.name]).ok();
    let refused = jail_user_in(&one, &["--bind-home", &moved.name]);
    assert_eq!((refused.status, refused.errors().contains("in the jail already")), (1, true));
    Ok(())
}

/// Whichever call fails on the way between two jails, the account can log in to the one that is told of.
fn a_bound_home_that_cannot_go_stays_where_it_is(scratch: &Scratch) -> Done {
    let bound = || {
        let (one, two) = (jail(scratch, "/srv"), jail(scratch, "/srv"));
        let user = account();
        jail_user_in(&one, &["--bind-home", &user.name]).ok();
        (user, one, two)
    };
    let (sample, _, to) = bound();
    let known = counts(&["--move-to", to.to_str().expect("text"), &sample.name], scratch);
    let mut stayed = 0;
    for (call, count) in known.into_iter().filter(|(call, _)| matches!(*call, "linkat" | "renameat")) {
        for moment in 1..=count {
            let (user, one, two) = bound();
            let args = ["--move-to", two.to_str().expect("text"), &user.name];
            let said = traced(call, &format!("error=ENOSPC:when={moment}"), &args).run();
            let context = format!("{call} number {moment} of {count}: {} {}", said.status, said.errors());
            let jail = if said.status == 0 { &two } else { &one };
            let placed = format!("{0}:{1}:/home/{0}", user.name, jail.display());
            assert_eq!(line_of("/etc/jailwright/accounts", &user.name), Some(placed), "{context}");
            let inside = user.line_in(jail.join("etc/passwd").to_str().expect("text"));
            assert!(inside.is_some(), "{context}");
            stayed += usize::from(said.status != 0);
        }
    }
    assert!(stayed > 3, "only {stayed} moves failed");
    Ok(())
}

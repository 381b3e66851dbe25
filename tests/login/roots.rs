//! `root = "discard"`: what a session does to its jail ends with its cell.

use std::path::Path;
use std::time::Duration;

use jailwright_tests::command::wait_until;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, User, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch after_everything_is_deleted_the_next_login_is_as_new),
    test!(scratch logins_share_what_is_discarded),
    test!(scratch a_discarded_root_has_the_size_of_tmp),
    test!(scratch links_hard_links_and_renames_on_a_discarded_root),
    test!(scratch discarded_without_root),
    test!(scratch discarded_on_disk),
    test!(scratch a_layer_on_disk_outlives_nobody_who_was_killed),
    test!(scratch a_layer_on_disk_is_roots_to_have),
];

/// A jail of its own, with a tree below /opt that belongs to the user: file modes alone protect nothing there.
fn destroyer(host: &Scratch) -> User<'_> {
    let jail = host.jail(&format!("/srv/{}", host.unique("discard")), &["basicshell", "extendedshell"]);
    let user = host.plain_user().moved_into(&jail);
    host.add_policy(&format!("[user.{}]\nroot = \"discard\"\ntmp = \"32M\"\n", user.name));
    Run::new("cp").args(["-a"]).arg(jail.join("usr/bin")).arg(jail.join("opt")).run().ok();
    Run::new("chown").arg("-R").arg(user.uid.to_string()).arg(jail.join("opt")).run().ok();
    user
}

/// Every path of a tree with its kind, owner, mode, size and content.
fn picture(root: &Path) -> String {
    let list =
        "find . -path ./home -prune -o -printf '%p %y %U:%G %m %s %l\\n' -type f -exec cksum {} + | sort";
    Run::sh(list).dir(root).run().ok().text()
}

fn after_everything_is_deleted_the_next_login_is_as_new(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the policy is ours");
    }
    let user = destroyer(host);
    let jail = user.jail.clone().expect("jailed");
    let before = picture(&jail);
    let out = user
        .ssh("rm -rf --no-preserve-root / 2>/dev/null; ls /opt 2>&1 | wc -l; echo evil >/opt/ls; echo $?; /bin/ls /opt")
        .run();
    let lines: Vec<String> = out.text().lines().map(str::to_owned).collect();
    // Emptied, and written to.
    assert_eq!(lines, ["0", "0", "ls"], "{}", out.errors());
    user.wait_for_the_end();
    assert_eq!(picture(&jail), before, "the host's tree");
    // The home is the user's own and lasts: what was deleted there is gone, the key with it.
    user.accept_key(user.sshd());
    let again = user.ssh("/opt/ls / >/dev/null && echo as new").run().ok();
    assert_eq!(again.text(), "as new");
    Ok(())
}

fn logins_share_what_is_discarded(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the policy is ours");
    }
    let user = destroyer(host);
    let first =
        user.sshd().client("ssh").arg(user.at_host()).arg("echo here >/opt/note; sleep 30").background();
    wait_until("the second login sees it", Duration::from_secs(15), || {
        user.ssh("cat /opt/note").run().text() == "here"
    });
    drop(first);
    user.wait_for_the_end();
    assert_ne!(user.ssh("cat /opt/note").run().status, 0);
    Ok(())
}

fn a_discarded_root_has_the_size_of_tmp(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the policy is ours");
    }
    let user = destroyer(host);
    let out = user.ssh("dd if=/dev/zero of=/opt/big bs=1M count=64").run();
    assert!(out.errors().contains("No space left on device"), "{}", out.errors());
    Ok(())
}

/// What overlays are known to do differently.
fn links_hard_links_and_renames_on_a_discarded_root(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the policy is ours");
    }
    let user = destroyer(host);
    let script = "set -e; cd /opt; mkdir -p a/b; echo x >a/b/f; ln a/b/f hard; ln -s a/b/f soft; mv a c; cat soft 2>/dev/null || \
                  cat c/b/f hard; mkdir d; mv ls d/; mv d e; rm -r e; mkdir e; ls -A e | wc -l; test ! -e ls; echo fine";
    let out = user.ssh(script).run().ok();
    assert_eq!(out.text().lines().collect::<Vec<_>>(), ["x", "x", "0", "fine"]);
    Ok(())
}

/// The tree belongs to the caller here, so nothing but the layer keeps it whole.
fn discarded_without_root(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-run is meant");
    }
    let user = host.plain_user();
    host.product();
    let run = |command: &str| {
        user.outside("/usr/local/bin/jail-run")
            .args(["basicshell", "--root", "discard", "--", "/bin/sh", "-c", command])
            .env("HOME", &user.home)
            .without_env("XDG_CACHE_HOME")
            .dir("/")
            .run()
    };
    let out = run(
        "echo evil >/usr/bin/ls; rm -rf /usr/bin/cat /usr/lib/locale /bin 2>/dev/null; echo x >/etc/new; \
         read a </usr/bin/ls; read b </etc/new; echo $a $b",
    );
    assert_eq!(out.clone().ok().text(), "evil x", "{}", out.errors());
    let again = run("ls / >/dev/null && cat /etc/new /etc/passwd");
    assert!(again.text().contains(&user.name) && again.errors().contains("/etc/new"), "{again:?}");
    Ok(())
}

const LAYERS: &str = "/var/lib/jailwright/.discard";

fn on_disk(host: &Scratch) -> User<'_> {
    let user = destroyer(host);
    host.add_policy(&format!("[user.{}]\ndiscard = \"disk\"\n", user.name));
    user
}

/// The layers of a user's cells: the directories, and the locks beside them.
fn layers_of(user: &User<'_>) -> Vec<String> {
    let ours = format!("{}-", user.uid);
    let entries = std::fs::read_dir(LAYERS).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&ours)).collect()
}

#[track_caller]
fn swept(host: &Scratch, user: &User<'_>) {
    host.product().command("jail-list").arg("--sweep").run().ok();
    assert_eq!(layers_of(user), Vec::<String>::new());
}

/// More than `tmp` has room for, in a layer that nobody but root can look into, and gone afterwards.
fn discarded_on_disk(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the policy is ours");
    }
    let user = on_disk(host);
    let jail = user.jail.clone().expect("jailed");
    let before = picture(&jail);
    let script = "rm -rf --no-preserve-root /opt 2>/dev/null; dd if=/dev/zero of=/opt/big bs=1M count=48 2>/dev/null && \
                  mkdir -p /opt/a/b/c && chmod 0 /opt/a/b && echo full; echo evil >/opt/ls; exec sleep 60";
    let mut first = user.sshd().client("ssh").arg(user.at_host()).arg(script).background();
    assert_eq!(first.first_line(), "full");
    let layer = layers_of(&user).into_iter().find(|name| !name.ends_with(".lock")).expect("a layer");
    let big = format!("{LAYERS}/{layer}/upper/opt/big");
    assert_eq!(std::fs::metadata(&big).expect("the layer is there").len(), 48 << 20);
    // A second login shares it, and a sweep leaves what is in use alone.
    host.product().command("jail-list").arg("--sweep").run().ok();
    assert_eq!(user.ssh("stat -c %s /opt/big").run().ok().text(), (48 << 20).to_string());
    assert_ne!(user.outside("ls").arg(LAYERS).run().status, 0, "the user can look into it from outside");
    drop(first);
    user.wait_for_the_end();
    assert_eq!(picture(&jail), before, "the host's tree");
    // The next cell of the kind clears it away, whoever makes it.
    let other = on_disk(host);
    other.ssh("true").run().ok();
    assert_eq!(layers_of(&user), Vec::<String>::new());
    assert_eq!(user.ssh("/opt/ls / >/dev/null && echo as new").run().ok().text(), "as new");
    user.wait_for_the_end();
    other.wait_for_the_end();
    swept(host, &user);
    Ok(())
}

fn a_layer_on_disk_outlives_nobody_who_was_killed(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the policy is ours");
    }
    let user = on_disk(host);
    let mut session = user
        .sshd()
        .client("ssh")
        .arg(user.at_host())
        .arg("echo x >/opt/x; echo in; exec sleep 60")
        .background();
    assert_eq!(session.first_line(), "in");
    assert_eq!(layers_of(&user).len(), 2, "a directory and its lock");
    for (pid, _) in user.processes() {
        drop(Run::new("kill").args(["-KILL", &pid.to_string()]).run());
    }
    drop(session);
    user.wait_for_the_end();
    // What a sweep that was killed, and an entry that was killed before its layer was there, leave behind.
    std::fs::write(format!("{LAYERS}/{}-1-0.lock", user.uid), "").expect("write");
    swept(host, &user);
    Ok(())
}

fn a_layer_on_disk_is_roots_to_have(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-run is meant");
    }
    let user = host.plain_user();
    host.product();
    let out = user
        .outside("/usr/local/bin/jail-run")
        .args(["basicshell", "--root", "discard", "--discard", "disk", "--", "/bin/true"])
        .env("HOME", &user.home)
        .without_env("XDG_CACHE_HOME")
        .dir("/")
        .run();
    assert_eq!(out.status, 125);
    assert!(out.errors().contains("discard = \"disk\" (from flag) needs root"), "{}", out.errors());
    Ok(())
}

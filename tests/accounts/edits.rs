//! What changes in the account files, on the host and in the jail, and that a release takes it back to the byte.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jailwright_tests::user::shadow;
use jailwright_tests::{Done, Run, Scratch, Test, skip, test};
use serde_json::Value;

use crate::setting::{LOGIN_SHELL, account, jail, jail_user, jail_user_in, line_of};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch jailed_and_released_to_the_byte),
    test!(scratch a_second_run_changes_nothing),
    test!(scratch missing_parts_are_put_right),
    test!(scratch groups_keep_their_names),
    test!(scratch a_made_home_comes_from_the_skeleton_and_stays),
    test!(scratch a_dry_run_shows_a_diff_and_writes_nothing),
    test!(scratch the_user_manager_is_masked_and_lingering_ends),
    test!(scratch changes_made_since_are_kept),
    test!(scratch jailkit_and_we_understand_each_other),
    test!(scratch sshd_is_asked_until_forwarding_is_shut),
];

pub(crate) fn json(output: &jailwright_tests::Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn jailed_members() -> Vec<String> {
    let line = line_of("/etc/group", "jailed").unwrap_or_default();
    line.rsplit(':').next().unwrap_or_default().split(',').map(ToOwned::to_owned).collect()
}

fn jailed_and_released_to_the_byte(scratch: &Scratch) -> Done {
    let user = account();
    Run::new("chfn").args(["-f", "Dave Ünïque, 3rd floor"]).arg(&user.name).run();
    let before = user.line_in("/etc/passwd");
    let (shadow, modes) = (std::fs::read("/etc/shadow").expect("read"), file_facts());
    let jail = jail(scratch, "/home");
    let said = json(&jail_user_in(&jail, &["-m", "--json", &user.name]).ok());
    assert_eq!((&said["changed"], &said["users"][0]["changed"]), (&Value::Bool(true), &Value::Bool(true)));

    let jail_text = jail.display();
    let fields = before.as_deref().expect("there").rsplitn(3, ':').nth(2).expect("fields").to_owned();
    let home = user.home.display();
    assert_eq!(user.line_in("/etc/passwd"), Some(format!("{fields}:{jail_text}/.{home}:{LOGIN_SHELL}")));
    let inner = jail.join("etc/passwd");
    assert_eq!(
        user.line_in(inner.to_str().expect("text")),
        before,
        "the shell is the account's own, which the jail has"
    );
    assert!(jailed_members().contains(&user.name));
    assert!(line_of("/etc/gshadow", "jailed").expect("gshadow too").contains(&user.name));
    assert!(!user.home.exists() && jail.join(&user.name).parent().is_some());
    assert!(jail.join(format!(".{home}/.profile")).exists());

    jail_user().args(["--release", &user.name]).run().ok();
    assert_eq!(user.line_in("/etc/passwd"), before);
    assert!(user.home.join(".profile").exists());
    assert!(!jailed_members().contains(&user.name));
    let shadow_now = String::from_utf8(std::fs::read("/etc/shadow").expect("read")).expect("text");
    assert!(String::from_utf8(shadow).expect("text").lines().all(|line| shadow_now.contains(line)));
    assert_eq!(file_facts(), modes, "owner and mode of the account files");
    assert_eq!(line_of(inner.to_str().expect("text"), &user.name), None);
    assert!(Path::new("/etc/passwd-").exists());
    for left in ["/etc/passwd.lock", "/etc/group.lock", "/etc/gshadow.lock"] {
        // Other tests run at the same time: a lock may be there, but not for long.
        jailwright_tests::command::wait_until(left, std::time::Duration::from_secs(10), || {
            !Path::new(left).exists()
        });
    }
    Ok(())
}

fn file_facts() -> Vec<(u32, u32, u32)> {
    ["/etc/passwd", "/etc/group", "/etc/gshadow"]
        .iter()
        .map(|file| std::fs::metadata(file).expect("stat"))
        .map(|found| (found.mode(), found.uid(), found.gid()))
        .collect()
}

fn a_second_run_changes_nothing(scratch: &Scratch) -> Done {
    let user = account();
    let jail = jail(scratch, "/srv");
    jail_user_in(&jail, &["-m", &user.name]).ok();
    let state = |jail: &Path| {
        let facts = |path: &Path| {
            std::fs::metadata(path).map(|m| (m.ino(), m.mtime_nsec(), m.ctime_nsec())).expect("stat")
        };
        (facts(&jail.join("etc/passwd")), facts(&jail.join("etc/group")), user.line_in("/etc/passwd"))
    };
    let before = state(&jail);
    let again = jail_user_in(&jail, &["-m", "-n", "--json", &user.name]).ok();
    assert_eq!(json(&again)["changed"], Value::Bool(false));
    assert_eq!(state(&jail), before);
    let said = jail_user_in(&jail, &["-m", &user.name]).ok();
    assert!(said.text().contains("already: nothing changed"), "{}", said.text());
    jail_user().args(["--release", &user.name]).run().ok();
    let out = jail_user().args(["--release", "--json", &user.name]).run().ok();
    assert_eq!(json(&out)["changed"], Value::Bool(false));
    Ok(())
}

fn missing_parts_are_put_right(scratch: &Scratch) -> Done {
    let user = account();
    let before = user.line_in("/etc/passwd");
    let jail = jail(scratch, "/srv");
    jail_user_in(&jail, &["-m", &user.name]).ok();
    std::fs::write(jail.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n").expect("write");
    shadow("gpasswd", &["-d", &user.name, "jailed"]);
    let said = jail_user_in(&jail, &["--json", &user.name]).ok();
    assert_eq!(json(&said)["changed"], Value::Bool(true));
    assert!(user.line_in(jail.join("etc/passwd").to_str().expect("text")).is_some());
    assert!(jailed_members().contains(&user.name));
    // Another shell inside, by the same command.
    jail_user_in(&jail, &["-s", "/bin/sh", &user.name]).ok();
    assert!(
        user.line_in(jail.join("etc/passwd").to_str().expect("text")).expect("there").ends_with(":/bin/sh")
    );
    jail_user().args(["--release", &user.name]).run().ok();
    assert_eq!(user.line_in("/etc/passwd"), before, "what it was before the first run, not the second");
    Ok(())
}

fn groups_keep_their_names(scratch: &Scratch) -> Done {
    let (user, other) = (account(), account());
    let group = scratch.unique("team");
    shadow("groupadd", &[&group]);
    for one in [&user, &other] {
        shadow("usermod", &["-aG", &group, &one.name]);
    }
    let jail = jail(scratch, "/srv");
    let file = jail.join("etc/group");
    let file = file.to_str().expect("text");
    let before = std::fs::read(file).expect("read");
    jail_user_in(&jail, &[&user.name, &other.name]).ok();
    let line = line_of(file, &group).expect("the group's name is in the jail");
    assert!(line.ends_with(&format!(":{},{}", user.name, other.name)), "{line}");
    assert_eq!(
        line_of(file, &user.name),
        line_of("/etc/group", &user.name),
        "the primary group, with its real number"
    );
    jail_user().args(["--release", &user.name]).run().ok();
    assert!(line_of(file, &group).expect("the other still needs it").ends_with(&format!(":{}", other.name)));
    jail_user().args(["--release", &other.name]).run().ok();
    let left = String::from_utf8(std::fs::read(file).expect("read")).expect("text");
    assert!(left.starts_with(&String::from_utf8(before).expect("text")));
    assert!(!left.contains(&user.name) && !left.contains(&other.name), "{left}");
    Ok(())
}

fn a_made_home_comes_from_the_skeleton_and_stays(scratch: &Scratch) -> Done {
    let user = account();
    std::fs::create_dir_all("/etc/skel/.config").expect("mkdir");
    std::fs::write("/etc/skel/.config/deep", "x").expect("write");
    std::fs::write(user.home.join("mine"), "outside").expect("write");
    let jail = jail(scratch, "/srv");
    jail_user_in(&jail, &[&user.name]).ok();
    let inner = jail.join(format!("home/{}", user.name));
    for path in [inner.clone(), inner.join(".profile"), inner.join(".config/deep")] {
        assert_eq!(std::fs::metadata(&path).expect("there").uid(), user.uid, "{}", path.display());
    }
    let mode = std::fs::metadata(&inner).expect("there").mode() & 0o7777;
    assert_eq!(mode & 0o022, 0, "nobody else may write: {mode:o}");
    assert!(user.home.join("mine").exists(), "the old home is left alone");
    std::fs::write(inner.join("work"), "inside").expect("write");
    jail_user().args(["--release", &user.name]).run().ok();
    assert!(inner.join("work").exists(), "a release deletes nobody's work");
    jail_user_in(&jail, &[&user.name]).ok();
    assert_eq!(std::fs::read(inner.join("work")).expect("kept"), b"inside");
    Ok(())
}

fn a_dry_run_shows_a_diff_and_writes_nothing(scratch: &Scratch) -> Done {
    let user = account();
    let jail = jail(scratch, "/srv");
    let before = user.line_in("/etc/passwd").expect("there");
    let said = jail_user_in(&jail, &["-m", "--dry-run", &user.name]).ok().text();
    assert!(
        said.contains(&format!("/etc/passwd: -'{before}'")) && said.contains("/etc/passwd: +'"),
        "{said}"
    );
    assert_eq!(user.line_in("/etc/passwd"), Some(before));
    assert!(user.home.exists() && !jail.join("home").exists());
    assert!(
        !Path::new("/var/lib/jailwright")
            .join(format!(
                "srv-{}",
                jail.file_name().expect("name").to_str().expect("text").replace('-', "\\x2d")
            ))
            .exists()
    );
    Ok(())
}

fn the_user_manager_is_masked_and_lingering_ends(scratch: &Scratch) -> Done {
    if !Path::new("/usr/bin/systemctl").exists() {
        return skip("no systemctl on this machine");
    }
    let (user, was_masked) = (account(), account());
    let unit = |uid: u32| format!("/etc/systemd/system/user@{uid}.service");
    std::os::unix::fs::symlink("/dev/null", unit(was_masked.uid)).expect("symlink");
    std::fs::create_dir_all("/var/lib/systemd/linger").expect("mkdir");
    let linger = format!("/var/lib/systemd/linger/{}", user.name);
    std::fs::write(&linger, "").expect("write");
    let jail = jail(scratch, "/srv");
    jail_user_in(&jail, &["-m", &user.name, &was_masked.name]).ok();
    assert_eq!(std::fs::read_link(unit(user.uid)).expect("masked"), Path::new("/dev/null"));
    assert!(!Path::new(&linger).exists());
    jail_user().args(["--release", &user.name, &was_masked.name]).run().ok();
    assert!(std::fs::symlink_metadata(unit(user.uid)).is_err());
    assert!(Path::new(&linger).exists());
    assert!(std::fs::symlink_metadata(unit(was_masked.uid)).is_ok(), "what was masked before stays masked");
    Ok(())
}

fn changes_made_since_are_kept(scratch: &Scratch) -> Done {
    let user = account();
    let before = user.line_in("/etc/passwd").expect("there");
    let jail = jail(scratch, "/srv");
    jail_user_in(&jail, &["-m", &user.name]).ok();
    shadow("usermod", &["-c", "New Name", &user.name]);
    jail_user().args(["--release", &user.name]).run().ok();
    let fields: Vec<&str> = before.split(':').collect();
    let expected = [&fields[..4], &["New Name"], &fields[5..]].concat().join(":");
    assert_eq!(user.line_in("/etc/passwd"), Some(expected), "only home and shell go back");

    jail_user_in(&jail, &["-m", &user.name]).ok();
    shadow("usermod", &["-d", "/srv/elsewhere", &user.name]);
    let refused = jail_user().args(["--release", &user.name]).run();
    assert_eq!(refused.status, 1);
    assert!(refused.errors().contains("was changed since it was jailed"), "{}", refused.errors());
    jail_user().args(["--release", "--force", "-j"]).arg(&jail).arg(&user.name).run().ok();
    assert!(
        user.line_in("/etc/passwd").expect("there").ends_with(&format!(":{}:/bin/bash", user.home.display()))
    );
    Ok(())
}

fn jailkit_and_we_understand_each_other(scratch: &Scratch) -> Done {
    if !Path::new("/usr/sbin/jk_jailuser").exists() {
        return skip("Debian's jailkit is not installed");
    }
    // Jailed by jailkit: we take over, and a release goes back to that.
    let theirs = account();
    let jail = jail(scratch, "/srv");
    Run::new("jk_jailuser")
        .args(["-n", "-m", "-s", "/bin/bash", "-j"])
        .arg(&jail)
        .arg(&theirs.name)
        .run()
        .ok();
    let as_theirs = theirs.line_in("/etc/passwd").expect("there");
    assert!(as_theirs.ends_with("/usr/sbin/jk_chrootsh"), "{as_theirs}");
    jail_user_in(&jail, &[&theirs.name]).ok();
    let as_ours = theirs.line_in("/etc/passwd").expect("there");
    assert_eq!(
        as_ours,
        as_theirs.replace("/usr/sbin/jk_chrootsh", LOGIN_SHELL),
        "the same home, another shell"
    );
    jail_user().args(["--release", &theirs.name]).run().ok();
    assert_eq!(theirs.line_in("/etc/passwd"), Some(as_theirs));

    // Jailed by us: jailkit's own shell lets the account in as it would after jk_jailuser.
    let ours = account();
    let jail = Path::new("/srv").join(scratch.unique("jk"));
    Run::new("jk_init").args(["-j"]).arg(&jail).args(["uidbasics", "basicshell"]).run().ok();
    jail_user_in(&jail, &["-m", "-s", "/bin/bash", &ours.name]).ok();
    shadow("usermod", &["-s", "/usr/sbin/jk_chrootsh", &ours.name]);
    let seen = Run::new("su").args(["-", &ours.name, "-c", "pwd; ls -d /srv; true"]).run();
    assert!(
        seen.text().starts_with(&ours.home.display().to_string()),
        "{} {}{} {:?}",
        seen.status,
        seen.text(),
        seen.errors(),
        scratch.syslog().with("jk_chrootsh")
    );
    assert!(seen.errors().contains("/srv"), "it is inside: {}{}", seen.text(), seen.errors());
    Ok(())
}

fn sshd_is_asked_until_forwarding_is_shut(scratch: &Scratch) -> Done {
    if !Path::new("/usr/sbin/sshd").exists() {
        return skip("no sshd on this machine");
    }
    Run::new("ssh-keygen").arg("-A").run().ok();
    let jail = jail(scratch, "/srv");
    let (first, second) = (account(), account());
    std::fs::create_dir_all("/etc/ssh/sshd_config.d").expect("mkdir");
    std::fs::write(
        "/etc/ssh/sshd_config",
        "Include /etc/ssh/sshd_config.d/*.conf\nSubsystem sftp /usr/lib/openssh/sftp-server\n",
    )
    .expect("write");
    let said = jail_user_in(&jail, &[&first.name]).ok().errors();
    assert!(said.contains("allowtcpforwarding yes") && said.contains("permituserrc yes"), "{said}");
    let drop_in = jailwright_tests::product::checkout().join("share/ssh/60-jailwright.conf");
    std::fs::copy(drop_in, "/etc/ssh/sshd_config.d/60-jailwright.conf").expect("copy");
    let said = jail_user_in(&jail, &[&second.name]).ok().errors();
    assert_eq!(said, "", "nothing left to warn of");
    // sftp that sshd serves itself never meets the login shell.
    std::fs::write(
        "/etc/ssh/sshd_config",
        "Include /etc/ssh/sshd_config.d/*.conf\nSubsystem sftp internal-sftp\n",
    )
    .expect("write");
    jail_user().args(["--release", &second.name]).run().ok();
    let said = jail_user_in(&jail, &[&second.name]).ok().errors();
    assert!(said.contains("subsystem sftp internal-sftp"), "{said}");
    std::fs::remove_file("/etc/ssh/sshd_config.d/60-jailwright.conf").expect("remove");
    Ok(())
}

//! Being more than an ordinary user: capabilities, set-uid files, device nodes.

use std::os::unix::fs::{PermissionsExt, chown};

use jailwright_tests::command::have;
use jailwright_tests::product::built_static;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, skip, test};

use crate::{attacker, default_policy, of_a_login};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch status_shows_nothing_left),
    test!(scratch become_root_by_asking),
    test!(scratch take_capabilities_back),
    test!(scratch set_uid_copy_in_the_home),
    test!(scratch set_uid_copy_in_the_root),
    test!(scratch file_capabilities),
    test!(scratch make_device_nodes),
    test!(scratch use_a_planted_device_node),
    test!(scratch groups_that_are_roots_in_disguise),
    test!(scratch in_jail_passwd_says_root),
    test!(scratch in_jail_passwd_names_another_shell),
];

/// What `/proc/self/status` has to say after an entry.
fn status_shows_nothing_left(host: &Scratch) -> Done {
    let user = attacker(host);
    let status = user.ssh("cat /proc/self/status").run().text();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.trim().to_owned()).unwrap_or_default()
    };
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(value(name), "0000000000000000", "{name} in\n{status}");
    }
    assert_eq!(value("NoNewPrivs:"), "1");
    assert_eq!(value("Seccomp:"), "2");
    assert_eq!(value("Uid:"), [user.uid.to_string().as_str(); 4].join("\t"));
    assert_eq!(value("Gid:"), [user.uid.to_string().as_str(); 4].join("\t"));
    Ok(())
}

/// A saved or file-system uid of 0 left behind.
fn become_root_by_asking(host: &Scratch) -> Done {
    attacker(host).cannot(&["setuid_0", "setresuid_0", "setgid_0", "setgroups_0", "setfsuid_0"]);
    Ok(())
}

/// Ambient and bounding sets, securebits, no_new_privs.
fn take_capabilities_back(host: &Scratch) -> Done {
    attacker(host).cannot(&["capset_all", "ambient_raise", "securebits_0", "no_new_privs_off"]);
    Ok(())
}

/// CVE-2009-2904: a set-uid program in a jail that its user can prepare.
fn set_uid_copy_in_the_home(host: &Scratch) -> Done {
    let user = attacker(host);
    let copy = user.home.join("suid");
    std::fs::copy(built_static("probe"), &copy).expect("copy");
    chown(&copy, Some(0), Some(0)).expect("chown");
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o6755)).expect("chmod");
    assert_ordinary(&user, "~/suid");
    Ok(())
}

/// The same, left in the jail's own tree by a careless administrator.
fn set_uid_copy_in_the_root(host: &Scratch) -> Done {
    of_a_login()?;
    let user = attacker(host);
    if Under::test() == Under::Bubblewrap {
        return skip("its root is the host's");
    }
    let copy = user.jail.clone().expect("jailed").join("usr/bin/suid-probe");
    if !copy.exists() {
        std::fs::copy(built_static("probe"), &copy).expect("copy");
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o6755)).expect("chmod");
    }
    assert_ordinary(&user, "/usr/bin/suid-probe");
    let out = user.ssh("/usr/bin/suid-probe write:/usr/bin/new write:/etc/passwd write:/bin/bash").run();
    assert!(!out.text().contains("OK"), "{}", out.text());
    Ok(())
}

/// The same by file capabilities.
fn file_capabilities(host: &Scratch) -> Done {
    if !have("setcap") {
        return skip("no setcap on this machine");
    }
    let user = attacker(host);
    let copy = user.home.join("caps");
    std::fs::copy(built_static("probe"), &copy).expect("copy");
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).expect("chmod");
    Run::new("/usr/sbin/setcap").args(["cap_sys_admin,cap_setuid,cap_sys_chroot+ep"]).arg(&copy).run().ok();
    let out = user.ssh("~/caps setuid_0 chroot mount_tmpfs").run();
    assert!(!out.text().contains("OK"), "{}", out.text());
    Ok(())
}

#[track_caller]
fn assert_ordinary(user: &jailwright_tests::User<'_>, program: &str) {
    let out = user.ssh(&format!("{program} euid setuid_0")).run();
    let expected = format!("euid OK returned {}", user.uid);
    // Refused to run it at all is as good.
    assert!(out.text().contains(&expected) || out.status == 126, "{}{}", out.text(), out.errors());
    assert!(!out.text().contains("setuid_0 OK"), "{}", out.text());
}

/// mknod(2) of the disk.
fn make_device_nodes(host: &Scratch) -> Done {
    attacker(host).cannot(&["mknod_null", "mknod_disk"]);
    Ok(())
}

/// A node that came into the home by a restore or an old backup.
fn use_a_planted_device_node(host: &Scratch) -> Done {
    let user = attacker(host);
    let node = user.home.join("node");
    Run::new("mknod").arg("-m").arg("666").arg(&node).args(["c", "1", "5"]).run().ok();
    let answers = user.probe(&[&format!("read:{}", user.inner_home.join("node").display())]);
    assert_eq!(answers[0].1, "EACCES", "the node of /dev/zero works in the home");
    Ok(())
}

/// docker, disk, sudo, shadow: membership is root by another name.
fn groups_that_are_roots_in_disguise(host: &Scratch) -> Done {
    if !default_policy() {
        return skip("tried under the default policy");
    }
    let user = attacker(host);
    Run::new("/usr/sbin/usermod").args(["-aG", "disk,shadow,sudo", &user.name]).run().ok();
    let groups = user.ssh("id -G").run().text();
    let gids = ["disk", "shadow", "sudo"].map(|name| {
        let line = Run::new("getent").args(["group", name]).run().text();
        line.split(':').nth(2).unwrap_or_default().to_owned()
    });
    for gid in gids {
        assert!(!groups.split_whitespace().any(|g| g == gid), "group {gid} came in: {groups}");
    }
    Ok(())
}

/// Nothing that the jail says about an account decides what the account may do.
fn in_jail_passwd_says_root(host: &Scratch) -> Done {
    let (_jail, user) = own_jail(host)?;
    let passwd = user.jail.clone().expect("jailed").join("etc/passwd");
    std::fs::write(&passwd, format!("{}:x:0:0::/root:/bin/bash\n", user.name)).expect("write");
    let out = user.ssh("cat /proc/self/status").run().text();
    assert!(out.contains(&format!("Uid:\t{0}\t{0}\t{0}\t{0}", user.uid)), "{out}");
    Ok(())
}

/// jk_chrootsh takes the shell from the jail's passwd, a file that lies in the jail.
fn in_jail_passwd_names_another_shell(host: &Scratch) -> Done {
    let (_jail, user) = own_jail(host)?;
    let passwd = user.jail.clone().expect("jailed").join("etc/passwd");
    let evil = user.writes("evil", "#!/bin/bash\ncat /proc/self/status\n");
    std::fs::set_permissions(evil, PermissionsExt::from_mode(0o755)).expect("chmod");
    let home = user.inner_home.display();
    std::fs::write(&passwd, format!("{}:x:{1}:{1}::{home}:{home}/evil\n", user.name, user.uid))
        .expect("write");
    let out = user.ssh("cat /proc/self/status").run().text();
    assert!(out.contains("NoNewPrivs:\t1") && out.contains("Seccomp:\t2"), "{out}");
    Ok(())
}

fn own_jail(
    host: &Scratch,
) -> Result<(std::path::PathBuf, jailwright_tests::User<'_>), jailwright_tests::Skip> {
    of_a_login()?;
    if Under::test() == Under::Bubblewrap {
        return Err(jailwright_tests::Skip("it has no passwd of its own".to_owned()));
    }
    let jail = host.jail(&format!("/srv/{}", host.unique("own")), &["basicshell"]);
    let user = host.plain_user().moved_into(&jail);
    Ok((jail, user))
}

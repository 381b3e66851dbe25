//! Mounts and the root: nothing may be mounted, unmounted or climbed over.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Skip, Test, User, skip, test};

use crate::{attacker, default_policy, of_a_login};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch mount_a_file_system),
    test!(scratch mount_by_the_new_calls),
    test!(scratch remount_the_root_writable),
    test!(scratch write_to_a_root_that_only_rules_keep),
    test!(scratch unmount_what_covers),
    test!(scratch pivot_root),
    test!(scratch chroot_twice),
    test!(scratch open_by_handle),
    test!(scratch dot_dot_from_a_renamed_directory),
    test!(scratch bind_target_that_is_a_link),
    test!(scratch bind_target_behind_a_link),
    test!(scratch bind_target_that_is_swapped),
    test!(scratch jail_with_a_false_proc),
    test!(scratch jail_with_a_false_dev),
    test!(scratch no_mount_of_the_host_is_seen),
    test!(scratch no_mount_of_the_cell_is_seen_outside),
];

/// Any mount lets the mounter choose what a set-uid program or a service reads.
fn mount_a_file_system(host: &Scratch) -> Done {
    attacker(host).cannot(&["mount_tmpfs", "mount_proc", "mount_bind_root"]);
    Ok(())
}

/// CVE-2022-0185 began with fsopen(2) and fsconfig(2).
fn mount_by_the_new_calls(host: &Scratch) -> Done {
    attacker(host).cannot(&[
        "fsopen",
        "fspick",
        "fsconfig",
        "fsmount",
        "open_tree",
        "move_mount",
        "mount_setattr",
    ]);
    Ok(())
}

/// A mount option taken back.
fn remount_the_root_writable(host: &Scratch) -> Done {
    attacker(host).cannot(&["remount_root"]);
    Ok(())
}

/// Landlock keeps the root from being written as well; whoever finds a hole in it shall meet a read-only mount.
fn write_to_a_root_that_only_rules_keep(host: &Scratch) -> Done {
    if Under::test() != Under::Ours || !default_policy() {
        return skip("the two layers of a read-only root are meant");
    }
    let out = attacker(host).ssh("cat /proc/self/mountinfo").run().ok();
    let mounts = out.text();
    let root =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|line| line.get(4) == Some(&"/"));
    let options = root.as_ref().and_then(|line| line.get(5)).copied().unwrap_or_default();
    for option in ["ro", "nosuid", "nodev"] {
        assert!(options.split(',').any(|found| found == option), "{option} is not among '{options}'");
    }
    Ok(())
}

/// What lies below a mask or a tmpfs is what it hides (CVE-2025-31133).
fn unmount_what_covers(host: &Scratch) -> Done {
    attacker(host).cannot(&["umount_proc", "umount_root"]);
    Ok(())
}

/// pivot_root(2) back to where it came from.
fn pivot_root(host: &Scratch) -> Done {
    attacker(host).cannot(&["pivot_root"]);
    Ok(())
}

/// The classic: a directory kept open above a second root. chroot(2)'s own page describes it.
fn chroot_twice(host: &Scratch) -> Done {
    attacker(host).cannot(&["chroot", "chroot_escape"]);
    Ok(())
}

/// "Shocker": a file handle names any file of the file system, whatever the root is.
fn open_by_handle(host: &Scratch) -> Done {
    attacker(host).cannot(&["open_by_handle_at"]);
    Ok(())
}

/// CVE-2015-2925: a directory is moved out of the bind mount that a process sits in; then `..`.
fn dot_dot_from_a_renamed_directory(host: &Scratch) -> Done {
    if Under::test() == Under::Bubblewrap {
        return skip("its homes lie elsewhere");
    }
    let user = attacker(host);
    let outside = format!("/srv/{}", host.unique("outside"));
    std::fs::create_dir_all(format!("{outside}/mine")).expect("mkdir");
    std::fs::write(format!("{outside}/secret"), "outside").expect("write");
    user.owns(std::path::Path::new(&format!("{outside}/mine")));
    std::fs::create_dir_all(user.home.join("a/b")).expect("mkdir");
    user.owns(&user.home.join("a"));
    user.owns(&user.home.join("a/b"));
    let mut terminal = user.terminal();
    terminal.expect("$ ");
    terminal.ask("cd ~/a/b");
    std::fs::rename(user.home.join("a/b"), format!("{outside}/mine/b")).expect("rename");
    let seen = terminal.ask("cat ../../secret; cat ../../../../etc/shadow; ls ../../..");
    assert!(!seen.contains("outside\n") && !seen.contains("root:"), "{seen}");
    assert!(!seen.lines().any(|line| line == outside.trim_start_matches("/srv/")), "{seen}");
    Ok(())
}

/// CVE-2021-30465, CVE-2026-87766: the jailer mounts where a link of the user's leads.
fn bind_target_that_is_a_link(host: &Scratch) -> Done {
    let user = bound_through_a_link(host, "passwd", "x", "/etc")?;
    let out = user.ssh("cat /etc/passwd").run();
    assert!(!out.text().contains("bound"), "it was mounted over /etc: {out:?}");
    assert!(out.status == 125 || out.text().contains(&user.name), "{out:?}");
    Ok(())
}

/// The same with the link on the way: what is last is a plain directory, and the jail's own.
fn bind_target_behind_a_link(host: &Scratch) -> Done {
    let user = bound_through_a_link(host, "planted", "x/share", "/usr")?;
    let out = user.ssh("echo entered; cat /usr/share/planted").run();
    assert!(!out.text().contains("bound"), "it was mounted over /usr/share: {out:?}");
    assert!(out.status == 125 || out.text().contains("entered"), "{out:?}");
    Ok(())
}

/// A user whose policy binds a directory with `file` in it to `target` of the home, where `x` is a link to `leads_to`.
fn bound_through_a_link<'a>(
    host: &'a Scratch,
    file: &str,
    target: &str,
    leads_to: &str,
) -> Result<User<'a>, Skip> {
    of_a_login()?;
    if Under::test() != Under::Ours {
        return Err(Skip("only our policy binds".to_owned()));
    }
    let user = attacker(host);
    let data = format!("/srv/{}", host.unique("data"));
    std::fs::create_dir(&data).expect("mkdir");
    std::fs::write(format!("{data}/{file}"), "bound").expect("write");
    host.add_policy(&format!(
        "[user.{}]\nbind = [{{ from = \"{data}\", to = \"{}\" }}]\n",
        user.name,
        user.inner_home.join(target).display()
    ));
    symlink(leads_to, user.home.join("x")).expect("symlink");
    Ok(user)
}

/// CVE-2018-15664: the same, with the link put there between the look and the mount.
fn bind_target_that_is_swapped(host: &Scratch) -> Done {
    of_a_login()?;
    if Under::test() != Under::Ours {
        return skip("only our policy binds");
    }
    let user = attacker(host);
    let data = format!("/srv/{}", host.unique("data"));
    std::fs::create_dir(&data).expect("mkdir");
    std::fs::write(format!("{data}/passwd"), "bound").expect("write");
    host.add_policy(&format!(
        "[user.{0}]\nsession = \"private\"\nbind = [{{ from = \"{data}\", to = \"{1}\" }}]\n",
        user.name,
        user.inner_home.join("x").display()
    ));
    let flip = format!(
        "cd {}; while :; do mkdir x 2>/dev/null; rmdir x; ln -s /etc x; rm x; done 2>/dev/null",
        user.home.display()
    );
    let _flipper = user.outside("sh").args(["-c", &flip]).background();
    let end = Instant::now() + Duration::from_secs(3);
    let id = user.uid.to_string();
    while Instant::now() < end {
        let out = jailwright_tests::Run::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .arg(host.product().jail_sh())
            .args(["-c", "cat /etc/passwd"])
            .run();
        assert!(!out.text().contains("bound"), "it was mounted over /etc");
    }
    assert!(std::fs::read_to_string("/etc/passwd").expect("read").starts_with("root:"));
    Ok(())
}

/// CVE-2019-19921, CVE-2023-27561: writes to /proc go where the jail's own `proc` leads.
fn jail_with_a_false_proc(host: &Scratch) -> Done {
    false_directory(host, "proc")
}

/// CVE-2025-31133, CVE-2025-52565: the same with /dev.
fn jail_with_a_false_dev(host: &Scratch) -> Done {
    false_directory(host, "dev")
}

fn false_directory(host: &Scratch, name: &str) -> Done {
    of_a_login()?;
    if Under::test() != Under::Ours {
        return skip("it mounts nothing there");
    }
    let jail = host.jail(&format!("/srv/{}", host.unique("false")), &["basicshell"]);
    let user = host.plain_user().moved_into(&jail);
    drop(std::fs::remove_dir_all(jail.join(name)));
    std::fs::create_dir_all("/srv/victim").expect("mkdir");
    symlink("/srv/victim", jail.join(name)).expect("symlink");
    let out = user.ssh("echo entered; test -e /proc/self/status && echo proc").run();
    assert!(out.status == 125 || out.text() == "entered\nproc", "{out:?}");
    assert_eq!(std::fs::read_dir("/srv/victim").expect("read").count(), 0);
    Ok(())
}

/// What the mount table tells is a map for the next attempt.
fn no_mount_of_the_host_is_seen(host: &Scratch) -> Done {
    let table = attacker(host).ssh("cat /proc/self/mountinfo").run().text();
    for word in ["/run/kept", "/var/lib/jailwright", " /usr/local ", "upperdir=/run", "cgroup"] {
        assert!(!table.contains(word), "{word} is in\n{table}");
    }
    Ok(())
}

/// On a systemd host every mount is shared, and a copy of one is its peer: what is mounted on the copy appears on the host,
/// over the jail's own directories, and the next login mounts on that.
fn no_mount_of_the_cell_is_seen_outside(host: &Scratch) -> Done {
    of_a_login()?;
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let propagation = |how: &str| drop(Run::new("mount").args([how, "/"]).run().ok());
    let user = attacker(host);
    propagation("--make-rshared");
    let before = mounts().lines().count();
    let logins: Vec<_> = (0..2).map(|_| user.ssh("cat /proc/1/comm").run().text()).collect();
    let after = mounts();
    propagation("--make-rprivate");
    for login in logins {
        assert_eq!(login, "jail-init");
    }
    assert_eq!(after.lines().count(), before, "the cell's mounts on the host:\n{after}");
    Ok(())
}

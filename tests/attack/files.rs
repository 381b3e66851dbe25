//! Files: the root, other homes, kernel knobs and kernel leaks.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use jailwright_tests::{Done, Scratch, Test, skip, test};

use crate::{attacker, default_policy, of_a_login};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch the_hosts_root_is_not_there),
    test!(scratch write_to_the_root),
    test!(scratch other_homes),
    test!(scratch links_out_of_the_home),
    test!(scratch hard_links_to_set_uid_programs),
    test!(scratch shared_page_cache),
    test!(scratch kernel_settings),
    test!(scratch kernel_leaks),
    test!(scratch sysfs_and_cgroups),
    test!(scratch devices_of_the_host),
    test!(scratch fill_the_scratch_space),
];

/// Names and secrets of the host.
fn the_hosts_root_is_not_there(host: &Scratch) -> Done {
    let user = attacker(host);
    let secret = format!("/srv/{}", host.unique("secret"));
    std::fs::write(&secret, "host").expect("write");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o644)).expect("chmod");
    user.cannot(&[
        &format!("read:{secret}"),
        "read:/etc/shadow",
        "read:/etc/fstab",
        "read:/var/lib/dpkg/status",
        "read:/boot",
    ]);
    let passwd = user.ssh("cat /etc/passwd").run().text();
    assert!(!passwd.contains("sshd:"), "the host's accounts:\n{passwd}");
    Ok(())
}

/// Neither the tree nor what is mounted on it, save home and scratch space.
fn write_to_the_root(host: &Scratch) -> Done {
    if !default_policy() {
        return skip("tried under the default policy");
    }
    attacker(host).cannot(&[
        "write:/new",
        "write:/etc/passwd",
        "write:/bin/bash",
        "write:/usr/bin/new",
        "write:/home/new",
        "write:/dev/new",
        "write:/proc/new",
        "write:/etc/ld.so.preload",
        "write:/etc/nsswitch.conf",
    ]);
    Ok(())
}

/// Another user's home, wide open, in the same jail.
fn other_homes(host: &Scratch) -> Done {
    of_a_login()?;
    let (user, other) = (attacker(host), attacker(host));
    let letter = other.writes("letter", "private\n");
    std::fs::set_permissions(&letter, PermissionsExt::from_mode(0o666)).expect("chmod");
    std::fs::set_permissions(&other.home, PermissionsExt::from_mode(0o777)).expect("chmod");
    let path = other.inner_home.join("letter");
    user.cannot(&[&format!("read:{}", path.display()), &format!("write:{}", path.display())]);
    let listed = user.ssh("ls -a /home").run().text();
    assert!(!listed.contains(&other.name), "{listed}");
    Ok(())
}

/// A link leads where the cell's root says, not the host's.
fn links_out_of_the_home(host: &Scratch) -> Done {
    let user = attacker(host);
    symlink("/etc/shadow", user.home.join("a")).expect("symlink");
    symlink("../../../../../../../../etc/shadow", user.home.join("b")).expect("symlink");
    symlink("/proc/1/root/etc/shadow", user.home.join("c")).expect("symlink");
    let home = user.inner_home.display();
    user.cannot(&[&format!("read:{home}/a"), &format!("read:{home}/b"), &format!("read:{home}/c")]);
    Ok(())
}

/// CVE-2009-2904: a link to a set-uid program keeps an old hole open after its update.
fn hard_links_to_set_uid_programs(host: &Scratch) -> Done {
    let user = attacker(host);
    let home = user.inner_home.display();
    user.cannot(&[
        &format!("link:/usr/bin/su>{home}/su"),
        &format!("link:/usr/bin/passwd>{home}/passwd"),
        &format!("link:/bin/bash>{home}/bash"),
    ]);
    Ok(())
}

/// CVE-2022-0847, CVE-2026-31431: who can write to a page of the jail's libc must not write to the host's.
fn shared_page_cache(host: &Scratch) -> Done {
    let user = attacker(host);
    for file in ["/bin/bash", "/bin/ls", "/lib64/ld-linux-x86-64.so.2"] {
        let Ok(ours) = std::fs::metadata(file) else { continue };
        let answers = user.probe(&[&format!("inode:{file}")]);
        assert_ne!(
            answers[0].1,
            format!("OK {}:{}", ours.dev(), ours.ino()),
            "{file} is the host's own file"
        );
    }
    Ok(())
}

/// core_pattern, sysrq, binfmt_misc: each runs code as root.
fn kernel_settings(host: &Scratch) -> Done {
    let user = attacker(host);
    user.cannot(&[
        "write:/proc/sys/kernel/core_pattern",
        "write:/proc/sysrq-trigger",
        "write:/proc/sys/fs/binfmt_misc/register",
        "write:/proc/sys/kernel/modprobe",
        "write:/proc/self/attr/current",
        "write:/proc/1/oom_score_adj",
    ]);
    // Not by permissions alone: a root-owned helper must not be able to, either.
    let mounts = user.ssh("cat /proc/self/mountinfo").run().text();
    let read_only = |place: &str| mounts.lines().any(|line| line.contains(&format!(" {place} ro,")));
    assert!(read_only("/proc") || read_only("/proc/sys"), "/proc/sys is not read-only:\n{mounts}");
    for line in mounts.lines().filter(|line| line.contains(" rw,") && !line.contains(" /dev")) {
        // The mask over a file that tells too much is /dev/null itself.
        if line.contains(" /null /proc/") {
            continue;
        }
        assert!(line.contains("nosuid") && (line.contains("nodev") || line.contains(" /proc/")), "{line}");
    }
    Ok(())
}

/// Addresses, keys, timings: GHSA-6fw5-f8r9-fgfm, GHSA-jq35-85cj-fj4p.
fn kernel_leaks(host: &Scratch) -> Done {
    let user = attacker(host);
    for file in [
        "kallsyms",
        "kcore",
        "keys",
        "timer_list",
        "interrupts",
        "config.gz",
        "sched_debug",
        "latency_stats",
        "kmsg",
    ] {
        let answers = user.probe(&[&format!("read:/proc/{file}")]);
        assert!(
            !answers[0].1.starts_with("OK") || answers[0].1 == "OK 0 bytes",
            "/proc/{file}: {}",
            answers[0].1
        );
    }
    Ok(())
}

/// CVE-2022-0492, CVE-2023-25809: a writable cgroup tree, a release_agent.
fn sysfs_and_cgroups(host: &Scratch) -> Done {
    let user = attacker(host);
    user.cannot(&["read:/sys/kernel/uevent_seqnum", "write:/sys/fs/cgroup/release_agent"]);
    let found = user.ssh("find / -name release_agent -o -name cgroup.procs 2>/dev/null").run().text();
    assert_eq!(found, "");
    Ok(())
}

/// Disks, memory, consoles.
fn devices_of_the_host(host: &Scratch) -> Done {
    let user = attacker(host);
    let listed = user.ssh("ls /dev").run().text();
    let known = [
        "console", "fd", "full", "log", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
        "stdout", "tty", "urandom", "zero",
    ];
    let odd: Vec<&str> = listed.lines().filter(|n| !known.contains(n) && !n.starts_with("ttyj")).collect();
    assert!(odd.is_empty(), "{odd:?}");
    user.cannot(&[
        "read:/dev/vda",
        "read:/dev/mem",
        "read:/dev/kmsg",
        "read:/dev/kvm",
        "read:/dev/fuse",
        "read:/dev/net/tun",
    ]);
    Ok(())
}

/// A full /tmp of one cell is nobody else's trouble.
fn fill_the_scratch_space(host: &Scratch) -> Done {
    let user = attacker(host);
    let out = user.ssh("head -c 2000000000 /dev/zero >/tmp/big; rm -f /tmp/big").run();
    assert!(out.errors().contains("No space left"), "2 GB fit into /tmp: {out:?}");
    Ok(())
}

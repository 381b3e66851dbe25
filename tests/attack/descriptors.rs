//! What a caller leaves open, or sets, before it starts the login shell by hand.

use jailwright_tests::command::have;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, User, skip, test};

use crate::attacker;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch open_directories_of_the_host),
    test!(scratch a_working_directory_of_the_host),
    test!(scratch a_directory_as_standard_input),
    test!(scratch objects_of_the_kernel_as_standard_input),
    test!(scratch limits_of_a_hostile_caller),
    test!(scratch signals_of_a_hostile_caller),
    test!(scratch umask_of_a_hostile_caller),
    test!(scratch an_argument_zero_that_lies),
];

/// A shell line of the account's outside, in which `$jail` stands for the jailer's program.
fn by_hand(user: &User<'_>, line: &str) -> Run {
    let jail = match Under::test() {
        Under::Ours if user.entry().is_some() => user.entry().unwrap_or_default().to_owned(),
        Under::Ours => user.scratch().product().jail_sh().display().to_string(),
        Under::Jailkit => "/usr/sbin/jk_chrootsh".to_owned(),
        _ => "/usr/local/bin/bwrap-shell".to_owned(),
    };
    user.outside("bash")
        .args(["-c", line])
        .env("jail", jail)
        .env("USER", &user.name)
        .env("HOME", &user.home)
        .dir("/")
}

/// CVE-2024-21626, CVE-2016-9962: a directory above the root, held open, is a way out by fchdir(2) or openat(2).
fn open_directories_of_the_host(host: &Scratch) -> Done {
    let user = attacker(host);
    let out = by_hand(&user, "exec \"$jail\" -c 'probe fds' 7</ 77</etc 1000</").run();
    assert_eq!(out.text().trim(), "fds OK", "{}", out.errors());
    Ok(())
}

/// The same with the working directory.
fn a_working_directory_of_the_host(host: &Scratch) -> Done {
    let user = attacker(host);
    std::fs::create_dir_all("/srv/cwd").expect("mkdir");
    let out =
        by_hand(&user, "cd /srv/cwd && exec \"$jail\" -c 'pwd -P; readlink /proc/self/cwd; ls ../..'").run();
    // What the account starts itself begins where it was, by name: an empty directory of the cell's own.
    assert!(user.entry().is_some() || !out.text().contains("/srv"), "{}", out.text());
    assert!(!out.text().contains("unreachable"), "{}", out.text());
    assert!(!out.text().lines().any(|line| line == "boot"), "{}", out.text());
    Ok(())
}

/// CVE-2005-4890's kin: a limit that stops the jailer half way must not leave a shell with less around it.
fn limits_of_a_hostile_caller(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("what comes of it is ours to promise");
    }
    let user = attacker(host);
    for limit in
        ["-f 0", "-n 3", "-n 4", "-n 8", "-t 1", "-v 4096", "-v 20000", "-s 16", "-l 0", "-i 0", "-u 1"]
    {
        let out = by_hand(&user, &format!("ulimit {limit}; exec \"$jail\" -c 'while read a b; do case $a in NoNewPrivs:|Seccomp:) echo $a $b;; esac; done </proc/self/status'")).run();
        let whole = out.text() == "NoNewPrivs: 1\nSeccomp: 2";
        assert!(whole || (out.status != 0 && out.text().is_empty()), "ulimit {limit}: {out:?}");
    }
    Ok(())
}

/// The three that have to stay open may be directories, too: `openat(0, "..")`.
fn a_directory_as_standard_input(host: &Scratch) -> Done {
    let user = attacker(host);
    std::fs::create_dir_all("/srv/stdin").expect("mkdir");
    std::fs::write("/srv/stdin/letter", "the host's").expect("write");
    for (redirect, fd) in [("0</srv/stdin", 0), ("2</srv/stdin", 2)] {
        let line = format!(
            "exec \"$jail\" -c 'cat /proc/self/fd/{fd}/letter; cd /proc/self/fd/{fd} && ls; [ ! -d /proc/self/fd/{fd} ] || echo a directory; echo entered' {redirect}"
        );
        let out = by_hand(&user, &line).run();
        // Without a session there is nothing that could have leaked.
        let entered = out.text().contains("entered") || Under::test() != Under::Ours;
        assert!(entered, "{redirect}: {} {}", out.status, out.errors());
        assert!(
            !out.text().contains("letter") && !out.text().contains("the host's"),
            "{redirect}: {}",
            out.text()
        );
        // Nothing that could be read is there; nor, under a laxer policy, would be what that keeps from reading.
        let there = out.text().contains("a directory") && Under::test() == Under::Ours;
        assert!(!there, "{redirect}: it is still open inside: {}", out.text());
    }
    Ok(())
}

/// Nor may they be what is no file at all: an io_uring works past every filter, and through a pidfd the descriptors of a
/// process outside can be fetched. One without harm stands for them.
fn objects_of_the_kernel_as_standard_input(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("what comes of it is ours to promise");
    }
    if !have("python3") {
        return skip("no python3 on this machine");
    }
    let user = attacker(host);
    for fd in [0, 2] {
        let line = format!(
            "exec python3 -c 'import os, sys; os.dup2(os.eventfd(0), {fd}); os.execv(sys.argv[1], sys.argv[1:])' \"$jail\" -c \
             'echo entered; readlink /proc/self/fd/{fd}'"
        );
        let out = by_hand(&user, &line).run();
        assert!(out.text().contains("entered"), "{} {}", out.status, out.errors());
        assert!(!out.text().contains("anon_inode"), "it is still open inside: {}", out.text());
    }
    Ok(())
}

/// Ignored and blocked signals are inherited (bubblewrap 0.11.1 waited for ever without SIGCHLD).
fn signals_of_a_hostile_caller(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("what comes of it is ours to promise");
    }
    let user = attacker(host);
    let line = "trap '' HUP INT QUIT PIPE ALRM TERM CHLD USR1 USR2 TSTP; \
                exec \"$jail\" -c 'cat /proc/self/status | grep -E \"SigIgn|SigBlk\"; (exit 4); echo $?'";
    let out = by_hand(&user, line).run();
    assert_eq!(out.text(), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n4", "{}", out.errors());
    Ok(())
}

/// Directories that the jailer makes must not be the world's.
fn umask_of_a_hostile_caller(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("what comes of it is ours to promise");
    }
    let user = attacker(host);
    let out =
        by_hand(&user, "umask 0; exec \"$jail\" -c 'umask; ls -ld / /dev /dev/shm /tmp /proc | cut -c1-10'")
            .run();
    assert_eq!(out.text().lines().next(), Some("0022"), "{}", out.errors());
    let text = out.text();
    let modes: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(modes, ["drwxr-xr-x", "drwxr-xr-x", "drwxrwxrwt", "dr-xr-xr-x", "drwxrwxrwt"]);
    Ok(())
}

/// The name it was called by decides nothing but "is this a login".
fn an_argument_zero_that_lies(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("what comes of it is ours to promise");
    }
    let user = attacker(host);
    for name in ["su", "-su", "bash", "/bin/sh", "sshd: root", "", "-", "--", "$(id)"] {
        let line = format!("exec -a '{name}' \"$jail\" -c 'cat /proc/self/status'");
        let out = by_hand(&user, &line).run();
        assert!(out.text().contains("NoNewPrivs:\t1") || out.status == 125, "{name:?}: {out:?}");
    }
    Ok(())
}

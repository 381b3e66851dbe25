//! Other processes: those of the same account outside, the jailer's own, the host's.

use std::time::Duration;

use jailwright_tests::command::wait_until;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, skip, test};

use rustix::fs::{FlockOperation, flock};

use crate::{attacker, of_a_login};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch touch_a_process_outside),
    test!(scratch list_the_hosts_processes),
    test!(scratch overwrite_the_jailer),
    test!(scratch kill_process_1),
    test!(scratch look_into_the_jailer_from_outside),
    test!(scratch trace_an_entry_from_outside),
    test!(scratch signal_an_entry_from_outside),
    test!(scratch stop_the_waiter_from_outside),
    test!(scratch kill_the_waiter_from_outside),
    test!(scratch special_words_run_unconfined),
];

/// Same uid, so only the pid namespace stands between (jailkit: the host's process was killed).
fn touch_a_process_outside(host: &Scratch) -> Done {
    let user = attacker(host);
    let outside = user.outside("sleep").arg("300").background();
    let pid = outside.pid();
    let attempts: Vec<String> =
        ["kill", "ptrace", "ptrace_seize", "process_vm_readv", "pidfd_open", "setpriority", "prlimit"]
            .iter()
            .map(|name| format!("{name}:{pid}"))
            .collect();
    user.cannot(&attempts.iter().map(String::as_str).collect::<Vec<_>>());
    Ok(())
}

/// Command lines hold passwords.
fn list_the_hosts_processes(host: &Scratch) -> Done {
    let user = attacker(host);
    let _outside = Run::new("sleep").arg("31415").background();
    let seen =
        user.ssh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; ls /proc | grep -c '^[0-9]'").run().text();
    assert!(!seen.contains("31415") && !seen.contains("sshd"), "{seen}");
    let count: usize = seen.lines().last().and_then(|n| n.parse().ok()).unwrap_or(0);
    assert!((1..=8).contains(&count), "{count} processes:\n{seen}");
    Ok(())
}

/// CVE-2019-5736, CVE-2019-12499: /proc/1/exe is the jailer's own program file.
fn overwrite_the_jailer(host: &Scratch) -> Done {
    let user = attacker(host);
    let before = std::fs::read(host.product().jail_sh()).expect("read");
    user.cannot(&[
        "write:/proc/1/exe",
        "read:/proc/1/exe",
        "read:/proc/1/mem",
        "read:/proc/1/environ",
        "read:/proc/1/maps",
    ]);
    let out = user.ssh("ls -l /proc/1/fd /proc/1/root /proc/1/cwd").run();
    assert!(!out.text().contains("->"), "{}", out.text());
    assert!(std::fs::read(host.product().jail_sh()).expect("read") == before);
    Ok(())
}

/// The cell's first process is not the user's to end.
fn kill_process_1(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the first process is the jailer's only with us");
    }
    let user = attacker(host);
    let out = user.ssh("kill -9 1; kill -STOP 1; sleep 0.2; echo alive").run();
    assert!(out.text().ends_with("alive"), "{out:?}");
    Ok(())
}

/// CVE-2016-8659, CVE-2026-41163: the set-uid program's helpers run as the user; he may not look into them.
fn look_into_the_jailer_from_outside(host: &Scratch) -> Done {
    of_a_login()?;
    if Under::test() != Under::Ours {
        return skip("jail-sh's helpers are meant");
    }
    let user = attacker(host);
    let mut terminal = user.terminal();
    terminal.expect("$ ");
    let ours: Vec<u32> = user
        .processes()
        .into_iter()
        .filter(|(_, command)| !command.contains("bash") && !command.contains("sshd"))
        .map(|(pid, _)| pid)
        .collect();
    assert!(!ours.is_empty(), "no helper found: {:?}", user.processes());
    for pid in ours {
        for file in ["mem", "maps", "environ", "fd/0", "root/etc/passwd"] {
            let out =
                user.outside("dd").args([&format!("if=/proc/{pid}/{file}"), "of=/dev/null", "count=1"]).run();
            assert_ne!(out.status, 0, "/proc/{pid}/{file} could be read: {:?}", user.processes());
        }
        let out = user.outside("/usr/bin/probe").arg(format!("ptrace:{pid}")).run();
        assert!(out.status != 0 || !out.text().contains("OK"), "{}", out.text());
    }
    Ok(())
}

/// The same during the entry, when there is more to win.
fn trace_an_entry_from_outside(host: &Scratch) -> Done {
    of_a_login()?;
    if Under::test() != Under::Ours {
        return skip("jail-sh's own processes are meant");
    }
    let user = attacker(host);
    let id = user.uid.to_string();
    // Attaches to every process of the uid that is jail-sh, as fast as a shell can; says so when one lets it.
    let hunt = "while :; do for p in /proc/[0-9]*; do read -r name <$p/comm || continue; case $name in jail*) \
                head -c 1 $p/environ >/dev/null 2>&1 && [ \"$(cat $p/comm)\" = \"$name\" ] && echo \"read $p $name\"; esac; done; done 2>/dev/null";
    let hunter = user.outside("bash").args(["-c", hunt]).background();
    for _ in 0..30 {
        Run::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .arg(host.product().jail_sh())
            .args(["-c", "true"])
            .run()
            .ok();
    }
    let found = hunter.stop_and_read();
    assert!(found.is_empty(), "{}", String::from_utf8_lossy(&found));
    Ok(())
}

/// A set-uid program keeps its caller's real uid, and whoever has that may stop or end it half-way: it must be root's whole.
fn signal_an_entry_from_outside(host: &Scratch) -> Done {
    of_a_login()?;
    if Under::test() != Under::Ours || std::env::var("JAIL_VARIANT").is_ok_and(|variant| variant == "private")
    {
        return skip("a login that waits for its cell's lock is meant");
    }
    let user = attacker(host);
    let mut first = user.jail_sh("echo up; exec sleep 4322").background();
    assert_eq!(first.first_line(), "up");
    // Held here, the next login stops where it has every right and has not begun to give one up.
    let lock =
        std::fs::File::options().write(true).open(user.place_of_the_cell().join("lock")).expect("the lock");
    flock(&lock, FlockOperation::LockExclusive).expect("lock");
    let id = user.uid.to_string();
    let mut second = Run::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--groups", &id])
        .arg(host.product().jail_sh())
        .args(["-c", "echo in"])
        .env("LOGNAME", &user.name)
        .dir("/")
        .background();
    let status = format!("/proc/{}/status", second.pid());
    let fds = format!("/proc/{}/fd", second.pid());
    let waits = || {
        let open = std::fs::read_dir(&fds).into_iter().flatten().flatten();
        open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|file| file.ends_with("lock"))
    };
    wait_until("it waits", Duration::from_secs(20), waits);
    let text = std::fs::read_to_string(&status).expect("its status");
    for line in ["Uid:\t0\t0\t0\t0", "Gid:\t0\t0\t0\t0", "Groups:\t"] {
        assert!(text.lines().any(|own| own.trim_end() == line.trim_end()), "no '{line}':\n{text}");
    }
    for signal in ["-STOP", "-KILL", "-HUP", "-0"] {
        let out = user.outside("kill").args([signal, &second.pid().to_string()]).run();
        assert_ne!(out.status, 0, "kill {signal} reaches an entry");
    }
    for file in ["environ", "fd", "cwd/passwd", "mem"] {
        let out = user.outside("ls").arg(format!("/proc/{}/{file}/", second.pid())).run();
        assert_ne!(out.status, 0, "/proc/PID/{file} can be looked at");
    }
    flock(&lock, FlockOperation::Unlock).expect("unlock");
    assert_eq!(second.first_line(), "in");
    first.kill();
    user.outside("kill").args(["-KILL", "-1"]).run();
    Ok(())
}

/// A stopped waiter leaves nobody who watches; nothing may come of it.
fn stop_the_waiter_from_outside(host: &Scratch) -> Done {
    signal_the_helpers(host, "STOP")
}

/// A killed one ends the session, not the confinement.
fn kill_the_waiter_from_outside(host: &Scratch) -> Done {
    signal_the_helpers(host, "KILL")
}

fn signal_the_helpers(host: &Scratch, signal: &str) -> Done {
    of_a_login()?;
    if Under::test() != Under::Ours {
        return skip("jail-sh's helpers are meant");
    }
    let user = attacker(host);
    let mut terminal = user.terminal();
    terminal.expect("$ ");
    terminal.line("trap '' HUP; while :; do cat /proc/self/status >~/status; sleep 0.1; done");
    let status = user.home.join("status");
    wait_until("the loop runs", Duration::from_secs(20), || status.exists());
    for (pid, command) in user.processes() {
        if !command.contains("bash")
            && !command.contains("sleep")
            && !command.contains("sshd")
            && !command.contains("cat")
        {
            user.outside("kill").args([format!("-{signal}"), pid.to_string()]).run();
        }
    }
    std::thread::sleep(Duration::from_millis(400));
    if let Ok(text) = std::fs::read_to_string(&status) {
        assert!(text.is_empty() || text.contains("NoNewPrivs:\t1"), "{text}");
    }
    if signal == "STOP" {
        user.outside("kill").args(["-CONT", "-1"]).run();
    }
    terminal.kill();
    if signal == "KILL" {
        wait_until("all is gone", Duration::from_secs(20), || {
            user.processes().iter().all(|(_, command)| command.contains("sshd"))
        });
    }
    user.outside("kill").args(["-KILL", "-1"]).run();
    Ok(())
}

/// firejail ran `scp …; anything` with no sandbox at all, since the command began with scp.
fn special_words_run_unconfined(host: &Scratch) -> Done {
    let user = attacker(host);
    for command in [
        "scp; cat /proc/self/status",
        "/usr/lib/openssh/sftp-server -h; cat /proc/self/status",
        "rsync --server; cat /proc/self/status",
        "git-upload-pack; cat /proc/self/status",
    ] {
        let text = user.ssh(command).run().text();
        assert!(text.contains("NoNewPrivs:\t1") && text.contains("Seccomp:\t2"), "{command}: {text}");
    }
    Ok(())
}

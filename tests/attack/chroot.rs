//! `isolation = "chroot"`: the ways out of a plain chroot, each by itself.

use std::os::linux::net::SocketAddrExt;
use std::path::Path;

use jailwright_tests::user::{Under, bring_probe};
use jailwright_tests::{Done, Run, Scratch, Skip, Test, User, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch a_second_root_from_a_chroot),
    test!(scratch descriptors_left_open_to_a_chroot),
    test!(scratch processes_outside_a_chroot),
    test!(scratch the_hosts_proc_in_a_chroot),
    test!(scratch files_beside_a_chroots_own),
    test!(scratch the_network_from_a_chroot),
    test!(scratch a_directory_moved_out_of_a_chroot),
];

/// A jail of this file's own, so that others keep their cells.
fn chrooted(host: &Scratch) -> Result<User<'_>, Skip> {
    if Under::test() != Under::Ours {
        return Err(Skip("a plain chroot is what jailkit is tried under, by the other attempts".to_owned()));
    }
    let jail = host.shared_jail_at("/srv/attacked-chroot", &["basicshell", "extendedshell"]);
    let user = host.plain_user().moved_into(&jail);
    bring_probe(&jail);
    host.add_policy(&format!("[user.{}]\nisolation = \"chroot\"\n", user.name));
    Ok(user)
}

/// The classic: chroot(2) into a directory below, with the working directory above it; and all that would give the right.
fn a_second_root_from_a_chroot(host: &Scratch) -> Done {
    let user = chrooted(host)?;
    user.cannot(&[
        "chroot",
        "chroot_escape",
        "pivot_root",
        "mount_tmpfs",
        "mount_proc",
        "mount_bind_root",
        "open_tree",
        "open_by_handle_at",
        "mknod_disk",
        "mknod_null",
        "unshare_user",
        "unshare_mount",
        "clone_newuser",
        "clone3_newuser",
        "setuid_0",
        "capset_all",
        "ambient_raise",
    ]);
    let out = user.ssh("cd /; cd ../../../..; ls; cat ../../../../etc/hostname 2>/dev/null").run();
    assert!(!out.text().lines().any(|line| line == "boot"), "{}", out.text());
    Ok(())
}

/// Nothing but descriptors leads out of a chroot by itself.
fn descriptors_left_open_to_a_chroot(host: &Scratch) -> Done {
    let user = chrooted(host)?;
    let jail_sh = host.product().jail_sh().display().to_string();
    let by_hand = |line: &str| {
        user.outside("bash").args(["-c", line]).env("USER", &user.name).env("jail", &jail_sh).dir("/")
    };
    let out = by_hand("exec \"$jail\" -c 'probe fds' 7</ 77</etc 1000</").run();
    assert_eq!(out.text().trim(), "fds OK", "{}", out.errors());
    std::fs::create_dir_all("/srv/stdin").expect("mkdir");
    std::fs::write("/srv/stdin/letter", "the host's").expect("write");
    for redirect in ["0</srv/stdin", "2</srv/stdin"] {
        let out = by_hand(&format!(
            "exec \"$jail\" -c 'probe read:letter; cd /dev/fd/0 2>/dev/null && ls' {redirect}"
        ))
        .run();
        assert!(!out.text().contains("OK") && !out.text().contains("letter\n"), "{redirect}: {}", out.text());
    }
    let out = by_hand("cd /srv/stdin && exec \"$jail\" -c 'pwd -P; probe read:letter'").run();
    assert!(out.text().starts_with(user.inner_home.to_str().expect("UTF-8")), "{}", out.text());
    assert!(!out.text().contains("OK"), "{}", out.text());
    Ok(())
}

/// Same uid, and no pid namespace between: Landlock's domain is what stands there.
fn processes_outside_a_chroot(host: &Scratch) -> Done {
    let user = chrooted(host)?;
    let outside = user.outside("sleep").arg("300").background();
    let pid = outside.pid();
    let mut attempts = vec!["ptrace", "ptrace_seize", "process_vm_readv"];
    if signals_are_scoped(&user) {
        attempts.push("kill");
    }
    let attempts: Vec<String> = attempts.iter().map(|name| format!("{name}:{pid}")).collect();
    user.cannot(&attempts.iter().map(String::as_str).collect::<Vec<_>>());
    // Neither another login's, nor the waiter's.
    let _login = user.sshd().client("ssh").arg(user.at_host()).arg("sleep 301").background();
    // A process on its way in has both words in its line, and is root's a moment later: the program itself must be there.
    let mut all = Vec::new();
    jailwright_tests::command::wait_until("both are there", std::time::Duration::from_secs(10), || {
        let (waiters, programs): (Vec<_>, Vec<_>) = user
            .processes()
            .into_iter()
            .filter(|(_, line)| line.contains("sleep 301") || line.contains("jail-sh"))
            .partition(|(_, line)| line.contains("jail-sh"));
        all = waiters.iter().chain(&programs).map(|(pid, _)| format!("kill:{pid}")).collect();
        !waiters.is_empty() && !programs.is_empty()
    });
    if signals_are_scoped(&user) {
        user.cannot(&all.iter().map(String::as_str).collect::<Vec<_>>());
    }
    Ok(())
}

/// Linux 6.12; `--explain` says so where it is not.
fn signals_are_scoped(user: &User<'_>) -> bool {
    let told = user.scratch().product().command("jail-sh").args(["--explain", &user.name]).run().ok().text();
    !told.contains("can be signalled")
}

/// Administrators of chroots mount /proc in them: its links to roots and descriptors of others lead out.
fn the_hosts_proc_in_a_chroot(host: &Scratch) -> Done {
    let user = chrooted(host)?;
    let jail = user.jail.clone().expect("jailed");
    let proc = jail.join("proc");
    let proc = proc.to_str().expect("UTF-8");
    Run::new("mount").args(["-t", "proc", "proc", proc]).run().ok();
    let outside = user.outside("sleep").arg("300").background();
    let pid = outside.pid();
    let out = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let seen = user.ssh(&format!("probe read:/proc/{pid}/status")).run();
        assert!(seen.text().contains("OK"), "the control: this /proc shows it: {}", seen.text());
        let files = ["root/etc/hostname", "cwd/etc/hostname", "environ", "mem", "maps", "fd/0"];
        let attempts: Vec<String> = files.iter().map(|file| format!("read:/proc/{pid}/{file}")).collect();
        user.cannot(&attempts.iter().map(String::as_str).collect::<Vec<_>>());
        user.cannot(&[
            "read:/proc/1/root/etc/hostname",
            "write:/proc/sys/kernel/core_pattern",
            "setns_init_mount",
        ]);
    }));
    Run::new("umount").args(["-l", proc]).run().ok();
    if let Err(failed) = out {
        std::panic::resume_unwind(failed);
    }
    Ok(())
}

/// A root that is written read-only stays so without a mount, and other homes give no file.
fn files_beside_a_chroots_own(host: &Scratch) -> Done {
    let user = chrooted(host)?;
    let other = host.plain_user().moved_into(user.jail.as_deref().expect("jailed"));
    other.writes("letter", "the other's");
    Run::new("chmod").args(["-R", "a+rwX"]).arg(&other.home).run().ok();
    // Writable by its mode, so Landlock alone keeps it.
    let open = user.jail.clone().expect("jailed").join("opt/open");
    std::fs::create_dir_all(open.parent().expect("a directory")).expect("mkdir");
    std::fs::write(&open, "x").expect("write");
    Run::new("chmod").arg("666").arg(&open).run().ok();
    let letter = other.inner_home.join("letter");
    let letter = letter.to_str().expect("UTF-8");
    user.cannot(&[
        &format!("read:{letter}"),
        &format!("write:{letter}"),
        &format!("exec:{letter}"),
        "write:/opt/open",
    ]);
    let control = user.probe(&["read:/opt/open", "write:mine"]);
    assert!(control.iter().all(|(_, answer)| answer.starts_with("OK")), "{control:?}");
    assert_eq!(std::fs::read_to_string(&open).expect("read"), "x");
    Ok(())
}

/// Nobody asked for a network, so there is none to speak of; and abstract sockets have no files that a root could hide.
fn the_network_from_a_chroot(host: &Scratch) -> Done {
    let user = chrooted(host)?;
    let service = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = service.local_addr().expect("address").port();
    let name = host.unique("abstract-chroot");
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).expect("bind");
    user.cannot(&[
        &format!("connect_tcp:127.0.0.1:{port}"),
        &format!("connect_tcp_fastopen:{port}"),
        "bind_tcp:127.0.0.1:0",
        &format!("send_udp:127.0.0.1:{port}"),
        "socket_udp",
        "socket_mptcp",
        "socket_packet",
        &format!("connect_abstract:{name}"),
    ]);
    Ok(())
}

/// CVE-2021-30465's kin, and every chroot's: with help from outside a working directory leaves its root, and `..` goes up
/// from there to the host's. Landlock's rules do not follow it.
fn a_directory_moved_out_of_a_chroot(host: &Scratch) -> Done {
    let user = chrooted(host)?;
    let deep = user.home.join("deep");
    std::fs::create_dir(&deep).expect("mkdir");
    user.owns(&deep);
    let mut session = user
        .sshd()
        .client("ssh")
        .arg(user.at_host())
        .arg(
            "cd deep && echo in && while [ -e ../deep ]; do sleep 0.1; done; \
              probe read:../etc/hostname read:../etc/passwd; cd ..; ls etc",
        )
        .background();
    assert_eq!(session.first_line(), "in");
    let out_there = Path::new("/srv/out-there");
    std::fs::create_dir_all(out_there).expect("mkdir");
    let moved = out_there.join(host.unique("deep"));
    std::fs::rename(&deep, &moved).expect("rename");
    let words = [session.first_line(), session.first_line(), session.first_line()].join("\n");
    assert!(!words.contains("OK") && !words.contains("passwd\n"), "{words}");
    drop(session);
    std::fs::rename(&moved, &deep).expect("rename");
    Ok(())
}

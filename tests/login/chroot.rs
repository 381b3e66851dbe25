//! `isolation = "chroot"`: what works without namespaces and mounts, and that the rest of the confinement is there.

use std::time::Duration;

use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Skip, Test, User, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch shell_terminal_and_transfer_in_a_chroot),
    test!(scratch nothing_else_is_lost_in_a_chroot),
    test!(scratch what_a_login_leaves_in_a_chroot_ends_with_it),
    test!(scratch a_cut_line_ends_a_login_in_a_chroot),
    test!(scratch explained_and_logged),
    test!(scratch a_daemon_in_a_chroot),
];

/// A jail of this file's own, with device nodes, which nothing brings along here.
fn chrooted(host: &Scratch) -> Result<User<'_>, Skip> {
    if Under::test() != Under::Ours {
        return Err(Skip("the policy is ours".to_owned()));
    }
    let jail = format!("/srv/{}", host.unique("chroot"));
    let sections = ["basicshell", "extendedshell", "scp", "sftp"];
    host.product().command("jail-init").args(["--devices", "-j", &jail]).args(sections).run().ok();
    let user = host.plain_user().moved_into(std::path::Path::new(&jail));
    host.add_policy(&format!("[user.{}]\nisolation = \"chroot\"\n", user.name));
    Ok(user)
}

fn shell_terminal_and_transfer_in_a_chroot(host: &Scratch) -> Done {
    let user = chrooted(host)?;
    let out = user.ssh("pwd; id -un; echo x >/dev/null && echo devices; ls /; exit 7").run();
    assert_eq!(out.status, 7, "{}", out.errors());
    let text = out.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.get(..3), Some(&[user.inner_home.to_str().expect("UTF-8"), &user.name, "devices"][..]));
    assert!(!lines.contains(&"boot"), "the host's root: {lines:?}");
    let mut terminal = user.terminal();
    // Job control is the sign that the shell leads the terminal's session.
    terminal.line("sleep 300 & jobs; echo $((6 * 7))");
    terminal.expect("Running");
    terminal.expect("42");
    terminal.line("exit");
    let sent = format!("/tmp/{}", host.unique("sent"));
    std::fs::write(&sent, "content\n").expect("write");
    let to = format!("{}:got", user.at_host());
    user.sshd().client("scp").args([&sent, &to]).run().ok();
    assert_eq!(std::fs::read_to_string(user.home.join("got")).expect("sent"), "content\n");
    user.wait_for_the_end();
    Ok(())
}

/// Read from outside, so that no word of the jail's is needed.
fn nothing_else_is_lost_in_a_chroot(host: &Scratch) -> Done {
    let user = chrooted(host)?;
    host.add_policy(&format!("[user.{}]\nprocesses = 20\n", user.name));
    let _session = user.sshd().client("ssh").arg(user.at_host()).arg("exec sleep 61").background();
    let find = || user.processes().into_iter().find(|(_, command)| command == "sleep 61");
    jailwright_tests::command::wait_until("it runs", Duration::from_secs(10), || find().is_some());
    let (pid, _) = find().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("read");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
    };
    let zero = "0000000000000000";
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), zero, "{set}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".to_owned(), "2".to_owned()));
    let root = std::fs::read_link(format!("/proc/{pid}/root")).expect("read");
    assert_eq!(Some(root), user.jail);
    // The limit holds, by whatever means this host has.
    let out = user.ssh("for i in $(seq 40); do sleep 3 & done 2>&1; wait").run();
    assert!(format!("{}{}", out.text(), out.errors()).contains("fork"), "{out:?}");
    Ok(())
}

fn what_a_login_leaves_in_a_chroot_ends_with_it(host: &Scratch) -> Done {
    let user = chrooted(host)?;
    let one = "(sleep 300 </dev/null >/dev/null 2>&1 & sleep 0.3; kill -0 $! && echo left)";
    let out = user.ssh(&[one; 3].join("; ")).run().ok();
    assert_eq!(out.text(), "left\nleft\nleft");
    user.wait_for_the_end();
    Ok(())
}

fn a_cut_line_ends_a_login_in_a_chroot(host: &Scratch) -> Done {
    let user = chrooted(host)?;
    let mut client = user
        .sshd()
        .client("ssh")
        .arg("-tt")
        .arg(user.at_host())
        .arg("trap '' HUP; echo on; sleep 300; sleep 300")
        .background();
    assert!(client.first_line().contains("on"));
    client.kill();
    user.wait_for_the_end();
    Ok(())
}

fn explained_and_logged(host: &Scratch) -> Done {
    let user = chrooted(host)?;
    user.ssh("true").run().ok();
    host.syslog().expect(&["isolation = \"chroot\"", &format!("[user.{}]", user.name)]);
    let told = host.product().command("jail-sh").args(["--explain", &user.name]).run().ok().text();
    for words in ["isolation    = chroot", "chroot: the host's process ids", "jail-init --devices"] {
        assert!(told.contains(words), "no '{words}' in:\n{told}");
    }
    assert!(!told.contains("every login is refused"), "{told}");
    Ok(())
}

fn a_daemon_in_a_chroot(host: &Scratch) -> Done {
    let user = chrooted(host)?;
    let jail = user.jail.clone().expect("jailed");
    let run = |flags: &[&str], program: &str| {
        let command = host.product().command("jail-run").arg("-j").arg(&jail).args(flags);
        command.args(["--", "/bin/sh", "-c", program]).run()
    };
    let as_user = ["--user", user.name.as_str(), "--isolation", "chroot"];
    let out = run(&as_user, "echo $HOME; pwd; (echo >/x) 2>/dev/null || echo read-only; exit 5");
    assert_eq!((out.status, out.text().as_str()), (5, "/\n/\nread-only"), "{}", out.errors());
    for (flags, word) in [(&["--network", "none"][..], "network"), (&["--root", "discard"], "root")] {
        let out = run(&[&as_user[..], flags].concat(), "echo ran");
        assert_eq!((out.status, out.text().as_str()), (125, ""));
        assert!(out.errors().contains(word) && out.errors().contains("chroot"), "{}", out.errors());
    }
    // Without root a user namespace is needed anyway.
    let by_user =
        user.outside("/usr/local/bin/jail-run").args(["--isolation", "chroot", "basicshell", "--", "true"]);
    let out = by_user
        .env("HOME", "/nonexistent")
        .env("XDG_CACHE_HOME", format!("/tmp/cache-{}", user.name))
        .dir("/")
        .run();
    assert!(out.status == 125 && out.errors().contains("is for root"), "{out:?}");
    Run::new("rm").args(["-rf", &format!("/tmp/cache-{}", user.name)]).run().ok();
    Ok(())
}

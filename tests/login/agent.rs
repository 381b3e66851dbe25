//! A forwarded ssh agent, with `agent = true` and without; X11 by the same road.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jailwright_tests::command::{Background, have, wait_until};
use jailwright_tests::sshd::ssh_agent;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, User, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch an_agent_comes_in_where_the_policy_says_so),
    test!(scratch each_login_has_its_own_agent),
    test!(scratch no_agent_otherwise),
    test!(scratch an_agent_in_the_home),
    test!(scratch a_word_for_an_agent_is_not_believed),
    test!(scratch x11_where_the_network_is_the_hosts),
];

/// An ssh-agent of the client's, with the client's key.
struct ClientAgent {
    socket: PathBuf,
    _agent: Background,
}

impl ClientAgent {
    fn start(user: &User<'_>, name: &str) -> Self {
        let socket = user.sshd().dir().join(format!("{name}-{}", user.name));
        let agent = ssh_agent(&socket);
        Run::new("ssh-add")
            .arg("-q")
            .arg(user.sshd().dir().join("client_key"))
            .env("SSH_AUTH_SOCK", &socket)
            .run()
            .ok();
        Self { socket, _agent: agent }
    }

    /// `ssh` with this agent forwarded.
    fn ssh(&self, user: &User<'_>, command: &str) -> Run {
        user.sshd().client("ssh").args([
            "-A",
            "-o",
            &format!("IdentityAgent={}", self.socket.display()),
            &user.at_host(),
            command,
        ])
    }
}

fn with_agent(host: &Scratch) -> User<'_> {
    let user = host.jailed_user(&["basicshell", "ssh"]);
    if Under::test() == Under::Ours {
        host.add_policy(&format!("[user.{}]\nagent = true\n", user.name));
    }
    user
}

fn an_agent_comes_in_where_the_policy_says_so(host: &Scratch) -> Done {
    let user = with_agent(host);
    let agent = ClientAgent::start(&user, "agent");
    let out = agent.ssh(&user, "ssh-add -L").run().ok();
    assert!(
        user.sshd().public_key().contains(out.text().split(' ').nth(1).expect("a key")),
        "{}",
        out.text()
    );
    if Under::test() == Under::Ours {
        let name = agent.ssh(&user, "echo $SSH_AUTH_SOCK").run().ok().text();
        assert!(name.starts_with("/dev/agentj"), "{name}");
        assert_eq!(user.ssh("echo x$SSH_AUTH_SOCK").run().ok().text(), "x", "a login without an agent");
    }
    Ok(())
}

/// The names of those that are gone are used again.
fn each_login_has_its_own_agent(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("shared cells are ours");
    }
    let user = with_agent(host);
    let agent = ClientAgent::start(&user, "agent");
    let mut first = agent.ssh(&user, "echo $SSH_AUTH_SOCK; exec sleep 60").background();
    assert_eq!(first.first_line().trim(), "/dev/agentj0");
    let second = agent.ssh(&user, "echo $SSH_AUTH_SOCK; ssh-add -l >/dev/null && echo works").run().ok();
    assert_eq!(second.text(), "/dev/agentj1\nworks");
    let mut third = agent.ssh(&user, "echo $SSH_AUTH_SOCK; exec sleep 60").background();
    assert_eq!(third.first_line().trim(), "/dev/agentj1", "the second is gone");
    drop((first, third));
    Ok(())
}

fn no_agent_otherwise(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the policy is ours");
    }
    let user = host.jailed_user(&["basicshell", "ssh"]);
    let agent = ClientAgent::start(&user, "agent");
    let out = agent.ssh(&user, "echo x$SSH_AUTH_SOCK; ls /dev; ssh-add -l").run();
    assert_eq!(out.text().lines().next(), Some("x"), "{}", out.errors());
    assert!(out.status != 0 && !out.text().contains("agent"), "{}", out.text());
    Ok(())
}

/// jail-sh as sshd would start it for this account, with a word for an agent.
fn jail_sh(user: &User<'_>, socket: &Path, command: &str) -> Run {
    user.jail_sh(command).env("SSH_AUTH_SOCK", socket)
}

/// OpenSSH 10.1 and later: `~/.ssh/agent/s.NAME`.
fn an_agent_in_the_home(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the policy is ours");
    }
    let user = host.jailed_user(&["basicshell", "ssh"]);
    let dir = user.home.join(".ssh/agent");
    std::fs::create_dir(&dir).expect("mkdir");
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).expect("chmod");
    user.owns(&dir);
    let socket = dir.join("s.test");
    let agent = user.outside("ssh-agent").args(["-D", "-a"]).arg(&socket).background();
    wait_until("the agent listens", Duration::from_secs(10), || socket.exists());
    // Without a key ssh-add ends with 1; without an agent with 2.
    let look = "ls -A ~/.ssh/agent; ssh-add -l >/dev/null 2>&1; echo $?; SSH_AUTH_SOCK=~/.ssh/agent/s.test ssh-add -l >/dev/null 2>&1; \
                echo $?";
    let covered = jail_sh(&user, &socket, look).run().ok();
    assert_eq!(covered.text(), "2\n2", "agent = false: {}", covered.errors());
    // Over a link it could not be hidden.
    let (real, moved) = (user.home.join(".ssh"), user.home.join("elsewhere"));
    std::fs::rename(&real, &moved).expect("rename");
    symlink("elsewhere", &real).expect("symlink");
    let linked = jail_sh(&user, &socket, "ssh-add -l; echo in").run();
    assert_eq!((linked.status, linked.text().as_str()), (125, ""), "{}", linked.errors());
    assert_eq!(user.jail_sh("echo in").run().text(), "in", "without an agent there is nothing to hide");
    std::fs::remove_file(&real).expect("remove");
    std::fs::rename(&moved, &real).expect("rename");
    host.add_policy(&format!("[user.{}]\nagent = true\n", user.name));
    wait_until("the cell ends", Duration::from_secs(10), || {
        user.processes().iter().all(|(_, line)| line.starts_with("ssh-agent"))
    });
    let open = jail_sh(&user, &socket, look).run().ok();
    assert_eq!(open.text(), "s.test\n1\n1", "agent = true: {}", open.errors());
    drop(agent);
    Ok(())
}

fn a_word_for_an_agent_is_not_believed(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the policy is ours");
    }
    let user = with_agent(host);
    let other = host.plain_user();
    let make = |name: &str, owner: &User<'_>, mode: u32| {
        let dir = PathBuf::from(format!("/tmp/{}", host.unique(name)));
        std::fs::create_dir(&dir).expect("mkdir");
        let socket = dir.join("agent");
        drop(UnixListener::bind(&socket).expect("bind"));
        owner.owns(&socket);
        owner.owns(&dir);
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(mode)).expect("chmod");
        socket
    };
    let fine = make("fine", &user, 0o700);
    let linked = PathBuf::from(format!("/tmp/{}", host.unique("linked")));
    symlink(&fine, &linked).expect("symlink");
    let through = PathBuf::from(format!("/tmp/{}", host.unique("through")));
    symlink(fine.parent().expect("dir"), &through).expect("symlink");
    let no_socket = fine.with_file_name("file");
    std::fs::write(&no_socket, "").expect("write");
    user.owns(&no_socket);
    for bad in [
        make("others", &other, 0o700),
        make("open", &user, 0o755),
        linked,
        through.join("agent"),
        no_socket,
        fine.join("../agent"),
        PathBuf::from("agent"),
        PathBuf::from("/dev/log"),
        PathBuf::from(""),
        PathBuf::from("/"),
    ] {
        let out = jail_sh(&user, &bad, "echo x$SSH_AUTH_SOCK").run().ok();
        assert_eq!(out.text(), "x", "{}", bad.display());
    }
    let out = jail_sh(&user, &fine, "echo x$SSH_AUTH_SOCK").run().ok();
    assert_eq!(out.text(), "x/dev/agentj0");
    Ok(())
}

/// sshd runs xauth through the login shell and listens on the host's loopback.
fn x11_where_the_network_is_the_hosts(host: &Scratch) -> Done {
    if !have("xauth") {
        return skip("no xauth on this machine");
    }
    let user = host.jailed_user(&["basicshell", "netbasics"]);
    if let (Under::Ours, Some(jail)) = (Under::test(), &user.jail) {
        host.product().command("jail-cp").arg("-j").arg(jail).arg("/usr/bin/xauth").run().ok();
        let keys = "network = \"host\"\n\"+env\" = [\"DISPLAY\", \"XAUTHORITY\"]";
        host.add_policy(&format!("[user.{}]\n{keys}\n", user.name));
    }
    let out = user
        .sshd()
        .client("ssh")
        .args(["-Y", &user.at_host()])
        .arg("echo $DISPLAY; xauth list | wc -l; port=${DISPLAY#*:}; exec 3<>/dev/tcp/localhost/$((6000 + ${port%.*})) && echo reached")
        .env("DISPLAY", ":99")
        .run();
    let lines: Vec<String> = out.text().lines().map(str::to_owned).collect();
    assert!(lines.first().is_some_and(|line| line.starts_with("localhost:")), "{out:?}");
    assert_eq!(lines.get(1..), Some(&["1".to_owned(), "reached".to_owned()][..]), "{out:?}");
    Ok(())
}

//! `network = "private"`: a network of the cell's own with a way out, and nothing of it left when the cell has ended.

use std::net::TcpListener;
use std::time::Duration;

use jailwright_tests::command::{have, wait_until};
use jailwright_tests::uplink::{self, HOST, PORT, WORLD};
use jailwright_tests::user::{Under, bring_probe};
use jailwright_tests::{Done, Run, Scratch, Skip, Test, User, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch the_world_can_be_reached_and_the_host_cannot),
    test!(scratch logins_share_a_private_network),
    test!(scratch nothing_is_left_of_a_killed_private_network),
    test!(scratch a_private_network_without_root),
    test!(scratch a_hung_pasta_is_not_waited_for_for_ever),
    test!(scratch the_network_is_in_the_cells_control_groups),
];

fn private(host: &Scratch) -> Result<User<'_>, Skip> {
    if Under::test() != Under::Ours {
        return Err(Skip("the policy is ours".to_owned()));
    }
    if !have("pasta") {
        return Err(Skip("pasta is not installed (Debian: passt)".to_owned()));
    }
    uplink::up();
    let user = host.attacker();
    host.add_policy(&format!("[user.{}]\nnetwork = \"private\"\n", user.name));
    Ok(user)
}

fn world() -> String {
    format!("connect_tcp:{WORLD}:{PORT}")
}

/// What listens on the host, on its loopback, on its address and on all, is not the world's either.
fn the_world_can_be_reached_and_the_host_cannot(host: &Scratch) -> Done {
    let user = private(host)?;
    let reached = user.probe(&[&world()]);
    assert!(reached[0].1.starts_with("OK"), "{reached:?}");
    let services =
        ["127.0.0.1:0", "0.0.0.0:0", &format!("{HOST}:0")].map(|at| TcpListener::bind(at).expect("bind"));
    let mut attempts = Vec::new();
    for service in &services {
        let port = service.local_addr().expect("address").port();
        // The control: from the host it is there.
        let own =
            if service.local_addr().expect("address").ip().to_string() == HOST { HOST } else { "127.0.0.1" };
        assert!(std::net::TcpStream::connect((own, port)).is_ok(), "{own}:{port}");
        attempts.extend(["127.0.0.1", HOST].map(|to| format!("connect_tcp:{to}:{port}")));
    }
    user.cannot(&attempts.iter().map(String::as_str).collect::<Vec<_>>());
    // Nothing comes in, and nobody inside has rights in the namespace.
    let mut serving = user
        .sshd()
        .client("ssh")
        .arg(user.at_host())
        .arg("probe bind_tcp:0.0.0.0:7171; sleep 60")
        .background();
    assert!(serving.first_line().contains("OK"));
    for at in ["127.0.0.1", HOST] {
        assert!(std::net::TcpStream::connect((at, 7171)).is_err(), "forwarded inwards at {at}");
    }
    user.cannot(&["socket_packet", "socket_raw", "unshare_net"]);
    drop(serving);
    user.wait_for_the_end();
    Ok(())
}

fn logins_share_a_private_network(host: &Scratch) -> Done {
    let user = private(host)?;
    let mut first = user
        .sshd()
        .client("ssh")
        .arg(user.at_host())
        .arg("readlink /proc/self/ns/net; exec sleep 60")
        .background();
    let its = first.first_line();
    let second = user.ssh(&format!("readlink /proc/self/ns/net; probe {}", world())).run().ok();
    assert_eq!(second.text().trim_end(), format!("{its}\nconnect_tcp OK"));
    drop(first);
    user.wait_for_the_end();
    Ok(())
}

/// Its processes are the user's, so none may be left of them: neither after a kill of the cell nor of its waiter.
fn nothing_is_left_of_a_killed_private_network(host: &Scratch) -> Done {
    let user = private(host)?;
    host.add_policy(&format!("[user.{}]\nsession = \"private\"\n", user.name));
    for victim in ["jail-init", "jail-waiter"] {
        let mut session =
            user.sshd().client("ssh").arg(user.at_host()).arg("echo in; exec sleep 60").background();
        assert_eq!(session.first_line(), "in");
        let named = |name: &str| {
            user.processes().into_iter().map(|(pid, _)| pid).find(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
            })
        };
        assert!(named("jail-network").is_some(), "{:?}", user.processes());
        let victim = named(victim).unwrap_or_else(|| panic!("no {victim}: {:?}", user.processes()));
        Run::new("kill").args(["-KILL", &victim.to_string()]).run().ok();
        drop(session);
        wait_until("all of it is gone", Duration::from_secs(10), || user.processes().is_empty());
    }
    Ok(())
}

fn a_private_network_without_root(host: &Scratch) -> Done {
    private(host)?;
    let user = host.plain_user();
    bring_probe(std::path::Path::new("/"));
    let service = TcpListener::bind("127.0.0.1:0").expect("bind");
    let loopback = format!("connect_tcp:127.0.0.1:{}", service.local_addr().expect("address").port());
    let run = [
        "--network",
        "private",
        "basicshell",
        "--with",
        "/usr/bin/probe",
        "--",
        "/usr/bin/probe",
        &world(),
        &loopback,
    ];
    let out = user
        .outside("/usr/local/bin/jail-run")
        .args(run)
        .env("HOME", &user.home)
        .without_env("XDG_CACHE_HOME")
        .dir("/")
        .run();
    let text = out.text();
    let answers: Vec<&str> = text.lines().collect();
    assert!(
        answers.len() == 2 && answers[0].contains(" OK") && !answers[1].contains(" OK"),
        "{text} {}",
        out.errors()
    );
    user.wait_for_the_end();
    Ok(())
}

/// Under the cell's lock: a login that comes meanwhile must not wait as long again.
fn a_hung_pasta_is_not_waited_for_for_ever(host: &Scratch) -> Done {
    let user = private(host)?;
    let fake = format!("/tmp/{}", host.unique("pasta"));
    std::fs::write(&fake, "#!/bin/sh\ntrap '' TERM HUP\nsleep 600\n").expect("write");
    Run::new("chmod").args(["755", &fake]).run().ok();
    let jail_sh = host.product().jail_sh().display().to_string();
    // In a mount namespace of its own: others need the real one.
    let script = format!(
        "mount --bind {fake} /usr/bin/pasta; \
         login() {{ setpriv --reuid {uid} --regid {uid} --clear-groups {jail_sh} -c 'echo ran'; echo status $?; }}; \
         login & login & login & wait",
        uid = user.uid
    );
    let begun = std::time::Instant::now();
    let out = Run::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .env("USER", &user.name)
        .dir("/")
        .within(Duration::from_secs(60))
        .run();
    let took = begun.elapsed();
    assert_eq!(out.text(), "status 125\nstatus 125\nstatus 125", "{}", out.errors());
    assert!(took < Duration::from_secs(20), "all three together took {took:?}");
    host.syslog().expect(&["jail-sh", &user.uid.to_string(), "10 seconds"]);
    user.wait_for_the_end();
    // With the real one again, all is well.
    assert_eq!(user.ssh("echo in").run().ok().text(), "in");
    user.wait_for_the_end();
    Ok(())
}

/// Else what ends with the first login would end the network of all later ones, and its memory would be nobody's.
fn the_network_is_in_the_cells_control_groups(host: &Scratch) -> Done {
    let user = private(host)?;
    host.add_policy(&format!("[user.{}]\nprocesses = 100\nlimits = \"best-effort\"\n", user.name));
    let mut session =
        user.sshd().client("ssh").arg(user.at_host()).arg("echo in; exec sleep 60").background();
    assert_eq!(session.first_line(), "in");
    let groups_of = |name: &str| {
        let comm = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let pid = user.processes().into_iter().map(|(pid, _)| pid).find(|pid| comm(pid).trim() == name);
        let pid = pid.unwrap_or_else(|| panic!("no {name}: {:?}", user.processes()));
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its groups")
    };
    let cells = groups_of("jail-init");
    if !cells.contains("jailwright") {
        drop(session);
        return skip("no controller for processes on this machine");
    }
    assert_eq!(groups_of("jail-network"), cells);
    // It may be a build for a newer processor (pasta.avx2).
    let pasta = user.processes().into_iter().find(|(_, line)| line.contains("--no-map-gw")).expect("pasta");
    let its = std::fs::read_to_string(format!("/proc/{}/cgroup", pasta.0)).expect("its groups");
    assert_eq!(its, cells);
    drop(session);
    user.wait_for_the_end();
    Ok(())
}

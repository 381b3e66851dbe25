//! What experience decided about the entry, held against an attacker: the floor under laxer policies, ports, agents, logins
//! that share a cell, and the state that says which cell is whose.

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;

use jailwright_tests::sshd::ssh_agent;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Scratch, Skip, Test, User, test};

use crate::attacker;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch the_floor_without_a_profile),
    test!(scratch the_floor_under_a_profile_that_only_logs),
    test!(scratch ports_and_nothing_beside_them),
    test!(scratch an_agent_that_is_not_allowed_in),
    test!(scratch logins_of_one_user_share_and_of_two_do_not),
    test!(scratch the_state_of_a_cell_is_not_the_users),
    test!(scratch a_process_that_is_not_the_cells_first),
    test!(scratch bind_source_that_leads_elsewhere),
];

fn ours(host: &Scratch) -> Result<User<'_>, Skip> {
    if Under::test() != Under::Ours {
        return Err(Skip("our policy is meant".to_owned()));
    }
    Ok(attacker(host))
}

/// What no policy opens, short of `unsafe`.
const FLOOR: [&str; 22] = [
    "tiocsti",
    "tiocsti_high_bits",
    "tioclinux",
    "tiocsetd",
    "unshare_user",
    "unshare_mount",
    "clone_newuser",
    "clone3_newuser",
    "setns_init_mount",
    "mount_tmpfs",
    "fsopen",
    "open_tree",
    "open_by_handle_at",
    "keyctl_join",
    "add_key",
    "io_uring_setup",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "socket_alg",
    "socket_vsock",
    "x32_getpid",
];

/// `seccomp = "off"` takes the profile away, not the floor (as Docker's `seccomp=unconfined` would).
fn the_floor_without_a_profile(host: &Scratch) -> Done {
    let user = ours(host)?;
    host.add_policy(&format!("[user.{}]\nseccomp = \"off\"\n", user.name));
    user.cannot(&FLOOR);
    Ok(())
}

/// `violation = "log"` lets pass what the profile denies (SECCOMP_RET_LOG allows), but not what the floor denies.
fn the_floor_under_a_profile_that_only_logs(host: &Scratch) -> Done {
    let user = ours(host)?;
    host.add_policy(&format!("[user.{}]\nviolation = \"log\"\n", user.name));
    user.cannot(&FLOOR);
    Ok(())
}

/// Landlock's port rules let TCP fast open, MPTCP and datagrams through; the filter does not.
fn ports_and_nothing_beside_them(host: &Scratch) -> Done {
    let user = ours(host)?;
    let (allowed, denied) = (TcpListener::bind("127.0.0.1:0"), TcpListener::bind("127.0.0.1:0"));
    let (allowed, denied) = (allowed.expect("bind"), denied.expect("bind"));
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    host.add_policy(&format!(
        "[user.{}]\nnetwork = {{ connect = [{}], bind = [] }}\n",
        user.name,
        port(&allowed)
    ));
    let out = user.ssh(&format!("probe connect_tcp:127.0.0.1:{}", port(&allowed))).run();
    if out.status == 125 && !user.scratch().syslog().with("Landlock's TCP rules").is_empty() {
        return jailwright_tests::skip("this kernel has no port rules, and the entry is refused");
    }
    assert!(out.text().contains(" OK"), "the listed port: {} {}", out.text(), out.errors());
    let denied = port(&denied);
    user.cannot(&[
        &format!("connect_tcp:127.0.0.1:{denied}"),
        &format!("connect_tcp_fastopen:{denied}"),
        &format!("bind_tcp:127.0.0.1:{}", denied.wrapping_add(1).max(1024)),
        &format!("send_udp:127.0.0.1:{denied}"),
        "socket_mptcp",
        "socket_udp",
    ]);
    // Landlock has no rule for a socket that listens without a port; a profile without the call has. Who asks is told.
    let told =
        jailwright_tests::Run::new(host.product().jail_sh()).args(["--explain", &user.name]).run().ok();
    assert!(told.text().contains("seccomp = \"transfer\" denies it"), "{}", told.text());
    host.add_policy(&format!("[user.{}]\nseccomp = \"transfer\"\nsession = \"private\"\n", user.name));
    user.cannot(&["listen_unbound"]);
    Ok(())
}

/// A forwarded agent is a key ring of somebody's; without `agent = true` neither its name nor its socket comes in.
fn an_agent_that_is_not_allowed_in(host: &Scratch) -> Done {
    let user = ours(host)?;
    let socket = format!("/tmp/{}", host.unique("agent-kept-out"));
    let mut agent = ssh_agent(Path::new(&socket));
    let client =
        user.sshd().client("ssh").args(["-A", "-o", &format!("IdentityAgent={socket}"), &user.at_host()]);
    let out = client
        .arg("echo \"<$SSH_AUTH_SOCK>\"; find / -xdev -type s 2>/dev/null; find /tmp /run ~ -type s")
        .run();
    agent.kill();
    assert_eq!(out.text().trim(), "<>", "{}", out.errors());
    Ok(())
}

/// A second login of the same user sees and signals the first one's processes; another user's sees nothing of them.
fn logins_of_one_user_share_and_of_two_do_not(host: &Scratch) -> Done {
    let user = ours(host)?;
    if std::env::var("JAIL_VARIANT").is_ok_and(|variant| variant == "private") {
        return jailwright_tests::skip("sharing is what this policy takes away");
    }
    let other = attacker(host);
    let mut first = user.ssh("echo up; exec sleep 4321").background();
    assert_eq!(first.first_line(), "up");
    let find = "for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline 2>/dev/null) in 'sleep 4321 ') echo ${p#/proc/};; esac; done";
    let seen = user.ssh(find).run().text();
    assert_eq!(seen.lines().count(), 1, "a second login does not see the first: {seen}");
    assert_eq!(other.ssh(find).run().text(), "", "another user's cell sees it");
    user.ssh(&format!("kill {seen}")).run().ok();
    assert!(
        first.wait(std::time::Duration::from_secs(10)).is_some(),
        "it could not be ended from the second login"
    );
    Ok(())
}

/// CVE-2019-12589: firejail kept what a sandbox is made of where its user could write.
fn the_state_of_a_cell_is_not_the_users(host: &Scratch) -> Done {
    let user = ours(host)?;
    let mut session = user.ssh("echo up; exec sleep 4321").background();
    assert_eq!(session.first_line(), "up");
    let tries = "cd /run/jailwright || exit 0; ls -R . 2>/dev/null | grep -q state && echo listed; \
                 find . -readable -type f 2>/dev/null; find . -writable 2>/dev/null; \
                 touch cells/x 2>/dev/null && echo made; mv cells away 2>/dev/null && echo moved; true";
    // Outside, with the same uid: as a neighbour of the jailed session would be.
    let out = user.outside("sh").args(["-c", tries]).run();
    assert_eq!(out.text(), "", "{}", out.errors());
    assert_eq!(user.ssh("find / -name jailwright -not -path '/proc/*' 2>/dev/null").run().text(), "");
    session.kill();
    Ok(())
}

/// CVE-2022-31214: a join believed a process id. Written down here is a process that has the id of somebody else.
fn a_process_that_is_not_the_cells_first(host: &Scratch) -> Done {
    let user = ours(host)?;
    if std::env::var("JAIL_VARIANT").is_ok_and(|variant| variant == "private") {
        return jailwright_tests::skip("nothing is joined under this policy");
    }
    let mut session = user.ssh("echo up; exec sleep 4321").background();
    assert_eq!(session.first_line(), "up");
    let state = user.place_of_the_cell().join("state");
    let good = std::fs::read_to_string(&state).expect("read");
    let forge = |pid: &str| {
        let lines = good
            .lines()
            .map(|l| if l.starts_with("pid=") { format!("pid={pid}\n") } else { format!("{l}\n") });
        // In place: the first process's lock is on this very file.
        std::fs::write(&state, lines.collect::<String>()).expect("write");
    };
    forge("1");
    let out = user.ssh("echo inside").run();
    assert!(
        out.status != 0 && !out.text().contains("inside"),
        "joined process 1 of the host: {}",
        out.text()
    );
    user.scratch().syslog().expect(&["is not the cell's first process"]);
    std::fs::write(&state, &good).expect("write");
    assert_eq!(user.ssh("echo inside").run().text(), "inside");
    session.kill();
    Ok(())
}

/// CVE-2021-30465 the other way round: what is bound into the cell lies where a user can put a link.
fn bind_source_that_leads_elsewhere(host: &Scratch) -> Done {
    let user = ours(host)?;
    let secret = format!("/srv/{}", host.unique("not-to-be-bound"));
    std::fs::create_dir_all(format!("{secret}/data")).expect("mkdir");
    std::fs::write(format!("{secret}/data/letter"), "the host's").expect("write");
    let given = format!("/srv/{}", host.unique("given"));
    std::fs::create_dir_all(format!("{given}/data")).expect("mkdir");
    user.owns(Path::new(&given));
    host.add_policy(&format!(
        "[user.{}]\nsession = \"private\"\nbind = [{{ from = \"{given}/data\", to = \"/mnt\" }}]\n",
        user.name
    ));
    std::fs::create_dir_all(user.jail.as_deref().expect("jailed").join("mnt")).expect("mkdir");
    let works = user.ssh("ls /mnt && echo bound").run();
    assert!(works.text().contains("bound"), "{}", works.errors());
    std::fs::rename(&given, format!("{given}.old")).expect("rename");
    symlink(&secret, &given).expect("link");
    let out = user.ssh("cat /mnt/letter").run();
    assert!(!out.text().contains("the host's"), "the link was followed: {}", out.text());
    Ok(())
}

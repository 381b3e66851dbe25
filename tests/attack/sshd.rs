//! What sshd does for an account without asking its shell. `share/ssh/` has the lines that close these doors; each
//! test shows the door open without them and closed with them.

use std::collections::BTreeSet;
use std::time::Duration;

use jailwright_tests::command::have;
use jailwright_tests::product::checkout;
use jailwright_tests::sshd::{Sshd, free_port, ssh_agent};
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Skip, Test, User, skip, test};

use crate::attacker;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch forward_a_port),
    test!(scratch forward_standard_input),
    test!(scratch listen_on_the_host),
    test!(scratch make_a_socket_on_the_host),
    test!(scratch forward_an_agent),
    test!(scratch forward_a_display),
    test!(scratch attach_to_a_tunnel),
    test!(scratch variables_of_the_client),
    test!(scratch forward_a_socket_of_the_host),
    test!(scratch run_the_rc_file),
    test!(scratch internal_sftp_sees_the_host),
    test!(scratch keys_that_others_write),
    test!(scratch a_shell_of_another_tree),
];

/// An account in our group, an sshd with these lines, and one with them and our drop-in: `jail-check --host` must find
/// the hole in the one and nothing in the other.
fn open_and_closed<'s>(host: &'s Scratch, lines: &str, id: &str) -> Result<(User<'s>, Sshd, Sshd), Skip> {
    if Under::test() != Under::Ours {
        return Err(Skip("the drop-in is ours".to_owned()));
    }
    let user = attacker(host);
    let open = Sshd::start(lines);
    // Appended, as a Match block has to be; the port and keys come first.
    let closed = Sshd::start_between(lines, &without_subsystem(&drop_in()));
    user.accept_key(&open);
    user.accept_key(&closed);
    assert!(found(host, &open, &user).contains(id), "jail-check --host does not find {id}");
    assert!(
        !found(host, &closed, &user).contains(id),
        "jail-check --host finds {id} in spite of the drop-in"
    );
    Ok((user, open, closed))
}

fn drop_in() -> String {
    std::fs::read_to_string(checkout().join("share/ssh/60-jailwright.conf")).expect("the drop-in")
}

/// What jail-check says of this sshd and account.
fn found(host: &Scratch, sshd: &Sshd, user: &User<'_>) -> BTreeSet<String> {
    let check = host.product().command("jail-check").args(["--host", "--json", "--sshd-config"]);
    let out = check.arg(sshd.server_config()).arg(&user.name).run();
    let report: serde_json::Value = serde_json::from_str(&out.text()).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    findings.iter().filter_map(|finding| finding["id"].as_str()).map(str::to_owned).collect()
}

/// Holds one way against both servers.
#[track_caller]
fn only_without_the_drop_in(open: &Sshd, closed: &Sshd, leads: impl Fn(&Sshd) -> bool) -> Done {
    // On a busy machine once more: a door that is shut stays shut.
    assert!(
        (0..5).any(|_| leads(open)),
        "the door is not even open without the drop-in: the test shows nothing"
    );
    assert!(!leads(closed), "the door is open in spite of the drop-in");
    Ok(())
}

/// The scratch server has its own sftp line; a second one is an error to sshd.
fn without_subsystem(text: &str) -> String {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("Subsystem"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Asks for `-L` and uses it; true if it led anywhere.
fn forwards(sshd: &Sshd, user: &User<'_>, to: &str) -> bool {
    let local = free_port();
    let _tunnel =
        sshd.client("ssh").args(["-N", "-L", &format!("{local}:{to}"), &user.at_host()]).background();
    for _ in 0..50 {
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", local)) {
            use std::io::Read;
            stream.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
            let mut greeting = [0; 4];
            return stream.read_exact(&mut greeting).is_ok();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// CVE-2004-1653: TCP forwarding reaches the host's loopback without any shell.
fn forward_a_port(host: &Scratch) -> Done {
    let (user, open, closed) = open_and_closed(host, "", "ssh-tcp-forwarding")?;
    let to = format!("127.0.0.1:{}", open.port());
    only_without_the_drop_in(&open, &closed, |sshd| forwards(sshd, &user, &to))
}

/// The same by `ssh -W`, which asks for one connection and nothing else.
fn forward_standard_input(host: &Scratch) -> Done {
    let (user, open, closed) = open_and_closed(host, "", "ssh-tcp-forwarding")?;
    let to = format!("127.0.0.1:{}", open.port());
    only_without_the_drop_in(&open, &closed, |sshd| {
        let out = sshd.client("ssh").args(["-W", &to, &user.at_host()]).within(Duration::from_secs(10));
        out.input("x\n").run().text().starts_with("SSH-")
    })
}

/// `ssh -R`: a port of the host's that listens for the jailed user.
fn listen_on_the_host(host: &Scratch) -> Done {
    let (user, open, closed) = open_and_closed(host, "", "ssh-tcp-forwarding")?;
    let to = format!("127.0.0.1:{}", open.port());
    only_without_the_drop_in(&open, &closed, |sshd| {
        let port = free_port();
        let mut tunnel =
            sshd.client("ssh").args(["-N", "-R", &format!("{port}:{to}"), &user.at_host()]).background();
        let leads = soon(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        tunnel.kill();
        leads
    })
}

/// `ssh -R` with a path: a socket on the host, made by sshd as the user.
fn make_a_socket_on_the_host(host: &Scratch) -> Done {
    let (user, open, closed) = open_and_closed(host, "", "ssh-socket-forwarding")?;
    let to = format!("127.0.0.1:{}", open.port());
    only_without_the_drop_in(&open, &closed, |sshd| {
        let path = format!("/tmp/{}", host.unique("socket"));
        let mut tunnel =
            sshd.client("ssh").args(["-N", "-R", &format!("{path}:{to}"), &user.at_host()]).background();
        let leads = soon(|| std::path::Path::new(&path).exists());
        tunnel.kill();
        leads
    })
}

/// Agent forwarding makes a socket in the host's /tmp. CVE-2025-32728: `DisableForwarding` alone left it open.
fn forward_an_agent(host: &Scratch) -> Done {
    let (user, open, closed) = open_and_closed(host, "", "ssh-agent-forwarding")?;
    let socket = format!("/tmp/{}", host.unique("agent"));
    let mut agent = ssh_agent(std::path::Path::new(&socket));
    let done = only_without_the_drop_in(&open, &closed, |sshd| {
        // Given on the command line, since the client's configuration of the tests says "none".
        let options = ["-A", "-o", &format!("IdentityAgent={socket}")];
        let mut session = sshd.client("ssh").args(options).args([&user.at_host(), "sleep 5"]).background();
        let leads = soon(|| {
            let dirs = std::fs::read_dir("/tmp").into_iter().flatten().flatten();
            dirs.filter(|dir| dir.file_name().as_encoded_bytes().starts_with(b"ssh-"))
                .any(|dir| std::os::unix::fs::MetadataExt::uid(&dir.metadata().expect("stat")) == user.uid)
        });
        session.kill();
        // Gone before the next server is tried.
        soon(|| user.processes().is_empty());
        leads
    });
    agent.kill();
    done
}

/// X11 forwarding listens on the host's loopback and runs the host's xauth as the user.
fn forward_a_display(host: &Scratch) -> Done {
    if !have("xauth") {
        return skip("no xauth on this machine");
    }
    let (user, open, closed) = open_and_closed(host, "", "ssh-x11-forwarding")?;
    only_without_the_drop_in(&open, &closed, |sshd| {
        let client =
            sshd.client("ssh").args(["-Y", &user.at_host(), "sleep 5"]).env("DISPLAY", "127.0.0.1:99");
        let mut session = client.background();
        let leads =
            soon(|| (6010..6014).any(|port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()));
        session.kill();
        soon(|| user.processes().is_empty());
        leads
    })
}

/// `ssh -w`: a network device of the host's. `DisableForwarding` does not speak of it.
fn attach_to_a_tunnel(host: &Scratch) -> Done {
    let device = "mkdir -p /dev/net && { [ -e /dev/net/tun ] || mknod -m 666 /dev/net/tun c 10 200; } && \
                  ip tuntap add dev tun77 mode tun";
    if Run::sh(device).run().status != 0 {
        return skip("no tunnel devices on this machine");
    }
    let (user, open, closed) = open_and_closed(host, "PermitTunnel yes", "ssh-tunnel")?;
    let uid = user.uid;
    Run::sh(&format!(
        "ip link del tun77; ip tuntap add dev tun77 mode tun user {uid} && ip link set tun77 up"
    ))
    .run()
    .ok();
    only_without_the_drop_in(&open, &closed, |sshd| {
        let mut session = sshd.client("ssh").args(["-N", "-w", "78:77", &user.at_host()]).background();
        let leads = soon(|| !Run::sh("ip -o link show tun77").run().text().contains("NO-CARRIER"));
        session.kill();
        soon(|| Run::sh("ip -o link show tun77").run().text().contains("NO-CARRIER"));
        leads
    })
}

/// Whether it comes about within a few seconds.
fn soon(is_so: impl Fn() -> bool) -> bool {
    (0..60).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        is_so()
    })
}

/// The same for sockets with a path: docker.sock.
fn forward_a_socket_of_the_host(host: &Scratch) -> Done {
    let (user, open, closed) = open_and_closed(host, "", "ssh-socket-forwarding")?;
    let path = format!("/run/{}", host.unique("service.sock"));
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    Run::new("chmod").args(["666", &path]).run().ok();
    std::thread::spawn(move || {
        use std::io::Write;
        for stream in listener.incoming().take(2) {
            drop(stream.and_then(|mut s| s.write_all(b"hello")));
        }
    });
    only_without_the_drop_in(&open, &closed, |sshd| forwards(sshd, &user, &path))
}

/// ~/.ssh/rc is started by a shell of the host's, which has the user's variables: with PermitUserEnvironment his library
/// runs in it.
fn run_the_rc_file(host: &Scratch) -> Done {
    if !have("gcc") {
        return skip("no C compiler on this machine");
    }
    let (user, open, closed) = open_and_closed(host, "PermitUserEnvironment yes", "ssh-user-rc")?;
    assert!(
        found(host, &closed, &user).contains("ssh-user-environment"),
        "a global line cannot be in the drop-in"
    );
    user.writes(".ssh/rc", "true\n");
    let (library, mark) = library_that_leaves_a_mark(&user);
    user.writes(".ssh/environment", format!("LD_PRELOAD={}\n", library.display()));
    only_without_the_drop_in(&open, &closed, |sshd| {
        sshd.client("ssh").args([&user.at_host(), "true"]).run();
        std::fs::remove_file(&mark).is_ok()
    })
}

/// The same without any file of the user's but rc: `AcceptEnv *` lets the client name the library.
fn variables_of_the_client(host: &Scratch) -> Done {
    if !have("gcc") {
        return skip("no C compiler on this machine");
    }
    let (user, open, closed) = open_and_closed(host, "AcceptEnv *", "ssh-user-rc")?;
    assert!(found(host, &open, &user).contains("ssh-accept-env"));
    user.writes(".ssh/rc", "true\n");
    let (library, mark) = library_that_leaves_a_mark(&user);
    let set = format!("SetEnv=LD_PRELOAD={}", library.display());
    only_without_the_drop_in(&open, &closed, |sshd| {
        sshd.client("ssh").args(["-o", &set, &user.at_host(), "true"]).run();
        std::fs::remove_file(&mark).is_ok()
    })
}

/// A library whose every load on the host leaves a file at a path that is none inside the jail.
fn library_that_leaves_a_mark(user: &User<'_>) -> (std::path::PathBuf, std::path::PathBuf) {
    let mark = user.home.join("host-shell");
    let source = user.writes(
        "rc.c",
        format!(
            "#include <fcntl.h>\n#include <unistd.h>\n__attribute__((constructor)) static void run(void) {{\n\
             close(open(\"{}\", O_CREAT | O_WRONLY, 0600)); }}\n",
            mark.display()
        ),
    );
    let library = user.home.join("rc.so");
    Run::new("gcc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).run().ok();
    (library, mark)
}

/// internal-sftp runs in sshd itself, never the shell: jail-user warns, and the external server is confined.
fn internal_sftp_sees_the_host(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-sh is meant");
    }
    let user = attacker_with_sftp(host);
    let secret = format!("/srv/{}", host.unique("for-all"));
    std::fs::write(&secret, "host").expect("write");
    let reads = |sshd: &Sshd| {
        let to = format!("/tmp/{}", host.unique("got"));
        sshd.client("sftp")
            .args(["-q", "-b", "-", &user.at_host()])
            .input(format!("get {secret} {to}\n"))
            .run();
        std::path::Path::new(&to).exists()
    };
    let internal = Sshd::start("Subsystem sftp internal-sftp");
    user.accept_key(&internal);
    assert!(reads(&internal), "the door is not even open with internal-sftp");
    assert!(found(host, &internal, &user).contains("ssh-internal-sftp"));
    assert!(!found(host, user.sshd(), &user).contains("ssh-internal-sftp"));
    assert!(!reads(user.sshd()), "the external sftp-server reads the host's files");
    Ok(())
}

fn attacker_with_sftp(host: &Scratch) -> User<'_> {
    host.jailed_user(&["basicshell", "sftp"])
}

/// The keys of an account in a place where another account writes: it comes in with a key of its own.
fn keys_that_others_write(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-check is ours");
    }
    let (user, other) = (attacker(host), host.plain_user());
    let keys = format!("/srv/{}", host.unique("keys"));
    std::fs::create_dir_all(&keys).expect("mkdir");
    Run::new("chmod").args(["777", &keys]).run().ok();
    let sshd = Sshd::start_between(
        &format!("AuthorizedKeysFile {keys}/%u\nStrictModes no"),
        &without_subsystem(&drop_in()),
    );
    let comes_in = || sshd.client("ssh").args([&user.at_host(), "echo in"]).run().text() == "in";
    let key = sshd.public_key();
    let writes = || {
        let line = format!("echo '{}' >{keys}/{}.new && mv {keys}/{1}.new {keys}/{1}", key.trim(), user.name);
        other.outside("sh").args(["-c", &line]).run().status == 0
    };
    assert!(!comes_in(), "there is no key yet");
    assert!(writes() && comes_in(), "the door is not even open");
    assert!(found(host, &sshd, &user).contains("ssh-keys"));
    // As the finding says.
    Run::sh(&format!("rm {keys}/*; chown root:root {keys} && chmod go-w {keys}")).run().ok();
    assert!(!found(host, &sshd, &user).contains("ssh-keys"), "it is closed, and still found");
    assert!(!writes() && !comes_in(), "the door is open in spite of it");
    Ok(())
}

/// ChrootDirectory: sshd starts the program that has the login shell's name there.
fn a_shell_of_another_tree(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-check is ours");
    }
    let user = attacker(host);
    let tree = format!("/srv/{}", host.unique("tree"));
    let shell = host.product().jail_sh();
    let there = std::path::Path::new(&tree).join(shell.strip_prefix("/").expect("absolute"));
    std::fs::create_dir_all(there.parent().expect("a directory")).expect("mkdir");
    std::fs::copy(jailwright_tests::product::built_static("probe"), &there).expect("copy");
    let lines = format!("ChrootDirectory {tree}");
    let open = Sshd::start(&lines);
    let closed = Sshd::start_between(&lines, "Match Group jailed\n    ChrootDirectory none\n");
    user.accept_key(&open);
    user.accept_key(&closed);
    assert!(found(host, &open, &user).contains("ssh-chroot"));
    assert!(!found(host, &closed, &user).contains("ssh-chroot"));
    // What stands in for a shell there knows no `-c`, and says so.
    only_without_the_drop_in(&open, &closed, |sshd| {
        sshd.client("ssh").args([&user.at_host(), "echo in"]).run().errors().contains("no attempt is called")
    })
}
